//! Where a move is: one state per step of the protocol, and what follows from a state alone (phase, routing).
//!
//! No I/O and no clock. How states follow one another is `step`'s business; what is stored beside the state is `record`'s.

use ringway_topology::model::{MoveRouting, Phase};
use serde::{Deserialize, Serialize};

/// Which way a cutover, and the copying before it, goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the source to the target: the switch.
    Forward,
    /// From the target back to the source: the rollback.
    Reverse,
}

impl Direction {
    pub const ALL: [Direction; 2] = [Direction::Forward, Direction::Reverse];
}

/// A state has at most one effect, which runs after the state has been stored and leads to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Planned,
    CheckServers,
    JoinTarget,
    CompareSchemas,
    CloseTarget,
    PublishFilter,
    InstallCapture,
    PublishMirror,
    /// (Re)generates the guards on both ends and records what a copy is worth: shapes, file nodes, timelines.
    TakeFingerprint(Direction),
    Backfill(Direction),
    Verify(Direction),
    /// Verified and mirrored; waits for the cutover.
    Ready,
    PublishHold(Direction),
    /// Its transaction is the point of no return.
    Fence(Direction),
    /// The ring gives the arcs to their new owner, which takes writes from now on; they are still held.
    #[serde(alias = "publish_switch", alias = "open_target")]
    Switch(Direction),
    PublishRelease(Direction),
    /// A cutover that exceeded a bound before the point of no return. `void`: rows must be copied again first.
    UndoHold {
        direction: Direction,
        void: bool,
    },
    /// The target owns the arcs; the mirror runs back to the source.
    Switched,
    PublishUnmirror,
    DeleteMoved,
    PublishDone,
    TidyGuards,
    Done,
    CancelUnmirror,
    CancelUninstallCapture,
    CancelResolvePrepared,
    CancelDeleteCopied,
    CancelReopenTarget,
    CancelPublishDone,
    CancelTidyGuards,
    Cancelled,
}

impl State {
    /// Every state there is.
    pub fn all() -> Vec<State> {
        use State::*;
        let mut states = vec![
            Planned,
            CheckServers,
            JoinTarget,
            CompareSchemas,
            CloseTarget,
            PublishFilter,
            InstallCapture,
            PublishMirror,
            Ready,
            Switched,
            PublishUnmirror,
            DeleteMoved,
            PublishDone,
            TidyGuards,
            Done,
            CancelUnmirror,
            CancelUninstallCapture,
            CancelResolvePrepared,
            CancelDeleteCopied,
            CancelReopenTarget,
            CancelPublishDone,
            CancelTidyGuards,
            Cancelled,
        ];
        for direction in Direction::ALL {
            states.extend([
                TakeFingerprint(direction),
                Backfill(direction),
                Verify(direction),
                PublishHold(direction),
                Fence(direction),
                Switch(direction),
                PublishRelease(direction),
                UndoHold { direction, void: false },
                UndoHold { direction, void: true },
            ]);
        }
        states
    }

    pub fn phase(self) -> Phase {
        use Direction::{Forward, Reverse};
        use State::*;
        match self {
            Planned => Phase::Planned,
            CheckServers | JoinTarget | CompareSchemas | CloseTarget | PublishFilter | InstallCapture => {
                Phase::Preparing
            }
            PublishMirror => Phase::Mirroring,
            TakeFingerprint(Forward) | Backfill(Forward) => Phase::Backfilling,
            Verify(Forward) => Phase::Verifying,
            Ready => Phase::Ready,
            PublishHold(Forward)
            | Fence(Forward)
            | Switch(Forward)
            | PublishRelease(Forward)
            | UndoHold { direction: Forward, .. } => Phase::CuttingOver,
            Switched => Phase::Switched,
            TakeFingerprint(Reverse)
            | Backfill(Reverse)
            | Verify(Reverse)
            | PublishHold(Reverse)
            | Fence(Reverse)
            | Switch(Reverse)
            | PublishRelease(Reverse)
            | UndoHold { direction: Reverse, .. } => Phase::RollingBack,
            PublishUnmirror | DeleteMoved | PublishDone | TidyGuards => Phase::Completing,
            Done => Phase::Done,
            CancelUnmirror
            | CancelUninstallCapture
            | CancelResolvePrepared
            | CancelDeleteCopied
            | CancelReopenTarget
            | CancelPublishDone
            | CancelTidyGuards => Phase::Cancelling,
            Cancelled => Phase::Cancelled,
        }
    }

    /// What gateways must do from this state's own publication on. None: the move is not in the topology.
    pub fn routing(self) -> Option<MoveRouting> {
        use State::*;
        let routing = |mirror, hold| Some(MoveRouting { filter: true, mirror, hold });
        match self {
            Planned | CheckServers | JoinTarget | CompareSchemas | CloseTarget => None,
            PublishFilter | InstallCapture => routing(false, false),
            PublishMirror | TakeFingerprint(_) | Backfill(_) | Verify(_) | Ready | Switched => routing(true, false),
            PublishHold(_) | Fence(_) | Switch(_) => routing(true, true),
            PublishRelease(_) | UndoHold { .. } => routing(true, false),
            PublishUnmirror | DeleteMoved => routing(false, false),
            CancelUnmirror
            | CancelUninstallCapture
            | CancelResolvePrepared
            | CancelDeleteCopied
            | CancelReopenTarget => routing(false, false),
            PublishDone | TidyGuards | Done | CancelPublishDone | CancelTidyGuards | Cancelled => None,
        }
    }

    pub fn is_final(self) -> bool {
        self.phase().is_final()
    }

    /// A move may stop between effects here without holding anybody's writes or leaving a cutover half done.
    pub fn may_pause(self) -> bool {
        !matches!(
            self,
            State::PublishHold(_)
                | State::Fence(_)
                | State::Switch(_)
                | State::PublishRelease(_)
                | State::UndoHold { .. }
        )
    }

    /// Captured rows are settled from the shard that captures to the other one. None: nobody captures, or the rows are of
    /// no more use.
    pub fn sweeps(self) -> Option<Direction> {
        use Direction::{Forward, Reverse};
        use State::*;
        match self {
            PublishMirror | Ready => Some(Forward),
            TakeFingerprint(d) | Backfill(d) | Verify(d) | PublishHold(d) | Fence(d) => Some(d),
            UndoHold { direction, .. } => Some(direction),
            // The new owner captures from the switch on.
            PublishRelease(Forward) | Switched => Some(Reverse),
            PublishRelease(Reverse) => Some(Forward),
            _ => None,
        }
    }
}
