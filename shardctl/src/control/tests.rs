use std::collections::BTreeSet;
use std::time::Instant;

use ringway_topology::client::{Acknowledgement, EpochRange, GatewayStatistics, MoveStatistics};
use ringway_topology::ids::{GatewayId, KeyspaceId};
use ringway_topology::model::{Keyspace, Placement, Shard, ShardState};
use ringway_topology::ring::Ring;
use ringway_topology::store::MemoryStore;
use ringway_topology::token::KeyFamily;

use super::registry::{Pending, Registry, Stage};
use super::*;

async fn control(store: &Arc<MemoryStore>) -> Control {
    Control::start(Arc::clone(store) as Arc<dyn Store>, CancellationToken::new()).await.unwrap()
}

fn add_shard(topology: &mut Topology, state: ShardState) -> ShardId {
    let id = ShardId(topology.next_shard);
    topology.next_shard += 1;
    let name = format!("s{id}");
    topology.shards.insert(id, Shard { id, name, dsn: String::new(), state, system_identifier: 1 });
    id
}

#[tokio::test]
async fn changes_are_stored_before_they_are_seen() {
    let store = Arc::new(MemoryStore::new());
    let control = control(&store).await;
    assert_eq!(control.topology().epoch, Epoch(1));
    let changed = control
        .change_with_record(
            "test",
            |topology| {
                add_shard(topology, ShardState::Member);
                Ok(())
            },
            |topology| (MoveId(3), topology.epoch.0.to_string().into_bytes()),
        )
        .await
        .unwrap();
    assert_eq!((changed.epoch, &changed), (Epoch(2), &control.topology()));
    assert_eq!(store.load().unwrap().as_ref(), Some(&*changed));
    assert_eq!(control.move_records().await.unwrap(), [(MoveId(3), b"2".to_vec())]);

    let same = control.change("nothing", |_| Ok(())).await.unwrap();
    assert_eq!(same.epoch, Epoch(2), "an edit that changes nothing makes no epoch");
    control.put_progress(MoveId(3), vec![1]).await.unwrap();
    assert_eq!(control.progress(MoveId(3)).await.unwrap(), Some(vec![1]));
    control.remove_move_record(MoveId(3)).await.unwrap();
    assert!(control.move_records().await.unwrap().is_empty());
}

#[tokio::test]
async fn invariants_are_kept() {
    let store = Arc::new(MemoryStore::new());
    let control = control(&store).await;
    let joining_owner = control.change("test", |topology| {
        let owner = add_shard(topology, ShardState::Joining);
        let keyspace = Keyspace {
            id: KeyspaceId(1),
            name: "k".into(),
            family: KeyFamily::Integer,
            placement: Placement::Ring(Ring::equal(&[owner]).unwrap()),
        };
        topology.keyspaces.insert(keyspace.id, keyspace);
        Ok(())
    });
    assert!(matches!(joining_owner.await, Err(ControlError::Invariant("every_owner_is_a_member"))));
    let backwards = control.change("test", |topology| {
        topology.next_shard = 0;
        Ok(())
    });
    assert!(matches!(backwards.await, Err(ControlError::Invariant("numbers_are_not_reused"))));
    let refused = control.change("test", |_| Err(ControlError::Precondition("no".into())));
    assert!(refused.await.is_err());
    assert_eq!(control.topology().epoch, Epoch(1));
}

