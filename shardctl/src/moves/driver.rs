//! Runs one move: stores each state, runs its effect, feeds what came of it to `step`, until the move has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::context::MoveContext;
use super::cutover;
use super::effects::{self, Outcome};
use super::error::MoveError;
use super::faults;
use super::limits::MoveLimits;
use super::record::{unix_ms, Request};
use super::state::{Direction, State};
use super::step::{effect_of, may_cancel, step, Effect, Event, Failure};
use super::sweeper::{backlog, Sweeper};
use super::table::READ_BY_KEY;

/// How often a waiting move looks whether its copy has become void.
const VOID_CHECK_EVERY: Duration = Duration::from_secs(5);
/// A command wakes a waiting move; this is for what nobody announces.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a move that is ready looks whether another's cutover has ended.
const CUTOVER_TURN_EVERY: Duration = Duration::from_millis(20);

/// Ends when the move has. Dropping it anywhere is as good as killing the process: the stored state goes on.
pub async fn drive(ctx: Arc<MoveContext>) {
    let direction = watch::Sender::new(ctx.record().state.sweeps());
    let sweeping = sweep(&ctx, direction.subscribe());
    let moving = async {
        while !ctx.record().state.is_final() {
            if let Err(error) = turn(&ctx, &direction).await {
                // The store does not take the record: nothing may go on without it.
                ctx.trouble(error.to_string());
                tracing::error!(r#move = ctx.id.0, %error, "the move cannot go on");
                tokio::time::sleep(Duration::from_millis(ctx.limits.retry_backoff_max_ms)).await;
            }
        }
    };
    tokio::select! {
        () = moving => {}
        () = sweeping => {}
    }
    ctx.no_trouble();
    ctx.live().sweeper_trouble = None;
}

/// Counts an effect's failures in a row, for its backoff.
#[derive(Default)]
struct Attempts {
    of: Option<State>,
    failed: u32,
}

async fn turn(ctx: &MoveContext, direction: &watch::Sender<Option<Direction>>) -> Result<(), MoveError> {
    let mut attempts = Attempts::default();
    loop {
        let record = ctx.record();
        let state = record.state;
        direction.send_if_modified(|now| std::mem::replace(now, state.sweeps()) != state.sweeps());
        if state.is_final() {
            return Ok(());
        }
        if let Some(event) = requested(ctx) {
            advance(ctx, event).await?;
            continue;
        }
        if (record.paused || record.stopped.is_some()) && state.may_pause() {
            ctx.pause(WAIT_MAX).await;
            continue;
        }
        if attempts.of != Some(state) {
            attempts = Attempts { of: Some(state), failed: 0 };
        }
        match effect_of(state) {
            None => wait(ctx).await?,
            Some(effect) => run_effect(ctx, effect, &mut attempts).await?,
        }
    }
}

/// The operator's request, as soon as the state takes it.
fn requested(ctx: &MoveContext) -> Option<Event> {
    let record = ctx.record();
    let waits = ctx.live().next_cutover.is_some_and(|next| Instant::now() < next);
    match record.request? {
        Request::Cancel => may_cancel(record.state).then_some(Event::Cancel),
        _ if record.paused || record.stopped.is_some() || waits => None,
        Request::CutOver => (record.state == State::Ready).then_some(Event::CutOver),
        Request::RollBack => (record.state == State::Switched).then_some(Event::RollBack),
        Request::Complete => (record.state == State::Switched).then_some(Event::Complete),
    }
}

/// Longer after every cutover that came to nothing.
fn pause_cutovers(ctx: &MoveContext) {
    let mut live = ctx.live();
    let (first, most) = (ctx.limits.cutover_backoff_ms, ctx.limits.cutover_backoff_max_ms);
    live.next_cutover = Some(Instant::now() + MoveLimits::backoff(first, most, live.undone_in_a_row));
    live.undone_in_a_row += 1;
}

/// A cutover that could not begin: a state that only waits has its own ways of waiting, one with an effect would run it again at once.
async fn not_yet(ctx: &MoveContext) -> Result<(), MoveError> {
    let next = ctx.live().next_cutover;
    if effect_of(ctx.record().state).is_some() {
        ctx.pause(next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))).await;
    }
    Ok(())
}

