//! PostgreSQL's errors in one line.

use std::error::Error as _;

#[derive(Debug, thiserror::Error)]
pub enum PgConnectError {
    #[error("the connection string cannot be read: {0}")]
    Dsn(String),
    #[error("there is no shard {0}")]
    NoSuchShard(String),
    #[error("shard {shard} cannot be reached by TLS: {reason}")]
    Tls { shard: String, reason: String },
    #[error("shard {shard} did not answer within {seconds} s")]
    Timeout { shard: String, seconds: u64 },
    #[error("shard {shard} cannot be reached: {}", message_of(source))]
    Refused { shard: String, source: tokio_postgres::Error },
}

/// The server's message with its detail and hint, or what the connection says.
pub fn message_of(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{} ({})", db.message(), db.code().code());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

/// Whether the server said this SQLSTATE.
pub fn is_code(error: &tokio_postgres::Error, code: &str) -> bool {
    error.code().is_some_and(|found| found.code() == code)
}
