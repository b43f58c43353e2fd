//! Drives one client: reads its messages, keeps its statements and portals, and has plans run.

mod block;
pub mod commands;
pub mod console;
pub mod extended;
pub mod fast;
mod listen;
mod names;
mod own_rows;
mod pipeline;
pub mod portals;
mod query;
pub mod settings;
mod shared;
pub mod simple;

use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use foldhash::{HashMap, HashMapExt as _};

use crate::exec::bound::Statement;
use crate::exec::commit;
use crate::exec::executor::Executor;
use crate::exec::failure::Failure;
use crate::exec::listen::session::heard;
use crate::exec::multiplex::SharedRead;
use crate::exec::transaction::{Block, Participant};
use crate::pool::connection::ServerConnection;
use crate::pool::error::field;
use crate::pool::ReadyConn;
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, Frames, PgError, Severity, SqlState};
use portals::Portal;
use ringway_topology::ids::ShardId;

pub struct Session {
    pub executor: Executor,
    pub statements: HashMap<String, Arc<Statement>>,
    pub portals: HashMap<String, Portal>,
    /// Messages of the pipeline since the last Sync.
    pub batch: Vec<Frame>,
    pub batch_bytes: usize,
    /// An error has been sent: messages up to Sync are dropped.
    pub skipping: bool,
    /// Commits whose other halves are still to be finished.
    pub after: Vec<commit::AfterCommit>,
    /// Of the administrative database.
    pub console: bool,
    /// Its read in a batch, or the last one; None: it has had none.
    read: Option<Arc<SharedRead>>,
}

impl Session {
    pub fn new(executor: Executor) -> Session {
        Session {
            executor,
            statements: HashMap::new(),
            portals: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            skipping: false,
            after: Vec::new(),
            console: false,
            read: None,
        }
    }

    /// Until the client leaves or is told to.
    pub async fn run(&mut self) -> Result<(), Failure> {
        let pipeline_bytes_max = self.executor.gateway.config.limits.pipeline_bytes_max;
        // Runs from the end of one message to that of the next.
        let mut expiry: Option<Expiry> = None;
        loop {
            if self.batch.is_empty() && !self.skipping && !self.console {
                if let Some(pipeline) = self.executor.client.take_pipeline(pipeline_bytes_max) {
                    self.executor.entry.works();
                    match Frames(&pipeline).next().filter(|first| first.tag() == tag::QUERY) {
                        Some(query) => self.query(query).await?,
                        None => self.pipeline(&pipeline).await?,
                    }
                    self.executor.client.recycle(pipeline);
                    expiry = None;
                    continue;
                }
            }
            let copies =
                matches!(self.executor.client.peek_tag(), Some(tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL));
            if copies && !self.batch.is_empty() && !self.skipping {
                // For the COPY before them.
                Box::pin(self.run_batch(false, false)).await?;
                continue;
            }
            let frame = match self.executor.client.try_frame()? {
                Some(frame) => frame,
                None => {
                    self.executor.client.flush().await?;
                    self.executor.client.trim();
                    self.executor.entry.rests();
                    let idle = !self.executor.transaction.is_open() && self.batch.is_empty();
                    if expiry.is_none() {
                        expiry = self.limit().map(|(limit, error)| (Box::pin(tokio::time::sleep(limit)), error));
                    }
                    match wait(&mut self.executor, idle, &mut expiry).await? {
                        Woken::Said => continue,
                        Woken::Told(told) => {
                            self.executor.client.forward(&told).await?;
                            continue;
                        }
                        Woken::Notified => {
                            Box::pin(self.executor.deliver_notifications()).await?;
                            continue;
                        }
                        Woken::Gone => return Ok(()),
                    }
                }
            };
            expiry = None;
            self.executor.entry.works();
            if !self.message(frame).await? {
                return Ok(());
            }
        }
    }

    /// How long the session may be idle from now on, and what it is told then.
    fn limit(&self) -> Option<(Duration, fn() -> PgError)> {
        if !self.batch.is_empty() {
            return None;
        }
        let timeouts = self.executor.timeouts;
        match self.executor.transaction.is_open() {
            true => timeouts.idle_in_transaction.map(|limit| (limit, idle_in_transaction as fn() -> PgError)),
            false => timeouts.idle_session.map(|limit| (limit, idle_session as fn() -> PgError)),
        }
    }

