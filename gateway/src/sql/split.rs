//! A simple-protocol text into its statements.

use std::ops::Range;

use smallvec::SmallVec;

use super::lexer::{lex, Kind, LexError, Lexeme};

/// Most texts are one statement.
pub type Statements = SmallVec<[Range<usize>; 1]>;

/// Byte ranges of the statements of a text, without their semicolons and surrounding blanks and comments; empty
/// statements are left out (an empty list is an empty query). A semicolon inside parentheses (CREATE RULE) or inside
/// `BEGIN ATOMIC ... END` does not end a statement.
pub fn split(sql: &str) -> Result<Statements, LexError> {
    Ok(split_lexemes(sql, &lex(sql)?))
}

/// As [`split`]; `lexemes` are the text's.
pub fn split_lexemes(sql: &str, lexemes: &[Lexeme]) -> Statements {
    let mut statements = Statements::new();
    let mut range: Option<Range<usize>> = None;
    let mut depth = 0usize;
    let mut atomic = 0usize;
    for (index, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::Punctuation(b'(' | b'[') => depth += 1,
            Kind::Punctuation(b')' | b']') => depth = depth.saturating_sub(1),
            Kind::Word if atomic > 0 && lexeme.is_word(sql, "case") => atomic += 1,
            Kind::Word if atomic > 0 && lexeme.is_word(sql, "end") => atomic -= 1,
            Kind::Word if lexeme.is_word(sql, "atomic") && index > 0 && lexemes[index - 1].is_word(sql, "begin") => {
                atomic += 1;
            }
            Kind::Punctuation(b';') if depth == 0 && atomic == 0 => {
                statements.extend(range.take());
                continue;
            }
            _ => {}
        }
        range = Some(range.map_or(lexeme.start, |r| r.start)..lexeme.end);
    }
    statements.extend(range);
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_where_postgresql_does() {
        let sql = "select ';' ; -- a;b\n\t;select $$;$$;/* ; */ create rule r as on insert to t do (a; b);ü;";
        let parts: Vec<&str> = split(sql).unwrap().into_iter().map(|range| &sql[range]).collect();
        assert_eq!(parts, ["select ';'", "select $$;$$", "create rule r as on insert to t do (a; b)", "ü"]);
        assert!(split(" ; ;; -- x").unwrap().is_empty());
        let sql =
            "create function f() returns int begin atomic select case 1 when 1 then 2 end; select 1; end; select 2";
        assert_eq!(split(sql).unwrap().len(), 2);
    }
}
