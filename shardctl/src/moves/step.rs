//! The move's state machine: pure, so that unit tests and the model checker walk the very transitions that the engine takes.
//!
//! No I/O, no clock, no record. Retrying, pausing and the choice of when to cut over are the driver's.

use super::state::{Direction, State};
use Direction::{Forward, Reverse};

/// What a state makes the engine do. Idempotent; a restarted engine runs the effect of the stored state again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    CheckServers,
    JoinTarget,
    CompareSchemas,
    CloseTarget,
    PublishFilter,
    InstallCapture,
    PublishMirror,
    TakeFingerprint(Direction),
    Backfill(Direction),
    Verify(Direction),
    PublishHold(Direction),
    Fence(Direction),
    Switch(Direction),
    PublishRelease(Direction),
    UndoHold(Direction),
    PublishUnmirror,
    DeleteMoved,
    PublishDone,
    TidyGuards,
    CancelUnmirror,
    UninstallCapture,
    ResolvePrepared,
    DeleteCopied,
    ReopenTarget,
}

impl Effect {
    pub const ALL: [Effect; 32] = [
        Effect::CheckServers,
        Effect::JoinTarget,
        Effect::CompareSchemas,
        Effect::CloseTarget,
        Effect::PublishFilter,
        Effect::InstallCapture,
        Effect::PublishMirror,
        Effect::TakeFingerprint(Forward),
        Effect::Backfill(Forward),
        Effect::Verify(Forward),
        Effect::PublishHold(Forward),
        Effect::Fence(Forward),
        Effect::Switch(Forward),
        Effect::PublishRelease(Forward),
        Effect::UndoHold(Forward),
        Effect::TakeFingerprint(Reverse),
        Effect::Backfill(Reverse),
        Effect::Verify(Reverse),
        Effect::PublishHold(Reverse),
        Effect::Fence(Reverse),
        Effect::Switch(Reverse),
        Effect::PublishRelease(Reverse),
        Effect::UndoHold(Reverse),
        Effect::PublishUnmirror,
        Effect::DeleteMoved,
        Effect::PublishDone,
        Effect::TidyGuards,
        Effect::CancelUnmirror,
        Effect::UninstallCapture,
        Effect::ResolvePrepared,
        Effect::DeleteCopied,
        Effect::ReopenTarget,
    ];

    /// Stable: operators see it as the step, fault tests name it.
    pub fn name(self) -> &'static str {
        match self {
            Effect::CheckServers => "CheckServers",
            Effect::JoinTarget => "JoinTarget",
            Effect::CompareSchemas => "CompareSchemas",
            Effect::CloseTarget => "CloseTarget",
            Effect::PublishFilter => "PublishFilter",
            Effect::InstallCapture => "InstallCapture",
            Effect::PublishMirror => "PublishMirror",
            Effect::TakeFingerprint(Forward) => "TakeFingerprint",
            Effect::Backfill(Forward) => "Backfill",
            Effect::Verify(Forward) => "Verify",
            Effect::PublishHold(Forward) => "PublishHold",
            Effect::Fence(Forward) => "Fence",
            Effect::Switch(Forward) => "Switch",
            Effect::PublishRelease(Forward) => "PublishRelease",
            Effect::UndoHold(Forward) => "UndoHold",
            Effect::TakeFingerprint(Reverse) => "ReverseTakeFingerprint",
            Effect::Backfill(Reverse) => "ReverseBackfill",
            Effect::Verify(Reverse) => "ReverseVerify",
            Effect::PublishHold(Reverse) => "ReversePublishHold",
            Effect::Fence(Reverse) => "ReverseFence",
            Effect::Switch(Reverse) => "ReverseSwitch",
            Effect::PublishRelease(Reverse) => "ReversePublishRelease",
            Effect::UndoHold(Reverse) => "ReverseUndoHold",
            Effect::PublishUnmirror => "PublishUnmirror",
            Effect::DeleteMoved => "DeleteMoved",
            Effect::PublishDone => "PublishDone",
            Effect::TidyGuards => "TidyGuards",
            Effect::CancelUnmirror => "CancelUnmirror",
            Effect::UninstallCapture => "UninstallCapture",
            Effect::ResolvePrepared => "ResolvePrepared",
            Effect::DeleteCopied => "DeleteCopied",
            Effect::ReopenTarget => "ReopenTarget",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    /// Tried again, after a pause.
    Retry,
    /// A bound was exceeded while somebody's writes were held: undo if that is still possible, else try again.
    Undo,
    /// Somebody has to look; the state stays and the move stops until it is resumed or cancelled.
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    Start,
    EffectDone,
    /// TakeFingerprint found everything as it was when the move was last verified.
    Unchanged,
    /// What was copied is worth nothing any more: tables were rewritten, a server has failed over.
    Voided,
    EffectFailed(Failure),
    BoundExceeded,
    CutOver,
    RollBack,
    Complete,
    WindowOver,
    Cancel,
}

impl Event {
    pub const ALL: [Event; 13] = [
        Event::Start,
        Event::EffectDone,
        Event::Unchanged,
        Event::Voided,
        Event::EffectFailed(Failure::Retry),
        Event::EffectFailed(Failure::Undo),
        Event::EffectFailed(Failure::Fatal),
        Event::BoundExceeded,
        Event::CutOver,
        Event::RollBack,
        Event::Complete,
        Event::WindowOver,
        Event::Cancel,
    ];
}

/// The event means nothing in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not possible in phase {}", phase_name(*state))]
pub struct NotNow {
    pub state: State,
    pub event: Event,
}

/// The phase as operators write it.
pub fn phase_name(state: State) -> String {
    match serde_json::to_value(state.phase()) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{:?}", state.phase()),
    }
}

