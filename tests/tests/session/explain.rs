//! EXPLAIN of statements over both shards: what it shows, in which form, and what ANALYZE does.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::Client;

use super::connect;

const ROWS: i64 = 60;

pub async fn explain(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    for statement in [
        "CREATE TABLE explained (id bigint PRIMARY KEY, n int NOT NULL CHECK (n < 1000), v text)",
        "SELECT create_distributed_table('explained', 'id')",
        &format!("INSERT INTO explained SELECT i, i % 10, 'v' || i FROM generate_series(1, {ROWS}) AS i"),
    ] {
        client.batch_execute(statement).await.context(statement.to_owned())?;
    }
    tiers(&client).await.context("tiers")?;
    options(&client).await.context("options")?;
    json(&client).await.context("JSON")?;
    analyze(&client).await.context("ANALYZE")?;
    writes(&client).await.context("ANALYZE of writes")?;
    prepared(&client).await.context("prepared statements")?;
    client.batch_execute("DROP TABLE explained").await.context("tidying up")
}

async fn lines(client: &Client, statement: &str) -> Result<String> {
    Ok(sql::column(client, statement).await.with_context(|| statement.to_owned())?.join("\n"))
}

async fn shows(client: &Client, statement: &str, expected: &[&str]) -> Result<()> {
    let shown = lines(client, statement).await?;
    for part in expected {
        ensure!(shown.contains(part), "{statement}: {part:?} is not in\n{shown}");
    }
    Ok(())
}

async fn tiers(client: &Client) -> Result<()> {
    for (statement, expected) in [
        (
            "EXPLAIN SELECT * FROM explained",
            &[
                "Tier: push down and concatenate",
                "Shards: s1, s2",
                "Plan on s1:\n  Seq Scan",
                "Plan on s2:\n  Seq Scan",
            ][..],
        ),
        (
            "EXPLAIN SELECT id FROM explained ORDER BY n DESC LIMIT 3",
            &["Tier: push down and merge", "SQL: SELECT id,", "Merge: 2 DESC NULLS FIRST", "Plan on s2:\n  Limit"],
        ),
        (
            "EXPLAIN SELECT n, avg(id) FROM explained GROUP BY n",
            &["Tier: partial aggregate", "Combine: SELECT", "Plan on s1:\n  HashAggregate"],
        ),
        ("EXPLAIN DELETE FROM explained", &["Tier: write on every shard of the keyspace", "Plan on s2:\n  Delete on"]),
        (
            "EXPLAIN INSERT INTO explained VALUES (1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 1)",
            &["Tier: insert, rows split by owner", "Plan on s1:\n  Insert on", "Plan on s2:\n  Insert on"],
        ),
        (
            "EXPLAIN SELECT a.v FROM explained a JOIN explained b ON a.n = b.id WHERE b.v = 'v3'",
            &[
                "Tier: gather",
                "SQL on s1: SELECT a.v FROM pg_temp.",
                "Fragment 1: SELECT \"id\", \"n\", \"v\" FROM explained AS \"a\"",
                "  Table: public.explained",
                "  Columns: id, n, v",
                "  Conditions: (b.v = 'v3')",
                "  Plan on s1:\n    Seq Scan on explained a",
                "  Plan on s2:\n    Seq Scan on explained b",
            ],
        ),
        ("EXPLAIN DECLARE c CURSOR FOR SELECT * FROM explained", &["Tier: push down and concatenate", "Seq Scan"]),
        ("EXPLAIN INSERT INTO explained VALUES (1 + 1, 1)", &["Tier: insert, keys computed", "Keys: VALUES"]),
    ] {
        shows(client, statement, expected).await?;
    }
    // What one shard answers is its answer.
    let one = lines(client, "EXPLAIN SELECT * FROM explained WHERE id = 1").await?;
    ensure!(one.starts_with("Index Scan") || one.starts_with("Seq Scan"), "EXPLAIN of one shard: {one}");
    let route = lines(client, "EXPLAIN (ROUTE) SELECT * FROM explained").await?;
    ensure!(!route.contains("Plan on"), "EXPLAIN (ROUTE) has asked shards: {route}");
    let estimated = lines(client, "EXPLAIN (ROUTE false, COSTS off) SELECT * FROM explained").await?;
    ensure!(estimated.contains("Plan on s1:\n  Seq Scan on explained\n"), "EXPLAIN (ROUTE false): {estimated}");
    Ok(())
}

