//! Ending gateways' sessions on a shard, which are found by the advisory lock that each holds from its start.

use std::time::Duration;

use ringway_topology::ids::GatewayId;
use ringway_topology::service::{gateway_lock_object, GATEWAY_LOCK_CLASS};
use tokio_postgres::Client;

const POLL_EVERY: Duration = Duration::from_millis(10);

/// `pg_locks.classid` and `objid` are oids: unsigned.
const SESSIONS: &str = "SELECT l.pid FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.classid = $1
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())";

/// Terminates the sessions of all gateways but those `spared`, and returns when they are gone. Sessions that begin
/// meanwhile are not its concern. The caller bounds it.
pub(super) async fn end_sessions_except(client: &Client, spared: &[GatewayId]) -> Result<(), tokio_postgres::Error> {
    let objects: Vec<u32> = spared.iter().map(|gateway| gateway_lock_object(*gateway) as u32).collect();
    let sql = format!("{SESSIONS} AND NOT (l.objid = ANY ($2))");
    let rows = client.query(&sql, &[&(GATEWAY_LOCK_CLASS as u32), &objects]).await?;
    end_backends(client, rows.iter().map(|row| row.get(0)).collect()).await
}

/// Terminates these backends, and returns when they are gone.
async fn end_backends(client: &Client, mut backends: Vec<i32>) -> Result<(), tokio_postgres::Error> {
    while !backends.is_empty() {
        // The CTE is materialised: PostgreSQL may otherwise call the function before it has looked at the pid.
        let left = "WITH a AS MATERIALIZED (SELECT s.pid FROM pg_catalog.pg_stat_activity s WHERE s.pid = ANY ($1))
            SELECT a.pid, pg_catalog.pg_terminate_backend(a.pid) FROM a";
        let rows = client.query(left, &[&backends]).await?;
        backends = rows.iter().map(|row| row.get(0)).collect();
        if !backends.is_empty() {
            tokio::time::sleep(POLL_EVERY).await;
        }
    }
    Ok(())
}
