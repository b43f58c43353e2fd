//! The task that keeps the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_proto::v1;
use ringway_proto::v1::control_message::Message as FromControl;
use ringway_proto::v1::gateway_link_client::GatewayLinkClient;
use ringway_proto::v1::gateway_message::Message as FromGateway;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::convert::{topology_from_proto, ConvertError};
use crate::ids::Epoch;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// Bound on opening the stream, and on silence of the control plane while it stands.
const SILENCE_MAX: Duration = Duration::from_secs(3);
const HEARTBEAT_EVERY: Duration = Duration::from_millis(750);
const OUTGOING_MESSAGES_MAX: usize = 64;
/// Heartbeats whose answers are outstanding; older ones are forgotten.
const HEARTBEATS_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{}", .0.message())]
    Status(Box<tonic::Status>),
    #[error("the control plane is silent")]
    Silent,
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane does not read")]
    Full,
    #[error("the control plane sent a topology that makes no sense: {0}")]
    Convert(#[from] ConvertError),
    #[error("the control plane sent a topology before its welcome")]
    Order,
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> LinkError {
        LinkError::Status(Box::new(status))
    }
}

/// Connects, again and again, until the token is cancelled.
pub(super) async fn follow(shared: Arc<Shared>, token: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let attached_at = Instant::now();
        let outcome = token.run_until_cancelled(attach(&shared)).await;
        let was_connected = shared.connected.send_replace(false);
        let Some(Err(error)) = outcome else { return };
        if was_connected {
            backoff = BACKOFF_MIN;
            tracing::warn!(%error, seconds = attached_at.elapsed().as_secs(), "lost the control plane");
        } else {
            tracing::debug!(%error, "cannot reach the control plane");
        }
        if token.run_until_cancelled(tokio::time::sleep(backoff)).await.is_none() {
            return;
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One stream, until it fails.
async fn attach(shared: &Shared) -> Result<std::convert::Infallible, LinkError> {
    let mut session = Session::open(shared).await?;
    let mut acknowledged = shared.acknowledged.subscribe();
    session.send_acknowledged(&acknowledged.borrow_and_update())?;
    let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = tokio::time::Instant::now();
    loop {
        tokio::select! {
            message = session.incoming.message() => {
                heard_at = tokio::time::Instant::now();
                let message = message?.ok_or(LinkError::Ended)?;
                if let Some(message) = message.message {
                    session.receive(message)?;
                }
            }
            changed = acknowledged.changed() => {
                if changed.is_ok() {
                    let said = acknowledged.borrow_and_update().clone();
                    session.acknowledged(&said);
                    session.send_acknowledged(&said)?;
                }
            }
            _ = heartbeat.tick() => session.beat()?,
            () = tokio::time::sleep_until(heard_at + SILENCE_MAX) => return Err(LinkError::Silent),
        }
    }
}

/// A lease that counts once statements use this epoch.
struct WaitingLease {
    sent_at: Instant,
    length: Duration,
    epoch: Epoch,
}

struct Session<'a> {
    shared: &'a Shared,
    outgoing: mpsc::Sender<v1::GatewayMessage>,
    incoming: tonic::Streaming<v1::ControlMessage>,
    /// Of the sending of the registration; taken when it has been turned into a lease.
    registered_at: Option<Instant>,
    waiting_lease: Option<WaitingLease>,
    welcome: Option<v1::Welcome>,
    next_sequence: u64,
    beats: VecDeque<(u64, Instant)>,
}

impl<'a> Session<'a> {
    async fn open(shared: &'a Shared) -> Result<Session<'a>, LinkError> {
        let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let registered_at = Instant::now();
        let register = v1::Register {
            gateway_id: shared.config.gateway_id.0,
            listen_address: shared.config.listen_address.clone(),
            version: shared.config.version.clone(),
        };
        send(&outgoing, FromGateway::Register(register))?;
        let request = shared.request(ReceiverStream::new(messages));
        let mut client = GatewayLinkClient::new(shared.channel.clone());
        let answer =
            tokio::time::timeout(SILENCE_MAX, client.attach(request)).await.map_err(|_| LinkError::Silent)??;
        Ok(Session {
            shared,
            outgoing,
            incoming: answer.into_inner(),
            registered_at: Some(registered_at),
            waiting_lease: None,
            welcome: None,
            next_sequence: 1,
            beats: VecDeque::new(),
        })
    }

    fn receive(&mut self, message: FromControl) -> Result<(), LinkError> {
        match message {
            FromControl::Welcome(welcome) => self.welcome = Some(welcome),
            FromControl::Topology(snapshot) => {
                let welcome = self.welcome.as_ref().ok_or(LinkError::Order)?;
                let topology = Arc::new(topology_from_proto(&snapshot, &welcome.cluster_secret)?);
                self.shared.topology.send_if_modified(|known| {
                    // A snapshot of another cluster's, or an imported one's, is none of ours to compare with.
                    let newer = known
                        .as_ref()
                        .is_none_or(|known| known.cluster_id != topology.cluster_id || known.epoch < topology.epoch);
                    if newer {
                        *known = Some(topology);
                    }
                    newer
                });
                // Not before: a lease with the topology of another day would serve what has moved since.
                let length = Duration::from_millis(welcome.lease_milliseconds);
                if let Some(registered_at) = self.registered_at.take() {
                    self.grant(registered_at, length);
                    self.shared.connected.send_replace(true);
                }
            }
            FromControl::LeaseRenewed(renewed) => {
                while let Some((sequence, sent_at)) = self.beats.front().copied() {
                    if sequence > renewed.sequence {
                        break;
                    }
                    self.beats.pop_front();
                    if sequence == renewed.sequence {
                        self.grant(sent_at, Duration::from_millis(renewed.lease_milliseconds));
                    }
                }
            }
        }
        Ok(())
    }

    /// Nobody has waited for a gateway whose lease had run out: its new lease counts once statements use the newest topology
    /// that has come on this stream.
    fn grant(&mut self, sent_at: Instant, length: Duration) {
        let newest = self.shared.topology.borrow().as_ref().map_or(Epoch(0), |topology| topology.epoch);
        if self.shared.lease.is_live() || self.shared.acknowledged.borrow().used >= newest {
            self.waiting_lease = None;
            self.shared.lease.renew(sent_at, length);
        } else {
            self.waiting_lease = Some(WaitingLease { sent_at, length, epoch: newest });
        }
    }

    fn acknowledged(&mut self, said: &super::Acknowledgement) {
        if self.waiting_lease.as_ref().is_some_and(|waiting| said.used >= waiting.epoch) {
            if let Some(waiting) = self.waiting_lease.take() {
                self.shared.lease.renew(waiting.sent_at, waiting.length);
            }
        }
    }

    fn send_acknowledged(&self, said: &super::Acknowledgement) -> Result<(), LinkError> {
        send(&self.outgoing, FromGateway::Acknowledge(said.into()))
    }

    fn beat(&mut self) -> Result<(), LinkError> {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        if self.beats.len() == HEARTBEATS_MAX {
            self.beats.pop_front();
        }
        self.beats.push_back((sequence, Instant::now()));
        send(&self.outgoing, FromGateway::Heartbeat(v1::Heartbeat { sequence }))?;
        let statistics = v1::GatewayStatistics::from(&*self.shared.statistics.borrow());
        send(&self.outgoing, FromGateway::Statistics(statistics))
    }
}

/// Never waits: a control plane that does not read is left.
fn send(outgoing: &mpsc::Sender<v1::GatewayMessage>, message: FromGateway) -> Result<(), LinkError> {
    outgoing.try_send(v1::GatewayMessage { message: Some(message) }).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LinkError::Full,
        mpsc::error::TrySendError::Closed(_) => LinkError::Ended,
    })
}
