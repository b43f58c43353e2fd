//! INSERT: every row goes to the owner of its key.
//!
//! Accepts VALUES whose keys are literals, casts of literals or parameters (others: [`super::computed`]); INSERT ... SELECT held to one key, or one that
//! carries the key of colocated tables through (others: [`super::insert_select`]). Example: `INSERT INTO orders (user_id, id) VALUES ($1, 1), (8, 2)`.

use ringway_topology::token::KeyType;
use sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, Expr, Ident, Insert, OnConflictAction, OnInsert, Query as SqlQuery,
    SetExpr, TableObject,
};

use super::analysis::{Analysis, Facts, Scope};
use super::computed;
use super::context::{Placed, ResolvedTable};
use super::exact::{foreign_keys, Given};
use super::keys::{fits, key_expression};
use super::refuse::{not_over_shards, refused, GIVE_THE_KEY};
use super::rows::{blocked_by_calls, different_keyspaces, finish, mixed_with_single, unsharded_targets, Calls};
use super::types::{
    Access, FilterSplice, InsertRow, InsertSplit, KeyExpression, Keys, MultiShard, Plan, Query, Targets,
};
use super::write;
use crate::catalog::Events;
use crate::sql::dialect::{expressions, target_column};
use crate::sql::parse::{ident_value, name_parts};
use crate::wire::sqlstate::SqlState;
use crate::wire::PgError;

