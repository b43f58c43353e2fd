//! What recovery reads on one shard.

use ringway_topology::service::{Gid, GATEWAY_LOCK_CLASS, GID_PREFIX};
use tokio_postgres::{Client, Error};

/// A row of `ringway.decided` is old after this many seconds.
const DECISION_OLD_SECONDS: f64 = 10.0;
const ROWS_MAX: i64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prepared {
    pub gid: Gid,
    pub age_milliseconds: u64,
}

/// Of this database only: others on the same server may be other shards.
pub(super) async fn prepared(client: &Client) -> Result<Vec<Prepared>, Error> {
    let sql = "SELECT p.gid, greatest(0, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared) * 1000)::bigint
        FROM pg_catalog.pg_prepared_xacts p
        WHERE p.database = pg_catalog.current_database() AND pg_catalog.starts_with(p.gid, $1) ORDER BY 1 LIMIT $2";
    let rows = client.query(sql, &[&GID_PREFIX, &ROWS_MAX]).await?;
    let parse = |row: &tokio_postgres::Row| {
        let gid = Gid::parse(row.get(0))?;
        Some(Prepared { gid, age_milliseconds: row.get::<_, i64>(1) as u64 })
    };
    Ok(rows.iter().filter_map(parse).collect())
}

pub(super) async fn old_decisions(client: &Client) -> Result<Vec<Gid>, Error> {
    let sql = "SELECT d.gid FROM ringway.decided d
        WHERE d.decided_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) LIMIT $2";
    let rows = client.query(sql, &[&DECISION_OLD_SECONDS, &ROWS_MAX]).await?;
    Ok(rows.iter().filter_map(|row| Gid::parse(row.get(0))).collect())
}

/// Whether the anchor is in progress; if not, whether it has decided. In two statements, in this order: the second's
/// snapshot sees what the first found ended.
pub(super) async fn decision(client: &Client, xid: u64, gid: &str) -> Result<(bool, bool), Error> {
    let running = "SELECT ringway.xact_in_progress($1::text::pg_catalog.xid8)";
    if client.query_one(running, &[&xid.to_string()]).await?.get(0) {
        return Ok((true, false));
    }
    let decided = "SELECT EXISTS (SELECT FROM ringway.decided d WHERE d.gid = $1)";
    Ok((false, client.query_one(decided, &[&gid]).await?.get(0)))
}

/// Ends the backend that runs this transaction for the gateway with this lock object. False: there is none.
pub(super) async fn end_backend(client: &Client, xid: u64, object: u32) -> Result<bool, Error> {
    let sql = "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
        WHERE a.backend_xid = $1::text::pg_catalog.xid AND a.datname = pg_catalog.current_database()
          AND EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
                AND l.objsubid = 2 AND l.classid = $2 AND l.objid = $3)";
    // pg_stat_activity shows the low 32 bits.
    let rows = client.query(sql, &[&(xid as u32).to_string(), &(GATEWAY_LOCK_CLASS as u32), &object]).await?;
    Ok(!rows.is_empty())
}
