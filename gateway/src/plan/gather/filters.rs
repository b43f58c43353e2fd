//! Conditions that shards can test before rows travel: comparisons of one table's columns with constants and parameters.
//!
//! A condition is copied, never moved: the statement still tests it. So it is enough that a row for which it is not true cannot
//! matter: WHERE and ON of inner joins, for tables that no outer join makes NULL; ON of a LEFT JOIN, for its right side.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Join, JoinConstraint, JoinOperator, Query, Select, SetExpr, Statement,
    TableFactor, TableWithJoins, UnaryOperator, Visit, Visitor,
};

use crate::catalog::Relation;
use crate::plan::analysis::Analysis;
use crate::plan::context::Placed;
use crate::plan::keys::strip;
use crate::plan::types::{FilterSplice, ShardedReference};
use crate::sql::parse::{ident_value, name_parts, parse, Text};

/// Conditions by where their table's name begins in the statement.
type Filters = BTreeMap<usize, Vec<Expr>>;

/// A FROM item of one level.
struct Item<'a> {
    alias: String,
    /// None: not known.
    relation: Option<&'a Relation>,
    /// Of a sharded table.
    start: Option<usize>,
    /// An outer join may make it NULL.
    nullable: bool,
}

struct Finder<'f, 'a> {
    analysis: &'f Analysis<'a>,
    /// Where sharded tables are named.
    places: BTreeSet<usize>,
    filters: Filters,
}

pub fn find(analysis: &Analysis<'_>, query: &Query) -> Filters {
    let place = |reference: ShardedReference| match reference.splice {
        FilterSplice::Relation { start, .. } => Some(start),
        _ => None,
    };
    let places = analysis.sharded_references().into_iter().filter_map(place).collect();
    let mut finder = Finder { analysis, places, filters: Filters::new() };
    let _ = query.visit(&mut finder);
    finder.filters
}

/// `shape` with the conditions, if their text is read as these conditions again.
pub fn filtered(shape: &str, conditions: &[Expr]) -> Option<String> {
    if conditions.is_empty() {
        return None;
    }
    let texts: Vec<String> = conditions.iter().map(|condition| format!("({condition})")).collect();
    let sql = format!("{shape} WHERE {}", texts.join(" AND "));
    let Statement::Query(query) = parse(&Text::new(&sql).ok()?).ok()? else { return None };
    let SetExpr::Select(select) = *query.body else { return None };
    let mut read = Vec::new();
    conjuncts(select.selection.as_ref()?, &mut read);
    let mut meant = Vec::new();
    conditions.iter().for_each(|condition| conjuncts(condition, &mut meant));
    (read == meant).then_some(sql)
}

fn conjuncts<'e>(expr: &'e Expr, out: &mut Vec<&'e Expr>) {
    match strip(expr) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(left, out);
            conjuncts(right, out);
        }
        other => out.push(other),
    }
}

impl Visitor for Finder<'_, '_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.select(select);
        ControlFlow::Continue(())
    }
}

