//! The double-write: before a transaction that has captured rows commits on the shard S that owns them, they are applied and
//! prepared on the move's other end T. See ARCHITECTURE.md, "Life of a write to rows that move".
//!
//! Whatever goes wrong on T never hurts the application: the captured rows stay, and the sweeper settles them. After one answer that
//! is late nobody waits for T again until it answers a probe; what it does late is rolled back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::ids::{MoveId, ShardId};
use ringway_topology::model::quote_literal;
use ringway_topology::service::Gid;

use super::answers::{collect, queue_call, Answers};
use super::executor::Executor;
use super::failure::Failure;
use super::faults::FaultPoint;
use super::gateway::Gateway;
use super::transaction::Participant;
use super::view::View;
use crate::pool::connection::{row_values, ServerConnection};
use crate::pool::error::PoolError;
use crate::pool::{Claim, Pool, ReadyConn};
use crate::wire::{PgError, SqlState};

/// A large transaction's rows may take this much longer, each.
const TIMEOUT_PER_ROW: Duration = Duration::from_micros(200);
/// Between two probes of a shard that did not answer.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How long a late answer is waited for in the background, to tidy up behind it; then it is recovery's.
const LATE_ANSWER_MAX: Duration = Duration::from_secs(30);

/// Rows of one move, prepared on its other end.
#[derive(Debug)]
pub struct Mirrored {
    pub move_id: MoveId,
    pub gid: Gid,
    /// The last captured row that is among them.
    pub last_id: i64,
    pub rows: u64,
    /// To the other end, where the transaction is prepared.
    pub connection: ReadyConn,
}

#[derive(Debug)]
struct Captured {
    id: i64,
    move_id: MoveId,
    schema: String,
    table: String,
    old_row: Option<String>,
    new_row: Option<String>,
}

