//! What comes into temporary tables when rows of several shards are gathered. In a block with a cursor they can be looked at.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;
use tokio_postgres::Client;

use super::connect;

const ROWS: i64 = 20_000;
/// `n` has so many values, from 0.
const VALUES: i64 = 10;

/// Each of these begins a block.
async fn gathered(client: &Client, query: &str) -> Result<()> {
    client
        .batch_execute(&format!("BEGIN; DECLARE c CURSOR FOR {query}; FETCH 1 FROM c"))
        .await
        .context(query.to_owned())
}

pub async fn tables(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    for statement in [
        "CREATE TABLE many (id bigint PRIMARY KEY, n int NOT NULL)",
        "SELECT create_distributed_table('many', 'id')",
        &format!("INSERT INTO many SELECT i, i % {VALUES} FROM generate_series(1, {ROWS}) AS i"),
        "CREATE TABLE marks (id bigint PRIMARY KEY, n int NOT NULL)",
        "SELECT create_distributed_table('marks', 'id', colocate_with => 'many')",
        &format!("INSERT INTO marks SELECT i, i % {VALUES} FROM generate_series(1, {ROWS}) AS i"),
    ] {
        client.batch_execute(statement).await.context(statement.to_owned())?;
    }
    let count = |table: &str| format!("SELECT count(*) FROM pg_temp.rw_gather_1_{table}");
    let analyzed = "SELECT count(DISTINCT tablename) FROM pg_stats WHERE tablename LIKE 'rw_gather_%'";

    gathered(&client, "SELECT a.id, b.id FROM many a JOIN many b ON a.n = b.id").await?;
    for table in ["1", "2"] {
        let rows = sql::value(&client, &count(table)).await?;
        ensure!(rows == ROWS.to_string(), "{rows} rows in table {table}");
    }
    let tables = sql::value(&client, analyzed).await?;
    ensure!(tables == "2", "statistics of {tables} large tables");
    client.batch_execute("ROLLBACK").await?;

    gathered(&client, "SELECT a.id, b.id FROM many a JOIN many b ON a.n = b.id WHERE a.id <= 100").await?;
    for (table, expected) in [("1", 100), ("2", VALUES - 1)] {
        let rows = sql::value(&client, &count(table)).await?;
        ensure!(rows == expected.to_string(), "{rows} rows in table {table} instead of {expected}");
    }
    let tables = sql::value(&client, analyzed).await?;
    ensure!(tables == "0", "statistics of {tables} small tables");
    client.batch_execute("ROLLBACK").await?;

    // Rows that match none on their shard stay there, if the shard's tables are read of one snapshot.
    for (begin, expected) in [("BEGIN", ROWS), ("BEGIN ISOLATION LEVEL REPEATABLE READ", ROWS / 2)] {
        let query =
            format!("SELECT m.id, count(*) OVER () FROM many m JOIN marks k ON k.id = m.id WHERE k.n < {}", VALUES / 2);
        client.batch_execute(&format!("{begin}; DECLARE c CURSOR FOR {query}; FETCH 1 FROM c")).await.context(query)?;
        let rows = sql::value(&client, &count("1")).await?;
        ensure!(rows == expected.to_string(), "{begin}: {rows} rows instead of {expected}");
        client.batch_execute("ROLLBACK").await?;
    }
    client.batch_execute("DROP TABLE many, marks").await.context("tidying up")
}
