//! DECLARE name CURSOR FOR query.
//!
//! For example `DECLARE c CURSOR FOR SELECT * FROM orders ORDER BY id`: where one shard answers the query, the statement goes there
//! as it is; where several do, each gets a cursor of its own over its part, and the gateway merges what they are read for.

use std::sync::Arc;

use super::context::PlanContext;
use super::refuse::{cursor_over_shards, refused};
use super::types::{Access, Cursor, Home, MultiShard, Plan, Query, Targets};
use crate::sql::parse::Text;
use crate::wire::PgError;

/// What stands between the name and the query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub name: String,
    pub scroll: Option<bool>,
    pub binary: bool,
    pub hold: bool,
    /// Byte of the statement where the query begins.
    pub query_start: usize,
}

/// `None`: not as PostgreSQL writes it.
pub fn options(text: &Text<'_>) -> Option<Options> {
    let mut options = Options { name: text.lexemes.get(1)?.identifier(text.sql)?, ..Options::default() };
    let (mut insensitive, mut asensitive) = (false, false);
    let mut at = 2;
    while !text.word(at, "cursor") {
        let scroll = match () {
            () if text.word(at, "no") && text.word(at + 1, "scroll") => Some(false),
            () if text.word(at, "scroll") => Some(true),
            () if text.word(at, "binary") => {
                options.binary = true;
                None
            }
            () if text.word(at, "insensitive") => {
                insensitive = true;
                None
            }
            () if text.word(at, "asensitive") => {
                asensitive = true;
                None
            }
            () => return None,
        };
        // Both of a pair are an error, which PostgreSQL tells.
        if insensitive && asensitive || scroll.is_some() && options.scroll.is_some_and(|other| Some(other) != scroll) {
            return None;
        }
        at += if scroll == Some(false) { 2 } else { 1 };
        options.scroll = scroll.or(options.scroll);
    }
    at += 1;
    if text.word(at, "with") || text.word(at, "without") {
        options.hold = text.word(at, "with");
        if !text.word(at + 1, "hold") {
            return None;
        }
        at += 2;
    }
    if !text.word(at, "for") {
        return None;
    }
    options.query_start = text.lexemes.get(at + 1)?.start;
    Some(options)
}

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let sql = text.sql;
    let home = || Plan::Home(Home { sql: Arc::from(sql), pins: true });
    let Some(options) = options(text) else { return Ok(home()) };
    let query = match super::plan(&sql[options.query_start..], context)? {
        Plan::Query(query) if matches!(query.targets, Targets::Home | Targets::AnyOne) => return Ok(home()),
        Plan::Query(query) => query,
        _ => return Err(cursor_over_shards()),
    };
    if !query.returns_rows || query.access == Access::Write {
        return Err(cursor_over_shards());
    }
    if query.access == Access::LockingRead {
        return Err(refused(
            "a cursor that locks rows of sharded tables is not supported",
            "PostgreSQL locks each row when it is fetched; the gateway reads ahead.",
            "Lock the rows in a SELECT of its own, or read with a cursor without FOR UPDATE.",
        ));
    }
    let scrolls_by_default = scrolls_by_default(&query)?;
    Ok(Plan::Cursor(Cursor { sql: Arc::from(sql), options, query: Box::new(query), scrolls_by_default }))
}

/// Whether PostgreSQL would read the cursor backwards though it was not asked for SCROLL: that is for its plan to say
/// (`ExecSupportsBackwardScan`), which for a sort and for a scan of one table says yes, and for joins, aggregates, DISTINCT and
/// windows no.
fn scrolls_by_default(query: &Query) -> Result<bool, PgError> {
    let text = Text::new(&query.sql).map_err(|error| super::refuse::lexical_error(&error, &query.sql))?;
    let has = |word: &str| (0..text.lexemes.len()).any(|index| text.word(index, word));
    Ok(match &query.multi {
        MultiShard::MergeSort(sort) => sort.distinct.is_none() && !has("group") && !has("over"),
        MultiShard::Aggregate(aggregate) => {
            let combine = &aggregate.combine_sql;
            combine.contains("ORDER BY") && has("group") && !has("distinct")
        }
        MultiShard::Concatenate(_) => {
            query.tables.len() <= 1 && !["distinct", "over", "group", "join"].iter().any(|word| has(word))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(sql: &str) -> Option<Options> {
        options(&Text::new(sql).unwrap())
    }

    #[test]
    fn options_are_read() {
        let plain = parsed("DECLARE a CURSOR FOR SELECT 1").unwrap();
        assert_eq!(plain, Options { name: "a".into(), query_start: 21, ..Options::default() });
        let all =
            parsed("declare \"A b\" BINARY INSENSITIVE no SCROLL CURSOR /* x */ WITH\nHOLD FOR SELECT 1").unwrap();
        assert_eq!((all.name.as_str(), all.scroll, all.binary, all.hold), ("A b", Some(false), true, true));
        assert_eq!(parsed("DECLARE a SCROLL CURSOR WITHOUT HOLD FOR SELECT 1").unwrap().scroll, Some(true));
        for wrong in [
            "DECLARE a SCROLL NO SCROLL CURSOR FOR SELECT 1",
            "DECLARE a INSENSITIVE ASENSITIVE CURSOR FOR SELECT 1",
            "DECLARE a CURSOR SELECT 1",
            "DECLARE a CURSOR FOR",
            "DECLARE",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
