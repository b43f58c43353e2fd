//! The move engine alone, without gateways, killed at every step while clients write to the shards directly: every move goes on to
//! its end, and every acknowledged write is on its owner.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_proto::v1::start_move_request::What;
use ringway_proto::v1::TokenArc;
use ringway_tests::cluster::temporary_directory;
use ringway_tests::scenario::bare::Bare;
use ringway_tests::scenario::faults::{self, Faults};
use ringway_tests::scenario::mover::{Command, Mover, Order};
use ringway_tests::scenario::writer::{difference, direct, keys_in, own_rows, Account, Writer, ROWS, TABLE};
use ringway_tests::scenario::{sql, turn, until};

/// A transaction that holds a cutover up is let go after this; the cutover must have undone itself before.
const BLOCKED_MAX: Duration = Duration::from_secs(20);
const GOES_ON: Duration = Duration::from_secs(20);
const TOURS: [Ends; 4] = [
    Ends { source: "s1", target: "s3", joins: true },
    Ends { source: "s3", target: "s1", joins: false },
    Ends { source: "s1", target: "s3", joins: false },
    Ends { source: "s3", target: "s1", joins: false },
];

#[derive(Clone, Copy)]
struct Ends {
    source: &'static str,
    target: &'static str,
    /// The target is new.
    joins: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_dies_at_every_step() -> Result<()> {
    let _turn = turn().await?;
    let points = faults::list("shardctl", &["serve"]).await?;
    let directory = temporary_directory()?;
    let faults = Faults::new(directory.path())?;
    let mut bare = Bare::start(2, &format!("{TABLE}; {ROWS}"), faults.environment()).await?;
    bare.shardctl(&["table", "shard", "notes", "--key", "k"]).await?;
    let spare = bare.spare().await?;
    let started = Instant::now();
    let outcome = tours(&Mover::new(bare.grpc()), &faults, &points, &spare).await;
    println!("{} of {} points in {:?}", faults.reached().len(), points.len(), started.elapsed());
    if outcome.is_err() {
        eprintln!("{}", bare.log());
    }
    outcome.with_context(|| format!("points reached, in order: {:?}", faults.reached()))
}

async fn tours(mover: &Mover, faults: &Faults, points: &[String], spare: &str) -> Result<()> {
    faults.arm(points.to_vec())?;
    let mut arcs: Vec<TokenArc> = Vec::new();
    let mut account = Account::new();
    for (tour, ends) in TOURS.into_iter().enumerate() {
        if tour > 0 && faults.remaining().is_empty() {
            break;
        }
        println!("tour {tour}, {} points to reach: {:?}", faults.remaining().len(), faults.remaining());
        let order = Order::half(ends.source, ends.target);
        // What the new shard got moves back and forth.
        let order = if tour > 0 { Order { what: Some(What::Arc(arcs[0])), ..order } } else { order };
        let id = mover.start(&if ends.joins { order.onto(spare) } else { order }).await?;
        let status = mover.reach(id, &["ready"]).await?;
        arcs = status.r#move.context("a status without its move")?.arcs;
        let keys = keys_in(&direct(mover, ends.source).await?, &arcs).await?;
        ensure!(!keys.is_empty(), "no key moves");
        let run = tour as i64 * 2 + 1;
        let writers = [
            Writer::start(direct(mover, ends.source).await?, keys.clone(), run),
            Writer::start(direct(mover, ends.target).await?, keys.clone(), run + 1),
        ];
        back_and_forth(mover, id, ends, keys[0], &writers).await.with_context(|| format!("tour {tour}"))?;
        for writer in writers {
            let written = writer.stop().await?;
            println!("  {} direct writes, {} refused", written.count, written.refused);
            account.extend(written.account);
        }
        let seen = own_rows(&direct(mover, ends.target).await?, &arcs).await?;
        ensure!(seen == account, "tour {tour}, on the new owner: {}", difference(&account, &seen));
        let left = own_rows(&direct(mover, ends.source).await?, &arcs).await?;
        ensure!(left.is_empty(), "{} moved rows are left on {}", left.len(), ends.source);

        let id =
            mover.start(&Order { what: Some(What::Arc(arcs[0])), ..Order::half(ends.target, ends.source) }).await?;
        mover.reach(id, &["ready"]).await?;
        mover.drive(id, Command::Cancel, "cancelled").await?;
        let seen = own_rows(&direct(mover, ends.target).await?, &arcs).await?;
        ensure!(seen == account, "after a cancelled move: {}", difference(&account, &seen));
    }
    let remaining = faults.disarm()?;
    ensure!(remaining.is_empty(), "never reached: {remaining:?}");
    Ok(())
}

async fn back_and_forth(mover: &Mover, id: u64, ends: Ends, key: i64, writers: &[Writer; 2]) -> Result<()> {
    goes_on(&writers[0]).await?;
    blocked(mover, id, ends.source, key, Command::CutOver).await?;
    mover.reach(id, &["switched"]).await?;
    goes_on(&writers[1]).await?;
    blocked(mover, id, ends.target, key, Command::RollBack).await?;
    mover.reach(id, &["ready"]).await?;
    goes_on(&writers[0]).await?;
    mover.drive(id, Command::CutOver, "switched").await?;
    // What was verified before is worth nothing once a table has other files.
    direct(mover, ends.target).await?.batch_execute("VACUUM FULL notes").await?;
    mover.drive(id, Command::RollBack, "ready").await?;
    goes_on(&writers[0]).await?;
    mover.drive(id, Command::CutOver, "switched").await?;
    goes_on(&writers[1]).await?;
    mover.drive(id, Command::Complete, "done").await?;
    Ok(())
}

async fn goes_on(writer: &Writer) -> Result<()> {
    let from = writer.count();
    until("a writer's next writes", GOES_ON, || async { Ok(writer.count() > from + 20) }).await
}

/// A transaction on the owner keeps a cutover from taking place until an attempt has undone itself.
async fn blocked(mover: &Mover, id: u64, owner: &str, key: i64, command: Command) -> Result<()> {
    let client = direct(mover, owner).await?;
    // Nobody else touches loaded rows.
    client.batch_execute(&format!("BEGIN; UPDATE notes SET v = v WHERE k = {key} AND id = 1")).await?;
    let undone = mover.status(id).await?.cutover_attempts_undone;
    mover.command(id, command).await?;
    until("an attempt that undoes itself", BLOCKED_MAX, || async {
        Ok(mover.status(id).await?.cutover_attempts_undone > undone)
    })
    .await?;
    client.batch_execute("ROLLBACK").await?;
    let waiting = sql::value(&client, "SELECT count(*) FROM pg_prepared_xacts").await?;
    ensure!(waiting == "0", "{waiting} transactions are prepared");
    Ok(())
}
