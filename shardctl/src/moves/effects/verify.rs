//! Verify: row count and an order-free checksum per chunk, computed inside both databases. A chunk that differs is looked at
//! again, then reconciled under locks; passes repeat until one repairs nothing.

use std::time::Duration;

use crate::moves::chunk::Chunker;
use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::range::KeyRange;
use crate::moves::state::Direction;
use crate::moves::table::{boundary, MovingTable, READ_BY_KEY};

const LOOK_AGAIN_PAUSE: Duration = Duration::from_millis(50);
const LOCKED_PAUSE: Duration = Duration::from_millis(100);
const LOCKED_ATTEMPTS_MAX: u32 = 100;

/// Rows and checksum of a range.
type Sum = (i64, String);

#[derive(Default)]
struct Pass {
    chunks: u64,
    rows: u64,
    looked_again: u64,
    repaired: u64,
}

pub async fn run(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    let record = ctx.record();
    let (mut from, mut to) = ctx.connect_ends(direction).await?;
    tokio::try_join!(from.batch(READ_BY_KEY), to.batch(READ_BY_KEY))?;
    for _ in 0..ctx.limits.verify_passes_max {
        let mut pass = Pass::default();
        for (name, key) in ctx.tables() {
            let table = MovingTable::load(&mut from, &mut to, &name, &key, &record.arcs).await?;
            one_table(ctx, &mut from, &mut to, &table, effect, &mut pass).await?;
            ctx.update(|record| {
                if let Some(progress) = record.table_mut(&name) {
                    progress.verified = true;
                }
            })
            .await?;
        }
        let passed = pass.repaired == 0;
        if super::is_void(ctx).await? {
            return Err(MoveError::Void("tables were rewritten while they were verified".into()));
        }
        ctx.update(|record| {
            let sum = &mut record.verification;
            sum.chunks = pass.chunks;
            sum.rows = pass.rows;
            sum.chunks_looked_at_again += pass.looked_again;
            sum.rows_repaired += pass.repaired;
            sum.passed = passed;
            record.verified = passed;
        })
        .await?;
        if passed {
            return Ok(());
        }
        tracing::warn!(r#move = ctx.id.0, rows = pass.repaired, "verification found and mended differences; once more");
    }
    Err(MoveError::fatal(format!("verification found differences in {} passes", ctx.limits.verify_passes_max)))
}

async fn one_table(
    ctx: &MoveContext,
    from: &mut ShardConn,
    to: &mut ShardConn,
    table: &MovingTable,
    effect: &'static str,
    pass: &mut Pass,
) -> Result<(), MoveError> {
    let mut after: Option<Vec<String>> = None;
    loop {
        ctx.check_interrupted()?;
        let through = boundary(from, table, after.as_ref(), ctx.limits.verify_chunk_rows).await?;
        let range = KeyRange { after: after.clone(), through: through.clone() };
        let mut sums = compare(from, to, table, &range).await?;
        if sums.0 != sums.1 {
            pass.looked_again += 1;
            for _ in 0..ctx.limits.verify_looks_max {
                tokio::time::sleep(LOOK_AGAIN_PAUSE).await;
                sums = compare(from, to, table, &range).await?;
                if sums.0 == sums.1 {
                    break;
                }
            }
        }
        if sums.0 != sums.1 {
            pass.repaired += under_locks(ctx, from, to, table, &range, effect).await?;
        }
        faults::point(effect, "middle");
        pass.chunks += 1;
        pass.rows += sums.0 .0 as u64;
        match through {
            Some(key) => after = Some(key),
            None => return Ok(()),
        }
    }
}

async fn compare(
    from: &mut ShardConn,
    to: &mut ShardConn,
    table: &MovingTable,
    range: &KeyRange,
) -> Result<(Sum, Sum), MoveError> {
    tokio::try_join!(sum(from, table, range), sum(to, table, range))
}

async fn sum(shard: &mut ShardConn, table: &MovingTable, range: &KeyRange) -> Result<Sum, MoveError> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended((t.*)::text COLLATE \"C\", 0)::numeric), 0)::text FROM {} t WHERE {} AND {}",
        table.sql_name(),
        range.sql(&table.primary_key, "t"),
        table.moving("t")
    );
    let rows = shard.query_long(&sql, &[]).await?;
    let row = rows.first().ok_or_else(|| MoveError::retry("a checksum came back empty"))?;
    Ok((row.get(0), row.get(1)))
}

/// Under locks the answer is exact, however busily the rows are being written. Answers how many really differed.
async fn under_locks(
    ctx: &MoveContext,
    from: &mut ShardConn,
    to: &mut ShardConn,
    table: &MovingTable,
    range: &KeyRange,
    effect: &'static str,
) -> Result<u64, MoveError> {
    let chunker = Chunker {
        move_id: ctx.id,
        table,
        count_repairs: true,
        settle_attempts_max: ctx.limits.settle_attempts_max,
        effect,
    };
    let mut after = range.after.clone();
    let mut repaired = 0;
    let mut attempt = 0;
    loop {
        ctx.check_interrupted()?;
        // By the owner's rows; the last part takes the rest of the range with whatever the copy has there.
        let rows = if attempt == 0 { ctx.limits.chunk_rows_initial } else { ctx.limits.chunk_rows_min };
        let next = boundary_within(from, table, after.as_ref(), range.through.as_ref(), rows).await?;
        let part = KeyRange { after: after.clone(), through: next.clone().or_else(|| range.through.clone()) };
        match chunker.reconcile(from, to, &part).await {
            Ok(done) => {
                repaired += done.repaired;
                attempt = 0;
            }
            Err(error) if error.is_lock_timeout() && attempt < LOCKED_ATTEMPTS_MAX => {
                attempt += 1;
                ctx.trouble(format!("rows of table {} are held by others", table.name));
                tokio::time::sleep(LOCKED_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        ctx.no_trouble();
        match next {
            Some(key) => after = Some(key),
            None => return Ok(repaired),
        }
    }
}

/// As [`boundary`], but none when it would lie at or beyond the end of the range.
async fn boundary_within(
    from: &mut ShardConn,
    table: &MovingTable,
    after: Option<&Vec<String>>,
    through: Option<&Vec<String>>,
    rows: u64,
) -> Result<Option<Vec<String>>, MoveError> {
    let Some(key) = boundary(from, table, after, rows).await? else { return Ok(None) };
    let Some(through) = through else { return Ok(Some(key)) };
    let range = KeyRange { after: Some(key.clone()), through: Some(through.clone()) };
    // One more row between the two: then the boundary lies within.
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {} t WHERE {} AND {})",
        table.sql_name(),
        range.sql(&table.primary_key, "t"),
        table.moving("t")
    );
    let rows = from.query_long(&sql, &[]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)).then_some(key))
}
