//! Fence: one transaction on the shard that gives the arcs away. Its commit is the point of no return.
//!
//! Everything before the commit is bounded by the hold; whatever exceeds it makes the cutover undo itself. If the answer to
//! the commit is lost, the record in `ringway.handover` says what happened, read under the lock that the transaction held.

use std::time::{Duration, Instant};

use ringway_topology::ids::ShardId;

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::range::multirange;
use crate::moves::state::Direction;
use crate::moves::sweeper::Sweeper;

use super::capture::set_move;
use super::fingerprint;
use super::prepared::resolve;
use super::publish::hold_time_left;

const LOOK_AGAIN_PAUSE: Duration = Duration::from_millis(2);
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

pub async fn run(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    // A restart begins a new bound: how long writes have been held is not known, and gateways have their own.
    ctx.live().held_since.get_or_insert_with(Instant::now);
    let record = ctx.record();
    let (from_id, _) = record.ends(direction)?;
    let round = record.handovers as i32 + 1;
    let mut why = "writes were held for too long".to_owned();
    while !hold_time_left(ctx).is_zero() {
        let limit = hold_time_left(ctx);
        let mut from = connect(ctx, direction, limit).await?;
        match attempt(ctx, direction, &mut from, from_id, round).await {
            Ok(Attempt::Committed) => return committed(ctx, effect).await,
            Ok(Attempt::NotYet(reason)) => {
                why = reason;
                tokio::time::sleep(LOOK_AGAIN_PAUSE).await;
            }
            Err(Failed::Before(error)) => {
                from.rollback().await;
                return Err(match error {
                    MoveError::Void(_) | MoveError::Fatal(_) => error,
                    other => MoveError::Bound(other.to_string()),
                });
            }
            Err(Failed::InDoubt(error)) => {
                drop(from);
                tracing::warn!(r#move = ctx.id.0, %error, "the answer to the fence's commit was lost");
                if settle_doubt(ctx, direction, round).await? {
                    return committed(ctx, effect).await;
                }
                why = "the source was lost while it was fenced".into();
            }
        }
    }
    Err(MoveError::Bound(why))
}

async fn committed(ctx: &MoveContext, effect: &'static str) -> Result<(), MoveError> {
    faults::point(effect, "middle");
    ctx.no_trouble();
    Ok(())
}

async fn connect(ctx: &MoveContext, direction: Direction, limit: Duration) -> Result<ShardConn, MoveError> {
    let (from, _) = ctx.record().ends(direction)?;
    match tokio::time::timeout(limit, ctx.connect(from)).await {
        Ok(Ok(mut from)) => {
            from.statement_timeout = limit.max(Duration::from_millis(1));
            Ok(from)
        }
        Ok(Err(error)) => Err(MoveError::Bound(error.to_string())),
        Err(_) => Err(MoveError::Bound("the source does not answer".into())),
    }
}

enum Attempt {
    Committed,
    NotYet(String),
}

enum Failed {
    /// Nothing can have happened.
    Before(MoveError),
    InDoubt(MoveError),
}

impl From<MoveError> for Failed {
    fn from(error: MoveError) -> Failed {
        Failed::Before(error)
    }
}

async fn attempt(
    ctx: &MoveContext,
    direction: Direction,
    from: &mut ShardConn,
    from_id: ShardId,
    round: i32,
) -> Result<Attempt, Failed> {
    let record = ctx.record();
    let (move_id, keyspace) = (record.id.0 as i64, record.keyspace.0 as i32);
    let arcs = multirange(&record.arcs);
    let (_, to_id) = record.ends(direction)?;
    let mut to = tokio::time::timeout(hold_time_left(ctx), ctx.connect(to_id))
        .await
        .map_err(|_| MoveError::Bound("the other shard does not answer".into()))??;
    let mut finisher = tokio::time::timeout(hold_time_left(ctx), ctx.connect(to_id))
        .await
        .map_err(|_| MoveError::Bound("the other shard does not answer".into()))??;

    // No DDL from here on: neither through gateways (the advisory lock) nor past them (the tables' locks), on either end.
    from.begin_with(hold_time_left(ctx).as_millis() as u64).await?;
    from.query("SELECT pg_catalog.pg_advisory_xact_lock(x'52570003'::int, 0)", &[]).await?;
    lock_tables(ctx, from).await?;
    // Waits for every transaction that has passed a guard, prepared ones too; none passes after it.
    from.query("SELECT ringway.close_arcs($1, $2::text::pg_catalog.int8multirange)", &[&keyspace, &arcs]).await?;
    if handed_over(from, move_id, round).await? {
        from.rollback().await;
        return Ok(Attempt::Committed);
    }
    let unfinished = resolve(from, &mut finisher, from_id).await?;
    if unfinished.ended > 0 {
        from.rollback().await;
        return Ok(Attempt::NotYet(format!("mirrored transactions are still prepared on shard {}", to.shard)));
    }
    // Nothing new is captured any more. What is left is settled here: the sweeper could wait for rows whose writers wait for
    // this transaction.
    let mut sweeper = Sweeper::under_fence(ctx.id, record.arcs.clone(), ctx.limits.clone());
    while is_captured(from, move_id).await? {
        if hold_time_left(ctx).is_zero() {
            return Err(MoveError::Bound("captured rows were not settled in time".into()).into());
        }
        sweeper.sweep(from, &mut finisher).await?;
    }
    to.begin_with(hold_time_left(ctx).as_millis() as u64).await?;
    lock_tables(ctx, &mut to).await?;
    let (here, there) = (fingerprint::of_shard(ctx, from).await?, fingerprint::of_shard(ctx, &mut to).await?);
    let found = match direction {
        Direction::Forward => fingerprint::join(&here, &there),
        Direction::Reverse => fingerprint::join(&there, &here),
    };
    if !record.verified || record.fingerprint.as_deref() != Some(found.as_str()) {
        return Err(MoveError::Void(
            "tables were rewritten, or a server has failed over, since they were verified".into(),
        )
        .into());
    }
    from.batch(&set_move(ctx, "target")).await?;
    from.execute(
        "INSERT INTO ringway.handover (move_id, round, keyspace, arcs) VALUES ($1, $2, $3, $4::text::pg_catalog.int8multirange)",
        &[&move_id, &round, &keyspace, &arcs],
    )
    .await?;
    if hold_time_left(ctx).is_zero() {
        return Err(MoveError::Bound("writes were held for too long".into()).into());
    }
    // An answer that comes late is better than a doubt.
    from.statement_timeout = Duration::from_millis(ctx.limits.statement_timeout_ms);
    match from.commit().await {
        Ok(()) => {}
        Err(error) if error.is_in_doubt() => return Err(Failed::InDoubt(error)),
        Err(error) => return Err(Failed::Before(error)),
    }
    to.rollback().await;
    Ok(Attempt::Committed)
}

/// ROW EXCLUSIVE, as any writer: conflicts with whatever rewrites a table or changes its triggers, and with no write.
async fn lock_tables(ctx: &MoveContext, shard: &mut ShardConn) -> Result<(), MoveError> {
    let tables: Vec<String> = ctx.tables().iter().map(|(name, _)| name.quoted()).collect();
    shard.batch(&format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", tables.join(", "))).await
}

async fn is_captured(from: &mut ShardConn, move_id: i64) -> Result<bool, MoveError> {
    Ok(from.one("SELECT EXISTS (SELECT FROM ringway.capture WHERE move_id = $1)", &[&move_id]).await?.get(0))
}

async fn handed_over(from: &mut ShardConn, move_id: i64, round: i32) -> Result<bool, MoveError> {
    let row = from
        .one("SELECT EXISTS (SELECT FROM ringway.handover WHERE move_id = $1 AND round = $2)", &[&move_id, &round])
        .await?;
    Ok(row.get(0))
}

/// Whether the fence has committed; asks until the shard says so under the lock that the fence's transaction held, so that it
/// can neither be pending nor commit later.
pub async fn settle_doubt(ctx: &MoveContext, direction: Direction, round: i32) -> Result<bool, MoveError> {
    let record = ctx.record();
    let (from_id, _) = record.ends(direction)?;
    loop {
        let answer = async {
            let mut from = ctx.connect(from_id).await?;
            from.begin_with(ctx.limits.row_lock_timeout_ms).await?;
            from.query("SELECT pg_catalog.pg_advisory_xact_lock(x'52570010'::int, $1)", &[&(record.keyspace.0 as i32)])
                .await?;
            let found = handed_over(&mut from, record.id.0 as i64, round).await?;
            from.rollback().await;
            Ok::<bool, MoveError>(found)
        }
        .await;
        match answer {
            Ok(found) => return Ok(found),
            Err(error) => {
                ctx.trouble(format!("it is not known whether the fence has committed: {error}"));
                tokio::time::sleep(DOUBT_PAUSE).await;
            }
        }
    }
}
