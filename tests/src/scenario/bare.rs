//! Shards and a control plane without any gateway: what a move does by itself. A control plane that dies is started again.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use futures_util::future::try_join_all;
use ringway_proto::v1;
use ringway_proto::v1::topology_client::TopologyClient;
use shardctl::dev::ports::free_port;
use shardctl::dev::postgres::{LocalPostgres, PostgresConfig, SERVICE_ROLE};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::until;
use crate::cluster::{binaries, temporary_directory};

const READY_MAX: Duration = Duration::from_secs(30);
const RESTART_DELAY: Duration = Duration::from_millis(100);

pub struct Bare {
    // In this order they end: the supervisor with its child, the servers, their directory.
    supervisor: JoinHandle<()>,
    servers: Vec<LocalPostgres>,
    grpc_port: u16,
    directory: tempfile::TempDir,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

struct Serve {
    program: PathBuf,
    store: String,
    grpc: String,
    log: PathBuf,
    environment: Vec<(String, String)>,
}

impl Serve {
    fn start(&self) -> Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        Command::new(&self.program)
            .args(["serve", "--store", &self.store, "--grpc", &self.grpc])
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting shardctl serve")
    }
}

impl Bare {
    /// Runs `schema` on the first server before it becomes a shard; the others get it by joining.
    pub async fn start(shards: u16, schema: &str, environment: Vec<(String, String)>) -> Result<Bare> {
        let directory = temporary_directory()?;
        let servers = try_join_all(
            (1..=shards).map(|n| LocalPostgres::launch(PostgresConfig::test(directory.path().join(format!("s{n}"))))),
        )
        .await?;
        let bare = Bare::serve(directory, servers, environment).await?;
        super::sql::connect(&bare.servers[0].dsn("postgres"))
            .await?
            .batch_execute(schema)
            .await
            .context("the schema")?;
        for (index, server) in bare.servers.iter().enumerate() {
            bare.shardctl(&["shard", "add", &format!("s{}", index + 1), &server.dsn(SERVICE_ROLE)]).await?;
        }
        Ok(bare)
    }

    /// A control plane in `directory`, and servers that are no shards yet.
    pub async fn serve(
        directory: tempfile::TempDir,
        servers: Vec<LocalPostgres>,
        environment: Vec<(String, String)>,
    ) -> Result<Bare> {
        let grpc_port = free_port()?;
        let serve = Serve {
            program: binaries()?.join("shardctl"),
            store: format!("sled:{}", directory.path().join("control").display()),
            grpc: format!("127.0.0.1:{grpc_port}"),
            log: directory.path().join("control.log"),
            environment,
        };
        let mut child = serve.start()?;
        let supervisor = tokio::spawn(async move {
            loop {
                let _ = child.wait().await;
                tokio::time::sleep(RESTART_DELAY).await;
                match serve.start() {
                    Ok(started) => child = started,
                    Err(error) => eprintln!("{error:#}"),
                }
            }
        });
        let bare = Bare { supervisor, servers, grpc_port, directory };
        until("a control plane", READY_MAX, || async { bare.topology().await.map(|_| true) })
            .await
            .with_context(|| bare.log())?;
        Ok(bare)
    }

    pub async fn shardctl(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(binaries()?.join("shardctl"))
            .args(arguments)
            .env("RINGWAY_GRPC", self.grpc())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "shardctl {} ended with {}\n{out}{err}", arguments.join(" "), output.status);
        Ok(out.into_owned())
    }

    /// One more empty server; its DSN. Call it before anything is armed: the server belongs to this value.
    pub async fn spare(&mut self) -> Result<String> {
        let directory = self.directory.path().join(format!("spare{}", self.servers.len()));
        let server = LocalPostgres::launch(PostgresConfig::test(directory)).await?;
        let dsn = server.dsn(SERVICE_ROLE);
        self.servers.push(server);
        Ok(dsn)
    }

    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    pub async fn topology(&self) -> Result<v1::TopologySnapshot> {
        let mut client = TopologyClient::connect(self.grpc()).await.context("connecting to the control plane")?;
        Ok(client.get(v1::GetTopologyRequest {}).await?.into_inner())
    }

    /// The last lines of the control plane's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.directory.path().join("control.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}
