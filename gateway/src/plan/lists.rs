//! What one server lists of a session: its prepared statements and its cursors. The gateway keeps both, and the connections that it works
//! with are other sessions' too, so the lists are refused. A session that is pinned to a shard sees that shard's.

use super::refuse::refused;
use crate::catalog::builtin::is_list_of_session;
use crate::sql::parse::Text;
use crate::wire::PgError;

/// Wherever such a name stands: no table or column of the application is called so.
pub fn check(text: &Text<'_>) -> Result<(), PgError> {
    let name = |lexeme: &crate::sql::lexer::Lexeme| lexeme.identifier(text.sql);
    match text.lexemes.iter().filter_map(name).find(|name| is_list_of_session(name)) {
        Some(name) => Err(refused(
            format!("{name} cannot be read"),
            "It lists what one server knows of its own session; the session's prepared statements and cursors are the gateway's.",
            "Keep their names where they are made, or SET ringway.shard = 'name' to see what a connection to a shard has.",
        )),
        None => Ok(()),
    }
}
