//! Between the model and its protobuf form, both ways.
//!
//! Used at the RPC edges only. The cluster's secret is in no snapshot: gateways get it with their welcome.

mod redact;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ringway_proto::v1;
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::ids::{Epoch, KeyspaceId, MoveId, ShardId};
use crate::model::{Keyspace, Move, MoveRouting, Placement, Shard, ShardState, Table, TableKind, TableName, Topology};
use crate::ring::{ArcError, Ring, RingError, RingPoint, TokenArc};
use crate::token::Token;

pub use redact::without_password;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConvertError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{field} cannot be {value:?}")]
    Unknown { field: &'static str, value: String },
    #[error("a ring is wrong: {0}")]
    Ring(#[from] RingError),
    #[error("an arc is wrong: {0}")]
    Arc(#[from] ArcError),
}

/// Who will see a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Connects to the shards: gets whole DSNs.
    Gateway,
    /// Everybody else: no passwords.
    Observer,
}

pub fn topology_to_proto(topology: &Topology, audience: Audience) -> v1::TopologySnapshot {
    v1::TopologySnapshot {
        cluster_id: topology.cluster_id.clone(),
        epoch: topology.epoch.0,
        catalog_version: topology.catalog_version,
        shards: topology.shards.values().map(|shard| shard_to_proto(shard, audience)).collect(),
        keyspaces: topology.keyspaces.values().map(keyspace_to_proto).collect(),
        tables: topology.tables.iter().map(table_to_proto).collect(),
        moves: topology.moves.values().map(move_to_proto).collect(),
        next_shard: topology.next_shard.into(),
        next_keyspace: topology.next_keyspace,
        next_move: topology.next_move,
    }
}

/// `secret` comes beside the snapshot; empty for an observer.
pub fn topology_from_proto(snapshot: &v1::TopologySnapshot, secret: &str) -> Result<Topology, ConvertError> {
    let shards = snapshot.shards.iter().map(|shard| shard_from_proto(shard).map(|shard| (shard.id, shard)));
    let keyspaces = snapshot.keyspaces.iter().map(|k| keyspace_from_proto(k).map(|k| (k.id, k)));
    let moves = snapshot.moves.iter().map(|m| move_from_proto(m).map(|m| (m.id, m)));
    Ok(Topology {
        cluster_id: snapshot.cluster_id.clone(),
        epoch: Epoch(snapshot.epoch),
        catalog_version: snapshot.catalog_version,
        secret: secret.to_owned(),
        shards: shards.collect::<Result<BTreeMap<_, _>, _>>()?,
        keyspaces: keyspaces.collect::<Result<BTreeMap<_, _>, _>>()?,
        tables: snapshot.tables.iter().map(table_from_proto).collect::<Result<_, _>>()?,
        moves: moves.collect::<Result<BTreeMap<_, _>, _>>()?,
        next_shard: shard_number(snapshot.next_shard)?.0,
        next_keyspace: snapshot.next_keyspace,
        next_move: snapshot.next_move,
    })
}

pub fn shard_to_proto(shard: &Shard, audience: Audience) -> v1::Shard {
    v1::Shard {
        number: shard.id.0.into(),
        name: shard.name.clone(),
        dsn: match audience {
            Audience::Gateway => shard.dsn.clone(),
            Audience::Observer => without_password(&shard.dsn),
        },
        state: match shard.state {
            ShardState::Joining => v1::ShardState::Joining,
            ShardState::Member => v1::ShardState::Member,
        }
        .into(),
        system_identifier: shard.system_identifier,
    }
}

fn shard_from_proto(shard: &v1::Shard) -> Result<Shard, ConvertError> {
    Ok(Shard {
        id: shard_number(shard.number)?,
        name: shard.name.clone(),
        dsn: shard.dsn.clone(),
        state: match shard.state() {
            v1::ShardState::Joining => ShardState::Joining,
            v1::ShardState::Member => ShardState::Member,
            v1::ShardState::Unspecified => return Err(ConvertError::Missing("the state of a shard")),
        },
        system_identifier: shard.system_identifier,
    })
}

fn shard_number(number: u32) -> Result<ShardId, ConvertError> {
    let unknown = |_| ConvertError::Unknown { field: "a shard's number", value: number.to_string() };
    u16::try_from(number).map(ShardId).map_err(unknown)
}

fn keyspace_to_proto(keyspace: &Keyspace) -> v1::Keyspace {
    let point = |point: &RingPoint| v1::RingPoint { token: point.token.0, shard: point.shard.0.into() };
    v1::Keyspace {
        id: keyspace.id.0,
        name: keyspace.name.clone(),
        family: word_of(&keyspace.family),
        ring: keyspace.ring().points().iter().map(point).collect(),
    }
}

fn keyspace_from_proto(keyspace: &v1::Keyspace) -> Result<Keyspace, ConvertError> {
    let point =
        |point: &v1::RingPoint| shard_number(point.shard).map(|shard| RingPoint { token: Token(point.token), shard });
    let points = keyspace.ring.iter().map(point).collect::<Result<Vec<_>, _>>()?;
    Ok(Keyspace {
        id: KeyspaceId(keyspace.id),
        name: keyspace.name.clone(),
        family: from_word("a key family", &keyspace.family)?,
        placement: Placement::Ring(Ring::new(points)?),
    })
}

pub fn table_to_proto(table: &Table) -> v1::Table {
    v1::Table {
        schema: table.name.schema.clone(),
        name: table.name.name.clone(),
        kind: Some(match &table.kind {
            TableKind::Sharded { keyspace, key_column, key_type } => v1::table::Kind::Sharded(v1::ShardedTable {
                keyspace: keyspace.0,
                key_column: key_column.clone(),
                key_type: word_of(key_type),
            }),
            TableKind::Reference => v1::table::Kind::Reference(v1::ReferenceTable {}),
        }),
        changing: table.changing,
    }
}

fn table_from_proto(table: &v1::Table) -> Result<Table, ConvertError> {
    let kind = match table.kind.as_ref().ok_or(ConvertError::Missing("the kind of a table"))? {
        v1::table::Kind::Sharded(sharded) => TableKind::Sharded {
            keyspace: KeyspaceId(sharded.keyspace),
            key_column: sharded.key_column.clone(),
            key_type: from_word("a key type", &sharded.key_type)?,
        },
        v1::table::Kind::Reference(_) => TableKind::Reference,
    };
    Ok(Table { name: TableName::new(&table.schema, &table.name), kind, changing: table.changing })
}

pub fn move_to_proto(m: &Move) -> v1::Move {
    v1::Move {
        id: m.id.0,
        kind: word_of(&m.kind),
        keyspace: m.keyspace.0,
        source: m.source.0.into(),
        target: m.target.0.into(),
        arcs: m.arcs.iter().map(arc_to_proto).collect(),
        phase: word_of(&m.phase),
        filter: m.routing.filter,
        mirror: m.routing.mirror,
        hold: m.routing.hold,
    }
}

pub fn move_from_proto(m: &v1::Move) -> Result<Move, ConvertError> {
    Ok(Move {
        id: MoveId(m.id),
        kind: from_word("the kind of a move", &m.kind)?,
        keyspace: KeyspaceId(m.keyspace),
        source: shard_number(m.source)?,
        target: shard_number(m.target)?,
        arcs: m.arcs.iter().map(arc_from_proto).collect::<Result<_, _>>()?,
        phase: from_word("the phase of a move", &m.phase)?,
        routing: MoveRouting { filter: m.filter, mirror: m.mirror, hold: m.hold },
    })
}

pub fn arc_to_proto(arc: &TokenArc) -> v1::TokenArc {
    v1::TokenArc { after: arc.after, through: arc.through }
}

pub fn arc_from_proto(arc: &v1::TokenArc) -> Result<TokenArc, ConvertError> {
    Ok(TokenArc::new(arc.after, arc.through)?)
}

/// The word by which an enum without fields is serialised, for instance `cutting_over`.
pub fn word_of<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn from_word<T: DeserializeOwned>(field: &'static str, word: &str) -> Result<T, ConvertError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|_| ConvertError::Unknown { field, value: word.to_owned() })
}
