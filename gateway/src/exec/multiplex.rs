//! Multiplexing: point reads of several clients over one connection to a shard.
//!
//! Those that come in one turn of a thread's runtime are sent in one write. Neighbours that read the same table make a group with one
//! Sync, so that the shard answers them in one write, too; a [`Carrier`] receives the answers of its [`Batch`] and gives each out as it
//! came. That saves most of a write and of a read per statement, on both sides, and the shard most of a wake-up.
//!
//! A group is one transaction of the shard, whose statements have all arrived before it begins: each sees what was committed before
//! it was sent, whatever the isolation level. It locks one table, and only the first read can wait for that: in a transaction of several tables
//! a read would wait while those before it keep their locks, and whoever changes both tables could be the victim of the deadlock.
//!
//! Nothing is shown of an answer before all of it is here. When something is not plain (an error, a large answer, a late one, a lost connection),
//! the read runs again the ordinary way, on a connection of its own: a point read changes nothing, so that is exact. What waits
//! behind a read that does not come back waits for [`PATIENCE`] at most.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{poll_fn, Future as _};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ringway_topology::model::TableName;
use smallvec::SmallVec;
use tokio::time::Sleep;

use super::bound::forget_prepared;
use super::cancel::CancelSlot;
use super::type_oids::Incoming;
use crate::pool::connection::{ServerConnection, StatementId, MESSAGE_BYTES_MAX};
use crate::pool::error::field;
use crate::pool::settings::Settings;
use crate::pool::{Claim, Pool, ReadyConn};

/// A larger answer comes to its client as it arrives, over a connection of its own.
const ANSWER_BYTES_MAX: usize = 8 << 10;
/// What is kept of a session's buffer between two answers.
const KEPT_BYTES_MAX: usize = 512;
/// When no answer has come for so long, the batch's reads run again, each for itself.
const PATIENCE: Duration = Duration::from_millis(50);
/// After that, for so long an answer may come that nobody waits for; then it is cancelled, and the connection closed.
const ABANDONED_MAX: Duration = Duration::from_secs(1);
/// When no answer has come for so long, no more reads join.
const JOIN_MAX: Duration = Duration::from_millis(5);
/// Reads join for so long: then the connection goes back to its pool, where it may be waited for, or be too old.
const BATCH_MAX: Duration = Duration::from_millis(100);
/// Carriers of a thread that wait for a batch.
const IDLE_CARRIERS_MAX: usize = 64;
/// A statement whose read was not plain has this many of them run the ordinary way before one shares a connection again.
const ALONE_READS: u32 = 1_000;

/// Whether a statement's reads may share connections at present.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Reads that have to go alone before that.
    alone: AtomicU32,
}

