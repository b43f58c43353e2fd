//! What types and tables are called by number on a shard and on the home shard, whose numbers clients see.
//!
//! Filled with what was asked for ([`ShardOids::learn`]); a number that is not here says nothing. Numbers are not used again, so
//! that an entry stays true while its two ends do; names change hands, so that what was learnt by name is forgotten with every new
//! catalog. Not here: asking the shards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use ringway_topology::ids::ShardId;

use super::connection::ServerConnection;
use crate::wire::frontend;
use crate::wire::oids::{Form, Known, Oids, FIRST_NORMAL};

/// Types and tables of one shard that are remembered; with more, all are forgotten and asked for again.
pub const OIDS_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypePair {
    pub home: u32,
    pub shard: u32,
    /// With the numbers of either side.
    pub home_form: Form,
    pub shard_form: Form,
}

/// Both numbers of things that are the same.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    pub types: Vec<TypePair>,
    /// On the home shard, on the shard.
    pub relations: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<T> {
    other: T,
    /// Both ends were made by one transaction that is known to have made them: names do not matter any more.
    lasting: bool,
}

/// From one side to the other.
#[derive(Clone, Debug, Default)]
pub struct Side {
    types: foldhash::HashMap<u32, Entry<Known>>,
    relations: foldhash::HashMap<u32, Entry<u32>>,
}

impl Oids for Side {
    fn user_type(&self, oid: u32) -> Option<Known> {
        self.types.get(&oid).map(|entry| entry.other)
    }

    fn user_relation(&self, oid: u32) -> Option<u32> {
        self.relations.get(&oid).map(|entry| entry.other)
    }
}

impl Side {
    fn len(&self) -> usize {
        self.types.len() + self.relations.len()
    }

    fn keep_lasting(&mut self) {
        self.types.retain(|_, entry| entry.lasting);
        self.relations.retain(|_, entry| entry.lasting);
    }
}

#[derive(Clone, Debug, Default)]
pub struct Map {
    pub to_home: Side,
    pub to_shard: Side,
    /// How often names have been forgotten.
    pub generation: u64,
}

impl Map {
    fn forget_all(&mut self) {
        *self = Map { generation: self.generation + 1, ..Map::default() };
    }
}

/// Of one shard; shared by all its connections.
#[derive(Debug, Default)]
pub struct ShardOids {
    foreign: AtomicBool,
    map: ArcSwap<Map>,
    writing: Mutex<()>,
}

impl ShardOids {
    /// Its numbers are not the clients'.
    pub fn are_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed)
    }

    pub fn map(&self) -> arc_swap::Guard<Arc<Map>> {
        self.map.load()
    }

    fn change(&self, change: impl FnOnce(&mut Map)) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut map = Map::clone(&self.map.load());
        change(&mut map);
        self.map.store(Arc::new(map));
    }

    /// Pairs that were found by their names while `generation` held; None: both sides were read within the transaction that made
    /// them. False: there is a new catalog meanwhile, and nothing has been learnt.
    pub fn learn(&self, pairs: &Pairs, generation: Option<u64>) -> bool {
        let lasting = generation.is_none();
        let mut learnt = false;
        self.change(|map| {
            if generation.is_some_and(|generation| generation != map.generation) {
                return;
            }
            learnt = true;
            if map.to_home.len() + pairs.types.len() + pairs.relations.len() > OIDS_MAX {
                *map = Map { generation: map.generation, ..Map::default() };
            }
            for pair in &pairs.types {
                let to_home = Entry { other: Known { oid: pair.home, form: pair.shard_form }, lasting };
                let to_shard = Entry { other: Known { oid: pair.shard, form: pair.home_form }, lasting };
                map.to_home.types.insert(pair.shard, to_home);
                map.to_shard.types.insert(pair.home, to_shard);
            }
            for (home, shard) in &pairs.relations {
                map.to_home.relations.insert(*shard, Entry { other: *home, lasting });
                map.to_shard.relations.insert(*home, Entry { other: *shard, lasting });
            }
        });
        learnt
    }
}

/// Of all shards.
#[derive(Debug, Default)]
pub struct OidMaps {
    maps: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    home: Option<(ShardId, String)>,
    shards: HashMap<ShardId, (String, Arc<ShardOids>)>,
}

