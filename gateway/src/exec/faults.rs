//! Named points at which a test can kill the gateway. Without `RINGWAY_FAULT_FILE` nothing here does anything.
//!
//! The file holds lines `POINT kill`. When a point that it names is reached, the point's name goes to `<file>.hit` and the
//! process kills itself, as a machine that loses power would.

use std::io::Write;
use std::path::PathBuf;

/// Where a fault can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultPoint {
    /// A write to moving rows is on its way to their owner.
    MovingStatementForwarded,
    /// The owner has answered it, the transaction is still open.
    MovingStatementAnswered,
    CapturedRead,
    MirrorApplySent,
    MirrorPrepared,
    SettleSent,
    /// The owner has committed, the other end is prepared.
    CommittedBeforeCommitPrepared,
    MirrorCommitted,
    DecisionForgotten,
    PrepareSent,
    PreparedSome,
    PreparedAll,
    DecisionSent,
    AnchorCommitted,
    ParticipantCommitted,
    HoldEntered,
    HoldReleased,
    RoutedAcknowledged,
    DrainedAcknowledged,
    FenceMet,
    DdlOpened,
    DdlCommitted,
    CatalogReported,
}

impl FaultPoint {
    pub const ALL: &'static [FaultPoint] = &[
        FaultPoint::MovingStatementForwarded,
        FaultPoint::MovingStatementAnswered,
        FaultPoint::CapturedRead,
        FaultPoint::MirrorApplySent,
        FaultPoint::MirrorPrepared,
        FaultPoint::SettleSent,
        FaultPoint::CommittedBeforeCommitPrepared,
        FaultPoint::MirrorCommitted,
        FaultPoint::DecisionForgotten,
        FaultPoint::PrepareSent,
        FaultPoint::PreparedSome,
        FaultPoint::PreparedAll,
        FaultPoint::DecisionSent,
        FaultPoint::AnchorCommitted,
        FaultPoint::ParticipantCommitted,
        FaultPoint::HoldEntered,
        FaultPoint::HoldReleased,
        FaultPoint::RoutedAcknowledged,
        FaultPoint::DrainedAcknowledged,
        FaultPoint::FenceMet,
        FaultPoint::DdlOpened,
        FaultPoint::DdlCommitted,
        FaultPoint::CatalogReported,
    ];

    pub fn name(self) -> &'static str {
        match self {
            FaultPoint::MovingStatementForwarded => "moving_statement_forwarded",
            FaultPoint::MovingStatementAnswered => "moving_statement_answered",
            FaultPoint::CapturedRead => "captured_read",
            FaultPoint::MirrorApplySent => "mirror_apply_sent",
            FaultPoint::MirrorPrepared => "mirror_prepared",
            FaultPoint::SettleSent => "settle_sent",
            FaultPoint::CommittedBeforeCommitPrepared => "committed_before_commit_prepared",
            FaultPoint::MirrorCommitted => "mirror_committed",
            FaultPoint::DecisionForgotten => "decision_forgotten",
            FaultPoint::PrepareSent => "prepare_sent",
            FaultPoint::PreparedSome => "prepared_some",
            FaultPoint::PreparedAll => "prepared_all",
            FaultPoint::DecisionSent => "decision_sent",
            FaultPoint::AnchorCommitted => "anchor_committed",
            FaultPoint::ParticipantCommitted => "participant_committed",
            FaultPoint::HoldEntered => "hold_entered",
            FaultPoint::HoldReleased => "hold_released",
            FaultPoint::RoutedAcknowledged => "routed_acknowledged",
            FaultPoint::DrainedAcknowledged => "drained_acknowledged",
            FaultPoint::FenceMet => "fence_met",
            FaultPoint::DdlOpened => "ddl_opened",
            FaultPoint::DdlCommitted => "ddl_committed",
            FaultPoint::CatalogReported => "catalog_reported",
        }
    }
}

/// Whether faults are injected, and by which file.
#[derive(Debug, Default)]
pub struct Faults {
    file: Option<PathBuf>,
}

impl Faults {
    pub fn new(file: Option<PathBuf>) -> Faults {
        Faults { file }
    }

    /// Does not return if the file asks for this point.
    pub fn hit(&self, point: FaultPoint) {
        let Some(file) = &self.file else { return };
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let wanted = text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(point.name()) && words.next() == Some("kill")
        });
        if !wanted {
            return;
        }
        let mut hit = file.clone().into_os_string();
        hit.push(".hit");
        let recorded = std::fs::File::create(&hit).and_then(|mut file| {
            file.write_all(point.name().as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = recorded {
            tracing::error!(%error, point = point.name(), "cannot record the fault");
        }
        if rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).is_err() {
            std::process::abort();
        }
        // The signal is on its way.
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = FaultPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), FaultPoint::ALL.len());
    }

    #[test]
    fn nothing_happens_unless_the_point_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults");
        std::fs::write(&path, "mirror_prepared kill\nprepared_all ignore\n").unwrap();
        let faults = Faults::new(Some(path.clone()));
        faults.hit(FaultPoint::PreparedAll);
        faults.hit(FaultPoint::HoldEntered);
        assert!(!directory.path().join("faults.hit").exists());
    }
}
