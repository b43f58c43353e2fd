//! Partial rows of all shards, finished by a PostgreSQL: one statement over arrays, on one shard, in the client's role.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::answers::ask;
use super::bound::Statement;
use super::describe;
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::fanout::{at, rebound};
use super::filter;
use super::fleet::{frame, Fleet, ShardRequest};
use super::forward::{forward, Request};
use super::hold::Admitted;
use super::insert_select::exact_as_text;
use super::pump::{Expect, Outcome, Show};
use crate::merge::combine::{CombineStatement, Partials};
use crate::merge::limit::Window;
use crate::plan::types::{Access, Aggregate, MergeSort, Query};
use crate::pool::connection::{text_row, ServerConnection};
use crate::pool::Claim;
use crate::wire::oids::FIRST_NORMAL;
use crate::wire::{backend, frontend, Format, PgError, Target};

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &Aggregate,
) -> Result<Completed, Failure> {
    let partials = gather(executor, run, admitted, query, &plan.partial_sql).await?;
    let mut combined = partials.aggregate(plan);
    if let Some(sql) = at(query, &executor.readings(), None, &combined.sql) {
        combined.sql = sql;
    }
    combine(executor, run, admitted, combined, &plan.combine_parameters).await
}

/// The rest of a merge whose order only PostgreSQL knows.
pub async fn sorted(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &MergeSort,
    window: Window,
) -> Result<Completed, Failure> {
    let partials = gather(executor, run, admitted, query, &plan.sql).await?;
    combine(executor, run, admitted, partials.order_by(plan, window), &[]).await
}

/// Rows of all shards as text, within `gather_bytes_max`.
async fn gather(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    sql: &Arc<str>,
) -> Result<Partials, Failure> {
    let bound = rebound(executor, run.bound, sql, Some(Vec::new())).await?;
    let readings = executor.readings();
    let mut requests = Vec::new();
    for shard in &admitted.placement.shards {
        let text = at(query, &readings, filter::rewritten(query, admitted, *shard, sql)?, sql);
        requests.push(ShardRequest { shard: *shard, bound: bound.clone(), text, describe: true, before: Vec::new() });
    }
    // Names that only the transaction knows are asked for before its connections are busy.
    let known = match executor.transaction.schema_changed {
        true => Some(names_within(executor, admitted, &bound.statement).await?),
        false => None,
    };
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    fleet.expects_columns(None);
    let mut partials: Option<Partials> = None;
    let mut columns = Vec::new();
    let mut failure: Option<Failure> = None;
    while let Some((_, message)) = fleet.next(executor).await? {
        if failure.is_some() {
            continue;
        }
        match message.tag {
            b'T' if partials.is_none() => {
                let fields = backend::parse_row_description(message.body()).map_err(PgError::from)?;
                let oids: Vec<u32> = fields.iter().map(|field| field.type_oid).collect();
                let names = match &known {
                    Some(names) => names.clone(),
                    None => type_names(executor, admitted, &oids).await?,
                };
                let bytes_max = executor.gateway.config.limits.gather_bytes_max;
                columns = oids;
                match Partials::new(&fields, |oid| names.get(&oid).cloned(), bytes_max) {
                    Ok(made) => partials = Some(made),
                    Err(error) => failure = Some(error.into()),
                }
            }
            b'D' => {
                if let Some(partials) = &mut partials {
                    if let Err(error) = partials.push(&frame(message)?) {
                        failure = Some(error.into());
                    }
                }
            }
            _ => {}
        }
    }
    fleet.finish(executor).await?;
    if failure.is_none() {
        check_text(executor, admitted, &columns).await?;
    }
    match (failure, partials) {
        (Some(failure), _) => Err(failure),
        (None, Some(partials)) => Ok(partials),
        (None, None) => Err(PgError::internal("shards gave no partial rows").into()),
    }
}

/// Refuses settings, wherever they come from, in which the text of values of these types may be read as other values.
pub async fn check_text(executor: &mut Executor, admitted: &Admitted, types: &[u32]) -> Result<(), Failure> {
    // float4, float8 and their arrays; what holds dates and times with DateStyle in their text: themselves, arrays, ranges.
    let floats = |oid: u32| matches!(oid, 700 | 701 | 1021 | 1022) || oid >= FIRST_NORMAL;
    let times = |oid: u32| {
        matches!(oid, 1082 | 1114 | 1184 | 1115 | 1182 | 1185 | 2249 | 2287)
            || matches!(oid, 3908..=3913 | 4533..=4535 | 6152 | 6153 | 6155)
            || oid >= FIRST_NORMAL
    };
    let mut names = Vec::new();
    names.extend(types.iter().any(|oid| floats(*oid) || *oid == 2249 || *oid == 2287).then_some("extra_float_digits"));
    names.extend(types.iter().any(|oid| times(*oid)).then_some("datestyle"));
    let now = (executor.settings.clone(), executor.transaction.local_settings.clone());
    if names.is_empty() || executor.exact_text.as_ref().is_some_and(|(known, of)| *known == now && *of == names) {
        return Ok(());
    }
    let shard = executor.only_shard.or(admitted.placement.shards.first().copied());
    let shard = shard.ok_or_else(|| PgError::internal("no shard to ask for settings"))?;
    exact_as_text(executor, admitted, shard, &names, "combining such rows of several shards").await?;
    executor.exact_text = Some((now, names));
    Ok(())
}

