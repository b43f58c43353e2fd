//! How a gateway ends.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::{sql, until};
use rustix::process::Signal;
use shardctl::dev::ports::free_port;

use super::{Configured, Keys, SOON};

async fn farewell(raw: &mut Raw) -> Result<()> {
    let code = raw.refusal().await?;
    ensure!(code.as_deref() == Some("57P01"), "the session ended with {code:?}");
    Ok(())
}

async fn balance(cluster: &Cluster, key: i64) -> Result<String> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    sql::value(&client, &format!("SELECT balance FROM accounts WHERE id = {key}")).await
}

pub async fn terminate(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let mut gateway = Gateway::start(cluster, &[]).await?;
    gateway.serves("postgres").await?;
    let mut idle = Raw::session(gateway.port, "postgres").await?;
    let mut busy = Raw::session(gateway.port, "postgres").await?;
    ensure!(busy.ask(&query("BEGIN")).await?.is_none());
    for key in [keys.s1, keys.s2] {
        ensure!(busy.ask(&query(&format!("UPDATE accounts SET balance = 1001 WHERE id = {key}"))).await?.is_none());
    }
    gateway.process()?.signal(Signal::TERM)?;
    farewell(&mut idle).await.context("an idle client")?;
    until("a port that is closed", SOON, || async { Ok(Raw::connect(gateway.port).await.is_err()) }).await?;
    // The transaction goes on and commits; then its client is idle.
    ensure!(busy.ask(&query(&format!("SELECT balance FROM accounts WHERE id = {}", keys.s1))).await?.is_none());
    ensure!(busy.ask(&query("COMMIT")).await?.is_none());
    farewell(&mut busy).await.context("a client after its transaction")?;
    ensure!(gateway.ended(SOON).await?.success());
    ensure!(balance(cluster, keys.s1).await? == "1001" && balance(cluster, keys.s2).await? == "1001");
    Ok(())
}

pub async fn drain_timeout(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    for (signals, drain_ms) in
        [(&[Signal::TERM][..], 500), (&[Signal::QUIT], 60_000), (&[Signal::INT, Signal::INT], 60_000)]
    {
        let mut configured = Configured::start(cluster, &format!("[limits]\ndrain_timeout_ms = {drain_ms}\n")).await?;
        let mut open = Raw::session(configured.gateway.port, "postgres").await?;
        ensure!(open.ask(&query("BEGIN")).await?.is_none());
        let update = format!("UPDATE accounts SET balance = 1002 WHERE id = {}", keys.s2);
        ensure!(open.ask(&query(&update)).await?.is_none());
        let mut running = Raw::session(configured.gateway.port, "postgres").await?;
        running.send(&query(&format!("SELECT pg_sleep(60) FROM accounts WHERE id = {}", keys.s1))).await?;
        until("a statement that sleeps", SOON, || async { Ok(sql::value(&s1, sleeping).await? == "1") }).await?;
        let began = Instant::now();
        for (index, signal) in signals.iter().enumerate() {
            if index > 0 {
                until("the first signal's effect", SOON, || async {
                    Ok(Raw::connect(configured.gateway.port).await.is_err())
                })
                .await?;
            }
            configured.gateway.process()?.signal(*signal)?;
        }
        farewell(&mut open).await.with_context(|| format!("{signals:?}"))?;
        let messages = running.until_closed().await?;
        ensure!(messages.iter().any(|message| message.tag == b'E'), "{messages:?}");
        ensure!(configured.gateway.ended(SOON).await?.success());
        ensure!(began.elapsed() < Duration::from_secs(30), "{signals:?}");
        until("the end of what ran", SOON, || async { Ok(sql::value(&s1, sleeping).await? == "0") }).await?;
        ensure!(balance(cluster, keys.s2).await? != "1002");
    }
    Ok(())
}

pub async fn wait_for_clients(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let mut configured = Configured::start(cluster, "").await?;
    let client = configured.client("app").await?;
    let console = configured.console().await?;
    console.batch_execute("SHUTDOWN WAIT_FOR_CLIENTS").await?;
    until("a port that is closed", SOON, || async { Ok(Raw::connect(configured.gateway.port).await.is_err()) }).await?;
    for _ in 0..3 {
        super::backend(&client, keys.s1).await?;
    }
    ensure!(configured.gateway.is_running());
    drop((client, console));
    ensure!(configured.gateway.ended(SOON).await?.success());
    // Without an argument nobody is waited for.
    let mut configured = Configured::start(cluster, "").await?;
    let console = configured.console().await?;
    console.batch_execute("SHUTDOWN").await?;
    ensure!(configured.gateway.ended(SOON).await?.success());
    Ok(())
}

pub async fn reuse_port(cluster: &Cluster) -> Result<()> {
    let port = free_port()?;
    let mut old = Gateway::start_on(cluster, port, &["--reuse-port"]).await?;
    old.serves("postgres").await?;
    // It is the first one that answers.
    if let Ok(mut uninvited) = Gateway::start_on(cluster, port, &[]).await {
        ensure!(!uninvited.ended(SOON).await?.success(), "a port was shared without being asked");
    }
    let mut new = Gateway::start_on(cluster, port, &["--reuse-port"]).await?;
    until("a second gateway that serves", SOON, || async { Ok(new.log().contains("serving")) }).await?;
    old.process()?.signal(Signal::TERM)?;
    ensure!(old.ended(SOON).await?.success());
    for _ in 0..20 {
        new.serves("postgres").await?;
    }
    ensure!(new.is_running());
    Ok(())
}
