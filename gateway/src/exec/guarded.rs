//! Guarded mode: the lease has run out, and the shards themselves must say that they know nothing newer.
//!
//! Every statement runs in a transaction, behind `ringway.check_epoch` in the same flight ([`Executor::lend`] puts it there).

use super::dispatch::{self, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;

/// The lease ran out while a read was under way, and nothing of its answer has been shown: it runs again, guarded.
pub async fn again(executor: &mut Executor, run: &Run<'_>) -> Result<Completed, Failure> {
    tracing::debug!("a read runs again: the lease ran out, or its connection was lost");
    executor.client.rewind();
    if executor.is_guarded() && !executor.transaction.is_open() {
        executor.begin_implicit();
    }
    let completed = Box::pin(dispatch::run(executor, run.clone())).await?;
    Ok(completed)
}
