//! From the first byte of a connection to ReadyForQuery.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::net::TcpStream;

use super::auth::{authenticate, encode_fatal};
use super::opening::{open, Opened};
use super::{Room, Server};
use crate::exec::cancel::CancelSlot;
use crate::exec::client::Client;
use crate::exec::clients::ClientEntry;
use crate::exec::console::{may_look, not_allowed};
use crate::exec::executor::{Executor, Identity, Timeouts};
use crate::exec::failure::Failure;
use crate::exec::gateway::{RecentPlans, PARAMETERS_MAX};
use crate::exec::reports::Reports;
use crate::exec::search_path::Names;
use crate::exec::transaction::Transaction;
use crate::net::Stream;
use crate::plan::session::check_setting;
use crate::plan::set_config::boolean;
use crate::pool::endpoint::Endpoint;
use crate::pool::settings::{parse_options, Settings};
use crate::session::Session;
use crate::wire::startup::StartupMessage;
use crate::wire::{backend, PgError, Severity, SqlState, TxStatus};

/// Database of administrators: commands of the gateway's own, no shard needed.
pub const ADMIN_DATABASE: &str = "ringway";

#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("the connection was lost: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Refused(PgError),
}

/// None: a cancel request, or the client went away.
pub async fn login(server: &Arc<Server>, stream: TcpStream, room: Room) -> Result<Option<(Session, u32)>, LoginError> {
    let address = stream.peer_addr().ok();
    let Some(Opened { mut stream, input, startup, tls }) = open(server, stream).await? else { return Ok(None) };
    if room != Room::Everybody && (room == Room::Nobody || startup.database() != ADMIN_DATABASE) {
        let error = PgError::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
            .detail("The gateway serves clients_max clients.")
            .hint("Close idle clients, or raise clients_max.");
        return refuse(&mut stream, error).await;
    }
    if server.gateway.config.tls_required && tls.is_none() {
        let message = "the gateway accepts encrypted connections only";
        let error = PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
            .hint("Connect with sslmode=require or stronger.");
        return refuse(&mut stream, error).await;
    }
    let limits = &server.gateway.config.limits;
    let mut client = Client::new(stream, input, limits.startup_bytes_max);
    let end_point = tls.as_ref().and_then(|tls| tls.end_point.as_deref());
    match admit(server, &mut client, &startup, end_point).await {
        Ok((identity, settings, parameters)) => {
            client.set_bounds(limits.frame_bytes_max, limits.message_timeout());
            let cancel = Arc::new(CancelSlot::default());
            let (number, secret) = server.cancels.add(Arc::clone(&cancel));
            let gateway = Arc::clone(&server.gateway);
            let mut entry = ClientEntry::new(number, &identity.user, &identity.database, Arc::clone(&cancel));
            entry.application_name = application_name(&startup);
            entry.address = address;
            let entry = Arc::new(entry);
            gateway.add_client(Arc::clone(&entry));
            let console = identity.database == ADMIN_DATABASE;
            let mode = gateway.pools.settings_of(&identity.user, &identity.database).mode;
            for (name, value) in &parameters {
                backend::parameter_status(client.out(), name, value);
            }
            backend::backend_key_data(client.out(), number, &secret);
            backend::ready_for_query(client.out(), TxStatus::Idle);
            let mut executor = Executor {
                slot: gateway.inflight.slot(),
                gateway,
                client,
                identity,
                startup: settings.clone(),
                settings,
                names: Names::default(),
                transaction: Transaction::default(),
                pinned: BTreeMap::new(),
                pins: Vec::new(),
                has_temporary: false,
                held_cursors: BTreeMap::new(),
                reports: Reports::new(&parameters),
                cursors_made: 0,
                only_shard: None,
                statement_began: std::time::SystemTime::now(),
                last_shard: None,
                cancel,
                recent: RecentPlans::default(),
                expects: std::collections::VecDeque::new(),
                pools: Vec::new(),
                entry,
                mode,
                timeouts: Timeouts::default(),
                listening: None,
                repeated: false,
                synced: false,
                behind: None,
                notifies: false,
                exact_text: None,
                trace: None,
            };
            executor.client.set_entry(Arc::clone(&executor.entry));
            executor.settings_changed();
            let mut session = Session::new(executor);
            session.console = console;
            Ok(Some((session, number)))
        }
        Err(failure) => {
            let error = fatal(failure);
            if let Some(error) = &error {
                backend::error_response(client.out(), error);
                let _gone_anyway = client.flush().await;
                client.close();
            }
            error.map_or(Ok(None), |error| Err(LoginError::Refused(error)))
        }
    }
}

pub(super) async fn refuse<T>(stream: &mut Stream, error: PgError) -> Result<Option<T>, LoginError> {
    stream.send_all(&encode_fatal(&error)).await?;
    stream.close();
    Err(LoginError::Refused(error))
}

/// Every error before ReadyForQuery ends the connection.
fn fatal(failure: Failure) -> Option<PgError> {
    match failure {
        Failure::Gone(error) => error.map(|error| *error),
        Failure::Error(error) => Some(error.severity(Severity::Fatal)),
        Failure::Server(error) => {
            let fields = crate::wire::ErrorFields::parse(&error.body).ok()?;
            Some(PgError::from(&fields).severity(Severity::Fatal))
        }
    }
}

type Admitted = (Identity, Settings, Vec<(String, String)>);

