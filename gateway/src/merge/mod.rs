//! Merging: the answers of several shards become one answer, and one statement's rows become several shards'.
//!
//! Each operator is a pure value: the caller feeds it what shards (or the client) sent, and takes out what is to be sent
//! on. There are no sockets, no clock and nothing async here, and **no SQL is parsed**: places in a statement's text come
//! from the plan.
//!
//! | operator | for | memory |
//! |---|---|---|
//! | [`order_by::OrderBy`] | rows that arrive sorted from each shard | one row per shard, and what the caller queues |
//! | [`concatenate::Concatenate`] | rows in any order, under LIMIT and OFFSET | none |
//! | [`combine::Partials`] | what PostgreSQL itself finishes: aggregates, and orders that are not exactly known here | `gather_bytes_max` |
//! | [`command_tag::CommandTags`] | `UPDATE 3` and `UPDATE 4` | none |
//! | [`insert_split::split`] | a multi-row INSERT | the statement |
//! | [`copy_split::CopySplit`] | COPY FROM STDIN | one row, at most `copy_row_bytes_max`, and what is fed |
//!
//! An order is merged here only where PostgreSQL's comparison is reproduced exactly ([`compare`]); everything else goes
//! through [`combine`], in which a PostgreSQL does the work.

pub mod combine;
pub mod command_tag;
pub mod compare;
pub mod concatenate;
pub mod copy_split;
mod data_row;
mod error;
pub mod insert_split;
pub mod limit;
pub mod order_by;

pub use error::MergeError;

/// Index of a shard among those that a statement runs on.
pub type ShardIndex = usize;
