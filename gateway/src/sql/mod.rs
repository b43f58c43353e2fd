//! SQL text: exact tokens, statement boundaries, parsing, splicing.
//!
//! Everything that is rewritten is spliced into the client's own text by byte ranges that come from [`lexer`], which
//! follows PostgreSQL's `scan.l`. The syntax tree comes from `sqlparser`, with a dialect of our own ([`dialect`]) that is given those
//! tokens.
//!
//! Not here: names, tables, shards.

pub mod clauses;
pub mod depth;
pub mod dialect;
pub mod lexer;
pub mod lift;
pub mod parse;
pub mod splice;
pub mod split;
