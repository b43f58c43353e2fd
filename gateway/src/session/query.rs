//! A simple query of one statement that one shard answers: sent as it is, in one write. All others are [`super::simple`]'s.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Instant;

use ringway_topology::ids::ShardId;

use super::block::Answer;
use super::shared::Shared;
use super::simple::lift_statement;
use super::Session;
use crate::exec::dispatch;
use crate::exec::executor::Lent;
use crate::exec::failure::Failure;
use crate::exec::filter;
use crate::exec::forward::{Exchange, Request};
use crate::exec::hold::{try_admit, try_admit_planned, Admitted};
use crate::exec::pump::{Expect, Outcome, Show};
use crate::exec::statistics::Statistics;
use crate::exec::transaction::Block;
use crate::plan::types::{Access, Plan};
use crate::pool::connection::ServerConnection;
use crate::sql::lexer::lex;
use crate::sql::lift::Lifted;
use crate::sql::split::split_lexemes;
use crate::wire::{frontend, FrameRef};

/// A query that is on its way.
struct Flight {
    admitted: Admitted,
    shard: ShardId,
    lent: Lent,
    exchange: Exchange,
}

enum Begun {
    Sent(Box<Flight>),
    /// With reads of other clients.
    Shared(Shared),
}

/// What has come of a query.
enum Ended {
    Answered,
    /// Nothing of the answer has been shown, and it may be said again.
    Again,
}

impl Session {
    /// A simple query outside a pipeline, ReadyForQuery included.
    pub(super) async fn query(&mut self, frame: FrameRef<'_>) -> Result<(), Failure> {
        match self.begin_block_query(frame) {
            Some(Answer::Here) => return Ok(()),
            Some(Answer::End(sent)) => return self.end_alone(sent).await,
            None => {}
        }
        let ended = match self.begin_query(frame) {
            None => Ok(Ended::Again),
            Some(Begun::Sent(flight)) => self.end_query(flight).await,
            Some(Begun::Shared(shared)) => match self.end_shared(shared).await {
                Ok(true) => {
                    self.executor.leave();
                    return Ok(());
                }
                Ok(false) => Ok(Ended::Again),
                Err(failure) => Err(failure),
            },
        };
        match ended {
            Ok(Ended::Answered) => {}
            Ok(Ended::Again) => return Box::pin(self.simple_query(frame.to_frame())).await,
            Err(Failure::Gone(error)) => return Err(Failure::Gone(error)),
            Err(failure) => {
                self.report(&failure);
                self.ready();
            }
        }
        self.settings_told();
        self.executor.leave();
        Ok(())
    }

    /// Sends it, if it is for one shard and nothing has to be waited for. None: it is to be looked at again.
    fn begin_query(&mut self, frame: FrameRef<'_>) -> Option<Begun> {
        let transaction = &self.executor.transaction;
        let is_plain = !transaction.failed && !transaction.has_new_oids && transaction.block != Block::Implicit;
        if !is_plain || !self.after.is_empty() || !self.is_for_shards() || self.portals.contains_key("") {
            return None;
        }
        let text = frontend::parse_query(frame.body()).ok()?;
        let lexemes = lex(text).ok()?;
        let statements = split_lexemes(text, &lexemes);
        let [one] = statements.as_slice() else { return None };
        self.executor.cancel.reset();
        self.executor.repeated = false;
        self.executor.notifies = false;
        self.executor.client.mark();
        self.statements.remove("");
        let lifted = lift_statement(text, one, &lexemes);
        drop(lexemes);
        let admitted = self.try_admit_query(&text[one.clone()], lifted.as_ref())?;
        let (Ok(Plan::Query(query)), Some(shard)) = (&admitted.planned.plan, admitted.placement.single()) else {
            return None;
        };
        if !matches!(filter::text(query, &admitted, shard, &query.sql), Ok(None))
            || dispatch::needs_transaction(&self.executor, &admitted)
            || admitted.access == Access::LockingRead && filter::share_arcs(&admitted).is_some()
        {
            return None;
        }
        let is_lifted = admitted.planned.parameters > 0;
        if let Some(lifted) = lifted.filter(|_| is_lifted) {
            if let Some(shared) = self.try_share_query(&admitted, &lifted, shard) {
                return Some(Begun::Shared(shared));
            }
        }
        let mut lent = self.executor.try_lend(&admitted.view, shard, admitted.access != Access::Read)?;
        let mut write = |connection: &mut ServerConnection, _: &mut _| queue_whole(connection, frame);
        let alone = self.executor.transaction.statements == 0;
        let request = whole(shard, admitted.access, alone, &mut write);
        let exchange = Exchange::new(&mut self.executor, &mut lent, request);
        Some(Begun::Sent(Box::new(Flight { admitted, shard, lent, exchange })))
    }

