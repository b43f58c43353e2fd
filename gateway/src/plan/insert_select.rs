//! INSERT ... SELECT whose rows travel: the query is a statement of its own, and each of its rows goes to the owner of its key.
//!
//! `INSERT INTO orders (user_id, id) SELECT order_id, 1 FROM items ON CONFLICT DO NOTHING` becomes the query
//! `SELECT order_id, 1 FROM items` and, for each owner of its rows, `INSERT INTO orders (user_id, id) SELECT p.c0, p.c1 FROM <rows>
//! ON CONFLICT DO NOTHING`. Accepted is what the planner accepts as a query, and as an INSERT of several rows.

use std::sync::Arc;

use ringway_topology::model::quote_ident;
use sqlparser::ast::{Insert, Query as SqlQuery};

use super::analysis::Analysis;
use super::computed;
use super::context::{Placed, ResolvedTable};
use super::refuse::refused;
use super::types::{Access, InsertSelect, MultiShard, Plan, Targets};
use crate::sql::parse::Text;
use crate::wire::PgError;

/// `columns`: that the statement gives, or the table's. `place`: of the key among them.
pub fn plan(
    analysis: &Analysis<'_>,
    insert: &Insert,
    with: Option<&SqlQuery>,
    table: &ResolvedTable,
    columns: &[String],
    place: usize,
) -> Result<InsertSelect, PgError> {
    let text = analysis.text;
    let Placed::Sharded { keyspace, key_column, key_type } = &table.placed else {
        return Err(PgError::internal("INSERT ... SELECT into a table that is not sharded"));
    };
    let unknown =
        || refused("this form of INSERT ... SELECT is not understood", "", "Write its query without parentheses.");
    if insert.columns.iter().any(|name| name.0.len() > 1) {
        return Err(refused(
            "INSERT ... SELECT into elements or fields of columns",
            "The query's rows travel as values of whole columns.",
            "Give whole columns, or insert VALUES.",
        ));
    }
    let extent = Extent::find(text, insert).ok_or_else(unknown)?;
    let start = |lexeme: usize| text.lexemes.get(lexeme).map_or(text.sql.len(), |lexeme| lexeme.start);
    let bare = text.punctuation(extent.query, b'(')
        && text.closing(extent.query).is_some_and(|close| close + 1 == extent.tail)
        && text.word(extent.query + 1, "select");
    let query = match bare {
        true => &text.sql[start(extent.query + 1)..start(extent.tail - 1)],
        false => &text.sql[start(extent.query)..start(extent.tail)],
    };
    let own_with = insert.source.as_ref().is_some_and(|query| query.with.is_some());
    if own_with && with.is_some_and(|query| query.with.is_some()) {
        return Err(refused(
            "INSERT ... SELECT has WITH in front of INSERT and in front of SELECT",
            "The query's rows are read first, and the two lists would have to become one.",
            "Write one WITH, in front of INSERT.",
        ));
    }
    let select_sql = format!("{}{}", &text.sql[..start(extent.insert)], query.trim_end());
    let head = text.sql[start(extent.insert)..start(extent.query)].to_owned();
    let tail = text.sql[start(extent.tail)..].to_owned();

    let Plan::Query(select) = super::plan(&select_sql, analysis.context)? else { return Err(unknown()) };
    if let (MultiShard::Refused(error), Targets::Keyspace(_)) = (&select.multi, &select.targets) {
        return Err((**error).clone());
    }
    let alone = matches!(select.targets, Targets::Home | Targets::AnyOne);
    if select.access != Access::Read && !alone {
        return Err(refused(
            "INSERT ... SELECT locks or writes rows that its query reads",
            "Its rows are on other shards than the rows that are inserted.",
            "Lock or write them in a statement of their own.",
        ));
    }
    let insert = several_rows(analysis, &head, &tail, columns.len())?;
    let Plan::Query(rows) = insert else { return Err(unknown()) };
    if let MultiShard::Refused(error) = rows.multi {
        return Err(*error);
    }
    let mut tables = rows.tables.clone();
    tables.extend(select.tables.iter().cloned());
    let relation = analysis.context.catalog.relation(&table.name);
    let types = columns.iter().map(|name| relation.and_then(|r| r.column(name)).map_or(0, |column| column.type_oid));
    Ok(InsertSelect {
        sql: Arc::from(text.sql),
        select_sql: Arc::from(select_sql),
        head,
        tail,
        clock: rows.clock,
        returns_rows: rows.returns_rows,
        calls_code: rows.calls_code || select.calls_code,
        tables,
        table: table.name.clone(),
        keyspace: *keyspace,
        columns: columns.iter().cloned().zip(types).collect(),
        key_position: place,
        key_type: *key_type,
        typmod: relation.and_then(|relation| relation.column(key_column)).map_or(-1, |column| column.typmod),
    })
}

