//! One statement of the differential test, and the files that list them.
//!
//! A file is a sequence of paragraphs. The first line of a paragraph says how the statement in its other lines is run and
//! compared; lines that begin with `#` are comments:
//!
//! ```text
//! equal ordered
//! SELECT id, name FROM tenants ORDER BY id
//!
//! plain params 7 'paid'
//! SELECT count(*) FROM orders WHERE tenant_id = $1 AND status = $2
//!
//! equal
//! COPY documents (slug, size) FROM STDIN (FORMAT csv)
//! ----
//! "a, b",7
//! ```

use anyhow::{bail, ensure, Context as _, Result};

/// What is asked of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// It must give PostgreSQL's answer.
    Equal,
    /// It should; how many of these it refuses is bounded.
    Plain,
    /// It may refuse.
    Hard,
    /// One PostgreSQL can do it, but shards cannot hold what it promises: it must be refused.
    Refused,
}

/// How rows are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    AnyOrder,
    /// The statement's order is total.
    Ordered,
    /// In order by these columns; among equals in any order.
    OrderedBy(Vec<usize>),
    /// LIMIT without a total order: which rows come is undefined.
    Counted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Simple,
    Extended { parameters: Vec<Option<String>>, binary_results: bool },
}

#[derive(Clone, Debug)]
pub struct Case {
    /// Where it comes from: a file and line, or a seed and number.
    pub origin: String,
    pub sql: String,
    pub expectation: Expectation,
    pub rows: Rows,
    pub protocol: Protocol,
    /// What is sent when the server asks for a COPY's data.
    pub copy_data: String,
    /// Generated to read, WITH or without WITH: how many of these are refused is bounded.
    pub select: bool,
}

impl Case {
    /// By the simple protocol, rows in any order.
    pub fn new(expectation: Expectation, sql: impl Into<String>) -> Case {
        Case {
            origin: String::new(),
            sql: sql.into(),
            expectation,
            rows: Rows::AnyOrder,
            protocol: Protocol::Simple,
            copy_data: String::new(),
            select: false,
        }
    }

    pub fn rows(self, rows: Rows) -> Case {
        Case { rows, ..self }
    }

    pub fn extended(self, parameters: Vec<Option<String>>, binary_results: bool) -> Case {
        Case { protocol: Protocol::Extended { parameters, binary_results }, ..self }
    }

    fn first_word(&self) -> String {
        self.sql.trim_start().chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase()
    }

    /// Whatever becomes of the transaction, it is over after this.
    pub fn ends_transaction(&self) -> bool {
        let word = self.first_word();
        word == "COMMIT" || word == "END" || word == "ROLLBACK" && !self.sql.to_ascii_uppercase().contains(" TO ")
    }

    pub fn may_write(&self) -> bool {
        !matches!(&self.first_word()[..], "SELECT" | "VALUES" | "TABLE" | "SHOW")
    }
}

/// Reads a file's statements.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let origin = format!("{file}:{}", number + 1);
        let mut sql = Vec::new();
        let mut copy_data: Option<String> = None;
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty()) {
            match &mut copy_data {
                Some(data) => *data += &format!("{line}\n"),
                None if line == "----" => copy_data = Some(String::new()),
                None => sql.push(line),
            }
        }
        ensure!(!sql.is_empty(), "{origin}: no statement follows");
        let mut case = header(line).with_context(|| origin.clone())?;
        case.origin = origin;
        case.sql = sql.join("\n");
        case.copy_data = copy_data.unwrap_or_default();
        cases.push(case);
    }
    Ok(cases)
}

fn header(line: &str) -> Result<Case> {
    let (flags, parameters) = match line.split_once(" params") {
        None => (line, None),
        Some((flags, parameters)) => (flags, Some(parse_parameters(parameters)?)),
    };
    let mut words = flags.split_whitespace();
    let expectation = match words.next() {
        Some("equal") => Expectation::Equal,
        Some("plain") => Expectation::Plain,
        Some("hard") => Expectation::Hard,
        Some("refused") => Expectation::Refused,
        other => bail!("a paragraph begins with equal, plain, hard or refused, not {other:?}"),
    };
    let mut case = Case::new(expectation, "");
    let (mut extended, mut binary_results) = (parameters.is_some(), false);
    for word in words {
        match word {
            "ordered" => case.rows = Rows::Ordered,
            "counted" => case.rows = Rows::Counted,
            "extended" => extended = true,
            "binary" => (extended, binary_results) = (true, true),
            _ => match word.strip_prefix("by=") {
                Some(columns) => {
                    let columns = columns.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    case.rows = Rows::OrderedBy(columns);
                }
                None => bail!("unknown flag {word}"),
            },
        }
    }
    if extended {
        case = case.extended(parameters.unwrap_or_default(), binary_results);
    }
    Ok(case)
}

/// Words, `'quoted ''text'''`, or NULL.
fn parse_parameters(text: &str) -> Result<Vec<Option<String>>> {
    let mut parameters = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let mut value = String::new();
            let mut quoted = quoted;
            loop {
                let (before, after) = quoted.split_once('\'').context("an unterminated parameter")?;
                value.push_str(before);
                match after.strip_prefix('\'') {
                    Some(after) => {
                        value.push('\'');
                        quoted = after;
                    }
                    None => {
                        rest = after.trim_start();
                        break;
                    }
                }
            }
            parameters.push(Some(value));
        } else {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            parameters.push(Some(word).filter(|word| *word != "NULL").map(str::to_owned));
            rest = after.trim_start();
        }
    }
    Ok(parameters)
}

#[test]
fn files_are_read() {
    let text = "# comment\n\nequal ordered by=0,2\nSELECT 1\nFROM t\n\nplain binary params 7 'it''s' NULL\nSELECT $1\n";
    let cases = parse("f", text).unwrap();
    assert_eq!((cases.len(), &cases[0].origin[..], &cases[0].sql[..]), (2, "f:3", "SELECT 1\nFROM t"));
    assert_eq!(cases[0].rows, Rows::OrderedBy(vec![0, 2]));
    let parameters = vec![Some("7".to_owned()), Some("it's".to_owned()), None];
    assert_eq!(cases[1].protocol, Protocol::Extended { parameters, binary_results: true });
    assert!(parse("f", "maybe\nSELECT 1").is_err() && parse("f", "equal\n\nequal\nSELECT 1").is_err());
}
