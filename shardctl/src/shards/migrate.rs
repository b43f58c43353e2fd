//! The `ringway` schema of a shard: versioned migrations, and who the shard is.

use ringway_topology::ids::ShardId;
use ringway_topology::model::Topology;

use crate::control::{Control, ControlError};
use crate::pg::ServiceClient;

mod embedded {
    refinery::embed_migrations!("../migrations/sql");
}

/// Inside the schema, so that nothing of ours lies elsewhere.
const HISTORY_TABLE: &str = "ringway.migration_history";
/// Two control planes do not migrate one shard at once.
const MIGRATION_LOCK: i64 = 0x5257_0030_0000_0000;

/// Installs or updates the schema. Idempotent; each migration is one transaction.
pub async fn migrate(client: &mut ServiceClient) -> Result<(), ControlError> {
    client.execute("SELECT pg_catalog.pg_advisory_lock($1)", &[&MIGRATION_LOCK]).await?;
    let outcome = migrate_locked(client).await;
    client.execute("SELECT pg_catalog.pg_advisory_unlock($1)", &[&MIGRATION_LOCK]).await?;
    outcome
}

async fn migrate_locked(client: &mut ServiceClient) -> Result<(), ControlError> {
    client.batch_execute("CREATE SCHEMA IF NOT EXISTS ringway").await?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY_TABLE);
    let connection: &mut tokio_postgres::Client = client;
    let report = runner.run_async(connection).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        ControlError::Precondition(format!("the ringway schema cannot be installed: {error}{cause}"))
    })?;
    for migration in report.applied_migrations() {
        tracing::info!(%migration, "applied");
    }
    Ok(())
}

/// Records who the shard is. Keeps fences and floor of a shard that is already recorded.
pub async fn record_identity(
    client: &ServiceClient,
    topology: &Topology,
    shard: ShardId,
    name: &str,
) -> Result<(), ControlError> {
    client
        .execute(
            "INSERT INTO ringway.shard (cluster_id, secret, shard_no, shard_name, service_role)
             VALUES ($1, $2, $3, $4, session_user)
             ON CONFLICT (one) DO UPDATE SET secret = excluded.secret, shard_name = excluded.shard_name,
                service_role = excluded.service_role",
            &[&topology.cluster_id, &topology.secret, &i32::from(shard.0), &name],
        )
        .await?;
    Ok(())
}

/// Brings the schema of every member up to date, as far as members can be reached.
pub async fn migrate_members(control: &Control) {
    for shard in control.topology().members() {
        let outcome = async {
            let mut client = control.shard_client(shard.id).await?;
            migrate(&mut client).await
        };
        if let Err(error) = outcome.await {
            tracing::warn!(shard = %shard.name, %error, "the ringway schema was not checked");
        }
    }
}
