//! Drives one client: reads its messages, keeps its statements and portals, and has plans run.

pub mod commands;
pub mod extended;
pub mod fast;
pub mod settings;
pub mod simple;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;

use crate::exec::bound::{Bound, Statement};
use crate::exec::commit;
use crate::exec::executor::Executor;
use crate::exec::failure::Failure;
use crate::exec::transaction::Block;
use crate::pool::ReadyConn;
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, PgError, SqlState};
use ringway_topology::ids::ShardId;

/// A bound statement, waiting to be executed.
#[derive(Clone, Debug)]
pub struct Portal {
    pub bound: Arc<Bound>,
    /// The shard that holds it, once it has been sent there.
    pub shard: Option<ShardId>,
    /// Executed to its end by the gateway: a further Execute gives no rows.
    pub finished: bool,
    /// Rows of several shards that wait for the next Execute.
    pub buffered: Option<Buffered>,
}

/// DataRow messages, and the command tag that follows them.
#[derive(Clone, Debug)]
pub struct Buffered {
    pub rows: bytes::BytesMut,
    pub tag: String,
}

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
        }
    }

    /// Until the client leaves or the token is cancelled.
    pub async fn run(&mut self, shutdown: &tokio_util::sync::CancellationToken) -> Result<(), Failure> {
        loop {
            let frame = match self.executor.client.try_frame()? {
                Some(frame) => frame,
                None => {
                    self.executor.client.flush().await?;
                    self.executor.client.trim();
                    let idle = !self.executor.transaction.is_open() && self.batch.is_empty();
                    let Executor { client, pinned, .. } = &mut self.executor;
                    let next = tokio::select! {
                        frame = client.frame() => frame?,
                        told = notices(pinned) => {
                            let told = told.map_err(|_| Failure::Gone(Some(Box::new(session_lost()))))?;
                            self.executor.client.forward(&told).await?;
                            continue;
                        }
                        () = shutdown.cancelled(), if idle => return Err(Failure::Gone(Some(Box::new(shutting_down())))),
                    };
                    match next {
                        Some(frame) => frame,
                        None => return Ok(()),
                    }
                }
            };
            if !self.message(frame).await? {
                return Ok(());
            }
        }
    }

    async fn message(&mut self, frame: Frame) -> Result<bool, Failure> {
        match frame.tag() {
            tag::QUERY => {
                self.skipping = false;
                self.simple_query(frame).await?;
            }
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                if !self.skipping {
                    self.batch_bytes += frame.bytes().len();
                    self.batch.push(frame);
                    if self.batch_bytes > self.executor.gateway.config.limits.pipeline_bytes_max {
                        self.run_batch(false).await?;
                    }
                }
            }
            tag::FLUSH => {
                self.run_batch(false).await?;
                self.executor.client.flush().await?;
            }
            tag::SYNC => self.sync().await?,
            tag::TERMINATE => return Ok(false),
            // Left over from a COPY that has failed: dropped, as PostgreSQL does.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            tag::FUNCTION_CALL => {
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
        }
    }

    pub fn ready(&mut self) {
        let status = self.executor.transaction.status();
        backend::ready_for_query(self.executor.client.out(), status);
    }

    /// Ends an implicit transaction: commits it, or rolls it back if it failed.
    pub async fn end_implicit(&mut self) -> Result<commit::AfterCommit, Failure> {
        if self.executor.transaction.block != Block::Implicit {
            return Ok(commit::AfterCommit::default());
        }
        self.portals.clear();
        if self.executor.transaction.failed {
            commit::roll_back(&mut self.executor).await;
            return Ok(commit::AfterCommit::default());
        }
        commit::commit(&mut self.executor).await
    }

    /// What is owed after a commit, once the client has its answer and before its next statement.
    pub async fn finish_after(&mut self) -> Result<(), Failure> {
        for after in std::mem::take(&mut self.after) {
            if !after.is_empty() {
                // A client that is gone does not keep the rest from being finished.
                let flushed = self.executor.client.flush().await;
                commit::finish(&mut self.executor, after).await;
                flushed?;
            }
        }
        Ok(())
    }

    /// Gives everything back that the session holds.
    pub async fn close(&mut self) {
        if self.executor.transaction.is_open() {
            commit::roll_back(&mut self.executor).await;
        }
        self.executor.close_pinned();
        self.executor.cancel.clear().await;
        self.executor.slot.leave_transaction();
    }
}

/// What a pinned connection says while the session is idle: notifications. Waits for ever when there is nothing. Cancel-safe.
async fn notices(pinned: &mut BTreeMap<ShardId, ReadyConn>) -> Result<BytesMut, Failure> {
    std::future::poll_fn(|context| {
        for connection in pinned.values_mut() {
            let mut told = BytesMut::new();
            loop {
                while let Some(message) = connection.take_message() {
                    if matches!(message.tag, b'A' | b'N' | b'S') {
                        told.extend_from_slice(&message.raw);
                    }
                }
                match connection.poll_fill(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => break,
                }
            }
            if !told.is_empty() {
                return Poll::Ready(Ok(told));
            }
        }
        Poll::Pending
    })
    .await
}

/// What the session kept on its own connection to a shard is gone.
fn session_lost() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "the session's own connection to a shard was lost")
}

pub fn shutting_down() -> PgError {
    PgError::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}
