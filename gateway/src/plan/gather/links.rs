//! Columns by which rows of one fragment can be limited to those that match rows of another, once these are there.
//!
//! Of `a JOIN b ON a.x = b.y`, rows of `b` whose `y` is no `x` of the rows of `a` that have come do not matter. It is the condition's
//! other side that may be NULL, or of the query around a subquery: what the statement compares with is in the temporary table. The
//! same of `a.x IN (SELECT b.y FROM b)`, in both directions.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Distinct, Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Value, Visit, Visitor,
};

use super::conditions::matters;
use super::level::{column_name, conjuncts, Condition, Item, Level};
use crate::catalog::{Catalog, Column};
use crate::plan::keys::strip;

/// Rows of `target` matter only where their `column` is among the values of `known` of `source`.
#[derive(Clone, Debug)]
pub struct Link {
    /// Where the tables are named.
    pub target: usize,
    pub source: usize,
    pub known: String,
    /// Of an array of these values.
    pub array_type: u32,
    alias: String,
    column: String,
}

impl Link {
    /// `alias.column = ANY ($number)`
    pub fn condition(&self, number: usize) -> Expr {
        let parts = [&self.alias, &self.column].map(|name| Ident::with_quote('"', name.replace('"', "\"\"")));
        Expr::AnyOp {
            left: Box::new(Expr::CompoundIdentifier(parts.to_vec())),
            compare_op: BinaryOperator::Eq,
            right: Box::new(Expr::Value(Value::Placeholder(format!("${number}")).into())),
            is_some: false,
        }
    }
}

/// A column of a FROM item.
struct Place<'l, 'a> {
    item: &'l Item<'a>,
    column: String,
}

impl<'a> Place<'_, 'a> {
    fn of(&self) -> Option<&'a Column> {
        self.item.relation?.column(&self.column)
    }
}

/// Where names of a level are looked up.
pub struct Scopes<'l, 'a, 's> {
    pub level: &'l Level<'a, 's>,
    /// Of the query whose WHERE, select list or HAVING the level's is a subquery of.
    pub outer: Option<&'l Level<'a, 'l>>,
}

/// `in_query`: the level of a subquery.
pub fn find<'a>(
    catalog: &Catalog,
    scopes: &Scopes<'_, 'a, '_>,
    in_query: &dyn Fn(&Select) -> Level<'a, 'static>,
) -> Vec<Link> {
    let mut links = Vec::new();
    if !catalog.operator("=").is_empty() {
        return links;
    }
    for condition in &scopes.level.conditions {
        let mut parts = Vec::new();
        conjuncts(condition.expr, &mut parts);
        for part in parts {
            match strip(part) {
                Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                    links.extend(scopes.equal(condition, left, right));
                    links.extend(scopes.equal(condition, right, left));
                }
                Expr::InSubquery { expr, subquery, negated: false } => {
                    links.extend(scopes.within(condition, expr, subquery, in_query));
                }
                _ => {}
            }
        }
    }
    links
}

impl<'l, 'a> Scopes<'l, 'a, '_> {
    /// What `target = source` says of the target's rows.
    fn equal(&self, condition: &Condition<'_>, target: &Expr, source: &Expr) -> Option<Link> {
        let own = self.level.column(target, &condition.sees).filter(|item| matters(self.level, condition, *item))?;
        let source = match self.level.column(source, &condition.sees) {
            Some(other) => (other != own).then(|| self.level.place(other, source))?,
            None => self.outer_column(source),
        };
        link(&self.level.place(own, target)?, &source?)
    }

    /// A column of the query around, if the level has none of this name.
    fn outer_column(&self, expr: &Expr) -> Option<Place<'l, 'a>> {
        let outer = self.outer.filter(|_| self.level.cannot_have(expr))?;
        outer.place(outer.column(expr, &(0..outer.items.len()))?, expr)
    }

    /// What `expr IN (subquery)` says of the rows of either side.
    fn within(
        &self,
        condition: &Condition<'_>,
        expr: &Expr,
        subquery: &Query,
        in_query: &dyn Fn(&Select) -> Level<'a, 'static>,
    ) -> Vec<Link> {
        let (Some(own), Some(select)) = (self.level.column(expr, &condition.sees), plain(subquery)) else {
            return Vec::new();
        };
        let inner = in_query(select);
        let [SelectItem::UnnamedExpr(output) | SelectItem::ExprWithAlias { expr: output, .. }] =
            select.projection.as_slice()
        else {
            return Vec::new();
        };
        let found = inner.column(output, &(0..inner.items.len()));
        let (Some(found), Some(own_place)) = (found, self.level.place(own, expr)) else { return Vec::new() };
        let Some(inner_place) = inner.place(found, output) else { return Vec::new() };
        let outward = matters(self.level, condition, own).then(|| link(&own_place, &inner_place)).flatten();
        let stays = !inner.items[found].nullable && keeps(subquery, select, output);
        let inward = stays.then(|| link(&inner_place, &own_place)).flatten();
        outward.into_iter().chain(inward).collect()
    }
}

