//! LISTEN and UNLISTEN, which the gateway does for its clients, and the question what a session listens to.
//!
//! `SELECT pg_listening_channels()` and `SELECT * FROM pg_listening_channels()` are answered, with an alias too; in a larger
//! statement the function is refused: the servers do not know.

use super::refuse::refused;
use super::session::Cursor;
use super::types::{Plan, SessionCommand};
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::PgError;

const FUNCTION: &str = "pg_listening_channels";

/// Key words that are no names of channels: PostgreSQL's reserved ones, and those for functions and types only.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "tablesample",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

/// `LISTEN name`, `UNLISTEN name`, `UNLISTEN *`. `listens`: which.
pub fn plan(text: &Text<'_>, listens: bool) -> Result<Plan, PgError> {
    let mut cursor = Cursor { text, at: 1 };
    let all = text.lexemes.get(1).is_some_and(|lexeme| lexeme.is_operator(text.sql, "*") || lexeme.is(b'*'));
    let command = if !listens && all {
        cursor.at += 1;
        SessionCommand::Unlisten { channel: None }
    } else {
        let lexeme = text.lexemes.get(1).copied();
        if lexeme.is_some_and(|lexeme| RESERVED.iter().any(|word| lexeme.is_word(text.sql, word))) {
            return Err(cursor.unexpected());
        }
        let unicode =
            lexeme.filter(|lexeme| lexeme.kind == Kind::QuotedWord && !lexeme.text(text.sql).starts_with('"'));
        if let Some(lexeme) = unicode {
            return unicode_channel(text, lexeme.text(text.sql), listens);
        }
        let channel = cursor.name()?;
        if channel.is_empty() {
            return Err(cursor.unexpected());
        }
        match listens {
            true => {
                let whole = lexeme.map(|lexeme| whole(lexeme.kind, lexeme.text(text.sql)));
                let written = whole.filter(|whole| *whole != channel);
                SessionCommand::Listen { channel, written }
            }
            false => SessionCommand::Unlisten { channel: Some(channel) },
        }
    };
    cursor.end().map(|()| Plan::Session(command))
}

/// `LISTEN U&"d\0061ta"`, with another escape character by UESCAPE perhaps. What is wrong with it a shard says.
fn unicode_channel(text: &Text<'_>, name: &str, listens: bool) -> Result<Plan, PgError> {
    let string = |at: usize| text.lexemes.get(at).and_then(|lexeme| lexeme.string_value(text.sql));
    let escape = match text.lexemes.len() {
        2 => Some('\\'),
        4 if text.word(2, "uescape") => string(3).and_then(|escape| {
            let mut characters = escape.chars();
            characters.next().filter(|_| characters.next().is_none())
        }),
        _ => None,
    };
    let quoted = name.get(3..name.len() - 1).map(|name| name.replace("\"\"", "\""));
    let whole = escape.zip(quoted).and_then(|(escape, quoted)| unescaped(&quoted, escape));
    let Some(whole) = whole.filter(|whole| !whole.is_empty()) else {
        return Err(refused(
            "the channel's name is not understood",
            "Its Unicode escapes are not read.",
            "Write the characters themselves, in double quotes.",
        ));
    };
    let channel = crate::sql::lexer::truncate(whole.clone());
    let written = Some(whole).filter(|whole| *whole != channel);
    Ok(Plan::Session(match listens {
        true => SessionCommand::Listen { channel, written },
        false => SessionCommand::Unlisten { channel: Some(channel) },
    }))
}

/// `str_udeescape` of PostgreSQL's `parser.c`. None: not valid.
fn unescaped(text: &str, escape: char) -> Option<String> {
    if escape.is_ascii_hexdigit() || matches!(escape, '+' | '\'' | '"') || escape.is_ascii_whitespace() {
        return None;
    }
    let mut units: Vec<u32> = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != escape {
            units.push(u32::from(character));
        } else if let Some(after) = rest.strip_prefix(escape) {
            units.push(u32::from(escape));
            rest = after;
        } else {
            let (digits, after) = match rest.strip_prefix('+') {
                Some(long) => long.split_at_checked(6)?,
                None => rest.split_at_checked(4)?,
            };
            let unit = digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)?;
            units.push(u32::from_str_radix(unit, 16).ok().filter(|unit| *unit != 0)?);
            rest = after;
        }
    }
    let mut name = String::new();
    let mut units = units.into_iter();
    while let Some(unit) = units.next() {
        let point = match unit {
            0xd800..=0xdbff => {
                let low = units.next().filter(|low| (0xdc00..=0xdfff).contains(low))?;
                0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            unit => unit,
        };
        name.push(char::from_u32(point)?);
    }
    Some(name)
}

/// The identifier's value before it is cut to the length of names.
fn whole(kind: Kind, text: &str) -> String {
    match kind {
        Kind::QuotedWord => text[1..text.len() - 1].replace("\"\"", "\""),
        _ => text.to_ascii_lowercase(),
    }
}

