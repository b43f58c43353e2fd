//! What the statements of one session work with: its client, its transaction, its connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::service::{gateway_lock_object, GATEWAY_LOCK_CLASS};

use super::cancel::CancelSlot;
use super::client::Client;
use super::clients::{Activity, ClientEntry};
use super::cursors::Cursors;
use super::failure::Failure;
use super::gateway::{Gateway, Planned, RecentPlans};
use super::inflight::Slot;
use super::listen::session::Listening;
use super::pump::{Expect, Outcome};
use super::reports::Reports;
use super::search_path::Names;
use super::statistics::Statistics;
use super::trace::Trace;
use super::transaction::{Block, Participant, Transaction};
use super::view::View;
use crate::config::pools::PoolMode;
use crate::plan::clock::Readings;
use crate::plan::types::{Access, Isolation};
use crate::pool::credentials::Credentials;
use crate::pool::settings::Settings;
use crate::pool::{timeout, Claim, Pool, ReadyConn};
use crate::wire::{PgError, SqlState};

/// Who the client is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub user: String,
    pub database: String,
    pub credentials: Credentials,
}

pub struct Executor {
    pub gateway: Arc<Gateway>,
    pub client: Client,
    pub identity: Identity,
    /// Of the startup packet: what RESET goes back to.
    pub startup: Settings,
    pub settings: Settings,
    /// How names resolve; in a transaction with settings of its own, as those say.
    pub names: Names,
    pub transaction: Transaction,
    /// Connections that stay with the session.
    pub pinned: BTreeMap<ShardId, ReadyConn>,
    /// The session has state (temporary tables, advisory locks) on its connection to this shard.
    pub pins: Vec<ShardId>,
    /// The session has made temporary objects.
    pub has_temporary: bool,
    /// Cursors WITH HOLD of transactions that have committed.
    pub held_cursors: Cursors,
    /// What the client knows of its settings.
    pub reports: Reports,
    /// Cursors that the gateway has opened on shards: each has a name of its own.
    pub cursors_made: u64,
    /// `SET ringway.shard`.
    pub only_shard: Option<ShardId>,
    /// By this gateway's clock.
    pub statement_began: SystemTime,
    /// The shard that an unkeyed statement used last.
    pub last_shard: Option<ShardId>,
    pub slot: Arc<Slot>,
    pub cancel: Arc<CancelSlot>,
    pub recent: RecentPlans,
    /// Empty but while a request is answered.
    pub expects: VecDeque<Expect>,
    /// Of the session's role, as the shards were when it last asked.
    pub pools: Vec<Arc<Pool>>,
    pub entry: Arc<ClientEntry>,
    pub mode: PoolMode,
    pub timeouts: Timeouts,
    /// None: nothing.
    pub listening: Option<Box<Listening>>,
    /// A read of the client's present message has been run again because its connection was lost.
    pub repeated: bool,
    /// The Sync of the messages that are being answered is here already. A COPY that takes data overreads it.
    pub synced: bool,
    /// The message that is here already behind the one that is being answered, a Sync apart.
    pub behind: Option<u8>,
    /// Statements that have been admitted since this was reset may raise notifications where they write.
    pub notifies: bool,
    /// The session's and the transaction's settings under which a shard has said that values' text is exact, as far as these settings go.
    pub exact_text: Option<((Settings, Settings), Vec<&'static str>)>,
    /// EXPLAIN ANALYZE looks at what shards do.
    pub trace: Option<Box<Trace>>,
}

/// When the session's end comes by itself, as its settings say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub idle_session: Option<Duration>,
    pub idle_in_transaction: Option<Duration>,
}

/// A connection in use by one statement; `in_transaction`: it goes back to the transaction.
pub struct Lent {
    pub shard: ShardId,
    pub participant: Participant,
    pub in_transaction: bool,
}

