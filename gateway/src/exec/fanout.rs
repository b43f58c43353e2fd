//! Statements over several shards whose rows are concatenated or merged, and writes on several shards.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;

use super::aggregate;
use super::bound::{Bound, Statement};
use super::describe::describe;
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::filter;
use super::fleet::{frame, tag, Fleet, ShardRequest};
use super::hold::Admitted;
use super::result_type::changed;
use crate::merge::command_tag::{with_count, CommandTags};
use crate::merge::compare::ValueOrder;
use crate::merge::concatenate::{Concatenate as Operator, Verdict};
use crate::merge::limit::Window;
use crate::merge::order_by::{visible_fields, OrderBy, Step};
use crate::merge::MergeError;
use crate::plan::clock::{fixed, Readings};
use crate::plan::refuse::refused;
use crate::plan::route::Parameter;
use crate::plan::types::{Access, Concatenate, LimitOffset, MergeSort, Query};
use crate::pool::connection::StatementId;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::oids::is_number_of_other;
use crate::wire::{frontend, Format, Frame, PgError, SqlState};

/// The statement for shards that get a text of the planner's: parameters that it leaves out have no type of their own, so
/// all are declared. `formats`: of the results; None: as the client asked.
pub async fn rebound(
    executor: &mut Executor,
    bound: &Bound,
    sql: &Arc<str>,
    formats: Option<Vec<Format>>,
) -> Result<Bound, Failure> {
    let Some(bind) = bound.parsed()? else {
        let statement = Statement::new(Arc::clone(sql), Vec::new(), StatementId(0));
        return Ok(Bound { statement: Arc::new(statement), bind: None });
    };
    let count = bind.parameters.len();
    let mut types = bound.statement.types.clone();
    if **sql != *bound.statement.sql && (types.len() < count || types.contains(&0)) {
        types = describe(executor, &bound.statement).await?.parameters;
    }
    let id = executor.statement_id(sql, &types);
    let statement = Arc::new(executor.statement_with(Arc::clone(sql), types, id));
    let bind = match formats {
        None => bound.bind.clone(),
        Some(formats) => {
            let mut message = BytesMut::new();
            let parameters = bind.parameters.iter();
            frontend::bind(&mut message, "", "", bind.parameter_formats.iter(), parameters, formats);
            Some(Frame::new(message.freeze()).map_err(PgError::from)?)
        }
    };
    Ok(Bound { statement, bind })
}

/// The statement as the planner reads it: with SELECT where the client has written TABLE.
pub fn as_planned<'b>(executor: &Executor, bound: &'b Bound, sql: &Arc<str>) -> Cow<'b, Bound> {
    if **sql == *bound.statement.sql {
        return Cow::Borrowed(bound);
    }
    let types = bound.statement.types.clone();
    let id = executor.statement_id(sql, &types);
    let mut statement = executor.statement_with(Arc::clone(sql), types, id);
    statement.result = bound.statement.result.clone();
    Cow::Owned(Bound { statement: Arc::new(statement), bind: bound.bind.clone() })
}

