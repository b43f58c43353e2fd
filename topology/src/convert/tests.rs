use super::*;
use crate::model::{MoveKind, Phase};
use crate::token::{KeyFamily, KeyType};

/// One of everything.
fn topology() -> Topology {
    let mut topology = Topology::empty("cluster".into(), "secret".into());
    topology.epoch = Epoch(u64::MAX);
    topology.catalog_version = 9;
    for (number, state) in [(1, ShardState::Member), (65535, ShardState::Joining)] {
        let shard = Shard {
            id: ShardId(number),
            name: format!("s{number}"),
            dsn: "postgresql://ringway:pw@127.0.0.1/app".into(),
            state,
            system_identifier: u64::MAX - 1,
        };
        topology.shards.insert(shard.id, shard);
    }
    let ring = Ring::equal(&[ShardId(1), ShardId(65535)]).unwrap();
    let keyspace = Keyspace {
        id: KeyspaceId(1),
        name: "default".into(),
        family: KeyFamily::Timestamptz,
        placement: Placement::Ring(ring),
    };
    topology.keyspaces.insert(keyspace.id, keyspace);
    for key_type in KeyType::ALL {
        topology.tables.push(Table {
            name: TableName::new("public", key_type.sql_name()),
            kind: TableKind::Sharded { keyspace: KeyspaceId(1), key_column: "id".into(), key_type },
            changing: key_type == KeyType::Int2,
        });
    }
    topology.tables.push(Table { name: TableName::new("a", "b"), kind: TableKind::Reference, changing: false });
    for (id, phase) in [(1, Phase::CuttingOver), (2, Phase::RollingBack)] {
        let m = Move {
            id: MoveId(id),
            kind: MoveKind::Split,
            keyspace: KeyspaceId(1),
            source: ShardId(1),
            target: ShardId(65535),
            arcs: vec![TokenArc { after: None, through: -5 }, TokenArc { after: Some(i64::MIN), through: i64::MAX }],
            phase,
            routing: MoveRouting { filter: true, mirror: false, hold: true },
        };
        topology.moves.insert(m.id, m);
    }
    topology
}

#[test]
fn there_and_back() {
    let topology = topology();
    let snapshot = topology_to_proto(&topology, Audience::Gateway);
    assert_eq!(topology_from_proto(&snapshot, "secret").unwrap(), topology);
    assert_eq!(snapshot.moves[0].phase, "cutting_over");
}

#[test]
fn observers_see_no_password() {
    let topology = topology();
    let shown = format!("{:?}", topology_to_proto(&topology, Audience::Observer));
    assert!(!shown.contains(":pw@") && !shown.contains("secret"), "{shown}");
}

#[test]
fn what_is_unknown_is_refused() {
    let good = topology_to_proto(&topology(), Audience::Gateway);
    let refused = |change: &dyn Fn(&mut v1::TopologySnapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        topology_from_proto(&snapshot, "").is_err()
    };
    assert!(refused(&|s| s.shards[0].number = 65536));
    assert!(refused(&|s| s.shards[0].state = 0));
    assert!(refused(&|s| s.tables[0].kind = None));
    assert!(refused(&|s| s.moves[0].phase = "flying".into()));
    assert!(refused(&|s| s.keyspaces[0].ring.clear()));
    assert!(refused(&|s| s.moves[0].arcs[0].after = Some(7)));
}
