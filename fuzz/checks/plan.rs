//! Texts of statements all the way through the planner, over a small schema.

use std::sync::LazyLock;

use ringway_gateway::catalog::Catalog;
use ringway_gateway::merge::insert_split;
use ringway_gateway::plan::filter::filtered;
use ringway_gateway::plan::route::route;
use ringway_gateway::plan::types::{MultiShard, Plan};
use ringway_gateway::plan::PlanContext;
use ringway_gateway::sql::lexer::lex;
use ringway_topology::ids::{KeyspaceId, ShardId};
use ringway_topology::model::{Keyspace, Placement, Shard, ShardState, Table, TableKind, TableName, Topology};
use ringway_topology::ring::Ring;
use ringway_topology::token::{KeyFamily, KeyType};

static TOPOLOGY: LazyLock<Topology> = LazyLock::new(topology);
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    Catalog::parse(include_str!("../../gateway/src/plan/testdata/catalog.json")).expect("the planner tests' catalog")
});

fn topology() -> Topology {
    let mut topology = Topology::empty("fuzz".into(), "secret".into());
    let shards = [ShardId(1), ShardId(2)];
    for id in shards {
        let (name, state) = (id.to_string(), ShardState::Member);
        topology.shards.insert(id, Shard { id, name, dsn: String::new(), state, system_identifier: 0 });
    }
    for (id, family) in [(1, KeyFamily::Integer), (2, KeyFamily::Text), (4, KeyFamily::Numeric)] {
        let (id, ring) = (KeyspaceId(id), Ring::equal(&shards).expect("two shards"));
        let name = id.to_string();
        topology.keyspaces.insert(id, Keyspace { id, name, family, placement: Placement::Ring(ring) });
    }
    for (name, key, keyspace, key_type) in [
        ("users", "id", 1, KeyType::Int8),
        ("orders", "user_id", 1, KeyType::Int8),
        ("items", "user_id", 1, KeyType::Int4),
        ("tenants", "slug", 2, KeyType::Text),
        ("ledger", "k", 4, KeyType::Numeric),
    ] {
        let kind = TableKind::Sharded { keyspace: KeyspaceId(keyspace), key_column: key.into(), key_type };
        topology.tables.push(Table { name: TableName::new("public", name), kind, changing: false });
    }
    let name = TableName::new("public", "products");
    topology.tables.push(Table { name, kind: TableKind::Reference, changing: false });
    topology
}

pub fn check(data: &[u8]) {
    let sql = String::from_utf8_lossy(data);
    // As the session does, statement by statement.
    let Ok(statements) = ringway_gateway::sql::split::split(&sql) else { return };
    for range in statements {
        statement(&sql[range]);
    }
}

fn statement(sql: &str) {
    let search_path = ["$user".to_owned(), "public".to_owned()];
    let context = PlanContext {
        catalog: &CATALOG,
        topology: &TOPOLOGY,
        search_path: &search_path,
        user: "postgres",
        one_shard: false,
    };
    let Ok(Plan::Query(query)) = ringway_gateway::plan::plan(sql, &context) else { return };
    if let Ok(Some(text)) = filtered(&query.sql, &query.sharded, &TOPOLOGY, ShardId(1)) {
        assert!(lex(&text).is_ok(), "a filter leaves a statement whole: {text}");
    }
    let _ = route(&query.targets, &TOPOLOGY, &[]);
    let text = match &query.multi {
        MultiShard::Concatenate(plan) => plan.sql.clone(),
        MultiShard::InsertSplit(plan) => {
            let owners: Vec<usize> = (0..plan.rows.len()).map(|row| row % 2).collect();
            let inserts = insert_split::split(&query.sql, plan, &owners);
            assert_eq!(inserts.iter().map(|insert| insert.rows.len()).sum::<usize>(), plan.rows.len());
            assert!(inserts.iter().all(|insert| lex(&insert.sql).is_ok()));
            None
        }
        _ => None,
    };
    assert!(text.is_none_or(|text| lex(&text).is_ok()), "what a shard is sent is a text with tokens");
}
