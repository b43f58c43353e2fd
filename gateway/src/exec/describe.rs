//! What a statement takes and gives, as a shard tells it. Statements that run on several shards are described by one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::bound::Statement;
use super::executor::Executor;
use super::failure::Failure;
use super::view::View;
use crate::plan::types::Access;
use crate::plan::types::{AdminCommand, Plan, SessionCommand};
use crate::pool::error::ServerError;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::frontend::{self, Formats};
use crate::wire::{Format, Target};
use ringway_topology::ids::ShardId;

/// Types of a text column.
pub const TEXT_OID: u32 = 25;

#[derive(Clone, Debug, Default)]
pub struct Description {
    pub parameters: Vec<u32>,
    /// None: no rows.
    pub fields: Option<Vec<FieldDescription>>,
}

impl Description {
    /// `t`, then `T` or `n`.
    pub fn encode_statement(&self, out: &mut BytesMut) {
        backend::parameter_description(out, &self.parameters);
        self.encode_fields(out, |_| Format::Text);
    }

    /// `T` or `n`, with the formats that Bind asked for.
    pub fn encode_portal(&self, out: &mut BytesMut, formats: Option<Formats<'_>>) {
        self.encode_fields(out, |index| formats.map_or(Format::Text, |formats| formats.get(index)));
    }

    fn encode_fields(&self, out: &mut BytesMut, format: impl Fn(usize) -> Format) {
        match &self.fields {
            None => backend::no_data(out),
            Some(fields) => {
                let fields: Vec<FieldDescription> = fields
                    .iter()
                    .enumerate()
                    .map(|(index, field)| FieldDescription { format: format(index), ..field.clone() })
                    .collect();
                backend::row_description(out, &fields);
            }
        }
    }
}

/// A text column of the gateway's own results.
pub fn text_field(name: &str) -> FieldDescription {
    FieldDescription {
        name: name.to_owned(),
        table_oid: 0,
        column: 0,
        type_oid: TEXT_OID,
        typlen: -1,
        typmod: -1,
        format: Format::Text,
    }
}

/// What a description depends on, besides temporary objects and schema changes that are not committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DescriptionKey {
    sql: Arc<str>,
    types: Vec<u32>,
    search_path: Vec<String>,
    role: String,
    catalog_version: u64,
}

fn key(executor: &Executor, statement: &Statement) -> Option<DescriptionKey> {
    let transaction = &executor.transaction;
    let own = transaction.failed || transaction.schema_changed || executor.only_shard.is_some();
    if own || !executor.pins.is_empty() {
        return None;
    }
    Some(DescriptionKey {
        sql: Arc::clone(&statement.sql),
        types: statement.types.to_vec(),
        search_path: executor.names.search_path.clone(),
        role: executor.names.user.clone(),
        catalog_version: executor.gateway.catalog_version()?,
    })
}

/// Asks a shard (or knows, for the gateway's own commands, and for what was asked before).
pub async fn describe(executor: &mut Executor, statement: &Arc<Statement>) -> Result<Description, Failure> {
    let key = key(executor, statement);
    if let Some(known) = key.as_ref().and_then(|key| executor.gateway.description(key)) {
        return Ok(Description::clone(&known));
    }
    let description = ask_any(executor, statement).await?;
    if let Some(key) = key {
        executor.gateway.keep_description(key, Arc::new(description.clone()));
    }
    Ok(description)
}

async fn ask_any(executor: &mut Executor, statement: &Arc<Statement>) -> Result<Description, Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let planned = executor.plan(&statement.sql, &view)?;
    let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
    if let Some(description) = own(plan) {
        return Ok(description);
    }
    let home = view.topology.home_shard();
    let open = executor.transaction.participants.keys().next().copied();
    let Some(shard) = executor.only_shard.or(open).or(executor.last_shard).or(home) else {
        return Err(crate::wire::PgError::new(
            crate::wire::SqlState::CANNOT_CONNECT_NOW,
            "the cluster has no shard yet",
        )
        .into());
    };
    ask(executor, &view, shard, statement).await
}

/// Asks this shard.
pub async fn ask(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    statement: &Statement,
) -> Result<Description, Failure> {
    let mut lent = executor.lend(view, shard, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    frontend::parse(connection.output(), "", &statement.sql, &statement.types);
    frontend::describe(connection.output(), Target::Statement, "");
    connection.unnamed = None;
    connection.queue_sync();
    let prefix = std::mem::take(&mut lent.participant.prefix);
    let mut error = match super::forward::drain_prefix(connection, prefix).await {
        Ok(error) => error,
        Err(failure) => {
            executor.transaction.failed |= lent.in_transaction;
            return Err(failure);
        }
    };
    let mut description = Description::default();
    while connection.outstanding > 0 {
        let message = match connection.message().await {
            Ok(message) => message,
            Err(lost) => {
                executor.transaction.failed |= lent.in_transaction;
                return Err(lost.into());
            }
        };
        match message.tag {
            b'E' => {
                error.get_or_insert(ServerError::new(Bytes::copy_from_slice(message.body())));
            }
            b't' => {
                description.parameters =
                    backend::parse_parameter_description(message.body()).map_err(crate::wire::PgError::from)?;
            }
            b'T' => {
                let fields = backend::parse_row_description(message.body()).map_err(crate::wire::PgError::from)?;
                description.fields = Some(fields);
            }
            _ => {}
        }
    }
    executor.give_back(lent, &super::pump::Outcome::default()).await;
    match error {
        Some(error) => Err(Failure::Server(error)),
        None => Ok(description),
    }
}

/// Results that the gateway makes itself.
fn own(plan: &Plan) -> Option<Description> {
    let fields = match plan {
        Plan::Session(
            SessionCommand::Show { .. } | SessionCommand::Execute { .. } | SessionCommand::SetConfig { .. },
        ) => return None,
        Plan::Session(_) => None,
        Plan::Admin(command) => Some(admin_fields(command)?),
        Plan::Explain(explain) if explain.route_only => Some(vec![text_field("QUERY PLAN")]),
        Plan::Ddl(_) | Plan::CopyIn(_) | Plan::CopyOut(_) => None,
        _ => return None,
    };
    Some(Description { parameters: Vec::new(), fields })
}

fn admin_fields(command: &AdminCommand) -> Option<Vec<FieldDescription>> {
    Some(match command {
        AdminCommand::CreateDistributedTable { .. } => vec![text_field("create_distributed_table")],
        AdminCommand::CreateReferenceTable { .. } => vec![text_field("create_reference_table")],
        AdminCommand::UndistributeTable { .. } => vec![text_field("undistribute_table")],
        AdminCommand::ShowCluster { what } => {
            super::show::Subject::named(what).map(|subject| subject.fields()).unwrap_or_default()
        }
        AdminCommand::PinShard { .. } => return Some(Vec::new()),
    })
}
