//! Connections to shards: opened, authenticated, lent and taken back.
//!
//! It knows the wire protocol's frames and nothing of plans, tokens or topology epochs.

pub mod connect;
pub mod connection;
pub mod credentials;
pub mod dial;
pub mod endpoint;
pub mod error;
#[allow(clippy::module_inception)]
pub mod pool;
pub mod settings;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::Shard;

use crate::config::Limits;
use connect::Purpose;
use credentials::Credentials;
use endpoint::Endpoint;
use error::PoolError;
pub use pool::{Claim, Pool, ReadyConn};

/// Connections of one role that are opened ahead of a cutover, on a shard that has fewer.
const TAKE_OVER_CONNECTIONS_MAX: usize = 8;

/// Every pool of this gateway.
#[derive(Debug)]
pub struct Pools {
    gateway: GatewayId,
    limits: Limits,
    pools: Mutex<HashMap<Key, Arc<Pool>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    shard: ShardId,
    purpose: Purpose,
    role: String,
}

impl Pools {
    pub fn new(gateway: GatewayId, limits: Limits) -> Pools {
        Pools { gateway, limits, pools: Mutex::default() }
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<Key, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of a client's role on a shard. A changed connection string makes a new one.
    pub fn application(&self, shard: &Shard, role: &str, credentials: &Credentials) -> Result<Arc<Pool>, PoolError> {
        self.pool(shard, role, Purpose::Application, credentials)
    }

    /// The pool of a shard's service role.
    pub fn service(&self, shard: &Shard) -> Result<Arc<Pool>, PoolError> {
        let endpoint = Endpoint::parse(&shard.name, &shard.dsn)?;
        self.pool(shard, &endpoint.service_role, Purpose::Service, &Credentials::None)
    }

    fn pool(
        &self,
        shard: &Shard,
        role: &str,
        purpose: Purpose,
        credentials: &Credentials,
    ) -> Result<Arc<Pool>, PoolError> {
        let key = Key { shard: shard.id, purpose, role: role.to_owned() };
        if let Some(pool) = self.pools().get(&key).filter(|pool| pool.dsn == shard.dsn) {
            return Ok(Arc::clone(pool));
        }
        let endpoint = Endpoint::parse(&shard.name, &shard.dsn)?;
        let pool = Arc::new(Pool::new(shard, endpoint, role.to_owned(), purpose, self.gateway, &self.limits));
        pool.set_credentials(credentials.clone());
        self.pools().insert(key, Arc::clone(&pool));
        Ok(pool)
    }

    pub fn all(&self) -> Vec<Arc<Pool>> {
        let mut all: Vec<Arc<Pool>> = self.pools().values().cloned().collect();
        all.sort_by(|a, b| (a.shard, &a.role).cmp(&(b.shard, &b.role)));
        all
    }

    /// What `receiver` lacks to take over from `owner`: for each role, a pool and how many connections it should have. A cutover
    /// leaves no time to open them.
    pub fn to_take_over(&self, owner: &Shard, receiver: &Shard) -> Vec<(Arc<Pool>, usize)> {
        let mut lacking = Vec::new();
        for pool in self.all().into_iter().filter(|pool| pool.shard == owner.id) {
            // Of a small pool clients keep their half.
            let most = TAKE_OVER_CONNECTIONS_MAX.min(self.limits.pool_size_max / 2);
            let wanted = pool.connections.load(Ordering::Relaxed).min(most);
            let its_own = match pool.purpose {
                Purpose::Application => self.application(receiver, &pool.role, &pool.credentials()),
                Purpose::Service => self.service(receiver),
            };
            match its_own {
                Ok(its_own) if its_own.connections.load(Ordering::Relaxed) < wanted && !its_own.is_refused() => {
                    lacking.push((its_own, wanted));
                }
                _ => {}
            }
        }
        lacking
    }

    /// Closes connections that nobody uses.
    pub fn reap(&self) {
        for pool in self.all() {
            pool.reap(Duration::from_millis(self.limits.pool_idle_ms));
        }
    }
}
