//! The extended protocol: a pipeline is taken whole up to Sync; what one shard cannot answer alone goes message by message.

use std::sync::Arc;

use smallvec::SmallVec;

use super::fast::Begun;
use super::Session;
use crate::exec::bound::Statement;
use crate::exec::commit;
use crate::exec::cursors::{self, CursorCommand};
use crate::exec::describe::{describe, refusal, syntax_error, Description};
use crate::exec::dispatch::check_not_failed;
use crate::exec::failure::Failure;
use crate::exec::gateway::Planned;
use crate::exec::result_type::revalidate;
use crate::exec::transaction::Block;
use crate::plan::types::{Plan, SessionCommand};
use crate::wire::frontend::{self, Bind, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, FrameRef, Frames, PgError, SqlState, Target};

impl Session {
    /// A whole pipeline, its Sync included.
    pub async fn pipeline(&mut self, pipeline: &[u8]) -> Result<(), Failure> {
        self.executor.cancel.reset();
        self.executor.repeated = false;
        let begun = match self.may_be_fast(true) {
            true => self.begin_pipeline(pipeline),
            false => Ok(Begun::No),
        };
        let answered = match begun {
            Ok(Begun::Sent(flight)) => self.end_fast(flight).await.map(Some),
            Ok(Begun::Shared(shared)) => self.end_shared(shared).await.map(Some),
            Ok(Begun::Waits) => Ok(Some(false)),
            Ok(Begun::Here) => {
                self.executor.leave();
                return Ok(());
            }
            Ok(Begun::End) => match self.begin_end(messages(pipeline)) {
                Some(sent) => return self.end_alone(sent).await,
                None => Ok(None),
            },
            Ok(Begun::No) => Ok(None),
            Err(failure) => Err(failure),
        };
        let slowly = match answered {
            Ok(Some(true)) if self.after.is_empty() => {
                self.settings_told();
                self.executor.leave();
                return Ok(());
            }
            Ok(Some(true)) => return Box::pin(self.synced()).await,
            Ok(Some(false)) => Slowly::Waits,
            Ok(None) => Slowly::ByMessage,
            Err(failure) => Slowly::Failed(failure),
        };
        Box::pin(self.pipeline_slowly(pipeline, slowly)).await
    }

