//! Backfill: every table of the keyspace, chunk by chunk in primary-key order. Chunks are sized by time; how far each table has
//! come is stored, and a restart goes on there.

use std::time::{Duration, Instant};

use crate::moves::chunk::{Chunker, Reconciled};
use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::limits::MoveLimits;
use crate::moves::range::KeyRange;
use crate::moves::state::Direction;
use crate::moves::table::{boundary, MovingTable, READ_BY_KEY};

/// Attempts at one chunk whose rows somebody else holds, before the step starts over with new sessions.
const CHUNK_ATTEMPTS_MAX: u32 = 200;

pub async fn run(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    let begun = Instant::now();
    let done = all_tables(ctx, direction, effect).await;
    let milliseconds = begun.elapsed().as_millis() as u64;
    ctx.update(|record| record.backfill_milliseconds += milliseconds).await?;
    done
}

async fn all_tables(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    let record = ctx.record();
    let (mut from, mut to) = ctx.connect_ends(direction).await?;
    tokio::try_join!(from.batch(READ_BY_KEY), to.batch(READ_BY_KEY))?;
    for (name, key) in ctx.tables() {
        let Some(progress) = record.tables.iter().find(|table| table.name == name) else {
            return Err(MoveError::Void(format!("table {name} is new")));
        };
        if progress.backfilled {
            continue;
        }
        let table = MovingTable::load(&mut from, &mut to, &name, &key, &record.arcs).await?;
        one_table(ctx, &mut from, &mut to, &table, progress.last_key.clone(), effect).await?;
    }
    Ok(())
}

async fn one_table(
    ctx: &MoveContext,
    from: &mut ShardConn,
    to: &mut ShardConn,
    table: &MovingTable,
    mut last_key: Option<Vec<String>>,
    effect: &'static str,
) -> Result<(), MoveError> {
    let limits = &ctx.limits;
    let chunker = Chunker {
        move_id: ctx.id,
        table,
        count_repairs: false,
        settle_attempts_max: limits.settle_attempts_max,
        effect,
    };
    let ceiling = ctx.live().chunk_ceiling.take().filter(|(name, _)| *name == table.name);
    let mut ceiling = ceiling.map_or(limits.chunk_rows_max, |(_, rows)| rows);
    let mut rows = limits.chunk_rows_initial.min(ceiling);
    let mut unstored = Reconciled::default();
    let mut stored_at = Instant::now();
    loop {
        ctx.check_interrupted()?;
        let begun = Instant::now();
        let through = boundary(from, table, last_key.as_ref(), rows).await?;
        let range = KeyRange { after: last_key.clone(), through: through.clone() };
        let mut attempt = 0;
        let done = loop {
            match chunker.reconcile(from, to, &range).await {
                Ok(done) => break Some(done),
                Err(error)
                    if retryable(&error) && attempt < CHUNK_ATTEMPTS_MAX && from.is_usable() && to.is_usable() =>
                {
                    attempt += 1;
                    ctx.trouble(format!("rows of table {} are held by others: {error}", table.name));
                    tokio::time::sleep(Duration::from_millis(limits.chunk_retry_pause_ms)).await;
                    ctx.check_interrupted()?;
                    if rows > limits.chunk_rows_min {
                        break None;
                    }
                }
                Err(error) => {
                    // The step begins again, with new sessions, where it is now; a chunk that was too large for a busy shard must
                    // not stay so.
                    let smaller = (rows / 2).max(limits.chunk_rows_min);
                    ctx.live().chunk_ceiling = Some((table.name.clone(), smaller));
                    store_progress(ctx, table, &mut unstored, last_key, false).await?;
                    return Err(error);
                }
            }
        };
        let Some(done) = done else {
            // A smaller chunk gets on between the rows that somebody holds.
            rows = (rows / 2).max(limits.chunk_rows_min);
            continue;
        };
        ctx.no_trouble();
        ctx.count_chunk(begun, done.rows, done.bytes);
        unstored.rows += done.rows;
        unstored.bytes += done.bytes;
        let finished = through.is_none();
        if !finished {
            last_key = through;
        }
        if finished || stored_at.elapsed().as_millis() as u64 >= limits.progress_store_interval_ms {
            store_progress(ctx, table, &mut unstored, last_key.clone(), finished).await?;
            stored_at = Instant::now();
        }
        let took = begun.elapsed();
        tracing::debug!(r#move = ctx.id.0, table = %table.name, rows = done.rows, wanted = rows, attempt, ?took, "chunk");
        throttle(ctx, done.bytes, took).await;
        if finished {
            return Ok(());
        }
        // Slowly back to where it was, in case the shard was busy only for a while.
        ceiling = (ceiling + ceiling / 8 + 1).min(limits.chunk_rows_max);
        rows = next_size(limits, rows, took).min(ceiling);
    }
}

async fn store_progress(
    ctx: &MoveContext,
    table: &MovingTable,
    unstored: &mut Reconciled,
    last_key: Option<Vec<String>>,
    finished: bool,
) -> Result<(), MoveError> {
    let more = std::mem::take(unstored);
    ctx.update(|record| {
        if let Some(progress) = record.table_mut(&table.name) {
            progress.rows_done += more.rows;
            progress.bytes_done += more.bytes;
            progress.last_key = last_key;
            progress.backfilled = finished;
        }
    })
    .await
}

fn retryable(error: &MoveError) -> bool {
    error.is_lock_timeout() || matches!(error, MoveError::Retry(_))
}

/// Towards the time that a chunk may take, at most doubling or halving.
fn next_size(limits: &MoveLimits, rows: u64, took: Duration) -> u64 {
    let took_ms = (took.as_millis() as u64).max(1);
    let wanted = rows.saturating_mul(limits.chunk_target_ms) / took_ms;
    wanted.clamp(rows / 2, rows * 2).clamp(limits.chunk_rows_initial.min(rows * 2), limits.chunk_rows_max)
}

async fn throttle(ctx: &MoveContext, bytes: u64, took: Duration) {
    let limit = ctx.record().rate_limit_bytes_per_second;
    if limit > 0 {
        let wanted = Duration::from_secs_f64(bytes as f64 / limit as f64);
        ctx.pause(wanted.saturating_sub(took)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_towards_the_time_target_in_bounded_steps() {
        let limits = MoveLimits::default();
        let target = |percent: u64| Duration::from_millis(limits.chunk_target_ms * percent / 100);
        assert_eq!(next_size(&limits, 10_000, target(10)), 20_000);
        assert_eq!(next_size(&limits, 10_000, target(125)), 8_000);
        assert_eq!(next_size(&limits, 10_000, Duration::from_secs(9)), 5_000);
        // Never too small for its rows to matter, unless they were held by others; then larger again.
        assert_eq!(next_size(&limits, limits.chunk_rows_initial, Duration::from_secs(9)), limits.chunk_rows_initial);
        assert_eq!(next_size(&limits, limits.chunk_rows_min, Duration::from_secs(9)), limits.chunk_rows_min * 2);
        assert_eq!(next_size(&limits, limits.chunk_rows_max, Duration::from_millis(1)), limits.chunk_rows_max);
    }
}
