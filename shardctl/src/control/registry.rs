//! What is known of each gateway. Takes the time as a value; waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringway_topology::client::{Acknowledgement, GatewayStatistics, MoveStatistics};
use ringway_topology::ids::{Epoch, GatewayId, MoveId, ShardId};

/// A gateway that was not heard of for this long has no lease any more; by its own clock it ended earlier.
pub const LEASE: Duration = Duration::from_secs(3);
/// Dead gateways that are still listed.
const DEAD_SHOWN_MAX: Duration = Duration::from_secs(600);
const ENTRIES_MAX: usize = 4096;

/// One stream of a gateway: what an older stream of the same gateway says no longer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewaySession {
    pub gateway: GatewayId,
    pub(super) stream: u64,
}

/// A gateway as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayView {
    pub gateway: GatewayId,
    pub listen_address: String,
    pub routed: Epoch,
    pub drained: Epoch,
    pub is_live: bool,
}

/// Which acknowledgement is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Routed, as far as the change that made that epoch is concerned.
    Change,
    /// Routed, with all that changed before.
    Routed,
    Drained,
}

/// What stands between now and everybody's acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pending {
    /// A live gateway; by `until` it has acknowledged or its lease has run out.
    Gateway { gateway: GatewayId, listen_address: String, at: Epoch, until: Instant },
    /// Gateways that this process has not seen may hold leases of its predecessor until then.
    Unknown { until: Instant },
}

#[derive(Debug)]
pub(super) struct Registry {
    entries: BTreeMap<GatewayId, Entry>,
    next_stream: u64,
    /// Gateways that a predecessor may have given leases, and that have not attached yet.
    missing: BTreeSet<GatewayId>,
    /// These leases have run out by then.
    unknown_until: Instant,
    /// Shards on which sessions of gateways that are not in `entries` have been ended since.
    unknown_ended_on: BTreeSet<ShardId>,
    /// Of gateways that are no longer listed.
    retired: BTreeMap<MoveId, MoveStatistics>,
}

#[derive(Debug)]
struct Entry {
    stream: u64,
    listen_address: String,
    said: Acknowledgement,
    lease_until: Instant,
    statistics: GatewayStatistics,
    /// Shards on which its sessions have been ended since its lease ran out.
    ended_on: BTreeSet<ShardId>,
}

impl Entry {
    /// Shown of a gateway that is waited for.
    fn at(&self, stage: Stage) -> Epoch {
        match stage {
            Stage::Change | Stage::Routed => self.said.routed,
            Stage::Drained => self.said.drained,
        }
    }

    fn has(&self, stage: Stage, epoch: Epoch) -> bool {
        match stage {
            Stage::Change => self.said.has_routed_change(epoch),
            Stage::Routed | Stage::Drained => self.at(stage) >= epoch,
        }
    }
}

impl Registry {
    /// `lease_holders`: gateways that a predecessor may have given leases.
    pub(super) fn new(now: Instant, lease_holders: BTreeSet<GatewayId>) -> Registry {
        Registry {
            entries: BTreeMap::new(),
            next_stream: 1,
            missing: lease_holders,
            unknown_until: now + LEASE,
            unknown_ended_on: BTreeSet::new(),
            retired: BTreeMap::new(),
        }
    }

    pub(super) fn register(&mut self, now: Instant, gateway: GatewayId, listen_address: String) -> GatewaySession {
        self.forget_long_dead(now);
        self.missing.remove(&gateway);
        let stream = self.next_stream;
        self.next_stream += 1;
        let entry = self.entries.entry(gateway).or_insert_with(|| Entry {
            stream,
            listen_address: String::new(),
            said: Acknowledgement::default(),
            lease_until: now,
            statistics: GatewayStatistics::default(),
            ended_on: BTreeSet::new(),
        });
        entry.stream = stream;
        entry.listen_address = listen_address;
        entry.lease_until = now + LEASE;
        entry.ended_on.clear();
        GatewaySession { gateway, stream }
    }

    fn forget_long_dead(&mut self, now: Instant) {
        let full = self.entries.len() >= ENTRIES_MAX;
        let (entries, retired) = (&mut self.entries, &mut self.retired);
        let mut forgot = false;
        entries.retain(|_, entry| {
            let shown_until = entry.lease_until + if full { Duration::ZERO } else { DEAD_SHOWN_MAX };
            let keep = now < shown_until;
            if !keep {
                forgot = true;
                for (id, statistics) in &entry.statistics.moves {
                    retired.entry(*id).or_default().merge(statistics);
                }
            }
            keep
        });
        if forgot {
            // Their sessions are sessions of unknown gateways now.
            self.unknown_ended_on.clear();
        }
    }

