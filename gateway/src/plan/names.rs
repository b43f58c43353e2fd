//! Walks a statement's tree: finds every table, opens a scope per query level, reads joins and conditions, and tells
//! of each query whether its result is the union of what the shards find ([`Facts`]).

mod from;

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Function, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, LimitClause,
    LockType, NamedWindowExpr, ObjectName, OrderBy, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, SetQuantifier, TableAlias, TableFactor, TableWithJoins,
    Visit, Visitor, WindowType, With,
};

use super::analysis::{Analysis, CommonBody, CommonTable, Facts, Occurrence, Output, Relation, Scope};
use super::colocate::{OuterJoin, OuterKind};
use super::context::{FunctionUse, Placed};
use super::keys::{strip, Filter, Found};
use super::refuse::{not_over_shards, refused, GIVE_THE_KEY, JOIN_ON_KEYS};
use super::types::FilterSplice;
use crate::sql::parse::{ident_value, name_parts};
use crate::wire::PgError;
use ringway_topology::model::TableName;

pub type Blocked = Option<Box<PgError>>;

/// How a query's subquery is used.
struct Sublink {
    query: Query,
    /// `left IN (query)`, not negated; whether it filters rows.
    within: Option<(Expr, bool)>,
}

/// Expressions of one query level, without their subqueries.
#[derive(Default)]
pub struct LevelExpressions {
    sublinks: Vec<Sublink>,
    pub aggregates: bool,
    windows: Vec<WindowType>,
}

struct Collector<'c> {
    analysis: &'c Analysis<'c>,
    out: LevelExpressions,
    depth: usize,
    within: HashMap<usize, (Expr, bool)>,
}

