//! Refusals: the one way to say that a statement cannot be made exact.

use crate::sql::lexer::LexError;
use crate::wire::sqlstate::SqlState;
use crate::wire::PgError;

/// `0A000` with message, detail and hint.
pub fn refused(message: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> PgError {
    PgError::new(SqlState::FEATURE_NOT_SUPPORTED, message).detail(detail).hint(hint)
}

/// What PostgreSQL's scanner says (`scanner_yyerror`, `src/backend/parser/scan.l`).
pub fn lexical_error(error: &LexError, sql: &str) -> PgError {
    let rest = sql.get(error.offset..).unwrap_or_default();
    syntax_error(format!("{} at or near \"{rest}\"", error.message), error.offset, sql)
}

pub fn syntax_error(message: impl Into<String>, byte: usize, sql: &str) -> PgError {
    at(PgError::new(SqlState::SYNTAX_ERROR, message), byte, sql)
}

/// The statement nests deeper than anything that recurses into it can bear.
pub fn too_deep(byte: usize, sql: &str) -> PgError {
    let error = PgError::new(SqlState::STATEMENT_TOO_COMPLEX, "the statement nests too deeply")
        .hint("Give long lists as arrays: key = ANY ($1).");
    at(error, byte, sql)
}

/// With the position of this byte.
pub fn at(error: PgError, byte: usize, sql: &str) -> PgError {
    let position = sql.get(..byte).map_or(0, |before| before.chars().count() + 1);
    match u32::try_from(position) {
        Ok(position) if position > 0 => error.position(position),
        _ => error,
    }
}

/// What a statement over several shards is refused with.
pub fn not_over_shards(what: impl Into<String>, hint: impl Into<String>) -> PgError {
    refused("this statement cannot be run over several shards exactly", what, hint)
}

/// The hint that helps most often.
pub const GIVE_THE_KEY: &str = "Hold every sharded table to its shard key (key = value), so that one shard can answer.";
pub const JOIN_ON_KEYS: &str = "Join sharded tables on their shard keys, or hold each of them to the same key value.";

pub fn cursor_over_shards() -> PgError {
    refused(
        "a cursor over this query is not supported",
        "Cursors over rows of several shards are for queries that only read.",
        "Run the statement by itself, or hold its tables to keys of one shard.",
    )
}
