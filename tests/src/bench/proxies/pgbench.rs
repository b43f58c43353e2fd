//! pgbench's tables, and one run of it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use futures_util::SinkExt as _;
use tokio::process::Command;
use tokio_postgres::Client;

use super::ACCOUNTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    Prepared,
    Extended,
    Simple,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Prepared => "prepared",
            Mode::Extended => "extended",
            Mode::Simple => "simple",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// `pgbench -S`.
    Select,
    /// `pgbench -N`: five statements.
    SimpleUpdate,
}

impl Script {
    pub fn name(self) -> &'static str {
        match self {
            Script::Select => "point read",
            Script::SimpleUpdate => "five-statement transaction",
        }
    }

    fn text(self) -> String {
        match self {
            Script::Select => {
                format!("\\set aid random(1, {ACCOUNTS})\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n")
            }
            Script::SimpleUpdate => format!(
                "\\set aid random(1, {ACCOUNTS})\n\\set delta random(-5000, 5000)\nBEGIN;\n\
                 UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
                 SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
                 INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :aid, :delta, CURRENT_TIMESTAMP);\n\
                 END;\n"
            ),
        }
    }
}

pub async fn load(client: &Client, accounts: u64, distribute: bool) -> Result<()> {
    client
        .batch_execute(
            "CREATE TABLE pgbench_accounts (aid int NOT NULL PRIMARY KEY, bid int, abalance int, filler char(84));
             CREATE TABLE pgbench_history (tid int, bid int, aid int NOT NULL, delta int, mtime timestamp, filler char(22));",
        )
        .await?;
    if distribute {
        for table in ["pgbench_accounts", "pgbench_history"] {
            client.execute(&format!("SELECT create_distributed_table('{table}', 'aid')"), &[]).await?;
        }
    }
    let sink = client.copy_in("COPY pgbench_accounts (aid, bid, abalance, filler) FROM STDIN").await?;
    futures_util::pin_mut!(sink);
    for first in (1..=accounts).step_by(1_000) {
        let lines: String = (first..(first + 1_000).min(accounts + 1)).map(|aid| format!("{aid}\t1\t0\t\n")).collect();
        sink.send(bytes::Bytes::from(lines)).await?;
    }
    sink.finish().await?;
    client.batch_execute("ANALYZE pgbench_accounts").await?;
    Ok(())
}

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub per_second: f64,
    pub latency_ms: f64,
    pub transactions: u64,
}

pub async fn run(
    port: u16,
    database: &str,
    script: Script,
    mode: Mode,
    clients: usize,
    length: Duration,
) -> Result<Run> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("script.sql");
    std::fs::write(&file, script.text())?;
    let program = shardctl::dev::binaries::PostgresBinaries::find()?.program("pgbench");
    let output = Command::new(program)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-n", "-j", "1", "-p", &port.to_string()])
        .args(["-M", mode.name(), "-c", &clients.to_string(), "-T", &length.as_secs().to_string(), "-f"])
        .arg(&file)
        .arg(database)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "pgbench ended with {}: {errors}", output.status);
    let number = |start: &str| -> Result<f64> {
        let line =
            out.lines().find_map(|line| line.strip_prefix(start)).with_context(|| format!("no {start} in {out}"))?;
        Ok(line.split_whitespace().next().context("no number")?.parse()?)
    };
    Ok(Run {
        per_second: number("tps = ")?,
        latency_ms: number("latency average = ")?,
        transactions: number("number of transactions actually processed: ")? as u64,
    })
}
