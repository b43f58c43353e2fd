//! The clients that are logged in: for SHOW CLIENTS and KILL, and what the gateway tells their sessions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::task::AtomicWaker;

use super::cancel::CancelSlot;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing runs, no transaction is open.
    Idle,
    /// A statement runs, or a transaction is open.
    Active,
    /// For a connection to a shard, or the end of a pause.
    Waiting,
}

impl Activity {
    pub fn name(self) -> &'static str {
        match self {
            Activity::Idle => "idle",
            Activity::Active => "active",
            Activity::Waiting => "waiting",
        }
    }
}

#[derive(Debug)]
pub struct ClientEntry {
    /// As in BackendKeyData.
    pub number: u32,
    pub user: Box<str>,
    pub database: Box<str>,
    /// As in its startup packet.
    pub application_name: Box<str>,
    pub address: Option<SocketAddr>,
    pub connected: SystemTime,
    activity: AtomicU8,
    orders: Orders,
    pub cancel: Arc<CancelSlot>,
}

/// What a session has been told. Its own task asks whenever it waits, so that asking takes no lock.
#[derive(Debug, Default)]
struct Orders {
    told: AtomicU8,
    /// Of the session's task.
    waker: AtomicWaker,
}

/// End as soon as no transaction is open.
const LEAVE: u8 = 1;
/// End.
const KILL: u8 = 2;

impl Orders {
    fn tell(&self, order: u8) {
        self.told.fetch_or(order, Ordering::Release);
        self.waker.wake();
    }

    fn poll(&self, context: &Context<'_>, orders: u8) -> Poll<()> {
        let is_told = || self.told.load(Ordering::Acquire) & orders != 0;
        if is_told() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // Told between the look and the waker.
        match is_told() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl ClientEntry {
    pub fn new(number: u32, user: &str, database: &str, cancel: Arc<CancelSlot>) -> Self {
        ClientEntry {
            number,
            user: user.into(),
            database: database.into(),
            application_name: "".into(),
            address: None,
            connected: SystemTime::now(),
            activity: AtomicU8::new(Activity::Idle as u8),
            orders: Orders::default(),
            cancel,
        }
    }

    pub fn set(&self, activity: Activity) {
        self.activity.store(activity as u8, Ordering::Relaxed);
    }

    pub fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Active,
            _ => Activity::Waiting,
        }
    }

    /// Ends the session; what it runs is cancelled.
    pub async fn kill(&self) {
        self.end();
        self.cancel.cancel().await;
    }

    /// Ends the session as soon as it waits for its client.
    pub fn end(&self) {
        self.orders.tell(KILL);
    }

    /// The session ends as soon as no transaction is open.
    pub fn leave(&self) {
        self.orders.tell(LEAVE);
    }

    /// Ready when the session is to end. Only for the session's own task.
    pub fn poll_killed(&self, context: &Context<'_>) -> Poll<()> {
        self.orders.poll(context, KILL)
    }

    /// Ready when the session is to end now that no transaction is open. Only for the session's own task.
    pub fn poll_leaves(&self, context: &Context<'_>) -> Poll<()> {
        self.orders.poll(context, KILL | LEAVE)
    }
}

#[derive(Debug, Default)]
pub struct Clients {
    clients: Mutex<BTreeMap<u32, Arc<ClientEntry>>>,
}

impl Clients {
    fn clients(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<ClientEntry>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, entry: Arc<ClientEntry>) {
        self.clients().insert(entry.number, entry);
    }

    pub fn remove(&self, number: u32) {
        self.clients().remove(&number);
    }

    pub fn find(&self, number: u32) -> Option<Arc<ClientEntry>> {
        self.clients().get(&number).cloned()
    }

    /// The longest connected first.
    pub fn all(&self) -> Vec<Arc<ClientEntry>> {
        let mut all: Vec<Arc<ClientEntry>> = self.clients().values().cloned().collect();
        all.sort_by_key(|entry| entry.connected);
        all
    }
}
