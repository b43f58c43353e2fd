//! COPY FROM STDIN: to one shard as it comes, to every member alike, or split by the rows' keys among their owners.
//!
//! Over several shards it is one transaction. Rows of the client are sent on as they are; only keys are decoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use ringway_topology::ids::ShardId;
use ringway_topology::service::sqlstate;
use ringway_topology::token::KeyType;

use super::dispatch::{single, Completed, Run};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::hold::Admitted;
use super::pump::Outcome;
use super::type_oids::refuse_oids_in_copy;
use crate::merge::copy_split::{CopySplit, Piece};
use crate::merge::MergeError;
use crate::plan::types::{Access, CopyDestination, CopyIn};
use crate::pool::error::{field, ServerError};
use crate::wire::backend::CommandTag;
use crate::wire::tag::client as from_client;
use crate::wire::{frontend, PgError, SqlState};

/// Rows of a shard are sent when this much is waiting.
const GATHER_BYTES: usize = 64 << 10;

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    copy: &CopyIn,
) -> Result<Completed, Failure> {
    refuse_oids_in_copy(executor, admitted, &copy.format, &copy.columns_sql).await?;
    if let Some(shard) = admitted.placement.single() {
        return single(executor, run, admitted, shard, None).await;
    }
    let split = match &copy.destination {
        CopyDestination::Sharded { keyspace, key_position, columns, key_type } => {
            let limit = executor.gateway.config.limits.copy_row_bytes_max;
            Some((*keyspace, *key_type, CopySplit::new(&copy.format, *key_position, *columns, limit)))
        }
        CopyDestination::EveryMember | CopyDestination::Home => None,
    };
    let mut sinks = open(executor, admitted, &copy.sql).await?;
    let syncs = run.bound.bind.is_some() && executor.synced;
    let relayed = match split {
        Some((keyspace, key_type, splitter)) => {
            let topology = &admitted.view.topology;
            let space = topology
                .keyspaces
                .get(&keyspace)
                .ok_or_else(|| Failure::from(PgError::internal("COPY into a keyspace that is not in the topology")))?;
            let owner = |token| space.owner(token);
            relay(executor, &mut sinks, syncs, Some(Splitter { splitter, key_type, owner: &owner })).await
        }
        None => relay::<fn(ringway_topology::token::Token) -> ShardId>(executor, &mut sinks, syncs, None).await,
    };
    close(executor, sinks, relayed, matches!(copy.destination, CopyDestination::Sharded { .. })).await
}

/// A shard that takes rows.
struct Sink {
    lent: Lent,
    /// Payload of the next CopyData.
    waiting: BytesMut,
    captured: Option<u64>,
}

struct Splitter<'a, F> {
    splitter: CopySplit,
    key_type: KeyType,
    owner: &'a F,
}

/// How the client's data ended.
enum End {
    Done,
    /// CopyFail, with the client's reason.
    Failed(String),
    /// A row that cannot be placed.
    Refused(Box<PgError>),
}

/// Begins the COPY on every shard; the client gets one CopyInResponse.
async fn open(
    executor: &mut Executor,
    admitted: &Admitted,
    sql: &Arc<str>,
) -> Result<BTreeMap<ShardId, Sink>, Failure> {
    let mut sinks: BTreeMap<ShardId, Sink> = BTreeMap::new();
    let mut failure = None;
    let mut response = None;
    for id in &admitted.placement.shards {
        let mut lent = executor.lend_open(&admitted.view, *id, Access::Write).await?;
        match begin(&mut lent, sql).await {
            Ok((message, error)) => {
                response = message.or(response);
                if let Some(error) = error {
                    failure.get_or_insert(Failure::Server(error));
                }
                sinks.insert(*id, Sink { lent, waiting: BytesMut::new(), captured: None });
            }
            Err(error) => return Err(error),
        }
        if failure.is_some() {
            break;
        }
    }
    if let Some(failure) = failure {
        for (_, mut sink) in sinks {
            if sink.lent.participant.connection.outstanding > 0 {
                frontend::copy_fail(sink.lent.participant.connection.output(), "another shard refused the COPY");
                sink.lent.participant.connection.settle().await?;
            }
            executor.give_back(sink.lent, &Outcome::default()).await;
        }
        return Err(failure);
    }
    if let Some(message) = response {
        executor.client.forward(&message).await?;
    }
    executor.client.flush().await?;
    Ok(sinks)
}

/// CopyInResponse, or the shard's error.
async fn begin(lent: &mut Lent, sql: &str) -> Result<(Option<bytes::Bytes>, Option<ServerError>), Failure> {
    let connection = &mut *lent.participant.connection;
    connection.queue_query(sql);
    connection.flush().await?;
    loop {
        let message = connection.message().await?;
        match message.tag {
            b'G' => return Ok((Some(message.raw), None)),
            b'E' => {
                let error = ServerError::new(message.raw.slice(5..));
                connection.settle().await?;
                return Ok((None, Some(error)));
            }
            _ => {}
        }
    }
}

