//! EXPLAIN: the route from the plan alone (`EXPLAIN (ROUTE)`); of one shard what it says itself; of several what each says of its own
//! part ([`shards`]), in one report.
//!
//! ANALYZE executes, within the session's transaction as the statement itself. What writes or locks is executed by the shards' own EXPLAIN
//! ANALYZE. What only reads is first run as ever, its rows dropped, which gives the times of shards and merge, and then
//! explained and analyzed by each shard.

mod shards;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::bound::Bound;
use super::client::Capture;
use super::describe::text_field;
use super::dispatch::{attempt, single, whole, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::filter;
use super::hold::{targets, Admitted};
use super::place::place;
use super::trace::Trace;
use crate::plan::explain::report::{Node, Value};
use crate::plan::explain::route::{report, Subject, Texts};
use crate::plan::explain::{Format, Options};
use crate::plan::refuse::refused;
use crate::plan::route::route;
use crate::plan::types::{Access, Explain, MultiShard, Plan, Query};
use crate::sql::lexer::{lex, Kind};
use crate::wire::backend::{self, FieldDescription};
use crate::wire::frontend::Formats;
use crate::wire::{frontend, Format as WireFormat, Frame, PgError, SqlState};

const JSON_OID: u32 = 114;

/// What is known once all has been explained.
struct Explained {
    node: Node,
    /// Of executing, where the shards do not tell it.
    elapsed: Option<Duration>,
}

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    explain: &Explain,
) -> Result<Completed, Failure> {
    if let (false, Some(shard)) = (explain.options.route, admitted.placement.single()) {
        let filtered = match &*explain.inner {
            Plan::Query(query) => filter::text(query, admitted, shard, &explain.inner_sql)?,
            _ => None,
        };
        let text = match filtered {
            Some(filtered) => Some(format!("{}{filtered}", explain.options.prefix)),
            None if *explain.sql != *run.bound.statement.sql => Some(explain.sql.to_string()),
            None => None,
        };
        return single(executor, run, admitted, shard, text.as_deref()).await;
    }
    if explain.options.format == Format::Other {
        return Err(refused(
            "EXPLAIN over several shards has the formats TEXT and JSON",
            "The answers of the shards stand in one document.",
            "Use FORMAT JSON.",
        )
        .into());
    }
    if run.rows_max == 0 {
        return several(executor, run, admitted, explain).await;
    }
    whole(executor, run, async |executor, run| several(executor, run, admitted, explain).await).await
}

/// The columns of what the gateway says itself.
pub fn fields(options: &Options) -> Vec<FieldDescription> {
    let field = text_field("QUERY PLAN");
    let type_oid = if options.format == Format::Json { JSON_OID } else { field.type_oid };
    vec![FieldDescription { type_oid, ..field }]
}

