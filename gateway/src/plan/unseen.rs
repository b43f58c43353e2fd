//! No table of a statement goes unseen: what stands anywhere in the tree has been analysed, or the statement is refused.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{ObjectName, Query, Statement, TableFactor, Visit, Visitor};

use super::analysis::Analysis;
use super::context::Placed;
use super::refuse::refused;
use super::types::FilterSplice;
use crate::sql::parse::{ident_value, name_parts};
use crate::wire::PgError;

/// Refuses a statement with a table in it that the analysis has not come to; one that is sharded, at each of its places.
pub fn check(analysis: &Analysis<'_>, statement: &Statement) -> Result<(), PgError> {
    let mut visitor = Tables { names: Vec::new(), common: Vec::new() };
    let _ = statement.visit(&mut visitor);
    let references = analysis.sharded_references();
    for (name, parts) in visitor.names {
        let table = analysis.context.table(&parts)?;
        let mut known = references.iter().filter(|reference| reference.table == table.name).peekable();
        let seen = match (&table.placed, analysis.relation_splice(&name, None)) {
            (Placed::Sharded { .. }, FilterSplice::Relation { start, .. }) if known.peek().is_some() => {
                known.any(|reference| match reference.splice {
                    FilterSplice::Relation { start: other, .. } => other == start,
                    // A target, or a place that is not exactly known.
                    _ => true,
                })
            }
            (Placed::Sharded { .. }, _) => known.peek().is_some(),
            _ => analysis.tables.contains(&table.name),
        };
        if !seen {
            return Err(refused(
                format!("where {} stands in the statement is not supported", table.name),
                "The planner does not come to it, and its rows may be on another shard.",
                "Write the subquery in FROM or in WITH.",
            ));
        }
    }
    Ok(())
}

struct Tables {
    names: Vec<(ObjectName, Vec<String>)>,
    /// WITH items of the queries around, from the outermost.
    common: Vec<BTreeSet<String>>,
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let items = query.with.iter().flat_map(|with| &with.cte_tables);
        self.common.push(items.map(|item| ident_value(&item.alias.name)).collect());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.common.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            let common =
                |parts: &Vec<String>| parts.len() == 1 && self.common.iter().any(|items| items.contains(&parts[0]));
            let parts = name_parts(name).filter(|parts| !common(parts));
            self.names.extend(parts.map(|parts| (name.clone(), parts)));
        }
        ControlFlow::Continue(())
    }
}