impl Visitor for Collector<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if self.depth == 0 {
            let within = self.within.remove(&(std::ptr::from_ref(query) as usize));
            self.out.sublinks.push(Sublink { query: query.clone(), within });
        }
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        let filtering = self.analysis.filtering.contains(&(std::ptr::from_ref(expr) as usize));
        match expr {
            Expr::InSubquery { expr, subquery, negated: false } => {
                self.within.insert(std::ptr::from_ref(&**subquery) as usize, ((**expr).clone(), filtering));
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                if let Expr::Subquery(subquery) = strip(right) {
                    self.within.insert(std::ptr::from_ref(&**subquery) as usize, ((**left).clone(), filtering));
                }
            }
            Expr::Function(function) => {
                if let Some(over) = &function.over {
                    self.out.windows.push(over.clone());
                } else if self.analysis.is_aggregate(function) {
                    self.out.aggregates = true;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

struct Tree {
    relations: Vec<usize>,
}

impl<'a> Analysis<'a> {
    pub fn is_aggregate(&self, function: &Function) -> bool {
        let name = match name_parts(&function.name) {
            Some(parts) => parts.last().cloned().unwrap_or_default(),
            None => return false,
        };
        !function.within_group.is_empty()
            || function.filter.is_some()
            || name == "grouping"
            || self.context.catalog.function(&name).is_some_and(|f| f.aggregate)
            || self.context.function(&name) == FunctionUse::Aggregate
    }

    pub fn collect<T: Visit>(&self, nodes: &[&T]) -> LevelExpressions {
        let mut collector =
            Collector { analysis: self, out: LevelExpressions::default(), depth: 0, within: HashMap::new() };
        for node in nodes {
            let _ = node.visit(&mut collector);
        }
        collector.out
    }

    /// Registers a query's WITH items. INSERT, UPDATE and DELETE among them are analysed here.
    pub fn with(&mut self, with: &With, facts: &mut Facts) -> Result<(), PgError> {
        for cte in &with.cte_tables {
            let name = ident_value(&cte.alias.name);
            let columns = cte.alias.columns.iter().map(|column| ident_value(&column.name)).collect();
            let entry = |body, scopes, visible| CommonTable {
                name: name.clone(),
                columns,
                body,
                scopes,
                visible,
                extended: cte.from.is_some(),
                referenced: Cell::new(false),
            };
            let modifying = matches!(
                *cte.query.body,
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
            );
            let body = if modifying {
                self.modifying_with = true;
                let before = self.occurrences.len();
                self.modifying_item(&cte.query)?;
                let sharded = self.occurrences.len() > before;
                facts.sharded |= sharded;
                facts.core = Some(Box::new(not_over_shards("WITH holds a statement that writes.", GIVE_THE_KEY)));
                CommonBody::Modifying { sharded }
            } else {
                CommonBody::Query(cte.query.clone())
            };
            let mut table = entry(body, self.scopes.len(), self.common.len());
            if with.recursive {
                table.visible = usize::MAX;
            }
            self.common.push(Rc::new(table));
        }
        Ok(())
    }

    pub fn query(&mut self, query: &Query) -> Result<Facts, PgError> {
        self.depth += 1;
        if self.depth > 64 {
            return Err(refused("the statement is nested too deeply", "The limit is 64 levels.", "Simplify it."));
        }
        let common = self.common.len();
        let mut before = Facts::default();
        if let Some(with) = &query.with {
            self.with(with, &mut before)?;
        }
        let outside = std::mem::take(&mut self.references);
        let mut facts = self.set_expr(&query.body, Some(query))?;
        self.locks(query);
        self.references.extend(outside);
        facts.sharded |= before.sharded;
        facts.core = facts.core.or(before.core);
        if let (false, Some(order)) = (matches!(*query.body, SetExpr::Select(_)), &query.order_by) {
            self.outer_order(order, &mut facts)?;
        }
        if query.limit_clause.is_some() || query.fetch.is_some() {
            facts.finish = facts.finish.or_else(|| {
                Some(Box::new(not_over_shards(
                    "A subquery has a LIMIT or OFFSET over rows of several shards.",
                    GIVE_THE_KEY,
                )))
            });
            if let Some(columns) = &mut facts.columns {
                columns.iter_mut().for_each(|column| column.attribute = None);
            }
            let mut expressions: Vec<&Expr> = Vec::new();
            match &query.limit_clause {
                Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                    expressions.extend(limit);
                    expressions.extend(offset.as_ref().map(|offset| &offset.value));
                }
                Some(LimitClause::OffsetCommaLimit { offset, limit }) => expressions.extend([offset, limit]),
                None => {}
            }
            expressions.extend(query.fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref()));
            let level = self.collect(&expressions);
            if level.sublinks.iter().any(|_| true) {
                for sublink in level.sublinks {
                    facts.sharded |= self.query(&sublink.query)?.sharded;
                }
                facts.core = facts.core.or_else(|| {
                    Some(Box::new(not_over_shards("LIMIT or OFFSET is a subquery.", "Use a constant or a parameter.")))
                });
            }
        }
        // WITH items that nothing refers to: nothing runs them, but their tables are the statement's.
        for index in (common..self.common.len()).rev() {
            let table = Rc::clone(&self.common[index]);
            if let (CommonBody::Query(body), false) = (&table.body, table.referenced.get()) {
                self.unreferenced(index, &table, body)?;
            }
        }
        self.common.truncate(common);
        self.depth -= 1;
        Ok(facts)
    }

    /// A WITH item, which sees itself and its neighbours under RECURSIVE, else those before it.
    fn unreferenced(&mut self, index: usize, table: &Rc<CommonTable>, body: &Query) -> Result<(), PgError> {
        let before = self.recursive;
        if table.visible < usize::MAX {
            let hidden = self.common.split_off(index);
            let facts = self.query(body);
            self.common.extend(hidden);
            facts?;
        } else {
            let recursive = CommonTable { body: CommonBody::Recursive, ..(**table).clone() };
            self.common[index] = Rc::new(recursive);
            self.query(body)?;
            self.common[index] = Rc::clone(table);
        }
        self.recursive = before;
        Ok(())
    }

    /// ORDER BY of what is no plain SELECT: its names are those of the result.
    fn outer_order(&mut self, order: &OrderBy, facts: &mut Facts) -> Result<(), PgError> {
        for sublink in self.collect(&[order]).sublinks {
            let inner = self.query(&sublink.query)?;
            facts.sharded |= inner.sharded;
            facts.core = facts.core.take().or_else(|| {
                let why = "ORDER BY of this query has a subquery.";
                inner.sharded.then(|| Box::new(not_over_shards(why, "Compute it in the select list.")))
            });
        }
        Ok(())
    }

    /// FOR UPDATE and the like; `references` are those of this query.
    fn locks(&mut self, query: &Query) {
        self.locking |= !query.locks.is_empty();
        for lock in query.locks.iter().filter(|lock| matches!(lock.lock_type, LockType::Update)) {
            let named = lock.of.as_ref().and_then(name_parts).and_then(|parts| parts.last().cloned());
            let table = match (named, &*query.body) {
                (Some(named), SetExpr::Select(select)) => self.locked_by_name(&named, select),
                _ => self.references.first().cloned(),
            };
            self.reference_locked = self.reference_locked.take().or(table);
        }
    }

    /// The reference table, if it is one or may have one in it, that FOR UPDATE OF names.
    fn locked_by_name(&self, named: &str, select: &Select) -> Option<TableName> {
        let joined = |item: &TableWithJoins| {
            std::iter::once(item.relation.clone())
                .chain(item.joins.iter().map(|join| join.relation.clone()))
                .collect::<Vec<_>>()
        };
        for factor in select.from.iter().flat_map(joined) {
            let TableFactor::Table { name, alias, args: None, .. } = factor else { continue };
            let parts = name_parts(&name)?;
            let own = alias.map_or_else(|| parts.last().cloned().unwrap_or_default(), |alias| ident_value(&alias.name));
            let common = parts.len() == 1 && self.common.iter().any(|common| common.name == parts[0]);
            if own == named && !common {
                let table = self.context.table(&parts).ok()?;
                return matches!(table.placed, Placed::Reference).then_some(table.name);
            }
        }
        self.references.first().cloned()
    }

    pub fn set_expr(&mut self, body: &SetExpr, query: Option<&Query>) -> Result<Facts, PgError> {
        match body {
            SetExpr::Select(select) => self.select(select, query),
            SetExpr::Query(inner) => self.query(inner),
            SetExpr::Values(values) => {
                self.scopes.push(Scope::default());
                let expressions: Vec<&Expr> = values.rows.iter().flat_map(|row| row.content.iter()).collect();
                let level = self.collect(&expressions);
                let result = self.level_sublinks(level);
                self.scopes.pop();
                let (sharded, core, outer) = result?;
                let width = values.rows.first().map_or(0, |row| row.content.len());
                let columns =
                    (1..=width).map(|n| Output { name: Some(format!("column{n}")), ..Output::default() }).collect();
                Ok(Facts { sharded, core, outer, columns: Some(columns), ..Facts::default() })
            }
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.set_operation(left, *op, *set_quantifier, right)
            }
            SetExpr::Table(_) => Err(refused(
                "TABLE name is not supported",
                "The planner cannot see which table it reads.",
                "Write SELECT * FROM name.",
            )),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                Err(refused("a statement that writes stands in a query", "It is supported in WITH only.", "Use WITH."))
            }
        }
    }

    fn set_operation(
        &mut self,
        left: &SetExpr,
        op: SetOperator,
        quantifier: SetQuantifier,
        right: &SetExpr,
    ) -> Result<Facts, PgError> {
        let left = self.set_expr(left, None)?;
        let right = self.set_expr(right, None)?;
        let mut facts = Facts { sharded: left.sharded || right.sharded, ..Facts::default() };
        let union_all = op == SetOperator::Union && quantifier == SetQuantifier::All;
        let anchor = match self.occurrences.last() {
            Some(occurrence) if facts.sharded => {
                let key_type = self.attributes[occurrence.attribute];
                Some(self.attribute(key_type))
            }
            _ => None,
        };
        let mut shared_key = false;
        facts.columns = match (&left.columns, &right.columns) {
            (Some(a), Some(b)) if a.len() == b.len() => {
                let mut columns = Vec::with_capacity(a.len());
                for (a, b) in a.iter().zip(b) {
                    let attribute = match (a.attribute, b.attribute) {
                        (Some(x), Some(y)) if self.attributes[x].family() == self.attributes[y].family() => {
                            let key_type = self.attributes[x];
                            let both = self.attribute(key_type);
                            self.implies.push((both, x));
                            self.implies.push((both, y));
                            if let (false, false, Some(anchor)) = (a.nullable, b.nullable, anchor) {
                                shared_key = true;
                                self.connect(both, anchor);
                            }
                            Some(both)
                        }
                        _ => None,
                    };
                    columns.push(Output { name: a.name.clone(), attribute, nullable: a.nullable || b.nullable });
                }
                Some(columns)
            }
            _ => left
                .columns
                .clone()
                .map(|columns| columns.into_iter().map(|column| Output { attribute: None, ..column }).collect()),
        };
        if facts.sharded {
            facts.anchor = anchor;
            facts.core = left.core.clone().or(right.core.clone()).or(left.finish.clone()).or(right.finish.clone());
            if facts.core.is_none() && !(left.sharded && right.sharded) {
                facts.core = Some(Box::new(not_over_shards(
                    "A set operation has a side without sharded tables: every shard would give its rows.",
                    GIVE_THE_KEY,
                )));
            }
            if facts.core.is_none() && !union_all && !shared_key {
                facts.finish = Some(Box::new(not_over_shards(
                    "UNION, INTERSECT and EXCEPT compare rows of different shards.",
                    "Put the shard key at the same place of both select lists, use UNION ALL, or hold the tables to keys.",
                )));
            }
        }
        let outer_of = |side: &Facts| !side.sharded || !side.outer.is_empty();
        if outer_of(&left) && outer_of(&right) {
            facts.outer = left.outer.into_iter().chain(right.outer).collect();
        }
        Ok(facts)
    }

    fn select(&mut self, select: &Select, query: Option<&Query>) -> Result<Facts, PgError> {
        self.scopes.push(Scope::default());
        let result = self.select_in_scope(select, query);
        self.scopes.pop();
        result
    }

    fn select_in_scope(&mut self, select: &Select, query: Option<&Query>) -> Result<Facts, PgError> {
        if select.into.is_some() {
            return Err(refused(
                "SELECT INTO is not supported",
                "It creates a table.",
                "Use CREATE TABLE, then INSERT.",
            ));
        }
        if select.qualify.is_some() || select.top.is_some() || select.prewhere.is_some() {
            return Err(refused("this form of SELECT is not PostgreSQL's", "", "Check the statement."));
        }
        let mut joins = Vec::new();
        let mut from_outer = Vec::new();
        let mut core: Blocked = None;
        for item in &select.from {
            self.table_with_joins(item, &mut joins, &mut from_outer, &mut core)?;
        }
        if let Some(selection) = &select.selection {
            let pairs = self.condition(selection, &Filter::Always);
            self.connect_pairs(&pairs, &mut from_outer);
        }
        // Expressions of this level; ON conditions have been read with the joins.
        let mut expressions: Vec<&Expr> = Vec::new();
        expressions.extend(select.projection.iter().filter_map(item_expression));
        expressions.extend(select.having.as_ref());
        if let Some(Distinct::On(on)) = &select.distinct {
            expressions.extend(on);
        }
        let group_by = match &select.group_by {
            GroupByExpr::Expressions(group_by, _) => group_by.as_slice(),
            GroupByExpr::All(_) => &[],
        };
        let mut order: Vec<&Expr> = Vec::new();
        if let Some(OrderByKind::Expressions(keys)) = query.and_then(|q| q.order_by.as_ref()).map(|o| &o.kind) {
            order.extend(keys.iter().map(|key| &key.expr));
        }
        expressions.extend(order);
        let mut level = self.collect(&expressions);
        level.absorb(self.collect(&select.named_window.iter().collect::<Vec<_>>()));
        let mut quiet: Vec<&Expr> = select.selection.iter().collect();
        quiet.extend(group_by);
        let rest = self.collect(&quiet);
        level.sublinks.extend(rest.sublinks);
        let mut windows = std::mem::take(&mut level.windows);
        let aggregates = level.aggregates;
        let (sublinks_sharded, sublinks_core, bubbled) = self.level_sublinks(level)?;

        let here = self.scopes.len() - 1;
        let from_sharded = self.scopes[here].relations.iter().any(|relation| relation.sharded);
        let conditions_sharded = self.scopes[here].sharded_conditions;
        let colocated = self.colocated(&joins);
        core = core.or(colocated).or(sublinks_core);
        let columns = self.output(&select.projection);
        let anchor = self.scopes[here].relations.iter().find_map(|relation| relation.anchor);
        let mut facts = Facts {
            sharded: from_sharded || sublinks_sharded || conditions_sharded,
            columns,
            anchor,
            core,
            finish: None,
            outer: if from_sharded { from_outer } else { bubbled },
        };
        if !facts.sharded {
            return Ok(facts);
        }
        // Does the key survive grouping, DISTINCT and windows?
        let grouped = aggregates
            || select.having.is_some()
            || !group_by.is_empty()
            || !matches!(select.group_by, GroupByExpr::Expressions(..));
        let mut keyed = true;
        if grouped {
            let plain = matches!(&select.group_by, GroupByExpr::Expressions(_, modifiers) if modifiers.is_empty())
                && !group_by
                    .iter()
                    .any(|e| matches!(strip(e), Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)));
            if !(plain && group_by.iter().any(|expr| self.group_key(expr, select).is_some())) {
                keyed = false;
                facts.finish = Some(Box::new(not_over_shards(
                    "Rows of several shards are grouped together.",
                    "Add the shard key to GROUP BY, or hold the tables to their keys.",
                )));
            }
        }
        match &select.distinct {
            Some(Distinct::Distinct) => {
                let has_key = facts
                    .columns
                    .as_ref()
                    .is_some_and(|columns| columns.iter().any(|c| c.attribute.is_some() && !c.nullable));
                if !has_key {
                    facts.finish = facts.finish.or_else(|| {
                        Some(Box::new(not_over_shards("DISTINCT compares rows of several shards.", GIVE_THE_KEY)))
                    });
                }
            }
            Some(Distinct::On(on)) if !on.iter().any(|expr| self.group_key(expr, select).is_some()) => {
                keyed = false;
                facts.finish = facts.finish.or_else(|| {
                    Some(Box::new(not_over_shards("DISTINCT ON compares rows of several shards.", GIVE_THE_KEY)))
                });
            }
            _ => {}
        }
        for window in &mut windows {
            let mut spec = match window {
                WindowType::WindowSpec(spec) => Some(spec.clone()),
                WindowType::NamedWindow(name) => named_window(select, name),
            };
            let mut partitioned = false;
            let mut hops = 0;
            while let Some(current) = spec.take() {
                partitioned |= current.partition_by.iter().any(|expr| self.firm_key(expr).is_some());
                hops += 1;
                if hops < 8 {
                    spec = current.window_name.as_ref().and_then(|name| named_window(select, name));
                }
            }
            if !partitioned {
                keyed = false;
                // A window's rows are those before grouping's LIMIT: no later step can repair it.
                facts.core = facts.core.or_else(|| {
                    Some(Box::new(not_over_shards(
                        "A window function looks at rows of several shards.",
                        "Add the shard key to PARTITION BY, or hold the tables to their keys.",
                    )))
                });
            }
        }
        if !keyed {
            if let Some(columns) = &mut facts.columns {
                columns.iter_mut().for_each(|column| column.attribute = None);
            }
        }
        Ok(facts)
    }

    /// The attribute that a GROUP BY item (column, ordinal or output name) stands for.
    pub fn group_key(&self, expr: &Expr, select: &Select) -> Option<usize> {
        let expr = strip(expr);
        if let Some(ordinal) = ordinal(expr) {
            return self.firm_key(plain_item(select, ordinal)?);
        }
        if let Expr::Identifier(name) = expr {
            if self.lookup(expr).is_none() {
                let name = ident_value(name);
                let item = select.projection.iter().find_map(|item| match item {
                    SelectItem::ExprWithAlias { expr, alias } if ident_value(alias) == name => Some(expr),
                    _ => None,
                })?;
                return self.firm_key(item);
            }
        }
        self.firm_key(expr)
    }

    /// Analyses the subqueries of a level's expressions. Returns whether any has sharded tables, why their results are
    /// not local, and the outer attributes of those that hang on an outer query only.
    pub fn level_sublinks(&mut self, level: LevelExpressions) -> Result<(bool, Blocked, Vec<usize>), PgError> {
        let mut sharded = false;
        let mut core: Blocked = None;
        let mut bubbled = Vec::new();
        for sublink in level.sublinks {
            let facts = self.query(&sublink.query)?;
            if let (Some((left, filtering)), Some(columns)) = (&sublink.within, &facts.columns) {
                let left = match strip(left) {
                    Expr::Tuple(parts) => parts.iter().map(|part| self.lookup(part)).collect::<Vec<_>>(),
                    other => vec![self.lookup(other)],
                };
                let mut joined = false;
                for (left, right) in left.iter().zip(columns) {
                    let (Some(Found { attribute: Some(a), .. }), Some(b)) = (left, right.attribute) else { continue };
                    if self.attributes[*a].family() != self.attributes[b].family() {
                        continue;
                    }
                    self.implies.push((*a, b));
                    if *filtering {
                        self.implies.push((b, *a));
                    }
                    joined |= facts.finish.is_none();
                    if joined {
                        let own = left.is_some_and(|found| found.level + 1 == self.scopes.len());
                        if !own {
                            bubbled.push(*a);
                        }
                    }
                }
                if joined && facts.sharded {
                    sharded = true;
                    core = core.or(facts.core);
                    continue;
                }
            }
            if !facts.sharded {
                continue;
            }
            sharded = true;
            core = core.or(facts.core.clone());
            let own = facts.outer.iter().any(|attribute| self.in_scope(*attribute));
            if own {
                continue;
            }
            if facts.outer.is_empty() {
                core = core.or_else(|| {
                    Some(Box::new(not_over_shards(
                        "A subquery reads a sharded table and is not joined with the outer query on the shard key.",
                        JOIN_ON_KEYS,
                    )))
                });
            }
            bubbled.extend(facts.outer);
        }
        Ok((sharded, core, bubbled))
    }

    fn in_scope(&self, attribute: usize) -> bool {
        self.scopes.last().is_some_and(|scope| {
            scope
                .relations
                .iter()
                .any(|relation| relation.columns.iter().flatten().any(|column| column.attribute == Some(attribute)))
        })
    }

    /// Connects pairs within the innermost scope; the outer ends of the others are added to `outer`.
    pub fn connect_pairs(&mut self, pairs: &[(Found, Found)], outer: &mut Vec<usize>) {
        let here = self.scopes.len() - 1;
        for (left, right) in pairs {
            let (Some(a), Some(b)) = (left.attribute, right.attribute) else { continue };
            match (left.level == here, right.level == here) {
                (true, true) => self.connect(a, b),
                (true, false) => outer.push(b),
                (false, true) => outer.push(a),
                (false, false) => {}
            }
        }
    }

    /// A query's output columns; `None` when their number is not known.
    pub fn output(&self, projection: &[SelectItem]) -> Option<Vec<Output>> {
        let scope = &self.scopes[self.scopes.len() - 1];
        let mut out = Vec::new();
        for item in projection {
            match item {
                SelectItem::ExprWithAlias { expr, alias } => {
                    out.push(self.output_of(expr, Some(ident_value(alias))));
                }
                SelectItem::UnnamedExpr(expr) => out.push(self.output_of(expr, figure_name(expr))),
                SelectItem::Wildcard(_) => {
                    if !scope.merged.is_empty() {
                        // Merged columns come first, once.
                        let merged: Vec<&str> = scope.merged.iter().filter_map(|o| o.name.as_deref()).collect();
                        if scope.relations.len() != 2 {
                            return None;
                        }
                        let first = scope.relations[0].columns.as_ref()?;
                        let mut ordered: Vec<Output> = Vec::new();
                        for column in first {
                            if let Some(m) = scope.merged.iter().find(|m| m.name == column.name) {
                                ordered.push(m.clone());
                            }
                        }
                        if ordered.len() != merged.len() {
                            return None;
                        }
                        // USING keeps its own order of names; with several the order is not followed.
                        if ordered.len() > 1 {
                            return None;
                        }
                        out.extend(ordered);
                        for relation in &scope.relations {
                            for column in relation.columns.as_ref()? {
                                if !column.name.as_deref().is_some_and(|name| merged.contains(&name)) {
                                    out.push(Output {
                                        nullable: column.nullable || relation.nullable,
                                        ..column.clone()
                                    });
                                }
                            }
                        }
                    } else {
                        for relation in &scope.relations {
                            for column in relation.columns.as_ref()? {
                                out.push(Output { nullable: column.nullable || relation.nullable, ..column.clone() });
                            }
                        }
                    }
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let alias = name_parts(name)?.last()?.clone();
                    let relation = scope.relations.iter().find(|relation| relation.alias == alias)?;
                    for column in relation.columns.as_ref()? {
                        out.push(Output { nullable: column.nullable || relation.nullable, ..column.clone() });
                    }
                }
                _ => return None,
            }
        }
        Some(out)
    }

    fn output_of(&self, expr: &Expr, name: Option<String>) -> Output {
        match self.lookup(expr) {
            Some(found) if found.level + 1 == self.scopes.len() => {
                Output { name, attribute: found.attribute, nullable: found.nullable }
            }
            _ => Output { name, attribute: None, nullable: true },
        }
    }
}

