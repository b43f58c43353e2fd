//! `now()` and its kin in a statement for several shards: every shard has a clock of its own, so the gateway writes one value
//! into the text that it sends. The value comes from outside: planning itself has no clock.
//!
//! `SELECT now() FROM t WHERE at < current_date` becomes
//! `SELECT (SELECT TIMESTAMP WITH TIME ZONE '...' AS "now") FROM t WHERE at < (TIMESTAMP WITH TIME ZONE '...')::pg_catalog.date`.
//! The select list's form keeps the name of the output column; conditions get a plain constant, which indexes are chosen by.

use ringway_topology::model::{quote_ident, quote_literal};

use crate::catalog::builtin::{is_clock_function, is_clock_word};
use crate::sql::dialect::string_value;
use crate::sql::lexer::{lex, Kind, Lexeme};
use crate::sql::parse::Text;
use crate::sql::splice::{apply, Splice};

/// Readings, as PostgreSQL reads a timestamp with time zone.
#[derive(Clone, Debug)]
pub struct Readings {
    /// When the transaction began.
    pub transaction: String,
    /// When the statement began.
    pub statement: String,
}

struct Reading {
    first: usize,
    last: usize,
    name: String,
    /// Tokens of `(3)`.
    precision: Option<(usize, usize)>,
    /// It stands in a select list, or in what has to be written like one.
    listed: bool,
}

/// Whether the statement reads the clock in a way that [`fixed`] can write a value for.
pub fn reads(text: &Text<'_>) -> bool {
    !readings(text.sql, &text.lexemes).is_empty()
}

/// What reads the clock of the server that runs the statement, and cannot be given a value.
pub fn unfixable(text: &Text<'_>) -> Option<String> {
    for (index, lexeme) in text.lexemes.iter().enumerate() {
        if text.word(index, "age") && text.punctuation(index + 1, b'(') {
            let close = text.closing(index + 1)?;
            let commas = crate::sql::clauses::split_at_commas(text, index + 2, close);
            if commas.is_none_or(|arguments| arguments.len() == 1) {
                return Some("age(x) counts from the server's current date; write age(current_date, x).".to_owned());
            }
        }
        if lexeme.kind != Kind::String {
            continue;
        }
        let Some(value) = string_value(text, index) else { continue };
        let value = value.trim().to_ascii_lowercase();
        if !matches!(value.as_str(), "now" | "today" | "tomorrow" | "yesterday") {
            continue;
        }
        let cast = text.lexemes.get(index + 1).is_some_and(|next| next.text(text.sql) == "::");
        let is_text = cast && ["text", "varchar", "name"].iter().any(|name| text.word(index + 2, name));
        if !is_text {
            return Some(format!(
                "'{value}' may be read as a time by the server's clock; write now() or current_date, or '{value}'::text."
            ));
        }
    }
    None
}

/// The text with values for what reads the clock. `None`: it reads none.
pub fn fixed(sql: &str, at: &Readings) -> Option<String> {
    let lexemes = lex(sql).ok()?;
    let readings = readings(sql, &lexemes);
    if readings.is_empty() {
        return None;
    }
    let splices: Vec<Splice> = readings
        .iter()
        .map(|reading| {
            let precision = reading.precision.map_or("", |(first, last)| &sql[lexemes[first].start..lexemes[last].end]);
            let instant = if reading.name == "statement_timestamp" { &at.statement } else { &at.transaction };
            let instant = format!("TIMESTAMP WITH TIME ZONE {}", quote_literal(instant));
            let value = match reading.name.as_str() {
                "current_date" => format!("({instant})::pg_catalog.date"),
                "current_time" => format!("({instant})::TIME{precision} WITH TIME ZONE"),
                "localtime" => format!("({instant})::TIME{precision} WITHOUT TIME ZONE"),
                "localtimestamp" => format!("({instant})::TIMESTAMP{precision} WITHOUT TIME ZONE"),
                _ if precision.is_empty() => instant,
                _ => format!("({instant})::TIMESTAMP{precision} WITH TIME ZONE"),
            };
            let value = if reading.listed {
                format!("(SELECT {value} AS {})", quote_ident(&reading.name))
            } else {
                format!("({value})")
            };
            Splice::replace(lexemes[reading.first].start..lexemes[reading.last].end, value)
        })
        .collect();
    apply(sql, &splices)
}

