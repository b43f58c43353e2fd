//! The schema of the shards as the planner sees it: an immutable value, read from any shard (all have the same schema)
//! and replaced when the topology's catalog version grows.
//!
//! It opens no connection: [`Catalog::LOAD_SQL`] is run by whoever has one, [`Catalog::parse`] reads its answer.

pub mod builtin;
pub mod effects;
mod new_row;
mod type_code;

use std::collections::{BTreeSet, HashMap};

use ringway_topology::model::TableName;
use serde::Deserialize;

use effects::{close, type_key, Effects, Names, Scanned};
use new_row::NewRow;
use type_code::{type_code, Cast, Type, TypeCode};

/// `pg_class.relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum RelationKind {
    #[serde(rename = "r")]
    Table,
    #[serde(rename = "p")]
    PartitionedTable,
    #[serde(rename = "v")]
    View,
    #[serde(rename = "m")]
    MaterializedView,
    #[serde(rename = "f")]
    ForeignTable,
    #[serde(rename = "S")]
    Sequence,
    /// Composite types, indexes, TOAST tables.
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    /// `atttypmod`, -1 without a modifier.
    pub typmod: i32,
    pub not_null: bool,
    /// `pg_get_expr` of the default or of the generation expression.
    pub default: Option<String>,
    pub identity: bool,
    pub generated: bool,
    /// The collation is nondeterministic.
    pub nondeterministic: bool,
    /// The column has a collation other than the database's default.
    pub own_collation: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Relation {
    pub kind: RelationKind,
    pub columns: Vec<Column>,
    /// Columns of the primary key, in its order.
    pub primary_key: Vec<String>,
    /// What a view reads, directly: schema and name.
    reads: Vec<(String, String)>,
    /// Tables that it is a partition or a child of.
    parents: Vec<(String, String)>,
    /// Has triggers of the user's or rewrite rules (other than a view's own).
    pub triggers: bool,
    /// Foreign keys that write into it or from it with CASCADE or SET NULL/DEFAULT: names of the tables that a delete reaches.
    cascades: Vec<(String, String)>,
    #[serde(default)]
    pub foreign_keys: Vec<ForeignKey>,
    /// What PostgreSQL evaluates whenever it is read: row-level policies, a view's query. SQL text.
    #[serde(default)]
    read_rules: String,
    /// And when it is written: triggers (as calls of their functions), rules, CHECK constraints.
    #[serde(default)]
    write_rules: WriteRules,
    #[serde(default)]
    row_triggers: Vec<RowTrigger>,
    #[serde(skip)]
    pub on_read: Effects,
    #[serde(skip)]
    on_insert: Effects,
    #[serde(skip)]
    on_update: Effects,
    #[serde(skip)]
    on_delete: Effects,
}

/// BEFORE ... FOR EACH ROW.
#[derive(Clone, Debug, Deserialize)]
struct RowTrigger {
    function: String,
    /// Its function is not one of PostgreSQL's own, which leave key columns alone.
    own: bool,
    insert: bool,
    update: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct WriteRules {
    insert: String,
    update: String,
    delete: String,
}

/// What a statement may do to rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
}

impl Events {
    pub const ALL: Events = Events { insert: true, update: true, delete: true };
    pub const INSERT: Events = Events { insert: true, update: false, delete: false };
    pub const UPDATE: Events = Events { insert: false, update: true, delete: false };
    pub const DELETE: Events = Events { insert: false, update: false, delete: true };
}

#[derive(Clone, Debug, Deserialize)]
pub struct ForeignKey {
    pub name: String,
    pub columns: Vec<String>,
    table: (String, String),
    pub referred: Vec<String>,
}

impl ForeignKey {
    pub fn table(&self) -> TableName {
        TableName::new(self.table.0.clone(), self.table.1.clone())
    }
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether PostgreSQL runs nothing by itself when it is read.
    pub fn is_read_alone(&self) -> bool {
        self.read_rules.is_empty()
    }

    /// What PostgreSQL runs by itself when rows are written.
    pub fn on_write(&self, events: Events) -> Effects {
        let mut out = Effects::default();
        let rules =
            [(events.insert, &self.on_insert), (events.update, &self.on_update), (events.delete, &self.on_delete)];
        rules.into_iter().filter(|(meant, _)| *meant).for_each(|(_, effects)| out.add(effects));
        out
    }

    /// A column takes its default from a sequence.
    pub fn has_sequence(&self) -> bool {
        let drawn = |column: &Column| column.default.as_deref().is_some_and(|default| default.contains("nextval("));
        self.columns.iter().any(|column| column.identity || drawn(column))
    }

