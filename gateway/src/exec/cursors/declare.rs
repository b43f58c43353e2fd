//! DECLARE, FETCH, MOVE and CLOSE of cursors over several shards, and portals that are executed with a row limit.

use std::sync::Arc;

use super::super::bound::Bound;
use super::super::describe::describe;
use super::super::dispatch::{Completed, Run};
use super::super::executor::Executor;
use super::super::failure::Failure;
use super::super::fanout::{at, iso_by_default, rebound, window};
use super::super::filter;
use super::super::fleet::Fleet;
use super::super::hold::Admitted;
use super::super::result_type::changed;
use super::super::statistics::Statistics;
use super::super::transaction::Block;
use super::super::type_oids;
use super::merged::{each_format, query_of, with_formats, Merged, Opened, Scroll};
use super::position::{steps, Direction, Step};
use super::{rows, Place};
use crate::merge::limit::Window;
use crate::merge::order_by::visible_fields;
use crate::plan::types::{Access, Cursor, MultiShard, Query};
use crate::pool::connection::ServerConnection;
use crate::pool::error::ServerError;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::{frontend, Format, PgError, SqlState, Target};

/// The name is free, on whatever shard or at the gateway.
pub fn check_name(executor: &Executor, name: &str) -> Result<(), Failure> {
    if !executor.has_cursor(name) && !executor.transaction.portals.contains_key(name) {
        return Ok(());
    }
    Err(PgError::new(SqlState::DUPLICATE_CURSOR, format!("cursor \"{name}\" already exists")).into())
}

/// A cursor over several shards: one on each, now.
pub async fn declare(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    cursor: &Cursor,
) -> Result<Completed, Failure> {
    let options = &cursor.options;
    check_block(executor, run, options.hold)?;
    check_name(executor, &options.name)?;
    if !executor.transaction.is_open() {
        executor.begin_implicit();
    }
    let scroll = match options.scroll {
        Some(true) => Scroll::Always,
        Some(false) => Scroll::Never,
        None if cursor.scrolls_by_default => Scroll::Unasked,
        None => Scroll::Never,
    };
    let sql: Arc<str> = Arc::clone(&cursor.query.sql);
    let types = run.bound.statement.types.clone();
    let bound = Bound { statement: Arc::new(executor.statement(sql, types)), bind: run.bound.bind.clone() };
    let bound = if bound.bind.is_some() { with_formats(&bound, &[])? } else { bound };
    let merged = open(executor, admitted, bound, scroll, options.binary).await?;
    executor.keep_cursor(options.name.clone(), options.hold, options.binary, Place::Merged(Box::new(merged)));
    Ok(Completed { tag: Some("DECLARE CURSOR".to_owned()), ..Completed::default() })
}

async fn open(
    executor: &mut Executor,
    admitted: &Admitted,
    bound: Bound,
    scroll: Scroll,
    binary: bool,
) -> Result<Merged, Failure> {
    Statistics::count(&executor.gateway.statistics.fan_out);
    executor.slot.keeps_snapshot();
    let planned = Arc::clone(&admitted.planned);
    let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
    let query = query_of(plan)?;
    let (sql, limits) = match &query.multi {
        MultiShard::Concatenate(plan) => (plan.sql.as_ref(), window(&bound, &plan.limit)?),
        MultiShard::MergeSort(plan) => (Some(&plan.sql), window(&bound, &plan.limit)?),
        MultiShard::Aggregate(plan) => (Some(&plan.partial_sql), Window::ALL),
        MultiShard::Refused(error) => return Err(Failure::Error(error.clone())),
        _ => return Err(PgError::internal("a cursor over what does not only read").into()),
    };
    // Columns of partials are not those of the answer.
    let described = match &query.multi {
        MultiShard::Aggregate(_) => describe(executor, &bound.statement).await?.fields,
        _ => None,
    };
    let rewritten = sql.is_some();
    let sql = sql.unwrap_or(&query.sql);
    let on_shards = rebound(executor, &bound, sql, Some(Vec::new())).await?;
    let readings = executor.readings();
    executor.cursors_made += 1;
    let cursor = format!("ringway_cursor_{}", executor.cursors_made);
    let (shard_fields, iso_by_default) = {
        let mut requests = Vec::new();
        for (shard, text) in texts(admitted, query, sql, rewritten, &readings)? {
            type_oids::learn_own(executor, &admitted.view, shard).await?;
            let bound = type_oids::bound_for(executor, &admitted.view, shard, &on_shards).await?.into_owned();
            requests.push((shard, text, bound));
        }
        let writes = requests.into_iter().map(|(shard, text, bound)| {
            let cursor = &cursor;
            let write = move |connection: &mut ServerConnection| {
                let text = format!("DECLARE {cursor} NO SCROLL CURSOR FOR {text}");
                connection.queue_parse("", &text, &bound.statement.types);
                let output = connection.output();
                let renamed = bound.bind.as_ref().map(|bind| frontend::rename(output, bind, Some(""), Some("")));
                if !matches!(renamed, Some(Ok(()))) {
                    frontend::bind(output, "", "", [], [] as [Option<&[u8]>; 0], []);
                }
                frontend::execute(output, "", 0);
                frontend::describe(output, Target::Portal, cursor);
                connection.unnamed = None;
            };
            (shard, write)
        });
        let writes = writes.collect();
        opened(executor, admitted, writes).await?
    };
    let fields = match (&query.multi, described) {
        (MultiShard::Aggregate(_), Some(fields)) => fields,
        (MultiShard::MergeSort(plan), _) => visible_fields(plan, &shard_fields).to_vec(),
        _ => shard_fields.clone(),
    };
    if !bound.statement.result.has_types(&fields) {
        return Err(changed().into());
    }
    let fields: Vec<_> = fields.into_iter().map(|field| FieldDescription { format: Format::Text, ..field }).collect();
    Ok(Merged::new(Opened {
        admitted: admitted.clone(),
        bound,
        cursor,
        scroll,
        binary,
        window: limits,
        readings,
        iso_by_default,
        fields,
        shard_fields,
        depth: executor.transaction.savepoints.len(),
        names: executor.names_now().clone(),
    }))
}

