//! A pipeline that one shard can answer: sent in one write, answered byte for byte. Only statement names are rewritten.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use ringway_topology::ids::ShardId;
use smallvec::SmallVec;

use super::portals::Portal;
use super::Session;
use crate::exec::bound::{
    ensure_prepared, queue_close_statement, queue_learn, queue_parse, queue_told, Bound, Statement,
};
use crate::exec::dispatch;
use crate::exec::executor::Lent;
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::forward::{Exchange, Request};
use crate::exec::hold::{admit, try_admit, Admitted};
use crate::exec::place::values;
use crate::exec::pump::{Expect, Outcome, Show};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::exec::type_oids::{are_built_in, know_types, learn_own, parameters_are_plain, rows_may_have_oids};
use crate::exec::view::View;
use crate::plan::types::{Access, Plan};
use crate::pool::connection::{ServerConnection, StatementId};
use crate::wire::frontend::{self, Bind, Execute, Parse};
use crate::wire::tag::client as tag;
use crate::wire::{FrameRef, PgError, SqlState, Target};

/// What one message becomes.
enum Step<'a> {
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

/// A portal that the pipeline binds.
struct NewPortal<'a> {
    name: &'a str,
    statement: Arc<Statement>,
    frame: FrameRef<'a>,
    /// How many Binds come before its own.
    place: usize,
}

/// The pipeline, understood. One of a single statement is understood without allocating.
struct Pipeline<'a> {
    steps: SmallVec<[Step<'a>; 4]>,
    shard: Option<ShardId>,
    access: Access,
    admitted: Option<Admitted>,
    any: bool,
    /// Statements as they were before this pipeline.
    before: Vec<(String, Option<Arc<Statement>>, usize)>,
    portals: SmallVec<[NewPortal<'a>; 1]>,
    /// Portals that it closes.
    closed: SmallVec<[&'a str; 1]>,
    executes: u32,
    binds: usize,
    /// Some statement's rows may have OIDs in them.
    learns: bool,
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
        }
    }
}

impl Pipeline<'_> {
    /// The statements that it sends to a shard.
    fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.steps.iter().filter_map(|step| match step {
            Step::Parse { statement, .. }
            | Step::Bind { statement, .. }
            | Step::DescribeStatement { statement, .. } => Some(&**statement),
            _ => None,
        })
    }

    /// The types that these declare.
    fn declared(&self) -> impl Iterator<Item = &[u32]> {
        self.statements().map(|statement| statement.types.as_slice())
    }
}

/// Whether one shard can answer a pipeline as it is.
enum Fits<'a> {
    Yes,
    No,
    /// The statement of this Bind has to wait first.
    Later(FrameRef<'a>),
}

/// A pipeline that is on its way.
pub struct Flight<'a> {
    pipeline: Pipeline<'a>,
    view: Arc<View>,
    shard: ShardId,
    sent: Sent,
    lent: Lent,
    exchange: Exchange,
}

/// What of a pipeline gets an answer.
#[derive(Default)]
struct Sent {
    answers: usize,
    /// Of steps that define statements: the step, the place of its answer, and whether the shard gives it.
    definitions: SmallVec<[(usize, usize, bool); 2]>,
}

pub enum Begun<'a> {
    Sent(Box<Flight<'a>>),
    /// Something has to be waited for: [`Session::fast`] does.
    Waits,
    /// Not all of it is for one shard.
    No,
}

