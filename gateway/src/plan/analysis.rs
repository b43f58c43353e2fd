//! What a statement touches and how its sharded tables hang together: the facts that every tier decides by.
//!
//! Each appearance of a sharded table is an [`Occurrence`] with an *attribute*, its shard key. Conditions give
//! attributes values (`key = 5`), implications (the rows of B that matter have the key of A) and connections (rows are
//! joined only with rows of the same key). [`super::names`] walks the tree, [`super::keys`] reads conditions,
//! [`super::colocate`] checks connections.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::TableName;
use ringway_topology::token::KeyType;
use sqlparser::ast::Query;

use super::context::PlanContext;
use super::reach::Code;
use super::types::{FilterSplice, KeyExpression, Keys, ShardedReference};
use crate::catalog::Events;
use crate::sql::parse::Text;
use crate::sql::splice::Splice;
use crate::wire::PgError;

/// A statement that names more keys than this is for every shard of the keyspace, which is as exact.
pub const KEYS_PER_STATEMENT_MAX: usize = 65_536;

#[derive(Clone, Debug)]
pub struct Occurrence {
    pub table: TableName,
    pub keyspace: KeyspaceId,
    pub key_column: String,
    pub attribute: usize,
    pub splice: FilterSplice,
    /// Target of an INSERT, UPDATE, DELETE or MERGE.
    pub written: bool,
}

/// A column of a relation or of a query's output.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub name: Option<String>,
    /// It is the shard key of an occurrence.
    pub attribute: Option<usize>,
    /// An outer join may have made it NULL.
    pub nullable: bool,
}

/// A FROM item as the rest of its query sees it.
#[derive(Clone, Debug)]
pub struct Relation {
    pub alias: String,
    /// `None`: not known (functions).
    pub columns: Option<Vec<Output>>,
    pub sharded: bool,
    /// Stands for it in connections.
    pub anchor: Option<usize>,
    pub nullable: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub relations: Vec<Relation>,
    /// Columns merged by USING or NATURAL.
    pub merged: Vec<Output>,
    /// A subquery in FROM that is no relation (in ON, in a function's arguments) reads a sharded table.
    pub sharded_conditions: bool,
}

/// What is known of a query as a whole.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub sharded: bool,
    pub columns: Option<Vec<Output>>,
    pub anchor: Option<usize>,
    /// Why the rows before grouping, DISTINCT and LIMIT are not the union of what the shards find.
    pub core: Option<Box<PgError>>,
    /// Why the result is not that union even so.
    pub finish: Option<Box<PgError>>,
    /// Attributes of outer queries that all its sharded rows are joined with.
    pub outer: Vec<usize>,
}

impl Facts {
    pub fn block(&self) -> Option<&PgError> {
        self.core.as_deref().or(self.finish.as_deref())
    }
}

#[derive(Clone, Debug)]
pub struct CommonTable {
    pub name: String,
    pub columns: Vec<String>,
    pub body: CommonBody,
    /// How many scopes and WITH items its query sees.
    pub scopes: usize,
    pub visible: usize,
    /// SEARCH or CYCLE adds columns.
    pub extended: bool,
    pub referenced: std::cell::Cell<bool>,
}

#[derive(Clone, Debug)]
pub enum CommonBody {
    Query(Box<Query>),
    /// INSERT, UPDATE, DELETE: analysed where it stands.
    Modifying {
        sharded: bool,
    },
    /// Being analysed: a recursive reference.
    Recursive,
}

pub struct Analysis<'a> {
    pub context: &'a PlanContext<'a>,
    pub text: &'a Text<'a>,
    /// No cheaper tier is wanted.
    pub only_gathers: bool,
    pub occurrences: Vec<Occurrence>,
    /// Key type of each attribute.
    pub attributes: Vec<KeyType>,
    pub implies: Vec<(usize, usize)>,
    pub seeds: Vec<(usize, Vec<KeyExpression>)>,
    connected: Vec<usize>,
    pub references: BTreeSet<TableName>,
    pub singles: BTreeSet<TableName>,
    pub tables: BTreeSet<TableName>,
    pub locking: bool,
    /// It locks rows of a reference table so that no other may (FOR UPDATE, FOR NO KEY UPDATE): which one.
    pub reference_locked: Option<TableName>,
    /// Triggers, policies and views of its tables.
    pub code: Vec<Code>,
    /// What the statement that is being looked at does to rows.
    pub events: Events,
    /// A reference table is the target of a statement that writes.
    pub reference_written: bool,
    pub modifying_with: bool,
    pub system: bool,
    pub recursive: bool,
    pub scopes: Vec<Scope>,
    pub common: Vec<Rc<CommonTable>>,
    /// IN (SELECT ...) expressions that stand in a filter, by address.
    pub filtering: BTreeSet<usize>,
    pub depth: usize,
    /// Tables that stand directly in the outermost FROM, by alias; whether anything else does.
    pub base_tables: Vec<(String, TableName)>,
    pub derived_in_from: bool,
    /// `FROM t AS a (x, y)`.
    pub renamed_columns: bool,
    /// The splices that made the text for several shards.
    pub rewritten_by: Vec<Splice>,
}