pub fn effect_of(state: State) -> Option<Effect> {
    Some(match state {
        State::Planned | State::Ready | State::Switched | State::Done | State::Cancelled => return None,
        State::CheckServers => Effect::CheckServers,
        State::JoinTarget => Effect::JoinTarget,
        State::CompareSchemas => Effect::CompareSchemas,
        State::CloseTarget => Effect::CloseTarget,
        State::PublishFilter => Effect::PublishFilter,
        State::InstallCapture => Effect::InstallCapture,
        State::PublishMirror => Effect::PublishMirror,
        State::TakeFingerprint(direction) => Effect::TakeFingerprint(direction),
        State::Backfill(direction) => Effect::Backfill(direction),
        State::Verify(direction) => Effect::Verify(direction),
        State::PublishHold(direction) => Effect::PublishHold(direction),
        State::Fence(direction) => Effect::Fence(direction),
        State::Switch(direction) => Effect::Switch(direction),
        State::PublishRelease(direction) => Effect::PublishRelease(direction),
        State::UndoHold { direction, .. } => Effect::UndoHold(direction),
        State::PublishUnmirror => Effect::PublishUnmirror,
        State::DeleteMoved => Effect::DeleteMoved,
        State::PublishDone | State::CancelPublishDone => Effect::PublishDone,
        State::TidyGuards | State::CancelTidyGuards => Effect::TidyGuards,
        State::CancelUnmirror => Effect::CancelUnmirror,
        State::CancelUninstallCapture => Effect::UninstallCapture,
        State::CancelResolvePrepared => Effect::ResolvePrepared,
        State::CancelDeleteCopied => Effect::DeleteCopied,
        State::CancelReopenTarget => Effect::ReopenTarget,
    })
}

pub fn step(state: State, event: Event) -> Result<(State, Option<Effect>), NotNow> {
    next(state, event).map(|state| (state, effect_of(state))).ok_or(NotNow { state, event })
}

fn next(state: State, event: Event) -> Option<State> {
    Some(match event {
        Event::Start if state == State::Planned => State::CheckServers,
        Event::EffectDone => after_effect(state)?,
        Event::Unchanged if state == State::TakeFingerprint(Reverse) => State::PublishHold(Reverse),
        Event::Voided => after_void(state)?,
        Event::BoundExceeded | Event::EffectFailed(Failure::Undo) => match state {
            State::PublishHold(direction) | State::Fence(direction) => State::UndoHold { direction, void: false },
            _ => effect_of(state).map(|_| state)?,
        },
        Event::EffectFailed(Failure::Retry | Failure::Fatal) => effect_of(state).map(|_| state)?,
        Event::CutOver if state == State::Ready => State::PublishHold(Forward),
        Event::RollBack if state == State::Switched => State::TakeFingerprint(Reverse),
        Event::Complete | Event::WindowOver if state == State::Switched => State::PublishUnmirror,
        Event::Cancel if may_cancel(state) => State::CancelUnmirror,
        _ => return None,
    })
}

/// Before the switch, and not while writes are held.
pub fn may_cancel(state: State) -> bool {
    matches!(
        state,
        State::Planned
            | State::CheckServers
            | State::JoinTarget
            | State::CompareSchemas
            | State::CloseTarget
            | State::PublishFilter
            | State::InstallCapture
            | State::PublishMirror
            | State::TakeFingerprint(Forward)
            | State::Backfill(Forward)
            | State::Verify(Forward)
            | State::Ready
    )
}

