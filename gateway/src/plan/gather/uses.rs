//! What a statement uses of the tables that it gathers.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, TableFactor, Value,
    ValueWithSpan, Visit, Visitor,
};

use crate::plan::keys::strip;
use crate::plan::refuse::not_over_shards;
use crate::sql::parse::{ident_value, Text};
use crate::wire::PgError;

/// More than is used does no harm.
#[derive(Debug, Default)]
pub struct Uses {
    /// Every column of every table.
    pub all_columns: bool,
    /// Every name among the statement's tokens: one that were overlooked could mean another query's column.
    pub names: BTreeSet<String>,
    /// Names in GROUP BY: by a primary key there, other columns may be selected.
    pub grouped: BTreeSet<String>,
}

struct Finder {
    uses: Uses,
    /// SELECTs, by address, of which only counts whether they have rows.
    tested: BTreeSet<usize>,
}

/// Fails where a temporary table would not do.
pub fn find(query: &Query, text: &Text<'_>) -> Result<Uses, PgError> {
    let names = text.lexemes.iter().filter_map(|lexeme| lexeme.identifier(text.sql)).collect();
    let mut finder = Finder { uses: Uses { names, ..Uses::default() }, tested: BTreeSet::new() };
    match query.visit(&mut finder) {
        ControlFlow::Continue(()) => Ok(finder.uses),
        ControlFlow::Break(error) => Err(*error),
    }
}

impl Finder {
    fn select(&mut self, select: &Select) {
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let joins = select.from.iter().flat_map(|item| &item.joins);
        let tested = self.tested.contains(&(std::ptr::from_ref(select) as usize));
        self.uses.all_columns |= !tested && select.projection.iter().any(is_wildcard);
        self.uses.all_columns |= joins.into_iter().any(|join| is_natural(&join.join_operator));
        if let GroupByExpr::Expressions(expressions, _) = &select.group_by {
            let mut names = Names::default();
            for expression in expressions {
                let _ = expression.visit(&mut names);
                for item in output(select, expression) {
                    let _ = item.visit(&mut names);
                }
            }
            self.uses.grouped.append(&mut names.0);
        }
    }
}

/// Items of the select list that GROUP BY may mean by a number or a label.
fn output<'s>(select: &'s Select, expression: &Expr) -> Vec<&'s SelectItem> {
    let is_called = |item: &&SelectItem, name: &Ident| match item {
        SelectItem::ExprWithAlias { alias, .. } => ident_value(alias) == ident_value(name),
        _ => false,
    };
    match strip(expression) {
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
            let place = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            place.and_then(|place| select.projection.get(place)).into_iter().collect()
        }
        Expr::Identifier(name) => select.projection.iter().filter(|item| is_called(item, name)).collect(),
        _ => Vec::new(),
    }
}

/// The SELECT of EXISTS, if its columns decide nothing.
fn tested(subquery: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = &*subquery.body else { return None };
    let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(expressions, _) if expressions.is_empty());
    (select.distinct.is_none() && !grouped && subquery.order_by.is_none()).then_some(&**select)
}

fn is_natural(operator: &JoinOperator) -> bool {
    use JoinOperator as J;
    match operator {
        J::Join(constraint)
        | J::Inner(constraint)
        | J::Left(constraint)
        | J::LeftOuter(constraint)
        | J::Right(constraint)
        | J::RightOuter(constraint)
        | J::FullOuter(constraint)
        | J::CrossJoin(constraint) => matches!(constraint, JoinConstraint::Natural),
        // Not known.
        _ => true,
    }
}

impl Visitor for Finder {
    type Break = Box<PgError>;

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Box<PgError>> {
        self.select(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Box<PgError>> {
        if let Expr::Exists { subquery, .. } = expr {
            self.tested.extend(tested(subquery).map(|select| std::ptr::from_ref(select) as usize));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Box<PgError>> {
        match factor {
            TableFactor::Table { alias, sample, .. } => {
                self.uses.all_columns |= alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                if sample.is_some() {
                    let hint = "Sample by a condition: WHERE random() < 0.01.";
                    return ControlFlow::Break(Box::new(not_over_shards(
                        "TABLESAMPLE chooses pages of one server.",
                        hint,
                    )));
                }
            }
            TableFactor::NestedJoin { table_with_joins, .. } => {
                self.uses.all_columns |= table_with_joins.joins.iter().any(|join| is_natural(&join.join_operator));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[derive(Default)]
struct Names(BTreeSet<String>);

impl Visitor for Names {
    type Break = ();

    fn pre_visit_ident(&mut self, ident: &Ident) -> ControlFlow<()> {
        self.0.insert(ident_value(ident));
        ControlFlow::Continue(())
    }
}
