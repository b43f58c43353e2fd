//! Fence: one transaction on the shard that gives the arcs away. Its commit is the point of no return.
//!
//! Everything before the commit is bounded by the hold; whatever exceeds it makes the cutover undo itself. If the answer to
//! the commit is lost, the record in `ringway.handover` says what happened, read under the lock that the transaction held.

use std::time::{Duration, Instant};

use ringway_topology::ids::{MoveId, ShardId};
use tokio_postgres::SimpleQueryRow;

use crate::moves::conn::{begin, is_true, ShardConn};
use crate::moves::context::MoveContext;
use crate::moves::cutover::{self, CutoverSessions, KnownTables, Stamped};
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::record::MoveRecord;
use crate::moves::state::Direction;
use crate::moves::sweeper::Sweeper;

use super::capture::{arcs_literal, set_move};
use super::fingerprint;
use super::prepared::resolve;
use super::publish::hold_time_left;

/// For the locks that schema changes, and on the other end guards, conflict with. A writer on the other end that waits for held writes
/// does not end before they are released: the cutover then makes way.
const TABLE_LOCK_MAX: Duration = Duration::from_millis(200);
const LOOK_AGAIN_PAUSE: Duration = Duration::from_millis(2);
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

pub async fn run(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    // A restart begins a new bound: how long writes have been held is not known, and gateways have their own.
    ctx.live().held_since.get_or_insert_with(Instant::now);
    let record = ctx.record();
    let (from_id, _) = record.ends(direction)?;
    let round = record.handovers as i32 + 1;
    // The process that stored this state may have fenced: nothing is undone before that is known.
    let resumed = std::mem::take(&mut ctx.live().resumed_in_fence);
    if resumed && settle_doubt(ctx, direction, round).await? {
        faults::point(effect, "middle");
        ctx.no_trouble();
        return Ok(());
    }
    let mut why = "writes were held for too long".to_owned();
    while !hold_time_left(ctx).is_zero() {
        let limit = hold_time_left(ctx);
        let opened = cutover::sessions(ctx, direction, limit).await;
        let mut sessions = opened.map_err(|error| MoveError::Bound(error.to_string()))?;
        for session in [&mut sessions.from, &mut sessions.to, &mut sessions.finisher] {
            session.statement_timeout = limit.max(Duration::from_millis(1));
        }
        match attempt(ctx, direction, &mut sessions, from_id, round).await {
            Ok(Attempt::Committed) => {
                faults::point(effect, "middle");
                ctx.held_stage("handed over");
                cutover::keep(ctx, sessions);
                ctx.no_trouble();
                return Ok(());
            }
            Ok(Attempt::NotYet(reason)) => {
                cutover::keep(ctx, sessions);
                why = reason;
                tokio::time::sleep(LOOK_AGAIN_PAUSE).await;
            }
            Err(Failed::Before(error)) => {
                sessions.from.rollback().await;
                return Err(match error {
                    MoveError::Void(_) | MoveError::Fatal(_) => error,
                    other => MoveError::Bound(other.to_string()),
                });
            }
            Err(Failed::InDoubt(error)) => {
                drop(sessions);
                tracing::warn!(r#move = ctx.id.0, %error, "the answer to the fence's commit was lost");
                if settle_doubt(ctx, direction, round).await? {
                    faults::point(effect, "middle");
                    ctx.no_trouble();
                    return Ok(());
                }
                why = "the source was lost while it was fenced".into();
            }
        }
    }
    Err(MoveError::Bound(why))
}

/// What the fence will ask, asked once before writes are held: the sessions know the answers that only schema changes alter, and have
/// the plans of what they will run.
pub async fn warm(ctx: &MoveContext, sessions: &mut CutoverSessions) -> Result<(), MoveError> {
    let record = ctx.record();
    let (from_id, _) = record.ends(sessions.direction)?;
    let CutoverSessions { from, to, finisher, .. } = sessions;
    let look = look(&record, record.handovers as i32 + 1);
    let rehearsal = rehearsal(ctx);
    let on_from = async {
        from.batch(&format!("{look}; {rehearsal}")).await?;
        fingerprint::stamped(ctx, from).await
    };
    let on_to = async {
        to.batch(&rehearsal).await?;
        fingerprint::stamped(ctx, to).await
    };
    let (on_from, on_to) = tokio::try_join!(on_from, on_to)?;
    resolve(from, finisher, from_id).await?;
    let found = joined(sessions.direction, &on_from.fingerprint, &on_to.fingerprint);
    if record.fingerprint.as_deref() != Some(found.as_str()) {
        ctx.live().void_checked = None;
        return Err(MoveError::retry("tables were changed since they were verified"));
    }
    sessions.tables = Some(KnownTables { from: on_from, to: on_to });
    Ok(())
}

/// A keyspace and a move that do not exist, in a transaction that is rolled back.
fn rehearsal(ctx: &MoveContext) -> String {
    format!(
        "{}; SELECT ringway.fence_tables({}); SELECT ringway.close_arcs(-1, '{{}}'); SELECT ringway.set_move(-1, -1, 'target', '{{}}');
         SELECT ringway.open_arcs(-1, '{{}}'); ROLLBACK",
        begin(ctx.limits.ddl_lock_timeout_ms),
        fingerprint::stamp_arguments(ctx)
    )
}

/// Both ends' fingerprints in the record's order, which is the source's first.
fn joined(direction: Direction, from: &str, to: &str) -> String {
    match direction {
        Direction::Forward => fingerprint::join(from, to),
        Direction::Reverse => fingerprint::join(to, from),
    }
}

enum Attempt {
    Committed,
    NotYet(String),
}

enum Failed {
    /// Nothing can have happened.
    Before(MoveError),
    InDoubt(MoveError),
}

impl From<MoveError> for Failed {
    fn from(error: MoveError) -> Failed {
        Failed::Before(error)
    }
}

async fn attempt(
    ctx: &MoveContext,
    direction: Direction,
    sessions: &mut CutoverSessions,
    from_id: ShardId,
    round: i32,
) -> Result<Attempt, Failed> {
    let CutoverSessions { from, to, finisher, tables, .. } = sessions;
    let record = ctx.record();
    let lock_timeout_ms = (hold_time_left(ctx).as_millis() as u64).max(1);
    let fence_tables = format!("SELECT ringway.fence_tables({})", fingerprint::stamp_arguments(ctx));
    // A schema change that has begun on one end waits for the other: neither may keep reads waiting behind it for long.
    let table_lock_timeout_ms = lock_timeout_ms.min(TABLE_LOCK_MAX.as_millis() as u64);
    // No DDL from here on: neither through gateways (the advisory lock) nor past them (the tables' locks), on either end. The
    // tables' locks keep nobody from writing or finishing. `close_arcs` waits for every transaction that has passed a guard,
    // prepared ones too; none passes after it.
    let fence = format!(
        "{}; SELECT pg_catalog.pg_advisory_xact_lock(x'52570003'::int, 0); {fence_tables};
         SET LOCAL lock_timeout = {lock_timeout_ms}; SELECT ringway.close_arcs({}, {}); {}",
        begin(table_lock_timeout_ms),
        record.keyspace,
        arcs_literal(&record.arcs),
        look(&record, round)
    );
    let there = format!(
        "{}; SET LOCAL idle_in_transaction_session_timeout = {}; {fence_tables}",
        begin(table_lock_timeout_ms),
        ctx.limits.statement_timeout_ms
    );
    let (here, there) = tokio::try_join!(from.rows_of(&fence), to.rows_of(&there))?;
    ctx.held_stage("fenced");
    // The last five statements' rows: the stamp, nothing twice, and what was looked for.
    let [.., stamp, _, _, handed_over, captured] = here.as_slice() else {
        return Err(MoveError::retry("the fence's statements were not all answered").into());
    };
    if is_true(handed_over) {
        from.rollback().await;
        to.rollback().await;
        return Ok(Attempt::Committed);
    }
    let here = unchanged(Some(stamp), tables.as_ref().map(|tables| &tables.from));
    let there = unchanged(there.last(), tables.as_ref().map(|tables| &tables.to));
    // After the locks on this end. It is the one that opening the arcs there needs, which past the point of no return must not wait.
    let guards = format!("SELECT pg_catalog.pg_advisory_xact_lock(x'52570010'::int, {})", record.keyspace);
    let (unfinished, locked) = tokio::join!(resolve(from, finisher, from_id), to.batch(&guards));
    locked?;
    if unfinished?.ended > 0 {
        from.rollback().await;
        to.rollback().await;
        return Ok(Attempt::NotYet(format!("mirrored transactions are still prepared on shard {}", to.shard)));
    }
    ctx.held_stage("the other end is ready");
    // Nothing new is captured any more. What is left is settled here: the sweeper could wait for rows whose writers wait for
    // this transaction.
    if is_true(captured) {
        let mut sweeper = Sweeper::under_fence(ctx.id, record.arcs.clone(), ctx.limits.clone());
        while is_captured(from, record.id).await? {
            if hold_time_left(ctx).is_zero() {
                return Err(MoveError::Bound("captured rows were not settled in time".into()).into());
            }
            sweeper.sweep(from, finisher).await?;
        }
        ctx.held_stage("captured rows settled");
    }
    let here = match here {
        Some(known) => known,
        None => fingerprint::of_shard(ctx, from).await?,
    };
    let there = match there {
        Some(known) => known,
        None => fingerprint::of_shard(ctx, to).await?,
    };
    let found = joined(direction, &here, &there);
    if !record.verified || record.fingerprint.as_deref() != Some(found.as_str()) {
        return Err(MoveError::Void(
            "tables were rewritten, or a server has failed over, since they were verified".into(),
        )
        .into());
    }
    if hold_time_left(ctx).is_zero() {
        return Err(MoveError::Bound("writes were held for too long".into()).into());
    }
    // An answer that comes late is better than a doubt.
    from.statement_timeout = Duration::from_millis(ctx.limits.statement_timeout_ms);
    let committed = from
        .batch(&format!(
            "{}; INSERT INTO ringway.handover (move_id, round, keyspace, arcs) VALUES ({}, {round}, {}, {}); COMMIT",
            set_move(ctx, "target"),
            record.id,
            record.keyspace,
            arcs_literal(&record.arcs)
        ))
        .await;
    match committed {
        Ok(()) => {}
        Err(error) if error.is_in_doubt() => return Err(Failed::InDoubt(error)),
        Err(error) => return Err(Failed::Before(error)),
    }
    sessions.to_is_locked = true;
    Ok(Attempt::Committed)
}

/// The fingerprint that was taken before writes were held, if the stamp says that it still holds.
fn unchanged(stamp: Option<&Vec<SimpleQueryRow>>, known: Option<&Stamped>) -> Option<String> {
    let stamp = stamp?.first()?.get(0)?;
    known.filter(|known| known.stamp == stamp).map(|known| known.fingerprint.clone())
}

/// Two statements: whether the arcs were handed over in this round, and whether captured rows are left.
fn look(record: &MoveRecord, round: i32) -> String {
    format!("{}; {}", handed_over(record.id, round), captured(record.id))
}

/// In the order in which the sweeper reads them, which does not meet those that were settled before again.
fn captured(id: MoveId) -> String {
    format!("SELECT EXISTS (SELECT FROM ringway.capture WHERE move_id = {id} ORDER BY id LIMIT 1)")
}

fn handed_over(id: MoveId, round: i32) -> String {
    format!("SELECT EXISTS (SELECT FROM ringway.handover WHERE move_id = {id} AND round = {round})")
}

async fn is_captured(from: &mut ShardConn, id: MoveId) -> Result<bool, MoveError> {
    Ok(from.rows_of(&captured(id)).await?.last().is_some_and(|rows| is_true(rows)))
}

/// Whether the fence has committed. Nobody holds the lock of the fence's transaction when the record is looked for, so it can
/// neither be pending nor commit later. Asks until the shard says so.
pub async fn settle_doubt(ctx: &MoveContext, direction: Direction, round: i32) -> Result<bool, MoveError> {
    let record = ctx.record();
    let (from_id, _) = record.ends(direction)?;
    // The lock as `close_arcs` takes it.
    let pending = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = x'52570010'::int::oid
             AND l.objid = {}::oid AND l.objsubid = 2 AND l.mode = 'ExclusiveLock' AND l.granted
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()))",
        record.keyspace
    );
    loop {
        let answer = async {
            let mut from = ctx.connect(from_id).await?;
            if from.rows_of(&pending).await?.last().is_none_or(|rows| is_true(rows)) {
                return Err(MoveError::retry("its transaction is still there"));
            }
            let found = from.rows_of(&handed_over(record.id, round)).await?;
            Ok::<bool, MoveError>(found.last().is_some_and(|rows| is_true(rows)))
        }
        .await;
        match answer {
            Ok(found) => return Ok(found),
            Err(error) => {
                ctx.trouble(format!("it is not known whether the fence has committed: {error}"));
                tokio::time::sleep(DOUBT_PAUSE).await;
            }
        }
    }
}
