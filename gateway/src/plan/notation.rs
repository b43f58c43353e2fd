//! Functional notation: `row.f` and `(value).f` call `f` where there is no column of that name (`ParseFuncOrColumn`,
//! `src/backend/parser/parse_func.c`). Example: `SELECT s.total FROM settings s` calls `total(settings)`.
//!
//! It tells which qualified names are columns for certain; whatever else has a function's name counts as a call of it.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use sqlparser::ast::{
    AccessExpr, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor,
    TableObject, Visit, Visitor,
};

use super::context::PlanContext;
use super::figure_name::output_name;
use super::keys::strip;
use crate::sql::parse::{ident_value, name_parts};

type Names = BTreeSet<String>;

/// The columns that the relations of a statement have for certain.
pub struct Columns<'c, 'a> {
    context: &'c PlanContext<'a>,
    /// By the name that the statement calls a relation; one entry for each that has it, on whatever level.
    relations: HashMap<String, Vec<Names>>,
    /// Of WITH items.
    common: HashMap<String, Names>,
}

/// Names in this expression, not below it, that stand behind a dot.
pub fn qualified_names(expr: &Expr) -> Vec<&Ident> {
    match expr {
        Expr::CompoundIdentifier(parts) => parts.last().into_iter().collect(),
        Expr::CompoundFieldAccess { access_chain, .. } => access_chain.iter().flat_map(fields).collect(),
        _ => Vec::new(),
    }
}

fn fields(access: &AccessExpr) -> &[Ident] {
    match access {
        AccessExpr::Dot(Expr::Identifier(name)) => std::slice::from_ref(name),
        AccessExpr::Dot(Expr::CompoundIdentifier(names)) => names,
        _ => &[],
    }
}

impl<'c, 'a> Columns<'c, 'a> {
    pub fn of(context: &'c PlanContext<'a>, statement: &impl Visit) -> Columns<'c, 'a> {
        let mut columns = Columns { context, relations: HashMap::new(), common: HashMap::new() };
        let _ = statement.visit(&mut columns);
        columns
    }

    /// Names in this expression, not below it, that may be calls.
    pub fn calls(&self, expr: &Expr) -> Vec<String> {
        match expr {
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., qualifier, name] => self.unless_column(qualifier, name).into_iter().collect(),
                _ => Vec::new(),
            },
            Expr::CompoundFieldAccess { root, access_chain } => {
                let mut qualifier = match strip(root) {
                    Expr::Identifier(qualifier) => Some(qualifier),
                    _ => None,
                };
                let mut calls = Vec::new();
                for access in access_chain {
                    for name in fields(access) {
                        match qualifier.take() {
                            Some(qualifier) => calls.extend(self.unless_column(qualifier, name)),
                            None => calls.push(ident_value(name)),
                        }
                    }
                    qualifier = None;
                }
                calls
            }
            _ => Vec::new(),
        }
    }

    fn unless_column(&self, qualifier: &Ident, name: &Ident) -> Option<String> {
        let name = ident_value(name);
        let relations = self.relations.get(&ident_value(qualifier)).map_or(&[][..], Vec::as_slice);
        let is_column = !relations.is_empty() && relations.iter().all(|columns| columns.contains(&name));
        (!is_column).then_some(name)
    }

    fn table(&self, name: &ObjectName) -> Vec<String> {
        let Some(parts) = name_parts(name) else { return Vec::new() };
        let Ok(table) = self.context.table(&parts) else { return Vec::new() };
        let relation = self.context.catalog.relation(&table.name);
        let own: Vec<String> =
            relation.into_iter().flat_map(|relation| &relation.columns).map(|column| column.name.clone()).collect();
        match self.common.get(&parts[0]).filter(|_| parts.len() == 1) {
            // Which of the two is meant, its place tells.
            Some(common) if relation.is_some() => own.into_iter().filter(|column| common.contains(column)).collect(),
            Some(common) => common.iter().cloned().collect(),
            None => own,
        }
    }

    fn factor(&self, factor: &TableFactor) -> Option<(String, Names)> {
        let (own, alias, columns): (_, &Option<TableAlias>, Vec<String>) = match factor {
            TableFactor::Table { name, alias, args: None, .. } => (name_parts(name)?.pop(), alias, self.table(name)),
            TableFactor::Derived { subquery, alias, .. } => (None, alias, self.outputs(subquery).into_iter().collect()),
            TableFactor::Table { name, alias, args: Some(_), .. } | TableFactor::Function { name, alias, .. } => {
                (name_parts(name)?.pop(), alias, Vec::new())
            }
            _ => return None,
        };
        let renamed: &[_] = alias.as_ref().map_or(&[], |alias| &alias.columns);
        // Those of a derived table are in no order: with new names for some, only these are certain.
        let ordered = matches!(factor, TableFactor::Table { .. });
        let first = if renamed.is_empty() || ordered { renamed.len() } else { columns.len() };
        let kept = columns.into_iter().skip(first);
        let columns = renamed.iter().map(|column| ident_value(&column.name)).chain(kept).collect();
        Some((alias.as_ref().map(|alias| ident_value(&alias.name)).or(own)?, columns))
    }

    fn outputs(&self, query: &Query) -> Names {
        let mut body = &*query.body;
        loop {
            match body {
                SetExpr::Select(select) => return self.projection(select),
                SetExpr::Query(inner) => return self.outputs(inner),
                SetExpr::SetOperation { left, .. } => body = left,
                _ => return Names::new(),
            }
        }
    }

    fn projection(&self, select: &Select) -> Names {
        let mut names = Names::new();
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) => names.extend(output_name(expr)),
                SelectItem::ExprWithAlias { alias, .. } => {
                    names.insert(ident_value(alias));
                }
                SelectItem::Wildcard(_) => {
                    for item in &select.from {
                        let factors =
                            std::iter::once(&item.relation).chain(item.joins.iter().map(|join| &join.relation));
                        names.extend(factors.filter_map(|factor| self.factor(factor)).flat_map(|(_, columns)| columns));
                    }
                }
                _ => {}
            }
        }
        names
    }
}

impl Visitor for Columns<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for item in query.with.iter().flat_map(|with| &with.cte_tables) {
            let mut columns: Names = item.alias.columns.iter().map(|column| ident_value(&column.name)).collect();
            if columns.is_empty() {
                columns = self.outputs(&item.query);
            }
            let name = ident_value(&item.alias.name);
            let columns = match self.common.get(&name) {
                Some(other) => columns.intersection(other).cloned().collect(),
                None => columns,
            };
            self.common.insert(name, columns);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Some((name, columns)) = self.factor(factor) {
            self.relations.entry(name).or_default().push(columns);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        if let Statement::Insert(insert) = statement {
            if let TableObject::TableName(table) = &insert.table {
                let columns: Names = self.table(table).into_iter().collect();
                let alias = insert.table_alias.as_ref().map(|alias| ident_value(&alias.alias));
                let own = alias.or_else(|| name_parts(table).and_then(|mut parts| parts.pop()));
                for name in own.into_iter().chain(["excluded".to_owned()]) {
                    self.relations.entry(name).or_default().push(columns.clone());
                }
            }
        }
        ControlFlow::Continue(())
    }
}
