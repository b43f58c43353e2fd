//! Configuration: command line, `RINGWAY_*` variables and a TOML file, checked once into [`Config`], then trusted.
//!
//! The command line and the environment win over the file. Nothing here opens a file but the ones that are named. RELOAD and
//! SIGHUP load it again from the same options: [`Config::live`] is what may change then.

pub mod pools;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Parser, ValueEnum};
use ringway_tls::ServerFiles;
use serde::{Deserialize, Serialize};

use crate::net::TcpOptions;
use pools::{PoolMode, PoolOptions, PoolRules};

/// A password that is no longer valid is none; a role that may not log in is told so once it has proved itself, as by PostgreSQL.
const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END, \
                          rolcanlogin FROM pg_catalog.pg_authid WHERE rolname = $1";

/// The gateway of a Ringway cluster: what applications connect to.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "ringway-gateway", version)]
pub struct Options {
    /// Where the topology comes from: the control plane's address, http://HOST:PORT (file:PATH for a fixed cluster).
    #[arg(long, env = "RINGWAY_TOPOLOGY", value_name = "URL")]
    pub topology: Option<String>,
    /// Address that PostgreSQL clients connect to.
    #[arg(long, env = "RINGWAY_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// Directory of the gateway's own snapshot of the topology: with it, the gateway starts while the control plane is down.
    #[arg(long, env = "RINGWAY_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// How clients prove who they are.
    #[arg(long, env = "RINGWAY_AUTH", value_enum)]
    pub auth: Option<AuthMode>,
    /// File of users, one `name verifier-or-password` per line; implies --auth scram if --auth is not given.
    #[arg(long, env = "RINGWAY_USERS", value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// Query that the home shard's service role runs for the verifier of a role ($1) that no users file names: role, verifier, and
    /// optionally whether it may log in. Without a value: from pg_authid. On by itself with --auth scram and no --users.
    #[arg(long, env = "RINGWAY_AUTH_QUERY", value_name = "SQL", num_args = 0..=1, default_missing_value = "")]
    pub auth_query: Option<String>,
    /// Certificate that clients see, PEM, followed by what leads to its authority. Read again on SIGHUP.
    #[arg(long, env = "RINGWAY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM, readable by its owner alone.
    #[arg(long, env = "RINGWAY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of clients' certificates, PEM: every client must show a certificate of one of them, and so use TLS.
    #[arg(long, env = "RINGWAY_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Refuse clients that do not use TLS.
    #[arg(long, env = "RINGWAY_TLS_REQUIRED", action = clap::ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub tls_required: bool,
    /// How long a client keeps a connection to a shard; [users.NAME] and [databases.NAME] tables of the file may differ.
    #[arg(long, env = "RINGWAY_POOL_MODE", value_enum)]
    pub pool_mode: Option<PoolMode>,
    /// Roles that may use all of the database "ringway"; with --auth trust on loopback, "postgres" if none is named.
    #[arg(long, env = "RINGWAY_ADMIN_USERS", value_name = "ROLE,...", value_delimiter = ',')]
    pub admin_users: Option<Vec<String>>,
    /// Roles that may use SHOW in the database "ringway".
    #[arg(long, env = "RINGWAY_STATS_USERS", value_name = "ROLE,...", value_delimiter = ',')]
    pub stats_users: Option<Vec<String>>,
    /// Let another gateway listen on the same address (SO_REUSEPORT), so that it can take over before this one ends.
    #[arg(long, env = "RINGWAY_REUSE_PORT")]
    pub reuse_port: bool,
    /// Threads that serve clients: by default, half of the processors.
    #[arg(long, env = "RINGWAY_THREADS", value_name = "N")]
    pub threads: Option<u16>,
    /// TOML file with these options (underscores for dashes) and tables [limits], [users.NAME] and [databases.NAME].
    #[arg(long, env = "RINGWAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Secret that the control plane asks gateways for.
    #[arg(long, env = "RINGWAY_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub secret: Option<String>,
    /// Print the names of the points where a fault can be injected, and exit.
    #[arg(long)]
    pub list_fault_points: bool,
    #[arg(long, env = "RINGWAY_FAULT_FILE", hide = true, value_name = "FILE")]
    pub fault_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Every client is who it says it is. For development on loopback.
    Trust,
    /// SCRAM-SHA-256 against the shards' own verifiers (--auth-query) or a users file; under TLS with channel binding.
    Scram,
    /// A certificate whose common name is the user's name (--tls-client-ca).
    Cert,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    topology: Option<String>,
    listen: Option<String>,
    data: Option<PathBuf>,
    auth: Option<AuthMode>,
    /// The users file, or a table of pool settings by role.
    users: Option<toml::Value>,
    /// The users file, when `users` is a table.
    users_file: Option<PathBuf>,
    auth_query: Option<String>,
    #[serde(default)]
    databases: BTreeMap<String, PoolOptions>,
    pool_mode: Option<PoolMode>,
    admin_users: Option<Vec<String>>,
    stats_users: Option<Vec<String>>,
    #[serde(default)]
    reuse_port: bool,
    threads: Option<u16>,
    secret: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_ca: Option<PathBuf>,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    limits: Limits,
}

