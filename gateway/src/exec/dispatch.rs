//! Runs one statement that is about rows, however many shards it concerns, and gives its command tag.
//!
//! A statement that meets a fence (RW002, RW004) before it has shown anything, and that is all of its transaction, waits for
//! a newer epoch and runs again on the new owner.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;

use super::answers::ask;
use super::bound::{queue_execute, Bound};
use super::commit;
use super::cursors::merged::with_formats;
use super::cursors::{self, CursorCommand, Place};
use super::executor::Executor;
use super::failure::Failure;
use super::faults::FaultPoint;
use super::forward::{forward, Request};
use super::hold::{admit, Admitted};
use super::place::Placement;
use super::pump::{Outcome, Show};
use super::statistics::Statistics;
use super::transaction::Block;
use super::type_oids::{self, bound_for};
use super::{admin, computed, copy_in, copy_out, ddl, explain, fanout, filter, gather, insert, insert_select};
use crate::plan::current_of::over_shards;
use crate::plan::types::{Access, AtCursor, Cursor, Gather, Home, InsertSelect, MultiShard, Plan, Query};
use crate::wire::{Format, PgError, SqlState};
use ringway_topology::ids::ShardId;
use ringway_topology::service::sqlstate;

/// How a statement is run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    pub bound: &'a Bound,
    /// The client gets a RowDescription before the rows (simple protocol).
    pub describe: bool,
    /// 0: all.
    pub rows_max: u32,
    /// Where rows that are left over (`rows_max`) wait on the shard.
    pub portal: &'a str,
}

/// How it ended.
#[derive(Debug, Default)]
pub struct Completed {
    /// None: an empty query, or suspended.
    pub tag: Option<String>,
    pub suspended: bool,
    /// The one shard that it ran on.
    pub shard: Option<ShardId>,
    /// The transaction has the portal, whose rows are merged from several shards.
    pub merged: bool,
    /// With a row limit over several shards: the rows that follow, as DataRow messages.
    pub buffered: Option<BytesMut>,
}

/// Runs a statement inside the present transaction. The session has opened an implicit one if the statement needs it (see
/// [`needs_transaction`]).
pub async fn run(executor: &mut Executor, run: Run<'_>) -> Result<Completed, Failure> {
    let started = Instant::now();
    executor.statement_began = SystemTime::now();
    executor.client.mark();
    executor.notifies = false;
    loop {
        let bound = run.bound;
        let values = bound.values()?;
        let admitted = admit(executor, &bound.statement.sql, &values).await;
        let admitted = admitted.map_err(|failure| of_bind(bound, failure))?;
        if !executor.transaction.is_open() && needs_transaction(executor, &admitted) {
            executor.begin_implicit();
        }
        let result = attempt(executor, &run, &admitted).await;
        let fenced = match &result {
            Err(Failure::Server(error)) => matches!(error.code(), sqlstate::CLOSED_ARCS | sqlstate::FENCED),
            _ => false,
        };
        if let Err(Failure::Server(error)) = &result {
            executor.gateway.forget_outdated(&bound.statement, error);
        }
        if !fenced || !may_run_again(executor) {
            executor.transaction.statements += 1;
            if result.is_err() && executor.transaction.is_open() {
                executor.transaction.failed = true;
            }
            return result;
        }
        again(executor, &admitted, started).await?;
    }
}

/// A parameter that a Bind does not give is the Bind's fault; without a Bind, the statement's.
pub fn of_bind(bound: &Bound, failure: Failure) -> Failure {
    match (failure, &bound.bind) {
        (Failure::Error(error), Some(_)) if error.code == SqlState::UNDEFINED_PARAMETER => {
            let message = "bind message supplies fewer parameters than the prepared statement requires";
            PgError::new(SqlState::PROTOCOL_VIOLATION, message).detail(error.message).into()
        }
        (failure, _) => failure,
    }
}

/// Whether nothing but this statement has happened in its transaction.
fn may_run_again(executor: &Executor) -> bool {
    executor.transaction.statements == 0 && executor.client.can_rewind()
}

