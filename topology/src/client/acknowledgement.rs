//! What a gateway says of the epochs that it has been sent, and what follows from it.

use ringway_proto::v1;

use crate::ids::Epoch;

/// The newest that holds; a later one replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acknowledgement {
    /// Every new statement uses it or a newer one, and no write under an older one is in flight.
    pub routed: Epoch,
    /// Nothing that is bound to an older epoch is left.
    pub drained: Epoch,
    /// Every new statement uses it or a newer one.
    pub used: Epoch,
    /// Changes up to `used` that writes in flight still stand against.
    pub pending: Vec<EpochRange>,
}

/// The epochs after `after`, up to and with `through`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRange {
    pub after: Epoch,
    pub through: Epoch,
}

impl Acknowledgement {
    /// Whether the change that made `epoch` is routed, whatever older changes still wait for.
    pub fn has_routed_change(&self, epoch: Epoch) -> bool {
        let is_pending = |range: &EpochRange| range.after < epoch && epoch <= range.through;
        self.routed >= epoch || (self.used >= epoch && !self.pending.iter().any(is_pending))
    }

    /// Takes in what was said later. No epoch ever goes back.
    pub fn advance(&mut self, later: Acknowledgement) {
        self.routed = self.routed.max(later.routed);
        self.drained = self.drained.max(later.drained);
        if later.used >= self.used {
            self.used = later.used;
            self.pending = later.pending;
        }
    }
}

impl From<&Acknowledgement> for v1::Acknowledge {
    fn from(said: &Acknowledgement) -> v1::Acknowledge {
        let range = |range: &EpochRange| v1::EpochRange { after: range.after.0, through: range.through.0 };
        v1::Acknowledge {
            routed_epoch: said.routed.0,
            drained_epoch: said.drained.0,
            used_epoch: said.used.0,
            pending: said.pending.iter().map(range).collect(),
        }
    }
}

impl From<&v1::Acknowledge> for Acknowledgement {
    fn from(said: &v1::Acknowledge) -> Acknowledgement {
        let range = |range: &v1::EpochRange| EpochRange { after: Epoch(range.after), through: Epoch(range.through) };
        Acknowledgement {
            routed: Epoch(said.routed_epoch),
            drained: Epoch(said.drained_epoch),
            used: Epoch(said.used_epoch),
            pending: said.pending.iter().map(range).collect(),
        }
    }
}
