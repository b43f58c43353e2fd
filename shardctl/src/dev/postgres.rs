//! One PostgreSQL server of this machine: created, started, stopped, killed.
//!
//! Used by the development cluster and by every test that needs a real PostgreSQL. It knows nothing
//! of shards, of the control plane or of supervision.
//!
//! A server's directory holds `data` (PGDATA, with the Unix socket), `port`, and `postgres.log`.
//! Roles: `ringway` (bootstrap superuser, the service role), `postgres` (superuser, owner of the
//! database `app`) and `app` (no superuser).

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::binaries::{Account, PostgresBinaries, INSTALL_COMMAND, POSTGRES_MAJOR_MIN};
use super::logfile;
use super::ports;
use super::process::ProcessId;

/// Bound on start-up, crash recovery included.
const START_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const READY_POLL: Duration = Duration::from_millis(25);
/// Fast shutdown, immediate shutdown, and the end of patience.
pub const STOP_SIGNALS: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
    (Signal::QUIT, Duration::from_secs(5)),
    (Signal::KILL, Duration::from_secs(5)),
];
/// Bound on the blocking wait when a server that runs is dropped.
const DROP_MAX: Duration = Duration::from_secs(2);
/// The longest Unix socket path that the kernel takes is 107 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub const SERVICE_ROLE: &str = "ringway_service";
pub const DATABASE: &str = "app";

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("no PostgreSQL {POSTGRES_MAJOR_MIN} or newer found; install it with: {INSTALL_COMMAND}")]
    NoBinaries,
    #[error("RINGWAY_PG_BIN={} holds no PostgreSQL {POSTGRES_MAJOR_MIN} or newer", dir.display())]
    BadBinaries { dir: PathBuf },
    #[error("PostgreSQL does not run as root and there is no user `postgres` to run it as; create one with: useradd --system postgres")]
    NoAccount,
    #[error("user id {uid}, which PostgreSQL runs as, cannot reach {} through {}; use another directory, or run: chmod o+x {}", dir.display(), parent.display(), parent.display())]
    Unreachable { dir: PathBuf, parent: PathBuf, uid: u32 },
    #[error("port {port} of 127.0.0.1, which the PostgreSQL in {} uses, is taken by another process", dir.display())]
    PortTaken { port: u16, dir: PathBuf },
    #[error("a PostgreSQL already runs on {} (process {pid})", dir.display())]
    AlreadyRunning { dir: PathBuf, pid: u32 },
    #[error("{program} failed for {} ({status}): {output}", dir.display())]
    Setup { program: &'static str, dir: PathBuf, status: ExitStatus, output: String },
    #[error("the PostgreSQL in {} ended while starting ({status}): {log}", dir.display())]
    EndedEarly { dir: PathBuf, status: ExitStatus, log: String },
    #[error("the PostgreSQL in {} was not ready within {} s", dir.display(), START_MAX.as_secs())]
    NotReady { dir: PathBuf },
    #[error("the PostgreSQL in {} outlived SIGKILL", dir.display())]
    NotStopped { dir: PathBuf },
    #[error("a password must not contain control characters")]
    BadPassword,
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the PostgreSQL in {} refused a connection or statement", dir.display())]
    Sql { dir: PathBuf, source: tokio_postgres::Error },
}

/// How clients prove who they are, on loopback and on the Unix socket.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    Trust,
    /// SCRAM-SHA-256, with one password for the roles `ringway`, `postgres` and `app`.
    Scram {
        password: String,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "Trust",
            Self::Scram { .. } => "Scram",
        })
    }
}

#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Created if missing; given to the user `postgres` when this process is root.
    pub dir: PathBuf,
    /// `None`: the port that the server used before, or a free one.
    pub port: Option<u16>,
    /// Takes effect when the server is created; later it must be given alike.
    pub auth: Auth,
    pub shared_buffers_mb: u32,
    /// Further lines of the configuration file; the last of a name counts.
    pub settings: Vec<(String, String)>,
}

