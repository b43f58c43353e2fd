//! All moves: starts them, resumes them after a restart, hands them operators' commands, shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use ringway_topology::ids::MoveId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::context::MoveContext;
use super::driver::drive;
use super::error::MoveError;
use super::limits::MoveLimits;
use super::port::Cluster;
use super::record::{MoveRecord, Request};
use super::start::{plan, StartError};
use super::state::State;
use super::status::MoveStatus;
use super::step::{may_cancel, phase_name};
use crate::control::{Control, ControlError};

pub use super::start::{StartMove, What};

/// A watched move is shown again after this long, changed or not.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    limits: MoveLimits,
    moves: Mutex<BTreeMap<MoveId, Arc<MoveContext>>>,
    /// Ends this engine's tasks; the control plane's own end does too.
    token: CancellationToken,
    /// Held while a move is being started: two must not take the same arcs.
    starting: tokio::sync::Mutex<()>,
}

impl From<StartError> for ControlError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Invalid(text) => ControlError::Invalid(text),
            StartError::NotFound(text) => ControlError::NotFound(text),
            StartError::Precondition(text) => ControlError::Precondition(text),
        }
    }
}

fn unavailable(error: MoveError) -> ControlError {
    ControlError::Unavailable(error.to_string())
}

impl Engine {
    pub fn new(control: Control, limits: MoveLimits) -> Engine {
        Engine {
            inner: Arc::new(Inner {
                cluster: Cluster::new(control),
                limits,
                moves: Mutex::default(),
                token: CancellationToken::new(),
                starting: tokio::sync::Mutex::default(),
            }),
        }
    }

    fn moves(&self) -> MutexGuard<'_, BTreeMap<MoveId, Arc<MoveContext>>> {
        self.inner.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At startup, before the interface is offered: every stored move is known, and those that have not ended go on.
    pub async fn resume_all(&self) -> Result<(), ControlError> {
        let mut records = self.inner.cluster.records().await.map_err(unavailable)?;
        // A cutover that a restart has interrupted comes before those that have not begun.
        records.sort_by_key(|record| record.state.may_pause());
        let ended = records.iter().filter(|record| record.state.is_final()).count();
        let mut forget = ended.saturating_sub(self.inner.limits.ended_moves_kept_max);
        for record in records {
            if record.state.is_final() && forget > 0 {
                forget -= 1;
                self.inner.cluster.forget_record(record.id).await.map_err(unavailable)?;
                continue;
            }
            self.take_up(record);
        }
        Ok(())
    }

    /// As if this process were killed: the tasks stop where they are.
    #[cfg(test)]
    pub fn drop_tasks(&self) {
        self.inner.token.cancel();
    }

    fn take_up(&self, record: MoveRecord) -> Arc<MoveContext> {
        let ended = record.state.is_final();
        let ctx = Arc::new(MoveContext::new(record, self.inner.cluster.clone(), self.inner.limits.clone()));
        if !ctx.record().state.may_pause() {
            ctx.take_cutover_turn();
        }
        self.moves().insert(ctx.id, Arc::clone(&ctx));
        if !ended {
            let (token, driven) = (self.inner.token.clone(), Arc::clone(&ctx));
            self.inner.cluster.control.spawn(async move { token.run_until_cancelled(drive(driven)).await });
        }
        ctx
    }

