//! What a server answers, and whether two answers are the same.

use std::fmt;

use anyhow::{bail, Context as _, Result};
use bytes::BytesMut;
use ringway_gateway::wire::backend::{parse_data_row, parse_parameter_description, parse_row_description};
use ringway_gateway::wire::{frontend, Format, Target};
use ringway_tests::scenario::raw::{Message, Raw};

use crate::case::{Protocol, Rows};

/// Types that users make have other OIDs on every server.
const FIRST_USER_OID: u32 = 16_384;
const ROWS_SHOWN: usize = 12;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Types of the parameters, by the extended protocol.
    pub parameters: Vec<u32>,
    pub results: Vec<ResultSet>,
    pub error: Option<Failure>,
    /// ReadyForQuery: I, T or E.
    pub status: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultSet {
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Row>,
    /// None: the statement did not end.
    pub tag: Option<String>,
}

pub type Row = Vec<Option<Vec<u8>>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub format: u16,
}

/// Bytes of a CopyData message: rows are cut anywhere.
const COPY_DATA_BYTES: usize = 11;

/// Runs a statement and reads its answer.
pub async fn ask(session: &mut Raw, sql: &str, protocol: &Protocol, copy_data: &str) -> Result<Answer> {
    let mut bytes = BytesMut::new();
    match protocol {
        Protocol::Simple => frontend::query(&mut bytes, sql),
        Protocol::Extended { parameters, binary_results } => {
            let format = if *binary_results { Format::Binary } else { Format::Text };
            frontend::parse(&mut bytes, "", sql, &[]);
            frontend::describe(&mut bytes, Target::Statement, "");
            frontend::bind(&mut bytes, "", "", [], parameters.iter().map(Option::as_ref), [format]);
            frontend::describe(&mut bytes, Target::Portal, "");
            frontend::execute(&mut bytes, "", 0);
            frontend::sync(&mut bytes);
        }
    }
    session.send(&bytes).await?;
    let mut messages = Vec::new();
    loop {
        let message = session.message().await?.with_context(|| format!("the server closed after {messages:?}"))?;
        match message.tag {
            b'G' => {
                let mut data = BytesMut::new();
                copy_data.as_bytes().chunks(COPY_DATA_BYTES).for_each(|chunk| frontend::copy_data(&mut data, chunk));
                frontend::copy_done(&mut data);
                session.send(&data).await?;
            }
            b'Z' => {
                messages.push(message);
                return read(messages).with_context(|| format!("the answer to {sql}"));
            }
            _ => messages.push(message),
        }
    }
}

fn read(messages: Vec<Message>) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut current = ResultSet::default();
    let mut copied = Vec::new();
    for Message { tag, body } in &messages {
        match tag {
            // The extended protocol describes the statement first, then the portal, whose formats count.
            b'T' => {
                let columns = parse_row_description(body)?.into_iter().map(|field| Column {
                    name: field.name,
                    type_oid: field.type_oid.min(FIRST_USER_OID),
                    format: field.format.code(),
                });
                current.columns = Some(columns.collect());
            }
            b't' => {
                answer.parameters = parse_parameter_description(body)?;
                answer.parameters.iter_mut().for_each(|oid| *oid = (*oid).min(FIRST_USER_OID));
            }
            b'D' => {
                let row = parse_data_row(body)?;
                current.rows.push(row.iter().map(|value| value.map(<[u8]>::to_vec)).collect());
            }
            // COPY TO: its lines, in any number of messages.
            b'd' => copied.extend_from_slice(body),
            b'c' => {
                let lines = std::mem::take(&mut copied);
                current.rows.extend(lines.split_inclusive(|byte| *byte == b'\n').map(|line| vec![Some(line.to_vec())]));
            }
            b'H' => {}
            b'C' => {
                current.tag = Some(String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned());
                answer.results.push(std::mem::take(&mut current));
            }
            b'I' => {
                current.tag = Some("(empty)".to_owned());
                answer.results.push(std::mem::take(&mut current));
            }
            b'E' => {
                let message = Message { tag: *tag, body: body.clone() };
                let text = message.field(b'M').unwrap_or_default();
                let more: Vec<String> = [b'D', b'H'].iter().filter_map(|field| message.field(*field)).collect();
                answer.error =
                    Some(Failure { code: message.sqlstate(), message: format!("{text} {}", more.join(" / ")) });
                current = ResultSet::default();
            }
            b'Z' => answer.status = *body.first().context("an empty ReadyForQuery")?,
            b'1' | b'2' | b'3' | b'n' | b'N' | b'S' | b'A' => {}
            other => bail!("unexpected message {:?}", char::from(*other)),
        }
    }
    Ok(answer)
}

