//! The process of a proxy that the bench has started: it serves the database `app` to `postgres` on loopback.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use shardctl::dev::process::ProcessId;
use tokio::process::{Child, Command};

use crate::shop::audit;

const START_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const STOP: [(rustix::process::Signal, Duration); 2] =
    [(rustix::process::Signal::INT, Duration::from_secs(5)), (rustix::process::Signal::KILL, Duration::from_secs(5))];

pub struct Process {
    name: &'static str,
    child: Child,
    pub port: u16,
    /// Of its configuration.
    _directory: tempfile::TempDir,
}

impl Process {
    /// Returns when it serves.
    pub async fn start(
        name: &'static str,
        mut command: Command,
        port: u16,
        directory: tempfile::TempDir,
    ) -> Result<Process> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("starting {name}"))?;
        let mut process = Process { name, child, port, _directory: directory };
        let dsn = format!("postgresql://postgres@127.0.0.1:{port}/app");
        let started = Instant::now();
        while let Err(error) = audit::connect(&dsn).await {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} has ended by itself: {status}");
            }
            if started.elapsed() > START_MAX {
                bail!("{name} does not serve: {error:#}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(process)
    }

    pub fn id(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub async fn stop(mut self) -> Result<()> {
        let name = self.name;
        let process = self.child.id().and_then(ProcessId::of).with_context(|| format!("{name} has ended by itself"))?;
        ensure!(tokio::join!(process.end(&STOP), self.child.wait()).0?, "{name} does not end");
        Ok(())
    }
}
