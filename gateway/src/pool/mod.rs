//! Connections to shards: opened, authenticated, lent and taken back.
//!
//! It knows the wire protocol's frames and nothing of plans, tokens or topology epochs.

pub mod connect;
pub mod connection;
pub mod credentials;
pub mod dial;
pub mod endpoint;
pub mod error;
pub mod oids;
pub mod pause;
pub mod places;
#[allow(clippy::module_inception)]
pub mod pool;
#[cfg(test)]
mod pool_tests;
pub mod server;
pub mod settings;
pub mod thread;
pub mod timeout;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::Shard;

use crate::config::pools::{PoolRules, PoolSettings};
use crate::net::TcpOptions;
use connect::Purpose;
use credentials::Credentials;
use endpoint::Endpoint;
use error::PoolError;
use oids::OidMaps;
use pause::Pause;
use pool::Shared;
pub use pool::{Claim, Counts, Pool, ReadyConn};

/// Connections of one role that are opened ahead of a cutover, on a shard that has fewer.
const TAKE_OVER_CONNECTIONS_MAX: usize = 8;

/// Every pool of this gateway.
#[derive(Debug)]
pub struct Pools {
    shared: Shared,
    rules: ArcSwap<PoolRules>,
    pools: Mutex<HashMap<Key, Arc<Pool>>>,
    /// Of pools that are gone.
    checkouts: AtomicU64,
    waited_microseconds: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    shard: ShardId,
    purpose: Purpose,
    role: String,
}

impl Pools {
    pub fn new(gateway: GatewayId, rules: PoolRules, server_statements_max: usize, tcp: TcpOptions) -> Pools {
        Pools {
            shared: Shared { gateway, pause: Arc::default(), oids: Arc::default(), server_statements_max, tcp },
            rules: ArcSwap::from_pointee(rules),
            pools: Mutex::default(),
            checkouts: AtomicU64::new(0),
            waited_microseconds: AtomicU64::new(0),
        }
    }

    pub fn pause(&self) -> &Pause {
        &self.shared.pause
    }

    pub fn oids(&self) -> &OidMaps {
        &self.shared.oids
    }

    /// What holds for the sessions of a role.
    pub fn settings_of(&self, role: &str, database: &str) -> PoolSettings {
        self.rules.load().of(role, database)
    }

    fn settings(&self, purpose: Purpose, role: &str, database: &str) -> PoolSettings {
        match purpose {
            Purpose::Application => self.settings_of(role, database),
            Purpose::Service => self.rules.load().of_service(),
        }
    }

    pub fn set_rules(&self, rules: PoolRules) {
        self.rules.store(Arc::new(rules));
        for pool in self.all() {
            pool.set_settings(self.settings(pool.purpose, &pool.role, &pool.endpoint.database));
        }
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<Key, Arc<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool of a client's role on a shard. A changed connection string makes a new one.
    pub fn application(&self, shard: &Shard, role: &str, credentials: &Credentials) -> Result<Arc<Pool>, PoolError> {
        self.pool(shard, role, Purpose::Application, credentials)
    }

    /// The latest login of a role gave these: connections are opened with them from now on, on every shard.
    pub fn set_credentials<'a>(&self, role: &str, shards: impl Iterator<Item = &'a Shard>, credentials: &Credentials) {
        let pools = self.pools();
        let mut key = Key { shard: ShardId(0), purpose: Purpose::Application, role: role.to_owned() };
        for shard in shards {
            key.shard = shard.id;
            if let Some(pool) = pools.get(&key) {
                pool.set_credentials(credentials.clone());
            }
        }
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
        let settings = self.settings(purpose, role, &endpoint.database);
        let pool = Arc::new(Pool::new(shard, endpoint, role.to_owned(), purpose, self.shared.clone(), settings));
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
            let most = TAKE_OVER_CONNECTIONS_MAX.min(pool.settings().size_max / 2);
            let wanted = pool.total().min(most);
            let its_own = match pool.purpose {
                Purpose::Application => self.application(receiver, &pool.role, &pool.credentials()),
                Purpose::Service => self.service(receiver),
            };
            match its_own {
                Ok(its_own) if its_own.total() < wanted && !its_own.is_refused() => lacking.push((its_own, wanted)),
                _ => {}
            }
        }
        lacking
    }

    /// Closes connections that nobody uses, and forgets pools that have none.
    pub fn reap(&self) {
        for pool in self.all() {
            pool.reap();
        }
        self.pools().retain(|_, pool| {
            let unused = Arc::strong_count(pool) == 1 && pool.counts() == Counts::default();
            if unused {
                self.checkouts.fetch_add(pool.checkouts.load(Ordering::Relaxed), Ordering::Relaxed);
                let waited = pool.waited_microseconds.load(Ordering::Relaxed);
                self.waited_microseconds.fetch_add(waited, Ordering::Relaxed);
            }
            !unused
        });
    }

    /// Pools that have fewer connections than they keep open. A role that is at work on one member has pools on all.
    pub fn to_fill<'a>(&self, members: impl Iterator<Item = &'a Shard>) -> Vec<Arc<Pool>> {
        if self.pause().is_on() {
            return Vec::new();
        }
        let all = self.all();
        let application = || all.iter().filter(|pool| pool.purpose == Purpose::Application);
        let roles: BTreeSet<&str> =
            application().filter(|pool| pool.settings().size_min > 0).map(|pool| pool.role.as_str()).collect();
        let mut wanting = Vec::new();
        for shard in members {
            for role in &roles {
                let known = application().find(|pool| pool.role == *role && pool.total() > 0);
                let Some(credentials) = known.map(|pool| pool.credentials()) else { continue };
                match self.application(shard, role, &credentials) {
                    Ok(pool) if pool.total() < pool.settings().size_min && !pool.is_refused() => wanting.push(pool),
                    _ => {}
                }
            }
        }
        wanting
    }

    /// Connections that clients have in use.
    pub fn lent(&self) -> usize {
        self.all().iter().filter(|pool| pool.purpose == Purpose::Application).map(|pool| pool.counts().lent).sum()
    }

    /// Closes every connection, those in use when they come back.
    pub fn renew(&self) {
        for pool in self.all() {
            pool.renew();
        }
    }

    /// Checkouts, and what they waited for a place in microseconds.
    pub fn totals(&self) -> (u64, u64) {
        let mut totals = (self.checkouts.load(Ordering::Relaxed), self.waited_microseconds.load(Ordering::Relaxed));
        for pool in self.all().iter().filter(|pool| pool.purpose == Purpose::Application) {
            totals.0 += pool.checkouts.load(Ordering::Relaxed);
            totals.1 += pool.waited_microseconds.load(Ordering::Relaxed);
        }
        totals
    }
}
