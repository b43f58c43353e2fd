//! COPY FROM STDIN: to one shard as it comes, to every member alike, or split by the rows' keys among their owners.
//!
//! Over several shards it is one transaction. Rows of the client are sent on as they are; only keys are decoded.

mod lines;
mod sink;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use ringway_topology::ids::ShardId;
use ringway_topology::token::{KeyType, Token};

use super::client::Client;
use super::dispatch::{single, Completed, Run};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::forward::copy::{stranger, GATHER_BYTES};
use super::hold::Admitted;
use super::pump::Outcome;
use super::type_oids::refuse_oids_in_copy;
use crate::merge::copy_split::{CopySplit, Piece};
use crate::merge::MergeError;
use crate::plan::types::{Access, CopyDestination, CopyFormat, CopyIn};
use crate::pool::error::ServerError;
use crate::wire::tag::client as from_client;
use crate::wire::{frontend, Frame, PgError};
use lines::Lines;
use sink::{close, End, Sink};

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
    let is_split = split.is_some();
    let is_csv = matches!(copy.format, CopyFormat::Csv { .. });
    let lines = || is_split.then(|| Lines::new(&copy.table.name, is_csv));
    let mut sinks = open(executor, admitted, &copy.sql, &lines).await?;
    executor.takes_copy_data()?;
    let Some((keyspace, key_type, split)) = split else {
        let end = relay::<fn(Token) -> ShardId>(executor, &mut sinks, None).await?;
        return close(executor, sinks, end, None, false).await;
    };
    let topology = &admitted.view.topology;
    let space = topology
        .keyspaces
        .get(&keyspace)
        .ok_or_else(|| Failure::from(PgError::internal("COPY into a keyspace that is not in the topology")))?;
    let owner = |token| space.owner(token);
    let mut splitter = Splitter { split, table: &copy.table.name, key_type, owner: &owner, line: 0 };
    let end = relay(executor, &mut sinks, Some(&mut splitter)).await?;
    close(executor, sinks, end, splitter.split.reading(), true).await
}

struct Splitter<'a, F> {
    split: CopySplit,
    table: &'a str,
    key_type: KeyType,
    owner: &'a F,
    /// The client's last line that has been placed.
    line: u64,
}

/// What comes first while data are relayed.
enum Heard {
    Client(Frame),
    /// A message that has no place among the data.
    Stranger(u8),
    /// The client has to read first.
    Unread,
    Ended,
}

