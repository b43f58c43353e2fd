//! Shards: how one joins, and how one leaves.
//!
//! Joining is one routine, run from the start each time and safe to end anywhere: the shard is stored as *joining*
//! first, what is copied is copied in one transaction of the new shard, and the epoch that makes it a member is last
//! but for the lifting of fences, which [`fences::settle`] does after a crash.

pub mod checks;
pub mod copy;
pub mod dump;
pub mod fences;
mod join;
mod migrate;
pub mod remove;
pub mod roles;
pub mod sequences;

pub use join::{join, join_with_warnings, Joined};
pub use migrate::{migrate, migrate_members};
pub use remove::remove;
