//! The Ringway gateway: what applications connect to.

pub mod catalog;
pub mod merge;
pub mod plan;
pub mod sql;
pub mod wire;
