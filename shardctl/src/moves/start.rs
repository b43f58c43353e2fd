//! What a new move must be before it is stored: its shards, its keyspace, its arcs.

use ringway_topology::ids::{KeyspaceId, MoveId, ShardId};
use ringway_topology::model::{MoveKind, ShardState, Topology};
use ringway_topology::ring::TokenArc;
use ringway_topology::token::{KeyValue, Token};

use super::record::{unix_ms, MoveRecord, VerificationRecord, RECORD_VERSION};
use super::state::State;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct StartMove {
    pub kind: MoveKind,
    /// Shard names.
    pub source: String,
    pub target: String,
    /// Register the target as a new shard first.
    pub target_dsn: Option<String>,
    /// None: the only keyspace there is.
    pub keyspace: Option<String>,
    pub what: What,
    /// Stop before the cutover and before completion.
    pub manual: bool,
    pub rollback_window_ms: u64,
    /// 0: no limit.
    pub rate_limit_bytes_per_second: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// In the text form of the key's type.
    Key(String),
    Arc(TokenArc),
    /// Above 0, at most 1: share of the source's token space.
    Fraction(f64),
    All,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Precondition(String),
}

fn invalid<T>(text: impl Into<String>) -> Result<T, StartError> {
    Err(StartError::Invalid(text.into()))
}

/// The record of the move, with the number that the topology gives next. `running`: records of moves that have not ended.
pub fn plan(request: &StartMove, topology: &Topology, running: &[MoveRecord]) -> Result<MoveRecord, StartError> {
    if request.source == request.target {
        return invalid("source and target are the same shard");
    }
    let source = member(topology, &request.source)?;
    let (target, target_dsn) = target(request, topology)?;
    let keyspace = keyspace(request, topology)?;
    let ring = topology
        .keyspace(keyspace)
        .map(|keyspace| keyspace.ring())
        .ok_or_else(|| StartError::NotFound("the keyspace is gone".into()))?;
    let arcs = arcs(request, topology, keyspace, source)?;
    let owned = ring.arcs_of(source);
    let is_owned = |arc: &TokenArc| owned.iter().any(|own| own.after <= arc.after && arc.through <= own.through);
    if let Some(arc) = arcs.iter().find(|arc| !is_owned(arc)) {
        return Err(StartError::Precondition(format!("shard {} does not own all of the arc {arc}", request.source)));
    }
    for other in running {
        if other.keyspace == keyspace && other.arcs.iter().any(|theirs| arcs.iter().any(|ours| ours.intersects(theirs)))
        {
            return Err(StartError::Precondition(format!("move {} is at work on these arcs", other.id)));
        }
        if target_dsn.is_some() && other.target.is_none() && other.target_name == request.target {
            return Err(StartError::Precondition(format!("move {} is registering shard {}", other.id, request.target)));
        }
    }
    let width = |arcs: &[TokenArc]| arcs.iter().map(TokenArc::width).sum::<u128>() as f64;
    Ok(MoveRecord {
        version: RECORD_VERSION,
        id: MoveId(topology.next_move),
        kind: request.kind,
        keyspace,
        source,
        source_name: request.source.clone(),
        target,
        target_name: request.target.clone(),
        target_dsn,
        share_of_owner: (width(&arcs) / width(&owned)).clamp(0.0, 1.0),
        arcs,
        state: State::Planned,
        manual: request.manual,
        rollback_window_ms: request.rollback_window_ms,
        rate_limit_bytes_per_second: request.rate_limit_bytes_per_second,
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
        started_at_unix_ms: unix_ms(),
        switched_at_unix_ms: None,
        ended_at_unix_ms: None,
        backfill_milliseconds: 0,
        rows_deleted: 0,
        swept_rows: 0,
    })
}

fn member(topology: &Topology, name: &str) -> Result<ShardId, StartError> {
    match topology.shard_named(name) {
        None => Err(StartError::NotFound(format!("there is no shard {name}"))),
        Some(shard) if shard.state != ShardState::Member => {
            Err(StartError::Precondition(format!("shard {name} is still joining")))
        }
        Some(shard) => Ok(shard.id),
    }
}

/// Its number, or the connection string that it is to be registered by. A half registered one is gone on with.
fn target(request: &StartMove, topology: &Topology) -> Result<(Option<ShardId>, Option<String>), StartError> {
    let Some(dsn) = request.target_dsn.clone().filter(|dsn| !dsn.is_empty()) else {
        return Ok((Some(member(topology, &request.target)?), None));
    };
    match topology.shard_named(&request.target) {
        Some(shard) if shard.state == ShardState::Member && shard.dsn == dsn => Ok((Some(shard.id), None)),
        Some(shard) if shard.state == ShardState::Member => {
            invalid(format!("there is a shard {} already, with another connection string", request.target))
        }
        _ => Ok((None, Some(dsn))),
    }
}

fn keyspace(request: &StartMove, topology: &Topology) -> Result<KeyspaceId, StartError> {
    match request.keyspace.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => topology
            .keyspace_named(name)
            .map(|keyspace| keyspace.id)
            .ok_or_else(|| StartError::NotFound(format!("there is no keyspace {name}"))),
        None => {
            let mut ids = topology.keyspaces.keys();
            match (ids.next(), ids.next()) {
                (Some(id), None) => Ok(*id),
                (None, _) => {
                    Err(StartError::Precondition("no table is sharded yet, so there is nothing to move".into()))
                }
                (Some(_), Some(_)) => {
                    let names: Vec<&str> = topology.keyspaces.values().map(|keyspace| keyspace.name.as_str()).collect();
                    invalid(format!("name a keyspace: {}", names.join(", ")))
                }
            }
        }
    }
}

fn arcs(
    request: &StartMove,
    topology: &Topology,
    keyspace: KeyspaceId,
    source: ShardId,
) -> Result<Vec<TokenArc>, StartError> {
    let space = topology.keyspace(keyspace).ok_or_else(|| StartError::NotFound("the keyspace is gone".into()))?;
    let arcs = match &request.what {
        What::All => space.ring().arcs_of(source),
        What::Arc(arc) => vec![*arc],
        What::Fraction(fraction) => {
            if !(*fraction > 0.0 && *fraction <= 1.0) {
                return invalid(format!("a fraction lies above 0 and is at most 1, and {fraction} does not"));
            }
            space.ring().take_fraction(source, *fraction).map_err(|error| StartError::Invalid(error.to_string()))?
        }
        What::Key(text) => vec![TokenArc::single(token_of_key(topology, keyspace, text)?)],
    };
    if arcs.is_empty() {
        return Err(StartError::Precondition(format!("shard {} owns nothing of the keyspace", request.source)));
    }
    Ok(arcs)
}

fn token_of_key(topology: &Topology, keyspace: KeyspaceId, text: &str) -> Result<Token, StartError> {
    let Some((_, _, key_type)) = topology.tables_of(keyspace).next() else {
        return Err(StartError::Precondition("the keyspace has no tables".into()));
    };
    KeyValue::from_text(key_type, text).map(|key| key.token()).map_err(|error| StartError::Invalid(error.to_string()))
}
