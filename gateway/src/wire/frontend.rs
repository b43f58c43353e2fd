//! Messages from clients to servers: zero-copy parsers, builders of what a gateway sends, and renaming of statements and
//! portals in messages that are otherwise forwarded as they are.
//!
//! Every length is checked against the body and every string is UTF-8; nothing is allocated by parsing. Source:
//! PostgreSQL documentation, "Message Formats".

mod build;
mod parse;
mod rename;

#[cfg(test)]
mod tests;

pub use build::*;
pub use parse::*;
pub use rename::rename;
