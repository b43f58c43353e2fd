//! The topology of a Ringway cluster: its model, the ring, tokens, the stores that keep it and the client that watches it.
//!
//! It opens no PostgreSQL connection.

pub mod client;
pub mod convert;
pub mod ids;
pub mod model;
pub mod ring;
pub mod service;
pub mod store;
pub mod token;
