//! A query over rows that travel to one shard, the workbench: the home shard, which has what users call by name, single tables
//! too, and whose OIDs are those that rows travel with.
//!
//! All of it is one transaction, under one topology. For each fragment a temporary table is made; the workbench's own rows are inserted
//! there by itself, those of other shards come as they are, in binary COPY, and nothing of them is kept here. Then the statement
//! runs there, and the tables are dropped, in a block at once. Columns and their types are told as of the statement over the tables themselves, and the workbench's
//! must be the same.

mod tables;
mod travel;

use std::sync::Arc;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;
use smallvec::smallvec;

use super::answers::ask;
use super::bound::Bound;
use super::describe::{self, describe};
use super::dispatch::{self, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::fanout::at;
use super::hold::Admitted;
use super::place::Placement;
use super::pump::Outcome;
use super::transaction::Block;
use crate::plan::types::{Access, CopyMulti, Fragment, Gather, Isolation, MultiShard, Plan, Query};
use crate::pool::connection::StatementId;
use crate::wire::backend::FieldDescription;
use crate::wire::{backend, frontend, Format, Frame, PgError, SqlState};

use tables::{add_keys, analyze, known, make, on_workbench, Known};
use travel::fill;

/// Whether it makes tables when it runs over several shards.
pub fn is_gathered(plan: &Plan) -> bool {
    match plan.executed() {
        Plan::Query(query) => matches!(query.multi, MultiShard::Gather(_)),
        Plan::CopyOut(copy) => matches!(copy.multi, CopyMulti::Gather(..)),
        _ => false,
    }
}

/// Rows that have been gathered: a statement of the workbench's own.
pub struct Gathered {
    pub workbench: ShardId,
    /// The columns, as of the statement itself.
    pub fields: Vec<FieldDescription>,
    pub bound: Bound,
    pub tables: Vec<String>,
}

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    query: &Query,
    plan: &Gather,
) -> Result<Completed, Failure> {
    let Gathered { workbench, fields, bound, tables } = gather(executor, run.bound, admitted, query, plan).await?;
    if run.describe {
        backend::row_description(executor.client.out(), &fields);
    }
    let rest = Run { bound: &bound, describe: false, rows_max: 0, portal: "" };
    let reading = on(admitted, workbench);
    let completed = dispatch::single(executor, &rest, &reading, workbench, Some(&bound.statement.sql)).await?;
    drop_tables(executor, admitted, workbench, &tables).await?;
    Ok(Completed { shard: None, ..completed })
}

/// In a block at once; else the transaction's end does it.
pub async fn drop_tables(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    tables: &[String],
) -> Result<(), Failure> {
    if executor.transaction.block != Block::Explicit {
        return Ok(());
    }
    let sql = format!("DROP TABLE {}", tables.join(", "));
    on_workbench(executor, admitted, workbench, &sql).await.map(drop)
}

/// The statement there, which only reads.
pub fn on(admitted: &Admitted, workbench: ShardId) -> Admitted {
    let placement = Placement { shards: smallvec![workbench], ..Placement::default() };
    Admitted { placement, access: Access::Read, ..admitted.clone() }
}

