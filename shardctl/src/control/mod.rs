//! The live topology, its store, and what gateways have said of it.
//!
//! [`Control`] is the only writer. A change is made on a copy, checked, stored by compare-and-set and flushed, and only
//! then published; so what anybody acts on survives a crash. Nothing here knows what a change is for.

mod error;
mod gateways;
mod lease_holders;
mod registry;
mod terminate;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ringway_topology::ids::{Epoch, GatewayId, MoveId, ShardId};
use ringway_topology::model::Topology;
use ringway_topology::ring::every_token_has_one_owner;
use ringway_topology::store::{Record, RecordKind, Store, StoreError};
use tokio::sync::{watch, Mutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pg::{self, PgConnectError, ServiceClient};

pub use error::{ControlError, WaitError};
pub use gateways::Gateways;
pub use registry::{GatewaySession, GatewayView, LEASE};

/// Compare-and-set attempts against another control plane before a change gives up.
const CONFLICTS_MAX: u32 = 8;
/// Bound on waiting for another operation to end.
const OPERATIONS_WAIT_MAX: Duration = Duration::from_secs(120);
/// Bound on the end of owned tasks at shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Cheap to clone; all clones are one control plane.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    topology: watch::Sender<Arc<Topology>>,
    /// Held by the one change that is being made.
    writer: Arc<Mutex<()>>,
    /// Held by the one operation that takes fences: joining, distributing, removing.
    operations: Arc<Mutex<()>>,
    gateways: Gateways,
    /// Held while it is written down who may hold a lease.
    lease_holders: Mutex<()>,
    tasks: TaskTracker,
    token: CancellationToken,
}

impl Control {
    /// Loads the topology, or makes an empty one in a new store. Needs a Tokio runtime. `token` ends all that it owns.
    pub async fn start(store: Arc<dyn Store>, token: CancellationToken) -> Result<Control, ControlError> {
        let of_store = Arc::clone(&store);
        let (topology, lease_holders) = blocking(move || match of_store.load()? {
            Some(topology) => Ok((topology, of_store.all(RecordKind::LeaseHolder)?)),
            None => {
                let topology = Topology::empty(random_hex(8), random_hex(32));
                of_store.compare_and_set(None, &topology, None)?;
                Ok((topology, Vec::new()))
            }
        })
        .await?;
        let tasks = TaskTracker::new();
        let topology = watch::Sender::new(Arc::new(topology));
        let lease_holders = lease_holders.into_iter().map(|(id, _)| GatewayId(id)).collect();
        let gateways = Gateways::new(topology.subscribe(), tasks.clone(), lease_holders);
        let control = Control {
            inner: Arc::new(Inner {
                store,
                topology,
                writer: Arc::default(),
                operations: Arc::default(),
                gateways,
                lease_holders: Mutex::default(),
                tasks,
                token,
            }),
        };
        let forgetting = control.clone();
        drop(control.spawn(async move { forgetting.forget_lost_lease_holders().await }));
        Ok(control)
    }

    /// The present topology.
    pub fn topology(&self) -> Arc<Topology> {
        self.inner.topology.borrow().clone()
    }

