//! Connections of one role to one shard, lent to one transaction at a time.
//!
//! Every connection is either lent or idle ([`Counts::is_balanced`]); one that is being opened is neither and holds a place.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::Shard;

use super::connect::{connect, ConnectRequest, Purpose};
use super::connection::ServerConnection;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::PoolError;
use super::oids::{OidMaps, ShardOids};
use super::pause::Pause;
use super::places::{Place, Places};
use super::server::{Server, ServerInfo};
use super::thread::Thread;
use crate::config::pools::PoolSettings;
use crate::net::TcpOptions;

#[derive(Debug)]
pub struct Pool {
    pub shard: ShardId,
    /// What `endpoint` was read from.
    pub dsn: String,
    pub endpoint: Endpoint,
    pub role: String,
    pub purpose: Purpose,
    shared: Shared,
    oids: Arc<ShardOids>,
    credentials: Mutex<Credentials>,
    state: Mutex<State>,
    settings: ArcSwap<PoolSettings>,
    places: Arc<Places>,
    reserve: Arc<Places>,
    waiters: Mutex<Waiters>,
    /// Connections that are being opened ahead of their use.
    warming: AtomicUsize,
    /// The shard has refused the last login: nobody tries ahead of a client.
    refused: AtomicBool,
    filling: AtomicBool,
    opening: AtomicUsize,
    pub checkouts: AtomicU64,
    pub waited_microseconds: AtomicU64,
}

/// What all pools of a gateway share.
#[derive(Clone, Debug)]
pub struct Shared {
    pub gateway: GatewayId,
    pub pause: Arc<Pause>,
    pub oids: Arc<OidMaps>,
    pub server_statements_max: usize,
    pub tcp: TcpOptions,
}

#[derive(Debug, Default)]
struct State {
    /// The least recently used first.
    idle: VecDeque<Box<Server>>,
    lent: usize,
    total: usize,
    /// Connections of an older generation are closed when they come back.
    generation: u64,
    /// All that are open, lent or idle.
    servers: Vec<Arc<ServerInfo>>,
}

impl State {
    fn add(&mut self, server: &Server) {
        self.total += 1;
        self.servers.push(Arc::clone(&server.info));
    }

    fn remove(&mut self, server: &Server) {
        self.total -= 1;
        self.servers.retain(|info| info.number != server.info.number);
    }
}

/// Who waits for a connection, the longest first.
#[derive(Debug, Default)]
struct Waiters {
    next: u64,
    since: VecDeque<(u64, Instant)>,
}

/// Connections of a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub lent: usize,
    pub idle: usize,
    pub total: usize,
    /// On their way, in none of the others.
    pub opening: usize,
    pub waiting: usize,
}

impl Counts {
    /// No connection is lost or counted twice.
    pub fn is_balanced(&self) -> bool {
        self.lent + self.idle == self.total
    }
}

/// A connection that is usable: connected, authenticated, outside a transaction, with nothing on its way.
/// Dropping it gives it back when it is in that state again, and closes it otherwise.
#[derive(Debug)]
pub struct ReadyConn {
    server: Option<Box<Server>>,
    pool: Arc<Pool>,
    /// Freed after the connection has gone back.
    _place: Place,
}

impl Deref for ReadyConn {
    type Target = ServerConnection;
    fn deref(&self) -> &ServerConnection {
        match &self.server {
            Some(server) => &server.connection,
            None => unreachable!("a connection is only taken out by drop"),
        }
    }
}

impl DerefMut for ReadyConn {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        match &mut self.server {
            Some(server) => &mut server.connection,
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

    /// Whom it works for, as SHOW SERVERS tells it.
    pub fn works_for(&self, client: u32) {
        if let Some(server) = &self.server {
            server.info.client.store(client, Ordering::Relaxed);
        }
    }
}

impl Drop for ReadyConn {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.pool.give_back(server);
        }
    }
}

/// Whether the one who asks holds a connection to another shard already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    First,
    /// May use the reserve: transactions that grow must not wait for each other. Goes on while the pools are paused: a pause
    /// begins when they have ended.
    Further,
}

enum Idle {
    Lent(Box<Server>),
    None,
    Paused,
}

impl Pool {
    pub fn new(
        shard: &Shard,
        endpoint: Endpoint,
        role: String,
        purpose: Purpose,
        shared: Shared,
        settings: PoolSettings,
    ) -> Pool {
        Pool {
            shard: shard.id,
            dsn: shard.dsn.clone(),
            endpoint,
            role,
            purpose,
            oids: shared.oids.of(shard.id, &shard.dsn),
            shared,
            credentials: Mutex::default(),
            state: Mutex::default(),
            places: Places::new(settings.size_max),
            reserve: Places::new(settings.reserve_max),
            settings: ArcSwap::from_pointee(settings),
            waiters: Mutex::default(),
            warming: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            filling: AtomicBool::new(false),
            opening: AtomicUsize::new(0),
            checkouts: AtomicU64::new(0),
            waited_microseconds: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How many point reads may be on their way over one connection.
    pub fn shared_reads_max(&self) -> usize {
        self.settings.load().shared_reads_max
    }

    pub fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    /// Holds from the next checkout on; places in use beyond a smaller size go as they come back.
    pub fn set_settings(&self, settings: PoolSettings) {
        self.places.resize(settings.size_max);
        self.reserve.resize(settings.reserve_max);
        self.settings.store(Arc::new(settings));
    }

    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            lent: state.lent,
            idle: state.idle.len(),
            total: state.total,
            opening: self.opening.load(Ordering::Relaxed),
            waiting: self.waiters().since.len(),
        }
    }

