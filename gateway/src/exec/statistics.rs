//! What the gateway counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringway_topology::client::{GatewayStatistics, MoveStatistics};
use ringway_topology::ids::MoveId;

use crate::pool::Pools;

/// Averages are over this.
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Statistics {
    pub clients: AtomicU64,
    /// Statements of simple queries, and Executes, once each.
    pub statements: AtomicU64,
    pub single_shard: AtomicU64,
    /// Among them, point reads that have shared a connection.
    pub shared_reads: AtomicU64,
    pub fan_out: AtomicU64,
    pub distributed_commits: AtomicU64,
    pub errors: AtomicU64,
    /// Transactions that have ended, those of one statement too.
    pub transactions: AtomicU64,
    period: Mutex<Period>,
    moves: Mutex<BTreeMap<MoveId, MoveStatistics>>,
}

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub transactions: u64,
    pub statements: u64,
    pub checkouts: u64,
    pub waited_microseconds: u64,
}

/// Per second; the wait per checkout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Averages {
    pub transactions: u64,
    pub statements: u64,
    pub checkouts: u64,
    pub waited_microseconds: u64,
}

impl Averages {
    fn between(before: Totals, now: Totals, elapsed: Duration) -> Averages {
        let rate = |before: u64, now: u64| (now.saturating_sub(before) as f64 / elapsed.as_secs_f64()).round() as u64;
        let checkouts = now.checkouts.saturating_sub(before.checkouts);
        let waited = now.waited_microseconds.saturating_sub(before.waited_microseconds);
        Averages {
            transactions: rate(before.transactions, now.transactions),
            statements: rate(before.statements, now.statements),
            checkouts: rate(before.checkouts, now.checkouts),
            waited_microseconds: waited.checked_div(checkouts).unwrap_or(0),
        }
    }
}

#[derive(Debug, Default)]
struct Period {
    began: Option<(Instant, Totals)>,
    averages: Averages,
}

impl Statistics {
    pub fn totals(&self, pools: &Pools) -> Totals {
        let (checkouts, waited_microseconds) = pools.totals();
        Totals {
            transactions: self.transactions.load(Ordering::Relaxed),
            statements: self.statements.load(Ordering::Relaxed),
            checkouts,
            waited_microseconds,
        }
    }

    /// Over the last whole period.
    pub fn averages(&self) -> Averages {
        self.period.lock().unwrap_or_else(PoisonError::into_inner).averages
    }

    /// Called every second.
    pub fn tick(&self, pools: &Pools) {
        let mut period = self.period.lock().unwrap_or_else(PoisonError::into_inner);
        match period.began {
            Some((began, _)) if began.elapsed() < PERIOD => {}
            before => {
                let now = self.totals(pools);
                if let Some((began, totals)) = before {
                    period.averages = Averages::between(totals, now, began.elapsed());
                }
                period.began = Some((Instant::now(), now));
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_of_a_period() {
        let before = Totals { transactions: 10, statements: 20, checkouts: 10, waited_microseconds: 0 };
        let now = Totals { transactions: 70, statements: 140, checkouts: 40, waited_microseconds: 300 };
        let averages = Averages::between(before, now, Duration::from_secs(60));
        let expected = Averages { transactions: 1, statements: 2, checkouts: 1, waited_microseconds: 10 };
        assert_eq!(averages, expected);
        assert_eq!(Averages::between(now, now, Duration::from_secs(60)), Averages::default());
    }
}
