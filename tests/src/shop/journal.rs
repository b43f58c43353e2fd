//! What a client knows must be in the database, because it was acknowledged, or must not, because it was rolled back.

use std::collections::{HashMap, HashSet};

/// (tenant, id)
pub type Key = (i64, i64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    pub status: String,
    pub total_cents: i64,
    pub items: i64,
}

/// One client's own account. Keys of different clients are disjoint.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// Last acknowledged state; None after an acknowledged delete (its items are gone with it).
    pub orders: HashMap<Key, Option<Order>>,
    /// Acknowledged ledger entries and their amounts.
    pub ledger: HashMap<Key, i64>,
    /// Entries whose transaction was rolled back: must be nowhere.
    pub ledger_rolled_back: HashSet<Key>,
    /// Last acknowledged value per (tenant, name).
    pub settings: HashMap<(i64, String), i64>,
    /// Statements that ended in an error after which the outcome is not known (a lost connection at commit): either state is right.
    pub unknown_orders: HashSet<Key>,
    pub unknown_ledger: HashSet<Key>,
    pub unknown_settings: HashSet<(i64, String)>,
    /// Whether some insert's outcome is unknown, so that table totals are known only from below.
    pub unknown_inserts: u64,
    /// Acknowledged change of row counts per table.
    pub added: HashMap<&'static str, i64>,
}

impl Journal {
    pub fn add(&mut self, table: &'static str, rows: i64) {
        *self.added.entry(table).or_default() += rows;
    }

    /// Joins another client's journal.
    pub fn merge(&mut self, other: Journal) {
        self.orders.extend(other.orders);
        self.ledger.extend(other.ledger);
        self.ledger_rolled_back.extend(other.ledger_rolled_back);
        self.settings.extend(other.settings);
        self.unknown_orders.extend(other.unknown_orders);
        self.unknown_ledger.extend(other.unknown_ledger);
        self.unknown_settings.extend(other.unknown_settings);
        self.unknown_inserts += other.unknown_inserts;
        for (table, rows) in other.added {
            self.add(table, rows);
        }
    }

    /// Writes that are checked one by one.
    pub fn writes(&self) -> usize {
        self.orders.len() + self.ledger.len() + self.settings.len() + self.ledger_rolled_back.len()
    }
}
