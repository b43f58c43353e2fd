//! What all sessions of the process share.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use lru::LruCache;
use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::service::Gid;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bound::Statement;
use super::clients::{ClientEntry, Clients};
use super::describe::{Description, DescriptionKey};
use super::faults::Faults;
use super::inflight::InFlight;
use super::listen::Listeners;
use super::multiplex::Sharing;
use super::sick::Sick;
use super::statistics::Statistics;
use super::view::{ControlPlane, View, Views};
use crate::catalog::Catalog;
use crate::config::{Config, Live};
use crate::plan::context::PlanContext;
use crate::plan::types::Plan;
use crate::pool::connection::StatementId;
use crate::pool::endpoint::Endpoint;
use crate::pool::error::ServerError;
use crate::pool::Pools;
use crate::sql::lexer::{lex, Kind, Lexeme};
use crate::users::Users;
use crate::wire::{PgError, SqlState};

#[derive(Debug)]
pub struct LoadedCatalog {
    pub version: u64,
    /// Counts the catalogs read by this process: plans of an older one are not used again.
    pub serial: u64,
    pub catalog: Catalog,
}

impl LoadedCatalog {
    pub fn new(version: u64, catalog: Catalog) -> LoadedCatalog {
        LoadedCatalog { version, serial: rand::random(), catalog }
    }
}

/// A statement's plan, as it is cached.
#[derive(Debug)]
pub struct Planned {
    pub sql: Arc<str>,
    pub plan: Result<Plan, Box<PgError>>,
    /// It leaves something on its connection that the session needs again: an advisory lock of the session.
    pub pins: bool,
    /// It waits for such a lock and does nothing else: nobody has to wait for its end, and who holds the lock may be who waits.
    pub only_locks: bool,
    /// It may raise notifications where it writes.
    pub notifies: bool,
    /// Of point reads.
    pub sharing: Sharing,
    /// Under this name such a statement is prepared whose parameters stand for a simple query's literals.
    lifted: OnceLock<StatementId>,
    /// The highest number of a parameter in its text.
    pub parameters: usize,
    key: PlanKey,
}

impl Planned {
    /// The serial number of the catalog that it was planned by.
    pub fn catalog(&self) -> u64 {
        self.key.catalog
    }

    /// A statement without declared types.
    pub fn lifted_id(&self, gateway: &Gateway) -> StatementId {
        *self.lifted.get_or_init(|| gateway.statement_id(&self.sql, &[], false))
    }

    /// Whether it is the plan of this text under these circumstances.
    fn is_of(&self, sql: &str, catalog: u64, shape: u64, search_path: &[String], user: &str, one_shard: bool) -> bool {
        *self.sql == *sql
            && self.key.catalog == catalog
            && self.key.shape == shape
            && self.key.one_shard == one_shard
            && self.key.user == user
            && self.key.search_path == search_path
    }
}

/// The plans that one session has used last: found without a hash, and without a lock that others want.
#[derive(Debug, Default)]
pub struct RecentPlans {
    plans: Mutex<([Option<Arc<Planned>>; RECENT_PLANS], usize)>,
}

/// The statements of a short transaction.
const RECENT_PLANS: usize = 8;
/// Longer texts are found by their hash.
const RECENT_PLAN_BYTES_MAX: usize = 4 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    search_path: Vec<String>,
    user: String,
    catalog: u64,
    shape: u64,
    one_shard: bool,
}

/// Text and declared parameter types.
/// With types of one shard's own, if the session has asked for these.
type StatementKey = (Arc<str>, Vec<u32>, bool, Option<u64>);
/// Role and the settings' hash.
type LoginKey = (String, u64);

