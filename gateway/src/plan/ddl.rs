//! Schema changes: on every member in one transaction, or shard by shard where PostgreSQL allows no transaction.
//!
//! Example: `ALTER TABLE orders ADD COLUMN note text`; `CREATE INDEX CONCURRENTLY ON orders (qty)` (shard by shard).
//! Refused: what shards cannot enforce across the cluster (UNIQUE without the key, foreign keys between tables that are not
//! colocated), and changes of a distributed table's key, name or schema. Whatever a statement did without saying so (a
//! schema that is renamed, CASCADE) is found by `ringway.finish_ddl` on the shards, in its transaction.

use std::sync::Arc;

use ringway_topology::model::TableName;
use sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ColumnOption, Expr, ForeignKeyConstraint, IndexColumn, Statement,
    TableConstraint,
};

use super::context::{Placed, PlanContext, ResolvedTable};
use super::refuse::refused;
use super::session::Cursor;
use super::types::{Ddl, DdlKind, Home, Plan};
use crate::sql::lexer::Kind;
use crate::sql::parse::{ident_value, name_parts, parse, Text};
use crate::wire::PgError;

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let mut cursor = Cursor { text, at: 0 };
    let first = cursor.word().unwrap_or_default();
    let make = |kind: DdlKind| {
        let mut tables = named_tables(context, text);
        tables.extend(within(context, text));
        let hides_shards = hides_shards(context, text);
        Ok(Plan::Ddl(Ddl { sql: Arc::from(text.sql), kind, tables, hides_shards }))
    };
    let home = |pins: bool| Ok(Plan::Home(Home { sql: Arc::from(text.sql), pins }));
    match first.as_str() {
        "create" => create(context, text).and_then(make),
        "alter" => alter(context, text).and_then(make),
        "drop" => drop(text).and_then(make),
        "comment" | "grant" | "revoke" | "security" | "reassign" | "import" | "truncate" | "lock" | "analyze" => {
            make(DdlKind::Transactional)
        }
        "vacuum" | "cluster" | "reindex" => make(DdlKind::ShardByShard),
        "refresh" => {
            super::reach::refresh(context, text)?;
            home(false)
        }
        _ => {
            if named_tables(context, text).iter().any(|table| is_spread(context, table)) {
                return Err(cursor_error(text)
                    .detail("The statement names a table that is on several shards; it was sent nowhere."));
            }
            home(false)
        }
    }
}

fn cursor_error(text: &Text<'_>) -> PgError {
    Cursor { text, at: 0 }.unexpected()
}

fn spread(placed: Placed) -> bool {
    matches!(placed, Placed::Sharded { .. } | Placed::Reference)
}

/// Whether its rows, or those that a view reads, are on several shards.
fn is_spread(context: &PlanContext<'_>, table: &TableName) -> bool {
    context.table(&[table.schema.clone(), table.name.clone()]).map_or(true, |table| spread(table.placed))
}

/// Every known table whose name stands in the text.
pub fn named_tables(context: &PlanContext<'_>, text: &Text<'_>) -> Vec<TableName> {
    let mut out: Vec<TableName> = Vec::new();
    let mut at = 0;
    while at < text.lexemes.len() {
        let mut parts = Vec::new();
        while let Some(part) = text.lexemes.get(at).and_then(|lexeme| lexeme.identifier(text.sql)) {
            parts.push(part);
            at += 1;
            if !text.punctuation(at, b'.') {
                break;
            }
            at += 1;
        }
        if parts.is_empty() {
            at += 1;
            continue;
        }
        if let Ok(table) = context.table(&parts) {
            let listed = context.topology.table(&table.name.schema, &table.name.name).is_some();
            let known = table.known && !matches!(table.placed, Placed::System);
            if (listed || known) && !out.contains(&table.name) {
                out.push(table.name);
            }
        }
    }
    out
}