    pub fn reads(&self) -> impl Iterator<Item = TableName> + '_ {
        self.reads.iter().map(|(schema, name)| TableName::new(schema.clone(), name.clone()))
    }

    pub fn parents(&self) -> impl Iterator<Item = TableName> + '_ {
        self.parents.iter().map(|(schema, name)| TableName::new(schema.clone(), name.clone()))
    }

    pub fn cascades(&self) -> impl Iterator<Item = TableName> + '_ {
        self.cascades.iter().map(|(schema, name)| TableName::new(schema.clone(), name.clone()))
    }
}

/// `pg_proc.provolatile`, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Volatility {
    #[serde(rename = "i")]
    Immutable,
    #[serde(rename = "s")]
    Stable,
    #[serde(rename = "v")]
    Volatile,
}

/// All functions of one name, whatever their schema and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Function {
    /// The worst of them.
    pub volatility: Volatility,
    pub aggregate: bool,
    /// Some of them return sets.
    pub set_returning: bool,
    /// One of them is not PostgreSQL's own.
    pub user_defined: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    schemas: BTreeSet<String>,
    relations: HashMap<String, HashMap<String, Relation>>,
    /// Relations of pg_catalog and information_schema: names only.
    system: HashMap<String, BTreeSet<String>>,
    functions: HashMap<String, Function>,
    names: Names,
    /// What functions of the application do, all of one name together.
    routines: HashMap<String, Effects>,
    /// What functions do to NEW, all of one name together. Those in other languages than SQL and PL/pgSQL are not here.
    new_rows: HashMap<String, NewRow>,
    /// Partitions and children by their parent.
    children: HashMap<TableName, Vec<TableName>>,
    /// Foreign keys by the table that they refer to.
    referring: HashMap<TableName, Vec<(TableName, ForeignKey)>>,
    /// Strings without a collation of their own are ordered by their bytes.
    pub strings_by_bytes: bool,
    /// Functions of the application, or what tables run when they are written, raise notifications.
    notifies: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the shard's catalog cannot be read: {0}")]
pub struct CatalogError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    strings_by_bytes: bool,
    schemas: Vec<String>,
    relations: Option<Vec<NamedRelation>>,
    system: Vec<(String, String)>,
    functions: Vec<(String, Function)>,
    /// Functions that are not PostgreSQL's own, unless written in C.
    #[serde(default)]
    routines: Option<Vec<Routine>>,
    /// Operators that are not PostgreSQL's own, and their functions.
    #[serde(default)]
    operators: Option<Vec<(String, String)>>,
    #[serde(default)]
    types: Option<Vec<Type>>,
    #[serde(default)]
    casts: Option<Vec<Cast>>,
}

#[derive(Deserialize)]
struct Routine {
    name: String,
    language: String,
    source: String,
    /// Its arguments with their types and defaults, and the type of its result.
    #[serde(default)]
    signature: String,
}

#[derive(Deserialize)]
struct NamedRelation {
    schema: String,
    name: String,
    #[serde(flatten)]
    relation: Relation,
}

impl Catalog {
    /// One row with one `text` column.
    pub const LOAD_SQL: &'static str = include_str!("catalog.sql");

    /// Reads the answer to [`Catalog::LOAD_SQL`].
    pub fn parse(text: &str) -> Result<Catalog, CatalogError> {
        let document: Document = serde_json::from_str(text)?;
        let mut catalog = Catalog { schemas: document.schemas.into_iter().collect(), ..Catalog::default() };
        for named in document.relations.unwrap_or_default() {
            catalog.relations.entry(named.schema).or_default().insert(named.name, named.relation);
        }
        for (schema, name) in document.system {
            catalog.system.entry(schema).or_default().insert(name);
        }
        catalog.functions = document.functions.into_iter().collect();
        catalog.strings_by_bytes = document.strings_by_bytes;
        let operators = document.operators.unwrap_or_default();
        let types = type_code(&document.types.unwrap_or_default(), &document.casts.unwrap_or_default());
        catalog.read_effects(document.routines.unwrap_or_default(), operators, &types);
        Ok(catalog)
    }