async fn relay<F: Fn(ringway_topology::token::Token) -> ShardId>(
    executor: &mut Executor,
    sinks: &mut BTreeMap<ShardId, Sink>,
    client_syncs: bool,
    mut splitter: Option<Splitter<'_, F>>,
) -> Result<End, Failure> {
    let mut refused: Option<Box<PgError>> = None;
    let mut end = None;
    loop {
        if end.is_some() && !client_syncs {
            break;
        }
        let Some(frame) = executor.client.frame().await? else { return Err(Failure::Gone(None)) };
        match frame.tag() {
            from_client::COPY_DATA if end.is_none() => {
                executor.client.progresses();
                if refused.is_some() {
                    continue;
                }
                let placed = match &mut splitter {
                    Some(splitter) => {
                        splitter.splitter.feed(frame.body());
                        place(splitter, sinks)
                    }
                    None => {
                        for sink in sinks.values_mut() {
                            sink.waiting.extend_from_slice(frame.body());
                        }
                        Ok(())
                    }
                };
                if let Err(error) = placed {
                    refused = Some(error);
                    continue;
                }
                for sink in sinks.values_mut().filter(|sink| sink.waiting.len() >= GATHER_BYTES) {
                    send(sink).await?;
                }
            }
            from_client::COPY_DONE if end.is_none() => {
                if let (Some(splitter), None) = (&mut splitter, &refused) {
                    splitter.splitter.finish();
                    refused = place(splitter, sinks).err();
                    for sink in sinks.values_mut() {
                        sink.waiting.extend_from_slice(splitter.splitter.epilogue());
                    }
                }
                end = Some(End::Done);
            }
            from_client::COPY_FAIL if end.is_none() => {
                let reason = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
                end = Some(End::Failed(String::from_utf8_lossy(reason).into_owned()));
            }
            // The Sync behind Execute is overread while data come; the one behind them ends the pipeline.
            from_client::SYNC if end.is_some() => break,
            from_client::FLUSH | from_client::SYNC => {}
            from_client::TERMINATE => return Err(Failure::Gone(None)),
            tag => {
                let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
                return Err(Failure::Gone(Some(Box::new(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)))));
            }
        }
    }
    Ok(match (refused, end) {
        (Some(error), _) => End::Refused(error),
        (None, Some(end)) => end,
        (None, None) => End::Done,
    })
}

/// Puts every whole row where it belongs.
fn place<F: Fn(ringway_topology::token::Token) -> ShardId>(
    splitter: &mut Splitter<'_, F>,
    sinks: &mut BTreeMap<ShardId, Sink>,
) -> Result<(), Box<PgError>> {
    let boxed = |error: MergeError| Box::new(PgError::from(error));
    while let Some(piece) = splitter.splitter.next_piece().map_err(boxed)? {
        match piece {
            Piece::Prologue(bytes) => {
                for sink in sinks.values_mut() {
                    sink.waiting.extend_from_slice(bytes);
                }
            }
            // Whichever shard gets it refuses the COPY with PostgreSQL's words.
            Piece::Short(bytes) => {
                if let Some(sink) = sinks.values_mut().next() {
                    sink.waiting.extend_from_slice(bytes);
                }
            }
            Piece::Row(row) => {
                let owner = (splitter.owner)(row.key_value(splitter.key_type).map_err(boxed)?.token());
                match sinks.get_mut(&owner) {
                    Some(sink) => sink.waiting.extend_from_slice(row.bytes),
                    None => {
                        return Err(Box::new(PgError::internal(format!("shard {owner} owns a row but takes no part"))))
                    }
                }
            }
        }
    }
    Ok(())
}

async fn send(sink: &mut Sink) -> Result<(), Failure> {
    if !sink.waiting.is_empty() {
        let connection = &mut *sink.lent.participant.connection;
        frontend::copy_data(connection.output(), &sink.waiting);
        sink.waiting.clear();
        connection.flush().await?;
    }
    Ok(())
}

/// Ends the COPY on every shard and adds up what they took.
async fn close(
    executor: &mut Executor,
    sinks: BTreeMap<ShardId, Sink>,
    relayed: Result<End, Failure>,
    adds_up: bool,
) -> Result<Completed, Failure> {
    // Dropping the connections rolls everything back.
    let end = relayed?;
    let fail_with = match &end {
        End::Done => None,
        End::Failed(reason) => Some(reason.clone()),
        End::Refused(error) => Some(error.to_string()),
    };
    let mut failure: Option<Failure> = None;
    let mut rows = 0;
    let mut sinks = sinks;
    for sink in sinks.values_mut() {
        if fail_with.is_none() {
            send(sink).await?;
        }
        let output = sink.lent.participant.connection.output();
        match &fail_with {
            None => frontend::copy_done(output),
            Some(reason) => frontend::copy_fail(output, reason),
        }
        sink.lent.participant.connection.flush().await?;
    }
    for (_, mut sink) in sinks {
        let ended = finish(executor, &mut sink).await?;
        match ended {
            Ok(copied) if adds_up => rows += copied,
            Ok(copied) => rows = copied,
            Err(error) => {
                failure.get_or_insert(Failure::Server(error));
            }
        }
        let outcome = Outcome { captured: sink.captured, ..Outcome::default() };
        executor.give_back(sink.lent, &outcome).await;
    }
    if let End::Refused(error) = end {
        return Err(Failure::Error(error));
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Completed { tag: Some(format!("COPY {rows}")), ..Completed::default() }),
    }
}

async fn finish(executor: &mut Executor, sink: &mut Sink) -> Result<Result<u64, ServerError>, Failure> {
    let connection = &mut *sink.lent.participant.connection;
    let mut result = Ok(0);
    while connection.outstanding > 0 {
        let message = connection.message().await?;
        match message.tag {
            b'C' => {
                if let (Ok(rows), Ok(tag)) = (&mut result, CommandTag::parse(message.body())) {
                    *rows = tag.rows.unwrap_or(0);
                }
            }
            b'E' if result.is_ok() => result = Err(ServerError::new(message.raw.slice(5..))),
            b'N' if field(message.body(), b'C') == Some(sqlstate::CAPTURED) => {
                sink.captured = field(message.body(), b'D').and_then(|xid| xid.parse().ok());
            }
            b'N' => executor.client.forward(&message.raw).await?,
            _ => {}
        }
    }
    Ok(result)
}
