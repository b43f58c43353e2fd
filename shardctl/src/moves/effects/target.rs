//! CloseTarget and OpenTarget: before the switch the receiving shard takes the arcs' rows from the mirror only, after it from
//! applications.

use std::time::{Duration, Instant};

use crate::moves::context::MoveContext;
use crate::moves::cutover::{self, CutoverSessions};
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

/// Past the point of no return and with writes held: insists, and clears prepared mirror transactions out of its way.
pub async fn open(ctx: &MoveContext, direction: Direction) -> Result<(), MoveError> {
    let record = ctx.record();
    let (from_id, _) = record.ends(direction)?;
    let limit = Duration::from_millis(ctx.limits.statement_timeout_ms);
    let mut sessions = cutover::sessions(ctx, direction, limit).await?;
    let CutoverSessions { from, to, to_is_locked, .. } = &mut sessions;
    let statements = format!(
        "{}; SELECT ringway.open_arcs({}, {})",
        set_move(ctx, "source"),
        record.keyspace,
        arcs_literal(&record.arcs)
    );
    // The fence has left its locks here; without them (after a restart, or an error) this may have to wait.
    if std::mem::take(to_is_locked) {
        match to.batch(&format!("{statements}; COMMIT")).await {
            Ok(()) => {
                cutover::keep(ctx, sessions);
                ctx.held_stage("the new owner takes writes");
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(r#move = ctx.id.0, %error, "the fence's locks on the new owner are lost");
                to.rollback().await;
            }
        }
    }
    let deadline = Instant::now() + limit;
    loop {
        match to.transaction(ctx.limits.row_lock_timeout_ms, &statements).await {
            Ok(()) => break,
            Err(error) if error.is_lock_timeout() && Instant::now() < deadline => {
                ctx.trouble(format!("waiting for transactions on shard {}", to.shard));
                resolve(from, to, from_id).await?;
            }
            Err(error) => return Err(error),
        }
    }
    cutover::keep(ctx, sessions);
    ctx.held_stage("the new owner takes writes");
    Ok(())
}
