//! INSERT whose shard keys PostgreSQL computes: defaults, DEFAULT, expressions. Compared with one PostgreSQL where values are the
//! same there; every row is where its key belongs.

use std::collections::BTreeSet;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};
use tokio_postgres::{Client, SimpleQueryMessage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_computed_once() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let single = single_postgres().await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let other = sql::connect(&single.dsn("postgres")).await?;
    let mut stages = Stages::default();
    stages.run("as on one PostgreSQL", compared(&client, &other)).await;
    stages.run("sequences", sequences(&client)).await;
    stages.run("the rights of who inserts", rights(&cluster, &client)).await;
    stages.run("prepared statements", prepared(&client)).await;
    stages.run("transactions", transactions(&client)).await;
    stages.run("UPDATE of keys", changed_keys(&client)).await;
    stages.run("refusals", refusals(&client)).await;
    stages
        .run("every row is where it belongs", async {
            cluster.shardctl(&["verify"]).await?;
            Ok(())
        })
        .await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// SQLSTATE, or rows and command tags' counts.
async fn answer(client: &Client, statement: &str) -> Result<String> {
    Ok(match client.simple_query(statement).await {
        Err(error) => sql::code(&error),
        Ok(messages) => messages
            .iter()
            .map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    format!("{:?};", (0..row.len()).map(|column| row.get(column)).collect::<Vec<_>>())
                }
                SimpleQueryMessage::CommandComplete(count) => format!("{count} rows"),
                _ => String::new(),
            })
            .collect(),
    })
}

async fn compared(client: &Client, other: &Client) -> Result<()> {
    let tables = [
        ("ints", "k int NOT NULL DEFAULT 7, a int, b text DEFAULT 'b'", "k"),
        ("texts", "a int, k varchar(5) NOT NULL DEFAULT lower('DEF')", "k"),
        ("numbers", "k numeric(6, 2) NOT NULL, a int", "k"),
        ("times", "k timestamptz NOT NULL DEFAULT '2020-01-01 00:00+00'::timestamptz + interval '1 day', a int", "k"),
        ("days", "k date NOT NULL, a int", "k"),
        ("bits", "k bytea NOT NULL, a int", "k"),
        ("padded", "k char(4) NOT NULL DEFAULT 'x', a int", "k"),
    ];
    for (table, columns, key) in tables {
        for client in [client, other] {
            client.batch_execute(&format!("CREATE TABLE {table} ({columns})")).await.context(table)?;
        }
        client.batch_execute(&format!("SELECT create_distributed_table('{table}', '{key}')")).await.context(table)?;
    }
    for settings in
        ["SELECT 1", "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'"]
    {
        for client in [client, other] {
            client.batch_execute(settings).await?;
        }
        for statement in [
            "INSERT INTO ints VALUES (1 + 1, 1) RETURNING *",
            "INSERT INTO ints VALUES (DEFAULT, 2), (2 * 10, 3), (30, 4), (DEFAULT, 5)",
            "INSERT INTO ints (a) VALUES (6), (7) RETURNING k, a, b",
            "INSERT INTO ints (a, b) VALUES (6, 'ä''é'), (7, DEFAULT)",
            "INSERT INTO ints DEFAULT VALUES RETURNING *",
            "INSERT INTO ints AS i DEFAULT VALUES RETURNING i.k",
            "INSERT INTO ints (k) VALUES ('8'), ('9'::text::int), (CAST('10' AS int)), (abs(-11)), (1.5), (2.5)",
            "INSERT INTO ints (k) VALUES ('eight')",
            "INSERT INTO ints (k) VALUES (3000000000)",
            "INSERT INTO ints (k) VALUES (3000000000 - 1)",
            "INSERT INTO ints (k) VALUES ('9'::text)",
            "INSERT INTO ints (k) VALUES (NULL::int + 1)",
            "INSERT INTO ints (k) VALUES (CASE WHEN true THEN NULL ELSE 1 END), (1)",
            "INSERT INTO ints VALUES (1 + 1, 1, 'b', 4)",
            "INSERT INTO ints (k, k) VALUES (1 + 1, 1)",
            "INSERT INTO ints (k, a) VALUES (1 + 1)",
            "INSERT INTO ints (k) VALUES (count(*))",
            "INSERT INTO ints (k) VALUES (sum(2) OVER ())",
            "INSERT INTO ints (k) VALUES (excluded.k)",
            "INSERT INTO texts VALUES (1), (2)",
            "INSERT INTO texts VALUES (1, 'a' || 'b'), (2, lower('ABC')), (3, upper('x') || NULL)",
            "INSERT INTO texts VALUES (1, 'a' || 'b'), (2, lower('ABC')), (3, 'abcde   ')",
            "INSERT INTO texts VALUES (1, 'abcdef')",
            "INSERT INTO texts VALUES (1, 'abc' || 'def')",
            "INSERT INTO texts (k) VALUES (repeat('ä', 5)) RETURNING k",
            "INSERT INTO numbers VALUES (1.005, 1), (1.50, 2), (2, 3), (1e2, 4), ('3.14159', 5), (10 / 4.0, 6)",
            "INSERT INTO numbers VALUES (99999.5, 1)",
            "INSERT INTO times (a) VALUES (1)",
            "INSERT INTO times VALUES (to_timestamp(1234567890.5), 1), ('infinity', 2), ('2024-02-29 12:00+02', 3)",
            "INSERT INTO times VALUES ('2024-02-29 12:00:00.123456+02'::timestamptz - interval '1 hour', 4)",
            "INSERT INTO days VALUES (make_date(2024, 2, 29), 1), ('-infinity'::date, 2), (date '2024-03-01' - 1, 3)",
            "INSERT INTO bits VALUES (decode('00ff41', 'hex'), 1), ('a\\000b'::bytea || 'c'::bytea, 2)",
            "INSERT INTO padded VALUES (DEFAULT, 1), ('a' || 'b', 2), ('abcd  ' || '', 3)",
            "INSERT INTO padded VALUES ('abc' || 'de', 2)",
            "WITH x AS (SELECT 1) INSERT INTO ints (k) VALUES (4 - 1) RETURNING k",
            "INSERT INTO ints\n(k, -- the key\n a)\tVALUES /* rows */ ( 40 + 1 , 1 )\r\n, (42, (2))  RETURNING k",
        ] {
            let (found, expected) = (answer(client, statement).await?, answer(other, statement).await?);
            let (found, expected) = (sorted(&found), sorted(&expected));
            ensure!(found == expected, "{statement}: {found:?}, not {expected:?}");
        }
    }
    for (table, _, _) in tables {
        let all = format!("SELECT t::text FROM {table} t ORDER BY 1");
        let (found, expected) = (sql::column(client, &all).await?, sql::column(other, &all).await?);
        let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (found.iter().collect(), expected.iter().collect());
        ensure!(found == expected, "{table}: {found:?}, not {expected:?}");
    }
    client.batch_execute("RESET DateStyle; RESET TimeZone; RESET bytea_output").await?;
    Ok(())
}

