//! Conditions that shards can test before rows travel: comparisons of one table's columns with constants, parameters and each
//! other.
//!
//! A condition is copied, never moved: the statement still tests it. So it is enough that a row for which it is not true cannot
//! matter: WHERE and ON of inner joins, for tables that no outer join makes NULL; ON of a LEFT JOIN, for its right side.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Query, Select, SetExpr, Statement, Visit, Visitor};

use super::conditions::{matters, Scope};
use super::level::{conjuncts, Level, Names};
use crate::plan::analysis::Analysis;
use crate::plan::types::{FilterSplice, ShardedReference};
use crate::sql::parse::{ident_value, parse, Text};

/// Conditions by where their table's name begins in the statement.
type Filters = BTreeMap<usize, Vec<Expr>>;

struct Finder<'f, 'a> {
    analysis: &'f Analysis<'a>,
    places: BTreeSet<usize>,
    common: BTreeSet<String>,
    filters: Filters,
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

pub fn find(analysis: &Analysis<'_>, query: &Query) -> Filters {
    let place = |reference: ShardedReference| match reference.splice {
        FilterSplice::Relation { start, .. } => Some(start),
        _ => None,
    };
    let places = analysis.sharded_references().into_iter().filter_map(place).collect();
    let mut common = CommonNames::default();
    let _ = query.visit(&mut common);
    let mut finder = Finder { analysis, places, common: common.0, filters: Filters::new() };
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

impl Visitor for Finder<'_, '_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        let names = Names { places: &self.places, common: &self.common };
        let level = Level::of(self.analysis, &names, select);
        for condition in &level.conditions {
            let mut parts = Vec::new();
            conjuncts(condition.expr, &mut parts);
            for index in condition.sees.clone() {
                let start = level.items[index].start;
                let (true, Some(start)) = (matters(&level, condition, index), start) else { continue };
                let (catalog, sees) = (self.analysis.context.catalog, condition.sees.clone());
                let scope = Scope { level: &level, catalog, sees, items: &[index] };
                let known = self.filters.entry(start).or_default();
                for part in parts.iter().filter_map(|part| scope.implied(part)) {
                    if !known.contains(&part) {
                        known.push(part);
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}
