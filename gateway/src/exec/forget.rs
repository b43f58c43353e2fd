//! Deletes decisions whose transactions are finished everywhere, in bulk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::ids::ShardId;
use ringway_topology::service::Gid;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::faults::FaultPoint;
use super::gateway::Gateway;
use crate::pool::error::PoolError;
use crate::pool::Claim;

const EVERY: Duration = Duration::from_millis(500);
const BATCH_MAX: usize = 1_000;

/// Until the token is cancelled. What is not forgotten here, recovery forgets.
pub async fn run(gateway: Arc<Gateway>, mut finished: Receiver<(ShardId, Gid)>, token: CancellationToken) {
    let mut batch = Vec::with_capacity(64);
    loop {
        if token.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
        while batch.len() < BATCH_MAX {
            match finished.try_recv() {
                Ok(one) => batch.push(one),
                Err(_) => break,
            }
        }
        let mut of_shards: BTreeMap<ShardId, Vec<Gid>> = BTreeMap::new();
        for (shard, gid) in batch.drain(..) {
            of_shards.entry(shard).or_default().push(gid);
        }
        for (shard, gids) in of_shards {
            if let Err(error) = forget(&gateway, shard, &gids).await {
                tracing::debug!(%error, shard = shard.0, "decisions are left to recovery");
            }
        }
    }
}

async fn forget(gateway: &Gateway, id: ShardId, gids: &[Gid]) -> Result<(), PoolError> {
    let Some(view) = gateway.view.current() else { return Ok(()) };
    let Some(shard) = view.topology.shard(id) else { return Ok(()) };
    let mut connection = gateway.pools.service(shard)?.checkout(Claim::First).await?;
    // Gids are made of digits and colons.
    let list: Vec<String> = gids.iter().map(|gid| format!("'{gid}'")).collect();
    connection.query(&format!("DELETE FROM ringway.decided WHERE gid IN ({})", list.join(","))).await?;
    gateway.faults.hit(FaultPoint::DecisionForgotten);
    Ok(())
}
