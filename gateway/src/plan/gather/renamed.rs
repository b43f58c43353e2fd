//! `FROM t AS a (x, y)`: columns under other names.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{Query, TableFactor, Visit, Visitor};

use crate::plan::analysis::Analysis;
use crate::plan::types::FilterSplice;
use crate::sql::parse::ident_value;

/// Names of the first columns, by the byte of the statement where the table is named.
pub fn find(analysis: &Analysis<'_>, query: &Query) -> HashMap<usize, Vec<String>> {
    let mut finder = Finder { analysis, found: HashMap::new() };
    let _ = query.visit(&mut finder);
    finder.found
}

struct Finder<'f, 'a> {
    analysis: &'f Analysis<'a>,
    found: HashMap<usize, Vec<String>>,
}

impl Visitor for Finder<'_, '_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias: Some(alias), args: None, .. } = factor {
            if let (FilterSplice::Relation { start, .. }, false) =
                (self.analysis.relation_splice(name, None), alias.columns.is_empty())
            {
                self.found.insert(start, alias.columns.iter().map(|column| ident_value(&column.name)).collect());
            }
        }
        ControlFlow::Continue(())
    }
}
