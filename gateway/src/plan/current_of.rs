//! UPDATE and DELETE ... WHERE CURRENT OF cursor: for the shard that the cursor is on, as they are.
//!
//! What the statement does to any row one shard must be able to do alone: it is planned as if it had no condition, and refused where that
//! is. Which shard it is, the session knows (`exec::cursors`).

use super::refuse::refused;
use super::types::{AtCursor, MultiShard, Plan, Query, Targets};
use crate::sql::parse::{current_of, Text};
use crate::wire::PgError;

/// The cursor that a statement names so.
pub fn cursor(text: &Text<'_>) -> Option<String> {
    text.lexemes.get(current_of(text)? + 2)?.identifier(text.sql)
}

pub fn plan(query: Query, cursor: String) -> Result<Plan, PgError> {
    match (&query.targets, &query.multi) {
        (Targets::Home, _) | (_, MultiShard::Write) => Ok(Plan::AtCursor(AtCursor { query: Box::new(query), cursor })),
        (_, MultiShard::Refused(error)) => Err(PgError::clone(error)),
        (Targets::EveryMember, _) => Err(refused(
            "WHERE CURRENT OF is not supported for reference tables",
            "The cursor reads one shard's copy, and every copy is to be written.",
            "Write the row by its key.",
        )),
        _ => Err(over_shards()),
    }
}

/// The cursor's rows are of several shards, or the statement's are.
pub fn over_shards() -> PgError {
    refused(
        "WHERE CURRENT OF is not supported over several shards",
        "The gateway has read the cursor's rows ahead.",
        "Write the row by its key, or declare the cursor over rows of one shard.",
    )
}
