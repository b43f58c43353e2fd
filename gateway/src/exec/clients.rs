//! The clients that are logged in: for SHOW CLIENTS and KILL.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

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
    /// It is to end.
    pub kill: CancellationToken,
    pub cancel: Arc<CancelSlot>,
}

impl ClientEntry {
    pub fn new(number: u32, user: &str, database: &str, cancel: Arc<CancelSlot>, kill: CancellationToken) -> Self {
        ClientEntry {
            number,
            user: user.into(),
            database: database.into(),
            application_name: "".into(),
            address: None,
            connected: SystemTime::now(),
            activity: AtomicU8::new(Activity::Idle as u8),
            kill,
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
        self.kill.cancel();
        self.cancel.cancel().await;
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