/// What each shard's cursor is for.
fn texts(
    admitted: &Admitted,
    query: &Query,
    sql: &Arc<str>,
    rewritten: bool,
    readings: &crate::plan::clock::Readings,
) -> Result<Vec<(ringway_topology::ids::ShardId, String)>, Failure> {
    let shards = admitted.placement.shards.iter();
    shards
        .map(|shard| {
            let text = if rewritten {
                filter::rewritten(query, admitted, *shard, sql)?
            } else {
                filter::text(query, admitted, *shard, sql)?
            };
            Ok((*shard, at(query, readings, text, sql).unwrap_or_else(|| sql.to_string())))
        })
        .collect()
}

/// The columns, and whether the shards write dates in ISO format.
async fn opened<W: FnOnce(&mut ServerConnection)>(
    executor: &mut Executor,
    admitted: &Admitted,
    writes: Vec<(ringway_topology::ids::ShardId, W)>,
) -> Result<(Vec<FieldDescription>, bool), Failure> {
    let mut fleet = Fleet::launch_with(executor, &admitted.view, Access::Read, writes).await?;
    fleet.expects_columns(None);
    let mut fields: Option<Vec<FieldDescription>> = None;
    while let Some((_, message)) = fleet.next(executor).await? {
        if message.tag == b'T' && fields.is_none() {
            fields = Some(backend::parse_row_description(message.body()).map_err(PgError::from)?);
        }
    }
    let iso = iso_by_default(&mut fleet);
    fleet.finish(executor).await?;
    let fields = fields.ok_or_else(|| PgError::internal("a shard gave no columns for a cursor"))?;
    Ok((fields, iso))
}

/// FETCH (`show`) and MOVE. The session has such a cursor.
pub async fn read(
    executor: &mut Executor,
    run: &Run<'_>,
    name: &str,
    direction: Direction,
    show: bool,
) -> Result<Completed, Failure> {
    let of_transaction = executor.transaction.cursors.contains_key(name);
    let Some(mut cursor) = executor.forget_cursor(name) else {
        return Err(PgError::internal("a cursor is gone").into());
    };
    let others = executor.cursor_bytes();
    let result = match &mut cursor.place {
        Place::Merged(merged) => read_merged(executor, run, name, merged, direction, show, others).await,
        Place::Shard(_) => Err(PgError::internal("a cursor lives on one shard").into()),
    };
    let cursors = if of_transaction { &mut executor.transaction.cursors } else { &mut executor.held_cursors };
    cursors.insert(name.to_owned(), cursor);
    if result.is_err() {
        // PostgreSQL collects a FETCH's rows before it shows any.
        executor.client.rewind();
    }
    let verb = if show { "FETCH" } else { "MOVE" };
    Ok(Completed { tag: Some(format!("{verb} {}", result?)), ..Completed::default() })
}