    /// The present topology and every later one; one that is replaced before it is looked at is skipped.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Topology>> {
        self.inner.topology.subscribe()
    }

    /// Cancelled when the control plane ends.
    pub fn token(&self) -> &CancellationToken {
        &self.inner.token
    }

    /// Runs `work` as a task that this control plane owns: it is dropped at the next await once the token is cancelled.
    pub fn spawn<F>(&self, work: F) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let token = self.inner.token.clone();
        self.inner.tasks.spawn(async move { token.run_until_cancelled(work).await })
    }

    /// Waits, within a bound, for owned tasks to end; cancels them first.
    pub async fn shut_down(&self) {
        self.inner.token.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.inner.tasks.len(), "tasks did not end in time");
        }
    }

    pub fn gateways(&self) -> &Gateways {
        &self.inner.gateways
    }

    /// One at a time: operations that take the shards' fences.
    pub async fn lock_operations(&self) -> Result<OwnedMutexGuard<()>, ControlError> {
        let lock = Arc::clone(&self.inner.operations).lock_owned();
        tokio::time::timeout(OPERATIONS_WAIT_MAX, lock).await.map_err(|_| {
            ControlError::Unavailable(
                "another operation (a shard that joins, a table that is distributed) is still at work; try again later, \
                 or see the control plane's log"
                    .into(),
            )
        })
    }

    /// Applies `edit` to a copy of the topology, checks the invariants, raises the epoch, stores, flushes, publishes.
    /// An edit that changes nothing makes no epoch. May run `edit` again, on what another control plane has written.
    /// Once the store has been asked, the change is finished even if the caller goes away.
    pub async fn change<E>(&self, reason: &str, edit: E) -> Result<Arc<Topology>, ControlError>
    where
        E: FnMut(&mut Topology) -> Result<(), ControlError>,
    {
        self.change_recorded(reason, edit, |_| None).await
    }

    /// [`Control::change`] that also puts the record of a move, made from the topology as it will be; both are stored
    /// or neither. When the edit changes nothing, the record is put all the same.
    pub async fn change_with_record<E, R>(
        &self,
        reason: &str,
        edit: E,
        record: R,
    ) -> Result<Arc<Topology>, ControlError>
    where
        E: FnMut(&mut Topology) -> Result<(), ControlError>,
        R: FnMut(&Topology) -> (MoveId, Vec<u8>),
    {
        let mut record = record;
        self.change_recorded(reason, edit, |topology| {
            let (id, bytes) = record(topology);
            Some(Record { kind: RecordKind::Move, id: id.0, bytes })
        })
        .await
    }

    async fn change_recorded<E, R>(
        &self,
        reason: &str,
        mut edit: E,
        mut record: R,
    ) -> Result<Arc<Topology>, ControlError>
    where
        E: FnMut(&mut Topology) -> Result<(), ControlError>,
        R: FnMut(&Topology) -> Option<Record>,
    {
        let mut writer = Arc::clone(&self.inner.writer).lock_owned().await;
        for _ in 0..CONFLICTS_MAX {
            let present = self.topology();
            let mut next = Topology::clone(&present);
            edit(&mut next)?;
            if next == *present {
                if let Some(record) = record(&present) {
                    self.put(record).await?;
                }
                return Ok(present);
            }
            next.epoch = Epoch(present.epoch.0 + 1);
            check_invariants(&present, &next).map_err(ControlError::Invariant)?;
            let record = record(&next);
            let next = Arc::new(next);
            match self.store_and_publish(writer, present.epoch, Arc::clone(&next), record).await? {
                Stored::Yes => {
                    tracing::info!(epoch = next.epoch.0, reason, "topology changed");
                    return Ok(next);
                }
                Stored::Conflict(guard) => writer = guard,
            }
        }
        Err(ControlError::Unavailable("another control plane keeps changing the topology; stop one of them".into()))
    }

    /// In a task of its own, so that nothing is stored and not published.
    async fn store_and_publish(
        &self,
        writer: OwnedMutexGuard<()>,
        expected: Epoch,
        next: Arc<Topology>,
        record: Option<Record>,
    ) -> Result<Stored, ControlError> {
        let control = self.clone();
        let task = self.inner.tasks.spawn(async move {
            let store = Arc::clone(&control.inner.store);
            let written = Arc::clone(&next);
            match blocking(move || store.compare_and_set(Some(expected), &written, record.as_ref())).await {
                Ok(()) => {
                    control.publish(next);
                    Ok(Stored::Yes)
                }
                Err(ControlError::Store(StoreError::Conflict { .. })) => {
                    let store = Arc::clone(&control.inner.store);
                    if let Some(found) = blocking(move || store.load()).await? {
                        control.publish(Arc::new(found));
                    }
                    Ok(Stored::Conflict(writer))
                }
                Err(error) => Err(error),
            }
        });
        task.await.map_err(|error| ControlError::Internal(format!("the store's task failed: {error}")))?
    }

    /// epoch_only_grows, also for whoever watches.
    fn publish(&self, next: Arc<Topology>) {
        self.inner.topology.send_if_modified(|known| {
            let newer = known.epoch < next.epoch;
            if newer {
                *known = next;
            }
            newer
        });
    }

    async fn put(&self, record: Record) -> Result<(), ControlError> {
        let store = Arc::clone(&self.inner.store);
        blocking(move || store.put(&record)).await
    }

    async fn all(&self, kind: RecordKind) -> Result<Vec<(MoveId, Vec<u8>)>, ControlError> {
        let store = Arc::clone(&self.inner.store);
        let records = blocking(move || store.all(kind)).await?;
        Ok(records.into_iter().map(|(id, bytes)| (MoveId(id), bytes)).collect())
    }

    /// Flushed when this returns.
    pub async fn put_move_record(&self, id: MoveId, json: Vec<u8>) -> Result<(), ControlError> {
        self.put(Record { kind: RecordKind::Move, id: id.0, bytes: json }).await
    }

    pub async fn move_records(&self) -> Result<Vec<(MoveId, Vec<u8>)>, ControlError> {
        self.all(RecordKind::Move).await
    }

    /// The record and the progress.
    pub async fn remove_move_record(&self, id: MoveId) -> Result<(), ControlError> {
        for kind in RecordKind::OF_MOVES {
            let store = Arc::clone(&self.inner.store);
            blocking(move || store.remove(kind, id.0)).await?;
        }
        Ok(())
    }

    /// Flushed when this returns.
    pub async fn put_progress(&self, id: MoveId, bytes: Vec<u8>) -> Result<(), ControlError> {
        self.put(Record { kind: RecordKind::Progress, id: id.0, bytes }).await
    }

    pub async fn progress(&self, id: MoveId) -> Result<Option<Vec<u8>>, ControlError> {
        let store = Arc::clone(&self.inner.store);
        blocking(move || store.get(RecordKind::Progress, id.0)).await
    }

    /// A new session of the service role.
    pub async fn shard_client(&self, shard: ShardId) -> Result<ServiceClient, PgConnectError> {
        let topology = self.topology();
        let shard = topology.shard(shard).ok_or_else(|| PgConnectError::NoSuchShard(shard.to_string()))?;
        pg::connect(&shard.dsn, &shard.name, &self.inner.tasks).await
    }

    /// A session on a database that is no shard yet.
    pub async fn client_of_dsn(&self, dsn: &str, label: &str) -> Result<ServiceClient, PgConnectError> {
        pg::connect(dsn, label, &self.inner.tasks).await
    }

    /// Replaces an empty cluster's topology by an imported one, which keeps its own identity and epoch.
    pub async fn import(&self, imported: Topology) -> Result<Arc<Topology>, ControlError> {
        self.change("import", |topology| {
            if !topology.shards.is_empty() {
                return Err(ControlError::Precondition(
                    "the store already holds a cluster; import into a new one (another --store directory)".into(),
                ));
            }
            let epoch = topology.epoch;
            *topology = imported.clone();
            topology.epoch = epoch;
            Ok(())
        })
        .await
    }
}

