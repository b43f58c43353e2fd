//! What is in flight under which epoch: decides `routed` and `drained`, and whether a statement is held.
//!
//! Every session has one [`Slot`]. A statement enters it with the epoch that it uses *while the slot is locked*; the link
//! publishes an epoch first and looks at the slots afterwards, so that it misses nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ringway_topology::client::{Acknowledgement, EpochRange};
use ringway_topology::ids::{Epoch, KeyspaceId};
use ringway_topology::model::{Move, Topology};
use ringway_topology::ring::TokenArc;
use ringway_topology::token::Token;
use tokio::sync::Notify;

/// The rows that a statement writes or locks, as far as its text says.
#[derive(Clone, Debug, PartialEq)]
pub enum Footprint {
    Key(KeyspaceId, Token),
    /// Every row of a keyspace.
    Keyspace(KeyspaceId),
    /// Single and reference tables, DDL.
    Other,
}

impl Footprint {
    /// Whether a move's arcs may hold some of these rows.
    pub fn meets(&self, moving: &Move) -> bool {
        match self {
            Footprint::Key(keyspace, token) => *keyspace == moving.keyspace && moving.contains(*token),
            Footprint::Keyspace(keyspace) => *keyspace == moving.keyspace,
            Footprint::Other => false,
        }
    }

    /// Whether what is known of `other` is known by this already.
    fn covers(&self, other: &Footprint) -> bool {
        match (self, other) {
            (Footprint::Keyspace(whole), Footprint::Key(keyspace, _)) => whole == keyspace,
            (known, other) => known == other,
        }
    }
}

/// Keys become their keyspaces, each once, with its oldest epoch.
fn widen(writes: &mut Vec<(Epoch, Footprint)>) {
    let mut wide: Vec<(Epoch, Footprint)> = Vec::new();
    for (epoch, footprint) in std::mem::take(writes) {
        let footprint = match footprint {
            Footprint::Key(keyspace, _) => Footprint::Keyspace(keyspace),
            other => other,
        };
        match wide.iter_mut().find(|(_, known)| *known == footprint) {
            Some((oldest, _)) => *oldest = epoch.min(*oldest),
            None => wide.push((epoch, footprint)),
        }
    }
    *writes = wide;
}

/// What changed for writers when an epoch was published.
#[derive(Debug)]
struct Change {
    /// The epoch that was published before; those between came with this one.
    after: Epoch,
    epoch: Epoch,
    what: Changed,
}

#[derive(Debug)]
enum Changed {
    Arcs(KeyspaceId, Vec<TokenArc>),
    /// Tables' kinds or the set of members: writes of any kind count.
    Everything,
}

impl Change {
    fn meets(&self, footprint: &Footprint) -> bool {
        match (&self.what, footprint) {
            (Changed::Everything, _) => true,
            (Changed::Arcs(..), Footprint::Other) => false,
            (Changed::Arcs(keyspace, _), Footprint::Keyspace(written)) => keyspace == written,
            (Changed::Arcs(keyspace, arcs), Footprint::Key(written, token)) => {
                keyspace == written && arcs.iter().any(|arc| arc.contains(*token))
            }
        }
    }
}

#[derive(Debug, Default)]
struct SlotState {
    /// Of the statement that runs.
    statement: Option<Epoch>,
    /// Its rows are known: it is a read, or its writes are listed.
    classified: bool,
    /// Of the transaction's snapshot or the oldest open cursor.
    snapshot: Option<Epoch>,
    /// Of the present transaction.
    writes: Vec<(Epoch, Footprint)>,
}

/// More pending changes than this are not told apart: the newer ones count as not used yet.
const PENDING_MAX: usize = 64;

/// More footprints than this become whole keyspaces.
pub const FOOTPRINTS_MAX: usize = 64;