impl OidMaps {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard with another connection string is another server.
    pub fn of(&self, shard: ShardId, dsn: &str) -> Arc<ShardOids> {
        let mut maps = self.maps();
        if let Some((_, known)) = maps.shards.get(&shard).filter(|(known, _)| known == dsn) {
            return Arc::clone(known);
        }
        let oids = Arc::new(ShardOids::default());
        let foreign = maps.home.as_ref().is_some_and(|(home, _)| *home != shard);
        oids.foreign.store(foreign, Ordering::Relaxed);
        maps.shards.insert(shard, (dsn.to_owned(), Arc::clone(&oids)));
        oids
    }

    /// Whose numbers clients see.
    pub fn set_home(&self, home: ShardId, dsn: &str) {
        let mut maps = self.maps();
        if maps.home.as_ref().is_some_and(|(known, known_dsn)| *known == home && known_dsn == dsn) {
            return;
        }
        maps.home = Some((home, dsn.to_owned()));
        for (shard, (_, oids)) in &maps.shards {
            oids.change(Map::forget_all);
            oids.foreign.store(*shard != home, Ordering::Relaxed);
        }
    }

    /// There is a new catalog: names may mean other things.
    pub fn forget_names(&self) {
        for (_, oids) in self.maps().shards.values() {
            oids.change(|map| {
                map.generation += 1;
                map.to_home.keep_lasting();
                map.to_shard.keep_lasting();
            });
        }
    }
}

/// A type that no server has: stands for one that is not known, and makes an error of it.
const NO_TYPE: u32 = u32::MAX;

impl ServerConnection {
    /// Its numbers must be translated: it is not on the home shard, and its session does not ask for a shard's own.
    pub fn is_foreign(&self) -> bool {
        !self.own_oids && self.oids.are_foreign()
    }

    /// Queues Parse with the types as clients know them. Whoever sends one with types of the application sees to it before that
    /// they are known.
    pub fn queue_parse(&mut self, name: &str, sql: &str, types: &[u32]) {
        if !self.is_foreign() || types.iter().all(|oid| *oid < FIRST_NORMAL) {
            frontend::parse(self.output(), name, sql, types);
            return;
        }
        let map = self.oids.map();
        let own = |oid: &u32| match *oid {
            oid if oid < FIRST_NORMAL => oid,
            oid => map.to_shard.user_type(oid).map_or(NO_TYPE, |known| known.oid),
        };
        let types: Vec<u32> = types.iter().map(own).collect();
        drop(map);
        frontend::parse(self.output(), name, sql, &types);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(home: u32, shard: u32) -> TypePair {
        TypePair { home, shard, home_form: Form::Plain, shard_form: Form::Plain }
    }

    #[test]
    fn what_was_learnt_by_name_goes_with_the_catalog() {
        let maps = OidMaps::default();
        maps.set_home(ShardId(1), "one");
        let (home, other) = (maps.of(ShardId(1), "one"), maps.of(ShardId(2), "two"));
        assert!(!home.are_foreign() && other.are_foreign());
        other.learn(&Pairs { types: vec![pair(20_000, 30_000)], relations: vec![(20_001, 30_001)] }, Some(0));
        other.learn(&Pairs { types: vec![pair(20_002, 30_002)], relations: vec![] }, None);
        assert_eq!(other.map().to_home.user_type(30_000).unwrap().oid, 20_000);
        assert_eq!(other.map().to_shard.user_relation(20_001), Some(30_001));
        maps.forget_names();
        assert_eq!(other.map().to_home.user_type(30_000), None);
        assert_eq!(other.map().to_shard.user_relation(20_001), None);
        assert_eq!(other.map().to_shard.user_type(20_002).unwrap().oid, 30_002);
        assert!(!other.learn(&Pairs::default(), Some(0)), "asked before, answered after");
        maps.set_home(ShardId(2), "two");
        assert!(home.are_foreign() && !other.are_foreign());
        assert_eq!(other.map().to_shard.user_type(20_002), None);
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let oids = ShardOids::default();
        let types =
            |from: u32| Pairs { types: (from..from + 100_000).map(|n| pair(n, n + 1)).collect(), relations: vec![] };
        for from in [100_000, 200_000, 300_000] {
            assert!(oids.learn(&types(from), None));
        }
        assert_eq!(oids.map().to_home.len(), 100_000);
    }
}
