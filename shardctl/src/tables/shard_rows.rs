//! A table's rows go to their owners, in one distributed transaction anchored on the home shard.
//!
//! Under ACCESS EXCLUSIVE on every member: rows are copied out of the home shard, prepared on the others, and deleted at
//! home by the transaction that decides. `ringway.sharded_table` on the home shard says that it has committed.

use std::sync::atomic::{AtomicU64, Ordering};

use ringway_topology::ids::{KeyspaceId, ShardId};
use ringway_topology::model::{quote_ident, TableName, Topology};
use ringway_topology::ring::TokenArc;
use ringway_topology::service::Gid;
use ringway_topology::token::token_sql;
use tokio_postgres::Client;

use super::distribute::Members;
use crate::control::ControlError;
use crate::shards::{copy, sequences};

/// For whoever still uses the table past the gateways.
const LOCK_TIMEOUT: &str = "3s";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// Advisory lock of the transaction that changes a table's kind: whoever takes it next sees how that ended.
pub const CHANGE_LOCK: &str = "pg_catalog.pg_advisory_xact_lock(x'52570031'::int, 0)";
/// The control plane's number in gids.
const CONTROL_PLANE: u64 = 0;

#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    pub keyspace: KeyspaceId,
    pub column: &'a str,
}

/// Answers the rows moved and warnings.
pub async fn shard_rows(
    topology: &Topology,
    members: &Members,
    table: &TableName,
    key: Key<'_>,
) -> Result<(u64, Vec<String>), ControlError> {
    let space = topology
        .keyspace(key.keyspace)
        .ok_or_else(|| ControlError::Internal(format!("keyspace {} is gone", key.keyspace)))?;
    let ring = space.ring();
    lock_everywhere(members, table, "ACCESS EXCLUSIVE").await?;
    let (_, _, home) = members.home();
    let columns = copy::columns(home, table).await?;
    let token = token_sql(&quote_ident(key.column));
    let warnings = set_tracks(members, table).await?;

    let mut rows = 0;
    for (index, (shard, name, client)) in members.sessions.iter().enumerate() {
        if index > 0 {
            let condition = any_of(&ring.arcs_of(*shard), &token);
            let out = format!("COPY (SELECT {columns} FROM ONLY {} WHERE {condition}) TO STDOUT", table.quoted());
            let input = format!("COPY {} ({columns}) FROM STDIN", table.quoted());
            let copied = copy::copy_rows(home, &out, client, &input).await;
            rows += copied.map_err(|error| error.context(format!("copying {table} to shard {name}")))?;
        }
        register(client, table, key).await.map_err(|error| error.context(format!("shard {name}")))?;
    }
    let own = any_of(&ring.arcs_of(members.home().0), &token);
    let deleted = home.execute(&format!("DELETE FROM ONLY {} WHERE NOT {own}", table.quoted()), &[]).await?;
    if deleted != rows {
        return Err(ControlError::Internal(format!(
            "{rows} rows of {table} were copied and {deleted} would be deleted"
        )));
    }
    commit(members).await?;
    for (_, _, client) in &members.sessions {
        if let Err(error) = client.batch_execute(&format!("ANALYZE {}", table.quoted())).await {
            tracing::debug!(%error, "statistics are left to autovacuum");
        }
    }
    Ok((rows, warnings))
}

/// Whether a token is in one of the arcs.
pub fn any_of(arcs: &[TokenArc], token: &str) -> String {
    if arcs.is_empty() {
        return "(FALSE)".to_owned();
    }
    let conditions: Vec<String> = arcs.iter().map(|arc| arc.sql_condition(token)).collect();
    format!("({})", conditions.join(" OR "))
}

/// Begins a transaction on every member and locks the table there; on failure the sessions must be dropped.
pub async fn lock_everywhere(members: &Members, table: &TableName, mode: &str) -> Result<(), ControlError> {
    for (_, name, client) in &members.sessions {
        let sql = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SELECT {CHANGE_LOCK}; \
             LOCK TABLE ONLY {} IN {mode} MODE; SET LOCAL lock_timeout = 0",
            table.quoted()
        );
        match client.batch_execute(&sql).await.map_err(ControlError::from) {
            Ok(()) => {}
            Err(error) if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) => {
                return Err(ControlError::Precondition(format!(
                    "{table} is being written on shard {name} by a transaction that does not end; nothing was changed, \
                     try again when it has ended (see pg_stat_activity there)"
                )))
            }
            Err(error) => return Err(error.context(format!("shard {name}"))),
        }
    }
    Ok(())
}

