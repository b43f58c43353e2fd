//! A pipeline that one shard can answer: sent in one write, answered byte for byte. Only statement names are rewritten.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ringway_topology::ids::ShardId;
use smallvec::SmallVec;

use super::{Portal, Session};
use crate::exec::bound::{
    ensure_prepared, queue_close_statement, queue_learn, queue_parse, queue_told, Bound, Statement,
};
use crate::exec::dispatch;
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::forward::{forward, Request};
use crate::exec::hold::{admit, Admitted};
use crate::exec::place::values;
use crate::exec::pump::{Expect, Outcome, Show};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::exec::type_oids::{know_types, parameters_are_plain, rows_may_have_oids};
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
    /// Some statement's rows may have OIDs in them.
    learns: bool,
}

impl Session {
    /// True: the whole rest of the pipeline has been answered, ReadyForQuery included.
    pub async fn fast(&mut self, frames: &[FrameRef<'_>]) -> Result<bool, Failure> {
        // Since a fence was met.
        let mut fenced = None;
        loop {
            // Who listens is told of notifications before ReadyForQuery, which goes through here with the rest.
            if frames.is_empty() || self.executor.is_guarded() || self.executor.listening.is_some() {
                return Ok(false);
            }
            let mut pipeline = Pipeline {
                steps: SmallVec::with_capacity(frames.len()),
                shard: None,
                access: Access::Read,
                admitted: None,
                any: true,
                before: Vec::new(),
                portals: SmallVec::new(),
                closed: SmallVec::new(),
                executes: 0,
                learns: false,
            };
            let understood = self.understand(frames, &mut pipeline).await;
            let understood = match understood {
                Ok(understood) => understood,
                Err(failure) => {
                    self.undo_definitions(&pipeline, 0);
                    return Err(failure);
                }
            };
            if !understood {
                self.undo_definitions(&pipeline, 0);
                return Ok(false);
            }
            if self.send(&mut pipeline, &mut fenced).await? {
                return Ok(true);
            }
        }
    }

    async fn understand<'a>(
        &mut self,
        frames: &'a [FrameRef<'a>],
        pipeline: &mut Pipeline<'a>,
    ) -> Result<bool, Failure> {
        for &frame in frames {
            let fits = match frame.tag() {
                tag::PARSE => self.understand_parse(frame, pipeline)?,
                tag::BIND => self.understand_bind(frame, pipeline).await?,
                tag::EXECUTE => {
                    let Ok(execute) = Execute::parse(frame.body()) else { return Ok(false) };
                    pipeline.executes += 1;
                    self.learn(execute.portal, pipeline);
                    self.understand_portal(frame, execute.portal, || Expect::Execute, pipeline)
                }
                tag::DESCRIBE | tag::CLOSE => {
                    let Ok((target, name)) = frontend::parse_target("Describe", frame.body()) else {
                        return Ok(false);
                    };
                    match (target, frame.tag()) {
                        (Target::Statement, tag::CLOSE) => {
                            let known = self.statements.remove(name);
                            pipeline.before.push((name.to_owned(), known, pipeline.steps.len()));
                            pipeline.steps.push(Step::CloseStatement);
                            true
                        }
                        (Target::Statement, _) => {
                            let Some(statement) = self.statements.get(name).cloned() else { return Ok(false) };
                            let own_oids = self.executor.only_shard.is_some();
                            if !self.is_query(&statement)? || statement.own_oids != own_oids {
                                return Ok(false);
                            }
                            let named = !name.is_empty();
                            pipeline.steps.push(Step::DescribeStatement { frame, statement, named });
                            true
                        }
                        (Target::Portal, tag::CLOSE) => {
                            let fits = self.understand_portal(frame, name, || Expect::Close { show: true }, pipeline);
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
                return Ok(false);
            }
        }
        Ok(true)
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

    async fn understand_bind<'a>(&mut self, frame: FrameRef<'a>, pipeline: &mut Pipeline<'a>) -> Result<bool, Failure> {
        let Ok(bind) = Bind::parse(frame.body()) else { return Ok(false) };
        let Some(statement) = self.statements.get(bind.statement).cloned() else { return Ok(false) };
        if !bind.portal.is_empty()
            && (self.portals.contains_key(bind.portal)
                || self.executor.has_cursor(bind.portal)
                || pipeline.portals.iter().any(|portal| portal.name == bind.portal))
        {
            return Ok(false);
        }
        let values = values(Some(&bind), &statement.types);
        let admitted = match admit(&mut self.executor, &statement.sql, &values).await {
            Ok(admitted) => admitted,
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            // It has waited long enough.
            Err(failure) if matches!(failure.code(), "55P03" | "53300" | "57014") => return Err(failure),
            // Said again, in its place, by the slow way.
            Err(_) => return Ok(false),
        };
        let (Ok(Plan::Query(query)), Some(shard)) = (&admitted.planned.plan, admitted.placement.single()) else {
            return Ok(false);
        };
        if self.executor.is_outdated(&statement, admitted.planned.catalog()) {
            return Ok(false);
        }
        let chosen = match pipeline.shard {
            Some(chosen) if chosen == shard || admitted.placement.any => chosen,
            Some(_) if !pipeline.any => return Ok(false),
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
            return Ok(false);
        }
        let view = &admitted.view;
        if self.executor.is_foreign(view, chosen)
            && !parameters_are_plain(&self.executor, view, chosen, &statement, &bind)
        {
            return Ok(false);
        }
        pipeline.learns |= rows_may_have_oids(&statement, &bind, admitted.planned.catalog());
        // One epoch for all of it: the session counts as being in the last one.
        if pipeline.admitted.as_ref().is_some_and(|before| before.view.epoch() != admitted.view.epoch()) {
            return Ok(false);
        }
        pipeline.shard = Some(chosen);
        pipeline.any &= admitted.placement.any;
        if admitted.access != Access::Read {
            pipeline.access = admitted.access;
        }
        pipeline.admitted = Some(admitted);
        let named = !bind.statement.is_empty();
        pipeline.portals.retain(|portal| portal.name != bind.portal);
        pipeline.portals.push(NewPortal { name: bind.portal, statement: Arc::clone(&statement), frame });
        pipeline.steps.push(Step::Bind { frame, statement, named });
        Ok(true)
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
    fn portal_shard(&self, name: &str) -> Option<ShardId> {
        if let Some(portal) = self.portals.get(name) {
            return portal.shard;
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

    /// False: the pipeline has to be understood again (a fence was met; nothing has been shown).
    async fn send(&mut self, pipeline: &mut Pipeline<'_>, fenced: &mut Option<Instant>) -> Result<bool, Failure> {
        let view = match &pipeline.admitted {
            Some(admitted) => Arc::clone(&admitted.view),
            None => {
                let view = self.executor.enter()?;
                self.executor.slot.reads();
                view
            }
        };
        let open = self.executor.transaction.participants.keys().next().copied();
        let prefer = self.executor.only_shard.or(open).or(self.executor.last_shard);
        let member = |id: &ShardId| view.topology.members().any(|shard| shard.id == *id);
        let Some(shard) = pipeline.shard.or_else(|| prefer.filter(member)).or_else(|| view.topology.home_shard())
        else {
            return Err(PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet").into());
        };
        for step in &pipeline.steps {
            if let Step::Parse { statement, .. }
            | Step::Bind { statement, .. }
            | Step::DescribeStatement { statement, .. } = step
            {
                let known = match statement.types.is_empty() {
                    true => Ok(()),
                    false => Box::pin(know_types(&mut self.executor, &view, shard, statement)).await,
                };
                if let Err(failure) = known {
                    self.undo_definitions(pipeline, 0);
                    return Err(failure);
                }
            }
        }
        let alone = self.executor.transaction.statements == 0 && pipeline.executes == 1;
        let mut sent = 0usize;
        // Step, place of its answer, and whether the shard gives it.
        let mut definitions: SmallVec<[(usize, usize, bool); 2]> = SmallVec::new();
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
                let before = sent;
                sent += expects.range(seen..).filter(|expect| !matches!(expect, Expect::Ready(_))).count();
                seen = expects.len();
                if defines(step) {
                    // The last of what it sent, or what comes before it.
                    let of_shard = sent > before;
                    definitions.push((index, if of_shard { sent - 1 } else { sent }, of_shard));
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
            client_syncs: true,
            extended: true,
            changes_settings: false,
            write: &mut write,
        };
        if pipeline.executes > 0 {
            Statistics::count(&self.executor.gateway.statistics.single_shard);
        }
        let outcome: Outcome = match forward(&mut self.executor, &view, request).await {
            Ok(outcome) => outcome,
            Err(failure) => {
                self.undo_definitions(pipeline, 0);
                return Err(failure);
            }
        };
        if outcome.kept_back || outcome.lease_lost {
            self.undo_definitions(pipeline, 0);
            self.executor.client.rewind();
            if let Some(admitted) = &pipeline.admitted {
                if outcome.kept_back {
                    let since = *fenced.get_or_insert_with(Instant::now);
                    Box::pin(dispatch::again(&mut self.executor, admitted, since)).await?;
                }
            }
            return Ok(false);
        }
        if let Some(error) = &outcome.error {
            for step in &pipeline.steps {
                if let Step::Parse { statement, .. } | Step::Bind { statement, .. } = step {
                    self.executor.gateway.forget_outdated(statement, error);
                }
            }
            let answered = sent.saturating_sub(outcome.unanswered);
            let is_lost =
                |(_, place, of_shard): &&(usize, usize, bool)| *place > answered || *of_shard && *place == answered;
            let first_lost = definitions.iter().find(is_lost).map(|(index, ..)| *index);
            if let Some(first_lost) = first_lost {
                self.undo_definitions(pipeline, first_lost);
            }
        }
        if pipeline.any && pipeline.executes > 0 {
            self.executor.last_shard = Some(shard);
        }
        if self.executor.transaction.block == Block::Explicit {
            self.executor.transaction.statements += u64::from(pipeline.executes);
            for name in &pipeline.closed {
                self.portals.remove(*name);
            }
            if outcome.error.is_some() {
                // They go with the transaction, or with its savepoint.
                pipeline.portals.clear();
            }
            for NewPortal { name, statement, frame } in pipeline.portals.drain(..) {
                let bound = Arc::new(Bound { statement, bind: Some(frame.to_frame()) });
                let portal =
                    Portal { bound, shard: Some(shard), finished: false, tag: None, merged: false, buffered: None };
                self.portals.insert(name.to_owned(), portal);
            }
        } else {
            self.portals.clear();
        }
        Ok(true)
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