impl Answer {
    pub fn failed_with(&self, code: &str) -> bool {
        self.error.as_ref().is_some_and(|error| error.code == code)
    }
}

/// None: the same. Otherwise what differs.
pub fn difference(postgres: &Answer, gateway: &Answer, rows: &Rows) -> Option<String> {
    let code = |answer: &Answer| answer.error.as_ref().map_or("no error".to_owned(), |error| error.code.clone());
    if code(postgres) != code(gateway) {
        return Some(format!("errors: {} and {}", code(postgres), code(gateway)));
    }
    if postgres.status != gateway.status {
        let status = |answer: &Answer| char::from(answer.status);
        return Some(format!("transaction status: {} and {}", status(postgres), status(gateway)));
    }
    if postgres.error.is_some() {
        // What came before the error depends on how far the server was.
        return None;
    }
    if postgres.parameters != gateway.parameters {
        return Some(format!("parameter types: {:?} and {:?}", postgres.parameters, gateway.parameters));
    }
    if postgres.results.len() != gateway.results.len() {
        return Some(format!("number of results: {} and {}", postgres.results.len(), gateway.results.len()));
    }
    postgres.results.iter().zip(&gateway.results).find_map(|(a, b)| difference_of_results(a, b, rows))
}

fn difference_of_results(postgres: &ResultSet, gateway: &ResultSet, rows: &Rows) -> Option<String> {
    if postgres.columns != gateway.columns {
        return Some(format!("columns: {:?} and {:?}", postgres.columns, gateway.columns));
    }
    if postgres.tag != gateway.tag {
        return Some(format!("command tags: {:?} and {:?}", postgres.tag, gateway.tag));
    }
    let sorted = |result: &ResultSet| {
        let mut rows = result.rows.clone();
        rows.sort();
        rows
    };
    let (what, same) = match rows {
        Rows::Counted => ("number of rows", postgres.rows.len() == gateway.rows.len()),
        Rows::Ordered => ("rows in order", postgres.rows == gateway.rows),
        Rows::AnyOrder => ("rows", sorted(postgres) == sorted(gateway)),
        Rows::OrderedBy(columns) => {
            let keys = |result: &ResultSet| -> Vec<Row> {
                result.rows.iter().map(|row| columns.iter().map(|column| row[*column].clone()).collect()).collect()
            };
            ("rows in order", sorted(postgres) == sorted(gateway) && keys(postgres) == keys(gateway))
        }
    };
    (!same).then(|| what.to_owned())
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in &self.results {
            if let Some(columns) = &result.columns {
                let columns: Vec<String> =
                    columns.iter().map(|column| format!("{} ({})", column.name, column.type_oid)).collect();
                writeln!(f, "    {}", columns.join(" | "))?;
            }
            for row in result.rows.iter().take(ROWS_SHOWN) {
                let values: Vec<String> = row
                    .iter()
                    .map(|value| value.as_ref().map_or("NULL".into(), |value| value.escape_ascii().to_string()))
                    .collect();
                writeln!(f, "    {}", values.join(" | "))?;
            }
            if result.rows.len() > ROWS_SHOWN {
                writeln!(f, "    ... {} rows", result.rows.len())?;
            }
            writeln!(f, "    {}", result.tag.as_deref().unwrap_or("(no end)"))?;
        }
        if let Some(Failure { code, message }) = &self.error {
            writeln!(f, "    ERROR {code}: {message}")?;
        }
        write!(f, "    [{}]", char::from(self.status))
    }
}