    /// Stores the move; it begins at once.
    pub async fn start(&self, request: StartMove) -> Result<MoveId, ControlError> {
        let _starting = self.inner.starting.lock().await;
        let running: Vec<MoveRecord> =
            self.moves().values().map(|ctx| ctx.record()).filter(|record| !record.state.is_final()).collect();
        let planned: Mutex<Option<MoveRecord>> = Mutex::default();
        let slot = || planned.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner
            .cluster
            .control
            .change_with_record(
                "a move begins",
                |topology| {
                    let record = plan(&request, topology, &running)?;
                    topology.next_move = record.id.0 + 1;
                    // Checked here, where it can still be refused.
                    record.to_json().map_err(|error| ControlError::Internal(error.to_string()))?;
                    *slot() = Some(record);
                    Ok(())
                },
                |_| match slot().as_ref() {
                    Some(record) => (record.id, record.to_json().unwrap_or_default().into_bytes()),
                    None => (MoveId(0), Vec::new()),
                },
            )
            .await?;
        let record = slot().take().ok_or_else(|| ControlError::Internal("the move was not planned".into()))?;
        let id = record.id;
        tracing::info!(r#move = id.0, source = record.source_name, target = record.target_name, "a move begins");
        self.take_up(record);
        Ok(id)
    }

    fn find(&self, id: MoveId) -> Result<Arc<MoveContext>, ControlError> {
        self.moves().get(&id).cloned().ok_or_else(|| ControlError::NotFound(format!("there is no move {id}")))
    }

    pub fn get(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        Ok(MoveStatus::of(&*self.find(id)?))
    }

    /// Running moves, and with `all` the ended ones too, in the order of their numbers.
    pub fn list(&self, all: bool) -> Vec<MoveStatus> {
        let moves: Vec<Arc<MoveContext>> = self.moves().values().cloned().collect();
        moves.iter().filter(|ctx| all || !ctx.record().state.is_final()).map(|ctx| MoveStatus::of(ctx)).collect()
    }

    /// The status at once, then after each change and every second; ends after that of the ended move.
    pub fn watch(&self, id: MoveId) -> Result<impl Stream<Item = MoveStatus> + Send + 'static, ControlError> {
        let ctx = self.find(id)?;
        let mut changes = ctx.subscribe();
        changes.mark_changed();
        Ok(futures_util::stream::unfold(Some((ctx, changes)), |watching| async move {
            let (ctx, mut changes): (Arc<MoveContext>, watch::Receiver<MoveRecord>) = watching?;
            // A change or the time: either way it is shown.
            let _ = tokio::time::timeout(WATCH_EVERY, changes.changed()).await;
            let ended = changes.borrow_and_update().state.is_final();
            let status = MoveStatus::of(&ctx);
            Some((status, (!ended).then_some((ctx, changes))))
        }))
    }

    /// Stops between two of its parts; a cutover is finished or undone first.
    pub async fn pause(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        self.command(id, |record| {
            record.paused = true;
            Ok(())
        })
        .await
    }

    /// Also tries again what stopped the move by itself.
    pub async fn resume(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        self.command(id, |record| {
            record.paused = false;
            record.stopped = None;
            Ok(())
        })
        .await
    }

    pub async fn cut_over(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        self.request(id, Request::CutOver, |state| state == State::Ready, "it is cut over when it is ready").await
    }

    pub async fn roll_back(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        self.request(
            id,
            Request::RollBack,
            |state| state == State::Switched,
            "it can be rolled back between the switch and its completion",
        )
        .await
    }

    pub async fn complete(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        self.request(id, Request::Complete, |state| state == State::Switched, "it can be completed once it is switched")
            .await
    }

    /// While a cutover is under way the request waits: it holds if the cutover undoes itself.
    pub async fn cancel(&self, id: MoveId) -> Result<MoveStatus, ControlError> {
        let takes = |state: State| may_cancel(state) || matches!(state, State::PublishHold(_) | State::UndoHold { .. });
        self.request(
            id,
            Request::Cancel,
            takes,
            "it can be cancelled before it is switched; after that, roll it back first",
        )
        .await
    }

    async fn request(
        &self,
        id: MoveId,
        request: Request,
        possible: impl Fn(State) -> bool,
        hint: &str,
    ) -> Result<MoveStatus, ControlError> {
        let hint = hint.to_owned();
        self.command(id, move |record| {
            if record.request == Some(request) {
                return Ok(());
            }
            if !possible(record.state) {
                return Err(format!("move {id} is in phase {}: {hint}", phase_name(record.state)));
            }
            record.request = Some(request);
            if request != Request::Cancel {
                record.paused = false;
            }
            Ok(())
        })
        .await
    }

    async fn command(
        &self,
        id: MoveId,
        change: impl FnOnce(&mut MoveRecord) -> Result<(), String>,
    ) -> Result<MoveStatus, ControlError> {
        let ctx = self.find(id)?;
        ctx.update(|record| {
            if record.state.is_final() {
                return Err(format!("move {id} has ended: {}", phase_name(record.state)));
            }
            change(record)
        })
        .await
        .map_err(unavailable)?
        .map_err(ControlError::Precondition)?;
        ctx.live().next_cutover = None;
        ctx.wake.notify_one();
        Ok(MoveStatus::of(&ctx))
    }
}
