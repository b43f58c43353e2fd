//! The last topology, in a small store of the gateway's own.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::Topology;
use crate::store::{SledStore, Store, StoreError};

#[derive(Debug, Clone)]
pub(super) struct Cache {
    store: SledStore,
}

impl Cache {
    pub(super) fn open(directory: &Path) -> Result<Cache, StoreError> {
        Ok(Cache { store: SledStore::open(directory)? })
    }

    /// A cache that cannot be read is none: the control plane has the original.
    pub(super) fn load(&self) -> Option<Topology> {
        self.store.load().unwrap_or_else(|error| {
            tracing::warn!(%error, "the cached topology is not used");
            None
        })
    }

    fn save(&self, topology: &Topology) -> Result<(), StoreError> {
        let expected = self.store.load().ok().flatten().map(|stored| stored.epoch);
        self.store.compare_and_set(expected, topology, None)
    }
}

/// Saves each topology, off the path of those who route by it; skips those that are replaced meanwhile. Ends when the
/// last one is saved, after the token was cancelled.
pub(super) async fn keep(cache: Cache, mut topology: watch::Receiver<Option<Arc<Topology>>>, token: CancellationToken) {
    loop {
        let ending = !matches!(token.run_until_cancelled(topology.changed()).await, Some(Ok(())));
        if ending && !topology.has_changed().unwrap_or(false) {
            return;
        }
        let Some(latest) = topology.borrow_and_update().clone() else { continue };
        let cache = cache.clone();
        match tokio::task::spawn_blocking(move || cache.save(&latest)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the topology could not be cached"),
            Err(error) => tracing::warn!(%error, "the topology could not be cached"),
        }
    }
}
