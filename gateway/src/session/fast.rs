//! A pipeline that one shard can answer: sent in one write, answered byte for byte. Only statement names are rewritten.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Instant;

use ringway_topology::ids::ShardId;
use smallvec::SmallVec;

use super::block::COMMITTED;
use super::pipeline::{Commits, Fits, NewPortal, Pipeline, Step};
use super::portals::Portal;
use super::shared::Shared;
use super::Session;
use crate::exec::bound::{
    ensure_prepared, queue_close_statement, queue_learn, queue_parse, queue_told, Bound, Statement,
};
use crate::exec::clients::Activity;
use crate::exec::commit::unknown_outcome;
use crate::exec::dispatch;
use crate::exec::executor::Lent;
use crate::exec::failure::Failure;
use crate::exec::forward::{Exchange, Request};
use crate::exec::hold::admit;
use crate::exec::place::values;
use crate::exec::pump::{Expect, Outcome, Show, PARSE_COMPLETE};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::{Block, Transaction};
use crate::exec::type_oids::{are_built_in, know_types, learn_own};
use crate::exec::view::View;
use crate::plan::types::Access;
use crate::pool::connection::{ServerConnection, TransactionStatus};
use crate::wire::frontend::{self, Bind};
use crate::wire::{backend, FrameRef, PgError, SqlState};

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
    /// With reads of other clients.
    Shared(Shared),
    /// Something has to be waited for: [`Session::fast`] does.
    Waits,
    /// The gateway has answered all of it.
    Here,
    /// It begins with a COMMIT or ROLLBACK.
    End,
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
            Fits::Yes if pipeline.is_local() => {
                self.answer(&pipeline);
                return Ok(Begun::Here);
            }
            Fits::Yes => {}
            Fits::Later(_) => {
                self.undo(&pipeline);
                return Ok(Begun::Waits);
            }
            Fits::End => return Ok(Begun::End),
            Fits::No => return Ok(Begun::No),
        }
        let (view, shard) = self.destination(&pipeline).inspect_err(|_| self.undo(&pipeline))?;
        let wrote = pipeline.access != Access::Read;
        let is_known = pipeline.declared().all(are_built_in) && !self.executor.transaction.has_new_oids;
        if let Some(shared) = is_known.then(|| self.try_share(&mut pipeline, &view, shard)).flatten() {
            return Ok(Begun::Shared(shared));
        }
        let lent = is_known.then(|| self.executor.try_lend(&view, shard, wrote)).flatten();
        let Some(mut lent) = lent else {
            self.undo(&pipeline);
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
        if flight.pipeline.commits != Commits::No {
            self.end_block(&flight.pipeline, &mut flight.lent, Ok(()))?;
        }
        if let Some(connection) = flight.exchange.try_end(flight.lent, &mut self.executor) {
            Box::pin(self.executor.release(connection)).await;
        }
        if flight.exchange.outcome.kept_back {
            Box::pin(self.again(&flight.pipeline, &flight.exchange.outcome, &mut None)).await?;
            return Ok(false);
        }
        self.tell_end(&flight.pipeline, &flight.exchange.outcome);
        self.conclude(&mut flight.pipeline, flight.shard, &flight.sent, &flight.exchange.outcome);
        Ok(true)
    }

    async fn end_slowly(&mut self, flight: Box<Flight<'_>>, plain: Result<bool, Failure>) -> Result<bool, Failure> {
        let Flight { mut pipeline, view, shard, sent, mut lent, mut exchange } = *flight;
        let done = match plain {
            Ok(_) => exchange.answer(&mut lent, &mut self.executor, &view).await,
            Err(failure) => Err(failure),
        };
        let done = self.end_block(&pipeline, &mut lent, done);
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
                Fits::Yes if pipeline.is_local() => {
                    self.answer(&pipeline);
                    return Ok(true);
                }
                Fits::Yes => {}
                Fits::No | Fits::End => return Ok(false),
                Fits::Later(frame) => {
                    let admitted = self.admitted(frame).await;
                    self.undo(&pipeline);
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
    pub(super) fn is_for_shards(&self) -> bool {
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
        let (view, shard) = self.destination(pipeline).inspect_err(|_| self.undo(pipeline))?;
        let lent = self.lend_for(pipeline, &view, shard).await;
        let mut lent = lent.inspect_err(|_| self.undo(pipeline))?;
        let (mut exchange, sent) = self.transmit(pipeline, shard, &mut lent);
        let done = exchange.answer(&mut lent, &mut self.executor, &view).await;
        let done = self.end_block(pipeline, &mut lent, done);
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
        let defines = |step: &Step<'_>| matches!(step, Step::Parse { .. } | Step::CloseStatement | Step::Define);
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
            show: Show {
                fence: alone && pipeline.access != Access::Read,
                ready_for_query: pipeline.commits == Commits::No,
                ..Show::ALL
            },
            // A lease that has run out since then shows before the answer does.
            repeatable: pipeline.access == Access::Read,
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        let exchange = Exchange::new(&mut self.executor, lent, request);
        (exchange, sent)
    }

    /// A pipeline that needs no shard, ReadyForQuery included.
    fn answer(&mut self, pipeline: &Pipeline<'_>) {
        let out = self.executor.client.out();
        for step in &pipeline.steps {
            out.extend_from_slice(match step {
                Step::Ready(bytes) => bytes,
                _ => PARSE_COMPLETE,
            });
        }
        if pipeline.begins {
            self.executor.entry.set(Activity::Active);
            Statistics::count(&self.executor.gateway.statistics.statements);
            self.keep_begun(pipeline);
        }
        self.ready();
    }

    /// BEGIN's portal stays known, and cannot be run again.
    fn keep_begun(&mut self, pipeline: &Pipeline<'_>) {
        if let Some(statement) = &pipeline.begun {
            let bound = Arc::new(Bound { statement: Arc::clone(statement), bind: None });
            self.portals.insert(String::new(), Portal { finished: true, ..Portal::new(bound, 0) });
        }
    }

    /// After the answer: a pipeline's own COMMIT has ended its block, or may have.
    fn end_block(
        &mut self,
        pipeline: &Pipeline<'_>,
        lent: &mut Lent,
        done: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let is_open = lent.participant.connection.status != TransactionStatus::Idle || self.executor.transaction.failed;
        if pipeline.commits == Commits::No || done.is_ok() && is_open {
            return done;
        }
        self.executor.transaction = Transaction::default();
        lent.in_transaction = false;
        match done {
            Err(failure) if lent.participant.wrote && !matches!(failure, Failure::Gone(_)) => {
                Err(unknown_outcome(failure))
            }
            done => done,
        }
    }

    /// What is left of the answer to a pipeline that has COMMIT at its end.
    fn tell_end(&mut self, pipeline: &Pipeline<'_>, outcome: &Outcome) {
        if pipeline.commits == Commits::No {
            return;
        }
        if outcome.error.is_none() {
            backend::command_complete(self.executor.client.out(), COMMITTED);
        }
        self.ready();
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
        self.tell_end(pipeline, &outcome);
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
        self.executor.client.rewind();
        let waited = match &pipeline.admitted {
            Some(admitted) if outcome.kept_back => {
                let since = *fenced.get_or_insert_with(Instant::now);
                dispatch::again(&mut self.executor, admitted, since).await
            }
            _ => Ok(()),
        };
        self.undo(pipeline);
        waited
    }

    /// What the session knows once the pipeline has been answered.
    fn conclude(&mut self, pipeline: &mut Pipeline<'_>, shard: ShardId, sent: &Sent, outcome: &Outcome) {
        if pipeline.executes > 0 {
            let statistics = &self.executor.gateway.statistics;
            Statistics::count(&statistics.single_shard);
            statistics.statements.fetch_add(pipeline.statements_executed(), Ordering::Relaxed);
        }
        self.keep_begun(pipeline);
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
                let is_wrong = sent
                    .definitions
                    .iter()
                    .any(|(index, place, of_shard)| *index == first_lost && *of_shard && *place == answered);
                if is_wrong && matches!(pipeline.steps[first_lost], Step::Parse { named: false, .. }) {
                    self.statements.remove("");
                }
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
}

pub(super) fn queue(connection: &mut ServerConnection, expects: &mut VecDeque<Expect>, step: &Step<'_>) {
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
        Step::Define => expects.push_back(Expect::Ready(PARSE_COMPLETE)),
        Step::Ready(bytes) => expects.push_back(Expect::Ready(bytes)),
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
