//! All that the move engine needs of the control plane: the topology, a place for records, gateways' acknowledgements, and
//! sessions on shards; with errors as effects see them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_topology::client::MoveStatistics;
use ringway_topology::ids::{Epoch, MoveId, ShardId};
use ringway_topology::model::{ShardState, Topology};

use super::effects::write_move;
use super::error::MoveError;
use super::record::MoveRecord;
use crate::control::{Control, ControlError, WaitError};
use crate::pg::{PgConnectError, ServiceClient};
use crate::shards;

/// What a change of the topology came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It made this epoch.
    Now(Epoch),
    /// All was so already, in this epoch or an older one.
    Before(Epoch),
}

impl Published {
    pub fn epoch(self) -> Epoch {
        match self {
            Published::Now(epoch) | Published::Before(epoch) => epoch,
        }
    }
}

#[derive(Clone)]
pub struct Cluster {
    pub control: Control,
    /// Whose move is cutting over.
    cutover_turn: Arc<tokio::sync::Mutex<()>>,
}

/// One cutover at a time: two that hold each other's writers would both run into their bound.
pub type CutoverTurn = tokio::sync::OwnedMutexGuard<()>;

impl Cluster {
    pub fn new(control: Control) -> Cluster {
        Cluster { control, cutover_turn: Arc::default() }
    }

    /// `None` while another move cuts over.
    pub fn try_cutover_turn(&self) -> Option<CutoverTurn> {
        Arc::clone(&self.cutover_turn).try_lock_owned().ok()
    }

    pub fn topology(&self) -> Arc<Topology> {
        self.control.topology()
    }

