//! What a statement takes and gives, as a shard tells it. Statements that run on several shards are described by one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::bound::Statement;
use super::commit;
use super::cursors::{self, CursorCommand};
use super::executor::Executor;
use super::failure::Failure;
use super::type_oids;
use super::view::View;
use crate::plan::reach::is_of_settings;
use crate::plan::types::Access;
use crate::plan::types::{AdminCommand, Plan, SessionCommand};
use crate::pool::connection::{ServerConnection, StatementId};
use crate::pool::error::ServerError;
use crate::pool::Claim;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::frontend::{self, Formats};
use crate::wire::{Format, PgError, SqlState, Target};
use ringway_topology::ids::ShardId;

/// Types of a text column.
pub const TEXT_OID: u32 = 25;
const VOID_OID: u32 = 2278;

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

    /// `T` or `n`, with the formats that the server said.
    pub fn encode_as_it_is(&self, out: &mut BytesMut) {
        let fields = self.fields.as_deref().unwrap_or_default();
        self.encode_fields(out, |index| fields.get(index).map_or(Format::Text, |field| field.format));
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

/// The result of the gateway's own functions, which give nothing.
pub fn void_field(name: &str) -> FieldDescription {
    FieldDescription { type_oid: VOID_OID, typlen: 4, ..text_field(name) }
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
    // What FETCH gives depends on the cursor.
    if own || !executor.pins.is_empty() || cursors::command(&statement.sql).is_some() {
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
        settle(executor, statement, &known)?;
        return Ok(Description::clone(&known));
    }
    let description = ask_any(executor, statement).await?;
    if let Some(key) = key {
        executor.gateway.keep_description(key, Arc::new(description.clone()));
    }
    settle(executor, statement, &description)?;
    Ok(description)
}

/// The statement's rows are what they were before.
fn settle(executor: &Executor, statement: &Statement, description: &Description) -> Result<(), PgError> {
    let own_oids = statement.own_oids || executor.only_shard.is_some();
    if own_oids || cursors::command(&statement.sql).is_some() {
        return Ok(());
    }
    statement.described(description)
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
    let cursor = match cursors::command(&statement.sql) {
        Some(CursorCommand::Read { name, direction: Some(_), show }) => {
            if let Some(merged) = executor.merged_cursor(&name) {
                let formats = vec![Format::Text; merged.columns()];
                let fields = show.then(|| merged.described(&formats));
                return Ok(Description { parameters: Vec::new(), fields });
            }
            executor.cursor_shard(&name)
        }
        _ => None,
    };
    let Some(shard) = executor.only_shard.or(cursor).or(open).or(executor.last_shard).or(home) else {
        return Err(crate::wire::PgError::new(
            crate::wire::SqlState::CANNOT_CONNECT_NOW,
            "the cluster has no shard yet",
        )
        .into());
    };
    ask(executor, &view, shard, statement).await
}

/// What to say of a statement that the gateway refuses: the error that a shard finds in it (its syntax, its names), if it finds one.
pub async fn refusal(executor: &mut Executor, refused: &PgError, sql: &Arc<str>, types: &[u32]) -> Failure {
    let asked = refused.code == SqlState::FEATURE_NOT_SUPPORTED && !is_of_settings(refused);
    if !asked || executor.transaction.failed {
        return Failure::Error(Box::new(refused.clone()));
    }
    let statement = executor.statement_with(Arc::clone(sql), types.to_vec(), StatementId(0));
    match ask_first(executor, &statement).await {
        Err(Failure::Server(error)) if error.code().starts_with("42") => Failure::Server(error),
        Err(Failure::Gone(error)) => Failure::Gone(error),
        _ => Failure::Error(Box::new(refused.clone())),
    }
}

/// What is wrong with a text of several statements before anything is looked up: it is given to a shard as one statement, which it
/// would be wrong for being several. Outside the session's transaction, because it always fails.
pub async fn syntax_error(executor: &Executor, view: &View, text: &str) -> Result<Option<ServerError>, Failure> {
    const SEVERAL: &str = "cannot insert multiple commands into a prepared statement";
    let Some(shard) = view.topology.home_shard() else { return Ok(None) };
    let shard = executor.shard(view, shard)?;
    let mut connection = executor.gateway.pools.service(shard)?.checkout(Claim::Further).await?;
    frontend::parse(connection.output(), "", text, &[]);
    connection.unnamed = None;
    connection.queue_sync();
    let error = connection.settle().await?;
    Ok(error.filter(|error| error.code() == SqlState::SYNTAX_ERROR.as_str() && error.field(b'M') != Some(SEVERAL)))
}

async fn ask_first(executor: &mut Executor, statement: &Statement) -> Result<Description, Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let open = executor.transaction.participants.keys().next().copied();
    match executor.only_shard.or(open).or(view.topology.home_shard()) {
        Some(shard) => ask(executor, &view, shard, statement).await,
        None => Ok(Description::default()),
    }
}