impl<'a> Analysis<'a> {
    pub fn new(context: &'a PlanContext<'a>, text: &'a Text<'a>) -> Analysis<'a> {
        Analysis {
            context,
            text,
            only_gathers: false,
            occurrences: Vec::new(),
            attributes: Vec::new(),
            implies: Vec::new(),
            seeds: Vec::new(),
            connected: Vec::new(),
            references: BTreeSet::new(),
            singles: BTreeSet::new(),
            tables: BTreeSet::new(),
            locking: false,
            reference_locked: None,
            code: Vec::new(),
            events: Events::ALL,
            reference_written: false,
            modifying_with: false,
            system: false,
            recursive: false,
            scopes: Vec::new(),
            common: Vec::new(),
            filtering: BTreeSet::new(),
            depth: 0,
            base_tables: Vec::new(),
            derived_in_from: false,
            renamed_columns: false,
            rewritten_by: Vec::new(),
        }
    }

    pub fn attribute(&mut self, key_type: KeyType) -> usize {
        self.attributes.push(key_type);
        self.connected.push(self.connected.len());
        self.attributes.len() - 1
    }

    pub fn find(&self, attribute: usize) -> usize {
        let mut at = attribute;
        while self.connected[at] != at {
            at = self.connected[at];
        }
        at
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        self.connected[a] = b;
    }

    /// The keys that hold every occurrence, all values together; `None` if one is not held, or by too many.
    pub fn keys(&self) -> Option<Keys> {
        let keyspace = self.keyspace()?;
        let mut held: Vec<Option<&Vec<KeyExpression>>> = vec![None; self.attributes.len()];
        let mut left: Vec<usize> = Vec::new();
        for (attribute, values) in &self.seeds {
            let better = held[*attribute].is_none_or(|known| values.len() < known.len());
            if better {
                held[*attribute] = Some(values);
            }
            left.push(*attribute);
        }
        while let Some(from) = left.pop() {
            for &(source, target) in &self.implies {
                if source == from && held[target].is_none() {
                    held[target] = held[from];
                    left.push(target);
                }
            }
        }
        let mut values: Vec<KeyExpression> = Vec::new();
        let mut seen: HashSet<&KeyExpression> = HashSet::new();
        for occurrence in &self.occurrences {
            for value in held[occurrence.attribute]? {
                if seen.insert(value) {
                    values.push(value.clone());
                }
            }
            if values.len() > KEYS_PER_STATEMENT_MAX {
                return None;
            }
        }
        Some(Keys { keyspace, values })
    }

    /// The one keyspace of all occurrences.
    pub fn keyspace(&self) -> Option<KeyspaceId> {
        let first = self.occurrences.first()?.keyspace;
        self.occurrences.iter().all(|occurrence| occurrence.keyspace == first).then_some(first)
    }

    pub fn sharded_references(&self) -> Vec<ShardedReference> {
        let mut out: Vec<ShardedReference> = Vec::new();
        for occurrence in &self.occurrences {
            let reference = ShardedReference {
                table: occurrence.table.clone(),
                keyspace: occurrence.keyspace,
                key_column: occurrence.key_column.clone(),
                splice: occurrence.splice.clone(),
            };
            // A WITH query that is referenced twice is analysed twice and stands in the text once.
            if matches!(reference.splice, FilterSplice::Unknown | FilterSplice::None)
                || !out.iter().any(|known| known.splice == reference.splice)
            {
                out.push(reference);
            }
        }
        out
    }
}
