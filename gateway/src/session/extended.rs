//! The extended protocol: a pipeline is taken whole up to Sync; what one shard cannot answer alone goes message by message.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Buffered, Portal, Session};
use crate::exec::bound::{queue_learn, Bound, Statement};
use crate::exec::commit;
use crate::exec::cursors::{self, Place};
use crate::exec::describe::{describe, refusal};
use crate::exec::dispatch::{self, check_not_failed, Run};
use crate::exec::failure::Failure;
use crate::exec::forward::{forward, Request};
use crate::exec::pump::{Expect, Show};
use crate::exec::result_type::revalidate;
use crate::exec::transaction::Block;
use crate::plan::types::{Access, DdlKind, Plan, SessionCommand};
use crate::wire::frontend::{self, Bind, Execute, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Format, Frame, FrameRef, Frames, PgError, SqlState, Target};

impl Session {
    /// A whole pipeline, its Sync included.
    pub async fn pipeline(&mut self, pipeline: &[u8]) -> Result<(), Failure> {
        let mut frames: SmallVec<[FrameRef<'_>; 8]> = Frames(pipeline).collect();
        // The Sync.
        frames.pop();
        self.executor.cancel.reset();
        self.executor.repeated = false;
        if !frames.is_empty() && self.may_be_fast(true) {
            self.executor.client.mark();
            match self.fast(&frames).await {
                Ok(true) => return self.synced().await,
                Ok(false) => {}
                Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
                Err(failure) => {
                    self.report(&failure);
                    frames.clear();
                }
            }
        }
        self.batch.extend(frames.into_iter().map(FrameRef::to_frame));
        Box::pin(self.sync(true)).await
    }

    /// Whether one shard may answer all that is left of a pipeline. `fresh`: nothing of it has been answered.
    fn may_be_fast(&self, fresh: bool) -> bool {
        let transaction = &self.executor.transaction;
        !transaction.failed
            && match transaction.block {
                Block::Explicit => self.after.is_empty(),
                Block::None => fresh,
                Block::Implicit => false,
            }
    }

    /// `tried`: not all of the pipeline is for one shard.
    pub async fn sync(&mut self, tried: bool) -> Result<(), Failure> {
        let mut answered = false;
        if !self.skipping {
            answered = Box::pin(self.run_batch(true, tried)).await?;
        }
        self.fresh.clear();
        self.batch.clear();
        self.batch_bytes = 0;
        self.skipping = false;
        if !answered {
            match self.end_implicit().await {
                Ok(after) => self.after.push(after),
                Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
                Err(failure) => self.report(&failure),
            }
            if !self.executor.transaction.is_open() {
                self.portals.clear();
            }
            Box::pin(self.notify()).await?;
            self.ready();
        }
        self.synced().await
    }

    async fn synced(&mut self) -> Result<(), Failure> {
        if !self.after.is_empty() {
            Box::pin(self.finish_after()).await?;
        }
        self.executor.leave();
        Ok(())
    }

    /// Answers what has been collected. True: ReadyForQuery has been sent too. After an error messages are dropped up to Sync.
    pub async fn run_batch(&mut self, sync: bool, tried: bool) -> Result<bool, Failure> {
        let frames = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.executor.cancel.reset();
        self.executor.repeated = false;
        let executes = frames.iter().filter(|frame| frame.tag() == tag::EXECUTE).count();
        let mut rest = frames.as_slice();
        let mut fresh = true;
        while let Some(frame) = rest.first() {
            let eligible = sync && self.may_be_fast(fresh) && !(fresh && tried);
            // After one message by the slow way, only a new statement is worth another look.
            let result = if eligible && (fresh || frame.tag() == tag::PARSE || frame.tag() == tag::BIND) {
                self.executor.client.mark();
                let frames: Vec<FrameRef<'_>> = rest.iter().map(FrameRef::from).collect();
                match self.fast(&frames).await {
                    Ok(true) => return Ok(true),
                    Ok(false) => self.slow(rest, sync && executes == 1).await,
                    Err(failure) => Err(failure),
                }
            } else {
                self.slow(rest, sync && executes == 1).await
            };
            fresh = false;
            match result {
                Ok(()) => rest = &rest[1..],
                Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
                Err(failure) => {
                    self.report(&failure);
                    self.skipping = !sync;
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// The first message by itself. `lone`: it is the only Execute up to Sync.
    async fn slow(&mut self, frames: &[Frame], lone: bool) -> Result<(), Failure> {
        let Some((frame, rest)) = frames.split_first() else { return Ok(()) };
        self.finish_after().await?;
        match frame.tag() {
            // Nothing follows that would tell what is wrong with it.
            tag::PARSE => {
                let mut until = rest.iter().map(Frame::tag).take_while(|next| *next != tag::PARSE);
                self.parse(frame, !until.any(|next| matches!(next, tag::BIND | tag::DESCRIBE))).await
            }
            tag::BIND => Box::pin(self.bind(frame)).await,
            tag::EXECUTE => self.execute(frame, lone).await,
            tag::DESCRIBE => self.describe(frame).await,
            _ => {
                Box::pin(self.close_cursor(frame)).await?;
                self.close_named(frame)
            }
        }
    }

    /// Close of a portal that is a cursor over several shards, or read like one.
    async fn close_cursor(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Close", frame.body()).map_err(PgError::from)?;
        if target == Target::Statement {
            return Ok(());
        }
        if let Some(merged) = self.executor.transaction.portals.remove(name) {
            cursors::declare::close(&mut self.executor, merged).await?;
        } else if !self.portals.contains_key(name) && self.executor.merged_cursor(name).is_some() {
            if let Some(Place::Merged(merged)) = self.executor.forget_cursor(name).map(|cursor| cursor.place) {
                cursors::declare::close(&mut self.executor, *merged).await?;
            }
        }
        Ok(())
    }

    async fn parse(&mut self, frame: &Frame, alone: bool) -> Result<(), Failure> {
        let parse = Parse::parse(frame.body()).map_err(PgError::from)?;
        let limit = self.executor.gateway.config.limits.client_statements_max;
        if self.statements.len() >= limit {
            return Err(PgError::new(
                SqlState::CONFIGURATION_LIMIT_EXCEEDED,
                format!("the session has {limit} prepared statements already (client_statements_max)"),
            )
            .hint("Close statements that are no longer used (DEALLOCATE).")
            .into());
        }
        let pieces = crate::sql::split::split(parse.query)
            .map_err(|error| crate::plan::refuse::lexical_error(&error, parse.query))?;
        if pieces.len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement";
            return Err(PgError::new(SqlState::SYNTAX_ERROR, message).into());
        }
        // A trailing semicolon is no part of the statement.
        let text = pieces.first().map_or("", |range| &parse.query[range.clone()]);
        let sql: Arc<str> = Arc::from(text);
        let types: Vec<u32> = parse.type_oids().collect();
        let statement = Arc::new(self.executor.statement(sql, types));
        if !text.is_empty() {
            let view = self.executor.enter()?;
            self.executor.slot.reads();
            let planned = self.executor.plan(text, &view)?;
            let plan = match &planned.plan {
                Ok(plan) => plan,
                Err(error) => {
                    return Err(refusal(&mut self.executor, error, &Arc::from(parse.query), &statement.types).await)
                }
            };
            if !ends_transaction(plan) {
                check_not_failed(&self.executor)?;
                if alone && !matches!(plan, Plan::Session(_) | Plan::Admin(_)) {
                    self.description(&statement).await?;
                }
            }
        }
        if !parse.statement.is_empty() && self.statements.contains_key(parse.statement) {
            let message = format!("prepared statement \"{}\" already exists", parse.statement);
            return Err(PgError::new(SqlState::DUPLICATE_PREPARED_STATEMENT, message).into());
        }
        self.fresh.push(Arc::clone(&statement));
        self.statements.insert(parse.statement.to_owned(), statement);
        backend::parse_complete(self.executor.client.out());
        Ok(())
    }

    /// What no shard is asked about in this place.
    async fn check_bind(&mut self, bind: &Bind<'_>, statement: &Arc<Statement>) -> Result<(), Failure> {
        let formats = bind.result_formats.len();
        if statement.sql.is_empty() || self.executor.transaction.failed {
            return Ok(());
        }
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let planned = self.executor.plan(&statement.sql, &view)?;
        let is_query = matches!(&planned.plan, Ok(Plan::Query(_)));
        if formats < 2 && !is_query {
            return Ok(());
        }
        let description = self.description(statement).await?;
        let (given, needed) = (bind.parameters.len(), description.parameters.len());
        if is_query && given != needed {
            let name = bind.statement;
            let message = format!(
                "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {needed}"
            );
            return Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into());
        }
        match description.fields {
            Some(fields) if formats > 1 && formats != fields.len() => {
                let columns = fields.len();
                let message = format!("bind message has {formats} result formats but query has {columns} columns");
                Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into())
            }
            _ => Ok(()),
        }
    }

    /// COMMIT and ROLLBACK, which a failed transaction accepts.
    fn ends_transaction(&self, statement: &Statement) -> bool {
        let Some(view) = self.executor.gateway.view.current() else { return false };
        let planned = self.executor.plan(&statement.sql, &view);
        planned.is_ok_and(|planned| planned.plan.as_ref().is_ok_and(ends_transaction))
    }

    pub(super) fn statement_named(&self, name: &str) -> Result<Arc<Statement>, Failure> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            PgError::new(SqlState::INVALID_SQL_STATEMENT_NAME, message).into()
        })
    }

    /// As [`Self::statement_named`], made anew if the schema has changed.
    pub(super) async fn current_statement(&mut self, name: &str) -> Result<Arc<Statement>, Failure> {
        let statement = self.statement_named(name)?;
        let catalog = self.executor.gateway.catalog.load().as_ref().map_or(0, |loaded| loaded.serial);
        if !self.executor.is_outdated(&statement, catalog) {
            return Ok(statement);
        }
        let current = Box::pin(revalidate(&mut self.executor, &statement)).await?;
        if !self.executor.transaction.schema_changed {
            self.statements.insert(name.to_owned(), Arc::clone(&current));
        }
        Ok(current)
    }

    async fn bind(&mut self, frame: &Frame) -> Result<(), Failure> {
        let bind = Bind::parse(frame.body()).map_err(PgError::from)?;
        let statement = self.current_statement(bind.statement).await?;
        if self.executor.transaction.failed && !self.ends_transaction(&statement) {
            check_not_failed(&self.executor)?;
        }
        let taken = self.portals.contains_key(bind.portal) || self.executor.has_cursor(bind.portal);
        if !bind.portal.is_empty() && taken {
            let message = format!("cursor \"{}\" already exists", bind.portal);
            return Err(PgError::new(SqlState::DUPLICATE_CURSOR, message).into());
        }
        self.check_bind(&bind, &statement).await?;
        if let Some(before) = self.executor.transaction.portals.remove(bind.portal) {
            cursors::declare::close(&mut self.executor, before).await?;
        }
        let bound = Arc::new(Bound { statement, bind: Some(frame.clone()) });
        // It reads what is there now, whatever is executed before it.
        let named = !bind.portal.is_empty() && self.executor.transaction.block == Block::Explicit;
        let merged = named && Box::pin(cursors::declare::bind_portal(&mut self.executor, &bound, bind.portal)).await?;
        let portal = Portal { bound, shard: None, finished: false, tag: None, merged, buffered: None };
        self.portals.insert(bind.portal.to_owned(), portal);
        backend::bind_complete(self.executor.client.out());
        Ok(())
    }

    pub(super) fn portal_named(&self, name: &str) -> Result<Portal, Failure> {
        self.portals.get(name).cloned().ok_or_else(|| {
            PgError::new(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist")).into()
        })
    }

    async fn describe(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Describe", frame.body()).map_err(PgError::from)?;
        match target {
            Target::Statement => {
                let before = self.statement_named(name)?;
                let statement = match self.current_statement(name).await {
                    Err(failure @ (Failure::Error(_) | Failure::Server(_))) => {
                        // They are what they were, whatever is wrong with the rest now.
                        let parameters = before.parameters.get().map_or(&before.types[..], |types| types);
                        backend::parameter_description(self.executor.client.out(), parameters);
                        return Err(failure);
                    }
                    statement => statement?,
                };
                let description = self.description(&statement).await?;
                description.encode_statement(self.executor.client.out());
            }
            Target::Portal => {
                let is_portal = self.portals.contains_key(name);
                if let Some(merged) = self.executor.merged_cursor(name).filter(|_| !is_portal) {
                    let fields = merged.described(&vec![crate::wire::Format::Text; merged.columns()]);
                    backend::row_description(self.executor.client.out(), &fields);
                    return Ok(());
                }
                if let Some(shard) = self.executor.cursor_shard(name).filter(|_| !is_portal) {
                    let description = crate::exec::describe::cursor(&mut self.executor, shard, name).await?;
                    description.encode_as_it_is(self.executor.client.out());
                    return Ok(());
                }
                let portal = self.portal_named(name)?;
                let description = self.description(&portal.bound.statement).await?;
                let formats = portal.bound.parsed()?.map(|bind| bind.result_formats);
                description.encode_portal(self.executor.client.out(), formats);
            }
        }
        Ok(())
    }

    async fn description(&mut self, statement: &Arc<Statement>) -> Result<crate::exec::describe::Description, Failure> {
        if statement.sql.is_empty() {
            return Ok(crate::exec::describe::Description::default());
        }
        if let Some(inner) = self.executed_statement(statement)? {
            return Box::pin(describe(&mut self.executor, &inner)).await;
        }
        let described = Box::pin(describe(&mut self.executor, statement)).await;
        if let Err(Failure::Server(error)) = &described {
            // Its Parse would have failed.
            if error.code().starts_with("42") && self.fresh.iter().any(|fresh| Arc::ptr_eq(fresh, statement)) {
                self.statements.retain(|_, known| !Arc::ptr_eq(known, statement));
            }
        }
        described
    }

    /// The statement that EXECUTE stands for.
    fn executed_statement(&mut self, statement: &Statement) -> Result<Option<Arc<Statement>>, Failure> {
        let Some(view) = self.executor.gateway.view.current() else { return Ok(None) };
        let planned = self.executor.plan(&statement.sql, &view)?;
        match &planned.plan {
            Ok(Plan::Session(SessionCommand::Execute { name, .. })) => self.statement_named(name).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn close_named(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Close", frame.body()).map_err(PgError::from)?;
        match target {
            Target::Statement => {
                self.statements.remove(name);
            }
            Target::Portal => {
                self.portals.remove(name);
            }
        }
        backend::close_complete(self.executor.client.out());
        Ok(())
    }

    async fn execute(&mut self, frame: &Frame, lone: bool) -> Result<(), Failure> {
        let execute = Execute::parse(frame.body()).map_err(PgError::from)?;
        let is_cursor = !self.portals.contains_key(execute.portal);
        if is_cursor && self.executor.merged_cursor(execute.portal).is_some() {
            return Box::pin(self.execute_merged(execute)).await;
        }
        let portal = self.portal_named(execute.portal)?;
        if portal.merged {
            return Box::pin(self.execute_merged(execute)).await;
        }
        if portal.bound.statement.sql.is_empty() {
            backend::empty_query_response(self.executor.client.out());
            return Ok(());
        }
        if let Some(shard) = portal.shard {
            return self.execute_on(frame, &portal, shard).await;
        }
        if portal.finished || portal.buffered.is_some() {
            check_not_failed(&self.executor)?;
        }
        if let Some(buffered) = portal.buffered {
            self.next_rows(execute.portal, buffered, execute.rows_max);
            return Ok(());
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
        let view = self.executor.enter()?;
        let planned = self.executor.plan(&portal.bound.statement.sql, &view)?;
        let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
        if let Plan::Session(command) = plan {
            let sets = matches!(
                command,
                SessionCommand::Set { .. }
                    | SessionCommand::SetFromCurrent { .. }
                    | SessionCommand::SetConfig { .. }
                    | SessionCommand::SetCharacteristics { .. }
                    | SessionCommand::Reset { .. }
                    | SessionCommand::Listen { .. }
                    | SessionCommand::Unlisten { .. }
            );
            if sets && !lone {
                // It holds, or is undone, with the rest of the pipeline.
                self.executor.begin_implicit();
            }
            self.executor.slot.reads();
            return Box::pin(self.command(command, &portal.bound.values()?, None)).await;
        }
        check_not_failed(&self.executor)?;
        let outside = match plan {
            Plan::Ddl(ddl) => ddl.kind == DdlKind::ShardByShard,
            Plan::Home(home) => !home.notifies(),
            Plan::Admin(_) => true,
            _ => false,
        };
        if !lone && !outside {
            self.executor.begin_implicit();
        }
        let repeats = match plan {
            Plan::Query(query) => query.returns_rows,
            Plan::Home(home) => home.sql.trim_start().get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case("fetch")),
            Plan::Explain(_) | Plan::Admin(_) | Plan::ComputedKeys(_) | Plan::InsertSelect(_) => true,
            _ => false,
        };
        let run = Run { bound: &portal.bound, describe: false, rows_max: execute.rows_max, portal: execute.portal };
        let mut completed = Box::pin(dispatch::run(&mut self.executor, run)).await?;
        if let (Some(rows), Some(tag)) = (completed.buffered.take(), &completed.tag) {
            let buffered = Buffered { returns: repeats, rows, tag: tag.clone() };
            self.next_rows(execute.portal, buffered, execute.rows_max);
            return Ok(());
        }
        if let Some(known) = self.portals.get_mut(execute.portal) {
            known.finished = !completed.suspended;
            known.tag = completed.tag.clone().filter(|_| repeats);
            known.shard = completed.shard.filter(|_| completed.suspended);
            known.merged = completed.merged;
        }
        match &completed.tag {
            Some(tag) => backend::command_complete(self.executor.client.out(), tag),
            None if completed.suspended => backend::portal_suspended(self.executor.client.out()),
            None => backend::empty_query_response(self.executor.client.out()),
        }
        Ok(())
    }

    /// The next rows of a portal, or a cursor, over several shards.
    async fn execute_merged(&mut self, execute: Execute<'_>) -> Result<(), Failure> {
        check_not_failed(&self.executor)?;
        self.executor.enter()?;
        self.executor.slot.reads();
        let next = cursors::declare::execute_portal(&mut self.executor, execute.portal, execute.rows_max);
        match Box::pin(next).await?.tag {
            Some(tag) => backend::command_complete(self.executor.client.out(), &tag),
            None => backend::portal_suspended(self.executor.client.out()),
        }
        Ok(())
    }

    /// Shows rows that are there already, at most `rows_max` (0: all).
    fn next_rows(&mut self, portal: &str, mut buffered: Buffered, rows_max: u32) {
        let mut shown = 0;
        while !buffered.rows.is_empty() && (rows_max == 0 || shown < rows_max) {
            let Ok(Some(row)) = crate::wire::next_frame(&mut buffered.rows, usize::MAX) else { break };
            self.executor.client.out().extend_from_slice(row.bytes());
            shown += u32::from(row.tag() == b'D');
        }
        // As PostgreSQL does: who has got as many as were asked for does not know yet that there are no more.
        let finished = rows_max == 0 || shown < rows_max;
        if finished {
            // Of what gives rows it counts those that this Execute has shown.
            let tag = match buffered.returns {
                true => crate::merge::command_tag::with_count(&buffered.tag, u64::from(shown)),
                false => buffered.tag.clone(),
            };
            backend::command_complete(self.executor.client.out(), &tag);
        } else {
            backend::portal_suspended(self.executor.client.out());
        }
        if let Some(known) = self.portals.get_mut(portal) {
            known.finished = finished;
            known.tag = buffered.returns.then(|| buffered.tag.clone());
            known.buffered = (!finished).then_some(buffered);
        }
    }

    /// A portal that waits on a shard goes on.
    async fn execute_on(
        &mut self,
        frame: &Frame,
        portal: &Portal,
        shard: ringway_topology::ids::ShardId,
    ) -> Result<(), Failure> {
        check_not_failed(&self.executor)?;
        let execute = Execute::parse(frame.body()).map_err(PgError::from)?;
        let bind = portal.bound.parsed()?;
        let binary = bind.is_some_and(|bind| bind.result_formats.iter().any(|format| format == Format::Binary));
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let (statement, name) = (&portal.bound.statement, execute.portal);
        let mut write = |connection: &mut crate::pool::connection::ServerConnection,
                         expects: &mut std::collections::VecDeque<Expect>| {
            if connection.is_foreign() && binary {
                queue_learn(connection, expects, name, statement, 0);
            }
            connection.output().extend_from_slice(frame.bytes());
            expects.push_back(Expect::Execute);
            connection.queue_sync();
        };
        let request = Request {
            shard,
            access: Access::Read,
            show: Show { ready_for_query: false, errors: false, ..Show::ALL },
            repeatable: false,
            client_syncs: true,
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        let outcome = forward(&mut self.executor, &view, request).await?;
        match outcome.error {
            Some(error) => Err(Failure::Server(error)),
            None => Ok(()),
        }
    }

    /// A transaction ended: portals are gone.
    pub fn transaction_ended(&mut self, after: commit::AfterCommit) {
        self.portals.clear();
        self.after.push(after);
    }
}

fn ends_transaction(plan: &Plan) -> bool {
    matches!(
        plan,
        Plan::Session(
            SessionCommand::Commit { .. } | SessionCommand::Rollback { .. } | SessionCommand::RollbackTo { .. }
        )
    )
}
