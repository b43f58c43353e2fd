//! A real cluster for tests, demo and benches: `shardctl dev` as a child process, with everything it starts.
//!
//! The binaries are those beside the running executable's directory (`target/debug` or `target/release`): build them first.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use ringway_proto::v1;
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::topology_client::TopologyClient;
use shardctl::dev::ports::free_port;
use shardctl::dev::postgres::{LocalPostgres, PostgresConfig};
use shardctl::dev::process::ProcessId;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tonic::transport::Channel;

use crate::shop::audit;

/// From `shardctl dev` to its `ready` line.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// A control plane that was killed is back well within this.
const CONTROL_BACK_MAX: Duration = Duration::from_secs(15);
const CONTROL_POLL: Duration = Duration::from_millis(50);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Log lines that a failed start shows.
const LOG_LINES_SHOWN: usize = 40;

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub shards: u16,
    /// None: a temporary directory, removed at the end.
    pub data: Option<PathBuf>,
    /// None: free ports.
    pub listen_port: Option<u16>,
    pub grpc_port: Option<u16>,
    /// Environment of all parts.
    pub environment: Vec<(String, String)>,
}

/// Ends with its owner: dropping it kills the supervisor's whole session by the processes' own ids.
pub struct Cluster {
    child: Child,
    data: PathBuf,
    listen_port: u16,
    grpc_port: u16,
    environment: Vec<(String, String)>,
    /// What `shardctl dev` printed until it was ready.
    pub banner: Vec<String>,
    _directory: Option<tempfile::TempDir>,
}

/// The directory with `shardctl` and `ringway-gateway`.
pub fn binaries() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    executable
        .ancestors()
        .skip(1)
        .take(3)
        .find(|dir| dir.join("shardctl").is_file() && dir.join("ringway-gateway").is_file())
        .map(Path::to_path_buf)
        .with_context(|| {
            format!("no shardctl and ringway-gateway near {}: run cargo build first", executable.display())
        })
}

/// The gateway that tests and benchmarks start: `RINGWAY_GATEWAY_BIN`, which `shardctl dev` goes by, too, or the one beside `shardctl`.
pub fn gateway_binary() -> Result<PathBuf> {
    match std::env::var_os("RINGWAY_GATEWAY_BIN") {
        Some(path) => Ok(path.into()),
        None => Ok(binaries()?.join("ringway-gateway")),
    }
}

/// A temporary directory that the servers' unprivileged user can reach.
pub fn temporary_directory() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::Builder::new().prefix("ringway-test-").tempdir()?;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// One plain PostgreSQL beside a cluster, to compare with. It ends with this value.
pub struct SinglePostgres {
    server: LocalPostgres,
    _directory: tempfile::TempDir,
}

pub async fn single_postgres() -> Result<SinglePostgres> {
    let directory = temporary_directory()?;
    let config = PostgresConfig::test(directory.path().join("single"));
    let server = LocalPostgres::launch(config).await.context("starting a PostgreSQL to compare with")?;
    Ok(SinglePostgres { server, _directory: directory })
}

impl SinglePostgres {
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// For a client of this role: `postgres`, or `app`, which is no superuser.
    pub fn dsn(&self, role: &str) -> String {
        self.server.dsn(role)
    }
}

