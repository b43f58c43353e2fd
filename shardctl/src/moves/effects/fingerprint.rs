//! TakeFingerprint: what a copy is worth. Guards are in place on both ends, schemas are equal, and it is written down under
//! which file nodes, shapes and timelines rows are copied; a cutover compares.

use std::fmt::Write;

use ringway_topology::model::{quote_literal, TableName};
use tokio_postgres::SimpleQueryRow;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::cutover::Stamped;
use crate::moves::error::MoveError;
use crate::moves::record::{TableRecord, VerificationRecord};
use crate::moves::state::Direction;
use crate::moves::table::table_oid;

use super::capture::{install_guard, register_tables};
use super::compare::{difference, shape};
use super::Outcome;

/// Asks for everything of one end that voids a copy when it changes: two statements.
pub fn question(ctx: &MoveContext) -> String {
    let names: Vec<String> = ctx
        .tables()
        .iter()
        .enumerate()
        .map(|(place, (table, _))| {
            format!("({place}, {}, {})", quote_literal(&table.schema), quote_literal(&table.name))
        })
        .collect();
    format!(
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system())::text,
                substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8);
         SELECT ringway.table_identity(c.oid::regclass), pg_catalog.md5(ringway.table_shape(c.oid::regclass))
         FROM (VALUES {}) wanted(place, schema, name)
         LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
         LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
         ORDER BY wanted.place",
        names.join(", ")
    )
}

/// The tables as the arguments of `ringway.catalog_stamp` and `ringway.fence_tables`.
pub fn stamp_arguments(ctx: &MoveContext) -> String {
    let tables = ctx.tables();
    let array = |of: fn(&TableName) -> &str| {
        let values: Vec<String> = tables.iter().map(|(table, _)| quote_literal(of(table))).collect();
        format!("ARRAY[{}]::pg_catalog.text[]", values.join(", "))
    };
    format!("{}, {}", array(|table| &table.schema), array(|table| &table.name))
}

/// The stamp first: what changes after it is seen by comparing stamps.
pub async fn stamped(ctx: &MoveContext, shard: &mut ShardConn) -> Result<Stamped, MoveError> {
    let asked = format!("SELECT ringway.catalog_stamp({}); {}", stamp_arguments(ctx), question(ctx));
    let answers = shard.rows_of(&asked).await?;
    let stamp = answers.first().and_then(|rows| rows.first()).and_then(|row| row.get(0)).unwrap_or_default();
    Ok(Stamped { stamp: stamp.to_owned(), fingerprint: answer(ctx, &shard.shard, &answers)? })
}

/// What the shard answered to [`question`], the last of its statements; in the tables' order.
pub fn answer(ctx: &MoveContext, shard: &str, answers: &[Vec<SimpleQueryRow>]) -> Result<String, MoveError> {
    let [.., server, tables] = answers else {
        return Err(MoveError::retry(format!("shard {shard} did not say all of its tables' state")));
    };
    let text = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
    let server = server.first().map(|row| (text(row, 0), text(row, 1))).unwrap_or_default();
    let mut all = format!("system {} timeline {}\n", server.0, server.1);
    for ((table, _), row) in ctx.tables().iter().zip(tables) {
        if row.get(1).is_none() {
            return Err(MoveError::fatal(format!("shard {shard} has no table {table}")));
        }
        let _ = writeln!(all, "{table} {} {}", text(row, 0), text(row, 1));
    }
    Ok(all)
}

pub async fn of_shard(ctx: &MoveContext, shard: &mut ShardConn) -> Result<String, MoveError> {
    let answers = shard.rows_of(&question(ctx)).await?;
    answer(ctx, &shard.shard, &answers)
}

/// Always in the same order, whichever way rows travel.
pub async fn of_both(ctx: &MoveContext) -> Result<String, MoveError> {
    let (mut source, mut target) = ctx.connect_ends(Direction::Forward).await?;
    let (source, target) = tokio::try_join!(of_shard(ctx, &mut source), of_shard(ctx, &mut target))?;
    Ok(join(&source, &target))
}

