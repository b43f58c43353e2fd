//! What the receiving shard takes: before the switch the arcs' rows from the mirror only, after it from applications.

use std::time::{Duration, Instant};

use crate::moves::conn::{is_true, ShardConn};
use crate::moves::context::MoveContext;
use crate::moves::cutover::CutoverSessions;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::range::multirange;
use crate::moves::state::Direction;

use super::capture::{arcs_literal, install_guard, register_tables, set_move, with_keyspace_lock};
use super::prepared::resolve;

pub async fn close(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let (_, target) = record.ends(Direction::Forward)?;
    let mut target = ctx.connect(target).await?;
    register_tables(ctx, &mut target).await?;
    let keyspace = record.keyspace.0 as i32;
    let arcs = multirange(&record.arcs);
    if record.target_closed_before.is_none() {
        // Stored before anything is closed: what a cancellation must leave closed.
        let row = target
            .one(
                "SELECT (g.closed * $2::text::pg_catalog.int8multirange)::text FROM ringway.guard_state g WHERE g.keyspace = $1",
                &[&keyspace, &arcs],
            )
            .await?;
        let closed: String = row.get(0);
        ctx.update(|record| record.target_closed_before = Some(closed)).await?;
    }
    let statements =
        format!("SELECT ringway.close_arcs({keyspace}, {}); {}", arcs_literal(&record.arcs), set_move(ctx, "target"));
    with_keyspace_lock(ctx, &mut target, &statements).await?;
    faults::point("CloseTarget", "middle");
    for (table, _) in ctx.tables() {
        install_guard(ctx, &mut target, &table).await?;
    }
    Ok(())
}

fn open_statements(ctx: &MoveContext) -> String {
    let record = ctx.record();
    let arcs = arcs_literal(&record.arcs);
    format!("{}; SELECT ringway.open_arcs({}, {arcs})", set_move(ctx, "source"), record.keyspace)
}

/// In the transaction that the fence has left open with its locks, if it has. Whether it is done.
pub async fn open_under_fence(ctx: &MoveContext, to: &mut ShardConn, to_is_locked: bool) -> bool {
    if !to_is_locked {
        return false;
    }
    match to.batch(&format!("{}; COMMIT", open_statements(ctx))).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(r#move = ctx.id.0, %error, "the fence's locks on the new owner are lost");
            to.rollback().await;
            false
        }
    }
}

/// Past the point of no return and with writes held: insists, and clears prepared mirror transactions out of its way. Doing it again
/// changes nothing.
pub async fn open(ctx: &MoveContext, direction: Direction, sessions: &mut CutoverSessions) -> Result<(), MoveError> {
    let (from_id, _) = ctx.record().ends(direction)?;
    let CutoverSessions { from, to, .. } = sessions;
    let record = ctx.record();
    if !to.is_usable() {
        return Err(MoveError::retry(format!("the session on shard {} was lost", to.shard)));
    }
    // Once it is open its writers hold the lock that opening needs, for as long as they like.
    let is_open = to
        .rows_of(&format!(
            "SELECT EXISTS (SELECT FROM ringway.move m WHERE m.move_id = {} AND m.side = 'source')
                AND NOT EXISTS (SELECT FROM ringway.guard_state g WHERE g.keyspace = {} AND g.closed && {})",
            record.id,
            record.keyspace,
            arcs_literal(&record.arcs)
        ))
        .await?;
    if is_open.last().is_some_and(|rows| is_true(rows)) {
        return Ok(());
    }
    let statements = open_statements(ctx);
    let deadline = Instant::now() + Duration::from_millis(ctx.limits.statement_timeout_ms);
    loop {
        match to.transaction(ctx.limits.row_lock_timeout_ms, &statements).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_lock_timeout() && Instant::now() < deadline => {
                ctx.trouble(format!("waiting for transactions on shard {}", to.shard));
                resolve(from, to, from_id).await?;
            }
            Err(error) => return Err(error),
        }
    }
}
