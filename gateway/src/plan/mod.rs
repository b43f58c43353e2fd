//! The planner: a pure function of statement, catalog and topology. No I/O, no clock.
//!
//! [`plan`] decides what a statement is and which tier takes it, cheapest first; [`route::route`] finds the shards of one
//! execution; [`filter::filtered`] makes a shard's text while rows move. What no tier accepts is refused.
//!
//! | tier | module |
//! |---|---|
//! | session, administration | [`session`], [`set_config`], [`listen`], [`admin`] |
//! | single shard | [`rows`], [`keys`], [`insert`], [`computed`], [`write`] |
//! | rows that travel | [`insert_select`] |
//! | push down, concatenate | [`concatenate`], [`colocate`] |
//! | push down, merge | [`merge_sort`] |
//! | partial aggregate | [`aggregate`] |
//! | gather | [`gather`] |
//! | schema, COPY, EXPLAIN, cursors | [`ddl`], [`copy`], [`explain`], [`cursor`], [`current_of`] |
//!
//! [`exact`] has the last word on statements over rows, [`reach`] on code that servers run by themselves; [`notation`] finds
//! calls that are written like columns.

pub mod admin;
pub mod aggregate;
pub mod analysis;
pub mod block;
pub mod clock;
pub mod colocate;
pub mod computed;
pub mod concatenate;
pub mod console;
pub mod context;
pub mod copy;
pub mod current_of;
pub mod cursor;
pub mod ddl;
pub mod exact;
pub mod explain;
pub mod figure_name;
pub mod filter;
pub mod gather;
pub mod insert;
pub mod insert_select;
pub mod keys;
pub mod listen;
pub mod lists;
pub mod merge_sort;
pub mod names;
mod notation;
pub mod numeric_type;
pub mod oid_columns;
mod oids;
mod point_read;
pub mod reach;
pub mod refuse;
pub mod route;
pub mod rows;
pub mod session;
pub mod set_config;
pub mod types;
mod unseen;
mod whole_rows;
pub mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use context::PlanContext;
pub use route::{route, Parameter, Parameters, Route};
pub use types::Plan;

use crate::sql::depth;
use crate::sql::parse::Text;
use crate::wire::{PgError, SqlState};

/// Plans one statement (without its semicolon).
pub fn plan(sql: &str, context: &PlanContext<'_>) -> Result<Plan, PgError> {
    let text = Text::new(sql).map_err(|error| refuse::lexical_error(&error, sql))?;
    if let Some(lexeme) = depth::too_deep(sql, &text.lexemes) {
        return Err(refuse::too_deep(lexeme.start, sql));
    }
    if let Some(plan) = session::plan(&text) {
        return plan;
    }
    let word = text.lexemes[0].text(sql).to_ascii_lowercase();
    let administration = if word == "select" { admin::plan(context, &text) } else { None };
    if let Some(plan) = administration.or_else(|| set_config::plan(&text)).or_else(|| listen::channels(&text)) {
        return plan;
    }
    match statement(context, &text, &word) {
        Err(error) if context.one_shard && error.code == SqlState::FEATURE_NOT_SUPPORTED && word != "copy" => {
            Ok(Plan::Home(types::Home { sql: Arc::from(sql), pins: false }))
        }
        planned => planned,
    }
}

fn statement(context: &PlanContext<'_>, text: &Text<'_>, word: &str) -> Result<Plan, PgError> {
    let sql = text.sql;
    lists::check(text)?;
    match word {
        "select" | "with" | "values" | "insert" | "update" | "delete" | "merge" | "table" | "(" => {
            rows::plan(context, text)
        }
        "copy" => copy::plan(context, text),
        "explain" => explain::plan(context, text),
        "listen" | "unlisten" => listen::plan(text, word == "listen"),
        "declare" => cursor::plan(context, text),
        "do" => reach::do_block(context, text),
        "call" => reach::call(context, text),
        "notify" | "load" | "checkpoint" | "fetch" | "move" | "close" => {
            Ok(Plan::Home(types::Home { sql: Arc::from(sql), pins: matches!(word, "fetch" | "move" | "close") }))
        }
        _ => ddl::plan(context, text),
    }
}
