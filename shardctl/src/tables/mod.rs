//! Tables: making them sharded or reference tables, with or without rows, and single again; forgetting dropped ones.
//!
//! `inspect` reads what a table is; `checks` says whether it can be distributed; `distribute` makes the epochs round
//! one distributed transaction, which `shard_rows`, `reference` and `undistribute` fill. Whether that transaction has committed is seen on
//! the home shard alone, so an interrupted change is finished or undone by looking there ([`settle`]).

mod catalog;
mod checks;
mod distribute;
mod inspect;
mod name;
mod reference;
mod settle;
mod shard_rows;
mod undistribute;

use ringway_topology::ids::Epoch;

pub use catalog::{catalog_changed, free_names, watch};
pub use distribute::{reference_table, shard_table};
pub use settle::{settle, settle_interrupted};
pub use undistribute::undistribute_table;

/// What `create_distributed_table` asks for.
#[derive(Debug, Clone)]
pub struct ShardTable {
    /// As in SQL; unqualified means `public`.
    pub table: String,
    pub key_column: String,
    pub keyspace: Option<String>,
    pub colocate_with: Option<String>,
    /// Accept UNIQUE constraints without the key.
    pub allow_local_unique: bool,
}

#[derive(Debug, Clone)]
pub struct Distributed {
    pub epoch: Epoch,
    pub warnings: Vec<String>,
    /// Moved to, or copied to, other shards.
    pub rows: u64,
}
