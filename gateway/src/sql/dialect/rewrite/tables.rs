//! FROM, WITH, and what stands for SELECT.

use sqlparser::tokenizer::Token;

use super::super::places::places;
use super::super::{ALIAS, ROWS_FROM};
use super::{Place, Rewriter};
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;

/// Whether the token is TABLE that stands for a query: where the name of its table begins.
fn table_command(text: &Text<'_>, places: &[Place], at: usize) -> Option<usize> {
    let is_any = |at: usize, words: &[&str]| words.iter().any(|word| text.word(at, word));
    let is_name =
        |at: usize| text.lexemes.get(at).is_some_and(|token| matches!(token.kind, Kind::Word | Kind::QuotedWord));
    let operators = ["union", "intersect", "except"];
    let begins = at == 0
        || text.punctuation(at - 1, b'(')
        || matches!(places[at], Place::Into | Place::With)
            && (text.punctuation(at - 1, b')') || is_name(at - 1) && !text.word(at - 1, "into"))
        || is_any(at - 1, &operators)
        || at >= 2 && is_any(at - 1, &["all", "distinct"]) && is_any(at - 2, &operators);
    let name = at + 1 + usize::from(text.word(at + 1, "only"));
    (begins && text.word(at, "table") && is_name(at + 1)).then_some(name)
}

/// Every TABLE that stands for a query, and where the name of its table begins.
pub fn table_commands(text: &Text<'_>) -> Vec<(usize, usize)> {
    if !(0..text.lexemes.len()).any(|at| text.word(at, "table")) {
        return Vec::new();
    }
    let places = places(text);
    (0..text.lexemes.len()).filter_map(|at| Some((at, table_command(text, &places, at)?))).collect()
}

