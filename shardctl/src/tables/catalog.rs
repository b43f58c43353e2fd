//! After DDL: a new catalog version, and tables that no longer exist leave the topology.
//!
//! A dropped table's row of `ringway.distributed_table` stays on the shards until no gateway routes by its name: until then
//! nobody can use that name again. So a crash anywhere after the DROP is mended by looking at those rows ([`watch`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::model::{TableName, Topology};

use crate::control::{Control, ControlError};
use crate::shards::fences;

const WATCH_EVERY: Duration = Duration::from_secs(3);
/// The topology may change while the home shard is asked.
const ATTEMPTS_MAX: u32 = 8;

const DROPPED: &str = "SELECT d.table_schema::text, d.table_name::text FROM ringway.distributed_table d
    WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.relation)";

/// A new epoch with a new catalog version, in which dropped tables are forgotten.
pub async fn catalog_changed(control: &Control) -> Result<Arc<Topology>, ControlError> {
    let mut counted = false;
    for attempt in 1..=ATTEMPTS_MAX {
        let seen = control.topology();
        let dropped = match dropped_at_home(control, &seen).await {
            Ok(dropped) => dropped,
            Err(error) => {
                tracing::warn!(%error, "dropped tables are forgotten later");
                BTreeSet::new()
            }
        };
        if counted && dropped.is_empty() {
            break;
        }
        let mut current = false;
        let topology = control
            .change("catalog changed", |topology| {
                // What was seen at home is about the tables of that epoch.
                current = topology.epoch == seen.epoch;
                topology.catalog_version += 1;
                if current {
                    topology.tables.retain(|table| !dropped.contains(&table.name));
                }
                Ok(())
            })
            .await?;
        counted = true;
        if current || attempt == ATTEMPTS_MAX {
            for table in &dropped {
                tracing::info!(%table, "forgotten: it has been dropped");
            }
            return Ok(topology);
        }
    }
    Ok(control.topology())
}

/// Tables of this topology that the home shard has dropped. One that is being distributed is its operation's.
async fn dropped_at_home(control: &Control, topology: &Topology) -> Result<BTreeSet<TableName>, ControlError> {
    let Some(home) = topology.home_shard().filter(|_| !topology.tables.is_empty()) else { return Ok(BTreeSet::new()) };
    let client = control.shard_client(home).await?;
    let dropped = client.query(DROPPED, &[]).await?;
    let dropped = dropped.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)));
    let is_listed = |name: &TableName| topology.table(&name.schema, &name.name).is_some_and(|table| !table.changing);
    Ok(dropped.filter(is_listed).collect())
}

/// Frees the names of dropped tables that the topology has forgotten, once every gateway has.
pub async fn free_names(control: &Control) -> Result<(), ControlError> {
    let mut any = false;
    for shard in fences::members(control) {
        let client = control.shard_client(shard).await?;
        any |= !client.query(DROPPED, &[]).await?.is_empty();
    }
    if !any {
        return Ok(());
    }
    let topology = control.topology();
    fences::everybody_knows(control, topology.epoch).await?;
    let schemas: Vec<&str> = topology.tables.iter().map(|table| table.name.schema.as_str()).collect();
    let names: Vec<&str> = topology.tables.iter().map(|table| table.name.name.as_str()).collect();
    let sql = "DELETE FROM ringway.distributed_table d
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = d.relation)
          AND (d.table_schema::text, d.table_name::text) NOT IN (
              SELECT s, n FROM unnest($1::text[], $2::text[]) u(s, n))";
    // Of tables that were dropped past the gateways.
    let stray = "DELETE FROM ringway.sharded_table s
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relation)";
    for shard in fences::members(control) {
        let client = control.shard_client(shard).await?;
        client.execute(sql, &[&schemas, &names]).await?;
        client.execute(stray, &[]).await?;
    }
    Ok(())
}

/// Until the control plane ends: what a gateway, or a predecessor, has dropped and could not say.
pub async fn watch(control: Control) {
    loop {
        if let Err(error) = look(&control).await {
            tracing::warn!(%error, "dropped tables are looked for again");
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn look(control: &Control) -> Result<(), ControlError> {
    if !dropped_at_home(control, &control.topology()).await?.is_empty() {
        catalog_changed(control).await?;
    }
    free_names(control).await
}
