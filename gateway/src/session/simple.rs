//! Simple Query: one statement or several, the several in one implicit transaction.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::commands::LOCK_TABLE;
use super::query::{queue_whole, whole};
use super::Session;
use crate::exec::bound::{Bound, Statement};
use crate::exec::describe::refusal;
use crate::exec::dispatch::{self, Run};
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::forward::forward;
use crate::exec::gateway::Planned;
use crate::exec::hold::{admit, Admitted};
use crate::exec::place::Values;
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::exec::view::View;
use crate::plan::route::Parameter;
use crate::plan::types::{Access, Plan, Targets};
use crate::pool::connection::{ServerConnection, StatementId};
use crate::sql::lexer::{lex, Kind, Lexeme};
use crate::sql::lift::{lift, Lifted};
use crate::sql::parse::Text;
use crate::sql::split::split_lexemes;
use crate::wire::{backend, frontend, Format, Frame, FrameRef, PgError, SqlState};

impl Session {
    pub async fn simple_query(&mut self, frame: Frame) -> Result<(), Failure> {
        // A pipeline that lacks its Sync ends here.
        if !self.batch.is_empty() {
            Box::pin(self.run_batch(false, false)).await?;
            // It has failed: all is dropped up to Sync.
            if self.skipping {
                return Ok(());
            }
        }
        self.executor.cancel.reset();
        self.executor.repeated = false;
        self.executor.client.mark();
        self.statements.remove("");
        let dropped = match self.portals.contains_key("") {
            true => Box::pin(self.drop_portal("")).await,
            false => Ok(()),
        };
        let failed = match frontend::parse_query(frame.body()) {
            Ok(_) if dropped.is_err() => dropped.map(|()| Answered::WithoutReady),
            Ok(text) => self.texts(&frame, text).await,
            Err(error) => Err(PgError::from(error).into()),
        };
        match failed {
            Ok(Answered::WithReady) => {}
            Ok(Answered::WithoutReady) => match self.end_implicit().await {
                Ok(after) => {
                    self.after.push(after);
                    Box::pin(self.notify()).await?;
                    self.ready();
                }
                Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
                Err(failure) => {
                    self.report(&failure);
                    Box::pin(self.notify()).await?;
                    self.ready();
                }
            },
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            Err(failure) => {
                self.report(&failure);
                self.end_implicit().await?;
                Box::pin(self.notify()).await?;
                self.ready();
            }
        }
        self.settings_told();
        if !self.after.is_empty() {
            Box::pin(self.finish_after()).await?;
        }
        self.executor.leave();
        Ok(())
    }

    async fn texts(&mut self, frame: &Frame, text: &str) -> Result<Answered, Failure> {
        let lexemes = lex(text).map_err(|error| crate::plan::refuse::lexical_error(&error, text))?;
        let statements = split_lexemes(text, &lexemes);
        match statements.as_slice() {
            [] => {
                backend::empty_query_response(self.executor.client.out());
                Ok(Answered::WithoutReady)
            }
            [one] => {
                let lifted = lift_statement(text, one, &lexemes);
                drop(lexemes);
                self.one(frame, &text[one.clone()], lifted).await
            }
            several => {
                Box::pin(self.check_syntax(text, several)).await?;
                for (index, range) in several.iter().enumerate() {
                    self.executor.begin_implicit();
                    let last = index + 1 == several.len();
                    let outcome = Box::pin(self.one_of_several(&text[range.clone()], last)).await;
                    outcome.map_err(|failure| failure.moved(text[..range.start].chars().count()))?;
                }
                Ok(Answered::WithoutReady)
            }
        }
    }

    /// PostgreSQL reads a message to its end before it runs anything of it. What the planner does not know to be right, a shard
    /// looks at.
    async fn check_syntax(&mut self, text: &str, pieces: &[std::ops::Range<usize>]) -> Result<(), Failure> {
        let view = self.executor.enter()?;
        self.executor.slot.reads();
        let known = pieces.iter().all(|piece| {
            let planned = self.executor.plan(&text[piece.clone()], &view);
            planned.is_ok_and(|planned| {
                matches!(planned.plan, Ok(Plan::Query(_) | Plan::AtCursor(_) | Plan::Session(_) | Plan::Admin(_)))
            })
        });
        if known {
            return Ok(());
        }
        match crate::exec::describe::syntax_error(&self.executor, &view, text).await? {
            Some(error) => Err(Failure::Server(error)),
            None => Ok(()),
        }
    }

