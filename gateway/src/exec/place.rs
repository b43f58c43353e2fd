//! Where a statement runs now: its targets against the topology that it sees and its parameters.
//!
//! The pure routing is the planner's ([`crate::plan::route`]); here it is joined with what execution needs to know: the
//! rows' footprint, and the moves that concern it.

use ringway_topology::ids::{MoveId, ShardId};
use ringway_topology::model::{Move, Topology};

use smallvec::{smallvec, SmallVec};

use super::failure::Failure;
use super::inflight::{Footprint, FOOTPRINTS_MAX};
use crate::plan::route::{route, Parameter, Shards};
use crate::plan::types::{Access, Targets};
use crate::wire::frontend::Bind;

/// The values that a statement is executed with.
pub type Values<'a> = SmallVec<[Parameter<'a>; 4]>;

/// Of a Bind message, with the types that the client declared.
pub fn values<'a>(bind: Option<&Bind<'a>>, types: &[u32]) -> Values<'a> {
    let Some(bind) = bind else { return Values::new() };
    let formats = bind.parameter_formats;
    let mut values = Values::new();
    for (index, value) in bind.parameters.iter().enumerate() {
        values.push(Parameter { type_oid: types.get(index).copied().unwrap_or(0), format: formats.get(index), value });
    }
    values
}

#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// In the order of their numbers; one at least.
    pub shards: Shards,
    pub footprints: SmallVec<[Footprint; 2]>,
    /// The statement goes where its keys say.
    pub keyed: bool,
    /// Any other member would do as well.
    pub any: bool,
}

impl Placement {
    pub fn single(&self) -> Option<ShardId> {
        match self.shards.as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// Running moves whose arcs the statement may write or lock.
    pub fn moves<'t>(&self, topology: &'t Topology) -> impl Iterator<Item = &'t Move> + use<'t, '_> {
        topology.moves.values().filter(|moving| self.footprints.iter().any(|footprint| footprint.meets(moving)))
    }

    /// The move that holds this statement, if one does.
    pub fn holding(&self, topology: &Topology) -> Option<MoveId> {
        self.moves(topology).find(|moving| moving.routing.hold).map(|moving| moving.id)
    }

    /// Whether the statement's transaction may have captured rows that must be mirrored.
    pub fn is_mirrored(&self, topology: &Topology) -> bool {
        self.moves(topology)
            .any(|moving| moving.routing.mirror && self.shards.iter().any(|shard| moving.peer_of(*shard).is_some()))
    }
}

/// The shards that a statement concerns. `prefer`: for statements that any member can answer.
pub fn place(
    topology: &Topology,
    targets: &Targets,
    access: Access,
    parameters: &[Parameter<'_>],
    prefer: Option<ShardId>,
) -> Result<Placement, Failure> {
    let route = route(targets, topology, parameters)?;
    let mut placement = Placement { shards: route.shards, ..Placement::default() };
    match targets {
        Targets::AnyOne => {
            placement.any = true;
            let member = |id: &ShardId| topology.members().any(|shard| shard.id == *id);
            if let Some(preferred) = prefer.filter(member) {
                placement.shards = smallvec![preferred];
            }
            if access != Access::Read {
                placement.footprints.push(Footprint::Other);
            }
        }
        Targets::Home | Targets::EveryMember => placement.footprints.push(Footprint::Other),
        Targets::Keyspace(keyspace) => placement.footprints.push(Footprint::Keyspace(*keyspace)),
        Targets::Keys(keys) => {
            placement.keyed = true;
            let mut tokens = route.tokens;
            if tokens.len() > 1 {
                tokens.sort_unstable();
                tokens.dedup();
            }
            if tokens.len() > FOOTPRINTS_MAX {
                placement.footprints.push(Footprint::Keyspace(keys.keyspace));
            } else {
                for token in tokens {
                    placement.footprints.push(Footprint::Key(keys.keyspace, token));
                }
            }
        }
    }
    Ok(placement)
}

#[cfg(test)]
mod tests {
    use ringway_topology::ids::KeyspaceId;
    use ringway_topology::model::{Keyspace, Placement as Placing, Shard, ShardState};
    use ringway_topology::ring::Ring;
    use ringway_topology::token::{KeyFamily, KeyValue};

    use super::*;
    use crate::plan::types::{KeyExpression, Keys};

    #[test]
    fn many_keys_are_the_whole_keyspace() {
        let (shard, id) = (ShardId(1), KeyspaceId(1));
        let mut topology = Topology::empty("test".into(), "secret".into());
        let member =
            Shard { id: shard, name: "s1".into(), dsn: String::new(), state: ShardState::Member, system_identifier: 0 };
        topology.shards.insert(shard, member);
        let placement = Placing::Ring(Ring::equal(&[shard]).unwrap());
        topology.keyspaces.insert(id, Keyspace { id, name: "k".into(), family: KeyFamily::Integer, placement });
        let footprints = |keys: usize| {
            // Every key twice.
            let key = |number: usize| KeyExpression::Constant(Some(KeyValue::Int((number % keys) as i64)));
            let targets = Targets::Keys(Keys { keyspace: id, values: (0..2 * keys).map(key).collect() });
            place(&topology, &targets, Access::Write, &[], None).unwrap().footprints
        };
        let few = footprints(FOOTPRINTS_MAX);
        assert_eq!(few.len(), FOOTPRINTS_MAX);
        assert!(few.iter().all(|footprint| matches!(footprint, Footprint::Key(..))));
        assert_eq!(footprints(FOOTPRINTS_MAX + 1).as_slice(), [Footprint::Keyspace(id)]);
    }
}