/// Begins the COPY on every shard; the client gets one CopyInResponse.
async fn open(
    executor: &mut Executor,
    admitted: &Admitted,
    sql: &Arc<str>,
    lines: &(dyn Fn() -> Option<Lines> + Sync),
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
                sinks.insert(*id, Sink::new(lent, lines()));
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

async fn relay<F: Fn(Token) -> ShardId>(
    executor: &mut Executor,
    sinks: &mut BTreeMap<ShardId, Sink>,
    mut splitter: Option<&mut Splitter<'_, F>>,
) -> Result<End, Failure> {
    loop {
        let frame = match hear(&mut executor.client, sinks).await? {
            Heard::Client(frame) => frame,
            Heard::Unread => {
                executor.client.flush().await?;
                continue;
            }
            Heard::Ended => return Ok(End::Ended),
            Heard::Stranger(tag) => return Ok(End::Stranger(tag)),
        };
        let placed = match frame.tag() {
            from_client::COPY_DATA => {
                executor.client.progresses();
                match &mut splitter {
                    Some(splitter) => {
                        splitter.split.feed(frame.body());
                        place(splitter, sinks)
                    }
                    None => {
                        for sink in sinks.values_mut() {
                            sink.waiting.extend_from_slice(frame.body());
                        }
                        Ok(())
                    }
                }
            }
            from_client::COPY_DONE => {
                let Some(splitter) = &mut splitter else { return Ok(End::Done) };
                splitter.split.finish();
                if let Err(end) = place(splitter, sinks) {
                    return Ok(end);
                }
                for sink in sinks.values_mut() {
                    sink.waiting.extend_from_slice(splitter.split.epilogue());
                }
                return Ok(End::Done);
            }
            from_client::COPY_FAIL => {
                let reason = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
                return Ok(End::Failed(String::from_utf8_lossy(reason).into_owned()));
            }
            // FLUSH and SYNC are overread while data come.
            _ => Ok(()),
        };
        if let Err(end) = placed {
            return Ok(end);
        }
        for sink in sinks.values_mut().filter(|sink| sink.waiting.len() >= GATHER_BYTES) {
            sink.queue();
        }
    }
}

/// The client's next message, unless a shard ends the COPY first, or has to take what it was sent.
async fn hear(client: &mut Client, sinks: &mut BTreeMap<ShardId, Sink>) -> Result<Heard, Failure> {
    poll_fn(|context| loop {
        let mut full = false;
        for sink in sinks.values_mut() {
            if sink.poll_said(client, context)?.is_ready() {
                return Poll::Ready(Ok(Heard::Ended));
            }
            full |= !sink.lent.participant.connection.output().is_empty();
        }
        if !client.out().is_empty() {
            return Poll::Ready(Ok(Heard::Unread));
        }
        if full {
            return client.poll_gone(context).map(|()| Err(Failure::Gone(None)));
        }
        if let Some(tag) = stranger(client) {
            return Poll::Ready(Ok(Heard::Stranger(tag)));
        }
        if let Some(frame) = client.try_frame()? {
            return Poll::Ready(Ok(Heard::Client(frame)));
        }
        match client.poll_fill(context)? {
            Poll::Ready(0) => return Poll::Ready(Err(Failure::Gone(None))),
            Poll::Ready(_) => {}
            Poll::Pending => {
                // The shards look at what there is meanwhile.
                let queued = sinks.values_mut().filter_map(|sink| sink.queue().then_some(())).count();
                if queued == 0 {
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Puts every whole row where it belongs.
fn place<F: Fn(Token) -> ShardId>(
    splitter: &mut Splitter<'_, F>,
    sinks: &mut BTreeMap<ShardId, Sink>,
) -> Result<(), End> {
    let Splitter { split, table, key_type, owner, line } = splitter;
    let refused = |error: MergeError, given| End::Refused(Box::new(error.of_copy(table)), given);
    loop {
        let piece = match split.next_piece() {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(error) => {
                let given = split.refused().and_then(|row| give(sinks, row, split.line() - *line, split.line()));
                return Err(refused(error, given));
            }
        };
        match piece {
            Piece::Prologue(bytes) => {
                sinks.values_mut().for_each(|sink| sink.waiting.extend_from_slice(bytes));
                let lines = split.line();
                sinks.values_mut().for_each(|sink| sink.add_header_lines(lines));
            }
            // Whichever shard gets it refuses the COPY with PostgreSQL's words.
            Piece::Short(bytes) => {
                let bytes = bytes.to_vec();
                let ends = split.line();
                give(sinks, &bytes, ends - *line, ends);
            }
            Piece::Row(row) => {
                let lines = row.line - *line;
                let key = match row.key_value(*key_type) {
                    Ok(key) => key,
                    Err(error) => return Err(refused(error, give(sinks, row.bytes, lines, row.line))),
                };
                let owner = owner(key.token());
                let Some(sink) = sinks.get_mut(&owner) else {
                    let error = PgError::internal(format!("shard {owner} owns a row but takes no part"));
                    return Err(End::Refused(Box::new(error), None));
                };
                sink.add(row.bytes, lines, row.line);
            }
        }
        *line = split.line();
    }
}

/// Any shard gets a row that is wrong.
fn give(sinks: &mut BTreeMap<ShardId, Sink>, row: &[u8], lines: u64, client: u64) -> Option<ShardId> {
    let (shard, sink) = sinks.iter_mut().next()?;
    sink.add(row, lines, client);
    Some(*shard)
}
