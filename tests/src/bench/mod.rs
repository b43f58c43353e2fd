//! Benchmarks: every figure is a ratio to a peer in the same run, or a distribution; none is judged here.

mod backfill;
mod callgrind;
mod copy_pipe;
mod cutovers;
pub mod operations;
mod point_reads;
mod proxies;

use std::time::Duration;

use anyhow::Result;
use ringway_proto::v1::MoveRequest;

use self::cutovers::Load;
use crate::cluster::{Cluster, Options};
use crate::demo::watch;
use crate::shop::{audit, load, Size};

/// Point reads, backfill against COPY | COPY, twenty cutovers under each of two loads, and a backfill under load
#[derive(Clone, Debug, clap::Parser)]
pub struct Arguments {
    /// A few thousand rows instead of a million
    #[arg(long)]
    pub small: bool,
    /// Rounds of each interleaved comparison; 0 leaves them out
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Cutovers under each load; every second one is a rollback
    #[arg(long, default_value_t = 20)]
    pub cutovers: usize,
    /// Clients that write during the cutovers
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
    /// Milliseconds from one write of a client to its next, in the first load; in the second they do not pause
    #[arg(long, default_value_t = 20)]
    pub pace_ms: u64,
    /// Only the comparison with other proxies
    #[arg(long)]
    pub proxies_only: bool,
    #[command(flatten)]
    pub proxies: proxies::Arguments,
    #[command(flatten)]
    pub callgrind: callgrind::Arguments,
    /// Clients that are busy during the second backfill
    #[arg(long, default_value_t = 16)]
    pub backfill_clients: usize,
}

impl Arguments {
    fn proxy_comparison(&self) -> bool {
        self.proxies_only || self.proxies.proxy_rounds > 0 && !self.small
    }
}

pub async fn run(arguments: Arguments) -> Result<()> {
    if let Some(operation) = arguments.callgrind.operation {
        return callgrind::operate(operation, arguments.callgrind.count);
    }
    if arguments.callgrind.callgrind {
        return callgrind::count().await;
    }
    if arguments.proxy_comparison() {
        proxies::compare(&arguments.proxies).await?;
    }
    if arguments.proxies_only {
        return Ok(());
    }
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

    if arguments.rounds > 0 {
        point_reads::compare(cluster, size, arguments.rounds).await?;
    }

    let spare = cluster.spare().await?;
    let mut operations = cluster.operations().await?;
    let id = backfill::start(&mut operations, &spare).await?;
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

    let short = Load::Short(Duration::from_millis(arguments.pace_ms));
    for load in [(short, 0), (Load::Full, 1)] {
        cutovers::measure(cluster, &mut operations, id, size, arguments, load).await?;
    }
    operations.cancel_move(MoveRequest { id }).await?;
    watch::wait_for_phase(&mut operations, id, &["cancelled"], false).await?;
    backfill::under_load(cluster, &mut operations, size, arguments.backfill_clients, pipe).await
}
