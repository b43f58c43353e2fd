//! COPY ... FROM STDIN (rows are split by owner) and COPY ... TO STDOUT (rows of all shards, in any order).
//!
//! Examples: `COPY orders (user_id, id) FROM STDIN (FORMAT csv, HEADER)`, `COPY (SELECT * FROM orders) TO STDOUT`.

use std::sync::Arc;

use ringway_topology::model::quote_ident;

use super::context::{Placed, PlanContext};
use super::exact::{foreign_keys, Given};
use super::reach::{self, Code};
use super::refuse::{lexical_error, not_over_shards, refused};
use super::rows;
use super::session::Cursor;
use super::types::{
    Concatenate, CopyDestination, CopyFormat, CopyIn, CopyMulti, CopyOut, FilterSplice, MultiShard, Plan, Query,
    ShardedReference, Targets,
};
use crate::catalog::Events;
use crate::sql::clauses::split_at_commas;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::sql::splice::{moved, Splice};
use crate::wire::sqlstate::SqlState;
use crate::wire::PgError;

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let mut cursor = Cursor { text, at: 1 };
    let binary = cursor.take("binary");
    if text.punctuation(cursor.at, b'(') {
        let open = cursor.at;
        let close = text.closing(open).ok_or_else(|| cursor.unexpected())?;
        cursor.at = close + 1;
        if !cursor.take("to") {
            return Err(cursor.unexpected());
        }
        let format = format(&mut cursor, "stdout", binary)?;
        return copy_query(context, text, open, close, format);
    }
    let mut parts = vec![cursor.name()?];
    let first = cursor.at - 1;
    while cursor.take_punctuation(b'.') {
        parts.push(cursor.name()?);
    }
    let last = cursor.at - 1;
    let table = context.table(&parts)?;
    let mut columns = None;
    if text.punctuation(cursor.at, b'(') {
        let close = text.closing(cursor.at).ok_or_else(|| cursor.unexpected())?;
        let names: Option<Vec<String>> = split_at_commas(text, cursor.at + 1, close)
            .ok_or_else(|| cursor.unexpected())?
            .into_iter()
            .map(|extent| text.lexemes[*extent.start()].identifier(text.sql))
            .collect();
        columns = Some(names.ok_or_else(|| cursor.unexpected())?);
        cursor.at = close + 1;
    }
    let names = || -> Vec<String> {
        columns.clone().unwrap_or_else(|| {
            let relation = context.catalog.relation(&table.name);
            let stored = relation.into_iter().flat_map(|r| r.columns.iter()).filter(|column| !column.generated);
            stored.map(|column| column.name.clone()).collect()
        })
    };
    let columns_sql: Arc<str> = {
        let columns = names().iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(", ");
        format!("SELECT {columns} FROM {}", table.name.quoted()).into()
    };
    if cursor.take("from") {
        let format = format(&mut cursor, "stdin", binary)?;
        foreign_keys(context, &table.name, Given::All)?;
        rules(context, &table)?;
        let destination = match &table.placed {
            Placed::Sharded { keyspace, key_column, key_type } => {
                let key_position = names().iter().position(|name| name == key_column).ok_or_else(|| {
                    refused(
                        format!("COPY into {} does not give the shard key \"{key_column}\"", table.name),
                        "The rows' shards would depend on the column's default.",
                        format!("Add \"{key_column}\" to the columns."),
                    )
                })?;
                let typmod =
                    context.catalog.relation(&table.name).and_then(|r| r.column(key_column)).map_or(-1, |c| c.typmod);
                let varying = matches!(
                    key_type,
                    ringway_topology::token::KeyType::Numeric
                        | ringway_topology::token::KeyType::Timestamp
                        | ringway_topology::token::KeyType::Timestamptz
                );
                if typmod >= 0 && varying {
                    return Err(refused(
                        format!(
                            "COPY into {}: the shard key \"{key_column}\" may be rounded by storing it",
                            table.name
                        ),
                        "Its type has a precision.",
                        "Use INSERT with keys as they will be stored.",
                    ));
                }
                let columns = names().len();
                CopyDestination::Sharded { keyspace: *keyspace, key_position, columns, key_type: *key_type }
            }
            Placed::Reference => {
                let given = names();
                let relation = context.catalog.relation(&table.name);
                let left_out = relation.into_iter().flat_map(|r| r.columns.iter()).find(|column| {
                    !given.contains(&column.name) && !column.generated && (column.identity || column.default.is_some())
                });
                if let Some(column) = left_out {
                    return Err(refused(
                        format!("COPY into reference table {} leaves out column \"{}\"", table.name, column.name),
                        "Its default may give each shard another value.",
                        "Give every column that has a default.",
                    ));
                }
                CopyDestination::EveryMember
            }
            Placed::Single | Placed::System => CopyDestination::Home,
        };
        return Ok(Plan::CopyIn(CopyIn {
            sql: Arc::from(text.sql),
            table: table.name,
            destination,
            format,
            columns_sql,
        }));
    }
    if !cursor.take("to") {
        return Err(cursor.unexpected());
    }
    let format = format(&mut cursor, "stdout", binary)?;
    let (targets, sharded) = match &table.placed {
        Placed::Sharded { keyspace, key_column, .. } => {
            let _ = (first, last);
            // COPY takes no subquery in place of a table: while rows move it is refused.
            let reference = ShardedReference {
                table: table.name.clone(),
                keyspace: *keyspace,
                key_column: key_column.clone(),
                splice: FilterSplice::Unknown,
            };
            (Targets::Keyspace(*keyspace), vec![reference])
        }
        Placed::Reference => (Targets::AnyOne, Vec::new()),
        Placed::Single | Placed::System => (Targets::Home, Vec::new()),
    };
    Ok(Plan::CopyOut(CopyOut {
        sql: Arc::from(text.sql),
        targets,
        sharded,
        format,
        columns_sql,
        multi: CopyMulti::Concatenate,
    }))
}