    async fn one(&mut self, frame: &Frame, text: &str, lifted: Option<Lifted<'_>>) -> Result<Answered, Failure> {
        Statistics::count(&self.executor.gateway.statistics.statements);
        // Since a fence was met.
        let mut fenced = None;
        self.executor.notifies = false;
        loop {
            // Also what is left open by a pipeline without its Sync ends here.
            let ends = self.executor.transaction.block == Block::Implicit;
            if ends || self.executor.transaction.failed && self.executor.transaction.block == Block::Explicit {
                Box::pin(self.statement(text, true)).await?;
                return Ok(Answered::WithoutReady);
            }
            let admitted = match &lifted {
                Some(lifted) => self.admit_lifted(lifted).await?,
                None => None,
            };
            let admitted = match admitted {
                Some(admitted) => Ok(admitted),
                None => admit(&mut self.executor, text, &[]).await,
            };
            let admitted = match admitted {
                Err(Failure::Error(error)) if error.code == SqlState::UNDEFINED_PARAMETER => {
                    return Err(at_parameter(*error, text).into());
                }
                Err(Failure::Error(error)) => {
                    let whole = frontend::parse_query(frame.body()).map_err(PgError::from)?;
                    return Err(Box::pin(refusal(&mut self.executor, &error, &Arc::from(whole), &[])).await);
                }
                admitted => admitted?,
            };
            let plan = admitted.planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
            let shard = match (plan, admitted.placement.single()) {
                (Plan::Query(query), Some(shard)) if filter::text(query, &admitted, shard, &query.sql)?.is_none() => {
                    shard
                }
                _ => {
                    Box::pin(self.statement(text, true)).await?;
                    return Ok(Answered::WithoutReady);
                }
            };
            let special = self.executor.listening.is_some()
                || dispatch::needs_transaction(&self.executor, &admitted)
                || admitted.access == Access::LockingRead && filter::share_arcs(&admitted).is_some();
            if special {
                Box::pin(self.statement(text, true)).await?;
                return Ok(Answered::WithoutReady);
            }
            // The whole message goes to one shard as it is.
            let mut write =
                |connection: &mut ServerConnection, _: &mut _| queue_whole(connection, FrameRef::from(frame));
            let alone = self.executor.transaction.statements == 0;
            let request = whole(shard, admitted.access, alone, &mut write);
            let outcome = forward(&mut self.executor, &admitted.view, request).await?;
            if outcome.kept_back {
                self.executor.client.rewind();
                let since = *fenced.get_or_insert_with(Instant::now);
                Box::pin(dispatch::again(&mut self.executor, &admitted, since)).await?;
                continue;
            }
            if outcome.lease_lost {
                self.executor.client.rewind();
                Box::pin(self.statement(text, true)).await?;
                return Ok(Answered::WithoutReady);
            }
            Statistics::count(&self.executor.gateway.statistics.single_shard);
            if admitted.placement.any {
                self.executor.last_shard = Some(shard);
            }
            self.executor.transaction.statements += u64::from(self.executor.transaction.is_open());
            return Ok(Answered::WithReady);
        }
    }

    /// By the plan of the text without its literals, which other texts of the same statement have left. Only for statements that
    /// their keys, or single tables, hold to one shard: there the plan decides nothing but the shard. Everything else, errors
    /// included, is said by the text's own plan.
    async fn admit_lifted(&mut self, lifted: &Lifted<'_>) -> Result<Option<Admitted>, Failure> {
        let Some(view) = self.executor.gateway.view.current() else { return Ok(None) };
        let Some((_, parameters)) = self.lifted_plan(lifted, &view) else { return Ok(None) };
        match admit(&mut self.executor, &lifted.text, &parameters).await {
            Ok(admitted) if admitted.placement.single().is_some() => Ok(Some(admitted)),
            Ok(_) => Ok(None),
            Err(Failure::Gone(error)) => Err(Failure::Gone(error)),
            // It has waited long enough.
            Err(failure) if matches!(failure.code(), "55P03" | "53300" | "57014") => Err(failure),
            Err(_) => Ok(None),
        }
    }