    /// One compare-and-set, flushed; `edit` may run several times.
    pub async fn change(
        &self,
        reason: &str,
        mut edit: impl FnMut(&mut Topology) -> Result<(), MoveError>,
    ) -> Result<Published, MoveError> {
        let mut refused = None;
        let mut present = Epoch(0);
        let changed = self
            .control
            .change(reason, |topology| {
                present = topology.epoch;
                edit(topology).map_err(|error| {
                    let text = error.to_string();
                    refused = Some(error);
                    ControlError::Precondition(text)
                })
            })
            .await;
        match (changed, refused) {
            (Ok(topology), _) if topology.epoch > present => Ok(Published::Now(topology.epoch)),
            (Ok(topology), _) => Ok(Published::Before(topology.epoch)),
            (Err(ControlError::Precondition(_)), Some(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// Flushed when answered.
    pub async fn put_record(&self, record: &MoveRecord) -> Result<(), MoveError> {
        Ok(self.control.put_move_record(record.id, record.to_json()?.into_bytes()).await?)
    }

    /// The record together with the epoch that its state publishes: both are stored, in one flush, or neither. Answers the
    /// epoch, if a new one was needed.
    pub async fn publish_record(&self, record: &MoveRecord) -> Result<Option<Epoch>, MoveError> {
        let bytes = record.to_json()?.into_bytes();
        let reason = format!("move {}: {:?}", record.id, record.state);
        let mut present = Epoch(0);
        let edit = |topology: &mut Topology| {
            present = topology.epoch;
            write_move(record, topology).map_err(|error| ControlError::Precondition(error.to_string()))
        };
        match self.control.change_with_record(&reason, edit, |_| (record.id, bytes.clone())).await {
            Ok(topology) => Ok((topology.epoch > present).then_some(topology.epoch)),
            // The state is stored all the same: its effect meets the same refusal, and says so.
            Err(error @ (ControlError::Precondition(_) | ControlError::Invariant(_))) => {
                tracing::warn!(r#move = record.id.0, %error, "the state's epoch is refused");
                self.put_record(record).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn records(&self) -> Result<Vec<MoveRecord>, MoveError> {
        let records = self.control.move_records().await?;
        records.iter().map(|(_, bytes)| MoveRecord::from_json(&String::from_utf8_lossy(bytes))).collect()
    }

    pub async fn forget_record(&self, id: MoveId) -> Result<(), MoveError> {
        Ok(self.control.remove_move_record(id).await?)
    }

    /// Every gateway routes by `epoch`; the sessions on `shards` of those without a lease have been ended. `Bound` after
    /// `limit`.
    pub async fn wait_routed(&self, epoch: Epoch, shards: &[ShardId], limit: Duration) -> Result<(), MoveError> {
        let deadline = Instant::now() + limit;
        Ok(self.control.gateways().wait_routed_or_terminate(epoch, deadline, shards).await?)
    }

    /// As [`Cluster::wait_routed`], when nothing is waited for but what `published` changed.
    pub async fn wait_published(
        &self,
        published: Published,
        shards: &[ShardId],
        limit: Duration,
    ) -> Result<(), MoveError> {
        let (gateways, deadline) = (self.control.gateways(), Instant::now() + limit);
        match published {
            Published::Now(epoch) => gateways.wait_change_routed_or_terminate(epoch, deadline, shards).await?,
            Published::Before(epoch) => gateways.wait_routed_or_terminate(epoch, deadline, shards).await?,
        }
        Ok(())
    }

    /// Nothing that began before `epoch` is left, likewise.
    pub async fn wait_drained(&self, epoch: Epoch, shards: &[ShardId], limit: Duration) -> Result<(), MoveError> {
        let deadline = Instant::now() + limit;
        Ok(self.control.gateways().wait_drained_or_terminate(epoch, deadline, shards).await?)
    }

    pub async fn session(&self, dsn: &str, shard: &str) -> Result<ServiceClient, MoveError> {
        Ok(self.control.client_of_dsn(dsn, shard).await?)
    }

    /// Brings the `ringway` schema of a member up to date.
    pub async fn migrate(&self, shard: ShardId) -> Result<(), MoveError> {
        let mut client = self.control.shard_client(shard).await?;
        Ok(crate::shards::migrate(&mut client).await?)
    }

    /// Registers a new shard, or goes on registering it, until it is a full member.
    pub async fn join_shard(&self, name: &str, dsn: &str) -> Result<ShardId, MoveError> {
        Ok(shards::join(&self.control, name, dsn).await?)
    }

    /// A shard that has not become a member leaves again.
    pub async fn forget_half_joined(&self, name: &str) -> Result<(), MoveError> {
        match self.topology().shard_named(name) {
            Some(shard) if shard.state == ShardState::Joining => Ok(shards::remove(&self.control, name).await?),
            _ => Ok(()),
        }
    }

    pub fn mirror_statistics(&self, id: MoveId) -> MoveStatistics {
        self.control.gateways().statistics(id)
    }
}

impl From<ControlError> for MoveError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Invalid(_)
            | ControlError::NotFound(_)
            | ControlError::Precondition(_)
            | ControlError::Unimplemented(_)
            | ControlError::Invariant(_) => MoveError::Fatal(error.to_string()),
            ControlError::Connect(error) => error.into(),
            ControlError::Wait(error) => error.into(),
            ControlError::Sql(error) => error.into(),
            ControlError::Unavailable(_)
            | ControlError::Store(_)
            | ControlError::ShuttingDown
            | ControlError::Internal(_) => MoveError::Retry(error.to_string()),
        }
    }
}

impl From<WaitError> for MoveError {
    fn from(error: WaitError) -> Self {
        MoveError::Bound(error.to_string())
    }
}

impl From<PgConnectError> for MoveError {
    fn from(error: PgConnectError) -> Self {
        match &error {
            PgConnectError::Dsn(_) => MoveError::Fatal(error.to_string()),
            PgConnectError::NoSuchShard(_)
            | PgConnectError::Tls { .. }
            | PgConnectError::Timeout { .. }
            | PgConnectError::Refused { .. } => MoveError::Postgres { code: None, text: error.to_string() },
        }
    }
}
