//! Requests of the gateway's own inside a client's transaction, and their answers.

use bytes::Bytes;

use super::failure::Failure;
use crate::pool::connection::{row_values, ServerConnection};
use crate::pool::error::{PoolError, ServerError};
use crate::wire::{frontend, Format};

/// Everything that came back for the requests in flight.
#[derive(Debug, Default)]
pub struct Answers {
    pub error: Option<ServerError>,
    pub tags: Vec<String>,
    /// DataRow messages, headers included.
    pub rows: Vec<Bytes>,
}

impl Answers {
    /// Fails with the first error.
    pub fn check(self) -> Result<Answers, Failure> {
        match self.error {
            Some(error) => Err(Failure::Server(error)),
            None => Ok(self),
        }
    }

    /// The last command was carried out: COMMIT and PREPARE of a failed transaction answer ROLLBACK.
    pub fn ended_with(&self, tag: &str) -> bool {
        self.error.is_none() && self.tags.last().is_some_and(|last| last == tag)
    }

    /// The first value of the first row.
    pub fn value(&self) -> Option<String> {
        let row = row_values(self.rows.first()?.get(5..)?)?;
        let value = (*row.first()?)?;
        String::from_utf8(value.to_vec()).ok()
    }
}

/// Queues a statement with text parameters through the extended protocol: values do not show in the statement's text.
pub fn queue_call(connection: &mut ServerConnection, sql: &str, parameters: &[&str]) {
    queue_part(connection, sql, parameters);
    connection.queue_sync();
}

/// The same without its Sync: one transaction with what comes behind it.
pub fn queue_part(connection: &mut ServerConnection, sql: &str, parameters: &[&str]) {
    let output = connection.output();
    frontend::parse(output, "", sql, &[]);
    frontend::bind(output, "", "", [], parameters.iter().map(|value| Some(value.as_bytes())), [] as [Format; 0]);
    frontend::execute(output, "", 0);
    connection.unnamed = None;
}

/// Reads all answers in flight.
pub async fn collect(connection: &mut ServerConnection) -> Result<Answers, PoolError> {
    let mut answers = Answers::default();
    while connection.outstanding > 0 {
        let message = connection.message().await?;
        match message.tag {
            b'E' => {
                answers.error.get_or_insert(ServerError::new(message.raw.slice(5..)));
            }
            b'C' => {
                let text = message.body().split(|byte| *byte == 0).next().unwrap_or_default();
                answers.tags.push(String::from_utf8_lossy(text).into_owned());
            }
            b'D' => answers.rows.push(message.raw),
            b'G' | b'W' => frontend::copy_fail(connection.output(), "not expected"),
            _ => {}
        }
    }
    Ok(answers)
}

/// Sends a simple query and reads its answers.
pub async fn ask(connection: &mut ServerConnection, sql: &str) -> Result<Answers, PoolError> {
    connection.queue_query(sql);
    collect(connection).await
}
