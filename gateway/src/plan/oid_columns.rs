//! Columns of sharded tables whose values are OIDs (`regclass`, `regtype` and their kin): each shard stores its own, clients see names, or
//! in binary the home shard's. What they are equal to is told by name; their order, and written numbers, are one shard's own.
//!
//! Example: `SELECT id, kind, count(*) FROM t GROUP BY id, kind` is exact, and `ORDER BY kind::text` is; `ORDER BY kind`, `max(kind)`,
//! `kind = 16500` and `VALUES (1, '16500')` are refused. Columns of type `oid` hold plain numbers and are not meant.

use sqlparser::ast::{Expr, Insert, SetExpr, Statement, Value, Values};

use ringway_topology::model::TableName;

use super::analysis::Analysis;
use super::keys::strip;
use super::refuse::refused;
use crate::catalog::Relation;
use crate::sql::dialect::target_column;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::oids::{is_number_of_other, FIRST_NORMAL};
use crate::wire::PgError;

/// Whether tables of the statement have such columns.
pub fn any(analysis: &Analysis<'_>) -> bool {
    !analysis.context.one_shard && analysis.context.is_spread() && names(analysis).next().is_some()
}

fn names<'a>(analysis: &'a Analysis<'_>) -> impl Iterator<Item = &'a str> {
    let columns = relations(analysis).flat_map(|relation| &relation.columns);
    columns.filter(|column| is_number_of_other(column.type_oid)).map(|column| column.name.as_str())
}

/// The sharded ones.
fn relations<'a>(analysis: &'a Analysis<'_>) -> impl Iterator<Item = &'a Relation> {
    let sharded = |table: &&TableName| !analysis.references.contains(*table) && !analysis.singles.contains(*table);
    analysis.tables.iter().filter(sharded).filter_map(|table| analysis.context.catalog.relation(table))
}

pub fn check(analysis: &Analysis<'_>, statement: &Statement) -> Result<(), PgError> {
    if !any(analysis) {
        return Ok(());
    }
    let names: Vec<&str> = names(analysis).collect();
    let text = analysis.text;
    let assigns = text.word(0, "update")
        || (0..text.lexemes.len()).any(|index| text.word(index, "do") && text.word(index + 1, "update"));
    // Depths of the ORDER BY clauses that are open.
    let mut ordering: Vec<usize> = Vec::new();
    let mut depth = 0usize;
    for index in 0..text.lexemes.len() {
        match text.lexemes[index].kind {
            Kind::Punctuation(b'(' | b'[') => depth += 1,
            Kind::Punctuation(b')' | b']') => {
                depth = depth.saturating_sub(1);
                ordering.retain(|open| *open <= depth);
            }
            Kind::Word if text.word(index, "order") && text.word(index + 1, "by") => ordering.push(depth),
            Kind::Word if ENDS.iter().any(|word| text.word(index, word)) => ordering.retain(|open| *open < depth),
            _ => {}
        }
        let Some(name) = text.lexemes[index].identifier(text.sql).filter(|name| names.contains(&name.as_str())) else {
            continue;
        };
        if depends_on_number(text, index, !ordering.is_empty(), assigns) {
            return Err(refusal(&name));
        }
    }
    match statement {
        Statement::Insert(insert) => values(analysis, insert),
        _ => Ok(()),
    }
}

/// What may follow ORDER BY.
const ENDS: [&str; 9] = ["limit", "offset", "fetch", "for", "returning", "rows", "range", "groups", "union"];

fn refusal(column: &str) -> PgError {
    refused(
        format!("the statement depends on the numbers in column \"{column}\", which are OIDs"),
        "Every shard stores OIDs of its own: their order and their numbers differ between shards.",
        format!("Order and compare by {column}::text, and give names instead of numbers."),
    )
}