async fn read_merged(
    executor: &mut Executor,
    run: &Run<'_>,
    name: &str,
    merged: &mut Merged,
    direction: Direction,
    show: bool,
    others: usize,
) -> Result<u64, Failure> {
    let formats = match run.bound.parsed()? {
        Some(bind) if show => each_format(&bind.result_formats.iter().collect::<Vec<_>>(), merged.columns())?,
        _ => merged.own_formats(),
    };
    if run.describe && show {
        backend::row_description(executor.client.out(), &merged.described(&formats));
    }
    let steps = steps(direction, merged.position, show);
    merged.run(executor, name, steps, &formats, others).await
}

/// CLOSE of what the gateway has forgotten already.
pub async fn close(executor: &mut Executor, merged: Merged) -> Result<(), Failure> {
    if !executor.transaction.is_open() || executor.transaction.failed || merged.sources.is_empty() {
        return Ok(());
    }
    rows::close(executor, &merged.admitted.view, &merged.cursor, &merged.sources).await
}

/// A pipeline is no transaction block, several statements in one message are.
pub fn check_block(executor: &Executor, run: &Run<'_>, hold: bool) -> Result<(), Failure> {
    let block = executor.transaction.block;
    if hold || block == Block::Explicit || block == Block::Implicit && run.bound.bind.is_none() {
        return Ok(());
    }
    let message = "DECLARE CURSOR can only be used in transaction blocks";
    Err(PgError::new(SqlState::NO_ACTIVE_SQL_TRANSACTION, message).into())
}

/// Whether its rows over several shards can be merged piece by piece.
pub fn only_reads(query: &Query) -> bool {
    let merged =
        matches!(query.multi, MultiShard::Concatenate(_) | MultiShard::MergeSort(_) | MultiShard::Aggregate(_));
    merged && query.access == Access::Read
}

/// A portal over several shards is opened; it lives as long as the transaction.
pub async fn open_portal(
    executor: &mut Executor,
    bound: &Bound,
    portal: &str,
    admitted: &Admitted,
) -> Result<(), Failure> {
    if let Some(before) = executor.transaction.portals.remove(portal) {
        close(executor, before).await?;
    }
    if !executor.transaction.is_open() {
        executor.begin_implicit();
    }
    let opened = open(executor, admitted, bound.clone(), Scroll::Never, false).await;
    // DECLARE on the shards is what Bind is on one server.
    let merged = opened.map_err(|failure| match failure {
        Failure::Server(error) => Failure::Server(ServerError { at_bind: true, ..error }),
        failure => failure,
    })?;
    executor.transaction.portals.insert(portal.to_owned(), merged);
    Ok(())
}

/// The next rows of a portal, or of a cursor by its name; 0: all.
pub async fn execute_portal(executor: &mut Executor, portal: &str, rows_max: u32) -> Result<Completed, Failure> {
    let rows = (rows_max > 0).then_some(u64::from(rows_max));
    let steps = vec![Step::Run { forward: true, rows, show: true }];
    let others = executor.cursor_bytes();
    let (result, ended) = if let Some(mut merged) = executor.transaction.portals.remove(portal) {
        let formats = match merged.bound.parsed()? {
            Some(bind) => each_format(&bind.result_formats.iter().collect::<Vec<_>>(), merged.columns()),
            None => Ok(merged.own_formats()),
        };
        let result = match formats {
            Ok(formats) => merged.run(executor, portal, steps, &formats, others).await,
            Err(failure) => Err(failure),
        };
        let ended = merged.position.at_end;
        executor.transaction.portals.insert(portal.to_owned(), merged);
        (result, ended)
    } else {
        let of_transaction = executor.transaction.cursors.contains_key(portal);
        let Some(mut cursor) = executor.forget_cursor(portal) else {
            let message = format!("portal \"{portal}\" does not exist");
            return Err(PgError::new(SqlState::INVALID_CURSOR_NAME, message).into());
        };
        let mut ended = true;
        let result = match &mut cursor.place {
            Place::Merged(merged) => {
                let formats = vec![Format::Text; merged.columns()];
                let result = merged.run(executor, portal, steps, &formats, others).await;
                ended = merged.position.at_end;
                result
            }
            Place::Shard(_) => Err(PgError::internal("a cursor lives on one shard").into()),
        };
        let cursors = if of_transaction { &mut executor.transaction.cursors } else { &mut executor.held_cursors };
        cursors.insert(portal.to_owned(), cursor);
        (result, ended)
    };
    let rows = result?;
    let tag = ended.then(|| format!("SELECT {rows}"));
    Ok(Completed { tag, suspended: !ended, ..Completed::default() })
}
