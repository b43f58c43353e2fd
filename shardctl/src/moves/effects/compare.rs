//! CompareSchemas: both ends have the same tables, sort the same way, and the target has no rows in the way.

use ringway_topology::model::quote_ident;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::state::Direction;
use crate::moves::table::{table_oid, MovingTable};

pub async fn compare_schemas(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let (mut source, mut target) = ctx.connect_ends(Direction::Forward).await?;
    for (name, key) in ctx.tables() {
        let (here, there) = (table_oid(&mut source, &name).await?, table_oid(&mut target, &name).await?);
        let (from, to) = (shape(&mut source, here).await?, shape(&mut target, there).await?);
        if let Some(difference) = difference(&from, &to) {
            return Err(MoveError::fatal(format!(
                "table {name} is not the same on shards {} and {}: {difference}",
                source.shard, target.shard
            )));
        }
        let table = MovingTable::load(&mut source, &mut target, &name, &key, &record.arcs).await?;
        compare_collations(&mut source, &mut target, &table).await?;
        // Once this move has begun to copy, they are its own.
        if record.target_closed_before.is_none() {
            refuse_strays(&mut target, &table).await?;
        }
        refuse_key_conflicts(&mut source, &mut target, &table).await?;
    }
    Ok(())
}

pub async fn shape(shard: &mut ShardConn, oid: u32) -> Result<String, MoveError> {
    Ok(shard.one("SELECT ringway.table_shape($1::oid::regclass)", &[&oid]).await?.get(0))
}

/// The first line that only one of the two has.
pub fn difference(from: &str, to: &str) -> Option<String> {
    let only = |a: &str, b: &str| a.lines().find(|line| !b.lines().any(|other| other == *line)).map(str::to_owned);
    if from == to {
        return None;
    }
    Some(match (only(from, to), only(to, from)) {
        (Some(line), None) => format!("the source alone has \"{line}\""),
        (None, Some(line)) => format!("the target alone has \"{line}\""),
        (Some(here), Some(there)) => format!("\"{here}\" and \"{there}\""),
        (None, None) => "columns are in another order".to_owned(),
    })
}

/// Ranges of text keys must hold the same rows on both ends.
async fn compare_collations(
    source: &mut ShardConn,
    target: &mut ShardConn,
    table: &MovingTable,
) -> Result<(), MoveError> {
    const SQL: &str = "
        SELECT a.attname::text, CASE WHEN l.collprovider = 'd'
                   THEN (SELECT datcollate::text FROM pg_catalog.pg_database WHERE datname = current_database())
                   ELSE coalesce(l.collcollate::text, l.collname::text) END,
               coalesce(CASE WHEN l.collprovider = 'd' AND (SELECT datcollate FROM pg_catalog.pg_database WHERE datname = current_database())
                               NOT IN ('C', 'POSIX')
                   THEN (SELECT pg_catalog.pg_collation_actual_version(d.oid) FROM pg_catalog.pg_collation d, pg_catalog.pg_database b
                         WHERE b.datname = current_database() AND d.collprovider = 'c' AND d.collcollate::text = b.datcollate::text LIMIT 1)
                   ELSE pg_catalog.pg_collation_actual_version(l.oid) END, '')
        FROM unnest(ringway.primary_key_columns($1::oid::regclass)) k(name)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = $1::oid AND a.attname = k.name
        JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation";
    let read = |rows: Vec<tokio_postgres::Row>| -> Vec<(String, Option<String>, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let from = read(source.query(SQL, &[&table.from_oid]).await?);
    let to = read(target.query(SQL, &[&table.to_oid]).await?);
    match from.iter().zip(&to).find(|(a, b)| a != b) {
        None => Ok(()),
        Some((a, b)) => Err(MoveError::fatal(format!(
            "column {} of table {}'s primary key sorts differently: collation {} version \"{}\" on shard {}, {} version \"{}\" on \
             shard {}",
            a.0,
            table.name,
            a.1.as_deref().unwrap_or("C"),
            a.2,
            source.shard,
            b.1.as_deref().unwrap_or("C"),
            b.2,
            target.shard
        ))),
    }
}

/// Rows in arcs that the target does not own are not this move's to overwrite.
async fn refuse_strays(target: &mut ShardConn, table: &MovingTable) -> Result<(), MoveError> {
    let sql = format!("SELECT (t.*)::text FROM {} t WHERE {} LIMIT 1", table.sql_name(), table.moving("t"));
    match target.query_long(&sql, &[]).await?.first() {
        None => Ok(()),
        Some(row) => Err(MoveError::fatal(format!(
            "table {} on shard {} has rows in the moving arcs already, for instance {}: they belong to the source; remove them",
            table.name,
            target.shard,
            row.get::<_, String>(0)
        ))),
    }
}

/// Where the primary key lacks the shard key, a moving row can meet a row of the target's own.
async fn refuse_key_conflicts(
    source: &mut ShardConn,
    target: &mut ShardConn,
    table: &MovingTable,
) -> Result<(), MoveError> {
    if table.key_is_in_primary_key() {
        return Ok(());
    }
    let keys: Vec<String> = table.primary_key.iter().map(|column| quote_ident(&column.name)).collect();
    let keys = keys.join(", ");
    target
        .batch(&format!(
            "DROP TABLE IF EXISTS pg_temp.ringway_keys; CREATE TEMP TABLE ringway_keys AS SELECT {keys} FROM {} t WITH NO DATA",
            table.sql_name()
        ))
        .await?;
    let out = format!(
        "COPY (SELECT {} FROM {} t WHERE {}) TO STDOUT",
        table.key_list("t"),
        table.sql_name(),
        table.moving("t")
    );
    source.copy_into(&out, target, &format!("COPY pg_temp.ringway_keys ({keys}) FROM STDIN")).await?;
    let sql = format!(
        "SELECT (t.*)::text FROM pg_temp.ringway_keys s JOIN {} t ON {} WHERE NOT coalesce({}, false) LIMIT 1",
        table.sql_name(),
        table.same_key,
        table.moving("t")
    );
    let conflict = target.query_long(&sql, &[]).await?.first().map(|row| row.get::<_, String>(0));
    target.batch("DROP TABLE pg_temp.ringway_keys").await?;
    match conflict {
        None => Ok(()),
        Some(row) => Err(MoveError::fatal(format!(
            "a moving row of table {} has the primary key of a row of shard {}'s own: {row}",
            table.name, target.shard
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn differences_name_a_line() {
        assert_eq!(difference("a\nb", "a\nb"), None);
        assert_eq!(difference("a\nb", "a").as_deref(), Some("the source alone has \"b\""));
        assert_eq!(difference("a", "a\nb").as_deref(), Some("the target alone has \"b\""));
        assert_eq!(difference("a\nb", "a\nc").as_deref(), Some("\"b\" and \"c\""));
        assert!(difference("a\nb", "b\na").is_some());
    }
}