    async fn message(&mut self, frame: Frame) -> Result<bool, Failure> {
        if self.console {
            return Box::pin(self.console_message(frame)).await;
        }
        match frame.tag() {
            // After an error all is dropped up to Sync.
            tag::QUERY | tag::FUNCTION_CALL if self.skipping => {}
            tag::QUERY => {
                Box::pin(self.simple_query(frame)).await?;
            }
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                if !self.skipping {
                    self.batch_bytes += frame.bytes().len();
                    self.batch.push(frame);
                    if self.batch_bytes > self.executor.gateway.config.limits.pipeline_bytes_max {
                        Box::pin(self.run_batch(false, false)).await?;
                    }
                }
            }
            tag::FLUSH => {
                Box::pin(self.run_batch(false, false)).await?;
                self.executor.client.flush().await?;
            }
            tag::SYNC => Box::pin(self.sync(false)).await?,
            tag::TERMINATE => return self.executor.client.flush_due().await.map(|()| false),
            // Left over from a COPY that has failed: dropped, as PostgreSQL does.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            tag::FUNCTION_CALL => {
                if !self.batch.is_empty() {
                    Box::pin(self.run_batch(false, false)).await?;
                }
                if self.skipping {
                    return Ok(true);
                }
                let error =
                    PgError::refused("the function call protocol is not supported", "Use SELECT function(...).");
                self.report(&error.into());
                self.ready();
            }
            other => {
                let message = format!("invalid frontend message type {other}");
                let error = PgError::fatal(SqlState::PROTOCOL_VIOLATION, message);
                return Err(Failure::Gone(Some(Box::new(error))));
            }
        }
        Ok(true)
    }

    /// Sends an error, and notes what it does to the transaction.
    pub fn report(&mut self, failure: &Failure) {
        crate::exec::statistics::Statistics::count(&self.executor.gateway.statistics.errors);
        failure.encode(self.executor.client.out());
        if self.executor.transaction.is_open() {
            self.executor.transaction.failed = true;
            self.executor.settings_failed();
        }
        self.executor.client.set_due();
    }

    /// An error that a shard has told the client itself: the shard has also told what became of settings.
    fn settings_told(&mut self) {
        if self.executor.transaction.failed {
            self.executor.settings_failed();
            self.executor.reports.told();
        }
    }

    pub fn ready(&mut self) {
        self.executor.reports.tell(self.executor.client.out());
        let status = self.executor.transaction.status();
        backend::ready_for_query(self.executor.client.out(), status);
        self.executor.client.set_due();
    }

    /// Ends an implicit transaction: commits it, or rolls it back if it failed.
    pub async fn end_implicit(&mut self) -> Result<commit::AfterCommit, Failure> {
        if self.executor.transaction.block != Block::Implicit {
            return Ok(commit::AfterCommit::default());
        }
        self.portals.clear();
        if self.executor.transaction.failed {
            Box::pin(commit::roll_back(&mut self.executor)).await;
            return Ok(commit::AfterCommit::default());
        }
        Box::pin(commit::commit(&mut self.executor)).await
    }

    /// What is owed after a commit, once the client has its answer and before its next statement.
    pub async fn finish_after(&mut self) -> Result<(), Failure> {
        for after in std::mem::take(&mut self.after) {
            if !after.is_empty() {
                // A client that is gone does not keep the rest from being finished.
                let flushed = self.executor.client.flush().await;
                Box::pin(commit::finish(&mut self.executor, after)).await;
                flushed?;
            }
        }
        Ok(())
    }

    /// Gives everything back that the session holds. `working`: a statement may still run for it.
    pub async fn close(&mut self, working: bool) {
        if working {
            self.executor.cancel.cancel().await;
        }
        if self.executor.transaction.is_open() {
            Box::pin(commit::roll_back(&mut self.executor)).await;
        }
        Box::pin(self.executor.end_pinned()).await;
        self.executor.cancel.clear().await;
        self.executor.slot.leave_transaction();
    }
}

/// What a session that waits for its client hears first.
enum Woken {
    Said,
    /// Messages of its own connections.
    Told(BytesMut),
    /// Of channels that it listens to.
    Notified,
    Gone,
}