impl Rewriter<'_> {
    /// `ONLY t` and `ONLY (t)`: whether descendants count is not the planner's business.
    pub(super) fn only(&mut self, at: usize) -> Result<Option<usize>, String> {
        if self.text.punctuation(at + 1, b'(') {
            let close = self.closing(at + 1)?;
            if !self.is_name(at + 2) || self.behind_name(at + 2) != close {
                return Ok(None);
            }
            self.copy(at + 2, close)?;
            return Ok(Some(close + 1));
        }
        let counted = at > 0 && self.is_any(at - 1, &["row", "rows"]);
        Ok((self.is_name(at + 1) && !counted).then_some(at + 1))
    }

    /// `t *` behind a table's name, and `(expression).*`.
    pub(super) fn star(&mut self, at: usize) -> Option<usize> {
        if at >= 2 && self.text.punctuation(at - 1, b'.') {
            let within = self.text.punctuation(at - 2, b')') || self.text.punctuation(at - 2, b']');
            within.then(|| self.put_made_up(at, "*"));
            return within.then_some(at + 1);
        }
        if self.places[at] != Place::From && self.places[at] != Place::Into || at == 0 || !self.is_name(at - 1) {
            return None;
        }
        let mut first = at - 1;
        while first >= 2 && self.text.punctuation(first - 1, b'.') && self.is_name(first - 2) {
            first -= 2;
        }
        let begins = first > 0
            && (self.text.punctuation(first - 1, b',')
                || self.text.punctuation(first - 1, b'(')
                || self.is_any(first - 1, &["from", "join", "update", "using", "only", "into"]));
        begins.then_some(at + 1)
    }

    /// `TABLE t` is `SELECT * FROM t`.
    pub(super) fn table(&mut self, at: usize) -> Option<usize> {
        let name = table_command(self.text, &self.places, at)?;
        self.put_word(at, "SELECT");
        self.put(at, Token::Mul);
        self.put_word(at, "FROM");
        let end = self.behind_name(name);
        let star = self.text.lexemes.get(end).is_some_and(|next| next.is_operator(self.text.sql, "*"));
        (name..end).try_for_each(|part| self.push(part).map(|_| ())).ok()?;
        Some(end + usize::from(star))
    }

    /// `ROWS FROM (f(), g() AS (a int))`: one call of both.
    pub(super) fn rows_from(&mut self, at: usize) -> Result<Option<usize>, String> {
        let call =
            self.places[at] == Place::From && self.text.word(at + 1, "from") && self.text.punctuation(at + 2, b'(');
        if !call {
            return Ok(None);
        }
        let close = self.closing(at + 2)?;
        self.put_made_up(at, ROWS_FROM);
        self.put(at + 2, Token::LParen);
        let mut from = at + 3;
        while let Some(list) =
            self.find(from, close, |at| self.text.word(at, "as") && self.text.punctuation(at + 1, b'('))
        {
            self.copy(from, list)?;
            from = self.closing(list + 1)? + 1;
        }
        self.copy(from, close)?;
        self.put(close, Token::RParen);
        Ok(Some(close + 1))
    }

    /// `FROM f() AS (a int)`: the function's name is the alias.
    pub(super) fn column_definitions(&mut self, at: usize) -> Result<Option<usize>, String> {
        let list = self.places[at] == Place::From && self.text.punctuation(at + 1, b'(');
        if !list || at == 0 || !self.text.punctuation(at - 1, b')') {
            return Ok(None);
        }
        let mut depth = 0usize;
        let opens = (0..at).rev().find(|index| {
            match self.text.lexemes[*index].kind {
                Kind::Punctuation(b')') => depth += 1,
                Kind::Punctuation(b'(') => depth -= depth.min(1),
                _ => {}
            }
            depth == 0
        });
        let Some(name) = opens.and_then(|open| open.checked_sub(1)).filter(|name| self.is_name(*name)) else {
            return Ok(None);
        };
        self.push(at)?;
        self.push(name)?;
        Ok(Some(at + 1))
    }

    /// `USING (a, b) AS j`: the alias joins the list.
    pub(super) fn using_alias(&mut self, at: usize) -> Result<Option<usize>, String> {
        if !self.text.punctuation(at + 1, b'(') {
            return Ok(None);
        }
        let close = self.closing(at + 1)?;
        let names = (at + 2..close).all(|index| self.is_name(index) || self.text.punctuation(index, b','));
        if !names || !self.text.word(close + 1, "as") || !self.is_name(close + 2) {
            return Ok(None);
        }
        for index in at..close {
            self.push(index)?;
        }
        self.put(close, Token::Comma);
        self.put_made_up(close, ALIAS);
        self.put(close, Token::LParen);
        self.push(close + 2)?;
        self.put(close, Token::RParen);
        self.put(close, Token::RParen);
        Ok(Some(close + 3))
    }

    /// `) SEARCH DEPTH FIRST BY a SET b`, `) CYCLE a SET b USING c`: columns that are added to a WITH item.
    pub(super) fn search_or_cycle(&mut self, at: usize) -> Result<Option<usize>, String> {
        if self.places[at] != Place::With || at == 0 || !self.text.punctuation(at - 1, b')') {
            return Ok(None);
        }
        let mut end = at;
        while self.is_any(end, &["search", "cycle"]) {
            let search = self.text.word(end, "search");
            let last = if search { "set" } else { "using" };
            let to = self.text.lexemes.len();
            let Some(word) = self.find(end, to, |index| self.text.word(index, last)) else { return Ok(None) };
            end = word + 2;
        }
        let clause = self.text.slice(at, end.min(self.text.lexemes.len()) - 1);
        self.put_word(at, "FROM");
        self.put_made_up(at, clause);
        Ok(Some(end))
    }

    /// `LATERAL XMLTABLE (...)`: functions see what stands before them in any case.
    pub(super) fn lateral(&self, at: usize) -> Option<usize> {
        self.text.word(at + 1, "xmltable").then_some(at + 1)
    }

    /// `SELECT` without a list.
    pub(super) fn empty_list(&mut self, at: usize) -> Result<Option<usize>, String> {
        let mut next = at + 1;
        next += usize::from(self.text.word(next, "all"));
        let ends = match self.text.lexemes.get(next) {
            None => true,
            Some(lexeme) if lexeme.is(b')') || lexeme.is(b';') => true,
            Some(lexeme) => {
                lexeme.kind == Kind::Word
                    && self.is_any(
                        next,
                        &[
                            "into",
                            "where",
                            "group",
                            "having",
                            "window",
                            "union",
                            "intersect",
                            "except",
                            "order",
                            "limit",
                            "offset",
                            "fetch",
                            "for",
                        ],
                    )
            }
        };
        if !ends {
            return Ok(None);
        }
        self.push(at)?;
        self.put_made_up(at, super::super::NONE);
        Ok(Some(next))
    }
}
