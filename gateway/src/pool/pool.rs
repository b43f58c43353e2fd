//! Connections of one role to one shard, lent to one transaction at a time.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::Shard;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connect::{connect, ConnectRequest, Purpose};
use super::connection::ServerConnection;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::PoolError;
use crate::config::Limits;

#[derive(Debug)]
pub struct Pool {
    pub shard: ShardId,
    /// What `endpoint` was read from.
    pub dsn: String,
    pub endpoint: Endpoint,
    pub role: String,
    pub purpose: Purpose,
    gateway: GatewayId,
    credentials: Mutex<Credentials>,
    idle: Mutex<VecDeque<ServerConnection>>,
    permits: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Connections that are being opened ahead of their use.
    warming: AtomicUsize,
    /// The shard has refused the last login: nobody tries ahead of a client.
    refused: AtomicBool,
    pub connections: AtomicUsize,
    pub checkouts: AtomicU64,
    pub waited_microseconds: AtomicU64,
    limits: Limits,
}

/// A connection that is usable: connected, authenticated, outside a transaction, with nothing on its way.
/// Dropping it gives it back when it is in that state again, and closes it otherwise.
#[derive(Debug)]
pub struct ReadyConn {
    connection: Option<ServerConnection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Deref for ReadyConn {
    type Target = ServerConnection;
    fn deref(&self) -> &ServerConnection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("a connection is only taken out by drop"),
        }
    }
}

impl DerefMut for ReadyConn {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("a connection is only taken out by drop"),
        }
    }
}

impl ReadyConn {
    pub fn shard(&self) -> ShardId {
        self.pool.shard
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

impl Drop for ReadyConn {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

/// Whether the one who asks holds a connection to another shard already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    First,
    /// May use the reserve: transactions that grow must not wait for each other.
    Further,
}

impl Pool {
    pub fn new(
        shard: &Shard,
        endpoint: Endpoint,
        role: String,
        purpose: Purpose,
        gateway: GatewayId,
        limits: &Limits,
    ) -> Pool {
        Pool {
            shard: shard.id,
            dsn: shard.dsn.clone(),
            endpoint,
            role,
            purpose,
            gateway,
            credentials: Mutex::default(),
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits.pool_size_max)),
            reserve: Arc::new(Semaphore::new(limits.pool_reserve_max)),
            waiting: AtomicUsize::new(0),
            warming: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            checkouts: AtomicU64::new(0),
            waited_microseconds: AtomicU64::new(0),
            limits: limits.clone(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<ServerConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the latest login of this role gave.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    pub fn credentials(&self) -> Credentials {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn idle_count(&self) -> usize {
        self.idle().len()
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Cancel-safe: a caller that gives up loses nothing but its place.
    pub async fn checkout(self: &Arc<Self>, claim: Claim) -> Result<ReadyConn, PoolError> {
        self.checkouts.fetch_add(1, Ordering::Relaxed);
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait(claim).await?,
        };
        loop {
            let Some(mut connection) = self.idle().pop_back() else { break };
            if connection.is_alive() {
                return Ok(ReadyConn { connection: Some(connection), pool: Arc::clone(self), _permit: permit });
            }
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.open(permit).await
    }

    async fn open(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Result<ReadyConn, PoolError> {
        let credentials = self.credentials();
        let connection = connect(ConnectRequest {
            endpoint: &self.endpoint,
            role: &self.role,
            purpose: self.purpose,
            gateway: self.gateway,
            credentials: &credentials,
            timeout: self.limits.connect_timeout(),
            server_statements_max: self.limits.server_statements_max,
        })
        .await
        .inspect_err(|error| self.refused.store(matches!(error, PoolError::Server(_)), Ordering::Relaxed))?;
        self.refused.store(false, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(ReadyConn { connection: Some(connection), pool: Arc::clone(self), _permit: permit })
    }

    /// Opens a connection ahead of its use, unless `wanted` are idle or on their way already, or the pool is full. Never
    /// waits for a place.
    pub async fn warm(self: &Arc<Self>, wanted: usize) -> Option<ReadyConn> {
        let on_their_way = self.warming.fetch_add(1, Ordering::Relaxed);
        let _warming = Decrement(&self.warming);
        if self.idle_count() + on_their_way >= wanted {
            return None;
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        match self.open(permit).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be opened ahead of its use");
                None
            }
        }
    }

    async fn wait(&self, claim: Claim) -> Result<OwnedSemaphorePermit, PoolError> {
        if claim == Claim::Further {
            if let Ok(permit) = Arc::clone(&self.reserve).try_acquire_owned() {
                return Ok(permit);
            }
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Decrement(&self.waiting);
        if waiting >= self.limits.pool_waiters_max {
            return Err(PoolError::TooManyWaiters { shard: self.endpoint.shard.clone(), waiting });
        }
        let started = Instant::now();
        let acquired =
            tokio::time::timeout(self.limits.checkout_timeout(), Arc::clone(&self.permits).acquire_owned()).await;
        self.waited_microseconds.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        match acquired {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(PoolError::Timeout {
                shard: self.endpoint.shard.clone(),
                waited_ms: self.limits.checkout_timeout_ms,
            }),
        }
    }

    fn give_back(&self, mut connection: ServerConnection) {
        if connection.is_clean() {
            connection.trim();
            connection.idle_since = Instant::now();
            self.idle().push_back(connection);
        } else {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes connections that nobody has used for `idle`.
    pub fn reap(&self, idle: Duration) {
        let mut connections = self.idle();
        while connections.front().is_some_and(|connection| connection.idle_since.elapsed() > idle) {
            connections.pop_front();
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Decrement<'a>(&'a AtomicUsize);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