fn copy_query(
    context: &PlanContext<'_>,
    text: &Text<'_>,
    open: usize,
    close: usize,
    format: CopyFormat,
) -> Result<Plan, PgError> {
    if open + 1 >= close {
        return Err(Cursor { text, at: close }.unexpected());
    }
    let inner = text.slice(open + 1, close - 1);
    let offset = text.lexemes[open + 1].start;
    let query = match super::plan(inner, context)? {
        Plan::Query(query) if query.access == super::types::Access::Read => query,
        Plan::Home(_) => {
            return Ok(Plan::CopyOut(CopyOut {
                sql: Arc::from(text.sql),
                targets: Targets::Home,
                sharded: Vec::new(),
                format,
                columns_sql: Arc::from(inner),
                multi: CopyMulti::Concatenate,
            }))
        }
        _ => {
            return Err(refused(
                "COPY of a statement that writes or locks is not supported",
                "Only plain queries are copied.",
                "Use the statement with RETURNING by itself.",
            ))
        }
    };
    let (before, after) = (&text.sql[..offset], &text.sql[offset + inner.len()..]);
    let sql = Arc::from(format!("{before}{}{after}", query.sql));
    let place = offset..offset + query.sql.len();
    let is_sharded = !matches!(&query.targets, Targets::Home | Targets::AnyOne);
    let multi = match &query.multi {
        MultiShard::Concatenate(Concatenate { sql: None, limit })
            if limit.limit.is_none() && limit.offset.is_none() && !(query.clock && is_sharded) =>
        {
            CopyMulti::Concatenate
        }
        MultiShard::Refused(error) => CopyMulti::Refused(error.clone()),
        MultiShard::Gather(_) => CopyMulti::Gather(Box::new(query.clone()), place),
        // Sorted, grouped or limited: PostgreSQL copies what it finds in the rows of all shards.
        _ => match gathered(context, &query.sql)? {
            Ok(gathered) => CopyMulti::Gather(Box::new(gathered), place),
            Err(error) => CopyMulti::Refused(error),
        },
    };
    // The inner positions in the whole text.
    let shift = [Splice::insert(0, " ".repeat(offset))];
    let sharded = query
        .sharded
        .into_iter()
        .map(|reference| {
            let splice = match reference.splice {
                FilterSplice::Relation { start, end, alias, aliased } => {
                    match (moved(start, &shift), moved(end, &shift)) {
                        (Some(start), Some(end)) => FilterSplice::Relation { start, end, alias, aliased },
                        _ => FilterSplice::Unknown,
                    }
                }
                _ => FilterSplice::Unknown,
            };
            ShardedReference { splice, ..reference }
        })
        .collect();
    let columns_sql = Arc::from(inner);
    Ok(Plan::CopyOut(CopyOut { sql, targets: query.targets, sharded, format, columns_sql, multi }))
}

