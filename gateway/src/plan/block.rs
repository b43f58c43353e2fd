//! BEGIN, COMMIT and ROLLBACK as nearly every client writes them: known by their text alone, in every session and under every catalog.
//!
//! All others are the planner's ([`super::session`]), which says the same of these.

/// A command that begins a transaction block without modes, or ends one without a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockCommand {
    Begin {
        /// The command tag: the verb as it was written.
        tag: &'static str,
    },
    Commit,
    RollBack,
}

const BEGIN: BlockCommand = BlockCommand::Begin { tag: "BEGIN" };
const START: BlockCommand = BlockCommand::Begin { tag: "START TRANSACTION" };

const TEXTS: [(&str, BlockCommand); 16] = [
    ("begin", BEGIN),
    ("commit", BlockCommand::Commit),
    ("end", BlockCommand::Commit),
    ("rollback", BlockCommand::RollBack),
    ("abort", BlockCommand::RollBack),
    ("begin work", BEGIN),
    ("begin transaction", BEGIN),
    ("start transaction", START),
    ("commit work", BlockCommand::Commit),
    ("commit transaction", BlockCommand::Commit),
    ("end work", BlockCommand::Commit),
    ("end transaction", BlockCommand::Commit),
    ("rollback work", BlockCommand::RollBack),
    ("rollback transaction", BlockCommand::RollBack),
    ("abort work", BlockCommand::RollBack),
    ("abort transaction", BlockCommand::RollBack),
];
const TEXT_BYTES_MAX: usize = 24;

impl BlockCommand {
    /// Of a text that is nothing else.
    pub fn of(sql: &str) -> Option<BlockCommand> {
        if sql.len() > TEXT_BYTES_MAX {
            return None;
        }
        let text = sql.trim_ascii();
        let text = text.strip_suffix(';').unwrap_or(text).trim_ascii_end();
        let known = TEXTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(text));
        known.map(|(_, command)| *command)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session;
    use super::super::types::{Plan, SessionCommand, TransactionModes};
    use super::*;
    use crate::sql::parse::Text;

    #[test]
    fn the_planner_says_the_same() {
        for (known, command) in TEXTS {
            assert!(known.len() < TEXT_BYTES_MAX, "{known}");
            let upper = known.to_ascii_uppercase();
            for text in [known, &upper, &format!(" {known} ;\n"), &format!("{known};")] {
                let planned = session::plan(&Text::new(text.trim_ascii().trim_end_matches(';')).unwrap());
                let same = match planned {
                    Some(Ok(Plan::Session(SessionCommand::Begin { modes, tag }))) => {
                        modes == TransactionModes::default() && command == BlockCommand::Begin { tag }
                    }
                    Some(Ok(Plan::Session(SessionCommand::Commit { chain: false }))) => command == BlockCommand::Commit,
                    Some(Ok(Plan::Session(SessionCommand::Rollback { chain: false }))) => {
                        command == BlockCommand::RollBack
                    }
                    _ => false,
                };
                assert!(same, "{text}");
                assert_eq!(BlockCommand::of(text), Some(command), "{text}");
            }
        }
    }

    #[test]
    fn all_others_are_left() {
        for text in
            ["", ";", "begin;;", "begin; commit", "commit and chain", "begin read only", "\u{a0}end", "rollback to a"]
        {
            assert_eq!(BlockCommand::of(text), None, "{text}");
        }
    }
}