fn create(context: &PlanContext<'_>, text: &Text<'_>) -> Result<DdlKind, PgError> {
    let mut at = 1;
    let mut unique = false;
    let mut temporary = false;
    loop {
        if text.word(at, "or") && text.word(at + 1, "replace") {
            at += 2;
            continue;
        }
        let modifier = ["temp", "temporary", "unlogged", "global", "local", "unique", "recursive"]
            .into_iter()
            .find(|word| text.word(at, word));
        match modifier {
            Some("temp" | "temporary") => temporary = true,
            Some("unique") => unique = true,
            Some(_) => {}
            None => break,
        }
        at += 1;
    }
    let object = Cursor { text, at }.word().unwrap_or_default();
    if temporary {
        // It is on one connection. By the name of such a table it would hide it; otherwise it would read a part of it.
        return match named_tables(context, text).into_iter().find(|table| is_spread(context, table)) {
            Some(table) => Err(refused(
                format!("a temporary object cannot name {table}, which is on several shards"),
                "It would be on one shard alone.",
                "Choose another name, write its columns out, and fill it with rows of one shard key.",
            )),
            None => Ok(DdlKind::Temporary),
        };
    }
    match object.as_str() {
        "database" | "tablespace" | "subscription" => Err(refused(
            format!("CREATE {} is not supported through the gateway", object.to_uppercase()),
            "It concerns a server, not the cluster.",
            "Run it on the server itself, past the gateway.",
        )),
        "table" => {
            if let Ok(Statement::CreateTable(create)) = parse(text) {
                if create.query.is_some() {
                    return Err(create_as());
                }
                return Ok(DdlKind::Transactional);
            }
            // Not parsed: CREATE TABLE ... AS must not slip through.
            let as_query = (0..text.lexemes.len()).any(|index| {
                text.word(index, "as")
                    && ["select", "with", "values", "table", "execute"].iter().any(|word| text.word(index + 1, word))
            });
            if as_query {
                return Err(create_as());
            }
            Ok(DdlKind::Transactional)
        }
        "materialized" => {
            if named_tables(context, text).iter().any(|table| is_spread(context, table)) {
                return Err(refused(
                    "a materialized view of a table that is on several shards is not supported",
                    "Each shard would hold its own part.",
                    "Create a table and fill it by COPY (SELECT ...) TO STDOUT and COPY ... FROM STDIN.",
                ));
            }
            Ok(DdlKind::Transactional)
        }
        "trigger" | "constraint" => super::reach::trigger(context, text).map(|()| DdlKind::Transactional),
        "index" => {
            let concurrently = text.word(at + 1, "concurrently");
            let kind = if concurrently { DdlKind::ShardByShard } else { DdlKind::Transactional };
            if unique {
                let Ok(Statement::CreateIndex(index)) = parse(text) else {
                    return not_understood(context, text, kind);
                };
                let table = resolve(context, &index.table_name)?;
                unique_with_key(&table, &index_columns(&index.columns))?;
            }
            Ok(kind)
        }
        _ => Ok(DdlKind::Transactional),
    }
}

/// `CREATE [OR REPLACE] [RECURSIVE] VIEW` and `RULE`.
fn hides_shards(context: &PlanContext<'_>, text: &Text<'_>) -> bool {
    let creates = text.word(0, "create") && (1..=4).any(|at| text.word(at, "view") || text.word(at, "rule"));
    creates && named_tables(context, text).iter().any(|table| is_spread(context, table))
}

fn create_as() -> PgError {
    refused(
        "CREATE TABLE AS is not supported",
        "Every shard would fill its own table.",
        "Use CREATE TABLE, then INSERT ... SELECT from single tables, or COPY (SELECT ...) TO STDOUT and COPY ... FROM STDIN.",
    )
}

/// A statement that the parser does not know: fine as long as no distributed table is named.
fn not_understood(context: &PlanContext<'_>, text: &Text<'_>, kind: DdlKind) -> Result<DdlKind, PgError> {
    match named_tables(context, text).iter().find(|table| is_spread(context, table)) {
        Some(table) => Err(refused(
            "this schema change is not understood",
            format!("It names {table}, which is on several shards; whether they can enforce it is not known."),
            "Write it differently, one change per statement.",
        )),
        None => Ok(kind),
    }
}

fn resolve(context: &PlanContext<'_>, name: &sqlparser::ast::ObjectName) -> Result<ResolvedTable, PgError> {
    let parts = name_parts(name).ok_or_else(|| refused("this table name is not supported", "", "Use a plain name."))?;
    context.table(&parts)
}

fn index_columns(columns: &[IndexColumn]) -> Vec<String> {
    columns
        .iter()
        .filter_map(|column| match &column.column.expr {
            Expr::Identifier(ident) => Some(ident_value(ident)),
            _ => None,
        })
        .collect()
}

fn unique_with_key(table: &ResolvedTable, columns: &[String]) -> Result<(), PgError> {
    let Placed::Sharded { key_column, .. } = &table.placed else { return Ok(()) };
    if columns.contains(key_column) {
        return Ok(());
    }
    Err(refused(
        format!("a unique constraint on {} does not contain its shard key \"{key_column}\"", table.name),
        "Each shard would check its own rows only.",
        format!("Add \"{key_column}\" to its columns."),
    ))
}