pub fn plan(
    analysis: &mut Analysis<'_>,
    insert: &Insert,
    with: Option<&SqlQuery>,
    calls: &Calls,
) -> Result<Plan, PgError> {
    let TableObject::TableName(name) = &insert.table else {
        return Err(refused("INSERT into something that is no table", "", "Insert into a table."));
    };
    let parts = name_parts(name).ok_or_else(|| refused("this table name is not supported", "", "Use a plain name."))?;
    let table = analysis.context.table(&parts)?;
    if table.view && !matches!(table.placed, Placed::Single | Placed::System) {
        return Err(super::write::written_view(&table.name));
    }
    foreign_keys(analysis.context, &table.name, Given::All)?;
    let with_facts = write::with(analysis, with)?;
    // ON CONFLICT DO UPDATE, perhaps.
    analysis.events = if insert.on.is_some() { Events { update: true, ..Events::INSERT } } else { Events::INSERT };
    let mut target = analysis.base(&table, FilterSplice::None, true);
    if let Some(alias) = &insert.table_alias {
        target.alias = ident_value(&alias.alias);
    }
    let columns: Vec<String> = if insert.columns.is_empty() {
        target.columns.iter().flatten().filter_map(|column| column.name.clone()).collect()
    } else {
        insert.columns.iter().map(|name| target_column(name).unwrap_or_default()).collect()
    };
    // ON CONFLICT and RETURNING see the target only; their subqueries are analysed in its scope.
    analysis.scopes.push(Scope { relations: vec![target], ..Scope::default() });
    let mut level = match &insert.on {
        Some(on) => analysis.collect(&[on]),
        None => super::names::LevelExpressions::default(),
    };
    if let Some(returning) = &insert.returning {
        let more = analysis.collect(&returning.iter().collect::<Vec<_>>());
        level.absorb(more);
    }
    let subscripts = analysis.collect(&insert.columns.iter().flat_map(expressions).collect::<Vec<_>>());
    level.absorb(subscripts);
    let (sublinks, _, _) = analysis.level_sublinks(level)?;
    analysis.scopes.pop();
    let returns_rows = insert.returning.is_some();
    if !matches!(table.placed, Placed::Single | Placed::System) {
        computed::refuse_overriding_user(analysis, &table)?;
    }
    match &table.placed {
        Placed::Sharded { .. } => {}
        Placed::Reference => {
            write::refuse_choice(analysis, write::choice(insert).or_else(|| first_comes(insert)))?;
            return write::reference(analysis, calls, returns_rows, Some(&columns), |analysis| {
                source(analysis, insert).map(|_| ())
            });
        }
        Placed::Single | Placed::System => {
            source(analysis, insert)?;
            if let Some(error) = mixed_with_single(analysis) {
                return Err(error);
            }
            write::refuse_hidden_reference(analysis)?;
            let _ = unsharded_targets(analysis, calls);
            let multi = MultiShard::Write;
            return Ok(Plan::Query(finish(analysis, Access::Write, Targets::Home, multi, returns_rows)));
        }
    }
    refuse_key_update(insert, &table)?;
    let Placed::Sharded { keyspace, key_column, key_type } = &table.placed else { unreachable!("matched above") };
    let Some(query) = &insert.source else { return computed::default_values(analysis, &table) };
    let place = columns.iter().position(|column| column == key_column);
    let without_key = || {
        refused(
            format!("INSERT into {} does not give the shard key \"{key_column}\"", table.name),
            "Which shard its rows belong to is not known.",
            format!("Give a value for \"{key_column}\"."),
        )
    };
    let mut rows = Vec::new();
    let values = match &*query.body {
        SetExpr::Values(values) if query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() => {
            values
        }
        _ => {
            let Some(place) = place else {
                return super::insert_select::with_default_key(analysis, insert, &table, without_key());
            };
            let together = insert_select(analysis, insert, &table, place, calls, returns_rows, &with_facts);
            if analysis.context.one_shard {
                return together;
            }
            let travelling = |analysis: &Analysis<'_>| {
                let plan = super::insert_select::plan(analysis, insert, with, &table, &columns, place)?;
                Ok(Box::new(plan))
            };
            return match together {
                Ok(Plan::Query(Query { multi: MultiShard::Refused(_), .. })) if analysis.modifying_with => together,
                Ok(Plan::Query(mut query)) if matches!(query.multi, MultiShard::Refused(_)) => {
                    query.multi = match travelling(analysis) {
                        Ok(plan) => MultiShard::InsertSelect(plan),
                        Err(error) => MultiShard::Refused(Box::new(error)),
                    };
                    Ok(Plan::Query(query))
                }
                Err(error) if matches!(error.code, SqlState::FEATURE_NOT_SUPPORTED | SqlState::NOT_NULL_VIOLATION) => {
                    travelling(analysis).map(Plan::InsertSelect)
                }
                together => together,
            };
        }
    };
    let typmod = analysis
        .context
        .catalog
        .relation(&table.name)
        .and_then(|relation| relation.column(key_column))
        .map_or(-1, |column| column.typmod);
    let plain = |expr: &sqlparser::ast::Expr| {
        let known = row_key(analysis, &table, key_column, *key_type, typmod, expr);
        known.map_or_else(|error| error.code != SqlState::FEATURE_NOT_SUPPORTED, |_| true)
    };
    if let Some(plan) = computed::values(analysis, insert, &table, &columns, values, plain)? {
        return Ok(plan);
    }
    let text = analysis.text;
    for row in &values.rows {
        let expr = place.and_then(|place| row.content.get(place)).ok_or_else(without_key)?;
        let key = row_key(analysis, &table, key_column, *key_type, typmod, expr)?;
        let start = text.location(row.opening_token.0.span.start);
        let end = start.and_then(|start| text.closing(start));
        match (start, end) {
            (Some(start), Some(end)) => {
                rows.push(InsertRow { start: text.lexemes[start].start, end: text.lexemes[end].end, key })
            }
            _ => return Err(refused("the rows of VALUES are not exactly known", "", "Insert one row at a time.")),
        }
    }
    // The rows' own subqueries.
    analysis.set_expr(&query.body, None)?;
    if let Some(error) = different_keyspaces(analysis).or_else(|| mixed_with_single(analysis)) {
        return Err(error);
    }
    write::refuse_hidden_reference(analysis)?;
    let values: Vec<KeyExpression> = distinct(rows.iter().map(|row| row.key.clone()));
    let attribute = analysis.occurrences.iter().position(|occurrence| occurrence.written);
    if let Some(position) = attribute {
        let attribute = analysis.occurrences[position].attribute;
        analysis.seeds.push((attribute, values.clone()));
    }
    if analysis.keys().is_none() {
        return Err(refused(
            "INSERT reads a sharded table that is not held to the shard keys of its rows",
            "A subquery's rows may be on another shard than the row that is inserted.",
            GIVE_THE_KEY,
        ));
    }
    let reads_others = analysis.occurrences.len() > 1;
    let multi = if reads_others || sublinks || with_facts.sharded || analysis.modifying_with {
        MultiShard::Refused(Box::new(not_over_shards(
            "INSERT of rows of several shards has subqueries over sharded tables.",
            "Insert the rows of each key in a statement of their own.",
        )))
    } else if let Some(error) = calls.user.as_ref().and_then(|_| blocked_by_calls(calls)) {
        MultiShard::Refused(Box::new(error))
    } else {
        match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => {
                let (head_end, tail_start) = (first.start, last.end);
                MultiShard::InsertSplit(InsertSplit { head_end, tail_start, rows })
            }
            _ => return Err(refused("INSERT without rows", "", "Give rows.")),
        }
    };
    let keys = match analysis.keys() {
        Some(keys) => keys,
        None => Keys { keyspace: *keyspace, values },
    };
    Ok(Plan::Query(finish(analysis, Access::Write, Targets::Keys(keys), multi, returns_rows)))
}

