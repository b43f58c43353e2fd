//! What the gateway counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringway_topology::client::{GatewayStatistics, MoveStatistics};
use ringway_topology::ids::MoveId;

#[derive(Debug, Default)]
pub struct Statistics {
    pub clients: AtomicU64,
    pub statements: AtomicU64,
    pub single_shard: AtomicU64,
    pub fan_out: AtomicU64,
    pub distributed_commits: AtomicU64,
    pub errors: AtomicU64,
    moves: Mutex<BTreeMap<MoveId, MoveStatistics>>,
}

impl Statistics {
    fn of_move(&self, id: MoveId, change: impl FnOnce(&mut MoveStatistics)) {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        change(moves.entry(id).or_default());
    }

    pub fn held(&self, id: MoveId, time: Duration) {
        let microseconds = time.as_micros() as u64;
        self.of_move(id, |m| {
            m.held_statements += 1;
            m.held_microseconds += microseconds;
            m.held_microseconds_max = m.held_microseconds_max.max(microseconds);
        });
    }

    pub fn mirrored(&self, id: MoveId, rows: u64) {
        self.of_move(id, |m| {
            m.mirrored_transactions += 1;
            m.mirrored_rows += rows;
        });
    }

    pub fn unmirrored(&self, id: MoveId) {
        self.of_move(id, |m| m.unmirrored_transactions += 1);
    }

    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> GatewayStatistics {
        GatewayStatistics {
            moves: self.moves.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            clients: self.clients.load(Ordering::Relaxed),
            statements: self.statements.load(Ordering::Relaxed),
        }
    }
}
