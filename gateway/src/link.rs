//! Follows the control plane: publishes each topology, reads the catalog when it has changed, acknowledges epochs as soon as
//! they are true, reports statistics. A fixed cluster's topology comes from a file instead, with a lease that never ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::client::{ClientConfig, ClientError, GatewayStatistics, TopologyClient};
use ringway_topology::model::Topology;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, TopologySource};
use crate::exec::catalog;
use crate::exec::faults::FaultPoint;
use crate::exec::gateway::Gateway;
use crate::exec::takeover;
use crate::exec::view::ControlPlane;

/// Where topologies come from.
#[derive(Clone)]
pub enum Source {
    Client(TopologyClient),
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot follow the control plane")]
    Client(#[from] ClientError),
    #[error("cannot make a directory for the topology's snapshot")]
    Directory(#[source] std::io::Error),
}

impl Source {
    /// Starts the link's own tasks, which end with `token`.
    pub fn start(
        config: &Config,
        gateway_id: ringway_topology::ids::GatewayId,
        token: CancellationToken,
    ) -> Result<Source, LinkError> {
        match &config.topology {
            TopologySource::File(path) => Ok(Source::File(path.clone())),
            TopologySource::ControlPlane(endpoint) => {
                let snapshot_dir = match &config.data {
                    Some(directory) => directory.clone(),
                    // Without --data nothing outlives the process.
                    None => std::env::temp_dir().join(format!("ringway-gateway-{:x}", gateway_id.0)),
                };
                std::fs::create_dir_all(&snapshot_dir).map_err(LinkError::Directory)?;
                let client = ClientConfig {
                    endpoint: endpoint.clone(),
                    gateway_id,
                    listen_address: config.listen.to_string(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    snapshot_dir,
                    access_secret: config.secret.clone(),
                };
                Ok(Source::Client(TopologyClient::start(client, token)?))
            }
        }
    }

    pub fn control_plane(&self, config: &Config) -> ControlPlane {
        match (self, &config.topology) {
            (Source::Client(client), TopologySource::ControlPlane(endpoint)) => ControlPlane::Linked {
                client: client.clone(),
                endpoint: endpoint.clone(),
                secret: config.secret.clone(),
            },
            _ => ControlPlane::Fixed,
        }
    }
}

/// Runs until the token is cancelled.
pub async fn follow(gateway: Arc<Gateway>, source: Source, token: CancellationToken) {
    let (topologies, watched) = watch::channel(None);
    let receiver = match &source {
        Source::Client(client) => client.topology(),
        Source::File(path) => {
            let path = path.clone();
            let token = token.clone();
            gateway.tasks.spawn(async move { watch_file(path, topologies, token).await });
            watched
        }
    };
    let mut follower = Follower { gateway, source, catalog_wanted: None };
    follower.run(receiver, token).await;
}

struct Follower {
    gateway: Arc<Gateway>,
    source: Source,
    /// A catalog version that could not be read yet.
    catalog_wanted: Option<u64>,
}

impl Follower {
    async fn run(&mut self, mut topologies: watch::Receiver<Option<Arc<Topology>>>, token: CancellationToken) {
        let mut statistics = tokio::time::interval(Duration::from_secs(1));
        topologies.mark_changed();
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                changed = topologies.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let latest = topologies.borrow_and_update().clone();
                    if let Some(topology) = latest {
                        self.publish(topology).await;
                    }
                }
                () = self.gateway.inflight.ended() => {}
                _ = statistics.tick() => {
                    self.report();
                    self.gateway.pools.reap();
                    takeover::prepare(&self.gateway);
                    takeover::fill_up(&self.gateway);
                    self.gateway.statistics.tick(&self.gateway.pools);
                    if self.catalog_wanted.is_some() {
                        self.retry_catalog().await;
                    }
                }
            }
            self.acknowledge();
        }
    }

    async fn publish(&mut self, topology: Arc<Topology>) {
        let known = self.gateway.view.current();
        let catalog_version = self.gateway.catalog_version();
        if topology.home_shard().is_some() && catalog_version != Some(topology.catalog_version) {
            // Before statements are planned with it. A shard that does not answer must not keep an epoch back.
            match catalog::load(&self.gateway, &topology).await {
                Ok(catalog) => {
                    self.gateway.set_catalog(topology.catalog_version, catalog);
                    self.catalog_wanted = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read the catalog; trying again");
                    self.catalog_wanted = Some(topology.catalog_version);
                }
            }
        }
        if let Some(home) = topology.home_shard().and_then(|home| topology.shard(home)) {
            self.gateway.pools.oids().set_home(home.id, &home.dsn);
        }
        if let Some(known) = &known {
            self.gateway.inflight.record(&known.topology, &topology);
        }
        self.gateway.listeners.follow(&self.gateway, &topology).await;
        tracing::debug!(epoch = topology.epoch.0, moves = topology.moves.len(), "topology");
        self.gateway.view.publish(topology);
    }

    async fn retry_catalog(&mut self) {
        let Some(view) = self.gateway.view.current() else { return };
        match catalog::load(&self.gateway, &view.topology).await {
            Ok(catalog) => {
                self.gateway.set_catalog(view.topology.catalog_version, catalog);
                self.catalog_wanted = None;
            }
            Err(error) => tracing::debug!(%error, "cannot read the catalog yet"),
        }
    }

    fn acknowledge(&self) {
        let Source::Client(client) = &self.source else { return };
        let Some(view) = self.gateway.view.current() else { return };
        let current = view.topology.epoch;
        let said = self.gateway.inflight.acknowledgeable(current);
        let (routed, drained) = (said.routed, said.drained);
        client.ack(said);
        if routed == current {
            self.gateway.faults.hit(FaultPoint::RoutedAcknowledged);
        }
        if drained == current {
            self.gateway.faults.hit(FaultPoint::DrainedAcknowledged);
        }
    }

    fn report(&self) {
        let Source::Client(client) = &self.source else { return };
        let statistics: GatewayStatistics = self.gateway.statistics.snapshot();
        client.report(statistics);
    }
}

async fn watch_file(path: PathBuf, topologies: watch::Sender<Option<Arc<Topology>>>, token: CancellationToken) {
    let mut last = String::new();
    loop {
        match tokio::fs::read_to_string(&path).await {
            Ok(text) if text != last => {
                match serde_json::from_str::<Topology>(&text) {
                    Ok(topology) => {
                        topologies.send_replace(Some(Arc::new(topology)));
                    }
                    Err(error) => tracing::error!(%error, path = %path.display(), "the topology file is not valid"),
                }
                last = text;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, path = %path.display(), "cannot read the topology file"),
        }
        if token.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await.is_none() {
            return;
        }
    }
}
