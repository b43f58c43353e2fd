//! The last look at a planned statement over rows: what would make it another statement on shards than on one server.
//!
//! Code that servers run by themselves ([`super::reach`]), clocks ([`super::clock`]), state of one server, places of rows on
//! disk, and locks of rows that are not given.

use sqlparser::ast::Expr;

use super::analysis::Analysis;
use super::context::{Placed, PlanContext};
use super::refuse::{not_over_shards, refused, GIVE_THE_KEY};
use super::rows::Calls;
use super::types::{Access, KeyExpression, MultiShard, Query, Targets};
use super::{clock, reach};
use crate::catalog::ForeignKey;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::PgError;
use ringway_topology::model::TableName;

pub fn check(analysis: &Analysis<'_>, calls: &Calls, query: Query) -> Result<Query, PgError> {
    let context = analysis.context;
    if let Some(name) = &calls.session {
        return Err(refused(
            format!("{name} is not supported"),
            "It tells of the last nextval on its server connection, and connections are shared between clients.",
            "Use INSERT ... RETURNING, or SELECT nextval(...) first.",
        ));
    }
    let query = Query { calls_code: calls.calls_code, ..query };
    if !context.is_spread() {
        return Ok(query);
    }
    if let (true, Some(sequence)) = (calls.home.is_some(), set_sequence(analysis)) {
        return Err(of_every_shard(&sequence));
    }
    reach::check(context, &calls.code, &query.targets)?;
    reach::check(context, &analysis.code, &query.targets)?;
    let elsewhere = matches!(query.targets, Targets::Keys(_) | Targets::Keyspace(_));
    if let (true, Some(name)) = (elsewhere, &calls.home) {
        if !(name == "nextval" && strided(analysis)) {
            return Err(refused(
                format!("function {name} is called together with sharded tables"),
                "It concerns one server, and the statement runs where its rows are.",
                "Call it in a statement of its own, and give its value as a literal or a parameter.",
            ));
        }
    }
    if let (true, Some(table)) = (elsewhere, &analysis.reference_locked) {
        return Err(refused(
            format!("rows of reference table {table} are locked together with sharded rows"),
            "Every shard has a copy of them: lockers on different shards would not exclude each other.",
            format!("Lock them in a statement of their own, or name the sharded tables: FOR UPDATE OF alias. FOR SHARE locks \
                     {table} against changes."),
        ));
    }
    let multi = match several(analysis, calls, &query) {
        Some(error) => MultiShard::Refused(Box::new(error)),
        None => query.multi,
    };
    Ok(Query { multi, ..query })
}

/// What several shards do not do alike.
fn several(analysis: &Analysis<'_>, calls: &Calls, query: &Query) -> Option<PgError> {
    let text = analysis.text;
    let spreads = matches!(query.targets, Targets::Keys(_) | Targets::Keyspace(_) | Targets::EveryMember);
    // One key is one shard.
    let one = matches!(&query.targets, Targets::Keys(keys)
        if matches!(keys.values.as_slice(), [KeyExpression::Constant(_) | KeyExpression::Parameter { .. }]));
    if !spreads || one || matches!(query.multi, MultiShard::Refused(_)) {
        return None;
    }
    let clocks = ["now", "transaction_timestamp", "statement_timestamp"];
    if let (true, Some(own)) =
        (query.clock, clocks.iter().find(|name| analysis.context.catalog.routine(name).is_some()))
    {
        return Some(not_over_shards(
            format!("There is a function {own} of the application's: which one is meant is not known."),
            "Give it another name.",
        ));
    }
    if calls.clock_in_from {
        return Some(not_over_shards(
            "The clock is read in FROM; every shard has one of its own.",
            "Write now() in the select list or the condition.",
        ));
    }
    if let Some(why) = clock::unfixable(text) {
        return Some(not_over_shards(why, GIVE_THE_KEY));
    }
    if let Some(code) = calls.code.iter().chain(&analysis.code).find(|code| code.called && code.effects.clock) {
        return Some(not_over_shards(
            format!("It runs {}, which reads the clock; every shard has one of its own.", code.what),
            "Write now() in the statement, or hold it to one shard's keys.",
        ));
    }
    let runs_once = matches!(query.multi, MultiShard::Gather(_));
    if let (false, Some(name)) = (runs_once, &calls.volatile_once) {
        return Some(not_over_shards(
            format!("{name} stands in a subquery or in FROM: one server would call it once for all rows, and shards once each."),
            "Call it in the select list or condition itself (for each row), or first, and give its value as a parameter.",
        ));
    }
    if let Some(column) = system_column(analysis) {
        return Some(not_over_shards(
            format!("{column} is a row's place or version on one server."),
            "Name rows by their key (or write tableoid::regclass for the table's name).",
        ));
    }
    let limited = (0..text.lexemes.len()).any(|index| {
        ["limit", "fetch", "offset"].iter().any(|word| crate::sql::clauses::is_keyword(text, index, word))
    });
    if query.access == Access::LockingRead && analysis.locking && limited {
        return Some(not_over_shards(
            "Every shard would lock as many rows as LIMIT says, and more than are given would stay locked.",
            "Hold the statement to one shard's keys, or leave out LIMIT.",
        ));
    }
    None
}

