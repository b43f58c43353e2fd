//! After DDL: a new catalog version, and tables that no longer exist leave the topology.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringway_topology::model::{TableName, Topology};

use crate::control::{Control, ControlError};

/// A new epoch with a new catalog version, in which dropped tables are forgotten.
pub async fn catalog_changed(control: &Control) -> Result<Arc<Topology>, ControlError> {
    let dropped = match dropped_tables(control).await {
        Ok(dropped) => dropped,
        Err(error) => {
            tracing::warn!(%error, "dropped tables are forgotten later");
            BTreeSet::new()
        }
    };
    for table in &dropped {
        tracing::info!(%table, "forgotten: it has been dropped");
    }
    let topology = control
        .change("catalog changed", |topology| {
            topology.catalog_version += 1;
            topology.tables.retain(|table| table.changing || !dropped.contains(&table.name));
            Ok(())
        })
        .await?;
    if !dropped.is_empty() {
        forget_on_members(control).await;
    }
    Ok(topology)
}

/// Distributed tables that the home shard does not have.
async fn dropped_tables(control: &Control) -> Result<BTreeSet<TableName>, ControlError> {
    let topology = control.topology();
    let Some(home) = topology.home_shard().filter(|_| !topology.tables.is_empty()) else { return Ok(BTreeSet::new()) };
    let names: Vec<String> = topology.tables.iter().map(|table| table.name.quoted()).collect();
    let client = control.shard_client(home).await?;
    let sql = "SELECT u.ord FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY u(name, ord)
        WHERE pg_catalog.to_regclass(u.name) IS NULL";
    let rows = client.query(sql, &[&names]).await?;
    let place = |row: &tokio_postgres::Row| usize::try_from(row.get::<_, i64>(0) - 1).ok();
    let gone = rows.iter().filter_map(place).filter_map(|place| topology.tables.get(place));
    Ok(gone.map(|table| table.name.clone()).collect())
}

/// What the shards keep of tables that are gone.
async fn forget_on_members(control: &Control) {
    let sql = "DELETE FROM ringway.sharded_table s
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relation)";
    for shard in control.topology().members() {
        let outcome = async {
            let client = control.shard_client(shard.id).await?;
            client.execute(sql, &[]).await?;
            Ok::<(), ControlError>(())
        };
        if let Err(error) = outcome.await {
            tracing::warn!(shard = %shard.name, %error, "a dropped table's record stays");
        }
    }
}
