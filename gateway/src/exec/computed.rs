//! INSERT whose keys a shard computes first: described, computed, then run with the keys as parameters.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;
use ringway_topology::token::KeyType;

use super::answers::{collect, Answers};
use super::bound::{queue_execute, Bound};
use super::describe::describe;
use super::dispatch::{self, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::hold::Admitted;
use super::pump::Outcome;
use super::type_oids::bound_for;
use super::view::View;
use crate::plan::types::{Access, ComputedKeys, Plan};
use crate::pool::connection::{row_values, StatementId};
use crate::sql::splice::{apply, Splice};
use crate::wire::{frontend, Format, Frame, PgError, SqlState};

/// A Bind counts its parameters in 16 bits.
const PARAMETERS_MAX: usize = 65_535;

pub type Key = Option<Vec<u8>>;

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    plan: &ComputedKeys,
) -> Result<Completed, Failure> {
    // What is wrong with the statement is said before a sequence moves on.
    let types = describe(executor, &run.bound.statement).await?.parameters;
    if types.len() + plan.places.len() > PARAMETERS_MAX {
        return Err(PgError::new(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("INSERT has {} rows whose shard key is computed", plan.places.len()),
        )
        .hint("Insert fewer rows at a time.")
        .into());
    }
    let keys = compute(executor, run, admitted, plan, &types).await?;
    let mut splices = plan.splices.clone();
    for (index, place) in plan.places.iter().enumerate() {
        let text = format!("{}${}{}", place.before, types.len() + index + 1, place.after);
        splices.push(Splice::replace(place.range.clone(), text));
    }
    let sql = apply(&plan.sql, &splices).ok_or_else(|| PgError::internal("the keys have no place in the statement"))?;
    let planned = executor.plan(&sql, &admitted.view)?;
    if matches!(planned.plan, Ok(Plan::ComputedKeys(_))) {
        return Err(PgError::internal("keys that were computed are not known").into());
    }
    let mut all = types.clone();
    all.resize(types.len() + keys.len(), plan.key_type.oid());
    let bind = bind(run, types.len(), &keys)?;
    let id = executor.statement_id(&planned.sql, &all);
    let statement = executor.statement_with(Arc::clone(&planned.sql), all, id);
    let bound = Bound { statement: Arc::new(statement), bind: Some(bind) };
    let run = Run { bound: &bound, describe: run.describe, rows_max: run.rows_max, portal: run.portal };
    Box::pin(dispatch::run(executor, run)).await
}

/// The client's parameters, then the keys in binary.
fn bind(run: &Run<'_>, parameters: usize, keys: &[Key]) -> Result<Frame, Failure> {
    let given = run.bound.parsed()?;
    if given.as_ref().map_or(0, |bind| bind.parameters.len()) != parameters {
        let message = format!("the bind message does not supply the {parameters} parameters of the prepared statement");
        return Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into());
    }
    let mut formats: Vec<Format> = Vec::with_capacity(parameters + keys.len());
    let mut values: Vec<Option<&[u8]>> = Vec::with_capacity(parameters + keys.len());
    let mut results: Vec<Format> = Vec::new();
    if let Some(bind) = &given {
        formats.extend((0..parameters).map(|index| bind.parameter_formats.get(index)));
        values.extend(bind.parameters.iter());
        results.extend(bind.result_formats.iter());
    }
    formats.extend(keys.iter().map(|_| Format::Binary));
    values.extend(keys.iter().map(|key| key.as_deref()));
    let mut message = BytesMut::new();
    frontend::bind(&mut message, "", "", formats, values, results);
    Ok(Frame::new(message.freeze()).map_err(PgError::from)?)
}

/// On a shard that the transaction has open, or the home shard.
async fn compute(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    plan: &ComputedKeys,
    types: &[u32],
) -> Result<Vec<Key>, Failure> {
    let given = run.bound.parsed()?;
    let mut message = BytesMut::new();
    let formats = given.iter().flat_map(|bind| (0..bind.parameters.len()).map(|at| bind.parameter_formats.get(at)));
    let values = given.iter().flat_map(|bind| bind.parameters.iter());
    frontend::bind(&mut message, "", "", formats.collect::<Vec<_>>(), values.collect::<Vec<_>>(), [Format::Binary]);
    let bind = Frame::new(message.freeze()).map_err(PgError::from)?;
    let statement = executor.statement_with(Arc::clone(&plan.keys_sql), types.to_vec(), StatementId(0));
    let bound = Bound { statement: Arc::new(statement), bind: Some(bind) };

    let open = executor.transaction.participants.keys().next().copied();
    let shard = executor.only_shard.or(open).or(admitted.view.topology.home_shard());
    let shard = shard.ok_or_else(|| PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet"))?;
    let answers = ask(executor, &admitted.view, shard, &bound).await?;
    if answers.rows.len() != plan.places.len() {
        return Err(PgError::internal("a shard has not computed every key").into());
    }
    answers.rows.iter().map(|row| key(row.get(5..).unwrap_or_default(), plan.key_type, plan.typmod)).collect()
}

/// Runs a statement that only reads, for the gateway.
pub async fn ask(executor: &mut Executor, view: &View, shard: ShardId, bound: &Bound) -> Result<Answers, Failure> {
    let bound = &*bound_for(executor, view, shard, bound).await?;
    let mut lent = executor.lend(view, shard, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    let prefix = std::mem::take(&mut lent.participant.prefix);
    queue_execute(connection, &mut VecDeque::new(), bound, Some(&bound.statement.sql), false, "", 0)?;
    connection.unnamed = None;
    connection.queue_sync();
    connection.flush().await?;
    let error = super::prefix::drained(connection, prefix).await?;
    let answers = collect(connection).await?;
    executor.give_back(lent, &Outcome::default()).await;
    if let Some(error) = error {
        return Err(Failure::Server(error));
    }
    answers.check()
}

/// A row's one value as the column of this type and modifier stores it.
pub fn key(row: &[u8], key_type: KeyType, typmod: i32) -> Result<Key, Failure> {
    let values = row_values(row).ok_or_else(|| PgError::internal("a shard's row cannot be read"))?;
    let Some(value) = values.first().copied().flatten() else { return Ok(None) };
    let is_string = matches!(key_type, KeyType::Varchar | KeyType::Bpchar);
    let Some(length) = usize::try_from(typmod - 4).ok().filter(|_| is_string) else {
        return Ok(Some(value.to_vec()));
    };
    // As an assignment does: blanks that do not fit are cut off.
    let text = std::str::from_utf8(value).map_err(|_| PgError::internal("a shard's string is not UTF-8"))?;
    let end = text.char_indices().nth(length).map_or(text.len(), |(at, _)| at);
    if text[end..].chars().any(|character| character != ' ') {
        let name = if key_type == KeyType::Varchar { "character varying" } else { "character" };
        let message = format!("value too long for type {name}({length})");
        return Err(PgError::new(SqlState::STRING_DATA_RIGHT_TRUNCATION, message).into());
    }
    Ok(Some(text.as_bytes()[..end].to_vec()))
}