async fn options(client: &Client) -> Result<()> {
    shows(
        client,
        "EXPLAIN (VERBOSE, COSTS off) SELECT v FROM explained",
        &["  Seq Scan on public.explained\n    Output: v"],
    )
    .await?;
    shows(client, "EXPLAIN VERBOSE SELECT v FROM explained", &["    Output: v"]).await?;
    let quiet = lines(client, "EXPLAIN (ANALYZE, TIMING off, SUMMARY off, COSTS off) SELECT v FROM explained").await?;
    ensure!(!quiet.contains(" ms") && !quiet.contains("time="), "times that nobody wants: {quiet}");
    for (statement, code) in [
        ("EXPLAIN (NONSENSE) SELECT * FROM explained", "42601"),
        ("EXPLAIN (ROUTE, NONSENSE) SELECT * FROM explained", "42601"),
        ("EXPLAIN (FORMAT nonsense) SELECT * FROM explained WHERE id = 1", "22023"),
        ("EXPLAIN (FORMAT nonsense) SELECT * FROM explained", "22023"),
        ("EXPLAIN (FORMAT) SELECT * FROM explained", "42601"),
        ("EXPLAIN SELECT * FROM explained WHERE id > $1", "42P02"),
        ("EXPLAIN ANALYZE SELECT a.id FROM explained a JOIN explained b ON a.n = b.n WHERE a.id > $1", "42P02"),
        ("EXPLAIN (WAL) SELECT * FROM explained", "22023"),
        ("EXPLAIN (FORMAT XML) SELECT * FROM explained", "0A000"),
        ("EXPLAIN SELECT missing FROM explained", "42703"),
        ("EXPLAIN DROP TABLE explained", "42601"),
        ("EXPLAIN EXECUTE nothing", "26000"),
    ] {
        let (given, message) = sql::failure(client, statement).await?;
        ensure!(given == code, "{statement}: {given} {message}");
    }
    Ok(())
}

async fn json(client: &Client) -> Result<()> {
    for statement in [
        "EXPLAIN (FORMAT JSON) SELECT n, count(*) FROM explained GROUP BY n",
        "EXPLAIN (ANALYZE, VERBOSE, BUFFERS, FORMAT JSON) SELECT n, count(*) FROM explained GROUP BY n",
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT a.v FROM explained a JOIN explained b ON a.n = b.id",
        "EXPLAIN (ROUTE, FORMAT JSON) SELECT * FROM explained",
        "EXPLAIN (ANALYZE, FORMAT JSON) UPDATE explained SET v = '\"[{\\' || v",
    ] {
        let rows = client.query(statement, &[]).await.context(statement)?;
        ensure!(rows.len() == 1 && rows[0].len() == 1, "{statement}: {} rows", rows.len());
        let column = &rows[0].columns()[0];
        ensure!(column.name() == "QUERY PLAN" && *column.type_() == Type::JSON, "{statement}: {column:?}");
        let read: Value = rows[0].try_get(0).with_context(|| statement.to_owned())?;
        let plan = &read[0]["Plan"];
        ensure!(plan["Tier"].is_string() && plan["Shards"][1] == "s2", "{statement}: {read}");
        let (analyze, route) = (statement.contains("ANALYZE"), statement.contains("ROUTE"));
        ensure!(read[0]["Execution Time"].is_number() == analyze, "{statement}: {read}");
        ensure!(route || find(&read, "Relation Name"), "{statement}: no shard's plan in {read}");
    }
    Ok(())
}

/// Whether an object within has such a member.
fn find(json: &Value, name: &str) -> bool {
    match json {
        Value::Object(members) => members.iter().any(|(member, value)| member == name || find(value, name)),
        Value::Array(elements) => elements.iter().any(|element| find(element, name)),
        _ => false,
    }
}

async fn analyze(client: &Client) -> Result<()> {
    for (statement, expected) in [
        (
            "EXPLAIN ANALYZE SELECT * FROM explained WHERE n < 5",
            &["Rows: 30", "Merge Time: ", "Answer of s1:\n  Rows: ", "  Time: ", "rows=", "Execution Time: "][..],
        ),
        (
            "EXPLAIN ANALYZE SELECT n, avg(id) FROM explained GROUP BY n",
            &["Rows: 10", "Combine Time: ", "Answer of s2:\n  Rows: ", "Execution Time: "],
        ),
        (
            "EXPLAIN ANALYZE SELECT a.v FROM explained a JOIN explained b ON a.n = b.id",
            &["Gather Time: ", "  Answer of s1:\n    Rows: ", "  Answer of s2:\n    Rows: ", "rw_gather_", "rows=54"],
        ),
        ("EXPLAIN (ANALYZE) SELECT id FROM explained FOR UPDATE", &["LockRows", "Execution Time: "]),
    ] {
        shows(client, statement, expected).await?;
        client.batch_execute("BEGIN").await?;
        shows(client, statement, expected).await.context("in a block")?;
        client.batch_execute("COMMIT").await?;
    }
    // It runs: what goes wrong with rows goes wrong.
    let (code, message) = sql::failure(client, "EXPLAIN ANALYZE SELECT 1 / (n - 7) FROM explained").await?;
    ensure!(code == "22012", "{code} {message}");
    let (code, message) = sql::failure(client, "EXPLAIN SELECT 1 / (n - 7), missing FROM explained").await?;
    ensure!(code == "42703", "{code} {message}");
    Ok(())
}

