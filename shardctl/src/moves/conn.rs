//! One session of the service role on a shard: every wait on it is bounded.
//!
//! A session whose statement was not answered within its bound is `broken` and must not be used again; dropping it closes the
//! connection, upon which the server rolls back.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage, SimpleQueryRow};

use super::error::MoveError;
use super::limits::MoveLimits;
use crate::pg::ServiceClient;

pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Rows of a chunk travel in messages of about this size.
const COPY_BLOCK_BYTES: usize = 64 << 10;

pub struct ShardConn {
    client: ServiceClient,
    /// For messages: the shard's name.
    pub shard: String,
    pub statement_timeout: Duration,
    pub long_statement_timeout: Duration,
    row_lock_timeout_ms: u64,
    chunk_lock_timeout_ms: u64,
    locked_wait: Duration,
    /// Another session waits, with locks that applications need, for what this one does.
    keeps_others_waiting: bool,
    ran: BTreeSet<String>,
    broken: bool,
}

impl ShardConn {
    pub fn new(client: ServiceClient, shard: &str, limits: &MoveLimits) -> ShardConn {
        ShardConn {
            client,
            shard: shard.to_owned(),
            statement_timeout: Duration::from_millis(limits.statement_timeout_ms),
            long_statement_timeout: Duration::from_millis(limits.long_statement_timeout_ms),
            row_lock_timeout_ms: limits.row_lock_timeout_ms,
            chunk_lock_timeout_ms: limits.chunk_lock_timeout_ms,
            locked_wait: Duration::from_millis(limits.locked_wait_ms),
            keeps_others_waiting: false,
            ran: BTreeSet::new(),
            broken: false,
        }
    }

    /// While true, no statement is waited for longer than `locked_wait_ms`: the other shard's rows are locked meanwhile.
    pub fn keep_others_waiting(&mut self, keeps: bool) {
        self.keeps_others_waiting = keeps;
    }

    fn bounded(&self, limit: Duration) -> Duration {
        if self.keeps_others_waiting {
            limit.min(self.locked_wait)
        } else {
            limit
        }
    }

    pub fn is_usable(&self) -> bool {
        !self.broken && !self.client.is_closed()
    }

