//! Bounds on how deep a statement nests, held before anything recurses into it: a parser or a planner that runs out of stack
//! takes the whole process with it.

use super::lexer::{Kind, Lexeme};

/// Brackets within brackets, and `CASE` within `CASE`.
pub const NESTING_MAX: usize = 96;
/// Operators that follow each other without a comma or a bracket: `a + b + c`, `x OR y OR z`, each one level of the tree.
pub const CHAIN_MAX: usize = 4_000;

/// The size of every thread's stack that parses or plans, for the deepest statement that these bounds let through.
pub const STACK_BYTES: usize = 128 << 20;

/// The token at which a statement is too deep.
pub fn too_deep<'a>(sql: &str, lexemes: &'a [Lexeme]) -> Option<&'a Lexeme> {
    // The chain at hand, and those around it, one per open bracket.
    let mut chain = 0;
    let mut around = Vec::new();
    let mut cases = 0;
    for lexeme in lexemes {
        match lexeme.kind {
            Kind::Punctuation(b'(' | b'[') => around.push(std::mem::take(&mut chain)),
            Kind::Punctuation(b')' | b']') => chain = around.pop().unwrap_or(chain),
            Kind::Punctuation(b',') => chain = 0,
            Kind::Operator => chain += 1,
            Kind::Word => match lexeme.text(sql).to_ascii_lowercase().as_str() {
                "and" | "or" | "not" | "union" | "intersect" | "except" => {
                    chain += 1;
                }
                "case" => cases += 1,
                "end" => cases -= cases.min(1),
                _ => {}
            },
            _ => {}
        }
        if around.len() + cases > NESTING_MAX || chain > CHAIN_MAX {
            return Some(lexeme);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::lexer::lex;

    fn deep(sql: &str) -> bool {
        too_deep(sql, &lex(sql).unwrap()).is_some()
    }

    #[test]
    fn only_what_nests_counts() {
        assert!(!deep(&format!("SELECT {}1{}", "(".repeat(90), ")".repeat(90))));
        assert!(deep(&format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100))));
        assert!(deep(&format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(100), " END".repeat(100))));
        assert!(!deep(&format!("SELECT 1{}", " + 1".repeat(3_000))));
        assert!(deep(&format!("SELECT 1{}", " + 1".repeat(5_000))));
        assert!(deep(&format!("SELECT 1 WHERE {} true", "NOT ".repeat(5_000))));
        // Long lists are not deep.
        assert!(!deep(&format!("INSERT INTO t VALUES (1){}", ", (-1, (2 + 3))".repeat(20_000))));
        assert!(!deep(&format!("SELECT 1{}", ", a + b".repeat(20_000))));
    }
}