/// The SELECT of a subquery that names no WITH queries of its own.
fn plain(query: &Query) -> Option<&Select> {
    match &*query.body {
        SetExpr::Select(select) if query.with.is_none() => Some(select),
        _ => None,
    }
}

/// Whether rows of other values than `output` has can be left out, and the rest of the result is the same: nothing counts them, and
/// they are in no group of those that stay.
fn keeps(query: &Query, select: &Select, output: &Expr) -> bool {
    let counted = query.limit_clause.is_some() || query.fetch.is_some();
    let distinct = !matches!(select.distinct, None | Some(Distinct::Distinct));
    let grouped = match &select.group_by {
        GroupByExpr::Expressions(expressions, modifiers) if modifiers.is_empty() => {
            expressions.is_empty() && select.having.is_none() || expressions.contains(output)
        }
        _ => false,
    };
    !counted && !distinct && grouped
}

/// Subqueries that stand directly in expressions which see all of the select's FROM: SELECTs, by address.
pub fn subqueries(select: &Select) -> Vec<usize> {
    let mut finder = Subqueries::default();
    let _ = select.selection.visit(&mut finder);
    let _ = select.projection.visit(&mut finder);
    let _ = select.having.visit(&mut finder);
    finder.found
}

#[derive(Default)]
struct Subqueries {
    found: Vec<usize>,
    depth: usize,
}

impl Visitor for Subqueries {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if self.depth == 0 {
            self.found.extend(plain(query).map(|select| std::ptr::from_ref(select) as usize));
        }
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

impl<'a> Level<'a, '_> {
    fn place(&self, item: usize, expr: &Expr) -> Option<Place<'_, 'a>> {
        Some(Place { item: &self.items[item], column: column_name(expr)? })
    }
}

fn link(target: &Place<'_, '_>, source: &Place<'_, '_>) -> Option<Link> {
    Some(Link {
        target: target.item.place()?,
        source: source.item.place()?,
        known: source.column.clone(),
        array_type: array_of(source.of()?, target.of()?)?,
        alias: target.item.alias.clone(),
        column: target.column.clone(),
    })
}

/// The type of arrays of values, if comparing with them as with the column is what `=` of the two columns is: integers with each
/// other, and strings and UUIDs of one type, by the database's collation. Their text does not depend on settings.
fn array_of(values: &Column, compared: &Column) -> Option<u32> {
    const INTEGERS: [(u32, u32); 3] = [(21, 1005), (23, 1007), (20, 1016)];
    const OTHERS: [(u32, u32); 3] = [(25, 1009), (1043, 1015), (2950, 2951)];
    let array = |types: &[(u32, u32)], oid| types.iter().find(|(element, _)| *element == oid).map(|(_, array)| *array);
    let plain = |column: &Column| !column.nondeterministic && !column.own_collation;
    match (array(&INTEGERS, values.type_oid), array(&INTEGERS, compared.type_oid)) {
        (Some(array), Some(_)) => Some(array),
        _ if values.type_oid == compared.type_oid && plain(values) && plain(compared) => {
            array(&OTHERS, values.type_oid)
        }
        _ => None,
    }
}