/// Every row's key is the column's default, which the query then gives as its last column: one shard computes it, in the order
/// of the rows.
pub fn with_default_key(
    analysis: &Analysis<'_>,
    insert: &Insert,
    table: &ResolvedTable,
    without_key: PgError,
) -> Result<Plan, PgError> {
    let text = analysis.text;
    let (column, default, identity) = computed::default_of(analysis, table)?;
    let first = insert.columns.first().and_then(|name| text.object_name(name)).map(|(first, _)| first);
    let list = first.and_then(|first| first.checked_sub(1)).and_then(|open| text.closing(open));
    let (Some(list), Some(extent)) = (list, Extent::find(text, insert)) else { return Err(without_key) };
    let start = |lexeme: usize| text.lexemes.get(lexeme).map_or(text.sql.len(), |lexeme| lexeme.start);
    let overriding = match identity && list + 1 == extent.query {
        true => "OVERRIDING SYSTEM VALUE ",
        false => "",
    };
    let rewritten = format!(
        "{}, {}{}{overriding}SELECT q.*, {default} FROM ({}) AS q {}",
        &text.sql[..start(list)],
        quote_ident(&column),
        &text.sql[start(list)..start(extent.query)],
        text.sql[start(extent.query)..start(extent.tail)].trim_end(),
        &text.sql[start(extent.tail)..],
    );
    match super::plan(&rewritten, analysis.context)? {
        plan @ Plan::InsertSelect(_) => Ok(plan),
        _ => Err(without_key),
    }
}

/// The plan of the same INSERT with rows whose keys are parameters: everything about it but the query.
fn several_rows(analysis: &Analysis<'_>, head: &str, tail: &str, columns: usize) -> Result<Plan, PgError> {
    let first = analysis.text.parameters().last().map_or(1, |last| last + 2);
    let row = |row: usize| {
        let values: Vec<String> = (0..columns).map(|column| format!("${}", first + row * columns + column)).collect();
        format!("({})", values.join(", "))
    };
    super::plan(&format!("{head}VALUES {}, {} {tail}", row(0), row(1)), analysis.context)
}

/// Parts of the statement, by their first lexemes.
struct Extent {
    insert: usize,
    query: usize,
    tail: usize,
}

impl Extent {
    fn find(text: &Text<'_>, insert: &Insert) -> Option<Extent> {
        let next = |at: usize| match text.punctuation(at, b'(') {
            true => text.closing(at).map(|close| close + 1),
            false => Some(at + 1),
        };
        let begins = |at: usize| ["select", "with", "values", "table"].iter().any(|word| text.word(at, word));
        let mut at = 0;
        while !(text.word(at, "insert") && text.word(at + 1, "into")) {
            at = next(at).filter(|at| *at < text.lexemes.len())?;
        }
        let start = at;
        // Behind the first word of the table's name.
        at += 3;
        while !(begins(at) || text.punctuation(at, b'(') && (begins(at + 1) || text.punctuation(at + 1, b'('))) {
            at = next(at).filter(|at| *at < text.lexemes.len())?;
        }
        let query = at;
        let (mut conflict, mut returning) = (None, None);
        while at < text.lexemes.len() {
            if insert.on.is_some() && text.word(at, "on") && text.word(at + 1, "conflict") {
                conflict = Some(at);
            } else if insert.returning.is_some() && text.word(at, "returning") {
                returning = Some(at);
            }
            at = next(at)?;
        }
        if conflict.is_some() != insert.on.is_some() || returning.is_some() != insert.returning.is_some() {
            return None;
        }
        Some(Extent { insert: start, query, tail: conflict.or(returning).unwrap_or(text.lexemes.len()) })
    }
}
