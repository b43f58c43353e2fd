//! Pool modes, the smallest size, lifetime.

use anyhow::{ensure, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::{sql, until};

use super::{backend, table, Configured, Keys, SOON};

pub async fn session(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configured = Configured::start(cluster, "[users.app]\npool_mode = \"session\"\n").await?;
    let console = configured.console().await?;
    let one = configured.client("app").await?;
    let two = configured.client("app").await?;
    let (first, second) = (backend(&one, keys.s1).await?, backend(&two, keys.s1).await?);
    ensure!(first != second, "two sessions share a connection");
    for _ in 0..5 {
        ensure!(backend(&one, keys.s1).await? == first && backend(&two, keys.s1).await? == second);
    }
    ensure!(backend(&one, keys.s2).await? == backend(&one, keys.s2).await?);
    one.batch_execute("SET work_mem = '7MB'").await?;
    one.batch_execute("BEGIN; UPDATE accounts SET balance = balance; COMMIT").await?;
    drop(one);
    // What it leaves is as new, and is used again.
    let idle = || async {
        let rows = table(&console, "SHOW SERVERS", &["remote_pid", "state"]).await?;
        Ok(rows.contains(&vec![first.clone(), "idle".to_string()]))
    };
    until("the connection of a session that has ended", SOON, idle).await?;
    let three = configured.client("app").await?;
    ensure!(backend(&three, keys.s1).await? == first, "the connection was not used again");
    ensure!(sql::value(&three, "SHOW work_mem").await? != "7MB");
    // The lock by which the gateway's sessions are found is held all along.
    let shard = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let held = format!("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = {first}");
    ensure!(sql::value(&shard, &held).await? == "1");
    // Temporary objects are nobody else's: the connection is closed.
    three.batch_execute("CREATE TEMPORARY TABLE scratch (id int)").await?;
    let own = table(&console, "SHOW SERVERS", &["remote_pid", "user", "state"]).await?;
    ensure!(own.iter().any(|row| row[0] == first && row[2] == "active"), "{own:?}");
    drop(three);
    until("the end of a connection with temporary objects", SOON, || async {
        let rows = table(&console, "SHOW SERVERS", &["remote_pid"]).await?;
        Ok(!rows.contains(&vec![first.clone()]))
    })
    .await
}

pub async fn statement(cluster: &Cluster) -> Result<()> {
    let configured = Configured::start(cluster, "[databases.app]\npool_mode = \"statement\"\n").await?;
    let client = configured.client("app").await?;
    for block in ["BEGIN", "START TRANSACTION READ ONLY", "BEGIN; SELECT 1; COMMIT"] {
        let (code, message) = sql::failure(&client, block).await?;
        ensure!(code == "0A000" && message.contains("statement pooling mode"), "{code} {message}");
    }
    ensure!(client.execute("UPDATE accounts SET balance = balance", &[]).await? == super::ACCOUNTS as u64);
    ensure!(sql::column(&client, "SELECT 1; SELECT 2").await? == ["1", "2"]);
    Ok(())
}

pub async fn sizes(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configuration = "[limits]\nserver_lifetime_ms = 2000\n[users.app]\npool_size_min = 3\npool_size_max = 5\n";
    let configured = Configured::start(cluster, configuration).await?;
    let console = configured.console().await?;
    let client = configured.client("app").await?;
    backend(&client, keys.s1).await?;
    let servers = || async {
        let rows = table(&console, "SHOW SERVERS", &["user", "shard", "id"]).await?;
        anyhow::Ok(rows.into_iter().filter(|row| row[0] == "app").collect::<Vec<_>>())
    };
    let full =
        |rows: &[Vec<String>]| ["s1", "s2"].iter().all(|shard| rows.iter().filter(|row| row[1] == *shard).count() == 3);
    until("three warm connections to each shard", SOON, || async { Ok(full(&servers().await?)) }).await?;
    let old = servers().await?;
    until("connections that are as many, and all new", SOON, || async {
        let now = servers().await?;
        Ok(full(&now) && now.iter().all(|row| !old.contains(row)))
    })
    .await
}
