//! The end of a transaction. One writer commits in one phase; several by the anchored commit (ARCHITECTURE.md, "Distributed
//! transactions"): the row that the anchor's own commit writes is the decision, and there is no coordinator.

use std::collections::{BTreeMap, VecDeque};

use futures_util::future::join_all;
use ringway_topology::ids::ShardId;
use ringway_topology::service::Gid;

use super::answers::{ask, collect, queue_call};
use super::executor::Executor;
use super::failure::Failure;
use super::faults::FaultPoint;
use super::mirror::{self, Mirrored};
use super::pump::{pump, Outcome, Progress, Pumped, Show};
use super::statistics::Statistics;
use super::transaction::{Participant, Transaction};
use super::view::View;
use crate::pool::error::ServerError;
use crate::pool::settings::Settings;
use crate::pool::ReadyConn;
use crate::wire::{PgError, SqlState};

/// What is left to do once the client has its answer.
#[derive(Debug, Default)]
pub struct AfterCommit {
    prepared: Vec<(ReadyConn, Gid)>,
    mirrored: Vec<Mirrored>,
}

impl AfterCommit {
    pub fn is_empty(&self) -> bool {
        self.prepared.is_empty() && self.mirrored.is_empty()
    }

    /// Sends what [`finish`] begins with, and does not wait: other sessions wait for these locks, while this one has something else to
    /// wait for first.
    pub fn send(&mut self) {
        // A participant's mirrored rows are decided by its own commit.
        let sources: Vec<ShardId> = self.prepared.iter().map(|(connection, _)| connection.shard()).collect();
        let mirrored = self.mirrored.iter_mut().filter(|mirrored| !sources.contains(&mirrored.gid.anchor));
        let mirrored = mirrored.map(|mirrored| (&mut mirrored.connection, &mirrored.gid));
        let prepared = self.prepared.iter_mut().map(|(connection, gid)| (connection, &*gid));
        for (connection, gid) in prepared.chain(mirrored) {
            mirror::queue_commit_prepared(connection, gid);
            if let Err(error) = connection.try_flush() {
                tracing::debug!(%gid, %error, "a connection was lost before COMMIT PREPARED");
            }
        }
    }
}

/// Commits everything that is open. On an error everything is rolled back, or its outcome is unknown (and says so).
pub async fn commit(executor: &mut Executor) -> Result<AfterCommit, Failure> {
    if executor.transaction.listens.is_empty() {
        return commit_shards(executor).await;
    }
    let changes = std::mem::take(&mut executor.transaction.listens);
    // Nothing that is committed from now on is missed.
    let prepared = match executor.prepare_listen(&changes).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            roll_back(executor).await;
            return Err(failure);
        }
    };
    let result = commit_shards(executor).await;
    executor.finish_listen(prepared, result.is_ok());
    result
}

async fn commit_shards(executor: &mut Executor) -> Result<AfterCommit, Failure> {
    if executor.transaction.lent > 0 {
        // A part of it is lost, and nobody has said so yet.
        roll_back(executor).await;
        return Err(rolled_back());
    }
    let held = match executor.persist_cursors().await {
        Ok(held) => held,
        Err(failure) => {
            roll_back(executor).await;
            return Err(failure);
        }
    };
    let mut transaction = std::mem::take(&mut executor.transaction);
    let participants = std::mem::take(&mut transaction.participants);
    let result = match mirror::newest(executor) {
        Ok(view) => commit_all(executor, &view, participants, &transaction).await,
        Err(failure) => Err(failure),
    };
    if result.is_ok() {
        executor.held_cursors.extend(held);
        executor.reports.committed();
        if transaction.local_settings != Settings::default() {
            executor.settings_changed();
        }
    }
    if result.is_err() {
        restore_settings(executor, &transaction);
    } else if transaction.schema_changed {
        // The other halves of this very commit first: nobody waits for its locks while the news spread.
        let after = result?;
        finish(executor, after).await;
        executor.slot.leave_transaction();
        super::ddl::report(executor).await;
        return Ok(AfterCommit::default());
    }
    if result.as_ref().map_or(true, AfterCommit::is_empty) {
        executor.slot.leave_transaction();
    }
    result
}

