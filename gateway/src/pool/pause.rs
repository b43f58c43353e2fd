//! PAUSE and RESUME: while the pools are paused, no transaction begins on a shard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::error::PoolError;

#[derive(Debug, Default)]
pub struct Pause {
    on: AtomicBool,
    over: Notify,
}

impl Pause {
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    /// False: it was on already.
    pub fn begin(&self) -> bool {
        !self.on.swap(true, Ordering::SeqCst)
    }

    /// False: it was not on.
    pub fn end(&self) -> bool {
        let was_on = self.on.swap(false, Ordering::SeqCst);
        self.over.notify_waiters();
        was_on
    }

    /// Waits for its end, within `limit`. Cancel-safe.
    pub async fn over(&self, database: &str, limit: Duration) -> Result<(), PoolError> {
        let waiting = async {
            loop {
                let over = self.over.notified();
                if !self.is_on() {
                    return;
                }
                over.await;
            }
        };
        tokio::time::timeout(limit, waiting)
            .await
            .map_err(|_| PoolError::Paused { database: database.to_owned(), waited_ms: limit.as_millis() as u64 })
    }
}