/// The value of a LIMIT or OFFSET parameter.
fn count_parameter(values: &[Parameter<'_>], index: usize) -> Result<Option<i64>, Failure> {
    let missing = || PgError::new(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter ${}", index + 1));
    let parameter = values.get(index).ok_or_else(missing)?;
    let Some(bytes) = parameter.value else { return Ok(None) };
    let wrong =
        || PgError::new(SqlState::INVALID_TEXT_REPRESENTATION, format!("parameter ${} is no row count", index + 1));
    let value = match (parameter.format, bytes) {
        (Format::Text, text) => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()),
        (Format::Binary, [a, b, c, d, e, f, g, h]) => Some(i64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (Format::Binary, [a, b, c, d]) => Some(i64::from(i32::from_be_bytes([*a, *b, *c, *d]))),
        (Format::Binary, [a, b]) => Some(i64::from(i16::from_be_bytes([*a, *b]))),
        (Format::Binary | Format::Other(_), _) => None,
    };
    Ok(Some(value.ok_or_else(wrong)?))
}

pub fn window(bound: &Bound, limit: &LimitOffset) -> Result<Window, Failure> {
    let values = bound.values()?;
    Window::resolve(limit, |index| count_parameter(&values, index))
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Failure {
        Failure::from(PgError::from(error))
    }
}

/// One request per shard with the text that it gets.
pub fn requests(
    executor: &Executor,
    admitted: &Admitted,
    query: &Query,
    bound: &Bound,
    rewritten: bool,
    describe: bool,
) -> Result<Vec<ShardRequest>, Failure> {
    let sql = &bound.statement.sql;
    let readings = executor.readings();
    admitted
        .placement
        .shards
        .iter()
        .map(|shard| {
            let text = if rewritten {
                filter::rewritten(query, admitted, *shard, sql)?
            } else {
                filter::text(query, admitted, *shard, sql)?
            };
            let text = at(query, &readings, text, sql);
            Ok(ShardRequest { shard: *shard, bound: bound.clone(), text, describe, before: Vec::new() })
        })
        .collect()
}

/// The text with one value for all shards where it reads the clock.
pub fn at(query: &Query, readings: &Readings, text: Option<String>, sql: &str) -> Option<String> {
    if !query.clock {
        return text;
    }
    fixed(text.as_deref().unwrap_or(sql), readings).or(text)
}

/// Whether an answer may still be thrown away because the lease has run out.
fn lease_lost(executor: &Executor, admitted: &Admitted) -> bool {
    admitted.access == Access::Read && !executor.transaction.is_open() && executor.is_guarded()
}

pub async fn concatenate(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &Concatenate,
) -> Result<Completed, Failure> {
    let bound = match &plan.sql {
        Some(sql) => rebound(executor, run.bound, sql, None).await?,
        None => run.bound.clone(),
    };
    let requests = requests(executor, admitted, query, &bound, plan.sql.is_some(), run.describe)?;
    let mut operator = Operator::new(window(run.bound, &plan.limit)?);
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    fleet.expects_columns(run.bound.statement.result.types());
    let mut described = !run.describe;
    let mut rows = 0u64;
    let mut command = None;
    let mut fresh = true;
    while let Some((_, message)) = fleet.next(executor).await? {
        if std::mem::take(&mut fresh) && lease_lost(executor, admitted) {
            fleet.finish(executor).await?;
            return super::guarded::again(executor, run).await;
        }
        match message.tag {
            b'T' if !described => {
                described = true;
                executor.client.forward(&message.raw).await?;
            }
            b'D' if fleet.error.is_none() && operator.row() == Verdict::Forward => {
                rows += 1;
                executor.client.forward(&message.raw).await?;
            }
            b'C' => command = Some(tag(&message)),
            _ => {}
        }
    }
    fleet.finish(executor).await?;
    Ok(Completed { tag: command.map(|command| with_count(&command, rows)), ..Completed::default() })
}

fn is_iso(text: &str) -> bool {
    text.to_ascii_lowercase().contains("iso")
}

/// Whether the shards write dates in ISO format to sessions that have set nothing.
pub fn iso_by_default(fleet: &mut Fleet) -> bool {
    let parameters = &fleet.connection(0).parameters;
    parameters.iter().any(|(name, value)| name.eq_ignore_ascii_case("datestyle") && is_iso(value))
}

/// Rows in the order of OIDs are sorted by those that clients know, all of them: a shard's first ones are not the first of all.
pub fn check_order(plan: &MergeSort, fields: &[FieldDescription], window: Window) -> Result<(), PgError> {
    let ordered = plan.order.iter().filter_map(|key| fields.get(key.column));
    if window == Window::ALL || !ordered.into_iter().any(|field| is_number_of_other(field.type_oid)) {
        return Ok(());
    }
    Err(refused(
        "ORDER BY or DISTINCT of OIDs (regclass, regtype and the like) with LIMIT or OFFSET over several shards",
        "Every shard stores OIDs of its own: their order differs between shards.",
        "Order by the name, with a cast to text.",
    ))
}

/// How values are compared in this session.
pub fn value_order(executor: &Executor, iso_by_default: bool) -> ValueOrder {
    let iso_dates = executor.setting("datestyle").map_or(iso_by_default, is_iso);
    let exact_floats = executor.setting("extra_float_digits").is_none();
    let catalog = executor.gateway.catalog.load();
    // Columns and expressions with another collation than the database's are refused by the planner.
    let strings_by_bytes = catalog.as_ref().is_some_and(|loaded| loaded.catalog.strings_by_bytes);
    ValueOrder { strings_by_bytes, iso_dates, exact_floats }
}

pub async fn merge_sort(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &MergeSort,
) -> Result<Completed, Failure> {
    let window = window(run.bound, &plan.limit)?;
    // Formats that were given column by column lack the hidden ones.
    let formats = match run.bound.parsed()? {
        Some(bind) if bind.result_formats.len() > 1 && plan.hidden_columns > 0 => {
            let hidden = std::iter::repeat_n(Format::Text, plan.hidden_columns);
            Some(bind.result_formats.iter().chain(hidden).collect())
        }
        _ => None,
    };
    let bound = rebound(executor, run.bound, &plan.sql, formats).await?;
    let launched = requests(executor, admitted, query, &bound, true, true)?;
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, launched).await?;
    fleet.expects_columns(None);
    // Columns come before rows, from every shard.
    let mut fields: Option<Vec<FieldDescription>> = None;
    for index in 0..fleet.len() {
        match fleet.next_of(executor, index).await? {
            Some(message) if message.tag == b'T' => {
                let parsed = backend::parse_row_description(message.body()).map_err(PgError::from)?;
                fields.get_or_insert(parsed);
            }
            _ => break,
        }
    }
    let Some(fields) = fields.filter(|_| fleet.error.is_none()) else {
        fleet.finish(executor).await?;
        return Err(PgError::internal("a shard gave no columns for a query").into());
    };
    if lease_lost(executor, admitted) {
        fleet.finish(executor).await?;
        return super::guarded::again(executor, run).await;
    }
    if !run.bound.statement.result.has_types(visible_fields(plan, &fields)) {
        fleet.finish(executor).await?;
        return Err(changed().into());
    }
    if let Err(error) = check_order(plan, &fields, window) {
        fleet.finish(executor).await?;
        return Err(error.into());
    }
    let iso_by_default = iso_by_default(&mut fleet);
    let order = value_order(executor, iso_by_default);
    let Some(mut merge) = OrderBy::new(plan, &fields, order, window, fleet.len()) else {
        // PostgreSQL sorts: the rows are asked for again, as text.
        fleet.finish(executor).await?;
        return aggregate::sorted(executor, run, admitted, query, plan, window).await;
    };
    if run.describe {
        backend::row_description(executor.client.out(), visible_fields(plan, &fields));
    }
    let mut rows = 0u64;
    let mut command = None;
    while fleet.error.is_none() {
        match merge.step()? {
            Step::Row(row) => {
                rows += 1;
                executor.client.forward(row.bytes()).await?;
            }
            Step::Done => break,
            Step::NeedMore(shard) => match fleet.next_of(executor, shard).await? {
                Some(message) if message.tag == b'D' => merge.push(shard, frame(message)?),
                Some(message) if message.tag == b'C' => {
                    command = Some(tag(&message));
                    merge.finish(shard);
                }
                Some(_) => {}
                None => merge.finish(shard),
            },
        }
    }
    fleet.finish(executor).await?;
    let command = command.unwrap_or_else(|| "SELECT 0".to_owned());
    Ok(Completed { tag: Some(with_count(&command, rows)), ..Completed::default() })
}

/// UPDATE or DELETE everywhere: counts are added, rows of RETURNING come one after the other.
pub async fn write(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
) -> Result<Completed, Failure> {
    let requests = requests(executor, admitted, query, run.bound, false, run.describe && query.returns_rows)?;
    all_rows(executor, run, admitted, requests).await
}

/// A reference table on every member: the first one answers for all.
pub async fn write_everywhere(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
) -> Result<Completed, Failure> {
    let requests = requests(executor, admitted, query, run.bound, false, run.describe && query.returns_rows)?;
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    let mut command = None;
    while let Some((index, message)) = fleet.next(executor).await? {
        match message.tag {
            b'T' | b'D' if index == 0 && fleet.error.is_none() => executor.client.forward(&message.raw).await?,
            b'C' if index == 0 => command = Some(tag(&message)),
            _ => {}
        }
    }
    fleet.finish(executor).await?;
    Ok(Completed { tag: command, ..Completed::default() })
}

/// Sends, shows all rows, adds up the counts.
pub async fn all_rows(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    requests: Vec<ShardRequest>,
) -> Result<Completed, Failure> {
    let mut fleet = Fleet::launch(executor, &admitted.view, admitted.access, requests).await?;
    fleet.expects_columns(run.bound.statement.result.types());
    let mut described = !run.describe;
    let mut tags = CommandTags::default();
    while let Some((_, message)) = fleet.next(executor).await? {
        match message.tag {
            b'T' if !described => {
                described = true;
                executor.client.forward(&message.raw).await?;
            }
            b'D' if fleet.error.is_none() => executor.client.forward(&message.raw).await?,
            b'C' => tags.add(&tag(&message))?,
            _ => {}
        }
    }
    fleet.finish(executor).await?;
    Ok(Completed { tag: tags.total(), ..Completed::default() })
}