    fn answered<T>(
        &mut self,
        limit: Duration,
        answer: Result<Result<T, tokio_postgres::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, MoveError> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.broken |= error.is_closed();
                Err(named(&self.shard, error.into()))
            }
            Err(_) => {
                self.broken = true;
                Err(unanswered(&self.shard, limit))
            }
        }
    }

    pub async fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, MoveError> {
        let limit = self.bounded(self.statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.query(sql, params)).await;
        self.answered(limit, answer)
    }

    /// For statements whose time grows with the table.
    pub async fn query_long(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, MoveError> {
        let limit = self.bounded(self.long_statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.query(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn one(&mut self, sql: &str, params: Params<'_>) -> Result<Row, MoveError> {
        let limit = self.bounded(self.statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.query_one(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<u64, MoveError> {
        let limit = self.bounded(self.statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.execute(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn execute_long(&mut self, sql: &str, params: Params<'_>) -> Result<u64, MoveError> {
        let limit = self.bounded(self.long_statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.execute(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn batch(&mut self, sql: &str) -> Result<(), MoveError> {
        let limit = self.bounded(self.statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.batch_execute(sql)).await;
        self.answered(limit, answer)
    }

    /// Several statements in one round trip; each one's rows, in order. The first error ends them.
    pub async fn rows_of(&mut self, statements: &str) -> Result<Vec<Vec<SimpleQueryRow>>, MoveError> {
        let limit = self.bounded(self.statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.simple_query(statements)).await;
        let mut of_statements = Vec::new();
        let mut rows = Vec::new();
        for message in self.answered(limit, answer)? {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(row),
                SimpleQueryMessage::CommandComplete(_) => of_statements.push(std::mem::take(&mut rows)),
                _ => {}
            }
        }
        Ok(of_statements)
    }

    /// Statements whose time grows with what they find.
    pub async fn batch_long(&mut self, sql: &str) -> Result<(), MoveError> {
        let limit = self.bounded(self.long_statement_timeout);
        let answer = tokio::time::timeout(limit, self.client.batch_execute(sql)).await;
        self.answered(limit, answer)
    }

    /// A transaction that locks the rows of a chunk.
    pub async fn begin_chunk(&mut self) -> Result<(), MoveError> {
        // It writes nothing but locks: nobody needs to wait for the disk at its end.
        self.batch(&format!("{}; SET LOCAL synchronous_commit = off", begin(self.chunk_lock_timeout_ms))).await
    }

    /// Runs the statements unless this session has run them before. Outside a transaction.
    pub async fn batch_once(&mut self, statements: String) -> Result<(), MoveError> {
        if !self.ran.contains(&statements) {
            self.batch(&statements).await?;
            self.ran.insert(statements);
        }
        Ok(())
    }

    /// A transaction whose waits for locks are bounded.
    pub async fn begin(&mut self) -> Result<(), MoveError> {
        self.begin_with(self.row_lock_timeout_ms).await
    }

    pub async fn begin_with(&mut self, lock_timeout_ms: u64) -> Result<(), MoveError> {
        self.batch(&begin(lock_timeout_ms)).await
    }

    /// The statements in a transaction of their own, in one round trip. For what may as well happen twice: a lost answer
    /// leaves open whether it has happened.
    pub async fn transaction(&mut self, lock_timeout_ms: u64, statements: &str) -> Result<(), MoveError> {
        let done = self.batch(&format!("{}; {statements}; COMMIT", begin(lock_timeout_ms))).await;
        if done.is_err() {
            self.rollback().await;
        }
        done
    }

    pub async fn commit(&mut self) -> Result<(), MoveError> {
        self.batch("COMMIT").await
    }

    /// After whatever failure: the session is clean again, or no longer usable.
    pub async fn rollback(&mut self) {
        if self.is_usable() && self.batch("ROLLBACK").await.is_err() {
            self.broken = true;
        }
    }

    /// Streams COPY text from this session into another, undecoded; answers bytes and rows. Both statements have been answered
    /// when this returns.
    pub async fn copy_into(&mut self, out: &str, into: &mut ShardConn, input: &str) -> Result<(u64, u64), MoveError> {
        let limit = self.long_statement_timeout;
        let answer_max = into.bounded(limit);
        let work = async {
            let reading = self.client.copy_out(out).await.map_err(|error| named(&self.shard, error.into()))?;
            let writing = in_time(answer_max, &into.shard, into.client.copy_in::<_, Bytes>(input)).await?;
            futures_util::pin_mut!(reading, writing);
            let mut bytes = 0;
            // One message for many rows.
            let mut block = BytesMut::with_capacity(COPY_BLOCK_BYTES);
            while let Some(data) = reading.next().await {
                let data = data.map_err(|error| named(&self.shard, error.into()))?;
                bytes += data.len() as u64;
                block.extend_from_slice(&data);
                if block.len() >= COPY_BLOCK_BYTES {
                    in_time(answer_max, &into.shard, writing.send(block.split().freeze())).await?;
                }
            }
            if !block.is_empty() {
                in_time(answer_max, &into.shard, writing.send(block.freeze())).await?;
            }
            let rows = in_time(answer_max, &into.shard, writing.as_mut().finish()).await?;
            Ok::<_, MoveError>((bytes, rows))
        };
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(copied)) => Ok(copied),
            Ok(Err(error)) => {
                // Without an answer both are in the middle of something.
                if error.is_in_doubt() {
                    self.broken = true;
                    into.broken = true;
                }
                Err(error)
            }
            Err(_) => {
                self.broken = true;
                into.broken = true;
                Err(MoveError::retry(format!("a chunk took longer than {} ms", limit.as_millis())))
            }
        }
    }
}

/// Begins a transaction whose waits for locks are bounded.
pub fn begin(lock_timeout_ms: u64) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}", lock_timeout_ms.max(1))
}

/// A truth value in the text form in which [`ShardConn::rows_of`] gives it.
pub fn is_true(of_statement: &[SimpleQueryRow]) -> bool {
    of_statement.first().and_then(|row| row.get(0)) == Some("t")
}

async fn in_time<T>(
    limit: Duration,
    shard: &str,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, MoveError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| named(shard, error.into())),
        Err(_) => Err(unanswered(shard, limit)),
    }
}

fn unanswered(shard: &str, limit: Duration) -> MoveError {
    MoveError::Postgres { code: None, text: format!("shard {shard} did not answer within {} ms", limit.as_millis()) }
}

fn named(shard: &str, error: MoveError) -> MoveError {
    match error {
        MoveError::Postgres { code, text } => MoveError::Postgres { code, text: format!("shard {shard}: {text}") },
        other => other,
    }
}
