//! What goes wrong between the gateway and a shard.

use bytes::Bytes;

use crate::wire::scram::ScramError;

/// An ErrorResponse of a server, as it came.
#[derive(Clone, Debug)]
pub struct ServerError {
    /// The message's body: fields, each a type byte and a string, and a closing zero.
    pub body: Bytes,
    /// It is the answer to a Bind, or to a Parse before it: nothing has been executed.
    pub at_bind: bool,
}

impl ServerError {
    pub fn new(body: Bytes) -> ServerError {
        ServerError { body, at_bind: false }
    }

    /// A field by its type byte: `C` the SQLSTATE, `M` the message, `D` the detail, `H` the hint.
    pub fn field(&self, kind: u8) -> Option<&str> {
        field(&self.body, kind)
    }

    pub fn code(&self) -> &str {
        self.field(b'C').unwrap_or("XX000")
    }

    /// With a position (field `P`) that counts from so many characters earlier.
    #[must_use]
    pub fn moved(self, characters: usize) -> ServerError {
        let Some(position) = self.field(b'P').and_then(|text| text.parse::<usize>().ok()) else { return self };
        let position = position.saturating_add(characters).to_string();
        ServerError { body: with_field(&self.body, b'P', Some(&position)), ..self }
    }
}

/// An ErrorResponse's or NoticeResponse's body with another value of a field that it has; None: without the field.
pub fn with_field(body: &[u8], kind: u8, value: Option<&str>) -> Bytes {
    let mut changed = Vec::with_capacity(body.len() + value.map_or(0, str::len));
    // What the last zero closes is empty.
    for field in body.split(|byte| *byte == 0).take_while(|field| !field.is_empty()) {
        match (field.first() == Some(&kind), value) {
            (true, None) => continue,
            (true, Some(value)) => {
                changed.push(kind);
                changed.extend_from_slice(value.as_bytes());
            }
            (false, _) => changed.extend_from_slice(field),
        }
        changed.push(0);
    }
    changed.push(0);
    Bytes::from(changed)
}

/// A field of an ErrorResponse's or NoticeResponse's body.
pub fn field(body: &[u8], kind: u8) -> Option<&str> {
    let mut rest = body;
    loop {
        let (&tag, after) = rest.split_first()?;
        if tag == 0 {
            return None;
        }
        let end = after.iter().position(|byte| *byte == 0)?;
        if tag == kind {
            return std::str::from_utf8(&after[..end]).ok();
        }
        rest = &after[end + 1..];
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.field(b'M').unwrap_or("error without a message"), self.code())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("the connection to shard \"{shard}\" could not be made: {message}")]
    Connect { shard: String, message: String },
    #[error("the shard refused: {0}")]
    Server(ServerError),
    #[error("the connection to the shard was lost: {0}")]
    Io(#[from] std::io::Error),
    #[error("the shard sent something that is not the PostgreSQL protocol")]
    Protocol,
    #[error("no connection to shard \"{shard}\" became free within {waited_ms} ms (checkout_timeout_ms)")]
    Timeout { shard: String, waited_ms: u64 },
    #[error("{waiting} statements wait for a connection to shard \"{shard}\" already (pool_waiters_max)")]
    TooManyWaiters { shard: String, waiting: usize },
    #[error("database \"{database}\" has been paused for {waited_ms} ms (pause_timeout_ms)")]
    Paused { database: String, waited_ms: u64 },
    #[error("the gateway has no password for role \"{role}\" on shard \"{shard}\"")]
    NoPassword { shard: String, role: String },
    #[error("the gateway cannot prove itself as role \"{role}\" to shard \"{shard}\": {reason}")]
    NotProven { shard: String, role: String, reason: ScramError },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_moved_and_nothing_else() {
        let moved = |body: &'static [u8]| ServerError::new(Bytes::from_static(body)).moved(95).body;
        assert_eq!(moved(b"SERROR\0C42P01\0Mm\0P7\0p3\0\0"), b"SERROR\0C42P01\0Mm\0P102\0p3\0\0".as_slice());
        assert_eq!(moved(b"SERROR\0Mm\0\0"), b"SERROR\0Mm\0\0".as_slice());
    }
}
