//! Shards that did not answer the mirror in time. Nobody waits for one of them again until it has answered a probe: rows are left
//! to the sweeper at once, and whoever is waiting for it stops.

use std::collections::BTreeSet;

use ringway_topology::ids::ShardId;
use tokio::sync::watch;

#[derive(Debug, Default)]
pub struct Sick {
    shards: watch::Sender<BTreeSet<ShardId>>,
}

impl Sick {
    pub fn contains(&self, shard: ShardId) -> bool {
        self.shards.borrow().contains(&shard)
    }

    /// True for the one who says it first: it has the shard probed.
    #[must_use]
    pub fn failed(&self, shard: ShardId) -> bool {
        self.shards.send_if_modified(|shards| shards.insert(shard))
    }

    pub fn answered(&self, shard: ShardId) {
        self.shards.send_if_modified(|shards| shards.remove(&shard));
    }

    /// Returns once the shard is sick. Cancel-safe.
    pub async fn fell_sick(&self, shard: ShardId) {
        let mut shards = self.shards.subscribe();
        // The sender lives as long as `self`.
        let _ = shards.wait_for(|shards| shards.contains(&shard)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_waits_learns_it_and_one_probes() {
        let sick = std::sync::Arc::new(Sick::default());
        let shard = ShardId(3);
        let waiting = tokio::spawn({
            let sick = std::sync::Arc::clone(&sick);
            async move { sick.fell_sick(shard).await }
        });
        assert!(!sick.contains(shard) && sick.failed(shard));
        assert!(!sick.failed(shard), "somebody probes already");
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        sick.answered(shard);
        assert!(!sick.contains(shard) && sick.failed(shard));
    }
}
