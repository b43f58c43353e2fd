//! Whether a table can be distributed. Pure, but for whether tables have rows, which the caller has found out.

use std::collections::BTreeSet;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::{Table, TableKind, TableName, Topology};
use ringway_topology::token::KeyType;

use super::inspect::{ForeignKey, TableInfo};
use crate::control::ControlError;

fn refuse(text: String) -> ControlError {
    ControlError::Precondition(text)
}

/// An ordinary table of its own.
pub fn check_kind(table: &TableName, info: &TableInfo) -> Result<(), ControlError> {
    let what = match (info.kind, info.persistence) {
        ('p', _) => "is partitioned; partitioned tables cannot be distributed yet",
        ('v' | 'm', _) => "is a view",
        ('f', _) => "is a foreign table",
        ('r', 't') => "is temporary",
        ('r', _) if info.is_partition => "is a partition; partitioned tables cannot be distributed yet",
        ('r', _) if info.inherits => "takes part in inheritance",
        ('r', _) => return Ok(()),
        _ => "is no table",
    };
    Err(refuse(format!("{table} {what}; only ordinary tables can be distributed")))
}

/// The key column's type.
pub fn check_key(table: &TableName, info: &TableInfo, key: &str) -> Result<KeyType, ControlError> {
    let column = info.columns.iter().find(|column| column.name == key);
    let column = column.ok_or_else(|| {
        let names: Vec<&str> = info.columns.iter().map(|column| column.name.as_str()).collect();
        ControlError::Invalid(format!("{table} has no column {key}; it has {}", names.join(", ")))
    })?;
    let key_type = KeyType::from_oid(column.type_oid).ok_or_else(|| {
        let types: Vec<String> = KeyType::ALL.iter().map(|key_type| key_type.to_string()).collect();
        refuse(format!(
            "{table}.{key} is {}, which cannot be a shard key; a key is one of {}",
            column.type_name,
            types.join(", ")
        ))
    })?;
    if column.generated {
        return Err(refuse(format!("{table}.{key} is a generated column and cannot be the key")));
    }
    if !column.not_null {
        return Err(refuse(format!(
            "{table}.{key} may be NULL, and a row without key has no owner; run \
             ALTER TABLE {} ALTER COLUMN {} SET NOT NULL",
            table.quoted(),
            ringway_topology::model::quote_ident(key)
        )));
    }
    if !column.deterministic {
        return Err(refuse(format!(
            "{table}.{key} has a nondeterministic collation: equal keys would hash differently; use another collation"
        )));
    }
    Ok(key_type)
}

/// Constraints that hold on each shard alone must hold for the cluster; answers warnings about those that do not.
pub fn check_uniques(
    table: &TableName,
    info: &TableInfo,
    key: &str,
    allow_local: bool,
) -> Result<Vec<String>, ControlError> {
    let mut warnings = Vec::new();
    for unique in info.uniques.iter().filter(|unique| !unique.columns.iter().any(|column| column == key)) {
        let what = match (unique.is_primary, unique.is_exclusion) {
            (true, _) => "primary key",
            (_, true) => "exclusion constraint",
            _ => "unique constraint or index",
        };
        if !allow_local {
            return Err(refuse(format!(
                "{what} {} of {table} does not include the key {key}, so it would hold on each shard alone; add {key} \
                 to it, or allow that (--allow-local-unique; right for columns fed by a sequence or UUIDs)",
                unique.name
            )));
        }
        warnings.push(format!("{what} {} of {table} holds on each shard alone", unique.name));
    }
    Ok(warnings)
}

/// What is to become of the table.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// The keyspace is `None` when it is about to be made.
    Sharded {
        key: &'a str,
        keyspace: Option<KeyspaceId>,
    },
    Reference,
}

