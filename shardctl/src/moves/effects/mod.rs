//! What the states of a move do on the shards and in the topology, one file per group. Every effect is idempotent.

mod backfill;
mod cancel;
mod capture;
mod compare;
mod complete;
mod delete;
mod fence;
mod fingerprint;
mod prepare;
mod prepared;
mod publish;
mod target;
mod tidy;
mod verify;

pub use fence::{settle_doubt, warm};
pub use fingerprint::is_void;
pub use publish::{is_published_with_its_state, write_move};

use super::context::MoveContext;
use super::error::MoveError;
use super::step::Effect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// TakeFingerprint only: everything is as it was verified.
    Unchanged,
}

pub async fn run(ctx: &MoveContext, effect: Effect) -> Result<Outcome, MoveError> {
    match effect {
        Effect::CheckServers => prepare::check_servers(ctx).await?,
        Effect::JoinTarget => prepare::join_target(ctx).await?,
        Effect::CompareSchemas => compare::compare_schemas(ctx).await?,
        Effect::CloseTarget => target::close(ctx).await?,
        Effect::PublishFilter => publish::filter(ctx).await?,
        Effect::InstallCapture => capture::install(ctx).await?,
        Effect::PublishMirror => publish::mirror(ctx).await?,
        Effect::TakeFingerprint(direction) => return fingerprint::take(ctx, direction).await,
        Effect::Backfill(direction) => backfill::run(ctx, direction, effect.name()).await?,
        Effect::Verify(direction) => verify::run(ctx, direction, effect.name()).await?,
        Effect::PublishHold(direction) => publish::hold(ctx, direction).await?,
        Effect::Fence(direction) => fence::run(ctx, direction, effect.name()).await?,
        Effect::Switch(direction) => publish::switch(ctx, direction, effect.name()).await?,
        Effect::PublishRelease(direction) => publish::release(ctx, direction).await?,
        Effect::UndoHold(direction) => publish::undo_hold(ctx, direction).await?,
        Effect::PublishUnmirror => complete::unmirror(ctx).await?,
        Effect::DeleteMoved => complete::delete_moved(ctx).await?,
        Effect::PublishDone => publish::done(ctx).await?,
        Effect::TidyGuards => tidy::run(ctx).await?,
        Effect::CancelUnmirror => cancel::unmirror(ctx).await?,
        Effect::UninstallCapture => cancel::uninstall_capture(ctx).await?,
        Effect::ResolvePrepared => cancel::resolve_prepared(ctx).await?,
        Effect::DeleteCopied => cancel::delete_copied(ctx).await?,
        Effect::ReopenTarget => cancel::reopen_target(ctx).await?,
    }
    Ok(Outcome::Done)
}
