//! Forms that the tree has no node for, written as forms that it has, token by token. Positions stay those of the text.

mod calls;
mod tables;
mod windows;
mod writes;

pub use tables::table_commands;

use std::cell::Cell;

use sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::places::{places, Place};
use super::{span, tokens, MADE_UP};
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;

/// Tokens that the rules look at beyond their own places, in one statement: with more it is not understood.
const LOOKED_AT_MAX: usize = 4 << 20;

pub struct Rewriter<'t> {
    text: &'t Text<'t>,
    places: Vec<Place>,
    out: Vec<TokenWithSpan>,
    /// Brackets within brackets that the rules look into.
    depth: usize,
    looked_at: Cell<usize>,
}

type Step = Result<usize, String>;

/// The tokens of a statement for the parser.
pub fn rewrite(text: &Text<'_>) -> Result<Vec<TokenWithSpan>, String> {
    let out = Vec::with_capacity(text.lexemes.len() + 8);
    let mut rewriter = Rewriter { text, places: places(text), out, depth: 0, looked_at: Cell::new(0) };
    rewriter.copy(0, text.lexemes.len())?;
    if rewriter.looked_at.get() > LOOKED_AT_MAX {
        return Err("the statement is too long".to_owned());
    }
    Ok(rewriter.out)
}

impl Rewriter<'_> {
    /// Tokens `from..to`, rules applied.
    fn copy(&mut self, from: usize, to: usize) -> Result<(), String> {
        self.depth += 1;
        if self.depth > super::super::depth::NESTING_MAX {
            return Err("the statement is nested too deeply".to_owned());
        }
        let mut at = from;
        while at < to {
            at = self.step(at)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// What begins at this token; gives the token behind it.
    fn step(&mut self, at: usize) -> Step {
        let lexeme = self.text.lexemes[at];
        let named = match lexeme.kind {
            Kind::Word if !self.is_label(at) => self.word(at)?,
            Kind::Operator if lexeme.text(self.text.sql) == "*" => self.star(at),
            _ => None,
        };
        if let Some(next) = named {
            return Ok(next);
        }
        if matches!(lexeme.kind, Kind::Word | Kind::QuotedWord) && self.is_target(at) {
            return self.target(at);
        }
        self.push(at)
    }

    /// `t.only`, `AS only`.
    fn is_label(&self, at: usize) -> bool {
        at > 0
            && (self.text.punctuation(at - 1, b'.') || self.places[at] == Place::Items && self.text.word(at - 1, "as"))
    }

    /// The token itself.
    fn push(&mut self, at: usize) -> Step {
        let (token, taken) = tokens::token(self.text, at)?;
        self.put(at, token);
        Ok(at + taken)
    }

    /// A token of our own, at the place of one of the text.
    fn put(&mut self, at: usize, token: Token) {
        let span = self.text.lexemes.get(at).map_or(Span::empty(), span);
        self.out.push(TokenWithSpan { token, span });
    }

    fn put_word(&mut self, at: usize, word: &str) {
        self.put(at, Token::make_word(word, None));
    }

    fn put_made_up(&mut self, at: usize, name: &str) {
        self.put(at, Token::make_word(name, Some(MADE_UP)));
    }

    fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.word(at, word))
    }

    fn is_name(&self, at: usize) -> bool {
        self.text.lexemes.get(at).is_some_and(|lexeme| matches!(lexeme.kind, Kind::Word | Kind::QuotedWord))
    }

    /// Behind a qualified name that begins at `at`.
    fn behind_name(&self, at: usize) -> usize {
        let mut at = at + 1;
        while self.text.punctuation(at, b'.') && self.is_name(at + 1) {
            at += 2;
        }
        at
    }

    fn closing(&self, open: usize) -> Result<usize, String> {
        self.text.closing(open).ok_or_else(|| "a parenthesis is not closed".to_owned())
    }

    /// A token between `from` and `to`, outside of brackets within. None, too, where too much has been looked at.
    fn find(&self, from: usize, to: usize, is: impl Fn(usize) -> bool) -> Option<usize> {
        let mut at = from;
        while at < to {
            let looked_at = self.looked_at.replace(self.looked_at.get() + 1);
            if looked_at >= LOOKED_AT_MAX {
                return None;
            }
            if is(at) {
                return Some(at);
            }
            if matches!(self.text.lexemes[at].kind, Kind::Punctuation(b'(' | b'[')) {
                at = self.text.closing(at)?;
            }
            at += 1;
        }
        None
    }

    fn word(&mut self, at: usize) -> Result<Option<usize>, String> {
        let source = self.text.lexemes[at].text(self.text.sql);
        let mut lower = [0; 16];
        let Some(lower) = lower.get_mut(..source.len()) else { return Ok(None) };
        lower.copy_from_slice(source.as_bytes());
        lower.make_ascii_lowercase();
        match &*lower {
            b"only" => self.only(at),
            b"for" => Ok(self.locks(at)),
            b"of" => self.locked_tables(at),
            b"overriding" => Ok(self.overriding(at)),
            b"table" => Ok(self.table(at)),
            b"rows" => match self.rows_from(at)? {
                None => self.frame(at),
                done => Ok(done),
            },
            b"range" | b"groups" => self.frame(at),
            b"as" => self.column_definitions(at),
            b"using" => self.using_alias(at),
            b"search" | b"cycle" => self.search_or_cycle(at),
            b"select" => self.empty_list(at),
            b"variadic" => Ok(self.variadic(at)),
            b"substring" => self.substring(at),
            b"trim" => self.trim(at),
            b"collation" => Ok(self.collation_for(at)),
            b"lateral" => Ok(self.lateral(at)),
            b"xmlelement" | b"xmlpi" | b"xmlroot" | b"xmlserialize" | b"xmlexists" | b"xmlnamespaces" => self.xml(at),
            b"exclude" => Ok(self.exclude(at)),
            b"grouping" => self.grouping_sets(at),
            b"group" => self.group_by(at),
            b"rollup" | b"cube" => self.rollup(at),
            b"conflict" => self.conflict_target(at),
            b"current" => Ok(self.current_of(at)),
            b"insert" => Ok(self.merge_default_values(at)),
            b"merge" => self.merge_source(at),
            b"asymmetric" if at > 0 && self.text.word(at - 1, "between") => Ok(Some(at + 1)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse::{parse, Text};

    #[test]
    fn long_statements_are_not_looked_at_again_and_again() {
        for part in ["merge into a ", "rows between 'a' "] {
            let sql = format!("SELECT {}", part.repeat((1 << 20) / part.len()));
            let error = parse(&Text::new(&sql).unwrap()).unwrap_err();
            assert_eq!(error.message, "the statement is too long", "{part}");
        }
        let list = format!("SELECT 1 IN (((SELECT 1 {}) UNION SELECT 2))", ", 1".repeat(20_000));
        assert!(parse(&Text::new(&list).unwrap()).is_ok());
    }
}
