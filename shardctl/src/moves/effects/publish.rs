//! The steps that are an epoch: what gateways must do for the move from now on, and waiting until they do.

use std::time::{Duration, Instant};

use ringway_topology::ids::{Epoch, KeyspaceId};
use ringway_topology::model::{Keyspace, Move, Placement, TableName, Topology};

use crate::moves::conn::ShardConn;
use crate::moves::context::MoveContext;
use crate::moves::cutover;
use crate::moves::error::MoveError;
use crate::moves::faults;
use crate::moves::port::Published;
use crate::moves::record::{unix_ms, unix_us, CutoverRecord, MoveRecord};
use crate::moves::state::{Direction, State};

use super::target;

/// States of a cutover, whose epoch is stored in one flush with themselves: writes are held meanwhile.
pub fn is_published_with_its_state(state: State) -> bool {
    matches!(state, State::PublishHold(_) | State::Switch(_) | State::PublishRelease(_) | State::UndoHold { .. })
}

/// Makes of the topology what the move's state wants of it: the move is there as gateways must treat it, or not at all, and
/// the arcs belong to their new owner once they were handed over.
pub fn write_move(record: &MoveRecord, topology: &mut Topology) -> Result<(), MoveError> {
    let (source, target) = record.ends(Direction::Forward)?;
    match record.state.routing() {
        None => {
            topology.moves.remove(&record.id);
        }
        Some(routing) => {
            let wanted = Move {
                id: record.id,
                kind: record.kind,
                keyspace: record.keyspace,
                source,
                target,
                arcs: record.arcs.clone(),
                phase: record.state.phase(),
                routing,
            };
            // Until the move is in the topology a table may be distributed; from then on none may (tables/distribute.rs).
            if !topology.moves.contains_key(&record.id) {
                if let Some(table) = changing(topology, record.keyspace) {
                    return Err(MoveError::retry(format!("table {table} of the keyspace is being distributed")));
                }
            }
            // A new phase alone is no reason for a new epoch.
            let same = topology
                .moves
                .get(&record.id)
                .is_some_and(|known| Move { phase: wanted.phase, ..known.clone() } == wanted);
            if !same {
                topology.moves.insert(record.id, wanted);
            }
        }
    }
    if let State::Switch(direction) = record.state {
        let keyspace = topology
            .keyspaces
            .get_mut(&record.keyspace)
            .ok_or_else(|| MoveError::fatal("the keyspace is not in the topology"))?;
        reassign(keyspace, record, direction)?;
    }
    Ok(())
}

fn changing(topology: &Topology, keyspace: KeyspaceId) -> Option<&TableName> {
    topology.tables_of(keyspace).map(|(table, ..)| table).find(|table| table.changing).map(|table| &table.name)
}

/// The epoch from which gateways do what this state wants.
pub async fn publish(ctx: &MoveContext) -> Result<Published, MoveError> {
    let record = ctx.record();
    let reason = format!("move {}: {:?}", ctx.id, record.state);
    let published = ctx.cluster.change(&reason, |topology| write_move(&record, topology)).await?;
    let with_its_state = ctx.live().published;
    Ok(match (published, with_its_state) {
        (Published::Before(_), Some((state, epoch))) if state == record.state => Published::Now(epoch),
        _ => published,
    })
}

