//! COMMIT and ROLLBACK of a transaction that is open on one shard and has nothing else about it: sent and answered like a statement. All
//! other ends of transactions are [`super::commit`]'s.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::commit::{restore_settings, rolled_back, unknown_outcome};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::forward::{Exchange, Request};
use super::mirror;
use super::pump::Show;
use super::transaction::{Block, Transaction};
use crate::plan::types::Access;
use crate::pool::connection::{ServerConnection, TransactionStatus};

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Commit,
    RollBack,
}

impl Ending {
    /// The statement, and its command tag.
    pub fn sql(self) -> &'static str {
        match self {
            Ending::Commit => "COMMIT",
            Ending::RollBack => "ROLLBACK",
        }
    }
}

/// A COMMIT or ROLLBACK that is on its way. The transaction is the session's no more.
pub struct OnePhase {
    pub ending: Ending,
    lent: Lent,
    exchange: Exchange,
}

/// Notices, and settings that go back. That it is over the client hears once the shard is done.
const SHOW: Show = Show::ROWS;

impl Transaction {
    /// Its one participant's COMMIT or ROLLBACK is all that there is to its end.
    fn ends_with_its_shard(&self, ending: Ending) -> bool {
        let mut participants = self.participants.values();
        let (Some(one), None) = (participants.next(), participants.next()) else { return false };
        self.block == Block::Explicit
            && (!self.failed || ending == Ending::RollBack)
            && self.lent == 0
            && one.prefix == 0
            && one.captured.is_none()
            && !one.connection.broken
            && match one.connection.status {
                TransactionStatus::InTransaction => true,
                TransactionStatus::Failed => ending == Ending::RollBack,
                TransactionStatus::Idle => false,
            }
            && self.savepoints.is_empty()
            && self.log.is_empty()
            && self.listens.is_empty()
            && self.cursors.is_empty()
            && self.portals.is_empty()
            && !self.schema_changed
    }
}

impl Executor {
    /// Sends COMMIT or ROLLBACK, if nothing else has to be done. None: [`super::commit`] does it.
    pub fn try_end(&mut self, ending: Ending) -> Option<OnePhase> {
        if self.is_guarded() || self.listening.is_some() || !self.transaction.ends_with_its_shard(ending) {
            return None;
        }
        let mut transaction = std::mem::take(&mut self.transaction);
        let (shard, participant) = transaction.participants.pop_first()?;
        if ending == Ending::RollBack {
            restore_settings(self, &transaction);
        }
        let mut lent = Lent { shard, participant, in_transaction: false };
        let mut write = |connection: &mut ServerConnection, _: &mut _| connection.queue_query(ending.sql());
        let request = Request {
            shard,
            access: Access::Write,
            show: SHOW,
            repeatable: false,
            extended: false,
            changes_settings: false,
            write: &mut write,
        };
        let exchange = Exchange::new(self, &mut lent, request);
        Some(OnePhase { ending, lent, exchange })
    }
}

impl OnePhase {
    /// Its end. After an error the transaction is rolled back, or its outcome is unknown (and it says so).
    pub async fn end(mut self: Box<Self>, executor: &mut Executor) -> Result<(), Failure> {
        if self.ending == Ending::RollBack {
            return Box::pin(self.rolled_back(executor)).await;
        }
        // It is better finished, whether the client is still there or not.
        executor.client.watch(false);
        let mut done = poll_fn(|context| self.poll_answer(executor, context)).await;
        if matches!(done, Ok(false)) {
            done = Box::pin(rest(&mut self, executor)).await;
        }
        executor.client.watch(true);
        let result = match done {
            Ok(_) => {
                if let Some(connection) = self.exchange.try_end(self.lent, executor) {
                    Box::pin(executor.release(connection)).await;
                }
                match self.exchange.outcome.error.take() {
                    Some(error) => Err(Failure::Server(error)),
                    None if self.exchange.outcome.tag.as_deref() == Some("COMMIT") => Ok(()),
                    None => Err(rolled_back()),
                }
            }
            Err(Failure::Gone(error)) => Err(Failure::Gone(error)),
            // The connection is closed.
            Err(failure) if self.lent.participant.wrote => Err(unknown_outcome(failure)),
            Err(failure) => Err(failure),
        };
        match result {
            Ok(()) => executor.reports.committed(),
            Err(_) => executor.reports.rolled_back(),
        }
        result
    }
}

impl OnePhase {
    fn poll_answer(&mut self, executor: &mut Executor, context: &mut Context<'_>) -> Poll<Result<bool, Failure>> {
        self.exchange.poll_answer(&mut self.lent, executor, context)
    }

    async fn answered(&mut self, executor: &mut Executor) -> Result<bool, Failure> {
        match poll_fn(|context| self.poll_answer(executor, context)).await {
            Ok(false) => rest(self, executor).await,
            done => done,
        }
    }

    /// Whatever the shard says, or does not say in time, the transaction is over: a connection that is not at its end is closed.
    async fn rolled_back(mut self: Box<Self>, executor: &mut Executor) -> Result<(), Failure> {
        let limit = executor.gateway.config.limits.rollback_timeout();
        executor.client.watch(false);
        let answered = tokio::time::timeout(limit, self.answered(executor)).await;
        executor.client.watch(true);
        let done = match answered {
            Ok(done) => done,
            Err(_) => {
                tracing::warn!(
                    "a shard did not answer a rollback in time (rollback_timeout_ms): its connection is closed"
                );
                self.lent.participant.connection.broken = true;
                return Ok(());
            }
        };
        match done {
            Ok(_) => {
                let participant = &mut self.lent.participant;
                if participant.connection.settings.is_some() {
                    participant.connection.settings = participant.settings_before.take();
                }
                if let Some(connection) = self.exchange.try_end(self.lent, executor) {
                    executor.release(connection).await;
                }
                Ok(())
            }
            Err(Failure::Gone(error)) => Err(Failure::Gone(error)),
            Err(failure) => {
                tracing::debug!(error = %failure.code(), "a connection was lost at rollback");
                Ok(())
            }
        }
    }
}

/// The client has to be waited for.
async fn rest(sent: &mut OnePhase, executor: &mut Executor) -> Result<bool, Failure> {
    let view = mirror::newest(executor)?;
    sent.exchange.answer(&mut sent.lent, executor, &view).await.map(|()| true)
}
