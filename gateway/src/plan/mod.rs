//! The planner: a pure function of statement, catalog and topology.

pub mod types;
