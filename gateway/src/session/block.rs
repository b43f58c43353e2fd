//! BEGIN, COMMIT and ROLLBACK by themselves, as most transactions have them: answered at once, or by one shard. What is not plain about
//! them is left to [`super::commands`].

use std::sync::Arc;

use super::Session;
use crate::config::pools::PoolMode;
use crate::exec::bound::Statement;
use crate::exec::clients::Activity;
use crate::exec::failure::Failure;
use crate::exec::one_phase::{Ending, OnePhase};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::plan::block::BlockCommand;
use crate::plan::types::TransactionModes;
use crate::wire::frontend::{self, Bind, Execute, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{backend, FrameRef, Target};

/// The command tag, whatever the verb.
pub(super) const COMMITTED: &str = "COMMIT";

/// Who answers a simple query.
pub enum Answer {
    /// It has been answered, ReadyForQuery included.
    Here,
    /// A shard's COMMIT or ROLLBACK, for [`Session::end_alone`].
    End(Box<OnePhase>),
}

/// The messages that execute COMMIT or ROLLBACK.
#[derive(Default)]
struct Messages<'a> {
    parsed: Option<(&'a str, Arc<Statement>)>,
    /// What is bound.
    bound: Option<Ending>,
    is_executed: bool,
}

/// What a command does to the block that it ends.
fn ending(command: BlockCommand) -> Option<Ending> {
    match command {
        BlockCommand::Begin { .. } => None,
        BlockCommand::Commit => Some(Ending::Commit),
        BlockCommand::RollBack => Some(Ending::RollBack),
    }
}

impl Session {
    /// Sends COMMIT or ROLLBACK, if these messages up to Sync do nothing but execute it. None: nothing has been done.
    pub(super) fn begin_end<'a>(&mut self, mut frames: impl Iterator<Item = FrameRef<'a>>) -> Option<Box<OnePhase>> {
        let mut messages = Messages::default();
        let understood = frames.all(|frame| self.understand_end(frame, &mut messages).is_some());
        let executed = messages.bound.filter(|_| understood && messages.is_executed);
        let sent = executed.and_then(|ending| self.send_end(ending));
        match (&sent, messages.parsed) {
            (Some(_), Some((name, statement))) => {
                self.statements.insert(name.to_owned(), statement);
            }
            (Some(_), None) => {}
            (None, _) => self.executor.client.rewind(),
        }
        sent
    }

    /// A simple query that is BEGIN, COMMIT or ROLLBACK. None: nothing has been done.
    pub(super) fn begin_block_query(&mut self, frame: FrameRef<'_>) -> Option<Answer> {
        let command = BlockCommand::of(frontend::parse_query(frame.body()).ok()?)?;
        let has_failed = self.executor.transaction.failed && command != BlockCommand::RollBack;
        if has_failed || !self.after.is_empty() {
            return None;
        }
        self.executor.cancel.reset();
        self.executor.repeated = false;
        if let Some(ending) = ending(command) {
            let sent = self.send_end(ending)?;
            self.statements.remove("");
            return Some(Answer::End(sent));
        }
        let BlockCommand::Begin { tag } = command else { return None };
        // Who listens is told of notifications before a transaction, and a guarded session asks its shards.
        if !self.may_begin() || !self.is_for_shards() {
            return None;
        }
        self.statements.remove("");
        self.begin(&TransactionModes::default());
        self.executor.entry.set(Activity::Active);
        Statistics::count(&self.executor.gateway.statistics.statements);
        backend::command_complete(self.executor.client.out(), tag);
        self.ready();
        Some(Answer::Here)
    }

    /// Whether a transaction block without modes begins with BEGIN, and nothing else is to be said about it.
    pub(super) fn may_begin(&self) -> bool {
        self.executor.transaction.block == Block::None
            && self.portals.is_empty()
            && self.executor.mode != PoolMode::Statement
    }

    /// Puts the message's answer into the output, but for the command tag.
    fn understand_end<'a>(&mut self, frame: FrameRef<'a>, messages: &mut Messages<'a>) -> Option<()> {
        if messages.is_executed {
            return None;
        }
        let known = |session: &Session, name: &str, messages: &Messages<'_>| {
            let parsed = messages.parsed.as_ref().filter(|(parsed, _)| *parsed == name).map(|(_, statement)| statement);
            let statement = parsed.or_else(|| session.statements.get(name))?;
            statement.block.and_then(ending).filter(|_| statement.types.is_empty())
        };
        match frame.tag() {
            tag::PARSE if messages.parsed.is_none() && messages.bound.is_none() => {
                let parse = Parse::parse(frame.body()).ok()?;
                messages.parsed = Some((parse.statement, self.end_statement(&parse)?));
                backend::parse_complete(self.executor.client.out());
            }
            tag::BIND if messages.bound.is_none() => {
                let bind = Bind::parse(frame.body()).ok()?;
                let ending = known(self, bind.statement, messages)?;
                let is_plain = bind.portal.is_empty() && bind.parameters.is_empty() && bind.result_formats.len() < 2;
                messages.bound = Some(is_plain.then_some(ending)?);
                backend::bind_complete(self.executor.client.out());
            }
            tag::DESCRIBE => match frontend::parse_target("Describe", frame.body()).ok()? {
                (Target::Portal, "") if messages.bound.is_some() => backend::no_data(self.executor.client.out()),
                (Target::Statement, name) => {
                    known(self, name, messages)?;
                    backend::parameter_description(self.executor.client.out(), &[]);
                    backend::no_data(self.executor.client.out());
                }
                _ => return None,
            },
            tag::EXECUTE if messages.bound.is_some() => {
                messages.is_executed = Execute::parse(frame.body()).ok()?.portal.is_empty();
                messages.is_executed.then_some(())?;
            }
            _ => return None,
        }
        Some(())
    }

    fn end_statement(&mut self, parse: &Parse<'_>) -> Option<Arc<Statement>> {
        let is_end = BlockCommand::of(parse.query).and_then(ending).is_some();
        let known = self.statements.get(parse.statement);
        let is_full = self.statements.len() >= self.executor.gateway.config.limits.client_statements_max;
        let is_taken = !parse.statement.is_empty() && known.is_some();
        if !is_end || parse.type_oids().next().is_some() || is_taken || is_full {
            return None;
        }
        match known.filter(|known| *known.sql == *parse.query && known.types.is_empty()) {
            Some(known) => Some(Arc::clone(known)),
            None => Some(Arc::new(self.executor.statement(Arc::from(parse.query), Vec::new()))),
        }
    }

    fn send_end(&mut self, ending: Ending) -> Option<Box<OnePhase>> {
        let sent = Box::new(self.executor.try_end(ending)?);
        Statistics::count(&self.executor.gateway.statistics.statements);
        Some(sent)
    }

    /// The end of a transaction whose COMMIT or ROLLBACK is on its way: the rest of its answer, ReadyForQuery included.
    pub(super) async fn end_alone(&mut self, sent: Box<OnePhase>) -> Result<(), Failure> {
        let tag = sent.ending.sql();
        let ended = sent.end(&mut self.executor).await;
        self.portals.clear();
        match ended {
            Ok(()) => backend::command_complete(self.executor.client.out(), tag),
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            Err(failure) => self.report(&failure),
        }
        self.ready();
        self.executor.leave();
        Ok(())
    }
}
