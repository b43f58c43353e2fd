//! SELECT, VALUES, WITH, INSERT, UPDATE, DELETE, MERGE: analysed once, then given to the first tier that accepts.
//!
//! Without sharded tables: `SELECT 1` and reference tables go to any one shard, single tables and what may depend on the
//! server (sequences, advisory locks, functions of the application) to the home shard.

use std::ops::ControlFlow;
use std::sync::Arc;

use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, ObjectName, Query as SqlQuery, SetExpr, Statement, TableAlias,
    TableFactor, Visit, Visitor,
};

use super::analysis::{Analysis, Facts};
use super::context::{FunctionUse, Placed, PlanContext};
use super::notation::{self, Columns};
use super::reach::{self, Code, Reach};
use super::refuse::{lexical_error, not_over_shards, refused, syntax_error, GIVE_THE_KEY};
use super::types::{Access, Home, MultiShard, Plan, Query, Targets};
use super::{clock, concatenate, current_of, exact, gather, insert, oid_columns, oids, point_read, unseen, write};
use crate::catalog::builtin::{is_clock_function, is_clock_word, is_grammar};
use crate::catalog::effects::Effects;
use crate::catalog::{Events, Volatility};
use crate::sql::dialect::{is_between_symmetric, is_made_up_name, table_commands, ROWS_FROM};
use crate::sql::lexer::{lex, Kind};
use crate::sql::parse::{ident_value, name_parts, parse, ParseError, Text};
use crate::sql::splice::{apply, Splice};
use crate::wire::{PgError, SqlState};

/// Those that `[NOT] BETWEEN [SYMMETRIC]` stands for.
const BETWEEN_OPERATORS: &[&str] = &["<", "<=", ">", ">="];

/// What the functions of a statement do, wherever they are called.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    pub home: Option<String>,
    /// One of them that only its own session can answer.
    pub session: Option<String>,
    /// A function of the application's that reads the clock.
    pub user: Option<String>,
    pub volatile: Option<String>,
    /// Stable ones, clocks among them.
    pub stable: Option<String>,
    /// Stable ones that are no clocks.
    pub settled: Option<String>,
    /// What the application's functions touch.
    pub code: Vec<Code>,
    /// Whether any function is the application's, or unknown.
    pub calls_code: bool,
    /// A volatile one that one server would call once for all rows, and every shard would call once.
    pub volatile_once: Option<String>,
    /// `FROM now()`: no value can be put there.
    pub clock_in_from: bool,
    /// An aggregate or set-returning function that is written like a column: `t.count`.
    pub dotted: Option<String>,
}

struct CallVisitor<'c, 'a> {
    context: &'c PlanContext<'a>,
    /// Found when a qualified name is also that of a function.
    columns: Option<Columns<'c, 'a>>,
    find_columns: &'c dyn Fn() -> Columns<'c, 'a>,
    calls: Calls,
    /// Of the queries around: whether it reads a sharded table itself, so that what it computes it computes by row.
    queries: Vec<bool>,
    /// The first so many of them compute by row in any case.
    by_row: usize,
    /// Functions in FROM around.
    in_from: usize,
}

impl CallVisitor<'_, '_> {
    fn name(&mut self, name: &ObjectName) {
        let Some(name) = name_parts(name).and_then(|parts| parts.last().cloned()) else { return };
        self.call(name);
    }

    fn call(&mut self, name: String) {
        self.routine(&name);
        // `positive(1)` is a cast, too.
        self.type_named(&name);
        let known = self.context.catalog.function(&name);
        self.calls.calls_code |= known.map_or(!is_grammar(&name), |function| function.user_defined);
        if is_clock_word(&name) || is_clock_function(&name) && self.context.catalog.routine(&name).is_none() {
            self.calls.stable.get_or_insert(name);
            return;
        }
        if matches!(name.as_str(), "currval" | "lastval") {
            self.calls.session.get_or_insert_with(|| name.clone());
        }
        let slot = match self.context.function(&name) {
            FunctionUse::Home => &mut self.calls.home,
            FunctionUse::Volatile => {
                let nested = self.queries.len() > self.by_row && !self.queries.last().is_some_and(|sharded| *sharded);
                if nested || self.in_from > 0 {
                    self.calls.volatile_once.get_or_insert_with(|| name.clone());
                }
                &mut self.calls.volatile
            }
            FunctionUse::Stable => {
                self.calls.settled.get_or_insert_with(|| name.clone());
                &mut self.calls.stable
            }
            FunctionUse::Immutable | FunctionUse::Aggregate => return,
        };
        slot.get_or_insert(name);
    }

