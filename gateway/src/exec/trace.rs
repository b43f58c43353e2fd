//! What EXPLAIN ANALYZE tells of a statement over several shards: which shard gave how many rows, and when it had answered.

use std::time::Duration;

use ringway_topology::ids::ShardId;

/// Filled while a statement runs, if its session has one.
#[derive(Debug, Default)]
pub struct Trace {
    /// The fragment whose rows come now.
    pub fragment: Option<usize>,
    /// In the order in which shards have been asked.
    pub parts: Vec<Part>,
    /// Nothing else was done than to wait for shards.
    pub waited: Duration,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub fragment: Option<usize>,
    pub shard: ShardId,
    pub rows: u64,
    /// Since the shards were asked.
    pub elapsed: Duration,
}

impl Trace {
    pub fn add(&mut self, shard: ShardId, rows: u64, elapsed: Duration) {
        self.parts.push(Part { fragment: self.fragment, shard, rows, elapsed });
    }

    /// Rows and time of one shard, all requests together. None: it was not asked.
    pub fn of(&self, fragment: Option<usize>, shard: ShardId) -> Option<(u64, Duration)> {
        let parts = self.parts.iter().filter(|part| part.fragment == fragment && part.shard == shard);
        parts.map(|part| (part.rows, part.elapsed)).reduce(|(rows, time), (more, later)| (rows + more, time + later))
    }
}