impl Session {
    /// Sends a pipeline, if nothing has to be waited for.
    pub fn begin_fast<'a>(&mut self, frames: impl Iterator<Item = FrameRef<'a>>) -> Result<Begun<'a>, Failure> {
        if !self.is_for_shards() {
            return Ok(Begun::No);
        }
        let mut pipeline = Pipeline::default();
        self.executor.notifies = false;
        match self.understand(frames, &mut pipeline)? {
            // A Sync alone is answered by the gateway.
            Fits::Yes if pipeline.steps.is_empty() => return Ok(Begun::No),
            Fits::Yes => {}
            Fits::Later(_) => {
                self.undo_definitions(&pipeline, 0);
                return Ok(Begun::Waits);
            }
            Fits::No => return Ok(Begun::No),
        }
        let (view, shard) = self.destination(&pipeline).inspect_err(|_| self.undo_definitions(&pipeline, 0))?;
        let wrote = pipeline.access != Access::Read;
        let lent = match pipeline.declared().all(are_built_in) && !self.executor.transaction.has_new_oids {
            true => self.executor.try_lend(&view, shard, wrote),
            false => None,
        };
        let Some(mut lent) = lent else {
            self.undo_definitions(&pipeline, 0);
            return Ok(Begun::Waits);
        };
        let (exchange, sent) = self.transmit(&pipeline, shard, &mut lent);
        Ok(Begun::Sent(Box::new(Flight { pipeline, view, shard, sent, lent, exchange })))
    }

    /// The answer of what [`Self::begin_fast`] has sent, ReadyForQuery included. False: nothing has been answered, and it may be said
    /// again.
    pub async fn end_fast(&mut self, mut flight: Box<Flight<'_>>) -> Result<bool, Failure> {
        let plain = poll_fn(|context| {
            let Flight { lent, exchange, .. } = &mut *flight;
            exchange.poll_answer(lent, &mut self.executor, context)
        });
        let plain = plain.await;
        if !matches!(plain, Ok(true)) {
            return Box::pin(self.end_slowly(flight, plain)).await;
        }
        if let Some(connection) = flight.exchange.try_end(flight.lent, &mut self.executor) {
            Box::pin(self.executor.release(connection)).await;
        }
        if flight.exchange.outcome.kept_back {
            Box::pin(self.again(&flight.pipeline, &flight.exchange.outcome, &mut None)).await?;
            return Ok(false);
        }
        self.conclude(&mut flight.pipeline, flight.shard, &flight.sent, &flight.exchange.outcome);
        Ok(true)
    }

    async fn end_slowly(&mut self, flight: Box<Flight<'_>>, plain: Result<bool, Failure>) -> Result<bool, Failure> {
        let Flight { mut pipeline, view, shard, sent, mut lent, mut exchange } = *flight;
        let done = match plain {
            Ok(_) => exchange.answer(&mut lent, &mut self.executor, &view).await,
            Err(failure) => Err(failure),
        };
        let ended = exchange.end(lent, &mut self.executor, done).await;
        self.concluded(&mut pipeline, shard, &sent, ended, &mut None).await
    }

    /// True: the whole rest of the pipeline has been answered, ReadyForQuery included.
    pub async fn fast(&mut self, frames: &[FrameRef<'_>]) -> Result<bool, Failure> {
        // Since a fence was met.
        let mut fenced = None;
        self.executor.notifies = false;
        while self.is_for_shards() {
            let mut pipeline = Pipeline::default();
            match self.understand(frames.iter().copied(), &mut pipeline)? {
                Fits::Yes if pipeline.steps.is_empty() => return Ok(false),
                Fits::Yes => {}
                Fits::No => return Ok(false),
                Fits::Later(frame) => {
                    let admitted = self.admitted(frame).await;
                    self.undo_definitions(&pipeline, 0);
                    match admitted? {
                        true => continue,
                        false => return Ok(false),
                    }
                }
            }
            if self.send(&mut pipeline, &mut fenced).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who listens is told of notifications before ReadyForQuery, which a shard gives here with the rest.
    fn is_for_shards(&self) -> bool {
        !self.executor.is_guarded() && self.executor.listening.is_none()
    }

    /// Waits until a Bind's statement may run. False: it is wrong; it is said again, in its place, by the slow way.
    async fn admitted(&mut self, frame: FrameRef<'_>) -> Result<bool, Failure> {
        let Ok(bind) = Bind::parse(frame.body()) else { return Ok(false) };
        let Some(statement) = self.statements.get(bind.statement).cloned() else { return Ok(false) };
        match admit(&mut self.executor, &statement.sql, &values(Some(&bind), &statement.types)).await {
            Ok(_) => Ok(true),
            // It has waited long enough.
            Err(failure)
                if matches!(failure, Failure::Gone(_)) || matches!(failure.code(), "55P03" | "53300" | "57014") =>
            {
                Err(failure)
            }
            Err(_) => Ok(false),
        }
    }

    /// Unless it fits, or may do so later, the session's statements are as they were.
    fn understand<'a>(
        &mut self,
        frames: impl Iterator<Item = FrameRef<'a>>,
        pipeline: &mut Pipeline<'a>,
    ) -> Result<Fits<'a>, Failure> {
        let mut fits = self.understand_each(frames, pipeline);
        let transaction = &self.executor.transaction;
        if pipeline.binds == 0 && transaction.is_open() && transaction.participants.is_empty() {
            // What is only asked does not decide where a SERIALIZABLE transaction is.
            if matches!(fits, Ok(Fits::Yes)) && self.executor.is_serializable() {
                fits = Ok(Fits::No);
            }
        }
        if matches!(fits, Ok(Fits::No) | Err(_)) {
            self.undo_definitions(pipeline, 0);
        }
        fits
    }

    fn understand_each<'a>(
        &mut self,
        frames: impl Iterator<Item = FrameRef<'a>>,
        pipeline: &mut Pipeline<'a>,
    ) -> Result<Fits<'a>, Failure> {
        for frame in frames {
            let fits = match frame.tag() {
                tag::PARSE => self.understand_parse(frame, pipeline)?,
                tag::BIND => match self.understand_bind(frame, pipeline)? {
                    Fits::Yes => true,
                    other => return Ok(other),
                },
                tag::EXECUTE => {
                    let Ok(execute) = Execute::parse(frame.body()) else { return Ok(Fits::No) };
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

    fn understand_parse<'a>(&mut self, frame: FrameRef<'a>, pipeline: &mut Pipeline<'a>) -> Result<bool, Failure> {
        let Ok(parse) = Parse::parse(frame.body()) else { return Ok(false) };
        let named = !parse.statement.is_empty();
        let known = self.statements.get(parse.statement).cloned();
        let limit = self.executor.gateway.config.limits.client_statements_max;
        if named && (known.is_some() || self.statements.len() >= limit) {
            return Ok(false);
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
        if !self.is_query(&statement)? {
            return Ok(false);
        }
        pipeline.before.push((parse.statement.to_owned(), known, pipeline.steps.len()));
        self.statements.insert(parse.statement.to_owned(), Arc::clone(&statement));
        pipeline.steps.push(Step::Parse { frame, statement, named });
        Ok(true)
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

    /// The topology that the pipeline goes by, and its shard.
    fn destination(&mut self, pipeline: &Pipeline<'_>) -> Result<(Arc<View>, ShardId), Failure> {
        let view = match &pipeline.admitted {
            Some(admitted) => Arc::clone(&admitted.view),
            None => {
                let view = self.executor.enter()?;
                self.executor.slot.reads();
                view
            }
        };
        if let Some(shard) = pipeline.shard {
            return Ok((view, shard));
        }
        let open = self.executor.transaction.participants.keys().next().copied();
        let prefer = self.executor.only_shard.or(open).or(self.executor.last_shard);
        let member = |id: &ShardId| view.topology.members().any(|shard| shard.id == *id);
        let Some(shard) = prefer.filter(member).or_else(|| view.topology.home_shard()) else {
            return Err(PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet").into());
        };
        Ok((view, shard))
    }

    /// False: the pipeline has to be understood again (a fence was met; nothing has been shown).
    async fn send(&mut self, pipeline: &mut Pipeline<'_>, fenced: &mut Option<Instant>) -> Result<bool, Failure> {
        let (view, shard) = self.destination(pipeline).inspect_err(|_| self.undo_definitions(pipeline, 0))?;
        let lent = self.lend_for(pipeline, &view, shard).await;
        let mut lent = lent.inspect_err(|_| self.undo_definitions(pipeline, 0))?;
        let (mut exchange, sent) = self.transmit(pipeline, shard, &mut lent);
        let done = exchange.answer(&mut lent, &mut self.executor, &view).await;
        let ended = exchange.end(lent, &mut self.executor, done).await;
        self.concluded(pipeline, shard, &sent, ended, fenced).await
    }

    async fn lend_for(&mut self, pipeline: &Pipeline<'_>, view: &View, shard: ShardId) -> Result<Lent, Failure> {
        for statement in pipeline.statements() {
            know_types(&mut self.executor, view, shard, statement).await?;
        }
        if self.executor.transaction.has_new_oids {
            learn_own(&mut self.executor, view, shard).await?;
        }
        self.executor.lend(view, shard, pipeline.access).await
    }

    /// Sends the pipeline.
    fn transmit(&mut self, pipeline: &Pipeline<'_>, shard: ShardId, lent: &mut Lent) -> (Exchange, Sent) {
        let alone = self.executor.transaction.statements == 0 && pipeline.executes == 1;
        let mut sent = Sent::default();
        let steps = &pipeline.steps;
        let defines = |step: &Step<'_>| matches!(step, Step::Parse { .. } | Step::CloseStatement);
        let defining = steps.iter().any(defines);
        let mut write = |connection: &mut ServerConnection, expects: &mut VecDeque<Expect>| {
            let mut seen = 0;
            for (index, step) in steps.iter().enumerate() {
                queue(connection, expects, step);
                if !defining {
                    continue;
                }
                let before = sent.answers;
                sent.answers += expects.range(seen..).filter(|expect| !matches!(expect, Expect::Ready(_))).count();
                seen = expects.len();
                if defines(step) {
                    // The last of what it sent, or what comes before it.
                    let of_shard = sent.answers > before;
                    let place = if of_shard { sent.answers - 1 } else { sent.answers };
                    sent.definitions.push((index, place, of_shard));
                }
            }
            connection.queue_sync();
        };
        let request = Request {
            shard,
            access: pipeline.access,
            show: Show { fence: alone && pipeline.access != Access::Read, ..Show::ALL },
            // A lease that has run out since then shows before the answer does.
            repeatable: pipeline.access == Access::Read,
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        let exchange = Exchange::new(&mut self.executor, lent, request);
        (exchange, sent)
    }

    /// As [`Self::conclude`]. False: the pipeline has to be understood again; nothing has been shown.
    async fn concluded(
        &mut self,
        pipeline: &mut Pipeline<'_>,
        shard: ShardId,
        sent: &Sent,
        ended: Result<Outcome, Failure>,
        fenced: &mut Option<Instant>,
    ) -> Result<bool, Failure> {
        let outcome = ended.inspect_err(|_| self.undo_definitions(pipeline, 0))?;
        if outcome.kept_back || outcome.lease_lost {
            self.again(pipeline, &outcome, fenced).await?;
            return Ok(false);
        }
        self.conclude(pipeline, shard, sent, &outcome);
        Ok(true)
    }

    /// Nothing has been answered. Returns when the pipeline may be understood again.
    async fn again(
        &mut self,
        pipeline: &Pipeline<'_>,
        outcome: &Outcome,
        fenced: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        self.undo_definitions(pipeline, 0);
        self.executor.client.rewind();
        match &pipeline.admitted {
            Some(admitted) if outcome.kept_back => {
                let since = *fenced.get_or_insert_with(Instant::now);
                dispatch::again(&mut self.executor, admitted, since).await
            }
            _ => Ok(()),
        }
    }

    /// What the session knows once the pipeline has been answered.
    fn conclude(&mut self, pipeline: &mut Pipeline<'_>, shard: ShardId, sent: &Sent, outcome: &Outcome) {
        if pipeline.executes > 0 {
            let statistics = &self.executor.gateway.statistics;
            Statistics::count(&statistics.single_shard);
            statistics.statements.fetch_add(u64::from(pipeline.executes), Ordering::Relaxed);
        }
        if let Some(error) = &outcome.error {
            for step in &pipeline.steps {
                if let Step::Parse { statement, .. } | Step::Bind { statement, .. } = step {
                    self.executor.gateway.forget_outdated(statement, error);
                }
            }
            let answered = sent.answers.saturating_sub(outcome.unanswered);
            let is_lost =
                |(_, place, of_shard): &&(usize, usize, bool)| *place > answered || *of_shard && *place == answered;
            let first_lost = sent.definitions.iter().find(is_lost).map(|(index, ..)| *index);
            if let Some(first_lost) = first_lost {
                self.undo_definitions(pipeline, first_lost);
            }
        }
        if pipeline.any && pipeline.executes > 0 {
            self.executor.last_shard = Some(shard);
        }
        for name in pipeline.closed.iter().filter(|_| outcome.error.is_none()) {
            self.executor.forget_cursor(name);
        }
        if self.executor.transaction.block == Block::Explicit {
            self.executor.transaction.statements += u64::from(pipeline.executes);
            for name in &pipeline.closed {
                self.portals.remove(*name);
            }
            if outcome.error.is_some() {
                // What has been bound is there until the transaction ends, or its savepoint.
                let bound = pipeline.binds.saturating_sub(outcome.unbound);
                pipeline.portals.retain(|portal| portal.place < bound);
            }
            for NewPortal { name, statement, frame, .. } in pipeline.portals.drain(..) {
                let bound = Arc::new(Bound { statement, bind: Some(frame.to_frame()) });
                let depth = self.executor.transaction.savepoints.len();
                let portal = Portal { shard: Some(shard), ..Portal::new(bound, depth) };
                self.portals.insert(name.to_owned(), portal);
            }
        } else if !self.portals.is_empty() {
            self.portals.clear();
        }
    }

    /// Statements defined by steps from `first` on are as they were before.
    fn undo_definitions(&mut self, pipeline: &Pipeline<'_>, first: usize) {
        for (name, before, step) in pipeline.before.iter().rev() {
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

fn queue(connection: &mut ServerConnection, expects: &mut VecDeque<Expect>, step: &Step<'_>) {
    match step {
        Step::Parse { statement, named: true, .. } => {
            queue_parse(connection, expects, statement);
            queue_told(connection, expects, statement);
        }
        Step::Parse { frame, statement, named: false } => {
            if connection.is_foreign() && !statement.types.is_empty() {
                connection.queue_parse("", &statement.sql, &statement.types);
            } else {
                connection.output().extend_from_slice(frame.bytes());
            }
            connection.unnamed = Some(statement.id);
            expects.push_back(Expect::Parse { id: statement.id, named: false, show: true });
        }
        Step::Bind { frame, statement, named } => {
            queue_with_statement(connection, expects, *frame, statement, *named);
            expects.push_back(Expect::Bind);
        }
        Step::DescribeStatement { frame, statement, named } => {
            queue_with_statement(connection, expects, *frame, statement, *named);
            expects.push_back(Expect::Told { statement: Arc::clone(statement), show: true });
        }
        Step::Learn { portal, statement, catalog } => {
            if connection.is_foreign() {
                queue_learn(connection, expects, portal, statement, *catalog);
            }
        }
        Step::CloseStatement => queue_close_statement(expects),
        Step::Portal { frame, expect } => {
            connection.output().extend_from_slice(frame.bytes());
            expects.push_back(expect());
        }
    }
}

fn queue_with_statement(
    connection: &mut ServerConnection,
    expects: &mut VecDeque<Expect>,
    frame: FrameRef<'_>,
    statement: &Statement,
    named: bool,
) {
    if named {
        let name = ensure_prepared(connection, expects, statement);
        // The frame has been read before: it can be renamed.
        if frontend::rename(connection.output(), frame, Some(&name), None).is_err() {
            connection.output().extend_from_slice(frame.bytes());
        }
        return;
    }
    if connection.unnamed != Some(statement.id) {
        connection.queue_parse("", &statement.sql, &statement.types);
        connection.unnamed = Some(statement.id);
        expects.push_back(Expect::Parse { id: statement.id, named: false, show: false });
    }
    connection.output().extend_from_slice(frame.bytes());
}