    fn routine(&mut self, name: &str) {
        let catalog = self.context.catalog;
        let Some(effects) = catalog.routine(name) else { return };
        let mut effects = effects.clone();
        if catalog.function(name).is_none_or(|f| f.volatility == Volatility::Immutable) {
            // It may name tables in spite of that; else PostgreSQL trusts the declaration, too.
            effects = Effects { opaque: None, server: None, clock: false, volatile: false, ..effects };
        }
        if effects.is_table_free() && !effects.clock {
            return;
        }
        if effects.clock {
            self.calls.user.get_or_insert_with(|| name.to_owned());
        }
        self.calls.code.push(Code { what: format!("function {name}"), effects, keyspace: None, called: true });
    }

    /// `@@@` or `OPERATOR(schema.@@@)`: looked up by its symbol.
    fn operator(&mut self, operator: &impl std::fmt::Display) {
        let written = operator.to_string();
        let symbol = written.strip_prefix("OPERATOR(").and_then(|qualified| qualified.strip_suffix(')'));
        let symbol = symbol.map_or(written.as_str(), |qualified| qualified.rsplit('.').next().unwrap_or_default());
        let functions = self.context.catalog.operator(symbol.trim());
        functions.iter().for_each(|function| self.routine(function));
    }

    fn type_named(&mut self, name: &str) {
        self.calls.code.extend(type_code(self.context, name));
    }

    /// Whatever type is named: `x::positive[]`, `mood '...'`.
    fn types_within(&mut self, written: &impl std::fmt::Display) {
        let written = written.to_string();
        let names = lex(&written).unwrap_or_default();
        names.iter().filter_map(|lexeme| lexeme.identifier(&written)).for_each(|name| self.type_named(&name));
    }

    /// `FROM json_to_record(...) AS x (n positive)`, and tables out of JSON and XML.
    fn types_of_columns(&mut self, factor: &TableFactor) {
        let alias: &Option<TableAlias> = match factor {
            TableFactor::Table { args: Some(_), alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::TableFunction { alias, .. } => alias,
            TableFactor::JsonTable { columns, .. } => {
                return columns.iter().for_each(|column| self.types_within(column));
            }
            TableFactor::XmlTable { columns, .. } => {
                return columns.iter().for_each(|column| self.types_within(column));
            }
            _ => return,
        };
        let columns = alias.iter().flat_map(|alias| &alias.columns);
        columns.filter_map(|column| column.data_type.as_ref()).for_each(|data_type| self.types_within(data_type));
    }

    fn dotted(&mut self, expr: &Expr) {
        let catalog = self.context.catalog;
        if !notation::qualified_names(expr).into_iter().any(|name| catalog.function(&ident_value(name)).is_some()) {
            return;
        }
        let columns = self.columns.get_or_insert_with(self.find_columns);
        for name in columns.calls(expr) {
            let Some(function) = self.context.catalog.function(&name) else { continue };
            if function.aggregate || function.set_returning {
                self.calls.dotted.get_or_insert_with(|| name.clone());
            }
            self.call(name);
        }
    }
}

/// `ROWS FROM (now())`.
fn reads_clock_in_rows_from(factor: &TableFactor) -> bool {
    let TableFactor::Table { name, args: Some(args), .. } = factor else { return false };
    let rows_from = is_made_up_name(name) && name_parts(name).is_some_and(|parts| parts == [ROWS_FROM]);
    rows_from
        && args.args.iter().any(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(function))) => name_parts(&function.name)
                .and_then(|parts| parts.last().cloned())
                .is_none_or(|name| is_clock_function(&name) || is_clock_word(&name)),
            _ => true,
        })
}

fn is_function(factor: &TableFactor) -> bool {
    matches!(
        factor,
        TableFactor::Table { args: Some(_), .. }
            | TableFactor::Function { .. }
            | TableFactor::UNNEST { .. }
            | TableFactor::TableFunction { .. }
    )
}

