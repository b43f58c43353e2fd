//! A multi-row INSERT: each row goes to its owner, all in one transaction.

use std::sync::Arc;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;

use super::bound::Bound;
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::fanout::{all_rows, at};
use super::fleet::{tag, Fleet, ShardRequest};
use super::hold::Admitted;
use crate::merge::command_tag::CommandTags;
use crate::merge::insert_split;
use crate::plan::route::evaluate;
use crate::plan::types::{InsertSplit, Query, Targets};
use crate::pool::connection::StatementId;
use crate::wire::{frontend, Frame, PgError, SqlState};

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &InsertSplit,
) -> Result<Completed, Failure> {
    let describe = run.describe && query.returns_rows;
    let (requests, sources) = requests(executor, run.bound, admitted, query, plan, describe)?;
    if query.returns_rows {
        rows_in_order(executor, run, admitted, requests, &sources).await
    } else {
        all_rows(executor, run, admitted, requests).await
    }
}

/// What each owner is sent, and for each row the request that has it.
pub fn requests(
    executor: &Executor,
    bound: &Bound,
    admitted: &Admitted,
    query: &Query,
    plan: &InsertSplit,
    describe: bool,
) -> Result<(Vec<ShardRequest>, Vec<usize>), Failure> {
    let Targets::Keys(keys) = &query.targets else {
        return Err(PgError::internal("rows of an INSERT without keys").into());
    };
    let keyspace = admitted
        .view
        .topology
        .keyspace(keys.keyspace)
        .ok_or_else(|| PgError::internal("a keyspace of the plan is not in the topology"))?;
    let shards = &admitted.placement.shards;
    let values = bound.values()?;
    let mut owners = Vec::with_capacity(plan.rows.len());
    for row in &plan.rows {
        let key = evaluate(&row.key, &values)?.ok_or_else(|| {
            PgError::new(
                SqlState::NOT_NULL_VIOLATION,
                "null value in the column that is the shard key violates not-null constraint",
            )
        })?;
        let owner = keyspace.owner(key.token());
        let index = shards.iter().position(|shard| *shard == owner);
        owners.push(index.ok_or_else(|| PgError::internal("a row of an INSERT has an owner of its own"))?);
    }
    let mut inserts = insert_split::split(&query.sql, plan, &owners);
    inserts.sort_by_key(|insert| insert.shard);
    let sources: Vec<usize> =
        owners.iter().filter_map(|owner| inserts.iter().position(|insert| insert.shard == *owner)).collect();
    let bind = bound.parsed()?;
    let readings = executor.readings();
    let mut requests = Vec::with_capacity(inserts.len());
    for insert in inserts {
        let shard: ShardId = shards[insert.shard];
        let types = &bound.statement.types;
        let types = insert.parameters.iter().map(|index| types.get(*index).copied().unwrap_or(0)).collect();
        let statement = executor.statement_with(Arc::from(insert.sql.as_str()), types, StatementId(0));
        let frame = match &bind {
            None => None,
            Some(bind) => {
                let mut message = BytesMut::new();
                let formats = insert.parameters.iter().map(|index| bind.parameter_formats.get(*index));
                let parameters = insert.parameters.iter().map(|index| bind.parameters.get(*index).flatten());
                frontend::bind(&mut message, "", "", formats, parameters, bind.result_formats.iter());
                Some(Frame::new(message.freeze()).map_err(PgError::from)?)
            }
        };
        let bound = Bound { statement: Arc::new(statement), bind: frame };
        // Its text is used once: it is not kept prepared.
        let text = at(query, &readings, None, &insert.sql).or(Some(insert.sql));
        requests.push(ShardRequest { shard, bound, text, describe, before: Vec::new() });
    }
    Ok((requests, sources))
}

/// RETURNING in the order of VALUES, as PostgreSQL gives it: many applications pair rows and objects by their place. A shard that
/// inserted fewer (ON CONFLICT DO NOTHING, a trigger) has none for some; its rows keep their order. `sources[i]`: the request of row i.
async fn rows_in_order(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    requests: Vec<ShardRequest>,
    sources: &[usize],
) -> Result<Completed, Failure> {
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    let mut described = !run.describe;
    let mut tags = CommandTags::default();
    for source in sources {
        while let Some(message) = fleet.next_of(executor, *source).await? {
            match message.tag {
                b'T' if !described => {
                    described = true;
                    executor.client.forward(&message.raw).await?;
                }
                b'D' if fleet.error.is_none() => {
                    executor.client.forward(&message.raw).await?;
                    break;
                }
                b'C' => tags.add(&tag(&message))?,
                _ => {}
            }
        }
        if fleet.error.is_some() {
            break;
        }
    }
    while let Some((_, message)) = fleet.next(executor).await? {
        match message.tag {
            // A rule may give more rows than were inserted.
            b'D' if fleet.error.is_none() => executor.client.forward(&message.raw).await?,
            b'C' => tags.add(&tag(&message))?,
            _ => {}
        }
    }
    fleet.finish(executor).await?;
    Ok(Completed { tag: tags.total(), ..Completed::default() })
}
