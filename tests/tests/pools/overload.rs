//! Full pools, and a shard that restarts while clients work.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::{sql, until};
use rustix::process::Signal;

use super::{expect, of_pools, Configured, Keys, SOON};

const CHECKOUT_TIMEOUT: Duration = Duration::from_millis(1_500);
const SLACK: Duration = Duration::from_millis(1_000);

pub async fn overload(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configuration = format!(
        "[limits]\npool_size_max = 2\npool_reserve_max = 0\npool_waiters_max = 2\ncheckout_timeout_ms = {}\n",
        CHECKOUT_TIMEOUT.as_millis()
    );
    let configured = Configured::start(cluster, &configuration).await?;
    let console = configured.console().await?;
    let slow = format!("SELECT pg_sleep(20) FROM accounts WHERE id = {}", keys.s1);
    let quick = format!("SELECT balance FROM accounts WHERE id = {}", keys.s1);
    // Clients log in while there are connections.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Arc::new(configured.client("app").await?));
    }
    let mut tokens = Vec::new();
    let mut sleeping = Vec::new();
    for client in clients.drain(..2) {
        tokens.push(client.cancel_token());
        let slow = slow.clone();
        sleeping.push(tokio::spawn(async move { client.simple_query(&slow).await }));
    }
    until("a full pool", SOON, || async { Ok(of_pools(&console, "app", "sv_active").await? == 2) }).await?;
    let mut waiting = Vec::new();
    for client in clients.drain(..2) {
        let quick = quick.clone();
        waiting.push(tokio::spawn(async move {
            let began = Instant::now();
            (client.simple_query(&quick).await, began.elapsed())
        }));
    }
    until("a full queue", SOON, || async { Ok(of_pools(&console, "app", "cl_waiting").await? == 2) }).await?;
    let began = Instant::now();
    expect(clients[0].simple_query(&quick).await, "53300").context("beyond pool_waiters_max")?;
    let refused = began.elapsed();
    ensure!(refused < CHECKOUT_TIMEOUT / 2, "refused after {refused:?}");
    let mut waited = Vec::new();
    for one in waiting {
        let (outcome, elapsed) = one.await?;
        expect(outcome, "53300").context("beyond checkout_timeout_ms")?;
        ensure!(elapsed >= CHECKOUT_TIMEOUT && elapsed < CHECKOUT_TIMEOUT + SLACK, "53300 after {elapsed:?}");
        waited.push(elapsed);
    }
    println!("  beyond pool_waiters_max: 53300 after {refused:?}; beyond checkout_timeout_ms: after {waited:?}");
    for token in tokens {
        token.cancel_query(tokio_postgres::NoTls).await?;
    }
    for one in sleeping {
        expect(one.await?, "57014")?;
    }
    // Nobody has kept a place.
    for _ in 0..3 {
        sql::column(&clients[0], &quick).await?;
    }
    until("everything at rest", SOON, || async {
        Ok(of_pools(&console, "app", "sv_active").await? == 0 && of_pools(&console, "app", "cl_waiting").await? == 0)
    })
    .await
}

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// The shard answers again: whatever begins from now on succeeds.
    back: AtomicBool,
    done: AtomicU64,
    failed_on_s1: AtomicU64,
    failed_on_s2: AtomicU64,
    failed_late: AtomicU64,
    slowest_error_ms: AtomicU64,
}

pub async fn restart(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let seen = Arc::new(Seen::default());
    let mut workers = Vec::new();
    for number in 0..8 {
        let client = sql::connect(&cluster.dsn("app")).await?;
        let (seen, s1, s2) = (seen.clone(), keys.s1, keys.s2);
        workers.push(tokio::spawn(async move {
            let key = if number % 2 == 0 { s1 } else { s2 };
            while !seen.stop.load(Ordering::SeqCst) {
                let back = seen.back.load(Ordering::SeqCst);
                let began = Instant::now();
                let text = match number % 4 {
                    0 | 1 => format!("UPDATE accounts SET balance = balance + 1 WHERE id = {key}"),
                    _ => format!("SELECT balance FROM accounts WHERE id = {key}"),
                };
                match client.simple_query(&text).await {
                    Ok(_) => {
                        seen.done.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        ensure!(error.code().is_some(), "a client was cut off: {error:?}");
                        let counter = if key == s1 { &seen.failed_on_s1 } else { &seen.failed_on_s2 };
                        counter.fetch_add(1, Ordering::SeqCst);
                        if back {
                            println!("  late: {error:?}");
                            seen.failed_late.fetch_add(1, Ordering::SeqCst);
                        }
                        let ms = began.elapsed().as_millis() as u64;
                        seen.slowest_error_ms.fetch_max(ms, Ordering::SeqCst);
                        // A refused connection costs nothing: the loop would only heat the machine.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
            Ok(())
        }));
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    until("traffic", SOON, || async { Ok(count(&seen.done) > 200) }).await?;
    let dsn = cluster.shard_dsn("s1").await?;
    let before = sql::value(&sql::connect(&dsn).await?, "SELECT pg_postmaster_start_time()").await?;
    cluster.process("s1")?.signal(Signal::INT)?;
    until("the shard's new start", Duration::from_secs(60), || async {
        let client = sql::connect(&dsn).await?;
        Ok(sql::value(&client, "SELECT pg_postmaster_start_time()").await? != before)
    })
    .await?;
    seen.back.store(true, Ordering::SeqCst);
    let done = count(&seen.done);
    until("traffic after the restart", SOON, || async { Ok(count(&seen.done) > done + 400) }).await?;
    seen.stop.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.await??;
    }
    println!(
        "  {} statements, {} errors on the shard that restarted, {} on the other, {} after it was back, the slowest error took {} ms",
        count(&seen.done),
        count(&seen.failed_on_s1),
        count(&seen.failed_on_s2),
        count(&seen.failed_late),
        count(&seen.slowest_error_ms)
    );
    ensure!(count(&seen.failed_on_s1) > 0, "nobody noticed the restart");
    ensure!(count(&seen.failed_on_s2) == 0, "statements on the other shard failed");
    ensure!(count(&seen.failed_late) == 0, "a dead connection was handed out");
    Ok(())
}