impl<'a> Finder<'_, 'a> {
    fn select(&mut self, select: &Select) {
        let mut items: Vec<Item<'a>> = Vec::new();
        let mut conditions: Vec<(&Expr, Option<usize>)> = Vec::new();
        for from in &select.from {
            self.joined(from, &mut items, &mut conditions);
        }
        conditions.extend(select.selection.as_ref().map(|condition| (condition, None)));
        for (condition, only) in conditions {
            let mut parts = Vec::new();
            conjuncts(condition, &mut parts);
            for part in parts {
                let Some(index) = self.table_of(part, &items) else { continue };
                let item = &items[index];
                let filters = match only {
                    Some(right) => right == index,
                    None => !item.nullable,
                };
                if let (true, Some(start)) = (filters, item.start) {
                    let known = self.filters.entry(start).or_default();
                    if !known.contains(part) {
                        known.push(part.clone());
                    }
                }
            }
        }
    }

    /// `conditions`: with the only item that each may filter, where it is not all of them.
    fn joined<'s>(
        &self,
        from: &'s TableWithJoins,
        items: &mut Vec<Item<'a>>,
        conditions: &mut Vec<(&'s Expr, Option<usize>)>,
    ) {
        let first = items.len();
        items.push(self.item(&from.relation));
        for Join { relation, join_operator, .. } in &from.joins {
            let right = items.len();
            items.push(self.item(relation));
            use JoinOperator as J;
            let (constraint, left_null, right_null) = match join_operator {
                J::Join(constraint) | J::Inner(constraint) | J::CrossJoin(constraint) => (constraint, false, false),
                J::Left(constraint) | J::LeftOuter(constraint) => (constraint, false, true),
                J::Right(constraint) | J::RightOuter(constraint) => (constraint, true, false),
                J::FullOuter(constraint) => (constraint, true, true),
                _ => {
                    items[first..].iter_mut().for_each(|item| item.nullable = true);
                    continue;
                }
            };
            items[first..right].iter_mut().for_each(|item| item.nullable |= left_null);
            items[right].nullable |= right_null;
            if let JoinConstraint::On(condition) = constraint {
                match (left_null, right_null) {
                    (false, false) => conditions.push((condition, None)),
                    (false, true) => conditions.push((condition, Some(right))),
                    // The left side may be several tables, and NULL for other reasons.
                    _ => {}
                }
            }
        }
    }

    fn item(&self, factor: &TableFactor) -> Item<'a> {
        let unknown = Item { alias: String::new(), relation: None, start: None, nullable: false };
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return unknown };
        let (Some(parts), columns) = (name_parts(name), alias.as_ref().map_or(0, |alias| alias.columns.len())) else {
            return unknown;
        };
        let own = alias.as_ref().map(|alias| ident_value(&alias.name));
        let splice = self.analysis.relation_splice(name, own.as_deref());
        let FilterSplice::Relation { start, alias, .. } = splice else { return unknown };
        let table = self.analysis.context.table(&parts).ok();
        let relation = table.as_ref().and_then(|table| self.analysis.context.catalog.relation(&table.name));
        let sharded = table.is_some_and(|table| matches!(table.placed, Placed::Sharded { .. }));
        // A WITH query of this name is at none of the places.
        if columns > 0 || !self.places.contains(&start) || !sharded {
            return Item { alias, ..unknown };
        }
        Item { alias, relation, start: Some(start), nullable: false }
    }

    /// The one item whose columns a condition compares with constants.
    fn table_of(&self, condition: &Expr, items: &[Item<'a>]) -> Option<usize> {
        let mut table = None;
        (self.is_comparison(condition, items, &mut table)).then_some(table).flatten()
    }

    fn is_comparison(&self, expr: &Expr, items: &[Item<'a>], table: &mut Option<usize>) -> bool {
        match strip(expr) {
            Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                self.is_comparison(left, items, table) && self.is_comparison(right, items, table)
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.is_comparison(expr, items, table),
            Expr::BinaryOp { left, op, right } if self.is_builtin(op) => {
                column(left, items, table) && is_constant(right) || is_constant(left) && column(right, items, table)
            }
            Expr::InList { expr, list, .. } => {
                self.is_builtin(&BinaryOperator::Eq) && column(expr, items, table) && list.iter().all(is_constant)
            }
            Expr::Between { expr, low, high, .. } => {
                let orders = [BinaryOperator::LtEq, BinaryOperator::GtEq];
                orders.iter().all(|op| self.is_builtin(op))
                    && column(expr, items, table)
                    && is_constant(low)
                    && is_constant(high)
            }
            Expr::IsNull(expr) | Expr::IsNotNull(expr) => column(expr, items, table),
            Expr::Like { expr, pattern, any: false, escape_char: None, .. } => {
                self.analysis.context.catalog.operator("~~").is_empty()
                    && column(expr, items, table)
                    && is_constant(pattern)
            }
            _ => false,
        }
    }

    /// No operator of the application's.
    fn is_builtin(&self, op: &BinaryOperator) -> bool {
        use BinaryOperator as B;
        let compares = matches!(op, B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq);
        compares && self.analysis.context.catalog.operator(&op.to_string()).is_empty()
    }
}

/// A column of one item, the same one as before.
fn column(expr: &Expr, items: &[Item<'_>], table: &mut Option<usize>) -> bool {
    let found = match strip(expr) {
        Expr::Identifier(name) => {
            let name = ident_value(name);
            let mut owners = (0..items.len()).filter(|index| {
                let relation = items[*index].relation;
                relation.is_none_or(|relation| relation.column(&name).is_some())
            });
            match (owners.next(), owners.next()) {
                (Some(owner), None) if items[owner].relation.is_some() => Some(owner),
                _ => None,
            }
        }
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [alias, name] => {
                let (alias, name) = (ident_value(alias), ident_value(name));
                let mut named = (0..items.len()).filter(|index| items[*index].alias == alias);
                let owner = named.next().filter(|_| named.next().is_none());
                owner.filter(|owner| items[*owner].relation.is_some_and(|relation| relation.column(&name).is_some()))
            }
            _ => None,
        },
        _ => None,
    };
    match (found, &table) {
        (None, _) => false,
        (Some(index), Some(known)) => index == *known,
        (Some(index), None) => {
            *table = Some(index);
            true
        }
    }
}

/// The same on every shard, whenever it is computed.
fn is_constant(expr: &Expr) -> bool {
    match strip(expr) {
        Expr::Value(_) => true,
        Expr::TypedString(typed) => !matches!(typed.data_type, DataType::Custom(..)),
        Expr::Interval(interval) => is_constant(&interval.value),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            !matches!(data_type, DataType::Custom(..)) && is_constant(expr)
        }
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => is_constant(expr),
        Expr::BinaryOp { left, op, right } => {
            use BinaryOperator as B;
            matches!(op, B::Plus | B::Minus | B::Multiply) && is_constant(left) && is_constant(right)
        }
        _ => false,
    }
}