    /// Of its connections, and of cancel requests.
    pub fn tcp(&self) -> &TcpOptions {
        &self.shared.tcp
    }

    /// Connections at work.
    pub fn lent(&self) -> usize {
        self.state().lent
    }

    /// Open connections.
    pub fn total(&self) -> usize {
        self.state().total
    }

    /// Of all pools of the gateway.
    #[cfg(test)]
    pub fn pause(&self) -> &Pause {
        &self.shared.pause
    }

    /// How long the longest wait has lasted so far.
    pub fn longest_wait(&self) -> Duration {
        self.waiters().since.front().map(|(_, since)| since.elapsed()).unwrap_or_default()
    }

    /// All that are open.
    pub fn servers(&self) -> Vec<Arc<ServerInfo>> {
        self.state().servers.clone()
    }

    /// Cancel-safe: a caller that gives up loses nothing but its place in the queue.
    pub async fn checkout(self: &Arc<Self>, claim: Claim) -> Result<ReadyConn, PoolError> {
        self.checkouts.fetch_add(1, Ordering::Relaxed);
        let pausable = claim == Claim::First && self.purpose == Purpose::Application;
        loop {
            if pausable && self.shared.pause.is_on() {
                let _waiting = self.waits(usize::MAX);
                let limit = self.settings.load().pause_timeout();
                self.shared.pause.over(&self.endpoint.database, limit).await?;
            }
            let place = match self.places.try_take() {
                Some(place) => place,
                None => self.wait(claim).await?,
            };
            let server = match self.lend_usable(pausable) {
                Idle::Lent(server) => Some(server),
                Idle::None => self.open(pausable).await?,
                Idle::Paused => None,
            };
            if let Some(server) = server {
                return Ok(self.ready(server, place));
            }
        }
    }

    /// An idle connection, if there is one and nobody has to be waited for.
    pub fn try_checkout(self: &Arc<Self>, claim: Claim) -> Option<ReadyConn> {
        let pausable = claim == Claim::First && self.purpose == Purpose::Application;
        let place = self.places.try_take()?;
        let Idle::Lent(server) = self.lend_usable(pausable) else { return None };
        self.checkouts.fetch_add(1, Ordering::Relaxed);
        Some(self.ready(server, place))
    }

    /// Those that are of no use any more are closed on the way.
    fn lend_usable(&self, pausable: bool) -> Idle {
        loop {
            match self.lend_idle(pausable) {
                Idle::Lent(mut server) => match server.is_usable() {
                    true => return Idle::Lent(server),
                    false => self.close(server),
                },
                none => return none,
            }
        }
    }

    fn ready(self: &Arc<Self>, server: Box<Server>, place: Place) -> ReadyConn {
        ReadyConn { server: Some(server), pool: Arc::clone(self), _place: place }
    }

    /// The one used last, of this thread's if it has some. A pause that begins waits for what is lent by then: looked at under the
    /// same lock.
    fn lend_idle(&self, pausable: bool) -> Idle {
        let mut state = self.state();
        if pausable && self.shared.pause.is_on() {
            return Idle::Paused;
        }
        let own = Thread::current();
        let newest = state.idle.len().checked_sub(1);
        let chosen = state.idle.iter().rposition(|server| server.thread == own).or(newest);
        match chosen.and_then(|index| state.idle.remove(index)) {
            None => Idle::None,
            Some(server) => {
                state.lent += 1;
                Idle::Lent(server)
            }
        }
    }

    /// None: a pause has begun meanwhile. Cancel-safe: what has been opened so far is closed.
    async fn open(&self, pausable: bool) -> Result<Option<Box<Server>>, PoolError> {
        let generation = self.state().generation;
        let mut connection = {
            self.opening.fetch_add(1, Ordering::Relaxed);
            let _opening = Decrement(&self.opening);
            let credentials = self.credentials();
            let timeout = self.settings.load().connect_timeout();
            connect(ConnectRequest {
                endpoint: &self.endpoint,
                role: &self.role,
                purpose: self.purpose,
                gateway: self.shared.gateway,
                credentials: &credentials,
                timeout,
                tcp: &self.shared.tcp,
                server_statements_max: self.shared.server_statements_max,
            })
            .await
            .inspect_err(|error| self.refused.store(matches!(error, PoolError::Server(_)), Ordering::Relaxed))?
        };
        self.refused.store(false, Ordering::Relaxed);
        connection.oids = Arc::clone(&self.oids);
        let server = Box::new(Server::new(connection, generation));
        let mut state = self.state();
        if pausable && self.shared.pause.is_on() {
            return Ok(None);
        }
        state.add(&server);
        state.lent += 1;
        Ok(Some(server))
    }