impl Sharing {
    /// Asked once for each read.
    pub fn is_allowed(&self) -> bool {
        let left = self.alone.load(Ordering::Relaxed);
        if left > 0 {
            self.alone.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    pub fn forbid(&self) {
        self.alone.store(ALONE_READS, Ordering::Relaxed);
    }
}

/// How a read in a batch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer is here, ReadyForQuery included.
    Answered,
    /// It has to run again the ordinary way. `was_plain`: it was others that were in its way.
    Again { was_plain: bool },
}

/// ReadyForQuery, outside a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// One session's read in a batch. A session has at most one on its way.
#[derive(Debug, Default)]
pub struct SharedRead {
    state: Mutex<ReadState>,
}

#[derive(Debug, Default)]
struct ReadState {
    answer: BytesMut,
    end: Option<End>,
    waker: Option<Waker>,
}

impl SharedRead {
    fn state(&self) -> MutexGuard<'_, ReadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancel-safe.
    pub fn poll(&self, context: &Context<'_>) -> Poll<End> {
        let mut state = self.state();
        if let Some(end) = state.end.take() {
            return Poll::Ready(end);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Once it has been answered.
    pub fn take_answer<R>(&self, show: impl FnOnce(&[u8]) -> R) -> R {
        let mut state = self.state();
        let shown = show(&state.answer);
        match state.answer.capacity() <= KEPT_BYTES_MAX {
            true => state.answer.clear(),
            false => state.answer = BytesMut::new(),
        }
        shown
    }

    fn give(&self, end: End, answer: &[u8]) {
        let mut state = self.state();
        state.answer.extend_from_slice(answer);
        if end == End::Answered {
            state.answer.extend_from_slice(READY);
        }
        state.end = Some(end);
        if let Some(waker) = &state.waker {
            waker.wake_by_ref();
        }
    }
}

thread_local! {
    static THREAD: RefCell<Carriers> = RefCell::default();
}

/// A thread's carriers.
#[derive(Default)]
struct Carriers {
    /// Those that have a batch.
    busy: Vec<Arc<Carrier>>,
    idle: Vec<Arc<Carrier>>,
}

/// What joins a batch.
pub struct Joining<'a> {
    pub read: &'a Arc<SharedRead>,
    /// What it reads.
    pub table: &'a TableName,
    /// What has to be prepared for it.
    pub statement: Option<StatementId>,
    pub settings: &'a Settings,
    /// Its client has sent a simple query: it is not told of Bind.
    pub is_simple: bool,
}

/// Puts a read behind those on their way over a connection of the pool that has the session's settings. False: there is none. `write`
/// queues the read without a Sync, and gives the statement back if it has queued its Parse, too.
pub fn join(
    pool: &Arc<Pool>,
    joining: &Joining<'_>,
    write: impl FnOnce(&mut ServerConnection) -> Option<StatementId>,
) -> bool {
    THREAD.with_borrow(|carriers| {
        for carrier in &carriers.busy {
            let mut state = carrier.state();
            let Some(batch) = state.batch.as_mut().filter(|batch| Arc::ptr_eq(batch.connection.pool(), pool)) else {
                continue;
            };
            if !batch.has_room() || !is_fit(&mut batch.connection, joining) {
                continue;
            }
            batch.add(joining, write);
            if std::mem::take(&mut batch.is_sent) {
                state.wake();
            }
            return true;
        }
        false
    })
}

/// No other statement has to be closed for it.
fn is_fit(connection: &mut ServerConnection, joining: &Joining<'_>) -> bool {
    let ServerConnection { prepared, statements_max, .. } = connection;
    let has_room = |statement| prepared.get(&statement).is_some() || prepared.len() < *statements_max;
    connection.settings.as_ref() == Some(joining.settings) && joining.statement.is_none_or(has_room)
}

/// Begins a batch, if an idle connection is fit for it. It is sent at the end of this turn of the
/// thread's runtime. `client`: whom the connection works for, as SHOW SERVERS tells it.
pub fn begin(
    pool: &Arc<Pool>,
    joining: &Joining<'_>,
    client: u32,
    write: impl FnOnce(&mut ServerConnection) -> Option<StatementId>,
) -> bool {
    let reads_max = pool.shared_reads_max();
    if reads_max < 2 {
        return false;
    }
    let Some(mut connection) = pool.try_checkout(Claim::First) else { return false };
    if !is_fit(&mut connection, joining) {
        return false;
    }
    connection.works_for(client);
    connection.own_oids = false;
    let mut batch = Batch::new(connection, reads_max);
    batch.add(joining, write);
    THREAD.with_borrow_mut(|carriers| {
        let carrier = carriers.idle.pop().unwrap_or_else(Carrier::start);
        let mut state = carrier.state();
        state.batch = Some(batch);
        state.wake();
        drop(state);
        carriers.busy.push(carrier);
    });
    true
}

/// A task that sends batches and gives out their answers, one batch at a time.
#[derive(Debug)]
struct Carrier {
    state: Mutex<CarrierState>,
}

#[derive(Debug)]
struct CarrierState {
    batch: Option<Batch>,
    waker: Option<Waker>,
    patience: Patience,
}

impl CarrierState {
    fn wake(&self) {
        // A new one is polled anyway.
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Carrier {
    fn start() -> Arc<Carrier> {
        let state = CarrierState { batch: None, waker: None, patience: Patience::new() };
        let carrier = Arc::new(Carrier { state: Mutex::new(state) });
        let carrying = Arc::clone(&carrier);
        tokio::spawn(poll_fn(move |context| carrying.poll(context)));
        carrier
    }

    fn state(&self) -> MutexGuard<'_, CarrierState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when enough others are idle.
    fn poll(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        let CarrierState { batch, waker, patience } = &mut *state;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        let Some(carried) = batch else { return Poll::Pending };
        carried.is_sent = true;
        carried.end_group();
        if carried.poll(context).is_pending() && patience.poll(carried, context).is_pending() {
            return Poll::Pending;
        }
        // The connection goes back, or is closed.
        *batch = None;
        THREAD.with_borrow_mut(|carriers| {
            carriers.busy.retain(|carrier| !Arc::ptr_eq(carrier, self));
            if carriers.idle.len() >= IDLE_CARRIERS_MAX {
                return Poll::Ready(());
            }
            carriers.idle.push(Arc::clone(self));
            Poll::Pending
        })
    }
}

/// Wakes a carrier whose answers do not come. Set once in that time at most, however many batches there are.
#[derive(Debug)]
struct Patience {
    timer: Pin<Box<Sleep>>,
    /// None: it is not set.
    due: Option<Instant>,
}

impl Patience {
    fn new() -> Patience {
        Patience { timer: Box::pin(tokio::time::sleep(PATIENCE)), due: None }
    }

    /// Ready when the batch is over because nobody waits for it any longer.
    fn poll(&mut self, batch: &mut Batch, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.due {
                Some(due) if Instant::now() < due => return Poll::Pending,
                Some(_) => {}
                None => {
                    self.timer.as_mut().reset(batch.due().into());
                    self.due = Some(batch.due());
                }
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.due = None;
            if Instant::now() < batch.due() {
                continue;
            }
            if batch.is_abandoned {
                batch.cancel();
                return Poll::Ready(());
            }
            batch.abandon();
        }
    }
}

/// A read that has not been answered.
#[derive(Debug)]
struct Waiting {
    read: Arc<SharedRead>,
    /// The gateway has had its statement prepared: the client is not told.
    prepares: Option<StatementId>,
    is_simple: bool,
    /// The last of its group.
    is_last: bool,
}

/// Reads on their way over one connection.
#[derive(Debug)]
struct Batch {
    connection: ReadyConn,
    /// Those that have not been answered, in order.
    reads: VecDeque<Waiting>,
    /// No more than so many at a time.
    reads_max: usize,
    /// The carrier has seen all of them.
    is_sent: bool,
    began: Instant,
    /// When it was sent, or an answer has come last, or it was abandoned.
    since: Instant,
    /// Nobody waits for its answers.
    is_abandoned: bool,
    /// The table of the group that has no Sync yet.
    table: Option<TableName>,
    /// How much of the input has been looked at.
    scanned: usize,
    /// How much of it, and of what follows, belongs to nobody.
    skipped: usize,
    group: GroupAnswer,
    oids: Incoming,
}

/// What there is of the first group's answer.
#[derive(Debug, Default)]
struct GroupAnswer {
    /// Where in the input the answers are that are here whole.
    answers: SmallVec<[Range<usize>; 8]>,
    /// Where the next one begins.
    begins: usize,
    /// So many have ended, the odd ones included.
    ended: usize,
    /// The first that cannot be given out as it is: none of the group is.
    odd: Option<usize>,
}

impl GroupAnswer {
    fn is_odd(&mut self) {
        self.odd.get_or_insert(self.ended);
    }
}

/// The connection is of no use any more, or what comes over it not what was expected.
struct Lost;

impl Batch {
    fn new(connection: ReadyConn, reads_max: usize) -> Batch {
        let now = Instant::now();
        Batch {
            connection,
            reads: VecDeque::new(),
            reads_max,
            is_sent: false,
            began: now,
            since: now,
            is_abandoned: false,
            table: None,
            scanned: 0,
            skipped: 0,
            group: GroupAnswer::default(),
            oids: Incoming::default(),
        }
    }

    fn add(&mut self, joining: &Joining<'_>, write: impl FnOnce(&mut ServerConnection) -> Option<StatementId>) {
        if self.table.as_ref() != Some(joining.table) {
            self.end_group();
            self.table = Some(joining.table.clone());
        }
        let prepares = write(&mut self.connection);
        if let Some(statement) = prepares {
            // Whoever follows relies on it.
            self.connection.prepared.put(statement, ());
        }
        let Joining { read, is_simple, .. } = *joining;
        self.reads.push_back(Waiting { read: Arc::clone(read), prepares, is_simple, is_last: false });
    }

    /// What comes next is another transaction.
    fn end_group(&mut self) {
        if self.table.take().is_some() {
            self.connection.queue_sync();
            if let Some(last) = self.reads.back_mut() {
                last.is_last = true;
            }
        }
    }

    /// Whether one more read would not wait long.
    fn has_room(&self) -> bool {
        if self.is_abandoned || self.reads.len() >= self.reads_max {
            return false;
        }
        let now = Instant::now();
        now.duration_since(self.since) < JOIN_MAX && now.duration_since(self.began) < BATCH_MAX
    }

    /// When something should have come.
    fn due(&self) -> Instant {
        self.since + if self.is_abandoned { ABANDONED_MAX } else { PATIENCE }
    }

    /// Ready when all has been answered, or the connection is lost.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.connection.outstanding > 0 {
            let received = match self.connection.poll_fill(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(received) => received.map_err(|_| Lost).and_then(|()| self.give_out()),
            };
            if received.is_err() {
                self.connection.broken = true;
                // The first one may be to blame.
                self.let_go();
                return Poll::Ready(());
            }
        }
        Poll::Ready(())
    }