impl Cluster {
    pub async fn start(options: Options) -> Result<Cluster> {
        let (data, directory) = match options.data {
            Some(data) => (data, None),
            None => {
                let directory = temporary_directory()?;
                (directory.path().join("cluster"), Some(directory))
            }
        };
        let listen_port = options.listen_port.map_or_else(free_port, Ok)?;
        let grpc_port = options.grpc_port.map_or_else(free_port, Ok)?;
        let mut child = Command::new(binaries()?.join("shardctl"))
            .arg("dev")
            .args(["--shards", &options.shards.max(1).to_string()])
            .arg("--data")
            .arg(&data)
            .args(["--listen", &format!("127.0.0.1:{listen_port}"), "--grpc", &format!("127.0.0.1:{grpc_port}")])
            .envs(options.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting shardctl dev")?;
        let stdout = child.stdout.take().context("shardctl dev has no stdout")?;
        let stderr = child.stderr.take().context("shardctl dev has no stderr")?;
        let errors = tokio::spawn(collect_errors(stderr));
        let mut lines = BufReader::new(stdout).lines();
        let mut banner = Vec::new();
        let ready = tokio::time::timeout(READY_TIMEOUT, async {
            while let Some(line) = lines.next_line().await? {
                let ready = line.starts_with("ready ");
                banner.push(line);
                if ready {
                    return Ok(true);
                }
            }
            anyhow::Ok(false)
        })
        .await;
        // What it prints later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let cluster = Cluster {
            child,
            data,
            listen_port,
            grpc_port,
            environment: options.environment,
            banner,
            _directory: directory,
        };
        match ready {
            Ok(Ok(true)) => Ok(cluster),
            outcome => {
                let log = cluster.logs();
                drop(cluster);
                let errors = tokio::time::timeout(Duration::from_secs(5), errors).await;
                bail!("shardctl dev did not become ready ({outcome:?}); it said {errors:?}; logs:\n{log}")
            }
        }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Of the gateway, for a client of this role.
    pub fn dsn(&self, role: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/app", self.listen_port)
    }

    pub fn listen_port(&self) -> u16 {
        self.listen_port
    }

    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    /// A `shardctl` command against this cluster's control plane.
    pub fn shardctl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binaries()?.join("shardctl"));
        command.args(arguments).env("RINGWAY_GRPC", self.grpc()).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs it; its standard output. An exit status other than 0 is an error with what it printed.
    pub async fn shardctl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.shardctl_command(arguments)?.output().await?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "shardctl {} ended with {}\n{out}{err}", arguments.join(" "), output.status);
        Ok(out.into_owned())
    }

    /// One more empty server; its DSN.
    pub async fn spare(&self) -> Result<String> {
        let data = self.data.to_string_lossy().into_owned();
        let out = self.shardctl(&["dev", "spare", "--data", &data]).await?;
        out.lines().last().map(str::to_string).context("shardctl dev spare printed nothing")
    }

    pub async fn operations(&self) -> Result<OperationsClient<Channel>> {
        OperationsClient::connect(self.grpc()).await.context("connecting to the control plane")
    }

    /// Waits for a control plane that is being started again.
    pub async fn topology(&self) -> Result<v1::TopologySnapshot> {
        let started = std::time::Instant::now();
        loop {
            match self.topology_now().await {
                Err(_) if started.elapsed() < CONTROL_BACK_MAX => tokio::time::sleep(CONTROL_POLL).await,
                answer => return answer,
            }
        }
    }

    async fn topology_now(&self) -> Result<v1::TopologySnapshot> {
        let mut client = TopologyClient::connect(self.grpc()).await.context("connecting to the control plane")?;
        Ok(client.get(v1::GetTopologyRequest {}).await?.into_inner())
    }

    /// The shards and the first keyspace's ring, for an audit.
    pub async fn audited(&self) -> Result<audit::Cluster> {
        let topology = self.topology().await?;
        let keyspace = topology.keyspaces.first().context("no keyspace yet")?;
        Ok(audit::Cluster {
            shards: topology
                .shards
                .iter()
                .map(|s| audit::AuditedShard { number: s.number, name: s.name.clone(), dsn: s.dsn.clone() })
                .collect(),
            ring: keyspace.ring.iter().map(|point| (point.token, point.shard)).collect(),
        })
    }

    /// DSN of a shard's primary, for the service role.
    pub async fn shard_dsn(&self, name: &str) -> Result<String> {
        let topology = self.topology().await?;
        let shard = topology.shards.iter().find(|s| s.name == name).with_context(|| format!("no shard {name}"))?;
        Ok(shard.dsn.clone())
    }

    /// A part of the cluster by its name in `dev.json`: "control", "gateway", "s1", ...
    pub fn process(&self, part: &str) -> Result<ProcessId> {
        let state = shardctl::dev::state::read(&self.data)?.context("the cluster has no dev.json")?;
        let found = state.parts.into_iter().find(|p| p.name == part).with_context(|| format!("no part {part}"))?;
        found.process.with_context(|| format!("{part} is not running"))
    }

    /// The last lines of every log of the cluster.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut paths = vec![];
        for name in ["dev.log", "control.log", "gateway.log"] {
            paths.push(self.data.join(name));
        }
        for path in paths {
            if let Ok(content) = std::fs::read_to_string(&path) {
                text.push_str(&format!("--- {}\n", path.display()));
                let lines: Vec<&str> = content.lines().collect();
                for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        text
    }

    /// Stops everything and waits for the end.
    pub async fn stop(mut self) -> Result<()> {
        let data = self.data.to_string_lossy().into_owned();
        self.shardctl(&["dev", "stop", "--data", &data]).await?;
        tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.context("shardctl dev did not end")??;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The cluster's own stop command: it ends every part by its own process id. Dropping is synchronous, and so is this.
        if let Ok(binaries) = binaries() {
            let _ = std::process::Command::new(binaries.join("shardctl"))
                .args(["dev", "stop", "--data"])
                .arg(&self.data)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let _ = self.child.start_kill();
    }
}

async fn collect_errors(stderr: tokio::process::ChildStderr) -> String {
    let mut text = String::new();
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if text.len() < 64 * 1024 {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}