impl Executor {
    /// A statement begins: the topology that it sees.
    pub fn enter(&mut self) -> Result<Arc<View>, Failure> {
        self.entry.set(Activity::Active);
        let gateway = &self.gateway;
        let of_transaction = self.transaction.view.clone();
        let view =
            self.slot.enter(|| of_transaction.or_else(|| gateway.view.current()).map(|view| (view.epoch(), view)));
        let Some(view) = view else {
            return Err(PgError::new(SqlState::CANNOT_CONNECT_NOW, "the gateway does not know the cluster yet")
                .hint("Check that the control plane runs and that the gateway's --topology is its address.")
                .into());
        };
        if self.transaction.block == Block::Explicit && self.transaction.view.is_none() && self.has_snapshot() {
            self.transaction.view = Some(Arc::clone(&view));
            self.slot.keeps_snapshot();
        }
        Ok(view)
    }

    /// Whether the transaction reads from one snapshot to its end.
    fn has_snapshot(&self) -> bool {
        match self.transaction.isolation() {
            Some(_) => self.transaction.has_snapshot(),
            None => self.settings.get("default_transaction_isolation").is_some_and(|set| {
                let set = set.to_ascii_lowercase();
                set.contains("repeatable") || set.contains("serializable")
            }),
        }
    }

    pub fn plan(&self, sql: &str, view: &View) -> Result<Arc<Planned>, Failure> {
        let one_shard = self.only_shard.is_some();
        let names = self.names_now();
        Ok(self.gateway.plan_of_session(&self.recent, sql, view, &names.search_path, &names.user, one_shard)?)
    }

    /// How names resolve in the present transaction.
    pub fn names_now(&self) -> &Names {
        self.transaction.names.as_ref().unwrap_or(&self.names)
    }

    /// All that the client has said up to Sync, or a simple query, has been answered.
    pub fn leave(&mut self) {
        self.client.set_due();
        if self.transaction.is_open() {
            self.slot.leave_statement();
        } else {
            self.slot.leave_transaction();
            self.entry.set(Activity::Idle);
            Statistics::count(&self.gateway.statistics.transactions);
        }
    }