pub fn join(source: &str, target: &str) -> String {
    format!("{source}\n{target}")
}

/// Whether what has been verified is worth nothing any more.
pub async fn is_void(ctx: &MoveContext) -> Result<bool, MoveError> {
    let now = of_both(ctx).await?;
    Ok(ctx.record().fingerprint.as_deref() != Some(now.as_str()))
}

pub async fn take(ctx: &MoveContext, direction: Direction) -> Result<Outcome, MoveError> {
    let (mut from, mut to) = ctx.connect_ends(direction).await?;
    for shard in [&mut from, &mut to] {
        register_tables(ctx, shard).await?;
        for (table, _) in ctx.tables() {
            let oid = table_oid(shard, &table).await?;
            if is_guarded(shard, oid).await? {
                shard.query("SELECT ringway.generate_functions($1::oid::regclass)", &[&oid]).await?;
            } else {
                install_guard(ctx, shard, &table).await?;
            }
        }
    }
    for (table, _) in ctx.tables() {
        let (a, b) = (table_oid(&mut from, &table).await?, table_oid(&mut to, &table).await?);
        if let Some(difference) = difference(&shape(&mut from, a).await?, &shape(&mut to, b).await?) {
            return Err(MoveError::retry(format!(
                "table {table} is not the same on shards {} and {}: {difference}",
                from.shard, to.shard
            )));
        }
    }
    let fingerprint = of_both(ctx).await?;
    let record = ctx.record();
    let known = record.fingerprint.as_deref() == Some(fingerprint.as_str());
    if known && record.verified && direction == Direction::Reverse {
        return Ok(Outcome::Unchanged);
    }
    if !known || record.verified {
        let mut tables = Vec::new();
        for (table, _) in ctx.tables() {
            let rows = estimate(&mut from, &table, record.share_of_owner).await?;
            tables.push(TableRecord::new(table, rows));
        }
        ctx.update(|record| {
            record.fingerprint = Some(fingerprint);
            record.verified = false;
            record.verification = VerificationRecord::default();
            record.tables = tables;
        })
        .await?;
    }
    Ok(Outcome::Done)
}

/// All four triggers, on every partition, firing always.
async fn is_guarded(shard: &mut ShardConn, oid: u32) -> Result<bool, MoveError> {
    let row = shard
        .one(
            "SELECT bool_and((SELECT count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = part.relid
                     AND t.tgname LIKE 'ringway\\_guard\\_%' AND t.tgenabled = 'A')
                 >= CASE WHEN part.relid = $1::oid THEN 4 ELSE 3 END)
             FROM (SELECT $1::oid AS relid UNION SELECT p.relid::oid FROM pg_catalog.pg_partition_tree($1::oid::regclass) p) part",
            &[&oid],
        )
        .await?;
    Ok(row.get::<_, Option<bool>>(0).unwrap_or(false))
}

/// The planner's row count, which knows tables that were never analysed too, by the arcs' share of what the owner has.
async fn estimate(from: &mut ShardConn, table: &TableName, share: f64) -> Result<u64, MoveError> {
    let rows = from.rows_of(&format!("EXPLAIN SELECT FROM {}", table.quoted())).await?;
    let plan = rows.first().and_then(|rows| rows.first()).and_then(|row| row.get(0)).unwrap_or_default();
    let rows: f64 = planned_rows(plan).unwrap_or_default();
    Ok((rows * share).round() as u64)
}

/// Of the top line: `Seq Scan on t  (cost=0.00..35.50 rows=2550 width=0)`.
fn planned_rows(plan: &str) -> Option<f64> {
    plan.rsplit_once(" rows=")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::planned_rows;

    #[test]
    fn the_planner_says_how_many_rows_there_are() {
        assert_eq!(planned_rows("Seq Scan on \"a rows=1\"  (cost=0.00..35.50 rows=2550 width=0)"), Some(2550.0));
        assert_eq!(planned_rows("Result"), None);
    }
}
