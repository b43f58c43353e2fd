//! Tokens: PostgreSQL's own extended hash of a shard key, with seed 0, computed without a server.
//!
//! A gateway, a trigger and a `WHERE` clause must always agree on a row's token, so a key is either read exactly as
//! the server's input function reads it or refused ([`KeyError`]). The token is a persistent format: `golden.rs` pins
//! it with values taken from PostgreSQL.
//!
//! Ported from `src/common/hashfn.c` (lookup3), `src/backend/access/hash/hashfunc.c` (integers, `varlena`),
//! `src/backend/utils/adt/varlena.c` and `varchar.c` (text, `bpchar`), `uuid.c`, `numeric.c`, `date.c`, `timestamp.c`
//! and `datetime.c` (input functions and hashes).
//!
//! What this is not: no SQL is parsed here (a string literal arrives without its quotes), no expression is evaluated,
//! and **no type modifier is applied**. A value that an assignment would change on its way into the column
//! (`varchar(3)`, `numeric(10,2)`, `timestamp(0)`) must be changed by the caller before it is hashed. It assumes
//! little-endian servers, a UTF-8 database and, for text, a deterministic collation.

mod bytea;
mod datetime;
mod hash;
mod key_type;
mod key_value;
mod numeric;
mod uuid;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use key_type::{KeyFamily, KeyType};
pub use key_value::{KeyError, KeyValue, BAD_ENCODING, TOO_SHORT};
pub use numeric::Decimal;

/// A place in the token space: the signed 64-bit hash of a shard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub i64);

impl Token {
    pub const MIN: Token = Token(i64::MIN);
    pub const MAX: Token = Token(i64::MAX);
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The token of a `smallint`, `integer` or `bigint`: the same value has the same token in each.
pub fn token_of_int(value: i64) -> Token {
    Token(hash::hash_int8(value) as i64)
}

/// The token of a `text` or `varchar` with these UTF-8 bytes, and of a `bytea` with these bytes. Not for `bpchar`.
pub fn token_of_text(bytes: &[u8]) -> Token {
    Token(hash::hash_bytes(bytes) as i64)
}

/// The token of a `uuid`.
pub fn token_of_uuid(uuid: &[u8; 16]) -> Token {
    Token(hash::hash_bytes(uuid) as i64)
}

/// The SQL expression for the token of a column (or any expression of a key type).
pub fn token_sql(column_sql: &str) -> String {
    format!("ringway.token({column_sql})")
}