/// Brings all rows to the workbench.
pub async fn gather(
    executor: &mut Executor,
    bound: &Bound,
    admitted: &Admitted,
    query: &Query,
    plan: &Gather,
) -> Result<Gathered, Failure> {
    if executor.transaction.schema_changed {
        return Err(PgError::refused(
            "rows of several shards cannot be gathered in a transaction that has changed the schema",
            "Run the statement after COMMIT.",
        )
        .detail("Which columns their tables have is known from the catalog as it was before.")
        .into());
    }
    executor.begin_implicit();
    let only_reads = reads_by_default(executor);
    if only_reads {
        // Making temporary tables counts as writing.
        executor.transaction.modes.read_only = Some(false);
    }
    if begins(executor) && executor.transaction.modes.isolation.is_none() && !executor.is_serializable() {
        // Each shard reads all fragments of one snapshot, as one server would.
        executor.transaction.modes.isolation = Some(Isolation::RepeatableRead);
    }
    let home = admitted.view.topology.home_shard();
    let workbench = home.ok_or_else(|| PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet"))?;
    executor.transaction.gathers += 1;
    let number = executor.transaction.gathers;
    let table = |fragment| Gather::table(number, fragment);
    let tables: Vec<String> = (0..plan.fragments.len()).map(table).collect();
    // What is wrong with the statement is said before anything is read.
    let described = describe(executor, &bound.statement).await?;
    let types = &described.parameters;
    make(executor, admitted, workbench, plan, &tables).await?;
    let mut bytes = 0;
    let mut rows = vec![None; tables.len()];
    while let Some((index, limited)) = plan.next(&rows) {
        let known = match limited.filter(|_| types.len() == plan.parameters) {
            Some(limited) => known(executor, admitted, workbench, limited, &tables[limited.fragment]).await?,
            None => None,
        };
        let fragment = of_fragment(executor, bound, &plan.fragments[index], types, known.as_ref())?;
        if let Some(trace) = &mut executor.trace {
            trace.fragment = Some(index);
        }
        let count = fill(executor, admitted, workbench, &tables[index], &fragment, &mut bytes).await?;
        tracing::debug!(fragment = index + 1, rows = count, limited = known.is_some(), "gathered");
        rows[index] = Some(count);
    }
    let rows: Vec<u64> = rows.into_iter().flatten().collect();
    add_keys(executor, admitted, workbench, plan, &tables).await?;
    analyze(executor, admitted, workbench, &tables, &rows).await?;
    if only_reads {
        read_only_from_now(executor, admitted).await?;
    }

    let text = plan.text(number).ok_or_else(|| PgError::internal("a gathered statement has no text"))?;
    let text = at(query, &executor.readings(), None, &text).unwrap_or(text);
    let statement = Arc::new(executor.statement_with(Arc::from(text), types.clone(), StatementId(0)));
    let here = describe::ask(executor, &admitted.view, workbench, &statement).await?;
    let (told, given) = (described.fields.unwrap_or_default(), here.fields.unwrap_or_default());
    if !told.iter().map(|field| field.type_oid).eq(given.iter().map(|field| field.type_oid)) {
        return Err(PgError::internal("the columns of gathered rows are of other types than the statement's").into());
    }
    let bound = Bound { statement, bind: bound.bind.clone() };
    Ok(Gathered { workbench, fields: told, bound, tables })
}

/// Whether a transaction that is not begun yet would only read because the session's transactions do by default.
fn reads_by_default(executor: &Executor) -> bool {
    let set = executor.setting("default_transaction_read_only");
    let on = |set: &str| !matches!(set.trim_matches('\'').to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0");
    begins(executor) && executor.transaction.modes.read_only.is_none() && set.is_some_and(on)
}

/// Whether the statement's transaction is its own and is open nowhere yet.
fn begins(executor: &Executor) -> bool {
    executor.transaction.block == Block::Implicit && executor.transaction.participants.is_empty()
}

/// What follows the statement in its transaction writes nothing.
async fn read_only_from_now(executor: &mut Executor, admitted: &Admitted) -> Result<(), Failure> {
    executor.transaction.modes.read_only = Some(true);
    let shards: Vec<ShardId> = executor.transaction.participants.keys().copied().collect();
    for shard in shards {
        let mut lent = executor.lend_open(&admitted.view, shard, Access::Read).await?;
        let answers = ask(&mut lent.participant.connection, "SET TRANSACTION READ ONLY").await;
        executor.give_back(lent, &Outcome::default()).await;
        answers?.check()?;
    }
    Ok(())
}

/// A fragment's statement, its rows in binary.
fn of_fragment(
    executor: &Executor,
    bound: &Bound,
    fragment: &Fragment,
    types: &[u32],
    known: Option<&Known<'_>>,
) -> Result<Bound, Failure> {
    let mut message = BytesMut::new();
    let bind = bound.parsed()?;
    let own = bind.iter().flat_map(|bind| bind.parameters.iter());
    let own_formats =
        bind.iter().flat_map(|bind| (0..bind.parameters.len()).map(move |index| bind.parameter_formats.get(index)));
    let values = own.chain(known.map(|known| known.values.as_deref().map(str::as_bytes)));
    let formats = own_formats.chain(known.map(|_| Format::Text));
    frontend::bind(&mut message, "", "", formats, values, [Format::Binary]);
    let sql = match (known, executor.transaction.has_snapshot()) {
        (None, true) => &fragment.sql,
        (None, false) => &fragment.alone,
        (Some(known), true) => &known.limited.sql,
        (Some(known), false) => &known.limited.alone,
    };
    let types = [types, known.map_or(&[][..], |known| std::slice::from_ref(&known.limited.array_type))].concat();
    let bind = Some(Frame::new(message.freeze()).map_err(PgError::from)?);
    let id = executor.statement_id(sql, &types);
    let statement = executor.statement_with(Arc::clone(sql), types, id);
    Ok(Bound { statement: Arc::new(statement), bind })
}
