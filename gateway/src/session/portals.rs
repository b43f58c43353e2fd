//! Portals of the protocol: bound, executed piece by piece, closed. SQL knows them as cursors, and they know SQL's.
//!
//! A query whose rows are those of its Bind is bound on its shard, or opened on several, as soon as anything else may be executed first
//! (`exec::portals`). What writes waits for its Execute.

use std::sync::Arc;

use bytes::BytesMut;

use super::commands::LOCK_TABLE;
use super::extended::check_count;
use super::own_rows::gives_rows;
use super::Session;
use crate::exec::bound::{Bound, Statement};
use crate::exec::cursors::position::Position;
use crate::exec::cursors::{self, CursorCommand, Place};
use crate::exec::dispatch::{check_not_failed, Run};
use crate::exec::failure::Failure;
use crate::exec::hold::check_keys;
use crate::exec::portals::{self, Where};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::plan::refuse::refused;
use crate::plan::types::{Access, DdlKind, Plan, SessionCommand};
use crate::pool::connection::StatementId;
use crate::wire::frontend::{self, Bind, Execute, Formats};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Format, Frame, Frames, PgError, SqlState, Target};
use ringway_topology::ids::ShardId;

/// A bound statement, waiting to be executed.
#[derive(Clone, Debug)]
pub struct Portal {
    pub bound: Arc<Bound>,
    /// The shard that holds it, once it has been sent there.
    pub shard: Option<ShardId>,
    /// Its name on the shard; None: the client's.
    pub there: Option<Arc<str>>,
    /// The shard's unnamed portal may be something else by now.
    pub overtaken: bool,
    /// Savepoints that there were: it is gone once the transaction goes back to an earlier one.
    pub depth: usize,
    /// Bound in a failed transaction, whose end it is.
    pub after_error: bool,
    /// Executed by the gateway: a further Execute gives no rows.
    pub finished: bool,
    /// How it was finished: None if no further Execute is accepted.
    pub tag: Option<String>,
    /// Its rows are merged from several shards: the transaction has it (`exec::cursors`).
    pub merged: bool,
    /// Rows of several shards that wait for the next Execute.
    pub buffered: Option<Buffered>,
}

/// DataRow messages, and the command tag that follows them.
#[derive(Clone, Debug)]
pub struct Buffered {
    pub rows: BytesMut,
    /// There were rows at all: a statement without RETURNING gives none.
    pub returns: bool,
    pub tag: String,
    /// In the rows.
    pub position: Position,
}

impl Portal {
    pub fn new(bound: Arc<Bound>, depth: usize) -> Portal {
        Portal {
            bound,
            shard: None,
            there: None,
            overtaken: false,
            depth,
            after_error: false,
            finished: false,
            tag: None,
            merged: false,
            buffered: None,
        }
    }

    /// The shard that takes the client's own messages for it.
    pub fn forwarded_to(&self) -> Option<ShardId> {
        self.shard.filter(|_| self.there.is_none() && !self.overtaken)
    }
}

impl Session {
    /// `rest`: the messages that follow.
    pub(super) async fn bind(&mut self, frame: &Frame, rest: &[Frame]) -> Result<(), Failure> {
        let bind = Bind::parse(frame.body()).map_err(PgError::from)?;
        let statement = self.current_statement(bind.statement).await?;
        if self.executor.transaction.failed && !self.ends_transaction(&statement) {
            let view = self.executor.enter()?;
            self.executor.slot.reads();
            if statement.sql.is_empty() {
                check_count(&bind, statement.types.len())?;
            } else {
                let planned = self.executor.plan(&statement.sql, &view)?;
                check_count(&bind, statement.types.len().max(planned.parameters))?;
            }
            check_not_failed(&self.executor)?;
        }
        let taken = self.portals.contains_key(bind.portal) || self.executor.has_cursor(bind.portal);
        if !bind.portal.is_empty() && taken {
            let message = format!("cursor \"{}\" already exists", bind.portal);
            return Err(PgError::new(SqlState::DUPLICATE_CURSOR, message).into());
        }
        self.check_bind(&bind, &statement).await?;
        let bound = Arc::new(Bound { statement, bind: Some(frame.clone()) });
        let next = is_executed_next(bind.portal, rest);
        Box::pin(self.check_values(&bound, next)).await?;
        self.drop_portal(bind.portal).await?;
        let mut portal = Portal::new(bound, self.executor.transaction.savepoints.len());
        portal.after_error = self.executor.transaction.failed;
        let outlives = !bind.portal.is_empty() && self.executor.transaction.block == Block::Explicit;
        if !self.executor.transaction.failed && (!next || outlives) {
            let (name, there) = self.name_there(bind.portal);
            let bound = portals::bind(&mut self.executor, &portal.bound, bind.portal, &name, next);
            match Box::pin(bound).await? {
                Where::Nowhere => {}
                Where::Shard(shard) => (portal.shard, portal.there) = (Some(shard), there),
                Where::Merged => {
                    portal.merged = true;
                    self.overtake();
                }
            }
        }
        if next {
            self.executor.client.mark_bind();
        }
        self.portals.insert(bind.portal.to_owned(), portal);
        backend::bind_complete(self.executor.client.out());
        Ok(())
    }