    fn read_effects(
        &mut self,
        routines: Vec<Routine>,
        operators: Vec<(String, String)>,
        types: &HashMap<u32, TypeCode>,
    ) {
        for (schema, relations) in &self.relations {
            for name in relations.keys() {
                let table = TableName::new(schema.as_str(), name.as_str());
                self.names.relations.entry(name.clone()).or_default().push(table);
            }
        }
        self.names.routines = routines.iter().map(|routine| routine.name.clone()).collect();
        for (symbol, function) in operators {
            self.names.operators.entry(symbol).or_default().push(function);
        }
        let volatile = self.functions.iter().filter(|(_, f)| f.volatility == Volatility::Volatile && !f.user_defined);
        self.names.volatile = volatile.map(|(name, _)| name.clone()).collect();
        let names =
            |is_row: bool| types.values().filter(move |code| code.is_row == is_row).map(|code| code.name.clone());
        (self.names.types, self.names.rows) = (names(false).collect(), names(true).collect());
        let mut scanned: HashMap<String, Scanned> = HashMap::new();
        for code in types.values() {
            let own = self.names.scan(&format!("{} ; {}", code.checks, code.casts));
            let all = scanned.entry(type_key(&code.name)).or_default();
            all.effects.add(&of_row(own.effects));
            all.calls.extend(own.calls);
        }
        for routine in routines {
            let new_row = match routine.language.as_str() {
                "sql" | "plpgsql" => NewRow::of(&routine.source),
                other => NewRow::unknown(format!("it is written in {other}")),
            };
            self.new_rows.entry(routine.name.clone()).or_default().add(new_row);
            let own = match routine.language.as_str() {
                "sql" | "plpgsql" => self.names.scan(&routine.source),
                other => {
                    Scanned { effects: Effects::opaque(format!("it is written in {other}")), ..Scanned::default() }
                }
            };
            let signature = self.names.scan(&routine.signature);
            let all = scanned.entry(routine.name).or_default();
            all.effects.add(&own.effects);
            all.effects.settings |= signature.effects.settings;
            all.calls.extend(own.calls);
            all.calls.extend(signature.calls);
        }
        self.routines = close(scanned);
        let of_types: HashMap<u32, (Effects, Effects)> = types
            .iter()
            .map(|(oid, code)| (*oid, (self.effects_of_row(&code.checks), self.effects_of_row(&code.casts))))
            .collect();
        let mut relations = std::mem::take(&mut self.relations);
        for (schema, tables) in &mut relations {
            for (name, relation) in tables {
                relation.on_read = self.effects(&relation.read_rules);
                relation.on_insert = self.effects(&relation.write_rules.insert);
                relation.on_update = self.effects(&relation.write_rules.update);
                relation.on_delete = self.effects(&relation.write_rules.delete);
                for default in relation.columns.iter().filter_map(|column| column.default.as_deref()) {
                    let effects = self.effects_of_row(default);
                    relation.on_insert.add(&effects);
                    relation.on_update.add(&effects);
                }
                for (checks, casts) in relation.columns.iter().filter_map(|column| of_types.get(&column.type_oid)) {
                    for effects in [checks, casts] {
                        relation.on_insert.add(effects);
                        relation.on_update.add(effects);
                    }
                    relation.on_read.add(casts);
                }
                for parent in relation.parents() {
                    let child = TableName::new(schema.as_str(), name.as_str());
                    self.children.entry(parent).or_default().push(child);
                }
                for key in &relation.foreign_keys {
                    let from = TableName::new(schema.as_str(), name.as_str());
                    self.referring.entry(key.table()).or_default().push((from, key.clone()));
                }
            }
        }
        self.notifies = self.routines.values().any(|effects| effects.notifies)
            || relations.values().flat_map(HashMap::values).any(|relation| relation.on_write(Events::ALL).notifies);
        self.relations = relations;
    }

    /// What a default, a check or a cast does.
    fn effects_of_row(&self, text: &str) -> Effects {
        of_row(self.effects(text))
    }

    /// What is run when a value becomes one of a type of this name, or one of it another.
    pub fn type_effects(&self, name: &str) -> Option<&Effects> {
        self.routines.get(&type_key(name))
    }

    /// What a text in SQL or PL/pgSQL may do, with the functions that it calls.
    pub fn effects(&self, text: &str) -> Effects {
        if text.is_empty() {
            return Effects::default();
        }
        let Scanned { mut effects, calls } = self.names.scan(text);
        for call in calls {
            if let Some(called) = self.routines.get(&call) {
                effects.add(called);
            }
        }
        effects
    }

    /// Whether a statement may raise notifications: by itself, or by what servers run when it writes tables.
    pub fn may_notify(&self, sql: &str) -> bool {
        let text = sql.to_ascii_lowercase();
        if !self.notifies && !text.contains("notify") {
            return false;
        }
        let effects = self.effects(sql);
        if effects.notifies {
            return true;
        }
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let of_statement = Events {
            insert: says(&["insert", "copy", "merge"]),
            update: says(&["update", "merge"]),
            delete: says(&["delete", "merge", "truncate"]),
        };
        let mut reached: Vec<TableName> = effects.written.into_iter().collect();
        let written = reached.len();
        let mut at = 0;
        while let Some(relation) = reached.get(at).map(|name| self.relation(name)) {
            at += 1;
            let Some(relation) = relation else { continue };
            let events = if at <= written { of_statement } else { Events::ALL };
            if relation.on_write(events).notifies {
                return true;
            }
            let further: Vec<TableName> = relation.cascades().filter(|name| !reached.contains(name)).collect();
            reached.extend(further);
        }
        false
    }

