//! One request to one shard: the way of nearly every statement.

pub mod copy;

use std::collections::VecDeque;
use std::task::{ready, Context, Poll};

use ringway_topology::ids::ShardId;

use super::bound::put_back;
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::prefix::{drained_for, poll_begun};
use super::pump::{pump, show_ready, Expect, Outcome, Progress, Pumped, Show};
use super::type_oids;
use super::view::View;
use crate::plan::types::Access;
use crate::pool::connection::ServerConnection;
use crate::pool::error::ServerError;
use crate::pool::ReadyConn;
use crate::wire::{PgError, SqlState};

/// What is sent, and how the answer is shown.
pub struct Request<'a> {
    pub shard: ShardId,
    pub access: Access,
    pub show: Show,
    /// The answer may be given again by another run: nothing is shown once the lease has run out.
    pub repeatable: bool,
    /// The request ends with a Sync: the shard overreads it while it takes COPY data, and needs another one.
    pub extended: bool,
    /// What the connection knows of its settings is void afterwards.
    pub changes_settings: bool,
    /// Puts the request into the connection's output.
    pub write: &'a mut (dyn FnMut(&mut ServerConnection, &mut VecDeque<Expect>) + Send),
}

/// A request that is on its way over a connection, and what has come of it so far.
pub struct Exchange {
    expects: VecDeque<Expect>,
    show: Show,
    repeatable: bool,
    extended: bool,
    pub outcome: Outcome,
    /// None: nothing of the answer, or of what follows COPY data, has been looked at.
    progress: Option<Progress>,
}

/// A session's list of expected answers is kept for its next statement up to this.
const KEPT_EXPECTS_MAX: usize = 64;

/// Sends the request and forwards its answer. An error of the shard is in the outcome; Err means that the connection, or
/// the client, is lost, or that nothing was sent.
pub async fn forward(executor: &mut Executor, view: &View, request: Request<'_>) -> Result<Outcome, Failure> {
    if executor.transaction.has_new_oids {
        Box::pin(type_oids::learn_own(executor, view, request.shard)).await?;
    }
    let mut lent = executor.lend(view, request.shard, request.access).await?;
    let mut exchange = Exchange::new(executor, &mut lent, request);
    let done = exchange.answer(&mut lent, executor, view).await;
    exchange.end(lent, executor, done).await
}

impl Exchange {
    /// Puts the request into the connection's output, and sends what can be sent at once.
    pub fn new(executor: &mut Executor, lent: &mut Lent, request: Request<'_>) -> Exchange {
        let mut expects = std::mem::take(&mut executor.expects);
        let connection = &mut *lent.participant.connection;
        (request.write)(connection, &mut expects);
        // If it fails, so does the first look at the answer.
        let _broken = connection.try_flush();
        let Request { show, repeatable, extended, changes_settings, .. } = request;
        let outcome = Outcome { settings_changed: changes_settings, ..Outcome::default() };
        Exchange { expects, show, repeatable, extended, outcome, progress: None }
    }

    /// As [`Self::answer`], as long as the answer is a plain one and the client need not be waited for. False: it is not, or it has to
    /// be. Cancel-safe.
    pub fn poll_answer(
        &mut self,
        lent: &mut Lent,
        executor: &mut Executor,
        context: &mut Context<'_>,
    ) -> Poll<Result<bool, Failure>> {
        match lent.participant.prefix {
            0 => {}
            1 => {
                if !ready!(poll_begun(&mut lent.participant.connection, &mut executor.client, context))? {
                    return Poll::Ready(Ok(false));
                }
                self.outcome.told = lent.participant.told.take();
                lent.participant.prefix = 0;
            }
            _ => return Poll::Ready(Ok(false)),
        }
        let (mut pumped, progress) = self.pumped(lent, executor);
        let all = ready!(progress.poll(&mut pumped, context))?;
        Poll::Ready(Ok(all && !self.outcome.stops()))
    }

