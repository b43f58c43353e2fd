//! COMMIT of a transaction that is open on one shard and has nothing else about it: sent and answered like a statement. All other ends
//! of transactions are [`super::commit`]'s.

use std::future::poll_fn;

use super::commit::{rolled_back, unknown_outcome};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::forward::{Exchange, Request};
use super::mirror;
use super::pump::Show;
use super::transaction::{Block, Transaction};
use crate::plan::types::Access;
use crate::pool::connection::{ServerConnection, TransactionStatus};

/// A COMMIT that is on its way. The transaction is the session's no more.
pub struct OnePhase {
    lent: Lent,
    exchange: Exchange,
}

/// Notices, and settings that go back. That it is committed the client hears once the shard is done.
const SHOW: Show = Show::ROWS;

impl Transaction {
    /// Its one participant's COMMIT is all that there is to its end.
    fn ends_with_its_shard(&self) -> bool {
        let mut participants = self.participants.values();
        let (Some(one), None) = (participants.next(), participants.next()) else { return false };
        self.block == Block::Explicit
            && !self.failed
            && self.lent == 0
            && one.prefix == 0
            && one.captured.is_none()
            && !one.connection.broken
            && one.connection.status == TransactionStatus::InTransaction
            && self.savepoints.is_empty()
            && self.log.is_empty()
            && self.listens.is_empty()
            && self.cursors.is_empty()
            && self.portals.is_empty()
            && !self.schema_changed
    }
}

impl Executor {
    /// Sends COMMIT, if nothing else has to be done. None: [`super::commit::commit`] does it.
    pub fn try_commit(&mut self) -> Option<OnePhase> {
        if self.is_guarded() || self.listening.is_some() || !self.transaction.ends_with_its_shard() {
            return None;
        }
        let mut transaction = std::mem::take(&mut self.transaction);
        let (shard, participant) = transaction.participants.pop_first()?;
        let mut lent = Lent { shard, participant, in_transaction: false };
        let mut write = |connection: &mut ServerConnection, _: &mut _| connection.queue_query("COMMIT");
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
        Some(OnePhase { lent, exchange })
    }
}

impl OnePhase {
    /// Its end. After an error the transaction is rolled back, or its outcome is unknown (and it says so).
    pub async fn end(mut self: Box<Self>, executor: &mut Executor) -> Result<(), Failure> {
        // It is better finished, whether the client is still there or not.
        executor.client.watch(false);
        let mut done = poll_fn(|context| {
            let OnePhase { lent, exchange } = &mut *self;
            exchange.poll_answer(lent, executor, context)
        })
        .await;
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

/// The client has to be waited for.
async fn rest(sent: &mut OnePhase, executor: &mut Executor) -> Result<bool, Failure> {
    let view = mirror::newest(executor)?;
    sent.exchange.answer(&mut sent.lent, executor, &view).await.map(|()| true)
}
