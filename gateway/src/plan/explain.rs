//! EXPLAIN: what it is asked for, and of which statement.
//!
//! `EXPLAIN (ROUTE) statement` tells tier, shards, texts and combine step without asking a shard ([`route`]). Other forms go to the
//! statement's shard as they are, if that is one; of several shards each explains the text that it would get, and the
//! answers stand in one report ([`report`]).

pub mod report;
pub mod route;

use std::sync::Arc;

use super::context::PlanContext;
use super::refuse::refused;
use super::session::Cursor;
use super::types::{Explain, Plan, SessionCommand};
use crate::sql::clauses::split_at_commas;
use crate::sql::parse::Text;
use crate::wire::{PgError, SqlState};

/// Options that PostgreSQL takes with ANALYZE only, and that have no meaning for the route.
const OF_EXECUTION: &[&str] = &["analyze", "timing", "wal", "serialize"];
/// Options of PostgreSQL's, up to version 18.
const OF_POSTGRESQL: &[&str] = &[
    "analyze",
    "verbose",
    "costs",
    "settings",
    "generic_plan",
    "buffers",
    "serialize",
    "wal",
    "timing",
    "summary",
    "memory",
    "format",
];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
    /// YAML, XML, and what PostgreSQL does not know.
    Other,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// No shard is asked.
    pub route: bool,
    pub analyze: bool,
    pub format: Format,
    /// Times of parts are shown.
    pub timing: bool,
    /// The time of the whole is shown.
    pub summary: bool,
    /// What stands before the statement that a shard explains, or executes and explains.
    pub prefix: String,
    /// The same, without executing.
    pub estimate: String,
}

/// The options, and the token that the explained statement begins with.
pub fn options(text: &Text<'_>) -> Result<(Options, usize), PgError> {
    let mut cursor = Cursor { text, at: 1 };
    // Name, value, and both as they are written.
    let mut given: Vec<(String, Option<String>, String)> = Vec::new();
    let is_query =
        |at| text.punctuation(at, b'(') || ["select", "with", "values", "table"].iter().any(|word| text.word(at, word));
    if text.punctuation(1, b'(') && !is_query(2) {
        let close = text.closing(1).ok_or_else(|| cursor.unexpected())?;
        for extent in split_at_commas(text, 2, close).ok_or_else(|| cursor.unexpected())? {
            let (first, last) = (*extent.start(), *extent.end());
            let name = text.lexemes[first].text(text.sql).to_ascii_lowercase();
            let value = (last > first).then(|| text.lexemes[last].text(text.sql).to_ascii_lowercase());
            given.push((name, value, text.slice(first, last).to_owned()));
        }
        cursor.at = close + 1;
    } else {
        for word in ["analyze", "verbose"] {
            if cursor.take(word) {
                given.push((word.to_owned(), None, word.to_owned()));
            }
        }
    }
    if cursor.done() {
        return Err(cursor.unexpected());
    }
    let value = |name: &str| {
        let last = given.iter().rev().find(|(given, ..)| given == name);
        last.map(|(_, value, _)| value.as_deref().unwrap_or("on").trim_matches(['\'', '"']).to_owned())
    };
    let on = |name: &str, default: bool| {
        value(name).map_or(default, |value| !matches!(value.as_str(), "false" | "off" | "0"))
    };
    let (route, analyze) = (on("route", false), on("analyze", false));
    let unknown = given.iter().find(|(name, ..)| name != "route" && !OF_POSTGRESQL.contains(&name.as_str()));
    if let (true, Some((name, ..))) = (route, unknown) {
        let message = format!("unrecognized EXPLAIN option \"{name}\"");
        return Err(PgError::new(SqlState::SYNTAX_ERROR, message));
    }
    if given.iter().any(|(name, value, _)| name == "format" && value.is_none()) {
        return Err(PgError::new(SqlState::SYNTAX_ERROR, "format requires a parameter"));
    }
    let format = match value("format").as_deref() {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some("xml" | "yaml") => Format::Other,
        Some(other) => {
            let message = format!("unrecognized value for EXPLAIN option \"format\": \"{other}\"");
            return Err(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message));
        }
    };
    let start = text.lexemes[cursor.at].start;
    let without = |left_out: &[&str]| {
        let kept = given.iter().filter(|(name, ..)| name != "route" && !left_out.contains(&name.as_str()));
        let kept: Vec<&str> = kept.map(|(_, _, written)| written.as_str()).collect();
        if kept.is_empty() {
            "EXPLAIN ".to_owned()
        } else {
            format!("EXPLAIN ({}) ", kept.join(", "))
        }
    };
    let names_route = given.iter().any(|(name, ..)| name == "route");
    let options = Options {
        route,
        analyze,
        format,
        timing: on("timing", true),
        summary: on("summary", analyze),
        prefix: if names_route { without(&[]) } else { text.sql[..start].to_owned() },
        estimate: without(OF_EXECUTION),
    };
    Ok((options, cursor.at))
}

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let (options, at) = options(text)?;
    let written = text.slice(at, text.lexemes.len() - 1);
    let inner_sql = declared(written).unwrap_or(written);
    let inner = super::plan(inner_sql, context)?;
    if let Plan::Session(SessionCommand::Execute { name, arguments }) = &inner {
        let (name, arguments) = (name.clone(), arguments.clone());
        let explain = text.sql[..text.lexemes[at].start].to_owned();
        return Ok(Plan::Session(SessionCommand::ExplainExecute { explain, name, arguments }));
    }
    let explained = matches!(inner, Plan::Query(_) | Plan::Home(_) | Plan::ComputedKeys(_) | Plan::InsertSelect(_));
    if !options.route && !explained {
        return Err(refused(
            "only queries are explained by the shards",
            "The gateway carries this statement out itself, or on every shard.",
            "Use EXPLAIN (ROUTE), which tells where it goes.",
        ));
    }
    let sql = Arc::from(format!("{}{written}", options.prefix));
    Ok(Plan::Explain(Explain { sql, options, inner: Box::new(inner), inner_sql: Arc::from(inner_sql) }))
}