async fn admit(
    server: &Server,
    client: &mut Client,
    startup: &StartupMessage,
    end_point: Option<&[u8]>,
) -> Result<Admitted, Failure> {
    check_replication(startup)?;
    if let Some(negotiation) = startup.negotiation() {
        backend::negotiate_protocol_version(client.out(), negotiation.minor, &negotiation.unsupported_options);
    }
    let user = startup.user().to_owned();
    let database = startup.database().to_owned();
    let credentials = authenticate(server, client, &user, end_point).await?;
    let view = server.gateway.view.current();
    let home = view.as_ref().and_then(|view| view.topology.home_shard().and_then(|id| view.topology.shard(id)));
    let identity = Identity { user: user.clone(), database: database.clone(), credentials };
    for shard in view.iter().flat_map(|view| view.topology.shards.values()) {
        let endpoint = Endpoint::parse(&shard.name, &shard.dsn)?;
        if endpoint.service_role == user {
            return Err(PgError::fatal(
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                format!("role \"{user}\" is the service role of shard \"{}\"", shard.name),
            )
            .detail("Writes in its name would pass the guards of moving rows.")
            .hint("Log in as another role.")
            .into());
        }
    }
    let mut settings = settings(startup)?;
    if database == ADMIN_DATABASE {
        if !may_look(&server.gateway, &user) {
            return Err(not_allowed(&user, "use the administrative database").into());
        }
        return Ok((identity, settings, admin_parameters()));
    }
    let Some(home) = home else {
        return Err(PgError::fatal(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet")
            .hint("Add one: \"shardctl shard add NAME DSN\".")
            .into());
    };
    let endpoint = Endpoint::parse(&home.name, &home.dsn)?;
    if endpoint.database != database {
        return Err(PgError::fatal(SqlState::INVALID_CATALOG_NAME, format!("database \"{database}\" does not exist"))
            .hint(format!("This cluster serves the database \"{}\".", endpoint.database))
            .into());
    }
    let key = (user.clone(), settings.hash());
    let known = server.gateway.parameters.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let pool = server.gateway.pools.application(home, &user, &identity.credentials)?;
    let shards = view.iter().flat_map(|view| view.topology.shards.values());
    server.gateway.pools.set_credentials(&user, shards, &identity.credentials);
    if let Some(parameters) = known {
        whole_date_style(&mut settings, &parameters);
        return Ok((identity, settings, parameters));
    }
    // The first of its kind: a shard says whether the settings are valid and what the session looks like.
    let mut connection = pool.checkout(crate::pool::Claim::First).await?;
    let mut parameters = connection.parameters.clone();
    let statements = match &connection.settings {
        Some(from) => settings.statements_from(from),
        None => settings.statements_from_unknown(),
    };
    connection.settings = None;
    if !statements.is_empty() {
        connection.query(&statements).await?;
    }
    for (name, value) in &mut parameters {
        if let Some(Some(now)) = connection
            .query(&format!("SHOW \"{name}\""))
            .await?
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
        {
            *value = now;
        }
    }
    connection.settings = Some(settings.clone());
    let mut cache = server.gateway.parameters.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= PARAMETERS_MAX {
        cache.clear();
    }
    cache.insert(key, parameters.clone());
    drop(cache);
    whole_date_style(&mut settings, &parameters);
    Ok((identity, settings, parameters))
}

/// A session of the replication protocol is one server's.
fn check_replication(startup: &StartupMessage) -> Result<(), PgError> {
    let Some(value) = startup.get("replication") else { return Ok(()) };
    match boolean(value) {
        Some(false) => Ok(()),
        None if value != "database" => {
            let message = format!("invalid value for parameter \"replication\": \"{value}\"");
            Err(PgError::fatal(SqlState::INVALID_PARAMETER_VALUE, message)
                .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
        }
        _ => Err(PgError::fatal(SqlState::FEATURE_NOT_SUPPORTED, "the gateway has no replication sessions")
            .detail("What is replicated is one server's: its log and its slots.")
            .hint("Connect to the shard itself.")),
    }
}

/// A style without an order, or an order without a style, is relative to the server's default.
fn whole_date_style(settings: &mut Settings, parameters: &[(String, String)]) {
    let whole = parameters.iter().find(|(name, _)| name == "DateStyle");
    if let Some((_, value)) = whole.filter(|_| settings.get("datestyle").is_some()) {
        settings.set_value("datestyle", value);
    }
}

fn application_name(startup: &StartupMessage) -> Box<str> {
    let named = startup.parameters().find(|(name, _)| *name == "application_name");
    named.map(|(_, value)| value).unwrap_or_default().into()
}

fn settings(startup: &StartupMessage) -> Result<Settings, PgError> {
    let mut settings = Settings::default();
    let mut set = |name: &str, value: &str| {
        check_setting(&name.to_ascii_lowercase(), Some(value))?;
        settings.set_value(name, value);
        Ok::<(), PgError>(())
    };
    for (name, value) in startup.parameters() {
        match name {
            "user" | "database" | "replication" => {}
            "options" => {
                for (name, value) in parse_options(value) {
                    set(&name, &value)?;
                }
            }
            name if name.starts_with("_pq_.") => {}
            name => set(name, value)?,
        }
    }
    Ok(settings)
}

fn admin_parameters() -> Vec<(String, String)> {
    [
        ("server_version", concat!("16.0 (Ringway ", env!("CARGO_PKG_VERSION"), ")")),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
