//! Statements that OIDs go into or come out of. Clients know those of the home shard: what reads catalogs runs there, and over rows of
//! sharded tables names stand for them.
//!
//! Example: `SELECT 'mood'::regtype::oid` is for the home shard; `SELECT tableoid FROM orders WHERE id = 1` is refused, and
//! `SELECT tableoid::regclass` is not.

use super::analysis::Analysis;
use super::oid_columns::is_number;
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
    let mut depth = 0usize;
    let shown = (0..text.lexemes.len()).any(|index| {
        match text.lexemes[index].kind {
            Kind::Punctuation(b'(' | b'[') => depth += 1,
            Kind::Punctuation(b')' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        takes_oid(text, index)
            || is_number_of_table(text, index)
            || is_cast_to_oid(text, index)
            || stands_for_oid(text, index, depth)
    });
    if !shown {
        return Ok(());
    }
    Err(refused(
        "the statement uses OIDs over rows of a sharded table",
        "OIDs differ between shards; clients see those of the home shard.",
        "Show tableoid::regclass and pg_typeof(...) as columns of their own, leave casts to oid out, and ask catalogs in a statement of their own.",
    ))
}

/// A call of a function that is asked by OID.
fn takes_oid(text: &Text<'_>, index: usize) -> bool {
    let name = text.lexemes.get(index).and_then(|lexeme| lexeme.identifier(text.sql)).unwrap_or_default();
    let asks = name == "format_type"
        || name.starts_with("pg_get_")
        || ["_description", "_is_visible"].iter().any(|end| name.ends_with(end));
    // By the numbers inside the value.
    let hashes = ["hashoid", "hashenum", "hash_array", "hash_record", "hash_range", "hash_multirange"];
    let sends = name.ends_with("send") || hashes.iter().any(|hash| name.starts_with(hash));
    (asks || sends) && text.punctuation(index + 1, b'(')
}

/// A type whose values are OIDs, or a function that gives one, anywhere but where only its name is seen: as a column of its own, as what
/// `tableoid::regclass` is compared with, or as a sequence's name.
fn stands_for_oid(text: &Text<'_>, index: usize, depth: usize) -> bool {
    const TYPES: [&str; 11] = [
        "regclass",
        "regtype",
        "regproc",
        "regprocedure",
        "regoper",
        "regoperator",
        "regrole",
        "regnamespace",
        "regconfig",
        "regdictionary",
        "regcollation",
    ];
    let Some(name) = text.lexemes.get(index).and_then(|lexeme| lexeme.identifier(text.sql)) else { return false };
    let cast = index > 0 && text.lexemes[index - 1].text(text.sql) == "::";
    let qualified = index > 2 && text.punctuation(index - 1, b'.') && text.lexemes[index - 3].text(text.sql) == "::";
    let called = text.punctuation(index + 1, b'(');
    let in_cast_call = index > 0 && text.word(index - 1, "as") && text.punctuation(index + 1, b')');
    let in_front = text.lexemes.get(index + 1).is_some_and(|next| next.kind == Kind::String);
    if TYPES.contains(&name.as_str()) && (cast || qualified || called || in_cast_call || in_front || index == 0) {
        let sequence = names_sequence(text, if qualified { index - 2 } else { index });
        return !(sequence || cast && (is_own_column(text, index, depth) || is_compared(text, index)));
    }
    let gives = name == "pg_typeof" || TYPES.iter().any(|of| name.strip_prefix("to_") == Some(of));
    gives && called && !is_own_column(text, index, depth)
}

/// `tableoid::regclass`, or `pg_typeof(...)`, by itself in a select list.
fn is_own_column(text: &Text<'_>, index: usize, depth: usize) -> bool {
    let (mut first, last) = match text.word(index, "pg_typeof") {
        true => (index, closing(text, index + 1)),
        false if index >= 2 && is_system_column(text, index - 2, "tableoid") => (index - 2, Some(index)),
        false => return false,
    };
    while first >= 2 && text.punctuation(first - 1, b'.') {
        first -= 2;
    }
    let begins = first.checked_sub(1).is_some_and(|before| {
        text.punctuation(before, b',')
            || ["select", "distinct", "returning", "by"].iter().any(|word| text.word(before, word))
    });
    let Some(next) = last.map(|last| last + 1) else { return false };
    let ends = text.lexemes.get(next).is_none_or(|lexeme| {
        matches!(lexeme.kind, Kind::Word | Kind::QuotedWord) || lexeme.is(b',') || lexeme.is(b';')
    });
    let as_text = text.lexemes.get(next).is_some_and(|lexeme| lexeme.text(text.sql) == "::")
        && text.word(next + 1, "text")
        && text.lexemes.get(next + 2).is_none_or(|lexeme| lexeme.is(b',') || lexeme.kind == Kind::Word);
    depth == 0 && begins && (ends || as_text)
}

/// `tableoid::regclass = 'orders'`, with a literal.
fn is_compared(text: &Text<'_>, index: usize) -> bool {
    let literal =
        |at: usize| text.lexemes.get(at).is_some_and(|lexeme| lexeme.kind == Kind::String) && !is_number(text, at);
    let of_table = index >= 2 && is_system_column(text, index - 2, "tableoid");
    let other = text.lexemes.get(index + 1).is_some_and(|next| next.is_operator(text.sql, "=")) && literal(index + 2);
    let ends = text.lexemes.get(index + 3).is_none_or(|next| next.text(text.sql) != "::");
    let reversed = index >= 4
        && literal(index - 2)
        && text.lexemes[index - 3].is_operator(text.sql, "=")
        && text.word(index - 4, "regclass")
        && text.lexemes.get(index + 1).is_none_or(|next| next.text(text.sql) != "::");
    of_table && (other && ends || followed_by_regclass(text, index)) || reversed
}

/// `tableoid::regclass = 'orders'::regclass`.
fn followed_by_regclass(text: &Text<'_>, index: usize) -> bool {
    text.lexemes.get(index + 1).is_some_and(|next| next.is_operator(text.sql, "="))
        && text.lexemes.get(index + 2).is_some_and(|lexeme| lexeme.kind == Kind::String)
        && !is_number(text, index + 2)
        && text.lexemes.get(index + 3).is_some_and(|lexeme| lexeme.text(text.sql) == "::")
        && text.word(index + 4, "regclass")
        && text.lexemes.get(index + 5).is_none_or(|next| next.text(text.sql) != "::")
}

/// `nextval('orders_id_seq'::regclass)`; `index` is where the type's name begins.
fn names_sequence(text: &Text<'_>, index: usize) -> bool {
    index >= 4
        && text.lexemes[index - 2].kind == Kind::String
        && !is_number(text, index - 2)
        && text.punctuation(index - 3, b'(')
        && text.lexemes[index - 1].text(text.sql) == "::"
        && ["nextval", "currval", "setval", "next_identity"].iter().any(|function| text.word(index - 4, function))
}

/// The parenthesis that closes the one at `open`.
fn closing(text: &Text<'_>, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    (open..text.lexemes.len()).find(|&index| {
        match text.lexemes[index].kind {
            Kind::Punctuation(b'(') => depth += 1,
            Kind::Punctuation(b')') => depth -= 1,
            _ => {}
        }
        depth == 0
    })
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
                .is_some_and(|other| other.kind == Kind::String || other.text(text.sql) == "0")
            && !is_number_but_zero(text, index + 2);
        let grouped = is_grouping(text, index);
        !named && !compared && !grouped
    }
}

fn is_number_but_zero(text: &Text<'_>, index: usize) -> bool {
    is_number(text, index) && text.lexemes[index].text(text.sql) != "0"
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