impl File {
    /// The users file, and pool settings by role.
    fn users(&mut self) -> Result<(Option<PathBuf>, BTreeMap<String, PoolOptions>), toml::de::Error> {
        match self.users.take() {
            None => Ok((self.users_file.take(), BTreeMap::new())),
            Some(toml::Value::String(path)) => Ok((Some(PathBuf::from(path)), BTreeMap::new())),
            Some(table) => Ok((self.users_file.take(), table.try_into()?)),
        }
    }
}

/// Every bound of the gateway, with its unit last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest message of a client, as PostgreSQL's own.
    pub frame_bytes_max: usize,
    /// Longest message before a client is authenticated.
    pub startup_bytes_max: usize,
    pub startup_timeout_ms: u64,
    /// A client that has begun a message sends some more of it within this, or is cut off; 0: never.
    pub message_timeout_ms: u64,
    /// What a client is at work for at most, from a message's arrival to the end of its answer; then the session ends. In COPY it counts
    /// from the last data that came. Against silent networks and clients that do not read: `statement_timeout` is for statements.
    /// 0: no bound.
    pub query_timeout_ms: u64,
    /// A shard that has not answered the rollback of a session that ends loses the connection, which rolls back too.
    pub rollback_timeout_ms: u64,
    /// Silence after which the other end of a connection, client or shard, is asked whether it is still there; 0: never.
    pub tcp_keepalive_idle_ms: u64,
    pub tcp_keepalive_interval_ms: u64,
    /// Questions without an answer after which it is gone.
    pub tcp_keepalive_probes_max: u32,
    /// How long what was sent may stay unacknowledged; it also ends connections whose other end does not read. 0: the system's bound.
    pub tcp_user_timeout_ms: u64,
    pub clients_max: usize,
    /// Messages of one pipeline that are looked at together; a longer one is taken in pieces.
    pub pipeline_bytes_max: usize,
    pub checkout_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// Per shard, role and database.
    pub pool_size_max: usize,
    /// Further connections for transactions that already hold one on another shard, so that they cannot wait for each other.
    pub pool_reserve_max: usize,
    pub pool_waiters_max: usize,
    /// Connections that a pool in use keeps open.
    pub pool_size_min: usize,
    pub pool_idle_ms: u64,
    /// Age at which a connection to a shard is closed when it is at rest; 0: never.
    pub server_lifetime_ms: u64,
    /// Point reads of several clients that may be on their way over one connection; 1: each has a connection of its own.
    pub shared_reads_max: usize,
    /// How long PAUSE waits for connections in use, and statements for RESUME.
    pub pause_timeout_ms: u64,
    /// Prepared statements of one client.
    pub client_statements_max: usize,
    /// Prepared statements that are kept on one connection to a shard.
    pub server_statements_max: usize,
    pub statement_cache_entries_max: usize,
    pub statement_cache_text_bytes_max: usize,
    pub hold_timeout_ms: u64,
    pub held_statements_max: usize,
    /// How long a statement that met a fence waits for a newer epoch, over all its attempts.
    pub fence_timeout_ms: u64,
    /// What a transaction on moving rows waits for the shard that they move to, at most. After one late answer none waits until the
    /// shard answers again: rows are left to the sweeper meanwhile.
    pub mirror_timeout_ms: u64,
    /// Captured rows of one transaction that are mirrored by the gateway; a larger one is left to the sweeper.
    pub mirror_rows_max: usize,
    pub merge_rows_buffered_max: usize,
    pub gather_bytes_max: usize,
    /// Rows that one statement brings into temporary tables on one shard.
    pub workbench_bytes_max: usize,
    /// Rows that cursors of one session keep: those of SCROLL that have been read, and all of WITH HOLD.
    pub cursor_bytes_max: usize,
    /// Rows of INSERT ... SELECT that travel to the owners of their keys.
    pub insert_select_bytes_max: usize,
    /// One row of COPY FROM that is split by key.
    pub copy_row_bytes_max: usize,
    /// Finished distributed transactions whose decision is still to be forgotten.
    pub decided_backlog_max: usize,
    pub drain_timeout_ms: u64,
    /// Notifications that wait for one client that listens.
    pub listen_queue_bytes_max: usize,
    /// How long LISTEN, and the connections that listen, wait for a shard.
    pub listen_timeout_ms: u64,
    /// LISTENs of clients that one shard has not answered yet; then others are refused.
    pub listen_waiting_max: usize,
    /// Channels that one client listens to.
    pub client_channels_max: usize,
    /// How long what auth_query gave counts, unless the catalog has been read again since; 0: it is asked at every login.
    pub auth_query_cache_ms: u64,
    /// How soon a role is asked for again that did not exist, or whose client failed to prove itself.
    pub auth_query_retry_ms: u64,
    /// Roles that are remembered, the ones that do not exist among them.
    pub auth_query_entries_max: usize,
    /// Queries at a time; further logins wait their turn.
    pub auth_queries_max: usize,
    /// What a login waits for its turn and the shard's answer.
    pub auth_query_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes_max: (1 << 30) - 1,
            startup_bytes_max: 10_000,
            startup_timeout_ms: 60_000,
            message_timeout_ms: 60_000,
            query_timeout_ms: 0,
            rollback_timeout_ms: 5_000,
            tcp_keepalive_idle_ms: 30_000,
            tcp_keepalive_interval_ms: 10_000,
            tcp_keepalive_probes_max: 3,
            tcp_user_timeout_ms: 0,
            clients_max: 10_000,
            pipeline_bytes_max: 4 << 20,
            checkout_timeout_ms: 5_000,
            connect_timeout_ms: 5_000,
            pool_size_max: 50,
            pool_reserve_max: 25,
            pool_waiters_max: 1_000,
            pool_size_min: 0,
            pool_idle_ms: 300_000,
            server_lifetime_ms: 3_600_000,
            shared_reads_max: 8,
            pause_timeout_ms: 120_000,
            client_statements_max: 10_000,
            server_statements_max: 500,
            statement_cache_entries_max: 5_000,
            statement_cache_text_bytes_max: 64 << 10,
            hold_timeout_ms: 10_000,
            held_statements_max: 10_000,
            fence_timeout_ms: 10_000,
            mirror_timeout_ms: 250,
            mirror_rows_max: 50_000,
            merge_rows_buffered_max: 1_000_000,
            gather_bytes_max: 256 << 20,
            workbench_bytes_max: 4 << 30,
            cursor_bytes_max: 64 << 20,
            insert_select_bytes_max: 64 << 20,
            copy_row_bytes_max: 256 << 20,
            decided_backlog_max: 10_000,
            drain_timeout_ms: 10_000,
            listen_queue_bytes_max: 16 << 20,
            listen_timeout_ms: 5_000,
            listen_waiting_max: 16_384,
            client_channels_max: 1_000,
            auth_query_cache_ms: 10_000,
            auth_query_retry_ms: 1_000,
            auth_query_entries_max: 10_000,
            auth_queries_max: 4,
            auth_query_timeout_ms: 5_000,
        }
    }
}

