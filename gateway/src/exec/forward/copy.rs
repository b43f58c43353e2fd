//! COPY FROM STDIN on one shard: the client's data go there as they come, and what the shard says meanwhile goes to the client.
//!
//! As PostgreSQL has it, a Sync or Flush among the data is overread, also the one behind Execute; the message behind CopyDone or CopyFail
//! is the session's. An error ends the COPY at once, and what is left of the data is dropped by the session.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use super::{pump, Exchange, Executor, Failure, Lent};
use crate::exec::client::{Capture, Client};
use crate::pool::connection::ServerConnection;
use crate::pool::error::ServerError;
use crate::wire::tag::client as from_client;
use crate::wire::{backend, frontend, Frame, PgError, SqlState, Target};

/// What waits for a shard at most before more is taken from the client, and a message.
pub const GATHER_BYTES: usize = 64 << 10;
/// A statement that nobody has prepared.
const NO_STATEMENT: &str = "ringway_none";

/// Ends a COPY whose client has sent something else.
const SENT_SOMETHING_ELSE: &str = "the client has sent something else";

/// What comes first while data are relayed.
enum Heard {
    Client(Frame),
    /// A message that has no place among the data.
    Stranger(u8),
    /// The client has to read first.
    Unread,
    /// The shard has ended the COPY.
    Ended,
}

impl Exchange {
    /// From the shard's CopyInResponse to the end of its answer.
    pub(super) async fn copy_in(&mut self, lent: &mut Lent, executor: &mut Executor) -> Result<(), Failure> {
        let synced = executor.takes_copy_data()?;
        executor.client.flush().await?;
        let mut after = None;
        loop {
            match self.hear(lent, executor).await? {
                Heard::Stranger(tag) => {
                    frontend::copy_fail(lent.participant.connection.output(), SENT_SOMETHING_ELSE);
                    after = Some(tag);
                    break;
                }
                Heard::Unread => executor.client.flush().await?,
                Heard::Ended => break,
                Heard::Client(frame) => {
                    let output = lent.participant.connection.output();
                    match frame.tag() {
                        from_client::COPY_DATA => {
                            executor.client.progresses();
                            output.extend_from_slice(frame.bytes());
                        }
                        from_client::COPY_DONE | from_client::COPY_FAIL => {
                            output.extend_from_slice(frame.bytes());
                            break;
                        }
                        // FLUSH and SYNC are overread.
                        _ => {}
                    }
                }
            }
        }
        let mut unread = true;
        if lent.participant.connection.outstanding > 0 {
            unread = false;
            frontend::sync(lent.participant.connection.output());
            match after {
                Some(tag) => self.refuse_stranger(lent, executor, tag).await?,
                None => {
                    let (pumped, progress) = self.pumped(lent, executor);
                    pump(progress, pumped).await?;
                }
            }
        }
        self.progress = None;
        if self.outcome.error.is_some() && !unread {
            unread = has_another_end(&mut lent.participant.connection).await?;
        }
        executor.synced = synced && unread;
        Ok(())
    }

    /// What is wrong with the data goes first, and the message is the session's then. Else it ends the session.
    async fn refuse_stranger(&mut self, lent: &mut Lent, executor: &mut Executor, tag: u8) -> Result<(), Failure> {
        let capture = Capture { bytes: BytesMut::new(), bytes_max: GATHER_BYTES, too_large };
        let before = executor.client.exchange_capture(Some(capture));
        let (pumped, progress) = self.pumped(lent, executor);
        let done = pump(progress, pumped).await;
        let answer = executor.client.exchange_capture(before).map(|capture| capture.bytes).unwrap_or_default();
        done?;
        match &self.outcome.error {
            Some(error) if !is_answer_to_fail(error, SENT_SOMETHING_ELSE) => {
                executor.client.keep(&answer)?;
                executor.client.set_due();
                Ok(())
            }
            _ => Err(unexpected(executor, tag)),
        }
    }

