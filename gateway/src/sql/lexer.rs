//! PostgreSQL's lexical structure (`src/backend/parser/scan.l`) with byte ranges; comments and blanks are left out.
//!
//! Assumes `standard_conforming_strings = on` (the session refuses to turn it off).

use super::dialect::strings::{next_quote, unicode_escaped};

/// What a token is. Contents stay in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted identifier or key word.
    Word,
    /// `"..."` or `U&"..."`.
    QuotedWord,
    /// `'...'`, `E'...'`, `$$...$$`, `B'...'`, `X'...'`, `N'...'`, `U&'...'`, with what goes on on further lines.
    String,
    Number,
    /// `$1`: the number, from 1.
    Parameter(u32),
    Operator,
    /// One of `( ) [ ] , ; . :` and the two-byte `::`, `:=`, `..`, named by its first byte and length.
    Punctuation(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lexeme {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

impl Lexeme {
    pub fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.start..self.end]
    }

    /// Whether it is this key word (given in lower case), unquoted.
    pub fn is_word(&self, sql: &str, word: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(word)
    }

    pub fn is(&self, punctuation: u8) -> bool {
        self.kind == Kind::Punctuation(punctuation) && self.end - self.start == 1
    }

    pub fn is_operator(&self, sql: &str, operator: &str) -> bool {
        self.kind == Kind::Operator && self.text(sql) == operator
    }

    /// The identifier's value as PostgreSQL folds it; None for one with an UESCAPE of its own, which is two tokens more.
    pub fn identifier(&self, sql: &str) -> Option<String> {
        let text = self.text(sql);
        let content = |start: usize| text[start..text.len() - 1].replace("\"\"", "\"");
        match self.kind {
            Kind::Word => Some(truncate(text.to_ascii_lowercase())),
            Kind::QuotedWord if text.starts_with('"') => Some(truncate(content(1))),
            Kind::QuotedWord if !self.has_uescape(sql) => unicode_escaped(&content(3), '\\').map(truncate),
            _ => None,
        }
    }

    fn has_uescape(&self, sql: &str) -> bool {
        let mut lexer = Lexer { bytes: sql.as_bytes(), at: self.end };
        lexer.next().is_ok_and(|next| next.is_some_and(|next| next.is_word(sql, "uescape")))
    }

    /// The value of a plain, `E''`, or dollar-quoted string; None for the kinds whose value is not plain text, and for one that goes
    /// on on another line.
    pub fn string_value(&self, sql: &str) -> Option<String> {
        if self.kind != Kind::String {
            return None;
        }
        let text = self.text(sql);
        match text.as_bytes()[0] {
            b'\'' => Some(one_piece(&text[1..text.len() - 1])?.replace("''", "'")),
            b'e' | b'E' => unescape(&text[2..text.len() - 1]),
            b'n' | b'N' => Some(one_piece(&text[2..text.len() - 1])?.replace("''", "'")),
            b'$' => {
                let tag = text[1..].find('$')? + 2;
                Some(text[tag..text.len() - tag].to_owned())
            }
            _ => None,
        }
    }
}

/// Identifiers are cut at 63 bytes, at a character boundary.
pub fn truncate(mut name: String) -> String {
    if name.len() > 63 {
        let mut end = 63;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }
    name
}

/// The content of a string, unless a quote in it ends it to begin again on another line.
pub(super) fn one_piece(content: &str) -> Option<&str> {
    let mut rest = content;
    while let Some(quote) = rest.find('\'') {
        rest = rest[quote + 1..].strip_prefix('\'')?;
    }
    Some(content)
}

/// The simple escapes of `E''`; anything numeric, and what servers' versions read differently, is left undecided.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                '0'..='9' | 'x' | 'u' | 'U' | 'v' => return None,
                other => out.push(other),
            },
            '\'' => {
                characters.next().filter(|next| *next == '\'')?;
                out.push('\'');
            }
            other => out.push(other),
        }
    }
    Some(out)
}

/// What is wrong with the text, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LexError {
    pub message: &'static str,
    pub offset: usize,
}