impl PostgresConfig {
    /// A server of the development cluster.
    pub fn dev(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), port: None, auth: Auth::Trust, shared_buffers_mb: 256, settings: Vec::new() }
    }

    /// A small server for tests.
    pub fn test(dir: impl Into<PathBuf>) -> Self {
        Self { shared_buffers_mb: 32, ..Self::dev(dir) }
    }

    pub fn scram(mut self, password: impl Into<String>) -> Self {
        self.auth = Auth::Scram { password: password.into() };
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// A PostgreSQL server and, while it runs, its postmaster. Dropping it ends the server at once.
#[derive(Debug)]
pub struct LocalPostgres {
    binaries: PostgresBinaries,
    account: Account,
    config: PostgresConfig,
    port: u16,
    child: Option<Child>,
}

impl LocalPostgres {
    /// Creates the server in `config.dir`, or opens the one that is there. Does not start it.
    pub async fn create(mut config: PostgresConfig) -> Result<Self, PostgresError> {
        if let Auth::Scram { password } = &config.auth {
            if password.is_empty() || password.contains(|c: char| c.is_control()) {
                return Err(PostgresError::BadPassword);
            }
        }
        let binaries = PostgresBinaries::find()?;
        let in_dir = |source| PostgresError::Io { path: config.dir.clone(), source };
        std::fs::create_dir_all(&config.dir).map_err(in_dir)?;
        config.dir = config.dir.canonicalize().map_err(in_dir)?;
        let account = Account::for_server(&config.dir)?;
        account.check_reach(&config.dir)?;
        account.own(&config.dir).map_err(|source| PostgresError::Io { path: config.dir.clone(), source })?;

        let mut server = Self { binaries, account, port: 0, child: None, config };
        if !server.data_dir().join("PG_VERSION").exists() {
            server.initialise().await?;
        }
        server.port = server.settle_port()?;
        Ok(server)
    }

    /// Creates or opens the server in `config.dir`, and starts it.
    pub async fn launch(config: PostgresConfig) -> Result<Self, PostgresError> {
        let mut server = Self::create(config).await?;
        server.start().await?;
        Ok(server)
    }

    /// Whether `dir` holds a complete server.
    pub fn exists(dir: &Path) -> bool {
        dir.join("data/PG_VERSION").exists() && dir.join("port").exists()
    }

    /// The postmaster that runs on the server directory `dir`, whoever started it.
    pub fn running_in(dir: &Path) -> Option<ProcessId> {
        let data = dir.join("data").canonicalize().ok()?;
        let pid = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let process = ProcessId::of(pid.lines().next()?.trim().parse().ok()?)?;
        // A postmaster's working directory is its data directory; a reused pid's is not.
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
        (cwd == data).then_some(process)
    }

    /// Starts the server and waits until it accepts connections. Nothing happens if it runs.
    /// Not cancel-safe; after a cancelled start, `stop` ends what was started.
    pub async fn start(&mut self) -> Result<(), PostgresError> {
        if self.is_running() {
            return Ok(());
        }
        if let Some(ProcessId { pid, .. }) = Self::running_in(&self.config.dir) {
            let dir = self.config.dir.clone();
            return Err(PostgresError::AlreadyRunning { dir, pid });
        }
        let free = ports::is_free(ports::loopback(self.port));
        if !free.map_err(|source| self.io(&self.config.dir, source))? {
            return Err(PostgresError::PortTaken { port: self.port, dir: self.config.dir.clone() });
        }
        self.write_settings()?;
        let deadline = Instant::now() + START_MAX;
        loop {
            let log_path = self.log_path();
            let log = logfile::append(&log_path).map_err(|source| self.io(&log_path, source))?;
            let log_start = log.metadata().map(|metadata| metadata.len()).unwrap_or(0);
            self.child = Some(self.spawn(log)?);
            match self.until_ready(deadline, log_start).await {
                // Backends of a killed server may need a moment to notice its end.
                Err(PostgresError::EndedEarly { log, .. })
                    if log.contains("shared memory block") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(READY_POLL * 4).await;
                }
                Err(error) => {
                    self.stop().await?;
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Fast shutdown; immediate shutdown if that takes too long. Nothing happens if it does not run.
    /// Cancel-safe: it can be called again.
    pub async fn stop(&mut self) -> Result<(), PostgresError> {
        for (signal, bound) in STOP_SIGNALS {
            if !self.is_running() {
                return Ok(());
            }
            if let Some(process) = self.pid().and_then(ProcessId::of) {
                let sent = process.signal(signal);
                sent.map_err(|source| self.io(&self.config.dir, source))?;
            }
            if tokio::time::timeout(bound, self.wait()).await.is_ok() {
                return Ok(());
            }
        }
        Err(PostgresError::NotStopped { dir: self.config.dir.clone() })
    }

    /// Ends the server as a power failure would: SIGKILL to the postmaster and all its processes.
    pub async fn kill9(&mut self) -> Result<(), PostgresError> {
        let Some(postmaster) = self.pid().and_then(ProcessId::of) else {
            return Ok(());
        };
        let in_dir = |source| self.io(&self.config.dir, source);
        // A stopped postmaster starts no process that the list would miss.
        postmaster.signal(Signal::STOP).map_err(in_dir)?;
        let children = postmaster.children();
        for process in std::iter::once(&postmaster).chain(&children) {
            process.signal(Signal::KILL).map_err(in_dir)?;
        }
        self.wait().await;
        for process in children {
            process.gone(CONNECT_MAX).await;
        }
        Ok(())
    }

    pub async fn restart(&mut self) -> Result<(), PostgresError> {
        self.stop().await?;
        self.start().await
    }

    /// Waits for the server's end, however it comes; at once (`None`) if it does not run. Cancel-safe.
    pub async fn wait(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.wait().await;
        self.child = None;
        status.ok()
    }

    /// Lets the server run on without an owner.
    pub fn leave_running(mut self) {
        self.child = None;
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn major(&self) -> u32 {
        self.binaries.major()
    }

    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.config.dir.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.config.dir.join("postgres.log")
    }

    /// `postgresql://USER@127.0.0.1:PORT/app`, with the password under SCRAM.
    pub fn dsn(&self, user: &str) -> String {
        let password = match &self.config.auth {
            Auth::Trust => String::new(),
            Auth::Scram { password } => format!(":{}", percent_encoded(password)),
        };
        let user = percent_encoded(user);
        let port = self.port;
        format!("postgresql://{user}{password}@127.0.0.1:{port}/{DATABASE}")
    }

    /// The value of a setting, asked of the running server.
    pub async fn show(&self, setting: &str) -> Result<String, PostgresError> {
        self.show_inner(setting).await.map_err(|source| PostgresError::Sql { dir: self.config.dir.clone(), source })
    }

    async fn show_inner(&self, setting: &str) -> Result<String, tokio_postgres::Error> {
        let (client, connection) = self.client_config().connect(NoTls).await?;
        let query = async {
            let messages = client.simple_query(&format!("SHOW \"{}\"", setting.replace('"', "\"\""))).await?;
            let value = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            Ok(value.unwrap_or_default().to_owned())
        };
        tokio::pin!(connection);
        tokio::select! {
            value = query => value,
            Err(error) = &mut connection => Err(error),
        }
    }

    fn client_config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(SERVICE_ROLE).dbname(DATABASE).connect_timeout(CONNECT_MAX);
        if let Auth::Scram { password } = &self.config.auth {
            config.password(password);
        }
        config
    }

    /// Builds `data.partial` and renames it, so that `data` is whole whenever it exists.
    async fn initialise(&self) -> Result<(), PostgresError> {
        let partial = self.config.dir.join("data.partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).map_err(|source| self.io(&partial, source))?;
        }
        let mut initdb = self.command("initdb");
        initdb
            .args(["--locale=C.UTF-8", "--encoding=UTF8", "--auth=trust"])
            .args(["-U", SERVICE_ROLE, "-D"])
            .arg(&partial);
        self.run_setup("initdb", initdb, "").await?;

        let method = match &self.config.auth {
            Auth::Trust => "trust",
            Auth::Scram { .. } => "scram-sha-256",
        };
        let access = format!(
            "local all,replication all {method}\n\
             host all,replication all 127.0.0.1/32 {method}\n"
        );
        let write = |name: &str, text: &str| {
            let path = partial.join(name);
            let written = std::fs::write(&path, text).and_then(|()| self.account.own(&path));
            written.map_err(|source| self.io(&path, source))
        };
        write("pg_hba.conf", &access)?;
        write("ringway.conf", "")?;
        let main = partial.join("postgresql.conf");
        let text = std::fs::read_to_string(&main).map_err(|source| self.io(&main, source))?;
        write("postgresql.conf", &format!("{text}\ninclude 'ringway.conf'\n"))?;

        // A stand-alone backend takes one statement per line, and needs no port.
        let password = match &self.config.auth {
            Auth::Trust => String::new(),
            Auth::Scram { password } => format!(" PASSWORD '{}'", password.replace('\'', "''")),
        };
        let statements = format!(
            "ALTER ROLE {SERVICE_ROLE} LOGIN{password};\n\
             CREATE ROLE postgres SUPERUSER CREATEDB CREATEROLE REPLICATION LOGIN{password};\n\
             CREATE ROLE app LOGIN{password};\n\
             CREATE DATABASE {DATABASE} OWNER postgres;\n"
        );
        let mut single = self.command("postgres");
        single
            .args(["--single", "-c", "exit_on_error=on"])
            .args(["-c", "standard_conforming_strings=on"])
            .args(["-c", "password_encryption=scram-sha-256", "-D"])
            .arg(&partial)
            .arg("postgres");
        self.run_setup("postgres --single", single, &statements).await?;
        std::fs::rename(&partial, self.data_dir()).map_err(|source| self.io(&partial, source))
    }

    async fn run_setup(
        &self,
        program: &'static str,
        command: std::process::Command,
        input: &str,
    ) -> Result<(), PostgresError> {
        let run = async {
            let mut child = Command::from(command)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(input.as_bytes()).await {
                    // It ended before it read everything: its status tells why.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => {}
                }
            }
            child.wait_with_output().await
        };
        let output = run.await.map_err(|source| self.io(Path::new(program), source))?;
        if output.status.success() {
            return Ok(());
        }
        Err(PostgresError::Setup {
            program,
            dir: self.config.dir.clone(),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// The port asked for, or the recorded one, or a free one; recorded for the next time.
    fn settle_port(&self) -> Result<u16, PostgresError> {
        let path = self.config.dir.join("port");
        let recorded = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        let settle = || -> io::Result<u16> {
            let port = match self.config.port.or(recorded) {
                Some(port) => port,
                None => ports::free_port()?,
            };
            if recorded != Some(port) {
                std::fs::write(&path, format!("{port}\n"))?;
            }
            Ok(port)
        };
        settle().map_err(|source| self.io(&path, source))
    }

    /// Written at each start, so that the file follows the configuration; ALTER SYSTEM still counts.
    fn write_settings(&self) -> Result<(), PostgresError> {
        let data = self.data_dir();
        let socket_bytes = data.as_os_str().len() + "/.s.PGSQL.65535".len();
        let socket_dir =
            if socket_bytes <= SOCKET_PATH_BYTES_MAX { format!("\"{}\"", data.display()) } else { String::new() };
        let port = self.port.to_string();
        let shared_buffers = format!("{}MB", self.config.shared_buffers_mb);
        let fixed = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket_dir),
            ("max_connections", "300"),
            ("max_prepared_transactions", "200"),
            ("shared_buffers", &shared_buffers),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("wal_level", "replica"),
            ("max_wal_senders", "10"),
            ("hot_standby", "on"),
            ("password_encryption", "scram-sha-256"),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
        ];
        let further = self.config.settings.iter();
        let text: String = fixed
            .into_iter()
            .chain(further.map(|(name, value)| (name.as_str(), value.as_str())))
            .map(|(name, value)| {
                let value = value.replace('\\', "\\\\").replace('\'', "''");
                format!("{name} = '{value}'\n")
            })
            .collect();
        let path = data.join("ringway.conf");
        std::fs::write(&path, text).and_then(|()| self.account.own(&path)).map_err(|source| self.io(&path, source))
    }

    fn spawn(&self, log: std::fs::File) -> Result<Child, PostgresError> {
        let mut command = self.command("postgres");
        // A process group of its own: a terminal's Ctrl-C goes to the owner alone.
        command.arg("-D").arg(self.data_dir()).process_group(0);
        let spawned = log
            .try_clone()
            .and_then(|stdout| Command::from(command).stdin(Stdio::null()).stdout(stdout).stderr(log).spawn());
        spawned.map_err(|source| self.io(&self.binaries.program("postgres"), source))
    }

    fn command(&self, program: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.binaries.program(program));
        self.account.apply(&mut command);
        command.current_dir(&self.config.dir);
        command
    }

    async fn until_ready(&mut self, deadline: Instant, log_start: u64) -> Result<(), PostgresError> {
        let dir = self.config.dir.clone();
        while Instant::now() < deadline {
            let ended = self.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let log = logfile::tail(&self.log_path(), log_start);
                return Err(PostgresError::EndedEarly { dir, status, log });
            }
            match self.client_config().connect(NoTls).await {
                Ok(_) => return Ok(()),
                Err(source) => match source.code() {
                    None => {}
                    Some(&SqlState::CANNOT_CONNECT_NOW) => {}
                    Some(_) => return Err(PostgresError::Sql { dir, source }),
                },
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Err(PostgresError::NotReady { dir })
    }

    fn io(&self, path: &Path, source: io::Error) -> PostgresError {
        PostgresError::Io { path: path.to_owned(), source }
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        let Some(process) = self.pid().and_then(ProcessId::of) else {
            return;
        };
        let started = Instant::now();
        // Nobody is left to report to; whoever drops the directory next must not race with the server.
        let _ = process.signal(Signal::QUIT);
        while self.is_running() && started.elapsed() < DROP_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
#[path = "postgres_tests.rs"]
mod tests;