async fn commit_all(
    executor: &mut Executor,
    view: &View,
    mut participants: BTreeMap<ShardId, Participant>,
    transaction: &Transaction,
) -> Result<AfterCommit, Failure> {
    let captured = participants.values().any(|participant| participant.captured.is_some());
    if participants.len() == 1 && !captured {
        if let Some((_, participant)) = participants.pop_first() {
            commit_one(executor, participant).await?;
        }
        return Ok(AfterCommit::default());
    }
    let writers = participants.values().filter(|participant| participant.wrote).count();
    let readers: Vec<ShardId> =
        participants.iter().filter(|(_, participant)| !participant.wrote).map(|(id, _)| *id).collect();
    for id in readers {
        if let Some(mut reader) = participants.remove(&id) {
            ask(&mut reader.connection, "COMMIT").await?;
            executor.release(reader.connection).await;
        }
    }
    let mut mirrored: BTreeMap<ShardId, Vec<Mirrored>> = BTreeMap::new();
    let prepared = {
        let gateway = &executor.gateway;
        let work = participants
            .iter_mut()
            .map(|(id, participant)| async move { (*id, mirror::prepare(gateway, view, *id, participant).await) });
        join_all(work).await
    };
    let mut failure = None;
    for (id, result) in prepared {
        match result {
            Ok(done) => {
                mirrored.insert(id, done);
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(error) = failure {
        undo(executor, participants, Vec::new(), mirrored).await;
        return Err(error);
    }
    if writers > 1 {
        Statistics::count(&executor.gateway.statistics.distributed_commits);
        return anchored(executor, view, participants, mirrored, transaction).await;
    }
    let Some((id, mut participant)) = participants.pop_first() else { return Ok(AfterCommit::default()) };
    let mirrored = mirrored.remove(&id).unwrap_or_default();
    mirror::queue_settle(&mut participant, view, &mirrored);
    participant.connection.queue_query("COMMIT");
    participant.connection.flush().await.map_err(unknown_outcome)?;
    executor.gateway.faults.hit(FaultPoint::SettleSent);
    let answers = collect(&mut participant.connection).await.map_err(unknown_outcome)?;
    if !answers.ended_with("COMMIT") {
        for one in mirrored {
            mirror::undo(&executor.gateway, one).await;
        }
        executor.release(participant.connection).await;
        return Err(answers.error.map_or_else(rolled_back, Failure::Server));
    }
    executor.release(participant.connection).await;
    Ok(AfterCommit { prepared: Vec::new(), mirrored })
}

/// One shard, nothing to mirror: what it has to say (notices, notifications) goes to the client.
async fn commit_one(executor: &mut Executor, mut participant: Participant) -> Result<(), Failure> {
    participant.connection.queue_query("COMMIT");
    let mut outcome = Outcome::default();
    let mut expects = VecDeque::new();
    let connection = &mut *participant.connection;
    let (client, mut progress) = (&mut executor.client, Progress::new(connection));
    client.watch(false);
    let (expects, outcome_so_far) = (&mut expects, &mut outcome);
    let pumped = Pumped { connection, client, expects, show: Show::NOTICES, lease: None, outcome: outcome_so_far };
    let pumped = pump(&mut progress, pumped).await;
    executor.client.watch(true);
    if let Err(failure) = pumped {
        return Err(match failure {
            Failure::Gone(error) => Failure::Gone(error),
            other if participant.wrote => unknown_outcome(other),
            other => other,
        });
    }
    if outcome.settings_changed && participant.connection.settings.is_some() {
        // SET LOCAL has ended; the session's own settings are as they were.
        participant.connection.settings = participant.connection.settings.take();
    }
    executor.release(participant.connection).await;
    match outcome.error {
        Some(error) => Err(Failure::Server(error)),
        None if outcome.tag.as_deref() == Some("ROLLBACK") => Err(rolled_back()),
        None => Ok(()),
    }
}

async fn anchored(
    executor: &mut Executor,
    view: &View,
    mut participants: BTreeMap<ShardId, Participant>,
    mirrored: BTreeMap<ShardId, Vec<Mirrored>>,
    transaction: &Transaction,
) -> Result<AfterCommit, Failure> {
    // One that made temporary objects cannot prepare, nor can one that has notified: it must be the anchor.
    let pinned = participants.keys().find(|id| executor.pins.contains(id)).copied();
    let temporary = participants.iter().find(|(_, part)| part.temporary).map(|(id, _)| *id);
    let notified = participants.iter().find(|(_, part)| part.notified).map(|(id, _)| *id);
    let Some(anchor_id) = pinned.or(temporary).or(notified).or_else(|| participants.keys().next().copied()) else {
        return Ok(AfterCommit::default());
    };
    let Some(mut anchor) = participants.remove(&anchor_id) else { return Ok(AfterCommit::default()) };
    let xid = match anchor.captured {
        Some(xid) => xid,
        None => {
            let asked = ask(&mut anchor.connection, "SELECT pg_catalog.pg_current_xact_id()").await;
            let answers = asked?.check()?;
            let parsed = answers.value().and_then(|text| text.parse().ok());
            parsed.ok_or_else(|| Failure::from(PgError::internal("a shard gave no transaction id")))?
        }
    };
    let gateway = std::sync::Arc::clone(&executor.gateway);
    let preparing = participants.into_iter().map(|(id, mut participant)| {
        let gid = gateway.gid(anchor_id, xid);
        let settles = mirrored.get(&id).map(Vec::as_slice).unwrap_or_default();
        mirror::queue_settle(&mut participant, view, settles);
        participant.connection.queue_query(&format!("PREPARE TRANSACTION '{gid}'"));
        let gateway = &gateway;
        async move {
            let sent = participant.connection.flush().await;
            gateway.faults.hit(FaultPoint::PrepareSent);
            let answers = match sent {
                Ok(()) => collect(&mut participant.connection).await,
                Err(error) => Err(error.into()),
            };
            gateway.faults.hit(FaultPoint::PreparedSome);
            (id, participant, gid, answers)
        }
    });
    let mut prepared = Vec::new();
    let mut failure: Option<Failure> = None;
    let mut unprepared = BTreeMap::new();
    for (id, participant, gid, answers) in join_all(preparing).await {
        match answers {
            Ok(answers) if answers.ended_with("PREPARE TRANSACTION") => prepared.push((id, participant, gid)),
            Ok(answers) => {
                failure.get_or_insert(answers.error.map_or_else(rolled_back, not_prepared));
                unprepared.insert(id, participant);
            }
            // Prepared or not, it is not decided: recovery rolls it back.
            Err(error) => {
                failure.get_or_insert(error.into());
            }
        }
    }
    if let Some(failure) = failure {
        unprepared.insert(anchor_id, anchor);
        undo(executor, unprepared, prepared, mirrored).await;
        return Err(failure);
    }
    gateway.faults.hit(FaultPoint::PreparedAll);
    let settles = mirrored.get(&anchor_id).map(Vec::as_slice).unwrap_or_default();
    mirror::queue_settle(&mut anchor, view, settles);
    for (_, _, gid) in &prepared {
        let parameters = [view.topology.secret.as_str(), &gid.to_string()];
        queue_call(&mut anchor.connection, "SELECT ringway.decide($1, $2)", &parameters);
    }
    let lowered = executor.settings.get("synchronous_commit").is_some()
        || transaction.log.iter().any(|statement| statement.to_ascii_lowercase().contains("synchronous_commit"));
    if lowered {
        anchor.connection.queue_query("SET LOCAL synchronous_commit = on");
    }
    anchor.connection.queue_query("COMMIT");
    anchor.connection.flush().await.map_err(unknown_outcome)?;
    gateway.faults.hit(FaultPoint::DecisionSent);
    let answers = collect(&mut anchor.connection).await.map_err(unknown_outcome)?;
    if !answers.ended_with("COMMIT") {
        let unprepared = BTreeMap::from([(anchor_id, anchor)]);
        undo(executor, unprepared, prepared, mirrored).await;
        return Err(answers.error.map_or_else(rolled_back, Failure::Server));
    }
    gateway.faults.hit(FaultPoint::AnchorCommitted);
    executor.release(anchor.connection).await;
    Ok(AfterCommit {
        prepared: prepared.into_iter().map(|(_, participant, gid)| (participant.connection, gid)).collect(),
        mirrored: mirrored.into_values().flatten().collect(),
    })
}

/// After the client has its answer, and before its next statement.
pub async fn finish(executor: &mut Executor, after: AfterCommit) {
    if after.is_empty() {
        return;
    }
    let gateway = std::sync::Arc::clone(&executor.gateway);
    let committing = after.prepared.into_iter().map(|(mut connection, gid)| {
        let gateway = &gateway;
        async move {
            mirror::queue_commit_prepared(&mut connection, &gid);
            let committed = match collect(&mut connection).await {
                Ok(answers) if answers.error.is_none() => {
                    gateway.faults.hit(FaultPoint::ParticipantCommitted);
                    mirror::forget(gateway, gid.anchor, gid);
                    true
                }
                Ok(answers) if mirror::finished_by_recovery(&answers) => {
                    mirror::forget(gateway, gid.anchor, gid);
                    true
                }
                Ok(answers) => {
                    let reason = answers.error.map(|error| error.to_string()).unwrap_or_default();
                    tracing::warn!(%gid, reason, "recovery has to finish a distributed transaction");
                    false
                }
                Err(error) => {
                    tracing::warn!(%gid, %error, "recovery has to finish a distributed transaction");
                    false
                }
            };
            (connection, committed)
        }
    });
    let finished = join_all(committing).await;
    // A participant's mirrored rows are decided by its own commit: where that is left to recovery, so are they.
    let unfinished: Vec<ShardId> =
        finished.iter().filter(|(_, committed)| !committed).map(|(connection, _)| connection.shard()).collect();
    let mirrored = after.mirrored.into_iter().filter(|mirrored| !unfinished.contains(&mirrored.gid.anchor));
    join_all(mirrored.map(|mirrored| mirror::finish(&gateway, mirrored))).await;
    for (connection, _) in finished {
        executor.release(connection).await;
    }
    executor.slot.leave_transaction();
}

/// Nothing has been decided: everything that is reachable is rolled back now, the rest by recovery.
async fn undo(
    executor: &mut Executor,
    open: BTreeMap<ShardId, Participant>,
    prepared: Vec<(ShardId, Participant, Gid)>,
    mirrored: BTreeMap<ShardId, Vec<Mirrored>>,
) {
    roll_back_participants(executor, open).await;
    for (_, mut participant, gid) in prepared {
        if let Err(error) = ask(&mut participant.connection, &format!("ROLLBACK PREPARED '{gid}'")).await {
            tracing::warn!(%gid, %error, "recovery has to roll a distributed transaction back");
        }
        participant.connection.settings = participant.settings_before.take();
        executor.release(participant.connection).await;
    }
    for one in mirrored.into_values().flatten() {
        mirror::undo(&executor.gateway, one).await;
    }
}

/// Rolls everything back that is open.
pub async fn roll_back(executor: &mut Executor) {
    let mut transaction = std::mem::take(&mut executor.transaction);
    roll_back_participants(executor, std::mem::take(&mut transaction.participants)).await;
    restore_settings(executor, &transaction);
    executor.slot.leave_transaction();
}

/// The transaction goes on, but nothing is open on any shard any more: for a statement that runs again.
pub async fn roll_back_shards(executor: &mut Executor) {
    let participants = std::mem::take(&mut executor.transaction.participants);
    roll_back_participants(executor, participants).await;
}

/// After a question that needs no part in the transaction: if it had none on any shard (`had_parts`), it has none again.
pub async fn leave_asked(executor: &mut Executor, had_parts: bool) {
    if !had_parts && executor.transaction.is_open() {
        roll_back_shards(executor).await;
    }
}

async fn roll_back_participants(executor: &mut Executor, participants: BTreeMap<ShardId, Participant>) {
    let limit = executor.gateway.config.limits.rollback_timeout();
    let rolling = participants.into_values().map(|mut participant| async move {
        match tokio::time::timeout(limit, ask(&mut participant.connection, "ROLLBACK")).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection was lost at rollback"),
            Err(_) => {
                tracing::warn!(
                    "a shard did not answer a rollback in time (rollback_timeout_ms): its connection is closed"
                );
                participant.connection.broken = true;
            }
        }
        if participant.connection.settings.is_some() {
            participant.connection.settings = participant.settings_before.take();
        }
        participant.connection
    });
    for connection in join_all(rolling).await {
        executor.release(connection).await;
    }
}

pub(super) fn restore_settings(executor: &mut Executor, transaction: &Transaction) {
    executor.reports.rolled_back();
    let before = transaction.settings_before.as_ref().filter(|before| **before != executor.settings);
    if before.is_none() && transaction.local_settings == Settings::default() {
        return;
    }
    if let Some(before) = before {
        executor.settings = before.clone();
    }
    executor.settings_changed();
}

/// PostgreSQL prepares no transaction that has raised notifications.
fn not_prepared(error: ServerError) -> Failure {
    if error.code() != "0A000" || !error.field(b'M').is_some_and(|message| message.contains("NOTIFY")) {
        return Failure::Server(error);
    }
    PgError::refused(
        "a transaction that writes on several shards raises notifications on more than one of them",
        "Raise them in a transaction of their own, or let triggers notify in transactions on one shard only.",
    )
    .detail(
        "Shards commit such a transaction in two phases, and PostgreSQL prepares none with notifications; one shard does not \
         prepare, that with temporary objects first.",
    )
    .into()
}

pub fn rolled_back() -> Failure {
    PgError::new(SqlState::TRANSACTION_ROLLBACK, "a shard rolled the transaction back at commit")
        .hint("Run the transaction again.")
        .into()
}

pub fn unknown_outcome<E: std::fmt::Debug>(error: E) -> Failure {
    tracing::warn!(?error, "a commit's outcome is unknown");
    PgError::new(
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        "the connection to a shard was lost while it committed: the transaction may or may not have been committed",
    )
    .hint("Look whether its effects are there before running it again.")
    .into()
}
