//! A shard that closes, resets or falls silent at each message of a login and a few transactions, and within each.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::until;

use super::proxy::{Fault, Side, Stop};
use super::{pools, World, ROLE, SOON};

/// From a fault to the client's error: the gateway's bounds and what a busy machine adds.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// Far more than the conversation has.
const MESSAGES_MAX: usize = 400;

pub async fn stop(world: &World, stop: Stop) -> Result<()> {
    let mut cases = 0;
    for side in [Side::Server, Side::Gateway] {
        for within in [false, true] {
            // Silence takes its time. Where not every message is tried, others are in each combination.
            let step = match stop {
                Stop::Close if !within => 1,
                Stop::Close => 5,
                Stop::Reset => 5,
                Stop::Silence => 12,
            };
            let mut after = (usize::from(within) + 2 * usize::from(side == Side::Gateway)) % step;
            loop {
                ensure!(after < MESSAGES_MAX, "the conversation does not end");
                let fault = Fault { side, after, within, stop };
                if !case(world, fault).await.with_context(|| format!("{fault:?}"))? {
                    break;
                }
                cases += 1;
                after += step;
            }
        }
    }
    println!("{cases} cases");
    ensure!(cases > 20, "only {cases} cases");
    Ok(())
}

/// False: the conversation was over before.
async fn case(world: &World, fault: Fault) -> Result<bool> {
    // The next connection logs in anew.
    world.console.simple_query("RECONNECT").await?;
    until("closed connections", SOON, || async {
        Ok(pools(&world.console).await?.iter().filter(|pool| pool.user == ROLE).all(|pool| pool.total == 0))
    })
    .await?;
    world.proxy.arm(fault);
    let outcome = tokio::time::timeout(ANSWER_MAX, conversation(world)).await;
    let fired = world.proxy.disarm();
    outcome.context("the client got no answer")??;
    world.released("after the fault").await?;
    world.serves("after the fault").await?;
    Ok(fired)
}

/// Until the end, or until the gateway closes.
async fn conversation(world: &World) -> Result<()> {
    let [one, two] = world.keys.each_ref().map(|keys| keys[0]);
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    for statement in [
        format!("SELECT balance FROM accounts WHERE id = {one}"),
        "SELECT id FROM accounts ORDER BY id".to_owned(),
        "BEGIN".to_owned(),
        format!("UPDATE accounts SET balance = balance + 1 WHERE id = {one}"),
        format!("UPDATE accounts SET balance = balance + 1 WHERE id = {two}"),
        "COMMIT".to_owned(),
        format!("COPY (SELECT * FROM accounts WHERE id = {one}) TO STDOUT"),
    ] {
        client.send(&query(&statement)).await?;
        loop {
            let Some(message) = client.message().await? else { return Ok(()) };
            if message.tag == b'Z' {
                break;
            }
        }
    }
    Ok(())
}

/// It lets in the connection that listens, and says no more: LISTEN ends within `connect_timeout_ms`.
pub async fn silent_link(world: &World) -> Result<()> {
    const FAR_LESS_THAN_LISTEN_TIMEOUT: Duration = Duration::from_millis(3_500);
    let mut client = Raw::session(world.gateway.port, "postgres").await?;
    world.proxy.silence_at(Some("ringway-gateway-listener"));
    let asked = tokio::time::timeout(FAR_LESS_THAN_LISTEN_TIMEOUT, client.ask(&query("LISTEN a"))).await;
    world.proxy.silence_at(None);
    let code = asked.context("LISTEN waits")??;
    ensure!(code.as_deref() == Some("08006"), "{code:?}");
    ensure!(client.ask(&query("LISTEN a")).await?.is_none(), "LISTEN on a link that is new");
    Ok(())
}
