//! Clients that close their sockets while something runs for them.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::{sql, until};

use super::{of_pools, Configured, Keys, SOON};

const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";

pub async fn vanishing(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    let sleepers = || async {
        let (one, two) = (sql::value(&s1, SLEEPING).await?, sql::value(&s2, SLEEPING).await?);
        anyhow::Ok(one.parse::<u32>()? + two.parse::<u32>()?)
    };
    let update = format!("UPDATE accounts SET balance = -1 WHERE id = {}", keys.s1);
    for (statement, sleeping) in [
        (format!("SELECT pg_sleep(60) FROM accounts WHERE id = {}", keys.s1), 1),
        ("SELECT id, pg_sleep(60) FROM accounts".to_string(), 2),
        (format!("BEGIN; {update}; SELECT pg_sleep(60) FROM accounts WHERE id = {}", keys.s1), 1),
        (format!("UPDATE accounts SET balance = -1 WHERE id = {} AND pg_sleep(60) IS NOT NULL", keys.s2), 1),
    ] {
        let mut client = Raw::session(cluster.listen_port(), "postgres").await?;
        client.send(&query(&statement)).await?;
        until("the statement's start", SOON, || async { Ok(sleepers().await? == sleeping) })
            .await
            .context(statement.clone())?;
        drop(client);
        until("the end of what ran for it", SOON, || async { Ok(sleepers().await? == 0) }).await.context(statement)?;
    }
    // One that waits for a connection leaves the queue.
    let configured = Configured::start(cluster, "[limits]\npool_size_max = 1\npool_reserve_max = 0\n").await?;
    let console = configured.console().await?;
    let statement = format!("SELECT pg_sleep(60) FROM accounts WHERE id = {}", keys.s1);
    let mut first = Raw::session(configured.gateway.port, "app").await?;
    let mut second = Raw::session(configured.gateway.port, "app").await?;
    first.send(&query(&statement)).await?;
    until("a statement that sleeps", SOON, || async { Ok(sleepers().await? == 1) }).await?;
    second.send(&query(&statement)).await?;
    until("a statement that waits", SOON, || async { Ok(of_pools(&console, "app", "cl_waiting").await? == 1) }).await?;
    drop(second);
    until("an empty queue", SOON, || async { Ok(of_pools(&console, "app", "cl_waiting").await? == 0) }).await?;
    ensure!(sleepers().await? == 1);
    drop(first);
    until("the end of what ran", SOON, || async { Ok(sleepers().await? == 0) }).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE balance = -1").await? == "0");
    // What is sent ahead is answered in its turn.
    let mut pipelining = Raw::session(cluster.listen_port(), "postgres").await?;
    let slow = format!("SELECT pg_sleep(0.2) FROM accounts WHERE id = {}", keys.s1);
    pipelining.send(&[query(&slow), query("SELECT 1"), query("SELECT 2")].concat()).await?;
    for _ in 0..3 {
        let messages = pipelining.until_ready().await?;
        ensure!(messages.iter().any(|message| message.tag == b'D'), "{messages:?}");
    }
    Ok(())
}
