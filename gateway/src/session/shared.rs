//! A pipeline or a simple query that is one point read: answered over a connection that it shares with other clients' reads
//! ([`crate::exec::multiplex`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;

use ringway_topology::ids::ShardId;

use super::fast::queue;
use super::pipeline::{Before, Pipeline, Step};
use super::Session;
use crate::config::pools::PoolMode;
use crate::exec::bound::prepare;
use crate::exec::executor::cancelled;
use crate::exec::failure::Failure;
use crate::exec::gateway::Planned;
use crate::exec::hold::Admitted;
use crate::exec::multiplex::{self, End, Joining};
use crate::exec::pump::Expect;
use crate::exec::statistics::Statistics;
use crate::exec::view::View;
use crate::plan::types::{Plan, PointRead, Query};
use crate::pool::connection::{ServerConnection, StatementId};
use crate::sql::lift::Lifted;
use crate::wire::tag::client as tag;
use crate::wire::{frontend, Target};

/// A read that is on its way.
pub struct Shared {
    planned: Arc<Planned>,
    shard: ShardId,
    /// Any shard would do.
    any: bool,
    /// Statements as they were before it.
    before: Vec<Before>,
}

impl Session {
    /// Puts a pipeline into a batch. None: it is not one point read, or there is no reason or no way to share a connection.
    pub(super) fn try_share(&mut self, pipeline: &mut Pipeline<'_>, view: &View, shard: ShardId) -> Option<Shared> {
        let prepared = only_read(pipeline, self.executor.is_foreign(view, shard))?;
        let planned = Arc::clone(&pipeline.admitted.as_ref()?.planned);
        self.share(&planned, view, shard, prepared, false, |connection, expects| {
            pipeline.steps.iter().for_each(|step| queue(connection, expects, step));
        })?;
        Some(Shared { planned, shard, any: pipeline.any, before: std::mem::take(&mut pipeline.before) })
    }

    /// Puts a simple query into a batch, with parameters for its literals. None: as above, or they might not mean the same.
    pub(super) fn try_share_query(
        &mut self,
        admitted: &Admitted,
        lifted: &Lifted<'_>,
        shard: ShardId,
    ) -> Option<Shared> {
        let Admitted { planned, placement, view, .. } = admitted;
        let Ok(Plan::Query(Query { point_read: Some(read), .. })) = &planned.plan else { return None };
        if !are_as_literals(lifted, read) {
            return None;
        }
        let id = planned.lifted_id(&self.executor.gateway);
        self.share(planned, view, shard, Some(id), true, |connection, expects| {
            let name = prepare(connection, expects, id, &planned.sql, &[]);
            let values = lifted.values.iter().map(|value| Some(value.as_bytes()));
            let output = connection.output();
            frontend::bind(output, "", &name, [], values, []);
            frontend::describe(output, Target::Portal, "");
            frontend::execute(output, "", 0);
        })?;
        Some(Shared { planned: Arc::clone(planned), shard, any: placement.any, before: Vec::new() })
    }

    /// `queue` queues the read without its Sync.
    fn share(
        &mut self,
        planned: &Planned,
        view: &View,
        shard: ShardId,
        prepared: Option<StatementId>,
        is_simple: bool,
        queue: impl Fn(&mut ServerConnection, &mut VecDeque<Expect>),
    ) -> Option<()> {
        let table = match &planned.plan {
            Ok(Plan::Query(query)) if query.point_read.is_some() => query.tables.first()?,
            _ => return None,
        };
        let executor = &mut self.executor;
        let is_anybodys = executor.mode != PoolMode::Session
            && !executor.transaction.is_open()
            && executor.pinned.is_empty()
            && executor.pins.is_empty()
            && executor.only_shard.is_none();
        if !is_anybodys || !planned.sharing.is_allowed() {
            return None;
        }
        let dsn = &view.topology.shard(shard)?.dsn;
        let pool = executor.pools.iter().find(|pool| pool.shard == shard && pool.dsn == *dsn)?;
        let expects = &mut executor.expects;
        let mut write = |connection: &mut ServerConnection| {
            expects.clear();
            queue(connection, expects);
            match expects.front() {
                Some(Expect::Parse { id, named: true, .. }) => Some(*id),
                _ => None,
            }
        };
        let read = self.read.get_or_insert_default();
        let joining = Joining { read, table, statement: prepared, settings: &executor.settings, is_simple };
        let shares = multiplex::join(pool, &joining, &mut write)
            || multiplex::begin(pool, &joining, executor.entry.number, &mut write);
        // What the answer consists of is not looked at.
        expects.clear();
        shares.then_some(())
    }

    /// False: nothing has been answered, and it may be said again.
    pub(super) async fn end_shared(&mut self, shared: Shared) -> Result<bool, Failure> {
        let Some(read) = &self.read else { return Ok(false) };
        let end = poll_fn(|context| read.poll(context)).await;
        if let End::Again { was_plain } = end {
            self.restore_statements(&shared.before, 0);
            if !was_plain {
                shared.planned.sharing.forbid();
            }
            return match self.executor.cancel.is_requested() {
                true => Err(cancelled().into()),
                false => Ok(false),
            };
        }
        let Session { executor, .. } = self;
        // A lease that has run out since then shows before the answer does.
        let is_live = !executor.is_guarded();
        read.take_answer(|answer| match is_live {
            true => executor.client.keep(answer),
            false => Ok(()),
        })?;
        if is_live {
            let statistics = &executor.gateway.statistics;
            for counter in [&statistics.statements, &statistics.single_shard, &statistics.shared_reads] {
                Statistics::count(counter);
            }
            if shared.any {
                executor.last_shard = Some(shared.shard);
            }
            if !self.portals.is_empty() {
                self.portals.clear();
            }
        } else {
            self.restore_statements(&shared.before, 0);
        }
        Ok(is_live)
    }
}

/// Whether parameters mean the same as the literals that were lifted. With a backslash a string's meaning depends on a setting.
fn are_as_literals(lifted: &Lifted<'_>, read: &PointRead) -> bool {
    let has = |bits: u64, place: usize| bits >> place & 1 == 1;
    lifted.values.iter().enumerate().all(|(place, value)| match has(lifted.numbers, place) {
        true => has(read.for_numbers, place),
        false => has(read.for_strings, place) && !value.contains('\\'),
    })
}

/// Of a pipeline that binds the unnamed portal and executes it, and does nothing else: the statement that has to be prepared on the
/// connection. None in it: the pipeline has the unnamed statement's Parse.
fn only_read(pipeline: &Pipeline<'_>, is_foreign: bool) -> Option<Option<StatementId>> {
    let (prepared, rest) = match pipeline.steps.as_slice() {
        [Step::Bind { statement, named: true, .. }, rest @ ..] => (Some(statement.id), rest),
        [Step::Parse { named: false, .. }, Step::Bind { named: false, .. }, rest @ ..] => (None, rest),
        _ => return None,
    };
    let [portal] = pipeline.portals.as_slice() else { return None };
    // Rows of the home shard need not be looked at.
    let is_plain =
        |step: &Step<'_>| matches!(step, Step::Portal { .. }) || !is_foreign && matches!(step, Step::Learn { .. });
    // Where an answer ends is told by what Execute ends with.
    let ends = matches!(rest.last(), Some(Step::Portal { frame, .. }) if frame.tag() == tag::EXECUTE);
    let only_it = pipeline.executes == 1
        && ends
        && rest.iter().all(is_plain)
        && portal.name.is_empty()
        && pipeline.closed.is_empty();
    only_it.then_some(prepared)
}