/// Sequences behind columns of sharded tables, which step in tracks of their own on each shard: last parts of their names.
fn tracked_sequences(context: &PlanContext<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for table in &context.topology.tables {
        let Some(relation) = context.catalog.relation(&table.name) else { continue };
        for column in &relation.columns {
            let default = column.default.as_deref().filter(|default| default.contains("nextval("));
            out.extend(default.and_then(|default| default.split('\'').nth(1)).map(last_part));
            if column.identity {
                out.push(format!("{}_{}_seq", table.name.name, column.name));
            }
        }
    }
    out
}

fn last_part(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned()
}

/// Sequences that calls of this function name by a literal; `None` for one that is given otherwise.
fn named_sequences(analysis: &Analysis<'_>, function: &str) -> Vec<Option<String>> {
    let text = analysis.text;
    let calls =
        (0..text.lexemes.len()).filter(|&index| text.word(index, function) && text.punctuation(index + 1, b'('));
    calls
        .map(|index| text.lexemes.get(index + 2).and_then(|lexeme| lexeme.string_value(text.sql)))
        .map(|name| name.map(|name| last_part(&name)))
        .collect()
}

/// Whether every nextval gives values that no other shard gives.
pub fn strided(analysis: &Analysis<'_>) -> bool {
    let tracked = tracked_sequences(analysis.context);
    named_sequences(analysis, "nextval").iter().all(|name| name.as_ref().is_some_and(|name| tracked.contains(name)))
}

/// A sequence of a sharded table that setval would set on one shard.
fn set_sequence(analysis: &Analysis<'_>) -> Option<String> {
    let named = named_sequences(analysis, "setval");
    if named.is_empty() {
        return None;
    }
    let tracked = tracked_sequences(analysis.context);
    // One that is not named may be any.
    let any = || tracked.first().cloned();
    named.into_iter().find_map(|name| name.map_or_else(any, |name| tracked.contains(&name).then_some(name)))
}

fn of_every_shard(sequence: &str) -> PgError {
    refused(
        format!("sequence {sequence} steps in a track of its own on each shard"),
        "Setting it would make shards give the same values.",
        "Set it before the table is distributed: what has been given by then is not given again.",
    )
}

/// ALTER SEQUENCE of a sharded table's: not what its values come from.
pub fn alter_sequence(context: &PlanContext<'_>, text: &Text<'_>) -> Result<(), PgError> {
    let steps = ["restart", "increment", "start", "minvalue", "maxvalue", "cycle"];
    if !context.is_spread() || !(0..text.lexemes.len()).any(|index| steps.iter().any(|step| text.word(index, step))) {
        return Ok(());
    }
    let tracked = tracked_sequences(context);
    let mut names = text.lexemes.iter().filter_map(|lexeme| lexeme.identifier(text.sql));
    names.find(|name| tracked.contains(name)).map_or(Ok(()), |name| Err(of_every_shard(&name)))
}

