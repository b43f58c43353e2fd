//! What a table is, as one shard's catalog says.

use ringway_topology::model::TableName;
use tokio_postgres::Client;

use crate::control::ControlError;

#[derive(Debug, Clone)]
pub struct TableInfo {
    pub kind: char,
    pub persistence: char,
    pub inherits: bool,
    pub is_partition: bool,
    pub columns: Vec<Column>,
    pub uniques: Vec<Unique>,
    pub outgoing: Vec<ForeignKey>,
    pub incoming: Vec<ForeignKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// 0 for the application's own types: every server numbers those its own way.
    pub type_oid: u32,
    pub type_name: String,
    pub not_null: bool,
    pub generated: bool,
    pub deterministic: bool,
}

/// A unique index, a primary key or an exclusion constraint.
#[derive(Debug, Clone)]
pub struct Unique {
    pub name: String,
    pub is_primary: bool,
    pub is_exclusion: bool,
    /// Columns that are compared for equality.
    pub columns: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct ForeignKey {
    pub name: String,
    /// The table at the other end.
    pub other: TableName,
    /// Columns of this table and of the other, paired.
    pub pairs: Vec<(String, String)>,
}

/// `None` if there is no such table.
pub async fn inspect(client: &Client, table: &TableName) -> Result<Option<TableInfo>, ControlError> {
    let relation = table.quoted();
    let row = client
        .query_opt(
            "SELECT c.relkind::text, c.relpersistence::text, c.relispartition,
                EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid)
             FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)",
            &[&relation],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let character = |text: String| text.chars().next().unwrap_or(' ');
    Ok(Some(TableInfo {
        kind: character(row.get(0)),
        persistence: character(row.get(1)),
        is_partition: row.get(2),
        inherits: row.get(3),
        columns: columns(client, &relation).await?,
        uniques: uniques(client, &relation).await?,
        outgoing: foreign_keys(client, &relation, true).await?,
        incoming: foreign_keys(client, &relation, false).await?,
    }))
}

async fn columns(client: &Client, relation: &str) -> Result<Vec<Column>, ControlError> {
    let rows = client
        .query(
            "SELECT a.attname::text, CASE WHEN a.atttypid < 16384 THEN a.atttypid ELSE 0::oid END, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                    a.attgenerated <> '', coalesce(l.collisdeterministic, true)
             FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
             WHERE a.attrelid = $1::text::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum",
            &[&relation],
        )
        .await?;
    let column = |row: &tokio_postgres::Row| Column {
        name: row.get(0),
        type_oid: row.get(1),
        type_name: row.get(2),
        not_null: row.get(3),
        generated: row.get(4),
        deterministic: row.get(5),
    };
    Ok(rows.iter().map(column).collect())
}

async fn uniques(client: &Client, relation: &str) -> Result<Vec<Unique>, ControlError> {
    // An exclusion constraint holds across shards if equal keys are one of its conditions.
    let rows = client
        .query(
            "SELECT ic.relname::text, i.indisprimary, coalesce(c.contype = 'x', false),
                ARRAY(SELECT a.attname::text
                      FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, ord)
                      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                      WHERE k.ord <= i.indnkeyatts AND (c.contype IS DISTINCT FROM 'x' OR EXISTS (
                          SELECT FROM pg_catalog.pg_operator o WHERE o.oid = c.conexclop[k.ord] AND o.oprname = '=')))
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
             LEFT JOIN pg_catalog.pg_constraint c ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')
                 AND c.conrelid = i.indrelid
             WHERE i.indrelid = $1::text::pg_catalog.regclass AND (i.indisunique OR i.indisexclusion) ORDER BY 1",
            &[&relation],
        )
        .await?;
    let unique = |row: &tokio_postgres::Row| Unique {
        name: row.get(0),
        is_primary: row.get(1),
        is_exclusion: row.get(2),
        columns: row.get(3),
    };
    Ok(rows.iter().map(unique).collect())
}

async fn foreign_keys(client: &Client, relation: &str, outgoing: bool) -> Result<Vec<ForeignKey>, ControlError> {
    let (ours, theirs) = if outgoing { ("con", "conf") } else { ("conf", "con") };
    let (our_keys, their_keys) = if outgoing { ("conkey", "confkey") } else { ("confkey", "conkey") };
    let sql = format!(
        "SELECT c.conname::text, n.nspname::text, o.relname::text,
            ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.{our_keys}) WITH ORDINALITY k(attnum, ord)
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.{ours}relid AND a.attnum = k.attnum ORDER BY k.ord),
            ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.{their_keys}) WITH ORDINALITY k(attnum, ord)
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.{theirs}relid AND a.attnum = k.attnum ORDER BY k.ord)
         FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class o ON o.oid = c.{theirs}relid
         JOIN pg_catalog.pg_namespace n ON n.oid = o.relnamespace
         WHERE c.contype = 'f' AND c.{ours}relid = $1::text::pg_catalog.regclass ORDER BY 1"
    );
    let rows = client.query(&sql, &[&relation]).await?;
    let key = |row: &tokio_postgres::Row| ForeignKey {
        name: row.get(0),
        other: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        pairs: row.get::<_, Vec<String>>(3).into_iter().zip(row.get::<_, Vec<String>>(4)).collect(),
    };
    Ok(rows.iter().map(key).collect())
}

pub async fn has_rows(client: &Client, table: &TableName) -> Result<bool, ControlError> {
    let sql = format!("SELECT EXISTS (SELECT FROM ONLY {})", table.quoted());
    Ok(client.query_one(&sql, &[]).await?.get(0))
}