    pub fn shard<'a>(&self, view: &'a View, id: ShardId) -> Result<&'a ringway_topology::model::Shard, Failure> {
        view.topology.shard(id).ok_or_else(|| {
            PgError::internal(format!("shard {id} is not in the topology of epoch {}", view.epoch())).into()
        })
    }

    /// Whether statements must be checked on their shards, because the lease ran out.
    pub fn is_guarded(&self) -> bool {
        !self.gateway.view.lease.is_live()
    }

    /// A connection of the client's role with the session's settings.
    pub async fn checkout(&mut self, view: &View, id: ShardId) -> Result<ReadyConn, Failure> {
        let settings = self.settings.clone();
        self.checkout_with(view, id, &settings).await
    }

    async fn checkout_with(&mut self, view: &View, id: ShardId, settings: &Settings) -> Result<ReadyConn, Failure> {
        if let Some(mut connection) = self.pinned.remove(&id) {
            self.cancel.add(&connection);
            apply_settings(&mut connection, settings).await?;
            return Ok(connection);
        }
        let shard = self.shard(view, id)?;
        let known = self.pools.iter().find(|pool| pool.shard == id && pool.dsn == shard.dsn);
        let pool = match known {
            Some(pool) => Arc::clone(pool),
            None => {
                let Identity { user, credentials, .. } = &self.identity;
                let pool = self.gateway.pools.application(shard, user, credentials)?;
                self.pools.retain(|known| known.shard != id);
                self.pools.push(Arc::clone(&pool));
                pool
            }
        };
        let claim = if self.transaction.participants.is_empty() && self.pinned.is_empty() {
            Claim::First
        } else {
            Claim::Further
        };
        self.entry.set(Activity::Waiting);
        let mut connection = tokio::select! {
            biased;
            connection = pool.checkout(claim) => connection?,
            () = self.cancel.requested() => return Err(cancelled().into()),
            () = self.client.gone() => return Err(Failure::Gone(None)),
        };
        self.entry.set(Activity::Active);
        connection.works_for(self.entry.number);
        self.cancel.add(&connection);
        apply_settings(&mut connection, settings).await?;
        Ok(connection)
    }

    /// The connection to a shard for one statement: the transaction's, opened if need be. What has to go before the statement is queued
    /// ([`super::prefix`]).
    pub async fn lend(&mut self, view: &View, id: ShardId, access: Access) -> Result<Lent, Failure> {
        let wrote = access != Access::Read;
        if let Some(listening) = &mut self.listening {
            listening.may_have_notified |= wrote;
        }
        match self.try_lend(view, id, wrote) {
            Some(lent) => Ok(lent),
            None => Box::pin(self.lend_or_wait(view, id, wrote)).await,
        }
    }

    /// What needs no waiting: the transaction's connection, once it is open, or an idle one that has the session's settings.
    pub fn try_lend(&mut self, view: &View, id: ShardId, wrote: bool) -> Option<Lent> {
        let own_oids = self.only_shard.is_some();
        if self.transaction.is_open() {
            if self.is_guarded() || self.is_serializable() {
                return None;
            }
            let mut participant = match self.transaction.participants.get(&id) {
                Some(participant) if participant.prefix > 0 => return None,
                Some(_) => self.transaction.participants.remove(&id)?,
                None => self.try_join(view, id)?,
            };
            participant.wrote |= wrote;
            participant.notified |= wrote && self.notifies;
            participant.connection.own_oids = own_oids;
            self.transaction.lent += 1;
            return Some(Lent { shard: id, participant, in_transaction: true });
        }
        let mut connection = self.try_checkout(view, id)?;
        connection.own_oids = own_oids;
        let notified = wrote && self.notifies;
        let participant = Participant { wrote, notified, ..Participant::new(connection) };
        Some(Lent { shard: id, participant, in_transaction: false })
    }

    /// An idle connection that has the session's settings, for a session that holds none.
    fn try_checkout(&mut self, view: &View, id: ShardId) -> Option<ReadyConn> {
        if !self.pinned.is_empty() {
            return None;
        }
        let shard = view.topology.shard(id)?;
        let pool = self.pools.iter().find(|pool| pool.shard == id && pool.dsn == shard.dsn)?;
        let connection = pool.try_checkout(Claim::First)?;
        if connection.settings.as_ref() != Some(&self.settings) {
            return None;
        }
        connection.works_for(self.entry.number);
        self.cancel.add(&connection);
        Some(connection)
    }

    /// As [`Self::join`], of a transaction that is open nowhere yet and has set nothing.
    fn try_join(&mut self, view: &View, id: ShardId) -> Option<Participant> {
        let transaction = &self.transaction;
        let is_new = transaction.participants.is_empty() && transaction.lent == 0;
        if !is_new || !transaction.log.is_empty() || !transaction.savepoints.is_empty() {
            return None;
        }
        let connection = self.try_checkout(view, id)?;
        let settings_before = connection.settings.clone();
        let mut participant = Participant { settings_before, ..Participant::new(connection) };
        participant.queue_begin(&self.transaction.modes);
        Some(participant)
    }

    async fn lend_or_wait(&mut self, view: &View, id: ShardId, wrote: bool) -> Result<Lent, Failure> {
        let mut lent = if !self.transaction.is_open() {
            let connection = self.checkout(view, id).await?;
            let participant = Participant { wrote, ..Participant::new(connection) };
            Lent { shard: id, participant, in_transaction: false }
        } else {
            let known = self.transaction.participants.remove(&id);
            let writes = wrote || known.as_ref().is_some_and(|participant| participant.wrote);
            // One that is refused has no part in the transaction.
            if let Err(error) = self.check_serializable(writes) {
                self.transaction.participants.extend(known.map(|participant| (id, participant)));
                return Err(error);
            }
            let participant = match known {
                Some(participant) => participant,
                None => self.join(view, id).await?,
            };
            Lent { shard: id, participant, in_transaction: true }
        };
        lent.participant.wrote |= wrote;
        lent.participant.notified |= wrote && self.notifies;
        lent.participant.connection.own_oids = self.only_shard.is_some();
        if lent.in_transaction {
            self.transaction.lent += 1;
            if self.is_guarded() {
                lent.participant.queue_before(&format!("SELECT ringway.check_epoch({})", view.epoch().0));
            }
        }
        Ok(lent)
    }

    /// Opens the transaction on one more shard; its BEGIN travels with the statement. What the transaction has set is set
    /// inside it, so that ROLLBACK and ROLLBACK TO undo it there as everywhere.
    async fn join(&mut self, view: &View, id: ShardId) -> Result<Participant, Failure> {
        let base = self.transaction.settings_before.clone().unwrap_or_else(|| self.settings.clone());
        let mut connection = self.checkout_with(view, id, &base).await?;
        let settings_before = connection.settings.replace(self.settings.clone());
        let told = (!self.transaction.log.is_empty()).then(|| self.reports.now());
        let mut participant = Participant { told, settings_before, ..Participant::new(connection) };
        participant.queue_begin(&self.transaction.modes);
        for statement in self.transaction.replay() {
            participant.queue_before(&statement);
        }
        Ok(participant)
    }

    pub fn is_serializable(&self) -> bool {
        match self.transaction.isolation() {
            Some(isolation) => isolation == Isolation::Serializable,
            None => self
                .settings
                .get("default_transaction_isolation")
                .is_some_and(|set| set.to_ascii_lowercase().contains("serializable")),
        }
    }

    /// No server would see the whole of a cycle that spans two. `writes`: on a shard that is not among the participants.
    fn check_serializable(&self, writes: bool) -> Result<(), Failure> {
        let serializable = self.is_serializable();
        let read_only = self.transaction.modes.read_only == Some(true);
        let others = !self.transaction.participants.is_empty() && !read_only;
        let writes = writes || self.transaction.participants.values().any(|participant| participant.wrote);
        if serializable && others && writes {
            return Err(PgError::refused(
                "a SERIALIZABLE transaction that writes cannot span shards",
                "Hold all its statements to keys of one shard, or use REPEATABLE READ.",
            )
            .detail("No server would see every dependency between such transactions.")
            .into());
        }
        Ok(())
    }

    /// After a statement: the connection goes back to where it came from.
    pub async fn give_back(&mut self, lent: Lent, outcome: &Outcome) {
        if let Some(connection) = self.try_give_back(lent, outcome) {
            Box::pin(self.release(connection)).await;
        }
    }

    /// Gives the connection again if a cancel request is on its way there.
    pub fn try_give_back(&mut self, mut lent: Lent, outcome: &Outcome) -> Option<ReadyConn> {
        if outcome.settings_changed {
            lent.participant.connection.settings = None;
        }
        if outcome.error.is_some() {
            lent.participant.connection.unnamed = None;
        }
        lent.participant.connection.retires |= outcome.unclosed;
        if outcome.captured.is_some() {
            lent.participant.captured = outcome.captured;
            lent.participant.wrote = true;
        }
        if lent.in_transaction {
            if lent.participant.connection.status != crate::pool::connection::TransactionStatus::InTransaction {
                self.transaction.failed = true;
            }
            self.transaction.lent = self.transaction.lent.saturating_sub(1);
            self.transaction.participants.insert(lent.shard, lent.participant);
            return None;
        }
        if self.transaction.participants.is_empty() && !self.cancel.try_clear() {
            return Some(lent.participant.connection);
        }
        self.put_away(lent.participant.connection);
        None
    }

    /// A connection that no transaction needs any more.
    pub async fn release(&mut self, connection: ReadyConn) {
        if self.transaction.participants.is_empty() {
            self.cancel.clear().await;
        }
        self.put_away(connection);
    }

    fn put_away(&mut self, connection: ReadyConn) {
        let keeps = self.mode == PoolMode::Session || self.pins.contains(&connection.shard());
        if keeps && !connection.broken {
            self.pinned.insert(connection.shard(), connection);
        }
    }

    /// The session keeps its connection to this shard from now on.
    pub fn pin(&mut self, shard: ShardId) {
        if !self.pins.contains(&shard) {
            self.pins.push(shard);
        }
    }

    /// The session ends: its own connections go back as new if it is a session-mode one's, and are closed otherwise.
    pub async fn end_pinned(&mut self) {
        let left_behind = std::mem::take(&mut self.pins);
        let renewing = std::mem::take(&mut self.pinned).into_iter().map(|(shard, mut connection)| {
            let gateway = self.gateway.id;
            let renew = !left_behind.contains(&shard) && connection.is_clean();
            let limit = self.gateway.config.limits.rollback_timeout();
            async move {
                let renewed =
                    renew && matches!(tokio::time::timeout(limit, renewed(&mut connection, gateway)).await, Ok(Ok(_)));
                connection.broken |= !renewed;
            }
        });
        futures_util::future::join_all(renewing).await;
    }

    /// The session's own connections are closed: nobody else may see what it left there.
    pub fn close_pinned(&mut self) {
        self.pins.clear();
        self.has_temporary = false;
        self.held_cursors.clear();
        for (_, mut connection) in std::mem::take(&mut self.pinned) {
            connection.broken = true;
        }
    }

    /// One transaction up to Sync or the end of a simple query.
    pub fn begin_implicit(&mut self) {
        if self.transaction.block == Block::None {
            self.transaction = Transaction {
                block: Block::Implicit,
                settings_before: Some(self.settings.clone()),
                began: Some(SystemTime::now()),
                ..Transaction::default()
            };
        }
    }

    /// What `now()` is in a statement that runs on several shards: one value for a transaction.
    pub fn readings(&self) -> Readings {
        let transaction = self.transaction.began.unwrap_or(self.statement_began);
        let text = |time: SystemTime| humantime::format_rfc3339_micros(time).to_string();
        Readings { transaction: text(transaction), statement: text(self.statement_began.max(transaction)) }
    }

    /// The settings changed: names resolve by another path.
    pub fn settings_changed(&mut self) {
        let timeout = |name| self.setting(name).and_then(super::search_path::value).and_then(|v| timeout::parse(&v));
        self.timeouts = Timeouts {
            idle_session: timeout("idle_session_timeout"),
            idle_in_transaction: timeout("idle_in_transaction_session_timeout"),
        };
        self.names = Names::of(|name| self.settings.get(name), &self.identity.user);
        let local = self.transaction.local_settings != Settings::default();
        self.transaction.names = local.then(|| Names::of(|name| self.setting(name), &self.identity.user));
    }

    /// An error undoes at once what the transaction has set, since its last savepoint if it has one.
    pub fn settings_failed(&mut self) {
        match self.transaction.savepoints.last() {
            Some(savepoint) => self.reports.rolled_back_to(&savepoint.reports),
            None => self.reports.rolled_back(),
        }
    }

    /// The statement that has made a setting what it is now.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.transaction.local_settings.get(name).or_else(|| self.settings.get(name))
    }
}