/// A system column that the statement names.
fn system_column(analysis: &Analysis<'_>) -> Option<String> {
    let text = analysis.text;
    text.lexemes.iter().enumerate().find_map(|(index, lexeme)| {
        if !matches!(lexeme.kind, Kind::Word | Kind::QuotedWord) {
            return None;
        }
        let name = lexeme.identifier(text.sql)?;
        if !matches!(name.as_str(), "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid") {
            return None;
        }
        let cast = text.lexemes.get(index + 1).is_some_and(|next| next.text(text.sql) == "::");
        // As a name, or compared with what each shard finds by a name.
        let compared = text.lexemes.get(index + 1).is_some_and(|next| next.is_operator(text.sql, "="))
            && text
                .lexemes
                .get(index + 2)
                .is_some_and(|other| other.kind == Kind::String || other.text(text.sql) == "0");
        let named = name == "tableoid" && (compared || cast && text.word(index + 2, "regclass"));
        let label = index > 0 && text.word(index - 1, "as") || text.punctuation(index + 1, b'(');
        (!named && !label).then_some(name)
    })
}

/// The columns of a table that a statement gives values to.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    All,
    Columns(&'a [String]),
    /// DELETE.
    None,
}

/// Foreign keys must be checked by the shard that has both rows. Refuses a write that could leave one unchecked.
pub fn foreign_keys(context: &PlanContext<'_>, table: &TableName, given: Given<'_>) -> Result<(), PgError> {
    if !context.is_spread() {
        return Ok(());
    }
    let touches = |columns: &[String]| match given {
        Given::All => true,
        Given::Columns(given) => columns.iter().any(|column| given.contains(column)),
        Given::None => false,
    };
    let placed = |name: &TableName| {
        context.table(&[name.schema.clone(), name.name.clone()]).map_or(Placed::Single, |table| table.placed)
    };
    let refuse = |key: &ForeignKey, from: &TableName, to: &TableName, distribute: &TableName, other: &Placed| {
        let how = match other {
            Placed::Reference => "make it a reference table too".to_owned(),
            _ => format!("distribute {distribute} as well (SELECT create_distributed_table('{distribute}', ...))"),
        };
        refused(
            format!("foreign key {} from {from} to {to} cannot be checked yet", key.name),
            format!("The rows of {distribute} are on the home shard only, those of the other table are not."),
            format!("Drop the constraint, or {how}; nothing may be written that it concerns until then."),
        )
    };
    for key in context.catalog.relation(table).into_iter().flat_map(|relation| &relation.foreign_keys) {
        if !touches(&key.columns) {
            continue;
        }
        let (own, other) = (placed(table), placed(&key.table()));
        match (&own, &other) {
            (Placed::Single | Placed::System, Placed::Sharded { .. }) => {
                return Err(refuse(key, table, &key.table(), table, &other))
            }
            (Placed::Sharded { .. } | Placed::Reference, Placed::Single) => {
                return Err(refuse(key, table, &key.table(), &key.table(), &own))
            }
            _ => {}
        }
    }
    if matches!(given, Given::All) {
        return Ok(());
    }
    // Rows that are referred to: gone or changed, when the referring rows cannot be seen from every shard.
    for (from, key) in context.catalog.referring(table) {
        let changes = matches!(given, Given::None) || touches(&key.referred);
        let own = placed(table);
        if changes && matches!((placed(from), &own), (Placed::Single, Placed::Sharded { .. })) {
            return Err(refuse(key, from, table, from, &own));
        }
    }
    Ok(())
}

/// Whether the order in which a server happens to find rows decides what is written. For reference tables, whose copies must
/// stay equal.
pub fn order_decides(expr: &Expr) -> Option<String> {
    let Expr::Function(function) = expr else { return None };
    let name = crate::sql::parse::name_parts(&function.name)?.pop()?;
    if function.over.is_some() {
        return Some(format!("Window function {name} may number rows in another order on each shard."));
    }
    const ORDERED: &[&str] =
        &["array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "xmlagg"];
    let sorted = match &function.args {
        sqlparser::ast::FunctionArguments::List(list) => {
            list.clauses.iter().any(|clause| matches!(clause, sqlparser::ast::FunctionArgumentClause::OrderBy(_)))
        }
        _ => false,
    };
    (ORDERED.contains(&name.as_str()) && !sorted)
        .then(|| format!("{name} without ORDER BY may join its values in another order on each shard."))
}
