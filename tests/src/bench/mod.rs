//! Benchmarks: every figure is a ratio to a peer in the same run, or a distribution; none is judged here.

mod copy_pipe;
mod cutovers;
mod point_reads;

use anyhow::{Context as _, Result};
use ringway_proto::v1::{start_move_request::What, MoveRequest, StartMoveRequest};

use crate::cluster::{Cluster, Options};
use crate::demo::watch;
use crate::shop::{audit, load, Size};

/// Point reads, backfill against COPY | COPY, and twenty cutovers under load
#[derive(Clone, Debug, clap::Parser)]
pub struct Arguments {
    /// A few thousand rows instead of a million
    #[arg(long)]
    pub small: bool,
    /// Rounds of each interleaved comparison
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Cutovers; every second one is a rollback
    #[arg(long, default_value_t = 20)]
    pub cutovers: usize,
    /// Clients that write during the cutovers
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
}

pub async fn run(arguments: Arguments) -> Result<()> {
    let size = if arguments.small { Size::SMALL } else { Size::DEMO };
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = measure(&arguments, &cluster, size).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop().await?;
    outcome
}

async fn measure(arguments: &Arguments, cluster: &Cluster, size: Size) -> Result<()> {
    let client = audit::connect(&cluster.dsn("postgres")).await?;
    load::create_schema(&client).await?;
    let rows = load::load_rows(&client, size).await?;
    println!(
        "{rows} rows over 2 shards, {}",
        cluster.banner.iter().find(|l| l.contains("fsync")).map_or("", |l| l.as_str())
    );

    point_reads::compare(cluster, size, arguments.rounds).await?;

    let spare = cluster.spare().await?;
    let mut operations = cluster.operations().await?;
    let status = operations
        .start_move(StartMoveRequest {
            source: "s1".into(),
            target: "s3".into(),
            target_dsn: spare,
            what: Some(What::Fraction(0.5)),
            manual: true,
            rollback_window_ms: 3_600_000,
            kind: "split".into(),
            ..StartMoveRequest::default()
        })
        .await?
        .into_inner();
    let id = status.r#move.as_ref().map(|m| m.id).context("no move was named")?;
    let ready = watch::wait_for_phase(&mut operations, id, &["ready"], false).await?;
    let backfill = ready.bytes_done as f64 / (ready.backfill_milliseconds.max(1) as f64 / 1000.0);
    let pipe = copy_pipe::bytes_per_second(cluster, &ready).await?;
    println!(
        "backfill, no traffic: {} rows, {:.1} MB/s; COPY | COPY of the same rows {:.1} MB/s; ratio {:.2}",
        ready.rows_done,
        backfill / 1e6,
        pipe / 1e6,
        backfill / pipe
    );

    cutovers::measure(cluster, &mut operations, id, size, arguments).await?;
    operations.cancel_move(MoveRequest { id }).await?;
    watch::wait_for_phase(&mut operations, id, &["cancelled"], false).await?;
    Ok(())
}
