//! The control plane, its command line, and the local development cluster.

pub mod dev;