async fn several(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    explain: &Explain,
) -> Result<Completed, Failure> {
    if let (None, false, Some(number)) = (&run.bound.bind, explain.options.route, first_parameter(&explain.inner_sql)) {
        return Err(PgError::new(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter ${number}")).into());
    }
    let inner = of_inner(executor, run, explain)?;
    let node = routed(executor, &inner, admitted, explain)?;
    let Explained { node, elapsed } = match explain.options.route {
        true => Explained { node, elapsed: None },
        false => {
            let explained = asked(executor, &inner, admitted, explain, node).await;
            executor.trace = None;
            explained?
        }
    };
    answer(executor, run, &explain.options, node, elapsed).await
}

fn first_parameter(sql: &str) -> Option<u32> {
    let lexemes = lex(sql).ok()?;
    lexemes.iter().find_map(|lexeme| match lexeme.kind {
        Kind::Parameter(number) => Some(number),
        _ => None,
    })
}

/// The explained statement with the same values, its rows as text.
fn of_inner(executor: &Executor, run: &Run<'_>, explain: &Explain) -> Result<Bound, Failure> {
    let statement = executor.statement(Arc::clone(&explain.inner_sql), run.bound.statement.types.clone());
    let bind = match run.bound.parsed()? {
        None => None,
        Some(bind) => {
            let mut message = BytesMut::new();
            let (formats, values) = (bind.parameter_formats.iter(), bind.parameters.iter());
            frontend::bind(&mut message, "", "", formats, values, [] as [WireFormat; 0]);
            Some(Frame::new(message.freeze()).map_err(PgError::from)?)
        }
    };
    Ok(Bound { statement: Arc::new(statement), bind })
}

/// What the plan says.
fn routed(executor: &Executor, inner: &Bound, admitted: &Admitted, explain: &Explain) -> Result<Node, Failure> {
    let values = inner.values()?;
    let topology = &admitted.view.topology;
    let routed = targets(&explain.inner).and_then(|targets| route(&targets, topology, &values).ok());
    let fragments = |sql: &str| texts(executor, inner, admitted, sql).ok();
    Ok(report(&explain.inner, &Subject { topology, route: routed.as_ref(), fragments: &fragments }))
}

/// What the shards of a fragment are sent.
fn texts(executor: &Executor, inner: &Bound, admitted: &Admitted, sql: &str) -> Result<Texts, Failure> {
    let planned = executor.plan(sql, &admitted.view)?;
    let Ok(Plan::Query(query)) = &planned.plan else { return Ok(Vec::new()) };
    let placement = place(&admitted.view.topology, &query.targets, Access::Read, &inner.values()?, None)?;
    let reading =
        Admitted { view: Arc::clone(&admitted.view), planned: Arc::clone(&planned), placement, access: Access::Read };
    let mut texts = Vec::new();
    for shard in &reading.placement.shards {
        let filtered = filter::text(query, &reading, *shard, &query.sql)?;
        texts.push((*shard, filtered.unwrap_or_else(|| sql.to_owned())));
    }
    Ok(texts)
}

/// What the shards say, and how long it took.
async fn asked(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    explain: &Explain,
    node: Node,
) -> Result<Explained, Failure> {
    let planned = executor.plan(&explain.inner_sql, &admitted.view)?;
    let admitted = Admitted { planned: Arc::clone(&planned), ..admitted.clone() };
    let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
    let options = &explain.options;
    match plan {
        Plan::Query(Query { multi: MultiShard::Refused(error), .. }) => Err(Failure::Error(error.clone())),
        Plan::Query(query) => match (&query.multi, options.analyze) {
            (MultiShard::Gather(plan), false) => {
                shards::fragments(executor, inner, &admitted, options, plan, node).await
            }
            (MultiShard::Gather(plan), true) => {
                shards::gathered(executor, inner, &admitted, options, query, plan, node).await
            }
            (MultiShard::InsertSelect(_), true) => executed(executor, inner, &admitted, options, node).await,
            (MultiShard::InsertSelect(_), false) => Ok(Explained { node, elapsed: None }),
            (_, analyze) => {
                let (node, elapsed) = match analyze && admitted.access == Access::Read {
                    true => {
                        let Explained { node, elapsed } = executed(executor, inner, &admitted, options, node).await?;
                        (node, elapsed)
                    }
                    false => (node, None),
                };
                let explained = shards::plans(executor, inner, &admitted, options, query, node).await?;
                Ok(Explained { elapsed: elapsed.or(explained.elapsed), ..explained })
            }
        },
        _ if options.analyze => executed(executor, inner, &admitted, options, node).await,
        _ => Ok(Explained { node, elapsed: None }),
    }
}

/// Runs the statement and drops its rows.
async fn executed(
    executor: &mut Executor,
    inner: &Bound,
    admitted: &Admitted,
    options: &Options,
    mut node: Node,
) -> Result<Explained, Failure> {
    executor.trace = Some(Box::default());
    let began = Instant::now();
    let done = captured(executor, Capture::nothing(), async |executor| {
        let run = Run { bound: inner, describe: false, rows_max: 0, portal: "" };
        Box::pin(attempt(executor, &run, admitted)).await
    })
    .await;
    let elapsed = began.elapsed();
    let trace = executor.trace.take().unwrap_or_default();
    let (completed, _) = done?;
    let rows = completed.tag.as_deref().and_then(|tag| tag.rsplit(' ').next()?.parse().ok());
    node.items.extend(rows.map(|rows| ("Rows".to_owned(), Value::Count(rows))));
    if options.timing {
        let combines = node.items.iter().any(|(label, _)| label == "Combine");
        let label = if combines { "Combine Time" } else { "Merge Time" };
        node.item(label, milliseconds(elapsed.saturating_sub(trace.waited)));
    }
    let names = |shard| admitted.view.topology.shard(shard).map_or_else(String::new, |shard| shard.name.clone());
    measured(&mut node, &trace, None, options, &names);
    Ok(Explained { node, elapsed: Some(elapsed) })
}

/// A node for each shard that has given rows.
fn measured(
    node: &mut Node,
    trace: &Trace,
    fragment: Option<usize>,
    options: &Options,
    name: &dyn Fn(ringway_topology::ids::ShardId) -> String,
) {
    let mut shards: Vec<_> =
        trace.parts.iter().filter(|part| part.fragment == fragment).map(|part| part.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    for shard in shards {
        let Some((rows, elapsed)) = trace.of(fragment, shard) else { continue };
        let name = name(shard);
        let mut part = Node { title: format!("Answer of {name}:"), kind: "Answer", ..Node::default() };
        part.item("Shard", Value::Titled(name));
        part.item("Rows", Value::Count(rows));
        if options.timing {
            part.item("Time", milliseconds(elapsed));
        }
        node.nodes.push(part);
    }
}

fn milliseconds(time: Duration) -> Value {
    Value::Milliseconds(time.as_secs_f64() * 1_000.0)
}

/// What is forwarded to the client meanwhile goes into `capture`.
async fn captured<T>(
    executor: &mut Executor,
    capture: Capture,
    work: impl AsyncFnOnce(&mut Executor) -> Result<T, Failure>,
) -> Result<(T, BytesMut), Failure> {
    let before = executor.client.exchange_capture(Some(capture));
    let done = work(executor).await;
    let capture = executor.client.exchange_capture(before);
    Ok((done?, capture.map(|capture| capture.bytes).unwrap_or_default()))
}

async fn answer(
    executor: &mut Executor,
    run: &Run<'_>,
    options: &Options,
    node: Node,
    elapsed: Option<Duration>,
) -> Result<Completed, Failure> {
    let elapsed =
        elapsed.filter(|_| options.summary).map(|elapsed| ("Execution Time".to_owned(), milliseconds(elapsed)));
    let lines = match options.format {
        Format::Json => vec![node.json(elapsed.as_slice())],
        _ => {
            let summary = Node { items: elapsed.into_iter().collect(), ..Node::default() };
            [node.lines(), summary.lines()].concat()
        }
    };
    let formats = run.bound.parsed()?.map(|bind| bind.result_formats);
    if let Some(error) = WireFormat::unsupported(formats.iter().flat_map(Formats::iter)) {
        return Err(error.into());
    }
    if run.describe {
        backend::row_description(executor.client.out(), &fields(options));
    }
    let mut rows = BytesMut::new();
    for line in &lines {
        backend::data_row(&mut rows, [Some(line.as_bytes())]);
    }
    executor.client.forward(&rows).await?;
    Ok(Completed { tag: Some("EXPLAIN".into()), ..Completed::default() })
}
