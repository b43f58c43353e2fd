//! What needs more than one crate: clusters for tests, the shop that demo and fault tests run, and its audit.

pub mod cluster;
pub mod demo;
pub mod shop;