/// The name that PostgreSQL gives a column without alias, where it is simple (`FigureColname`).
fn figure_name(expr: &Expr) -> Option<String> {
    match strip(expr) {
        Expr::Identifier(ident) => Some(ident_value(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(ident_value),
        Expr::Function(function) => name_parts(&function.name)?.last().cloned(),
        _ => None,
    }
}

fn last_part(name: &ObjectName) -> String {
    name_parts(name).and_then(|parts| parts.last().cloned()).unwrap_or_default()
}

/// The expression of an item of a select list, that of `(expression).*` as well.
pub fn item_expression(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr)
        | SelectItem::ExprWithAlias { expr, .. }
        | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(expr), _) => Some(expr),
        _ => None,
    }
}

/// `1` as GROUP BY and ORDER BY read it.
pub fn ordinal(expr: &Expr) -> Option<usize> {
    match strip(expr) {
        Expr::Value(sqlparser::ast::ValueWithSpan { value: sqlparser::ast::Value::Number(number, _), .. }) => {
            number.parse().ok()
        }
        _ => None,
    }
}

/// Item number `ordinal` of a select list without wildcards before it.
pub fn plain_item(select: &Select, ordinal: usize) -> Option<&Expr> {
    let index = ordinal.checked_sub(1)?;
    let plain = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    if !select.projection.iter().take(ordinal).all(plain) {
        return None;
    }
    match select.projection.get(index)? {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

fn named_window(select: &Select, name: &Ident) -> Option<sqlparser::ast::WindowSpec> {
    let name = ident_value(name);
    select.named_window.iter().find(|window| ident_value(&window.0) == name).and_then(|window| match &window.1 {
        NamedWindowExpr::WindowSpec(spec) => Some(spec.clone()),
        NamedWindowExpr::NamedWindow(_) => None,
    })
}

impl Analysis<'_> {
    /// INSERT, UPDATE or DELETE in WITH: its tables and keys join those of the statement around it.
    fn modifying_item(&mut self, query: &Query) -> Result<(), PgError> {
        use super::types::Plan;
        use sqlparser::ast::Statement;
        let calls = super::rows::calls(self.context, query);
        let scopes = std::mem::take(&mut self.scopes);
        let result = match &*query.body {
            SetExpr::Insert(Statement::Insert(insert)) => super::insert::plan(self, insert, Some(query), &calls),
            SetExpr::Update(Statement::Update(update)) => super::write::update(self, update, Some(query), &calls),
            SetExpr::Delete(Statement::Delete(delete)) => super::write::delete(self, delete, Some(query), &calls),
            SetExpr::Merge(Statement::Merge(merge)) => super::write::merge(self, merge, Some(query), &calls),
            _ => Err(refused("this statement is not supported in WITH", "", "Use INSERT, UPDATE or DELETE.")),
        };
        self.scopes = scopes;
        match result? {
            Plan::Query(plan) if matches!(plan.targets, super::types::Targets::EveryMember) => Err(refused(
                "a reference table is written in WITH",
                "The write has to reach every shard.",
                "Use a statement of its own.",
            )),
            _ => Ok(()),
        }
    }
}

impl LevelExpressions {
    pub fn has_sublinks(&self) -> bool {
        !self.sublinks.is_empty()
    }

    pub fn absorb(&mut self, other: LevelExpressions) {
        self.sublinks.extend(other.sublinks);
        self.windows.extend(other.windows);
        self.aggregates |= other.aggregates;
    }
}
