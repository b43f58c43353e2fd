//! The shards' own answers: each explains the text that it would get, or executes it and explains it.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;

use super::{captured, measured, milliseconds, Explained};
use crate::exec::bound::Bound;
use crate::exec::client::Capture;
use crate::exec::describe::describe;
use crate::exec::dispatch::{single, Run};
use crate::exec::executor::Executor;
use crate::exec::failure::Failure;
use crate::exec::fanout::{rebound, requests};
use crate::exec::fleet::{Fleet, ShardRequest};
use crate::exec::gather;
use crate::exec::hold::Admitted;
use crate::exec::insert;
use crate::plan::explain::report::{Node, Value};
use crate::plan::explain::Options;
use crate::plan::types::{Gather, MultiShard, Query};
use crate::pool::connection::{row_values, StatementId};
use crate::wire::{next_frame, PgError, SqlState};

/// What each shard says of its text.
pub async fn plans(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    options: &Options,
    query: &Query,
    mut node: Node,
) -> Result<Explained, Failure> {
    let requests = match &query.multi {
        MultiShard::Concatenate(plan) => match &plan.sql {
            Some(sql) => rewritten(executor, inner, admitted, query, sql).await?,
            None => requests(executor, admitted, query, inner, false, false)?,
        },
        MultiShard::MergeSort(plan) => rewritten(executor, inner, admitted, query, &plan.sql).await?,
        MultiShard::Aggregate(plan) => rewritten(executor, inner, admitted, query, &plan.partial_sql).await?,
        MultiShard::InsertSplit(plan) => insert::requests(executor, inner, admitted, query, plan, false)?.0,
        _ => requests(executor, admitted, query, inner, false, false)?,
    };
    let began = Instant::now();
    let answers = ask(executor, admitted, &options.prefix, requests).await?;
    let elapsed = began.elapsed();
    place(&mut node, admitted, answers);
    Ok(Explained { node, elapsed: options.analyze.then_some(elapsed) })
}

async fn rewritten(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    query: &Query,
    sql: &Arc<str>,
) -> Result<Vec<ShardRequest>, Failure> {
    let bound = rebound(executor, inner, sql, None).await?;
    requests(executor, admitted, query, &bound, true, false)
}

/// What each shard says of a gathered statement's fragments. The statement itself runs over tables that are not there yet.
pub async fn fragments(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    options: &Options,
    plan: &Gather,
    mut node: Node,
) -> Result<Explained, Failure> {
    // What is wrong with the statement is said first.
    let types = describe(executor, &inner.statement).await?.parameters;
    for (fragment, node) in plan.fragments.iter().zip(&mut node.nodes) {
        let statement = executor.statement_with(Arc::clone(&fragment.sql), types.clone(), StatementId(0));
        let bound = Bound { statement: Arc::new(statement), bind: inner.bind.clone() };
        let texts = super::texts(executor, inner, admitted, &fragment.sql)?;
        let request = |(shard, text)| ShardRequest {
            shard,
            bound: bound.clone(),
            text: Some(text),
            describe: false,
            before: Vec::new(),
        };
        let requests = texts.into_iter().map(request).collect();
        let answers = ask(executor, admitted, &options.estimate, requests).await?;
        place(node, admitted, answers);
    }
    Ok(Explained { node, elapsed: None })
}

/// Gathers the rows, and executes and explains the statement where they are.
pub async fn gathered(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    options: &Options,
    query: &Query,
    plan: &Gather,
    mut node: Node,
) -> Result<Explained, Failure> {
    executor.trace = Some(Box::default());
    let began = Instant::now();
    let gathered = gather::gather(executor, inner, admitted, query, plan).await;
    let trace = executor.trace.take().unwrap_or_default();
    let gathered = gathered?;
    let name = |shard| shard_name(admitted, shard);
    for (index, node) in node.nodes.iter_mut().enumerate() {
        measured(node, &trace, Some(index), options, &name);
    }
    if options.timing {
        node.item("Gather Time", milliseconds(began.elapsed()));
    }
    let reading = gather::on(admitted, gathered.workbench);
    let text = format!("{}{}", options.prefix, gathered.bound.statement.sql);
    let capture =
        Capture { bytes: BytesMut::new(), bytes_max: executor.gateway.config.limits.gather_bytes_max, too_large };
    let (_, rows) = captured(executor, capture, async |executor| {
        let run = Run { bound: &gathered.bound, describe: false, rows_max: 0, portal: "" };
        single(executor, &run, &reading, gathered.workbench, Some(&text)).await
    })
    .await?;
    let elapsed = began.elapsed();
    gather::drop_tables(executor, admitted, gathered.workbench, &gathered.tables).await?;
    place(&mut node, admitted, vec![(gathered.workbench, lines(rows))]);
    Ok(Explained { node, elapsed: Some(elapsed) })
}

/// Sends each shard its text behind `prefix`.
async fn ask(
    executor: &mut Executor,
    admitted: &Admitted,
    prefix: &str,
    requests: Vec<ShardRequest>,
) -> Result<Vec<(ShardId, String)>, Failure> {
    let explaining = |request: ShardRequest| {
        let text = request.text.as_deref().unwrap_or(&request.bound.statement.sql);
        ShardRequest { text: Some(format!("{prefix}{text}")), ..request }
    };
    let requests = requests.into_iter().map(explaining).collect();
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    let mut answers: Vec<(ShardId, Vec<String>)> =
        (0..fleet.len()).map(|index| (fleet.shard(index), Vec::new())).collect();
    let bytes_max = executor.gateway.config.limits.gather_bytes_max;
    let mut bytes = 0usize;
    while let Some((index, message)) = fleet.next(executor).await? {
        if message.tag != b'D' || fleet.error.is_some() {
            continue;
        }
        bytes += message.body().len();
        if bytes > bytes_max {
            fleet.finish(executor).await?;
            return Err(too_large(bytes_max).into());
        }
        answers[index].1.extend(line(message.body()));
    }
    fleet.finish(executor).await?;
    Ok(answers.into_iter().map(|(shard, lines)| (shard, lines.join("\n"))).collect())
}

/// The text of an answer's row.
fn line(row: &[u8]) -> Option<String> {
    let value = (*row_values(row)?.first()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn lines(mut rows: BytesMut) -> String {
    let mut lines = Vec::new();
    while let Ok(Some(message)) = next_frame(&mut rows, usize::MAX) {
        if message.tag() == b'D' {
            lines.extend(line(message.body()));
        }
    }
    lines.join("\n")
}

fn place(node: &mut Node, admitted: &Admitted, answers: Vec<(ShardId, String)>) {
    for (shard, plan) in answers {
        let name = shard_name(admitted, shard);
        let title = format!("Plan on {name}:");
        let items = vec![("Shard".to_owned(), Value::Titled(name))];
        node.nodes.push(Node { title, kind: "Shard", items, plan: Some(plan), nodes: Vec::new() });
    }
}

fn shard_name(admitted: &Admitted, shard: ShardId) -> String {
    admitted.view.topology.shard(shard).map_or_else(|| shard.to_string(), |shard| shard.name.clone())
}

fn too_large(bytes_max: usize) -> PgError {
    PgError::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("the plans of the shards are larger than gather_bytes_max ({bytes_max} bytes)"),
    )
    .hint("Explain a smaller statement, or raise gather_bytes_max.")
}