/// The column at `index`, where more is made of it than to show it, to group by it and to ask whether it is equal to another.
fn depends_on_number(text: &Text<'_>, index: usize, ordering: bool, assigns: bool) -> bool {
    let is_label = index > 0 && text.word(index - 1, "as");
    let qualifies = text.punctuation(index + 1, b'.') || text.punctuation(index + 1, b'(');
    if is_label || qualifies {
        return false;
    }
    let mut first = index;
    while first >= 2 && text.punctuation(first - 1, b'.') {
        first -= 2;
    }
    if text.lexemes.get(index + 1).is_some_and(|next| next.text(text.sql) == "::") {
        return !["text", "varchar", "regclass", "regtype"].iter().any(|name| text.word(index + 2, name));
    }
    let before = first.checked_sub(1);
    let extreme = before.is_some_and(|open| text.punctuation(open, b'('))
        && before
            .and_then(|open| open.checked_sub(1))
            .is_some_and(|function| ["min", "max", "greatest", "least"].iter().any(|name| text.word(function, name)));
    let is_listed = ["in", "not", "between"].iter().any(|word| text.word(index + 1, word))
        || text.word(index + 1, "is") && (text.word(index + 2, "distinct") || text.word(index + 3, "distinct"));
    if ordering || extreme || is_listed {
        return true;
    }
    let begins = |at: Option<usize>| at.is_some_and(|at| text.word(at, "set") || text.punctuation(at, b','));
    let operator = |at: usize| text.lexemes.get(at).filter(|lexeme| lexeme.kind == Kind::Operator);
    if let Some(next) = operator(index + 1) {
        if assigns && begins(before) && next.is_operator(text.sql, "=") {
            return is_number(text, index + 2);
        }
        return !same_kind(text, index + 1, index + 2);
    }
    match before.filter(|at| operator(*at).is_some()) {
        Some(at) => !at.checked_sub(1).is_some_and(|other| same_kind(text, at, other)),
        None => false,
    }
}

/// Equal, or not equal, to another column of the same shard.
fn same_kind(text: &Text<'_>, operator: usize, other: usize) -> bool {
    let equal = ["=", "<>", "!="].iter().any(|name| text.lexemes[operator].is_operator(text.sql, name));
    let word = |at: usize| text.lexemes.get(at).is_some_and(|lexeme| lexeme.identifier(text.sql).is_some());
    let reserved = ["any", "all", "some", "array", "row", "cast", "case", "null"];
    let named = word(other) && !reserved.iter().any(|name| text.word(other, name));
    equal && named && !text.punctuation(other + 1, b'(')
}

/// A number, or a literal that would be read as one: of what users have made.
pub fn is_number(text: &Text<'_>, index: usize) -> bool {
    let Some(lexeme) = text.lexemes.get(index) else { return false };
    match lexeme.kind {
        Kind::Number => true,
        Kind::String => is_written_number(lexeme.text(text.sql).trim_matches('\'')),
        _ => false,
    }
}

/// Those below are PostgreSQL's own, the same everywhere; all digits: the input functions of these types take it for an OID.
pub fn is_written_number(value: &str) -> bool {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits && value.parse::<u32>().is_ok_and(|oid| oid >= FIRST_NORMAL)
}

/// INSERT ... VALUES: literals for such columns.
fn values(analysis: &Analysis<'_>, insert: &Insert) -> Result<(), PgError> {
    let Some(SetExpr::Values(values)) = insert.source.as_ref().map(|query| &*query.body) else { return Ok(()) };
    // Any of them may be the target.
    relations(analysis).try_for_each(|relation| literals(relation, insert, values))
}

fn literals(relation: &Relation, insert: &Insert, values: &Values) -> Result<(), PgError> {
    let listed: Vec<String> = insert.columns.iter().map(|name| target_column(name).unwrap_or_default()).collect();
    for row in &values.rows {
        for (place, value) in row.iter().enumerate() {
            let Some(column) = column(relation, &listed, place) else { continue };
            let number = match strip(value) {
                Expr::Value(value) => match &value.value {
                    Value::Number(..) => true,
                    Value::SingleQuotedString(text) => is_written_number(text),
                    _ => false,
                },
                _ => false,
            };
            if number && is_number_of_other(column.type_oid) {
                return Err(refusal(&column.name));
            }
        }
    }
    Ok(())
}

fn column<'r>(relation: &'r Relation, listed: &[String], place: usize) -> Option<&'r crate::catalog::Column> {
    match listed.is_empty() {
        true => relation.columns.get(place),
        false => relation.column(listed.get(place)?),
    }
}
