//! A gateway's link to the control plane: the topology as it changes, the lease, acknowledgements and statistics.
//!
//! One task keeps one stream, and connects again with a bounded backoff. The last topology is kept in a small store of
//! the gateway's own, so that it starts and serves while the control plane is away. It decides nothing: what an
//! expired lease or a new epoch means is the gateway's business.

mod acknowledgement;
mod lease;
mod link;
mod snapshot;
mod statistics;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringway_proto::v1;
use ringway_proto::v1::gateway_link_client::GatewayLinkClient;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use crate::ids::{Epoch, GatewayId};
use crate::model::Topology;
use crate::store::StoreError;

pub use acknowledgement::{Acknowledgement, EpochRange};
pub use lease::{Lease, LeaseClock};
pub use statistics::{GatewayStatistics, MoveStatistics};

/// Bound on making a connection to the control plane.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Added to the wait that a request carries, for its way there and back.
const REQUEST_MARGIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `http://HOST:PORT` of `shardctl serve`.
    pub endpoint: String,
    /// Random, new with every start of the process.
    pub gateway_id: GatewayId,
    /// Where applications reach this gateway; shown to operators.
    pub listen_address: String,
    pub version: String,
    /// Directory of the cached snapshot, owned by this process alone.
    pub snapshot_dir: PathBuf,
    /// Shown to a control plane that asks for one.
    pub access_secret: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{endpoint:?} is no address of a control plane (http://HOST:PORT)")]
    Endpoint { endpoint: String, source: tonic::transport::Error },
    #[error("the access secret holds characters that cannot be sent")]
    AccessSecret,
    #[error("the cached topology cannot be read")]
    Snapshot(#[from] StoreError),
    #[error("the control plane refused: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
}

/// Cheap to clone; all clones are one link. The link ends with the token given to [`TopologyClient::start`].
#[derive(Debug, Clone)]
pub struct TopologyClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    channel: Channel,
    topology: watch::Sender<Option<Arc<Topology>>>,
    acknowledged: watch::Sender<Acknowledgement>,
    statistics: watch::Sender<GatewayStatistics>,
    connected: watch::Sender<bool>,
    lease: LeaseClock,
    tasks: TaskTracker,
}

impl TopologyClient {
    /// Reads the cached snapshot and starts to follow the control plane, until `token` is cancelled. Needs a Tokio
    /// runtime. Does not wait for the control plane; blocks briefly to open the snapshot.
    pub fn start(config: ClientConfig, token: CancellationToken) -> Result<TopologyClient, ClientError> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .map_err(|source| ClientError::Endpoint { endpoint: config.endpoint.clone(), source })?;
        let channel = endpoint.connect_timeout(CONNECT_MAX).tcp_nodelay(true).connect_lazy();
        if let Some(secret) = &config.access_secret {
            let value = tonic::metadata::AsciiMetadataValue::try_from(secret.as_str());
            value.map_err(|_| ClientError::AccessSecret)?;
        }
        let cache = snapshot::Cache::open(&config.snapshot_dir)?;
        let cached = cache.load().map(Arc::new);
        let shared = Arc::new(Shared {
            config,
            channel,
            topology: watch::Sender::new(cached),
            acknowledged: watch::Sender::new(Acknowledgement::default()),
            statistics: watch::Sender::new(GatewayStatistics::default()),
            connected: watch::Sender::new(false),
            lease: LeaseClock::new(),
            tasks: TaskTracker::new(),
        });
        shared.tasks.spawn(snapshot::keep(cache, shared.topology.subscribe(), token.clone()));
        shared.tasks.spawn(link::follow(Arc::clone(&shared), token));
        shared.tasks.close();
        Ok(TopologyClient { shared })
    }

    /// Every topology from now on; `None` until the first is known. Epochs only grow.
    pub fn topology(&self) -> watch::Receiver<Option<Arc<Topology>>> {
        self.shared.topology.subscribe()
    }

    pub fn current(&self) -> Option<Arc<Topology>> {
        self.shared.topology.borrow().clone()
    }

    /// The clock by which every task can see, without a lock, whether the lease is live.
    pub fn lease(&self) -> LeaseClock {
        self.shared.lease.clone()
    }

    /// Whether the stream to the control plane stands.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// What `ringway.*` functions ask for; `None` while no topology is known.
    pub fn secret(&self) -> Option<String> {
        self.shared.topology.borrow().as_ref().map(|topology| topology.secret.clone())
    }

    /// Sent at once; a later value replaces one that is not sent yet.
    pub fn ack(&self, acknowledgement: Acknowledgement) {
        self.shared.acknowledged.send_if_modified(|said| {
            let before = said.clone();
            said.advance(acknowledgement);
            *said != before
        });
    }

    /// Statistics since the gateway's start; sent with the next heartbeat.
    pub fn report(&self, statistics: GatewayStatistics) {
        self.shared.statistics.send_replace(statistics);
    }

    /// After DDL on all shards: a new epoch, which every other live gateway routes by when this returns, unless `wait`
    /// passes first.
    pub async fn catalog_changed(&self, wait: Duration) -> Result<Epoch, ClientError> {
        let message = v1::CatalogChangedRequest {
            gateway_id: self.shared.config.gateway_id.0,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let mut request = self.shared.request(message);
        request.set_timeout(wait.saturating_add(REQUEST_MARGIN));
        let answer = GatewayLinkClient::new(self.shared.channel.clone()).catalog_changed(request).await;
        Ok(Epoch(answer.map_err(|status| ClientError::Refused(Box::new(status)))?.into_inner().epoch))
    }

    /// Returns when the link's tasks have ended, after the token was cancelled.
    pub async fn stopped(&self) {
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let secret = self.config.access_secret.as_deref();
        // Checked at the start.
        if let Some(Ok(value)) = secret.map(tonic::metadata::AsciiMetadataValue::try_from) {
            request.metadata_mut().insert("ringway-secret", value);
        }
        request
    }
}
