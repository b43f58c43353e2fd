//! A store that forgets: for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{decode, encode, Record, RecordKind, Store, StoreError};
use crate::ids::Epoch;
use crate::model::Topology;

#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// In the stored form, so that a test meets what a restart would.
    topology: Option<Vec<u8>>,
    records: BTreeMap<(RecordKind, u64), Vec<u8>>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load(&self) -> Result<Option<Topology>, StoreError> {
        self.content().topology.as_deref().map(decode).transpose()
    }

    fn compare_and_set(
        &self,
        expected: Option<Epoch>,
        next: &Topology,
        record: Option<&Record>,
    ) -> Result<(), StoreError> {
        let mut content = self.content();
        let found = content.topology.as_deref().map(decode).transpose()?.map(|topology| topology.epoch);
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        content.topology = Some(encode(next)?);
        if let Some(record) = record {
            content.records.insert((record.kind, record.id), record.bytes.clone());
        }
        Ok(())
    }

    fn put(&self, record: &Record) -> Result<(), StoreError> {
        self.content().records.insert((record.kind, record.id), record.bytes.clone());
        Ok(())
    }

    fn get(&self, kind: RecordKind, id: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.content().records.get(&(kind, id)).cloned())
    }

    fn all(&self, kind: RecordKind) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let content = self.content();
        let of_kind = content.records.range((kind, 0)..=(kind, u64::MAX));
        Ok(of_kind.map(|((_, id), bytes)| (*id, bytes.clone())).collect())
    }

    fn remove(&self, kind: RecordKind, id: u64) -> Result<(), StoreError> {
        self.content().records.remove(&(kind, id));
        Ok(())
    }
}
