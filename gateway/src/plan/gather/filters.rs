//! Conditions that shards can test before rows travel: comparisons of one table's columns with constants, parameters and each
//! other; and semi-joins with what is on the same shard ([`super::semi_joins`]).
//!
//! A condition is copied, never moved: the statement still tests it. So it is enough that a row for which it is not true cannot
//! matter: WHERE and ON of inner joins, for tables that no outer join makes NULL; ON of a LEFT JOIN, for its right side.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use sqlparser::ast::{Expr, Query, Select, SetExpr, Statement, Visit, Visitor};

use super::conditions::{matters, Scope};
use super::level::{conjuncts, Level, Names};
use super::links::{self, Link, Scopes};
use super::semi_joins::{self, SemiJoin};
use crate::plan::analysis::Analysis;
use crate::plan::types::{FilterSplice, ShardedReference};
use crate::sql::parse::{ident_value, parse, Text};

/// By where their table's name begins in the statement.
type Filters = BTreeMap<usize, Filter>;

/// Which rows of a table matter to the statement.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    conditions: Vec<Expr>,
    semi_joins: Vec<SemiJoin>,
}

struct Finder<'f, 'a> {
    analysis: &'f Analysis<'a>,
    places: BTreeSet<usize>,
    common: BTreeSet<String>,
    filters: Filters,
    links: Vec<Link>,
    /// Of subqueries, by address: what their names may be of, if it is not their own.
    around: BTreeMap<usize, Rc<Level<'a, 'static>>>,
}

#[derive(Default)]
struct CommonNames(BTreeSet<String>);

impl Visitor for CommonNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(tables.map(|table| ident_value(&table.alias.name)));
        ControlFlow::Continue(())
    }
}

pub fn find(analysis: &Analysis<'_>, query: &Query) -> (Filters, Vec<Link>) {
    let place = |reference: ShardedReference| match reference.splice {
        FilterSplice::Relation { start, .. } => Some(start),
        _ => None,
    };
    let places = analysis.sharded_references().into_iter().filter_map(place).collect();
    let mut common = CommonNames::default();
    let _ = query.visit(&mut common);
    let (filters, links, around) = (Filters::new(), Vec::new(), BTreeMap::new());
    let mut finder = Finder { analysis, places, common: common.0, filters, links, around };
    let _ = query.visit(&mut finder);
    (finder.filters, finder.links)
}

impl Filter {
    /// One condition more.
    pub fn and(&self, condition: Expr) -> Filter {
        let conditions = self.conditions.iter().cloned().chain([condition]).collect();
        Filter { conditions, semi_joins: self.semi_joins.clone() }
    }

    /// Without what is on the same shard.
    pub fn alone(&self) -> Filter {
        Filter { conditions: self.conditions.clone(), semi_joins: Vec::new() }
    }

    /// `shape` with what is known, best first, as far as the text is read as these conditions again.
    pub fn texts(&self, shape: &str) -> Vec<String> {
        let all = (!self.semi_joins.is_empty()).then(|| filtered(shape, &self.conditions, &self.semi_joins)).flatten();
        all.into_iter().chain(filtered(shape, &self.conditions, &[])).collect()
    }
}

fn filtered(shape: &str, conditions: &[Expr], semi_joins: &[SemiJoin]) -> Option<String> {
    if conditions.is_empty() && semi_joins.is_empty() {
        return None;
    }
    let sql =
        format!("{shape} WHERE {}", all_of(conditions.iter().map(in_parentheses).chain(semi_joins.iter().map(exists))));
    let Statement::Query(query) = parse(&Text::new(&sql).ok()?).ok()? else { return None };
    let mut read = where_parts(&query)?;
    for semi_join in semi_joins.iter().rev() {
        let Some(Expr::Exists { subquery, negated: false }) = read.pop() else { return None };
        (where_parts(subquery)? == parts(&semi_join.conditions)).then_some(())?;
    }
    (read == parts(conditions)).then_some(sql)
}

fn exists(semi_join: &SemiJoin) -> String {
    let conditions = all_of(semi_join.conditions.iter().map(in_parentheses));
    format!("EXISTS (SELECT 1 FROM {} WHERE {conditions})", semi_join.tables.join(", "))
}

fn in_parentheses(condition: &Expr) -> String {
    format!("({condition})")
}

fn all_of(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(" AND ")
}

fn where_parts(query: &Query) -> Option<Vec<&Expr>> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let mut read = Vec::new();
    conjuncts(select.selection.as_ref()?, &mut read);
    Some(read)
}

fn parts(conditions: &[Expr]) -> Vec<&Expr> {
    let mut parts = Vec::new();
    conditions.iter().for_each(|condition| conjuncts(condition, &mut parts));
    parts
}

impl Visitor for Finder<'_, '_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let names = Names { places: &self.places, common: &self.common };
        let level = Level::of(self.analysis, &names, select);
        for condition in &level.conditions {
            let mut parts = Vec::new();
            conjuncts(condition.expr, &mut parts);
            for index in condition.sees.clone() {
                let place = level.items[index].place();
                let (true, Some(start)) = (matters(&level, condition, index), place) else { continue };
                let (catalog, sees) = (self.analysis.context.catalog, condition.sees.clone());
                let scope = Scope { level: &level, catalog, sees, items: &[index] };
                let known = &mut self.filters.entry(start).or_default().conditions;
                for part in parts.iter().filter_map(|part| scope.implied(part)) {
                    if !known.contains(&part) {
                        known.push(part);
                    }
                }
            }
        }
        let in_query = |select: &Select| Level::of(self.analysis, &names, select).names();
        let outer = self.around.get(&(std::ptr::from_ref(select) as usize)).cloned();
        let scopes = Scopes { level: &level, outer: outer.as_deref() };
        self.links.extend(links::find(self.analysis.context.catalog, &scopes, &in_query));
        let own = Rc::new(level.names());
        self.around.extend(links::subqueries(select).into_iter().map(|subquery| (subquery, Rc::clone(&own))));
        for (item, found) in level.items.iter().zip(semi_joins::find(self.analysis, &level)) {
            if let (Some(start), false) = (item.place(), found.is_empty()) {
                self.filters.entry(start).or_default().semi_joins = found;
            }
        }
        ControlFlow::Continue(())
    }
}
