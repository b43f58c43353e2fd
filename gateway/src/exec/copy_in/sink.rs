//! A shard that takes rows of a COPY over several shards, and how it ends there.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use ringway_topology::ids::ShardId;
use ringway_topology::service::sqlstate;

use super::lines::{Lines, When};
use crate::exec::client::Client;
use crate::exec::dispatch::Completed;
use crate::exec::executor::{Executor, Lent};
use crate::exec::failure::Failure;
use crate::exec::forward::copy::{is_answer_to_fail, unexpected};
use crate::exec::pump::Outcome;
use crate::pool::error::{field, ServerError};
use crate::wire::backend::CommandTag;
use crate::wire::{frontend, PgError};

pub struct Sink {
    pub lent: Lent,
    /// Payload of the next CopyData.
    pub waiting: BytesMut,
    captured: Option<u64>,
    /// What has ended the COPY there, as the shard has said it.
    error: Option<ServerError>,
    /// Of the rows that it has been given, where they are not all of the client's.
    lines: Option<Lines>,
}

/// How the client's data ended.
pub enum End {
    Done,
    /// CopyFail, with the client's reason.
    Failed(String),
    /// A row that cannot be placed. A shard that is given it says what is wrong with it, if anybody can say it better.
    Refused(Box<PgError>, Option<ShardId>),
    /// A shard has said what is wrong.
    Ended,
    /// A message that has no place among the data comes next.
    Stranger(u8),
}

impl Sink {
    pub fn new(lent: Lent, lines: Option<Lines>) -> Sink {
        Sink { lent, waiting: BytesMut::new(), captured: None, error: None, lines }
    }

    /// It gets a row of so many lines, which ends with this line of the client's.
    pub fn add(&mut self, row: &[u8], lines: u64, client: u64) {
        self.waiting.extend_from_slice(row);
        if let Some(known) = &mut self.lines {
            known.add(row, lines, client);
        }
    }

    /// It has been given the header of so many lines.
    pub fn add_header_lines(&mut self, lines: u64) {
        if let Some(known) = &mut self.lines {
            known.add_header(lines);
        }
    }

    /// What waits becomes a message. False: nothing does.
    pub fn queue(&mut self) -> bool {
        let waits = !self.waiting.is_empty();
        if waits {
            frontend::copy_data(self.lent.participant.connection.output(), &self.waiting);
            self.waiting.clear();
        }
        waits
    }

    /// Sends what is queued; what the shard says goes to the client. Ready at the shard's error, which ends the COPY.
    pub fn poll_said(&mut self, client: &mut Client, context: &mut Context<'_>) -> Result<Poll<()>, Failure> {
        loop {
            while let Some(message) = self.lent.participant.connection.take_message() {
                match message.tag {
                    b'E' => self.error = Some(ServerError::new(message.raw.slice(5..))),
                    b'N' => {
                        if let Some(notice) = self.notice(message.raw.slice(5..)) {
                            client.keep(&notice)?;
                        }
                    }
                    _ => {}
                }
            }
            if self.error.is_some() {
                return Ok(Poll::Ready(()));
            }
            match self.lent.participant.connection.poll_fill(context) {
                Poll::Ready(filled) => filled?,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    /// A notice of the shard's as a message for the client, unless it is meant for the gateway.
    fn notice(&mut self, body: Bytes) -> Option<BytesMut> {
        if field(&body, b'C') == Some(sqlstate::CAPTURED) {
            self.captured = field(&body, b'D').and_then(|xid| xid.parse().ok());
            return None;
        }
        let (body, _) = self.told(body, None);
        let mut message = BytesMut::with_capacity(5 + body.len());
        message.put_u8(b'N');
        message.put_u32(4 + body.len() as u32);
        message.put_slice(&body);
        Some(message)
    }

    /// An error's or a notice's body with the client's lines ([`Lines::told`]).
    fn told(&self, body: Bytes, reading: Option<u64>) -> (Bytes, When) {
        match &self.lines {
            Some(lines) => lines.told(body, reading),
            None => (body, When::LAST),
        }
    }

    /// Reads to the end: how many rows it has taken.
    async fn finish(&mut self, executor: &mut Executor) -> Result<Result<u64, ServerError>, Failure> {
        let mut result = self.error.take().map_or(Ok(0), Err);
        while self.lent.participant.connection.outstanding > 0 {
            let message = self.lent.participant.connection.message().await?;
            match message.tag {
                b'C' => {
                    if let (Ok(rows), Ok(tag)) = (&mut result, CommandTag::parse(message.body())) {
                        *rows = tag.rows.unwrap_or(0);
                    }
                }
                b'E' if result.is_ok() => result = Err(ServerError::new(message.raw.slice(5..))),
                b'N' => {
                    if let Some(notice) = self.notice(message.raw.slice(5..)) {
                        executor.client.forward(&notice).await?;
                    }
                }
                _ => {}
            }
        }
        Ok(result)
    }
}

/// Ends the COPY on every shard and adds up what they took. Of several errors the one that comes first in the client's data is told, as
/// one server finds it. `reading`: the line of the client's that has not ended yet.
pub async fn close(
    executor: &mut Executor,
    mut sinks: BTreeMap<ShardId, Sink>,
    end: End,
    reading: Option<u64>,
    adds_up: bool,
) -> Result<Completed, Failure> {
    let (reason, given) = match &end {
        End::Done => (None, None),
        End::Failed(reason) => (Some(reason.clone()), None),
        End::Refused(error, given) => (Some(error.to_string()), *given),
        End::Ended => (Some("another shard refused the COPY".to_owned()), None),
        End::Stranger(_) => (Some("the client has sent something else".to_owned()), None),
    };
    // What it has refused is over there.
    for (shard, sink) in sinks.iter_mut().filter(|(_, sink)| sink.error.is_none()) {
        sink.queue();
        let output = sink.lent.participant.connection.output();
        match reason.as_ref().filter(|_| given != Some(*shard)) {
            None => frontend::copy_done(output),
            Some(reason) => frontend::copy_fail(output, reason),
        }
    }
    let mut first: Option<(When, ServerError)> = None;
    let mut failed = None;
    let mut rows = 0;
    for (_, mut sink) in sinks {
        match sink.finish(executor).await? {
            Ok(copied) if adds_up => rows += copied,
            Ok(copied) => rows = copied,
            Err(error) => {
                let (body, when) = sink.told(error.body, reading);
                let error = ServerError::new(body);
                if reason.as_ref().is_some_and(|reason| is_answer_to_fail(&error, reason)) {
                    failed.get_or_insert(error);
                } else if first.as_ref().is_none_or(|(before, _)| when < *before) {
                    first = Some((when, error));
                }
            }
        }
        let outcome = Outcome { captured: sink.captured, ..Outcome::default() };
        executor.give_back(sink.lent, &outcome).await;
    }
    match (end, first, failed) {
        (_, Some((_, error)), _) => Err(Failure::Server(error)),
        (End::Refused(error, _), ..) => Err(Failure::Error(error)),
        (End::Stranger(tag), ..) => Err(unexpected(executor, tag)),
        (_, None, Some(error)) => Err(Failure::Server(error)),
        (_, None, None) => Ok(Completed { tag: Some(format!("COPY {rows}")), ..Completed::default() }),
    }
}