/// Waits until the statement may succeed.
pub async fn again(executor: &mut Executor, admitted: &Admitted, started: Instant) -> Result<(), Failure> {
    executor.gateway.faults.hit(FaultPoint::FenceMet);
    executor.client.rewind();
    commit::roll_back_shards(executor).await;
    executor.transaction.failed = false;
    executor.transaction.view = None;
    executor.slot.leave_transaction();
    let gateway = Arc::clone(&executor.gateway);
    let left = gateway.config.limits.fence_timeout().saturating_sub(started.elapsed());
    if left.is_zero() {
        return Err(PgError::new(
            crate::wire::SqlState::SERIALIZATION_FAILURE,
            format!(
                "could not serialize access: the statement met a fence for {} ms (fence_timeout_ms)",
                gateway.config.limits.fence_timeout_ms
            ),
        )
        .hint("Run the transaction again; \"shardctl moves\" shows what is running.")
        .into());
    }
    // A fence of reference tables or DDL can also be lifted without an epoch.
    gateway.view.newer_than(admitted.view.epoch(), left.min(Duration::from_millis(100))).await;
    Ok(())
}

/// Whether the statement must run in a transaction even when it is alone.
pub fn needs_transaction(executor: &Executor, admitted: &Admitted) -> bool {
    (executor.is_guarded() && admitted.planned.plan.as_ref().is_ok_and(runs_in_transactions))
        || wants_transaction(admitted)
}

/// The same while the lease lasts.
pub fn wants_transaction(admitted: &Admitted) -> bool {
    let Ok(plan) = &admitted.planned.plan else { return false };
    if !runs_in_transactions(plan) {
        return false;
    }
    let writes = admitted.access != Access::Read;
    writes && (admitted.placement.shards.len() > 1 || admitted.placement.is_mirrored(&admitted.view.topology))
        || matches!(plan, Plan::Ddl(_))
        || admitted.placement.shards.len() > 1 && gather::is_gathered(plan)
        || admitted.access == Access::LockingRead && filter::share_arcs(admitted).is_some()
}

/// VACUUM and the like cannot.
fn runs_in_transactions(plan: &Plan) -> bool {
    match plan {
        Plan::Ddl(ddl) => ddl.kind != crate::plan::types::DdlKind::ShardByShard,
        Plan::Home(_) | Plan::Cursor(_) | Plan::Session(_) | Plan::Admin(_) => false,
        _ => true,
    }
}

pub async fn attempt(executor: &mut Executor, run: &Run<'_>, admitted: &Admitted) -> Result<Completed, Failure> {
    let plan = admitted.planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
    match plan {
        Plan::Query(query) => self::query(executor, run, admitted, query).await,
        Plan::ComputedKeys(keys) => computed::run(executor, run, admitted, keys).await,
        Plan::InsertSelect(insert) => insert_select(executor, run, admitted, insert).await,
        Plan::Home(home) => self::home(executor, run, admitted, home).await,
        Plan::Cursor(cursor) => declare(executor, run, admitted, cursor).await,
        Plan::AtCursor(write) => write_at_cursor(executor, run, admitted, write).await,
        Plan::Ddl(ddl) => ddl::run(executor, run, admitted, ddl).await,
        Plan::CopyIn(copy) => copy_in::run(executor, run, admitted, copy).await,
        Plan::CopyOut(copy) => copy_out::run(executor, run, admitted, copy).await,
        Plan::Explain(plan) => Box::pin(explain::run(executor, run, admitted, plan)).await,
        Plan::Admin(command) => admin::run(executor, run, command).await,
        Plan::Session(_) => Err(PgError::internal("a command of the session reached execution").into()),
    }
}

