//! Cursors of DECLARE, and portals that are read piece by piece: which shard each lives on, or what its rows are merged from.
//!
//! A cursor whose query one shard answers lives there. One over several shards ([`merged`]) is a cursor on each of them, opened together
//! at DECLARE, so that its rows are those of that moment; the gateway fetches from them in batches and knows the position
//! ([`position`]). One without WITH HOLD ends with its transaction, and is kept there.

pub mod command;
pub mod declare;
pub mod merged;
pub mod position;
pub mod rows;

use std::collections::{BTreeMap, BTreeSet};

use ringway_topology::ids::ShardId;

use super::executor::Executor;
use super::failure::Failure;
pub use command::{command, CursorCommand};
use merged::Merged;

/// Where a cursor is.
#[derive(Debug)]
pub enum Place {
    Shard(ShardId),
    Merged(Box<Merged>),
}

/// A cursor that the session has made.
#[derive(Debug)]
pub struct Cursor {
    pub hold: bool,
    /// On one shard: a FETCH that does not say otherwise gives binary values.
    pub binary: bool,
    /// Savepoints that there were: it is gone once the transaction goes back to an earlier one.
    pub depth: usize,
    pub place: Place,
}

/// By their names.
pub type Cursors = BTreeMap<String, Cursor>;

impl Executor {
    fn cursor(&self, name: &str) -> Option<&Cursor> {
        self.transaction.cursors.get(name).or_else(|| self.held_cursors.get(name))
    }

    /// The shard that a cursor lives on, for one that lives on one.
    pub fn cursor_shard(&self, name: &str) -> Option<ShardId> {
        match self.cursor(name)?.place {
            Place::Shard(shard) => Some(shard),
            Place::Merged(_) => None,
        }
    }

    pub fn is_binary_cursor(&self, name: &str) -> bool {
        self.cursor(name).is_some_and(|cursor| cursor.binary)
    }

    pub fn merged_cursor(&self, name: &str) -> Option<&Merged> {
        match &self.cursor(name)?.place {
            Place::Shard(_) => None,
            Place::Merged(merged) => Some(merged),
        }
    }

    pub fn has_cursor(&self, name: &str) -> bool {
        self.cursor(name).is_some()
    }

    pub fn keep_cursor(&mut self, name: String, hold: bool, binary: bool, place: Place) {
        if let (true, Place::Shard(shard)) = (hold, &place) {
            self.pin(*shard);
        }
        let cursor = Cursor { hold, binary, depth: self.transaction.savepoints.len(), place };
        if self.transaction.is_open() {
            self.held_cursors.remove(&name);
            self.transaction.cursors.insert(name, cursor);
        } else if hold {
            self.held_cursors.insert(name, cursor);
        }
    }

    pub fn forget_cursor(&mut self, name: &str) -> Option<Cursor> {
        self.transaction.cursors.remove(name).or_else(|| self.held_cursors.remove(name))
    }

    /// Forgets all; where they are.
    pub fn forget_cursors(&mut self) -> (BTreeSet<ShardId>, Vec<Merged>) {
        let transaction = std::mem::take(&mut self.transaction.cursors);
        let held = std::mem::take(&mut self.held_cursors);
        let (mut shards, mut merged) = (BTreeSet::new(), Vec::new());
        for cursor in transaction.into_values().chain(held.into_values()) {
            match cursor.place {
                Place::Shard(shard) => {
                    shards.insert(shard);
                }
                Place::Merged(cursor) => merged.push(*cursor),
            }
        }
        (shards, merged)
    }

    /// The transaction has gone back to the savepoint before which there were `depth`.
    pub fn cursors_rolled_back(&mut self, depth: usize) {
        self.transaction.cursors.retain(|_, cursor| cursor.depth <= depth);
        self.transaction.portals.retain(|_, portal| portal.depth <= depth);
    }

    /// The savepoint before which there were `depth` is no more: what was made since belongs to what was before.
    pub fn cursors_released(&mut self, depth: usize) {
        for cursor in self.transaction.cursors.values_mut() {
            cursor.depth = cursor.depth.min(depth);
        }
        for portal in self.transaction.portals.values_mut() {
            portal.depth = portal.depth.min(depth);
        }
    }

    /// Bytes of rows that cursors of the session keep.
    fn cursor_bytes(&self) -> usize {
        let cursors = self.transaction.cursors.values().chain(self.held_cursors.values());
        cursors.map(held_bytes).sum()
    }

    /// Before a commit: what WITH HOLD keeps beyond the transaction, read to its end.
    pub async fn persist_cursors(&mut self) -> Result<Cursors, Failure> {
        if self.transaction.cursors.is_empty() {
            return Ok(Cursors::new());
        }
        let mut kept = Cursors::new();
        for (name, mut cursor) in std::mem::take(&mut self.transaction.cursors) {
            if !cursor.hold {
                continue;
            }
            if let Place::Merged(merged) = &mut cursor.place {
                let others = self.cursor_bytes() + kept.values().map(held_bytes).sum::<usize>();
                merged.persist(self, others).await?;
            }
            kept.insert(name, cursor);
        }
        Ok(kept)
    }
}

fn held_bytes(cursor: &Cursor) -> usize {
    match &cursor.place {
        Place::Shard(_) => 0,
        Place::Merged(merged) => merged.bytes(),
    }
}
