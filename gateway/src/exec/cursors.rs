//! Cursors that DECLARE makes: which shard each lives on.
//!
//! One without WITH HOLD ends with its transaction, and is kept there; of the others the session keeps the connection.

use std::collections::BTreeSet;

use ringway_topology::ids::ShardId;

use super::executor::Executor;
use crate::sql::parse::Text;

/// What a statement does with a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorCommand {
    Declare {
        name: String,
        hold: bool,
    },
    /// FETCH and MOVE.
    Read {
        name: String,
    },
    Close {
        name: String,
    },
    CloseAll,
}

/// `None`: nothing.
pub fn command(sql: &str) -> Option<CursorCommand> {
    let first = sql.trim_start().get(..4)?.to_ascii_lowercase();
    if !["decl", "fetc", "move", "clos"].contains(&first.as_str()) {
        return None;
    }
    let text = Text::new(sql).ok()?;
    let name = |index: usize| text.lexemes.get(index)?.identifier(sql);
    let last = text.lexemes.len().checked_sub(1)?;
    Some(if text.word(0, "declare") {
        let end = (0..text.lexemes.len()).find(|&index| text.word(index, "for"))?;
        let hold = (2..end).any(|index| text.word(index, "with") && text.word(index + 1, "hold"));
        CursorCommand::Declare { name: name(1)?, hold }
    } else if text.word(0, "close") {
        if text.word(1, "all") {
            CursorCommand::CloseAll
        } else {
            CursorCommand::Close { name: name(1)? }
        }
    } else if text.word(0, "fetch") || text.word(0, "move") {
        CursorCommand::Read { name: name(last)? }
    } else {
        return None;
    })
}

impl Executor {
    /// Where a cursor lives that this session has made.
    pub fn cursor_shard(&self, name: &str) -> Option<ShardId> {
        self.transaction.cursors.get(name).or_else(|| self.held_cursors.get(name)).copied()
    }

    pub fn keep_cursor(&mut self, name: String, hold: bool, shard: ShardId) {
        if hold {
            self.pin(shard);
            self.held_cursors.insert(name, shard);
        } else {
            self.held_cursors.remove(&name);
            self.transaction.cursors.insert(name, shard);
        }
    }

    pub fn forget_cursor(&mut self, name: &str) {
        self.transaction.cursors.remove(name);
        self.held_cursors.remove(name);
    }

    /// Forgets all; where they are.
    pub fn forget_cursors(&mut self) -> BTreeSet<ShardId> {
        let transaction = std::mem::take(&mut self.transaction.cursors);
        let held = std::mem::take(&mut self.held_cursors);
        transaction.into_values().chain(held.into_values()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_about_cursors() {
        let read = |name: &str| Some(CursorCommand::Read { name: name.into() });
        for (sql, expected) in [
            ("DECLARE a CURSOR FOR SELECT 1", Some(CursorCommand::Declare { name: "a".into(), hold: false })),
            (
                "declare \"A b\" BINARY SCROLL CURSOR /* x */ WITH\nHOLD FOR SELECT 1",
                Some(CursorCommand::Declare { name: "A b".into(), hold: true }),
            ),
            (
                "DECLARE a CURSOR WITHOUT HOLD FOR SELECT 1",
                Some(CursorCommand::Declare { name: "a".into(), hold: false }),
            ),
            ("FETCH a", read("a")),
            ("fetch forward 10 from \"A b\"", read("A b")),
            ("MOVE ABSOLUTE -1 IN a", read("a")),
            ("CLOSE a", Some(CursorCommand::Close { name: "a".into() })),
            ("CLOSE ALL", Some(CursorCommand::CloseAll)),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(command(sql), expected, "{sql}");
        }
    }
}
