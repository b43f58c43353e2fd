//! A connection as its pool keeps it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use super::connection::ServerConnection;
use super::thread::Thread;

#[derive(Debug)]
pub struct Server {
    pub connection: ServerConnection,
    pub info: std::sync::Arc<ServerInfo>,
    /// Of its pool when it was opened.
    pub generation: u64,
    pub opened: Instant,
    /// Where it was opened.
    pub thread: Thread,
    /// The server may end it then (`idle_session_timeout`): it is not used any more from shortly before.
    pub use_until: Option<Instant>,
}

/// What can be told of a connection while somebody else uses it.
#[derive(Debug)]
pub struct ServerInfo {
    /// Unique in this process.
    pub number: u64,
    pub process_id: i32,
    pub opened: SystemTime,
    /// Whom it works for; 0: nobody, or the gateway itself.
    pub client: AtomicU32,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl ServerInfo {
    pub fn new(process_id: i32) -> ServerInfo {
        ServerInfo {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            process_id,
            opened: SystemTime::now(),
            client: AtomicU32::new(0),
        }
    }
}

impl Server {
    pub fn new(connection: ServerConnection, generation: u64) -> Server {
        let info = std::sync::Arc::new(ServerInfo::new(connection.process_id));
        Server { connection, info, generation, opened: Instant::now(), thread: Thread::current(), use_until: None }
    }

    /// Nobody uses it from now on.
    pub fn rest(&mut self, now: Instant) {
        self.connection.trim();
        self.connection.idle_since = now;
        self.info.client.store(0, Ordering::Relaxed);
        let limit = self.connection.settings.as_ref().and_then(|settings| settings.idle_session_timeout());
        self.use_until = limit.map(|limit| now + limit / 2);
    }

    /// Whether it may be lent, as far as can be seen without waiting.
    pub fn is_usable(&mut self) -> bool {
        self.use_until.is_none_or(|end| Instant::now() < end) && self.connection.is_alive()
    }

    pub fn is_older(&self, now: Instant, lifetime_ms: u64) -> bool {
        lifetime_ms != 0 && now.saturating_duration_since(self.opened).as_millis() as u64 > lifetime_ms
    }
}
