//! What a move may leave behind, read from the shards directly.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_proto::v1::{Move, TokenArc, TopologySnapshot};

use super::sql::{column, connect, value};
use crate::cluster::Cluster;
use crate::shop::SHARDED;

/// Every prepared transaction of a dead process is resolved within this.
pub const RESOLVED_MAX: Duration = Duration::from_secs(10);
/// Guards that nothing needs are dropped when their tables are idle.
const DROPPED_MAX: Duration = Duration::from_secs(30);

/// Prepared transactions of ours, on any shard, as "shard gid".
pub async fn prepared(cluster: &Cluster) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for shard in cluster.topology().await?.shards {
        let client = connect(&shard.dsn).await?;
        let gids = column(&client, "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'ringway:%'").await?;
        found.extend(gids.into_iter().map(|gid| format!("{} {gid}", shard.name)));
    }
    Ok(found)
}

/// `prepared_follows_its_decision`, its first half: without traffic none is left for long.
pub async fn none_stays_prepared(cluster: &Cluster) -> Result<()> {
    let mut last = Vec::new();
    let waited = super::until("the end of every prepared transaction", RESOLVED_MAX, || async {
        let found = prepared(cluster).await?;
        ensure!(found.is_empty(), "still prepared: {found:?}");
        Ok(true)
    })
    .await;
    if waited.is_err() {
        last = prepared(cluster).await.unwrap_or_default();
    }
    waited.with_context(|| format!("prepared transactions: {last:?}"))
}

/// SQL condition: the token of the key lies in the arcs.
pub fn in_arcs(arcs: &[TokenArc], key: &str) -> String {
    let conditions: Vec<String> = arcs
        .iter()
        .map(|arc| {
            let low =
                arc.after.map(|after| format!("hashint8extended({key}, 0) > '{after}'::int8 AND ")).unwrap_or_default();
            format!("({low}hashint8extended({key}, 0) <= '{}'::int8)", arc.through)
        })
        .collect();
    format!("({})", if conditions.is_empty() { "false".to_string() } else { conditions.join(" OR ") })
}

/// Rows of the arcs that lie on a shard, over the shop's tables.
pub async fn rows_in_arcs(dsn: &str, arcs: &[TokenArc]) -> Result<i64> {
    let client = connect(dsn).await?;
    let mut total = 0;
    for (table, key) in SHARDED {
        let query = format!("SELECT count(*) FROM public.{table} WHERE {}", in_arcs(arcs, key));
        total += client.query_one(&query, &[]).await?.get::<_, i64>(0);
    }
    Ok(total)
}

/// `cancelled_leaves_no_trace`: neither end has rows, records, prepared transactions or objects of the move.
pub async fn cancelled_leaves_no_trace(cluster: &Cluster, cancelled: &Move) -> Result<()> {
    let topology = cluster.topology().await?;
    let name = |number: u32| topology.shards.iter().find(|s| s.number == number).cloned();
    let source = name(cancelled.source).context("the source is gone")?;
    let mut ends = vec![(source.name, source.dsn, false)];
    if let Some(target) = name(cancelled.target) {
        ends.push((target.name, target.dsn, true));
    }
    for (name, dsn, is_target) in ends {
        let client = connect(&dsn).await?;
        let id = cancelled.id;
        for (what, query) in [
            ("records of the move", format!("SELECT count(*) FROM ringway.move WHERE move_id = {id}")),
            ("captured rows", format!("SELECT count(*) FROM ringway.capture WHERE move_id = {id}")),
            ("prepared transactions", "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'ringway:%'".into()),
        ] {
            let mut seen = String::new();
            let gone = super::until(what, RESOLVED_MAX, || async { Ok(value(&client, &query).await? == "0") }).await;
            if gone.is_err() {
                seen = value(&client, &query).await?;
            }
            ensure!(gone.is_ok(), "{name} still has {seen} {what}");
        }
        // The guard of a shard that gave arcs away earlier stands; that of the move goes.
        let closed = value(&client, "SELECT count(*) FROM ringway.guard_state WHERE closed <> '{}'").await?;
        if closed == "0" {
            let query =
                "SELECT tgrelid::regclass::text || ' ' || tgname FROM pg_trigger WHERE tgname LIKE 'ringway_guard_%'";
            let gone =
                super::until("no guard", DROPPED_MAX, || async { Ok(column(&client, query).await?.is_empty()) }).await;
            ensure!(gone.is_ok(), "{name} still has guards: {:?}", column(&client, query).await?);
        } else {
            ensure!(is_target, "{name}, which gave nothing away, refuses writes to some arcs");
        }
        if is_target {
            let left = rows_in_arcs(&dsn, &cancelled.arcs).await?;
            ensure!(left == 0, "{left} copied rows are left on {name}");
        }
    }
    Ok(())
}

/// Owners of a keyspace's tokens, before and after: what changed hands, and that nothing else did.
pub fn moved_only(before: &TopologySnapshot, after: &TopologySnapshot, from: u32, to: u32) -> Result<u128> {
    let (old, new) = (points(before)?, points(after)?);
    let mut cuts: Vec<i64> = old.iter().chain(&new).map(|point| point.0).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut width = 0;
    let mut below: i128 = i128::from(i64::MIN) - 1;
    for cut in cuts {
        let (was, is) = (owner(&old, cut)?, owner(&new, cut)?);
        if was != is {
            ensure!(was == from && is == to, "tokens up to {cut} went from shard {was} to shard {is}");
            width += (i128::from(cut) - below) as u128;
        }
        below = i128::from(cut);
    }
    Ok(width)
}

fn points(topology: &TopologySnapshot) -> Result<Vec<(i64, u32)>> {
    let keyspace = topology.keyspaces.first().context("no keyspace")?;
    Ok(keyspace.ring.iter().map(|point| (point.token, point.shard)).collect())
}

fn owner(points: &[(i64, u32)], token: i64) -> Result<u32> {
    points
        .iter()
        .find(|point| token <= point.0)
        .map(|point| point.1)
        .with_context(|| format!("token {token} has no owner"))
}
