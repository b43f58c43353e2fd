//! TidyGuards: the triggers of both ends fire for no more than still concerns their shards. They are harmless where they stay,
//! so this gives up after a bound rather than keep the move from ending. A target that a cancelled move had begun to register is
//! forgotten.

use std::time::{Duration, Instant};

use ringway_topology::ids::ShardId;

use crate::moves::context::MoveContext;
use crate::moves::error::MoveError;
use crate::moves::state::State;
use crate::moves::table::table_oid;

use super::capture::try_install_guard;

pub async fn run(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    if record.target.is_none() {
        ctx.cluster.forget_half_joined(&record.target_name).await?;
    }
    if record.target_closed_before.is_none() {
        return Ok(());
    }
    let limit_ms = match record.state {
        // A cancelled move leaves no trace: worth waiting for.
        State::CancelTidyGuards => ctx.limits.cancel_tidy_timeout_ms,
        _ => ctx.limits.tidy_timeout_ms,
    };
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    for shard in [Some(record.source), record.target].into_iter().flatten() {
        while let Err(error) = one_shard(ctx, shard).await {
            if Instant::now() >= deadline {
                tracing::warn!(r#move = ctx.id.0, %error, "guard triggers stay behind; they do nothing");
                break;
            }
            ctx.trouble(format!("guard triggers wait for an idle moment: {error}"));
            tokio::time::sleep(Duration::from_millis(ctx.limits.ddl_retry_pause_ms)).await;
        }
    }
    Ok(())
}

async fn one_shard(ctx: &MoveContext, shard: ShardId) -> Result<(), MoveError> {
    let mut shard = ctx.connect(shard).await?;
    for (table, _) in ctx.tables() {
        let oid = table_oid(&mut shard, &table).await?;
        try_install_guard(&mut shard, oid, ctx.limits.ddl_lock_timeout_ms).await?;
    }
    Ok(())
}