/// Reads what the transaction has captured on `shard`, and mirrors what can be mirrored. An error is one of the
/// transaction's own (a deferred constraint).
pub async fn prepare(
    gateway: &Arc<Gateway>,
    view: &View,
    shard: ShardId,
    participant: &mut Participant,
) -> Result<Vec<Mirrored>, Failure> {
    let Some(xid) = participant.captured else { return Ok(Vec::new()) };
    let rows_max = gateway.config.limits.mirror_rows_max;
    let connection = &mut *participant.connection;
    connection.queue_query("SET CONSTRAINTS ALL IMMEDIATE");
    queue_call(
        connection,
        &format!("SELECT * FROM ringway.captured($1) LIMIT {}", rows_max + 1),
        &[&view.topology.secret],
    );
    let answers = collect(connection).await?.check()?;
    gateway.faults.hit(FaultPoint::CapturedRead);
    let Some(rows) = read(&answers) else {
        // Not UTF-8: the sweeper reads the rows themselves.
        return Ok(Vec::new());
    };
    let mut of_moves: BTreeMap<MoveId, Vec<Captured>> = BTreeMap::new();
    let too_many = rows.len() > rows_max;
    for row in rows {
        of_moves.entry(row.move_id).or_default().push(row);
    }
    let attempts = of_moves.into_iter().map(|(id, rows)| async move {
        if too_many {
            tracing::info!(r#move = id.0, rows_max, "a large transaction is left to the sweeper (mirror_rows_max)");
            gateway.statistics.unmirrored(id);
            return None;
        }
        match apply(gateway, view, shard, xid, id, &rows).await {
            Ok(mirrored) => mirrored,
            Err(reason) => {
                tracing::warn!(r#move = id.0, shard = shard.0, %reason, "rows are left to the sweeper");
                gateway.statistics.unmirrored(id);
                None
            }
        }
    });
    Ok(futures_util::future::join_all(attempts).await.into_iter().flatten().collect())
}

fn read(answers: &Answers) -> Option<Vec<Captured>> {
    let mut captured = Vec::with_capacity(answers.rows.len());
    for row in &answers.rows {
        let values = row_values(row.get(5..)?)?;
        let text = |index: usize| -> Option<Option<String>> {
            match values.get(index)? {
                None => Some(None),
                Some(bytes) => String::from_utf8(bytes.to_vec()).ok().map(Some),
            }
        };
        captured.push(Captured {
            id: text(0)??.parse().ok()?,
            move_id: MoveId(text(1)??.parse().ok()?),
            schema: text(2)??,
            table: text(3)??,
            old_row: text(4)?,
            new_row: text(5)?,
        });
    }
    Some(captured)
}

#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("{0}")]
    Pool(#[from] PoolError),
    #[error("the other shard did not answer within {0} ms (mirror_timeout_ms)")]
    Timeout(u128),
    #[error("the other shard has not answered since it was late")]
    Sick,
    #[error("the other shard did not prepare: {0}")]
    Refused(String),
}

/// None: this gateway does not know that the move is mirrored.
async fn apply(
    gateway: &Arc<Gateway>,
    view: &View,
    shard: ShardId,
    xid: u64,
    id: MoveId,
    rows: &[Captured],
) -> Result<Option<Mirrored>, MirrorError> {
    let Some(moving) = view.topology.moves.get(&id).filter(|moving| moving.routing.mirror) else { return Ok(None) };
    let peer = moving.peer_of(shard).and_then(|peer| view.topology.shard(peer));
    let (Some(peer), Some(last)) = (peer, rows.last()) else { return Ok(None) };
    if gateway.sick.contains(peer.id) {
        return Err(MirrorError::Sick);
    }
    let gid = gateway.gid(shard, xid);
    let timeout =
        gateway.config.limits.mirror_timeout() + TIMEOUT_PER_ROW * u32::try_from(rows.len()).unwrap_or(u32::MAX);
    let mut flight =
        Box::pin(fly(Arc::clone(gateway), gateway.pools.service(peer)?, gid.clone(), statements(id, rows), timeout));
    let flown = tokio::select! {
        flown = &mut flight => Ok(flown),
        () = tokio::time::sleep(timeout) => Err(MirrorError::Timeout(timeout.as_millis())),
        () = gateway.sick.fell_sick(peer.id) => Err(MirrorError::Sick),
    };
    let (connection, answers) = match flown {
        Ok(Ok(flown)) => flown,
        Ok(Err(error)) => {
            fell_sick(gateway, peer.id);
            return Err(error.into());
        }
        Err(late) => {
            fell_sick(gateway, peer.id);
            // The transaction on S goes on without it, so it is never decided: recovery would roll it back, but not as soon.
            in_background(gateway, async move {
                if let Ok((connection, answers)) = flight.await {
                    if answers.ended_with("PREPARE TRANSACTION") {
                        roll_back(connection, gid).await;
                    }
                }
            });
            return Err(late);
        }
    };
    if !answers.ended_with("PREPARE TRANSACTION") {
        let reason = answers.error.map_or_else(|| "it rolled back".to_owned(), |error| error.to_string());
        return Err(MirrorError::Refused(reason));
    }
    gateway.faults.hit(FaultPoint::MirrorPrepared);
    let mirrored = Mirrored { move_id: id, gid, last_id: last.id, rows: rows.len() as u64, connection };
    Ok(Some(mirrored))
}

/// Applies and prepares, in one flight.
async fn fly(
    gateway: Arc<Gateway>,
    pool: Arc<Pool>,
    gid: Gid,
    statements: Vec<String>,
    timeout: Duration,
) -> Result<(ReadyConn, Answers), PoolError> {
    let mut connection = pool.checkout(Claim::Further).await?;
    // Rows that somebody holds are no sign of a sick shard: the server says so before the time is over.
    let lock_timeout_ms = (timeout.as_millis() * 4 / 5).max(1);
    connection.queue_query(&format!("BEGIN; SET LOCAL lock_timeout = {lock_timeout_ms}"));
    for statement in statements {
        connection.queue_query(&statement);
    }
    connection.queue_query(&format!("PREPARE TRANSACTION '{gid}'"));
    connection.flush().await.map_err(PoolError::Io)?;
    gateway.faults.hit(FaultPoint::MirrorApplySent);
    let answers = collect(&mut connection).await?;
    Ok((connection, answers))
}

/// From now on nobody waits for this shard's mirror; a probe finds out when it is well again.
fn fell_sick(gateway: &Arc<Gateway>, shard: ShardId) {
    if !gateway.sick.failed(shard) {
        return;
    }
    tracing::warn!(shard = shard.0, "the mirror rests until this shard answers again");
    let shared = Arc::clone(gateway);
    gateway.tasks.spawn(async move {
        loop {
            if shared.shutdown.run_until_cancelled(tokio::time::sleep(PROBE_EVERY)).await.is_none() {
                return;
            }
            let limit = shared.config.limits.mirror_timeout();
            if tokio::time::timeout(limit, is_well(&shared, shard)).await.unwrap_or(false) {
                shared.sick.answered(shard);
                tracing::info!(shard = shard.0, "the mirror goes on");
                return;
            }
        }
    });
}

/// A shard that has left the topology is nobody's trouble.
async fn is_well(gateway: &Gateway, shard: ShardId) -> bool {
    let Some(view) = gateway.view.current() else { return false };
    let Some(shard) = view.topology.shard(shard) else { return true };
    let Ok(pool) = gateway.pools.service(shard) else { return false };
    match pool.checkout(Claim::Further).await {
        Ok(mut connection) => connection.query("SELECT 1").await.is_ok(),
        Err(_) => false,
    }
}

fn in_background(gateway: &Gateway, work: impl Future<Output = ()> + Send + 'static) {
    gateway.tasks.spawn(async move {
        if tokio::time::timeout(LATE_ANSWER_MAX, work).await.is_err() {
            tracing::debug!("a mirrored transaction is left to recovery");
        }
    });
}

/// Waits for the other end no longer than the mirror may; the rest happens behind the client's back.
async fn bounded(gateway: &Arc<Gateway>, peer: ShardId, work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    tokio::select! {
        () = &mut work => return,
        () = tokio::time::sleep(gateway.config.limits.mirror_timeout()) => {}
        () = gateway.sick.fell_sick(peer) => {}
    }
    fell_sick(gateway, peer);
    in_background(gateway, work);
}

/// One `ringway.apply` for each run of rows of one table, in order.
fn statements(id: MoveId, rows: &[Captured]) -> Vec<String> {
    rows.chunk_by(|a, b| a.schema == b.schema && a.table == b.table)
        .filter_map(|run| {
            let first = run.first()?;
            let array = |value: fn(&Captured) -> &Option<String>| {
                let values: Vec<String> = run
                    .iter()
                    .map(|row| value(row).as_deref().map_or_else(|| "NULL".to_owned(), quote_literal))
                    .collect();
                format!("ARRAY[{}]::pg_catalog.text[]", values.join(","))
            };
            Some(format!(
                "SELECT ringway.apply({}, {}, {}, {}, {})",
                id.0,
                quote_literal(&first.schema),
                quote_literal(&first.table),
                array(|row| &row.old_row),
                array(|row| &row.new_row)
            ))
        })
        .collect()
}

/// Queues, in the transaction on S, that its commit decides the prepared ones.
pub fn queue_settle(participant: &mut Participant, view: &View, mirrored: &[Mirrored]) {
    for one in mirrored {
        queue_call(
            &mut participant.connection,
            "SELECT ringway.settle_captured($1, $2, $3, $4)",
            &[&view.topology.secret, &one.move_id.0.to_string(), &one.last_id.to_string(), &one.gid.to_string()],
        );
    }
}

/// S has committed.
pub async fn finish(gateway: &Arc<Gateway>, mirrored: Mirrored) {
    gateway.faults.hit(FaultPoint::CommittedBeforeCommitPrepared);
    gateway.statistics.mirrored(mirrored.move_id, mirrored.rows);
    let shared = Arc::clone(gateway);
    bounded(gateway, mirrored.connection.shard(), async move { commit_prepared(&shared, mirrored).await }).await;
}

async fn commit_prepared(gateway: &Gateway, mut mirrored: Mirrored) {
    queue_commit_prepared(&mut mirrored.connection, &mirrored.gid);
    match super::answers::collect(&mut mirrored.connection).await {
        Ok(answers) if answers.error.is_none() => {
            gateway.faults.hit(FaultPoint::MirrorCommitted);
            forget(gateway, mirrored.gid.anchor, mirrored.gid);
        }
        Ok(answers) if finished_by_recovery(&answers) => forget(gateway, mirrored.gid.anchor, mirrored.gid),
        Ok(answers) => {
            let reason = answers.error.map(|error| error.to_string()).unwrap_or_default();
            tracing::warn!(gid = %mirrored.gid, reason, "recovery has to finish a mirrored transaction");
        }
        Err(error) => tracing::warn!(gid = %mirrored.gid, %error, "recovery has to finish a mirrored transaction"),
    }
}

/// Queues COMMIT PREPARED on a connection that has prepared, unless it is on its way already.
pub fn queue_commit_prepared(connection: &mut ServerConnection, gid: &Gid) {
    if connection.outstanding == 0 {
        connection.queue_query(&format!("COMMIT PREPARED '{gid}'"));
    }
}

/// Recovery may have been faster: the decision was there.
pub fn finished_by_recovery(answers: &Answers) -> bool {
    answers.error.as_ref().is_some_and(|error| error.code() == SqlState::UNDEFINED_OBJECT.as_str())
}

/// S has rolled back, and is known to have.
pub async fn undo(gateway: &Arc<Gateway>, mirrored: Mirrored) {
    bounded(gateway, mirrored.connection.shard(), roll_back(mirrored.connection, mirrored.gid)).await;
}

async fn roll_back(mut connection: ReadyConn, gid: Gid) {
    let statement = format!("ROLLBACK PREPARED '{gid}'");
    if let Err(error) = super::answers::ask(&mut connection, &statement).await {
        tracing::warn!(%gid, %error, "recovery has to roll a mirrored transaction back");
    }
}

/// The decision is no longer needed: it is deleted later, in bulk. (Recovery deletes it if this queue is full.)
pub fn forget(gateway: &Gateway, anchor: ShardId, gid: Gid) {
    if gateway.forget.try_send((anchor, gid)).is_err() {
        tracing::debug!("decided_backlog_max is reached: recovery forgets the rest");
    }
}

/// The view that a commit uses: the newest.
pub fn newest(executor: &Executor) -> Result<std::sync::Arc<View>, Failure> {
    executor.gateway.view.current().ok_or_else(|| PgError::internal("a transaction commits without a topology").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, table: &str, old: Option<&str>, new: Option<&str>) -> Captured {
        Captured {
            id,
            move_id: MoveId(7),
            schema: "public".into(),
            table: table.into(),
            old_row: old.map(str::to_owned),
            new_row: new.map(str::to_owned),
        }
    }

    #[test]
    fn runs_of_a_table_are_applied_together_and_in_order() {
        let rows = [
            row(1, "a", None, Some("(1,x)")),
            row(2, "a", Some("(2,it's)"), None),
            row(3, "b", None, Some(r"(3,\x00)")),
            row(4, "a", None, Some("(1,y)")),
        ];
        assert_eq!(
            statements(MoveId(7), &rows),
            [
                "SELECT ringway.apply(7, 'public', 'a', ARRAY[NULL,'(2,it''s)']::pg_catalog.text[], \
                 ARRAY['(1,x)',NULL]::pg_catalog.text[])",
                "SELECT ringway.apply(7, 'public', 'b', ARRAY[NULL]::pg_catalog.text[], \
                 ARRAY[E'(3,\\\\x00)']::pg_catalog.text[])",
                "SELECT ringway.apply(7, 'public', 'a', ARRAY[NULL]::pg_catalog.text[], \
                 ARRAY['(1,y)']::pg_catalog.text[])",
            ]
        );
    }
}