pub async fn query(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
) -> Result<Completed, Failure> {
    if query.oid_columns {
        type_oids::refuse_written_numbers(executor, run.bound).await?;
    }
    if let Some(shard) = admitted.placement.single() {
        Statistics::count(&executor.gateway.statistics.single_shard);
        let text = filter::text(query, admitted, shard, &query.sql)?;
        return single(executor, run, admitted, shard, text.as_deref()).await;
    }
    Statistics::count(&executor.gateway.statistics.fan_out);
    if run.rows_max == 0 {
        return several(executor, run, admitted, query).await;
    }
    if cursors::declare::only_reads(query) {
        cursors::declare::open_portal(executor, run.bound, run.portal, admitted).await?;
        let completed = cursors::declare::execute_portal(executor, run.portal, run.rows_max).await?;
        return Ok(Completed { merged: true, ..completed });
    }
    // The shards are done at once; the client takes its rows piece by piece.
    whole(executor, run, async |executor, run| several(executor, run, admitted, query).await).await
}

/// As [`query`] over several shards.
async fn insert_select(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    plan: &InsertSelect,
) -> Result<Completed, Failure> {
    Statistics::count(&executor.gateway.statistics.fan_out);
    if run.rows_max == 0 {
        return insert_select::run(executor, run, admitted, plan).await;
    }
    whole(executor, run, async |executor, run| insert_select::run(executor, run, admitted, plan).await).await
}

async fn several(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
) -> Result<Completed, Failure> {
    let bound = fanout::as_planned(executor, run.bound, &query.sql);
    let run = &Run { bound: &bound, ..run.clone() };
    match &query.multi {
        MultiShard::Concatenate(plan) => fanout::concatenate(executor, run, admitted, query, plan).await,
        MultiShard::MergeSort(plan) => fanout::merge_sort(executor, run, admitted, query, plan).await,
        MultiShard::Aggregate(plan) => super::aggregate::run(executor, run, admitted, query, plan).await,
        MultiShard::Write => fanout::write(executor, run, admitted, query).await,
        MultiShard::WriteEverywhere => fanout::write_everywhere(executor, run, admitted, query).await,
        MultiShard::InsertSplit(plan) => insert::run(executor, run, admitted, query, plan).await,
        MultiShard::InsertSelect(plan) => insert_select::run(executor, run, admitted, plan).await,
        MultiShard::Gather(plan) => gather::run(executor, run, admitted, query, plan).await,
        MultiShard::Refused(error) => Err(Failure::Error(error.clone())),
    }
}

async fn home(executor: &mut Executor, run: &Run<'_>, admitted: &Admitted, home: &Home) -> Result<Completed, Failure> {
    let Some(shard) = admitted.placement.single() else {
        return Err(PgError::internal("a statement for the home shard was placed on several").into());
    };
    match cursors::command(&home.sql) {
        Some(CursorCommand::Declare { name, hold, binary }) => {
            return declare_on(executor, run, admitted, shard, None, (name, hold, binary)).await
        }
        Some(CursorCommand::Read { name, direction: Some(direction), show })
            if executor.merged_cursor(&name).is_some() =>
        {
            if run.rows_max == 0 {
                return cursors::declare::read(executor, run, &name, direction, show).await;
            }
            let read = async |executor: &mut Executor, run: &Run<'_>| {
                cursors::declare::read(executor, run, &name, direction, show).await
            };
            return whole(executor, run, read).await;
        }
        Some(CursorCommand::Read { name, .. }) => return at_cursor(executor, run, admitted, &name, shard).await,
        Some(CursorCommand::Close { name }) if executor.merged_cursor(&name).is_some() => {
            if let Some(Place::Merged(merged)) = executor.forget_cursor(&name).map(|cursor| cursor.place) {
                cursors::declare::close(executor, *merged).await?;
            }
            return Ok(Completed { tag: Some("CLOSE CURSOR".to_owned()), ..Completed::default() });
        }
        Some(CursorCommand::Close { name }) => {
            let completed = at_cursor(executor, run, admitted, &name, shard).await?;
            executor.forget_cursor(&name);
            return Ok(completed);
        }
        Some(CursorCommand::CloseAll) => close_cursors(executor, admitted, shard).await?,
        None if home.pins => {
            executor.slot.keeps_snapshot();
            executor.pin(shard);
        }
        None => {}
    }
    single(executor, run, admitted, shard, None).await
}

