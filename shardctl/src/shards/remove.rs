//! How a shard leaves: only without rows.

use ringway_topology::model::ShardState;

use super::fences;
use crate::control::{Control, ControlError};

/// Takes an empty shard out of the topology, and the `ringway` schema out of its database if that can be reached.
pub async fn remove(control: &Control, name: &str) -> Result<(), ControlError> {
    let _one = control.lock_operations().await?;
    let topology = control.topology();
    let shard = topology.shard_named(name).ok_or_else(|| {
        ControlError::NotFound(format!("there is no shard {name}; \"shardctl shard list\" shows them"))
    })?;
    let id = shard.id;
    if shard.state == ShardState::Member && topology.home_shard() == Some(id) {
        return Err(ControlError::Precondition(format!(
            "{name} is the home of the tables that are not sharded and cannot be removed"
        )));
    }
    let client = control.shard_client(id).await;
    let topology = control
        .change("shard removed", |topology| {
            let owns = topology.keyspaces.values().find(|keyspace| keyspace.ring().owners().contains(&id));
            if let Some(keyspace) = owns {
                return Err(ControlError::Precondition(format!(
                    "{name} still owns rows of keyspace {}; move them first: shardctl move --from {name} --to OTHER --all",
                    keyspace.name
                )));
            }
            if let Some(m) = topology.moves.values().find(|m| m.peer_of(id).is_some()) {
                return Err(ControlError::Precondition(format!(
                    "move {} is running with {name}; wait for its end (shardctl move watch {})",
                    m.id, m.id
                )));
            }
            topology.shards.remove(&id);
            topology.catalog_version += 1;
            Ok(())
        })
        .await?;
    fences::everybody_knows(control, topology.epoch).await?;
    match client {
        // User tables stay; guards go with the schema's functions.
        Ok(client) => client.batch_execute("DROP SCHEMA IF EXISTS ringway CASCADE").await.map_err(|error| {
            ControlError::from(error).context(format!("{name} was removed, but its ringway schema stays"))
        }),
        Err(error) => {
            tracing::warn!(shard = name, %error, "removed; its ringway schema stays");
            Ok(())
        }
    }
}