/// Foreign keys that no shard could check. `with_rows`: tables, this one among them, that have rows.
pub fn check_foreign_keys(
    table: &TableName,
    info: &TableInfo,
    wanted: Wanted<'_>,
    topology: &Topology,
    with_rows: &BTreeSet<TableName>,
) -> Result<(), ControlError> {
    for foreign_key in info.outgoing.iter().filter(|one| one.other != *table) {
        let other = find(topology, &foreign_key.other);
        check_outgoing(table, foreign_key, wanted, other, with_rows.contains(table))?;
    }
    for foreign_key in info.incoming.iter().filter(|one| one.other != *table) {
        let other = find(topology, &foreign_key.other);
        check_incoming(table, foreign_key, wanted, other, with_rows.contains(&foreign_key.other))?;
    }
    let to_itself = info.outgoing.iter().find(|one| one.other == *table);
    if let (Some(foreign_key), Wanted::Sharded { key, .. }) = (to_itself, wanted) {
        if !pairs(foreign_key, key, key) {
            return Err(refuse(format!(
                "foreign key {} of {table} to itself does not pair the key {key} with itself; add {key} to both sides",
                foreign_key.name
            )));
        }
    }
    Ok(())
}

fn find<'a>(topology: &'a Topology, name: &TableName) -> Option<&'a Table> {
    topology.table(&name.schema, &name.name)
}

fn pairs(foreign_key: &ForeignKey, ours: &str, theirs: &str) -> bool {
    foreign_key.pairs.iter().any(|(our, their)| our == ours && their == theirs)
}

fn check_outgoing(
    table: &TableName,
    foreign_key: &ForeignKey,
    wanted: Wanted<'_>,
    other: Option<&Table>,
    has_rows: bool,
) -> Result<(), ControlError> {
    let (name, target) = (&foreign_key.name, &foreign_key.other);
    match (wanted, other.map(|other| &other.kind)) {
        (_, Some(TableKind::Reference)) => Ok(()),
        (Wanted::Sharded { key, keyspace }, Some(TableKind::Sharded { keyspace: theirs, key_column, .. })) => {
            if keyspace == Some(*theirs) && pairs(foreign_key, key, key_column) {
                return Ok(());
            }
            Err(refuse(format!(
                "foreign key {name} of {table} to {target} does not hold within one shard: shard {table} by the column \
                 that refers to {target}.{key_column}, colocated with it (--colocate-with {target}), or drop the constraint"
            )))
        }
        // It may be sharded, or made a reference table, next.
        (Wanted::Sharded { key, .. }, None) if !has_rows && foreign_key.pairs.iter().any(|(our, _)| our == key) => {
            Ok(())
        }
        (_, None) if !has_rows => Ok(()),
        (Wanted::Sharded { .. }, None) => Err(refuse(format!(
            "{table} has rows and a foreign key ({name}) to {target}, which is not distributed: distribute {target} \
             first (as a reference table: shardctl table reference {target}), or drop the constraint"
        ))),
        (Wanted::Reference, None) => Err(refuse(format!(
            "{table} has rows and a foreign key ({name}) to {target}, which is on one shard only; make {target} a \
             reference table first, or drop the constraint"
        ))),
        (Wanted::Reference, Some(TableKind::Sharded { .. })) => Err(refuse(format!(
            "foreign key {name} of {table} refers to {target}, which is sharded: a reference table's rows are on every \
             shard, and {target}'s are not; drop the constraint"
        ))),
    }
}

fn check_incoming(
    table: &TableName,
    foreign_key: &ForeignKey,
    wanted: Wanted<'_>,
    other: Option<&Table>,
    other_has_rows: bool,
) -> Result<(), ControlError> {
    let (name, from) = (&foreign_key.name, &foreign_key.other);
    match (wanted, other.map(|other| &other.kind)) {
        (Wanted::Reference, _) => Ok(()),
        (_, Some(TableKind::Reference)) => Err(refuse(format!(
            "foreign key {name} of the reference table {from} refers to {table}, whose rows would be on one shard each; \
             drop the constraint"
        ))),
        (Wanted::Sharded { key, keyspace }, Some(TableKind::Sharded { keyspace: theirs, key_column, .. })) => {
            if keyspace == Some(*theirs) && pairs(foreign_key, key, key_column) {
                return Ok(());
            }
            Err(refuse(format!(
                "foreign key {name} of {from} to {table} does not pair {from}'s key {key_column} with {key}; drop the \
                 constraint, or use the same key for both"
            )))
        }
        (Wanted::Sharded { .. }, None) if !other_has_rows => Ok(()),
        (Wanted::Sharded { .. }, None) => Err(refuse(format!(
            "{from} has rows and a foreign key ({name}) to {table}: its rows would stay behind; drop the constraint, \
             shard both tables by the same key, and add it again"
        ))),
    }
}
