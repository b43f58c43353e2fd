//! What is stored of a move. Everything that a restarted control plane needs to go on is here or on the shards.

use ringway_topology::ids::{KeyspaceId, MoveId, ShardId};
use ringway_topology::model::{MoveKind, TableName};
use ringway_topology::ring::TokenArc;
use serde::{Deserialize, Serialize};

use super::error::MoveError;
use super::state::{Direction, State};

/// The format of [`MoveRecord`]. An older one is read by defaults; a newer one is refused.
pub const RECORD_VERSION: u32 = 1;

/// What an operator has asked for and the state machine has not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    CutOver,
    RollBack,
    Complete,
    Cancel,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveRecord {
    pub version: u32,
    pub id: MoveId,
    pub kind: MoveKind,
    pub keyspace: KeyspaceId,
    pub source: ShardId,
    pub source_name: String,
    /// None until a new target has been registered.
    pub target: Option<ShardId>,
    pub target_name: String,
    /// Of a target that is to be registered first. Holds a password: never shown.
    #[serde(default)]
    pub target_dsn: Option<String>,
    pub arcs: Vec<TokenArc>,
    /// The arcs' share of the source's token space when the move began, for estimates.
    pub share_of_owner: f64,
    pub state: State,
    pub manual: bool,
    pub rollback_window_ms: u64,
    /// 0: none.
    #[serde(default)]
    pub rate_limit_bytes_per_second: u64,
    #[serde(default)]
    pub paused: bool,
    /// Why the move stopped by itself; `resume` tries again.
    #[serde(default)]
    pub stopped: Option<String>,
    #[serde(default)]
    pub request: Option<Request>,
    /// A rolled back move waits for its operator before it cuts over again.
    #[serde(default)]
    pub rolled_back: bool,
    /// Of the moving arcs, what the target had closed before this move: stays closed when it is cancelled. Text of an
    /// int8multirange.
    #[serde(default)]
    pub target_closed_before: Option<String>,
    /// Shapes, file nodes and timelines that the copy was made under.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Verified under `fingerprint`.
    #[serde(default)]
    pub verified: bool,
    #[serde(default)]
    pub tables: Vec<TableRecord>,
    /// Cutovers whose fence has committed.
    #[serde(default)]
    pub handovers: u32,
    #[serde(default)]
    pub cutovers: Vec<CutoverRecord>,
    #[serde(default)]
    pub attempts_undone: u64,
    #[serde(default)]
    pub verification: VerificationRecord,
    pub started_at_unix_ms: u64,
    #[serde(default)]
    pub switched_at_unix_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_unix_ms: Option<u64>,
    #[serde(default)]
    pub backfill_milliseconds: u64,
    #[serde(default)]
    pub rows_deleted: u64,
    #[serde(default)]
    pub swept_rows: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    pub name: TableName,
    pub rows_done: u64,
    pub rows_estimated: u64,
    pub bytes_done: u64,
    /// Primary key of the last row of the last finished chunk, as text; none: begin at the bottom.
    #[serde(default)]
    pub last_key: Option<Vec<String>>,
    pub backfilled: bool,
    pub verified: bool,
}

impl TableRecord {
    pub fn new(name: TableName, rows_estimated: u64) -> Self {
        TableRecord {
            name,
            rows_done: 0,
            rows_estimated,
            bytes_done: 0,
            last_key: None,
            backfilled: false,
            verified: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutoverRecord {
    pub direction: Direction,
    /// When the epoch that holds writes was published; after a restart in between, when the cutover was taken up again.
    pub held_from_unix_us: u64,
    /// When every gateway had acknowledged the release.
    pub released_unix_us: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationRecord {
    pub chunks: u64,
    pub rows: u64,
    pub chunks_looked_at_again: u64,
    pub rows_repaired: u64,
    pub passed: bool,
}

impl MoveRecord {
    pub fn to_json(&self) -> Result<String, MoveError> {
        serde_json::to_string(self)
            .map_err(|error| MoveError::fatal(format!("the move's record cannot be written: {error}")))
    }

    pub fn from_json(text: &str) -> Result<Self, MoveError> {
        let record: MoveRecord = serde_json::from_str(text)
            .map_err(|error| MoveError::fatal(format!("a stored move cannot be read: {error}")))?;
        if record.version > RECORD_VERSION {
            return Err(MoveError::fatal(format!(
                "move {} was stored by a newer shardctl (record version {})",
                record.id, record.version
            )));
        }
        Ok(record)
    }

    /// The two shards as seen in one direction: who owns and captures, who is copied to.
    pub fn ends(&self, direction: Direction) -> Result<(ShardId, ShardId), MoveError> {
        let target = self.target.ok_or_else(|| MoveError::fatal("the target shard is not registered yet"))?;
        Ok(match direction {
            Direction::Forward => (self.source, target),
            Direction::Reverse => (target, self.source),
        })
    }

    pub fn table_mut(&mut self, name: &TableName) -> Option<&mut TableRecord> {
        self.tables.iter_mut().find(|table| table.name == *name)
    }
}

pub fn unix_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

pub fn unix_ms() -> u64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    elapsed.as_millis() as u64
}

#[cfg(test)]
impl MoveRecord {
    pub fn example() -> Self {
        MoveRecord {
            version: RECORD_VERSION,
            id: MoveId(1),
            kind: MoveKind::Move,
            keyspace: KeyspaceId(1),
            source: ShardId(1),
            source_name: "s1".into(),
            target: Some(ShardId(2)),
            target_name: "s2".into(),
            target_dsn: None,
            arcs: vec![TokenArc { after: None, through: 0 }],
            share_of_owner: 1.0,
            state: State::Planned,
            manual: false,
            rollback_window_ms: 0,
            rate_limit_bytes_per_second: 0,
            paused: false,
            stopped: None,
            request: None,
            rolled_back: false,
            target_closed_before: None,
            fingerprint: None,
            verified: false,
            tables: Vec::new(),
            handovers: 0,
            cutovers: Vec::new(),
            attempts_undone: 0,
            verification: VerificationRecord::default(),
            started_at_unix_ms: 1,
            switched_at_unix_ms: None,
            ended_at_unix_ms: None,
            backfill_milliseconds: 0,
            rows_deleted: 0,
            swept_rows: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_newer_one_refused() {
        let mut record = MoveRecord::example();
        let json = record.to_json().unwrap();
        assert_eq!(MoveRecord::from_json(&json).unwrap(), record);
        record.version = RECORD_VERSION + 1;
        assert!(matches!(MoveRecord::from_json(&record.to_json().unwrap()), Err(MoveError::Fatal(_))));
    }
}