    /// Gives out the answers of groups that have arrived whole.
    fn give_out(&mut self) -> Result<(), Lost> {
        self.skip();
        while let Some((tag, length)) = self.connection.header_at(self.scanned) {
            let end = self.scanned + length;
            if end - self.group.begins > ANSWER_BYTES_MAX {
                if length > MESSAGE_BYTES_MAX || !matches!(tag, b'T' | b'D') {
                    return Err(Lost);
                }
                self.group.is_odd();
                self.skipped = end;
                self.skip();
                continue;
            }
            if end > self.connection.input().len() {
                break;
            }
            if tag == b'Z' {
                self.answered(end)?;
                continue;
            }
            self.look(tag, end)?;
            self.scanned = end;
        }
        Ok(())
    }

    /// Drops what there is of a row that is too large, and of its group.
    fn skip(&mut self) {
        if self.skipped > 0 {
            let here = self.skipped.min(self.connection.input().len());
            self.connection.consume(here);
            self.skipped -= here;
            self.scanned = 0;
            self.group.begins = 0;
            self.group.answers.clear();
        }
    }

    /// A message that ends at `end` of the input.
    fn look(&mut self, tag: u8, end: usize) -> Result<(), Lost> {
        if self.connection.is_foreign() && self.oids.changes(tag) {
            let oids = Arc::clone(&self.connection.oids);
            let body = self.connection.body_mut(self.scanned..end);
            if !self.oids.translates(&oids, tag, body) {
                self.group.is_odd();
            }
        }
        match tag {
            b'1' => {
                let waiting = self.reads.get_mut(self.group.ended);
                if waiting.is_some_and(|waiting| waiting.prepares.take().is_some()) {
                    self.group.begins = end;
                }
                Ok(())
            }
            b'C' | b'I' | b's' => {
                self.group.answers.push(self.group.begins..end);
                self.group.begins = end;
                self.group.ended += 1;
                self.oids = Incoming::default();
                Ok(())
            }
            b'2' => {
                if self.reads.get(self.group.ended).is_some_and(|waiting| waiting.is_simple) {
                    self.group.begins = end;
                }
                Ok(())
            }
            b'T' | b'n' | b'D' => Ok(()),
            b'E' => {
                self.group.is_odd();
                self.connection.unnamed = None;
                self.forget_unprepared();
                // Somebody has deallocated it behind our back, as a function can.
                if field(&self.connection.input()[self.scanned + 5..end], b'C') == Some("26000") {
                    forget_prepared(&mut self.connection);
                }
                Ok(())
            }
            b'N' => {
                self.group.is_odd();
                Ok(())
            }
            _ => Err(Lost),
        }
    }

