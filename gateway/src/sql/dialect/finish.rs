//! The tree as the rest of the gateway reads it: what only the rewriting put there is taken out again.

use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, Expr, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, VisitMut,
    VisitorMut, WildcardAdditionalOptions,
};

use super::{is_made_up, NONE};

/// Restores empty select lists and `(row).*`; refuses lists whose length the tree does not tell.
pub fn finish(statement: &mut Statement) -> Result<(), String> {
    match statement.visit(&mut Finish) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(message) => Err(message.to_owned()),
    }
}

struct Finish;

impl VisitorMut for Finish {
    type Break = &'static str;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        if matches!(select.projection.as_slice(), [SelectItem::UnnamedExpr(Expr::Identifier(name))] if is_made_up(name, NONE))
        {
            select.projection.clear();
        }
        select.projection.iter_mut().for_each(expand);
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &mut Statement) -> ControlFlow<Self::Break> {
        let returning = match statement {
            Statement::Insert(insert) => &mut insert.returning,
            Statement::Update(update) => &mut update.returning,
            Statement::Delete(delete) => &mut delete.returning,
            _ => return ControlFlow::Continue(()),
        };
        returning.iter_mut().flatten().for_each(expand);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        match &*query.body {
            SetExpr::Values(values) if values.rows.iter().flat_map(|row| &row.content).any(expands) => {
                ControlFlow::Break("VALUES with all fields of a row")
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Tuple(parts) if parts.iter().any(expands) => ControlFlow::Break("a row with all fields of another"),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// `(row).*`, which the rewriting calls a field.
fn fields(expr: &Expr) -> bool {
    matches!(expr, Expr::CompoundFieldAccess { access_chain, .. }
        if matches!(access_chain.last(), Some(AccessExpr::Dot(Expr::Identifier(name))) if is_made_up(name, "*")))
}

fn expands(expr: &Expr) -> bool {
    matches!(expr, Expr::QualifiedWildcard(..)) || fields(expr)
}

fn expand(item: &mut SelectItem) {
    let SelectItem::UnnamedExpr(expr) = item else { return };
    if !fields(expr) {
        return;
    }
    let whole = std::mem::replace(expr, Expr::Tuple(Vec::new()));
    let Expr::CompoundFieldAccess { root, mut access_chain } = whole else { return };
    access_chain.pop();
    let row = if access_chain.is_empty() { *root } else { Expr::CompoundFieldAccess { root, access_chain } };
    *item =
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(row), WildcardAdditionalOptions::default());
}
