//! One more gateway of a cluster, as a child process of the test.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use shardctl::dev::ports::free_port;
use shardctl::dev::process::ProcessId;
use tokio::process::{Child, Command};

use super::{sql, until};
use crate::cluster::{gateway_binary, Cluster};

const READY_MAX: Duration = Duration::from_secs(30);

/// Ends with its owner.
pub struct Gateway {
    child: Child,
    pub port: u16,
    log: PathBuf,
    directory: tempfile::TempDir,
}

impl Gateway {
    /// Waits until it listens; `options` come after the usual ones.
    pub async fn start(cluster: &Cluster, options: &[&str]) -> Result<Gateway> {
        Gateway::start_at(&cluster.grpc(), options).await
    }

    /// The same on a port of the caller's choice.
    pub async fn start_on(cluster: &Cluster, port: u16, options: &[&str]) -> Result<Gateway> {
        Gateway::launch(&cluster.grpc(), port, options).await
    }

    /// The same for a control plane of its own.
    pub async fn start_at(grpc: &str, options: &[&str]) -> Result<Gateway> {
        Gateway::launch(grpc, free_port()?, options).await
    }

    async fn launch(grpc: &str, port: u16, options: &[&str]) -> Result<Gateway> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("gateway.log");
        let out = std::fs::File::create(&log)?;
        let child = Command::new(gateway_binary()?)
            .args(["--topology", grpc, "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(directory.path().join("snapshot"))
            .args(options)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .kill_on_drop(true)
            .spawn()
            .context("starting ringway-gateway")?;
        let mut gateway = Gateway { child, port, log, directory };
        let ready = until("a gateway that listens", READY_MAX, || async {
            Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        })
        .await;
        if ready.is_err() || !gateway.is_running() {
            let log = gateway.log();
            return ready.context(log).and_then(|()| anyhow::bail!("the gateway ended: {}", gateway.log()));
        }
        Ok(gateway)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn dsn(&self, role: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/app", self.port)
    }

    /// Of the administrative database.
    pub fn console(&self, role: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/ringway", self.port)
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self, bound: Duration) -> Result<std::process::ExitStatus> {
        match tokio::time::timeout(bound, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => anyhow::bail!("the gateway did not end within {bound:?}: {}", self.log()),
        }
    }

    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the gateway has ended")
    }

    pub fn process(&self) -> Result<ProcessId> {
        ProcessId::of(self.pid()?).context("the gateway has ended")
    }

    /// Waits until statements are answered.
    pub async fn serves(&self, role: &str) -> Result<()> {
        until("a gateway that serves", READY_MAX, || async {
            let client = sql::connect(&self.dsn(role)).await?;
            ensure!(sql::value(&client, "SELECT 1").await? == "1");
            Ok(true)
        })
        .await
        .with_context(|| self.log())
    }

    /// All that it writes is in there.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
