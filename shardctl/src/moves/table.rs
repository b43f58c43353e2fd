//! One sharded table as the copying routines need it: names, columns, key, on both shards.

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::{quote_ident, TableName, Topology};
use ringway_topology::ring::TokenArc;

use super::conn::ShardConn;
use super::error::MoveError;
use super::range::in_arcs;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    pub name: String,
    /// `format_type`, schema-qualified where needed.
    pub type_sql: String,
}

#[derive(Clone, Debug)]
pub struct MovingTable {
    pub name: TableName,
    pub key_column: String,
    /// Those that can be written, in order.
    pub columns: Vec<String>,
    /// Those that an upsert sets.
    pub assigned: Vec<String>,
    /// A GENERATED ALWAYS identity column outside the primary key cannot be set by UPDATE: rows are replaced.
    pub replaces_rows: bool,
    pub primary_key: Vec<KeyColumn>,
    pub primary_key_name: String,
    /// Condition that rows `t` and `s` have the same key.
    pub same_key: String,
    /// `pg_class.oid` on the shard that rows are copied from, and on the one they are copied to.
    pub from_oid: u32,
    pub to_oid: u32,
    arcs: Vec<TokenArc>,
}

const DESCRIBE: &str = r#"
SELECT c.oid,
       ringway.writable_columns(c.oid)::text[],
       (SELECT array_agg(a.attname::text ORDER BY k.ord) FROM unnest(ringway.primary_key_columns(c.oid)) WITH ORDINALITY k(name, ord)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name),
       (SELECT array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY k.ord)
          FROM unnest(ringway.primary_key_columns(c.oid)) WITH ORDINALITY k(name, ord)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name),
       (SELECT p.conname::text FROM pg_catalog.pg_constraint p WHERE p.conrelid = c.oid AND p.contype = 'p'),
       ringway.same_key(c.oid, 't', 's'),
       (SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = c.oid AND a.attname = ANY (ringway.writable_columns(c.oid)) AND a.attidentity <> 'a'
           AND (NOT a.attname = ANY (ringway.primary_key_columns(c.oid)) OR a.atttypid NOT IN ('int2'::regtype, 'int4'::regtype,
                'int8'::regtype, 'text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'date'::regtype, 'timestamp'::regtype,
                'timestamptz'::regtype))),
       EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity = 'a'
               AND NOT a.attname = ANY (ringway.primary_key_columns(c.oid)))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2"#;

/// For sessions that walk a table in primary-key order: the planner knows nothing of how few rows a range of several columns has,
/// and would read the whole table for each.
pub const READ_BY_KEY: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off";

/// The keyspace's tables with their key columns, by the topology.
pub fn tables_of(topology: &Topology, keyspace: KeyspaceId) -> Vec<(TableName, String)> {
    topology.tables_of(keyspace).map(|(table, key, _)| (table.name.clone(), key.to_owned())).collect()
}

/// `pg_class.oid` on this shard.
pub async fn table_oid(shard: &mut ShardConn, name: &TableName) -> Result<u32, MoveError> {
    let rows = shard
        .query(
            "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2",
            &[&name.schema, &name.name],
        )
        .await?;
    match rows.first() {
        Some(row) => Ok(row.get(0)),
        None => Err(MoveError::fatal(format!("shard {} has no table {name}", shard.shard))),
    }
}

impl MovingTable {
    pub async fn load(
        from: &mut ShardConn,
        to: &mut ShardConn,
        name: &TableName,
        key_column: &str,
        arcs: &[TokenArc],
    ) -> Result<MovingTable, MoveError> {
        let mut table = MovingTable::load_on(from, name, key_column, arcs).await?;
        table.to_oid = table_oid(to, name).await?;
        Ok(table)
    }

    /// For work on one shard only.
    pub async fn load_on(
        from: &mut ShardConn,
        name: &TableName,
        key_column: &str,
        arcs: &[TokenArc],
    ) -> Result<MovingTable, MoveError> {
        let rows = from.query(DESCRIBE, &[&name.schema, &name.name]).await?;
        let row = rows.first().ok_or_else(|| MoveError::fatal(format!("shard {} has no table {name}", from.shard)))?;
        let names: Option<Vec<String>> = row.get(2);
        let types: Option<Vec<String>> = row.get(3);
        let primary_key_name: Option<String> = row.get(4);
        let (Some(names), Some(types), Some(primary_key_name)) = (names, types, primary_key_name) else {
            return Err(MoveError::fatal(format!("table {name} has no primary key")));
        };
        let primary_key = names.into_iter().zip(types).map(|(name, type_sql)| KeyColumn { name, type_sql }).collect();
        Ok(MovingTable {
            name: name.clone(),
            key_column: key_column.to_owned(),
            columns: row.get(1),
            assigned: row.get(6),
            replaces_rows: row.get(7),
            primary_key,
            primary_key_name,
            same_key: row.get(5),
            from_oid: row.get(0),
            to_oid: row.get(0),
            arcs: arcs.to_vec(),
        })
    }

    pub fn sql_name(&self) -> String {
        self.name.quoted()
    }

    pub fn column_list(&self) -> String {
        self.columns.iter().map(|c| quote_ident(c)).collect::<Vec<_>>().join(", ")
    }

    /// `alias."a", alias."b"`.
    pub fn columns_of(&self, alias: &str) -> String {
        self.columns.iter().map(|c| format!("{alias}.{}", quote_ident(c))).collect::<Vec<_>>().join(", ")
    }

    pub fn key_list(&self, alias: &str) -> String {
        self.primary_key.iter().map(|c| format!("{alias}.{}", quote_ident(&c.name))).collect::<Vec<_>>().join(", ")
    }

    /// Condition that the row `alias` lies in the moving arcs.
    pub fn moving(&self, alias: &str) -> String {
        in_arcs(&self.arcs, alias, &self.key_column)
    }

    pub fn arcs(&self) -> &[TokenArc] {
        &self.arcs
    }

    /// With the shard key in the primary key, a row of the arcs cannot meet one outside them.
    pub fn key_is_in_primary_key(&self) -> bool {
        self.primary_key.iter().any(|column| column.name == self.key_column)
    }
}

/// The primary key of the `rows`-th row of the arcs above `after`, or none when fewer are left.
pub async fn boundary(
    shard: &mut ShardConn,
    table: &MovingTable,
    after: Option<&Vec<String>>,
    rows: u64,
) -> Result<Option<Vec<String>>, MoveError> {
    let range = super::range::KeyRange { after: after.cloned(), through: None };
    let key: Vec<String> = table.primary_key.iter().map(|c| format!("t.{}::text", quote_ident(&c.name))).collect();
    let sql = format!(
        "SELECT {} FROM {} t WHERE {} AND {} ORDER BY {} OFFSET {} LIMIT 1",
        key.join(", "),
        table.sql_name(),
        range.sql(&table.primary_key, "t"),
        table.moving("t"),
        table.key_list("t"),
        rows.max(1) - 1
    );
    let found = shard.query_long(&sql, &[]).await?;
    Ok(found.first().map(|row| (0..table.primary_key.len()).map(|i| row.get(i)).collect()))
}
