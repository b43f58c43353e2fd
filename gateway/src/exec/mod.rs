//! Runs plans: one shard or many, transactions across shards, the double-write, holding, fences.
//!
//! It knows `wire`, `plan`, `merge` and `pool`; it does not read the client's protocol beyond COPY data ([`crate::session`] does).

pub mod admin;
pub mod aggregate;
pub mod answers;
pub mod bound;
pub mod cancel;
pub mod catalog;
pub mod client;
pub mod clients;
pub mod commit;
pub mod computed;
pub mod console;
pub mod copy_in;
pub mod copy_out;
pub mod cursors;
pub mod ddl;
pub mod describe;
pub mod dispatch;
pub mod executor;
pub mod explain;
pub mod failure;
pub mod fanout;
pub mod faults;
pub mod filter;
pub mod fleet;
pub mod forget;
pub mod forward;
pub mod gateway;
pub mod guarded;
pub mod hold;
pub mod inflight;
pub mod insert;
pub mod insert_select;
pub mod mirror;
pub mod passwords;
pub mod place;
pub mod pump;
pub mod reload;
pub mod search_path;
pub mod show;
pub mod sick;
pub mod statistics;
pub mod takeover;
pub mod transaction;
pub mod view;
