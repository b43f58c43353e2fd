//! PostgreSQL's tokens as the parser's.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Word};

use super::reserved::is_foreign;
use super::strings;
use crate::sql::lexer::{Kind, Lexeme};
use crate::sql::parse::Text;

/// The token of a lexeme, and how many lexemes it takes: UESCAPE belongs to what it stands behind.
pub fn token(text: &Text<'_>, index: usize) -> Result<(Token, usize), String> {
    let lexeme = text.lexemes[index];
    let source = lexeme.text(text.sql);
    let one = |token| Ok((token, 1));
    match lexeme.kind {
        Kind::Word if is_foreign(source) && !is_definition(text) => {
            one(Token::Word(Word { value: source.to_owned(), quote_style: None, keyword: Keyword::NoKeyword }))
        }
        Kind::Word => one(Token::make_word(source, None)),
        Kind::QuotedWord => {
            // Not with an UESCAPE of its own: what looks at single tokens would not know the name.
            let value = lexeme.identifier(text.sql).ok_or("a name's Unicode escapes are not understood")?;
            one(Token::make_word(&value, Some('"')))
        }
        Kind::String => string(text, index, &lexeme),
        Kind::Number => one(Token::Number(source.to_owned(), false)),
        Kind::Parameter(_) => one(Token::Placeholder(source.to_owned())),
        Kind::Operator => one(operator(source)),
        Kind::Punctuation(_) => one(match source {
            "(" => Token::LParen,
            ")" => Token::RParen,
            "[" => Token::LBracket,
            "]" => Token::RBracket,
            "," => Token::Comma,
            ";" => Token::SemiColon,
            "." => Token::Period,
            ":" => Token::Colon,
            "::" => Token::DoubleColon,
            ":=" => Token::Assignment,
            _ => return Err(format!("syntax error at or near \"{source}\"")),
        }),
    }
}

/// CREATE and ALTER, which some of those words belong to in PostgreSQL as well.
fn is_definition(text: &Text<'_>) -> bool {
    text.word(0, "create") || text.word(0, "alter")
}

fn string(text: &Text<'_>, index: usize, lexeme: &Lexeme) -> Result<(Token, usize), String> {
    let source = lexeme.text(text.sql);
    let unknown = || "a string's escapes are not understood".to_owned();
    if let Some(rest) = source.strip_prefix('$') {
        let tag = rest.find('$').ok_or_else(unknown)? + 2;
        let value = source[tag..source.len() - tag].to_owned();
        let tag = Some(source[1..tag - 1].to_owned()).filter(|tag| !tag.is_empty());
        return Ok((Token::DollarQuotedString(sqlparser::ast::DollarQuotedString { value, tag }), 1));
    }
    let escapes = source.starts_with(['e', 'E']);
    let pieces = strings::pieces(source, escapes).ok_or_else(unknown)?;
    let value = if escapes { strings::escaped(&pieces).ok_or_else(unknown)? } else { strings::plain(&pieces) };
    let token = match source.as_bytes()[0] {
        b'e' | b'E' => Token::EscapedStringLiteral(value),
        b'n' | b'N' => Token::NationalStringLiteral(value),
        b'b' | b'B' => Token::SingleQuotedByteStringLiteral(value),
        b'x' | b'X' => Token::HexStringLiteral(value),
        b'u' | b'U' => {
            let (escape, taken) = escape_character(text, index).ok_or_else(unknown)?;
            let value = strings::unicode_escaped(&value, escape).ok_or_else(unknown)?;
            return Ok((Token::SingleQuotedString(value), taken));
        }
        _ => Token::SingleQuotedString(value),
    };
    Ok((token, 1))
}

/// The escape character of a `U&''`, and how many lexemes it takes with its UESCAPE.
fn escape_character(text: &Text<'_>, index: usize) -> Option<(char, usize)> {
    if !text.word(index + 1, "uescape") {
        return Some(('\\', 1));
    }
    let given = text.lexemes.get(index + 2)?.string_value(text.sql)?;
    let mut characters = given.chars();
    let escape = characters.next()?;
    characters.next().is_none().then_some((escape, 3))
}

/// Those that the parser has names for; all others are operators of somebody's own.
pub fn operator(source: &str) -> Token {
    match source {
        "+" => Token::Plus,
        "-" => Token::Minus,
        "*" => Token::Mul,
        "/" => Token::Div,
        "%" => Token::Mod,
        "^" => Token::Caret,
        "=" => Token::Eq,
        "<>" | "!=" => Token::Neq,
        "<" => Token::Lt,
        ">" => Token::Gt,
        "<=" => Token::LtEq,
        ">=" => Token::GtEq,
        "=>" => Token::RArrow,
        "||" => Token::StringConcat,
        "|" => Token::Pipe,
        "&" => Token::Ampersand,
        "#" => Token::Sharp,
        "<<" => Token::ShiftLeft,
        ">>" => Token::ShiftRight,
        "&&" => Token::Overlap,
        "^@" => Token::CaretAt,
        "~" => Token::Tilde,
        "~*" => Token::TildeAsterisk,
        "!~" => Token::ExclamationMarkTilde,
        "!~*" => Token::ExclamationMarkTildeAsterisk,
        "~~" => Token::DoubleTilde,
        "~~*" => Token::DoubleTildeAsterisk,
        "!~~" => Token::ExclamationMarkDoubleTilde,
        "!~~*" => Token::ExclamationMarkDoubleTildeAsterisk,
        "->" => Token::Arrow,
        "->>" => Token::LongArrow,
        "#>" => Token::HashArrow,
        "#>>" => Token::HashLongArrow,
        "@>" => Token::AtArrow,
        "<@" => Token::ArrowAt,
        "#-" => Token::HashMinus,
        "@?" => Token::AtQuestion,
        "@@" => Token::AtAt,
        "?" => Token::Question,
        "?&" => Token::QuestionAnd,
        "?|" => Token::QuestionPipe,
        "|/" => Token::PGSquareRoot,
        "||/" => Token::PGCubeRoot,
        "@" => Token::AtSign,
        other => Token::CustomBinaryOperator(other.to_owned()),
    }
}
