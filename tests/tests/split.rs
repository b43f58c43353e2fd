//! A split under traffic: nobody notices, nothing is lost, and it can be rolled back or cancelled without a trace.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::mover::{Command, Order};
use ringway_tests::scenario::{traces, turn, Scenario};
use ringway_tests::shop::audit::Mode;
use ringway_tests::shop::plant;

const CLIENTS: usize = 6;
const GOES_ON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_under_traffic_loses_nothing() -> Result<()> {
    let _turn = turn().await?;
    let mut scenario = Scenario::start(CLIENTS, Vec::new()).await?;
    let outcome = play(&mut scenario).await;
    scenario.finish(outcome).await
}

async fn play(scenario: &mut Scenario) -> Result<()> {
    cancelled_at_once(scenario).await.context("a move that is cancelled as soon as it started")?;
    split(scenario).await.context("the split")?;
    rolled_back_and_cancelled(scenario).await.context("the split that is rolled back and cancelled")?;
    two_at_once(scenario).await.context("two moves at once")?;
    let found =
        plant::audit_can_fail(&scenario.cluster.audited().await?, scenario.shopping.size(), &scenario.shopping.journal)
            .await
            .context("planting faults")?;
    println!("the audit found the planted {}", found.join(", "));
    scenario.cluster.shardctl(&["verify"]).await.context("shardctl verify after everything")?;
    Ok(())
}

async fn cancelled_at_once(scenario: &mut Scenario) -> Result<()> {
    println!("cancelled at once:");
    scenario.shopping.start().await?;
    let id = scenario.mover.start(&Order::half("s1", "s2").automatic()).await?;
    let status = scenario.mover.drive(id, Command::Cancel, "cancelled").await?;
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    scenario.shopping.audit(&scenario.cluster, Mode::Complete).await?;
    traces::cancelled_leaves_no_trace(&scenario.cluster, &status.r#move.context("a status without its move")?).await
}

async fn split(scenario: &mut Scenario) -> Result<()> {
    println!("split of s1 onto a spare:");
    let (cluster, mover) = (&scenario.cluster, &scenario.mover);
    let before = cluster.topology().await?;
    let spare = cluster.spare().await?;
    scenario.shopping.start().await?;
    let id = mover.start(&Order::half("s1", "s3").onto(&spare).automatic()).await?;
    let status = mover.reach(id, &["switched"]).await?;
    // The reverse mirror is at work.
    scenario.shopping.goes_on(200, GOES_ON).await?;
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    let report = scenario.shopping.audit(cluster, Mode::ByOwnership).await?;
    ensure!(report.foreign_rows > 0, "the moved rows are not on s1 any more, before completion");
    let verification = status.verification.context("no verification")?;
    ensure!(verification.passed && verification.rows > 0, "switched without being verified: {verification:?}");
    ensure!(status.cutovers.len() == 1, "one cutover, but its record says {:?}", status.cutovers);

    // From N to N + 1 shards: keys go to the new shard only.
    let after = cluster.topology().await?;
    let moved = status.r#move.context("a status without its move")?;
    let new = after.shards.iter().find(|s| s.name == "s3").context("no s3")?.number;
    ensure!(moved.target == new && before.shards.iter().all(|s| s.number != new), "s3 is not new");
    let width = traces::moved_only(&before, &after, moved.source, new)?;
    let share = width as f64 / 2f64.powi(64);
    println!("  {:.1} % of all tokens went to s3, nothing else moved", share * 100.0);
    ensure!((0.2..0.3).contains(&share), "half of s1, a quarter of all tokens, was to move: {share}");
    let copied = traces::rows_in_arcs(&cluster.shard_dsn("s3").await?, &moved.arcs).await?;
    ensure!(copied > 0, "no row has moved");

    scenario.shopping.start().await?;
    let done = mover.drive(id, Command::Complete, "done").await?;
    ensure!(done.rows_deleted > 0, "nothing was deleted from s1");
    ensure!(done.mirrored_transactions > 0, "nothing was double-written");
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    scenario.shopping.audit(cluster, Mode::Complete).await?;
    traces::none_stays_prepared(cluster).await?;
    println!(
        "  double-written {}, left to the sweeper {}, held {} statements, longest {:.1} ms",
        done.mirrored_transactions,
        done.unmirrored_transactions,
        done.held_statements,
        done.held_microseconds_max as f64 / 1000.0
    );
    Ok(())
}

async fn rolled_back_and_cancelled(scenario: &mut Scenario) -> Result<()> {
    println!("split of s2 onto a spare, by hand, rolled back, switched again, rolled back, cancelled:");
    let (cluster, mover) = (&scenario.cluster, &scenario.mover);
    let spare = cluster.spare().await?;
    scenario.shopping.start().await?;
    let id = mover.start(&Order::half("s2", "s4").onto(&spare)).await?;
    mover.reach(id, &["ready"]).await?;
    let before = cluster.topology().await?;
    for _ in 0..2 {
        mover.drive(id, Command::CutOver, "switched").await?;
        scenario.shopping.goes_on(100, GOES_ON).await?;
        mover.drive(id, Command::RollBack, "ready").await?;
        scenario.shopping.goes_on(100, GOES_ON).await?;
    }
    let status = mover.status(id).await?;
    let reverse: Vec<bool> = status.cutovers.iter().map(|cutover| cutover.reverse).collect();
    ensure!(reverse == [false, true, false, true], "the record of the cutovers says {reverse:?}");
    traces::moved_only(&before, &cluster.topology().await?, 0, 0)
        .context("after the rollback the ring is the old one")?;
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    scenario.shopping.audit(cluster, Mode::ByOwnership).await?;

    scenario.shopping.start().await?;
    let status = mover.drive(id, Command::Cancel, "cancelled").await?;
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    scenario.shopping.audit(cluster, Mode::Complete).await?;
    traces::cancelled_leaves_no_trace(cluster, &status.r#move.context("a status without its move")?).await
}

/// Disjoint arcs move at the same time.
async fn two_at_once(scenario: &mut Scenario) -> Result<()> {
    println!("two moves at once, s1 to s4 and s2 to s4:");
    let (cluster, mover) = (&scenario.cluster, &scenario.mover);
    scenario.shopping.start().await?;
    let first = mover.start(&Order::half("s1", "s4").automatic()).await?;
    let second = mover.start(&Order::half("s2", "s4").automatic()).await?;
    let running = mover.list(false).await?.len();
    ensure!(running == 2, "{running} moves are running");
    for id in [first, second] {
        mover.reach(id, &["switched"]).await?;
    }
    scenario.shopping.goes_on(100, GOES_ON).await?;
    for id in [first, second] {
        mover.drive(id, Command::Complete, "done").await?;
    }
    scenario.shopping.stop().await?;
    scenario.shopping.saw_no_errors()?;
    scenario.shopping.audit(cluster, Mode::Complete).await?;
    traces::none_stays_prepared(cluster).await
}
