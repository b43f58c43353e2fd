//! A query over rows that travel to one shard, the workbench: the home shard, which has what users call by name, single tables
//! too, and whose OIDs are those that rows travel with.
//!
//! All of it is one transaction, under one topology. For each fragment a temporary table is made; the workbench's own rows are inserted
//! there by itself, those of other shards come as they are, in binary COPY, and nothing of them is kept here. Then the statement
//! runs there, and the tables are dropped, in a block at once. Columns and their types are told as of the statement over the tables themselves, and the workbench's
//! must be the same.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use ringway_topology::ids::ShardId;
use ringway_topology::model::quote_ident;
use smallvec::smallvec;

use super::answers::{ask, collect};
use super::bound::Bound;
use super::describe::{self, describe};
use super::dispatch::{self, Completed, Run};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::fanout::at;
use super::filter;
use super::fleet::{Fleet, ShardRequest};
use super::hold::Admitted;
use super::place::{place, Placement};
use super::pump::Outcome;
use super::transaction::Block;
use super::type_oids::bound_for;
use crate::plan::types::{Access, Fragment, Gather, Isolation, MultiShard, Plan, Query};
use crate::pool::connection::{Message, StatementId};
use crate::wire::backend::FieldDescription;
use crate::wire::{backend, frontend, Format, Frame, PgError, SqlState};

/// Begins binary COPY: signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: &[u8] = &[0xff, 0xff];
/// Rows are sent on when so many bytes of them are here.
const SENT_BYTES: usize = 64 << 10;
const READ_ONLY_TRANSACTION: &str = "25006";

/// Whether it makes tables when it runs over several shards.
pub fn is_gathered(plan: &Plan) -> bool {
    matches!(plan, Plan::Query(query) if matches!(query.multi, MultiShard::Gather(_)))
}

/// Rows that have been gathered: a statement of the workbench's own.
pub struct Gathered {
    pub workbench: ShardId,
    /// The columns, as of the statement itself.
    pub fields: Vec<FieldDescription>,
    pub bound: Bound,
    tables: Vec<String>,
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
    if executor.transaction.block == Block::Explicit {
        // Else the transaction's end does it.
        let sql = format!("DROP TABLE {}", tables.join(", "));
        on_workbench(executor, admitted, workbench, &sql).await?;
    }
    Ok(Completed { shard: None, ..completed })
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
    for (fragment, table) in plan.fragments.iter().zip(&tables) {
        let bound = of_fragment(executor, bound, &fragment.sql, types)?;
        fill(executor, admitted, workbench, table, &bound, &mut bytes).await?;
    }
    add_keys(executor, admitted, workbench, plan, &tables).await?;
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

/// A statement of the gateway's own there.
async fn on_workbench(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    sql: &str,
) -> Result<(), Failure> {
    let mut lent = executor.lend_open(&admitted.view, workbench, Access::Read).await?;
    lent.participant.temporary = true;
    let answers = ask(&mut lent.participant.connection, sql).await;
    executor.give_back(lent, &Outcome::default()).await;
    answers?.check().map(drop)
}

async fn make(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    plan: &Gather,
    tables: &[String],
) -> Result<(), Failure> {
    let statement = |(fragment, table): (&Fragment, &String)| {
        format!("CREATE TEMPORARY TABLE {table} ON COMMIT DROP AS {} WITH NO DATA", fragment.shape)
    };
    let statements: Vec<String> = plan.fragments.iter().zip(tables).map(statement).collect();
    match on_workbench(executor, admitted, workbench, &statements.join("; ")).await {
        Err(Failure::Server(error)) if error.code() == READ_ONLY_TRANSACTION => Err(PgError::refused(
            "rows of several shards cannot be gathered in a READ ONLY transaction",
            "Run the statement outside of a transaction, or in a READ WRITE one.",
        )
        .detail("They come into temporary tables, which such a transaction may not make.")
        .into()),
        made => made,
    }
}

/// What GROUP BY may rely on.
async fn add_keys(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    plan: &Gather,
    tables: &[String],
) -> Result<(), Failure> {
    let mut statements = Vec::new();
    for (fragment, table) in plan.fragments.iter().zip(tables).filter(|(of, _)| !of.primary_key.is_empty()) {
        let columns: Vec<String> = fragment.primary_key.iter().map(|name| quote_ident(name)).collect();
        statements.push(format!("ALTER TABLE {table} ADD PRIMARY KEY ({})", columns.join(", ")));
    }
    match statements.is_empty() {
        true => Ok(()),
        false => on_workbench(executor, admitted, workbench, &statements.join("; ")).await,
    }
}

/// A fragment's statement, its rows in binary.
fn of_fragment(executor: &Executor, bound: &Bound, sql: &Arc<str>, types: &[u32]) -> Result<Bound, Failure> {
    let mut message = BytesMut::new();
    match bound.parsed()? {
        None => frontend::bind(&mut message, "", "", [], [] as [Option<&[u8]>; 0], [Format::Binary]),
        Some(bind) => {
            let formats = (0..bind.parameters.len()).map(|index| bind.parameter_formats.get(index));
            frontend::bind(&mut message, "", "", formats, bind.parameters.iter(), [Format::Binary]);
        }
    }
    let bind = Some(Frame::new(message.freeze()).map_err(PgError::from)?);
    let statement = executor.statement_with(Arc::clone(sql), types.to_vec(), executor.statement_id(sql, types));
    Ok(Bound { statement: Arc::new(statement), bind })
}

/// Brings a fragment's rows to the workbench. `bytes`: that have travelled for the statement.
async fn fill(
    executor: &mut Executor,
    admitted: &Admitted,
    workbench: ShardId,
    table: &str,
    bound: &Bound,
    bytes: &mut usize,
) -> Result<(), Failure> {
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
    if let Some(text) = own {
        if let Err(failure) = insert(executor, &reading, workbench, table, bound, &text).await {
            fleet.finish(executor).await?;
            return Err(failure);
        }
    }
    travel(executor, &reading, workbench, table, fleet, bytes).await
}

/// The workbench's own rows.
async fn insert(
    executor: &mut Executor,
    reading: &Admitted,
    workbench: ShardId,
    table: &str,
    bound: &Bound,
    text: &str,
) -> Result<(), Failure> {
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
    answers?.check().map(drop)
}

/// Passes on what the other shards send.
async fn travel(
    executor: &mut Executor,
    reading: &Admitted,
    workbench: ShardId,
    table: &str,
    mut fleet: Fleet,
    bytes: &mut usize,
) -> Result<(), Failure> {
    let bytes_max = executor.gateway.config.limits.workbench_bytes_max;
    let mut sink: Option<Lent> = None;
    let mut failure = None;
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
        if let Err(error) = pass_on(lent, &message).await {
            failure = Some(error);
        }
    }
    let Some(mut lent) = sink else {
        fleet.finish(executor).await?;
        return failure.map_or(Ok(()), Err);
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
    answers?.check().map(drop)
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
