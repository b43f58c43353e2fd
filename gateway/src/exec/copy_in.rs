//! COPY FROM STDIN: to one shard as it comes, to every member alike, or split by the rows' keys among their owners.
//!
//! Over several shards it is one transaction. Rows of the client are sent on as they are; only keys are decoded.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use ringway_topology::ids::ShardId;
use ringway_topology::service::sqlstate;
use ringway_topology::token::KeyType;

use super::client::Client;
use super::dispatch::{single, Completed, Run};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::forward::copy::{unexpected, GATHER_BYTES};
use super::hold::Admitted;
use super::pump::Outcome;
use super::type_oids::refuse_oids_in_copy;
use crate::merge::copy_split::{CopySplit, Piece};
use crate::merge::MergeError;
use crate::plan::types::{Access, CopyDestination, CopyIn};
use crate::pool::error::{field, ServerError};
use crate::wire::backend::CommandTag;
use crate::wire::tag::client as from_client;
use crate::wire::{frontend, Frame, PgError};

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
    executor.takes_copy_data()?;
    let relayed = match split {
        Some((keyspace, key_type, splitter)) => {
            let topology = &admitted.view.topology;
            let space = topology
                .keyspaces
                .get(&keyspace)
                .ok_or_else(|| Failure::from(PgError::internal("COPY into a keyspace that is not in the topology")))?;
            let owner = |token| space.owner(token);
            relay(executor, &mut sinks, Some(Splitter { splitter, key_type, owner: &owner })).await
        }
        None => relay::<fn(ringway_topology::token::Token) -> ShardId>(executor, &mut sinks, None).await,
    };
    close(executor, sinks, relayed?, matches!(copy.destination, CopyDestination::Sharded { .. })).await
}

/// A shard that takes rows.
struct Sink {
    lent: Lent,
    /// Payload of the next CopyData.
    waiting: BytesMut,
    captured: Option<u64>,
    /// What has ended the COPY there.
    error: Option<ServerError>,
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
    /// A row that cannot be placed. A shard that is given it says what is wrong with it, if anybody can say it better.
    Refused(Box<PgError>, Option<ShardId>),
    /// A shard has said what is wrong.
    Ended,
}

/// What comes first while data are relayed.
enum Heard {
    Client(Frame),
    /// The client has to read first.
    Unread,
    Ended,
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
                sinks.insert(*id, Sink { lent, waiting: BytesMut::new(), captured: None, error: None });
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
    mut splitter: Option<Splitter<'_, F>>,
) -> Result<End, Failure> {
    loop {
        let frame = match hear(&mut executor.client, sinks).await? {
            Heard::Client(frame) => frame,
            Heard::Unread => {
                executor.client.flush().await?;
                continue;
            }
            Heard::Ended => return Ok(End::Ended),
        };
        let placed = match frame.tag() {
            from_client::COPY_DATA => {
                executor.client.progresses();
                match &mut splitter {
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
                }
            }
            from_client::COPY_DONE => {
                let Some(splitter) = &mut splitter else { return Ok(End::Done) };
                splitter.splitter.finish();
                if let Err(end) = place(splitter, sinks) {
                    return Ok(end);
                }
                for sink in sinks.values_mut() {
                    sink.waiting.extend_from_slice(splitter.splitter.epilogue());
                }
                return Ok(End::Done);
            }
            from_client::COPY_FAIL => {
                let reason = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
                return Ok(End::Failed(String::from_utf8_lossy(reason).into_owned()));
            }
            // They are overread while data come.
            from_client::FLUSH | from_client::SYNC => Ok(()),
            tag => return Err(unexpected(executor, tag)),
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
        if let Some(frame) = client.try_frame()? {
            return Poll::Ready(Ok(Heard::Client(frame)));
        }
        match client.poll_fill(context)? {
            Poll::Ready(0) => return Poll::Ready(Err(Failure::Gone(None))),
            Poll::Ready(_) => {}
            Poll::Pending => return Poll::Pending,
        }
    })
    .await
}