    /// What the application's functions of this name may do. `None`: there are none, or they are written in C.
    pub fn routine(&self, name: &str) -> Option<&Effects> {
        self.routines.get(name)
    }

    /// Why this trigger function may change the column of the row that is written.
    pub fn changes_column(&self, function: &str, column: &str) -> Option<String> {
        match self.new_rows.get(function) {
            Some(new_row) => new_row.changes(column),
            None if self.function(function).is_some_and(|known| known.user_defined) => {
                Some("it is written in C".to_owned())
            }
            None => None,
        }
    }

    /// A trigger of the table that may change the column before the row is stored: its function, and why.
    pub fn column_changed_by_trigger(
        &self,
        table: &TableName,
        column: &str,
        events: Events,
    ) -> Option<(String, String)> {
        let triggers = self.relation(table).into_iter().flat_map(|relation| &relation.row_triggers);
        triggers
            .filter(|trigger| trigger.own && (events.insert && trigger.insert || events.update && trigger.update))
            .find_map(|trigger| Some((trigger.function.clone(), self.changes_column(&trigger.function, column)?)))
    }

    /// Partitions and children of a table.
    pub fn children(&self, table: &TableName) -> &[TableName] {
        self.children.get(table).map_or(&[], Vec::as_slice)
    }

    /// Functions behind an operator of the application.
    pub fn operator(&self, symbol: &str) -> &[String] {
        self.names.operators.get(symbol).map_or(&[], Vec::as_slice)
    }

    /// Foreign keys of other tables that refer to this one.
    pub fn referring(&self, table: &TableName) -> &[(TableName, ForeignKey)] {
        self.referring.get(table).map_or(&[], Vec::as_slice)
    }

    pub fn has_schema(&self, schema: &str) -> bool {
        self.schemas.contains(schema)
    }

    pub fn relation(&self, table: &TableName) -> Option<&Relation> {
        self.relations.get(&table.schema)?.get(&table.name)
    }

    pub fn is_system_relation(&self, table: &TableName) -> bool {
        self.system.get(&table.schema).is_some_and(|names| names.contains(&table.name))
    }

    /// All functions of this name.
    pub fn function(&self, name: &str) -> Option<Function> {
        self.functions.get(name).copied()
    }

    /// Whether any relation of the application has this name, in whatever schema.
    pub fn names_relation(&self, name: &str) -> bool {
        self.relations.values().any(|relations| relations.contains_key(name))
    }

    /// The schemas that an unqualified name is looked up in, in order. `search_path` is the list as set, with `$user`.
    pub fn effective_path(&self, search_path: &[String], user: &str) -> Vec<String> {
        let mut path: Vec<String> = Vec::with_capacity(search_path.len() + 1);
        for element in search_path {
            let schema = if element == "$user" { user } else { element.as_str() };
            let system = schema == "pg_catalog" || schema == "information_schema";
            if (system || self.has_schema(schema)) && !path.iter().any(|known| known == schema) {
                path.push(schema.to_owned());
            }
        }
        if !path.iter().any(|schema| schema == "pg_catalog") {
            path.insert(0, "pg_catalog".to_owned());
        }
        path
    }

    /// Finds an unqualified relation along an effective path.
    pub fn resolve(&self, path: &[String], name: &str) -> Option<TableName> {
        path.iter()
            .map(|schema| TableName::new(schema.as_str(), name))
            .find(|table| self.relation(table).is_some() || self.is_system_relation(table))
    }
}

/// Without clocks, sequences and random values: those are the row's own business.
fn of_row(effects: Effects) -> Effects {
    Effects { server: None, clock: false, volatile: false, ..effects }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_names_up_like_postgresql() {
        let catalog = Catalog::parse(include_str!("plan/testdata/catalog.json")).unwrap();
        let path = catalog.effective_path(&["$user".into(), "nowhere".into(), "public".into()], "ringway");
        assert_eq!(path, ["pg_catalog", "public"]);
        assert_eq!(catalog.resolve(&path, "orders"), Some(TableName::new("public", "orders")));
        assert_eq!(catalog.resolve(&path, "pg_class"), Some(TableName::new("pg_catalog", "pg_class")));
        assert_eq!(catalog.resolve(&path, "nothing"), None);
        assert!(catalog.function("count").unwrap().aggregate);
        assert_eq!(catalog.function("random").unwrap().volatility, Volatility::Volatile);
    }
}
