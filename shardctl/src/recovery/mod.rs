//! Prepared transactions that nobody finishes: each follows its anchor.
//!
//! While the anchor's transaction is in progress it is left alone, unless its gateway has no lease: then its backend is
//! ended. Once it has ended, the row in `ringway.decided` on the anchor decides: there, commit; not there, roll back.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringway_topology::ids::{GatewayId, ShardId};
use ringway_topology::model::Topology;
use ringway_topology::service::{gateway_lock_object, Gid};
use tokio::time::MissedTickBehavior;

use crate::control::{Control, ControlError};
use crate::pg::{is_code, ServiceClient};

use read::Prepared;

const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Bound on all that one round does on one shard.
const SHARD_MAX: Duration = Duration::from_secs(5);
/// The control plane's number in gids.
const CONTROL_PLANE: u64 = 0;
/// Somebody else has just finished it.
const GONE: &str = "42704";
const BUSY: &str = "55000";

/// A transaction as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub gid: String,
    pub shard: String,
    pub anchor_shard: String,
    pub age_milliseconds: u64,
    pub state: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    InProgress,
    Commit,
    RollBack,
}

/// Until it is dropped. One session per shard is kept between rounds.
pub async fn run(control: Control) {
    let mut round = Round::default();
    let mut ticks = tokio::time::interval(ROUND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        round.run(&control).await;
    }
}

/// Finishes the control plane's own transactions; an error if some cannot be finished now.
pub async fn finish_own(control: &Control) -> Result<(), ControlError> {
    let mut round = Round::default();
    round.run(control).await;
    let left: Vec<String> = list(control)
        .await
        .into_iter()
        .filter(|one| Gid::parse(&one.gid).is_some_and(|gid| gid.gateway == CONTROL_PLANE))
        .map(|one| format!("{} on {}", one.gid, one.shard))
        .collect();
    if left.is_empty() && round.unreachable.is_empty() {
        return Ok(());
    }
    let shards: Vec<String> = round.unreachable.iter().map(|shard| shard.to_string()).collect();
    Err(ControlError::Unavailable(format!(
        "prepared transactions are left ({}); shards not reached: {}",
        left.join(", "),
        shards.join(", ")
    )))
}

/// Prepared transactions of ours on all shards that can be reached.
pub async fn list(control: &Control) -> Vec<Listed> {
    let topology = control.topology();
    let mut round = Round::default();
    let name = |id: ShardId| topology.shard(id).map_or_else(|| format!("number {id}"), |shard| shard.name.clone());
    let mut listed = Vec::new();
    for (shard, prepared) in round.prepared(control, &topology).await {
        for one in prepared {
            let state = match round.verdict(control, &topology, &one.gid).await {
                Ok(Verdict::InProgress) => "in progress".to_owned(),
                Ok(Verdict::Commit) => "committing".to_owned(),
                Ok(Verdict::RollBack) => "rolling back".to_owned(),
                Err(_) => format!("waiting for {}", name(one.gid.anchor)),
            };
            listed.push(Listed {
                gid: one.gid.to_string(),
                shard: name(shard),
                anchor_shard: name(one.gid.anchor),
                age_milliseconds: one.age_milliseconds,
                state,
            });
        }
    }
    listed
}

#[derive(Default)]
struct Round {
    sessions: BTreeMap<ShardId, ServiceClient>,
    unreachable: BTreeSet<ShardId>,
}

impl Round {
    async fn run(&mut self, control: &Control) {
        let topology = control.topology();
        self.sessions.retain(|id, client| topology.shards.contains_key(id) && !client.is_closed());
        self.unreachable.clear();
        // Decisions first: what is decided later and prepared nowhere is not old enough to be forgotten.
        let decided = self.decided(control, &topology).await;
        let prepared = self.prepared(control, &topology).await;
        for (shard, transactions) in &prepared {
            for one in transactions {
                self.finish(control, &topology, *shard, one).await;
            }
        }
        let in_use: BTreeSet<String> =
            prepared.iter().flat_map(|(_, all)| all).map(|one| one.gid.to_string()).collect();
        self.forget(control, decided, &in_use).await;
    }