    async fn hear(&mut self, lent: &mut Lent, executor: &mut Executor) -> Result<Heard, Failure> {
        poll_fn(|context| loop {
            if !is_full(lent) {
                if let Some(tag) = stranger(&executor.client) {
                    return Poll::Ready(Ok(Heard::Stranger(tag)));
                }
                if let Some(frame) = executor.client.try_frame()? {
                    return Poll::Ready(Ok(Heard::Client(frame)));
                }
            }
            let (mut pumped, progress) = self.pumped(lent, executor);
            match progress.poll(&mut pumped, context)? {
                Poll::Ready(true) => return Poll::Ready(Ok(Heard::Ended)),
                Poll::Ready(false) => return Poll::Ready(Ok(Heard::Unread)),
                Poll::Pending if self.outcome.error.is_some() => return Poll::Ready(Ok(Heard::Ended)),
                Poll::Pending if !executor.client.out().is_empty() => return Poll::Ready(Ok(Heard::Unread)),
                // The shard wakes the task when it takes more. Looked at now: what it has taken meanwhile, nobody tells.
                Poll::Pending if is_full(lent) => return Poll::Pending,
                Poll::Pending => {}
            }
            if let Some(tag) = stranger(&executor.client) {
                return Poll::Ready(Ok(Heard::Stranger(tag)));
            }
            if let Some(frame) = executor.client.try_frame()? {
                return Poll::Ready(Ok(Heard::Client(frame)));
            }
            match executor.client.poll_fill(context)? {
                Poll::Ready(0) => return Poll::Ready(Err(Failure::Gone(None))),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        })
        .await
    }
}

/// Whether the shard has to take what waits for it first.
fn is_full(lent: &mut Lent) -> bool {
    lent.participant.connection.output().len() >= GATHER_BYTES
}

fn too_large(bytes_max: usize) -> PgError {
    PgError::internal(format!("a COPY was ended with more than {bytes_max} bytes of notices"))
}

impl Executor {
    /// The client is asked for COPY data: a Sync that is here already is overread (gives whether there was one), and any other message
    /// is wrong.
    pub fn takes_copy_data(&mut self) -> Result<bool, Failure> {
        match self.behind.take() {
            Some(tag) => Err(unexpected(self, tag)),
            None => Ok(std::mem::take(&mut self.synced)),
        }
    }
}

/// Tag of the client's next message, if it is here and has no place among COPY data.
pub fn stranger(client: &Client) -> Option<u8> {
    use from_client::{COPY_DATA, COPY_DONE, COPY_FAIL, FLUSH, SYNC};
    client.peek_tag().filter(|tag| !matches!(*tag, COPY_DATA | COPY_DONE | COPY_FAIL | FLUSH | SYNC))
}

/// Whether an error of a shard says nothing but that the COPY was failed for this reason.
pub fn is_answer_to_fail(error: &ServerError, reason: &str) -> bool {
    error.code() == SqlState::QUERY_CANCELED.as_str() && error.field(b'M').is_some_and(|said| said.ends_with(reason))
}

/// PostgreSQL does not know where such a message ends, and ends the session.
pub fn unexpected(executor: &mut Executor, tag: u8) -> Failure {
    let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
    backend::error_response(executor.client.out(), &PgError::new(SqlState::PROTOCOL_VIOLATION, message));
    let message = "terminating connection because protocol synchronization was lost";
    Failure::Gone(Some(Box::new(PgError::fatal(SqlState::PROTOCOL_VIOLATION, message))))
}

/// After an error: whether the Sync behind Execute has been answered too, because the COPY failed before it read anything (in a trigger).
async fn has_another_end(connection: &mut ServerConnection) -> Result<bool, Failure> {
    frontend::close(connection.output(), Target::Statement, NO_STATEMENT);
    connection.queue_sync();
    let mut another = false;
    loop {
        match connection.message().await?.tag {
            b'Z' => another = true,
            b'3' => break,
            _ => {}
        }
    }
    connection.outstanding = 1;
    connection.settle().await?;
    Ok(another)
}