#[derive(Debug)]
pub struct Slot {
    state: Mutex<SlotState>,
    registry: Arc<InFlight>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A statement begins; `view` reads the published topology and gives its epoch with it.
    pub fn enter<T>(&self, view: impl FnOnce() -> Option<(Epoch, T)>) -> Option<T> {
        let mut state = self.state();
        let (epoch, view) = view()?;
        state.statement = Some(epoch);
        state.classified = false;
        Some(view)
    }

    /// The statement only reads.
    pub fn reads(&self) {
        self.state().classified = true;
        self.registry.changed();
    }

    /// The statement writes or locks these rows; kept until the transaction ends.
    pub fn writes(&self, footprints: &[Footprint]) {
        let mut state = self.state();
        state.classified = true;
        let Some(epoch) = state.statement else { return };
        for footprint in footprints {
            if !state.writes.iter().any(|(written, known)| known.covers(footprint) && *written <= epoch) {
                state.writes.push((epoch, footprint.clone()));
            }
            if state.writes.len() > FOOTPRINTS_MAX {
                widen(&mut state.writes);
            }
        }
        drop(state);
        self.registry.changed();
    }

    /// Whether this transaction wrote or locked rows in the move's arcs already.
    pub fn has_written(&self, moving: &Move) -> bool {
        self.state().writes.iter().any(|(_, footprint)| footprint.meets(moving))
    }

    /// From now to the transaction's end the statement's epoch counts for `drained`.
    pub fn keeps_snapshot(&self) {
        let mut state = self.state();
        if state.snapshot.is_none() {
            state.snapshot = state.statement;
        }
    }

    /// The statement has ended, or waits without having done anything.
    pub fn leave_statement(&self) {
        let mut state = self.state();
        state.statement = None;
        state.classified = true;
        drop(state);
        self.registry.changed();
    }

    /// The statement is about to wait, and has declared nothing.
    pub fn suspend(&self) {
        self.state().statement = None;
        self.registry.changed();
    }

    #[cfg(test)]
    fn footprints(&self) -> usize {
        self.state().writes.len()
    }

    pub fn leave_transaction(&self) {
        let mut state = self.state();
        state.statement = None;
        state.snapshot = None;
        state.writes.clear();
        drop(state);
        self.registry.changed();
    }
}

/// All slots, and what has changed since the epoch that was last acknowledged.
#[derive(Debug, Default)]
pub struct InFlight {
    slots: Mutex<Vec<Weak<Slot>>>,
    changes: Mutex<Vec<Change>>,
    /// An acknowledgement waits for something to end.
    waiting: AtomicBool,
    notify: Notify,
}

impl InFlight {
    pub fn slot(self: &Arc<Self>) -> Arc<Slot> {
        let slot = Arc::new(Slot { state: Mutex::default(), registry: Arc::clone(self) });
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        slots.push(Arc::downgrade(&slot));
        slot
    }

    fn changed(&self) {
        if self.waiting.load(Ordering::Acquire) {
            self.notify.notify_one();
        }
    }

    /// Returns when something has ended while an acknowledgement was waiting. Cancel-safe.
    pub async fn ended(&self) {
        self.notify.notified().await;
    }