impl Visitor for CallVisitor<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &SqlQuery) -> ControlFlow<()> {
        let own = |factor: &TableFactor| match factor {
            TableFactor::Table { name, args: None, .. } => name_parts(name)
                .and_then(|parts| self.context.table(&parts).ok())
                .is_some_and(|table| matches!(table.placed, Placed::Sharded { .. })),
            _ => false,
        };
        let sharded = match &*query.body {
            SetExpr::Select(select) => {
                select.from.iter().any(|item| own(&item.relation) || item.joins.iter().any(|join| own(&join.relation)))
            }
            _ => false,
        };
        self.queries.push(sharded);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &SqlQuery) -> ControlFlow<()> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.in_from -= usize::from(is_function(factor));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(Function { name, .. }) => {
                if is_between_symmetric(name) {
                    BETWEEN_OPERATORS.iter().for_each(|operator| self.operator(operator));
                }
                self.name(name);
            }
            Expr::BinaryOp { op, .. } => self.operator(op),
            Expr::UnaryOp { op, .. } => self.operator(op),
            Expr::AnyOp { compare_op, .. } | Expr::AllOp { compare_op, .. } => self.operator(compare_op),
            Expr::InList { .. } | Expr::InSubquery { .. } | Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) => {
                ["=", "<>"].iter().for_each(|operator| self.operator(operator));
            }
            Expr::Between { .. } => BETWEEN_OPERATORS.iter().for_each(|operator| self.operator(operator)),
            Expr::Cast { data_type, .. } => self.types_within(data_type),
            Expr::TypedString(typed) => self.types_within(&typed.data_type),
            Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } => self.dotted(expr),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.in_from += usize::from(is_function(factor));
        self.types_of_columns(factor);
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                let last = name_parts(name).and_then(|parts| parts.last().cloned()).unwrap_or_default();
                self.calls.clock_in_from |= is_clock_function(&last) || reads_clock_in_rows_from(factor);
                self.name(name);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

pub fn calls(context: &PlanContext<'_>, statement: &impl Visit) -> Calls {
    calls_within(context, statement, 1)
}

/// `by_row`: how many levels of queries there are, from the outermost, whose expressions are computed for each row.
fn calls_within(context: &PlanContext<'_>, statement: &impl Visit, by_row: usize) -> Calls {
    let find_columns = || Columns::of(context, statement);
    let mut visitor = CallVisitor {
        context,
        columns: None,
        find_columns: &find_columns,
        calls: Calls::default(),
        queries: Vec::new(),
        by_row,
        in_from: 0,
    };
    let _ = statement.visit(&mut visitor);
    visitor.calls
}

pub fn plan(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    plan_with(context, text, false)
}

/// Rows of sharded tables are gathered even where a cheaper tier takes the statement, or one shard has them all.
pub fn gathered(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    plan_with(context, text, true)
}

fn plan_with(context: &PlanContext<'_>, text: &Text<'_>, only_gathers: bool) -> Result<Plan, PgError> {
    if let Some(sql) = selected(context, text) {
        let text = Text::new(&sql).map_err(|error| lexical_error(&error, &sql))?;
        return plan_text(context, &text, only_gathers);
    }
    plan_text(context, text, only_gathers)
}

/// `TABLE t` of a sharded table as the SELECT that it stands for: what is spliced into a text has a place there.
fn selected(context: &PlanContext<'_>, text: &Text<'_>) -> Option<String> {
    let commands = table_commands(text);
    let is_sharded = |name: usize| {
        let next = |at: &usize| text.punctuation(at + 1, b'.').then_some(at + 2);
        let parts = std::iter::successors(Some(name), next).map(|at| text.lexemes.get(at)?.identifier(text.sql));
        let table = parts.collect::<Option<Vec<_>>>().and_then(|parts| context.table(&parts).ok());
        table.is_some_and(|table| matches!(table.placed, Placed::Sharded { .. }))
    };
    if !commands.iter().any(|(_, name)| is_sharded(*name)) {
        return None;
    }
    let splice = |(at, _): &(usize, usize)| {
        Splice::replace(text.lexemes[*at].start..text.lexemes[*at].end, "SELECT * FROM".to_owned())
    };
    apply(text.sql, &commands.iter().map(splice).collect::<Vec<_>>())
}

