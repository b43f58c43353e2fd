//! The file of queries, and their answers.

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

/// Begins a query: its name follows, and `ordered` where ORDER BY leaves no choice, else `any`.
const MARK: &str = "-- query ";

pub struct Query {
    pub name: String,
    pub sql: String,
    pub ordered: bool,
}

/// Columns and their types, by the extended protocol; rows as text, by the simple one.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    columns: Vec<(String, String)>,
    rows: Vec<Vec<Option<String>>>,
}

pub fn read(file: &str) -> Result<Vec<Query>> {
    let one = |text: &str| {
        let (head, sql) = text.split_once('\n')?;
        let (name, order) = head.rsplit_once(' ')?;
        let sql = sql.trim().trim_end_matches(';').to_owned();
        Some(Query { name: name.to_owned(), sql, ordered: order == "ordered" })
    };
    file.split(MARK).skip(1).map(|text| one(text).with_context(|| format!("not a query: {text}"))).collect()
}

pub async fn ask(client: &Client, sql: &str) -> Result<Answer> {
    let prepared = client.prepare(sql).await?;
    let columns =
        prepared.columns().iter().map(|column| (column.name().to_owned(), column.type_().to_string())).collect();
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(Answer { columns, rows: rows.collect() })
}

impl Answer {
    /// Rows, and not of NULLs alone.
    pub fn has_values(&self) -> bool {
        self.rows.iter().flatten().any(Option::is_some)
    }

    pub fn is_same(&self, other: &Answer, ordered: bool) -> bool {
        let sorted = |answer: &Answer| {
            let mut rows = answer.rows.clone();
            rows.sort();
            rows
        };
        let same_rows = if ordered { self.rows == other.rows } else { sorted(self) == sorted(other) };
        same_rows && self.columns == other.columns
    }
}