fn foreign_key(
    context: &PlanContext<'_>,
    table: &ResolvedTable,
    key: &ForeignKeyConstraint,
    own: &[String],
) -> Result<(), PgError> {
    let foreign = resolve(context, &key.foreign_table)?;
    let fault = |detail: String| {
        Err(refused(
            format!("a foreign key from {} to {} cannot be enforced", table.name, foreign.name),
            detail,
            "Reference a reference table, or a colocated table with the shard key among the columns.",
        ))
    };
    match (&table.placed, &foreign.placed) {
        (_, Placed::Reference) => Ok(()),
        (
            Placed::Sharded { keyspace, key_column, .. },
            Placed::Sharded { keyspace: other, key_column: other_column, .. },
        ) => {
            if keyspace != other {
                return fault("The tables are in different keyspaces.".to_owned());
            }
            let referred: Vec<String> = if key.referred_columns.is_empty() {
                context.catalog.relation(&foreign.name).map(|r| r.primary_key.clone()).unwrap_or_default()
            } else {
                key.referred_columns.iter().map(ident_value).collect()
            };
            if own.iter().zip(&referred).any(|(a, b)| a == key_column && b == other_column) {
                return Ok(());
            }
            fault(format!("It does not pair \"{key_column}\" with \"{other_column}\", the shard keys."))
        }
        (Placed::Sharded { .. }, _) => fault(format!("The rows of {} are on the home shard only.", foreign.name)),
        (Placed::Reference, Placed::Sharded { .. } | Placed::Single) => {
            fault("A reference table has a copy on every shard.".to_owned())
        }
        _ => Ok(()),
    }
}

fn alter(context: &PlanContext<'_>, text: &Text<'_>) -> Result<DdlKind, PgError> {
    let object = Cursor { text, at: 1 }.word().unwrap_or_default();
    match object.as_str() {
        "database" | "system" | "tablespace" | "subscription" => {
            return Err(refused(
                format!("ALTER {} is not supported through the gateway", object.to_uppercase()),
                "It concerns a server, not the cluster.",
                "Run it on the server itself, past the gateway.",
            ))
        }
        "table" => {}
        "sequence" => return super::exact::alter_sequence(context, text).map(|()| DdlKind::Transactional),
        _ => return Ok(DdlKind::Transactional),
    }
    let mut at = 2;
    if text.word(at, "if") {
        at += 2;
    }
    if text.word(at, "only") {
        at += 1;
    }
    let mut parts = Vec::new();
    while let Some(part) = text.lexemes.get(at).and_then(|lexeme| lexeme.identifier(text.sql)) {
        parts.push(part);
        at += 1;
        if !text.punctuation(at, b'.') {
            break;
        }
        at += 1;
    }
    let table = context.table(&parts)?;
    if !spread(table.placed.clone()) {
        return Ok(DdlKind::Transactional);
    }
    if text.word(at, "set") && text.word(at + 1, "schema") || text.word(at, "rename") && text.word(at + 1, "to") {
        return Err(refused(
            format!("{} cannot be renamed while it is distributed", table.name),
            "The cluster knows it by its name.",
            undistribute_first(&table.name, "rename it"),
        ));
    }
    if text.word(at, "attach") || text.word(at, "detach") || text.word(at, "inherit") || text.word(at, "no") {
        return Ok(DdlKind::Transactional);
    }
    let statement = match parse(text) {
        Ok(Statement::AlterTable(statement)) => statement,
        _ => {
            // Storage parameters, triggers, rules, ownership need no look inside.
            let harmless = ["set", "reset", "enable", "disable", "owner", "cluster", "replica", "validate", "force"];
            let alone = text.lexemes[at..].iter().all(|lexeme| lexeme.kind != Kind::Punctuation(b','));
            if alone && harmless.iter().any(|word| text.word(at, word)) {
                return Ok(DdlKind::Transactional);
            }
            return not_understood(context, text, DdlKind::Transactional);
        }
    };
    for operation in &statement.operations {
        alter_operation(context, &table, operation)?;
    }
    Ok(DdlKind::Transactional)
}

fn undistribute_first(table: &TableName, then: &str) -> String {
    format!("First SELECT undistribute_table('{table}'); {then}, then distribute the table again.")
}

