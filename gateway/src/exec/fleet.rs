//! One request to each of several shards at once, and their answers as they come.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringway_topology::ids::ShardId;

use super::answers::queue_call;
use super::bound::{keep_account, put_back, queue_execute, Bound};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::prefix::first_failed;
use super::pump::{Expect, Outcome};
use super::result_type::changed;
use super::type_oids;
use super::view::View;
use crate::plan::types::Access;
use crate::pool::connection::{Message, ServerConnection};
use crate::pool::error::{field, ServerError};
use crate::wire::{backend, Frame, PgError};
use ringway_topology::service::sqlstate;

/// What one shard is sent.
pub struct ShardRequest {
    pub shard: ShardId,
    pub bound: Bound,
    /// Instead of the bound statement's own text.
    pub text: Option<String>,
    pub describe: bool,
    /// Answered before the statement, in its transaction.
    pub before: Vec<String>,
}

/// The connections of one statement that runs on several shards.
pub struct Fleet {
    view: Arc<View>,
    ships: Vec<Ship>,
    columns: Columns,
    pub error: Option<ServerError>,
    began: Instant,
}

/// The types that the shards' columns have to be of.
enum Columns {
    Any,
    /// Those of the shard that is first.
    Alike,
    Of(Vec<u32>),
}

struct Ship {
    lent: Lent,
    outcome: Outcome,
    expects: VecDeque<Expect>,
    done: bool,
    /// It has answered the Bind.
    is_bound: bool,
    /// It was asked for its columns because of OIDs in the rows; nobody else wants them.
    hides_columns: bool,
    rows: u64,
    /// It took so long to answer.
    elapsed: Duration,
}

impl Ship {
    fn new(mut lent: Lent, expects: VecDeque<Expect>) -> Ship {
        let outcome = Outcome { told: lent.participant.told.take(), ..Outcome::default() };
        Ship {
            lent,
            expects,
            outcome,
            done: false,
            is_bound: false,
            hides_columns: false,
            rows: 0,
            elapsed: Duration::ZERO,
        }
    }
}

impl Fleet {
    fn new(view: &Arc<View>, shards: usize) -> Fleet {
        let ships = Vec::with_capacity(shards);
        Fleet { view: Arc::clone(view), ships, columns: Columns::Any, error: None, began: Instant::now() }
    }

    /// Sends everything, in the order of the shards' numbers, without waiting in between.
    pub async fn launch(
        executor: &mut Executor,
        view: &Arc<View>,
        access: Access,
        requests: Vec<ShardRequest>,
    ) -> Result<Fleet, Failure> {
        let mut ready = Vec::with_capacity(requests.len());
        for request in requests {
            type_oids::learn_own(executor, view, request.shard).await?;
            let bound = type_oids::bound_for(executor, view, request.shard, &request.bound).await?.into_owned();
            ready.push(ShardRequest { bound, ..request });
        }
        let mut fleet = Fleet::new(view, ready.len());
        for request in ready {
            let mut lent = match executor.lend(view, request.shard, access).await {
                Ok(lent) => lent,
                Err(failure) => {
                    fleet.abandon(executor).await;
                    return Err(failure);
                }
            };
            for statement in &request.before {
                lent.participant.queue_before(statement);
            }
            let connection = &mut *lent.participant.connection;
            let mut expects = VecDeque::new();
            let text = request.text.as_deref();
            let describe = request.describe || request.bound.bind.is_some();
            let queued = queue_execute(connection, &mut expects, &request.bound, text, describe, "", 0);
            connection.queue_sync();
            let sent = connection.try_flush();
            fleet.ships.push(Ship { hides_columns: !request.describe, ..Ship::new(lent, expects) });
            if let Err(failure) = queued.map_err(Failure::from).and(sent.map_err(Failure::from)) {
                fleet.abandon(executor).await;
                return Err(failure);
            }
        }
        Ok(fleet)
    }

    /// A statement without rows to each.
    pub async fn launch_texts(
        executor: &mut Executor,
        view: &Arc<View>,
        access: Access,
        texts: Vec<(ShardId, String)>,
    ) -> Result<Fleet, Failure> {
        let mut fleet = Fleet::new(view, texts.len());
        for (shard, text) in texts {
            let write = |connection: &mut ServerConnection| queue_call(connection, &text, &[]);
            fleet.embark(executor, view, access, shard, write).await?;
        }
        Ok(fleet)
    }

    /// Messages of the extended protocol to each; their Sync follows.
    pub async fn launch_with<W: FnOnce(&mut ServerConnection)>(
        executor: &mut Executor,
        view: &Arc<View>,
        access: Access,
        writes: Vec<(ShardId, W)>,
    ) -> Result<Fleet, Failure> {
        let mut fleet = Fleet::new(view, writes.len());
        for (shard, write) in writes {
            let synced = |connection: &mut ServerConnection| {
                write(connection);
                connection.queue_sync();
            };
            fleet.embark(executor, view, access, shard, synced).await?;
        }
        Ok(fleet)
    }