/// The query as one that gathers all rows that it reads; or why it cannot be one.
fn gathered(context: &PlanContext<'_>, sql: &str) -> Result<Result<Query, Box<PgError>>, PgError> {
    let text = Text::new(sql).map_err(|error| lexical_error(&error, sql))?;
    Ok(match rows::gathered(context, &text)? {
        Plan::Query(Query { multi: MultiShard::Refused(error), .. }) => Err(error),
        Plan::Query(query @ Query { multi: MultiShard::Gather(_), .. }) => Ok(query),
        _ => Err(Box::new(not_over_shards("Its rows cannot come together on one shard.", "Use the query by itself."))),
    })
}

/// STDIN or STDOUT and the options, in the form `WITH (FORMAT csv, ...)` and the older `CSV HEADER ...`.
fn format(cursor: &mut Cursor<'_, '_>, stream: &str, binary: bool) -> Result<CopyFormat, PgError> {
    let text = cursor.text;
    if !cursor.take(stream) {
        if text.word(cursor.at, "program") || text.lexemes.get(cursor.at).is_some_and(|l| l.kind == Kind::String) {
            return Err(refused(
                "COPY with a file or program of the server is not supported",
                "A file belongs to one server.",
                "Use COPY ... FROM STDIN or TO STDOUT (\\copy in psql).",
            ));
        }
        return Err(cursor.unexpected());
    }
    let mut options =
        Options { kind: if binary { "binary".to_owned() } else { "text".to_owned() }, ..Options::default() };
    cursor.take("with");
    if text.punctuation(cursor.at, b'(') {
        let close = text.closing(cursor.at).ok_or_else(|| cursor.unexpected())?;
        for extent in split_at_commas(text, cursor.at + 1, close).ok_or_else(|| cursor.unexpected())? {
            let name = text.lexemes[*extent.start()].identifier(text.sql).unwrap_or_default();
            let value = (extent.end() > extent.start()).then(|| option_value(text, extent.start() + 1));
            options.set(&name, value)?;
        }
        cursor.at = close + 1;
    } else {
        while !cursor.done() && !text.word(cursor.at, "where") {
            let Some(name) = cursor.word() else { return Err(cursor.unexpected()) };
            match name.as_str() {
                "binary" | "csv" => options.kind = name,
                "header" => options.set("header", None)?,
                "delimiter" | "null" | "quote" | "escape" | "encoding" => {
                    cursor.take("as");
                    if cursor.done() {
                        return Err(cursor.unexpected());
                    }
                    options.set(&name, Some(option_value(text, cursor.at)))?;
                    cursor.at += 1;
                }
                "freeze" => {}
                "force" => {
                    // FORCE QUOTE | NOT NULL | NULL columns: for the server.
                    while !cursor.done()
                        && !["csv", "header", "delimiter", "null_", "quote_", "escape"]
                            .iter()
                            .any(|w| text.word(cursor.at, w))
                    {
                        cursor.at += 1;
                    }
                }
                _ => {
                    cursor.at -= 1;
                    return Err(cursor.unexpected());
                }
            }
        }
    }
    if !cursor.done() && !text.word(cursor.at, "where") {
        return Err(cursor.unexpected());
    }
    options.finish()
}

