//! What needs more than one crate: clusters for tests, the shop that demo, benches and fault tests run, and its audit.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod grammar;
pub mod scenario;
pub mod shop;