    /// Opens a connection ahead of its use, unless `wanted` are idle or on their way already, or the pool is full. Never
    /// waits for a place.
    pub async fn warm(self: &Arc<Self>, wanted: usize) -> Option<ReadyConn> {
        let on_their_way = self.warming.fetch_add(1, Ordering::Relaxed);
        let _warming = Decrement(&self.warming);
        if self.counts().idle + on_their_way >= wanted {
            return None;
        }
        self.open_ahead().await
    }

    async fn open_ahead(self: &Arc<Self>) -> Option<ReadyConn> {
        let place = self.places.try_take()?;
        match self.open(true).await {
            Ok(server) => Some(self.ready(server?, place)),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be opened ahead of its use");
                None
            }
        }
    }

    /// Opens what is missing to the smallest size.
    pub async fn fill_up(self: Arc<Self>) {
        if self.filling.swap(true, Ordering::Relaxed) {
            return;
        }
        let _filling = Lower(&self.filling);
        let mut opened = Vec::new();
        while self.total() < self.settings.load().size_min && !self.shared.pause.is_on() {
            let Some(connection) = self.open_ahead().await else { break };
            opened.push(connection);
        }
    }

    async fn wait(&self, claim: Claim) -> Result<Place, PoolError> {
        if claim == Claim::Further {
            if let Some(place) = self.reserve.try_take() {
                return Ok(place);
            }
        }
        let settings = self.settings();
        let _waiting = self
            .waits(settings.waiters_max)
            .map_err(|waiting| PoolError::TooManyWaiters { shard: self.endpoint.shard.clone(), waiting })?;
        let started = Instant::now();
        let taken = tokio::time::timeout(settings.checkout_timeout(), self.places.take()).await;
        self.waited_microseconds.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        taken.ok().flatten().ok_or_else(|| PoolError::Timeout {
            shard: self.endpoint.shard.clone(),
            waited_ms: settings.checkout_timeout_ms,
        })
    }

    /// Err: so many wait already.
    fn waits(&self, waiters_max: usize) -> Result<Waiting<'_>, usize> {
        let mut waiters = self.waiters();
        if waiters.since.len() >= waiters_max {
            return Err(waiters.since.len());
        }
        waiters.next += 1;
        let number = waiters.next;
        waiters.since.push_back((number, Instant::now()));
        Ok(Waiting { pool: self, number })
    }

    fn give_back(&self, mut server: Box<Server>) {
        let now = Instant::now();
        let fit = server.connection.is_clean();
        if fit {
            server.rest(now);
        }
        let old = server.is_older(now, self.settings.load().lifetime_ms);
        let mut state = self.state();
        state.lent -= 1;
        if fit && !old && server.generation == state.generation {
            state.idle.push_back(server);
        } else {
            state.remove(&server);
            drop(state);
        }
    }

    /// One that was lent and is of no use.
    fn close(&self, server: Box<Server>) {
        let mut state = self.state();
        state.lent -= 1;
        state.remove(&server);
    }

    /// Closes idle connections that are dead, too old, or not needed: unused for long, and more than the smallest size.
    pub fn reap(&self) {
        let settings = self.settings();
        let now = Instant::now();
        let idle = Duration::from_millis(settings.idle_ms);
        let mut closed = Vec::new();
        let mut state = self.state();
        for mut server in std::mem::take(&mut state.idle) {
            let unused = now.saturating_duration_since(server.connection.idle_since) > idle;
            let needless = unused && state.total > settings.size_min;
            if needless || server.is_older(now, settings.lifetime_ms) || !server.is_usable() {
                state.remove(&server);
                closed.push(server);
            } else {
                state.idle.push_back(server);
            }
        }
        // Sockets are closed without the lock.
        drop(state);
        drop(closed);
    }

    /// Closes what is idle now, and what is lent when it comes back.
    pub fn renew(&self) {
        let mut state = self.state();
        state.generation += 1;
        let closed = std::mem::take(&mut state.idle);
        for server in &closed {
            state.remove(server);
        }
        drop(state);
        drop(closed);
    }
}

struct Decrement<'a>(&'a AtomicUsize);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Lower<'a>(&'a AtomicBool);

impl Drop for Lower<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

struct Waiting<'a> {
    pool: &'a Pool,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiters = self.pool.waiters();
        if let Some(index) = waiters.since.iter().position(|(number, _)| *number == self.number) {
            waiters.since.remove(index);
        }
    }
}
