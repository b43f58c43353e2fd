//! Reads that share a connection, and overlap without end: each comes before the last answer. Whoever waits for the connection gets it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::messages::{bind, execute, parse};
use ringway_tests::scenario::raw::Raw;
use ringway_tests::scenario::{sql, until};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::begins::sync;
use super::{World, ROLE, SOON};

/// Reads join a connection for 100 ms.
const PAUSED_MAX: Duration = Duration::from_secs(2);
const CLIENTS: usize = 6;
/// Reads that a client sends at once.
const AHEAD: usize = 64;

pub async fn never_ending(world: &World) -> Result<()> {
    // PAUSE may take longer than the other gateway lets anything take.
    let gateway = Gateway::start_at(&world.bare.grpc(), &[]).await?;
    gateway.serves("postgres").await?;
    let stop = AtomicBool::new(false);
    let counts: [AtomicU64; CLIENTS] = Default::default();
    let readers = counts.iter().zip(&world.keys[0]).map(|(count, key)| read(gateway.port, *key, count, &stop));
    let pausing = async {
        let done = pause(world, &gateway).await;
        stop.store(true, Ordering::Relaxed);
        world.proxy.lag(false);
        done
    };
    let (read, paused) = tokio::join!(futures_util::future::try_join_all(readers), pausing);
    paused?;
    read?;
    ensure!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{counts:?}");
    Ok(())
}

async fn pause(world: &World, gateway: &Gateway) -> Result<()> {
    let console = sql::connect(&gateway.console("postgres")).await?;
    for _ in 0..3 {
        world.proxy.lag(true);
        let before = shared(&console).await?;
        until("reads that share", SOON, || async { Ok(shared(&console).await? > before + 100) }).await?;
        let paused = tokio::time::timeout(PAUSED_MAX, console.batch_execute("PAUSE")).await;
        // Another one: the first may still be at it.
        sql::connect(&gateway.console("postgres")).await?.batch_execute("RESUME").await?;
        paused.context("PAUSE has no end")??;
    }
    Ok(())
}

async fn read(port: u16, key: i64, count: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let mut client = Raw::session(port, ROLE).await?;
    client.send(&[parse("read", "SELECT id FROM accounts WHERE id = $1", &[]), sync()].concat()).await?;
    client.until_ready().await?;
    let one = [bind("", "read", &[Some(&key.to_string())], &[]), execute("", 0), sync()].concat();
    while !stop.load(Ordering::Relaxed) {
        client.send(&one.repeat(AHEAD)).await?;
        for _ in 0..AHEAD {
            let answer = client.until_ready().await?;
            let row = answer.iter().find(|message| message.tag == b'D').with_context(|| format!("{answer:?}"))?;
            ensure!(row.body.ends_with(key.to_string().as_bytes()), "{key}: {answer:?}");
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn shared(console: &Client) -> Result<i64> {
    let messages = console.simple_query("SHOW STATS_TOTALS").await?;
    let count = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get("shared_read_count").map(str::to_owned),
        _ => None,
    });
    Ok(count.context("no count")?.parse()?)
}
