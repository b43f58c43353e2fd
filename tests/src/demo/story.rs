//! What the demo does, in order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ringway_proto::v1::{start_move_request::What, MoveRequest, MoveStatus, StartMoveRequest};

use super::figures::{self, Span};
use super::{watch, Arguments};
use crate::cluster::{Cluster, Options};
use crate::shop::audit::{self, audit, Mode};
use crate::shop::journal::Journal;
use crate::shop::traffic::{self, unix_us, Finished, Traffic};
use crate::shop::{load, plant};

/// Longer than the demo: the move completes when it is told to.
const ROLLBACK_WINDOW: Duration = Duration::from_secs(3600);

/// Prints what was checked; remembers whether all of it held.
struct Verdict {
    held: bool,
}

impl Verdict {
    fn check(&mut self, holds: bool, text: impl std::fmt::Display) {
        println!("{} {text}", if holds { "ok    " } else { "FAILED" });
        self.held &= holds;
    }
}

pub async fn run(arguments: &Arguments) -> Result<bool> {
    let size = arguments.size();
    println!(
        "Ringway demo: 2 shards, {} rows, {} clients, a live split and a rollback. It takes about {} minutes once it is built.",
        size.total(),
        arguments.clients,
        if arguments.small { 1 } else { 5 }
    );
    let cluster = Cluster::start(Options { shards: 2, data: arguments.data.clone(), ..Options::default() }).await?;
    for line in &cluster.banner {
        println!("  {line}");
    }
    let outcome = play(arguments, &cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop().await.context("stopping the cluster")?;
    let held = outcome?;
    println!("{}", if held { "Everything held." } else { "Something did not hold: see FAILED above." });
    Ok(held)
}

/// Traffic that is started and stopped around audits, with one journal over all its runs.
struct Load {
    options: traffic::Options,
    running: Option<Traffic>,
    runs: u64,
    journal: Journal,
    all: Finished,
    errors: u64,
    error_texts: Vec<String>,
    reports: u64,
}

impl Load {
    fn start(&mut self) {
        self.running = Some(Traffic::start(&self.options, self.runs));
        self.runs += 1;
    }

    async fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (finished, counters) = running.stop().await?;
        self.journal.merge(finished.journal);
        self.all.samples.extend(finished.samples);
        self.all.latencies.extend(finished.latencies);
        self.errors += counters.errors.load(std::sync::atomic::Ordering::Relaxed);
        self.reports += counters.reports.load(std::sync::atomic::Ordering::Relaxed);
        self.error_texts.extend(counters.error_texts());
        Ok(())
    }
}

async fn play(arguments: &Arguments, cluster: &Cluster) -> Result<bool> {
    let size = arguments.size();
    let mut verdict = Verdict { held: true };
    let mut operations = cluster.operations().await?;

    let client = audit::connect(&cluster.dsn("postgres")).await?;
    println!(
        "Creating the shop: tenants, customers, orders, order_items, ledger, settings; countries as a reference table."
    );
    load::create_schema(&client).await?;
    let started = Instant::now();
    let rows = load::load_rows(&client, size).await?;
    let seconds = started.elapsed().as_secs_f64();
    println!("Loaded {rows} rows by COPY through the gateway in {seconds:.1} s ({:.0} rows/s).", rows as f64 / seconds);
    println!("{}", cluster.shardctl(&["ring"]).await?.trim_end());

    let mut load = Load {
        options: traffic::Options {
            dsn: cluster.dsn("postgres"),
            clients: arguments.clients,
            size,
            seed: arguments.seed,
            survive_errors: false,
            reports: true,
            mix: traffic::Mix::Shop,
            pace: None,
        },
        running: None,
        runs: 0,
        journal: Journal::default(),
        all: Finished::default(),
        errors: 0,
        error_texts: Vec::new(),
        reports: 0,
    };
    println!("Traffic: {} clients for {} s before the split.", arguments.clients, arguments.seconds);
    load.start();
    // The first second is connecting and warming up.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = measure(arguments.measured()).await;

    let spare = cluster.spare().await?;
    println!("Splitting s1 onto {spare} while the traffic runs:");
    let from = unix_us();
    let id = start_move(&mut operations, "s1", "s3", &spare, false).await?;
    let status = watch::wait_for_phase(&mut operations, id, &["switched"], true).await?;
    let during = Span { from, to: unix_us() };
    println!("  switched; the reverse mirror keeps s1 current. Traffic for {} s more.", arguments.seconds);
    let after = measure(arguments.measured()).await;
    load.stop().await?;

    println!("Audit before completion, by ownership:");
    let report = audit(&cluster.audited().await?, size, &load.journal, Mode::ByOwnership).await?;
    verdict.check(report.passed(), report.summary());
    verdict.check(
        report.foreign_rows > 0,
        format!("{} moved rows are still on s1, current and hidden", report.foreign_rows),
    );

    println!("Completing, with traffic:");
    load.start();
    operations.complete_move(MoveRequest { id }).await.context("completing the move")?;
    let finished = watch::wait_for_phase(&mut operations, id, &["done"], true).await?;
    load.stop().await?;
    println!("Audit after completion, every shard's whole content:");
    let report = audit(&cluster.audited().await?, size, &load.journal, Mode::Complete).await?;
    verdict.check(report.passed(), report.summary());
    let planted = plant::audit_can_fail(&cluster.audited().await?, size, &load.journal).await;
    match planted {
        Ok(found) => verdict.check(true, format!("the audit can fail: planted {} rows were found", found.join(", "))),
        Err(error) => verdict.check(false, format!("the audit can fail: {error:#}")),
    }
    verdict.check(cluster.shardctl(&["verify"]).await.is_ok(), "shardctl verify agrees");

    let rolled_back = roll_back_a_split(cluster, &mut load, &mut operations).await?;
    let report = audit(&cluster.audited().await?, size, &load.journal, Mode::Complete).await?;
    println!("Audit after the rollback:");
    verdict.check(report.passed(), report.summary());

    table(&load, &finished, &status, &rolled_back, [("before", before), ("during", during), ("after", after)]);
    verdict.check(load.errors == 0, format!("{} errors seen by clients{}", load.errors, lines(&load.error_texts)));
    let verification = finished.verification.unwrap_or_default();
    verdict.check(
        verification.passed,
        format!("verified before the switch: {} rows in {} chunks", verification.rows, verification.chunks),
    );
    verdict
        .check(load.reports > 0, format!("{} reports over all shards counted every tenant exactly once", load.reports));
    Ok(verdict.held)
}