    /// Values that do not say where the statement runs, and those of what writes and is not executed `next`, are bound on a shard, which
    /// says what is wrong with them.
    async fn check_values(&mut self, bound: &Bound, next: bool) -> Result<(), Failure> {
        let values = bound.values()?;
        if values.is_empty() || self.executor.transaction.failed {
            return Ok(());
        }
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let planned = self.executor.plan(&bound.statement.sql, &view)?;
        let Ok(plan) = &planned.plan else { return Ok(()) };
        let keys = check_keys(&self.executor, plan, &view, &values);
        let waits = match plan {
            Plan::Query(query) => !next && query.access == Access::Write,
            Plan::AtCursor(_) | Plan::ComputedKeys(_) | Plan::InsertSelect(_) => !next,
            _ => false,
        };
        if keys.is_err() || waits {
            if let Some(error) = portals::wrong_values(&mut self.executor, bound).await? {
                return Err(Failure::Server(error));
            }
        }
        keys
    }

    /// The unnamed portal gets a name of the gateway's on its shard: the gateway has other uses for that of the shard.
    fn name_there(&mut self, portal: &str) -> (Arc<str>, Option<Arc<str>>) {
        if !portal.is_empty() {
            return (Arc::from(portal), None);
        }
        self.executor.cursors_made += 1;
        let name: Arc<str> = Arc::from(format!("ringway_portal_{}", self.executor.cursors_made));
        (Arc::clone(&name), Some(name))
    }

    /// What is done now may use the unnamed portals of shards.
    fn overtake(&mut self) {
        if let Some(unnamed) = self.portals.get_mut("") {
            unnamed.overtaken |= unnamed.shard.is_some() && unnamed.there.is_none();
        }
    }

    /// It is gone, wherever it is.
    pub(super) async fn drop_portal(&mut self, name: &str) -> Result<(), Failure> {
        if let Some(merged) = self.executor.transaction.portals.remove(name) {
            cursors::declare::close(&mut self.executor, merged).await?;
        }
        let Some(portal) = self.portals.remove(name) else { return Ok(()) };
        let there = portal.there.as_deref().unwrap_or(name);
        match portal.shard {
            // The next one takes its place.
            Some(shard) if !there.is_empty() => portals::close(&mut self.executor, shard, there).await,
            _ => Ok(()),
        }
    }

    pub(super) fn portal_named(&self, name: &str) -> Result<Portal, Failure> {
        self.portals.get(name).cloned().ok_or_else(|| no_portal(name).into())
    }

    pub(super) async fn close_named(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Close", frame.body()).map_err(PgError::from)?;
        if target == Target::Statement {
            self.statements.remove(name);
        } else if self.portals.contains_key(name) {
            self.drop_portal(name).await?;
        } else {
            let shard = self.portal_shard(name);
            match self.executor.forget_cursor(name).map(|cursor| cursor.place) {
                Some(Place::Merged(merged)) => cursors::declare::close(&mut self.executor, *merged).await?,
                _ => {
                    if let Some(shard) = shard {
                        portals::close(&mut self.executor, shard, name).await?;
                    }
                }
            }
        }
        backend::close_complete(self.executor.client.out());
        Ok(())
    }

    /// The next message after the portal's Bind, or a later one.
    pub(super) async fn execute(&mut self, frame: &Frame, lone: bool) -> Result<(), Failure> {
        let execute = Execute::parse(frame.body()).map_err(PgError::from)?;
        let done = Box::pin(self.execute_portal(execute, lone)).await;
        match &done {
            // Shards bind what is executed next only now.
            Err(Failure::Server(error)) if error.at_bind => {
                self.executor.client.unbind();
            }
            _ => self.executor.client.keep_bind(),
        }
        done
    }

