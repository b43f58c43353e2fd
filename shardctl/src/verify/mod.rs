//! Whether the shards hold what the ring says: every sharded row on its owner, reference tables equal everywhere.
//!
//! Reads only, one table at a time, while the application writes: a difference is looked at again before it is reported.
//! Rows that a running move has copied to its target, or left on its source, are allowed there.

use std::time::Duration;

use ringway_topology::ids::{Epoch, KeyspaceId, ShardId};
use ringway_topology::model::{quote_ident, ShardState, TableKind, TableName, Topology};
use ringway_topology::ring::TokenArc;
use ringway_topology::token::token_sql;
use tokio_postgres::Client;

use crate::control::{Control, ControlError};
use crate::shards::copy;

/// Rows named per table and shard.
const EXAMPLES_MAX: i64 = 5;
const LOOKS_MAX: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub rows_checked: u64,
    /// Each says table, shard and key.
    pub findings: Vec<String>,
}

pub async fn verify(control: &Control) -> Result<Report, ControlError> {
    let mut report = Report::default();
    let topology = control.topology();
    let mut sessions = Vec::new();
    for shard in topology.members() {
        sessions.push((shard.id, shard.name.clone(), control.shard_client(shard.id).await?));
    }
    let sessions: Vec<(ShardId, &str, &Client)> =
        sessions.iter().map(|(id, name, client)| (*id, name.as_str(), &**client)).collect();
    for shard in topology.shards.values().filter(|shard| shard.state == ShardState::Joining) {
        tracing::info!(shard = %shard.name, "is joining: not verified");
    }
    for table in topology.tables.iter().filter(|table| !table.changing) {
        match &table.kind {
            TableKind::Sharded { keyspace, key_column, .. } => {
                for (shard, name, client) in &sessions {
                    let place = Place { table: &table.name, keyspace: *keyspace, key_column, shard: *shard };
                    let (rows, findings) = strangers(control, client, name, place).await?;
                    report.rows_checked += rows;
                    report.findings.extend(findings);
                }
            }
            TableKind::Reference => {
                let (rows, findings) = reference_table(&sessions, &table.name).await?;
                report.rows_checked += rows;
                report.findings.extend(findings);
            }
        }
    }
    Ok(report)
}

#[derive(Clone, Copy)]
struct Place<'a> {
    table: &'a TableName,
    keyspace: KeyspaceId,
    key_column: &'a str,
    shard: ShardId,
}

/// Arcs whose rows a shard may hold: its own, and those of moves that it takes part in.
fn allowed_arcs(topology: &Topology, keyspace: KeyspaceId, shard: ShardId) -> Vec<TokenArc> {
    let own = topology.keyspace(keyspace).map(|space| space.ring().arcs_of(shard)).unwrap_or_default();
    let moving = topology.moves.values().filter(|m| m.keyspace == keyspace && m.peer_of(shard).is_some());
    own.into_iter().chain(moving.flat_map(|m| m.arcs.iter().copied())).collect()
}

/// Rows on a shard that are none of its own. The epoch may change under the eyes of the query: look again then.
async fn strangers(
    control: &Control,
    client: &Client,
    shard_name: &str,
    place: Place<'_>,
) -> Result<(u64, Vec<String>), ControlError> {
    let mut seen: Option<(Epoch, u64, Vec<String>)> = None;
    for look in 0..LOOKS_MAX {
        if look > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let topology = control.topology();
        let (rows, keys) = look_for_strangers(client, &topology, place)
            .await
            .map_err(|error| error.context(format!("{} on shard {shard_name}", place.table)))?;
        if keys.is_empty() {
            return Ok((rows, Vec::new()));
        }
        seen = Some((topology.epoch, rows, keys));
    }
    let Some((epoch, rows, keys)) = seen else { return Ok((0, Vec::new())) };
    let finding = |key: &String| {
        format!(
            "{} on shard {shard_name}: a row with {} = {key} belongs to another shard at epoch {epoch}",
            place.table, place.key_column
        )
    };
    Ok((rows, keys.iter().map(finding).collect()))
}

async fn look_for_strangers(
    client: &Client,
    topology: &Topology,
    place: Place<'_>,
) -> Result<(u64, Vec<String>), ControlError> {
    let key = quote_ident(place.key_column);
    let token = token_sql(&key);
    let allowed: Vec<String> =
        allowed_arcs(topology, place.keyspace, place.shard).iter().map(|arc| arc.sql_condition(&token)).collect();
    let allowed = if allowed.is_empty() { "FALSE".to_owned() } else { allowed.join(" OR ") };
    let table = place.table.quoted();
    let sql = format!(
        "SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE ({allowed}) IS NOT TRUE) FROM ONLY {table}"
    );
    let row = client.query_one(&sql, &[]).await?;
    let (rows, strangers): (i64, i64) = (row.get(0), row.get(1));
    if strangers == 0 {
        return Ok((rows as u64, Vec::new()));
    }
    let sql = format!("SELECT {key}::text FROM ONLY {table} WHERE ({allowed}) IS NOT TRUE LIMIT {EXAMPLES_MAX}");
    let examples = client.query(&sql, &[]).await?;
    let text = |row: &tokio_postgres::Row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".to_owned());
    let mut keys: Vec<String> = examples.iter().map(text).collect();
    if strangers > EXAMPLES_MAX {
        keys.push(format!("... ({} more rows)", strangers - EXAMPLES_MAX));
    }
    Ok((rows as u64, keys))
}

/// Equal to the home shard's on every member.
async fn reference_table(
    sessions: &[(ShardId, &str, &Client)],
    table: &TableName,
) -> Result<(u64, Vec<String>), ControlError> {
    let Some(((_, home_name, home), others)) = sessions.split_first() else { return Ok((0, Vec::new())) };
    let mut rows = 0;
    let mut findings = Vec::new();
    for (_, name, client) in others {
        let mut differing = None;
        for look in 0..LOOKS_MAX {
            if look > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let (ours, theirs) = tokio::try_join!(copy::checksum(home, table), copy::checksum(client, table))?;
            rows = rows.max(ours.0 as u64);
            differing = (ours != theirs).then_some((ours.0, theirs.0));
            if differing.is_none() {
                break;
            }
        }
        if let Some((ours, theirs)) = differing {
            findings.push(format!(
                "reference table {table}: shard {name} ({theirs} rows) differs from shard {home_name} ({ours} rows)"
            ));
        }
    }
    Ok((rows * sessions.len() as u64, findings))
}