fn plan_text(context: &PlanContext<'_>, text: &Text<'_>, only_gathers: bool) -> Result<Plan, PgError> {
    let statement = match parse(text) {
        Ok(statement) => statement,
        Err(error) => return unparsed(context, text, &error),
    };
    let by_row = usize::from(matches!(statement, Statement::Query(_) | Statement::Insert(_)));
    let mut calls = calls_within(context, &statement, by_row);
    calls.code.extend(typed_strings(context, text));
    let mut analysis = Analysis::new(context, text);
    analysis.only_gathers = only_gathers;
    let plan = match &statement {
        Statement::Query(query) => select(&mut analysis, query, &calls),
        Statement::Insert(insert) => insert::plan(&mut analysis, insert, None, &calls),
        Statement::Update(update) => write::update(&mut analysis, update, None, &calls),
        Statement::Delete(delete) => write::delete(&mut analysis, delete, None, &calls),
        Statement::Merge(merge) => write::merge(&mut analysis, merge, None, &calls),
        _ => return unparsed(context, text, &ParseError::other("the statement is not a query")),
    };
    let plan = plan?;
    // A query whose rows travel is planned, and checked, by itself.
    if !matches!(plan, Plan::InsertSelect(_)) {
        unseen::check(&analysis, &statement)?;
    }
    let events = if analysis.modifying_with { Events::ALL } else { analysis.events };
    for written in analysis.occurrences.iter().filter(|occurrence| occurrence.written) {
        reach::key_triggers(context, &written.table, &written.key_column, events)?;
    }
    oids::check(&analysis)?;
    oid_columns::check(&analysis, &statement)?;
    match plan {
        Plan::Query(query) => {
            let query = exact::check(&analysis, &calls, query)?;
            match current_of::cursor(text) {
                Some(cursor) => current_of::plan(query, cursor),
                None => Ok(Plan::Query(query)),
            }
        }
        other => Ok(other),
    }
}

/// What checks or converts values of a type.
fn type_code(context: &PlanContext<'_>, name: &str) -> Option<Code> {
    let effects = context.catalog.type_effects(name).filter(|effects| !effects.is_table_free())?;
    let what = format!("a check or cast of type {name}");
    Some(Code { what, effects: effects.clone(), keyspace: None, called: true })
}

/// `positive '1'`, which the parser reads as a column and its alias.
fn typed_strings<'a>(context: &'a PlanContext<'_>, text: &'a Text<'_>) -> impl Iterator<Item = Code> + 'a {
    let named = text.lexemes.windows(2).filter(|pair| pair[1].kind == Kind::String);
    named.filter_map(|pair| type_code(context, &pair[0].identifier(text.sql)?))
}

/// What the parser does not know goes to the home shard as it is, unless it may concern tables that are elsewhere.
fn unparsed(context: &PlanContext<'_>, text: &Text<'_>, error: &ParseError) -> Result<Plan, PgError> {
    for lexeme in text.lexemes.iter().filter(|lexeme| matches!(lexeme.kind, Kind::Word | Kind::QuotedWord)) {
        let name = lexeme.identifier(text.sql);
        let Some(name) = name.or_else(|| context.topology.tables.first().map(|table| table.name.name.clone())) else {
            continue;
        };
        let listed = context.topology.tables.iter().any(|table| table.name.name == name);
        let view = context.catalog.names_relation(&name) && !listed && {
            // Partitions and views of listed tables count as well.
            context
                .table(std::slice::from_ref(&name))
                .map_or(true, |table| !matches!(table.placed, Placed::Single | Placed::System))
        };
        if listed || view {
            // A shard might understand it, so this is a refusal even where PostgreSQL too would find an error.
            let at = error.offset.unwrap_or(lexeme.start);
            let error = syntax_error(format!("the statement is not understood: {error}"), at, text.sql);
            return Err(PgError { code: SqlState::FEATURE_NOT_SUPPORTED, ..error }
                .detail(format!("It names \"{name}\", which is not on one shard alone; it was sent nowhere."))
                .hint("Write it differently, or run it on the shard itself, past the gateway."));
        }
    }
    let effects = context.catalog.effects(text.sql);
    let code = Code { what: "the statement".to_owned(), effects, keyspace: None, called: true };
    reach::check(context, &[code], &Targets::Home)?;
    Ok(Plan::Home(Home { sql: Arc::from(text.sql), pins: false }))
}

