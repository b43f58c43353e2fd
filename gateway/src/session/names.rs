//! Cursors of SQL and portals of the protocol have one name space: FETCH, MOVE, CLOSE and DECLARE meet portals.

use super::Session;
use crate::exec::cursors::{self, Cursor, CursorCommand, Place};
use crate::exec::dispatch::{self, Completed, Run};
use crate::exec::failure::Failure;
use crate::exec::transaction::Block;
use crate::plan::current_of;
use crate::plan::refuse::refused;
use crate::sql::parse::Text;
use crate::wire::{PgError, SqlState};

impl Session {
    /// As [`dispatch::run`]; what it says of cursors may be about portals. `own`: the portal that is executed.
    pub(super) async fn run_statement(&mut self, run: Run<'_>, own: Option<&str>) -> Result<Completed, Failure> {
        let sql = &run.bound.statement.sql;
        let command = if self.portals.is_empty() { None } else { cursors::command(sql) };
        match command {
            Some(CursorCommand::Declare { name, .. })
                if self.portals.contains_key(&name) && self.executor.transaction.block == Block::Explicit =>
            {
                let message = format!("cursor \"{name}\" already exists");
                return Err(PgError::new(SqlState::DUPLICATE_CURSOR, message).into());
            }
            Some(CursorCommand::Read { name, direction: Some(_), .. }) if own == Some(&name) => {
                let message = format!("portal \"{name}\" cannot be run");
                return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
            }
            Some(CursorCommand::Close { name }) if own == Some(&name) => {
                let message = format!("cannot drop active portal \"{name}\"");
                return Err(PgError::new(SqlState::INVALID_CURSOR_STATE, message).into());
            }
            Some(CursorCommand::Close { name }) if self.portals.contains_key(&name) => {
                self.drop_portal(&name).await?;
                return Ok(Completed { tag: Some("CLOSE CURSOR".to_owned()), ..Completed::default() });
            }
            Some(CursorCommand::CloseAll) => {
                let names: Vec<String> = self.portals.keys().filter(|name| own != Some(name)).cloned().collect();
                for name in names {
                    self.drop_portal(&name).await?;
                }
            }
            command => {
                if let Some(reading) = self.reads_own_rows(command.as_ref())? {
                    return Box::pin(self.read_own_rows(reading, &run)).await;
                }
            }
        }
        let lent = self.lend_portal(sql)?;
        let completed = Box::pin(dispatch::run(&mut self.executor, run)).await;
        self.take_back(lent);
        completed
    }

    /// The portal that a FETCH or MOVE reads, or that WHERE CURRENT OF names, becomes a cursor.
    pub(super) fn lend_portal(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        if self.portals.is_empty() {
            return Ok(None);
        }
        let read = match cursors::command(sql) {
            Some(CursorCommand::Read { name, direction: Some(_), .. }) => Some(name),
            _ => written_at(sql),
        };
        let Some(name) = read else { return Ok(None) };
        let Some(portal) = self.portals.get(&name) else { return Ok(None) };
        let place = match (self.executor.transaction.portals.remove(&name), portal.shard) {
            (Some(merged), _) => Place::Merged(Box::new(merged)),
            (None, Some(shard)) => Place::Shard(shard),
            (None, None) => {
                return Err(refused(
                    "SQL cannot use a portal as a cursor that does not only read, or has been executed whole",
                    "Only the rows of portals that read wait on shards.",
                    "Execute the portal by the protocol, with a row limit.",
                )
                .into())
            }
        };
        let cursor = Cursor { hold: false, binary: false, depth: portal.depth, place };
        self.executor.transaction.cursors.insert(name.clone(), cursor);
        Ok(Some(name))
    }

    pub(super) fn take_back(&mut self, lent: Option<String>) {
        let Some(name) = lent else { return };
        let cursor = self.executor.transaction.cursors.remove(&name);
        if let Some(Place::Merged(merged)) = cursor.map(|cursor| cursor.place) {
            self.executor.transaction.portals.insert(name, *merged);
        }
    }
}

/// The cursor that an UPDATE or DELETE writes at.
fn written_at(sql: &str) -> Option<String> {
    let likely = ["upda", "dele", "--", "/*"];
    let first = sql.trim_start();
    if !likely.iter().any(|start| first.get(..start.len()).is_some_and(|word| word.eq_ignore_ascii_case(start))) {
        return None;
    }
    current_of::cursor(&Text::new(sql).ok()?)
}