fn distinct(keys: impl Iterator<Item = KeyExpression>) -> Vec<KeyExpression> {
    let mut out: Vec<KeyExpression> = Vec::new();
    for key in keys {
        if !out.contains(&key) {
            out.push(key);
        }
    }
    out
}

fn row_key(
    analysis: &Analysis<'_>,
    table: &ResolvedTable,
    key_column: &str,
    key_type: KeyType,
    typmod: i32,
    expr: &sqlparser::ast::Expr,
) -> Result<KeyExpression, PgError> {
    match key_expression(analysis.text, expr, key_type) {
        Some(KeyExpression::Constant(None)) => Err(PgError::new(
            SqlState::NOT_NULL_VIOLATION,
            format!(
                "null value in column \"{key_column}\" of relation \"{}\" violates not-null constraint",
                table.name.name
            ),
        )),
        Some(KeyExpression::Constant(Some(value))) if fits(&value, key_type, typmod) => {
            Ok(KeyExpression::Constant(Some(value)))
        }
        Some(KeyExpression::Constant(_)) => Err(refused(
            format!("the shard key \"{key_column}\" may be changed by storing it"),
            "The column's type has a length or precision that the value does not simply fit.",
            "Give the key as it will be stored.",
        )),
        Some(KeyExpression::Parameter { index, key_type, .. }) => {
            Ok(KeyExpression::Parameter { index, key_type, typmod })
        }
        _ => Err(refused(
            format!("the shard key \"{key_column}\" of a row is an expression"),
            "Which shard owns the row must be known before a shard is asked.",
            "Give the key as a literal or a parameter.",
        )),
    }
}

fn source(analysis: &mut Analysis<'_>, insert: &Insert) -> Result<Facts, PgError> {
    match &insert.source {
        Some(query) => analysis.query(query),
        None => Ok(Facts::default()),
    }
}

/// Of conflicting rows that a query gives, the first one counts.
fn first_comes(insert: &Insert) -> Option<String> {
    let query = insert.source.as_ref().filter(|query| !matches!(*query.body, SetExpr::Values(_)));
    (query.is_some() && insert.on.is_some())
        .then(|| "Which of the query's rows conflicts with which depends on the order in which they come.".to_owned())
}

