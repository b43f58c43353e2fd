//! PublishUnmirror and DeleteMoved: the source lets go for good.

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::state::Direction;

use super::capture::with_keyspace_lock;
use super::delete::delete_rows;
use super::prepared::resolve;
use super::publish::publish;

/// The shard neither captures for the move nor takes mirrored rows any more, and keeps nothing captured.
pub async fn end_move(ctx: &MoveContext, shard: &mut ShardConn) -> Result<(), MoveError> {
    let record = ctx.record();
    let statements = format!(
        "SELECT ringway.end_move({0}, {1}); DELETE FROM ringway.capture WHERE move_id = {0}",
        record.id, record.keyspace
    );
    with_keyspace_lock(ctx, shard, &statements).await
}

pub async fn unmirror(ctx: &MoveContext) -> Result<(), MoveError> {
    let (source, target) = ctx.record().ends(Direction::Forward)?;
    let published = publish(ctx).await?;
    ctx.cluster.wait_published(published, &[source, target], ctx.acknowledge_timeout()).await?;
    let mut capturing = ctx.connect(target).await?;
    end_move(ctx, &mut capturing).await?;
    faults::point("PublishUnmirror", "middle");
    ctx.trouble("waiting for statements that still read the source");
    ctx.cluster.wait_drained(published.epoch(), &[source], ctx.acknowledge_timeout()).await
}

pub async fn delete_moved(ctx: &MoveContext) -> Result<(), MoveError> {
    let (source_id, target_id) = ctx.record().ends(Direction::Forward)?;
    let (mut source, mut target) = ctx.connect_ends(Direction::Forward).await?;
    // What the mirror still has prepared here would come back after its rows were deleted.
    debug_assert_ne!(source_id, target_id);
    resolve(&mut target, &mut source, target_id).await?;
    end_move(ctx, &mut source).await?;
    delete_rows(ctx, &mut source, "DeleteMoved").await
}
