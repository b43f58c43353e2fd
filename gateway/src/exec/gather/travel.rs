//! How rows come to the workbench: its own are inserted, those of other shards pass through as they are.

use std::sync::Arc;
use std::time::Instant;

use bytes::BufMut;
use ringway_topology::ids::ShardId;

use crate::exec::answers::collect;
use crate::exec::bound::Bound;
use crate::exec::executor::{Executor, Lent};
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::fleet::{Fleet, ShardRequest};
use crate::exec::hold::Admitted;
use crate::exec::place::place;
use crate::exec::pump::Outcome;
use crate::exec::type_oids::bound_for;
use crate::plan::types::{Access, Plan};
use crate::pool::connection::Message;
use crate::wire::{frontend, PgError, SqlState};

/// Begins binary COPY: signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: &[u8] = &[0xff, 0xff];
/// Rows are sent on when so many bytes of them are here.
const SENT_BYTES: usize = 64 << 10;

/// Brings a fragment's rows to the workbench, and counts them. `bytes`: that have travelled for the statement.
pub async fn fill(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    table: &str,
    bound: &Bound,
    bytes: &mut usize,
) -> Result<u64, Failure> {
    let view = &admitted.view;
    let planned = executor.plan(&bound.statement.sql, view)?;
    let query = match &planned.plan {
        Ok(Plan::Query(query)) => query,
        Ok(_) => return Err(PgError::internal("a fragment is no query").into()),
        Err(error) => return Err(Failure::Error(error.clone())),
    };
    let placement = place(&view.topology, &query.targets, Access::Read, &bound.values()?, None)?;
    let reading = Admitted { view: Arc::clone(view), planned: Arc::clone(&planned), placement, access: Access::Read };
    let mut requests = Vec::new();
    let mut own = None;
    for shard in &reading.placement.shards {
        let text = filter::text(query, &reading, *shard, &query.sql)?;
        if *shard == workbench {
            own = Some(text.unwrap_or_else(|| query.sql.to_string()));
        } else {
            let (bound, before) = (bound.clone(), Vec::new());
            requests.push(ShardRequest { shard: *shard, bound, text, describe: false, before });
        }
    }
    let fleet = Fleet::launch(executor, view, Access::Read, requests).await?;
    let mut rows = 0;
    if let Some(text) = own {
        let began = Instant::now();
        match insert(executor, &reading, workbench, table, bound, &text).await {
            Ok(inserted) => {
                rows = inserted;
                if let Some(trace) = &mut executor.trace {
                    trace.add(workbench, rows, began.elapsed());
                }
            }
            Err(failure) => {
                fleet.finish(executor).await?;
                return Err(failure);
            }
        }
    }
    Ok(rows + travel(executor, &reading, workbench, table, fleet, bytes).await?)
}

/// The workbench's own rows; how many.
async fn insert(
    executor: &mut Executor,
    reading: &Admitted,
    workbench: ShardId,
    table: &str,
    bound: &Bound,
    text: &str,
) -> Result<u64, Failure> {
    let view = &reading.view;
    let bound = bound_for(executor, view, workbench, bound).await?.into_owned();
    let mut lent = executor.lend_open(view, workbench, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    connection.queue_parse("", &format!("INSERT INTO {table} {text}"), &bound.statement.types);
    let renamed = match &bound.bind {
        Some(bind) => frontend::rename(connection.output(), bind, Some(""), Some("")),
        None => Ok(()),
    };
    frontend::execute(connection.output(), "", 0);
    connection.unnamed = None;
    connection.queue_sync();
    let answers = collect(&mut lent.participant.connection).await;
    executor.give_back(lent, &Outcome::default()).await;
    renamed.map_err(PgError::from)?;
    let tag = answers?.check()?.tags.pop().unwrap_or_default();
    Ok(tag.rsplit(' ').next().and_then(|rows| rows.parse().ok()).unwrap_or(0))
}

/// Passes on what the other shards send; how many rows.
async fn travel(
    executor: &mut Executor,
    reading: &Admitted,
    workbench: ShardId,
    table: &str,
    mut fleet: Fleet,
    bytes: &mut usize,
) -> Result<u64, Failure> {
    let bytes_max = executor.gateway.config.limits.workbench_bytes_max;
    let mut sink: Option<Lent> = None;
    let mut failure = None;
    let mut rows = 0;
    while let Some((_, message)) = fleet.next(executor).await? {
        if message.tag != b'D' || failure.is_some() || fleet.error.is_some() {
            continue;
        }
        if sink.is_none() {
            match begin_copy(executor, reading, workbench, table).await {
                Ok(lent) => sink = Some(lent),
                Err(error) => failure = Some(error),
            }
        }
        let Some(lent) = &mut sink else { continue };
        *bytes = bytes.saturating_add(message.body().len());
        if *bytes > bytes_max {
            failure = Some(too_large(bytes_max).into());
            continue;
        }
        rows += 1;
        if let Err(error) = pass_on(lent, &message).await {
            failure = Some(error);
        }
    }
    let Some(mut lent) = sink else {
        fleet.finish(executor).await?;
        return failure.map_or(Ok(0), Err);
    };
    let output = lent.participant.connection.output();
    if failure.is_some() || fleet.error.is_some() {
        frontend::copy_fail(output, "given up");
    } else {
        frontend::copy_data(output, COPY_TRAILER);
        frontend::copy_done(output);
    }
    let answers = collect(&mut lent.participant.connection).await;
    executor.give_back(lent, &Outcome::default()).await;
    fleet.finish(executor).await?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    answers?.check()?;
    Ok(rows)
}

async fn begin_copy(
    executor: &mut Executor,
    reading: &Admitted,
    workbench: ShardId,
    table: &str,
) -> Result<Lent, Failure> {
    let mut lent = executor.lend_open(&reading.view, workbench, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    connection.queue_query(&format!("COPY {table} FROM STDIN (FORMAT binary)"));
    connection.flush().await?;
    loop {
        let message = connection.message().await?;
        match message.tag {
            b'G' => break,
            b'E' => {
                let error = crate::pool::error::ServerError::new(message.raw.slice(5..));
                connection.settle().await?;
                executor.give_back(lent, &Outcome::default()).await;
                return Err(Failure::Server(error));
            }
            _ => {}
        }
    }
    frontend::copy_data(connection.output(), COPY_HEADER);
    Ok(lent)
}

/// A row of the protocol is a row of binary COPY: the number of fields, and each with its length.
async fn pass_on(lent: &mut Lent, message: &Message) -> Result<(), Failure> {
    let output = lent.participant.connection.output();
    output.put_u8(b'd');
    output.put_slice(message.raw.get(1..).unwrap_or_default());
    if output.len() >= SENT_BYTES {
        lent.participant.connection.flush().await?;
    }
    Ok(())
}

fn too_large(bytes_max: usize) -> PgError {
    PgError::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("the rows that this statement gathers are larger than workbench_bytes_max ({bytes_max} bytes)"),
    )
    .detail("Rows of sharded tables come into temporary tables on one shard, which runs the statement.")
    .hint("Let the statement read fewer rows of each table, join on shard keys, or raise workbench_bytes_max.")
}