/// ON CONFLICT DO UPDATE must leave the key alone. `SET k = EXCLUDED.k` does, where rows conflict by their keys: ORMs write it.
fn refuse_key_update(insert: &Insert, table: &ResolvedTable) -> Result<(), PgError> {
    let Placed::Sharded { key_column, .. } = &table.placed else { return Ok(()) };
    let Some(OnInsert::OnConflict(conflict)) = &insert.on else { return Ok(()) };
    let OnConflictAction::DoUpdate(update) = &conflict.action else { return Ok(()) };
    let is_key = |name: &Ident| ident_value(name) == *key_column;
    let by_key = match &conflict.conflict_target {
        Some(ConflictTarget::Columns(columns)) => columns.iter().any(is_key),
        // With expressions or a condition.
        Some(ConflictTarget::OnConstraint(name)) => {
            expressions(name).into_iter().any(|expr| matches!(expr, Expr::Identifier(name) if is_key(name)))
        }
        None => false,
    };
    let stays = |assignment: &Assignment| {
        let to_key = matches!(&assignment.target, AssignmentTarget::ColumnName(name) if name.0.len() == 1);
        let from_key = matches!(&assignment.value, Expr::CompoundIdentifier(parts)
            if parts.len() == 2 && ident_value(&parts[0]) == "excluded" && ident_value(&parts[1]) == *key_column);
        by_key && to_key && from_key
    };
    let changes =
        update.assignments.iter().any(|assignment| write::assigns(assignment, key_column) && !stays(assignment));
    if changes {
        return Err(refused(
            format!("ON CONFLICT DO UPDATE sets the shard key \"{key_column}\""),
            "A changed key may belong to another shard.",
            "Leave the key out of SET: a conflicting row has it already.",
        ));
    }
    Ok(())
}

fn insert_select(
    analysis: &mut Analysis<'_>,
    insert: &Insert,
    table: &ResolvedTable,
    place: usize,
    calls: &Calls,
    returns_rows: bool,
    with_facts: &Facts,
) -> Result<Plan, PgError> {
    let facts = source(analysis, insert)?;
    if let Some(error) = different_keyspaces(analysis).or_else(|| mixed_with_single(analysis)) {
        return Err(error);
    }
    write::refuse_hidden_reference(analysis)?;
    let Placed::Sharded { keyspace, key_column, key_type } = &table.placed else {
        return Err(PgError::internal("INSERT ... SELECT into a table that is not sharded"));
    };
    let target = analysis.occurrences.iter().find(|occurrence| occurrence.written).map(|o| o.attribute);
    let column = facts.columns.as_ref().and_then(|columns| columns.get(place));
    let through =
        column.and_then(|column| column.attribute).filter(|a| analysis.attributes[*a].family() == key_type.family());
    let typmod = analysis
        .context
        .catalog
        .relation(&table.name)
        .and_then(|relation| relation.column(key_column))
        .map_or(-1, |column| column.typmod);
    if let (Some(target), Some(source)) = (target, through) {
        if typmod < 0 || *key_type == KeyType::Varchar && column.is_some() {
            analysis.implies.push((source, target));
        }
    } else if let (Some(target), SetExpr::Select(select)) =
        (
            target,
            insert.source.as_ref().map_or(
                &SetExpr::Table(Box::new(sqlparser::ast::Table { table_name: None, schema_name: None })),
                |q| &*q.body,
            ),
        )
    {
        // A constant in the select list.
        if let Some(expr) = super::names::plain_item(select, place + 1) {
            let key = row_key(analysis, table, key_column, *key_type, typmod, expr)?;
            analysis.seeds.push((target, vec![key]));
        }
    }
    let unknown = || {
        refused(
            format!("which shard key \"{key_column}\" INSERT ... SELECT gives its rows is not known"),
            "The rows would have to travel between shards.",
            "Select the shard key of a colocated table, or a constant, into the key column.",
        )
    };
    let keys = analysis.keys();
    if keys.is_none() && through.is_none() {
        return Err(unknown());
    }
    let nullable = column.is_none_or(|column| column.nullable);
    let multi = if let Some(block) = facts.block().or(with_facts.block()) {
        MultiShard::Refused(Box::new(block.clone()))
    } else if through.is_none() || nullable || !facts.sharded || analysis.modifying_with {
        MultiShard::Refused(Box::new(unknown()))
    } else if let Some(error) = blocked_by_calls(calls) {
        MultiShard::Refused(Box::new(error))
    } else {
        MultiShard::Write
    };
    let targets = keys.map_or(Targets::Keyspace(*keyspace), Targets::Keys);
    Ok(Plan::Query(finish(analysis, Access::Write, targets, multi, returns_rows)))
}