fn readings(sql: &str, lexemes: &[Lexeme]) -> Vec<Reading> {
    let is = |index: usize, punctuation: u8| lexemes.get(index).is_some_and(|lexeme| lexeme.is(punctuation));
    let word = |index: usize, word: &str| lexemes.get(index).is_some_and(|lexeme| lexeme.is_word(sql, word));
    let mut out = Vec::new();
    // By depth of parentheses.
    let mut listed = vec![false];
    for (index, lexeme) in lexemes.iter().enumerate() {
        match lexeme.kind {
            Kind::Punctuation(b'(') => listed.push(listed.last().is_some_and(|listed| *listed)),
            Kind::Punctuation(b')') if listed.len() > 1 => {
                listed.pop();
            }
            Kind::Word | Kind::QuotedWord => {}
            _ => continue,
        }
        if !matches!(lexeme.kind, Kind::Word | Kind::QuotedWord) {
            continue;
        }
        let Some(name) = lexeme.identifier(sql) else { continue };
        let labelled = index > 0 && word(index - 1, "as");
        let mut first = index;
        if index >= 2 && is(index - 1, b'.') {
            if !word(index - 2, "pg_catalog") || is(index.wrapping_sub(3), b'.') {
                continue;
            }
            first = index - 2;
        } else if lexeme.kind == Kind::Word && !labelled {
            let here = listed.last_mut();
            match (name.as_str(), here) {
                ("select" | "group" | "order" | "having" | "window" | "returning" | "distinct", Some(here)) => {
                    *here = true;
                }
                ("from", Some(here)) if index == 0 || !word(index - 1, "distinct") => *here = false,
                ("where" | "set" | "values" | "on" | "limit" | "offset" | "into", Some(here)) => *here = false,
                _ => {}
            }
        }
        let listed = listed.last().is_some_and(|listed| *listed);
        if lexeme.kind == Kind::Word && is_clock_word(&name) && first == index && !labelled {
            let precision = (is(index + 1, b'(') && is(index + 3, b')')).then_some((index + 1, index + 3));
            let last = precision.map_or(index, |(_, last)| last);
            out.push(Reading { first, last, name, precision, listed });
        } else if is_clock_function(&name) && is(index + 1, b'(') && is(index + 2, b')') {
            out.push(Reading { first, last: index + 2, name, precision: None, listed });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix(sql: &str) -> Option<String> {
        fixed(sql, &Readings { transaction: "T".into(), statement: "S".into() })
            .map(|text| text.replace("TIMESTAMP WITH TIME ZONE", "TZ"))
    }

    #[test]
    fn values_stand_where_the_clock_was_read() {
        let cases = [
            ("SELECT now()", "SELECT (SELECT TZ 'T' AS \"now\")"),
            ("SELECT 1 FROM t WHERE at < now( )", "SELECT 1 FROM t WHERE at < (TZ 'T')"),
            ("SELECT pg_catalog.now()::date", "SELECT (SELECT TZ 'T' AS \"now\")::date"),
            ("UPDATE t SET at = CURRENT_TIMESTAMP(3)", "UPDATE t SET at = ((TZ 'T')::TIMESTAMP(3) WITH TIME ZONE)"),
            ("DELETE FROM t WHERE d = current_date RETURNING current_date",
             "DELETE FROM t WHERE d = ((TZ 'T')::pg_catalog.date) RETURNING (SELECT (TZ 'T')::pg_catalog.date AS \"current_date\")"),
            ("INSERT INTO t VALUES (1, statement_timestamp())", "INSERT INTO t VALUES (1, (TZ 'S'))"),
            ("SELECT x + now() AS a, localtime FROM t GROUP BY x + now()",
             "SELECT x + (SELECT TZ 'T' AS \"now\") AS a, (SELECT (TZ 'T')::TIME WITHOUT TIME ZONE AS \"localtime\") FROM t GROUP BY x + (SELECT TZ 'T' AS \"now\")"),
            ("SELECT a IS DISTINCT FROM b, now() FROM t", "SELECT a IS DISTINCT FROM b, (SELECT TZ 'T' AS \"now\") FROM t"),
        ];
        for (sql, expected) in cases {
            assert_eq!(fix(sql).as_deref(), Some(expected), "{sql}");
        }
    }

    #[test]
    fn what_only_looks_like_a_clock_stays() {
        for sql in [
            "SELECT now FROM t",
            "SELECT 'now()', t.now, other.now() FROM t",
            "SELECT 1 AS current_date FROM t -- now()",
            "SELECT \"current_date\", x.current_date FROM t",
            "SELECT now(1)",
            "SELECT clock_timestamp()",
        ] {
            assert_eq!(fix(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_cannot_be_given_a_value_is_told() {
        let unfixable = |sql: &str| unfixable(&Text::new(sql).unwrap()).is_some();
        assert!(unfixable("SELECT age(born) FROM t") && !unfixable("SELECT age(now(), born) FROM t"));
        assert!(
            unfixable("SELECT 1 FROM t WHERE at < 'today'") && !unfixable("SELECT 1 FROM t WHERE s = 'today'::text")
        );
        assert!(unfixable("SELECT ' NOW '::timestamptz"));
    }
}
