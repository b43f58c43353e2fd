//! Instructions per operation and per query, as valgrind's callgrind counts them: they hardly differ from run to run, and are the
//! same on an idle machine and on a busy one. Each figure is the difference of two runs of different length, so that what happens
//! once does not count.
//!
//! Not counted: what the kernel does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use rustix::process::Signal;
use shardctl::dev::ports::free_port;
use shardctl::dev::process::ProcessId;
use tokio::process::Command;

use super::operations::{Operation, Operations};
use crate::cluster::{gateway_binary, Cluster, Options};
use crate::scenario::{sql, until};

const OPERATIONS: [u64; 2] = [1_000, 11_000];
const QUERIES: [u64; 2] = [500, 2_500];
const ROWS: i64 = 1_000;
/// A process under valgrind is some fifty times as slow.
const READY_MAX: Duration = Duration::from_secs(120);
const END_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Only instructions per operation and per query, counted by valgrind
    #[arg(long)]
    pub callgrind: bool,
    /// What is run under valgrind
    #[arg(long, hide = true)]
    pub operation: Option<Operation>,
    #[arg(long, hide = true, default_value_t = 0)]
    pub count: u64,
}

/// The part that runs under valgrind.
pub fn operate(operation: Operation, count: u64) -> Result<()> {
    Operations::new()?.run(operation, count);
    Ok(())
}

pub async fn count() -> Result<()> {
    let version = Command::new("valgrind").arg("--version").stdin(Stdio::null()).output().await;
    let Some(version) = version.ok().filter(|output| output.status.success()) else {
        println!("valgrind is not installed (apt-get install valgrind): instructions are not counted");
        return Ok(());
    };
    println!("instructions, counted by {}", String::from_utf8_lossy(&version.stdout).trim());
    let directory = tempfile::tempdir()?;
    for operation in Operation::ALL {
        let mut totals = [0; 2];
        for (total, count) in totals.iter_mut().zip(OPERATIONS) {
            *total = of_operation(directory.path(), operation, count).await?;
        }
        println!("{:<22}{:>8} per operation", operation.name(), difference(totals, OPERATIONS));
    }
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = of_queries(directory.path(), &cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop().await?;
    outcome
}

fn difference(totals: [u64; 2], counts: [u64; 2]) -> u64 {
    totals[1].saturating_sub(totals[0]) / (counts[1] - counts[0])
}

fn valgrind(out: &Path, program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command
        .args(["-q", "--tool=callgrind", "--main-stacksize=134217728", "--max-stackframe=134217728"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// All instructions of a run.
fn total(out: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(out).context("callgrind has written nothing")?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(line.context("no totals in callgrind's file")?.trim().parse()?)
}

async fn of_operation(directory: &Path, operation: Operation, count: u64) -> Result<u64> {
    let out = directory.join(format!("{}-{count}", operation.name()));
    let program = std::env::current_exe()?;
    let status = valgrind(&out, &program)
        .args(["--operation", operation.name(), "--count", &count.to_string()])
        .stderr(Stdio::null())
        .status()
        .await?;
    ensure!(status.success(), "valgrind ended with {status}");
    total(&out)
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Prepared,
    Simple,
}

async fn of_queries(directory: &Path, cluster: &Cluster) -> Result<()> {
    let admin = sql::connect(&cluster.dsn("postgres")).await?;
    let rows = sql::rows(1..=ROWS, |id| format!("{id}, {id}"));
    for statement in [
        "CREATE TABLE points (id bigint PRIMARY KEY, value bigint)",
        "SELECT create_distributed_table('points', 'id')",
        &format!("INSERT INTO points VALUES {rows}"),
    ] {
        admin.batch_execute(statement).await.context("loading the table")?;
    }
    for protocol in [Protocol::Prepared, Protocol::Simple] {
        let mut totals = [0; 2];
        for (total, queries) in totals.iter_mut().zip(QUERIES) {
            *total = of_gateway(directory, cluster, protocol, queries).await?;
        }
        println!("point read, {:<10}{:>8} per query of the whole gateway", name(protocol), difference(totals, QUERIES));
    }
    Ok(())
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Prepared => "prepared",
        Protocol::Simple => "simple",
    }
}

async fn of_gateway(directory: &Path, cluster: &Cluster, protocol: Protocol, queries: u64) -> Result<u64> {
    let out: PathBuf = directory.join(format!("gateway-{}-{queries}", name(protocol)));
    let port = free_port()?;
    let mut child = valgrind(&out, &gateway_binary()?)
        .args(["--topology", &cluster.grpc(), "--listen", &format!("127.0.0.1:{port}")])
        .stderr(Stdio::null())
        .spawn()?;
    let dsn = format!("postgresql://postgres@127.0.0.1:{port}/app");
    until("a gateway that serves under valgrind", READY_MAX, || async {
        Ok(sql::value(&sql::connect(&dsn).await?, "SELECT count(*) FROM points").await? == ROWS.to_string())
    })
    .await?;
    let client = sql::connect(&dsn).await?;
    let statement = client.prepare("SELECT value FROM points WHERE id = $1").await?;
    for query in 0..queries {
        let id = query as i64 % ROWS + 1;
        match protocol {
            Protocol::Prepared => drop(client.query_one(&statement, &[&id]).await?),
            Protocol::Simple => {
                drop(client.simple_query(&format!("SELECT value FROM points WHERE id = {id}")).await?);
            }
        }
    }
    drop(client);
    let process = ProcessId::of(child.id().context("the gateway has ended")?).context("the gateway has ended")?;
    process.signal(Signal::TERM)?;
    tokio::time::timeout(END_MAX, child.wait()).await.context("the gateway does not end")??;
    total(&out)
}
