//! A pipeline that is one point read: answered, while there is enough to do, over a connection that it shares with other clients' reads
//! ([`crate::exec::multiplex`]).

use std::future::poll_fn;
use std::sync::Arc;

use ringway_topology::ids::ShardId;

use super::fast::queue;
use super::pipeline::{Before, Pipeline, Step};
use super::Session;
use crate::config::pools::PoolMode;
use crate::exec::executor::cancelled;
use crate::exec::failure::Failure;
use crate::exec::gateway::Planned;
use crate::exec::multiplex::{self, End};
use crate::exec::pump::Expect;
use crate::exec::statistics::Statistics;
use crate::exec::view::View;
use crate::plan::types::Plan;
use crate::pool::connection::{ServerConnection, StatementId};

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
        let planned = &pipeline.admitted.as_ref()?.planned;
        let is_point_read = matches!(&planned.plan, Ok(Plan::Query(query)) if query.point_read);
        let executor = &mut self.executor;
        let is_anybodys = executor.mode != PoolMode::Session
            && !executor.transaction.is_open()
            && executor.pinned.is_empty()
            && executor.pins.is_empty()
            && executor.only_shard.is_none();
        if !is_point_read || !is_anybodys || !planned.sharing.is_allowed() {
            return None;
        }
        let dsn = &view.topology.shard(shard)?.dsn;
        let pool = executor.pools.iter().find(|pool| pool.shard == shard && pool.dsn == *dsn)?;
        let expects = &mut executor.expects;
        let mut write = |connection: &mut ServerConnection| {
            expects.clear();
            for step in &pipeline.steps {
                queue(connection, expects, step);
            }
            connection.queue_sync();
            match expects.front() {
                Some(Expect::Parse { id, named: true, .. }) => Some(*id),
                _ => None,
            }
        };
        let read = self.read.get_or_insert_default();
        let shares = multiplex::join(pool, &executor.settings, prepared, read, &mut write)
            || multiplex::begin(pool, &executor.settings, prepared, executor.entry.number, read, &mut write);
        // What the answer consists of is not looked at.
        expects.clear();
        let planned = Arc::clone(planned);
        shares.then(|| Shared { planned, shard, any: pipeline.any, before: std::mem::take(&mut pipeline.before) })
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
    let only_it =
        pipeline.executes == 1 && rest.iter().all(is_plain) && portal.name.is_empty() && pipeline.closed.is_empty();
    only_it.then_some(prepared)
}
