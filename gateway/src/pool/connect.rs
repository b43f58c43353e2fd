//! Opens a connection to a shard: startup packet, authentication, the gateway's advisory lock.
//!
//! Not here: which connection is used when.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use postgres_protocol::authentication::md5_hash;
use ringway_topology::ids::GatewayId;
use ringway_topology::service::{gateway_lock_object, GATEWAY_LOCK_CLASS, STARTUP_OPTIONS};
use tokio_postgres::config::ChannelBinding;

use super::connection::ServerConnection;
use super::credentials::Credentials;
use super::dial::dial;
use super::endpoint::Endpoint;
use super::error::{PoolError, ServerError};
use crate::net::TcpOptions;
use crate::wire::frontend;
use crate::wire::scram::{ClientBinding, ClientFinal, ClientFirst, Credential, MECHANISM, MECHANISM_PLUS};

/// What a connection is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Statements of clients, in their role.
    Application,
    /// The mirror, the catalog: the service role with its fixed settings.
    Service,
}

pub struct ConnectRequest<'a> {
    pub endpoint: &'a Endpoint,
    pub role: &'a str,
    pub purpose: Purpose,
    pub gateway: GatewayId,
    pub credentials: &'a Credentials,
    pub timeout: Duration,
    pub tcp: &'a TcpOptions,
    pub server_statements_max: usize,
}

/// Not cancel-safe: a dropped attempt closes its socket.
pub async fn connect(request: ConnectRequest<'_>) -> Result<ServerConnection, PoolError> {
    let shard = request.endpoint.shard.clone();
    match tokio::time::timeout(request.timeout, open(&request)).await {
        Ok(result) => result,
        Err(_) => Err(PoolError::Connect {
            shard,
            message: format!("no answer within {} ms (connect_timeout_ms)", request.timeout.as_millis()),
        }),
    }
}

async fn open(request: &ConnectRequest<'_>) -> Result<ServerConnection, PoolError> {
    let endpoint = request.endpoint;
    let stream = dial(endpoint, request.tcp).await.map_err(|error| PoolError::Connect {
        shard: endpoint.shard.clone(),
        message: format!("{}:{}: {error}", endpoint.host, endpoint.port),
    })?;
    let mut connection = ServerConnection::new(stream, request.server_statements_max);
    queue_startup(&mut connection, request);
    authenticate(&mut connection, request).await?;
    loop {
        let message = connection.message().await?;
        match message.tag {
            b'K' if message.body().len() >= 8 => {
                let body = message.raw.slice(5..);
                connection.process_id = i32::from_be_bytes([body[0], body[1], body[2], body[3]]);
                connection.secret_key = body.slice(4..);
            }
            b'S' => {
                let mut parts = message.body().split(|byte| *byte == 0);
                if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    connection.parameters.push((text(name), text(value)));
                }
            }
            b'E' => return Err(PoolError::Server(ServerError::new(message.raw.slice(5..)))),
            b'Z' => break,
            _ => {}
        }
    }
    // Found in pg_locks by whoever has to end this gateway's sessions.
    let lock = format!(
        "SELECT pg_catalog.pg_advisory_lock_shared({GATEWAY_LOCK_CLASS}, {})",
        gateway_lock_object(request.gateway)
    );
    connection.query(&lock).await?;
    connection.trim();
    Ok(connection)
}

fn queue_startup(connection: &mut ServerConnection, request: &ConnectRequest<'_>) {
    let mut body = Vec::with_capacity(256);
    body.put_u32(3 << 16);
    let mut put = |name: &str, value: &str| {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend_from_slice(value.as_bytes());
        body.push(0);
    };
    put("user", request.role);
    put("database", &request.endpoint.database);
    match request.purpose {
        Purpose::Application => {
            // What the planner takes them to be, whatever the server's configuration or ALTER ROLE ... SET says.
            put("search_path", "\"$user\", public");
            put("role", "none");
        }
        Purpose::Service => {
            put("application_name", "ringway-gateway-service");
            put("client_encoding", "UTF8");
            put("options", STARTUP_OPTIONS);
        }
    }
    body.push(0);
    connection.output().put_u32(body.len() as u32 + 4);
    connection.output().put_slice(&body);
    connection.outstanding += 1;
}

