//! Tables whose change was interrupted: finished if the home shard has committed it, undone if not.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::model::{Table, TableKind, TableName, Topology};

use super::reference::GUARD;
use super::shard_rows::CHANGE_LOCK;
use crate::control::{Control, ControlError};
use crate::recovery;
use crate::shards::fences;

const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A session that a crash has left on the home shard still decides within this.
const LOCK_TIMEOUT: &str = "30s";

/// After a restart: every table that is still changing. The caller holds the operations' lock. Tries until it is done.
pub async fn settle(control: &Control) {
    loop {
        let changing: Vec<TableName> =
            control.topology().tables.iter().filter(|table| table.changing).map(|table| table.name.clone()).collect();
        if changing.is_empty() {
            return;
        }
        for table in changing {
            settle_table(control, &table).await;
        }
    }
}

/// In the background: tables and fences that a failed operation has left.
pub fn settle_interrupted(control: &Control) {
    let settling = control.clone();
    drop(control.spawn(async move {
        loop {
            match settling.lock_operations().await {
                Ok(_one) => {
                    settle(&settling).await;
                    return fences::settle(&settling).await;
                }
                Err(error) => tracing::warn!(%error, "an interrupted operation is not settled yet"),
            }
        }
    }));
}

/// One table; tries until it is done, or the control plane ends.
pub async fn settle_table(control: &Control, table: &TableName) {
    while let Err(error) = try_settle(control, table).await {
        tracing::warn!(%table, %error, "an interrupted change of a table is not settled yet");
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn try_settle(control: &Control, name: &TableName) -> Result<(), ControlError> {
    let topology = control.topology();
    let Some(table) = topology.table(&name.schema, &name.name).filter(|table| table.changing) else { return Ok(()) };
    // The others follow the home shard's decision first.
    recovery::finish_own(control).await?;
    if has_committed(control, table).await? {
        publish_changed(control, name).await?;
        return Ok(());
    }
    tracing::info!(table = %name, "an interrupted change was undone");
    control
        .change("table change undone", |topology| {
            topology.tables.retain(|table| table.name != *name);
            let unused: Vec<_> = topology
                .keyspaces
                .keys()
                .copied()
                .filter(|id| {
                    topology.tables_of(*id).next().is_none() && !topology.moves.values().any(|m| m.keyspace == *id)
                })
                .collect();
            // Only one that was made for this table can be without tables and at its first ring.
            if let TableKind::Sharded { keyspace, .. } = &table.kind {
                if unused.contains(keyspace) && keyspace.0 + 1 == topology.next_keyspace {
                    topology.keyspaces.remove(keyspace);
                }
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// Asks the home shard, behind whatever session of a predecessor may still be committing there.
async fn has_committed(control: &Control, table: &Table) -> Result<bool, ControlError> {
    let home =
        control.topology().home_shard().ok_or_else(|| ControlError::Internal("there is no home shard".into()))?;
    let client = control.shard_client(home).await?;
    let exists = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    if !client.query_one(exists, &[&table.name.quoted()]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    let lock = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SELECT {CHANGE_LOCK}; COMMIT");
    client.batch_execute(&lock).await?;
    let sql = match table.kind {
        TableKind::Sharded { .. } => {
            "SELECT EXISTS (SELECT FROM ringway.sharded_table s WHERE s.relation = $1::text::pg_catalog.regclass)"
                .to_owned()
        }
        TableKind::Reference => format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                WHERE t.tgrelid = $1::text::pg_catalog.regclass AND t.tgname = '{GUARD}')"
        ),
    };
    Ok(client.query_one(&sql, &[&table.name.quoted()]).await?.get(0))
}

/// The epoch of the new kind, known to everybody.
pub async fn publish_changed(control: &Control, name: &TableName) -> Result<Arc<Topology>, ControlError> {
    let topology = control
        .change("table changed", |topology| {
            for table in topology.tables.iter_mut().filter(|table| table.name == *name) {
                table.changing = false;
            }
            topology.catalog_version += 1;
            Ok(())
        })
        .await?;
    fences::everybody_knows(control, topology.epoch).await?;
    Ok(topology)
}
