//! Window frames and grouping sets.

use sqlparser::tokenizer::Token;

use super::super::{EMPTY_SET, GROUPING_SETS};
use super::Rewriter;
use crate::sql::lexer::Kind;

impl Rewriter<'_> {
    /// `EXCLUDE ...` at the end of a frame: which of its rows count is not the planner's business.
    pub(super) fn exclude(&self, at: usize) -> Option<usize> {
        let behind = at > 0 && self.is_any(at - 1, &["row", "preceding", "following"]);
        let words = match () {
            () if self.text.word(at + 1, "current") && self.text.word(at + 2, "row") => 3,
            () if self.text.word(at + 1, "no") && self.text.word(at + 2, "others") => 3,
            () if self.is_any(at + 1, &["group", "ties"]) => 2,
            () => return None,
        };
        (behind && self.text.punctuation(at + words, b')')).then_some(at + words)
    }

    /// Bounds of a frame that begin with a string are put into parentheses: the parser takes them for intervals.
    pub(super) fn frame(&mut self, at: usize) -> Result<Option<usize>, String> {
        let between = self.text.word(at + 1, "between");
        let first = at + 1 + usize::from(between);
        let is_string = |at: usize| self.text.lexemes.get(at).is_some_and(|lexeme| lexeme.kind == Kind::String);
        let is_end = |at: usize| self.text.word(at, "preceding") || self.text.word(at, "following");
        let to = self.text.lexemes.len();
        let mut end = None;
        let mut bounds = Vec::new();
        if is_string(first) {
            end = self.find(first, to, is_end);
            bounds.extend(end.map(|end| (first, end)));
        } else if between {
            end = self.find(first, to, |at| is_end(at) || self.text.word(at, "row"));
        }
        if let Some(and) = end.filter(|end| between && self.text.word(end + 1, "and") && is_string(end + 2)) {
            end = self.find(and + 2, to, is_end);
            bounds.extend(end.map(|end| (and + 2, end)));
        }
        if bounds.is_empty() || at == 0 {
            return Ok(None);
        }
        let mut from = at;
        self.push(from)?;
        from += 1;
        for (start, end) in bounds {
            self.copy(from, start)?;
            self.put(start, Token::LParen);
            self.copy(start, end)?;
            self.put(end, Token::RParen);
            from = end;
        }
        Ok(Some(from))
    }

    /// `GROUP BY DISTINCT`, `GROUP BY ALL` in front of a list.
    pub(super) fn group_by(&mut self, at: usize) -> Result<Option<usize>, String> {
        if !self.text.word(at + 1, "by") || !self.is_any(at + 2, &["all", "distinct"]) {
            return Ok(None);
        }
        let list = self.text.lexemes.get(at + 3).is_some_and(|next| {
            !matches!(next.kind, Kind::Punctuation(b')' | b';'))
                && !self.is_any(at + 3, &["having", "window", "order", "limit", "union"])
        });
        if !list {
            return Ok(None);
        }
        self.push(at)?;
        self.push(at + 1)?;
        Ok(Some(at + 3))
    }

    /// `GROUPING SETS (...)` with sets of sets in it.
    pub(super) fn grouping_sets(&mut self, at: usize) -> Result<Option<usize>, String> {
        if !self.text.word(at + 1, "sets") || !self.text.punctuation(at + 2, b'(') {
            return Ok(None);
        }
        let close = self.closing(at + 2)?;
        (at..at + 3).try_for_each(|index| self.push(index).map(|_| ()))?;
        self.sets(at + 3, close, false)?;
        Ok(Some(close))
    }

    /// `ROLLUP ((a)::text, b)`: what begins with a parenthesis and goes on behind it.
    pub(super) fn rollup(&mut self, at: usize) -> Result<Option<usize>, String> {
        if !self.text.punctuation(at + 1, b'(') {
            return Ok(None);
        }
        let close = self.closing(at + 1)?;
        (at..at + 2).try_for_each(|index| self.push(index).map(|_| ()))?;
        let mut from = at + 2;
        while from < close {
            from = match self.element(from, close)? {
                Some(end) => end,
                None => self.nested_set(from)?,
            };
        }
        Ok(Some(close))
    }

    /// An element of a list of sets that is no set, though it begins like one: put into parentheses. Gives the token behind it.
    fn element(&mut self, at: usize, to: usize) -> Result<Option<usize>, String> {
        let first = self.text.punctuation(at - 1, b'(') || self.text.punctuation(at - 1, b',');
        if !first || !self.text.punctuation(at, b'(') {
            return Ok(None);
        }
        let end = self.find(at, to, |at| self.text.punctuation(at, b',')).unwrap_or(to);
        if self.closing(at)? + 1 == end {
            return Ok(None);
        }
        self.put(at, Token::LParen);
        self.copy(at, end)?;
        self.put(end, Token::RParen);
        Ok(Some(end))
    }

    /// What stands in GROUPING SETS, one in another if `inner`.
    fn sets(&mut self, from: usize, to: usize, inner: bool) -> Result<(), String> {
        self.depth += 1;
        if self.depth > crate::sql::depth::NESTING_MAX {
            return Err("the statement is nested too deeply".to_owned());
        }
        let mut at = from;
        while at < to {
            let open = if self.text.word(at, "grouping") && self.text.word(at + 1, "sets") {
                self.put_made_up(at, GROUPING_SETS);
                at + 2
            } else if self.is_any(at, &["rollup", "cube"]) && self.text.punctuation(at + 1, b'(') {
                self.put_made_up(at, &self.text.slice(at, at).to_ascii_lowercase());
                at + 1
            } else if let Some(end) = self.element(at, to)? {
                at = end;
                continue;
            } else {
                if inner && self.text.punctuation(at, b'(') && self.text.punctuation(at + 1, b')') {
                    self.put_made_up(at, EMPTY_SET);
                }
                at = self.nested_set(at)?;
                continue;
            };
            let close = self.closing(open)?;
            self.push(open)?;
            self.sets(open + 1, close, true)?;
            at = self.push(close)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn nested_set(&mut self, at: usize) -> Result<usize, String> {
        if !self.text.punctuation(at, b'(') {
            return self.step(at);
        }
        let close = self.closing(at)?;
        self.push(at)?;
        self.copy(at + 1, close)?;
        self.push(close)
    }
}