fn alter_operation(
    context: &PlanContext<'_>,
    table: &ResolvedTable,
    operation: &AlterTableOperation,
) -> Result<(), PgError> {
    let key = match &table.placed {
        Placed::Sharded { key_column, .. } => Some(key_column.as_str()),
        _ => None,
    };
    let of_key = |what: &str| {
        Err(refused(
            format!("the shard key \"{}\" of {} cannot be {what}", key.unwrap_or_default(), table.name),
            "The rows are placed by it.",
            undistribute_first(&table.name, "change it"),
        ))
    };
    match operation {
        AlterTableOperation::AddConstraint { constraint, .. } => match constraint {
            TableConstraint::Unique(unique) => unique_with_key(table, &index_columns(&unique.columns)),
            TableConstraint::PrimaryKey(primary) => unique_with_key(table, &index_columns(&primary.columns)),
            TableConstraint::ForeignKey(foreign) => {
                let own: Vec<String> = foreign.columns.iter().map(ident_value).collect();
                foreign_key(context, table, foreign, &own)
            }
            TableConstraint::Check(_) => Ok(()),
            _ => Err(refused(
                format!("this kind of constraint on {} is not supported", table.name),
                "Whether the shards can enforce it is not known.",
                "Use CHECK, UNIQUE, PRIMARY KEY or FOREIGN KEY.",
            )),
        },
        AlterTableOperation::AddColumn { column_def, .. } => {
            let own = vec![ident_value(&column_def.name)];
            for option in &column_def.options {
                match &option.option {
                    ColumnOption::Unique(_) | ColumnOption::PrimaryKey(_) => unique_with_key(table, &own)?,
                    ColumnOption::ForeignKey(foreign) => foreign_key(context, table, foreign, &own)?,
                    ColumnOption::Default(default) if matches!(table.placed, Placed::Reference) => {
                        let calls = super::rows::calls(context, default);
                        if calls.volatile.is_some()
                            || calls.home.is_some()
                            || calls.user.is_some()
                            || calls.stable.is_some()
                        {
                            return Err(refused(
                                format!(
                                    "a column of reference table {} gets a default that differs between shards",
                                    table.name
                                ),
                                "Existing rows would be filled differently on each shard.",
                                "Add the column without default, fill it, then set the default.",
                            ));
                        }
                    }
                    _ => {}
                }
            }
            Ok(())
        }
        AlterTableOperation::DropColumn { column_names, .. } => {
            if column_names.iter().any(|name| Some(ident_value(name).as_str()) == key) {
                return of_key("dropped");
            }
            Ok(())
        }
        AlterTableOperation::RenameColumn { old_column_name, .. } => {
            if Some(ident_value(old_column_name).as_str()) == key {
                return of_key("renamed");
            }
            Ok(())
        }
        AlterTableOperation::RenameTable { .. } => Err(refused(
            format!("{} cannot be renamed while it is distributed", table.name),
            "The cluster knows it by its name.",
            undistribute_first(&table.name, "rename it"),
        )),
        AlterTableOperation::AlterColumn { column_name, op } if Some(ident_value(column_name).as_str()) == key => {
            match op {
                AlterColumnOperation::SetDataType { .. } => of_key("given another type"),
                AlterColumnOperation::DropNotNull => of_key("made nullable"),
                _ => Ok(()),
            }
        }
        AlterTableOperation::DropConstraint { .. } | AlterTableOperation::DropPrimaryKey { .. } => Ok(()),
        _ => Ok(()),
    }
}

/// What is dropped is dropped on every shard; the shards say which distributed tables have gone with it, and refuse what would
/// leave one without its key (`ringway.finish_ddl`).
fn drop(text: &Text<'_>) -> Result<DdlKind, PgError> {
    let object = Cursor { text, at: 1 }.word().unwrap_or_default();
    match object.as_str() {
        "database" | "tablespace" | "subscription" => Err(refused(
            format!("DROP {} is not supported through the gateway", object.to_uppercase()),
            "It concerns a server, not the cluster.",
            "Run it on the server itself, past the gateway.",
        )),
        "index" if text.word(2, "concurrently") => Ok(DdlKind::ShardByShard),
        _ => Ok(DdlKind::Transactional),
    }
}

/// Distributed tables that a DROP reaches without naming them.
fn within(context: &PlanContext<'_>, text: &Text<'_>) -> Vec<TableName> {
    if !text.word(0, "drop") || !(0..text.lexemes.len()).any(|index| text.word(index, "cascade")) {
        return Vec::new();
    }
    let object = Cursor { text, at: 1 }.word().unwrap_or_default();
    let names: Vec<String> = text.lexemes.iter().filter_map(|lexeme| lexeme.identifier(text.sql)).collect();
    let reached = |table: &TableName| match object.as_str() {
        "schema" => names.contains(&table.schema),
        "owned" | "extension" | "type" | "domain" => true,
        _ => false,
    };
    context.topology.tables.iter().map(|table| table.name.clone()).filter(reached).collect()
}
