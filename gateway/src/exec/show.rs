//! `SHOW ringway.*`, `SHOW POOLS`, `SHOW STATS`, ...: small results of the gateway's own, all of text columns.

use std::sync::atomic::{AtomicU64, Ordering};

use ringway_topology::model::{ShardState, TableKind, Topology};

use super::describe::text_field;
use super::gateway::Gateway;
use crate::wire::backend::FieldDescription;

/// What can be shown, by its name in lower case without the `ringway.` in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Shards,
    Moves,
    Tables,
    Ring,
    Epoch,
    Pools,
    Stats,
    Version,
}

impl Subject {
    pub fn named(what: &str) -> Option<Subject> {
        let what = what.to_ascii_lowercase();
        Some(match what.strip_prefix("ringway.").unwrap_or(&what) {
            "shards" => Subject::Shards,
            "moves" => Subject::Moves,
            "tables" => Subject::Tables,
            "ring" => Subject::Ring,
            "epoch" => Subject::Epoch,
            "pools" => Subject::Pools,
            "stats" => Subject::Stats,
            "version" => Subject::Version,
            _ => return None,
        })
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Subject::Shards => &["number", "name", "state", "dsn"],
            Subject::Moves => &["id", "kind", "source", "target", "phase", "arcs", "mirror", "hold"],
            Subject::Tables => &["schema", "name", "kind", "key", "type", "keyspace"],
            Subject::Ring => &["keyspace", "arc", "shard"],
            Subject::Epoch => &["epoch"],
            Subject::Pools => &["shard", "role", "in_use", "idle", "waiting"],
            Subject::Stats => &["name", "value"],
            Subject::Version => &["version"],
        }
    }

    fn rows(self, gateway: &Gateway, topology: &Topology) -> Vec<Vec<String>> {
        match self {
            Subject::Shards => shards(topology),
            Subject::Moves => moves(topology),
            Subject::Tables => tables(topology),
            Subject::Ring => ring(topology),
            Subject::Epoch => vec![vec![topology.epoch.0.to_string()]],
            Subject::Pools => pools(gateway, topology),
            Subject::Stats => stats(gateway),
            Subject::Version => vec![vec![format!("Ringway {}", env!("CARGO_PKG_VERSION"))]],
        }
    }
}

/// The columns of the result; none for an unknown subject.
pub fn fields(what: &str) -> Vec<FieldDescription> {
    let columns = Subject::named(what).map(Subject::columns).unwrap_or_default();
    columns.iter().map(|name| text_field(name)).collect()
}

/// None for an unknown subject.
pub fn rows(what: &str, gateway: &Gateway, topology: &Topology) -> Option<Vec<Vec<String>>> {
    Some(Subject::named(what)?.rows(gateway, topology))
}

fn shard_name(topology: &Topology, id: ringway_topology::ids::ShardId) -> String {
    topology.shard(id).map_or_else(|| id.to_string(), |shard| shard.name.clone())
}

fn shards(topology: &Topology) -> Vec<Vec<String>> {
    let rows = topology.shards.values().map(|shard| {
        let state = match shard.state {
            ShardState::Joining => "joining",
            ShardState::Member => "member",
        };
        vec![shard.id.to_string(), shard.name.clone(), state.to_owned(), without_password(&shard.dsn)]
    });
    rows.collect()
}

/// A secret never shows.
fn without_password(dsn: &str) -> String {
    let Some((scheme, rest)) = dsn.split_once("://") else { return "(not a URL)".to_owned() };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let shown = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    let tail = tail.split('?').next().unwrap_or_default();
    format!("{scheme}://{shown}{tail}")
}

/// The name that the model's own serialisation gives.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn moves(topology: &Topology) -> Vec<Vec<String>> {
    let flag = |on: bool| if on { "t" } else { "f" }.to_owned();
    let rows = topology.moves.values().map(|m| {
        vec![
            m.id.0.to_string(),
            word(m.kind),
            shard_name(topology, m.source),
            shard_name(topology, m.target),
            word(m.phase),
            m.arcs.len().to_string(),
            flag(m.routing.mirror),
            flag(m.routing.hold),
        ]
    });
    rows.collect()
}

fn tables(topology: &Topology) -> Vec<Vec<String>> {
    let rows = topology.tables.iter().map(|table| {
        let (schema, name) = (table.name.schema.clone(), table.name.name.clone());
        match &table.kind {
            TableKind::Sharded { keyspace, key_column, key_type } => {
                let space = topology.keyspace(*keyspace).map(|k| k.name.clone()).unwrap_or_default();
                vec![schema, name, "sharded".into(), key_column.clone(), key_type.to_string(), space]
            }
            TableKind::Reference => {
                vec![schema, name, "reference".into(), String::new(), String::new(), String::new()]
            }
        }
    });
    rows.collect()
}

fn ring(topology: &Topology) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for keyspace in topology.keyspaces.values() {
        for (arc, shard) in keyspace.ring().arcs() {
            rows.push(vec![keyspace.name.clone(), arc.to_string(), shard_name(topology, shard)]);
        }
    }
    rows
}

fn pools(gateway: &Gateway, topology: &Topology) -> Vec<Vec<String>> {
    let rows = gateway.pools.all().into_iter().map(|pool| {
        let idle = pool.idle_count();
        let in_use = pool.connections.load(Ordering::Relaxed).saturating_sub(idle);
        vec![
            shard_name(topology, pool.shard),
            pool.role.clone(),
            in_use.to_string(),
            idle.to_string(),
            pool.waiting_count().to_string(),
        ]
    });
    rows.collect()
}

fn stats(gateway: &Gateway) -> Vec<Vec<String>> {
    let statistics = &gateway.statistics;
    let counters: [(&str, &AtomicU64); 6] = [
        ("clients", &statistics.clients),
        ("statements", &statistics.statements),
        ("single_shard", &statistics.single_shard),
        ("fan_out", &statistics.fan_out),
        ("distributed_commits", &statistics.distributed_commits),
        ("errors", &statistics.errors),
    ];
    counters.iter().map(|(name, value)| vec![(*name).to_owned(), value.load(Ordering::Relaxed).to_string()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(without_password("postgresql://r:s3cret@h:1/db?password=x"), "postgresql://r@h:1/db");
        assert_eq!(without_password("postgresql://r:a@b@h/db"), "postgresql://r@h/db");
        assert_eq!(without_password("host=h password=x"), "(not a URL)");
    }

    #[test]
    fn subjects_are_found_by_either_name() {
        assert_eq!(Subject::named("ringway.shards"), Some(Subject::Shards));
        assert_eq!(Subject::named("POOLS"), Some(Subject::Pools));
        assert_eq!(Subject::named("work_mem"), None);
    }
}
