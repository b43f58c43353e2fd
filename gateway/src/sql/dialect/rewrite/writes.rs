//! INSERT, UPDATE, MERGE, and locks of rows.

use sqlparser::tokenizer::Token;

use super::super::{CONFLICT_TARGET, CURRENT_OF, NONE, SLICE, SUBSCRIPT, WHERE};
use super::{Place, Rewriter, Step};
use crate::sql::clauses::split_at_commas;
use crate::sql::parse::current_of;

impl Rewriter<'_> {
    /// `FOR NO KEY UPDATE`, `FOR KEY SHARE`: the weaker ones count as the stronger ones.
    pub(super) fn locks(&mut self, at: usize) -> Option<usize> {
        let words = if self.text.word(at + 1, "no") && self.text.word(at + 2, "key") && self.text.word(at + 3, "update")
        {
            3
        } else if self.text.word(at + 1, "key") && self.text.word(at + 2, "share") {
            2
        } else {
            return None;
        };
        self.put_word(at, "FOR");
        Some(at + words)
    }

    /// `FOR UPDATE OF a, b`: a clause for each.
    pub(super) fn locked_tables(&mut self, at: usize) -> Result<Option<usize>, String> {
        let locks = at >= 2 && self.is_any(at - 1, &["update", "share"]) && self.is_any(at - 2, &["for", "key"]);
        if !locks || !self.is_name(at + 1) {
            return Ok(None);
        }
        let mut end = self.behind_name(at + 1);
        (at..end).try_for_each(|index| self.push(index).map(|_| ()))?;
        while self.text.punctuation(end, b',') && self.is_name(end + 1) {
            let name = end + 1;
            self.put_word(end, "FOR");
            self.push(at - 1)?;
            self.push(at)?;
            end = self.behind_name(name);
            (name..end).try_for_each(|index| self.push(index).map(|_| ()))?;
        }
        Ok(Some(end))
    }

    /// `OVERRIDING SYSTEM VALUE`.
    pub(super) fn overriding(&self, at: usize) -> Option<usize> {
        (self.is_any(at + 1, &["system", "user"]) && self.text.word(at + 2, "value")).then_some(at + 3)
    }

    /// Whether a column that is assigned to begins here.
    pub(super) fn is_target(&self, at: usize) -> bool {
        let comma = at > 0 && self.text.punctuation(at - 1, b',');
        match self.places[at] {
            Place::Targets => comma || at > 0 && self.text.punctuation(at - 1, b'('),
            Place::Set => comma || at > 0 && self.text.word(at - 1, "set"),
            _ => false,
        }
    }

    /// `a[1].b[2:3]`.
    pub(super) fn target(&mut self, at: usize) -> Step {
        let mut at = self.push(at)?;
        loop {
            if self.text.punctuation(at, b'.') && self.is_name(at + 1) {
                self.push(at)?;
                at = self.push(at + 1)?;
            } else if self.text.punctuation(at, b'[') {
                let close = self.closing(at)?;
                self.subscript(at, close)?;
                at = close + 1;
            } else {
                return Ok(at);
            }
        }
    }

    fn subscript(&mut self, open: usize, close: usize) -> Result<(), String> {
        let colon = self.find(open + 1, close, |at| self.text.punctuation(at, b':'));
        self.put(open, Token::Period);
        self.put_made_up(open, if colon.is_some() { SLICE } else { SUBSCRIPT });
        self.put(open, Token::LParen);
        match colon {
            Some(colon) => {
                self.bound(open, open + 1, colon)?;
                self.put(colon, Token::Comma);
                self.bound(colon, colon + 1, close)?;
            }
            None => self.copy(open + 1, close)?,
        }
        self.put(close, Token::RParen);
        Ok(())
    }

    fn bound(&mut self, place: usize, from: usize, to: usize) -> Result<(), String> {
        if from == to {
            self.put_made_up(place, NONE);
        }
        self.copy(from, to)
    }

    /// `ON CONFLICT (expressions) WHERE condition`, where it is more than a list of columns.
    pub(super) fn conflict_target(&mut self, at: usize) -> Result<Option<usize>, String> {
        if at == 0 || !self.text.word(at - 1, "on") || !self.text.punctuation(at + 1, b'(') {
            return Ok(None);
        }
        let close = self.closing(at + 1)?;
        let plain = (at + 2..close).all(|index| {
            let odd = (index - at).is_multiple_of(2);
            if odd {
                self.is_name(index)
            } else {
                self.text.punctuation(index, b',')
            }
        });
        let condition = self.text.word(close + 1, "where");
        if plain && !condition {
            return Ok(None);
        }
        let elements = split_at_commas(self.text, at + 2, close).ok_or("ON CONFLICT has an empty element")?;
        self.push(at)?;
        self.put_word(at, "ON");
        self.put_word(at, "CONSTRAINT");
        self.put_made_up(at, CONFLICT_TARGET);
        self.put(at + 1, Token::LParen);
        for (number, element) in elements.iter().enumerate() {
            if number > 0 {
                self.put(*element.start(), Token::Comma);
            }
            self.index_element(*element.start(), *element.end() + 1)?;
        }
        let mut end = close + 1;
        if condition {
            let to = self.text.lexemes.len();
            let then =
                self.find(close + 2, to, |at| self.text.word(at, "do") && self.is_any(at + 1, &["nothing", "update"]));
            let then = then.ok_or("ON CONFLICT without DO")?;
            self.put(close, Token::Comma);
            self.put_made_up(close, WHERE);
            self.put(close, Token::RArrow);
            self.copy(close + 2, then)?;
            end = then;
        }
        self.put(close, Token::RParen);
        Ok(Some(end))
    }

    /// A column or an expression, with its collation. Operator classes are names, no expressions.
    fn index_element(&mut self, from: usize, to: usize) -> Result<(), String> {
        let mut end = if self.text.punctuation(from, b'(') { self.closing(from)? + 1 } else { self.behind_name(from) };
        if end < to && self.text.punctuation(end, b'(') && !self.text.punctuation(from, b'(') {
            end = self.closing(end)? + 1;
        }
        if self.text.word(end, "collate") && self.is_name(end + 1) {
            end = self.behind_name(end + 1);
        }
        self.copy(from, end)?;
        if end < to && self.is_name(end) {
            end = self.behind_name(end);
            if self.text.punctuation(end, b'(') && end < to {
                end = self.closing(end)? + 1;
            }
        }
        if end == to {
            Ok(())
        } else {
            Err("an element of ON CONFLICT is not understood".to_owned())
        }
    }

    /// `WHERE CURRENT OF cursor`.
    pub(super) fn current_of(&mut self, at: usize) -> Option<usize> {
        let last = self.text.lexemes.get(at + 2)?;
        if at == 0 || !self.text.word(at - 1, "where") || !self.text.word(at + 1, "of") {
            return None;
        }
        let cursor = last.identifier(self.text.sql)?;
        if current_of(self.text) == Some(at) {
            self.put_word(at, "true");
            return Some(at + 3);
        }
        self.put_made_up(at, CURRENT_OF);
        self.put(at, Token::LParen);
        self.put(at + 2, Token::SingleQuotedString(cursor));
        self.put(at + 2, Token::RParen);
        Some(at + 3)
    }

    /// MERGE's `INSERT DEFAULT VALUES`: one value, of no known column.
    pub(super) fn merge_default_values(&mut self, at: usize) -> Option<usize> {
        let merge = at > 0 && self.text.word(at - 1, "then");
        (merge && self.text.word(at + 1, "default") && self.text.word(at + 2, "values")).then(|| {
            self.put_word(at, "INSERT");
            self.put_word(at + 2, "VALUES");
            self.put(at + 2, Token::LParen);
            self.put_made_up(at + 2, "default values");
            self.put(at + 2, Token::RParen);
            at + 3
        })
    }

    /// `MERGE INTO t USING a JOIN b ON ... ON ...`: the join is put into parentheses.
    pub(super) fn merge_source(&mut self, at: usize) -> Result<Option<usize>, String> {
        let to = self.text.lexemes.len();
        if !self.text.word(at + 1, "into") {
            return Ok(None);
        }
        let Some(using) = self.find(at, to, |at| self.text.word(at, "using")) else { return Ok(None) };
        let Some(when) = self.find(using, to, |at| self.text.word(at, "when") && !self.text.word(at - 1, "as")) else {
            return Ok(None);
        };
        let joins = self.find(using, when, |at| self.text.word(at, "join")).is_some();
        let mut on = None;
        let mut from = using;
        while let Some(next) = self.find(from, when, |at| self.text.word(at, "on")) {
            on = Some(next);
            from = next + 1;
        }
        let Some(on) = on.filter(|_| joins) else { return Ok(None) };
        self.push(at)?;
        self.copy(at + 1, using + 1)?;
        self.put(using, Token::LParen);
        self.copy(using + 1, on)?;
        self.put(on, Token::RParen);
        Ok(Some(on))
    }
}
