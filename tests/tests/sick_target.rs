//! A target that hangs or dies while it is written to never hurts the application: no errors, no stall beyond the mirror's bound;
//! the move shows itself degraded, and catches up.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::demo::watch::phase;
use ringway_tests::scenario::mover::{Command, Order};
use ringway_tests::scenario::sick::{kill_server, Frozen};
use ringway_tests::scenario::{traces, turn, until, Scenario};
use ringway_tests::shop::audit::Mode;

const CLIENTS: usize = 4;
/// A statement may wait for a chunk or the sweeper to let go of its rows (`locked_wait_ms`, 400), and then for the mirror
/// (`mirror_timeout_ms`, 250); the rest is two busy cores.
const STALL_MAX: Duration = Duration::from_millis(400 + 250 + 350);
const DEGRADED_MAX: Duration = Duration::from_secs(40);
const CAUGHT_UP_MAX: Duration = Duration::from_secs(60);
const GOES_ON: Duration = Duration::from_secs(60);
const BACKFILL_BYTES_PER_SECOND: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_target_never_hurts_the_application() -> Result<()> {
    let _turn = turn().await?;
    let mut scenario = Scenario::start(CLIENTS, Vec::new()).await?;
    let outcome = play(&mut scenario).await;
    scenario.finish(outcome).await
}

async fn play(scenario: &mut Scenario) -> Result<()> {
    let spare = scenario.cluster.spare().await?;
    scenario.shopping.start().await?;
    // A new shard: the application needs nothing of it, and must not notice its troubles.
    let order = Order::half("s1", "s3").onto(&spare).slowly(BACKFILL_BYTES_PER_SECOND);
    let id = scenario.mover.start(&order).await?;

    scenario.mover.reach(id, &["backfilling"]).await?;
    println!("the target hangs during the backfill");
    hang(scenario, id).await.context("hanging during the backfill")?;
    println!("the target is killed during the backfill");
    let status = scenario.mover.status(id).await?;
    ensure!(phase(&status) == "backfilling", "the backfill was to be at work, not {}", phase(&status));
    kill(scenario, id).await.context("killed during the backfill")?;
    scenario.mover.reach(id, &["ready"]).await?;

    println!("the target hangs while it is double-written");
    hang(scenario, id).await.context("hanging during the double-write")?;
    println!("the target is killed while it is double-written");
    kill(scenario, id).await.context("killed during the double-write")?;

    let status = scenario.mover.drive(id, Command::CutOver, "switched").await?;
    ensure!(status.unmirrored_transactions > 0, "every transaction was mirrored, although the target was gone");
    ensure!(status.swept_rows > 0, "the sweeper copied nothing");
    rest(scenario).await?;
    scenario.shopping.audit(&scenario.cluster, Mode::ByOwnership).await?;
    scenario.shopping.start().await?;
    scenario.mover.drive(id, Command::Complete, "done").await?;
    rest(scenario).await?;
    scenario.shopping.audit(&scenario.cluster, Mode::Complete).await?;
    traces::none_stays_prepared(&scenario.cluster).await
}

/// Stops the clients and judges what they have seen.
async fn rest(scenario: &mut Scenario) -> Result<()> {
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    println!("  the slowest operation took {:?}", scenario.shopping.slowest);
    ensure!(scenario.shopping.slowest < STALL_MAX, "an operation took {:?}", scenario.shopping.slowest);
    Ok(())
}

async fn hang(scenario: &mut Scenario, id: u64) -> Result<()> {
    let frozen = Frozen::server(&scenario.cluster, "spare1")?;
    let mut seen = String::new();
    until("a degraded move", DEGRADED_MAX, || async { Ok(!scenario.mover.status(id).await?.degraded.is_empty()) })
        .await?;
    seen.push_str(&scenario.mover.status(id).await?.degraded);
    println!("  degraded: {seen}");
    scenario.shopping.goes_on(20, GOES_ON).await.context("with a hanging target")?;
    drop(frozen);
    caught_up(scenario, id).await
}

async fn kill(scenario: &mut Scenario, id: u64) -> Result<()> {
    kill_server(&scenario.cluster, "spare1")?;
    scenario.shopping.goes_on(20, GOES_ON).await.context("with a killed target")?;
    caught_up(scenario, id).await
}

async fn caught_up(scenario: &mut Scenario, id: u64) -> Result<()> {
    let mut last = String::new();
    let waited = until("a healthy move without a backlog", CAUGHT_UP_MAX, || async {
        let status = scenario.mover.status(id).await?;
        ensure!(status.degraded.is_empty(), "still degraded: {}", status.degraded);
        Ok(true)
    })
    .await;
    if waited.is_err() {
        last = format!("{:?}", scenario.mover.status(id).await?);
    }
    waited.context(last)?;
    rest(scenario).await?;
    // Without writers, what was left to the sweeper is settled soon.
    until("the end of the sweeper's backlog", CAUGHT_UP_MAX, || async {
        Ok(scenario.mover.status(id).await?.captured_backlog == 0)
    })
    .await?;
    scenario.shopping.start().await
}