pub struct Gateway {
    pub config: Config,
    pub id: GatewayId,
    pub view: Views,
    pub catalog: ArcSwapOption<LoadedCatalog>,
    pub pools: Pools,
    pub inflight: Arc<InFlight>,
    pub statistics: Statistics,
    pub faults: Faults,
    pub tasks: TaskTracker,
    /// What RELOAD has changed.
    pub live: ArcSwap<Live>,
    /// As it was loaded last.
    pub loaded: ArcSwap<Config>,
    pub users: ArcSwapOption<Users>,
    /// The configuration has been read again.
    pub reloaded: tokio::sync::Notify,
    pub clients: Clients,
    pub listeners: Arc<Listeners>,
    /// No client is let in any more.
    pub closing: CancellationToken,
    /// Clients that are idle end, the others have `drain_timeout_ms`.
    pub shutdown: CancellationToken,
    /// Every client ends.
    pub abort: CancellationToken,
    pub sick: Sick,
    /// Statements that wait for a cutover.
    pub held: AtomicUsize,
    pub forget: tokio::sync::mpsc::Sender<(ShardId, Gid)>,
    plans: Mutex<LruCache<u64, Arc<Planned>>>,
    statement_ids: Mutex<LruCache<StatementKey, StatementId>>,
    descriptions: Mutex<LruCache<DescriptionKey, Arc<Description>>>,
    hasher: RandomState,
    next_statement: AtomicU64,
    next_gid: AtomicU64,
    /// What servers say of themselves at a session's start, by role and settings.
    pub parameters: Mutex<HashMap<LoginKey, Vec<(String, String)>>>,
}

/// Logins with distinct settings whose parameters are remembered.
pub const PARAMETERS_MAX: usize = 1_000;

impl Gateway {
    pub fn new(
        config: Config,
        id: GatewayId,
        control_plane: ControlPlane,
        forget: tokio::sync::mpsc::Sender<(ShardId, Gid)>,
    ) -> Gateway {
        let entries = NonZeroUsize::new(config.limits.statement_cache_entries_max).unwrap_or(NonZeroUsize::MIN);
        Gateway {
            id,
            view: Views::new(control_plane),
            catalog: ArcSwapOption::empty(),
            pools: Pools::new(id, config.live.pools.clone(), config.limits.server_statements_max, config.limits.tcp()),
            inflight: Arc::default(),
            statistics: Statistics::default(),
            faults: Faults::new(config.fault_file.clone()),
            tasks: TaskTracker::new(),
            live: ArcSwap::from_pointee(config.live.clone()),
            loaded: ArcSwap::from_pointee(config.clone()),
            users: ArcSwapOption::empty(),
            reloaded: tokio::sync::Notify::new(),
            clients: Clients::default(),
            listeners: Arc::default(),
            closing: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            abort: CancellationToken::new(),
            sick: Sick::default(),
            held: AtomicUsize::new(0),
            forget,
            plans: Mutex::new(LruCache::new(entries)),
            statement_ids: Mutex::new(LruCache::new(entries)),
            descriptions: Mutex::new(LruCache::new(entries)),
            hasher: RandomState::new(),
            next_statement: AtomicU64::new(1),
            next_gid: AtomicU64::new(1),
            parameters: Mutex::default(),
            config,
        }
    }

