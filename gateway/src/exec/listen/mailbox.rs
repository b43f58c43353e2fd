//! Notifications that wait for one client, within a bound.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::wire::{PgError, SqlState};

/// What a notification takes beside its bytes.
const ENTRY_BYTES: usize = 64;

/// One reader: the session. Writers: the links to the shards.
#[derive(Debug)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(Arc<str>, Bytes)>,
    bytes: usize,
    failure: Option<PgError>,
}

impl Waiting {
    fn cost(message: &Bytes) -> usize {
        message.len() + ENTRY_BYTES
    }
}

impl Mailbox {
    pub fn new(bytes_max: usize) -> Mailbox {
        Mailbox { waiting: Mutex::default(), changed: Notify::new(), bytes_max }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A NotificationResponse, whole.
    pub fn put(&self, channel: &Arc<str>, message: &Bytes) {
        let mut waiting = self.waiting();
        if waiting.failure.is_some() {
            return;
        }
        waiting.bytes += Waiting::cost(message);
        if waiting.bytes > self.bytes_max {
            *waiting = Waiting { failure: Some(too_slow(self.bytes_max)), ..Waiting::default() };
        } else {
            waiting.messages.push_back((Arc::clone(channel), message.clone()));
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Nothing that was, or would have been, notified can be relied on any more: the session has to end.
    pub fn fail(&self, error: PgError) {
        let mut waiting = self.waiting();
        if waiting.failure.is_none() {
            *waiting = Waiting { failure: Some(error), ..Waiting::default() };
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes some, about `bytes` at most; empty: there are none.
    pub fn take(&self, bytes: usize) -> Result<BytesMut, PgError> {
        let mut waiting = self.waiting();
        if let Some(error) = &waiting.failure {
            return Err(error.clone());
        }
        let mut taken = BytesMut::new();
        while taken.len() < bytes {
            let Some((_, message)) = waiting.messages.pop_front() else { break };
            waiting.bytes -= Waiting::cost(&message);
            taken.extend_from_slice(&message);
        }
        Ok(taken)
    }

    /// Drops what waits of these channels.
    pub fn forget(&self, channels: &[Arc<str>]) {
        let channels: HashSet<&Arc<str>> = channels.iter().collect();
        let mut waiting = self.waiting();
        let Waiting { messages, bytes, .. } = &mut *waiting;
        messages.retain(|(channel, message)| {
            let keep = !channels.contains(channel);
            *bytes -= if keep { 0 } else { Waiting::cost(message) };
            keep
        });
    }

    pub fn failure(&self) -> Option<PgError> {
        self.waiting().failure.clone()
    }

    fn has_something(&self) -> bool {
        let waiting = self.waiting();
        waiting.failure.is_some() || !waiting.messages.is_empty()
    }

    /// Returns when there is something to take, or a failure. Cancel-safe.
    pub async fn arrived(&self) {
        loop {
            if self.has_something() {
                return;
            }
            self.changed.notified().await;
        }
    }

    /// Returns at a failure only. Cancel-safe.
    pub async fn failed(&self) -> PgError {
        loop {
            if let Some(error) = self.failure() {
                return error;
            }
            self.changed.notified().await;
        }
    }
}

fn too_slow(bytes_max: usize) -> PgError {
    PgError::fatal(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("notifications that wait for the client are larger than listen_queue_bytes_max ({bytes_max} bytes)"),
    )
    .detail("The client does not read, or its transaction keeps them waiting.")
    .hint("Read notifications faster, keep transactions of listening sessions short, or raise the limit.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Bytes {
        Bytes::from(vec![b'A'; bytes])
    }

    #[tokio::test]
    async fn what_waits_is_taken_in_order_and_bounded() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mailbox = Mailbox::new(1_000);
        mailbox.put(&a, &message(10));
        mailbox.put(&b, &message(20));
        mailbox.put(&a, &message(30));
        mailbox.arrived().await;
        assert_eq!(mailbox.take(1).unwrap().len(), 10);
        mailbox.forget(std::slice::from_ref(&a));
        assert_eq!(mailbox.take(1_000).unwrap().len(), 20);
        assert!(mailbox.take(1_000).unwrap().is_empty());
        assert_eq!(mailbox.waiting().bytes, 0);
        for _ in 0..2 {
            mailbox.put(&a, &message(500));
        }
        assert_eq!(mailbox.failed().await.code, SqlState::CONFIGURATION_LIMIT_EXCEEDED);
        mailbox.put(&a, &message(1));
        assert!(mailbox.take(1_000).is_err() && mailbox.waiting().messages.is_empty());
    }
}
