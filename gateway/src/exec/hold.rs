//! Lets a statement in: plans and places it under one topology, and holds it while a cutover wants its rows left alone.
//!
//! A transaction that already wrote or locked rows in the arcs is never held: the cutover waits for it.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use ringway_topology::ids::{Epoch, MoveId, ShardId};
use ringway_topology::model::TableName;

use super::executor::{cancelled, Executor, Identity};
use super::failure::Failure;
use super::faults::FaultPoint;
use super::gateway::Planned;
use super::place::{place, Placement};
use super::view::View;
use crate::catalog::RelationKind;
use crate::plan::route::Parameter;
use crate::plan::types::{Access, CopyDestination, DdlKind, Plan, Targets};
use crate::wire::{PgError, SqlState};

/// The class of SQLSTATEs of values that are wrong.
const DATA_EXCEPTION: &str = "22";

/// A statement that may run now.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub view: Arc<View>,
    pub planned: Arc<Planned>,
    pub placement: Placement,
    pub access: Access,
}

/// Plans, places and, if need be, waits. Plans that are not about rows get an empty placement.
pub async fn admit(executor: &mut Executor, sql: &str, parameters: &[Parameter<'_>]) -> Result<Admitted, Failure> {
    // Since it has begun to wait.
    let mut waits: Option<Instant> = None;
    let mut held: Option<MoveId> = None;
    loop {
        let Considered { admitted, wait: reason } = consider(executor, sql, parameters)?;
        let Some(reason) = reason else {
            if let Some(id) = held {
                executor.gateway.statistics.held(id, waits.map(|since| since.elapsed()).unwrap_or_default());
                executor.gateway.faults.hit(FaultPoint::HoldReleased);
            }
            return Ok(admitted);
        };
        let since = *waits.get_or_insert_with(Instant::now);
        if let Wait::Move(id, _) = reason {
            if held.is_none() {
                executor.gateway.faults.hit(FaultPoint::HoldEntered);
                warm(executor, &admitted.view, &admitted.placement, id);
            }
            held = Some(id);
        }
        drop(admitted);
        Box::pin(wait(executor, reason.epoch(), since)).await?;
    }
}

/// As [`admit`], without waiting. None: it has to wait.
pub fn try_admit(
    executor: &mut Executor,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<Admitted>, Failure> {
    let Considered { admitted, wait } = consider(executor, sql, parameters)?;
    Ok(wait.is_none().then_some(admitted))
}

/// [`try_admit`] of a plan that has been looked up under this topology.
pub fn try_admit_planned(
    executor: &mut Executor,
    view: Arc<View>,
    planned: Arc<Planned>,
    parameters: &[Parameter<'_>],
) -> Result<Option<Admitted>, Failure> {
    let Considered { admitted, wait } = consider_planned(executor, view, planned, parameters)?;
    Ok(wait.is_none().then_some(admitted))
}

/// What is wrong, or not read, of the values that decide where a statement runs.
pub fn check_keys(executor: &Executor, plan: &Plan, view: &View, parameters: &[Parameter<'_>]) -> Result<(), Failure> {
    let Some(targets) = targets(plan) else { return Ok(()) };
    match placed(executor, view, &targets, access(plan), parameters) {
        Err(failure)
            if failure.code().starts_with(DATA_EXCEPTION)
                || failure.code() == SqlState::FEATURE_NOT_SUPPORTED.as_str() =>
        {
            Err(failure)
        }
        // Others are said where it runs.
        _ => Ok(()),
    }
}

/// A statement that would be admitted, but for what it has to wait for.
struct Considered {
    admitted: Admitted,
    wait: Option<Wait>,
}

fn consider(executor: &mut Executor, sql: &str, parameters: &[Parameter<'_>]) -> Result<Considered, Failure> {
    let view = executor.enter()?;
    let planned = executor.plan(sql, &view)?;
    consider_planned(executor, view, planned, parameters)
}

fn consider_planned(
    executor: &mut Executor,
    view: Arc<View>,
    planned: Arc<Planned>,
    parameters: &[Parameter<'_>],
) -> Result<Considered, Failure> {
    let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
    if calls_code(plan) && executor.transaction.schema_changed {
        return Err(PgError::refused(
            "functions cannot be called in a transaction that has changed the schema",
            "Commit the schema change first.",
        )
        .detail("What they do is read from the catalog as it was before the transaction.")
        .into());
    }
    if executor.transaction.hides_shards {
        check_for_new_views(executor, plan)?;
    }
    let access = access(plan);
    let placement = match targets(plan) {
        Some(targets) => placed(executor, &view, &targets, access, parameters)?,
        None => {
            executor.slot.reads();
            Placement::default()
        }
    };
    let wait = waits_for(executor, &view, plan, &placement, access);
    if planned.only_locks {
        executor.slot.leave_statement();
    } else if access == Access::Read {
        executor.slot.reads();
    } else if wait.is_none() {
        executor.slot.writes(&placement.footprints);
    }
    if wait.is_some() {
        executor.slot.suspend();
    } else {
        executor.notifies |= planned.notifies;
        if let Some(shard) = placement.single().filter(|_| planned.pins) {
            executor.pin(shard);
        }
    }
    Ok(Considered { admitted: Admitted { view, planned, placement, access }, wait })
}

/// In a transaction that has made a view of several shards' tables: what is no known table may be that view.
fn check_for_new_views(executor: &Executor, plan: &Plan) -> Result<(), Failure> {
    let tables = match plan.explained() {
        Plan::Query(query) => &query.tables,
        Plan::Cursor(cursor) => &cursor.query.tables,
        Plan::InsertSelect(insert) => &insert.tables,
        Plan::CopyOut(copy) if matches!(copy.targets, Targets::Home) => return Err(may_be_view("what COPY reads")),
        _ => return Ok(()),
    };
    let catalog = executor.gateway.catalog.load();
    let is_table = |name: &TableName| {
        let relation = catalog.as_ref().and_then(|loaded| loaded.catalog.relation(name));
        name.schema == "pg_catalog"
            || name.schema == "information_schema"
            || relation
                .is_some_and(|relation| !matches!(relation.kind, RelationKind::View | RelationKind::MaterializedView))
    };
    match tables.iter().find(|name| !is_table(name)) {
        Some(name) => Err(may_be_view(&format!("\"{name}\""))),
        None => Ok(()),
    }
}

fn may_be_view(what: &str) -> Failure {
    let message = format!("{what} may be a view that this transaction has made");
    PgError::refused(message, "Write the view's query instead.")
        .detail("A view of tables that are on several shards is not in the catalog yet that the gateway goes by.")
        .into()
}

fn calls_code(plan: &Plan) -> bool {
    match plan.explained() {
        Plan::Query(query) => query.calls_code,
        Plan::InsertSelect(insert) => insert.calls_code,
        Plan::Cursor(cursor) => cursor.query.calls_code,
        Plan::AtCursor(write) => write.query.calls_code,
        _ => false,
    }
}

/// Why a statement waits, and the epoch that says so: a newer one may not.
enum Wait {
    Move(MoveId, Epoch),
    /// A table of the statement is being distributed.
    Table(Epoch),
}

impl Wait {
    fn epoch(&self) -> Epoch {
        match self {
            Wait::Move(_, epoch) | Wait::Table(epoch) => *epoch,
        }
    }
}

fn waits_for(executor: &Executor, view: &View, plan: &Plan, placement: &Placement, access: Access) -> Option<Wait> {
    let topology = &view.topology;
    if access == Access::Read && !view.is_changing {
        return None;
    }
    let tables = match plan.explained() {
        Plan::Query(query) => query.tables.as_slice(),
        Plan::Ddl(ddl) => ddl.tables.as_slice(),
        Plan::InsertSelect(insert) => insert.tables.as_slice(),
        Plan::Cursor(cursor) => cursor.query.tables.as_slice(),
        Plan::AtCursor(write) => write.query.tables.as_slice(),
        Plan::CopyIn(copy) => std::slice::from_ref(&copy.table),
        _ => &[],
    };
    // One that is in the middle of a transaction goes on: the change waits for it.
    let may_wait = executor.transaction.participants.is_empty();
    let changing = |table: &ringway_topology::model::TableName| {
        topology.table(&table.schema, &table.name).is_some_and(|table| table.changing)
    };
    if may_wait && view.is_changing && tables.iter().any(changing) {
        return Some(Wait::Table(view.epoch()));
    }
    if access == Access::Read {
        return None;
    }
    // Also a transaction that goes by an older epoch's topology is held by the present one.
    let newest = executor.gateway.view.current();
    let topology = newest.as_ref().map_or(topology, |newest| &newest.topology);
    if topology.moves.is_empty() {
        return None;
    }
    let id = placement.holding(topology)?;
    let moving = topology.moves.get(&id)?;
    (!executor.slot.has_written(moving)).then_some(Wait::Move(id, topology.epoch))
}

/// While a statement waits, connections are opened that it and its mirror will need if the rows' owner changes meanwhile.
fn warm(executor: &Executor, view: &View, placement: &Placement, id: MoveId) {
    let Some(moving) = view.topology.moves.get(&id) else { return };
    let ends = placement.shards.iter().filter_map(|owner| Some((*owner, moving.peer_of(*owner)?)));
    for (owner, receiver) in ends {
        let (Some(owner), Some(receiver)) = (view.topology.shard(owner), view.topology.shard(receiver)) else {
            continue;
        };
        let Identity { user, credentials, .. } = &executor.identity;
        let application = executor.gateway.pools.application(receiver, user, credentials);
        let service = executor.gateway.pools.service(owner);
        let (Ok(application), Ok(service)) = (application, service) else { continue };
        let wanted = executor.gateway.held.load(Ordering::Relaxed) + 1;
        let settings = executor.settings.clone();
        executor.gateway.tasks.spawn(async move {
            if let Some(mut connection) = application.warm(wanted).await {
                let known = connection.settings.take().unwrap_or_default();
                // Otherwise the statement brings it to the session's settings, from what is then not known.
                if known == settings || connection.query(&settings.statements_from(&known)).await.is_ok() {
                    connection.settings = Some(settings);
                }
            }
            // Given back at once: it is idle from now on.
            drop(service.warm(wanted).await);
        });
    }
}

struct Held<'a>(&'a std::sync::atomic::AtomicUsize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn wait(executor: &mut Executor, epoch: Epoch, started: Instant) -> Result<(), Failure> {
    let gateway = Arc::clone(&executor.gateway);
    let limits = &gateway.config.limits;
    let waiting = gateway.held.fetch_add(1, Ordering::Relaxed);
    let _held = Held(&gateway.held);
    if waiting >= limits.held_statements_max {
        return Err(PgError::new(
            SqlState::TOO_MANY_CONNECTIONS,
            format!("{waiting} statements wait for a move already (held_statements_max)"),
        )
        .hint("Try again in a moment; \"shardctl moves\" shows the move.")
        .into());
    }
    let left = limits.hold_timeout().saturating_sub(started.elapsed());
    // What was sent before belongs to the client while it waits.
    executor.client.flush().await?;
    let newer = tokio::select! {
        newer = gateway.view.newer_than(epoch, left) => newer,
        () = executor.cancel.requested() => return Err(cancelled().into()),
    };
    if newer {
        return Ok(());
    }
    Err(PgError::new(
        SqlState::LOCK_NOT_AVAILABLE,
        format!("the statement waited {} ms for rows that are moving (hold_timeout_ms)", limits.hold_timeout_ms),
    )
    .hint("Try again in a moment; \"shardctl moves\" shows the move.")
    .into())
}

fn placed(
    executor: &Executor,
    view: &View,
    targets: &Targets,
    access: Access,
    parameters: &[Parameter<'_>],
) -> Result<Placement, Failure> {
    if let Some(only) = executor.only_shard {
        return Ok(Placement { shards: smallvec::smallvec![only], any: false, keyed: true, ..Placement::default() });
    }
    let open = executor.transaction.participants.keys().next().copied();
    let prefer: Option<ShardId> = open.or_else(|| executor.pins.first().copied()).or(executor.last_shard);
    place(&view.topology, targets, access, parameters, prefer)
}

/// The targets of a plan that one request can carry out.
pub fn targets(plan: &Plan) -> Option<Cow<'_, Targets>> {
    match plan {
        Plan::Query(query) => Some(Cow::Borrowed(&query.targets)),
        Plan::CopyOut(copy) => Some(Cow::Borrowed(&copy.targets)),
        Plan::Cursor(cursor) => Some(Cow::Borrowed(&cursor.query.targets)),
        Plan::AtCursor(write) => Some(Cow::Borrowed(&write.query.targets)),
        Plan::Home(_) => Some(Cow::Owned(Targets::Home)),
        Plan::CopyIn(copy) => match &copy.destination {
            CopyDestination::Home => Some(Cow::Owned(Targets::Home)),
            CopyDestination::EveryMember => Some(Cow::Owned(Targets::EveryMember)),
            // Rows find their shards one by one.
            CopyDestination::Sharded { keyspace, .. } => Some(Cow::Owned(Targets::Keyspace(*keyspace))),
        },
        Plan::Ddl(ddl) if ddl.kind == DdlKind::Temporary => Some(Cow::Owned(Targets::Home)),
        Plan::Ddl(_) => Some(Cow::Owned(Targets::EveryMember)),
        Plan::Explain(explain) if !explain.options.route => targets(&explain.inner),
        // The statement that it becomes has them.
        Plan::ComputedKeys(_) => None,
        // Which rows there will be is not known yet.
        Plan::InsertSelect(insert) => Some(Cow::Owned(Targets::Keyspace(insert.keyspace))),
        Plan::Explain(_) | Plan::Session(_) | Plan::Admin(_) => None,
    }
}

pub fn access(plan: &Plan) -> Access {
    match plan {
        Plan::Query(query) => query.access,
        Plan::AtCursor(write) => write.query.access,
        Plan::Ddl(_) | Plan::CopyIn(_) | Plan::Home(_) | Plan::InsertSelect(_) => Access::Write,
        Plan::CopyOut(_) | Plan::Cursor(_) | Plan::Session(_) | Plan::Admin(_) | Plan::ComputedKeys(_) => Access::Read,
        Plan::Explain(explain) if explain.options.analyze && !explain.options.route => access(&explain.inner),
        Plan::Explain(_) => Access::Read,
    }
}