/// What a statement without sharded tables concerns.
pub fn unsharded_targets(analysis: &Analysis<'_>, calls: &Calls) -> Targets {
    let context = analysis.context;
    let mut code = calls.code.iter().chain(&analysis.code);
    let home = !analysis.singles.is_empty()
        || calls.home.is_some()
        || code.any(|code| matches!(reach::reach(context, code), Reach::Home(_)));
    // Locks on reference rows are taken on one agreed shard, so that they exclude each other.
    let locks_reference = analysis.locking && !analysis.references.is_empty();
    if home || locks_reference || oids::needs_home(analysis, calls) {
        Targets::Home
    } else {
        Targets::AnyOne
    }
}

pub fn mixed_with_single(analysis: &Analysis<'_>) -> Option<PgError> {
    let single = analysis.singles.iter().next()?;
    let sharded = analysis.occurrences.first()?;
    let known = analysis.context.catalog.relation(single).is_some();
    let what = if known { "single table" } else { "unknown table" };
    Some(refused(
        format!("the statement mixes {what} {single} with sharded table {}", sharded.table),
        format!("The rows of {single} are on the home shard only."),
        format!("Make it a reference table: SELECT create_reference_table('{single}')."),
    ))
}

pub fn different_keyspaces(analysis: &Analysis<'_>) -> Option<PgError> {
    let first = analysis.occurrences.first()?;
    let other = analysis.occurrences.iter().find(|occurrence| occurrence.keyspace != first.keyspace)?;
    Some(refused(
        format!("tables {} and {} are in different keyspaces", first.table, other.table),
        "Their rows are placed independently of each other.",
        "Distribute them with colocate_with, or use two statements.",
    ))
}

/// Functions that make a statement over several shards inexact.
pub fn blocked_by_calls(calls: &Calls) -> Option<PgError> {
    if let Some(name) = calls.user.as_ref() {
        return Some(not_over_shards(
            format!("Function {name} reads the clock; every shard has one of its own."),
            "Write now() in the statement, or hold it to one shard's keys.",
        ));
    }
    if let Some(name) = &calls.dotted {
        return Some(not_over_shards(
            format!("No relation is known to have a column {name}, so that .{name} may call the function {name}."),
            format!("Write {name}(...) for a call; for a column, name it in the select list that it comes from."),
        ));
    }
    calls.home.as_ref().map(|name| {
        not_over_shards(
            format!("Function {name} depends on the server that runs it."),
            "Call it in a statement of its own.",
        )
    })
}

fn select(analysis: &mut Analysis<'_>, query: &SqlQuery, calls: &Calls) -> Result<Plan, PgError> {
    // A query that is a data-modifying statement with WITH in front of it.
    match &*query.body {
        SetExpr::Insert(Statement::Insert(insert)) => return insert::plan(analysis, insert, Some(query), calls),
        SetExpr::Update(Statement::Update(update)) => return write::update(analysis, update, Some(query), calls),
        SetExpr::Delete(Statement::Delete(delete)) => return write::delete(analysis, delete, Some(query), calls),
        SetExpr::Merge(Statement::Merge(merge)) => return write::merge(analysis, merge, Some(query), calls),
        _ => {}
    }
    // LIMIT of the whole statement is the tiers' business; only one that reads tables is analysed.
    let counts_read =
        query.limit_clause.is_some() && analysis.collect(&query.limit_clause.iter().collect::<Vec<_>>()).has_sublinks();
    let unlimited;
    let analysed = if counts_read {
        query
    } else {
        unlimited = SqlQuery { limit_clause: None, fetch: None, ..query.clone() };
        &unlimited
    };
    let facts = analysis.query(analysed)?;
    if analysis.reference_written {
        return Err(refused(
            "a reference table is written in WITH",
            "The write has to reach every shard.",
            "Use a statement of its own.",
        ));
    }
    let access = if analysis.modifying_with || writing_code(analysis, calls) {
        Access::Write
    } else if analysis.locking {
        Access::LockingRead
    } else {
        Access::Read
    };
    let apart = different_keyspaces(analysis).or_else(|| mixed_with_single(analysis));
    let (targets, multi) = match apart {
        // Tables that are placed independently of each other.
        Some(why) => {
            let multi = several(analysis, query, &Facts { core: Some(Box::new(why)), ..facts }, calls, access);
            match multi {
                MultiShard::Refused(why) => return Err(*why),
                multi => (Targets::EveryMember, multi),
            }
        }
        None => targets(analysis, calls, |analysis| several(analysis, query, &facts, calls, access))?,
    };
    let home_access = if matches!(targets, Targets::Home) && calls.home.is_some() { Access::Write } else { access };
    let reads = home_access == Access::Read;
    let point_read = reads.then(|| point_read::point_read(analysis.context, query, calls)).flatten();
    Ok(Plan::Query(Query { point_read, ..finish(analysis, home_access, targets, multi, true) }))
}

