//! UPDATE, DELETE and MERGE, and every write to a reference table.
//!
//! Held to keys they go to one shard; else UPDATE and DELETE run on every shard of the keyspace in one transaction, when
//! FROM, USING and subqueries are joined on the key. MERGE is for one shard only. A reference table is written on every
//! member, and only by statements that do the same on each. Example: `UPDATE orders SET qty = 0 WHERE amount < 1`.

use ringway_topology::token::KeyType;
use sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, Merge, Query as SqlQuery, SelectItem, TableFactor,
    TableWithJoins, Update, UpdateTableFromKind,
};

use super::analysis::{Analysis, Facts, Scope};
use super::context::{FunctionUse, Placed, ResolvedTable};
use super::exact::{foreign_keys, order_decides, Given};
use super::keys::{fits, strip, Filter};
use super::names::{item_expression, Blocked};
use super::refuse::{not_over_shards, refused, GIVE_THE_KEY};
use super::rows::{blocked_by_calls, different_keyspaces, finish, mixed_with_single, Calls};
use super::types::{Access, FilterSplice, KeyExpression, MultiShard, Plan, Targets};
use super::{clock, computed};
use crate::catalog::Events;
use crate::sql::clauses;
use crate::sql::dialect::{expressions, target_column};
use crate::sql::lexer::Kind;
use crate::sql::parse::{current_of, ident_value, name_parts};
use crate::wire::PgError;

/// WITH in front of a statement that writes.
pub fn with(analysis: &mut Analysis<'_>, query: Option<&SqlQuery>) -> Result<Facts, PgError> {
    let mut facts = Facts::default();
    if let Some(with) = query.and_then(|query| query.with.as_ref()) {
        analysis.with(with, &mut facts)?;
    }
    Ok(facts)
}

pub fn assigns(assignment: &Assignment, column: &str) -> bool {
    let is = |name: &sqlparser::ast::ObjectName| target_column(name).is_none_or(|own| own == column);
    match &assignment.target {
        AssignmentTarget::ColumnName(name) => is(name),
        AssignmentTarget::Tuple(names) => names.iter().any(is),
    }
}

fn assigned_columns(assignment: &Assignment) -> Vec<String> {
    match &assignment.target {
        AssignmentTarget::ColumnName(name) => target_column(name).into_iter().collect(),
        AssignmentTarget::Tuple(names) => names.iter().filter_map(target_column).collect(),
    }
}

/// What an assignment computes: the value, and subscripts of its targets.
fn assignment_expressions(assignment: &Assignment) -> Vec<&Expr> {
    let mut out = match &assignment.target {
        AssignmentTarget::ColumnName(name) => expressions(name),
        AssignmentTarget::Tuple(names) => names.iter().flat_map(expressions).collect(),
    };
    out.push(&assignment.value);
    out
}

/// A write that reads reference tables copied on every shard is fine; one that writes them besides is not.
pub fn refuse_hidden_reference(analysis: &Analysis<'_>) -> Result<(), PgError> {
    if analysis.reference_written {
        return Err(refused(
            "a reference table is written in WITH",
            "The write has to reach every shard.",
            "Use a statement of its own.",
        ));
    }
    Ok(())
}

