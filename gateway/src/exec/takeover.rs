//! Ahead of a cutover: either end of a move may become the owner of its rows within milliseconds, and a new connection's first
//! statement takes longer than that. So each end has connections for as many as the other has, which have met the tables before.

use std::sync::Arc;
use std::time::Duration;

use ringway_topology::model::Move;

use super::answers::{collect, queue_call};
use super::gateway::Gateway;
use super::view::View;
use crate::pool::connect::Purpose;
use crate::pool::error::PoolError;
use crate::pool::ReadyConn;

/// Tables that a new connection meets ahead of its use.
const TABLES_MAX: usize = 32;
/// A table that somebody has locked must not keep a connection.
const REHEARSAL_MAX: Duration = Duration::from_secs(2);

/// Opens what is missing, in the background. Called every second.
pub fn prepare(gateway: &Arc<Gateway>) {
    let Some(view) = gateway.view.current() else { return };
    // While writes are held there is no time for it.
    for moving in view.topology.moves.values().filter(|moving| moving.routing.mirror && !moving.routing.hold) {
        let (Some(source), Some(target)) = (view.topology.shard(moving.source), view.topology.shard(moving.target))
        else {
            continue;
        };
        for (owner, receiver) in [(source, target), (target, source)] {
            for (pool, wanted) in gateway.pools.to_take_over(owner, receiver) {
                let (gateway, view, moving) = (Arc::clone(gateway), Arc::clone(&view), moving.clone());
                let tasks = gateway.tasks.clone();
                tasks.spawn(async move {
                    // All of them before one is given back: an idle one would be taken for enough.
                    let mut opened = Vec::new();
                    while pool.total() < wanted {
                        let Some(mut connection) = pool.warm(wanted).await else { break };
                        let gid = gateway.gid(pool.shard, 0).to_string();
                        let rehearsal = rehearse(&mut connection, pool.purpose, &view, &moving, &gid);
                        match tokio::time::timeout(REHEARSAL_MAX, rehearsal).await {
                            Ok(Ok(())) => opened.push(connection),
                            // It is in the middle of something, and is closed.
                            Ok(Err(_)) | Err(_) => break,
                        }
                    }
                });
            }
        }
    }
}

/// Opens what pools lack to their smallest size, in the background. Called every second.
pub fn fill_up(gateway: &Arc<Gateway>) {
    let Some(view) = gateway.view.current() else { return };
    for pool in gateway.pools.to_fill(view.topology.members()) {
        gateway.tasks.spawn(pool.fill_up());
    }
}

/// What servers look up or compile only once per connection. Refusals (a role that may not read a table) do not matter.
async fn rehearse(
    connection: &mut ReadyConn,
    purpose: Purpose,
    view: &View,
    moving: &Move,
    gid: &str,
) -> Result<(), PoolError> {
    let names: Vec<_> =
        view.topology.tables_of(moving.keyspace).map(|(table, ..)| &table.name).take(TABLES_MAX).collect();
    for name in &names {
        connection.queue_query(&format!("SELECT FROM {} WHERE false", name.quoted()));
    }
    match purpose {
        Purpose::Application => {
            // In the form and in a transaction as a commit runs them, and nothing comes of it.
            let secret = view.topology.secret.as_str();
            connection.queue_query("BEGIN; SET LOCAL lock_timeout = 1000");
            queue_call(connection, "SELECT * FROM ringway.captured($1) LIMIT 1", &[secret]);
            queue_call(connection, "SELECT ringway.settle_captured($1, $2, $3, $4)", &[secret, "0", "0", gid]);
            connection.queue_query("ROLLBACK");
        }
        Purpose::Service => {
            for name in &names {
                let none = "ARRAY[]::pg_catalog.text[]";
                connection.queue_query(&format!(
                    "SELECT ringway.apply({}, {}, {}, {none}, {none})",
                    moving.id.0,
                    ringway_topology::model::quote_literal(&name.schema),
                    ringway_topology::model::quote_literal(&name.name)
                ));
            }
        }
    }
    collect(connection).await.map(|_| ())
}
