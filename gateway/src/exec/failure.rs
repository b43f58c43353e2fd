//! How a statement ends when it does not succeed; the one place where errors of pools and shards become client errors.

use bytes::{BufMut, BytesMut};
use ringway_topology::service::sqlstate;

use crate::pool::error::{PoolError, ServerError};
use crate::wire::{backend, ErrorFields, PgError, Severity, SqlState};

#[derive(Debug)]
pub enum Failure {
    /// An error of the gateway's own.
    Error(Box<PgError>),
    /// A shard's error, sent on as it came (our own codes are translated).
    Server(ServerError),
    /// The client is gone, or cannot be understood any more: the session ends. The error, if any, is sent first.
    Gone(Option<Box<PgError>>),
}

impl From<PgError> for Failure {
    fn from(error: PgError) -> Self {
        Failure::Error(Box::new(error))
    }
}

impl From<Box<PgError>> for Failure {
    fn from(error: Box<PgError>) -> Self {
        Failure::Error(error)
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Failure::Server(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::from(PoolError::Io(error))
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        let message = error.to_string();
        let made = match error {
            PoolError::Server(error) => return told(error),
            PoolError::Connect { .. } => PgError::new(SqlState::CONNECTION_FAILURE, message)
                .hint("Check that the shard runs (\"shardctl shard list\"), then try again."),
            PoolError::Io(_) => PgError::new(SqlState::CONNECTION_FAILURE, message)
                .hint("The shard may have been restarted or promoted; try the transaction again."),
            PoolError::Protocol => PgError::new(SqlState::PROTOCOL_VIOLATION, message),
            PoolError::Timeout { .. } => PgError::new(SqlState::TOO_MANY_CONNECTIONS, message)
                .hint("Shorten transactions, or raise pool_size_max and the shard's max_connections."),
            PoolError::TooManyWaiters { .. } => PgError::new(SqlState::TOO_MANY_CONNECTIONS, message)
                .hint("The cluster is overloaded: use fewer clients, or raise pool_size_max and pool_waiters_max."),
            PoolError::Paused { .. } => PgError::new(SqlState::CANNOT_CONNECT_NOW, message)
                .hint("An administrator has paused it, and ends that with RESUME in the database \"ringway\"."),
            PoolError::NoPassword { .. } => PgError::new(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
                .hint("Start the gateway with --auth scram, so that it can prove itself with the client's own key."),
            PoolError::NotProven { .. } => PgError::new(SqlState::INVALID_PASSWORD, message).hint(
                "Every shard, and a users file, need the same verifier of the role: run ALTER ROLE ... PASSWORD through the \
                 gateway. Sessions that began before it log in again.",
            ),
        };
        Failure::Error(Box::new(made))
    }
}

/// A shard that refuses a login says FATAL; the client's own session goes on.
fn told(error: ServerError) -> Failure {
    if !matches!(error.field(b'V'), Some("FATAL" | "PANIC")) {
        return Failure::Server(error);
    }
    match ErrorFields::parse(&error.body) {
        Ok(fields) => Failure::Error(Box::new(PgError::from(&fields).severity(Severity::Error))),
        Err(_) => Failure::Server(error),
    }
}

impl Failure {
    /// SQLSTATE of the error.
    pub fn code(&self) -> &str {
        match self {
            Failure::Error(error) => error.code.as_str(),
            Failure::Server(error) => error.code(),
            Failure::Gone(_) => "08006",
        }
    }

    /// Of a statement that begins so many characters after the beginning of what the client has sent.
    #[must_use]
    pub fn moved(self, characters: usize) -> Failure {
        match self {
            Failure::Error(mut error) => {
                let before = u32::try_from(characters).unwrap_or(u32::MAX);
                error.position = error.position.map(|position| position.saturating_add(before));
                Failure::Error(error)
            }
            Failure::Server(error) => Failure::Server(error.moved(characters)),
            gone => gone,
        }
    }

    /// Appends the ErrorResponse.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Failure::Error(error) => backend::error_response(out, error),
            Failure::Server(error) => match translated(error) {
                Some(error) => backend::error_response(out, &error),
                None => {
                    out.put_u8(b'E');
                    out.put_u32(4 + error.body.len() as u32);
                    out.put_slice(&error.body);
                }
            },
            Failure::Gone(Some(error)) => backend::error_response(out, error),
            Failure::Gone(None) => {}
        }
    }
}

/// What a client is told instead of one of our own codes.
pub fn translated(error: &ServerError) -> Option<PgError> {
    let text = |kind| error.field(kind).unwrap_or_default().to_owned();
    let made = match error.code() {
        sqlstate::CLOSED_ARCS => PgError::new(
            SqlState::SERIALIZATION_FAILURE,
            "could not serialize access: rows of this transaction have moved to another shard",
        )
        .detail(text(b'M'))
        .hint("Run the transaction again: it will meet the rows on their new shard."),
        sqlstate::FENCED => PgError::new(SqlState::SERIALIZATION_FAILURE, text(b'M'))
            .hint("Run the transaction again in a moment; \"shardctl moves\" shows what is running."),
        sqlstate::STALE_EPOCH => PgError::new(SqlState::CANNOT_CONNECT_NOW, text(b'M')).hint(
            "This gateway is cut off from the control plane and cannot serve this shard any more; \
             use another gateway, or try again when it is connected.",
        ),
        sqlstate::MOVING => PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text(b'M')).hint(text(b'H')),
        sqlstate::CAPTURED | sqlstate::FOREIGN_ROW | sqlstate::NO_SUCH_MOVE => {
            PgError::internal(text(b'M')).detail(text(b'D'))
        }
        _ => return None,
    };
    Some(made)
}

/// Whether a newer epoch may let the statement succeed.
pub fn is_fence(error: &ServerError) -> bool {
    matches!(error.code(), sqlstate::CLOSED_ARCS | sqlstate::FENCED)
}