/// Rows of several shards come in any order.
fn sorted(answer: &str) -> Vec<&str> {
    let mut rows: Vec<&str> = answer.split(';').collect();
    rows.sort_unstable();
    rows
}

async fn sequences(client: &Client) -> Result<()> {
    for statement in [
        "CREATE TABLE serials (id bigserial PRIMARY KEY, v text)",
        "CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
        "CREATE TABLE bydefault (v text, id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)",
        "CREATE TABLE uuids (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), v text)",
    ] {
        client.batch_execute(statement).await?;
    }
    for table in ["serials", "always", "bydefault", "uuids"] {
        client.batch_execute(&format!("SELECT create_distributed_table('{table}', 'id')")).await?;
        let mut given = BTreeSet::new();
        for _ in 0..10 {
            for statement in ["(v) VALUES ('a'), ('b'), ('c') RETURNING id", "DEFAULT VALUES RETURNING id"] {
                given.extend(sql::column(client, &format!("INSERT INTO {table} {statement}")).await?);
            }
        }
        ensure!(given.len() == 40, "{table}: {} keys", given.len());
        let there: BTreeSet<String> =
            sql::column(client, &format!("SELECT id FROM {table}")).await?.into_iter().collect();
        ensure!(there == given, "{table}: RETURNING said {given:?}, there are {there:?}");
        for id in &given {
            let found = sql::value(client, &format!("SELECT count(*) FROM {table} WHERE id = '{id}'")).await?;
            ensure!(found == "1", "{table} {id}: {found} rows");
        }
    }
    // Other columns' values are each shard's own, also when they begin again.
    client.batch_execute("CREATE TABLE visits (k bigint PRIMARY KEY, n bigserial)").await?;
    client.batch_execute("SELECT create_distributed_table('visits', 'k')").await?;
    for _ in 0..2 {
        client
            .batch_execute(&format!("INSERT INTO visits (k) VALUES {}", sql::rows(1..=40, |k| k.to_string())))
            .await?;
        let all: BTreeSet<String> = sql::column(client, "SELECT n FROM visits").await?.into_iter().collect();
        ensure!(all.len() == 40, "{} values: {all:?}", all.len());
        client.batch_execute("TRUNCATE visits RESTART IDENTITY").await?;
    }
    // An ALWAYS column takes nothing but its sequence's, as in PostgreSQL.
    ensure!(sql::failure(client, "INSERT INTO always (id, v) VALUES (1 + 1, 'x')").await?.0 == "428C9");
    ensure!(sql::failure(client, "INSERT INTO always (id, v) VALUES (DEFAULT, 'x'), (7, 'y')").await?.0 == "428C9");
    client
        .batch_execute("INSERT INTO always (id, v) OVERRIDING SYSTEM VALUE VALUES (5000 * 10, 'x'), (DEFAULT, 'y')")
        .await?;
    ensure!(sql::value(client, "SELECT v FROM always WHERE id = 50000").await? == "x");
    client.batch_execute("INSERT INTO bydefault VALUES ('x'), ('y')").await?;
    ensure!(sql::value(client, "SELECT count(*) FROM bydefault").await? == "42");
    let (code, _) = sql::failure(client, "INSERT INTO always (id, v) OVERRIDING USER VALUE VALUES (1, 'x')").await?;
    ensure!(code == "0A000", "{code}");
    let merge = "MERGE INTO always a USING (SELECT 1) s ON a.id = 77001 WHEN NOT MATCHED THEN INSERT (id, v) \
                 OVERRIDING USER VALUE VALUES (77001, 'x')";
    let (code, _) = sql::failure(client, merge).await?;
    ensure!(code == "0A000", "{code}");
    Ok(())
}