/// All tokens of a text, in order.
pub fn lex(sql: &str) -> Result<Vec<Lexeme>, LexError> {
    let mut lexer = Lexer { bytes: sql.as_bytes(), at: 0 };
    let mut out = Vec::with_capacity(sql.len() / 4 + 4);
    while let Some(lexeme) = lexer.next()? {
        out.push(lexeme);
    }
    Ok(out)
}

struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

const WORD_START: u8 = 1;
const WORD_PART: u8 = 2;
const OPERATOR: u8 = 4;
/// In an operator with one of these a trailing `+` or `-` belongs to it.
const SPECIAL: u8 = 8;

/// What each byte may be part of.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => WORD_START | WORD_PART,
            b'0'..=b'9' | b'$' => WORD_PART,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%' => OPERATOR | SPECIAL,
            b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

fn is_word_start(byte: u8) -> bool {
    is(byte, WORD_START)
}

pub(super) fn is_word_part(byte: u8) -> bool {
    is(byte, WORD_PART)
}

fn is_operator_byte(byte: u8) -> bool {
    is(byte, OPERATOR)
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn fail<T>(&self, message: &'static str, offset: usize) -> Result<T, LexError> {
        Err(LexError { message, offset })
    }

    fn skip_blanks(&mut self) -> Result<(), LexError> {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c if self.at < self.bytes.len() => self.at += 1,
                b'-' if self.peek(1) == b'-' => {
                    while self.at < self.bytes.len() && !matches!(self.peek(0), b'\n' | b'\r') {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => self.block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let mut depth = 0usize;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
        self.fail("unterminated /* comment", start)
    }

    fn next(&mut self) -> Result<Option<Lexeme>, LexError> {
        self.skip_blanks()?;
        let start = self.at;
        if start >= self.bytes.len() {
            return Ok(None);
        }
        let byte = self.peek(0);
        let kind = match byte {
            b'\'' => self.quoted(1, b'\'', false, "unterminated quoted string")?,
            b'"' => self.quoted(1, b'"', false, "unterminated quoted identifier")?,
            b'e' | b'E' if self.peek(1) == b'\'' => self.quoted(2, b'\'', true, "unterminated quoted string")?,
            b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if self.peek(1) == b'\'' => {
                self.quoted(2, b'\'', false, "unterminated quoted string")?
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => {
                self.quoted(3, b'\'', false, "unterminated quoted string")?
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.quoted(3, b'"', false, "unterminated quoted identifier")?
            }
            b'$' => self.dollar()?,
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'(' | b')' | b'[' | b']' | b',' | b';' => {
                self.at += 1;
                Kind::Punctuation(byte)
            }
            b'.' => {
                self.at += if self.peek(1) == b'.' { 2 } else { 1 };
                Kind::Punctuation(byte)
            }
            b':' => {
                self.at += if matches!(self.peek(1), b':' | b'=') { 2 } else { 1 };
                Kind::Punctuation(byte)
            }
            _ if is_word_start(byte) => {
                let word = self.bytes[start..].iter();
                self.at += word.take_while(|byte| is_word_part(**byte)).count();
                Kind::Word
            }
            _ if is_operator_byte(byte) => self.operator(),
            _ => return self.fail("syntax error", start),
        };
        Ok(Some(Lexeme { kind, start, end: self.at }))
    }

    fn quoted(&mut self, prefix: usize, quote: u8, backslash: bool, message: &'static str) -> Result<Kind, LexError> {
        let start = self.at;
        self.at += prefix;
        while self.at < self.bytes.len() {
            let byte = self.peek(0);
            if byte == b'\\' && backslash {
                self.at += 2;
            } else if byte == quote {
                self.at += 1;
                if self.peek(0) == quote {
                    self.at += 1;
                } else if quote == b'"' {
                    return Ok(Kind::QuotedWord);
                } else {
                    // It may go on on another line.
                    let Some(next) = next_quote(self.bytes, self.at) else { return Ok(Kind::String) };
                    self.at = next + 1;
                }
            } else {
                self.at += 1;
            }
        }
        self.at = self.bytes.len();
        self.fail(message, start)
    }

    fn dollar(&mut self) -> Result<Kind, LexError> {
        let start = self.at;
        if self.peek(1).is_ascii_digit() {
            let mut end = start + 1;
            let mut number = 0u32;
            while self.bytes.get(end).is_some_and(u8::is_ascii_digit) {
                number = number.saturating_mul(10).saturating_add(u32::from(self.bytes[end] - b'0'));
                end += 1;
            }
            self.at = end;
            return Ok(Kind::Parameter(number));
        }
        let mut tag = start + 1;
        if self.bytes.get(tag).copied().is_some_and(is_word_start) {
            while self.bytes.get(tag).copied().is_some_and(|b| is_word_part(b) && b != b'$') {
                tag += 1;
            }
        }
        if self.bytes.get(tag) != Some(&b'$') {
            return self.fail("syntax error", start);
        }
        let opening = &self.bytes[start..=tag];
        let mut at = tag + 1;
        while at + opening.len() <= self.bytes.len() {
            if &self.bytes[at..at + opening.len()] == opening {
                self.at = at + opening.len();
                return Ok(Kind::String);
            }
            at += 1;
        }
        self.fail("unterminated dollar-quoted string", start)
    }

    fn number(&mut self) -> Kind {
        if self.peek(0) == b'0' && matches!(self.peek(1), b'x' | b'X' | b'o' | b'O' | b'b' | b'B') {
            self.at += 2;
            while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_' {
                self.at += 1;
            }
            return Kind::Number;
        }
        let digits = |lexer: &mut Self| {
            while lexer.peek(0).is_ascii_digit() || lexer.peek(0) == b'_' && lexer.peek(1).is_ascii_digit() {
                lexer.at += 1;
            }
        };
        digits(self);
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            digits(self);
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if matches!(self.peek(0), b'e' | b'E') && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            digits(self);
        }
        Kind::Number
    }

    /// The longest run of operator characters, ended by a comment; a trailing `+` or `-` only belongs to it when one of
    /// `~ ! @ # % ^ & | \` ?` does.
    fn operator(&mut self) -> Kind {
        let start = self.at;
        let mut end = start;
        while self.bytes.get(end).copied().is_some_and(is_operator_byte) {
            let rest = &self.bytes[end..];
            if rest.starts_with(b"--") || rest.starts_with(b"/*") {
                break;
            }
            end += 1;
        }
        let special = self.bytes[start..end].iter().any(|byte| is(*byte, SPECIAL));
        if !special {
            while end > start + 1 && matches!(self.bytes[end - 1], b'+' | b'-') {
                end -= 1;
            }
        }
        self.at = end;
        Kind::Operator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        lex(sql).unwrap().iter().map(|lexeme| lexeme.text(sql)).collect()
    }

    #[test]
    fn follows_postgresql() {
        assert_eq!(
            texts("select a.b,'it''s' -- x\n from \"T\"\"x\""),
            ["select", "a", ".", "b", ",", "'it''s'", "from", "\"T\"\"x\""]
        );
        assert_eq!(texts("/* a /* b */ c */ 1.5e3::int=-1"), ["1.5e3", "::", "int", "=", "-", "1"]);
        assert_eq!(texts(r"E'a\'b' 'c\' $1"), [r"E'a\'b'", r"'c\'", "$1"]);
        assert_eq!(texts("$x$ ; $$ $x$ a$b @-1"), ["$x$ ; $$ $x$", "a$b", "@-", "1"]);
        assert_eq!(texts("äö=1"), ["äö", "=", "1"]);
        assert!(lex("'a").is_err());
        assert!(lex("/* /* */").is_err());
    }

    #[test]
    fn values() {
        let value = |sql: &str| lex(sql).unwrap()[0].string_value(sql);
        assert_eq!(value("'it''s'").as_deref(), Some("it's"));
        assert_eq!(value(r"E'a\nb\'c'").as_deref(), Some("a\nb'c"));
        assert_eq!(value("$q$x'y$q$").as_deref(), Some("x'y"));
        assert_eq!(value("X'ff'"), None);
        let name = "\"A\"\"b\"";
        assert_eq!(lex(name).unwrap()[0].identifier(name).as_deref(), Some("A\"b"));
        assert_eq!(lex("AbC").unwrap()[0].identifier("AbC").as_deref(), Some("abc"));
    }
}
