//! Whether the gateway reads SQL as PostgreSQL does: the tree of a statement, printed again, has the statement's meaning.

pub mod meaning;
pub mod print;
pub mod script;