async fn rights(cluster: &Cluster, client: &Client) -> Result<()> {
    client.batch_execute("GRANT INSERT, SELECT ON always TO app; GRANT INSERT (v) ON bydefault TO app").await?;
    let app = sql::connect(&cluster.dsn("app")).await?;
    app.batch_execute("INSERT INTO always (v) VALUES ('app')")
        .await
        .context("an identity needs no right to its sequence")?;
    ensure!(sql::failure(&app, "INSERT INTO serials (v) VALUES ('app')").await?.0 == "42501");
    ensure!(sql::failure(&app, "SELECT ringway.next_identity('serials', 'id')").await?.0 == "42501");
    Ok(())
}

async fn prepared(client: &Client) -> Result<()> {
    let insert =
        client.prepare("INSERT INTO texts (a, k) VALUES ($1, $2 || 'x'), (17, $2), ($1, DEFAULT) RETURNING k").await?;
    for (a, k) in [(100, "p"), (101, "q"), (102, "äö")] {
        let keys: BTreeSet<String> = client.query(&insert, &[&a, &k]).await?.iter().map(|row| row.get(0)).collect();
        ensure!(keys == BTreeSet::from([format!("{k}x"), k.to_string(), "def".to_string()]), "{keys:?}");
        let found: i32 = client.query_one("SELECT a FROM texts WHERE k = $1", &[&format!("{k}x")]).await?.get(0);
        ensure!(found == a, "{found}");
    }
    let missing: Option<&str> = None;
    let error = client.query(&insert, &[&1, &missing]).await.err().context("a NULL key was taken")?;
    ensure!(sql::code(&error) == "23502", "{error:?}");
    let long = client.query(&insert, &[&1, &"abcde"]).await.err().context("a long key was taken")?;
    ensure!(sql::code(&long) == "22001", "{long:?}");
    let serial = client.prepare("INSERT INTO serials (v) VALUES ($1) RETURNING id, v").await?;
    let mut ids = BTreeSet::new();
    for n in 0..50 {
        let row = client.query_one(&serial, &[&format!("v{n}")]).await?;
        ids.insert(row.get::<_, i64>(0));
        ensure!(row.get::<_, String>(1) == format!("v{n}"));
    }
    ensure!(ids.len() == 50, "{} keys", ids.len());
    client
        .batch_execute("PREPARE one (int) AS INSERT INTO ints (k, a) VALUES ($1 + 1, $1); EXECUTE one (5000)")
        .await?;
    ensure!(sql::value(client, "SELECT a FROM ints WHERE k = 5001").await? == "5000");
    Ok(())
}

