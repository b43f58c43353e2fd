//! Waiting for gateways.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_topology::client::{Acknowledgement, GatewayStatistics, MoveStatistics};
use ringway_topology::ids::{Epoch, GatewayId, MoveId, ShardId};
use ringway_topology::model::Topology;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::error::WaitError;
use super::registry::{GatewaySession, GatewayView, Pending, Registry, Stage};
use super::terminate;
use crate::pg;

/// Between attempts at a shard that cannot be reached.
const SHARD_RETRY_EVERY: Duration = Duration::from_millis(250);

/// Cheap to clone; all clones are one registry.
#[derive(Clone)]
pub struct Gateways {
    shared: Arc<Shared>,
}

struct Shared {
    registry: Mutex<Registry>,
    /// Grows with every registration and acknowledgement.
    changes: watch::Sender<u64>,
    topology: watch::Receiver<Arc<Topology>>,
    tasks: TaskTracker,
}

impl Gateways {
    /// `lease_holders`: gateways that a predecessor may have given leases.
    pub(super) fn new(
        topology: watch::Receiver<Arc<Topology>>,
        tasks: TaskTracker,
        lease_holders: BTreeSet<GatewayId>,
    ) -> Gateways {
        let registry = Mutex::new(Registry::new(Instant::now(), lease_holders));
        Gateways { shared: Arc::new(Shared { registry, changes: watch::Sender::new(0), topology, tasks }) }
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// A gateway's stream begins, with a lease.
    pub(super) fn register(&self, gateway: GatewayId, listen_address: String) -> GatewaySession {
        let session = self.registry().register(Instant::now(), gateway, listen_address);
        self.wake();
        session
    }

    /// False: another stream of the same gateway has taken over.
    pub fn renew(&self, session: GatewaySession) -> bool {
        self.registry().renew(Instant::now(), session)
    }

    pub fn acknowledge(&self, session: GatewaySession, said: Acknowledgement) {
        self.registry().acknowledge(session, said);
        self.wake();
    }

    pub fn report(&self, session: GatewaySession, statistics: GatewayStatistics) {
        self.registry().report(session, statistics);
    }

    pub fn list(&self) -> Vec<GatewayView> {
        self.registry().views(Instant::now())
    }

    pub fn live(&self) -> Vec<GatewayId> {
        self.registry().live(Instant::now())
    }

    pub fn live_count(&self) -> usize {
        self.live().len()
    }

    /// False for at most a lease time after a restart: gateways that have not attached again may hold leases.
    pub fn knows_all_leases(&self) -> bool {
        self.registry().knows_all_leases(Instant::now())
    }

    /// What gateways report of a move, summed.
    pub fn statistics(&self, id: MoveId) -> MoveStatistics {
        self.registry().statistics(id)
    }

    /// Every gateway with a lease routes by `epoch`. Those without one are not waited for.
    pub async fn wait_routed(&self, epoch: Epoch, deadline: Instant) -> Result<(), WaitError> {
        self.wait(epoch, Stage::Routed, deadline, None).await
    }

    /// Every gateway with a lease, but the one that asks, has routed the change that made `epoch`.
    pub async fn wait_change_routed_by_others(
        &self,
        asking: GatewayId,
        epoch: Epoch,
        deadline: Instant,
    ) -> Result<(), WaitError> {
        self.wait(epoch, Stage::Change, deadline, Some(asking)).await
    }

    /// Every gateway with a lease has drained what is older than `epoch`.
    pub async fn wait_drained(&self, epoch: Epoch, deadline: Instant) -> Result<(), WaitError> {
        self.wait(epoch, Stage::Drained, deadline, None).await
    }

    /// Every gateway with a lease routes by `epoch`, and the sessions on `shards` of those without one that did not
    /// acknowledge it have been ended. What such a gateway begins afterwards is guarded.
    pub async fn wait_routed_or_terminate(
        &self,
        epoch: Epoch,
        deadline: Instant,
        shards: &[ShardId],
    ) -> Result<(), WaitError> {
        self.wait_or_terminate(epoch, Stage::Routed, deadline, shards).await
    }

    /// As [`Gateways::wait_routed_or_terminate`], but for the change that made `epoch` alone. A write in flight that stands
    /// against an older change may itself be waiting for what comes after this one.
    pub async fn wait_change_routed_or_terminate(
        &self,
        epoch: Epoch,
        deadline: Instant,
        shards: &[ShardId],
    ) -> Result<(), WaitError> {
        self.wait_or_terminate(epoch, Stage::Change, deadline, shards).await
    }

    /// As [`Gateways::wait_routed_or_terminate`], for `drained`.
    pub async fn wait_drained_or_terminate(
        &self,
        epoch: Epoch,
        deadline: Instant,
        shards: &[ShardId],
    ) -> Result<(), WaitError> {
        self.wait_or_terminate(epoch, Stage::Drained, deadline, shards).await
    }

    async fn wait(
        &self,
        epoch: Epoch,
        stage: Stage,
        deadline: Instant,
        except: Option<GatewayId>,
    ) -> Result<(), WaitError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let now = Instant::now();
            let Some(pending) = self.registry().pending(now, epoch, stage, except) else { return Ok(()) };
            let (until, error) = match pending {
                Pending::Gateway { gateway, listen_address, at, until } => {
                    (until, WaitError::Gateway { gateway, listen_address, epoch: epoch.0, at: at.0 })
                }
                Pending::Unknown { until } => (until, WaitError::Starting),
            };
            if now >= deadline {
                return Err(error);
            }
            // The sender lives as long as `self`; time passing is the other thing that changes the answer.
            let _ = tokio::time::timeout_at(until.min(deadline).into(), changes.changed()).await;
        }
    }

    async fn wait_or_terminate(
        &self,
        epoch: Epoch,
        stage: Stage,
        deadline: Instant,
        shards: &[ShardId],
    ) -> Result<(), WaitError> {
        self.wait(epoch, stage, deadline, None).await?;
        for shard in shards {
            while self.registry().may_have_stale_sessions(epoch, stage, *shard) {
                let (spared, live) = {
                    let registry = self.registry();
                    (registry.acknowledged(epoch, stage), registry.live(Instant::now()))
                };
                match self.end_sessions_except(*shard, &spared, deadline).await {
                    Ok(()) => self.registry().sessions_ended(Instant::now(), &spared, *shard),
                    Err(error) if Instant::now() >= deadline => return Err(error),
                    Err(error) => {
                        tracing::warn!(%error, shard = shard.0, "will try again");
                        tokio::time::sleep(SHARD_RETRY_EVERY).await;
                    }
                }
                // One that registered meanwhile has not acknowledged: its sessions may have gone too, which it survives.
                if live.iter().any(|gateway| !spared.contains(gateway)) {
                    self.wait(epoch, stage, deadline, None).await?;
                }
            }
        }
        Ok(())
    }

    async fn end_sessions_except(
        &self,
        shard: ShardId,
        spared: &[GatewayId],
        deadline: Instant,
    ) -> Result<(), WaitError> {
        let topology = self.shared.topology.borrow().clone();
        // A shard that has gone has no sessions.
        let Some(shard) = topology.shard(shard) else { return Ok(()) };
        let failed = |reason: String| WaitError::Shard { shard: shard.name.clone(), reason };
        let client = pg::connect(&shard.dsn, &shard.name, &self.shared.tasks)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let work = terminate::end_sessions_except(&client, spared);
        match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(pg::message_of(&error))),
            Err(_) => Err(failed("sessions do not end".into())),
        }
    }
}
