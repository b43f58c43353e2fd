//! The ring: who owns which token.
//!
//! The sorted, checked list of points is the model: what is stored, iterated and compared. A `hashring::HashRing` with
//! an order-preserving hasher is built from it, for lookups only. A point owns the arc from the previous point
//! (exclusive) to its own token (inclusive); the last point is `i64::MAX`, so arcs cover every token once and never
//! wrap.
//!
//! Nothing here knows keys, tables, moves or epochs. Changing the ring means making another one.

mod arc;
mod rebalance;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use serde::{Deserialize, Serialize};

use crate::ids::ShardId;
use crate::token::Token;

pub use arc::{arcs_are_disjoint, ArcError, TokenArc};

/// A cut in the token space: `shard` owns the tokens after the previous point up to and including `token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPoint {
    pub token: Token,
    pub shard: ShardId,
}

/// Immutable and canonical: neighbouring points have different owners, so equal ownership means equal rings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<RingPoint>", into = "Vec<RingPoint>")]
pub struct Ring {
    points: Vec<RingPoint>,
    lookup: HashRing<ByToken, TokenOrder>,
}

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum RingError {
    #[error("a ring needs at least one shard")]
    Empty,
    #[error("shard {0} is named twice")]
    RepeatedShard(ShardId),
    #[error("the points of a ring must ascend, and {0} does not")]
    NotAscending(Token),
    #[error("the last point of a ring must be {top}, not {0}", top = Token::MAX)]
    TopNotOwned(Token),
    #[error("the arcs overlap")]
    OverlappingArcs,
    #[error("a fraction must lie between 0 and 1, and {0} does not")]
    NotAFraction(f64),
}

impl Ring {
    /// Checks the points, and merges neighbours that have the same owner.
    pub fn new(points: Vec<RingPoint>) -> Result<Ring, RingError> {
        let last = points.last().ok_or(RingError::Empty)?;
        if last.token != Token::MAX {
            return Err(RingError::TopNotOwned(last.token));
        }
        if let Some(pair) = points.windows(2).find(|pair| pair[0].token >= pair[1].token) {
            return Err(RingError::NotAscending(pair[1].token));
        }
        Ok(Ring::canonical(points))
    }

    /// One arc per shard, in the given order, equally wide but for a token.
    pub fn equal(shards: &[ShardId]) -> Result<Ring, RingError> {
        if shards.is_empty() {
            return Err(RingError::Empty);
        }
        let mut seen = BTreeSet::new();
        if let Some(repeated) = shards.iter().find(|shard| !seen.insert(**shard)) {
            return Err(RingError::RepeatedShard(*repeated));
        }
        let tokens_below = |index: usize| (index as u128 * TokenArc::ALL.width()) / shards.len() as u128;
        let point = |(index, shard): (usize, &ShardId)| RingPoint {
            token: Token((i128::from(i64::MIN) + tokens_below(index + 1) as i128 - 1) as i64),
            shard: *shard,
        };
        Ok(Ring::canonical(shards.iter().enumerate().map(point).collect()))
    }

    /// `points` ascend and end at the top.
    fn canonical(points: Vec<RingPoint>) -> Ring {
        let mut merged: Vec<RingPoint> = Vec::with_capacity(points.len());
        for point in points {
            match merged.last_mut() {
                Some(previous) if previous.shard == point.shard => *previous = point,
                _ => merged.push(point),
            }
        }
        let mut lookup = HashRing::with_hasher(TokenOrder);
        lookup.batch_add(merged.iter().copied().map(ByToken).collect());
        Ring { points: merged, lookup }
    }

    pub fn points(&self) -> &[RingPoint] {
        &self.points
    }

    pub fn owner(&self, token: Token) -> ShardId {
        match self.lookup.get(&token) {
            Some(ByToken(point)) => point.shard,
            None => unreachable!("a ring has a point at the top"),
        }
    }