/// Whether functions may write tables.
fn writing_code(analysis: &Analysis<'_>, calls: &Calls) -> bool {
    let writes =
        |code: &Code| !code.effects.written.is_empty() || code.effects.opaque.is_some() || code.effects.notifies;
    calls.code.iter().chain(&analysis.code).any(writes)
}

/// Decides between no sharded tables, keys, and the whole keyspace.
pub fn targets<'a>(
    analysis: &mut Analysis<'a>,
    calls: &Calls,
    multi: impl FnOnce(&mut Analysis<'a>) -> MultiShard,
) -> Result<(Targets, MultiShard), PgError> {
    if analysis.occurrences.is_empty() {
        let plain = super::types::Concatenate { sql: None, limit: super::types::LimitOffset::default() };
        return Ok((unsharded_targets(analysis, calls), MultiShard::Concatenate(plain)));
    }
    if let Some(error) = different_keyspaces(analysis).or_else(|| mixed_with_single(analysis)) {
        return Err(error);
    }
    let keyspace = analysis.occurrences[0].keyspace;
    let targets = match analysis.keys() {
        Some(keys) => Targets::Keys(keys),
        None => Targets::Keyspace(keyspace),
    };
    let constant_key = matches!(&targets, Targets::Keys(keys) if keys.values.len() == 1
        && !matches!(keys.values[0], super::types::KeyExpression::ParameterArray { .. }));
    let multi = if constant_key && !analysis.only_gathers {
        // Never asked for: one key is one shard.
        MultiShard::Concatenate(super::types::Concatenate { sql: None, limit: super::types::LimitOffset::default() })
    } else {
        multi(analysis)
    };
    Ok((targets, multi))
}

/// How a query runs on more than one shard.
fn several(analysis: &mut Analysis<'_>, query: &SqlQuery, facts: &Facts, calls: &Calls, access: Access) -> MultiShard {
    if let Some(error) = blocked_multi(analysis, facts, calls) {
        return MultiShard::Refused(Box::new(error));
    }
    let pushed_down = match &facts.core {
        Some(core) => MultiShard::Refused(core.clone()),
        None if !facts.sharded => MultiShard::Refused(Box::new(not_over_shards(
            "Its sharded tables are read where they give no rows of its own.",
            GIVE_THE_KEY,
        ))),
        None if analysis.only_gathers => MultiShard::Refused(Box::new(not_gathered())),
        None => concatenate::select(analysis, query, facts),
    };
    match pushed_down {
        MultiShard::Refused(why) if why.code == SqlState::FEATURE_NOT_SUPPORTED => {
            match gather::plan(analysis, query, access, *why) {
                Ok(gather) => MultiShard::Gather(Box::new(gather)),
                Err(error) => MultiShard::Refused(Box::new(error)),
            }
        }
        multi => multi,
    }
}

fn not_gathered() -> PgError {
    not_over_shards("Its rows cannot come together on one shard.", "Use the query by itself.")
}

/// What no tier makes exact.
fn blocked_multi(analysis: &Analysis<'_>, facts: &Facts, calls: &Calls) -> Option<PgError> {
    if !facts.sharded && analysis.modifying_with {
        return Some(not_over_shards("Its sharded tables are read by a statement in WITH only.", GIVE_THE_KEY));
    }
    if analysis.system {
        return Some(not_over_shards(
            "It reads system catalogs, which differ between servers, together with a sharded table.",
            "Use two statements, or hold the sharded table to its key.",
        ));
    }
    blocked_by_calls(calls)
}

pub fn finish(
    analysis: &Analysis<'_>,
    access: Access,
    targets: Targets,
    multi: MultiShard,
    returns_rows: bool,
) -> Query {
    let sharded = analysis.sharded_references();
    let rewritten = concatenate::rewritten_references(analysis, &sharded, &multi);
    Query {
        sql: Arc::from(analysis.text.sql),
        access,
        targets,
        sharded,
        rewritten,
        multi,
        tables: analysis.tables.iter().cloned().collect(),
        returns_rows,
        clock: clock::reads(analysis.text),
        oid_columns: oid_columns::any(analysis),
        calls_code: false,
        point_read: None,
    }
}
