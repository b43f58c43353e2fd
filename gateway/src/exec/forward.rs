//! One request to one shard: the way of nearly every statement.

use std::collections::VecDeque;

use ringway_topology::ids::ShardId;

use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::prefix::drained_for;
use super::pump::{pump, Expect, Outcome, Show};
use super::type_oids;
use super::view::View;
use crate::plan::types::Access;
use crate::pool::connection::ServerConnection;
use crate::pool::error::ServerError;
use crate::wire::tag::client as from_client;
use crate::wire::{PgError, SqlState};

/// What is sent, and how the answer is shown.
pub struct Request<'a> {
    pub shard: ShardId,
    pub access: Access,
    pub show: Show,
    /// The answer may be given again by another run: nothing is shown once the lease has run out.
    pub repeatable: bool,
    /// COPY data of the client ends with a Sync (extended protocol).
    pub client_syncs: bool,
    /// The request ends with a Sync: the shard overreads it while it takes COPY data, and needs another one.
    pub extended: bool,
    /// What the connection knows of its settings is void afterwards.
    pub changes_settings: bool,
    /// Puts the request into the connection's output.
    pub write: &'a mut (dyn FnMut(&mut ServerConnection, &mut VecDeque<Expect>) + Send),
}

/// Sends the request and forwards its answer. An error of the shard is in the outcome; Err means that the connection, or
/// the client, is lost, or that nothing was sent.
pub async fn forward(executor: &mut Executor, view: &View, request: Request<'_>) -> Result<Outcome, Failure> {
    if executor.transaction.has_new_oids {
        Box::pin(type_oids::learn_own(executor, view, request.shard)).await?;
    }
    let lent = executor.lend(view, request.shard, request.access).await?;
    let (in_transaction, repeatable) = (lent.in_transaction, request.repeatable);
    let (lent, mut outcome) = match run(executor, view, lent, request).await {
        Ok(done) => done,
        Err(failure) => {
            // The connection is closed by now, and with it its part of the transaction.
            if in_transaction {
                executor.transaction.failed = true;
                return Err(failure);
            }
            if matches!(failure, Failure::Gone(_)) {
                // The session's end cancels what the shard still runs.
                return Err(failure);
            }
            executor.cancel.clear().await;
            // A connection that was idle too long, or ended with a lease: a read runs again on another one. Once, for it may itself be
            // what ends connections.
            if repeatable && !executor.repeated && executor.client.can_rewind() {
                executor.repeated = true;
                return Ok(Outcome { lease_lost: true, ..Outcome::default() });
            }
            return Err(failure);
        }
    };
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

async fn run(
    executor: &mut Executor,
    view: &View,
    lent: Lent,
    request: Request<'_>,
) -> Result<(Lent, Outcome), Failure> {
    let mut expects = std::mem::take(&mut executor.expects);
    let done = exchange(executor, view, lent, request, &mut expects).await;
    if expects.capacity() <= KEPT_EXPECTS_MAX {
        expects.clear();
        executor.expects = expects;
    }
    done
}

/// A session's list of expected answers is kept for its next statement up to this.
const KEPT_EXPECTS_MAX: usize = 64;

async fn exchange(
    executor: &mut Executor,
    view: &View,
    mut lent: Lent,
    request: Request<'_>,
    expects: &mut VecDeque<Expect>,
) -> Result<(Lent, Outcome), Failure> {
    let connection = &mut *lent.participant.connection;
    (request.write)(connection, expects);
    connection.try_flush()?;
    let mut outcome = Outcome { settings_changed: request.changes_settings, ..Outcome::default() };
    if lent.participant.prefix > 0 {
        outcome.told = lent.participant.told.take();
        let count = std::mem::take(&mut lent.participant.prefix);
        if let Some(error) = drained_for(connection, &mut executor.client, count).await? {
            if !request.extended {
                connection.end_failed_group();
            }
            Box::pin(connection.settle()).await?;
            not_begun(executor, expects, request.show, &mut outcome, error);
            return Ok((lent, outcome));
        }
    }
    let lease = request.repeatable.then(|| executor.gateway.view.lease.clone());
    loop {
        let pumped = pump(connection, &mut executor.client, expects, request.show, lease.as_ref(), &mut outcome);
        pumped.await?;
        if outcome.lease_lost {
            outcome.unclosed |= expects.iter().any(|expect| matches!(expect, Expect::Parse { named: true, .. }));
            // Read to the end, shown to nobody.
            Box::pin(connection.settle()).await?;
            break;
        }
        if outcome.oids.is_stuck() {
            match Box::pin(type_oids::settle(&executor.gateway, view, lent.shard, &mut outcome.oids)).await {
                Ok(()) => continue,
                Err(failure) => {
                    outcome.unclosed |=
                        expects.iter().any(|expect| matches!(expect, Expect::Parse { named: true, .. }));
                    Box::pin(connection.settle()).await?;
                    outcome.refused = Some(failure);
                    break;
                }
            }
        }
        if !outcome.copy_in {
            break;
        }
        Box::pin(relay_copy(executor, connection, request.client_syncs, request.extended)).await?;
    }
    Ok((lent, outcome))
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

/// COPY data from the client to the shard, up to its end.
async fn relay_copy(
    executor: &mut Executor,
    connection: &mut ServerConnection,
    client_syncs: bool,
    extended: bool,
) -> Result<(), Failure> {
    const GATHER_BYTES: usize = 64 << 10;
    executor.client.flush().await?;
    let mut data_ended = false;
    loop {
        let Some(frame) = executor.client.frame().await? else { return Err(Failure::Gone(None)) };
        match frame.tag() {
            from_client::COPY_DATA if !data_ended => {
                executor.client.progresses();
                connection.output().extend_from_slice(frame.bytes());
                if connection.output().len() >= GATHER_BYTES {
                    connection.flush().await?;
                }
            }
            from_client::COPY_DONE | from_client::COPY_FAIL if !data_ended => {
                connection.output().extend_from_slice(frame.bytes());
                data_ended = true;
                if !client_syncs {
                    break;
                }
            }
            from_client::SYNC if data_ended => break,
            from_client::FLUSH | from_client::SYNC => {}
            from_client::TERMINATE => return Err(Failure::Gone(None)),
            tag => {
                let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                return Err(Failure::Gone(Some(Box::new(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)))));
            }
        }
    }
    if extended {
        crate::wire::frontend::sync(connection.output());
    }
    connection.flush().await?;
    Ok(())
}
