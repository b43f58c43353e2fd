//! The topology as statements see it: one immutable value per epoch, published to all sessions at once.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ringway_topology::client::{LeaseClock, TopologyClient};
use ringway_topology::ids::Epoch;
use ringway_topology::model::{TableKind, Topology};
use tokio::sync::watch;

/// What one statement sees.
#[derive(Debug)]
pub struct View {
    pub topology: Arc<Topology>,
    /// Of what plans depend on: tables, keyspaces, members; not the ring, not moves.
    pub shape: u64,
    /// Some table is being distributed.
    pub is_changing: bool,
}

impl View {
    fn new(topology: Arc<Topology>) -> View {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        topology.cluster_id.hash(&mut hasher);
        for shard in topology.members() {
            shard.id.hash(&mut hasher);
        }
        for keyspace in topology.keyspaces.values() {
            keyspace.id.hash(&mut hasher);
            format!("{:?}", keyspace.family).hash(&mut hasher);
        }
        for table in &topology.tables {
            table.name.hash(&mut hasher);
            match &table.kind {
                TableKind::Sharded { keyspace, key_column, key_type } => {
                    (keyspace, key_column, format!("{key_type:?}")).hash(&mut hasher);
                }
                TableKind::Reference => 0.hash(&mut hasher),
            }
        }
        let is_changing = topology.tables.iter().any(|table| table.changing);
        View { shape: hasher.finish(), is_changing, topology }
    }

    pub fn epoch(&self) -> Epoch {
        self.topology.epoch
    }

    /// Whether any statement has to look at moves.
    pub fn is_moving(&self) -> bool {
        !self.topology.moves.is_empty()
    }
}

/// The way to the control plane.
#[derive(Clone)]
pub enum ControlPlane {
    Linked {
        client: TopologyClient,
        endpoint: String,
        secret: Option<String>,
    },
    /// A fixed cluster.
    Fixed,
}

/// The published view and the lease.
pub struct Views {
    current: ArcSwapOption<View>,
    published: watch::Sender<Epoch>,
    pub lease: LeaseClock,
    pub control_plane: ControlPlane,
}

impl Views {
    pub fn new(control_plane: ControlPlane) -> Views {
        let lease = match &control_plane {
            ControlPlane::Linked { client, .. } => client.lease(),
            ControlPlane::Fixed => LeaseClock::always_live(),
        };
        Views { current: ArcSwapOption::empty(), published: watch::Sender::new(Epoch(0)), lease, control_plane }
    }

    pub fn current(&self) -> Option<Arc<View>> {
        self.current.load_full()
    }

    pub fn publish(&self, topology: Arc<Topology>) {
        let epoch = topology.epoch;
        self.current.store(Some(Arc::new(View::new(topology))));
        self.published.send_replace(epoch);
    }

    /// Changes of the published epoch, to be waited for.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.published.subscribe()
    }

    /// Waits until an epoch newer than `epoch` is published; false when `wait` has passed first. Cancel-safe.
    pub async fn newer_than(&self, epoch: Epoch, wait: Duration) -> bool {
        let mut epochs = self.epochs();
        let newer = async {
            while *epochs.borrow_and_update() <= epoch {
                if epochs.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(wait, newer).await.unwrap_or(false)
    }
}