fn after_void(state: State) -> Option<State> {
    Some(match state {
        State::Backfill(direction) | State::Verify(direction) => State::TakeFingerprint(direction),
        State::Ready => State::TakeFingerprint(Forward),
        State::PublishHold(direction) | State::Fence(direction) => State::UndoHold { direction, void: true },
        _ => return None,
    })
}

fn after_effect(state: State) -> Option<State> {
    Some(match state {
        State::CheckServers => State::JoinTarget,
        State::JoinTarget => State::CompareSchemas,
        State::CompareSchemas => State::CloseTarget,
        State::CloseTarget => State::PublishFilter,
        State::PublishFilter => State::InstallCapture,
        State::InstallCapture => State::PublishMirror,
        State::PublishMirror => State::TakeFingerprint(Forward),
        State::TakeFingerprint(direction) => State::Backfill(direction),
        State::Backfill(direction) => State::Verify(direction),
        State::Verify(Forward) => State::Ready,
        State::Verify(Reverse) => State::PublishHold(Reverse),
        State::PublishHold(direction) => State::Fence(direction),
        State::Fence(direction) => State::Switch(direction),
        State::Switch(direction) => State::PublishRelease(direction),
        State::PublishRelease(Forward) => State::Switched,
        State::PublishRelease(Reverse) => State::Ready,
        State::UndoHold { direction, void: true } => State::TakeFingerprint(direction),
        State::UndoHold { direction: Forward, void: false } => State::Ready,
        State::UndoHold { direction: Reverse, void: false } => State::Switched,
        State::PublishUnmirror => State::DeleteMoved,
        State::DeleteMoved => State::PublishDone,
        State::PublishDone => State::TidyGuards,
        State::TidyGuards => State::Done,
        State::CancelUnmirror => State::CancelUninstallCapture,
        State::CancelUninstallCapture => State::CancelResolvePrepared,
        State::CancelResolvePrepared => State::CancelDeleteCopied,
        State::CancelDeleteCopied => State::CancelReopenTarget,
        State::CancelReopenTarget => State::CancelPublishDone,
        State::CancelPublishDone => State::CancelTidyGuards,
        State::CancelTidyGuards => State::Cancelled,
        State::Planned | State::Ready | State::Switched | State::Done | State::Cancelled => return None,
    })
}

/// What a history of events has established, for the invariants below; the model checker carries it beside the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct History {
    /// Both ends were found equal, and nothing has voided that since.
    pub verified: bool,
    /// The arcs have been handed over to the target (and not back).
    pub on_target: bool,
}

impl History {
    pub fn after(self, state: State, event: Event) -> History {
        let mut history = self;
        match (state, event) {
            (State::Verify(_), Event::EffectDone) => history.verified = true,
            // Whatever TakeFingerprint finds, unless it says so the copy counts as old.
            (State::TakeFingerprint(_), Event::EffectDone) => history.verified = false,
            (_, Event::Voided) => history.verified = false,
            (State::Fence(direction), Event::EffectDone) => history.on_target = direction == Forward,
            _ => {}
        }
        history
    }
}

/// Invariant: who stands past the point of no return has verified.
pub fn switched_means_verified(state: State, history: History) -> bool {
    let past = matches!(state, State::Switch(_) | State::PublishRelease(_) | State::Switched);
    !past || history.verified
}

/// Invariant: writes are held for a cutover, and arcs handed over, only while the copy is valid.
pub fn void_is_never_switched(state: State, history: History) -> bool {
    let cutting = matches!(state, State::PublishHold(_) | State::Fence(_));
    !cutting || history.verified
}

/// Invariant: only rows of a shard that does not own them are deleted, and states agree with who owns the arcs.
pub fn state_agrees_with_owner(state: State, history: History) -> bool {
    match state {
        State::Switch(direction) | State::PublishRelease(direction) => history.on_target == (direction == Forward),
        State::TakeFingerprint(direction)
        | State::Backfill(direction)
        | State::Verify(direction)
        | State::PublishHold(direction)
        | State::Fence(direction)
        | State::UndoHold { direction, .. } => history.on_target == (direction == Reverse),
        State::Switched
        | State::PublishUnmirror
        | State::DeleteMoved
        | State::PublishDone
        | State::TidyGuards
        | State::Done => history.on_target,
        _ => !history.on_target,
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
