//! Rows that arrive sorted from each shard become one sorted answer, with one row per shard in memory.
//!
//! For example `SELECT name FROM customers ORDER BY created_at DESC LIMIT 10`: each shard is asked for its first 10 rows
//! with `created_at` as a hidden last column; the merge takes the smallest head again and again, drops the hidden column,
//! and stops after 10. Rows that are equal in all sort keys come in any order, as in PostgreSQL.
//!
//! Only orders that [`super::compare`] knows are merged: ask [`mergeable`] first. DISTINCT drops a row whose first keys
//! equal the previous row's: the comparison is SQL's equality, so 1.0 and 1.00 are one row, and which of the two
//! spellings remains is as undefined as in PostgreSQL.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crate::plan::types::{MergeSort, SortKey};
use crate::wire::backend::FieldDescription;
use crate::wire::Frame;

use super::compare::{KeyReader, SortValue, ValueOrder};
use super::data_row::{values, without_last};
use super::limit::Window;
use super::{MergeError, ShardIndex};

/// Whether all keys can be compared here exactly as PostgreSQL does. If not, PostgreSQL finishes the statement.
pub fn mergeable(fields: &[FieldDescription], keys: &[SortKey], order: ValueOrder) -> bool {
    Key::all(fields, keys, order).is_some()
}

/// What the client is told of the shards' columns.
pub fn visible_fields<'a>(plan: &MergeSort, fields: &'a [FieldDescription]) -> &'a [FieldDescription] {
    &fields[..fields.len().saturating_sub(plan.hidden_columns)]
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The answer's next row.
    Row(Frame),
    /// Nothing can be said before this shard's next row (or its end) is known.
    NeedMore(ShardIndex),
    /// The answer is complete. Shards may still have rows: they are dropped.
    Done,
}

/// The merge of one statement's answers.
#[derive(Debug)]
pub struct OrderBy {
    keys: Vec<Key>,
    hidden_columns: usize,
    /// How many of the keys make a row distinct.
    distinct: Option<usize>,
    window: Window,
    shards: Vec<Shard>,
    /// Shards that have a head, the one with the smallest last.
    order: Vec<ShardIndex>,
    /// Shards whose head is missing, though they have not finished.
    waiting: Vec<ShardIndex>,
    previous: Option<Vec<Option<SortValue>>>,
}

#[derive(Debug, Default)]
struct Shard {
    head: Option<Head>,
    queue: VecDeque<Frame>,
    finished: bool,
}

#[derive(Debug)]
struct Head {
    row: Frame,
    keys: Vec<Option<SortValue>>,
}

#[derive(Debug, Clone)]
struct Key {
    sort: SortKey,
    reader: KeyReader,
}

impl Key {
    fn all(fields: &[FieldDescription], keys: &[SortKey], order: ValueOrder) -> Option<Vec<Key>> {
        keys.iter()
            .map(|sort| {
                let reader = KeyReader::of(fields.get(sort.column)?, order)?;
                Some(Key { sort: sort.clone(), reader })
            })
            .collect()
    }

    fn compare(&self, a: &Option<SortValue>, b: &Option<SortValue>) -> Ordering {
        match (a, b) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) if self.sort.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if self.sort.nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) if self.sort.descending => b.compare(a),
            (Some(a), Some(b)) => a.compare(b),
        }
    }
}

impl OrderBy {
    /// None if the order is not [`mergeable`]. `fields` are those of the shards' rows, with the hidden ones.
    pub fn new(
        plan: &MergeSort,
        fields: &[FieldDescription],
        order: ValueOrder,
        window: Window,
        shards: usize,
    ) -> Option<OrderBy> {
        Some(OrderBy {
            keys: Key::all(fields, &plan.order, order)?,
            hidden_columns: plan.hidden_columns,
            distinct: plan.distinct,
            window,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            order: Vec::with_capacity(shards),
            waiting: (0..shards).rev().collect(),
            previous: None,
        })
    }

    /// A DataRow of a shard. Rows of one shard must come in its order; how many wait here is the caller's choice: one per
    /// shard is enough to go on.
    pub fn push(&mut self, shard: ShardIndex, row: Frame) {
        self.shards[shard].queue.push_back(row);
    }

    /// The shard has sent all its rows.
    pub fn finish(&mut self, shard: ShardIndex) {
        self.shards[shard].finished = true;
    }

    /// The answer's next row, if it can be told.
    pub fn step(&mut self) -> Result<Step, MergeError> {
        loop {
            if self.window.is_exhausted() {
                return Ok(Step::Done);
            }
            while let Some(&shard) = self.waiting.last() {
                if !self.take_head(shard)? {
                    return Ok(Step::NeedMore(shard));
                }
                self.waiting.pop();
            }
            let Some(shard) = self.order.pop() else {
                return Ok(Step::Done);
            };
            self.waiting.push(shard);
            let Some(head) = self.shards[shard].head.take() else {
                continue;
            };
            if self.repeats_previous(&head) || !self.window.admit() {
                continue;
            }
            return self.visible(head.row).map(Step::Row);
        }
    }

    /// Makes the shard's next row its head. False if neither a row nor its end is there yet.
    fn take_head(&mut self, shard: ShardIndex) -> Result<bool, MergeError> {
        let Some(row) = self.shards[shard].queue.pop_front() else {
            return Ok(self.shards[shard].finished);
        };
        let head = Head { keys: self.read_keys(&row)?, row };
        // Of equal heads the lower shard's goes first, so that a run can be repeated.
        let place = self.order.partition_point(|other| match &self.shards[*other].head {
            None => false,
            Some(other_head) => self.compare(&other_head.keys, &head.keys).then(other.cmp(&shard)).is_gt(),
        });
        self.order.insert(place, shard);
        self.shards[shard].head = Some(head);
        Ok(true)
    }

    fn compare(&self, a: &[Option<SortValue>], b: &[Option<SortValue>]) -> Ordering {
        let mut pairs = self.keys.iter().zip(a.iter().zip(b));
        pairs.find_map(|(key, (a, b))| Some(key.compare(a, b)).filter(|order| order.is_ne())).unwrap_or(Ordering::Equal)
    }

    fn read_keys(&self, row: &Frame) -> Result<Vec<Option<SortValue>>, MergeError> {
        let values = values(row)?;
        self.keys
            .iter()
            .map(|key| {
                let value = values.get(key.sort.column).ok_or(MergeError::MalformedRow)?;
                value.map(|value| key.reader.read(row.bytes(), value)).transpose()
            })
            .collect()
    }

    fn repeats_previous(&mut self, head: &Head) -> bool {
        let Some(distinct) = self.distinct else {
            return false;
        };
        let keys = &head.keys[..distinct.min(head.keys.len())];
        if let Some(previous) = &self.previous {
            if self.compare(previous, keys).is_eq() {
                return true;
            }
        }
        self.previous = Some(keys.to_vec());
        false
    }

    fn visible(&self, row: Frame) -> Result<Frame, MergeError> {
        if self.hidden_columns == 0 {
            return Ok(row);
        }
        without_last(&row, self.hidden_columns)
    }
}

#[cfg(test)]
#[path = "order_by_tests.rs"]
mod tests;
