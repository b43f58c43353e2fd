//! A syntax tree back to SQL, every operator in parentheses: PostgreSQL reads it as the tree says, whatever binds tighter.
//!
//! What the gateway's rewriting put for forms that trees have no node for is written as those forms again.

use std::ops::ControlFlow;

use ringway_gateway::sql::dialect::MADE_UP;
use ringway_gateway::sql::lexer::{lex, Kind, Lexeme};
use sqlparser::ast::{DollarQuotedString, Expr, Ident, Query, Statement, Value, ValueWithSpan, VisitMut, VisitorMut};

/// In front of the names that only the rewriting gives.
const MARK: &str = "made_up__";

/// The statement that the tree stands for; None if it is not to be read again.
pub fn print(statement: &Statement) -> Option<String> {
    let mut statement = statement.clone();
    let mut printer = Printer::default();
    let _ = statement.visit(&mut printer);
    let mut text = statement.to_string();
    while let Some(next) = restore(&text, &printer.clauses)? {
        text = next;
    }
    Some(text)
}

#[derive(Default)]
struct Printer {
    /// SEARCH and CYCLE clauses, as they were written.
    clauses: Vec<String>,
}

impl VisitorMut for Printer {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        for table in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            if let Some(from) = &mut table.from {
                self.clauses.push(std::mem::replace(&mut from.value, format!("clause_{}", self.clauses.len())));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_ident(&mut self, ident: &mut Ident) -> ControlFlow<()> {
        if ident.quote_style == Some(MADE_UP) {
            ident.value = format!("{MARK}{}", ident.value.replace(' ', "_").replace('*', "star"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        // Without escapes there is nothing to get wrong.
        if let Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) = &mut value.value {
            let tag = Some("printed".to_owned());
            value.value = Value::DollarQuotedString(DollarQuotedString { value: std::mem::take(text), tag });
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if is_operator(expr) {
            let inner = std::mem::replace(expr, Expr::Tuple(Vec::new()));
            *expr = Expr::Nested(Box::new(inner));
        }
        ControlFlow::Continue(())
    }
}

/// What binds to its neighbours, loosely or tightly.
fn is_operator(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::BinaryOp { .. }
            | Expr::UnaryOp { .. }
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::IsDistinctFrom(..)
            | Expr::IsNotDistinctFrom(..)
            | Expr::IsNormalized { .. }
            | Expr::InList { .. }
            | Expr::InSubquery { .. }
            | Expr::Between { .. }
            | Expr::Like { .. }
            | Expr::ILike { .. }
            | Expr::SimilarTo { .. }
            | Expr::AnyOp { .. }
            | Expr::AllOp { .. }
            | Expr::Cast { .. }
            | Expr::AtTimeZone { .. }
            | Expr::Collate { .. }
    )
}

struct Printed<'t> {
    text: &'t str,
    lexemes: Vec<Lexeme>,
}

/// Writes the first form of the rewriting's as it was. `Some(None)`: there is none.
fn restore(text: &str, clauses: &[String]) -> Option<Option<String>> {
    let printed = Printed { text, lexemes: lex(text).ok()? };
    if let Some(at) = printed.nothing_before_operator() {
        return Some(Some(printed.spliced(at, at + 2, "")));
    }
    let mark =
        printed.lexemes.iter().position(|lexeme| lexeme.kind == Kind::Word && lexeme.text(text).starts_with(MARK));
    let Some(mark) = mark else { return Some(None) };
    let name = &printed.word(mark)[MARK.len()..];
    let open = mark + 2;
    let call = printed.is(open, "(");
    let close = if call { printed.closing(open)? } else { open };
    let arguments = if call { printed.arguments(open, close) } else { Vec::new() };
    // From the bracket in front of the name.
    let whole = |to: usize, with: &str| Some(Some(printed.spliced(mark - 1, to, with)));
    match name {
        "subscript" => Some(Some(printed.spliced(mark - 2, close + 1, &format!("[{}]", arguments.first()?)))),
        "slice" => {
            Some(Some(printed.spliced(mark - 2, close + 1, &format!("[{}:{}]", arguments.first()?, arguments.get(1)?))))
        }
        "none" => whole(mark + 2, ""),
        "star" => whole(mark + 2, "*"),
        "variadic" => whole(mark + 3, "VARIADIC "),
        "name" => {
            let value = printed.lexemes.get(mark + 3)?.string_value(text)?;
            whole(mark + 4, &format!("NAME \"{}\"", value.replace('"', "\"\"")))
        }
        "passing" => Some(Some(printed.spliced(mark - 2, mark + 3, " PASSING "))),
        "version" => {
            let none = printed.is(mark + 3, "NULL");
            whole(mark + 3 + usize::from(none), if none { "VERSION NO VALUE" } else { "VERSION " })
        }
        "standalone" => {
            let value = printed.lexemes.get(mark + 3)?.string_value(text)?;
            whole(mark + 4, &format!("STANDALONE {value}"))
        }
        "content" | "document" => {
            // NAME => (CAST(a AS t)) or CAST(a AS t)
            let cast = (mark + 3..printed.lexemes.len()).find(|at| printed.is(*at, "CAST"))?;
            let end = printed.closing(cast + 1)?;
            let outer = if cast == mark + 3 { end } else { end + (cast - mark - 3) };
            let inner = printed.slice(cast + 2, end);
            whole(outer + 1, &format!("{name} {inner}"))
        }
        "default" => Some(Some(printed.spliced(mark - 3, mark + 2, &format!("DEFAULT {}", printed.word(mark - 3))))),
        "alias" => Some(Some(printed.spliced(mark - 2, close + 2, &format!(") AS {}", arguments.first()?)))),
        "rows_from" => whole(open, "ROWS FROM "),
        "grouping_sets" | "rollup" | "cube" => {
            let call = format!("{}{}", name.to_uppercase().replace('_', " "), printed.slice(open, close + 1));
            // One by itself is printed as a set of one.
            let alone = printed.is(mark - 2, "(")
                && printed.is(close + 1, ")")
                && (printed.is(mark - 3, "(") || printed.is(mark - 3, ","));
            let (from, to) = if alone { (mark - 2, close + 2) } else { (mark - 1, close + 1) };
            Some(Some(printed.spliced(from, to, &call)))
        }
        "collation_for" => whole(open, "COLLATION FOR "),
        "empty_set" => whole(open, ""),
        "current_of" => {
            let cursor = printed.lexemes.get(open + 1)?.string_value(text)?;
            whole(close + 1, &format!("CURRENT OF \"{cursor}\""))
        }
        "between_symmetric" | "not_between_symmetric" => {
            let [left, low, high] = arguments.as_slice() else { return None };
            let not = if name.starts_with("not") { "NOT " } else { "" };
            whole(close + 1, &format!("({left} {not}BETWEEN SYMMETRIC {low} AND {high})"))
        }
        "xml_is_document" => whole(close + 1, &format!("({} IS DOCUMENT)", arguments.first()?)),
        "default_values" => Some(Some(printed.spliced(mark - 3, mark + 3, "DEFAULT VALUES"))),
        "target" => {
            let wheres = format!("[{MARK}where] =>");
            let elements: Vec<&str> =
                arguments.iter().copied().filter(|argument| !argument.starts_with(&wheres)).collect();
            let elements: Vec<String> = elements.into_iter().map(collated).collect();
            let condition = arguments.iter().find_map(|argument| argument.strip_prefix(&wheres));
            let condition = condition.map_or(String::new(), |condition| format!(" WHERE {condition}"));
            Some(Some(printed.spliced(mark - 3, close + 1, &format!("({}){condition}", elements.join(", ")))))
        }
        other => {
            let clause = clauses.get(other.strip_prefix("clause_")?.parse::<usize>().ok()?)?;
            Some(Some(printed.spliced(mark - 2, mark + 2, clause)))
        }
    }
}

/// An element of ON CONFLICT with a collation stands without parentheses.
fn collated(element: &str) -> String {
    match element.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) if inner.contains(" COLLATE ") && !inner.starts_with('(') => inner.to_owned(),
        _ => element.to_owned(),
    }
}

