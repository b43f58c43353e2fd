//! Connections and errors, as tests look at them.

use anyhow::{bail, Context as _, Result};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

pub async fn connect(dsn: &str) -> Result<Client> {
    crate::shop::audit::connect(dsn).await
}

/// The SQLSTATE with which a connection is refused.
pub async fn refused(dsn: &str) -> Result<String> {
    match tokio_postgres::connect(dsn, NoTls).await {
        Ok(_) => bail!("{dsn} was let in"),
        Err(error) => error
            .code()
            .map(|code| code.code().to_string())
            .with_context(|| format!("no SQLSTATE from {dsn}: {error:?}")),
    }
}

/// The SQLSTATE of an error, or its text when it has none.
pub fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| format!("{error:?}"), |code| code.code().to_string())
}

/// SQLSTATE and message of what must fail.
pub async fn failure(client: &Client, statement: &str) -> Result<(String, String)> {
    match client.simple_query(statement).await {
        Ok(_) => bail!("{statement} did not fail"),
        Err(error) => {
            let db = error.as_db_error().with_context(|| format!("{statement}: {error:?}"))?;
            Ok((db.code().code().to_string(), db.message().to_string()))
        }
    }
}

/// The rows of a VALUES list.
pub fn rows<T>(items: impl IntoIterator<Item = T>, row: impl Fn(T) -> String) -> String {
    items.into_iter().map(|item| format!("({})", row(item))).collect::<Vec<_>>().join(", ")
}

/// First column of every row, as text, by the simple protocol.
pub async fn column(client: &Client, statement: &str) -> Result<Vec<String>> {
    let messages = client.simple_query(statement).await.with_context(|| statement.to_string())?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_string()),
            _ => None,
        })
        .collect())
}

/// The only row's first column, as text.
pub async fn value(client: &Client, statement: &str) -> Result<String> {
    let mut rows = column(client, statement).await?;
    match rows.len() {
        1 => Ok(rows.remove(0)),
        n => bail!("{statement} gave {n} rows"),
    }
}