/// A write to a reference table: `read` analyses the rest of the statement.
pub fn reference(
    analysis: &mut Analysis<'_>,
    calls: &Calls,
    returns_rows: bool,
    inserted: Option<&[String]>,
    read: impl FnOnce(&mut Analysis<'_>) -> Result<(), PgError>,
) -> Result<Plan, PgError> {
    let table = analysis.references.iter().next().cloned();
    read(analysis)?;
    let differs = |what: String| {
        Err(refused(
            "a reference table is written with values that differ between shards",
            what,
            "Compute the value first and give it as a literal or a parameter.",
        ))
    };
    if let Some(occurrence) = analysis.occurrences.first() {
        return differs(format!(
            "The statement reads sharded table {}, of which every shard has other rows.",
            occurrence.table
        ));
    }
    if let Some(single) = analysis.singles.iter().next() {
        return differs(format!("The statement reads single table {single}, whose rows are on the home shard only."));
    }
    if analysis.modifying_with {
        return differs("The statement has another statement that writes in WITH.".to_owned());
    }
    // Clocks are given one value for all shards.
    if let Some(name) =
        calls.home.as_ref().or(calls.user.as_ref()).or(calls.volatile.as_ref()).or(calls.settled.as_ref())
    {
        const SAME: &[&str] =
            &["current_user", "session_user", "user", "current_role", "current_database", "current_catalog"];
        if !SAME.contains(&name.as_str()) {
            return differs(format!("Function {name} may give each shard another value."));
        }
    }
    let own_code = analysis.code.iter().find(|code| {
        let effects = &code.effects;
        effects.clock || effects.volatile || effects.server.is_some() || effects.opaque.is_some()
    });
    if let (Some(code), true) = (own_code, analysis.context.is_spread()) {
        return differs(format!("{} may give each shard another value.", sentence(&code.what)));
    }
    let text = analysis.text;
    for (index, lexeme) in text.lexemes.iter().enumerate() {
        if lexeme.kind == Kind::Word {
            let word = lexeme.text(text.sql).to_ascii_lowercase();
            if matches!(word.as_str(), "limit" | "fetch" | "offset") && clauses::is_keyword(text, index, &word) {
                return differs("Which rows LIMIT and OFFSET choose may differ between shards.".to_owned());
            }
            if word == "default" {
                if let Some(column) = table.as_ref().and_then(|table| volatile_default(analysis, table, |_| true)) {
                    return differs(format!("The default of column {column} may give each shard another value."));
                }
            }
        }
    }
    if let Some(why) = clock::unfixable(text) {
        return differs(why);
    }
    if let (Some(columns), Some(table)) = (inserted, &table) {
        let left_out = |name: &str| !columns.iter().any(|column| column == name);
        let whole = columns.is_empty() || text.word(text.lexemes.len() - 1, "values");
        if let Some(column) = volatile_default(analysis, table, |name| whole || left_out(name)) {
            return differs(format!("The default of column {column} may give each shard another value."));
        }
        // A VALUES list shorter than the table takes defaults as well.
        if let Some(column) = volatile_default(analysis, table, |_| true) {
            let listed =
                text.lexemes.iter().any(|lexeme| lexeme.identifier(text.sql).as_deref() == Some(column.as_str()));
            if !listed {
                return differs(format!("The default of column {column} may give each shard another value."));
            }
        }
    }
    let multi = MultiShard::WriteEverywhere;
    Ok(Plan::Query(finish(analysis, Access::Write, Targets::EveryMember, multi, returns_rows)))
}

fn sentence(what: &str) -> String {
    let mut characters = what.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// A reference table's copies stay equal only if no choice is left to the order in which a shard finds rows.
pub fn refuse_choice(analysis: &Analysis<'_>, why: Option<String>) -> Result<(), PgError> {
    match why {
        Some(why) if analysis.context.is_spread() => Err(refused(
            "what is written into a reference table would depend on the order of rows",
            why,
            "Read the rows first, and write them as literals or parameters.",
        )),
        _ => Ok(()),
    }
}

/// Expressions of a statement that leave such a choice.
pub fn choice(statement: &impl sqlparser::ast::Visit) -> Option<String> {
    let found = sqlparser::ast::visit_expressions(statement, |expr| match order_decides(expr) {
        Some(why) => std::ops::ControlFlow::Break(why),
        None => std::ops::ControlFlow::Continue(()),
    });
    found.break_value()
}

/// A column whose default is not the same on every shard.
fn volatile_default(
    analysis: &Analysis<'_>,
    table: &ringway_topology::model::TableName,
    taken: impl Fn(&str) -> bool,
) -> Option<String> {
    let relation = analysis.context.catalog.relation(table)?;
    relation.columns.iter().filter(|column| taken(&column.name)).find_map(|column| {
        let volatile = column.identity
            || column
                .default
                .as_deref()
                .is_some_and(|default| !column.generated && depends_on_server(analysis, default));
        volatile.then(|| column.name.clone())
    })
}

fn depends_on_server(analysis: &Analysis<'_>, expression: &str) -> bool {
    let Ok(lexemes) = crate::sql::lexer::lex(expression) else { return true };
    lexemes.iter().any(|lexeme| {
        lexeme.identifier(expression).is_some_and(|name| {
            name.starts_with("current_")
                || name.starts_with("local")
                || analysis.context.catalog.routine(&name).is_some_and(|effects| !effects.is_table_free())
                || !matches!(analysis.context.function(&name), FunctionUse::Immutable | FunctionUse::Aggregate)
        })
    })
}

pub fn written_view(view: &ringway_topology::model::TableName) -> PgError {
    refused(
        "a view of a table that is on several shards is written",
        format!("What a write of {view} does to its table is told by PostgreSQL's rules, not by the statement."),
        "Write to the table that the view reads.",
    )
}

/// The target with its place for a filter, in a new scope.
fn open(analysis: &mut Analysis<'_>, factor: &TableFactor, first: Option<usize>) -> Result<ResolvedTable, PgError> {
    let TableFactor::Table { name, alias, args: None, .. } = factor else {
        return Err(refused("the target of the statement is no table", "", "Write to a table."));
    };
    let parts = name_parts(name).ok_or_else(|| refused("this table name is not supported", "", "Use a plain name."))?;
    let table = analysis.context.table(&parts)?;
    if table.view && !matches!(table.placed, Placed::Single | Placed::System) {
        return Err(written_view(&table.name));
    }
    let alias = alias.as_ref().map_or_else(|| table.name.name.clone(), |alias| ident_value(&alias.name));
    let text = analysis.text;
    let positioned = current_of(text).is_none()
        && (0..text.lexemes.len())
            .any(|at| text.word(at, "where") && text.word(at + 1, "current") && text.word(at + 2, "of"));
    if positioned && !matches!(table.placed, Placed::Single | Placed::System) {
        return Err(refused(
            "WHERE CURRENT OF on a table that is on several shards",
            "The cursor's row is known to one connection of one shard.",
            "Name the row by its primary key.",
        ));
    }
    let splice = match first.and_then(|first| clauses::write(text, first)) {
        Some(found) => match found.where_ {
            Some(extent) if text.word(*extent.start(), "current") => FilterSplice::Unknown,
            Some(extent) => FilterSplice::Where {
                start: text.lexemes[*extent.start()].start,
                end: text.lexemes[*extent.end()].end,
                alias: alias.clone(),
            },
            None => {
                let end = text.lexemes[found.last].end;
                FilterSplice::Where { start: end, end, alias: alias.clone() }
            }
        },
        None => FilterSplice::Unknown,
    };
    let mut relation = analysis.base(&table, splice, true);
    relation.alias = alias;
    analysis.scopes.push(Scope { relations: vec![relation], ..Scope::default() });
    Ok(table)
}

struct Body<'q> {
    from: Vec<&'q TableWithJoins>,
    selection: Option<&'q Expr>,
    expressions: Vec<&'q Expr>,
    returning: &'q [SelectItem],
}

/// Analyses FROM, WHERE and subqueries in the target's scope, and closes it.
fn body(analysis: &mut Analysis<'_>, parts: &Body<'_>) -> Result<Blocked, PgError> {
    let mut joins = Vec::new();
    let mut outer = Vec::new();
    let mut core: Blocked = None;
    for item in &parts.from {
        analysis.from_item(item, &mut joins, &mut outer, &mut core)?;
    }
    if let Some(selection) = parts.selection {
        let pairs = analysis.condition(selection, &Filter::Always);
        analysis.connect_pairs(&pairs, &mut outer);
    }
    let mut expressions = parts.expressions.clone();
    expressions.extend(parts.selection);
    expressions.extend(parts.returning.iter().filter_map(item_expression));
    let level = analysis.collect(&expressions);
    let (_, block, _) = analysis.level_sublinks(level)?;
    let colocated = analysis.colocated(&joins);
    analysis.scopes.pop();
    Ok(core.or(colocated).or(block))
}

fn conclude(
    analysis: &mut Analysis<'_>,
    table: &ResolvedTable,
    block: Option<PgError>,
    calls: &Calls,
    returns_rows: bool,
) -> Result<Plan, PgError> {
    if let Some(error) = different_keyspaces(analysis).or_else(|| mixed_with_single(analysis)) {
        return Err(error);
    }
    refuse_hidden_reference(analysis)?;
    match &table.placed {
        Placed::Sharded { keyspace, .. } => {
            let targets = analysis.keys().map_or(Targets::Keyspace(*keyspace), Targets::Keys);
            let multi = match block.or_else(|| blocked_by_calls(calls)) {
                Some(error) => MultiShard::Refused(Box::new(error)),
                None => MultiShard::Write,
            };
            Ok(Plan::Query(finish(analysis, Access::Write, targets, multi, returns_rows)))
        }
        _ => Ok(Plan::Query(finish(analysis, Access::Write, Targets::Home, MultiShard::Write, returns_rows))),
    }
}

pub fn update(
    analysis: &mut Analysis<'_>,
    update: &Update,
    with_query: Option<&SqlQuery>,
    calls: &Calls,
) -> Result<Plan, PgError> {
    let with_facts = with(analysis, with_query)?;
    if !update.table.joins.is_empty() {
        return Err(refused("UPDATE of a join is not PostgreSQL's", "", "Use UPDATE ... FROM."));
    }
    let first = analysis.text.location(update.update_token.0.span.start);
    analysis.events = Events::UPDATE;
    let table = open(analysis, &update.table.relation, first)?;
    let from: Vec<&TableWithJoins> = match &update.from {
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from.iter().collect(),
        None => Vec::new(),
    };
    let parts = Body {
        from,
        selection: update.selection.as_ref(),
        expressions: update.assignments.iter().flat_map(assignment_expressions).collect(),
        returning: update.returning.as_deref().unwrap_or_default(),
    };
    let returns_rows = update.returning.is_some();
    let assigned: Vec<String> = update.assignments.iter().flat_map(assigned_columns).collect();
    foreign_keys(analysis.context, &table.name, Given::Columns(&assigned))?;
    if matches!(table.placed, Placed::Reference) {
        let joined = (!parts.from.is_empty())
            .then(|| "Where several rows of FROM fit one row, which of them counts is left open.".to_owned());
        refuse_choice(analysis, joined.or_else(|| choice(update)))?;
        analysis.reference_written = false;
        return reference(analysis, calls, returns_rows, None, |analysis| body(analysis, &parts).map(|_| ()));
    }
    if matches!(table.placed, Placed::Single | Placed::System) {
        let block = body(analysis, &parts)?;
        return conclude(analysis, &table, block.map(|b| *b), calls, returns_rows);
    }
    let block = body(analysis, &parts)?.or(with_facts.core).map(|block| *block);
    let mut new_keys = Vec::new();
    if let Placed::Sharded { key_column, key_type, .. } = &table.placed {
        for assignment in update.assignments.iter().filter(|assignment| assigns(assignment, key_column)) {
            let constant = match &assignment.target {
                AssignmentTarget::ColumnName(name) if name.0.len() == 1 => {
                    analysis.key_expression(&assignment.value, *key_type)
                }
                _ => None,
            };
            let itself = matches!(strip(&assignment.value), Expr::Identifier(name) if ident_value(name) == *key_column)
                && matches!(&assignment.target, AssignmentTarget::ColumnName(name) if name.0.len() == 1);
            if itself {
                continue;
            }
            let relation = analysis.context.catalog.relation(&table.name);
            let typmod = relation.and_then(|relation| relation.column(key_column)).map_or(-1, |column| column.typmod);
            let stored = constant.and_then(|constant| as_stored(constant, *key_type, typmod));
            new_keys.push(stored.filter(|_| analysis.keys().is_some()).ok_or_else(|| changes_key(&table, key_column))?);
        }
    }
    let plan = conclude(analysis, &table, block, calls, returns_rows)?;
    match (plan, &table.placed) {
        (Plan::Query(mut query), Placed::Sharded { key_column, .. }) if !new_keys.is_empty() => {
            // Where one shard owns old and new keys it is an UPDATE like any other.
            if let Targets::Keys(keys) = &mut query.targets {
                for key in new_keys {
                    if !keys.values.contains(&key) {
                        keys.values.push(key);
                    }
                }
            }
            query.multi = MultiShard::Refused(Box::new(changes_key(&table, key_column)));
            Ok(Plan::Query(query))
        }
        (plan, _) => Ok(plan),
    }
}

fn changes_key(table: &ResolvedTable, key_column: &str) -> PgError {
    refused(
        format!("UPDATE changes the shard key \"{key_column}\" of {}", table.name),
        "A row with another key may belong to another shard.",
        "Delete the row and insert it with its new key, in one transaction.",
    )
}

/// A key that an assignment leaves as it is.
fn as_stored(key: KeyExpression, key_type: KeyType, typmod: i32) -> Option<KeyExpression> {
    match key {
        KeyExpression::Constant(Some(value)) => {
            fits(&value, key_type, typmod).then_some(KeyExpression::Constant(Some(value)))
        }
        KeyExpression::Parameter { index, key_type, .. } => Some(KeyExpression::Parameter { index, key_type, typmod }),
        KeyExpression::Constant(None) => Some(KeyExpression::Constant(None)),
        KeyExpression::ParameterArray { .. } => None,
    }
}

pub fn delete(
    analysis: &mut Analysis<'_>,
    delete: &Delete,
    with_query: Option<&SqlQuery>,
    calls: &Calls,
) -> Result<Plan, PgError> {
    let with_facts = with(analysis, with_query)?;
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [target] = from.as_slice() else {
        return Err(refused("DELETE of several tables is not PostgreSQL's", "", "Use DELETE ... USING."));
    };
    let first = analysis.text.location(delete.delete_token.0.span.start);
    analysis.events = Events::DELETE;
    let table = open(analysis, &target.relation, first)?;
    let parts = Body {
        from: delete.using.iter().flatten().collect(),
        selection: delete.selection.as_ref(),
        expressions: Vec::new(),
        returning: delete.returning.as_deref().unwrap_or_default(),
    };
    let returns_rows = delete.returning.is_some();
    foreign_keys(analysis.context, &table.name, Given::None)?;
    if matches!(table.placed, Placed::Reference) {
        refuse_choice(analysis, choice(delete))?;
        analysis.reference_written = false;
        return reference(analysis, calls, returns_rows, None, |analysis| body(analysis, &parts).map(|_| ()));
    }
    let block = body(analysis, &parts)?.or(with_facts.core).map(|block| *block);
    conclude(analysis, &table, block, calls, returns_rows)
}

pub fn merge(
    analysis: &mut Analysis<'_>,
    merge: &Merge,
    with_query: Option<&SqlQuery>,
    calls: &Calls,
) -> Result<Plan, PgError> {
    with(analysis, with_query)?;
    analysis.events = Events::ALL;
    let table = open(analysis, &merge.table, None)?;
    if matches!(table.placed, Placed::Sharded { .. }) {
        computed::refuse_overriding_user(analysis, &table)?;
    }
    if matches!(table.placed, Placed::Reference) {
        return Err(refused(
            "MERGE into a reference table",
            "It would have to do the same on every shard.",
            "Use INSERT ... ON CONFLICT.",
        ));
    }
    foreign_keys(analysis.context, &table.name, Given::All)?;
    foreign_keys(analysis.context, &table.name, Given::None)?;
    let mut block: Blocked = None;
    let mut outer = Vec::new();
    let source = TableWithJoins { relation: merge.source.clone(), joins: Vec::new() };
    analysis.from_item(&source, &mut Vec::new(), &mut outer, &mut block)?;
    // Rows of either side that match nothing are acted on too: the condition holds the target alone, and only for
    // clauses that match. Values must therefore be given for both sides by the source's own query or by equality.
    let pairs = analysis.condition(&merge.on, &Filter::Nullable(vec![0]));
    analysis.connect_pairs(&pairs, &mut outer);
    let level = analysis.collect(&[&*merge.on]);
    analysis.level_sublinks(level)?;
    let mut level = analysis.collect(&merge.clauses.iter().collect::<Vec<_>>());
    level.aggregates = false;
    analysis.level_sublinks(level)?;
    let inserts = merge.clauses.iter().any(|clause| matches!(clause.action, sqlparser::ast::MergeAction::Insert(_)));
    let by_source = merge
        .clauses
        .iter()
        .any(|clause| matches!(clause.clause_kind, sqlparser::ast::MergeClauseKind::NotMatchedBySource));
    analysis.scopes.pop();
    if matches!(table.placed, Placed::Sharded { .. }) && (inserts || by_source) {
        insert_key(analysis, merge, &table)?;
        if by_source {
            return Err(refused(
                "MERGE ... WHEN NOT MATCHED BY SOURCE on a sharded table",
                "It looks at every row.",
                GIVE_THE_KEY,
            ));
        }
    }
    if let Placed::Sharded { key_column, .. } = &table.placed {
        for clause in &merge.clauses {
            if let sqlparser::ast::MergeAction::Update(update) = &clause.action {
                if update_assignments(update).iter().any(|assignment| assigns(assignment, key_column)) {
                    return Err(refused(
                        format!("MERGE changes the shard key \"{key_column}\" of {}", table.name),
                        "A row with another key may belong to another shard.",
                        "Leave the key out of SET.",
                    ));
                }
            }
        }
    }
    let block = not_over_shards("MERGE runs on one shard only.", GIVE_THE_KEY);
    conclude(analysis, &table, Some(block), calls, false)
}

fn update_assignments(update: &sqlparser::ast::MergeUpdateExpr) -> &[Assignment] {
    match &update.kind {
        sqlparser::ast::MergeUpdateKind::Set(assignments) => assignments,
        _ => &[],
    }
}

/// The key of rows that MERGE inserts must be one that the target is held to.
fn insert_key(analysis: &Analysis<'_>, merge: &Merge, table: &ResolvedTable) -> Result<(), PgError> {
    use sqlparser::ast::{MergeAction, MergeInsertKind};
    let Placed::Sharded { key_column, key_type, .. } = &table.placed else { return Ok(()) };
    let own = analysis.occurrences.iter().find(|occurrence| occurrence.written).map(|o| o.attribute);
    for clause in &merge.clauses {
        let MergeAction::Insert(insert) = &clause.action else { continue };
        let columns: Vec<String> = if insert.columns.is_empty() {
            let relation = analysis.context.catalog.relation(&table.name);
            relation.map(|r| r.columns.iter().map(|c| c.name.clone()).collect()).unwrap_or_default()
        } else {
            insert.columns.iter().map(|name| target_column(name).unwrap_or_default()).collect()
        };
        let place = columns.iter().position(|column| column == key_column);
        let expr = match (&insert.kind, place) {
            (MergeInsertKind::Values(values), Some(place)) => {
                values.rows.first().and_then(|row| row.content.get(place))
            }
            _ => None,
        };
        let key = expr.and_then(|expr| analysis.key_expression(expr, *key_type));
        let held = key.is_some_and(|key| {
            analysis.seeds.iter().any(|(attribute, values)| Some(*attribute) == own && *values == [key.clone()])
        });
        if !held {
            return Err(refused(
                "MERGE inserts rows whose shard key is not known to be the one of its condition",
                "The row may belong to another shard.",
                "Write the same literal or parameter in ON (target.key = value) and in INSERT.",
            ));
        }
    }
    Ok(())
}