    /// `new` has been published after `old`.
    pub fn record(&self, old: &Topology, new: &Topology) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let members = |topology: &Topology| topology.members().map(|shard| shard.id).collect::<Vec<_>>();
        if old.tables != new.tables || members(old) != members(new) {
            changes.push(Change { after: old.epoch, epoch: new.epoch, what: Changed::Everything });
        }
        let mut arcs: BTreeMap<KeyspaceId, Vec<TokenArc>> = BTreeMap::new();
        let ids: std::collections::BTreeSet<_> = old.moves.keys().chain(new.moves.keys()).collect();
        for id in ids {
            let (before, after) = (old.moves.get(id), new.moves.get(id));
            let routing = |m: Option<&Move>| m.map_or((false, false), |m| (m.routing.hold, m.routing.mirror));
            let Some(moving) = after.or(before) else { continue };
            let owner = |topology: &Topology, arc: &TokenArc| {
                topology.keyspace(moving.keyspace).map(|keyspace| keyspace.owner(Token(arc.through)))
            };
            let owners_differ = moving.arcs.iter().any(|arc| owner(old, arc) != owner(new, arc));
            if routing(before) != routing(after) || owners_differ {
                arcs.entry(moving.keyspace).or_default().extend(moving.arcs.iter().cloned());
            }
        }
        changes.extend(arcs.into_iter().map(|(keyspace, arcs)| Change {
            after: old.epoch,
            epoch: new.epoch,
            what: Changed::Arcs(keyspace, arcs),
        }));
    }

    /// What this gateway can acknowledge while `current` is published.
    pub fn acknowledgeable(&self, current: Epoch) -> Acknowledgement {
        // Before the slots are read: whatever ends from now on says so.
        self.waiting.store(true, Ordering::Release);
        let mut drained = current;
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<Arc<Slot>> = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|slot| slot.strong_count() > 0);
            slots.iter().filter_map(Weak::upgrade).collect()
        };
        let mut is_pending = vec![false; changes.len()];
        for slot in slots {
            let state = slot.state();
            for epoch in [state.statement, state.snapshot].into_iter().flatten() {
                drained = drained.min(epoch);
            }
            let unclassified = state.statement.filter(|_| !state.classified);
            for (change, is_pending) in changes.iter().zip(&mut is_pending) {
                *is_pending |= unclassified.is_some_and(|epoch| change.epoch > epoch)
                    || state.writes.iter().any(|(epoch, written)| change.epoch > *epoch && change.meets(written));
            }
        }
        let mut acknowledgement = Acknowledgement { routed: current, drained, used: current, pending: Vec::new() };
        // In the order of their epochs.
        for (change, _) in changes.iter().zip(is_pending).filter(|(_, is_pending)| *is_pending) {
            let range = EpochRange { after: change.after, through: change.epoch };
            acknowledgement.routed = acknowledgement.routed.min(range.after);
            if acknowledgement.pending.last() == Some(&range) {
                continue;
            }
            if acknowledgement.pending.len() == PENDING_MAX {
                acknowledgement.used = range.after;
                break;
            }
            acknowledgement.pending.push(range);
        }
        drop(changes);
        let routed = acknowledgement.routed;
        if routed == current && drained == current {
            self.waiting.store(false, Ordering::Release);
            // Nobody is left who began before `current`.
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).retain(|change| change.epoch > current);
        }
        acknowledgement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_topology::ids::{MoveId, ShardId};
    use ringway_topology::model::{Keyspace, MoveKind, MoveRouting, Phase, Placement};
    use ringway_topology::ring::Ring;
    use ringway_topology::token::KeyFamily;

    fn topology(epoch: u64, hold: bool) -> Topology {
        let mut topology = Topology::empty("c".into(), "s".into());
        topology.epoch = Epoch(epoch);
        let ring = Ring::equal(&[ShardId(1), ShardId(2)]).unwrap();
        let arcs = ring.arcs_of(ShardId(1));
        let id = KeyspaceId(1);
        let placement = Placement::Ring(ring);
        topology.keyspaces.insert(id, Keyspace { id, name: "k".into(), family: KeyFamily::Integer, placement });
        let moving = Move {
            id: MoveId(1),
            kind: MoveKind::Move,
            keyspace: id,
            source: ShardId(1),
            target: ShardId(2),
            arcs,
            phase: Phase::Ready,
            routing: MoveRouting { filter: true, mirror: true, hold },
        };
        topology.moves.insert(MoveId(1), moving);
        topology
    }

    /// Routed and drained while epoch 6 is published.
    fn epochs(registry: &InFlight) -> (Epoch, Epoch) {
        let said = registry.acknowledgeable(Epoch(6));
        (said.routed, said.drained)
    }

    #[test]
    fn a_change_does_not_wait_for_what_concerns_older_ones() {
        let registry = Arc::new(InFlight::default());
        let slot = registry.slot();
        slot.enter(|| Some((Epoch(5), ())));
        slot.writes(&[Footprint::Key(KeyspaceId(1), Token(-5))]);
        registry.record(&topology(5, false), &topology(7, true));
        let mut next = topology(8, true);
        next.moves.get_mut(&MoveId(1)).unwrap().arcs = vec![];
        next.moves.get_mut(&MoveId(1)).unwrap().routing.hold = false;
        registry.record(&topology(7, true), &next);
        let said = registry.acknowledgeable(Epoch(8));
        assert_eq!((said.routed, said.used), (Epoch(5), Epoch(8)));
        let routed: Vec<u64> = (5..10).filter(|epoch| said.has_routed_change(Epoch(*epoch))).collect();
        assert_eq!(routed, [5, 8], "epoch 6 came with 7");
        slot.leave_transaction();
        assert!(registry.acknowledgeable(Epoch(8)).has_routed_change(Epoch(6)));
    }

    #[test]
    fn too_many_pending_changes_count_as_not_used() {
        let registry = Arc::new(InFlight::default());
        let slot = registry.slot();
        slot.enter(|| Some((Epoch(5), ())));
        slot.writes(&[Footprint::Key(KeyspaceId(1), Token(-5))]);
        for epoch in 5..105 {
            registry.record(&topology(epoch, epoch % 2 == 0), &topology(epoch + 1, epoch % 2 == 1));
        }
        let said = registry.acknowledgeable(Epoch(105));
        assert_eq!(said.pending.len(), PENDING_MAX);
        assert!((6..106).all(|epoch| !said.has_routed_change(Epoch(epoch))));
    }

    #[test]
    fn routed_waits_for_writes_in_the_arcs_and_no_others() {
        let registry = Arc::new(InFlight::default());
        let (moving, other, reader) = (registry.slot(), registry.slot(), registry.slot());
        for slot in [&moving, &other, &reader] {
            slot.enter(|| Some((Epoch(5), ())));
        }
        moving.writes(&[Footprint::Key(KeyspaceId(1), Token(-5))]);
        other.writes(&[Footprint::Key(KeyspaceId(1), Token(5))]);
        reader.reads();
        registry.record(&topology(5, false), &topology(6, true));
        assert_eq!(epochs(&registry), (Epoch(5), Epoch(5)));
        moving.leave_statement();
        assert_eq!(epochs(&registry).0, Epoch(5), "its transaction is open");
        moving.leave_transaction();
        assert_eq!(epochs(&registry), (Epoch(6), Epoch(5)));
        other.leave_transaction();
        reader.keeps_snapshot();
        reader.leave_statement();
        assert_eq!(epochs(&registry), (Epoch(6), Epoch(5)));
        reader.leave_transaction();
        assert_eq!(epochs(&registry), (Epoch(6), Epoch(6)));
    }

    #[test]
    fn a_statement_that_is_not_understood_yet_counts_as_a_write() {
        let registry = Arc::new(InFlight::default());
        let slot = registry.slot();
        slot.enter(|| Some((Epoch(5), ())));
        registry.record(&topology(5, false), &topology(6, true));
        assert_eq!(epochs(&registry).0, Epoch(5));
        slot.reads();
        assert_eq!(epochs(&registry).0, Epoch(6));
    }

    #[test]
    fn many_footprints_become_their_keyspace() {
        let registry = Arc::new(InFlight::default());
        let slot = registry.slot();
        slot.enter(|| Some((Epoch(5), ())));
        for token in 0..100 {
            slot.writes(&[Footprint::Key(KeyspaceId(1), Token(token))]);
        }
        assert!(slot.footprints() <= FOOTPRINTS_MAX);
        assert!(slot.has_written(&topology(5, false).moves[&MoveId(1)]));
    }
}
