//! Texts of statements: tokens, statements of a text, literals lifted out, parameters found.

use std::collections::HashMap;

use ringway_gateway::merge::insert_split;
use ringway_gateway::plan::types::{InsertRow, InsertSplit, KeyExpression};
use ringway_gateway::sql::lexer::{lex, Kind, Lexeme};
use ringway_gateway::sql::lift::lift;
use ringway_gateway::sql::split::split;

pub fn check(data: &[u8]) {
    let sql = String::from_utf8_lossy(data);
    let Ok(lexemes) = lex(&sql) else {
        assert!(split(&sql).is_err());
        return;
    };
    tokens(&sql, &lexemes);
    statements(&sql, &lexemes);
    if let Some(lifted) = lift(&sql, &lexemes) {
        let values: Vec<&str> = lifted.values.iter().map(AsRef::as_ref).collect();
        put_back(&sql, &lexemes, &lifted.text, &values);
    }
    parameters(&sql, &lexemes);
}

/// Tokens follow each other, and nothing but blanks and comments lies between them.
fn tokens(sql: &str, lexemes: &[Lexeme]) {
    let mut at = 0;
    for lexeme in lexemes {
        assert!(at <= lexeme.start && lexeme.start < lexeme.end);
        assert_eq!(lex(&sql[at..lexeme.start]), Ok(Vec::new()));
        let _ = (lexeme.identifier(sql), lexeme.string_value(sql));
        at = lexeme.end;
    }
    assert_eq!(lex(&sql[at..]), Ok(Vec::new()));
}

/// Every token but the semicolons between statements is in one statement, in order.
fn statements(sql: &str, lexemes: &[Lexeme]) {
    let statements = split(sql).expect("a text that has tokens has statements");
    let (mut at, mut tokens) = (0, 0);
    for range in &statements {
        assert!(at <= range.start && range.start < range.end);
        let within = |lexeme: &&Lexeme| range.start <= lexeme.start && lexeme.end <= range.end;
        tokens += lexemes.iter().filter(within).count();
        at = range.end;
    }
    let outside = lexemes.iter().filter(|lexeme| !statements.iter().any(|range| range.contains(&lexeme.start)));
    let outside: Vec<_> = outside.collect();
    assert!(outside.iter().all(|lexeme| lexeme.is(b';')));
    assert_eq!(tokens + outside.len(), lexemes.len());
}

/// The lifted text with the values in the places of their parameters is the same stream of tokens.
fn put_back(sql: &str, lexemes: &[Lexeme], lifted: &str, values: &[&str]) {
    let mut rest = lexemes.iter();
    let mut used = 0;
    for lexeme in lex(lifted).expect("literals are left out of a text that has tokens") {
        let original = rest.next().expect("no token more");
        let Kind::Parameter(number) = lexeme.kind else {
            assert_eq!((lexeme.kind, lexeme.text(lifted)), (original.kind, original.text(sql)));
            continue;
        };
        used += 1;
        assert_eq!(number, used, "numbered in their order");
        let value = values[number as usize - 1];
        match original.kind {
            Kind::String => assert_eq!(original.string_value(sql).as_deref(), Some(value)),
            Kind::Number => assert_eq!(original.text(sql), value),
            Kind::Operator => {
                let number = rest.next().expect("a number behind its sign");
                assert_eq!((original.text(sql), number.kind), ("-", Kind::Number));
                assert_eq!(format!("-{}", number.text(sql)), value);
            }
            kind => panic!("{kind:?} is no literal"),
        }
    }
    assert_eq!((rest.next(), used as usize), (None, values.len()));
}

/// What finds parameters for a multi-row INSERT sees those that the lexer sees.
fn parameters(sql: &str, lexemes: &[Lexeme]) {
    let rows = vec![InsertRow { start: 0, end: sql.len(), key: KeyExpression::Constant(None) }];
    let split = insert_split::split(sql, &InsertSplit { head_end: 0, tail_start: sql.len(), rows }, &[0]);
    let (mut expected, mut copied, mut numbers) = (String::new(), 0, HashMap::new());
    for lexeme in lexemes {
        let Kind::Parameter(number @ 1..) = lexeme.kind else { continue };
        if lexeme.end - lexeme.start > 10 {
            // Too large for a number of PostgreSQL's: the planner refuses it.
            return;
        }
        let next = numbers.len() + 1;
        let renumbered = *numbers.entry(number).or_insert(next);
        expected.push_str(&sql[copied..lexeme.start]);
        expected.push_str(&format!("${renumbered}"));
        copied = lexeme.end;
    }
    expected.push_str(&sql[copied..]);
    assert_eq!(split[0].sql, expected);
    assert_eq!(split[0].parameters.len(), numbers.len());
}