async fn authenticate(connection: &mut ServerConnection, request: &ConnectRequest<'_>) -> Result<(), PoolError> {
    let no_password = || PoolError::NoPassword { shard: request.endpoint.shard.clone(), role: request.role.to_owned() };
    let service = request.role == request.endpoint.service_role;
    let (password, credential) = match &request.endpoint.password {
        Some(password) if service => {
            (Some(password.clone()), Some(Credential::Password(String::from_utf8_lossy(password).into_owned())))
        }
        _ => (request.credentials.password().map(<[u8]>::to_vec), request.credentials.credential()),
    };
    let not_proven =
        |reason| PoolError::NotProven { shard: request.endpoint.shard.clone(), role: request.role.to_owned(), reason };
    let mut first: Option<ClientFirst> = None;
    let mut last: Option<ClientFinal> = None;
    // `channel_binding=require`: nothing that a server in between could pass on proves anything.
    let mut unbound = request.endpoint.channel_binding == ChannelBinding::Require;
    let not_bound = || PoolError::Connect {
        shard: request.endpoint.shard.clone(),
        message: "channel_binding=require, and the server did not authenticate with channel binding".to_owned(),
    };
    loop {
        let message = connection.message().await?;
        match message.tag {
            b'E' => return Err(PoolError::Server(ServerError::new(message.raw.slice(5..)))),
            b'R' => {}
            // Protocol version negotiation and the like.
            _ => continue,
        }
        let body: Bytes = message.raw.slice(5..);
        let code = body.get(..4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).ok_or(PoolError::Protocol)?;
        let data = &body[4..];
        match code {
            0 | 3 | 5 if unbound => return Err(not_bound()),
            // An exchange that the server began is not over before it has proved itself.
            0 if first.is_some() || last.is_some() => return Err(PoolError::Protocol),
            0 => return Ok(()),
            3 => {
                let password = password.clone().ok_or_else(no_password)?;
                queue_password(connection, &password);
            }
            5 => {
                let password = password.clone().ok_or_else(no_password)?;
                let salt: [u8; 4] = data.try_into().map_err(|_| PoolError::Protocol)?;
                let hash = md5_hash(request.role.as_bytes(), &password, salt);
                queue_password(connection, hash.as_bytes());
            }
            10 => {
                let credential = credential.clone().ok_or_else(no_password)?;
                let (mechanism, binding) = choose(data, request.endpoint.channel_binding, connection.end_point());
                if unbound && mechanism != MECHANISM_PLUS {
                    return Err(not_bound());
                }
                let (client, message) = ClientFirst::bound(credential, binding);
                first = Some(client);
                frontend::sasl_initial_response(connection.output(), mechanism, message.as_bytes());
            }
            11 => {
                let client = first.take().ok_or(PoolError::Protocol)?;
                let (client, message) = client.respond(data).map_err(not_proven)?;
                last = Some(client);
                frontend::sasl_response(connection.output(), message.as_bytes());
            }
            12 => {
                let client = last.take().ok_or(PoolError::Protocol)?;
                client.finish(data).map_err(not_proven)?;
                // Had it not known the verifier, or had it another connection at its other end, it would have failed.
                unbound = false;
            }
            other => {
                return Err(PoolError::Connect {
                    shard: request.endpoint.shard.clone(),
                    message: format!("it asks for authentication method {other}, which the gateway does not offer"),
                })
            }
        }
    }
}

/// The mechanism, out of those that the server offers, and what binds it to a connection with this end point.
fn choose(offered: &[u8], wanted: ChannelBinding, end_point: Option<Vec<u8>>) -> (&'static str, ClientBinding) {
    let offers_plus = offered.split(|byte| *byte == 0).any(|name| name == MECHANISM_PLUS.as_bytes());
    match end_point {
        None => (MECHANISM, ClientBinding::None),
        Some(_) if wanted == ChannelBinding::Disable => (MECHANISM, ClientBinding::None),
        Some(end_point) if offers_plus => (MECHANISM_PLUS, ClientBinding::EndPoint(end_point)),
        Some(_) => (MECHANISM, ClientBinding::NotOffered),
    }
}

fn queue_password(connection: &mut ServerConnection, password: &[u8]) {
    let output = connection.output();
    output.put_u8(b'p');
    output.put_u32(5 + password.len() as u32);
    output.put_slice(password);
    output.put_u8(0);
}