/// Puts every whole row where it belongs.
fn place<F: Fn(ringway_topology::token::Token) -> ShardId>(
    splitter: &mut Splitter<'_, F>,
    sinks: &mut BTreeMap<ShardId, Sink>,
) -> Result<(), End> {
    let refused = |error: MergeError| End::Refused(Box::new(PgError::from(error)), None);
    while let Some(piece) = splitter.splitter.next_piece().map_err(refused)? {
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
                let key = match row.key_value(splitter.key_type) {
                    Ok(key) => key,
                    Err(error) => {
                        let told = sinks.iter_mut().next().map(|(shard, sink)| {
                            sink.waiting.extend_from_slice(row.bytes);
                            *shard
                        });
                        return Err(End::Refused(Box::new(PgError::from(error)), told));
                    }
                };
                let owner = (splitter.owner)(key.token());
                match sinks.get_mut(&owner) {
                    Some(sink) => sink.waiting.extend_from_slice(row.bytes),
                    None => {
                        let error = PgError::internal(format!("shard {owner} owns a row but takes no part"));
                        return Err(End::Refused(Box::new(error), None));
                    }
                }
            }
        }
    }
    Ok(())
}

impl Sink {
    /// What waits becomes a message.
    fn queue(&mut self) {
        if !self.waiting.is_empty() {
            frontend::copy_data(self.lent.participant.connection.output(), &self.waiting);
            self.waiting.clear();
        }
    }

    /// Sends what is queued; what the shard says goes to the client. Ready at the shard's error, which ends the COPY.
    fn poll_said(&mut self, client: &mut Client, context: &mut Context<'_>) -> Result<Poll<()>, Failure> {
        let connection = &mut *self.lent.participant.connection;
        loop {
            while let Some(message) = connection.take_message() {
                match message.tag {
                    b'E' => self.error = Some(ServerError::new(message.raw.slice(5..))),
                    b'N' if field(message.body(), b'C') == Some(sqlstate::CAPTURED) => {
                        self.captured = field(message.body(), b'D').and_then(|xid| xid.parse().ok());
                    }
                    b'N' => client.keep(&message.raw)?,
                    _ => {}
                }
            }
            if self.error.is_some() {
                return Ok(Poll::Ready(()));
            }
            match connection.poll_fill(context) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }
}

/// Ends the COPY on every shard and adds up what they took.
async fn close(
    executor: &mut Executor,
    mut sinks: BTreeMap<ShardId, Sink>,
    end: End,
    adds_up: bool,
) -> Result<Completed, Failure> {
    let (fail_with, told) = match &end {
        End::Done => (None, None),
        End::Failed(reason) => (Some(reason.clone()), None),
        End::Refused(error, told) => (Some(error.to_string()), *told),
        End::Ended => (Some("another shard refused the COPY".to_owned()), None),
    };
    for (shard, sink) in &mut sinks {
        match fail_with.as_ref().filter(|_| told != Some(*shard)) {
            None => {
                sink.queue();
                frontend::copy_done(sink.lent.participant.connection.output());
            }
            // What it has refused is over there.
            Some(_) if sink.error.is_some() => {}
            Some(reason) => frontend::copy_fail(sink.lent.participant.connection.output(), reason),
        }
    }
    let mut first: Option<(ShardId, ServerError)> = None;
    let mut said = None;
    let mut rows = 0;
    for (shard, mut sink) in sinks {
        let has_said = sink.error.is_some();
        match finish(executor, &mut sink).await? {
            Ok(copied) if adds_up => rows += copied,
            Ok(copied) => rows = copied,
            Err(error) if has_said => said = said.or(Some(error)),
            Err(error) => first = first.or(Some((shard, error))),
        }
        let outcome = Outcome { captured: sink.captured, ..Outcome::default() };
        executor.give_back(sink.lent, &outcome).await;
    }
    let first = first.filter(|(shard, _)| told.is_none() || told == Some(*shard));
    match (end, said, first) {
        (End::Refused(error, None), ..) => Err(Failure::Error(error)),
        (_, Some(error), _) | (_, None, Some((_, error))) => Err(Failure::Server(error)),
        (End::Refused(error, _), ..) => Err(Failure::Error(error)),
        (_, None, None) => Ok(Completed { tag: Some(format!("COPY {rows}")), ..Completed::default() }),
    }
}

async fn finish(executor: &mut Executor, sink: &mut Sink) -> Result<Result<u64, ServerError>, Failure> {
    let connection = &mut *sink.lent.participant.connection;
    let mut result = sink.error.take().map_or(Ok(0), Err);
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
