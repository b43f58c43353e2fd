//! Rows from one shard to another, undecoded, and whole-table checksums.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use ringway_topology::model::{quote_ident, TableName};
use tokio_postgres::Client;

use crate::control::ControlError;

/// Columns that can be written, quoted, in order.
pub async fn columns(client: &Client, table: &TableName) -> Result<String, ControlError> {
    let row = client
        .query_one("SELECT ringway.writable_columns($1::text::pg_catalog.regclass)::text[]", &[&table.quoted()])
        .await?;
    let columns: Option<Vec<String>> = row.get(0);
    Ok(columns.unwrap_or_default().iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", "))
}

/// Streams COPY text; answers the rows that arrived. Both sides are inside transactions of the caller's.
pub async fn copy_rows(from: &Client, out: &str, into: &Client, input: &str) -> Result<u64, ControlError> {
    let reading = from.copy_out(out).await?;
    let writing = into.copy_in::<_, Bytes>(input).await?;
    futures_util::pin_mut!(reading, writing);
    while let Some(data) = reading.next().await {
        writing.send(data?).await?;
    }
    Ok(writing.finish().await?)
}

/// Row count and an order-free sum over the rows' text, under the service role's fixed settings.
pub async fn checksum(client: &Client, table: &TableName) -> Result<(i64, String), ControlError> {
    let sql = format!(
        "SELECT pg_catalog.count(*),
            coalesce(pg_catalog.sum(pg_catalog.hashtextextended((t.*)::text, 0)::numeric), 0)::text FROM ONLY {} t",
        table.quoted()
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}
