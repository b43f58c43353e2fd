//! Arguments that are more than a list of expressions.

use sqlparser::tokenizer::Token;

use super::super::{COLLATION_FOR, VARIADIC};
use super::Rewriter;
use crate::sql::lexer::Kind;

impl Rewriter<'_> {
    /// `f(VARIADIC a)`: an argument with a name.
    pub(super) fn variadic(&mut self, at: usize) -> Option<usize> {
        let argument = at > 0 && (self.text.punctuation(at - 1, b'(') || self.text.punctuation(at - 1, b','));
        argument.then(|| {
            self.put_argument(at, VARIADIC);
            at + 1
        })
    }

    /// The name of an argument.
    fn put_argument(&mut self, at: usize, name: &str) {
        self.put_made_up(at, name);
        self.put(at, Token::RArrow);
    }

    /// The parenthesis behind a function's name.
    fn arguments(&self, at: usize) -> Result<Option<usize>, String> {
        if self.text.punctuation(at + 1, b'(') {
            self.closing(at + 1).map(Some)
        } else {
            Ok(None)
        }
    }

    /// `SUBSTRING(a SIMILAR b ESCAPE c)` is `SUBSTRING(a, b, c)`.
    pub(super) fn substring(&mut self, at: usize) -> Result<Option<usize>, String> {
        let Some(close) = self.arguments(at)? else { return Ok(None) };
        let similar = self.find(at + 2, close, |at| self.text.word(at, "similar") && !self.text.word(at + 1, "to"));
        let Some(similar) = similar else { return Ok(None) };
        let Some(escape) = self.find(similar, close, |at| self.text.word(at, "escape")) else { return Ok(None) };
        self.push(at)?;
        self.put(at + 1, Token::LParen);
        self.copy(at + 2, similar)?;
        self.put(similar, Token::Comma);
        self.copy(similar + 1, escape)?;
        self.put(escape, Token::Comma);
        self.copy(escape + 1, close)?;
        self.put(close, Token::RParen);
        Ok(Some(close + 1))
    }

    /// `TRIM(BOTH FROM a)`, `TRIM(FROM a)`: without characters, FROM says nothing.
    pub(super) fn trim(&mut self, at: usize) -> Result<Option<usize>, String> {
        let Some(close) = self.arguments(at)? else { return Ok(None) };
        let side = usize::from(self.is_any(at + 2, &["both", "leading", "trailing"]));
        let from = at + 2 + side;
        if !self.text.word(from, "from") {
            return Ok(None);
        }
        for index in at..from {
            self.push(index)?;
        }
        self.copy(from + 1, close)?;
        Ok(Some(close))
    }

    /// `COLLATION FOR (a)`.
    pub(super) fn collation_for(&mut self, at: usize) -> Option<usize> {
        (self.text.word(at + 1, "for") && self.text.punctuation(at + 2, b'(')).then(|| {
            self.put_made_up(at, COLLATION_FOR);
            at + 2
        })
    }

    /// The words within the XML functions.
    pub(super) fn xml(&mut self, at: usize) -> Result<Option<usize>, String> {
        let Some(close) = self.arguments(at)? else { return Ok(None) };
        let first = at + 2;
        let text = self.text;
        if text.word(at, "xmlserialize") {
            return self.xmlserialize(at, close);
        }
        self.push(at)?;
        self.put(at + 1, Token::LParen);
        let mut from = first;
        if self.is_any(at, &["xmlelement", "xmlpi"]) && text.word(first, "name") && self.is_name(first + 1) {
            let name = text.lexemes[first + 1].identifier(text.sql).ok_or("a name is not understood")?;
            self.put_argument(first, "name");
            self.put(first + 1, Token::SingleQuotedString(name));
            from = first + 2;
        }
        while from < close {
            from = match self.xml_word(at, from)? {
                Some(next) => next,
                None => self.nested(from)?,
            };
        }
        self.put(close, Token::RParen);
        Ok(Some(close + 1))
    }

    /// What begins here, with all of it if it is a bracket.
    fn nested(&mut self, at: usize) -> Result<usize, String> {
        if !matches!(self.text.lexemes[at].kind, Kind::Punctuation(b'(' | b'[')) {
            return self.step(at);
        }
        let close = self.closing(at)?;
        self.push(at)?;
        self.copy(at + 1, close)?;
        self.push(close)
    }

    fn xml_word(&mut self, function: usize, at: usize) -> Result<Option<usize>, String> {
        let text = self.text;
        let by = |at: usize| text.word(at, "by") && (text.word(at + 1, "ref") || text.word(at + 1, "value"));
        let behind_comma = at > 0 && text.punctuation(at - 1, b',');
        if text.word(function, "xmlexists") {
            if text.word(at, "passing") {
                self.put(at, Token::Comma);
                self.put_argument(at, "passing");
                return Ok(Some(at + 1));
            }
            return Ok(by(at).then_some(at + 2));
        }
        if text.word(function, "xmlnamespaces") && text.word(at, "default") {
            // DEFAULT 'uri': an alias is what the parser asks for.
            self.push(at + 1)?;
            self.put_word(at, "AS");
            self.put_made_up(at, "default");
            return Ok(Some(at + 2));
        }
        if !text.word(function, "xmlroot") || !behind_comma {
            return Ok(None);
        }
        let no_value = |at: usize| text.word(at, "no") && text.word(at + 1, "value");
        if text.word(at, "version") {
            self.put_argument(at, "version");
            if no_value(at + 1) {
                self.put_word(at, "NULL");
                return Ok(Some(at + 3));
            }
            return Ok(Some(at + 1));
        }
        if text.word(at, "standalone") && self.is_any(at + 1, &["yes", "no"]) {
            let end = at + 2 + usize::from(no_value(at + 1));
            self.put_argument(at, "standalone");
            self.put(at, Token::SingleQuotedString(text.slice(at + 1, end - 1).to_ascii_lowercase()));
            return Ok(Some(end));
        }
        Ok(None)
    }

    /// `xmlserialize(CONTENT a AS t)`: `xmlserialize([content] => CAST(a AS t))`.
    fn xmlserialize(&mut self, at: usize, close: usize) -> Result<Option<usize>, String> {
        if !self.is_any(at + 2, &["document", "content"]) {
            return Ok(None);
        }
        self.push(at)?;
        self.put(at + 1, Token::LParen);
        self.put_argument(at + 2, &self.text.slice(at + 2, at + 2).to_ascii_lowercase());
        self.put_word(at + 2, "CAST");
        self.put(at + 2, Token::LParen);
        self.copy(at + 3, close)?;
        self.put(close, Token::RParen);
        self.put(close, Token::RParen);
        Ok(Some(close + 1))
    }
}
