//! Deletes the rows of the arcs from a shard that does not own them, in small batches by primary key.

use std::time::Duration;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::range::KeyRange;
use crate::moves::table::{boundary, MovingTable};

/// Attempts at one batch whose rows somebody else holds.
const ATTEMPTS_MAX: u32 = 100;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

pub async fn delete_rows(ctx: &MoveContext, shard: &mut ShardConn, effect: &'static str) -> Result<(), MoveError> {
    let record = ctx.record();
    for (name, key) in ctx.tables() {
        let table = MovingTable::load_on(shard, &name, &key, &record.arcs).await?;
        let mut unstored = 0;
        let mut after: Option<Vec<String>> = None;
        let mut attempt = 0;
        loop {
            ctx.check_interrupted()?;
            let through = boundary(shard, &table, after.as_ref(), ctx.limits.delete_batch_rows).await?;
            let range = KeyRange { after: after.clone(), through: through.clone() };
            match delete_range(shard, &table, &range).await {
                Ok(rows) => unstored += rows,
                Err(error) if error.is_lock_timeout() && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                    ctx.trouble(format!("rows of table {name} on shard {} are held by others", shard.shard));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if attempt > 0 {
                ctx.no_trouble();
            }
            attempt = 0;
            faults::point(effect, "middle");
            let finished = through.is_none();
            if finished || unstored > ctx.limits.delete_batch_rows * 10 {
                let rows = std::mem::take(&mut unstored);
                ctx.update(|record| record.rows_deleted += rows).await?;
            }
            match through {
                Some(key) => after = Some(key),
                None => break,
            }
            tokio::time::sleep(Duration::from_millis(ctx.limits.delete_pause_ms)).await;
        }
    }
    Ok(())
}

async fn delete_range(shard: &mut ShardConn, table: &MovingTable, range: &KeyRange) -> Result<u64, MoveError> {
    let sql = format!(
        "DELETE FROM {} t WHERE {} AND {}",
        table.sql_name(),
        range.sql(&table.primary_key, "t"),
        table.moving("t")
    );
    let done = async {
        shard.begin().await?;
        let rows = shard.execute_long(&sql, &[]).await?;
        shard.commit().await?;
        Ok(rows)
    }
    .await;
    if done.is_err() {
        shard.rollback().await;
    }
    done
}
