//! What is in flight under which epoch: decides `routed` and `drained`, and whether a statement is held.
//!
//! Every session has one [`Slot`]. A statement enters it with the epoch that it uses *while the slot is locked*; the link
//! publishes an epoch first and looks at the slots afterwards, so that it misses nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
}

/// What changed for writers when an epoch was published.
#[derive(Debug)]
struct Change {
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

/// More footprints than this become whole keyspaces.
const FOOTPRINTS_MAX: usize = 64;

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
            if !state.writes.iter().any(|(written, known)| known == footprint && *written <= epoch) {
                state.writes.push((epoch, footprint.clone()));
            }
        }
        if state.writes.len() > FOOTPRINTS_MAX {
            let mut wide: Vec<(Epoch, Footprint)> = Vec::new();
            for (epoch, footprint) in std::mem::take(&mut state.writes) {
                let footprint = match footprint {
                    Footprint::Key(keyspace, _) => Footprint::Keyspace(keyspace),
                    other => other,
                };
                match wide.iter_mut().find(|(_, known)| *known == footprint) {
                    Some((oldest, _)) => *oldest = epoch.min(*oldest),
                    None => wide.push((epoch, footprint)),
                }
            }
            state.writes = wide;
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

    /// The statement is about to wait: what it declared is forgotten, what earlier ones wrote is not.
    pub fn suspend(&self, footprints_before: usize) {
        let mut state = self.state();
        state.statement = None;
        state.writes.truncate(footprints_before);
        drop(state);
        self.registry.changed();
    }

    pub fn footprints(&self) -> usize {
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
            changes.push(Change { epoch: new.epoch, what: Changed::Everything });
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
        changes.extend(
            arcs.into_iter().map(|(keyspace, arcs)| Change { epoch: new.epoch, what: Changed::Arcs(keyspace, arcs) }),
        );
    }

    /// The newest epochs that this gateway can acknowledge as (routed, drained) while `current` is published.
    pub fn acknowledgeable(&self, current: Epoch) -> (Epoch, Epoch) {
        // Before the slots are read: whatever ends from now on says so.
        self.waiting.store(true, Ordering::Release);
        let mut routed = current;
        let mut drained = current;
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let slots: Vec<Arc<Slot>> = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.retain(|slot| slot.strong_count() > 0);
            slots.iter().filter_map(Weak::upgrade).collect()
        };
        let before = |epoch: Epoch| Epoch(epoch.0.saturating_sub(1));
        for slot in slots {
            let state = slot.state();
            for epoch in [state.statement, state.snapshot].into_iter().flatten() {
                drained = drained.min(epoch);
            }
            if let (Some(epoch), false) = (state.statement, state.classified) {
                if let Some(change) = changes.iter().find(|change| change.epoch > epoch) {
                    routed = routed.min(before(change.epoch));
                }
            }
            for (epoch, footprint) in &state.writes {
                let blocking = changes.iter().find(|change| change.epoch > *epoch && change.meets(footprint));
                if let Some(change) = blocking {
                    routed = routed.min(before(change.epoch));
                }
            }
        }
        drop(changes);
        if routed == current && drained == current {
            self.waiting.store(false, Ordering::Release);
            // Nobody is left who began before `current`.
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).retain(|change| change.epoch > current);
        }
        (routed, drained)
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
        assert_eq!(registry.acknowledgeable(Epoch(6)), (Epoch(5), Epoch(5)));
        moving.leave_statement();
        assert_eq!(registry.acknowledgeable(Epoch(6)).0, Epoch(5), "its transaction is open");
        moving.leave_transaction();
        assert_eq!(registry.acknowledgeable(Epoch(6)), (Epoch(6), Epoch(5)));
        other.leave_transaction();
        reader.keeps_snapshot();
        reader.leave_statement();
        assert_eq!(registry.acknowledgeable(Epoch(6)), (Epoch(6), Epoch(5)));
        reader.leave_transaction();
        assert_eq!(registry.acknowledgeable(Epoch(6)), (Epoch(6), Epoch(6)));
    }

    #[test]
    fn a_statement_that_is_not_understood_yet_counts_as_a_write() {
        let registry = Arc::new(InFlight::default());
        let slot = registry.slot();
        slot.enter(|| Some((Epoch(5), ())));
        registry.record(&topology(5, false), &topology(6, true));
        assert_eq!(registry.acknowledgeable(Epoch(6)).0, Epoch(5));
        slot.reads();
        assert_eq!(registry.acknowledgeable(Epoch(6)).0, Epoch(6));
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
