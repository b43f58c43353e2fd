//! Ahead of a cutover: either end of a move may become the owner of its rows within milliseconds, and a new connection's first
//! statement takes longer than that. So each end has connections for as many as the other has, which have met the tables before.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use ringway_topology::model::Move;

use super::answers::{collect, queue_call};
use super::gateway::Gateway;
use super::view::View;
use crate::pool::connect::Purpose;
use crate::pool::error::PoolError;
use crate::pool::ReadyConn;

/// Tables that a new connection meets ahead of its use.
const TABLES_MAX: usize = 32;

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
                let (view, moving) = (Arc::clone(&view), moving.clone());
                gateway.tasks.spawn(async move {
                    // All of them before one is given back: an idle one would be taken for enough.
                    let mut opened = Vec::new();
                    while pool.connections.load(Ordering::Relaxed) < wanted {
                        let Some(mut connection) = pool.warm(wanted).await else { break };
                        if let Err(error) = rehearse(&mut connection, pool.purpose, &view, &moving).await {
                            tracing::debug!(%error, "a connection was lost ahead of its use");
                            break;
                        }
                        opened.push(connection);
                    }
                });
            }
        }
    }
}

/// What servers look up or compile only once per connection. Refusals (a role that may not read a table) do not matter.
async fn rehearse(connection: &mut ReadyConn, purpose: Purpose, view: &View, moving: &Move) -> Result<(), PoolError> {
    let names: Vec<_> =
        view.topology.tables_of(moving.keyspace).map(|(table, ..)| &table.name).take(TABLES_MAX).collect();
    for name in &names {
        connection.queue_query(&format!("SELECT FROM {} WHERE false", name.quoted()));
    }
    match purpose {
        Purpose::Application => {
            // In the form and in a transaction as a commit runs them, and nothing comes of it.
            let secret = view.topology.secret.as_str();
            connection.queue_query("BEGIN");
            queue_call(connection, "SELECT * FROM ringway.captured($1) LIMIT 1", &[secret]);
            let nothing = ["0", "0", "rehearsal"];
            let settle = "SELECT ringway.settle_captured($1, $2, $3, $4)";
            queue_call(connection, settle, &[secret, nothing[0], nothing[1], nothing[2]]);
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
