//! Asks the home shard and another one for the same types and tables, by what they are called.

use std::collections::BTreeMap;

use ringway_topology::ids::ShardId;
use ringway_topology::model::quote_literal;

use super::super::failure::Failure;
use super::super::gateway::Gateway;
use super::super::view::View;
use super::ATTEMPTS_MAX;
use crate::pool::connection::TextRows;
use crate::pool::oids::{Pairs, ShardOids, TypePair};
use crate::pool::Claim;
use crate::wire::oids::{Form, Missing, Oids as _};
use crate::wire::{PgError, SqlState};

/// Who knows the OIDs that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Home,
    Shard,
}

/// Finds out what these are on the other side. Cancel-safe.
pub async fn resolve(
    gateway: &Gateway,
    view: &View,
    shard: ShardId,
    side: Side,
    missing: &Missing,
) -> Result<(), Failure> {
    let internal = || PgError::internal("a shard is not in the topology");
    let home = view.topology.home_shard().and_then(|home| view.topology.shard(home)).ok_or_else(internal)?;
    let other = view.topology.shard(shard).ok_or_else(internal)?;
    let oids = gateway.pools.oids().of(other.id, &other.dsn);
    let (from, to) = if side == Side::Home { (home, other) } else { (other, home) };
    for _ in 0..ATTEMPTS_MAX {
        let generation = oids.map().generation;
        let mut known = Listed::default();
        {
            let mut connection = gateway.pools.service(from)?.checkout(Claim::Further).await?;
            if !missing.types.is_empty() {
                known.add_types(connection.query(&types_sql(&with_parts(&missing.types))).await?);
            }
            let tables = missing.relations.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            if !tables.is_empty() {
                known.add_relations(connection.query(&relations_sql(&format!("c.oid IN ({tables})"))).await?);
            }
        }
        let mut found = Listed::default();
        {
            let mut connection = gateway.pools.service(to)?.checkout(Claim::Further).await?;
            if !known.types.is_empty() {
                let names = names(known.types.keys().map(|key| (&key.schema, &key.name)));
                found.add_types(connection.query(&types_sql(&format!("(n.nspname, b.typname) IN ({names})"))).await?);
            }
            if !known.relations.is_empty() {
                let names = names(known.relations.keys().map(|(schema, name)| (schema, name)));
                found.add_relations(
                    connection.query(&relations_sql(&format!("(n.nspname, c.relname) IN ({names})"))).await?,
                );
            }
        }
        let pairs = if side == Side::Home { known.pairs(&found) } else { found.pairs(&known) };
        if oids.learn(&pairs, Some(generation)) {
            return check(&oids, &from.name, &to.name, side, missing, &known);
        }
    }
    Err(PgError::new(SqlState::LOCK_NOT_AVAILABLE, "types could not be looked up: the schema changes all the time")
        .hint("Try again in a moment.")
        .into())
}

fn names<'n>(names: impl Iterator<Item = (&'n String, &'n String)>) -> String {
    names
        .map(|(schema, name)| format!("({}, {})", quote_literal(schema), quote_literal(name)))
        .collect::<Vec<_>>()
        .join(",")
}

/// An error if one of them is still not known.
fn check(oids: &ShardOids, from: &str, to: &str, side: Side, missing: &Missing, known: &Listed) -> Result<(), Failure> {
    let map = oids.map();
    let map = if side == Side::Home { &map.to_shard } else { &map.to_home };
    let unknown_type = missing.types.iter().find(|oid| map.user_type(**oid).is_none());
    let unknown_relation = missing.relations.iter().find(|oid| map.user_relation(**oid).is_none());
    let (what, oid) = match (unknown_type, unknown_relation) {
        (None, None) => return Ok(()),
        (Some(oid), _) => ("type", oid),
        (None, Some(oid)) => ("table", oid),
    };
    let name = known.types.iter().find(|(_, listed)| listed.oid == *oid).map(|(key, _)| key.to_string());
    if side == Side::Home && name.is_none() {
        // As PostgreSQL does.
        return Err(PgError::internal(format!("cache lookup failed for {what} {oid}")).into());
    }
    let name = name.unwrap_or_else(|| format!("with OID {oid}"));
    Err(PgError::refused(
        format!("{what} {name} of shard {from} is not known on shard {to}"),
        "Create it through the gateway, so that all shards have it. SET ringway.shard runs statements on one shard, with its OIDs.",
    )
    .detail("Clients see the OIDs of the home shard, and this one has none there.")
    .into())
}

/// What a type is called on every shard. Array types and multiranges have names of PostgreSQL's making: they go by those of
/// what they are of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TypeName {
    schema: String,
    name: String,
    kind: String,
    is_multirange: bool,
    is_array: bool,
}

impl std::fmt::Display for TypeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let multirange = if self.is_multirange { " (multirange)" } else { "" };
        let array = if self.is_array { "[]" } else { "" };
        write!(f, "{}.{}{array}{multirange}", self.schema, self.name)
    }
}

