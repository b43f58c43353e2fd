//! What planning depends on besides the statement, and the names that it resolves.

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::{TableKind, TableName, Topology};
use ringway_topology::token::KeyType;

use crate::catalog::builtin::is_of_server;
use crate::catalog::{Catalog, Relation, RelationKind, Volatility};
use crate::plan::refuse::refused;
use crate::wire::sqlstate::SqlState;
use crate::wire::PgError;

/// Everything that decides a plan. Of the topology only its shape counts: tables, keyspaces, members; not the ring.
#[derive(Clone, Copy, Debug)]
pub struct PlanContext<'a> {
    pub catalog: &'a Catalog,
    pub topology: &'a Topology,
    /// As set, with `$user` in it.
    pub search_path: &'a [String],
    pub user: &'a str,
    /// The session is held to one shard (`SET ringway.shard`): what would be refused goes there as it is.
    pub one_shard: bool,
}

/// Where a relation's rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    Sharded {
        keyspace: KeyspaceId,
        key_column: String,
        key_type: KeyType,
    },
    Reference,
    /// On the home shard; also sequences, foreign tables, and names that the catalog does not know.
    Single,
    /// System catalogs: anywhere.
    System,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTable {
    pub name: TableName,
    pub placed: Placed,
    /// The catalog has it.
    pub known: bool,
    pub view: bool,
}

impl<'a> PlanContext<'a> {
    /// A name of one to three parts.
    pub fn table(&self, parts: &[String]) -> Result<ResolvedTable, PgError> {
        let (schema, name) = match parts {
            [name] => (None, name),
            [schema, name] | [_, schema, name] => (Some(schema), name),
            _ => return Err(PgError::new(SqlState::SYNTAX_ERROR, "improper qualified name (too many dotted names)")),
        };
        let table = match schema {
            Some(schema) if schema.starts_with("pg_temp") => {
                return Ok(ResolvedTable {
                    name: TableName::new(schema.as_str(), name.as_str()),
                    placed: Placed::Single,
                    known: false,
                    view: false,
                })
            }
            Some(schema) => TableName::new(schema.as_str(), name.as_str()),
            None => {
                let path = self.catalog.effective_path(self.search_path, self.user);
                match self.catalog.resolve(&path, name) {
                    Some(table) => table,
                    None => {
                        // A table that the topology knows and the catalog does not know yet.
                        let listed = path.iter().find(|schema| self.topology.table(schema, name).is_some());
                        let creation = path.iter().find(|schema| *schema != "pg_catalog");
                        TableName::new(listed.or(creation).map_or("public", String::as_str), name.as_str())
                    }
                }
            }
        };
        self.placed(table)
    }

    fn placed(&self, name: TableName) -> Result<ResolvedTable, PgError> {
        let system = name.schema == "pg_catalog" || name.schema == "information_schema";
        if system {
            return Ok(ResolvedTable { known: true, view: false, placed: Placed::System, name });
        }
        let relation = self.catalog.relation(&name);
        let known = relation.is_some();
        if let Some(relation) = relation {
            if matches!(relation.kind, RelationKind::View | RelationKind::MaterializedView) {
                let placed = self.view(&name, relation)?;
                return Ok(ResolvedTable { name, placed, known, view: true });
            }
        }
        let placed = self.listed(&name, 0).unwrap_or(Placed::Single);
        Ok(ResolvedTable { name, placed, known, view: false })
    }

    /// The kind of a table or of one that it is a partition or child of.
    fn listed(&self, name: &TableName, depth: usize) -> Option<Placed> {
        if let Some(table) = self.topology.table(&name.schema, &name.name) {
            return Some(match &table.kind {
                TableKind::Sharded { keyspace, key_column, key_type } => {
                    Placed::Sharded { keyspace: *keyspace, key_column: key_column.clone(), key_type: *key_type }
                }
                TableKind::Reference => Placed::Reference,
            });
        }
        let relation = self.catalog.relation(name)?;
        if depth > 16 {
            return None;
        }
        let found = relation.parents().find_map(|parent| self.listed(&parent, depth + 1));
        found
    }

    /// A view is where everything that it reads is.
    fn view(&self, name: &TableName, relation: &Relation) -> Result<Placed, PgError> {
        let mut seen = vec![name.clone()];
        let mut left: Vec<TableName> = relation.reads().collect();
        let mut placed = Placed::System;
        if relation.kind == RelationKind::MaterializedView {
            placed = Placed::Single;
        }
        while let Some(read) = left.pop() {
            if seen.contains(&read) {
                continue;
            }
            if let Some(inner) = self.catalog.relation(&read) {
                if inner.kind == RelationKind::View {
                    left.extend(inner.reads());
                    seen.push(read);
                    continue;
                }
            }
            if read.schema != "pg_catalog" && read.schema != "information_schema" {
                match self.listed(&read, 0) {
                    Some(Placed::Sharded { .. }) => {
                        return Err(refused(
                            format!("view {name} reads a sharded table"),
                            format!("It reads {read}, whose rows are on several shards."),
                            "Write the view's query in the statement.",
                        ))
                    }
                    Some(Placed::Reference) if placed == Placed::System => placed = Placed::Reference,
                    Some(Placed::Reference) => {}
                    _ => placed = Placed::Single,
                }
            }
            seen.push(read);
        }
        Ok(placed)
    }

    /// What calling a function may do, by its unqualified name. What the application's own touch is in
    /// [`Catalog::routine`].
    pub fn function(&self, name: &str) -> FunctionUse {
        if is_of_server(name) {
            return FunctionUse::Home;
        }
        match self.catalog.function(name) {
            Some(f) if f.aggregate => FunctionUse::Aggregate,
            Some(f) if f.volatility == Volatility::Volatile => FunctionUse::Volatile,
            Some(f) if f.volatility == Volatility::Stable => FunctionUse::Stable,
            _ => FunctionUse::Immutable,
        }
    }

    /// Whether there is more than one shard, so that it matters where something runs.
    pub fn is_spread(&self) -> bool {
        self.topology.members().nth(1).is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionUse {
    Immutable,
    Aggregate,
    Stable,
    Volatile,
    /// State of the server or the session: sequences, advisory locks, transaction ids.
    Home,
}
