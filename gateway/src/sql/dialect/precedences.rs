//! How tightly operators bind, as in `gram.y`.

use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Word};

pub(super) const OR: u8 = 10;
pub(super) const AND: u8 = 20;
pub(super) const NOT: u8 = 30;
pub(super) const IS: u8 = 40;
pub(super) const COMPARISON: u8 = 50;
/// BETWEEN, IN, LIKE, ILIKE, SIMILAR.
pub(super) const BETWEEN: u8 = 60;
/// Every operator that has no level of its own, in front of its operand as well.
pub(super) const OPERATOR: u8 = 70;
pub(super) const PLUS: u8 = 80;
pub(super) const TIMES: u8 = 90;
pub(super) const POWER: u8 = 100;
pub(super) const AT: u8 = 110;
pub(super) const COLLATE: u8 = 120;
/// Signs.
pub(super) const SIGN: u8 = 125;
/// OVERLAPS has rows for operands, and nothing comes between.
pub(super) const OVERLAPS: u8 = 126;
pub(super) const SUBSCRIPT: u8 = 130;
pub(super) const CAST: u8 = 140;
pub(super) const FIELD: u8 = 200;

/// How tightly the next token binds what stands before it; 0: not at all.
pub(super) fn precedence(parser: &Parser) -> u8 {
    let next = |ahead: usize| match &parser.peek_nth_token_ref(ahead).token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    match &parser.peek_nth_token_ref(0).token {
        Token::Word(word) => match word.keyword {
            Keyword::OR => OR,
            Keyword::AND => AND,
            Keyword::IS | Keyword::NOTNULL => IS,
            Keyword::IN | Keyword::BETWEEN | Keyword::LIKE | Keyword::ILIKE | Keyword::SIMILAR => BETWEEN,
            Keyword::NOT => match next(1) {
                Keyword::IN | Keyword::BETWEEN | Keyword::LIKE | Keyword::ILIKE | Keyword::SIMILAR => BETWEEN,
                _ => 0,
            },
            Keyword::OVERLAPS => OVERLAPS,
            Keyword::AT if next(1) == Keyword::TIME && next(2) == Keyword::ZONE => AT,
            Keyword::COLLATE => COLLATE,
            Keyword::OPERATOR if parser.peek_nth_token_ref(1).token == Token::LParen => OPERATOR,
            _ if is_word(word, "isnull") => IS,
            _ => 0,
        },
        Token::Eq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq | Token::Neq => COMPARISON,
        Token::Plus | Token::Minus => PLUS,
        Token::Mul | Token::Div | Token::Mod => TIMES,
        Token::Caret => POWER,
        Token::LBracket => SUBSCRIPT,
        Token::DoubleColon => CAST,
        Token::Period => FIELD,
        other if is_operator(other) => OPERATOR,
        _ => 0,
    }
}

pub(super) fn is_word(word: &Word, value: &str) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case(value)
}

/// One without a level of its own.
pub(super) fn is_operator(token: &Token) -> bool {
    matches!(
        token,
        Token::StringConcat
            | Token::Pipe
            | Token::Ampersand
            | Token::Sharp
            | Token::ShiftLeft
            | Token::ShiftRight
            | Token::Overlap
            | Token::CaretAt
            | Token::Tilde
            | Token::TildeAsterisk
            | Token::ExclamationMarkTilde
            | Token::ExclamationMarkTildeAsterisk
            | Token::DoubleTilde
            | Token::DoubleTildeAsterisk
            | Token::ExclamationMarkDoubleTilde
            | Token::ExclamationMarkDoubleTildeAsterisk
            | Token::Arrow
            | Token::LongArrow
            | Token::HashArrow
            | Token::HashLongArrow
            | Token::AtArrow
            | Token::ArrowAt
            | Token::HashMinus
            | Token::AtQuestion
            | Token::AtAt
            | Token::Question
            | Token::QuestionAnd
            | Token::QuestionPipe
            | Token::PGSquareRoot
            | Token::PGCubeRoot
            | Token::AtSign
            | Token::CustomBinaryOperator(_)
    )
}
