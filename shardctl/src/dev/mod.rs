//! A local cluster for development and demonstration, of real PostgreSQL servers.
//!
//! `process`, `ports`, `logfile` and `binaries` know the operating system; `postgres` is one server;
//! `state` and `supervisor` keep parts alive; `cluster`, `spare`, `stop` and `detach` are the commands.
//! Nothing here speaks to the control plane but through our own executables.

mod args;
pub mod binaries;
mod cluster;
mod console;
mod detach;
mod logfile;
pub mod ports;
pub mod postgres;
pub mod process;
mod programs;
mod spare;
pub mod state;
mod stop;
mod supervisor;

pub use args::{run, DevArgs};