    /// Clients that are idle end, the others as soon as their transactions have.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
        for client in self.clients.all() {
            client.leave();
        }
    }

    /// From now on the client is in the list, and told what all are told.
    pub fn add_client(&self, entry: Arc<ClientEntry>) {
        self.clients.add(Arc::clone(&entry));
        // It may have come in behind the back of `shut_down`.
        if self.shutdown.is_cancelled() {
            entry.leave();
        }
        if self.abort.is_cancelled() {
            entry.end();
        }
    }

    /// Every client ends.
    pub fn end_clients(&self) {
        self.abort.cancel();
        for client in self.clients.all() {
            client.end();
        }
    }

    /// The database that the cluster serves; None: it has no shard yet.
    pub fn database(&self) -> Option<String> {
        let view = self.view.current()?;
        let home = view.topology.home_shard().and_then(|id| view.topology.shard(id))?;
        Endpoint::parse(&home.name, &home.dsn).ok().map(|endpoint| endpoint.database)
    }

    pub fn description(&self, key: &DescriptionKey) -> Option<Arc<Description>> {
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub fn keep_description(&self, key: DescriptionKey, description: Arc<Description>) {
        self.descriptions.lock().unwrap_or_else(PoisonError::into_inner).put(key, description);
    }

    pub fn catalog_version(&self) -> Option<u64> {
        self.catalog.load().as_ref().map(|loaded| loaded.version)
    }

    pub fn set_catalog(&self, version: u64, catalog: Catalog) {
        self.catalog.store(Some(Arc::new(LoadedCatalog::new(version, catalog))));
        self.pools.oids().forget_names();
    }

    /// A gid that nobody else makes.
    pub fn gid(&self, anchor: ShardId, anchor_xid: u64) -> Gid {
        let number = self.next_gid.fetch_add(1, Ordering::Relaxed);
        Gid { anchor, anchor_xid, gateway: self.id.0, number }
    }

    /// The name by which every connection knows this text with these parameter types, from one schema change to the next: who
    /// prepares it later has another statement, which gives what the tables are then.
    pub fn statement_id(&self, sql: &Arc<str>, types: &[u32], own_oids: bool) -> StatementId {
        let mut ids = self.statement_ids.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(sql), types.to_vec(), own_oids, self.catalog_version());
        if let Some(id) = ids.get(&key) {
            return *id;
        }
        let id = StatementId(self.next_statement.fetch_add(1, Ordering::Relaxed));
        ids.put(key, id);
        id
    }

    /// One that nobody else uses.
    pub fn own_statement_id(&self) -> StatementId {
        StatementId(self.next_statement.fetch_add(1, Ordering::Relaxed))
    }

    /// [`Self::plan`], looked for among the session's own first.
    pub fn plan_of_session(
        &self,
        recent: &RecentPlans,
        sql: &str,
        view: &View,
        search_path: &[String],
        user: &str,
        one_shard: bool,
    ) -> Result<Arc<Planned>, Box<PgError>> {
        let serial = self.catalog.load().as_ref().map(|loaded| loaded.serial).ok_or_else(no_catalog)?;
        let mut recent = recent.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.0.iter().flatten();
        for planned in known {
            if planned.is_of(sql, serial, view.shape, search_path, user, one_shard) {
                return Ok(Arc::clone(planned));
            }
        }
        let planned = self.plan(sql, view, search_path, user, one_shard)?;
        if sql.len() <= RECENT_PLAN_BYTES_MAX {
            let place = recent.1;
            recent.0[place] = Some(Arc::clone(&planned));
            recent.1 = (place + 1) % RECENT_PLANS;
        }
        Ok(planned)
    }

    /// A shard says that a prepared statement's result has changed, and will go on saying so: who prepares it anew gets a new one.
    pub fn forget_outdated(&self, statement: &Statement, error: &ServerError) {
        if error.code() == "0A000" && error.field(b'R') == Some("RevalidateCachedQuery") {
            let key = (Arc::clone(&statement.sql), statement.types.clone(), statement.own_oids, self.catalog_version());
            self.statement_ids.lock().unwrap_or_else(PoisonError::into_inner).pop(&key);
        }
    }

    /// The plan of one statement's text, cached. `one_shard`: of a session that `SET ringway.shard` holds to one.
    pub fn plan(
        &self,
        sql: &str,
        view: &View,
        search_path: &[String],
        user: &str,
        one_shard: bool,
    ) -> Result<Arc<Planned>, Box<PgError>> {
        let catalog = self.catalog.load_full().ok_or_else(no_catalog)?;
        let hash = self.hasher.hash_one((sql, search_path, user, catalog.serial, view.shape, one_shard));
        if let Some(planned) = self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            if planned.is_of(sql, catalog.serial, view.shape, search_path, user, one_shard) {
                return Ok(Arc::clone(planned));
            }
        }
        let context = PlanContext { catalog: &catalog.catalog, topology: &view.topology, search_path, user, one_shard };
        let plan = crate::plan::plan(sql, &context).map_err(Box::new);
        let key = PlanKey {
            search_path: search_path.to_vec(),
            user: user.to_owned(),
            catalog: catalog.serial,
            shape: view.shape,
            one_shard,
        };
        let (pins, notifies) = (takes_session_lock(sql), catalog.catalog.may_notify(sql));
        let only_locks = pins
            && matches!(&plan, Ok(Plan::Query(query)) if !query.calls_code && query.tables.is_empty() && waits_for_lock(sql));
        let planned = Arc::new(Planned {
            sql: Arc::from(sql),
            plan,
            pins,
            only_locks,
            notifies,
            sharing: Sharing::default(),
            lifted: OnceLock::new(),
            parameters: parameters(sql),
            key,
        });
        if sql.len() <= self.config.limits.statement_cache_text_bytes_max {
            self.plans.lock().unwrap_or_else(PoisonError::into_inner).put(hash, Arc::clone(&planned));
        }
        Ok(planned)
    }
}

