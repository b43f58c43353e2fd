//! One session of the service role on a shard: every wait on it is bounded.
//!
//! A session whose statement was not answered within its bound is `broken` and must not be used again; dropping it closes the
//! connection, upon which the server rolls back.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_postgres::types::ToSql;
use tokio_postgres::Row;

use super::error::MoveError;
use super::limits::MoveLimits;
use crate::pg::ServiceClient;

pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

pub struct ShardConn {
    client: ServiceClient,
    /// For messages: the shard's name.
    pub shard: String,
    pub statement_timeout: Duration,
    pub long_statement_timeout: Duration,
    row_lock_timeout_ms: u64,
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
            broken: false,
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
                Err(MoveError::Postgres {
                    code: None,
                    text: format!("shard {} did not answer within {} ms", self.shard, limit.as_millis()),
                })
            }
        }
    }

    pub async fn query(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, MoveError> {
        let limit = self.statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.query(sql, params)).await;
        self.answered(limit, answer)
    }

    /// For statements whose time grows with the table.
    pub async fn query_long(&mut self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, MoveError> {
        let limit = self.long_statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.query(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn one(&mut self, sql: &str, params: Params<'_>) -> Result<Row, MoveError> {
        let limit = self.statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.query_one(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn execute(&mut self, sql: &str, params: Params<'_>) -> Result<u64, MoveError> {
        let limit = self.statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.execute(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn execute_long(&mut self, sql: &str, params: Params<'_>) -> Result<u64, MoveError> {
        let limit = self.long_statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.execute(sql, params)).await;
        self.answered(limit, answer)
    }

    pub async fn batch(&mut self, sql: &str) -> Result<(), MoveError> {
        let limit = self.statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.batch_execute(sql)).await;
        self.answered(limit, answer)
    }

    /// Statements whose time grows with what they find.
    pub async fn batch_long(&mut self, sql: &str) -> Result<(), MoveError> {
        let limit = self.long_statement_timeout;
        let answer = tokio::time::timeout(limit, self.client.batch_execute(sql)).await;
        self.answered(limit, answer)
    }

    /// A transaction whose waits for locks are bounded.
    pub async fn begin(&mut self) -> Result<(), MoveError> {
        self.begin_with(self.row_lock_timeout_ms).await
    }

    pub async fn begin_with(&mut self, lock_timeout_ms: u64) -> Result<(), MoveError> {
        self.batch(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}",
            lock_timeout_ms.max(1)
        ))
        .await
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
        let work = async {
            let reading = self.client.copy_out(out).await.map_err(|error| named(&self.shard, error.into()))?;
            let writing = into.client.copy_in::<_, bytes::Bytes>(input).await;
            let writing = writing.map_err(|error| named(&into.shard, error.into()))?;
            futures_util::pin_mut!(reading, writing);
            let mut bytes = 0;
            while let Some(data) = reading.next().await {
                let data = data.map_err(|error| named(&self.shard, error.into()))?;
                bytes += data.len() as u64;
                writing.send(data).await.map_err(|error| named(&into.shard, error.into()))?;
            }
            let rows = writing.as_mut().finish().await.map_err(|error| named(&into.shard, error.into()))?;
            Ok((bytes, rows))
        };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => {
                self.broken = true;
                into.broken = true;
                Err(MoveError::retry(format!("a chunk took longer than {} ms", limit.as_millis())))
            }
        }
    }
}

fn named(shard: &str, error: MoveError) -> MoveError {
    match error {
        MoveError::Postgres { code, text } => MoveError::Postgres { code, text: format!("shard {shard}: {text}") },
        other => other,
    }
}
