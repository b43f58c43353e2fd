//! One statement's text, its tokens and its syntax tree, with positions of the tree found again in the text.

use std::collections::BTreeSet;

use sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::lexer::{lex, Kind, LexError, Lexeme};

/// Deeper nesting is refused rather than followed.
const RECURSION_MAX: usize = 96;

/// The tokens of a statement.
#[derive(Debug)]
pub struct Text<'a> {
    pub sql: &'a str,
    pub lexemes: Vec<Lexeme>,
    /// Where lines start, in characters.
    line_starts: Vec<usize>,
    /// Where characters start, in bytes; nothing for a text whose characters are bytes.
    char_starts: Option<Vec<usize>>,
}

impl<'a> Text<'a> {
    pub fn new(sql: &'a str) -> Result<Text<'a>, LexError> {
        let lexemes = lex(sql)?;
        let char_starts = (!sql.is_ascii()).then(|| sql.char_indices().map(|(at, _)| at).collect());
        let newlines = sql.chars().enumerate().filter(|(_, character)| *character == '\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Ok(Text { sql, lexemes, line_starts, char_starts })
    }

    /// The byte at a position that counts lines, and characters of a line, from 1.
    pub fn byte_of(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let character = self.line_starts.get(line)?.checked_add(column)?;
        match &self.char_starts {
            Some(starts) if character < starts.len() => Some(starts[character]),
            Some(starts) => (character == starts.len()).then_some(self.sql.len()),
            None => (character <= self.sql.len()).then_some(character),
        }
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
        if location.line == 0 {
            return None;
        }
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

/// Parses one statement. Fails when `sqlparser` does not know the syntax, or reads other tokens than PostgreSQL.
pub fn parse(text: &Text<'_>) -> Result<Statement, String> {
    let masked = mask(text);
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, &masked).tokenize_with_location().map_err(|error| error.to_string())?;
    let mut starts = BTreeSet::new();
    for token in &tokens {
        let checked = matches!(
            &token.token,
            Token::Word(_)
                | Token::Number(..)
                | Token::SingleQuotedString(_)
                | Token::EscapedStringLiteral(_)
                | Token::DollarQuotedString(_)
                | Token::NationalStringLiteral(_)
                | Token::HexStringLiteral(_)
                | Token::UnicodeStringLiteral(_)
                | Token::SingleQuotedByteStringLiteral(_)
                | Token::Placeholder(_)
                | Token::LParen
                | Token::RParen
                | Token::LBracket
                | Token::RBracket
                | Token::Comma
                | Token::SemiColon
        );
        if checked {
            let start = text.byte_of(token.span.start).ok_or("a position outside of the statement")?;
            if text.lexeme_at(start).is_none() {
                return Err("a token is read differently than by PostgreSQL".to_owned());
            }
            starts.insert(start);
        }
    }
    for lexeme in &text.lexemes {
        let compared = !matches!(lexeme.kind, Kind::Operator)
            && (!matches!(lexeme.kind, Kind::Punctuation(_))
                || matches!(lexeme.kind, Kind::Punctuation(b'(' | b')' | b'[' | b']' | b',')));
        // Words that were masked out have no counterpart.
        if compared && !masked[lexeme.start..].starts_with(' ') && !starts.contains(&lexeme.start) {
            return Err("a token is read differently than by PostgreSQL".to_owned());
        }
    }
    let mut parser = Parser::new(&dialect).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens);
    let statement = parser.parse_statement().map_err(|error| error.to_string())?;
    match parser.peek_token().token {
        Token::EOF => Ok(statement),
        other => Err(format!("syntax error at or near \"{other}\"")),
    }
}

/// Same length, same positions, without words that the parser does not know and the planner does not need.
fn mask(text: &Text<'_>) -> String {
    let mut bytes = text.sql.as_bytes().to_vec();
    let mut blank = |index: usize| {
        let lexeme = text.lexemes[index];
        bytes[lexeme.start..lexeme.end].fill(b' ');
    };
    for index in 0..text.lexemes.len() {
        if text.word(index, "for") && text.word(index + 1, "no") && text.word(index + 2, "key") {
            blank(index + 1);
            blank(index + 2);
        } else if text.word(index, "for") && text.word(index + 1, "key") && text.word(index + 2, "share") {
            blank(index + 1);
        } else if text.word(index, "overriding") && text.word(index + 2, "value") {
            (index..=index + 2).for_each(&mut blank);
        } else if index > 0 && text.word(index, "only") {
            let named =
                text.lexemes.get(index + 1).is_some_and(|next| matches!(next.kind, Kind::Word | Kind::QuotedWord));
            let before = ["from", "join", "update", "using"].iter().any(|word| text.word(index - 1, word));
            if named && (before || text.punctuation(index - 1, b',')) {
                blank(index);
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.sql.to_owned())
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
