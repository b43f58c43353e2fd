//! What goes to a shard in front of a statement: BEGIN, what the transaction has set so far, checks of the gateway's own.
//!
//! It is sent with the statement, as messages of the extended protocol without a Sync of their own: if one of them fails, PostgreSQL
//! discards all messages up to the statement's Sync, so nothing runs outside the transaction. A simple query behind them is discarded
//! too, and then a Sync has to be sent for it ([`ServerConnection::end_failed_group`]).

use std::future::poll_fn;
use std::task::{ready, Context, Poll};

use bytes::Bytes;

use super::answers::queue_part;
use super::bound::{forget_prepared, make_room_for};
use super::client::Client;
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::pump::poll_fill;
use super::transaction::{begin_id, begin_statement, Participant};
use super::view::View;
use crate::plan::types::{Access, TransactionModes};
use crate::pool::connection::{ServerConnection, TransactionStatus, MESSAGE_BYTES_MAX};
use crate::pool::error::{PoolError, ServerError};
use crate::wire::{frontend, Format};
use ringway_topology::ids::ShardId;

impl Participant {
    /// Queues BEGIN, which stays prepared on the connection.
    pub fn queue_begin(&mut self, modes: &TransactionModes) {
        let connection = &mut *self.connection;
        let id = begin_id(modes);
        let name = id.server_name();
        connection.begins = Some(id);
        if connection.prepared.get(&id).is_none() {
            make_room_for(connection, 1);
            frontend::parse(connection.output(), &name, &begin_statement(modes), &[]);
            // If it does not become that, the connection is not used again.
            connection.prepared.put(id, ());
        }
        let output = connection.output();
        frontend::bind(output, "", &name, [], [] as [Option<&[u8]>; 0], [] as [Format; 0]);
        frontend::execute(output, "", 0);
        self.counts_one();
    }

    /// Queues one statement, which gives no rows that anybody wants.
    pub fn queue_before(&mut self, sql: &str) {
        queue_part(&mut self.connection, sql, &[]);
        self.counts_one();
    }

    fn counts_one(&mut self) {
        self.connection.in_group = true;
        self.prefix += 1;
    }
}

impl Executor {
    /// As [`Executor::lend`], for who sends simple queries of its own: what goes before them has been answered.
    pub async fn lend_open(&mut self, view: &View, id: ShardId, access: Access) -> Result<Lent, Failure> {
        let mut lent = self.lend(view, id, access).await?;
        let count = std::mem::take(&mut lent.participant.prefix);
        if count == 0 {
            return Ok(lent);
        }
        let connection = &mut *lent.participant.connection;
        connection.queue_sync();
        let answered = async {
            let error = drained(connection, count).await?;
            connection.settle().await?;
            Ok::<_, Failure>(error)
        };
        match answered.await {
            Ok(None) => Ok(lent),
            Ok(Some(error)) => {
                self.transaction.lent -= 1;
                self.transaction.failed = true;
                self.transaction.participants.insert(lent.shard, lent.participant);
                Err(Failure::Server(error))
            }
            Err(failure) => {
                self.transaction.failed = true;
                Err(failure)
            }
        }
    }
}

/// Reads the answers to `count` requests in front of a statement; the error that has made the shard discard the rest. The end of the
/// group is still to come then.
pub async fn drained(connection: &mut ServerConnection, mut count: u32) -> Result<Option<ServerError>, Failure> {
    let all = count;
    loop {
        let error = taken(connection, &mut count, all)?;
        if error.is_some() || count == 0 {
            return Ok(error);
        }
        connection.fill().await?;
    }
}

/// The same while the client is there: the answers come with those of a statement, however long that takes.
pub async fn drained_for(
    connection: &mut ServerConnection,
    client: &mut Client,
    mut count: u32,
) -> Result<Option<ServerError>, Failure> {
    let all = count;
    poll_fn(|context| loop {
        let error = taken(connection, &mut count, all)?;
        if error.is_some() || count == 0 {
            return Poll::Ready(Ok(error));
        }
        match connection.poll_fill(context) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => return client.poll_gone(context).map(|()| Err(Failure::Gone(None))),
        }
    })
    .await
}

/// The answer to BEGIN, when nothing else goes before a statement. False: it is none, and is left for [`drained_for`]. Cancel-safe.
pub fn poll_begun(
    connection: &mut ServerConnection,
    client: &mut Client,
    context: &mut Context<'_>,
) -> Poll<Result<bool, Failure>> {
    loop {
        while let Some((tag, length)) = connection.header_at(0) {
            if tag == b'E' || length > MESSAGE_BYTES_MAX {
                return Poll::Ready(Ok(false));
            }
            if connection.input().len() < length {
                break;
            }
            connection.consume(length);
            if tag == b'C' {
                return Poll::Ready(Ok(true));
            }
        }
        ready!(poll_fill(connection, client, context))?;
    }
}

/// The first of what goes before a statement has failed: BEGIN, if no transaction is open.
pub fn first_failed(connection: &mut ServerConnection, error: &ServerError) {
    if connection.status != TransactionStatus::Idle {
        return;
    }
    connection.retires = true;
    match (error.code(), connection.begins) {
        ("26000", _) => forget_prepared(connection),
        ("42P05", Some(id)) => {
            connection.prepared.put(id, ());
        }
        _ => {}
    }
}

/// Takes what has arrived, up to the last of `count` answers, of `all`, or an error.
fn taken(connection: &mut ServerConnection, count: &mut u32, all: u32) -> Result<Option<ServerError>, Failure> {
    while *count > 0 {
        let Some((tag, length)) = connection.header_at(0) else { break };
        if length > MESSAGE_BYTES_MAX {
            connection.broken = true;
            return Err(PoolError::Protocol.into());
        }
        if connection.input().len() < length {
            break;
        }
        let error = (tag == b'E').then(|| ServerError::new(Bytes::copy_from_slice(&connection.input()[5..length])));
        connection.consume(length);
        if error.is_some() {
            if let Some(error) = error.as_ref().filter(|_| *count == all) {
                first_failed(connection, error);
            }
            return Ok(error);
        }
        *count -= u32::from(tag == b'C');
    }
    Ok(None)
}
