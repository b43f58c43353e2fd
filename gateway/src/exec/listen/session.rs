//! What one session listens to. LISTEN and UNLISTEN take effect when their transaction commits.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::mailbox::Mailbox;
use super::{lost, Listeners};
use crate::exec::executor::{cancelled, Executor};
use crate::exec::failure::Failure;
use crate::wire::{PgError, SqlState};

/// What is sent to the client at a time.
const TAKE_BYTES: usize = 64 << 10;
/// A client that is too slow has so long to read on until it can be told so.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Listen(Arc<str>),
    Unlisten(Arc<str>),
    UnlistenAll,
}

/// Of a session that listens. It listens no more when this is dropped.
#[derive(Debug)]
pub struct Listening {
    listeners: Arc<Listeners>,
    client: u32,
    pub mailbox: Arc<Mailbox>,
    /// In the order of their LISTEN.
    pub channels: Vec<Arc<str>>,
    /// Statements have written since notifications were looked for last: some may be the session's own.
    pub may_have_notified: bool,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.listeners.leave(self.client);
    }
}

/// Channels that a transaction which is about to commit begins to listen to, and those it will leave.
#[derive(Debug, Default)]
pub struct Prepared {
    new: Vec<Arc<str>>,
    gone: Vec<Arc<str>>,
}

impl Executor {
    pub fn listens_to(&self) -> &[Arc<str>] {
        self.listening.as_ref().map(|listening| listening.channels.as_slice()).unwrap_or_default()
    }

    /// Every shard listens for what is new. On an error nothing has changed.
    pub async fn prepare_listen(&mut self, changes: &[Change]) -> Result<Prepared, Failure> {
        let mut channels = self.listens_to().to_vec();
        for change in changes {
            match change {
                Change::Listen(channel) if !channels.contains(channel) => channels.push(Arc::clone(channel)),
                Change::Listen(_) => {}
                Change::Unlisten(channel) => channels.retain(|known| known != channel),
                Change::UnlistenAll => channels.clear(),
            }
        }
        let limits = &self.gateway.config.limits;
        if channels.len() > limits.client_channels_max {
            let message =
                format!("the session listens to client_channels_max ({}) channels", limits.client_channels_max);
            return Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
                .hint("Use fewer channels and tell by the payload, or raise the limit.")
                .into());
        }
        let gone = self.listens_to().iter().filter(|known| !channels.contains(known)).cloned().collect();
        let new: Vec<Arc<str>> = channels.into_iter().filter(|channel| !self.listens_to().contains(channel)).collect();
        let prepared = Prepared { new, gone };
        if prepared.new.is_empty() {
            return Ok(prepared);
        }
        if self.is_guarded() {
            return Err(cut_off().into());
        }
        let limit = Duration::from_millis(limits.listen_timeout_ms);
        let bytes_max = limits.listen_queue_bytes_max;
        let (client, listeners) = (self.entry.number, Arc::clone(&self.gateway.listeners));
        let listening = self.listening.get_or_insert_with(|| {
            // The transaction itself may have notified before it listened.
            let mailbox = Arc::new(Mailbox::new(bytes_max));
            let listeners = Arc::clone(&listeners);
            Box::new(Listening { listeners, client, mailbox, channels: Vec::new(), may_have_notified: true })
        });
        let asked = listeners.listen(&self.gateway, client, &listening.mailbox, &prepared.new);
        let answers = match asked {
            Ok(answers) => answers,
            Err(error) => {
                if listening.channels.is_empty() {
                    self.listening = None;
                }
                return Err(error.into());
            }
        };
        let listened = async {
            for answer in answers {
                let lost = || PgError::new(SqlState::CONNECTION_FAILURE, "a shard cannot be listened to any more");
                answer.await.unwrap_or_else(|_| Err(lost()))?;
            }
            Ok::<(), PgError>(())
        };
        let listened = tokio::select! {
            biased;
            listened = tokio::time::timeout(limit, listened) => match listened {
                Ok(listened) => listened.map_err(Failure::from),
                Err(_) => Err(late(limit).into()),
            },
            () = self.cancel.requested() => Err(cancelled().into()),
            () = self.client.gone() => Err(Failure::Gone(None)),
        };
        // Without a lease there may be shards by now that were not asked.
        let listened = listened.and_then(|()| if self.is_guarded() { Err(cut_off().into()) } else { Ok(()) });
        if let Err(failure) = listened {
            self.finish_listen(prepared, false);
            return Err(failure);
        }
        Ok(prepared)
    }

    /// The transaction has ended.
    pub fn finish_listen(&mut self, prepared: Prepared, committed: bool) {
        let Some(listening) = &mut self.listening else { return };
        let Prepared { new, gone } = prepared;
        let dropped = match committed {
            true => {
                listening.channels.retain(|channel| !gone.contains(channel));
                listening.channels.extend(new);
                gone
            }
            false => new,
        };
        if !dropped.is_empty() {
            listening.listeners.unlisten(listening.client, &dropped);
            listening.mailbox.forget(&dropped);
        }
        if listening.channels.is_empty() {
            self.listening = None;
        }
    }

    /// Notifications that have come, to the client; its own before all. Outside transactions only.
    pub async fn deliver_notifications(&mut self) -> Result<(), Failure> {
        let Some(listening) = &mut self.listening else { return Ok(()) };
        let mailbox = Arc::clone(&listening.mailbox);
        if std::mem::take(&mut listening.may_have_notified) {
            let limit = Duration::from_millis(self.gateway.config.limits.listen_timeout_ms);
            // A link that is lost has said so to the mailbox.
            let passed = futures_util::future::join_all(listening.listeners.barrier());
            if tokio::time::timeout(limit, passed).await.is_err() {
                mailbox
                    .fail(lost(&format!("a shard did not answer within {} ms (listen_timeout_ms)", limit.as_millis())));
            }
        }
        loop {
            let messages: BytesMut = mailbox.take(TAKE_BYTES).map_err(ended)?;
            if messages.is_empty() {
                return Ok(());
            }
            let client = &mut self.client;
            let sending = async {
                client.forward(&messages).await?;
                client.flush().await
            };
            tokio::pin!(sending);
            tokio::select! {
                biased;
                sent = &mut sending => sent?,
                error = mailbox.failed() => {
                    return match tokio::time::timeout(LAST_WORDS_MAX, sending).await {
                        Ok(Ok(())) => Err(ended(error)),
                        _ => {
                            tracing::warn!(client = self.entry.number, %error, "a client that listens is cut off");
                            Err(Failure::Gone(None))
                        }
                    };
                }
            }
        }
    }
}

/// Returns when the session has something to deliver, or has to end. `idle`: it may be told now. Cancel-safe.
pub async fn heard(listening: &Listening, idle: bool) {
    match idle {
        true => listening.mailbox.arrived().await,
        false => {
            listening.mailbox.failed().await;
        }
    }
}

fn ended(error: PgError) -> Failure {
    Failure::Gone(Some(Box::new(error)))
}

fn cut_off() -> PgError {
    PgError::new(
        SqlState::CANNOT_CONNECT_NOW,
        "LISTEN is not possible while the gateway is cut off from the control plane",
    )
    .detail("There may be shards that the gateway does not know: their notifications would be missed.")
    .hint("Check that the control plane runs and can be reached, then try again.")
}

fn late(limit: Duration) -> PgError {
    let message = format!("a shard could not be listened to within {} ms (listen_timeout_ms)", limit.as_millis());
    PgError::new(SqlState::CANNOT_CONNECT_NOW, message)
        .hint("Check that every shard runs (\"shardctl shard list\"), then try again.")
}
