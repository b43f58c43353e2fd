//! The Ringway gateway: what applications connect to.

pub mod plan;
pub mod wire;
