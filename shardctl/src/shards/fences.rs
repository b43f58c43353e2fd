//! Fences: reference-table writes and DDL wait on all members while a shard joins or a table is distributed.

use std::time::{Duration, Instant};

use ringway_topology::ids::{Epoch, ShardId};

use crate::control::{Control, ControlError};

/// One attempt waits this long for the transactions that have passed the fence.
const LOCK_TIMEOUT: &str = "2s";
/// All attempts on one shard.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(20);
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Gateways' acknowledgement of an epoch that nothing is held for.
pub const ACKNOWLEDGE_MAX: Duration = Duration::from_secs(30);
const LOCK_NOT_AVAILABLE: &str = "55P03";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fences {
    pub reference: bool,
    pub ddl: bool,
}

impl Fences {
    pub const NONE: Fences = Fences { reference: false, ddl: false };
    pub const DDL: Fences = Fences { reference: false, ddl: true };
    pub const ALL: Fences = Fences { reference: true, ddl: true };
}

pub fn members(control: &Control) -> Vec<ShardId> {
    control.topology().members().map(|shard| shard.id).collect()
}

/// Sets fences on one shard, after the transactions that passed them have ended; tries again within a bound.
async fn set_on(control: &Control, shard: ShardId, fences: Fences) -> Result<(), ControlError> {
    let client = control.shard_client(shard).await?;
    let deadline = Instant::now() + FENCE_WAIT_MAX;
    client.batch_execute(&format!("SET lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    loop {
        let set = client.execute("SELECT ringway.set_fences($1, $2)", &[&fences.reference, &fences.ddl]).await;
        match set.map_err(ControlError::from) {
            Ok(_) => return Ok(()),
            Err(error) if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) => {
                if Instant::now() >= deadline {
                    let name = control.topology().shard(shard).map_or_else(String::new, |shard| shard.name.clone());
                    return Err(ControlError::Precondition(format!(
                        "a transaction on shard {name} that changes the schema or writes a reference table does not \
                         end; end it and try again (look for it in pg_stat_activity)"
                    )));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

/// Sets fences on all members, or on none.
pub async fn raise(control: &Control, fences: Fences) -> Result<(), ControlError> {
    for shard in members(control) {
        if let Err(error) = set_on(control, shard, fences).await {
            lift_or_settle_later(control).await;
            return Err(error);
        }
    }
    Ok(())
}

pub async fn lift(control: &Control) -> Result<(), ControlError> {
    for shard in members(control) {
        set_on(control, shard, Fences::NONE).await?;
    }
    Ok(())
}

async fn any_raised(control: &Control) -> Result<bool, ControlError> {
    for shard in members(control) {
        let client = control.shard_client(shard).await?;
        let sql = "SELECT EXISTS (SELECT FROM ringway.shard s WHERE s.reference_fence OR s.ddl_fence)";
        if client.query_one(sql, &[]).await?.get(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lifts the fences; what cannot be reached now is done in the background.
pub async fn lift_or_settle_later(control: &Control) {
    if let Err(error) = lift(control).await {
        tracing::warn!(%error, "fences stay for the moment");
        // Later: the operation that failed holds the lock that settling needs.
        crate::tables::settle_interrupted(control);
    }
}

/// From here on a gateway without a lease is served on these shards only if it knows this epoch.
pub async fn raise_floors(control: &Control, epoch: Epoch, shards: &[ShardId]) -> Result<(), ControlError> {
    let floor = i64::try_from(epoch.0).unwrap_or(i64::MAX);
    for shard in shards {
        let client = control.shard_client(*shard).await?;
        client.batch_execute("SET lock_timeout = '10s'").await?;
        client.execute("SELECT ringway.raise_epoch_floor($1)", &[&floor]).await?;
    }
    Ok(())
}

/// Every gateway routes by `epoch`, and none can be served on the members that does not know it.
pub async fn everybody_knows(control: &Control, epoch: Epoch) -> Result<(), ControlError> {
    let members = members(control);
    let deadline = Instant::now() + ACKNOWLEDGE_MAX;
    control.gateways().wait_routed_or_terminate(epoch, deadline, &members).await?;
    raise_floors(control, epoch, &members).await
}

/// After a crash or a failure: once every gateway knows the present epoch, no fence is needed. Tries until it is done.
/// The caller holds the operations' lock.
pub async fn settle(control: &Control) {
    loop {
        let epoch = control.topology().epoch;
        let outcome = async {
            if any_raised(control).await? {
                everybody_knows(control, epoch).await?;
                lift(control).await?;
            }
            Ok::<(), ControlError>(())
        };
        match outcome.await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "fences stay for the moment"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
