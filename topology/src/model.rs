//! The topology: what the cluster is made of at one epoch.
//!
//! A [`Topology`] is an immutable value shared by `Arc`; a statement sees exactly one. Nothing here does I/O:
//! stores keep it, the watch client carries it, gateways route by it. Only the RPC edges see its protobuf form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, KeyspaceId, MoveId, ShardId};
use crate::ring::{Ring, TokenArc};
use crate::token::{KeyFamily, KeyType, Token};

/// Schema-qualified name of a table, unquoted, as `pg_class` holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }

    /// `"schema"."name"`, always quoted, safe to splice into SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier in double quotes.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal in single quotes (an `E''` literal when it holds a backslash), whatever
/// `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Named, being filled with schema and reference tables; routes nothing, runs no DDL.
    Joining,
    /// A full member: DDL and reference-table writes go to it.
    Member,
}

/// One PostgreSQL database: a primary and any number of replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub id: ShardId,
    pub name: String,
    /// Connection string of the primary; its user is the service role.
    pub dsn: String,
    pub state: ShardState,
    /// `pg_control_system().system_identifier` at registration.
    pub system_identifier: u64,
}

/// Where a keyspace's rows are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    Ring(Ring),
}

/// Tables sharded by the same kind of key: equal keys live on the same shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    pub id: KeyspaceId,
    pub name: String,
    pub family: KeyFamily,
    pub placement: Placement,
}

impl Keyspace {
    pub fn owner(&self, token: Token) -> ShardId {
        match &self.placement {
            Placement::Ring(ring) => ring.owner(token),
        }
    }

    pub fn ring(&self) -> &Ring {
        match &self.placement {
            Placement::Ring(ring) => ring,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableKind {
    /// Sharded by one column of a keyspace.
    Sharded { keyspace: KeyspaceId, key_column: String, key_type: KeyType },
    /// A full copy on every shard.
    Reference,
}

/// A table that is not listed is *single*: its rows live on [`Topology::home_shard`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: TableName,
    /// While `changing`: the kind it will have.
    pub kind: TableKind,
    /// Its rows are being distributed: statements on it wait for the next epoch, within a bound.
    pub changing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveKind {
    Split,
    Move,
}

/// The phase of a move, as operators see it (DESIGN: "Moving arcs online").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Planned,
    Preparing,
    Mirroring,
    Backfilling,
    Verifying,
    Ready,
    CuttingOver,
    Switched,
    Completing,
    Done,
    Cancelling,
    Cancelled,
    RollingBack,
}

impl Phase {
    pub fn is_final(self) -> bool {
        matches!(self, Phase::Done | Phase::Cancelled)
    }
}

/// What gateways must do for a move at this epoch. The move engine decides it; gateways only follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MoveRouting {
    /// Fan-out statements sent to the source or the target see only rows of arcs that the shard owns by the ring.
    pub filter: bool,
    /// Writes to the arcs are mirrored from the shard that owns them to the other one before they commit.
    pub mirror: bool,
    /// New writes and locking reads on the arcs wait (bounded) for an epoch in which this is false.
    pub hold: bool,
}

/// Arcs travelling from a source shard to a target shard. Only running moves are in a topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub id: MoveId,
    pub kind: MoveKind,
    pub keyspace: KeyspaceId,
    pub source: ShardId,
    pub target: ShardId,
    pub arcs: Vec<TokenArc>,
    pub phase: Phase,
    pub routing: MoveRouting,
}

impl Move {
    pub fn contains(&self, token: Token) -> bool {
        self.arcs.iter().any(|arc| arc.contains(token))
    }

    /// The other end of the move, if `shard` is one end.
    pub fn peer_of(&self, shard: ShardId) -> Option<ShardId> {
        if shard == self.source {
            Some(self.target)
        } else if shard == self.target {
            Some(self.source)
        } else {
            None
        }
    }
}

