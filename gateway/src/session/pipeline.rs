//! What a pipeline's messages are, and whether one shard can answer all of them as they are. Nothing is sent here.

use std::sync::Arc;

use ringway_topology::ids::ShardId;
use smallvec::SmallVec;

use super::Session;
use crate::exec::bound::Statement;
use crate::exec::dispatch;
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::hold::{try_admit, Admitted};
use crate::exec::place::values;
use crate::exec::pump::Expect;
use crate::exec::transaction::{Block, Transaction};
use crate::exec::type_oids::{parameters_are_plain, rows_may_have_oids};
use crate::plan::block::BlockCommand;
use crate::plan::types::{Access, Plan, TransactionModes};
use crate::pool::connection::StatementId;
use crate::wire::frontend::{self, Bind, Execute, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{FrameRef, Target};

/// What one message becomes.
pub(super) enum Step<'a> {
    Parse {
        frame: FrameRef<'a>,
        statement: Arc<Statement>,
        named: bool,
    },
    Bind {
        frame: FrameRef<'a>,
        statement: Arc<Statement>,
        named: bool,
    },
    DescribeStatement {
        frame: FrameRef<'a>,
        statement: Arc<Statement>,
        named: bool,
    },
    CloseStatement,
    /// A Parse that the gateway answers.
    Define,
    /// Other messages that it answers, with these bytes.
    Ready(&'static [u8]),
    /// Describe and Close of portals, Execute.
    Portal {
        frame: FrameRef<'a>,
        expect: fn() -> Expect,
    },
    /// An Execute whose rows may have OIDs in them: on a shard that is not the home shard they are described first.
    Learn {
        portal: String,
        statement: Arc<Statement>,
        catalog: u64,
    },
}

/// COMMIT of a block that the pipeline has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    No,
    Bound,
    Executed,
}

/// A portal that the pipeline binds.
pub(super) struct NewPortal<'a> {
    pub name: &'a str,
    pub statement: Arc<Statement>,
    pub frame: FrameRef<'a>,
    /// How many Binds come before its own.
    pub place: usize,
}

/// A statement's name, what it was before a step (from 0) of a pipeline, and the step.
pub(super) type Before = (String, Option<Arc<Statement>>, usize);

/// The pipeline, understood. One of a single statement is understood without allocating.
pub(super) struct Pipeline<'a> {
    pub steps: SmallVec<[Step<'a>; 4]>,
    pub shard: Option<ShardId>,
    pub access: Access,
    pub admitted: Option<Admitted>,
    pub any: bool,
    /// Statements as they were before this pipeline.
    pub before: Vec<Before>,
    pub portals: SmallVec<[NewPortal<'a>; 1]>,
    /// Portals that it closes.
    pub closed: SmallVec<[&'a str; 1]>,
    pub executes: u32,
    pub binds: usize,
    /// Some statement's rows may have OIDs in them.
    pub learns: bool,
    /// BEGIN, which the unnamed portal is.
    pub bound_begin: Option<&'static str>,
    /// It has begun the session's transaction block.
    pub begins: bool,
    /// By this statement.
    pub begun: Option<Arc<Statement>>,
    /// And ends it: nothing follows.
    pub commits: Commits,
}

impl Default for Pipeline<'_> {
    fn default() -> Self {
        Pipeline {
            steps: SmallVec::new(),
            shard: None,
            access: Access::Read,
            admitted: None,
            any: true,
            before: Vec::new(),
            portals: SmallVec::new(),
            closed: SmallVec::new(),
            executes: 0,
            binds: 0,
            learns: false,
            bound_begin: None,
            begins: false,
            begun: None,
            commits: Commits::No,
        }
    }
}

impl Pipeline<'_> {
    /// The statements that it sends to a shard.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.steps.iter().filter_map(|step| match step {
            Step::Parse { statement, .. }
            | Step::Bind { statement, .. }
            | Step::DescribeStatement { statement, .. } => Some(&**statement),
            _ => None,
        })
    }

    /// Whether COMMIT may go with the rest: the block is the pipeline's own, and no move may want its captured rows first.
    fn may_commit(&self) -> bool {
        let is_settled = |admitted: &Admitted| admitted.view.topology.moves.is_empty();
        self.begins && self.executes > 0 && self.admitted.as_ref().is_some_and(is_settled)
    }

    /// No shard is asked about any of it.
    pub fn is_local(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Define | Step::Ready(_)))
    }

    /// Met a COMMIT or ROLLBACK: by itself, its shard may answer it.
    fn end(&self) -> Fits<'static> {
        match self.steps.is_empty() {
            true => Fits::End,
            false => Fits::No,
        }
    }

    /// Statements that it executes, those that begin and end its block among them.
    pub fn statements_executed(&self) -> u64 {
        u64::from(self.executes) + u64::from(self.begins) + u64::from(self.commits == Commits::Executed)
    }

    /// The types that these declare.
    pub fn declared(&self) -> impl Iterator<Item = &[u32]> {
        self.statements().map(|statement| statement.types.as_slice())
    }
}