    fn begin_pipeline<'a>(&mut self, pipeline: &'a [u8]) -> Result<Begun<'a>, Failure> {
        self.executor.client.mark();
        self.begin_fast(messages(pipeline))
    }

    async fn pipeline_slowly(&mut self, pipeline: &[u8], slowly: Slowly) -> Result<(), Failure> {
        let mut frames: SmallVec<[FrameRef<'_>; 8]> = messages(pipeline).collect();
        let fast = match slowly {
            Slowly::ByMessage => Ok(false),
            Slowly::Waits => self.fast(&frames).await,
            Slowly::Failed(failure) => Err(failure),
        };
        match fast {
            Ok(true) => return self.synced().await,
            Ok(false) => {}
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            Err(failure) => {
                self.report(&failure);
                frames.clear();
            }
        }
        self.batch.extend(frames.into_iter().map(FrameRef::to_frame));
        self.sync(true).await
    }

    /// Whether one shard may answer all that is left of a pipeline. `fresh`: nothing of it has been answered.
    fn may_be_fast(&self, fresh: bool) -> bool {
        let transaction = &self.executor.transaction;
        // The client is told of settings before ReadyForQuery, which a shard gives here with the rest.
        !transaction.failed
            && !self.executor.reports.is_pending()
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
            if !self.executor.synced {
                // A COPY has overread it: the pipeline goes on.
                return Ok(());
            }
        }
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
        self.settings_told();
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
        self.executor.synced = sync;
        while let Some((frame, later)) = rest.split_first() {
            // Nothing that may still fail has part in its transaction.
            let lone = sync && executes == 1 && later.iter().all(|later| later.tag() == tag::CLOSE);
            let eligible = sync && self.may_be_fast(fresh) && !(fresh && tried);
            // After one message by the slow way, only a new statement is worth another look.
            let result = if eligible && (fresh || frame.tag() == tag::PARSE || frame.tag() == tag::BIND) {
                self.executor.client.mark();
                let frames: Vec<FrameRef<'_>> = rest.iter().map(FrameRef::from).collect();
                match self.fast(&frames).await {
                    Ok(true) => return Ok(true),
                    Ok(false) => self.slow(rest, lone).await,
                    Err(failure) => Err(failure),
                }
            } else {
                self.slow(rest, lone).await
            };
            fresh = false;
            match result {
                Ok(()) => rest = later,
                Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
                Err(failure) => {
                    self.report(&failure);
                    self.skipping = !self.executor.synced;
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// The first message by itself. `lone`: it is all that is executed up to Sync, and nothing behind it can fail.
    async fn slow(&mut self, frames: &[Frame], lone: bool) -> Result<(), Failure> {
        let Some((frame, rest)) = frames.split_first() else { return Ok(()) };
        self.finish_after().await?;
        self.executor.behind = rest.first().map(Frame::tag);
        let done = match frame.tag() {
            tag::PARSE => self.parse(frame).await,
            tag::BIND => Box::pin(self.bind(frame, rest)).await,
            tag::EXECUTE => self.execute(frame, lone).await,
            tag::DESCRIBE => self.describe(frame).await,
            _ => Box::pin(self.close_named(frame)).await,
        };
        self.executor.behind = None;
        done
    }

    /// A shard says what is wrong with the text, if it is asked about it at all.
    async fn parse(&mut self, frame: &Frame) -> Result<(), Failure> {
        let parse = Parse::parse(frame.body()).map_err(PgError::from)?;
        if parse.statement.is_empty() {
            // Whatever becomes of this one.
            self.statements.remove("");
        }
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
            if !planned.plan.as_ref().is_ok_and(ends_transaction) {
                self.check_accepts(text, &planned).await?;
            }
            let plan = match &planned.plan {
                Ok(plan) => plan,
                Err(error) => {
                    return Err(refusal(&mut self.executor, error, &Arc::from(parse.query), &statement.types).await)
                }
            };
            if is_analysed(plan, text) {
                self.description(&statement).await?;
            }
        }
        if !parse.statement.is_empty() && self.statements.contains_key(parse.statement) {
            let message = format!("prepared statement \"{}\" already exists", parse.statement);
            return Err(PgError::new(SqlState::DUPLICATE_PREPARED_STATEMENT, message).into());
        }
        self.statements.insert(parse.statement.to_owned(), statement);
        backend::parse_complete(self.executor.client.out());
        Ok(())
    }

    /// A failed transaction accepts nothing but its end: PostgreSQL reads a statement before it says so, and looks nothing up.
    pub(super) async fn check_accepts(&mut self, text: &str, planned: &Planned) -> Result<(), Failure> {
        let Err(failed) = check_not_failed(&self.executor) else { return Ok(()) };
        match &planned.plan {
            Err(error) if error.code == SqlState::SYNTAX_ERROR => return Err(Failure::Error(error.clone())),
            Ok(Plan::Query(_) | Plan::AtCursor(_) | Plan::Session(_) | Plan::Admin(_)) => return Err(failed),
            _ => {}
        }
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        match syntax_error(&self.executor, &view, text).await? {
            Some(error) => Err(Failure::Server(error)),
            None => Err(failed),
        }
    }

    /// What no shard is asked about in this place.
    pub(super) async fn check_bind(&mut self, bind: &Bind<'_>, statement: &Arc<Statement>) -> Result<(), Failure> {
        let formats = bind.result_formats.len();
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let planned = match statement.sql.is_empty() {
            true => None,
            false => Some(self.executor.plan(&statement.sql, &view)?),
        };
        let declared = match planned.as_ref().map(|planned| &planned.plan) {
            Some(Ok(Plan::Session(command))) => !matches!(command, SessionCommand::SetConfig { .. }),
            Some(Ok(Plan::Ddl(_) | Plan::Admin(_) | Plan::CopyIn(_) | Plan::CopyOut(_))) | None => true,
            _ => false,
        };
        if declared {
            // It has no parameters, but the client may have declared some.
            check_count(bind, statement.types.len())?;
        }
        let Some(planned) = planned.filter(|_| !self.executor.transaction.failed) else { return Ok(()) };
        let mut counts = matches!(
            &planned.plan,
            Ok(Plan::Query(_)
                | Plan::AtCursor(_)
                | Plan::Session(SessionCommand::SetConfig { .. })
                | Plan::ComputedKeys(_)
                | Plan::InsertSelect(_))
        );
        let empty = bind.parameters.is_empty() && statement.types.is_empty();
        counts |= !(declared || empty);
        if formats < 2 && !counts {
            return Ok(());
        }
        let description = self.description(statement).await?;
        if counts {
            check_count(bind, description.parameters.len())?;
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
    pub(super) fn ends_transaction(&self, statement: &Statement) -> bool {
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

    async fn describe(&mut self, frame: &Frame) -> Result<(), Failure> {
        let (target, name) = frontend::parse_target("Describe", frame.body()).map_err(PgError::from)?;
        match target {
            Target::Statement => {
                let before = self.statement_named(name)?;
                if self.executor.transaction.failed {
                    let description = self.description_after_error(&before, true)?;
                    description.encode_statement(self.executor.client.out());
                    return Ok(());
                }
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
                    check_not_failed(&self.executor)?;
                    let fields = merged.described(&vec![crate::wire::Format::Text; merged.columns()]);
                    backend::row_description(self.executor.client.out(), &fields);
                    return Ok(());
                }
                if let Some(shard) = self.portal_shard(name).filter(|_| !is_portal) {
                    let description = crate::exec::describe::cursor(&mut self.executor, shard, name).await?;
                    description.encode_as_it_is(self.executor.client.out());
                    return Ok(());
                }
                let portal = self.portal_named(name)?;
                let description = match self.executor.transaction.failed {
                    true => self.description_after_error(&portal.bound.statement, false)?,
                    false => self.description(&portal.bound.statement).await?,
                };
                let formats = portal.bound.parsed()?.map(|bind| bind.result_formats);
                description.encode_portal(self.executor.client.out(), formats);
            }
        }
        Ok(())
    }

    /// A failed transaction describes only what gives no rows.
    fn description_after_error(&self, statement: &Statement, parameters: bool) -> Result<Description, Failure> {
        let none = |parameters| Ok(Description { parameters, fields: None });
        if statement.sql.is_empty() {
            return none(statement.types.clone());
        }
        let view = self.executor.gateway.view.current();
        let planned = view.map(|view| self.executor.plan(&statement.sql, &view)).transpose()?;
        let rows = planned.as_ref().and_then(|planned| gives_rows(planned.plan.as_ref().ok()?));
        let session = planned.is_some_and(|planned| matches!(planned.plan, Ok(Plan::Session(_))));
        let known = statement.parameters.get().map(|known| known.to_vec());
        let types = match known {
            Some(known) => Some(known),
            None if session || !statement.sql.contains('$') => Some(statement.types.clone()),
            None => None,
        };
        match (rows, types) {
            (Some(false), _) if !parameters => none(Vec::new()),
            (Some(false), Some(types)) => none(types),
            _ => {
                check_not_failed(&self.executor)?;
                none(Vec::new())
            }
        }
    }

    async fn description(&mut self, statement: &Arc<Statement>) -> Result<Description, Failure> {
        if statement.sql.is_empty() {
            return Ok(Description::default());
        }
        if let Some(inner) = self.executed_statement(statement)? {
            return Box::pin(describe(&mut self.executor, &inner)).await;
        }
        match self.own_rows_read(&statement.sql)? {
            Some((read, true)) => return Box::pin(describe(&mut self.executor, &read)).await,
            Some(_) => return Ok(Description::default()),
            None => {}
        }
        let lent = self.lend_portal(&statement.sql)?;
        let described = Box::pin(describe(&mut self.executor, statement)).await;
        self.take_back(lent);
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

    /// A transaction ended: portals are gone.
    pub fn transaction_ended(&mut self, after: commit::AfterCommit) {
        self.portals.clear();
        self.after.push(after);
    }
}

/// Why a pipeline takes more than to be sent.
enum Slowly {
    /// For a connection, or a move.
    Waits,
    /// Not all of it is for one shard.
    ByMessage,
    Failed(Failure),
}

/// Without the Sync at their end.
fn messages(pipeline: &[u8]) -> impl Iterator<Item = FrameRef<'_>> {
    Frames(pipeline).filter(|frame| frame.tag() != tag::SYNC)
}

pub(super) fn check_count(bind: &Bind<'_>, needed: usize) -> Result<(), PgError> {
    let given = bind.parameters.len();
    if given == needed {
        return Ok(());
    }
    let name = bind.statement;
    let message =
        format!("bind message supplies {given} parameters, but prepared statement \"{name}\" requires {needed}");
    Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message))
}

/// Whether it gives rows, as far as that is known without a shard.
fn gives_rows(plan: &Plan) -> Option<bool> {
    match plan {
        Plan::Session(
            SessionCommand::Show { .. }
            | SessionCommand::Execute { .. }
            | SessionCommand::ExplainExecute { .. }
            | SessionCommand::SetConfig { .. }
            | SessionCommand::ListeningChannels { .. },
        )
        | Plan::Explain(_)
        | Plan::Admin(_) => Some(true),
        Plan::Query(query) => Some(query.returns_rows),
        Plan::AtCursor(write) => Some(write.query.returns_rows),
        Plan::Session(_) | Plan::Ddl(_) | Plan::CopyIn(_) | Plan::CopyOut(_) | Plan::Cursor(_) => Some(false),
        Plan::ComputedKeys(_) | Plan::InsertSelect(_) | Plan::Home(_) => None,
    }
}

/// Whether PostgreSQL looks up what a statement names when it is parsed, not when it is run.
fn is_analysed(plan: &Plan, text: &str) -> bool {
    let of_cursor = || cursors::command(text).is_some_and(|command| !matches!(command, CursorCommand::Declare { .. }));
    !matches!(plan, Plan::Session(_) | Plan::Admin(_)) && !of_cursor()
}

fn ends_transaction(plan: &Plan) -> bool {
    matches!(
        plan,
        Plan::Session(
            SessionCommand::Commit { .. } | SessionCommand::Rollback { .. } | SessionCommand::RollbackTo { .. }
        )
    )
}
