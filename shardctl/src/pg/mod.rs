//! Sessions of the service role on shards, and how their errors read.
//!
//! Every session starts with `topology::service::STARTUP_OPTIONS`, has a bounded connect, notices a dead peer, and ends
//! with its owner. Statements are the callers' business; so are their bounds.

mod error;
pub mod tls;

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ringway_tls::{client_config, SslMode, TlsParameters};
use ringway_topology::service::STARTUP_OPTIONS;
use tokio_postgres::config;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use error::{is_code, message_of, PgConnectError};

/// Bound on a connection and its authentication.
pub const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A peer that is silent on the network for about half a minute is gone.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVES_RETRIES: u32 = 4;
/// How long a session that is dropped may take to say goodbye.
const GOODBYE_MAX: Duration = Duration::from_millis(200);
/// A server whose client has gone stops what it is doing (PostgreSQL 14).
const MORE_OPTIONS: &str = "-c client_connection_check_interval=2000";

/// A session of the service role. Its connection ends when this is dropped.
#[derive(Debug)]
pub struct ServiceClient {
    client: Client,
    _ended: tokio_util::sync::DropGuard,
}

impl Deref for ServiceClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for ServiceClient {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// What a DSN says, checked.
pub struct Dsn {
    pub config: Config,
    pub tls: TlsParameters,
}

/// The text of a DSN that cannot be read is in no error: it may hold a password.
pub fn parse_dsn(dsn: &str) -> Result<Dsn, PgConnectError> {
    let (rest, tls) = TlsParameters::split(dsn).map_err(|error| PgConnectError::Dsn(error.to_string()))?;
    let mut config = rest.parse::<Config>().map_err(|error| PgConnectError::Dsn(message_of(&error)))?;
    // What is verified is the connector's matter.
    config.ssl_mode(match tls.mode {
        SslMode::Disable => config::SslMode::Disable,
        SslMode::Prefer => config::SslMode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => config::SslMode::Require,
    });
    Ok(Dsn { config, tls })
}

/// Connects as the service role. `label` (a shard's name) is for messages; `tasks` owns the connection's task.
pub async fn connect(dsn: &str, label: &str, tasks: &TaskTracker) -> Result<ServiceClient, PgConnectError> {
    let Dsn { mut config, tls } = parse_dsn(dsn)?;
    let setting_up = tokio::task::spawn_blocking(move || client_config(&tls));
    let unusable = |reason| PgConnectError::Tls { shard: label.to_owned(), reason };
    let tls = setting_up.await.map_err(|error| unusable(error.to_string()))?;
    let tls = tls::Tls(tls.map_err(|error| unusable(error.to_string()))?);
    let options = match config.get_options() {
        Some(own) => format!("{own} {STARTUP_OPTIONS} {MORE_OPTIONS}"),
        None => format!("{STARTUP_OPTIONS} {MORE_OPTIONS}"),
    };
    config
        .options(options)
        .connect_timeout(CONNECT_MAX)
        .keepalives(true)
        .keepalives_idle(KEEPALIVES_IDLE)
        .keepalives_interval(KEEPALIVES_INTERVAL)
        .keepalives_retries(KEEPALIVES_RETRIES);
    if config.get_application_name().is_none() {
        config.application_name("ringway control plane");
    }
    let connecting = tokio::time::timeout(CONNECT_MAX, config.connect(tls));
    let (client, mut connection) = connecting
        .await
        .map_err(|_| PgConnectError::Timeout { shard: label.to_owned(), seconds: CONNECT_MAX.as_secs() })?
        .map_err(|source| PgConnectError::Refused { shard: label.to_owned(), source })?;
    let dropped = CancellationToken::new();
    let ended = dropped.clone().drop_guard();
    tasks.spawn(async move {
        let finished = tokio::select! {
            _ = &mut connection => true,
            () = dropped.cancelled() => false,
        };
        if !finished {
            // Whatever it says, the socket closes now.
            let _ = tokio::time::timeout(GOODBYE_MAX, connection).await;
        }
    });
    Ok(ServiceClient { client, _ended: ended })
}
