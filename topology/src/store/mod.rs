//! Where the control plane keeps the topology and the records of its moves.
//!
//! One topology, replaced by compare-and-set on its epoch, and small opaque records (moves, their progress) that only
//! their owner reads. What has been answered has reached the disk. Calls block: an async caller runs them on a blocking
//! thread. Nothing here checks what a topology says; `shardctl`'s control does.

mod memory;
mod sled;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::ids::Epoch;
use crate::model::Topology;

pub use self::memory::MemoryStore;
pub use self::sled::SledStore;

/// Version of the stored form; a store of another version is refused.
const FORMAT: u32 = 1;

/// Kinds of records beside the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A move, by its number.
    Move,
    /// How far a move has come, by its number; written often.
    Progress,
    /// A gateway that may hold a lease, by its number; no content.
    LeaseHolder,
}

impl RecordKind {
    pub const ALL: [RecordKind; 3] = [RecordKind::Move, RecordKind::Progress, RecordKind::LeaseHolder];
    /// What there is of a move.
    pub const OF_MOVES: [RecordKind; 2] = [RecordKind::Move, RecordKind::Progress];

    fn name(self) -> &'static str {
        match self {
            RecordKind::Move => "moves",
            RecordKind::Progress => "progress",
            RecordKind::LeaseHolder => "lease_holders",
        }
    }
}

/// An opaque record and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: RecordKind,
    pub id: u64,
    pub bytes: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has written since; nothing was changed.
    #[error("the store holds epoch {found:?}, not {expected:?}: another control plane has written to it")]
    Conflict { expected: Option<Epoch>, found: Option<Epoch> },
    #[error("the store in {directory} is in use by another process; stop it first (only one `shardctl serve` may own a store)")]
    Locked { directory: String },
    #[error("the store in {directory} cannot be opened")]
    Open { directory: String, source: ::sled::Error },
    #[error("the store failed")]
    Sled(#[from] ::sled::Error),
    #[error("the store's content cannot be read")]
    Format(#[from] serde_json::Error),
    #[error("the store is of format {found}, this program reads {FORMAT}")]
    Version { found: u32 },
}

/// Keeps one topology and the records. Every call that changes something returns when it is durable.
pub trait Store: Send + Sync + 'static {
    /// `None` for a new store.
    fn load(&self) -> Result<Option<Topology>, StoreError>;

    /// Replaces the topology of epoch `expected` (`None`: there is none yet), and puts `record`, both or neither.
    fn compare_and_set(
        &self,
        expected: Option<Epoch>,
        next: &Topology,
        record: Option<&Record>,
    ) -> Result<(), StoreError>;

    fn put(&self, record: &Record) -> Result<(), StoreError>;

    fn get(&self, kind: RecordKind, id: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// Every record of a kind, in the order of ids.
    fn all(&self, kind: RecordKind) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;

    /// Nothing happens if there is none.
    fn remove(&self, kind: RecordKind, id: u64) -> Result<(), StoreError>;
}

#[derive(Serialize)]
struct StoredRef<'a> {
    format: u32,
    topology: &'a Topology,
}

#[derive(Deserialize)]
struct StoredFormat {
    format: u32,
}

#[derive(Deserialize)]
struct Stored {
    topology: Topology,
}

/// The stored form of a topology: JSON with a version, secrets included.
pub fn encode(topology: &Topology) -> Result<Vec<u8>, StoreError> {
    Ok(serde_json::to_vec(&StoredRef { format: FORMAT, topology })?)
}

/// Reads what [`encode`] wrote. Unknown members are ignored; another version is refused.
pub fn decode(bytes: &[u8]) -> Result<Topology, StoreError> {
    let StoredFormat { format } = serde_json::from_slice(bytes)?;
    if format != FORMAT {
        return Err(StoreError::Version { found: format });
    }
    let Stored { topology } = serde_json::from_slice(bytes)?;
    Ok(topology)
}
