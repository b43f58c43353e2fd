//! Statements that OIDs go into or come out of. Clients know those of the home shard: what reads catalogs runs there, and over rows of
//! sharded tables names stand for them.
//!
//! Example: `SELECT 'mood'::regtype::oid` is for the home shard; `SELECT tableoid FROM orders WHERE id = 1` is refused, and
//! `SELECT tableoid::regclass` is not.

use super::analysis::Analysis;
use super::refuse::refused;
use super::rows::Calls;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::PgError;

/// Whether a statement without sharded tables must see the home shard's catalogs.
pub fn needs_home(analysis: &Analysis<'_>, calls: &Calls) -> bool {
    // What the application's functions do with catalogs is not known.
    analysis.system
        || calls.calls_code
        || analysis
            .text
            .lexemes
            .iter()
            .any(|lexeme| lexeme.identifier(analysis.text.sql).is_some_and(|name| is_of_catalogs(&name)))
}

/// Types and functions that look into catalogs, or take what is found there.
fn is_of_catalogs(name: &str) -> bool {
    ["pg_", "reg", "to_reg", "has_", "acl"].iter().any(|start| name.starts_with(start))
        || ["oid", "_description", "_privilege"].iter().any(|end| name.ends_with(end))
        || matches!(name, "format_type" | "makeaclitem" | "row_security_active")
}

/// Over rows of a sharded table the numbers of the shard that has them would be seen.
pub fn check(analysis: &Analysis<'_>) -> Result<(), PgError> {
    if analysis.occurrences.is_empty() || analysis.context.one_shard || !analysis.context.is_spread() {
        return Ok(());
    }
    if analysis.system {
        return Err(refused(
            "the statement reads system catalogs together with a sharded table",
            "OIDs and other contents of catalogs differ between shards; clients see those of the home shard.",
            "Use two statements; for a row's table, write tableoid::regclass.",
        ));
    }
    let text = analysis.text;
    let shown = (0..text.lexemes.len())
        .any(|index| takes_oid(text, index) || is_number_of_table(text, index) || is_cast_to_oid(text, index));
    if !shown {
        return Ok(());
    }
    Err(refused(
        "the statement uses OIDs over rows of a sharded table",
        "OIDs differ between shards; clients see those of the home shard.",
        "Write tableoid::regclass, leave casts to oid out, and ask catalogs in a statement of their own.",
    ))
}

/// A call of a function that is asked by OID.
fn takes_oid(text: &Text<'_>, index: usize) -> bool {
    let name = text.lexemes.get(index).and_then(|lexeme| lexeme.identifier(text.sql)).unwrap_or_default();
    let asks = name == "format_type"
        || name.starts_with("pg_get_")
        || ["_description", "_is_visible"].iter().any(|end| name.ends_with(end));
    asks && text.punctuation(index + 1, b'(')
}

/// `tableoid`, unless as a name, or compared with what the shard finds by a name.
pub fn is_number_of_table(text: &Text<'_>, index: usize) -> bool {
    is_system_column(text, index, "tableoid") && {
        let next = text.lexemes.get(index + 1);
        let named = next.is_some_and(|next| next.text(text.sql) == "::") && text.word(index + 2, "regclass");
        let compared = next.is_some_and(|next| next.is_operator(text.sql, "="))
            && text
                .lexemes
                .get(index + 2)
                .is_some_and(|other| other.kind == Kind::String || other.text(text.sql) == "0");
        let grouped = is_grouping(text, index);
        !named && !compared && !grouped
    }
}

fn is_system_column(text: &Text<'_>, index: usize, column: &str) -> bool {
    let Some(lexeme) = text.lexemes.get(index) else { return false };
    let label = index > 0 && text.word(index - 1, "as") || text.punctuation(index + 1, b'(');
    lexeme.identifier(text.sql).is_some_and(|name| name == column) && !label
}

/// `GROUP BY tableoid`, `ORDER BY t.tableoid`: not shown.
fn is_grouping(text: &Text<'_>, index: usize) -> bool {
    let mut at = index;
    if at >= 2 && text.punctuation(at - 1, b'.') {
        at -= 2;
    }
    at >= 2 && text.word(at - 1, "by") && text.word(at - 2, "group")
}

/// `::oid`, `::pg_catalog.oid`, `CAST(... AS oid)`.
fn is_cast_to_oid(text: &Text<'_>, index: usize) -> bool {
    if !text.word(index, "oid") {
        return false;
    }
    let mut at = index;
    if at >= 2 && text.punctuation(at - 1, b'.') && text.word(at - 2, "pg_catalog") {
        at -= 2;
    }
    let before = at.checked_sub(1).and_then(|before| text.lexemes.get(before));
    let cast = before.is_some_and(|before| before.text(text.sql) == "::");
    cast || at > 0 && text.word(at - 1, "as") && text.punctuation(index + 1, b')')
}
