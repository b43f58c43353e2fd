//! Moves arcs between shards while applications keep writing.
//!
//! `state` and `step` are the pure state machine; `record` is what is stored of a move; `effects` are what its states do on
//! the shards; `settle`, `chunk` and `sweeper` copy rows; `driver` runs one move, `engine` all of them. `port` is all that this
//! module knows of the control plane. It never serves RPC, and it decides nothing that the `ringway` schema of the shards
//! does not enforce.

pub mod chunk;
pub mod conn;
pub mod context;
pub mod cutover;
pub mod driver;
pub mod effects;
pub mod engine;
pub mod error;
pub mod faults;
pub mod limits;
pub mod port;
pub mod range;
pub mod record;
pub mod settle;
pub mod start;
pub mod state;
pub mod status;
pub mod step;
pub mod sweeper;
pub mod table;
#[cfg(test)]
mod tests;

pub use engine::{Engine, StartMove, What};
pub use error::MoveError;
pub use limits::MoveLimits;
pub use record::{CutoverRecord, MoveRecord};
pub use state::{Direction, State};
pub use status::MoveStatus;
