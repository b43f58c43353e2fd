//! PostgreSQL's grammar for queries and writes, on top of `sqlparser`'s: its tokens, its precedences, and the forms that the crate
//! does not know.
//!
//! Three steps: [`tokens`] makes the parser's tokens out of PostgreSQL's own ([`super::lexer`]), so that nothing is read differently;
//! [`rewrite`] writes forms that the tree has no node for as forms that it has, every name and expression in them kept; the hooks
//! ([`hooks`]) bind operators as `gram.y` does. What is left out has no expressions in it; the planner needs none of it, or asks the tokens: ONLY,
//! OVERRIDING, the strength of row locks, EXCLUDE of window frames, GROUP BY DISTINCT.
//!
//! Names that only the rewriting gives ([`MADE_UP`]) are of a quote style that no text can have.

mod expressions;
pub mod finish;
pub mod hooks;
mod places;
mod precedences;
mod reserved;
mod rewrite;
pub mod strings;
mod tokens;

use sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

use super::lexer::Lexeme;
use super::parse::Text;

/// The quote style of names that the rewriting gives.
pub const MADE_UP: char = '[';

/// `a[1]` as a target of an assignment: `a.[subscript](1)`.
pub const SUBSCRIPT: &str = "subscript";
/// `a[1:2]`: `a.[slice](1, 2)`; a bound that is left out is `[none]`.
pub const SLICE: &str = "slice";
pub const NONE: &str = "none";
/// `ON CONFLICT (lower(a)) WHERE p`: `ON CONFLICT ON CONSTRAINT [target](lower(a), [where] => p)`.
pub const CONFLICT_TARGET: &str = "target";
pub const WHERE: &str = "where";
/// `USING (a) AS j`: `USING (a, [alias](j))`.
pub const ALIAS: &str = "alias";
/// `f(VARIADIC a)`: `f([variadic] => a)`.
pub const VARIADIC: &str = "variadic";
/// `ROWS FROM (f(), g())`: `[rows from](f(), g())`.
pub const ROWS_FROM: &str = "rows from";
/// Grouping sets in grouping sets: `[grouping sets](...)`, `[rollup](...)`, `[cube](...)`, `[empty set]()`.
pub const GROUPING_SETS: &str = "grouping sets";
pub const EMPTY_SET: &str = "empty set";
/// `COLLATION FOR (a)`: `[collation for](a)`.
pub const COLLATION_FOR: &str = "collation for";
/// `WHERE CURRENT OF c` of a WITH query: `WHERE [current of]('c')`; of a statement: `WHERE true`.
pub const CURRENT_OF: &str = "current of";
/// `a BETWEEN SYMMETRIC b AND c`: `[between symmetric](a, b, c)`.
pub const BETWEEN_SYMMETRIC: &str = "between symmetric";
pub const NOT_BETWEEN_SYMMETRIC: &str = "not between symmetric";
/// `a IS DOCUMENT`: `[xml is document](a)`.
pub const IS_DOCUMENT: &str = "xml is document";

/// What reads like a call in the tree and is none in the text.
pub fn is_made_up_call(name: &str) -> bool {
    const NAMES: &[&str] = &[
        ROWS_FROM,
        GROUPING_SETS,
        EMPTY_SET,
        "rollup",
        "cube",
        COLLATION_FOR,
        CURRENT_OF,
        BETWEEN_SYMMETRIC,
        NOT_BETWEEN_SYMMETRIC,
        IS_DOCUMENT,
    ];
    NAMES.contains(&name)
}

pub use rewrite::table_commands;

/// The parser's tokens of a statement.
pub fn tokens(text: &Text<'_>) -> Result<Vec<TokenWithSpan>, String> {
    rewrite::rewrite(text)
}

/// The value of the string that begins at this token, whatever its form.
pub fn string_value(text: &Text<'_>, index: usize) -> Option<String> {
    match tokens::token(text, index).ok()?.0 {
        Token::SingleQuotedString(value) | Token::EscapedStringLiteral(value) | Token::NationalStringLiteral(value) => {
            Some(value)
        }
        Token::DollarQuotedString(string) => Some(string.value),
        _ => None,
    }
}

/// Positions that the parser is given: bytes, from 1, all on one line.
pub fn location(byte: usize) -> Location {
    Location { line: 1, column: byte as u64 + 1 }
}

fn span(lexeme: &Lexeme) -> Span {
    Span { start: location(lexeme.start), end: location(lexeme.end) }
}

pub fn is_made_up(ident: &Ident, name: &str) -> bool {
    ident.quote_style == Some(MADE_UP) && ident.value == name
}

/// Whether the rewriting gave the name.
pub fn is_made_up_name(name: &ObjectName) -> bool {
    matches!(name.0.first(), Some(ObjectNamePart::Identifier(ident)) if ident.quote_style == Some(MADE_UP))
}

/// Whether a call stands for `[NOT] BETWEEN SYMMETRIC`.
pub fn is_between_symmetric(name: &ObjectName) -> bool {
    matches!(name.0.first(), Some(ObjectNamePart::Identifier(ident))
        if is_made_up(ident, BETWEEN_SYMMETRIC) || is_made_up(ident, NOT_BETWEEN_SYMMETRIC))
}

/// The expressions within a name: subscripts of a target, or what ON CONFLICT infers an index from.
pub fn expressions(name: &ObjectName) -> Vec<&Expr> {
    let mut out = Vec::new();
    for part in &name.0 {
        let ObjectNamePart::Function(function) = part else { continue };
        for arg in &function.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
                | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. } => out.push(expr),
                _ => {}
            }
        }
    }
    out
}

/// The column of a target of an assignment: `a` of `a[1].b`.
pub fn target_column(name: &ObjectName) -> Option<String> {
    match name.0.first()? {
        ObjectNamePart::Identifier(ident) => Some(super::parse::ident_value(ident)),
        ObjectNamePart::Function(_) => None,
    }
}

/// The alias that `JOIN ... USING (...) AS alias` gives, where an item of the list is that.
pub fn using_alias(name: &ObjectName) -> Option<String> {
    let [ObjectNamePart::Function(function)] = name.0.as_slice() else { return None };
    if !is_made_up(&function.name, ALIAS) {
        return None;
    }
    match function.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident)))] => {
            Some(super::parse::ident_value(ident))
        }
        _ => None,
    }
}