    fn pumped<'a>(&'a mut self, lent: &'a mut Lent, executor: &'a mut Executor) -> (Pumped<'a>, &'a mut Progress) {
        let Executor { gateway, client, .. } = executor;
        let (expects, outcome) = (&mut self.expects, &mut self.outcome);
        let connection = &mut *lent.participant.connection;
        let progress = self.progress.get_or_insert_with(|| {
            outcome.copy_in = false;
            show_ready(client, expects);
            Progress::new(connection)
        });
        let lease = self.repeatable.then_some(&gateway.view.lease);
        (Pumped { connection, client, expects, show: self.show, lease, outcome }, progress)
    }

    /// Forwards the answer to its end.
    pub async fn answer(&mut self, lent: &mut Lent, executor: &mut Executor, view: &View) -> Result<(), Failure> {
        if lent.participant.prefix > 0 && Box::pin(self.refused_before(lent, executor)).await? {
            return Ok(());
        }
        loop {
            let (pumped, progress) = self.pumped(lent, executor);
            if !pumped.outcome.stops() {
                pump(progress, pumped).await?;
            }
            self.progress = None;
            if !self.outcome.stops() {
                return Ok(());
            }
            if self.outcome.copy_in {
                return Box::pin(self.copy_in(lent, executor)).await;
            }
            let connection = &mut *lent.participant.connection;
            let oids = &mut self.outcome.oids;
            if !self.outcome.lease_lost {
                match Box::pin(type_oids::settle(&executor.gateway, view, lent.shard, oids)).await {
                    Ok(()) => continue,
                    Err(failure) => self.outcome.refused = Some(failure),
                }
            }
            self.outcome.unclosed |=
                self.expects.iter().any(|expect| matches!(expect, Expect::Parse { named: true, .. }));
            // Read to the end, shown to nobody.
            Box::pin(connection.settle()).await?;
            return Ok(());
        }
    }

    /// The answers to what has gone before the statement. True: it has failed, and the statement was discarded.
    async fn refused_before(&mut self, lent: &mut Lent, executor: &mut Executor) -> Result<bool, Failure> {
        self.outcome.told = lent.participant.told.take();
        let count = std::mem::take(&mut lent.participant.prefix);
        let connection = &mut *lent.participant.connection;
        let Some(error) = drained_for(connection, &mut executor.client, count).await? else { return Ok(false) };
        if !self.extended {
            connection.end_failed_group();
        }
        put_back(connection, &self.expects);
        connection.settle().await?;
        not_begun(executor, &mut self.expects, self.show, &mut self.outcome, error);
        Ok(true)
    }

    /// After the answer: the connection goes back to where it came from.
    pub async fn end(self, lent: Lent, executor: &mut Executor, done: Result<(), Failure>) -> Result<Outcome, Failure> {
        let Exchange { expects, mut outcome, repeatable, .. } = self;
        keep_expects(executor, expects);
        let in_transaction = lent.in_transaction;
        if let Err(failure) = done {
            // The connection is closed, and with it its part of the transaction.
            drop(lent);
            if in_transaction {
                executor.transaction.failed = true;
                return Err(failure);
            }
            if matches!(failure, Failure::Gone(_)) {
                // The session's end cancels what the shard still runs.
                return Err(failure);
            }
            Box::pin(executor.cancel.clear()).await;
            // A connection that was idle too long, or ended with a lease: a read runs again on another one. Once, for it may itself be
            // what ends connections.
            if repeatable && !executor.repeated && executor.client.can_rewind() {
                executor.repeated = true;
                return Ok(Outcome { lease_lost: true, ..Outcome::default() });
            }
            return Err(failure);
        }
        executor.give_back(lent, &outcome).await;
        if let Some(failure) = outcome.refused.take() {
            executor.transaction.failed |= in_transaction;
            return Err(failure);
        }
        if outcome.lease_lost && in_transaction {
            executor.transaction.failed = true;
            return Err(PgError::new(
                SqlState::SERIALIZATION_FAILURE,
                "could not serialize access: the gateway was cut off from the control plane while the statement ran",
            )
            .hint("Run the transaction again.")
            .into());
        }
        Ok(outcome)
    }

    /// As [`Self::end`], of a plain answer ([`Self::poll_answer`]), without waiting. The connection, if a cancel request is on its way
    /// there.
    pub fn try_end(&mut self, lent: Lent, executor: &mut Executor) -> Option<ReadyConn> {
        keep_expects(executor, std::mem::take(&mut self.expects));
        executor.try_give_back(lent, &self.outcome)
    }
}

fn keep_expects(executor: &mut Executor, mut expects: VecDeque<Expect>) {
    if expects.capacity() <= KEPT_EXPECTS_MAX {
        expects.clear();
        executor.expects = expects;
    }
}

/// The transaction has not begun on the shard, or what goes before the statement has failed, which so was discarded.
fn not_begun(
    executor: &mut Executor,
    expects: &mut VecDeque<Expect>,
    show: Show,
    outcome: &mut Outcome,
    error: ServerError,
) {
    executor.transaction.failed = true;
    outcome.unanswered = expects.iter().filter(|expect| !matches!(expect, Expect::Ready(_))).count();
    outcome.unbound = expects.iter().filter(|expect| matches!(expect, Expect::Bind)).count();
    if show.errors {
        while let Some(Expect::Ready(bytes)) = expects.pop_front() {
            executor.client.out().extend_from_slice(bytes);
        }
        Failure::Server(error.clone()).encode(executor.client.out());
    }
    if show.ready_for_query {
        crate::wire::backend::ready_for_query(executor.client.out(), executor.transaction.status());
    }
    expects.clear();
    outcome.error = Some(error);
}
