//! BEGIN and COMMIT by themselves, as most transactions have them: answered at once, or by one shard's COMMIT. What is not plain about
//! them is left to [`super::commands`].

use std::sync::Arc;

use super::portals::Portal;
use super::Session;
use crate::config::pools::PoolMode;
use crate::exec::bound::{Bound, Statement};
use crate::exec::clients::Activity;
use crate::exec::failure::Failure;
use crate::exec::one_phase::OnePhase;
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::plan::block::BlockCommand;
use crate::plan::types::TransactionModes;
use crate::wire::frontend::{self, Bind, Execute, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{backend, Frame, FrameRef, Target};

/// Who gives the answer.
pub enum Answer {
    /// It has been given, ReadyForQuery included.
    Here,
    /// A shard's COMMIT, for [`Session::end_commit`].
    Commit(Box<OnePhase>),
}

/// The messages that execute one such command.
#[derive(Default)]
struct Messages<'a> {
    parsed: Option<(&'a str, Arc<Statement>)>,
    bound: Option<Arc<Statement>>,
    executed: bool,
}

impl Session {
    /// Answers messages up to Sync that execute one command of transaction blocks, or sends it. None: nothing has been done.
    pub(super) fn begin_block_command<'a>(&mut self, frames: impl Iterator<Item = FrameRef<'a>>) -> Option<Answer> {
        let mut messages = Messages::default();
        let understood = frames.into_iter().all(|frame| self.understand_message(frame, &mut messages).is_some());
        let bound = messages.bound.filter(|_| understood && messages.executed);
        let answer = bound.as_ref().and_then(|bound| self.begin_block(bound.block?));
        let (Some(answer), Some(statement)) = (answer, bound) else {
            self.executor.client.rewind();
            return None;
        };
        if let Some((name, statement)) = messages.parsed {
            self.statements.insert(name.to_owned(), statement);
        }
        if matches!(answer, Answer::Here) {
            // It stays known, and cannot be run again.
            let bound = Arc::new(Bound { statement, bind: None });
            self.portals.insert(String::new(), Portal { finished: true, ..Portal::new(bound, 0) });
            self.ready();
        }
        Some(answer)
    }

    /// The same of a simple query that is one such command.
    pub(super) fn begin_query(&mut self, frame: &Frame) -> Option<Answer> {
        let command = BlockCommand::of(frontend::parse_query(frame.body()).ok()?)?;
        if !self.batch.is_empty() || self.executor.transaction.failed || !self.after.is_empty() {
            return None;
        }
        self.executor.cancel.reset();
        self.executor.repeated = false;
        let answer = self.begin_block(command)?;
        self.statements.remove("");
        if matches!(answer, Answer::Here) {
            self.ready();
        }
        Some(answer)
    }

    /// Puts the message's answer into the output, but for the command tag.
    fn understand_message<'a>(&mut self, frame: FrameRef<'a>, messages: &mut Messages<'a>) -> Option<()> {
        if messages.executed {
            return None;
        }
        match frame.tag() {
            tag::PARSE if messages.parsed.is_none() && messages.bound.is_none() => {
                let parse = Parse::parse(frame.body()).ok()?;
                messages.parsed = Some((parse.statement, self.block_statement(&parse)?));
                backend::parse_complete(self.executor.client.out());
            }
            tag::BIND if messages.bound.is_none() => {
                let bind = Bind::parse(frame.body()).ok()?;
                let statement = self.known_block_statement(bind.statement, messages)?;
                let plain = bind.portal.is_empty() && bind.parameters.is_empty() && bind.result_formats.len() < 2;
                messages.bound = Some(statement).filter(|_| plain);
                messages.bound.as_ref()?;
                backend::bind_complete(self.executor.client.out());
            }
            tag::DESCRIBE => match frontend::parse_target("Describe", frame.body()).ok()? {
                (Target::Portal, "") => {
                    messages.bound.as_ref()?;
                    backend::no_data(self.executor.client.out());
                }
                (Target::Statement, name) => {
                    self.known_block_statement(name, messages)?;
                    backend::parameter_description(self.executor.client.out(), &[]);
                    backend::no_data(self.executor.client.out());
                }
                _ => return None,
            },
            tag::EXECUTE => {
                messages.bound.as_ref()?;
                messages.executed = Execute::parse(frame.body()).ok()?.portal.is_empty();
                messages.executed.then_some(())?;
            }
            _ => return None,
        }
        Some(())
    }

    fn block_statement(&mut self, parse: &Parse<'_>) -> Option<Arc<Statement>> {
        BlockCommand::of(parse.query)?;
        let known = self.statements.get(parse.statement);
        let limit = self.executor.gateway.config.limits.client_statements_max;
        let is_full = self.statements.len() >= limit;
        if parse.type_oids().next().is_some() || !parse.statement.is_empty() && known.is_some() || is_full {
            return None;
        }
        match known.filter(|known| *known.sql == *parse.query && known.types.is_empty()) {
            Some(known) => Some(Arc::clone(known)),
            None => Some(Arc::new(self.executor.statement(Arc::from(parse.query), Vec::new()))),
        }
    }

    /// Of the session, or of the Parse before.
    fn known_block_statement(&self, name: &str, messages: &Messages<'_>) -> Option<Arc<Statement>> {
        let parsed = messages.parsed.as_ref().filter(|(parsed, _)| *parsed == name).map(|(_, statement)| statement);
        let statement = parsed.or_else(|| self.statements.get(name))?;
        (statement.block.is_some() && statement.types.is_empty()).then(|| Arc::clone(statement))
    }

    fn begin_block(&mut self, command: BlockCommand) -> Option<Answer> {
        let answer = match command {
            BlockCommand::Begin { tag } => {
                let fresh = self.executor.transaction.block == Block::None && self.portals.is_empty();
                // Who listens is told of notifications before a transaction, and a guarded session of its gateway's view.
                if !fresh || self.executor.mode == PoolMode::Statement || !self.is_for_shards() {
                    return None;
                }
                self.begin(&TransactionModes::default());
                backend::command_complete(self.executor.client.out(), tag);
                Answer::Here
            }
            BlockCommand::Commit => Answer::Commit(Box::new(self.executor.try_commit()?)),
        };
        self.executor.entry.set(Activity::Active);
        Statistics::count(&self.executor.gateway.statistics.statements);
        Some(answer)
    }

    /// The end of a transaction whose COMMIT is on its way: the rest of its answer, ReadyForQuery included.
    pub(super) async fn end_commit(&mut self, sent: Box<OnePhase>) -> Result<(), Failure> {
        let committed = sent.end(&mut self.executor).await;
        self.portals.clear();
        match committed {
            Ok(()) => {}
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            Err(failure) => self.report(&failure),
        }
        self.ready();
        self.executor.leave();
        Ok(())
    }
}