    /// One more shard is sent something; if that fails, all is given up.
    async fn embark(
        &mut self,
        executor: &mut Executor,
        view: &Arc<View>,
        access: Access,
        shard: ShardId,
        write: impl FnOnce(&mut ServerConnection),
    ) -> Result<(), Failure> {
        let mut lent = match executor.lend(view, shard, access).await {
            Ok(lent) => lent,
            Err(failure) => {
                std::mem::replace(self, Fleet::new(view, 0)).abandon(executor).await;
                return Err(failure);
            }
        };
        let connection = &mut *lent.participant.connection;
        write(connection);
        let sent = connection.try_flush();
        self.ships.push(Ship::new(lent, VecDeque::new()));
        if let Err(failure) = sent {
            std::mem::replace(self, Fleet::new(view, 0)).abandon(executor).await;
            return Err(failure.into());
        }
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.ships.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ships.is_empty()
    }

    pub fn shard(&self, index: usize) -> ShardId {
        self.ships[index].lent.shard
    }

    pub fn connection(&mut self, index: usize) -> &mut ServerConnection {
        &mut self.ships[index].lent.participant.connection
    }

    pub fn is_done(&self, index: usize) -> bool {
        self.ships[index].done
    }

    /// The next message of any shard; None when all have answered.
    pub async fn next(&mut self, executor: &mut Executor) -> Result<Option<(usize, Message)>, Failure> {
        loop {
            let mut busy = false;
            for index in 0..self.ships.len() {
                while !self.ships[index].done {
                    busy = true;
                    let Some(message) = self.take(executor, index).await? else { break };
                    if let Some(message) = self.seen(executor, index, message) {
                        return Ok(Some((index, message)));
                    }
                }
            }
            if !busy || self.ships.iter().all(|ship| ship.done) {
                return Ok(None);
            }
            let waits = executor.trace.is_some().then(Instant::now);
            let ships = &mut self.ships;
            let client = &mut executor.client;
            poll_fn(|context| {
                let mut any = false;
                for ship in ships.iter_mut().filter(|ship| !ship.done) {
                    match ship.lent.participant.connection.poll_fill(context) {
                        Poll::Ready(Ok(())) => any = true,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                        Poll::Pending => {}
                    }
                }
                if any {
                    Poll::Ready(Ok(()))
                } else {
                    client.poll_gone(context).map(|()| Err(Failure::Gone(None)))
                }
            })
            .await?;
            waited(executor, waits);
        }
    }