/// Of the statement's columns.
async fn names_within(
    executor: &mut Executor,
    admitted: &Admitted,
    statement: &Statement,
) -> Result<BTreeMap<u32, String>, Failure> {
    let home = executor.only_shard.or(admitted.view.topology.home_shard());
    let home = home.ok_or_else(|| PgError::internal("no shard to ask for types"))?;
    let description = describe::ask(executor, &admitted.view, home, statement).await?;
    let oids: Vec<u32> = description.fields.iter().flatten().map(|field| field.type_oid).collect();
    type_names(executor, admitted, &oids).await
}

/// Names of types that are not PostgreSQL's own, by the OIDs that the client knows, as the session's transaction has them.
pub async fn type_names(
    executor: &mut Executor,
    admitted: &Admitted,
    oids: &[u32],
) -> Result<BTreeMap<u32, String>, Failure> {
    let unknown: Vec<String> = oids.iter().filter(|oid| **oid >= FIRST_NORMAL).map(|oid| oid.to_string()).collect();
    if unknown.is_empty() {
        return Ok(BTreeMap::new());
    }
    let knows = executor.only_shard.or(admitted.view.topology.home_shard());
    let knows = knows.ok_or_else(|| PgError::internal("no shard to ask for types"))?;
    let sql = format!(
        "SELECT t::pg_catalog.int8, pg_catalog.format_type(t, NULL) FROM pg_catalog.unnest('{{{}}}'::pg_catalog.oid[]) t",
        unknown.join(",")
    );
    let rows = match executor.transaction.schema_changed {
        true => {
            let mut lent = executor.lend_open(&admitted.view, knows, Access::Read).await?;
            let answers = ask(&mut lent.participant.connection, &sql).await;
            executor.give_back(lent, &Outcome::default()).await;
            let answers = answers?.check()?;
            answers.rows.iter().filter_map(|row| text_row(row.get(5..)?)).collect()
        }
        // With an empty search_path names come qualified.
        false => {
            let shard = executor.shard(&admitted.view, knows)?;
            let mut connection = executor.gateway.pools.service(shard)?.checkout(Claim::Further).await?;
            connection.query(&sql).await?
        }
    };
    let pair = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        Some((values.next()?.parse().ok()?, values.next()?))
    };
    Ok(rows.into_iter().filter_map(pair).collect())
}

pub async fn combine(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    combined: CombineStatement,
    parameters: &[usize],
) -> Result<Completed, Failure> {
    // There its types are what the client takes them for.
    let shard = executor.only_shard.or(admitted.view.topology.home_shard());
    let shard = shard.ok_or_else(|| PgError::internal("no shard to combine on"))?;
    let bind = run.bound.parsed()?;
    let types: Vec<u32> =
        parameters.iter().map(|index| run.bound.statement.types.get(*index).copied().unwrap_or(0)).collect();
    let mut formats: Vec<Format> = Vec::new();
    let mut values: Vec<Option<Bytes>> = Vec::new();
    let mut result_formats: Vec<Format> = Vec::new();
    if let Some(bind) = &bind {
        for index in parameters {
            formats.push(bind.parameter_formats.get(*index));
            values.push(bind.parameters.get(*index).flatten().map(Bytes::copy_from_slice));
        }
        result_formats = bind.result_formats.iter().collect();
    }
    for array in combined.arrays {
        formats.push(Format::Text);
        values.push(Some(array));
    }
    let mut message = BytesMut::new();
    frontend::parse(&mut message, "", &combined.sql, &types);
    frontend::bind(&mut message, "", "", formats, values, result_formats);
    if run.describe {
        frontend::describe(&mut message, Target::Portal, "");
    }
    frontend::execute(&mut message, "", 0);
    let mut write = |connection: &mut ServerConnection, _: &mut VecDeque<Expect>| {
        connection.output().extend_from_slice(&message);
        connection.unnamed = None;
        connection.queue_sync();
    };
    let request = Request {
        shard,
        access: Access::Read,
        show: Show { row_description: run.describe, ..Show::ROWS },
        repeatable: false,
        extended: true,
        changes_settings: false,
        write: &mut write,
    };
    let outcome = forward(executor, &admitted.view, request).await?;
    match outcome.error {
        Some(error) => Err(Failure::Server(error)),
        None => Ok(Completed { tag: outcome.tag, ..Completed::default() }),
    }
}
