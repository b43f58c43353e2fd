//! InstallCapture, and the guard triggers of one table at a time: short lock waits, many attempts, so that no application
//! statement queues behind trigger DDL for longer than one of them.

use std::time::Duration;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::{quote_literal, TableName};
use ringway_topology::ring::TokenArc;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::range::multirange;
use crate::moves::table::table_oid;

pub async fn install(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let mut source = ctx.connect(record.source).await?;
    register_tables(ctx, &mut source).await?;
    with_keyspace_lock(ctx, &mut source, &set_move(ctx, "source")).await?;
    for (table, _) in ctx.tables() {
        install_guard(ctx, &mut source, &table).await?;
        faults::point("InstallCapture", "middle");
    }
    Ok(())
}

/// The shard knows the keyspace's tables and has a row for what its guards enforce.
pub async fn register_tables(ctx: &MoveContext, shard: &mut ShardConn) -> Result<(), MoveError> {
    let KeyspaceId(keyspace) = ctx.record().keyspace;
    for (table, key) in ctx.tables() {
        let oid = table_oid(shard, &table).await?;
        shard
            .execute(
                "INSERT INTO ringway.sharded_table (relation, keyspace, key_column) VALUES ($1::oid::regclass, $2, $3::text::name)
                 ON CONFLICT (relation) DO UPDATE SET keyspace = excluded.keyspace, key_column = excluded.key_column",
                &[&oid, &(keyspace as i32), &key],
            )
            .await?;
    }
    shard
        .execute("INSERT INTO ringway.guard_state (keyspace) VALUES ($1) ON CONFLICT DO NOTHING", &[&(keyspace as i32)])
        .await?;
    Ok(())
}

/// The statement that makes the shard an end of the move.
pub fn set_move(ctx: &MoveContext, side: &str) -> String {
    let record = ctx.record();
    format!("SELECT ringway.set_move({}, {}, '{side}', {})", record.id, record.keyspace, arcs_literal(&record.arcs))
}

pub fn arcs_literal(arcs: &[TokenArc]) -> String {
    format!("{}::pg_catalog.int8multirange", quote_literal(&multirange(arcs)))
}

/// One transaction of statements that take the keyspace's or the move's exclusive lock on a shard: tried again, with short waits, while
/// transactions that passed a guard are open.
pub async fn with_keyspace_lock(ctx: &MoveContext, shard: &mut ShardConn, statements: &str) -> Result<(), MoveError> {
    for attempt in 0..ctx.limits.ddl_attempts_max {
        // A little longer each time: somebody who writes all the time must not keep the move out for ever.
        let wait_ms = ctx.limits.ddl_lock_timeout_ms + u64::from(attempt) * 2;
        let done = async {
            shard.begin_with(wait_ms).await?;
            shard.batch_long(statements).await?;
            shard.commit().await
        }
        .await;
        match done {
            Ok(()) => return Ok(()),
            Err(error) if error.is_lock_timeout() => {
                shard.rollback().await;
                ctx.trouble(format!("waiting for transactions on shard {}", shard.shard));
                tokio::time::sleep(Duration::from_millis(ctx.limits.ddl_retry_pause_ms)).await;
                ctx.check_interrupted()?;
            }
            Err(error) => {
                shard.rollback().await;
                return Err(error);
            }
        }
    }
    Err(MoveError::retry(format!("transactions on shard {} do not end", shard.shard)))
}

/// The guard triggers of one table for all that concerns this shard now.
pub async fn install_guard(ctx: &MoveContext, shard: &mut ShardConn, table: &TableName) -> Result<(), MoveError> {
    let oid = table_oid(shard, table).await?;
    for _ in 0..ctx.limits.ddl_attempts_max {
        match try_install_guard(shard, oid, ctx.limits.ddl_lock_timeout_ms).await {
            Ok(()) => {
                ctx.no_trouble();
                return Ok(());
            }
            Err(error) if error.is_lock_timeout() => {
                ctx.trouble(format!("waiting for a short lock on table {table} of shard {}", shard.shard));
                tokio::time::sleep(Duration::from_millis(ctx.limits.ddl_retry_pause_ms)).await;
                ctx.check_interrupted()?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(MoveError::retry(format!("table {table} of shard {} is locked all the time", shard.shard)))
}

pub async fn try_install_guard(shard: &mut ShardConn, oid: u32, lock_timeout_ms: u64) -> Result<(), MoveError> {
    let done = async {
        shard.begin_with(lock_timeout_ms).await?;
        shard.query("SELECT ringway.install_guard($1::oid::regclass)", &[&oid]).await?;
        shard.commit().await
    }
    .await;
    if done.is_err() {
        shard.rollback().await;
    }
    done
}
