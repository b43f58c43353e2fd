//! Which arcs to take from whom. Only token space is weighed: rows, load and hot keys are the operator's concern.

use super::{Ring, RingError, TokenArc};
use crate::ids::ShardId;

impl Ring {
    /// Arcs by which `shard` gives up this share of its token space, cutting at most one of its arcs in two.
    pub fn take_fraction(&self, shard: ShardId, fraction: f64) -> Result<Vec<TokenArc>, RingError> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(RingError::NotAFraction(fraction));
        }
        let arcs = self.arcs_of(shard);
        let width = total_width(&arcs);
        // A float does not hold every width: the whole must be the whole all the same.
        let wanted = if fraction == 1.0 { width } else { (width as f64 * fraction).round() as u128 };
        Ok(take_highest(&arcs, wanted))
    }

    /// What every owner gives to a shard that joins: the same share of its own token space, so that the newcomer gets
    /// 1/(N+1) of the whole and nothing else moves. Empty if the shard already owns arcs.
    pub fn join_plan(&self, new_shard: ShardId) -> Vec<(ShardId, Vec<TokenArc>)> {
        let owners = self.owners();
        if owners.contains(&new_shard) {
            return Vec::new();
        }
        let members = owners.len() as u128 + 1;
        let gift = |shard: ShardId| {
            let arcs = self.arcs_of(shard);
            (shard, take_highest(&arcs, total_width(&arcs) / members))
        };
        owners.into_iter().map(gift).filter(|(_, arcs)| !arcs.is_empty()).collect()
    }
}

fn total_width(arcs: &[TokenArc]) -> u128 {
    arcs.iter().map(TokenArc::width).sum()
}

/// The highest `wanted` tokens of these ascending arcs, ascending. Whole arcs first: few cuts keep the ring short.
fn take_highest(arcs: &[TokenArc], mut wanted: u128) -> Vec<TokenArc> {
    let mut taken = Vec::new();
    for arc in arcs.iter().rev() {
        if wanted == 0 {
            break;
        }
        let part = arc.highest(wanted);
        wanted -= part.width();
        taken.push(part);
    }
    taken.reverse();
    taken
}