    /// The entry, if the session is its latest.
    fn entry(&mut self, session: GatewaySession) -> Option<&mut Entry> {
        self.entries.get_mut(&session.gateway).filter(|entry| entry.stream == session.stream)
    }

    /// False for a session that has been replaced.
    pub(super) fn renew(&mut self, now: Instant, session: GatewaySession) -> bool {
        let Some(entry) = self.entry(session) else { return false };
        entry.lease_until = entry.lease_until.max(now + LEASE);
        entry.ended_on.clear();
        true
    }

    pub(super) fn acknowledge(&mut self, session: GatewaySession, said: Acknowledgement) {
        if let Some(entry) = self.entry(session) {
            entry.said.advance(said);
        }
    }

    pub(super) fn report(&mut self, session: GatewaySession, statistics: GatewayStatistics) {
        if let Some(entry) = self.entry(session) {
            entry.statistics = statistics;
        }
    }

    /// The first reason why `epoch` is not acknowledged by every gateway that may hold a lease, but `except`.
    pub(super) fn pending(
        &self,
        now: Instant,
        epoch: Epoch,
        stage: Stage,
        except: Option<GatewayId>,
    ) -> Option<Pending> {
        let late = self
            .entries
            .iter()
            .find(|(gateway, entry)| Some(**gateway) != except && now < entry.lease_until && !entry.has(stage, epoch));
        if let Some((gateway, entry)) = late {
            return Some(Pending::Gateway {
                gateway: *gateway,
                listen_address: entry.listen_address.clone(),
                at: entry.at(stage),
                until: entry.lease_until,
            });
        }
        (!self.knows_all_leases(now)).then_some(Pending::Unknown { until: self.unknown_until })
    }

    /// Whether sessions of gateways that have not acknowledged `epoch` may be left on this shard.
    pub(super) fn may_have_stale_sessions(&self, epoch: Epoch, stage: Stage, shard: ShardId) -> bool {
        !self.unknown_ended_on.contains(&shard)
            || self.entries.values().any(|entry| !entry.has(stage, epoch) && !entry.ended_on.contains(&shard))
    }

    /// Gateways whose sessions may stay: those that have acknowledged.
    pub(super) fn acknowledged(&self, epoch: Epoch, stage: Stage) -> Vec<GatewayId> {
        self.entries.iter().filter(|(_, entry)| entry.has(stage, epoch)).map(|(gateway, _)| *gateway).collect()
    }

    /// The sessions of all other gateways have been ended on this shard. Counts for those that have no lease now.
    pub(super) fn sessions_ended(&mut self, now: Instant, spared: &[GatewayId], shard: ShardId) {
        if self.knows_all_leases(now) {
            self.unknown_ended_on.insert(shard);
        }
        for (gateway, entry) in &mut self.entries {
            if now >= entry.lease_until && !spared.contains(gateway) {
                entry.ended_on.insert(shard);
            }
        }
    }

    pub(super) fn live(&self, now: Instant) -> Vec<GatewayId> {
        self.entries.iter().filter(|(_, entry)| now < entry.lease_until).map(|(gateway, _)| *gateway).collect()
    }

    /// Whether a gateway without a lease may be one whose lease this process does not know.
    pub(super) fn knows_all_leases(&self, now: Instant) -> bool {
        self.missing.is_empty() || now >= self.unknown_until
    }

    /// Gateways that did not attach until the leases that a predecessor gave them had run out.
    pub(super) fn lost(&self, now: Instant) -> Vec<GatewayId> {
        if now < self.unknown_until {
            return Vec::new();
        }
        self.missing.iter().copied().collect()
    }

    pub(super) fn is_latest(&self, session: GatewaySession) -> bool {
        self.entries.get(&session.gateway).is_none_or(|entry| entry.stream == session.stream)
    }

    pub(super) fn views(&self, now: Instant) -> Vec<GatewayView> {
        let view = |(gateway, entry): (&GatewayId, &Entry)| GatewayView {
            gateway: *gateway,
            listen_address: entry.listen_address.clone(),
            routed: entry.said.routed,
            drained: entry.said.drained,
            is_live: now < entry.lease_until,
        };
        self.entries.iter().map(view).collect()
    }

    /// Summed over all gateways since this process started.
    pub(super) fn statistics(&self, id: MoveId) -> MoveStatistics {
        let mut sum = self.retired.get(&id).copied().unwrap_or_default();
        for entry in self.entries.values() {
            if let Some(statistics) = entry.statistics.moves.get(&id) {
                sum.merge(statistics);
            }
        }
        sum
    }
}
