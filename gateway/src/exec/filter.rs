//! During a move: a shard's text with rows left out that it holds but does not own, and the lock that a locking read shares
//! with a cutover's fence.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_topology::ids::{KeyspaceId, ShardId};
use ringway_topology::model::quote_literal;
use ringway_topology::token::Token;

use super::executor::Executor;
use super::failure::Failure;
use super::hold::Admitted;
use super::inflight::Footprint;
use crate::plan::types::{Access, Query, ShardedReference};

/// What `shard` is sent instead of the statement; None: the statement as it is.
pub fn text(query: &Query, admitted: &Admitted, shard: ShardId, sql: &Arc<str>) -> Result<Option<String>, Failure> {
    // Keys of one shard need no filter; keys of several do: each shard is asked for all of them.
    let held_to_one = admitted.placement.keyed && admitted.placement.single().is_some();
    if held_to_one || !admitted.view.is_moving() {
        return Ok(None);
    }
    of_references(&query.sharded, admitted, shard, sql)
}

/// The same for a text that the planner has made.
pub fn rewritten(query: &Query, admitted: &Admitted, shard: ShardId, sql: &str) -> Result<Option<String>, Failure> {
    if !admitted.view.is_moving() {
        return Ok(None);
    }
    of_references(&query.rewritten, admitted, shard, sql)
}

pub fn of_references(
    references: &[ShardedReference],
    admitted: &Admitted,
    shard: ShardId,
    sql: &str,
) -> Result<Option<String>, Failure> {
    Ok(crate::plan::filter::filtered(sql, references, &admitted.view.topology, shard)?)
}

/// Tokens that a locking read must lock against a cutover, by keyspace.
pub fn share_arcs(admitted: &Admitted) -> Option<BTreeMap<KeyspaceId, Vec<Token>>> {
    if admitted.access != Access::LockingRead || !admitted.view.is_moving() {
        return None;
    }
    let mut tokens: BTreeMap<KeyspaceId, Vec<Token>> = BTreeMap::new();
    for moving in admitted.placement.moves(&admitted.view.topology) {
        for footprint in &admitted.placement.footprints {
            match footprint {
                Footprint::Key(keyspace, token) if moving.contains(*token) => {
                    tokens.entry(*keyspace).or_default().push(*token);
                }
                // Without keys every arc that moves is meant: one token of each stands for it.
                Footprint::Keyspace(keyspace) if *keyspace == moving.keyspace => {
                    let owned = moving.arcs.iter().map(|arc| Token(arc.through));
                    tokens.entry(*keyspace).or_default().extend(owned);
                }
                _ => {}
            }
        }
    }
    (!tokens.is_empty()).then_some(tokens)
}

/// Queues the shared lock in front of the locking read on `shard`.
pub async fn lock_arcs(executor: &mut Executor, admitted: &Admitted, shard: ShardId) -> Result<(), Failure> {
    let Some(tokens) = share_arcs(admitted) else { return Ok(()) };
    let topology = &admitted.view.topology;
    let mut lent = executor.lend(&admitted.view, shard, Access::LockingRead).await?;
    for (keyspace, tokens) in tokens {
        let Some(space) = topology.keyspace(keyspace) else { continue };
        let owned: Vec<String> = tokens
            .into_iter()
            .filter(|token| admitted.placement.keyed || space.owner(*token) == shard)
            .map(|token| token.0.to_string())
            .collect();
        if !owned.is_empty() {
            let array = quote_literal(&format!("{{{}}}", owned.join(",")));
            let sql = format!("SELECT ringway.share_arcs({}, {array}::pg_catalog.int8[])", keyspace.0);
            lent.participant.queue_before(&sql);
        }
    }
    // Answered with the statement that follows.
    executor.transaction.lent -= 1;
    executor.transaction.participants.insert(shard, lent.participant);
    Ok(())
}
