//! The embedded store, in a directory that one process owns.
//!
//! sled's own flush is half a second late, so every change is flushed before it is answered. It locks its directory
//! exclusively; opening waits a while for a predecessor that is still ending.

use std::path::Path;
use std::time::{Duration, Instant};

use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Db, Tree};

use super::{decode, encode, Record, RecordKind, Store, StoreError};
use crate::ids::Epoch;
use crate::model::Topology;

const TOPOLOGY_TREE: &str = "topology";
const CURRENT: &[u8] = b"current";
/// How long opening waits for another process to let go of the directory.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(5);
const OPEN_POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
pub struct SledStore {
    db: Db,
    topology: Tree,
    moves: Tree,
    progress: Tree,
    lease_holders: Tree,
}

impl SledStore {
    /// Opens or creates the store. Blocks for at most five seconds while another process owns it.
    pub fn open(directory: &Path) -> Result<SledStore, StoreError> {
        SledStore::open_within(directory, OPEN_WAIT_MAX)
    }

    pub fn open_within(directory: &Path, wait_max: Duration) -> Result<SledStore, StoreError> {
        let name = || directory.display().to_string();
        let deadline = Instant::now() + wait_max;
        let db = loop {
            match sled::Config::new().path(directory).open() {
                Ok(db) => break db,
                Err(error) if is_locked(&error) => {
                    if Instant::now() >= deadline {
                        return Err(StoreError::Locked { directory: name() });
                    }
                    std::thread::sleep(OPEN_POLL);
                }
                Err(source) => return Err(StoreError::Open { directory: name(), source }),
            }
        };
        Ok(SledStore {
            topology: db.open_tree(TOPOLOGY_TREE)?,
            moves: db.open_tree(RecordKind::Move.name())?,
            progress: db.open_tree(RecordKind::Progress.name())?,
            lease_holders: db.open_tree(RecordKind::LeaseHolder.name())?,
            db,
        })
    }

    fn tree(&self, kind: RecordKind) -> &Tree {
        match kind {
            RecordKind::Move => &self.moves,
            RecordKind::Progress => &self.progress,
            RecordKind::LeaseHolder => &self.lease_holders,
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }
}

/// sled reports a held lock as an I/O error with this text.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

impl Store for SledStore {
    fn load(&self) -> Result<Option<Topology>, StoreError> {
        self.topology.get(CURRENT)?.as_deref().map(decode).transpose()
    }

    fn compare_and_set(
        &self,
        expected: Option<Epoch>,
        next: &Topology,
        record: Option<&Record>,
    ) -> Result<(), StoreError> {
        let bytes = encode(next)?;
        let records = record.map_or(&self.moves, |record| self.tree(record.kind));
        let outcome = (&self.topology, records).transaction(|(topology, records)| {
            let stored = topology.get(CURRENT)?;
            let found = stored.as_deref().map(decode).transpose().map_err(ConflictableTransactionError::Abort)?;
            let found = found.map(|topology| topology.epoch);
            if found != expected {
                return Err(ConflictableTransactionError::Abort(StoreError::Conflict { expected, found }));
            }
            topology.insert(CURRENT, bytes.as_slice())?;
            if let Some(record) = record {
                records.insert(&record.id.to_be_bytes(), record.bytes.as_slice())?;
            }
            Ok(())
        });
        match outcome {
            Ok(()) => self.flush(),
            Err(TransactionError::Abort(error)) => Err(error),
            Err(TransactionError::Storage(error)) => Err(error.into()),
        }
    }

    fn put(&self, record: &Record) -> Result<(), StoreError> {
        self.tree(record.kind).insert(record.id.to_be_bytes(), record.bytes.as_slice())?;
        self.flush()
    }

    fn get(&self, kind: RecordKind, id: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.tree(kind).get(id.to_be_bytes())?.map(|bytes| bytes.to_vec()))
    }

    fn all(&self, kind: RecordKind) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut records = Vec::new();
        for entry in self.tree(kind).iter() {
            let (key, bytes) = entry?;
            if let Ok(key) = <[u8; 8]>::try_from(key.as_ref()) {
                records.push((u64::from_be_bytes(key), bytes.to_vec()));
            }
        }
        Ok(records)
    }

    fn remove(&self, kind: RecordKind, id: u64) -> Result<(), StoreError> {
        self.tree(kind).remove(id.to_be_bytes())?;
        self.flush()
    }
}
