//! Whether the sharded tables of one query level are joined on their keys, so that every shard can join its own rows.
//!
//! `orders JOIN items USING (user_id)` is; `orders JOIN items ON orders.id = items.order_id` is not.
//! An outer join needs its own ON to connect its sides, each side being connected already; the side whose rows are kept
//! must not be a reference table (every shard would keep the same rows).

use super::analysis::Analysis;
use super::keys::Found;
use super::refuse::{not_over_shards, JOIN_ON_KEYS};
use crate::wire::PgError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterKind {
    Left,
    Right,
    Full,
}

/// An outer join of the innermost scope, checked once all conditions are known.
#[derive(Clone, Debug)]
pub struct OuterJoin {
    pub kind: OuterKind,
    pub left: Vec<usize>,
    pub right: Vec<usize>,
    pub pairs: Vec<(Found, Found)>,
    /// The right side is LATERAL and joined inside to these attributes.
    pub lateral: Vec<usize>,
}

impl Analysis<'_> {
    fn anchors(&self, relations: &[usize]) -> Vec<usize> {
        let scope = self.scopes.last();
        relations.iter().filter_map(|&r| scope.and_then(|scope| scope.relations[r].anchor)).collect()
    }

    fn all_connected(&self, relations: &[usize]) -> bool {
        let anchors = self.anchors(relations);
        anchors.windows(2).all(|pair| self.find(pair[0]) == self.find(pair[1]))
    }

    /// Checks the innermost scope. Connections by WHERE and inner joins have been made.
    pub fn colocated(&mut self, outer_joins: &[OuterJoin]) -> Option<Box<PgError>> {
        for join in outer_joins {
            let (left, right) = (self.anchors(&join.left), self.anchors(&join.right));
            let (kept, other) = match join.kind {
                OuterKind::Left => (&left, &right),
                OuterKind::Right => (&right, &left),
                OuterKind::Full => (&left, &right),
            };
            if left.is_empty() && right.is_empty() {
                continue;
            }
            if kept.is_empty() || join.kind == OuterKind::Full && other.is_empty() {
                return Some(Box::new(not_over_shards(
                    "An outer join keeps the rows of a table that is not sharded: every shard would give them.",
                    JOIN_ON_KEYS,
                )));
            }
            if other.is_empty() {
                continue;
            }
            let in_side = |found: Found, side: &[usize]| {
                found.level + 1 == self.scopes.len() && found.relation.is_some_and(|r| side.contains(&r))
            };
            let pair = join.pairs.iter().find(|(a, b)| {
                in_side(*a, &join.left) && in_side(*b, &join.right)
                    || in_side(*b, &join.left) && in_side(*a, &join.right)
            });
            let connected = pair.is_some() || !join.lateral.is_empty() && join.kind == OuterKind::Left;
            if !connected || !self.all_connected(&join.left) || !self.all_connected(&join.right) {
                return Some(Box::new(not_over_shards(
                    "Sharded tables are outer-joined, and not on their shard keys.",
                    JOIN_ON_KEYS,
                )));
            }
            self.connect(left[0], right[0]);
        }
        let count = self.scopes.last().map_or(0, |scope| scope.relations.len());
        let all: Vec<usize> = (0..count).collect();
        if self.all_connected(&all) {
            return None;
        }
        Some(Box::new(not_over_shards("Sharded tables are joined, and not on their shard keys.", JOIN_ON_KEYS)))
    }
}
