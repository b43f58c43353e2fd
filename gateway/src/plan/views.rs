//! Views over sharded tables: the statement is planned with their queries in their places, as PostgreSQL's rewriter has it.
//!
//! `SELECT id FROM paid WHERE user_id = 7` is planned as `SELECT id FROM (SELECT ... FROM public.orders ...) AS paid WHERE user_id = 7`.
//! Where one shard answers, it gets the statement as it is. Views of tables with row-level security are refused: PostgreSQL applies the
//! policies of the view's owner.

use std::collections::HashMap;
use std::ops::ControlFlow;

use ringway_topology::model::{quote_ident, TableName};
use sqlparser::ast::{Query, TableFactor, Visit, Visitor};

use super::analysis::Analysis;
use super::context::PlanContext;
use super::refuse::refused;
use super::types::FilterSplice;
use super::whole_rows::{self, Replaced};
use crate::catalog::{Relation, RelationKind};
use crate::sql::parse::{ident_value, name_parts, Text};
use crate::sql::splice::{apply, Splice};
use crate::wire::PgError;

/// A longer text is refused: views of views may double it each time.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

struct Finder<'f, 'a> {
    analysis: &'f Analysis<'a>,
    found: Vec<(Replaced<'a>, Splice)>,
    /// WITH lists of the queries around.
    lists: Vec<List>,
    /// Queries of WITH items, by address: the list and the item's place in it.
    items: HashMap<usize, (usize, usize)>,
    /// For each query around that is a WITH item's: the list, and how much of it was seen before.
    within: Vec<Option<(usize, usize)>>,
}

/// Names of a WITH list. Of one that is not RECURSIVE, an item sees those before it.
struct List {
    names: Vec<String>,
    recursive: bool,
    seen: usize,
}

/// The query's text with the queries of such views; None: there are none.
pub fn expanded(context: &PlanContext<'_>, text: &Text<'_>, query: &Query) -> Result<Option<String>, PgError> {
    let analysis = Analysis::new(context, text);
    let (found, lists, within) = (Vec::new(), Vec::new(), Vec::new());
    let mut finder = Finder { analysis: &analysis, found, lists, items: HashMap::new(), within };
    if let ControlFlow::Break(error) = query.visit(&mut finder) {
        return Err(*error);
    }
    let Finder { found, .. } = finder;
    let Some((first, _)) = found.first() else { return Ok(None) };
    whole_rows::refuse(query, &found.iter().map(|(view, _)| view).collect::<Vec<_>>())?;
    let table = first.table.clone();
    let splices: Vec<Splice> = found.into_iter().map(|(_, splice)| splice).collect();
    match apply(text.sql, &splices) {
        Some(sql) if sql.len() <= EXPANDED_BYTES_MAX => Ok(Some(sql)),
        _ => {
            Err(unclear(&table, "The statement with the queries of its views is too long.", "Write it without views."))
        }
    }
}

fn unclear(view: &TableName, detail: &str, hint: &str) -> PgError {
    refused(format!("view {view} reads a sharded table"), detail, hint)
}

impl<'a> Finder<'_, 'a> {
    /// A WITH item that can be seen here.
    fn is_common(&self, parts: &[String]) -> bool {
        let [name] = parts else { return false };
        self.lists.iter().any(|list| list.names[..list.seen].contains(name))
    }

    fn view(&self, factor: &TableFactor) -> Result<Option<(Replaced<'a>, Splice)>, PgError> {
        let TableFactor::Table { name, alias, args: None, sample, .. } = factor else { return Ok(None) };
        let context = self.analysis.context;
        let parts = name_parts(name).filter(|parts| !self.is_common(parts));
        let Some((table, relation)) = parts.and_then(|parts| context.sharded_view(&parts)) else { return Ok(None) };
        let own = alias.as_ref().map(|alias| ident_value(&alias.name));
        let splice = self.analysis.relation_splice(name, own.as_deref());
        let FilterSplice::Relation { start, end, alias: called, aliased } = splice else {
            let detail = "The place of its name in the statement's text is not exactly known.";
            return Err(unclear(&table, detail, "Write the statement more plainly."));
        };
        if sample.is_some() || relation.kind != RelationKind::View {
            let detail = "Its rows are stored, or sampled, on one server.";
            return Err(unclear(&table, detail, "Write the view's query in the statement."));
        }
        secured(context, relation).map_or(Ok(()), |secured| {
            let detail = format!("It reads {secured}, which has row-level security: the view's owner sees other rows.");
            Err(unclear(&table, &detail, "Write the view's query in the statement, or disable row-level security."))
        })?;
        let suffix = if aliased { String::new() } else { format!(" AS {}", quote_ident(&called)) };
        let text = format!("({}){suffix}", relation.definition());
        Ok(Some((Replaced { table, relation, alias: called }, Splice::replace(start..end, text))))
    }
}

/// A table with row-level security behind a view.
fn secured(context: &PlanContext<'_>, view: &Relation) -> Option<TableName> {
    let mut left: Vec<TableName> = view.reads().collect();
    let mut seen: Vec<TableName> = Vec::new();
    while let Some(name) = left.pop() {
        let Some(relation) = context.catalog.relation(&name).filter(|_| !seen.contains(&name)) else { continue };
        if relation.row_security {
            return Some(name);
        }
        left.extend(relation.reads());
        seen.push(name);
    }
    None
}

impl Visitor for Finder<'_, '_> {
    type Break = Box<PgError>;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Box<PgError>> {
        let item = self.items.remove(&(std::ptr::from_ref(query) as usize));
        self.within.push(item.map(|(list, place)| {
            let list_seen = &mut self.lists[list];
            let before = list_seen.seen;
            if !list_seen.recursive {
                list_seen.seen = place;
            }
            (list, before)
        }));
        let items = query.with.as_ref().map_or(&[][..], |with| &with.cte_tables);
        let names: Vec<String> = items.iter().map(|item| ident_value(&item.alias.name)).collect();
        for (place, item) in items.iter().enumerate() {
            self.items.insert(std::ptr::from_ref(&*item.query) as usize, (self.lists.len(), place));
        }
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        self.lists.push(List { seen: names.len(), names, recursive });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Box<PgError>> {
        self.lists.pop();
        if let Some((list, before)) = self.within.pop().flatten() {
            self.lists[list].seen = before;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Box<PgError>> {
        match self.view(factor) {
            Ok(found) => {
                self.found.extend(found);
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}
