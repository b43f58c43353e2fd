//! Shards that did not answer the mirror a moment ago: one transaction at a time tries again, the others leave their rows to the
//! sweeper at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringway_topology::ids::ShardId;

/// How long a shard that did not answer is left alone.
const REST: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Sick {
    until: Mutex<HashMap<ShardId, Instant>>,
    /// Bound of one attempt.
    attempt: Duration,
}

impl Sick {
    pub fn new(attempt: Duration) -> Sick {
        Sick { until: Mutex::default(), attempt }
    }

    fn until(&self) -> MutexGuard<'_, HashMap<ShardId, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the mirror may ask the shard. Of those who ask after its rest, the first one may.
    pub fn may_try(&self, shard: ShardId) -> bool {
        let mut until = self.until();
        match until.get_mut(&shard) {
            None => true,
            Some(rest) if Instant::now() < *rest => false,
            Some(rest) => {
                *rest = Instant::now() + self.attempt + REST;
                true
            }
        }
    }

    pub fn failed(&self, shard: ShardId) {
        self.until().insert(shard, Instant::now() + REST);
    }

    pub fn answered(&self, shard: ShardId) {
        let mut until = self.until();
        if !until.is_empty() {
            until.remove(&shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tries_for_all() {
        let sick = Sick::new(Duration::from_secs(5));
        let shard = ShardId(3);
        assert!(sick.may_try(shard) && sick.may_try(shard));
        sick.failed(shard);
        assert!(!sick.may_try(shard));
        sick.until().insert(shard, Instant::now());
        assert!(sick.may_try(shard), "after its rest");
        assert!(!sick.may_try(shard), "while one tries");
        sick.answered(shard);
        assert!(sick.may_try(shard) && sick.may_try(shard));
    }
}
