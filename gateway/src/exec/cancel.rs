//! Cancelling what a client runs: on every connection at work for it.
//!
//! A cancel request reaches whatever a connection runs when it arrives, so a connection is not given back while one is
//! on its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::pool::dial::{dial, DialError};
use crate::pool::{Pool, ReadyConn};
use crate::wire::frontend;

#[derive(Clone, Debug)]
struct Target {
    pool: Arc<Pool>,
    process_id: i32,
    secret_key: Bytes,
}

#[derive(Debug, Default)]
struct State {
    targets: Vec<Target>,
    /// Requests that are on their way.
    sending: usize,
}

/// The connections at work for one client.
#[derive(Debug, Default)]
pub struct CancelSlot {
    state: Mutex<State>,
    /// Cancelled; also while no shard was at work (the statement waits at the gateway).
    is_requested: AtomicBool,
    sent: Notify,
    requested: Notify,
}

const SEND_MAX: Duration = Duration::from_secs(5);

impl CancelSlot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, connection: &ReadyConn) {
        self.state().targets.push(Target {
            pool: Arc::clone(connection.pool()),
            process_id: connection.process_id,
            secret_key: connection.secret_key.clone(),
        });
    }

    /// Before the connections are given back.
    pub async fn clear(&self) {
        while !self.try_clear() {
            let sent = self.sent.notified();
            // The last one may have been sent just before.
            if !self.try_clear() {
                sent.await;
            }
        }
    }

    /// False: a request is on its way.
    pub fn try_clear(&self) -> bool {
        let mut state = self.state();
        state.targets.clear();
        state.sending == 0
    }

    /// A new statement begins.
    pub fn reset(&self) {
        self.is_requested.store(false, Ordering::Relaxed);
    }

    /// Whether the client has asked to cancel what it waits for.
    pub fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::SeqCst)
    }

    /// Returns when the client asks to cancel. Cancel-safe.
    pub async fn requested(&self) {
        loop {
            let requested = self.requested.notified();
            if self.is_requested.load(Ordering::SeqCst) {
                return;
            }
            requested.await;
        }
    }

    /// Asks every shard at work to cancel. Cancel-safe: requests that are not out yet are not sent.
    pub async fn cancel(&self) {
        let targets = {
            let mut state = self.state();
            self.is_requested.store(true, Ordering::SeqCst);
            state.sending += 1;
            state.targets.clone()
        };
        let _sending = Sending(self);
        self.requested.notify_waiters();
        let sending = targets.iter().map(|target| async move {
            match tokio::time::timeout(SEND_MAX, send(target)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "cannot send a cancel request to a shard"),
                Err(_) => tracing::warn!("a shard did not take a cancel request in time"),
            }
        });
        futures_util::future::join_all(sending).await;
    }
}

/// Requests on their way; whoever sends them may give up at any await.
struct Sending<'a>(&'a CancelSlot);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.state().sending -= 1;
        self.0.sent.notify_waiters();
    }
}

async fn send(target: &Target) -> Result<(), DialError> {
    let mut stream = dial(&target.pool.endpoint, target.pool.tcp()).await?;
    let mut packet = BytesMut::new();
    frontend::cancel_request(&mut packet, target.process_id as u32, &target.secret_key);
    stream.send_all(&packet).await?;
    // The server closes when the signal has been sent; under TLS without a word, which is an error there.
    let mut rest = BytesMut::new();
    match stream.receive(&mut rest, 1).await {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(()),
    }
}
