//! Portals bound to commands whose rows the gateway makes or asks for by itself (SHOW, EXPLAIN EXECUTE, ...): their rows are collected when they are
//! first wanted, and read by Execute, FETCH and MOVE, forward only.

use std::sync::Arc;

use bytes::BytesMut;

use super::portals::Buffered;
use super::Session;
use crate::exec::bound::{Bound, Statement};
use crate::exec::cursors::position::{only_forward, steps, Direction, Position, Step};
use crate::exec::cursors::{self, CursorCommand};
use crate::exec::describe::describe;
use crate::exec::dispatch::{check_not_failed, Completed, Run};
use crate::exec::failure::Failure;
use crate::plan::types::{Plan, SessionCommand};
use crate::wire::frontend::Formats;
use crate::wire::{Format, Frames, PgError, SqlState};

/// A FETCH or MOVE of such a portal.
pub(super) struct Reading {
    name: String,
    direction: Direction,
    show: bool,
}

impl Session {
    /// What a statement reads of a portal's own rows.
    pub(super) fn reads_own_rows(&self, command: Option<&CursorCommand>) -> Result<Option<Reading>, Failure> {
        let Some(CursorCommand::Read { name, direction: Some(direction), show }) = command else { return Ok(None) };
        let Some(portal) = self.portals.get(name) else { return Ok(None) };
        let Some(view) = self.executor.gateway.view.current() else { return Ok(None) };
        if portal.bound.statement.sql.is_empty() {
            return Ok(None);
        }
        let planned = self.executor.plan(&portal.bound.statement.sql, &view)?;
        let is_own = matches!(&planned.plan, Ok(Plan::Session(command)) if gives_rows(command));
        Ok(is_own.then(|| Reading { name: name.clone(), direction: *direction, show: *show }))
    }

    /// The statement of such a portal that a statement reads, and whether it shows the rows.
    pub(super) fn own_rows_read(&self, sql: &str) -> Result<Option<(Arc<Statement>, bool)>, Failure> {
        if self.portals.is_empty() {
            return Ok(None);
        }
        let Some(Reading { name, show, .. }) = self.reads_own_rows(cursors::command(sql).as_ref())? else {
            return Ok(None);
        };
        Ok(self.portals.get(&name).map(|portal| (Arc::clone(&portal.bound.statement), show)))
    }

    /// The rows of a command that gives some.
    pub(super) async fn collect_rows(&mut self, command: &SessionCommand, bound: &Bound) -> Result<Buffered, Failure> {
        let values = bound.values()?;
        self.executor.client.capture(self.executor.gateway.config.limits.gather_bytes_max);
        let done = Box::pin(self.command(command, &values, None)).await;
        let mut captured = self.executor.client.take_captured();
        done?;
        let mut buffered =
            Buffered { rows: BytesMut::new(), returns: true, tag: String::new(), position: Position::default() };
        while let Ok(Some(message)) = crate::wire::next_frame(&mut captured, usize::MAX) {
            match (message.tag(), message.body().strip_suffix(b"\0")) {
                (b'C', Some(text)) => buffered.tag = String::from_utf8_lossy(text).into_owned(),
                _ => buffered.rows.extend_from_slice(message.bytes()),
            }
        }
        Ok(buffered)
    }

    /// FETCH or MOVE, but for its command tag.
    pub(super) async fn read_own_rows(&mut self, reading: Reading, run: &Run<'_>) -> Result<Completed, Failure> {
        check_not_failed(&self.executor)?;
        let Reading { name, direction, show } = reading;
        let portal = self.portal_named(&name)?;
        let cannot = || {
            let message = format!("portal \"{name}\" cannot be run");
            Failure::from(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message))
        };
        if portal.finished && portal.tag.is_none() {
            return Err(cannot());
        }
        // An error ends it.
        if let Some(known) = self.portals.get_mut(&name) {
            (known.finished, known.tag, known.buffered) = (true, None, None);
        }
        let described = match run.describe && show {
            true => Some(describe(&mut self.executor, &portal.bound.statement).await?),
            false => None,
        };
        let mut buffered = match portal.buffered {
            Some(buffered) => buffered,
            None => {
                let view = self.executor.enter()?;
                self.executor.slot.reads();
                let planned = self.executor.plan(&portal.bound.statement.sql, &view)?;
                let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
                let Plan::Session(command) = plan else { return Err(cannot()) };
                self.collect_rows(command, &portal.bound).await?
            }
        };
        let formats = run.bound.parsed()?.map(|bind| bind.result_formats);
        let mut shown = BytesMut::new();
        let moved = steps(direction, buffered.position, show)
            .into_iter()
            .try_fold(0, |_, step| buffered.step(step, &mut shown));
        let unsupported = Format::unsupported(formats.iter().flat_map(Formats::iter));
        if let Some(error) = unsupported.filter(|_| Frames(&shown).any(|frame| frame.tag() == b'D')) {
            return Err(error.into());
        }
        let count = moved?;
        if let Some(described) = described {
            described.encode_portal(self.executor.client.out(), None);
        }
        self.executor.client.forward(&shown).await?;
        if let Some(known) = self.portals.get_mut(&name) {
            known.finished = buffered.position.at_end;
            known.tag = Some(buffered.tag.clone());
            known.buffered = Some(buffered);
        }
        let verb = if show { "FETCH" } else { "MOVE" };
        Ok(Completed { tag: Some(format!("{verb} {count}")), ..Completed::default() })
    }
}

impl Buffered {
    /// Forward only, as every portal of the protocol. Gives the rows that were passed.
    fn step(&mut self, step: Step, shown: &mut BytesMut) -> Result<u64, Failure> {
        let untouched = self.position.at_start && !self.position.at_end;
        match step {
            Step::Rewind if untouched => Ok(0),
            Step::Count(rows) => Ok(rows),
            Step::Run { forward: true, rows, show } => Ok(self.pass(rows, show.then_some(shown))),
            Step::Rewind | Step::Run { forward: false, .. } => Err(only_forward().into()),
        }
    }

    /// `PortalRunSelect`. `rows`: None for all.
    pub(super) fn pass(&mut self, rows: Option<u64>, mut shown: Option<&mut BytesMut>) -> u64 {
        if self.position.at_end || rows == Some(0) {
            return 0;
        }
        let mut passed = 0;
        while !self.rows.is_empty() && rows.is_none_or(|rows| passed < rows) {
            let Ok(Some(row)) = crate::wire::next_frame(&mut self.rows, usize::MAX) else { break };
            if let Some(shown) = &mut shown {
                shown.extend_from_slice(row.bytes());
            }
            passed += u64::from(row.tag() == b'D');
        }
        let position = &mut self.position;
        position.at_start &= passed == 0;
        position.at_end |= rows.is_none_or(|rows| passed < rows);
        position.row += passed;
        passed
    }
}

/// Whether the session's own command gives rows.
pub(super) fn gives_rows(command: &SessionCommand) -> bool {
    matches!(
        command,
        SessionCommand::Show { .. }
            | SessionCommand::ExplainExecute { .. }
            | SessionCommand::SetConfig { .. }
            | SessionCommand::ListeningChannels { .. }
    )
}
