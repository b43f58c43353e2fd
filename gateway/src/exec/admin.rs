//! Administration in SQL: `create_distributed_table` and its kin go to the control plane; SHOW is answered here.

use std::time::Duration;

use ringway_proto::v1;
use ringway_proto::v1::operations_client::OperationsClient;
use tonic::transport::{Channel, Endpoint};
use tonic::Code;

use super::answers::{collect, queue_call};
use super::console::{may_look, not_allowed};
use super::describe::void_field;
use super::dispatch::{Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::show::{self, Subject};
use super::view::ControlPlane;
use crate::plan::types::AdminCommand;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::frontend::Formats;
use crate::wire::{Format, PgError, SqlState};

const OWNS: &str = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) \
pg_catalog.to_regclass(CASE WHEN pg_catalog.strpos($1::text, '.') OPERATOR(pg_catalog.=) 0 THEN 'public.' OPERATOR(pg_catalog.||) $1::text \
ELSE $1::text END)";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A new topology reaches this gateway within this, or the statement says so.
const EPOCH_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn run(executor: &mut Executor, run: &Run<'_>, command: &AdminCommand) -> Result<Completed, Failure> {
    match command {
        AdminCommand::ShowCluster { what } => show_cluster(executor, run, what),
        AdminCommand::PinShard { name } => pin_shard(executor, name.as_deref()),
        AdminCommand::CreateDistributedTable { table, column, colocate_with } => {
            must_own(executor, table).await?;
            outside_transactions(executor, "create_distributed_table")?;
            let request = v1::ShardTableRequest {
                table: table.clone(),
                key_column: column.clone(),
                keyspace: String::new(),
                colocate_with: colocate_with.clone().unwrap_or_default(),
                allow_local_unique: false,
            };
            let mut operations = operations(executor)?;
            let answer = operations.shard_table(request).await.map_err(refusal)?.into_inner();
            changed(executor, run, "create_distributed_table", answer.epoch, &answer.warnings).await
        }
        AdminCommand::CreateReferenceTable { table } => {
            must_own(executor, table).await?;
            outside_transactions(executor, "create_reference_table")?;
            let mut operations = operations(executor)?;
            let request = v1::ReferenceTableRequest { table: table.clone() };
            let answer = operations.reference_table_create(request).await.map_err(refusal)?.into_inner();
            changed(executor, run, "create_reference_table", answer.epoch, &answer.warnings).await
        }
        AdminCommand::UndistributeTable { table } => {
            must_own(executor, table).await?;
            outside_transactions(executor, "undistribute_table")?;
            let mut operations = operations(executor)?;
            let request = v1::UndistributeTableRequest { table: table.clone() };
            let answer = operations.undistribute_table(request).await.map_err(refusal)?.into_inner();
            changed(executor, run, "undistribute_table", answer.epoch, &[]).await
        }
    }
}

/// Whoever owns a table may distribute it, as it may change it in any other way. A table that is not there is the control plane's
/// to refuse; a name without a schema means `public`, as there.
async fn must_own(executor: &mut Executor, table: &str) -> Result<(), Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let Some(home) = view.topology.home_shard() else { return Ok(()) };
    let mut connection = executor.checkout(&view, home).await?;
    queue_call(&mut connection, OWNS, &[table]);
    let answers = collect(&mut connection).await?.check();
    executor.release(connection).await;
    match answers?.value().as_deref() {
        Some("f") => {
            Err(PgError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("must be owner of table {table}")).into())
        }
        _ => Ok(()),
    }
}

/// The control plane works in transactions of its own, and waits for the statements that run: this one is none of them.
fn outside_transactions(executor: &Executor, function: &str) -> Result<(), Failure> {
    executor.slot.leave_statement();
    if executor.transaction.participants.is_empty() && executor.transaction.block != super::transaction::Block::Explicit
    {
        return Ok(());
    }
    Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, format!("{function} cannot run inside a transaction block"))
        .hint("Run it on its own.")
        .into())
}

fn operations(executor: &Executor) -> Result<OperationsClient<Channel>, Failure> {
    let ControlPlane::Linked { endpoint, .. } = &executor.gateway.view.control_plane else {
        return Err(PgError::refused(
            "this gateway serves a fixed cluster",
            "Start it with --topology http://ADDR of a control plane.",
        )
        .into());
    };
    let endpoint = Endpoint::from_shared(endpoint.clone()).map_err(|error| {
        Failure::from(PgError::internal(format!("the control plane's address is not valid: {error}")))
    })?;
    Ok(OperationsClient::new(endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy()))
}

