//! The Ringway gateway: what applications connect to.

pub mod catalog;
pub mod config;
pub mod exec;
pub mod link;
pub mod merge;
pub mod net;
pub mod plan;
pub mod pool;
pub mod server;
pub mod session;
pub mod sql;
pub mod users;
pub mod wire;