/// Raises the shard's epoch floor, so that a gateway cut off since before `epoch` is refused there. Transactions of such
/// gateways that keep it from rising are ended: live gateways never hold this lock.
async fn raise_floor(ctx: &MoveContext, shard: &mut ShardConn, epoch: Epoch) -> Result<(), MoveError> {
    let until = Instant::now() + Duration::from_millis(ctx.limits.statement_timeout_ms);
    let statement = format!("SELECT ringway.raise_epoch_floor({})", epoch.0);
    loop {
        match shard.transaction(ctx.limits.floor_wait_ms, &statement).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_lock_timeout() && Instant::now() < until => {
                shard
                    .query(
                        "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
                         WHERE l.locktype = 'advisory' AND l.classid = x'52570001'::int::oid AND l.objsubid = 2 AND l.granted
                           AND l.pid <> pg_catalog.pg_backend_pid()
                           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())",
                        &[],
                    )
                    .await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// The target is about to receive rows that it does not own.
pub async fn filter(ctx: &MoveContext) -> Result<(), MoveError> {
    let (_, target) = ctx.record().ends(Direction::Forward)?;
    let published = publish(ctx).await?;
    ctx.trouble("waiting for older statements to end");
    ctx.cluster.wait_drained(published.epoch(), &[target], ctx.acknowledge_timeout()).await?;
    let mut target = ctx.connect(target).await?;
    raise_floor(ctx, &mut target, published.epoch()).await
}

pub async fn mirror(ctx: &MoveContext) -> Result<(), MoveError> {
    let (source, target) = ctx.record().ends(Direction::Forward)?;
    let published = publish(ctx).await?;
    ctx.cluster.wait_published(published, &[source, target], ctx.acknowledge_timeout()).await
}

/// Time is short from here to the release: what is left of the bound.
pub fn hold_time_left(ctx: &MoveContext) -> Duration {
    let bound = Duration::from_millis(ctx.limits.hold_bound_ms);
    let held = ctx.live().held_since.map_or(Duration::ZERO, |since| since.elapsed());
    bound.saturating_sub(held)
}

pub async fn hold(ctx: &MoveContext, direction: Direction) -> Result<(), MoveError> {
    let (from, _) = ctx.record().ends(direction)?;
    // After a restart: how long writes have been held is not known, and gateways have their own bound.
    ctx.live().held_since.get_or_insert_with(Instant::now);
    let published = publish(ctx).await?;
    ctx.cluster.wait_published(published, &[from], hold_time_left(ctx)).await?;
    ctx.held_stage("no write is in flight");
    Ok(())
}

pub async fn undo_hold(ctx: &MoveContext, direction: Direction) -> Result<(), MoveError> {
    let (from, _) = ctx.record().ends(direction)?;
    let published = publish(ctx).await?;
    ctx.live().held_since = None;
    cutover::close(ctx);
    // Held statements go on as each gateway learns it; a retry of the cutover waits for all anyway.
    if ctx.cluster.wait_published(published, &[from], ctx.acknowledge_timeout()).await.is_err() {
        tracing::warn!(
            r#move = ctx.id.0,
            epoch = published.epoch().0,
            "not every gateway has acknowledged that writes go on"
        );
    }
    Ok(())
}

fn reassign(keyspace: &mut Keyspace, record: &MoveRecord, direction: Direction) -> Result<(), MoveError> {
    let (_, to) = record.ends(direction)?;
    let ring = keyspace
        .ring()
        .reassign(&record.arcs, to)
        .map_err(|error| MoveError::fatal(format!("the ring cannot be changed: {error}")))?;
    keyspace.placement = Placement::Ring(ring);
    Ok(())
}

/// The arcs' new owner, in one compare-and-set. Then, beside one another: nobody reads the old owner by an older epoch any more, and
/// the new one takes writes. Gateways hold them until the release, which waits for both.
pub async fn switch(ctx: &MoveContext, direction: Direction, effect: &'static str) -> Result<(), MoveError> {
    let (from, to) = ctx.record().ends(direction)?;
    let published = publish(ctx).await?;
    faults::point(effect, "middle");
    let limit = Duration::from_millis(ctx.limits.statement_timeout_ms);
    let mut sessions = cutover::sessions(ctx, direction, limit).await?;
    // A gateway without a lease is refused by the floor, and what it began before is ended.
    let raised = raise_floor(ctx, &mut sessions.from, published.epoch());
    let opened = target::open_under_fence(ctx, &mut sessions.to, std::mem::take(&mut sessions.to_is_locked));
    let ends = [from, to];
    let routed = ctx.cluster.wait_published(published, &ends, ctx.acknowledge_timeout());
    let (raised, opened, routed) = tokio::join!(raised, opened, routed);
    let opened = if opened { Ok(()) } else { target::open(ctx, direction, &mut sessions).await };
    cutover::keep(ctx, sessions);
    opened?;
    faults::point(effect, "opened");
    raised?;
    routed?;
    ctx.held_stage("the new owner is routed to, and takes writes");
    Ok(())
}

pub async fn release(ctx: &MoveContext, direction: Direction) -> Result<(), MoveError> {
    let (from, to) = ctx.record().ends(direction)?;
    let published = publish(ctx).await?;
    ctx.cluster.wait_published(published, &[from, to], ctx.acknowledge_timeout()).await?;
    ctx.held_stage("released");
    let held = ctx.live().held_since.take();
    cutover::close(ctx);
    ctx.update(|record| {
        // After a restart the time is not known; the round must not be counted twice either.
        if record.cutovers.len() < record.handovers as usize {
            let released_unix_us = unix_us();
            let held_us = held.map_or(0, |since| since.elapsed().as_micros() as u64);
            let held_from_unix_us = released_unix_us.saturating_sub(held_us);
            record.cutovers.push(CutoverRecord { direction, held_from_unix_us, released_unix_us });
        }
        record.switched_at_unix_ms = (direction == Direction::Forward).then(unix_ms);
    })
    .await
}

/// The move leaves the topology.
pub async fn done(ctx: &MoveContext) -> Result<(), MoveError> {
    if ctx.topology().moves.contains_key(&ctx.id) {
        let record = ctx.record();
        let published = publish(ctx).await?;
        let shards: Vec<_> = [Some(record.source), record.target].into_iter().flatten().collect();
        ctx.cluster.wait_published(published, &shards, ctx.acknowledge_timeout()).await?;
    }
    Ok(())
}
