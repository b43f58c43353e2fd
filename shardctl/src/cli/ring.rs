//! `shardctl ring`: who owns which tokens.

use std::process::ExitCode;

use ringway_proto::v1;
use serde_json::{json, Value};

use super::args::JsonArgs;
use super::client::Client;
use super::output;

/// Arcs that are shown one by one; more are summed up by shard.
const ARCS_SHOWN_MAX: usize = 32;

pub async fn run(client: &mut Client, args: JsonArgs) -> anyhow::Result<ExitCode> {
    let topology = client.topology().await?;
    if args.json {
        let keyspaces = topology.keyspaces.iter().map(|keyspace| {
            let points: Vec<Value> = keyspace
                .ring
                .iter()
                .map(|point| json!({ "token": point.token, "shard": shard_name(&topology, point.shard) }))
                .collect();
            json!({ "keyspace": keyspace.name, "family": keyspace.family, "points": points })
        });
        output::json(&json!({ "epoch": topology.epoch, "keyspaces": keyspaces.collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    if topology.keyspaces.is_empty() {
        println!("There is no keyspace yet: shard a table with \"shardctl table shard TABLE --key COLUMN\".");
    }
    for keyspace in &topology.keyspaces {
        println!("keyspace {} ({} keys), epoch {}", keyspace.name, keyspace.family, topology.epoch);
        if keyspace.ring.len() <= ARCS_SHOWN_MAX {
            let mut after = None;
            let mut rows = Vec::new();
            for point in &keyspace.ring {
                rows.push(vec![
                    arc(after, point.token),
                    format!("{:.2}%", share(after, point.token)),
                    shard_name(&topology, point.shard),
                ]);
                after = Some(point.token);
            }
            output::table(&["arc", "share", "shard"], &rows);
        } else {
            shares(&topology, keyspace);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shares(topology: &v1::TopologySnapshot, keyspace: &v1::Keyspace) {
    let mut by_shard = std::collections::BTreeMap::<u32, (usize, f64)>::new();
    let mut after = None;
    for point in &keyspace.ring {
        let entry = by_shard.entry(point.shard).or_default();
        entry.0 += 1;
        entry.1 += share(after, point.token);
        after = Some(point.token);
    }
    let rows: Vec<Vec<String>> = by_shard
        .iter()
        .map(|(shard, (arcs, share))| vec![shard_name(topology, *shard), arcs.to_string(), format!("{share:.2}%")])
        .collect();
    output::table(&["shard", "arcs", "share"], &rows);
}

fn shard_name(topology: &v1::TopologySnapshot, number: u32) -> String {
    topology.shards.iter().find(|s| s.number == number).map_or_else(|| number.to_string(), |s| s.name.clone())
}

fn arc(after: Option<i64>, through: i64) -> String {
    let low = after.map(|a| a.to_string()).unwrap_or_default();
    let high = if through == i64::MAX { String::new() } else { through.to_string() };
    format!("{low}..{high}")
}

/// Percent of the token space.
fn share(after: Option<i64>, through: i64) -> f64 {
    let bottom = after.map_or(i128::from(i64::MIN) - 1, i128::from);
    (i128::from(through) - bottom) as f64 * 100.0 / 2f64.powi(64)
}