/// The query of a DECLARE, which is explained without its cursor.
fn declared(sql: &str) -> Option<&str> {
    let text = Text::new(sql).ok()?;
    text.word(0, "declare").then(|| super::cursor::options(&text)).flatten().map(|options| &sql[options.query_start..])
}

impl Plan {
    /// What is carried out, or asked for, where EXPLAIN goes to the shards: the explained statement.
    pub fn explained(&self) -> &Plan {
        match self {
            Plan::Explain(explain) if !explain.options.route => &explain.inner,
            plan => plan,
        }
    }

    /// The same of EXPLAIN ANALYZE.
    pub fn executed(&self) -> &Plan {
        match self {
            Plan::Explain(explain) if explain.options.analyze => self.explained(),
            plan => plan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(sql: &str) -> Options {
        options(&Text::new(sql).unwrap()).unwrap().0
    }

    #[test]
    fn options_are_read() {
        let plain = parsed("EXPLAIN SELECT 1");
        assert_eq!((plain.analyze, plain.route, plain.timing, plain.summary), (false, false, true, false));
        assert_eq!((plain.prefix.as_str(), plain.estimate.as_str()), ("EXPLAIN ", "EXPLAIN "));
        let old = parsed("explain  ANALYZE verbose SELECT 1");
        assert!(old.analyze && old.summary);
        assert_eq!((old.prefix.as_str(), old.estimate.as_str()), ("explain  ANALYZE verbose ", "EXPLAIN (verbose) "));
        let new = parsed("EXPLAIN (Analyze, COSTS off, timing 'off', FORMAT json, wal) (SELECT 1)");
        assert_eq!((new.analyze, new.timing, new.format), (true, false, Format::Json));
        assert_eq!(new.estimate, "EXPLAIN (COSTS off, FORMAT json) ");
        assert!(!parsed("EXPLAIN (SELECT 1)").route);
        let route = parsed("EXPLAIN (ROUTE false, ANALYZE true, ANALYZE false) SELECT 1");
        assert_eq!((route.route, route.analyze), (false, false));
        assert_eq!(route.prefix, "EXPLAIN (ANALYZE true, ANALYZE false) ");
        assert_eq!(parsed("EXPLAIN (FORMAT yaml) SELECT 1").format, Format::Other);
        assert!(options(&Text::new("EXPLAIN (ROUTE, NONSENSE) SELECT 1").unwrap()).is_err());
        assert!(options(&Text::new("EXPLAIN ANALYZE").unwrap()).is_err());
        assert_eq!(parsed("EXPLAIN (FORMAT \"json\") SELECT 1").format, Format::Json);
        let code = |sql| options(&Text::new(sql).unwrap()).unwrap_err().code;
        assert_eq!(code("EXPLAIN (FORMAT) SELECT 1"), SqlState::SYNTAX_ERROR);
        assert_eq!(code("EXPLAIN (FORMAT bogus) SELECT 1"), SqlState::INVALID_PARAMETER_VALUE);
    }
}
