//! Schema changes: on every member shard in one transaction with one outcome. What cannot run in a transaction goes shard by
//! shard, and says how far it came.
//!
//! The client sees success once this gateway plans by the new catalog, and the others do or their wait is over.

use std::sync::Arc;
use std::time::Duration;

use ringway_proto::v1;
use ringway_proto::v1::gateway_link_client::GatewayLinkClient;
use ringway_topology::ids::{Epoch, ShardId};
use ringway_topology::model::{quote_ident, TableKind, Topology};
use tonic::transport::Endpoint;

use super::answers::collect;
use super::dispatch::{single, Completed, Run};
use super::executor::Executor;
use super::failure::Failure;
use super::faults::FaultPoint;
use super::hold::Admitted;
use super::passwords::with_one_verifier;
use super::prefix::drained;
use super::pump::Outcome;
use super::view::ControlPlane;
use crate::plan::types::{Access, Ddl, DdlKind, Plan};
use crate::sql::lexer::lex;
use crate::wire::{backend, PgError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Other gateways have this long to plan by the new catalog.
const CATALOG_WAIT: Duration = Duration::from_secs(5);

pub async fn run(executor: &mut Executor, run: &Run<'_>, admitted: &Admitted, ddl: &Ddl) -> Result<Completed, Failure> {
    refuse_while_moving(&admitted.view.topology, ddl)?;
    if ddl.kind != DdlKind::Temporary {
        refuse_ambiguous(executor, ddl)?;
    }
    if let Some(shard) = temporary(executor, ddl) {
        return single(executor, run, admitted, shard, None).await;
    }
    match ddl.kind {
        DdlKind::Temporary => {
            let home = admitted.placement.shards.first().copied();
            let shard = home.ok_or_else(|| Failure::from(PgError::internal("a temporary table has no shard")))?;
            executor.pin(shard);
            executor.has_temporary = true;
            single(executor, run, admitted, shard, None).await
        }
        DdlKind::Transactional => transactional(executor, run, admitted).await,
        DdlKind::ShardByShard => shard_by_shard(executor, run, admitted).await,
    }
}

/// A session with temporary tables names one that no catalog knows: it is on the session's own connection.
fn temporary(executor: &Executor, ddl: &Ddl) -> Option<ShardId> {
    let shard = *executor.pins.first()?;
    let mut words = ddl.sql.split_whitespace().map(str::to_ascii_lowercase);
    let (first, second) = (words.next()?, words.next()?);
    let of_a_table = match first.as_str() {
        "drop" | "alter" => matches!(second.as_str(), "table" | "index" | "view" | "sequence"),
        "create" => second == "index" || second == "unique",
        "truncate" | "analyze" | "vacuum" | "comment" => true,
        _ => false,
    };
    let catalog = executor.gateway.catalog.load_full()?;
    let unknown = ddl.tables.iter().all(|table| catalog.catalog.relation(table).is_none());
    (of_a_table && unknown).then_some(shard)
}

/// A session with temporary objects means one of them by a name without a schema, if it has one of that name.
fn refuse_ambiguous(executor: &Executor, ddl: &Ddl) -> Result<(), Failure> {
    let (true, Some(catalog)) = (executor.has_temporary, executor.gateway.catalog.load_full()) else {
        return Ok(());
    };
    let Ok(lexemes) = lex(&ddl.sql) else { return Ok(()) };
    let unqualified = |name: &str| {
        let mut before = None;
        lexemes.iter().any(|lexeme| {
            let qualified = before.replace(lexeme).is_some_and(|before| before.is(b'.'));
            !qualified && lexeme.identifier(&ddl.sql).is_some_and(|word| word == name)
        })
    };
    let known = ddl.tables.iter().filter(|table| catalog.catalog.relation(table).is_some());
    match known.into_iter().find(|table| unqualified(&table.name)) {
        Some(table) => Err(PgError::refused(
            format!("\"{}\" may be a temporary object of this session, or {table}", table.name),
            format!("Name its schema: pg_temp.{0} or {1}.{0}.", quote_ident(&table.name), quote_ident(&table.schema)),
        )
        .detail("The session has objects on one server connection, and schema changes go to every shard.")
        .into()),
        None => Ok(()),
    }
}

/// Rows that were copied before a rewrite would be worth nothing.
fn refuse_while_moving(topology: &Topology, ddl: &Ddl) -> Result<(), Failure> {
    for name in &ddl.tables {
        let Some(table) = topology.table(&name.schema, &name.name) else { continue };
        let TableKind::Sharded { keyspace, .. } = &table.kind else { continue };
        if let Some(moving) = topology.moves.values().find(|moving| moving.keyspace == *keyspace) {
            return Err(PgError::refused(
                format!("the schema of table \"{}\" cannot change while rows of its keyspace are moving", name.name),
                format!("Wait for move {} to end (\"shardctl move watch {}\").", moving.id.0, moving.id.0),
            )
            .into());
        }
    }
    Ok(())
}

async fn transactional(executor: &mut Executor, run: &Run<'_>, admitted: &Admitted) -> Result<Completed, Failure> {
    executor.transaction.schema_changed = true;
    executor.transaction.has_new_oids = true;
    executor.transaction.hides_shards |= matches!(&admitted.planned.plan, Ok(Plan::Ddl(ddl)) if ddl.hides_shards);
    let sql = with_one_verifier(&run.bound.statement.sql)?;
    let mut tag = None;
    for (index, shard) in admitted.placement.shards.iter().enumerate() {
        let answered = on_shard(executor, admitted, *shard, &sql, true, index == 0).await?;
        tag = tag.or(answered);
        executor.gateway.faults.hit(FaultPoint::DdlOpened);
    }
    Ok(Completed { tag, ..Completed::default() })
}

async fn shard_by_shard(executor: &mut Executor, run: &Run<'_>, admitted: &Admitted) -> Result<Completed, Failure> {
    let mut tag = None;
    let mut done: Vec<String> = Vec::new();
    for (index, shard) in admitted.placement.shards.iter().enumerate() {
        let name = executor.shard(&admitted.view, *shard)?.name.clone();
        match on_shard(executor, admitted, *shard, &run.bound.statement.sql, false, index == 0).await {
            Ok(answered) => {
                tag = tag.or(answered);
                done.push(name);
            }
            Err(failure) if done.is_empty() => return Err(failure),
            Err(failure) => {
                report(executor).await;
                let reason = match &failure {
                    Failure::Server(error) => error.to_string(),
                    Failure::Error(error) => error.to_string(),
                    Failure::Gone(_) => return Err(failure),
                };
                return Err(PgError::new(
                    crate::wire::SqlState::parse(failure.code()).unwrap_or(crate::wire::SqlState::INTERNAL_ERROR),
                    format!("the statement failed on shard {name}: {reason}"),
                )
                .detail(format!("It is done on {}; it runs shard by shard.", done.join(", ")))
                .hint("Mend the cause and run it again where it is missing (SET ringway.shard), or undo it.")
                .into());
            }
        }
    }
    report(executor).await;
    Ok(Completed { tag, ..Completed::default() })
}

/// Runs it on one shard; the client sees the notices of the first only.
async fn on_shard(
    executor: &mut Executor,
    admitted: &Admitted,
    shard: ShardId,
    sql: &str,
    fenced: bool,
    notices: bool,
) -> Result<Option<String>, Failure> {
    let everywhere = executor.only_shard.is_none();
    let mut lent = executor.lend_open(&admitted.view, shard, Access::Write).await?;
    if fenced {
        lent.participant.queue_before("SELECT ringway.begin_ddl()");
    }
    let prefix = std::mem::take(&mut lent.participant.prefix);
    let connection = &mut *lent.participant.connection;
    connection.queue_query(sql);
    if fenced {
        // The names of distributed tables, and their keys, are as before, or they are dropped on all shards.
        connection.queue_query(&format!("SELECT ringway.finish_ddl({everywhere})"));
    }
    connection.flush().await?;
    let mut error = drained(connection, prefix).await?;
    let mut tag = None;
    if notices {
        while connection.outstanding > 0 {
            let message = connection.message().await?;
            match message.tag {
                b'N' => executor.client.forward(&message.raw).await?,
                b'E' => {
                    error.get_or_insert(crate::pool::error::ServerError::new(message.raw.slice(5..)));
                }
                b'C' => {
                    let text = message.body().split(|byte| *byte == 0).next().unwrap_or_default();
                    tag.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
                }
                _ => {}
            }
        }
    } else {
        let answers = collect(connection).await?;
        error = error.or(answers.error);
        tag = answers.tags.into_iter().next();
    }
    // Plans that the connection holds may be of the old schema; the server plans them again by itself.
    executor.give_back(lent, &Outcome::default()).await;
    match error {
        Some(error) => Err(Failure::Server(error)),
        None => Ok(tag),
    }
}

/// The schema has changed: a new epoch makes every gateway read the catalog again.
pub async fn report(executor: &mut Executor) {
    let gateway = Arc::clone(&executor.gateway);
    gateway.faults.hit(FaultPoint::DdlCommitted);
    let told = match &gateway.view.control_plane {
        ControlPlane::Linked { endpoint, secret, .. } => tell(endpoint, secret.as_deref(), gateway.id.0).await,
        ControlPlane::Fixed => Err("this gateway serves a fixed cluster".to_owned()),
    };
    match told {
        Ok(epoch) if gateway.view.newer_than(Epoch(epoch.saturating_sub(1)), CATALOG_WAIT).await => {
            gateway.faults.hit(FaultPoint::CatalogReported);
        }
        Ok(epoch) => tracing::warn!(epoch, "the schema's new epoch has not arrived yet"),
        Err(reason) => {
            // This gateway at least must know what its client has just done.
            if let Some(view) = gateway.view.current() {
                if let Err(error) = super::catalog::refresh(&gateway, &view.topology).await {
                    tracing::warn!(%error, "cannot read the catalog after a schema change");
                }
            }
            if !matches!(gateway.view.control_plane, ControlPlane::Fixed) {
                let warning =
                    PgError::warning(format!("the control plane could not be told of the schema change: {reason}"))
                        .hint("Other gateways plan by the old catalog until the next epoch.");
                backend::notice_response(executor.client.out(), &warning);
            }
        }
    }
}

async fn tell(endpoint: &str, secret: Option<&str>, gateway_id: u64) -> Result<u64, String> {
    let channel = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_lazy();
    let wait_ms = CATALOG_WAIT.as_millis() as u64;
    let mut request = tonic::Request::new(v1::CatalogChangedRequest { gateway_id, wait_ms });
    request.set_timeout(CATALOG_WAIT * 2);
    if let Some(secret) = secret {
        let value = secret.parse().map_err(|_| "the secret is not valid in a header".to_owned())?;
        request.metadata_mut().insert("ringway-secret", value);
    }
    let answer = GatewayLinkClient::new(channel).catalog_changed(request).await;
    answer.map(|answer| answer.into_inner().epoch).map_err(|status| status.message().to_owned())
}