#[tokio::test]
async fn two_writers_and_two_control_planes_lose_nothing() {
    let store = Arc::new(MemoryStore::new());
    let first = control(&store).await;
    let second = control(&store).await;
    let mut writers = Vec::new();
    for control in [&first, &first, &second] {
        let control = control.clone();
        writers.push(tokio::spawn(async move {
            for _ in 0..5 {
                let bump = |topology: &mut Topology| {
                    topology.catalog_version += 1;
                    Ok(())
                };
                control.change("test", bump).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let stored = store.load().unwrap().unwrap();
    assert_eq!((stored.epoch, stored.catalog_version), (Epoch(16), 16));
}

fn said(routed: u64, drained: u64) -> Acknowledgement {
    Acknowledgement { routed: Epoch(routed), drained: Epoch(drained), ..Acknowledgement::default() }
}

#[tokio::test]
async fn a_change_waits_for_itself_alone() {
    let control = control(&Arc::new(MemoryStore::new())).await;
    let gateways = control.gateways().clone();
    let soon = || Instant::now() + Duration::from_millis(50);
    let session = gateways.register(GatewayId(1), "here".into());
    let pending = vec![EpochRange { after: Epoch(4), through: Epoch(6) }];
    gateways.acknowledge(session, Acknowledgement { used: Epoch(8), pending, ..said(4, 4) });
    for (epoch, is_routed) in [(4, true), (5, false), (6, false), (7, true), (8, true), (9, false)] {
        let waited = gateways.wait_change_routed_or_terminate(Epoch(epoch), soon(), &[]).await;
        assert_eq!(waited.is_ok(), is_routed, "epoch {epoch}");
    }
    assert!(gateways.wait_routed(Epoch(7), soon()).await.is_err(), "with all before it");
}

#[tokio::test]
async fn a_live_gateway_is_waited_for() {
    let control = control(&Arc::new(MemoryStore::new())).await;
    let gateways = control.gateways().clone();
    let soon = || Instant::now() + Duration::from_millis(50);
    gateways.wait_routed(Epoch(9), soon()).await.unwrap();

    let session = gateways.register(GatewayId(1), "here".into());
    gateways.acknowledge(session, said(8, 8));
    let late = gateways.wait_routed(Epoch(9), soon()).await;
    assert!(matches!(late, Err(WaitError::Gateway { gateway: GatewayId(1), epoch: 9, at: 8, .. })), "{late:?}");
    gateways.wait_change_routed_by_others(GatewayId(1), Epoch(9), soon()).await.unwrap();

    let waiting = gateways.wait_routed_or_terminate(Epoch(9), Instant::now() + Duration::from_secs(5), &[]);
    let acknowledging = async {
        tokio::task::yield_now().await;
        gateways.acknowledge(session, said(9, 8));
    };
    let (waited, ()) = tokio::join!(waiting, acknowledging);
    waited.unwrap();
    assert!(gateways.wait_drained(Epoch(9), soon()).await.is_err());
    assert_eq!(gateways.live_count(), 1);
}

#[test]
fn leases_run_out() {
    let start = Instant::now();
    let mut registry = Registry::new(start, BTreeSet::new());
    let old = registry.register(start, GatewayId(1), "a".into());
    let late = |registry: &Registry, now| registry.pending(now, Epoch(2), Stage::Routed, None);
    assert!(matches!(late(&registry, start), Some(Pending::Gateway { until, .. }) if until == start + LEASE));
    assert_eq!(late(&registry, start + LEASE), None);

    // Its sessions are stale until they have been ended on each shard.
    let dead = start + LEASE;
    assert!(registry.may_have_stale_sessions(Epoch(2), Stage::Routed, ShardId(1)));
    registry.sessions_ended(dead, &[], ShardId(1));
    assert!(!registry.may_have_stale_sessions(Epoch(2), Stage::Routed, ShardId(1)));
    assert!(registry.may_have_stale_sessions(Epoch(2), Stage::Routed, ShardId(2)));

    // A new stream replaces the old one, and makes new sessions.
    let new = registry.register(dead, GatewayId(1), "a".into());
    assert!(!registry.renew(dead, old) && registry.renew(dead, new));
    registry.acknowledge(old, said(5, 5));
    assert!(late(&registry, dead).is_some(), "an old stream's word does not count");
    assert!(registry.may_have_stale_sessions(Epoch(2), Stage::Routed, ShardId(1)));
    registry.acknowledge(new, said(2, 1));
    assert_eq!(late(&registry, dead), None);
    assert_eq!(registry.acknowledged(Epoch(2), Stage::Routed), [GatewayId(1)]);
    assert!(registry.acknowledged(Epoch(2), Stage::Drained).is_empty());
}

#[test]
fn after_a_restart_leases_of_the_predecessor_count() {
    let start = Instant::now();
    let mut registry = Registry::new(start, [GatewayId(1), GatewayId(2)].into());
    let pending = registry.pending(start, Epoch(1), Stage::Routed, None);
    assert_eq!(pending, Some(Pending::Unknown { until: start + LEASE }));
    assert!(!registry.knows_all_leases(start) && registry.knows_all_leases(start + LEASE));
    registry.sessions_ended(start, &[], ShardId(1));
    assert!(registry.may_have_stale_sessions(Epoch(1), Stage::Routed, ShardId(1)), "too early to count");
    registry.sessions_ended(start + LEASE, &[], ShardId(1));
    assert!(!registry.may_have_stale_sessions(Epoch(1), Stage::Routed, ShardId(1)));
    assert_eq!(registry.pending(start + LEASE, Epoch(1), Stage::Routed, None), None);
    assert!(registry.lost(start).is_empty());
    assert_eq!(registry.lost(start + LEASE), [GatewayId(1), GatewayId(2)]);
}

#[test]
fn once_all_lease_holders_are_back_nobody_else_is_waited_for() {
    let start = Instant::now();
    let mut registry = Registry::new(start, [GatewayId(1), GatewayId(2)].into());
    let pending = |registry: &Registry| registry.pending(start, Epoch(4), Stage::Routed, None);
    let first = registry.register(start, GatewayId(1), "a".into());
    registry.acknowledge(first, said(4, 4));
    assert_eq!(pending(&registry), Some(Pending::Unknown { until: start + LEASE }));
    let second = registry.register(start, GatewayId(2), "b".into());
    assert!(matches!(pending(&registry), Some(Pending::Gateway { gateway: GatewayId(2), .. })));
    registry.acknowledge(second, said(4, 3));
    assert_eq!(pending(&registry), None);
    assert!(registry.lost(start + LEASE).is_empty());
}

#[tokio::test]
async fn a_successor_knows_who_may_hold_a_lease() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let start = || Control::start(Arc::clone(&store), CancellationToken::new());
    let first = start().await.unwrap();
    assert!(first.gateways().knows_all_leases());
    let session = first.register_gateway(GatewayId(7), "a".into()).await.unwrap();
    let second = start().await.unwrap();
    assert!(!second.gateways().knows_all_leases());
    second.register_gateway(GatewayId(7), "a".into()).await.unwrap();
    assert!(second.gateways().knows_all_leases());
    // It has gone for good.
    first.gateway_detached(session).await;
    assert!(start().await.unwrap().gateways().knows_all_leases());
}

#[test]
fn statistics_outlive_their_gateway() {
    let start = Instant::now();
    let mut registry = Registry::new(start, BTreeSet::new());
    for gateway in [1, 2] {
        let session = registry.register(start, GatewayId(gateway), String::new());
        let one = MoveStatistics { mirrored_transactions: 5, held_microseconds_max: gateway, ..Default::default() };
        let moves = [(MoveId(3), one)].into();
        registry.report(session, GatewayStatistics { moves, clients: 1, statements: 1 });
    }
    let long_after = start + Duration::from_secs(3600);
    registry.register(long_after, GatewayId(3), String::new());
    let listed: BTreeSet<GatewayId> = registry.views(long_after).iter().map(|view| view.gateway).collect();
    assert_eq!(listed, [GatewayId(3)].into());
    let sum = registry.statistics(MoveId(3));
    assert_eq!((sum.mirrored_transactions, sum.held_microseconds_max), (10, 2));
}
