//! Messages from servers to clients: builders that append to a buffer, and parsers that read bodies in place.
//!
//! Builders take the destination first and cannot fail. Parsers take a message's body (without tag and length) and check
//! every length against it; source: PostgreSQL documentation, "Message Formats".

mod build;
mod parse;

#[cfg(test)]
mod tests;

pub use super::pg_error::{ErrorContext, ErrorFields, PgError, Severity};
pub use build::*;
pub use parse::*;

use super::Format;

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDescription {
    pub name: String,
    /// The table the column comes from; 0 if none.
    pub table_oid: u32,
    /// The attribute number in that table; 0 if none.
    pub column: i16,
    pub type_oid: u32,
    /// `pg_type.typlen`: bytes, or negative for variable width.
    pub typlen: i16,
    /// `pg_attribute.atttypmod`: its meaning depends on the type; -1 if none.
    pub typmod: i32,
    pub format: Format,
}