async fn register(client: &Client, table: &TableName, key: Key<'_>) -> Result<(), ControlError> {
    let keyspace = i32::try_from(key.keyspace.0).unwrap_or(i32::MAX);
    let sql = "INSERT INTO ringway.sharded_table (relation, keyspace, key_column)
        VALUES ($1::text::pg_catalog.regclass, $2, $3::text)
        ON CONFLICT (relation) DO UPDATE SET keyspace = excluded.keyspace, key_column = excluded.key_column";
    client.execute(sql, &[&table.quoted(), &keyspace, &key.column]).await?;
    client.execute("SELECT ringway.record_table($1::text::pg_catalog.regclass)", &[&table.quoted()]).await?;
    let sql = "INSERT INTO ringway.guard_state (keyspace) VALUES ($1) ON CONFLICT DO NOTHING";
    client.execute(sql, &[&keyspace]).await?;
    // Guards for what is closed here, or moving, already; without arcs that concern this shard it makes nothing.
    client.execute("SELECT ringway.install_guard($1::text::pg_catalog.regclass)", &[&table.quoted()]).await?;
    Ok(())
}

/// Every member's sequences step in their own tracks, above every value given so far.
async fn set_tracks(members: &Members, table: &TableName) -> Result<Vec<String>, ControlError> {
    let mut warnings = Vec::new();
    let (_, _, home) = members.home();
    let shards: Vec<ShardId> = members.sessions.iter().map(|(shard, _, _)| *shard).collect();
    for sequence in sequences::of_table(home, table).await? {
        if sequence.increment < 0 || sequence.cycles {
            return Err(ControlError::Precondition(format!(
                "sequence {} runs downwards or cycles, so its values cannot be made unique in the cluster",
                sequence.name
            )));
        }
        sequences::check_tracks(&shards, sequence.stride)?;
        let mut floor = 0;
        for (_, _, client) in &members.sessions {
            floor = floor.max(sequences::last_value(client, &sequence.name).await?);
        }
        let highest = format!("SELECT pg_catalog.max({})::bigint FROM ONLY {}", sequence.column_sql, table.quoted());
        // A column of another type has no integers to avoid.
        home.batch_execute("SAVEPOINT highest").await?;
        match home.query_one(&highest, &[]).await {
            Ok(row) => floor = floor.max(row.get::<_, Option<i64>>(0).unwrap_or(0)),
            Err(error) if error.as_db_error().is_some() => home.batch_execute("ROLLBACK TO highest").await?,
            Err(error) => return Err(error.into()),
        }
        let mut left = i64::MAX;
        for (shard, name, client) in &members.sessions {
            let outcome = sequences::set_track(client, &sequence, *shard, floor).await;
            left = left.min(outcome.map_err(|error| error.context(format!("shard {name}")))?);
        }
        warnings.extend(sequences::warning(&sequence, left));
    }
    Ok(warnings)
}

/// Prepares everywhere but at home, decides and commits there, then commits the others. What is left after a failure is
/// recovery's: it looks at `ringway.decided` at home.
pub async fn commit(members: &Members) -> Result<(), ControlError> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let (anchor, _, home) = members.home();
    let xid: String = home.query_one("SELECT pg_catalog.pg_current_xact_id()::text", &[]).await?.get(0);
    let anchor_xid = xid.parse().map_err(|_| ControlError::Internal(format!("{xid} is no transaction id")))?;
    let mut prepared = Vec::new();
    for (_, name, client) in &members.sessions[1..] {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let gid = Gid { anchor: *anchor, anchor_xid, gateway: CONTROL_PLANE, number }.to_string();
        let sql = format!("PREPARE TRANSACTION '{gid}'");
        client.batch_execute(&sql).await.map_err(|error| ControlError::from(error).context(format!("shard {name}")))?;
        home.execute("INSERT INTO ringway.decided (gid) VALUES ($1)", &[&gid]).await?;
        prepared.push((client, gid));
    }
    home.batch_execute("COMMIT").await?;
    let mut finished = Vec::new();
    for (client, gid) in prepared {
        match client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await {
            Ok(()) => finished.push(gid),
            // Decided: recovery commits it.
            Err(error) => tracing::warn!(gid, error = %crate::pg::message_of(&error), "left to recovery"),
        }
    }
    home.execute("DELETE FROM ringway.decided WHERE gid = ANY ($1)", &[&finished]).await?;
    Ok(())
}
