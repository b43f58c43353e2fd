//! What an expression may name.

use super::schema::Placement;
use super::tree::Node;
use super::types::Type;

/// Something of a row that an expression may stand on.
#[derive(Clone, Debug)]
pub struct Name {
    /// Qualified, or an expression that is grouped by.
    pub text: String,
    pub ty: Type,
}

/// A query that FROM may name.
#[derive(Clone, Debug)]
pub struct CommonTable {
    pub name: String,
    pub columns: Vec<(String, Type)>,
}

#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub local: Vec<Name>,
    /// Of the queries around.
    pub outer: Vec<Name>,
    pub common: Vec<CommonTable>,
    /// Of a grouped query: what its aggregates work on.
    pub aggregated: Option<Box<Scope>>,
}

impl Scope {
    /// For a subquery: what is local here is outer there.
    pub fn inner(&self) -> Scope {
        let outer = self.local.iter().chain(&self.outer).cloned().collect();
        Scope { local: Vec::new(), outer, common: self.common.clone(), aggregated: None }
    }

    /// Without what is around: aggregates of outer columns alone would be the outer query's.
    pub fn alone(&self) -> Scope {
        Scope { outer: Vec::new(), aggregated: None, ..self.clone() }
    }
}

/// A part of FROM.
#[derive(Clone, Debug)]
pub struct Relation {
    pub node: Node,
    pub columns: Vec<Name>,
    /// Columns that no two rows have alike; all of them where nothing is known.
    pub unique: Vec<String>,
    /// The shard keys of its tables, and their keyspaces.
    pub keys: Vec<(Name, Placement)>,
    /// Conditions of joins, for WHERE.
    pub pending: Vec<Node>,
}