    /// The shards that own an arc, ascending.
    pub fn owners(&self) -> Vec<ShardId> {
        let owners: BTreeSet<ShardId> = self.points.iter().map(|point| point.shard).collect();
        owners.into_iter().collect()
    }

    /// Every arc with its owner, ascending.
    pub fn arcs(&self) -> impl Iterator<Item = (TokenArc, ShardId)> + '_ {
        let starts = std::iter::once(None).chain(self.points.iter().map(|point| Some(point.token.0)));
        starts.zip(&self.points).map(|(after, point)| (TokenArc::ordered(after, point.token.0), point.shard))
    }

    /// The arcs of one shard, ascending; none if it owns nothing.
    pub fn arcs_of(&self, shard: ShardId) -> Vec<TokenArc> {
        self.arcs().filter(|(_, owner)| *owner == shard).map(|(arc, _)| arc).collect()
    }

    /// The ring in which `to` owns these arcs, whoever owned them, and all else stays. Arcs may cut anywhere.
    pub fn reassign(&self, arcs: &[TokenArc], to: ShardId) -> Result<Ring, RingError> {
        if !arcs_are_disjoint(arcs) {
            return Err(RingError::OverlappingArcs);
        }
        let mut taken = arcs.to_vec();
        taken.sort_unstable();
        let mut cuts: BTreeSet<i64> = self.points.iter().map(|point| point.token.0).collect();
        cuts.extend(taken.iter().filter_map(|arc| arc.after));
        cuts.extend(taken.iter().map(|arc| arc.through));

        let owner = |cut: i64| {
            let next = taken.partition_point(|arc| arc.through < cut);
            let moves = taken.get(next).is_some_and(|arc| arc.contains(Token(cut)));
            if moves {
                to
            } else {
                self.owner(Token(cut))
            }
        };
        let points = cuts.into_iter().map(|cut| RingPoint { token: Token(cut), shard: owner(cut) });
        Ok(Ring::canonical(points.collect()))
    }
}

/// Invariant: the arcs follow one another without gap or overlap from the lowest token to the highest, and looking a
/// token up finds the owner of the arc it lies in.
pub fn every_token_has_one_owner(ring: &Ring) -> bool {
    let mut previous = None;
    for (arc, shard) in ring.arcs() {
        let found = ring.owner(arc.first()) == shard && ring.owner(Token(arc.through)) == shard;
        if arc.after != previous || !found {
            return false;
        }
        previous = Some(arc.through);
    }
    previous == Some(i64::MAX)
}

impl PartialEq for Ring {
    fn eq(&self, other: &Ring) -> bool {
        self.points == other.points
    }
}

impl Eq for Ring {}

impl TryFrom<Vec<RingPoint>> for Ring {
    type Error = RingError;

    fn try_from(points: Vec<RingPoint>) -> Result<Ring, RingError> {
        Ring::new(points)
    }
}

impl From<Ring> for Vec<RingPoint> {
    fn from(ring: Ring) -> Vec<RingPoint> {
        ring.points
    }
}

/// A point that hashes by its token alone. `HashRing::get` finds the first node whose hash is not below the key's:
/// with hashes in token order that is the point whose arc the token lies in.
#[derive(Debug, Clone, Copy)]
struct ByToken(RingPoint);

impl Hash for ByToken {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.token.hash(state);
    }
}

/// Hashes a token to itself, shifted so that unsigned order is the tokens' order.
#[derive(Debug, Clone)]
struct TokenOrder;

struct TokenHasher(u64);

impl BuildHasher for TokenOrder {
    type Hasher = TokenHasher;

    fn build_hasher(&self) -> TokenHasher {
        TokenHasher(0)
    }
}

impl Hasher for TokenHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only tokens are looked up, and a token is one i64")
    }

    fn write_i64(&mut self, token: i64) {
        self.0 = (token as u64) ^ (1 << 63);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