enum Stored {
    Yes,
    /// Another control plane was first; what it wrote has been published.
    Conflict(OwnedMutexGuard<()>),
}

/// The invariants that a topology and its predecessor must keep; the name of the first that is broken.
pub fn check_invariants(present: &Topology, next: &Topology) -> Result<(), &'static str> {
    let rules: [(&'static str, bool); 5] = [
        (
            "every_token_has_one_owner",
            next.keyspaces.values().all(|keyspace| every_token_has_one_owner(keyspace.ring())),
        ),
        ("every_owner_is_a_member", owners_are_members(next)),
        ("arcs_of_running_moves_are_disjoint", next.arcs_of_running_moves_are_disjoint()),
        ("epoch_only_grows", present.epoch < next.epoch),
        ("numbers_are_not_reused", numbers_only_grow(present, next)),
    ];
    rules.iter().find(|(_, holds)| !holds).map_or(Ok(()), |(name, _)| Err(name))
}

fn owners_are_members(topology: &Topology) -> bool {
    let is_member = |id: ShardId| topology.members().any(|shard| shard.id == id);
    topology.keyspaces.values().all(|keyspace| keyspace.ring().owners().into_iter().all(is_member))
}

fn numbers_only_grow(present: &Topology, next: &Topology) -> bool {
    present.next_shard <= next.next_shard
        && present.next_keyspace <= next.next_keyspace
        && present.next_move <= next.next_move
}

/// Runs a call of the store on a blocking thread.
async fn blocking<T, F>(work: F) -> Result<T, ControlError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => Err(ControlError::Internal(format!("the store's thread failed: {error}"))),
    }
}

/// Random bytes in hexadecimal.
fn random_hex(bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", rand::random::<u8>())).collect()
}