fn some(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

impl Limits {
    pub fn hold_timeout(&self) -> Duration {
        Duration::from_millis(self.hold_timeout_ms)
    }
    pub fn fence_timeout(&self) -> Duration {
        Duration::from_millis(self.fence_timeout_ms)
    }
    pub fn mirror_timeout(&self) -> Duration {
        Duration::from_millis(self.mirror_timeout_ms)
    }
    pub fn message_timeout(&self) -> Option<Duration> {
        some(self.message_timeout_ms)
    }
    pub fn query_timeout(&self) -> Option<Duration> {
        some(self.query_timeout_ms)
    }
    pub fn rollback_timeout(&self) -> Duration {
        Duration::from_millis(self.rollback_timeout_ms)
    }
    pub fn tcp(&self) -> TcpOptions {
        TcpOptions {
            keepalive_idle: some(self.tcp_keepalive_idle_ms),
            keepalive_interval: Duration::from_millis(self.tcp_keepalive_interval_ms.max(1_000)),
            keepalive_probes_max: self.tcp_keepalive_probes_max.max(1),
            user_timeout: some(self.tcp_user_timeout_ms),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologySource {
    /// The control plane's gRPC address.
    ControlPlane(String),
    /// A topology as JSON; read again when the file changes.
    File(PathBuf),
}

/// Checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub topology: TopologySource,
    pub listen: SocketAddr,
    pub data: Option<PathBuf>,
    pub auth: AuthMode,
    pub users: Option<PathBuf>,
    /// What gives the verifiers of roles that are not in the users file.
    pub auth_query: Option<String>,
    pub secret: Option<String>,
    /// None: clients are answered that there is no TLS.
    pub tls: Option<ServerFiles>,
    pub tls_required: bool,
    pub fault_file: Option<PathBuf>,
    pub reuse_port: bool,
    /// Those that serve clients.
    pub threads: u16,
    pub limits: Limits,
    pub live: Live,
    /// What it was made from.
    pub options: Options,
}

/// What may change while the gateway runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub pools: PoolRules,
    /// They may do everything in the administrative database.
    pub admin_users: BTreeSet<String>,
    /// They may look at everything there.
    pub stats_users: BTreeSet<String>,
    pub clients_max: usize,
    pub drain_timeout_ms: u64,
}

/// Limits that [`Live`] carries: they hold at once after RELOAD.
const LIVE_LIMITS: &[&str] = &[
    "clients_max",
    "checkout_timeout_ms",
    "connect_timeout_ms",
    "pool_size_max",
    "pool_size_min",
    "pool_reserve_max",
    "pool_waiters_max",
    "pool_idle_ms",
    "server_lifetime_ms",
    "shared_reads_max",
    "pause_timeout_ms",
    "drain_timeout_ms",
];

/// A setting as SHOW CONFIG tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    pub default: String,
    /// Holds at once after RELOAD.
    pub changeable: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a valid configuration: {source}")]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("--topology is missing: give the control plane's address, as in --topology http://127.0.0.1:7432")]
    NoTopology,
    #[error("\"{0}\" is no address of a topology: give http://HOST:PORT")]
    BadTopology(String),
    #[error("\"{0}\" is no address to listen on: give IP:PORT")]
    BadListen(String),
    #[error("--auth-query needs --auth scram")]
    AuthQuery,
    #[error("--tls-cert and --tls-key belong together: give both")]
    HalfTls,
    #[error("{0} needs --tls-cert and --tls-key")]
    NoTls(&'static str),
    #[error("--auth cert needs --tls-client-ca FILE")]
    NoClientAuthorities,
    #[error("threads must be between 1 and 1024")]
    Threads,
    #[error("limit {0} must not be 0")]
    ZeroLimit(&'static str),
    #[error("{place}: pool_size_max ({size_max}) must not be 0, nor less than pool_size_min ({size_min})")]
    PoolSize { place: String, size_min: usize, size_max: usize },
}

/// The kernel's work on the sockets, and PostgreSQL if it is near, need the others.
fn threads_by_default() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(processors / 2).unwrap_or(u16::MAX).max(1)
}

impl Config {
    pub fn load(options: Options) -> Result<Config, ConfigError> {
        let origin = options.clone();
        let mut file = match &options.config {
            None => File::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.clone(), source })?
            }
        };
        let (users_file, pools_of_users) = file
            .users()
            .map_err(|source| ConfigError::Parse { path: options.config.clone().unwrap_or_default(), source })?;
        let topology = options.topology.or(file.topology).ok_or(ConfigError::NoTopology)?;
        let topology = match topology.strip_prefix("file:") {
            Some(path) => TopologySource::File(PathBuf::from(path)),
            None if topology.starts_with("http://") || topology.starts_with("https://") => {
                TopologySource::ControlPlane(topology)
            }
            None => return Err(ConfigError::BadTopology(topology)),
        };
        let threads = options.threads.or(file.threads).unwrap_or_else(threads_by_default);
        if !(1..=1024).contains(&threads) {
            return Err(ConfigError::Threads);
        }
        let listen = options.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:6432".to_owned());
        let listen: SocketAddr = listen.parse().map_err(|_| ConfigError::BadListen(listen))?;
        let users = options.users.or(users_file);
        let auth = options.auth.or(file.auth);
        let auth_query = options.auth_query.or(file.auth_query);
        let proven = users.is_some() || auth_query.is_some();
        let auth = auth.unwrap_or(if proven { AuthMode::Scram } else { AuthMode::Trust });
        let auth_query = match auth_query {
            Some(_) if auth != AuthMode::Scram => return Err(ConfigError::AuthQuery),
            None if auth != AuthMode::Scram || users.is_some() => None,
            Some(query) if !query.trim().is_empty() => Some(query),
            _ => Some(AUTH_QUERY.to_owned()),
        };
        let client_authorities = options.tls_client_ca.or(file.tls_client_ca);
        let tls_required = options.tls_required || file.tls_required;
        if auth == AuthMode::Cert && client_authorities.is_none() {
            return Err(ConfigError::NoClientAuthorities);
        }
        let tls = match (options.tls_cert.or(file.tls_cert), options.tls_key.or(file.tls_key)) {
            (Some(certificate), Some(key)) => Some(ServerFiles { certificate, key, client_authorities }),
            (None, None) if client_authorities.is_some() => return Err(ConfigError::NoTls("--tls-client-ca")),
            (None, None) if tls_required => return Err(ConfigError::NoTls("--tls-required")),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        let limits = file.limits;
        for (name, value) in [
            ("clients_max", limits.clients_max),
            ("statement_cache_entries_max", limits.statement_cache_entries_max),
            ("server_statements_max", limits.server_statements_max),
            ("client_statements_max", limits.client_statements_max),
            ("frame_bytes_max", limits.frame_bytes_max),
            ("pipeline_bytes_max", limits.pipeline_bytes_max),
            ("auth_query_entries_max", limits.auth_query_entries_max),
            ("auth_queries_max", limits.auth_queries_max),
        ] {
            if value == 0 {
                return Err(ConfigError::ZeroLimit(name));
            }
        }
        let pool_mode = options.pool_mode.or(file.pool_mode).unwrap_or_default();
        let named = |users: Option<Vec<String>>| users.map(|users| users.into_iter().collect::<BTreeSet<String>>());
        // Trust lets everybody in as anybody: beyond this machine nobody administrates by default.
        let nobody = || match auth {
            AuthMode::Trust if listen.ip().is_loopback() => BTreeSet::from(["postgres".to_owned()]),
            _ => BTreeSet::new(),
        };
        let live = Live {
            pools: PoolRules::new(pool_mode, &limits, pools_of_users, file.databases)?,
            admin_users: named(options.admin_users.or(file.admin_users)).unwrap_or_else(nobody),
            stats_users: named(options.stats_users.or(file.stats_users)).unwrap_or_default(),
            clients_max: limits.clients_max,
            drain_timeout_ms: limits.drain_timeout_ms,
        };
        Ok(Config {
            topology,
            listen,
            data: options.data.or(file.data),
            auth,
            users,
            auth_query,
            secret: options.secret.or(file.secret),
            tls,
            tls_required,
            fault_file: options.fault_file,
            reuse_port: options.reuse_port || file.reuse_port,
            threads,
            limits,
            live,
            options: origin,
        })
    }

    /// Every setting but secrets, in the order of their names.
    pub fn entries(&self) -> Vec<Entry> {
        let list = |users: &BTreeSet<String>| users.iter().cloned().collect::<Vec<_>>().join(",");
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let auth = match self.auth {
            AuthMode::Trust => "trust",
            AuthMode::Scram => "scram",
            AuthMode::Cert => "cert",
        };
        let topology = match &self.topology {
            TopologySource::ControlPlane(endpoint) => endpoint.clone(),
            TopologySource::File(path) => format!("file:{}", path.display()),
        };
        let mode = self.live.pools.of("", "").mode.name();
        let entry = |key: &str, value: String, default: &str, changeable| Entry {
            key: key.to_owned(),
            value,
            default: default.to_owned(),
            changeable,
        };
        let tls = |file: fn(&ServerFiles) -> Option<&PathBuf>| path(&self.tls.as_ref().and_then(file).cloned());
        let mut entries = vec![
            entry("admin_users", list(&self.live.admin_users), "", true),
            entry("auth", auth.to_owned(), "trust", false),
            entry("auth_query", self.auth_query.clone().unwrap_or_default(), "", false),
            entry("config", path(&self.options.config), "", false),
            entry("data", path(&self.data), "", false),
            entry("listen", self.listen.to_string(), "127.0.0.1:6432", false),
            entry("pool_mode", mode.to_owned(), "transaction", true),
            entry("reuse_port", self.reuse_port.to_string(), "false", false),
            entry("stats_users", list(&self.live.stats_users), "", true),
            entry("threads", self.threads.to_string(), &threads_by_default().to_string(), false),
            entry("tls_cert", tls(|files| Some(&files.certificate)), "", false),
            entry("tls_client_ca", tls(|files| files.client_authorities.as_ref()), "", false),
            entry("tls_key", tls(|files| Some(&files.key)), "", false),
            entry("tls_required", self.tls_required.to_string(), "false", false),
            entry("topology", topology, "", false),
            entry("users", path(&self.users), "", true),
        ];
        let table = |limits: &Limits| serde_json::to_value(limits).unwrap_or_default();
        let defaults = table(&Limits::default());
        if let serde_json::Value::Object(limits) = table(&self.limits) {
            for (key, value) in limits {
                let default = defaults.get(&key).map(ToString::to_string).unwrap_or_default();
                let changeable = LIVE_LIMITS.contains(&key.as_str());
                entries.push(Entry { value: value.to_string(), default, changeable, key });
            }
        }
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    /// Settings of `newer` that differ and hold only after a restart.
    pub fn needs_restart(&self, newer: &Config) -> Vec<String> {
        let mut keys: Vec<String> = self
            .entries()
            .into_iter()
            .zip(newer.entries())
            .filter(|(old, new)| !old.changeable && old.value != new.value)
            .map(|(old, _)| old.key)
            .collect();
        if self.secret != newer.secret {
            keys.push("secret".to_owned());
        }
        keys
    }
}

#[cfg(test)]
mod tests;