/// Asks this shard.
pub async fn ask(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    statement: &Statement,
) -> Result<Description, Failure> {
    type_oids::know_types(executor, view, shard, statement).await?;
    let request = |connection: &mut ServerConnection| {
        connection.queue_parse("", &statement.sql, &statement.types);
        frontend::describe(connection.output(), Target::Statement, "");
        connection.unnamed = None;
    };
    ask_by(executor, view, shard, &request).await
}

/// A cursor of DECLARE by its name, which is a portal's name too.
pub async fn cursor(executor: &mut Executor, shard: ShardId, name: &str) -> Result<Description, Failure> {
    let view = executor.enter()?;
    executor.slot.reads();
    let request = |connection: &mut ServerConnection| frontend::describe(connection.output(), Target::Portal, name);
    ask_by(executor, &view, shard, &request).await
}

async fn ask_by(
    executor: &mut Executor,
    view: &View,
    shard: ShardId,
    request: &(dyn Fn(&mut ServerConnection) + Send + Sync),
) -> Result<Description, Failure> {
    type_oids::learn_own(executor, view, shard).await?;
    // A SERIALIZABLE transaction is to be of one shard, which is not known yet.
    let has_part = !executor.transaction.participants.is_empty() || !executor.is_serializable();
    let mut lent = executor.lend(view, shard, Access::Read).await?;
    let connection = &mut *lent.participant.connection;
    request(connection);
    connection.queue_sync();
    let prefix = std::mem::take(&mut lent.participant.prefix);
    let mut error = match super::prefix::drained(connection, prefix).await {
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
            // The connection was idle too long. The question changes nothing, so it is asked again on another one, once.
            Err(_) if !lent.in_transaction && !executor.repeated => {
                executor.repeated = true;
                drop(lent);
                executor.cancel.clear().await;
                return Box::pin(ask_by(executor, view, shard, request)).await;
            }
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
    commit::leave_asked(executor, has_part).await;
    match error {
        Some(error) => Err(Failure::Server(error)),
        None => {
            type_oids::translate_description(executor, view, shard, &mut description).await?;
            Ok(description)
        }
    }
}

/// Results that the gateway makes itself.
fn own(plan: &Plan) -> Option<Description> {
    let fields = match plan {
        Plan::Session(
            SessionCommand::Show { .. }
            | SessionCommand::Execute { .. }
            | SessionCommand::ExplainExecute { .. }
            | SessionCommand::SetConfig { .. }
            | SessionCommand::ListeningChannels { .. },
        ) => return None,
        Plan::Session(_) => None,
        Plan::Admin(command) => Some(admin_fields(command)?),
        Plan::Explain(explain) if explain.options.route => Some(super::explain::fields(&explain.options)),
        Plan::Ddl(_) | Plan::CopyIn(_) | Plan::CopyOut(_) => None,
        _ => return None,
    };
    Some(Description { parameters: Vec::new(), fields })
}

fn admin_fields(command: &AdminCommand) -> Option<Vec<FieldDescription>> {
    Some(match command {
        AdminCommand::CreateDistributedTable { .. } => vec![void_field("create_distributed_table")],
        AdminCommand::CreateReferenceTable { .. } => vec![void_field("create_reference_table")],
        AdminCommand::UndistributeTable { .. } => vec![void_field("undistribute_table")],
        AdminCommand::ShowCluster { what } => {
            super::show::Subject::named(what).map(|subject| subject.fields()).unwrap_or_default()
        }
        AdminCommand::PinShard { .. } => return Some(Vec::new()),
    })
}