/// What is done whole, for a client that takes its rows piece by piece.
pub async fn whole(
    executor: &mut Executor,
    run: &Run<'_>,
    work: impl AsyncFnOnce(&mut Executor, &Run<'_>) -> Result<Completed, Failure>,
) -> Result<Completed, Failure> {
    executor.client.capture(executor.gateway.config.limits.gather_bytes_max);
    let run = Run { rows_max: 0, ..run.clone() };
    let completed = work(executor, &run).await;
    let captured = executor.client.take_captured();
    Ok(Completed { buffered: Some(captured), ..completed? })
}

/// DECLARE: where one shard answers the query, there; else at the gateway.
async fn declare(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    cursor: &Cursor,
) -> Result<Completed, Failure> {
    let options = (cursor.options.name.clone(), cursor.options.hold, cursor.options.binary);
    let Some(shard) = admitted.placement.single() else {
        return match &cursor.query.multi {
            MultiShard::Gather(plan) => declare_gathered(executor, run, admitted, cursor, plan, options).await,
            _ => cursors::declare::declare(executor, run, admitted, cursor).await,
        };
    };
    let start = cursor.options.query_start;
    let filtered = filter::text(&cursor.query, admitted, shard, &cursor.query.sql)?;
    let text = filtered.map(|query| format!("{}{query}", &cursor.sql[..start]));
    declare_on(executor, run, admitted, shard, text, options).await
}

/// The rows come to the workbench at once, and a cursor there reads them.
async fn declare_gathered(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    cursor: &Cursor,
    plan: &Gather,
    options: (String, bool, bool),
) -> Result<Completed, Failure> {
    cursors::declare::check_block(executor, run, options.1)?;
    cursors::declare::check_name(executor, &options.0)?;
    let statement = executor.statement(Arc::clone(&cursor.query.sql), run.bound.statement.types.clone());
    let bound = Bound { statement: Arc::new(statement), bind: run.bound.bind.clone() };
    let gathered = gather::gather(executor, &bound, admitted, &cursor.query, plan).await?;
    let text = format!("{}{}", &cursor.sql[..cursor.options.query_start], gathered.bound.statement.sql);
    let reading = gather::on(admitted, gathered.workbench);
    let run = Run { bound: &gathered.bound, describe: false, ..run.clone() };
    declare_on(executor, &run, &reading, gathered.workbench, Some(text), options).await
}

/// The cursor reads what it began with until its transaction ends, or longer.
async fn declare_on(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    shard: ShardId,
    text: Option<String>,
    (name, hold, binary): (String, bool, bool),
) -> Result<Completed, Failure> {
    // The shard knows its own.
    if executor.cursor_shard(&name) != Some(shard) {
        cursors::declare::check_name(executor, &name)?;
    }
    executor.slot.keeps_snapshot();
    if hold {
        executor.pin(shard);
    }
    let completed = single(executor, run, admitted, shard, text.as_deref()).await?;
    executor.keep_cursor(name, hold, binary, Place::Shard(shard));
    Ok(completed)
}

/// FETCH, MOVE, CLOSE: where the cursor is.
async fn at_cursor(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    name: &str,
    home: ShardId,
) -> Result<Completed, Failure> {
    let sql = &run.bound.statement.sql;
    if run.bound.bind.is_none() && executor.is_binary_cursor(name) && run.describe {
        let bound = with_formats(run.bound, &[Format::Binary])?;
        let shard = executor.cursor_shard(name).unwrap_or(home);
        let admitted = Admitted { access: Access::Read, ..admitted.clone() };
        let result = single(executor, &Run { bound: &bound, ..run.clone() }, &admitted, shard, Some(sql)).await;
        if result.is_err() {
            executor.client.rewind();
        }
        return result;
    }
    let result = match executor.cursor_shard(name) {
        Some(shard) if shard != home => {
            // Only queries that read are held to keys.
            let admitted = Admitted { access: Access::Read, ..admitted.clone() };
            single(executor, run, &admitted, shard, None).await
        }
        _ => single(executor, run, admitted, home, None).await,
    };
    if result.is_err() {
        // PostgreSQL collects a FETCH's rows before it shows any.
        executor.client.rewind();
    }
    result
}

/// Where the cursor is. A shard says what is wrong with one that there is not.
async fn write_at_cursor(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    write: &AtCursor,
) -> Result<Completed, Failure> {
    if executor.merged_cursor(&write.cursor).is_some() {
        return Err(over_shards().into());
    }
    let cursor = executor.only_shard.or_else(|| executor.cursor_shard(&write.cursor));
    let Some(shard) = cursor.or_else(|| admitted.placement.shards.first().copied()) else {
        return Err(PgError::internal("a write at a cursor was placed on no shard").into());
    };
    Statistics::count(&executor.gateway.statistics.single_shard);
    let placement = Placement { shards: smallvec::smallvec![shard], ..admitted.placement.clone() };
    let written = single(executor, run, &Admitted { placement, ..admitted.clone() }, shard, None).await;
    if written.is_err() {
        // PostgreSQL writes all rows before it shows any.
        executor.client.rewind();
    }
    written
}

/// CLOSE ALL on the other shards that have some.
async fn close_cursors(executor: &mut Executor, admitted: &Admitted, home: ShardId) -> Result<(), Failure> {
    let (shards, merged) = executor.forget_cursors();
    for cursor in merged {
        cursors::declare::close(executor, cursor).await?;
    }
    for shard in shards {
        if shard == home {
            continue;
        }
        let mut lent = executor.lend_open(&admitted.view, shard, Access::Read).await?;
        let answers = ask(&mut lent.participant.connection, "CLOSE ALL").await;
        executor.give_back(lent, &Outcome::default()).await;
        answers?.check()?;
    }
    Ok(())
}

/// One shard; `text` replaces the statement's own.
pub async fn single(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    shard: ShardId,
    text: Option<&str>,
) -> Result<Completed, Failure> {
    let moving = admitted.access != Access::Read && admitted.placement.is_mirrored(&admitted.view.topology);
    if admitted.access == Access::LockingRead && executor.transaction.is_open() {
        filter::lock_arcs(executor, admitted, shard).await?;
    }
    let bound = &*bound_for(executor, &admitted.view, shard, run.bound).await?;
    let mut failed = None;
    let show = Show { row_description: run.describe, errors: false, fence: true, ..Show::ROWS };
    let outcome: Outcome = {
        let mut write = |connection: &mut crate::pool::connection::ServerConnection,
                         expects: &mut std::collections::VecDeque<super::pump::Expect>| {
            let queued = queue_execute(connection, expects, bound, text, run.describe, run.portal, run.rows_max);
            if let Err(error) = queued {
                failed = Some(error);
            }
            connection.queue_sync();
        };
        let request = Request {
            shard,
            access: admitted.access,
            show,
            repeatable: admitted.access == Access::Read && !executor.is_guarded(),
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        if moving {
            executor.gateway.faults.hit(FaultPoint::MovingStatementForwarded);
        }
        forward(executor, &admitted.view, request).await?
    };
    if let Some(error) = failed {
        return Err(error.into());
    }
    if moving {
        executor.gateway.faults.hit(FaultPoint::MovingStatementAnswered);
    }
    if outcome.lease_lost {
        return super::guarded::again(executor, run).await;
    }
    if admitted.placement.any {
        executor.last_shard = Some(shard);
    }
    if outcome.suspended {
        executor.slot.keeps_snapshot();
    }
    match outcome.error {
        Some(error) => Err(Failure::Server(error)),
        None => {
            let Outcome { tag, suspended, .. } = outcome;
            Ok(Completed { tag, suspended, shard: Some(shard), ..Completed::default() })
        }
    }
}

/// The session's transaction mode says that only its end is accepted.
pub fn check_not_failed(executor: &Executor) -> Result<(), Failure> {
    if executor.transaction.failed && executor.transaction.block != Block::None {
        return Err(PgError::new(
            crate::wire::SqlState::IN_FAILED_SQL_TRANSACTION,
            "current transaction is aborted, commands ignored until end of transaction block",
        )
        .into());
    }
    Ok(())
}