fn parameters(sql: &str) -> usize {
    let highest = lex(sql).ok().and_then(|lexemes| {
        let number = |lexeme: &Lexeme| match lexeme.kind {
            Kind::Parameter(number) => Some(number as usize),
            _ => None,
        };
        lexemes.iter().filter_map(number).max()
    });
    highest.unwrap_or(0)
}

/// Whether the text calls `pg_advisory_lock` or one of its kin that outlive transactions.
fn takes_session_lock(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    ["pg_advisory_lock", "pg_try_advisory_lock"].iter().any(|function| sql.contains(function))
}

/// Whether a query of no tables is `SELECT pg_advisory_lock(...)` or the shared one, of constants, parameters and their hashes. Other words,
/// which might name something that it reads, are names of its columns only.
fn waits_for_lock(sql: &str) -> bool {
    const WORDS: &[&str] = &[
        "select",
        "as",
        "pg_catalog",
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "hashtext",
        "hashtextextended",
        "bigint",
        "integer",
        "int4",
        "int8",
        "text",
    ];
    let Ok(lexemes) = lex(sql) else { return false };
    let mut after_as = false;
    lexemes.iter().all(|lexeme| {
        let is_name = std::mem::replace(&mut after_as, lexeme.is_word(sql, "as"));
        match lexeme.kind {
            Kind::Word => is_name || WORDS.iter().any(|word| lexeme.is_word(sql, word)),
            Kind::QuotedWord => is_name,
            Kind::Operator => lexeme.text(sql) == "-",
            Kind::String | Kind::Number | Kind::Parameter(_) | Kind::Punctuation(_) => true,
        }
    })
}

fn no_catalog() -> Box<PgError> {
    Box::new(
        PgError::new(SqlState::CANNOT_CONNECT_NOW, "the gateway has not read the catalog of any shard yet")
            .hint("Add a shard (\"shardctl shard add\"), or check that the lowest-numbered shard can be reached."),
    )
}

#[cfg(test)]
mod tests {
    use super::waits_for_lock;

    #[test]
    fn what_waits_for_a_lock_and_does_nothing_else() {
        for sql in [
            "SELECT pg_advisory_lock($1)",
            "select pg_catalog.pg_advisory_lock(-7, 8) AS \"taken\"",
            "SELECT pg_advisory_lock_shared(hashtext('migrations')::bigint) AS nextval",
        ] {
            assert!(waits_for_lock(sql), "{sql}");
        }
        for sql in [
            "SELECT pg_advisory_lock(nextval('s'))",
            "SELECT pg_advisory_lock(1), nextval('s')",
            "SELECT pg_advisory_lock(1) FROM t",
            "SELECT pg_advisory_lock(id) FROM t",
            "SELECT pg_advisory_lock(\"nextval\"('s'))",
            "SELECT pg_advisory_lock(1 + 2)",
        ] {
            assert!(!waits_for_lock(sql), "{sql}");
        }
    }
}
