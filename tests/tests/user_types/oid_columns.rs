//! Columns of type regclass, regtype and oid: every shard stores other numbers for the same names.

use anyhow::{ensure, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;

use super::{error, execute, parse, said, session, sync, Shards};

pub async fn columns(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TABLE objects (id bigint PRIMARY KEY, t regtype, r regclass, n oid, label text, labels text[])",
        "SELECT create_distributed_table('objects', 'id')",
    ] {
        client.batch_execute(statement).await?;
    }
    let [a, b] = [shards.keys[0], shards.keys[1]];
    for (id, kind, table) in
        [(a[0], "mood", "people"), (b[0], "mood", "people"), (a[1], "pair", "kinds"), (b[1], "int4", "people")]
    {
        client
            .batch_execute(&format!("INSERT INTO objects VALUES ({id}, '{kind}', '{table}', {}, '16500')", 20_000 + id))
            .await?;
    }
    // By name, or equal to one another.
    for (statement, expected) in [
        ("SELECT count(*) FROM objects WHERE t IS NOT NULL", "4"),
        ("SELECT count(*) FROM objects o WHERE o.t = o.t", "4"),
        ("SELECT count(*) FROM objects WHERE t::text = 'mood'", "2"),
        ("SELECT t FROM objects ORDER BY t::text DESC, id LIMIT 1", "pair"),
        ("SELECT count(*) FROM objects WHERE n > 20000 AND label = '16500'", "4"),
    ] {
        let value = sql::value(&client, statement).await?;
        ensure!(value == expected, "{statement}: {value}");
    }
    let mut rows = Vec::new();
    for row in client.query("SELECT t, count(*) FROM objects GROUP BY t", &[]).await? {
        rows.push(row.get::<_, i64>(1));
    }
    rows.sort_unstable();
    ensure!(rows == [1, 1, 2], "{rows:?}");
    // Numbers in columns of type oid are numbers.
    let largest = sql::value(&client, "SELECT max(n) FROM objects").await?;
    ensure!(largest == sql::value(&client, "SELECT n FROM objects ORDER BY n DESC LIMIT 1").await?);
    for statement in [
        "SELECT id FROM objects ORDER BY t",
        "SELECT id, t FROM objects ORDER BY 2 LIMIT 1",
        "SELECT DISTINCT t FROM objects LIMIT 2",
        "SELECT max(t) FROM objects",
        "SELECT id FROM objects WHERE t > $1",
        "SELECT id FROM objects WHERE t = $1",
        "SELECT id FROM objects WHERE t = 16500",
        "SELECT id FROM objects WHERE t IN (16500, 16501)",
        "SELECT id FROM objects WHERE id = 1 AND 16500 = objects.r",
        "SELECT id FROM objects WHERE r BETWEEN 1 AND 2",
        "SELECT r::bigint FROM objects WHERE id = 1",
        "SELECT id, row_number() OVER (PARTITION BY id ORDER BY t) FROM objects",
        "INSERT INTO objects VALUES (1001, '16500')",
        "INSERT INTO objects (r, id) VALUES (16500, 1002)",
        "INSERT INTO objects (labels[1], r, id) VALUES ('a', 16500, 1003)",
        "UPDATE objects SET label = 'x', r = '16500' WHERE id = 1",
        "SELECT id FROM objects WHERE tableoid = '16500'",
        "SELECT id FROM objects WHERE tableoid::regclass = '16500'",
    ] {
        let (code, message) = sql::failure(&client, statement).await?;
        ensure!(code == "0A000", "{statement}: {code} {message}");
    }
    // All of them, sorted by what clients know.
    let home = client.query("SELECT id, t FROM objects ORDER BY 2, 1", &[]).await?;
    ensure!(home.len() == 4 && home[0].get::<_, i64>(0) == b[1], "int4 comes first");
    // Parameters: names, and numbers in text.
    for (value, code) in [("pair", ""), ("12", ""), ("16500", "0A000")] {
        let mut raw = session(cluster).await?;
        let text = "INSERT INTO objects (id, t, n, label) VALUES (2000, $1, 16501, '16502')";
        let answer = said(&mut raw, &[parse("", text, &[]), text_bind(value), execute("", 0), sync()]).await?;
        let seen = error(&answer).unwrap_or_default();
        ensure!(seen.starts_with(code) && seen.is_empty() == code.is_empty(), "{value}: {seen}");
        client.batch_execute("DELETE FROM objects WHERE id = 2000").await?;
    }
    client.batch_execute("DROP TABLE objects").await?;
    Ok(())
}

fn text_bind(value: &str) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 0, 1];
    body.extend((value.len() as u32).to_be_bytes());
    body.extend(value.bytes());
    body.extend([0, 0]);
    ringway_tests::scenario::raw::frame(b'B', &body)
}
