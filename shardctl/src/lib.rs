//! The control plane, its command line, and the local development cluster.
//!
//! `pg` opens sessions on shards; `control` keeps the topology; `shards`, `tables`, `recovery` and `verify` work on the
//! shards through both; `moves` moves arcs; `serve` offers it all by gRPC, which `cli` calls. It never imports the
//! gateway.

pub mod cli;
pub mod control;
pub mod dev;
pub mod moves;
pub mod pg;
pub mod recovery;
pub mod serve;
pub mod shards;
pub mod tables;
pub mod verify;