async fn state(client: &Client) -> Result<(String, String)> {
    let count = sql::value(client, "SELECT count(*) FROM explained").await?;
    Ok((count, sql::value(client, "SELECT sum(n) FROM explained").await?))
}

async fn writes(client: &Client) -> Result<()> {
    let before = state(client).await?;
    for (statement, shown) in [
        ("EXPLAIN ANALYZE UPDATE explained SET n = n + 100", "Update on"),
        ("EXPLAIN ANALYZE DELETE FROM explained WHERE n = 3", "Delete on"),
        (
            "EXPLAIN ANALYZE INSERT INTO explained SELECT i, 1, 'x' FROM generate_series(1001, 1009) AS i",
            "Rows: 9",
        ),
        (
            "EXPLAIN ANALYZE INSERT INTO explained (id, n) VALUES (1001, 1), (1002, 1), (1003, 1), (1004, 1), (1005, 1)",
            "Insert on",
        ),
        ("EXPLAIN ANALYZE INSERT INTO explained (id, n) VALUES (500 + 501, 1), (500 + 502, 1)", "Rows: 2"),
    ] {
        // Without ANALYZE nothing is done; in a block it is undone with it; else it is done.
        lines(client, &statement.replace(" ANALYZE", "")).await?;
        ensure!(state(client).await? == before, "{statement} without ANALYZE has written");
        client.batch_execute("BEGIN").await?;
        shows(client, statement, &[shown]).await?;
        let within = state(client).await?;
        ensure!(within != before, "{statement} has written nothing");
        client.batch_execute("ROLLBACK").await?;
        ensure!(state(client).await? == before, "{statement} is not undone");
        shows(client, statement, &[shown]).await?;
        ensure!(state(client).await? == within, "{statement} is not done");
        client
            .batch_execute(&format!(
                "BEGIN; DELETE FROM explained; \
                 INSERT INTO explained SELECT i, i % 10, 'v' || i FROM generate_series(1, {ROWS}) AS i; COMMIT"
            ))
            .await?;
    }
    // All of it or nothing: one row, on one of the shards, is wrong.
    for statement in [
        "EXPLAIN ANALYZE UPDATE explained SET n = CASE id WHEN 17 THEN 5000 ELSE 7 END",
        "EXPLAIN ANALYZE INSERT INTO explained (id, n) VALUES (1001, 1), (1002, 1), (1003, 1), (1004, 5000), (1005, 1)",
    ] {
        let (code, message) = sql::failure(client, statement).await?;
        ensure!(code == "23514", "{statement}: {code} {message}");
        ensure!(state(client).await? == before, "{statement} has written half");
    }
    client.batch_execute("BEGIN READ ONLY").await?;
    let (code, message) = sql::failure(client, "EXPLAIN ANALYZE UPDATE explained SET n = 1").await?;
    ensure!(code == "25006", "{code} {message}");
    client.batch_execute("ROLLBACK").await?;
    Ok(())
}

async fn prepared(client: &Client) -> Result<()> {
    client.batch_execute("PREPARE by_n (int) AS SELECT id FROM explained WHERE n = $1 ORDER BY id").await?;
    let filtered = ["Tier: push down and merge", "Filter: (n = 4)"];
    shows(client, "EXPLAIN EXECUTE by_n(2 + 2)", &filtered).await?;
    shows(client, "EXPLAIN (ANALYZE, COSTS off) EXECUTE by_n(4)", &[filtered[1], "Rows: 6"]).await?;
    shows(client, "EXPLAIN (ROUTE) EXECUTE by_n(4)", &[filtered[0]]).await?;
    client.batch_execute("DEALLOCATE by_n").await?;
    let rows = client.query("EXPLAIN (COSTS off) SELECT id FROM explained WHERE n = $1", &[&5i32]).await?;
    let shown: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(shown.iter().any(|line| line.contains("Filter: (n = 5)")), "{shown:?}");
    let rows = client
        .query("EXPLAIN (COSTS off) SELECT a.v FROM explained a JOIN explained b ON a.n = b.id AND b.n = $1", &[&5i32])
        .await?;
    let shown: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(shown.iter().any(|line| line.contains("Filter: (n = 5)")), "{shown:?}");
    Ok(())
}
