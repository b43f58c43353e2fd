//! The gateway as a connection pooler: beside a direct connection, PgBouncer and other proxies, in the same run, interleaved.
//!
//! Throughput and latency are pgbench's; processor time is the proxy's own, as the kernel counts it for its threads.

mod idle;
mod pgbench;
mod pgbouncer;
mod process;
mod sharding;
mod streams;
mod table;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::pgbench::{Mode, Script};
use self::pgbouncer::PgBouncer;
use self::process::Process;
use self::table::{Row, Spent};
use crate::cluster::{single_postgres, Cluster, Options, SinglePostgres};
use crate::shop::audit;

/// Rows of `pgbench_accounts`.
const ACCOUNTS: u64 = 200_000;

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Rounds of each workload over all targets; the table shows medians
    #[arg(long, default_value_t = 3)]
    pub proxy_rounds: usize,
    /// Seconds of one round on one target
    #[arg(long, default_value_t = 3)]
    pub proxy_seconds: u64,
    /// Numbers of pgbench clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    pub proxy_clients: Vec<usize>,
    /// pgbench's query modes
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Mode::Prepared, Mode::Extended, Mode::Simple])]
    pub proxy_modes: Vec<Mode>,
    /// Idle clients beside 64 busy ones in one more workload; 0 leaves it out
    #[arg(long, default_value_t = 1_000)]
    pub proxy_idle: usize,
}

/// What pgbench does, beside how many idle clients.
#[derive(Clone, Copy, Debug)]
struct Load {
    script: Script,
    mode: Mode,
    clients: usize,
    idle: usize,
}

/// Where pgbench connects to.
struct Target {
    name: &'static str,
    port: u16,
    database: String,
    /// The proxy's process; none for a direct connection.
    process: Option<u32>,
}

impl Target {
    fn proxy(name: &'static str, process: &Process) -> Target {
        Target { name, port: process.port, database: "app".into(), process: Some(process.id()) }
    }
}

pub async fn compare(arguments: &Arguments) -> Result<()> {
    let single = single_postgres().await?;
    let unsharded = Cluster::start(Options { shards: 1, ..Options::default() }).await?;
    let sharded = Cluster::start(Options { shards: 4, ..Options::default() }).await?;
    let outcome = with_servers(arguments, &single, &unsharded, &sharded).await;
    if outcome.is_err() {
        eprintln!("{}{}", unsharded.logs(), sharded.logs());
    }
    unsharded.stop().await?;
    sharded.stop().await?;
    outcome
}

async fn with_servers(
    arguments: &Arguments,
    single: &SinglePostgres,
    unsharded: &Cluster,
    sharded: &Cluster,
) -> Result<()> {
    for (dsn, distribute) in
        [(single.dsn("postgres"), false), (unsharded.dsn("postgres"), false), (sharded.dsn("postgres"), true)]
    {
        pgbench::load(&audit::connect(&dsn).await?, ACCOUNTS, distribute).await.context("loading pgbench's tables")?;
    }
    let pgbouncer = PgBouncer::start(single.port()).await?;
    let gateway = |name, cluster: &Cluster| -> Result<Target> {
        let process = cluster.process("gateway")?.pid;
        Ok(Target { name, port: cluster.listen_port(), database: "app".into(), process: Some(process) })
    };
    let mut targets = vec![Target { name: "direct", port: single.port(), database: "app".into(), process: None }];
    match &pgbouncer {
        Some(pgbouncer) => {
            println!("PgBouncer {} stands before the same server as the direct connection", pgbouncer.version);
            let PgBouncer { process, .. } = pgbouncer;
            targets.push(Target::proxy("pgbouncer", process));
        }
        None => println!("PgBouncer is not installed (apt-get install pgbouncer, or PGBOUNCER_BIN): not compared"),
    }
    let others = sharding::start(single.port()).await?;
    targets.extend(others.iter().map(|other| Target::proxy(other.name, &other.process)));
    targets.push(gateway("gateway", unsharded)?);
    targets.push(gateway("gateway, 4 shards", sharded)?);

    table::print_header();
    for (script, clients) in [(Script::Select, arguments.proxy_clients.clone()), (Script::SimpleUpdate, vec![16])] {
        for &mode in &arguments.proxy_modes {
            for &clients in &clients {
                let load = Load { script, mode, clients, idle: 0 };
                workload(arguments, &targets, pgbouncer.as_ref(), load).await?;
            }
        }
    }
    if arguments.proxy_idle > 0 {
        // In transaction mode for every version of PgBouncer: in session mode each of these would keep a server's connection.
        let load = Load { script: Script::Select, mode: Mode::Extended, clients: 64, idle: arguments.proxy_idle };
        workload(arguments, &targets, pgbouncer.as_ref(), load).await?;
    }
    streams::compare(&targets, arguments.proxy_rounds).await?;
    if let Some(pgbouncer) = pgbouncer {
        pgbouncer.process.stop().await?;
    }
    for other in others {
        other.process.stop().await?;
    }
    Ok(())
}

async fn workload(arguments: &Arguments, targets: &[Target], pgbouncer: Option<&PgBouncer>, load: Load) -> Result<()> {
    let mode = load.mode;
    let mut rows: Vec<Row> = targets.iter().map(|target| Row::new(target.name)).collect();
    for _ in 0..arguments.proxy_rounds {
        for (target, row) in targets.iter().zip(&mut rows) {
            let mut database = target.database.clone();
            if target.name == "pgbouncer" && mode == Mode::Prepared && !pgbouncer.is_some_and(PgBouncer::prepares) {
                // Older versions cannot keep prepared statements in transaction mode.
                database = pgbouncer::SESSION_DATABASE.into();
                row.note = " (session mode)";
            }
            // PostgreSQL itself does not take so many.
            let idle = if target.process.is_some() { load.idle } else { 0 };
            let idle = idle::connect(target.port, &database, idle).await?;
            let before = target.process.map(cpu_nanoseconds).transpose()?;
            let length = Duration::from_secs(arguments.proxy_seconds);
            let run = pgbench::run(target.port, &database, load.script, mode, load.clients, length).await?;
            let spent = match (target.process, before) {
                (Some(process), Some(before)) => {
                    let nanoseconds = cpu_nanoseconds(process)? - before;
                    Some(Spent { nanoseconds, memory_bytes: memory_bytes(process)? })
                }
                _ => None,
            };
            row.add(run, spent);
            drop(idle);
        }
    }
    let idle = if load.idle == 0 { String::new() } else { format!(" beside {} idle ones", load.idle) };
    table::print(&format!("{} {}, {} clients{idle}", load.script.name(), load.mode.name(), load.clients), &rows);
    Ok(())
}

/// Resident.
fn memory_bytes(process: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// What the kernel has counted for all threads of a process that are there now.
fn cpu_nanoseconds(process: u32) -> Result<u64> {
    let mut total = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(total)
}
