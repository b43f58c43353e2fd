//! Cancelling, from any state before the switch: nothing of the move stays on either shard. A target that was registered for
//! the move stays registered, empty.
//!
//! The target's arcs are opened again but for what it had closed before: a shard without a fence refuses nothing on arcs that
//! it never owned, as before the move.

use ringway_topology::model::quote_literal;

use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;

use super::capture::{arcs_literal, with_keyspace_lock};
use super::complete::end_move;
use super::delete::delete_rows;
use super::prepared::resolve;
use super::publish::publish;

pub async fn unmirror(ctx: &MoveContext) -> Result<(), MoveError> {
    if !ctx.topology().moves.contains_key(&ctx.id) {
        return Ok(());
    }
    let record = ctx.record();
    let published = publish(ctx).await?;
    let shards: Vec<_> = [Some(record.source), record.target].into_iter().flatten().collect();
    ctx.cluster.wait_published(published, &shards, ctx.acknowledge_timeout()).await
}

pub async fn uninstall_capture(ctx: &MoveContext) -> Result<(), MoveError> {
    // Nothing was captured before the target was closed.
    if ctx.record().target_closed_before.is_none() {
        return Ok(());
    }
    let mut source = ctx.connect(ctx.record().source).await?;
    end_move(ctx, &mut source).await
}

/// The mirror's transactions on the target: their anchors have ended, since the source's end of the move waited for them.
pub async fn resolve_prepared(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let (Some(target), Some(_)) = (record.target, &record.target_closed_before) else { return Ok(()) };
    let mut source = ctx.connect(record.source).await?;
    let mut target = ctx.connect(target).await?;
    if resolve(&mut source, &mut target, record.source).await?.ended > 0 {
        return Err(MoveError::retry("mirrored transactions cannot be finished at the moment"));
    }
    // From here nothing that comes late can write there.
    end_move(ctx, &mut target).await
}

pub async fn delete_copied(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    // Before the target was closed nothing was copied: rows there are not this move's.
    let (Some(target), Some(_)) = (record.target, &record.target_closed_before) else { return Ok(()) };
    let mut target = ctx.connect(target).await?;
    delete_rows(ctx, &mut target, "DeleteCopied").await
}

pub async fn reopen_target(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let (Some(target), Some(before)) = (record.target, record.target_closed_before) else { return Ok(()) };
    // After a rollback the target has given the arcs away: a gateway that was cut off meanwhile may still take it for their
    // owner, and meets a standing fence as on any shard that gave something away.
    if record.handovers > 0 {
        return Ok(());
    }
    let mut target = ctx.connect(target).await?;
    let statements = format!(
        "SELECT ringway.open_arcs({}, {} - {}::pg_catalog.int8multirange)",
        record.keyspace,
        arcs_literal(&record.arcs),
        quote_literal(&before)
    );
    with_keyspace_lock(ctx, &mut target, &statements).await
}