impl<'t> Printed<'t> {
    fn word(&self, at: usize) -> &'t str {
        self.lexemes[at].text(self.text)
    }

    fn is(&self, at: usize, token: &str) -> bool {
        self.lexemes.get(at).is_some_and(|lexeme| lexeme.text(self.text) == token)
    }

    fn slice(&self, from: usize, to: usize) -> &'t str {
        &self.text[self.lexemes[from].start..self.lexemes[to - 1].end]
    }

    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        (open..self.lexemes.len()).find(|at| {
            match self.lexemes[*at].kind {
                Kind::Punctuation(b'(' | b'[') => depth += 1,
                Kind::Punctuation(b')' | b']') => depth -= 1,
                _ => {}
            }
            depth == 0
        })
    }

    fn arguments(&self, open: usize, close: usize) -> Vec<&'t str> {
        let mut out = Vec::new();
        let mut first = open + 1;
        let mut at = open + 1;
        while at <= close && first < close {
            if at == close || self.is(at, ",") {
                out.push(self.slice(first, at));
                first = at + 1;
            } else if self.is(at, "(") || self.is(at, "[") {
                at = self.closing(at).unwrap_or(close);
            }
            at += 1;
        }
        out
    }

    /// `() @@ a`, an operator in front of its operand.
    fn nothing_before_operator(&self) -> Option<usize> {
        (1..self.lexemes.len().saturating_sub(2)).find(|at| {
            self.is(at - 1, "(")
                && self.is(*at, "(")
                && self.is(at + 1, ")")
                && self.lexemes[at + 2].kind == Kind::Operator
        })
    }

    /// With other text for tokens `from..to`.
    fn spliced(&self, from: usize, to: usize, with: &str) -> String {
        let end = self.lexemes.get(to).map_or(self.text.len(), |next| next.start);
        format!("{}{with} {}", &self.text[..self.lexemes[from].start], &self.text[end..])
    }
}