    async fn execute_portal(&mut self, execute: Execute<'_>, lone: bool) -> Result<(), Failure> {
        Statistics::count(&self.executor.gateway.statistics.statements);
        let Some(mut portal) = self.portals.get(execute.portal).cloned() else {
            return Box::pin(self.execute_cursor(execute)).await;
        };
        if portal.merged {
            return Box::pin(self.execute_merged(execute)).await;
        }
        if portal.bound.statement.sql.is_empty() {
            backend::empty_query_response(self.executor.client.out());
            return Ok(());
        }
        if portal.finished || portal.buffered.is_some() || portal.shard.is_some() {
            check_not_failed(&self.executor)?;
        }
        if let Some(shard) = portal.shard {
            return Box::pin(self.execute_on(execute, &portal, shard)).await;
        }
        if let Some(buffered) = portal.buffered.take() {
            return self.next_rows(&portal, buffered, execute);
        }
        if portal.finished {
            let Some(tag) = &portal.tag else {
                let message = format!("portal \"{}\" cannot be run", execute.portal);
                return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
            };
            let tag = crate::merge::command_tag::with_count(tag, 0);
            backend::command_complete(self.executor.client.out(), &tag);
            return Ok(());
        }
        self.overtake();
        let view = self.executor.enter()?;
        let planned = self.executor.plan(&portal.bound.statement.sql, &view)?;
        let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
        if let Plan::Session(command) = plan {
            self.executor.slot.reads();
            return Box::pin(self.execute_command(execute, &portal, command, lone)).await;
        }
        check_not_failed(&self.executor)?;
        if let Some(what) = needs_block(plan) {
            self.in_block(what)?;
        }
        let outside = match plan {
            Plan::Ddl(ddl) => ddl.kind == DdlKind::ShardByShard,
            Plan::Admin(_) => true,
            _ => false,
        };
        // A COPY that takes data overreads the Sync behind it: more may follow.
        if (!lone || matches!(plan, Plan::CopyIn(_))) && !outside {
            self.executor.begin_implicit();
        }
        let repeats = match plan {
            Plan::Query(query) => query.returns_rows,
            Plan::AtCursor(write) => write.query.returns_rows,
            Plan::Home(home) => home.sql.trim_start().get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case("fetch")),
            Plan::Explain(_) | Plan::Admin(_) | Plan::ComputedKeys(_) | Plan::InsertSelect(_) => true,
            _ => false,
        };
        self.begun(execute.portal);
        let (name, there) = match execute.rows_max {
            0 => (Arc::from(execute.portal), None),
            _ => self.name_there(execute.portal),
        };
        let run = Run { bound: &portal.bound, describe: false, rows_max: execute.rows_max, portal: &name };
        let mut completed = Box::pin(self.run_statement(run, Some(execute.portal))).await?;
        if let (Some(rows), Some(tag)) = (completed.buffered.take(), &completed.tag) {
            let buffered = Buffered { returns: repeats, rows, tag: tag.clone(), position: Position::default() };
            return self.next_rows(&portal, buffered, execute);
        }
        if let Some(merged) = self.executor.transaction.portals.remove(&*name).filter(|_| completed.merged) {
            // The gateway has it, under the client's name.
            self.executor.transaction.portals.insert(execute.portal.to_owned(), merged);
        }
        let stays = self.executor.transaction.is_open() && !name.is_empty();
        if let Some(known) = self.portals.get_mut(execute.portal) {
            known.finished = !completed.suspended;
            known.tag = completed.tag.clone().filter(|_| repeats);
            // At its end the gateway knows what the unnamed one says, and says it by that name.
            known.shard = completed.shard.filter(|_| stays && (completed.suspended || there.is_none()));
            known.there = there.filter(|_| !completed.merged);
            known.merged = completed.merged;
        }
        match &completed.tag {
            Some(tag) => backend::command_complete(self.executor.client.out(), tag),
            None if completed.suspended => backend::portal_suspended(self.executor.client.out()),
            None => backend::empty_query_response(self.executor.client.out()),
        }
        Ok(())
    }

    /// It has been run, however that ends.
    fn begun(&mut self, portal: &str) {
        if let Some(known) = self.portals.get_mut(portal) {
            (known.finished, known.tag) = (true, None);
        }
    }

    /// A command of the session; one that gives rows may be asked for more.
    async fn execute_command(
        &mut self,
        execute: Execute<'_>,
        portal: &Portal,
        command: &SessionCommand,
        lone: bool,
    ) -> Result<(), Failure> {
        let sets = matches!(
            command,
            SessionCommand::Set { .. }
                | SessionCommand::SetFromCurrent { .. }
                | SessionCommand::SetConfig { .. }
                | SessionCommand::SetTransaction { .. }
                | SessionCommand::SetCharacteristics { .. }
                | SessionCommand::Reset { .. }
                | SessionCommand::Listen { .. }
                | SessionCommand::Unlisten { .. }
        );
        if sets && !lone {
            // It holds, or is undone, with the rest of the pipeline.
            self.executor.begin_implicit();
        }
        if !portal.after_error && portal.depth >= self.executor.transaction.savepoints.len() {
            // An error ends all portals of its transaction or savepoint.
            check_not_failed(&self.executor)?;
        }
        self.begun(execute.portal);
        let values = portal.bound.values()?;
        if !gives_rows(command) {
            return Box::pin(self.command(command, &values, None)).await;
        }
        let buffered = Box::pin(self.collect_rows(command, &portal.bound)).await?;
        self.next_rows(portal, buffered, execute)
    }

    /// A cursor of SQL, by its name.
    async fn execute_cursor(&mut self, execute: Execute<'_>) -> Result<(), Failure> {
        if self.executor.merged_cursor(execute.portal).is_some() {
            return self.execute_merged(execute).await;
        }
        let shard = self.portal_shard(execute.portal).ok_or_else(|| no_portal(execute.portal))?;
        if self.executor.has_cursor(execute.portal) {
            check_not_failed(&self.executor)?;
        }
        // It may be BINARY.
        let unknown = Arc::new(Statement::new(Arc::from(""), Vec::new(), StatementId(0)));
        portals::execute(&mut self.executor, shard, execute.portal, execute.rows_max, Some(&unknown)).await
    }

    /// The next rows of a portal, or a cursor, over several shards.
    async fn execute_merged(&mut self, execute: Execute<'_>) -> Result<(), Failure> {
        check_not_failed(&self.executor)?;
        self.overtake();
        self.executor.enter()?;
        self.executor.slot.reads();
        let next = cursors::declare::execute_portal(&mut self.executor, execute.portal, execute.rows_max);
        match Box::pin(next).await?.tag {
            Some(tag) => backend::command_complete(self.executor.client.out(), &tag),
            None => backend::portal_suspended(self.executor.client.out()),
        }
        Ok(())
    }

    /// A portal that waits on a shard goes on.
    async fn execute_on(&mut self, execute: Execute<'_>, portal: &Portal, shard: ShardId) -> Result<(), Failure> {
        if portal.overtaken {
            return Err(refused(
                "the unnamed portal cannot go on after other statements of the transaction",
                "It was bound on a shard whose unnamed portal the gateway has used since.",
                "Give portals that are read piece by piece a name.",
            )
            .into());
        }
        let binary = portal
            .bound
            .parsed()?
            .is_some_and(|bind| bind.result_formats.iter().any(|format| format == Format::Binary));
        let learns = binary.then_some(&portal.bound.statement);
        let there = portal.there.as_deref().unwrap_or(execute.portal);
        portals::execute(&mut self.executor, shard, there, execute.rows_max, learns).await
    }

    /// Shows rows of a portal that are there already, as many as are asked for.
    fn next_rows(&mut self, portal: &Portal, mut buffered: Buffered, execute: Execute<'_>) -> Result<(), Failure> {
        let rows_max = execute.rows_max;
        let formats = portal.bound.parsed()?.map(|bind| bind.result_formats);
        let unsupported = Format::unsupported(formats.iter().flat_map(Formats::iter));
        if let Some(error) = unsupported.filter(|_| Frames(&buffered.rows).any(|frame| frame.tag() == b'D')) {
            return Err(error.into());
        }
        let limit = (rows_max > 0).then_some(u64::from(rows_max));
        let shown = buffered.pass(limit, Some(self.executor.client.out()));
        // As PostgreSQL does: who has got as many as were asked for does not know yet that there are no more.
        let finished = buffered.position.at_end;
        if finished {
            // Of what gives rows it counts those that this Execute has shown.
            let tag = match buffered.returns {
                true => crate::merge::command_tag::with_count(&buffered.tag, shown),
                false => buffered.tag.clone(),
            };
            backend::command_complete(self.executor.client.out(), &tag);
        } else {
            backend::portal_suspended(self.executor.client.out());
        }
        if let Some(known) = self.portals.get_mut(execute.portal) {
            known.finished = finished;
            known.tag = buffered.returns.then(|| buffered.tag.clone());
            known.buffered = (!finished || buffered.returns).then_some(buffered);
        }
        Ok(())
    }
}

/// What makes no sense where the transaction ends with the statement, by its name.
fn needs_block(plan: &Plan) -> Option<&'static str> {
    const DECLARE: &str = "DECLARE CURSOR";
    match plan {
        Plan::Cursor(cursor) => (!cursor.options.hold).then_some(DECLARE),
        Plan::Home(home) => match cursors::command(&home.sql) {
            Some(CursorCommand::Declare { hold: false, .. }) => Some(DECLARE),
            _ => None,
        },
        Plan::Ddl(ddl) => ddl.locks().then_some(LOCK_TABLE),
        _ => None,
    }
}

fn no_portal(name: &str) -> PgError {
    PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

/// Nothing is executed before it.
fn is_executed_next(portal: &str, rest: &[Frame]) -> bool {
    let next = rest.iter().find(|frame| frame.tag() != tag::DESCRIBE);
    next.filter(|frame| frame.tag() == tag::EXECUTE)
        .is_some_and(|frame| Execute::parse(frame.body()).is_ok_and(|execute| execute.portal == portal))
}