/// Brings a connection at rest to these settings. A round trip only when they differ.
async fn apply_settings(connection: &mut ReadyConn, settings: &Settings) -> Result<(), Failure> {
    let statements = match &connection.settings {
        Some(known) if known == settings => return Ok(()),
        Some(known) => settings.statements_from(known),
        None => settings.statements_from_unknown(),
    };
    connection.settings = None;
    Box::pin(connection.query(&statements)).await?;
    connection.settings = Some(settings.clone());
    Ok(())
}

/// DISCARD ALL in parts: the gateway's own advisory lock is never free meanwhile.
async fn renewed(connection: &mut ReadyConn, gateway: GatewayId) -> Result<(), Failure> {
    const RENEW_MAX: Duration = Duration::from_secs(5);
    let lock = format!("({GATEWAY_LOCK_CLASS}, {})", gateway_lock_object(gateway));
    connection.queue_query(
        "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; DEALLOCATE ALL; UNLISTEN *; DISCARD PLANS; \
         DISCARD TEMP; DISCARD SEQUENCES",
    );
    connection.queue_query(&format!(
        "SELECT pg_catalog.pg_advisory_xact_lock_shared{lock}; SELECT pg_catalog.pg_advisory_unlock_all(); \
         SELECT pg_catalog.pg_advisory_lock_shared{lock}"
    ));
    let error = match tokio::time::timeout(RENEW_MAX, connection.settle()).await {
        Ok(settled) => settled?,
        Err(_) => return Err(PgError::internal("a connection could not be reset in time").into()),
    };
    if let Some(error) = error {
        return Err(Failure::Server(error));
    }
    connection.settings = Some(Settings::default());
    connection.prepared.clear();
    Ok(())
}

pub fn cancelled() -> PgError {
    PgError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
}
