//! Names of tables that stand for rows: where a table is replaced by something with the same columns, these are others.

use std::ops::ControlFlow;

use ringway_topology::model::TableName;
use sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Visit, Visitor,
};

use super::refuse::not_over_shards;
use crate::catalog::Relation;
use crate::sql::parse::{ident_value, name_parts};
use crate::wire::PgError;

/// A table or view that something else stands for, where a statement names it.
pub struct Replaced<'a> {
    pub table: TableName,
    pub relation: &'a Relation,
    pub alias: String,
    /// Names that the alias gives to the first columns.
    pub renamed: Vec<String>,
}

impl Replaced<'_> {
    fn has(&self, column: &str) -> bool {
        let kept = self.relation.columns.iter().skip(self.renamed.len());
        self.renamed.iter().any(|name| name == column) || kept.into_iter().any(|kept| kept.name == column)
    }
}

struct Finder<'s, 'a> {
    replaced: &'s [&'s Replaced<'a>],
    /// The address of `t` in `t.column[1]`, which the tree has by itself.
    qualifier: usize,
}

/// Refuses whole rows as values, calls that are written like columns, and columns that are named with a schema.
pub fn refuse(statement: &impl Visit, replaced: &[&Replaced<'_>]) -> Result<(), PgError> {
    match statement.visit(&mut Finder { replaced, qualifier: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

fn whole_row(alias: &str) -> PgError {
    not_over_shards(
        format!("\"{alias}\" stands for whole rows of what is on several shards: their type is that of the table."),
        "Name its columns.",
    )
}

impl Finder<'_, '_> {
    /// A name by itself is a column, or else the row of the table that is called so.
    fn alone(&self, name: &str) -> Result<(), PgError> {
        let is_row = |known: &&&Replaced<'_>| known.alias == name && !known.has(name);
        self.replaced.iter().find(is_row).map_or(Ok(()), |known| Err(whole_row(&known.alias)))
    }

    fn qualified(&self, parts: &[Ident]) -> Result<(), PgError> {
        let [.., table, column] = parts else { return Ok(()) };
        let (table, column) = (ident_value(table), ident_value(column));
        let schema = parts.len() > 2;
        for known in self.replaced {
            if schema && known.table.name == table {
                return Err(not_over_shards(
                    format!("A column of {} is named with its schema.", known.table),
                    format!("Write {table}.{column}, or give the table an alias."),
                ));
            }
            if !schema && known.alias == table && !known.has(&column) {
                return Err(not_over_shards(
                    format!("No column {column} of {} is known, so that it may be a call on its rows.", known.table),
                    format!("Write {column}(...) for a call."),
                ));
            }
        }
        Ok(())
    }

    fn wildcard(&self, name: &ObjectName) -> Result<(), PgError> {
        let alias = name_parts(name).and_then(|parts| parts.last().cloned()).unwrap_or_default();
        let is_replaced = self.replaced.iter().any(|known| known.alias == alias);
        if is_replaced {
            Err(whole_row(&alias))
        } else {
            Ok(())
        }
    }

    fn arguments(&self, function: &Function) -> Result<(), PgError> {
        let FunctionArguments::List(list) = &function.args else { return Ok(()) };
        list.args.iter().try_for_each(|argument| {
            let (FunctionArg::Unnamed(arg) | FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. }) =
                argument;
            match arg {
                FunctionArgExpr::QualifiedWildcard(name) => self.wildcard(name),
                _ => Ok(()),
            }
        })
    }
}

impl Visitor for Finder<'_, '_> {
    type Break = Box<PgError>;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Box<PgError>> {
        let found = match expr {
            Expr::Identifier(_) if std::ptr::from_ref(expr) as usize == self.qualifier => Ok(()),
            Expr::Identifier(name) => self.alone(&ident_value(name)),
            Expr::CompoundFieldAccess { root, access_chain } => match (&**root, access_chain.first()) {
                (Expr::Identifier(table), Some(AccessExpr::Dot(Expr::Identifier(column)))) => {
                    self.qualifier = std::ptr::from_ref(&**root) as usize;
                    self.qualified(&[table.clone(), column.clone()])
                }
                _ => Ok(()),
            },
            Expr::CompoundIdentifier(parts) => self.qualified(parts),
            Expr::Function(function) => self.arguments(function),
            Expr::QualifiedWildcard(name, _) => self.wildcard(name),
            _ => Ok(()),
        };
        found.map_or_else(|error| ControlFlow::Break(Box::new(error)), ControlFlow::Continue)
    }
}