    /// After an error the shard passes over the rest of the group.
    fn forget_unprepared(&mut self) {
        for waiting in self.reads.range(self.group.ended.min(self.reads.len())..) {
            if let Some(statement) = waiting.prepares {
                self.connection.prepared.pop(&statement);
            }
            if waiting.is_last {
                break;
            }
        }
    }

    /// The answer of a group ends at `end` of the input.
    fn answered(&mut self, end: usize) -> Result<(), Lost> {
        let status = self.connection.input()[end - 1];
        if status != b'I' {
            return Err(Lost);
        }
        let group = std::mem::take(&mut self.group);
        let mut answers = group.answers.into_iter();
        for index in 0.. {
            let Some(Waiting { read, is_last, .. }) = self.reads.pop_front() else { break };
            match (group.odd, answers.next()) {
                (None, Some(answer)) => read.give(End::Answered, &self.connection.input()[answer]),
                (None, None) => return Err(Lost),
                (Some(odd), _) => read.give(End::Again { was_plain: index != odd }, &[]),
            }
            if is_last {
                break;
            }
        }
        self.connection.consume(end);
        self.connection.ready_for_query(status);
        self.oids = Incoming::default();
        self.scanned = 0;
        self.since = Instant::now();
        Ok(())
    }

    /// Whoever waits runs again.
    fn let_go(&mut self) {
        for (index, waiting) in self.reads.drain(..).enumerate() {
            // Whether it will have been prepared, nobody looks at.
            self.connection.retires |= waiting.prepares.is_some();
            waiting.read.give(End::Again { was_plain: index > 0 }, &[]);
        }
    }

    fn abandon(&mut self) {
        self.let_go();
        self.is_abandoned = true;
        self.since = Instant::now();
    }

    /// What the shard still runs for nobody. The request may arrive late: the connection is closed.
    fn cancel(&mut self) {
        self.connection.broken = true;
        let slot = CancelSlot::default();
        slot.add(&self.connection);
        tokio::spawn(async move { slot.cancel().await });
    }
}