    /// As [`Self::admit_lifted`], or by the text itself, without waiting.
    fn try_admit_query(&mut self, text: &str, lifted: Option<&Lifted<'_>>) -> Option<Admitted> {
        if let Some(lifted) = lifted {
            let view = self.executor.enter().ok()?;
            if let Some((planned, parameters)) = self.lifted_plan(lifted, &view) {
                match try_admit_planned(&mut self.executor, view, planned, &parameters) {
                    Ok(Some(admitted)) if admitted.placement.single().is_some() => return Some(admitted),
                    // It has to wait.
                    Ok(None) => return None,
                    _ => {}
                }
            }
        }
        try_admit(&mut self.executor, text, &[]).ok().flatten()
    }

    async fn end_query(&mut self, mut flight: Box<Flight>) -> Result<Ended, Failure> {
        let plain = poll_fn(|context| {
            let Flight { lent, exchange, .. } = &mut *flight;
            exchange.poll_answer(lent, &mut self.executor, context)
        });
        let plain = plain.await;
        if !matches!(plain, Ok(true)) {
            return Box::pin(self.end_query_slowly(flight, plain)).await;
        }
        if let Some(connection) = flight.exchange.try_end(flight.lent, &mut self.executor) {
            Box::pin(self.executor.release(connection)).await;
        }
        self.query_ended(&flight.admitted, flight.shard, &flight.exchange.outcome).await
    }

    async fn end_query_slowly(&mut self, flight: Box<Flight>, plain: Result<bool, Failure>) -> Result<Ended, Failure> {
        let Flight { admitted, shard, mut lent, mut exchange } = *flight;
        let done = match plain {
            Ok(_) => exchange.answer(&mut lent, &mut self.executor, &admitted.view).await,
            Err(failure) => Err(failure),
        };
        let outcome = exchange.end(lent, &mut self.executor, done).await?;
        self.query_ended(&admitted, shard, &outcome).await
    }

    async fn query_ended(&mut self, admitted: &Admitted, shard: ShardId, outcome: &Outcome) -> Result<Ended, Failure> {
        if outcome.kept_back || outcome.lease_lost {
            self.executor.client.rewind();
            if outcome.kept_back {
                Box::pin(dispatch::again(&mut self.executor, admitted, Instant::now())).await?;
            }
            return Ok(Ended::Again);
        }
        Statistics::count(&self.executor.gateway.statistics.single_shard);
        Statistics::count(&self.executor.gateway.statistics.statements);
        if admitted.placement.any {
            self.executor.last_shard = Some(shard);
        }
        self.executor.transaction.statements += u64::from(self.executor.transaction.is_open());
        Ok(Ended::Answered)
    }
}

/// A simple query that goes to one shard as it is. `alone`: it is the first of its transaction.
pub(super) fn whole<'a>(
    shard: ShardId,
    access: Access,
    alone: bool,
    write: &'a mut (dyn FnMut(&mut ServerConnection, &mut VecDeque<Expect>) + Send),
) -> Request<'a> {
    Request {
        shard,
        access,
        show: Show { fence: alone && access != Access::Read, ..Show::ALL },
        // A lease that has run out since the session looked shows before the answer does.
        repeatable: access == Access::Read,
        extended: false,
        changes_settings: false,
        write,
    }
}

pub(super) fn queue_whole(connection: &mut ServerConnection, frame: FrameRef<'_>) {
    connection.output().extend_from_slice(frame.bytes());
    connection.unnamed = None;
    connection.outstanding += 1;
}
