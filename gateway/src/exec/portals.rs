//! Portals that are bound before they are executed: on the shard that answers them, in the session's transaction, or as cursors on
//! several.
//!
//! PostgreSQL takes a query's snapshot when it is bound; what writes, and what is no query, begins when it is executed.

use std::sync::Arc;
use std::time::SystemTime;

use ringway_topology::ids::ShardId;

use super::bound::{queue_bind, queue_learn, Bound, Statement};
use super::commit;
use super::cursors::declare::{only_reads, open_portal};
use super::dispatch::of_bind;
use super::executor::Executor;
use super::failure::Failure;
use super::filter;
use super::forward::{forward, Request};
use super::hold::{admit, Admitted};
use super::pump::{Expect, Outcome, Show};
use super::type_oids::bound_for;
use super::view::View;
use crate::plan::types::{Access, Plan, Query};
use crate::pool::connection::ServerConnection;
use crate::pool::error::ServerError;
use crate::wire::frontend;
use crate::wire::Target;

/// Where a portal has been bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Nothing happens to it before it is executed.
    Nowhere,
    Shard(ShardId),
    /// The transaction has it (`Transaction::portals`).
    Merged,
}

/// `there`: its name, if it comes to be on one shard. `alone`: it is executed next, so only what a shard can be asked for without the
/// need to ask again is worth it.
pub async fn bind(
    executor: &mut Executor,
    bound: &Bound,
    portal: &str,
    there: &str,
    alone: bool,
) -> Result<Where, Failure> {
    if bound.statement.sql.is_empty() {
        return Ok(Where::Nowhere);
    }
    let view = executor.enter()?;
    let planned = executor.plan(&bound.statement.sql, &view)?;
    executor.slot.reads();
    let Ok(Plan::Query(query)) = &planned.plan else { return Ok(Where::Nowhere) };
    if !is_select(query) || alone && query.access != Access::Read {
        return Ok(Where::Nowhere);
    }
    executor.statement_began = SystemTime::now();
    let admitted = admit(executor, &bound.statement.sql, &bound.values()?).await;
    let admitted = admitted.map_err(|failure| of_bind(bound, failure))?;
    let Ok(Plan::Query(query)) = &admitted.planned.plan else { return Ok(Where::Nowhere) };
    let place = match admitted.placement.single() {
        Some(shard) => {
            on_shard(executor, bound, &admitted, query, shard, there).await?;
            Where::Shard(shard)
        }
        None if only_reads(query) => {
            open_portal(executor, bound, portal, &admitted).await?;
            Where::Merged
        }
        None => return Ok(Where::Nowhere),
    };
    // The transaction cannot begin anew without it.
    executor.transaction.statements += 1;
    Ok(place)
}

/// Whether its snapshot is that of its Bind.
fn is_select(query: &Query) -> bool {
    let first = query.sql.trim_start().get(..6);
    query.returns_rows
        && (query.access != Access::Write || first.is_some_and(|word| word.eq_ignore_ascii_case("select")))
}

async fn on_shard(
    executor: &mut Executor,
    bound: &Bound,
    admitted: &Admitted,
    query: &Query,
    shard: ShardId,
    there: &str,
) -> Result<(), Failure> {
    executor.begin_implicit();
    if admitted.access == Access::LockingRead {
        filter::lock_arcs(executor, admitted, shard).await?;
    }
    let text = filter::text(query, admitted, shard, &query.sql)?;
    let bound = &*bound_for(executor, &admitted.view, shard, bound).await?;
    let mut failed = None;
    let mut write = |connection: &mut ServerConnection, expects: &mut std::collections::VecDeque<Expect>| {
        failed = queue_bind(connection, expects, bound, text.as_deref(), there).err();
        connection.queue_sync();
    };
    let outcome = requested(executor, &admitted.view, shard, admitted.access, Show::NOTICES, &mut write).await?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    executor.slot.keeps_snapshot();
    outcome.error.map_or(Ok(()), |error| Err(Failure::Server(error)))
}

/// What PostgreSQL finds wrong with the values of a statement that is not sent anywhere yet: they are bound on one shard.
pub async fn wrong_values(executor: &mut Executor, bound: &Bound) -> Result<Option<ServerError>, Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let open = executor.transaction.participants.keys().next().copied();
    let prefer = executor.only_shard.or(open).or(executor.last_shard);
    let Some(shard) = prefer.or(view.topology.home_shard()) else { return Ok(None) };
    // A SERIALIZABLE transaction is to be of one shard, which is not known yet.
    let has_part = !executor.transaction.participants.is_empty() || !executor.is_serializable();
    let bound = &*bound_for(executor, &view, shard, bound).await?;
    let mut failed = None;
    let mut write = |connection: &mut ServerConnection, expects: &mut std::collections::VecDeque<Expect>| {
        failed = queue_bind(connection, expects, bound, None, "").err();
        connection.queue_sync();
    };
    let outcome = requested(executor, &view, shard, Access::Read, Show::NOTICES, &mut write).await?;
    commit::leave_asked(executor, has_part).await;
    failed.map_or(Ok(outcome.error), |error| Err(error.into()))
}

/// The next rows of one that is on a shard; 0: all. `learns`: their values may be binary.
pub async fn execute(
    executor: &mut Executor,
    shard: ShardId,
    there: &str,
    rows_max: u32,
    learns: Option<&Arc<Statement>>,
) -> Result<(), Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let mut write = |connection: &mut ServerConnection, expects: &mut std::collections::VecDeque<Expect>| {
        if let Some(statement) = learns.filter(|_| connection.is_foreign()) {
            queue_learn(connection, expects, there, statement, 0);
        }
        frontend::execute(connection.output(), there, rows_max);
        expects.push_back(Expect::Execute);
        connection.queue_sync();
    };
    let show = Show { ready_for_query: false, errors: false, ..Show::ALL };
    let outcome = requested(executor, &view, shard, Access::Read, show, &mut write).await?;
    outcome.error.map_or(Ok(()), |error| Err(Failure::Server(error)))
}

/// A portal, or a cursor, of that name is no more on the shard.
pub async fn close(executor: &mut Executor, shard: ShardId, there: &str) -> Result<(), Failure> {
    let transaction = &executor.transaction;
    if transaction.is_open() && !transaction.participants.contains_key(&shard) {
        return Ok(());
    }
    let view = executor.enter()?;
    executor.slot.reads();
    let mut write = |connection: &mut ServerConnection, expects: &mut std::collections::VecDeque<Expect>| {
        frontend::close(connection.output(), Target::Portal, there);
        expects.push_back(Expect::Close { show: false, statement: None });
        connection.queue_sync();
    };
    let outcome = requested(executor, &view, shard, Access::Read, Show::NOTICES, &mut write).await?;
    outcome.error.map_or(Ok(()), |error| Err(Failure::Server(error)))
}

async fn requested(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    access: Access,
    show: Show,
    write: &mut (dyn FnMut(&mut ServerConnection, &mut std::collections::VecDeque<Expect>) + Send),
) -> Result<Outcome, Failure> {
    let request = Request { shard, access, show, repeatable: false, extended: true, changes_settings: false, write };
    forward(executor, view, request).await
}