/// Stores the next state, and what follows from entering it.
async fn advance(ctx: &MoveContext, event: Event) -> Result<(), MoveError> {
    let now = unix_ms();
    if let Ok((State::PublishHold(direction), _)) = step(ctx.record().state, event) {
        if !matches!(ctx.record().state, State::PublishHold(_)) {
            if !ctx.take_cutover_turn() {
                ctx.trouble("waiting for another move's cutover to end");
                ctx.live().next_cutover = Some(Instant::now() + CUTOVER_TURN_EVERY);
                return not_yet(ctx).await;
            }
            if let Err(error) = cutover::prepare(ctx, direction).await {
                ctx.trouble(format!("the cutover cannot begin: {error}"));
                ctx.live().cutover_turn = None;
                pause_cutovers(ctx);
                return not_yet(ctx).await;
            }
            ctx.live().held_since = Some(Instant::now());
        }
    }
    let (before, after) = ctx
        .update(|record| {
            let before = record.state;
            let Ok((after, _)) = step(before, event) else { return (before, before) };
            if after == before {
                return (before, after);
            }
            record.state = after;
            match (before, after) {
                (State::Fence(_), State::Switch(_)) => record.handovers += 1,
                (_, State::UndoHold { .. }) => record.attempts_undone += 1,
                (State::PublishRelease(Direction::Reverse), State::Ready) => record.rolled_back = true,
                (State::PublishRelease(Direction::Forward), State::Switched) => record.rolled_back = false,
                _ => {}
            }
            if event == Event::Voided {
                record.verified = false;
            }
            // A request stays until it has been carried out: a cutover that undoes itself is tried again.
            let carried_out = match record.request {
                Some(Request::Cancel) => event == Event::Cancel,
                Some(Request::CutOver) => after == State::Switched,
                Some(Request::RollBack) => after == State::Ready,
                Some(Request::Complete) => after == State::PublishUnmirror,
                None => false,
            };
            if carried_out {
                record.request = None;
            }
            if event == Event::Cancel {
                record.paused = false;
                record.stopped = None;
            }
            if after.is_final() {
                record.ended_at_unix_ms = Some(now);
            }
            (before, after)
        })
        .await?;
    if before != after {
        tracing::info!(r#move = ctx.id.0, from = ?before, to = ?after, ?event, "move");
        ctx.no_trouble();
    }
    if ctx.live().held_since.is_some() && before != after {
        ctx.held_stage("stored");
    }
    if after.may_pause() {
        ctx.live().cutover_turn = None;
    }
    match after {
        State::UndoHold { .. } if before != after => pause_cutovers(ctx),
        State::Switch(_) => {
            let mut live = ctx.live();
            live.undone_in_a_row = 0;
            live.next_cutover = None;
        }
        _ => {}
    }
    Ok(())
}

/// In ready and switched: until it is time to go on, or somebody says so.
async fn wait(ctx: &MoveContext) -> Result<(), MoveError> {
    let record = ctx.record();
    let next_cutover = ctx.live().next_cutover;
    let until_cutover = next_cutover.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
    match record.state {
        State::Planned => return advance(ctx, Event::Start).await,
        State::Ready => {
            let automatic = !record.manual && !record.rolled_back;
            if automatic && until_cutover.is_zero() {
                return advance(ctx, Event::CutOver).await;
            }
            if void_while_waiting(ctx).await {
                return advance(ctx, Event::Voided).await;
            }
        }
        State::Switched if !record.manual && record.request.is_none() => {
            let since = record.switched_at_unix_ms.unwrap_or_default();
            let left = since.saturating_add(record.rollback_window_ms).saturating_sub(unix_ms());
            if left == 0 {
                return advance(ctx, Event::WindowOver).await;
            }
            ctx.pause(WAIT_MAX.min(Duration::from_millis(left))).await;
            return Ok(());
        }
        _ => {}
    }
    let most = if until_cutover.is_zero() { WAIT_MAX } else { WAIT_MAX.min(until_cutover) };
    ctx.pause(most).await;
    Ok(())
}

async fn void_while_waiting(ctx: &MoveContext) -> bool {
    {
        let mut live = ctx.live();
        if live.void_checked.is_some_and(|at| at.elapsed() < VOID_CHECK_EVERY) {
            return false;
        }
        live.void_checked = Some(Instant::now());
    }
    match effects::is_void(ctx).await {
        Ok(void) => {
            ctx.no_trouble();
            void
        }
        Err(error) => {
            ctx.trouble(error.to_string());
            false
        }
    }
}

async fn run_effect(ctx: &MoveContext, effect: Effect, attempts: &mut Attempts) -> Result<(), MoveError> {
    faults::point(effect.name(), "before");
    let outcome = effects::run(ctx, effect).await;
    let state = ctx.record().state;
    let holding = matches!(state, State::PublishHold(_) | State::Fence(_));
    let error = match outcome {
        Ok(outcome) => {
            faults::point(effect.name(), "after");
            let event = match outcome {
                Outcome::Done => Event::EffectDone,
                Outcome::Unchanged => Event::Unchanged,
            };
            return advance(ctx, event).await;
        }
        Err(error) => error,
    };
    match &error {
        MoveError::Interrupted => return Ok(()),
        MoveError::Void(text) if step(state, Event::Voided).is_ok() => {
            tracing::warn!(r#move = ctx.id.0, reason = %text, "what was copied is void");
            return advance(ctx, Event::Voided).await;
        }
        MoveError::Fatal(text) if state.may_pause() => {
            tracing::error!(r#move = ctx.id.0, effect = effect.name(), reason = %text, "the move has stopped");
            let text = text.clone();
            return ctx.update(|record| record.stopped = Some(text)).await;
        }
        MoveError::Fatal(text) if holding => {
            let text = text.clone();
            ctx.update(|record| record.stopped = Some(text)).await?;
            return advance(ctx, Event::EffectFailed(Failure::Undo)).await;
        }
        _ if holding => {
            tracing::warn!(r#move = ctx.id.0, effect = effect.name(), %error, "the cutover is undone");
            advance(ctx, Event::BoundExceeded).await?;
            ctx.trouble(format!("the last cutover was undone: {error}"));
            return Ok(());
        }
        _ => {}
    }
    let pause = MoveLimits::backoff(ctx.limits.retry_backoff_ms, backoff_max(ctx, state), attempts.failed);
    attempts.failed += 1;
    tracing::warn!(r#move = ctx.id.0, effect = effect.name(), %error, attempt = attempts.failed, "will try again");
    ctx.trouble(error.to_string());
    ctx.pause(pause).await;
    Ok(())
}

/// Past the point of no return writes are held: no long pauses.
fn backoff_max(ctx: &MoveContext, state: State) -> u64 {
    if state.may_pause() {
        ctx.limits.retry_backoff_max_ms
    } else {
        ctx.limits.retry_backoff_ms * 2
    }
}

/// Beside the effects, as long as the state says that captured rows are to be settled.
async fn sweep(ctx: &MoveContext, mut direction: watch::Receiver<Option<Direction>>) {
    let mut failed = 0;
    loop {
        let now = *direction.borrow_and_update();
        let Some(now) = now else {
            ctx.live().sweeper_trouble = None;
            ctx.live().captured_backlog = 0;
            if direction.changed().await.is_err() {
                return;
            }
            continue;
        };
        let error = tokio::select! {
            error = sweep_one_way(ctx, now, &mut failed) => error,
            _ = direction.changed() => continue,
        };
        // In the order of states the effect's end of the move may come before the sweeper hears of it.
        if ctx.record().state.sweeps() != Some(now) {
            continue;
        }
        if let MoveError::Fatal(text) = &error {
            tracing::error!(r#move = ctx.id.0, reason = %text, "the move has stopped");
            let text = text.clone();
            if let Err(error) = ctx.update(|record| record.stopped = Some(text)).await {
                ctx.trouble(error.to_string());
            }
            ctx.wake.notify_one();
        }
        failed += 1;
        ctx.live().sweeper_trouble = Some(format!("captured rows wait: {error}"));
        let pause = MoveLimits::backoff(ctx.limits.retry_backoff_ms, ctx.limits.retry_backoff_max_ms, failed.min(5));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = direction.changed() => {}
        }
    }
}

/// Until something fails.
async fn sweep_one_way(ctx: &MoveContext, direction: Direction, failed: &mut u32) -> MoveError {
    let (mut from, mut to) = match ctx.connect_ends(direction).await {
        Ok(ends) => ends,
        Err(error) => return error,
    };
    if let Err(error) = from.batch(READ_BY_KEY).await {
        return error;
    }
    let mut sweeper = Sweeper::new(ctx.id, ctx.record().arcs, ctx.limits.clone());
    let mut fingerprint = ctx.record().fingerprint;
    let mut unstored = 0;
    let mut stored_at = Instant::now();
    let mut records = ctx.subscribe();
    loop {
        let record = records.borrow_and_update().clone();
        if record.fingerprint != fingerprint {
            fingerprint = record.fingerprint;
            sweeper.forget_tables();
        }
        let swept = match sweeper.sweep(&mut from, &mut to).await {
            Ok(swept) => swept,
            Err(error) => return error,
        };
        *failed = 0;
        ctx.live().sweeper_trouble = None;
        unstored += swept.rows;
        if unstored > 0 && stored_at.elapsed() >= WAIT_MAX {
            let rows = std::mem::take(&mut unstored);
            if let Err(error) = ctx.update(|record| record.swept_rows += rows).await {
                return error;
            }
            stored_at = Instant::now();
        }
        let pause_ms = pause_of(ctx, record.state, swept.rows, swept.full);
        if swept.rows > 0 {
            match backlog(&mut from, ctx.id).await {
                Ok(rows) => ctx.live().captured_backlog = rows,
                Err(error) => return error,
            }
        } else {
            ctx.live().captured_backlog = 0;
        }
        // A hold does not wait until an idle sweeper looks again.
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            _ = records.changed() => {}
        }
    }
}

fn pause_of(ctx: &MoveContext, state: State, rows: u64, full: bool) -> u64 {
    match state {
        State::PublishHold(_) | State::Fence(_) => ctx.limits.sweep_held_ms,
        _ if full => 0,
        _ if rows > 0 => ctx.limits.sweep_busy_ms,
        _ => ctx.limits.sweep_idle_ms,
    }
}