    /// Runs `work` on a shard within the bound; a session that fails is not used again.
    async fn on<T>(
        &mut self,
        control: &Control,
        shard: ShardId,
        work: impl AsyncFnOnce(&ServiceClient) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, ControlError> {
        let bounded = tokio::time::timeout(SHARD_MAX, async {
            let client = match self.sessions.remove(&shard).filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => control.shard_client(shard).await?,
            };
            let outcome = work(&client).await;
            let usable = !matches!(&outcome, Err(error) if error.is_closed());
            if usable {
                self.sessions.insert(shard, client);
            }
            Ok::<T, ControlError>(outcome?)
        });
        let outcome = match bounded.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ControlError::Unavailable(format!("shard {shard} does not answer"))),
        };
        if matches!(&outcome, Err(ControlError::Connect(_) | ControlError::Unavailable(_))) {
            self.unreachable.insert(shard);
        }
        outcome
    }

    async fn prepared(&mut self, control: &Control, topology: &Topology) -> Vec<(ShardId, Vec<Prepared>)> {
        let mut found = Vec::new();
        for shard in topology.shards.values() {
            match self.on(control, shard.id, async |client| read::prepared(client).await).await {
                Ok(prepared) => found.push((shard.id, prepared)),
                Err(error) => {
                    self.unreachable.insert(shard.id);
                    tracing::debug!(shard = %shard.name, %error, "prepared transactions are not seen");
                }
            }
        }
        found
    }

    /// Old decisions by anchor.
    async fn decided(&mut self, control: &Control, topology: &Topology) -> Vec<(ShardId, Vec<Gid>)> {
        let mut found = Vec::new();
        for shard in topology.shards.values() {
            if let Ok(decided) = self.on(control, shard.id, async |client| read::old_decisions(client).await).await {
                found.push((shard.id, decided));
            }
        }
        found
    }

    async fn verdict(&mut self, control: &Control, topology: &Topology, gid: &Gid) -> Result<Verdict, ControlError> {
        if topology.shard(gid.anchor).is_none() {
            return Err(ControlError::NotFound(format!("shard number {} is not in the cluster", gid.anchor)));
        }
        let text = gid.to_string();
        let (in_progress, decided) =
            self.on(control, gid.anchor, async |client| read::decision(client, gid.anchor_xid, &text).await).await?;
        Ok(match (in_progress, decided) {
            (true, _) => Verdict::InProgress,
            (false, true) => Verdict::Commit,
            (false, false) => Verdict::RollBack,
        })
    }

    async fn finish(&mut self, control: &Control, topology: &Topology, shard: ShardId, one: &Prepared) {
        let gid = one.gid.to_string();
        let sql = match self.verdict(control, topology, &one.gid).await {
            Ok(Verdict::InProgress) => return self.end_dead_anchor(control, &one.gid).await,
            Ok(Verdict::Commit) => format!("COMMIT PREPARED '{gid}'"),
            Ok(Verdict::RollBack) => format!("ROLLBACK PREPARED '{gid}'"),
            Err(error) => return tracing::warn!(gid, %error, "a prepared transaction waits for its anchor"),
        };
        match self.on(control, shard, async |client| client.batch_execute(&sql).await).await {
            Ok(()) => tracing::info!(shard = shard.0, statement = %sql, "finished a transaction left prepared"),
            Err(ControlError::Sql(error)) if is_code(&error, GONE) || is_code(&error, BUSY) => {}
            Err(error) => tracing::warn!(shard = shard.0, gid, %error, "a prepared transaction cannot be finished"),
        }
    }

    /// Ends the anchor's backend if its gateway has no lease.
    async fn end_dead_anchor(&mut self, control: &Control, gid: &Gid) {
        if gid.gateway == CONTROL_PLANE || !control.gateways().knows_all_leases() {
            return;
        }
        if control.gateways().live().contains(&GatewayId(gid.gateway)) {
            return;
        }
        let object = gateway_lock_object(GatewayId(gid.gateway)) as u32;
        let xid = gid.anchor_xid;
        let ended = self.on(control, gid.anchor, async |client| read::end_backend(client, xid, object).await).await;
        match ended {
            Ok(true) => tracing::info!(%gid, "ended an anchor whose gateway is gone"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%gid, %error, "an anchor whose gateway is gone cannot be ended"),
        }
    }

    /// Decisions that nobody can ask for any more.
    async fn forget(&mut self, control: &Control, decided: Vec<(ShardId, Vec<Gid>)>, in_use: &BTreeSet<String>) {
        if !self.unreachable.is_empty() || !control.gateways().knows_all_leases() {
            return;
        }
        let live = control.gateways().live();
        for (shard, gids) in decided {
            let done: Vec<String> = gids
                .into_iter()
                .filter(|gid| !live.contains(&GatewayId(gid.gateway)))
                .map(|gid| gid.to_string())
                .filter(|gid| !in_use.contains(gid))
                .collect();
            if done.is_empty() {
                continue;
            }
            let sql = "DELETE FROM ringway.decided WHERE gid = ANY ($1)";
            match self.on(control, shard, async |client| client.execute(sql, &[&done]).await).await {
                Ok(rows) => tracing::debug!(shard = shard.0, rows, "old decisions forgotten"),
                Err(error) => tracing::debug!(shard = shard.0, %error, "old decisions stay"),
            }
        }
    }
}