async fn transactions(client: &Client) -> Result<()> {
    client
        .batch_execute("BEGIN; INSERT INTO ints (k) VALUES (600 + 1), (600 + 2), (600 + 3), (600 + 4); ROLLBACK")
        .await?;
    ensure!(sql::value(client, "SELECT count(*) FROM ints WHERE k > 600 AND k < 700").await? == "0");
    client
        .batch_execute(
            "BEGIN; INSERT INTO ints (k) VALUES (600 + 1), (600 + 2); SAVEPOINT a; INSERT INTO ints (k) VALUES (600 + 3); \
             ROLLBACK TO a; INSERT INTO ints (k) VALUES (600 + 4); COMMIT",
        )
        .await?;
    ensure!(
        sql::column(client, "SELECT k FROM ints WHERE k > 600 AND k < 700 ORDER BY k").await? == ["601", "602", "604"]
    );
    ensure!(sql::failure(client, "BEGIN; INSERT INTO ints (k) VALUES (1 / 0)").await?.0 == "22012");
    ensure!(sql::failure(client, "INSERT INTO ints (k) VALUES (1 + 1)").await?.0 == "25P02");
    client.batch_execute("ROLLBACK").await?;
    client.batch_execute("INSERT INTO ints (k) VALUES (700 + 1); INSERT INTO ints (a) VALUES (701)").await?;
    ensure!(sql::value(client, "SELECT count(*) FROM ints WHERE k = 701 OR a = 701").await? == "2");
    Ok(())
}

/// Old and new key on one shard: an UPDATE like any other. Else a refusal, and nothing has changed.
async fn changed_keys(client: &Client) -> Result<()> {
    client.batch_execute("CREATE TABLE moving (k int PRIMARY KEY, v int)").await?;
    client
        .batch_execute("CREATE TABLE parts (k int REFERENCES moving ON UPDATE CASCADE, n int, PRIMARY KEY (k, n))")
        .await?;
    for table in ["moving", "parts"] {
        client.batch_execute(&format!("SELECT create_distributed_table('{table}', 'k')")).await?;
    }
    client.batch_execute("INSERT INTO moving VALUES (0, 7); INSERT INTO parts VALUES (0, 1), (0, 2)").await?;
    let prepared = client.prepare("UPDATE moving SET k = $2, v = v + 1 WHERE k = $1").await?;
    let (mut present, mut done, mut refused) = (0, 0, 0);
    for k in 1..=40 {
        let outcome = match k % 2 {
            0 => client.execute(&prepared, &[&present, &k]).await,
            _ => client.execute(&format!("UPDATE moving SET v = v + 1, k = {k} WHERE k = {present}"), &[]).await,
        };
        match outcome {
            Ok(count) => {
                ensure!(count == 1, "{count} rows");
                (present, done) = (k, done + 1);
            }
            Err(error) => {
                ensure!(sql::code(&error) == "0A000", "{error:?}");
                refused += 1;
            }
        }
        let found = sql::column(client, "SELECT k || ' ' || v FROM moving").await?;
        ensure!(found == [format!("{present} {}", 7 + done)], "{found:?} after {k}");
        let parts = sql::value(client, &format!("SELECT count(*) FROM parts WHERE k = {present}")).await?;
        ensure!(parts == "2", "{parts} parts of {present}");
    }
    ensure!(done > 5 && refused > 5, "{done} done, {refused} refused");
    ensure!(sql::failure(client, &format!("UPDATE moving SET k = NULL WHERE k = {present}")).await?.0 == "23502");
    client.batch_execute("UPDATE moving SET k = NULL WHERE k = -1").await?;
    ensure!(sql::failure(client, "UPDATE moving SET k = 5 WHERE v = 1").await?.0 == "0A000");
    ensure!(sql::failure(client, &format!("UPDATE moving SET k = k + 1 WHERE k = {present}")).await?.0 == "0A000");
    Ok(())
}

async fn refusals(client: &Client) -> Result<()> {
    client.batch_execute("CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql AS 'SELECT max(k) FROM ints'").await?;
    client
        .batch_execute(
            "CREATE FUNCTION set_key() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.k := 5; RETURN NEW; END'; \
             CREATE TRIGGER set_key BEFORE INSERT ON days FOR EACH ROW EXECUTE FUNCTION set_key()",
        )
        .await?;
    for statement in [
        "INSERT INTO ints (k) VALUES ((SELECT max(k) FROM ints))",
        "INSERT INTO ints (k) VALUES (peek())",
        "INSERT INTO ints (k) VALUES (generate_series(1, 3))",
        "INSERT INTO days (a) VALUES (1)",
    ] {
        let error = client.simple_query(statement).await.err().with_context(|| statement.to_string())?;
        let error = error.as_db_error().with_context(|| statement.to_string())?;
        ensure!(error.code().code() == "0A000" && error.hint().is_some(), "{statement}: {error:?}");
    }
    let route = sql::column(client, "EXPLAIN (ROUTE) INSERT INTO ints (k) VALUES (1 + 1)").await?;
    ensure!(route.iter().any(|line| line.contains("1 + 1")), "{route:?}");
    Ok(())
}
