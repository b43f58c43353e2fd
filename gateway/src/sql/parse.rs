//! One statement's text, its tokens and its syntax tree, with positions of the tree found again in the text.

use std::collections::BTreeSet;

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token};

use super::dialect::finish::finish;
use super::dialect::hooks::PostgreSql;
use super::dialect::tokens;
use super::lexer::{lex, Kind, LexError, Lexeme};

/// Deeper nesting is refused rather than followed.
const RECURSION_MAX: usize = 96;

/// The tokens of a statement.
#[derive(Debug)]
pub struct Text<'a> {
    pub sql: &'a str,
    pub lexemes: Vec<Lexeme>,
}

impl<'a> Text<'a> {
    pub fn new(sql: &'a str) -> Result<Text<'a>, LexError> {
        Ok(Text { sql, lexemes: lex(sql)? })
    }

    /// The byte at a position of the tree.
    pub fn byte_of(&self, location: Location) -> Option<usize> {
        let byte = usize::try_from(location.column).ok()?.checked_sub(1)?;
        (location.line == 1 && byte <= self.sql.len()).then_some(byte)
    }

    /// The token that begins at this byte.
    pub fn lexeme_at(&self, byte: usize) -> Option<usize> {
        self.lexemes.binary_search_by_key(&byte, |lexeme| lexeme.start).ok()
    }

    /// The token of an identifier of the tree, if it is really there.
    pub fn ident(&self, ident: &Ident) -> Option<usize> {
        let index = self.location(ident.span.start)?;
        let value = self.lexemes[index].identifier(self.sql)?;
        (value == ident_value(ident)).then_some(index)
    }

    pub fn location(&self, location: Location) -> Option<usize> {
        self.lexeme_at(self.byte_of(location)?)
    }

    /// First and last token of a qualified name.
    pub fn object_name(&self, name: &ObjectName) -> Option<(usize, usize)> {
        let mut parts = name.0.iter().map(|part| match part {
            ObjectNamePart::Identifier(ident) => self.ident(ident),
            ObjectNamePart::Function(_) => None,
        });
        let first = parts.next()??;
        let last = parts.next_back().unwrap_or(Some(first))?;
        (last == first + 2 * (name.0.len() - 1)).then_some((first, last))
    }

    pub fn word(&self, index: usize, word: &str) -> bool {
        self.lexemes.get(index).is_some_and(|lexeme| lexeme.is_word(self.sql, word))
    }

    pub fn punctuation(&self, index: usize, punctuation: u8) -> bool {
        self.lexemes.get(index).is_some_and(|lexeme| lexeme.is(punctuation))
    }

    /// The token that closes the parenthesis or bracket opened at `open`.
    pub fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for (index, lexeme) in self.lexemes.iter().enumerate().skip(open) {
            match lexeme.kind {
                Kind::Punctuation(b'(' | b'[') => depth += 1,
                Kind::Punctuation(b')' | b']') => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(index);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// The text from token `first` to token `last`, both included.
    pub fn slice(&self, first: usize, last: usize) -> &'a str {
        &self.sql[self.lexemes[first].start..self.lexemes[last].end]
    }

    /// Indices of the parameters that the text uses, from 0.
    pub fn parameters(&self) -> BTreeSet<usize> {
        self.lexemes
            .iter()
            .filter_map(|lexeme| match lexeme.kind {
                Kind::Parameter(number) => (number as usize).checked_sub(1),
                _ => None,
            })
            .collect()
    }
}

/// An identifier's value as PostgreSQL folds it.
pub fn ident_value(ident: &Ident) -> String {
    super::lexer::truncate(match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    })
}

/// The parts of a qualified name; `None` for a name that is no list of identifiers.
pub fn name_parts(name: &ObjectName) -> Option<Vec<String>> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(ident_value(ident)),
            ObjectNamePart::Function(_) => None,
        })
        .collect()
}

/// Why a statement was not understood, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    pub message: String,
    pub offset: Option<usize>,
}

impl ParseError {
    pub fn other(message: impl Into<String>) -> ParseError {
        ParseError::new(message, None)
    }

    fn new(message: impl Into<String>, offset: Option<usize>) -> ParseError {
        ParseError { message: message.into(), offset }
    }

    /// The parser's message has the position at its end.
    fn of_parser(error: &ParserError) -> ParseError {
        let message = match error {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => message.as_str(),
            ParserError::RecursionLimitExceeded => "the statement is nested too deeply",
        };
        let (message, column) = message.rsplit_once(" at Line: 1, Column: ").unwrap_or((message, ""));
        ParseError::new(message, column.parse::<usize>().ok().and_then(|column| column.checked_sub(1)))
    }
}

/// Parses one statement, by PostgreSQL's grammar ([`super::dialect`]). Fails where that does not know the syntax.
pub fn parse(text: &Text<'_>) -> Result<Statement, ParseError> {
    let tokens = tokens(text).map_err(|message| ParseError::new(message, None))?;
    let mut parser = Parser::new(&PostgreSql).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens);
    let mut statement = parser.parse_statement().map_err(|error| ParseError::of_parser(&error))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let offset = text.byte_of(next.span.start);
        return Err(ParseError::new(format!("syntax error at or near \"{}\"", next.token), offset));
    }
    finish(&mut statement).map_err(|message| ParseError::new(message, None))?;
    Ok(statement)
}

/// Where `CURRENT OF name` stands behind the WHERE of an UPDATE or DELETE: its first token. To the parser it is `true`.
pub fn current_of(text: &Text<'_>) -> Option<usize> {
    if !text.word(0, "update") && !text.word(0, "delete") {
        return None;
    }
    let stands = |at: &usize| text.word(at - 1, "where") && text.word(*at, "current") && text.word(at + 1, "of");
    (1..text.lexemes.len().saturating_sub(2)).find(stands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_bytes() {
        let sql = "select 'ä',\r\n\t\"ü\" /* é */ from tä";
        let text = Text::new(sql).unwrap();
        let statement = parse(&text).unwrap();
        let Statement::Query(query) = statement else { panic!() };
        let sqlparser::ast::SetExpr::Select(select) = *query.body else { panic!() };
        let sqlparser::ast::TableFactor::Table { name, .. } = &select.from[0].relation else { panic!() };
        let (first, last) = text.object_name(name).unwrap();
        assert_eq!(text.slice(first, last), "tä");
    }

    #[test]
    fn what_the_parser_does_not_know_is_left_out() {
        for sql in [
            "select 1 from t for no key update",
            "select 1 from t for key share of t skip locked",
            "insert into t (a) overriding system value values (1)",
        ] {
            assert!(parse(&Text::new(sql).unwrap()).is_ok(), "{sql}");
        }
    }
}