/// `None`: the function is not called.
pub fn channels(text: &Text<'_>) -> Option<Result<Plan, PgError>> {
    let name = |index: usize| text.lexemes.get(index).and_then(|lexeme| lexeme.identifier(text.sql));
    let called = (1..text.lexemes.len())
        .find(|&at| name(at).is_some_and(|name| name == FUNCTION) && text.punctuation(at + 1, b'('))?;
    let refused = || {
        refused(
            format!("{FUNCTION} is called in a larger statement"),
            "Servers do not know what a session listens to: the gateway does.",
            format!("Use SELECT {FUNCTION}()."),
        )
    };
    let qualified = called >= 2 && text.punctuation(called - 1, b'.');
    if qualified && name(called - 2).is_none_or(|schema| schema != "pg_catalog") {
        return None;
    }
    let begin = if qualified { called - 2 } else { called };
    let star =
        |at: usize| text.lexemes.get(at).is_some_and(|lexeme| lexeme.is_operator(text.sql, "*") || lexeme.is(b'*'));
    let stands = text.word(0, "select") && (begin == 1 || begin == 3 && star(1) && text.word(2, "from"));
    if !stands || !text.punctuation(called + 2, b')') {
        return Some(Err(refused()));
    }
    let rest = if text.word(called + 3, "as") { called + 4 } else { called + 3 };
    let label = match text.lexemes.len().checked_sub(rest) {
        Some(0) if rest == called + 3 => FUNCTION.to_owned(),
        Some(1) => match name(rest) {
            Some(label) if !RESERVED.contains(&label.as_str()) || rest == called + 4 => label,
            _ => return Some(Err(refused())),
        },
        _ => return Some(Err(refused())),
    };
    Some(Ok(Plan::Session(SessionCommand::ListeningChannels { label })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(sql: &str) -> Result<SessionCommand, PgError> {
        let text = Text::new(sql).unwrap();
        let plan = match text.word(0, "select") {
            true => channels(&text).unwrap_or(Ok(Plan::Session(SessionCommand::Empty))),
            false => super::plan(&text, text.word(0, "listen")),
        };
        plan.map(|plan| match plan {
            Plan::Session(command) => command,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn channels_are_named_as_postgresql_names_them() {
        let listen = |sql: &str| match planned(sql) {
            Ok(SessionCommand::Listen { channel, written }) => (channel, written.is_some()),
            other => panic!("{sql}: {other:?}"),
        };
        assert_eq!(listen("LISTEN News"), ("news".into(), false));
        assert_eq!(listen("listen \"News \"\"1\"\"\""), ("News \"1\"".into(), false));
        let long = format!("LISTEN {}é", "x".repeat(62));
        assert_eq!(listen(&long), ("x".repeat(62), true));
        assert_eq!(listen("LISTEN U&\"d\\0061t\\+000061\"\"\""), ("data\"".into(), false));
        assert_eq!(listen("LISTEN u&\"N!!!00e9\" UESCAPE '!'"), ("N!é".into(), false));
        assert_eq!(listen("LISTEN U&\"\\d83d\\de00\""), ("😀".into(), false));
        for wrong in ["LISTEN U&\"\\006\"", "LISTEN U&\"\\d83d\"", "LISTEN U&\"a\" UESCAPE 'a'", "LISTEN U&\"a\" b"] {
            assert!(planned(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(planned("UNLISTEN *"), Ok(SessionCommand::Unlisten { channel: None })));
        assert!(matches!(planned("UNLISTEN A"), Ok(SessionCommand::Unlisten { channel: Some(a) }) if a == "a"));
        for wrong in [
            "LISTEN",
            "LISTEN *",
            "LISTEN a b",
            "LISTEN a.b",
            "LISTEN 'a'",
            "LISTEN select",
            "UNLISTEN",
            "UNLISTEN * *",
        ] {
            assert!(planned(wrong).is_err(), "{wrong}");
        }
        assert!(planned("LISTEN \"select\"").is_ok());
    }

    #[test]
    fn the_question_alone_is_answered() {
        for (sql, label) in [
            ("SELECT pg_listening_channels()", FUNCTION),
            ("select pg_catalog.pg_listening_channels()", FUNCTION),
            ("SELECT * FROM pg_listening_channels()", FUNCTION),
            ("SELECT * FROM pg_listening_channels() AS c", "c"),
            ("SELECT pg_listening_channels() c", "c"),
        ] {
            match planned(sql) {
                Ok(SessionCommand::ListeningChannels { label: found }) => assert_eq!(found, label, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
        for larger in [
            "SELECT count(*) FROM pg_listening_channels()",
            "SELECT pg_listening_channels(), 1",
            "SELECT * FROM pg_listening_channels() ORDER BY 1",
            "SELECT 'x' IN (SELECT pg_listening_channels())",
        ] {
            assert!(planned(larger).is_err(), "{larger}");
        }
        assert!(matches!(planned("SELECT 1"), Ok(SessionCommand::Empty)));
        assert!(matches!(planned("SELECT mine.pg_listening_channels()"), Ok(SessionCommand::Empty)));
    }
}