fn lines(texts: &[String]) -> String {
    texts.iter().map(|text| format!("\n         {text}")).collect()
}

async fn measure(duration: Duration) -> Span {
    let from = unix_us();
    tokio::time::sleep(duration).await;
    Span { from, to: unix_us() }
}

async fn start_move(
    operations: &mut ringway_proto::v1::operations_client::OperationsClient<tonic::transport::Channel>,
    source: &str,
    target: &str,
    dsn: &str,
    manual: bool,
) -> Result<u64> {
    let status = operations
        .start_move(StartMoveRequest {
            source: source.into(),
            target: target.into(),
            target_dsn: dsn.into(),
            what: Some(What::Fraction(0.5)),
            manual,
            rollback_window_ms: ROLLBACK_WINDOW.as_millis() as u64,
            kind: "split".into(),
            ..StartMoveRequest::default()
        })
        .await
        .context("starting the split")?
        .into_inner();
    status.r#move.map(|m| m.id).context("the control plane named no move")
}

/// A `--manual` split of s2: switched by hand, rolled back, cancelled, all under traffic.
async fn roll_back_a_split(
    cluster: &Cluster,
    load: &mut Load,
    operations: &mut ringway_proto::v1::operations_client::OperationsClient<tonic::transport::Channel>,
) -> Result<MoveStatus> {
    let spare = cluster.spare().await?;
    println!("A second split, of s2 onto {spare}, by hand (--manual), rolled back after its switch:");
    load.start();
    let id = start_move(operations, "s2", "s4", &spare, true).await?;
    watch::wait_for_phase(operations, id, &["ready"], true).await?;
    operations.cut_over_move(MoveRequest { id }).await.context("cutting over")?;
    watch::wait_for_phase(operations, id, &["switched"], true).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    operations.roll_back_move(MoveRequest { id }).await.context("rolling back")?;
    let status = watch::wait_for_phase(operations, id, &["ready"], true).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    operations.cancel_move(MoveRequest { id }).await.context("cancelling")?;
    watch::wait_for_phase(operations, id, &["cancelled"], true).await?;
    load.stop().await?;
    Ok(status)
}

fn table(
    load: &Load,
    finished: &MoveStatus,
    switched: &MoveStatus,
    rolled_back: &MoveStatus,
    spans: [(&str, Span); 3],
) {
    println!("\n{:<10} {:>14} {:>10} {:>10}", "traffic", "operations/s", "p50 ms", "p99 ms");
    let mut first_p99 = None;
    for (name, span) in spans {
        let t = figures::traffic(&load.all, span);
        let ratio = match first_p99 {
            None => {
                first_p99 = Some(t.p99_ms);
                String::new()
            }
            Some(p99) if p99 > 0.0 => format!("   p99 {:.2} of before", t.p99_ms / p99),
            Some(_) => String::new(),
        };
        println!("{name:<10} {:>14.0} {:>10.2} {:>10.2}{ratio}", t.operations_per_second, t.p50_ms, t.p99_ms);
    }
    let seconds = switched.backfill_milliseconds as f64 / 1000.0;
    println!("\nrows moved            {}", switched.rows_done);
    println!(
        "backfill              {:.1} s, {:.0} rows/s, {:.1} MB/s",
        seconds,
        switched.rows_done as f64 / seconds.max(0.001),
        switched.bytes_done as f64 / 1e6 / seconds.max(0.001)
    );
    println!(
        "double-written        {} transactions; {} left to the sweeper, which copied {} rows",
        finished.mirrored_transactions, finished.unmirrored_transactions, finished.swept_rows
    );
    println!("held by the switch    {}", figures::held(&load.all.samples, finished));
    println!("held by both cutovers of the rolled-back split");
    println!("                      {}", figures::held(&load.all.samples, rolled_back));
    println!("rows deleted from s1  {}\n", finished.rows_deleted);
}