/// The whole cluster at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Random at creation; recorded on every shard, so that a shard cannot be in two clusters.
    pub cluster_id: String,
    pub epoch: Epoch,
    /// Grows with every DDL: gateways read the catalog again.
    pub catalog_version: u64,
    /// What a gateway shows to `ringway.*` functions on the shards, so that only it may empty captures and decide.
    /// Never printed.
    pub secret: String,
    pub shards: BTreeMap<ShardId, Shard>,
    pub keyspaces: BTreeMap<KeyspaceId, Keyspace>,
    /// Sharded and reference tables only.
    pub tables: Vec<Table>,
    /// Running moves only.
    pub moves: BTreeMap<MoveId, Move>,
    /// Never reused.
    pub next_shard: u16,
    pub next_keyspace: u32,
    pub next_move: u64,
}

impl Topology {
    pub fn empty(cluster_id: String, secret: String) -> Self {
        Topology {
            cluster_id,
            epoch: Epoch(1),
            catalog_version: 1,
            secret,
            shards: BTreeMap::new(),
            keyspaces: BTreeMap::new(),
            tables: Vec::new(),
            moves: BTreeMap::new(),
            next_shard: 1,
            next_keyspace: 1,
            next_move: 1,
        }
    }

    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(&id)
    }

    pub fn shard_named(&self, name: &str) -> Option<&Shard> {
        self.shards.values().find(|shard| shard.name == name)
    }

    /// Full members in the order of their numbers.
    pub fn members(&self) -> impl Iterator<Item = &Shard> {
        self.shards.values().filter(|shard| shard.state == ShardState::Member)
    }

    /// The lowest-numbered member: home of single tables.
    pub fn home_shard(&self) -> Option<ShardId> {
        self.members().next().map(|shard| shard.id)
    }

    pub fn table(&self, schema: &str, name: &str) -> Option<&Table> {
        self.tables.iter().find(|t| t.name.name == name && t.name.schema == schema)
    }

    pub fn keyspace(&self, id: KeyspaceId) -> Option<&Keyspace> {
        self.keyspaces.get(&id)
    }

    pub fn keyspace_named(&self, name: &str) -> Option<&Keyspace> {
        self.keyspaces.values().find(|k| k.name == name)
    }

    /// Tables of a keyspace with their key columns.
    pub fn tables_of(&self, keyspace: KeyspaceId) -> impl Iterator<Item = (&Table, &str, KeyType)> {
        self.tables.iter().filter_map(move |table| match &table.kind {
            TableKind::Sharded { keyspace: k, key_column, key_type } if *k == keyspace => {
                Some((table, key_column.as_str(), *key_type))
            }
            _ => None,
        })
    }

    /// The running move whose arcs hold this token, if any.
    pub fn move_of(&self, keyspace: KeyspaceId, token: Token) -> Option<&Move> {
        self.moves.values().find(|m| m.keyspace == keyspace && m.contains(token))
    }

    /// Arcs that `shard` may hold rows of but does not own at this epoch: a fan-out statement filters them out.
    pub fn foreign_arcs(&self, keyspace: KeyspaceId, shard: ShardId) -> Vec<TokenArc> {
        let Some(space) = self.keyspaces.get(&keyspace) else { return Vec::new() };
        self.moves
            .values()
            .filter(|m| m.keyspace == keyspace && m.routing.filter && m.peer_of(shard).is_some())
            .flat_map(|m| m.arcs.iter())
            .filter(|arc| space.owner(Token(arc.through)) != shard)
            .cloned()
            .collect()
    }

    /// `arcs_of_running_moves_are_disjoint` (invariant).
    pub fn arcs_of_running_moves_are_disjoint(&self) -> bool {
        self.keyspaces.keys().all(|id| {
            let arcs: Vec<TokenArc> =
                self.moves.values().filter(|m| m.keyspace == *id).flat_map(|m| m.arcs.iter().cloned()).collect();
            crate::ring::arcs_are_disjoint(&arcs)
        })
    }
}