    /// The next message of one shard; None when it has answered.
    pub async fn next_of(&mut self, executor: &mut Executor, index: usize) -> Result<Option<Message>, Failure> {
        while !self.ships[index].done {
            let Some(message) = self.take(executor, index).await? else {
                let waits = executor.trace.is_some().then(Instant::now);
                let connection = &mut *self.ships[index].lent.participant.connection;
                super::pump::fill(connection, &mut executor.client).await?;
                waited(executor, waits);
                continue;
            };
            if let Some(message) = self.seen(executor, index, message) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// A message of a shard that has arrived whole, with the OIDs that clients know.
    async fn take(&mut self, executor: &mut Executor, index: usize) -> Result<Option<Message>, Failure> {
        let ship = &mut self.ships[index];
        let connection = &mut *ship.lent.participant.connection;
        let Some(message) = connection.take_message() else { return Ok(None) };
        let prefix = ship.lent.participant.prefix > 0;
        if prefix || !connection.is_foreign() || !ship.outcome.oids.changes(message.tag) {
            return Ok(Some(message));
        }
        let tag = message.tag;
        let mut raw = BytesMut::from(message.raw);
        let oids = Arc::clone(&connection.oids);
        while !ship.outcome.oids.translates(&oids, tag, raw.get_mut(5..).unwrap_or_default()) {
            let shard = ship.lent.shard;
            type_oids::settle(&executor.gateway, &self.view, shard, &mut ship.outcome.oids).await?;
        }
        Ok(Some(Message { tag, raw: raw.freeze() }))
    }

    /// What is none of the caller's business is dealt with here.
    fn seen(&mut self, executor: &mut Executor, index: usize, message: Message) -> Option<Message> {
        let ship = &mut self.ships[index];
        let prefix = ship.lent.participant.prefix > 0;
        match message.tag {
            b'Z' => {
                ship.done = ship.lent.participant.connection.outstanding == 0;
                ship.elapsed = self.began.elapsed();
                None
            }
            b'D' if !prefix => {
                ship.rows += 1;
                Some(message)
            }
            b'E' => {
                let mut error = ServerError::new(message.raw.slice(5..));
                error.at_bind = !prefix && !ship.is_bound;
                if prefix {
                    // The rest of it, and the statement, are discarded.
                    ship.lent.participant.prefix = 0;
                    first_failed(&mut ship.lent.participant.connection, &error);
                    put_back(&mut ship.lent.participant.connection, &ship.expects);
                } else {
                    keep_account(&mut ship.lent.participant.connection, &ship.expects, &error);
                }
                ship.expects.clear();
                ship.outcome.error.get_or_insert(error.clone());
                self.error.get_or_insert(error);
                None
            }
            b'N' => {
                if field(message.body(), b'C') == Some(sqlstate::CAPTURED) {
                    ship.outcome.captured = field(message.body(), b'D').and_then(|xid| xid.parse().ok());
                } else if !prefix {
                    executor.client.out().extend_from_slice(&message.raw);
                }
                None
            }
            b'S' => {
                ship.outcome.settings_changed |= !ship.outcome.is_told(message.body());
                None
            }
            b'C' if prefix => {
                ship.lent.participant.prefix -= 1;
                None
            }
            b'A' => {
                executor.client.out().extend_from_slice(&message.raw);
                None
            }
            _ if prefix => None,
            b'1' => {
                match ship.expects.pop_front() {
                    Some(Expect::Parse { id, named: true, .. }) => {
                        ship.lent.participant.connection.prepared.put(id, ());
                    }
                    _ => ship.lent.participant.connection.unnamed = None,
                }
                None
            }
            b'3' => {
                ship.expects.pop_front();
                None
            }
            b'2' => {
                ship.is_bound = true;
                None
            }
            b'n' | b't' => None,
            b'T' if !self.agrees(message.body()) => None,
            b'T' if self.ships[index].hides_columns => None,
            _ => Some(message),
        }
    }

    /// The shards' columns have to be alike, and of the types that the client has been told of. Before anything is read.
    pub fn expects_columns(&mut self, types: Option<Vec<u32>>) {
        self.columns = types.map_or(Columns::Alike, Columns::Of);
    }

    /// Whether a shard's columns are of the types that are known: a schema change that commits meanwhile is seen by one shard
    /// before another.
    fn agrees(&mut self, description: &[u8]) -> bool {
        let Ok(fields) = backend::parse_row_description(description) else { return true };
        let types = fields.iter().map(|field| field.type_oid);
        let agrees = match &self.columns {
            Columns::Any => true,
            Columns::Alike => {
                self.columns = Columns::Of(types.collect());
                true
            }
            Columns::Of(columns) => types.eq(columns.iter().copied()),
        };
        if !agrees {
            let mut message = BytesMut::new();
            backend::error_response(&mut message, &changed());
            self.error.get_or_insert(ServerError::new(message.freeze().slice(5..)));
        }
        agrees
    }

    /// Everything that is still to come is read and dropped; the connections go back.
    pub async fn finish(mut self, executor: &mut Executor) -> Result<(), Failure> {
        let mut failure = None;
        loop {
            match self.next(executor).await {
                Ok(Some((index, message))) => {
                    if matches!(message.tag, b'G' | b'W') {
                        let connection = self.connection(index);
                        crate::wire::frontend::copy_fail(connection.output(), "given up");
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(failure) = failure {
            executor.transaction.failed |= executor.transaction.is_open();
            return Err(failure);
        }
        for ship in self.ships {
            if let Some(trace) = &mut executor.trace {
                trace.add(ship.lent.shard, ship.rows, ship.elapsed);
            }
            executor.give_back(ship.lent, &ship.outcome).await;
        }
        match self.error {
            Some(error) => Err(Failure::Server(error)),
            None => Ok(()),
        }
    }

    /// Something went wrong while sending: what has been sent is answered and forgotten.
    async fn abandon(self, executor: &mut Executor) {
        executor.transaction.failed |= executor.transaction.is_open();
        if let Err(failure) = self.finish(executor).await {
            tracing::debug!(code = failure.code(), "a statement was given up");
        }
    }
}

/// A shard has been waited for since `waits`, if that is looked at.
fn waited(executor: &mut Executor, waits: Option<Instant>) {
    if let (Some(trace), Some(since)) = (&mut executor.trace, waits) {
        trace.waited += since.elapsed();
    }
}

/// A message as a frame of `wire`.
pub fn frame(message: Message) -> Result<Frame, PgError> {
    Frame::new(message.raw).map_err(PgError::from)
}

/// The command tag of a CommandComplete.
pub fn tag(message: &Message) -> String {
    let text = message.body().split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