#[derive(Clone, Copy, Debug)]
struct ListedType {
    oid: u32,
    form: Form,
}

/// Types and tables of one shard.
#[derive(Debug, Default)]
pub struct Listed {
    types: BTreeMap<TypeName, ListedType>,
    relations: BTreeMap<(String, String), u32>,
}

impl Listed {
    /// Rows of [`types_sql`].
    pub fn add_types(&mut self, rows: TextRows) {
        let row = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().flatten();
            let oid = values.next()?.parse().ok()?;
            let (schema, name, kind) = (values.next()?, values.next()?, values.next()?);
            let (is_array, is_multirange) = (values.next()? == "t", values.next()? == "t");
            let (form, part) = (values.next()?, values.next()?.parse().ok()?);
            let form = match form.as_str() {
                "a" => Form::Array,
                "c" => Form::Record,
                "d" => Form::Domain(part),
                "r" => Form::Range(part),
                "m" => Form::Multirange(part),
                _ => Form::Plain,
            };
            Some((TypeName { schema, name, kind, is_multirange, is_array }, ListedType { oid, form }))
        };
        self.types.extend(rows.into_iter().filter_map(row));
    }

    pub fn add_relations(&mut self, rows: TextRows) {
        let row = |row: Vec<Option<String>>| {
            let mut values = row.into_iter().flatten();
            let oid = values.next()?.parse().ok()?;
            Some(((values.next()?, values.next()?), oid))
        };
        self.relations.extend(rows.into_iter().filter_map(row));
    }

    /// `self` is of the home shard.
    pub fn pairs(&self, shard: &Listed) -> Pairs {
        let types = self.types.iter().filter_map(|(name, home)| {
            let shard = shard.types.get(name)?;
            Some(TypePair { home: home.oid, shard: shard.oid, home_form: home.form, shard_form: shard.form })
        });
        let relations = self.relations.iter().filter_map(|(name, home)| Some((*home, *shard.relations.get(name)?)));
        Pairs { types: types.collect(), relations: relations.collect() }
    }
}

/// As whatever search_path: operators are PostgreSQL's own.
fn with_own_operators(sql: &str) -> String {
    sql.replace(" = ", " OPERATOR(pg_catalog.=) ")
        .replace(" >= ", " OPERATOR(pg_catalog.>=) ")
        .replace(" !~~ ", " OPERATOR(pg_catalog.!~~) ")
}

/// OID, schema, name and kind of what it is of, whether it is the array or the multirange of that; what its form is, and of what.
/// Temporary types are on the home shard alone.
pub fn types_sql(filter: &str) -> String {
    let select = with_own_operators(
        "SELECT t.oid::pg_catalog.int8, n.nspname, b.typname, b.typtype, e.oid IS NOT NULL, r.rngtypid IS NOT NULL, \
         CASE WHEN e.oid IS NOT NULL THEN 'a' ELSE t.typtype::pg_catalog.text END, \
         CASE WHEN e.oid IS NOT NULL THEN 0 WHEN t.typtype = 'd' THEN t.typbasetype::pg_catalog.int8 \
         WHEN t.typtype = 'r' THEN g.rngsubtype::pg_catalog.int8 WHEN t.typtype = 'm' THEN r.rngtypid::pg_catalog.int8 ELSE 0 END \
         FROM pg_catalog.pg_type t \
         LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid \
         JOIN pg_catalog.pg_type k ON k.oid = coalesce(e.oid, t.oid) \
         LEFT JOIN pg_catalog.pg_range r ON r.rngmultitypid = k.oid \
         JOIN pg_catalog.pg_type b ON b.oid = coalesce(r.rngtypid, k.oid) \
         JOIN pg_catalog.pg_namespace n ON n.oid = b.typnamespace \
         LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = t.oid \
         WHERE t.oid >= 16384 AND n.nspname !~~ 'pg\\_temp\\_%' AND ",
    );
    select + filter
}

pub fn relations_sql(filter: &str) -> String {
    let select = with_own_operators(
        "SELECT c.oid::pg_catalog.int8, n.nspname, c.relname FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid >= 16384 AND n.nspname !~~ 'pg\\_temp\\_%' AND ",
    );
    select + filter
}

/// These types and all that values of theirs may have in them.
fn with_parts(types: &[u32]) -> String {
    let types = types.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!(
        "t.oid IN (WITH RECURSIVE part (oid) AS (SELECT pg_catalog.unnest('{{{types}}}'::pg_catalog.oid[]) UNION \
         SELECT v.oid FROM part p JOIN pg_catalog.pg_type y ON y.oid = p.oid \
         LEFT JOIN pg_catalog.pg_range g ON g.rngtypid = y.oid LEFT JOIN pg_catalog.pg_range m ON m.rngmultitypid = y.oid \
         CROSS JOIN LATERAL (VALUES (y.typelem), (y.typbasetype), (g.rngsubtype), (m.rngtypid) \
         UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0 \
         AND y.typrelid <> 0) v (oid) WHERE v.oid >= 16384) SELECT part.oid FROM part)"
    )
}