/// Triggers and the like, which run where the rows go.
fn rules(context: &PlanContext<'_>, table: &super::context::ResolvedTable) -> Result<(), PgError> {
    let Some(relation) = context.catalog.relation(&table.name) else { return Ok(()) };
    let (keyspace, targets) = match &table.placed {
        Placed::Sharded { keyspace, .. } => (Some(*keyspace), Targets::Keyspace(*keyspace)),
        Placed::Reference => (None, Targets::EveryMember),
        Placed::Single | Placed::System => (None, Targets::Home),
    };
    if let Placed::Sharded { key_column, .. } = &table.placed {
        reach::key_triggers(context, &table.name, key_column, Events::INSERT)?;
    }
    let effects = relation.on_write(Events::INSERT);
    let differs = effects.clock || effects.volatile;
    let what = format!("a trigger, rule, policy or default of {}", table.name);
    if differs && matches!(table.placed, Placed::Reference) && context.is_spread() {
        return Err(refused(
            "a reference table is written with values that differ between shards",
            format!("It has {what} that reads the clock or is volatile."),
            "Drop it, and give the values with the rows.",
        ));
    }
    reach::check(context, &[Code { what, effects, keyspace, called: false }], &targets)
}

fn option_value(text: &Text<'_>, at: usize) -> String {
    let lexeme = text.lexemes[at];
    lexeme.string_value(text.sql).unwrap_or_else(|| lexeme.text(text.sql).to_ascii_lowercase())
}

#[derive(Default)]
struct Options {
    kind: String,
    delimiter: Option<String>,
    null: Option<String>,
    quote: Option<String>,
    escape: Option<String>,
    header: bool,
}

impl Options {
    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), PgError> {
        match (name, value) {
            ("format", Some(value)) => self.kind = value,
            ("delimiter", value) => self.delimiter = value,
            ("null", value) => self.null = value,
            ("quote", value) => self.quote = value,
            ("escape", value) => self.escape = value,
            ("header", None) => self.header = true,
            ("header", Some(value)) => self.header = matches!(value.as_str(), "true" | "on" | "1" | "match"),
            ("encoding", Some(value))
                if !matches!(value.to_ascii_lowercase().as_str(), "utf8" | "utf-8" | "unicode") =>
            {
                return Err(refused(
                    "COPY in another encoding is not supported",
                    "The gateway splits rows in UTF-8.",
                    "Convert the data to UTF-8.",
                ))
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<CopyFormat, PgError> {
        let byte = |value: Option<String>, default: u8| -> Result<u8, PgError> {
            match value.as_deref().map(str::as_bytes) {
                None => Ok(default),
                Some([byte]) => Ok(*byte),
                Some(_) => Err(PgError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "COPY delimiter, quote and escape must be a single one-byte character",
                )),
            }
        };
        Ok(match self.kind.as_str() {
            "text" => CopyFormat::Text {
                delimiter: byte(self.delimiter, b'\t')?,
                null: self.null.unwrap_or_else(|| "\\N".to_owned()),
            },
            "csv" => {
                let quote = byte(self.quote, b'"')?;
                CopyFormat::Csv {
                    delimiter: byte(self.delimiter, b',')?,
                    quote,
                    escape: byte(self.escape, quote)?,
                    null: self.null.unwrap_or_default(),
                    header: self.header,
                }
            }
            "binary" => CopyFormat::Binary,
            other => {
                return Err(PgError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("COPY format \"{other}\" not recognized"),
                ))
            }
        })
    }
}