fn refusal(status: tonic::Status) -> Failure {
    let (code, hint) = match status.code() {
        Code::InvalidArgument => (SqlState::INVALID_PARAMETER_VALUE, None),
        Code::NotFound => (SqlState::UNDEFINED_TABLE, None),
        Code::FailedPrecondition => (SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, None),
        Code::Unimplemented => (SqlState::FEATURE_NOT_SUPPORTED, None),
        _ => (
            SqlState::CONNECTION_FAILURE,
            Some("Check that the control plane (\"shardctl serve\") runs, then try again."),
        ),
    };
    let error = PgError::new(code, status.message().to_owned());
    match hint {
        Some(hint) => error.hint(hint).into(),
        None => error.into(),
    }
}

/// The session's next statement must see what has changed; then the result of a function that returns void.
async fn changed(
    executor: &mut Executor,
    run: &Run<'_>,
    function: &str,
    epoch: u64,
    warnings: &[String],
) -> Result<Completed, Failure> {
    let gateway = std::sync::Arc::clone(&executor.gateway);
    let before = ringway_topology::ids::Epoch(epoch.saturating_sub(1));
    if !gateway.view.newer_than(before, EPOCH_TIMEOUT).await {
        return Err(PgError::new(
            SqlState::CANNOT_CONNECT_NOW,
            format!("{function} is done, but this gateway has not heard of epoch {epoch} yet"),
        )
        .hint("Check the gateway's connection to the control plane (\"shardctl gateways\").")
        .into());
    }
    for warning in warnings {
        backend::notice_response(executor.client.out(), &PgError::warning(warning.clone()));
    }
    result(executor, run, vec![void_field(function)], &[vec![String::new()]])?;
    Ok(Completed { tag: Some("SELECT 1".into()), ..Completed::default() })
}

fn show_cluster(executor: &mut Executor, run: &Run<'_>, what: &str) -> Result<Completed, Failure> {
    executor.enter()?;
    executor.slot.reads();
    let gateway = std::sync::Arc::clone(&executor.gateway);
    let subject = Subject::named(what).ok_or_else(|| show::unknown(what))?;
    if !subject.is_public() && !may_look(&gateway, &executor.identity.user) {
        return Err(not_allowed(&executor.identity.user, &format!("look at {what}")).into());
    }
    let table = subject.table(&gateway);
    let formats = run.bound.parsed()?.map(|bind| bind.result_formats);
    let out = executor.client.out();
    if run.describe {
        backend::row_description(out, &table.fields());
    }
    table.encode_rows(out, formats)?;
    Ok(Completed { tag: Some("SHOW".into()), ..Completed::default() })
}

fn pin_shard(executor: &mut Executor, name: Option<&str>) -> Result<Completed, Failure> {
    if !executor.transaction.participants.is_empty() {
        return Err(PgError::new(SqlState::ACTIVE_SQL_TRANSACTION, "ringway.shard cannot be set inside a transaction")
            .hint("End the transaction first.")
            .into());
    }
    executor.only_shard = match name {
        None => None,
        Some(name) => {
            let view = executor.enter()?;
            executor.slot.reads();
            let shard = view.topology.shard_named(name).ok_or_else(|| {
                Failure::from(
                    PgError::new(SqlState::INVALID_PARAMETER_VALUE, format!("there is no shard \"{name}\""))
                        .hint("SHOW ringway.shards lists them."),
                )
            })?;
            Some(shard.id)
        }
    };
    Ok(Completed { tag: Some("SET".into()), ..Completed::default() })
}

/// A result of text columns; their bytes are the same in both formats. Fails with 22023 at a row in a format that there is not.
pub fn result(
    executor: &mut Executor,
    run: &Run<'_>,
    fields: Vec<FieldDescription>,
    rows: &[Vec<String>],
) -> Result<(), Failure> {
    let formats = run.bound.parsed()?.map(|bind| bind.result_formats);
    if let Some(error) = Format::unsupported(formats.iter().flat_map(Formats::iter)).filter(|_| !rows.is_empty()) {
        return Err(error.into());
    }
    let out = executor.client.out();
    if run.describe {
        backend::row_description(out, &fields);
    }
    for row in rows {
        backend::data_row(out, row.iter().map(|value| Some(value.as_bytes())));
    }
    Ok(())
}