/// Whether one shard can answer a pipeline as it is.
pub(super) enum Fits<'a> {
    Yes,
    No,
    /// The statement of this Bind has to wait first.
    Later(FrameRef<'a>),
    /// It begins with a COMMIT or ROLLBACK.
    End,
}

const BIND_COMPLETE: &[u8] = &[b'2', 0, 0, 0, 4];
const NO_DATA: &[u8] = &[b'n', 0, 0, 0, 4];
/// ParameterDescription without parameters, and NoData.
const DESCRIBED: &[u8] = &[b't', 0, 0, 0, 6, 0, 0, b'n', 0, 0, 0, 4];
const BEGUN: &[u8] = b"C\0\0\0\x0aBEGIN\0";
const STARTED: &[u8] = b"C\0\0\0\x16START TRANSACTION\0";

impl Session {
    /// Unless it fits, or may do so later, the session's statements are as they were.
    pub(super) fn understand<'a>(
        &mut self,
        frames: impl Iterator<Item = FrameRef<'a>>,
        pipeline: &mut Pipeline<'a>,
    ) -> Result<Fits<'a>, Failure> {
        let mut fits = self.understand_each(frames, pipeline);
        if matches!(fits, Ok(Fits::Yes)) && self.asks_only(pipeline) {
            fits = Ok(Fits::No);
        }
        match fits {
            // One that is executed no more could be.
            Ok(Fits::Yes) if pipeline.commits == Commits::Bound || pipeline.bound_begin.is_some() => {
                self.undo(pipeline);
                Ok(Fits::No)
            }
            Ok(Fits::No | Fits::End) => {
                self.undo(pipeline);
                fits
            }
            // What is wrong is said in its place.
            Err(Failure::Error(_) | Failure::Server(_)) if pipeline.begins => {
                self.undo(pipeline);
                Ok(Fits::No)
            }
            Err(_) => {
                self.undo(pipeline);
                fits
            }
            fits => fits,
        }
    }

    fn understand_each<'a>(
        &mut self,
        frames: impl Iterator<Item = FrameRef<'a>>,
        pipeline: &mut Pipeline<'a>,
    ) -> Result<Fits<'a>, Failure> {
        for frame in frames {
            let is_bound = pipeline.bound_begin.is_some() || pipeline.commits == Commits::Bound;
            if pipeline.commits == Commits::Executed || is_bound && !matches!(frame.tag(), tag::DESCRIBE | tag::EXECUTE)
            {
                return Ok(Fits::No);
            }
            let fits = match frame.tag() {
                tag::PARSE => match self.understand_parse(frame, pipeline)? {
                    Fits::Yes => true,
                    other => return Ok(other),
                },
                tag::BIND => match self.understand_bind(frame, pipeline)? {
                    Fits::Yes => true,
                    other => return Ok(other),
                },
                tag::EXECUTE => {
                    let Ok(execute) = Execute::parse(frame.body()) else { return Ok(Fits::No) };
                    if is_bound {
                        if !execute.portal.is_empty() {
                            return Ok(Fits::No);
                        }
                        self.execute_block(frame, pipeline);
                        continue;
                    }
                    pipeline.executes += 1;
                    self.learn(execute.portal, pipeline);
                    self.understand_portal(frame, execute.portal, || Expect::Execute, pipeline)
                }
                tag::DESCRIBE | tag::CLOSE => {
                    let Ok((target, name)) = frontend::parse_target("Describe", frame.body()) else {
                        return Ok(Fits::No);
                    };
                    match (target, frame.tag()) {
                        (Target::Statement, tag::CLOSE) => {
                            let known = self.statements.remove(name);
                            pipeline.before.push((name.to_owned(), known, pipeline.steps.len()));
                            pipeline.steps.push(Step::CloseStatement);
                            true
                        }
                        (Target::Statement, _) => {
                            let Some(statement) = self.statements.get(name).cloned() else { return Ok(Fits::No) };
                            if let Some(BlockCommand::Begin { .. }) = statement.block {
                                pipeline.steps.push(Step::Ready(DESCRIBED));
                                continue;
                            }
                            let own_oids = self.executor.only_shard.is_some();
                            if !self.is_query(&statement)? || statement.own_oids != own_oids {
                                return Ok(Fits::No);
                            }
                            let named = !name.is_empty();
                            pipeline.steps.push(Step::DescribeStatement { frame, statement, named });
                            true
                        }
                        (Target::Portal, tag::CLOSE) => {
                            let fits = self.understand_portal(
                                frame,
                                name,
                                || Expect::Close { show: true, statement: None },
                                pipeline,
                            );
                            pipeline.portals.retain(|portal| portal.name != name);
                            pipeline.closed.push(name);
                            fits
                        }
                        (Target::Portal, _) if name.is_empty() && pipeline.bound_begin.is_some() => {
                            pipeline.steps.push(Step::Ready(NO_DATA));
                            true
                        }
                        (Target::Portal, _) => self.understand_portal(frame, name, || Expect::Describe, pipeline),
                    }
                }
                _ => false,
            };
            if !fits {
                return Ok(Fits::No);
            }
        }
        Ok(Fits::Yes)
    }

    fn understand_parse<'a>(&mut self, frame: FrameRef<'a>, pipeline: &mut Pipeline<'a>) -> Result<Fits<'a>, Failure> {
        let Ok(parse) = Parse::parse(frame.body()) else { return Ok(Fits::No) };
        let block = BlockCommand::of(parse.query);
        let ends = match block {
            Some(BlockCommand::Commit) => !pipeline.may_commit(),
            Some(BlockCommand::RollBack) => true,
            _ => false,
        };
        if ends {
            return Ok(pipeline.end());
        }
        let named = !parse.statement.is_empty();
        let known = self.statements.get(parse.statement).cloned();
        let limit = self.executor.gateway.config.limits.client_statements_max;
        if named && (known.is_some() || self.statements.len() >= limit) {
            return Ok(Fits::No);
        }
        let types: Vec<u32> = parse.type_oids().collect();
        // The same text again: nothing to look up.
        let statement = match known.as_ref().filter(|known| *known.sql == *parse.query && known.types == types) {
            Some(known) => Arc::clone(known),
            None => {
                let sql: Arc<str> = Arc::from(parse.query);
                Arc::new(self.executor.statement(sql, types))
            }
        };
        if block.is_some() && !statement.types.is_empty() || block.is_none() && !self.is_query(&statement)? {
            return Ok(Fits::No);
        }
        pipeline.before.push((parse.statement.to_owned(), known, pipeline.steps.len()));
        self.statements.insert(parse.statement.to_owned(), Arc::clone(&statement));
        pipeline.steps.push(match block {
            Some(BlockCommand::Begin { .. }) => Step::Define,
            _ => Step::Parse { frame, statement, named },
        });
        Ok(Fits::Yes)
    }

    /// Whether the statement's plan is one that shards can be asked about as it is.
    fn is_query(&self, statement: &Statement) -> Result<bool, Failure> {
        let Some(view) = self.executor.gateway.view.current() else { return Ok(false) };
        Ok(match self.executor.plan(&statement.sql, &view) {
            Ok(planned) => {
                let outdated = self.executor.is_outdated(statement, planned.catalog());
                matches!(planned.plan, Ok(Plan::Query(_))) && !outdated
            }
            Err(_) => false,
        })
    }

    fn understand_bind<'a>(&mut self, frame: FrameRef<'a>, pipeline: &mut Pipeline<'a>) -> Result<Fits<'a>, Failure> {
        let Ok(bind) = Bind::parse(frame.body()) else { return Ok(Fits::No) };
        let Some(statement) = self.statements.get(bind.statement).cloned() else { return Ok(Fits::No) };
        if let Some(command) = statement.block {
            return Ok(self.understand_block_bind(command, statement, &bind, frame, pipeline));
        }
        if !bind.portal.is_empty()
            && (self.portals.contains_key(bind.portal)
                || self.executor.has_cursor(bind.portal)
                || pipeline.portals.iter().any(|portal| portal.name == bind.portal))
        {
            return Ok(Fits::No);
        }
        let values = values(Some(&bind), &statement.types);
        let admitted = match try_admit(&mut self.executor, &statement.sql, &values) {
            Ok(Some(admitted)) => admitted,
            Ok(None) => return Ok(Fits::Later(frame)),
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            // Said again, in its place, by the slow way.
            Err(_) => return Ok(Fits::No),
        };
        let (Ok(Plan::Query(query)), Some(shard)) = (&admitted.planned.plan, admitted.placement.single()) else {
            return Ok(Fits::No);
        };
        // A shard would say what is wrong with the count by its own name of the statement.
        let miscounted = bind.parameters.len() != statement.types.len().max(admitted.planned.parameters);
        if miscounted || self.executor.is_outdated(&statement, admitted.planned.catalog()) {
            return Ok(Fits::No);
        }
        let chosen = match pipeline.shard {
            Some(chosen) if chosen == shard || admitted.placement.any => chosen,
            Some(_) if !pipeline.any => return Ok(Fits::No),
            _ => shard,
        };
        // The lease was looked at when the pipeline began. A read's answer is looked at again; a write may have been held since.
        let wants_transaction = match admitted.access {
            Access::Read => dispatch::wants_transaction(&admitted),
            _ => dispatch::needs_transaction(&self.executor, &admitted),
        };
        if filter::text(query, &admitted, shard, &query.sql)?.is_some()
            || query.oid_columns
            || wants_transaction
            || filter::share_arcs(&admitted).is_some()
        {
            return Ok(Fits::No);
        }
        let view = &admitted.view;
        if self.executor.is_foreign(view, chosen)
            && !parameters_are_plain(&self.executor, view, chosen, &statement, &bind)
        {
            return Ok(Fits::No);
        }
        pipeline.learns |= rows_may_have_oids(&statement, &bind, admitted.planned.catalog());
        // One epoch for all of it: the session counts as being in the last one.
        if pipeline.admitted.as_ref().is_some_and(|before| before.view.epoch() != admitted.view.epoch()) {
            return Ok(Fits::No);
        }
        pipeline.shard = Some(chosen);
        pipeline.any &= admitted.placement.any;
        if admitted.access != Access::Read {
            pipeline.access = admitted.access;
        }
        pipeline.admitted = Some(admitted);
        let named = !bind.statement.is_empty();
        pipeline.portals.retain(|portal| portal.name != bind.portal);
        let place = pipeline.binds;
        pipeline.binds += 1;
        pipeline.portals.push(NewPortal { name: bind.portal, statement: Arc::clone(&statement), frame, place });
        pipeline.steps.push(Step::Bind { frame, statement, named });
        Ok(Fits::Yes)
    }

    /// BEGIN as the first of all that is executed, COMMIT as the last.
    fn understand_block_bind<'a>(
        &self,
        command: BlockCommand,
        statement: Arc<Statement>,
        bind: &Bind<'a>,
        frame: FrameRef<'a>,
        pipeline: &mut Pipeline<'a>,
    ) -> Fits<'a> {
        let is_plain = bind.portal.is_empty()
            && bind.parameters.is_empty()
            && bind.result_formats.len() < 2
            && statement.types.is_empty();
        match command {
            BlockCommand::Begin { tag } if is_plain && pipeline.is_local() && self.may_begin() => {
                pipeline.bound_begin = Some(tag);
                pipeline.begun = Some(statement);
                pipeline.steps.push(Step::Ready(BIND_COMPLETE));
                Fits::Yes
            }
            BlockCommand::Commit if is_plain && pipeline.may_commit() => {
                let named = !bind.statement.is_empty();
                pipeline.commits = Commits::Bound;
                pipeline.portals.clear();
                let place = pipeline.binds;
                pipeline.binds += 1;
                pipeline.portals.push(NewPortal { name: "", statement: Arc::clone(&statement), frame, place });
                pipeline.steps.push(Step::Bind { frame, statement, named });
                Fits::Yes
            }
            BlockCommand::Commit | BlockCommand::RollBack => pipeline.end(),
            BlockCommand::Begin { .. } => Fits::No,
        }
    }

    fn execute_block<'a>(&mut self, frame: FrameRef<'a>, pipeline: &mut Pipeline<'a>) {
        let Some(tag) = pipeline.bound_begin.take() else {
            pipeline.commits = Commits::Executed;
            pipeline.steps.push(Step::Portal { frame, expect: || Expect::Commit });
            return;
        };
        self.begin(&TransactionModes::default());
        pipeline.begins = true;
        pipeline.steps.push(Step::Ready(if tag == "BEGIN" { BEGUN } else { STARTED }));
    }

    /// Before an Execute: rows that may have OIDs in them have to be described.
    fn learn(&self, portal: &str, pipeline: &mut Pipeline<'_>) {
        let new = pipeline.portals.iter().find(|new| new.name == portal);
        if new.is_some() && !pipeline.learns {
            return;
        }
        let known = match new {
            Some(new) => Some((&new.statement, Some(new.frame.body()))),
            None => self.portals.get(portal).map(|known| {
                let bind = known.bound.bind.as_ref().map(|frame| frame.body());
                (&known.bound.statement, bind)
            }),
        };
        let Some((statement, bind)) = known else {
            // A cursor of DECLARE, which may be BINARY.
            let statement = Arc::new(Statement::new(Arc::from(""), Vec::new(), StatementId(0)));
            pipeline.steps.push(Step::Learn { portal: portal.to_owned(), statement, catalog: 0 });
            return;
        };
        let Some(Ok(bind)) = bind.map(Bind::parse) else { return };
        let catalog = self.executor.gateway.catalog.load().as_ref().map_or(u64::MAX, |loaded| loaded.serial);
        if rows_may_have_oids(statement, &bind, catalog) {
            let statement = Arc::clone(statement);
            pipeline.steps.push(Step::Learn { portal: portal.to_owned(), statement, catalog });
        }
    }

    fn understand_portal<'a>(
        &mut self,
        frame: FrameRef<'a>,
        name: &str,
        expect: fn() -> Expect,
        pipeline: &mut Pipeline<'a>,
    ) -> bool {
        if !pipeline.portals.iter().any(|portal| portal.name == name) {
            let Some(shard) = self.portal_shard(name) else { return false };
            if pipeline.shard.is_some_and(|chosen| chosen != shard) && !pipeline.any {
                return false;
            }
            pipeline.shard = Some(shard);
            pipeline.any = false;
        }
        pipeline.steps.push(Step::Portal { frame, expect });
        true
    }

    /// Where a portal is that was bound before: the shard that has it, or, for a cursor that DECLARE or a function has made, the shard
    /// that has that.
    pub(super) fn portal_shard(&self, name: &str) -> Option<ShardId> {
        if let Some(portal) = self.portals.get(name) {
            return portal.forwarded_to();
        }
        if self.executor.merged_cursor(name).is_some() {
            return None;
        }
        if let Some(shard) = self.executor.cursor_shard(name) {
            return Some(shard);
        }
        if name.is_empty() || self.executor.transaction.block != Block::Explicit {
            return None;
        }
        let view = self.executor.gateway.view.current()?;
        let home = view.topology.home_shard()?;
        self.executor.transaction.participants.contains_key(&home).then_some(home)
    }

    /// What is only asked does not decide where a SERIALIZABLE transaction is.
    fn asks_only(&self, pipeline: &Pipeline<'_>) -> bool {
        let transaction = &self.executor.transaction;
        let is_nowhere = transaction.is_open() && transaction.participants.is_empty();
        pipeline.binds == 0 && !pipeline.is_local() && is_nowhere && self.executor.is_serializable()
    }

    /// As if nothing of the pipeline had been understood.
    pub(super) fn undo(&mut self, pipeline: &Pipeline<'_>) {
        self.undo_definitions(pipeline, 0);
        if pipeline.begins {
            self.executor.transaction = Transaction::default();
        }
    }

    /// Statements defined by steps from `first` on are as they were before.
    pub(super) fn undo_definitions(&mut self, pipeline: &Pipeline<'_>, first: usize) {
        self.restore_statements(&pipeline.before, first);
    }

    pub(super) fn restore_statements(&mut self, before: &[Before], first: usize) {
        for (name, before, step) in before.iter().rev() {
            if *step < first {
                continue;
            }
            match before {
                Some(statement) => self.statements.insert(name.clone(), Arc::clone(statement)),
                None => self.statements.remove(name),
            };
        }
    }
}