    /// Such a plan, and the values that it is admitted with. None: it is no plan of such a statement.
    pub(super) fn lifted_plan<'a>(&self, lifted: &'a Lifted<'_>, view: &View) -> Option<(Arc<Planned>, Values<'a>)> {
        let planned = self.executor.plan(&lifted.text, view).ok()?;
        let is_of_one = matches!(&planned.plan, Ok(Plan::Query(q))
            if matches!(q.targets, Targets::Keys(_) | Targets::Home) && !q.oid_columns);
        if !is_of_one || planned.pins {
            return None;
        }
        let text =
            |value: &'a Cow<'_, str>| Parameter { type_oid: 0, format: Format::Text, value: Some(value.as_bytes()) };
        Some((planned, lifted.values.iter().map(text).collect()))
    }

    async fn one_of_several(&mut self, text: &str, last: bool) -> Result<(), Failure> {
        Statistics::count(&self.executor.gateway.statistics.statements);
        self.executor.client.mark();
        self.statement(text, last).await
    }

    /// One statement of a simple query, its answer shown but for ReadyForQuery. `last`: an implicit transaction ends before
    /// the command tag is shown.
    pub async fn statement(&mut self, text: &str, last: bool) -> Result<(), Failure> {
        Box::pin(self.finish_after()).await?;
        let view = self.executor.enter()?;
        let planned = self.executor.plan(text, &view)?;
        let plan = match &planned.plan {
            Ok(plan) => plan,
            Err(error) => {
                self.check_accepts(text, &planned).await?;
                return Err(refusal(&mut self.executor, error, &planned.sql, &[]).await);
            }
        };
        if let Plan::Session(command) = plan {
            self.executor.slot.reads();
            return Box::pin(self.command(command, &[], Some(text))).await;
        }
        self.check_accepts(text, &planned).await?;
        if self.executor.transaction.block == Block::None && matches!(plan, Plan::Ddl(ddl) if ddl.locks()) {
            self.in_block(LOCK_TABLE)?;
        }
        let bound = Bound {
            statement: Arc::new(Statement::new(Arc::clone(&planned.sql), Vec::new(), StatementId(0))),
            bind: None,
        };
        let run = Run { bound: &bound, describe: true, rows_max: 0, portal: "" };
        let completed = Box::pin(self.run_statement(run, None)).await?;
        if last {
            let after = self.end_implicit().await?;
            self.after.push(after);
        }
        match &completed.tag {
            Some(tag) => backend::command_complete(self.executor.client.out(), tag),
            None => backend::empty_query_response(self.executor.client.out()),
        }
        Ok(())
    }
}

/// The one statement of a text without its literals.
pub(super) fn lift_statement<'a>(text: &'a str, statement: &Range<usize>, lexemes: &[Lexeme]) -> Option<Lifted<'a>> {
    let inside = |lexeme: &&Lexeme| lexeme.start >= statement.start && lexeme.end <= statement.end;
    let first = lexemes.iter().position(|lexeme| inside(&lexeme))?;
    let count = lexemes[first..].iter().take_while(inside).count();
    lift(text, &lexemes[first..first + count])
}

/// A simple query has no parameters: the first one is where it is wrong.
fn at_parameter(error: PgError, text: &str) -> PgError {
    let parameter = Text::new(text).ok().and_then(|text| {
        text.lexemes.iter().find(|lexeme| matches!(lexeme.kind, Kind::Parameter(_))).map(|lexeme| lexeme.start)
    });
    match parameter.and_then(|start| u32::try_from(text[..start].chars().count() + 1).ok()) {
        Some(position) => error.position(position),
        None => error,
    }
}

enum Answered {
    WithReady,
    WithoutReady,
}