/// When the client has been idle for too long, and what it is told then.
type Expiry = (Pin<Box<tokio::time::Sleep>>, fn() -> PgError);

/// `idle`: it may end now if it is told to. Cancel-safe.
async fn wait(executor: &mut Executor, idle: bool, expiry: &mut Option<Expiry>) -> Result<Woken, Failure> {
    let Executor { client, pinned, transaction, entry, listening, .. } = executor;
    let mut hearing = listening.as_ref().map(|listening| Box::pin(heard(listening, idle)));
    std::future::poll_fn(|context| {
        if let Poll::Ready(received) = client.poll_fill(context)? {
            return Poll::Ready(Ok(if received == 0 { Woken::Gone } else { Woken::Said }));
        }
        if let Poll::Ready(told) = poll_notices(pinned, &mut transaction.participants, context) {
            return Poll::Ready(told.map(Woken::Told));
        }
        if hearing.as_mut().is_some_and(|hearing| hearing.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Ok(Woken::Notified));
        }
        let ends = if idle { entry.poll_leaves(context) } else { entry.poll_killed(context) };
        if ends.is_ready() {
            return Poll::Ready(Err(ended(shutting_down())));
        }
        if let Some((expiry, error)) = expiry {
            return expiry.as_mut().poll(context).map(|()| Err(ended(error())));
        }
        Poll::Pending
    })
    .await
}

/// What the session's connections say while it is idle: notifications of pinned ones, and the end of a transaction that has
/// been idle for too long.
fn poll_notices(
    pinned: &mut BTreeMap<ShardId, ReadyConn>,
    participants: &mut BTreeMap<ShardId, Participant>,
    context: &mut Context<'_>,
) -> Poll<Result<BytesMut, Failure>> {
    for participant in participants.values_mut() {
        if let Some(error) = timed_out(&mut participant.connection, context) {
            return Poll::Ready(Err(ended(error)));
        }
    }
    for connection in pinned.values_mut() {
        let mut told = BytesMut::new();
        loop {
            while let Some(message) = connection.take_message() {
                if let Some(error) = last_words(message.tag, message.body()) {
                    return Poll::Ready(Err(ended(error)));
                }
                if matches!(message.tag, b'A' | b'N' | b'S') {
                    told.extend_from_slice(&message.raw);
                }
            }
            match connection.poll_fill(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ended(session_lost()))),
                Poll::Pending => break,
            }
        }
        if !told.is_empty() {
            return Poll::Ready(Ok(told));
        }
    }
    Poll::Pending
}

/// The error with which a server ends a session.
fn last_words(tag: u8, body: &[u8]) -> Option<PgError> {
    if tag != b'E' || !matches!(field(body, b'V'), Some("FATAL" | "PANIC")) {
        return None;
    }
    let fields = crate::wire::ErrorFields::parse(body).ok()?;
    Some(PgError::from(&fields).severity(Severity::Fatal))
}

/// A shard has ended a transaction because it was idle, or open, for too long. What else it says is left for the next
/// statement, which tells it to the client.
fn timed_out(connection: &mut ServerConnection, context: &mut Context<'_>) -> Option<PgError> {
    const TRANSACTION_TIMEOUT: &str = "25P04";
    while !connection.broken {
        match connection.poll_fill(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => break,
            Poll::Pending => return None,
        }
    }
    let mut position = 0;
    while let Some((tag, length)) = connection.header_at(position) {
        let body = connection.input().get(position + 5..position + length)?;
        let error = last_words(tag, body);
        if let Some(error) = error.filter(|error| {
            error.code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT || error.code.as_str() == TRANSACTION_TIMEOUT
        }) {
            return Some(error);
        }
        position += length;
    }
    None
}

fn idle_session() -> PgError {
    PgError::fatal(SqlState::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
}

fn idle_in_transaction() -> PgError {
    PgError::fatal(
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        "terminating connection due to idle-in-transaction timeout",
    )
}

/// The session ends with this error.
fn ended(error: PgError) -> Failure {
    Failure::Gone(Some(Box::new(error)))
}

/// What the session kept on its own connection to a shard is gone.
fn session_lost() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "the session's own connection to a shard was lost")
}

pub fn shutting_down() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}
