//! The floor of a backfill: the same rows by `COPY (SELECT ...) TO STDOUT` into `COPY ... FROM STDIN` of empty tables between the same
//! two servers.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use ringway_proto::v1::MoveStatus;

use crate::cluster::Cluster;
use crate::shop::{audit, SHARDED};

/// Bytes of COPY text per second.
pub async fn bytes_per_second(cluster: &Cluster, status: &MoveStatus) -> Result<f64> {
    let movement = status.r#move.as_ref().context("no move")?;
    let source = audit::connect(&cluster.shard_dsn(&status.source_name).await?).await?;
    let target = audit::connect(&cluster.shard_dsn(&status.target_name).await?).await?;
    let conditions: Vec<String> = movement
        .arcs
        .iter()
        .map(|arc| {
            let low = arc.after.map(|a| format!("hashint8extended(KEY, 0) > '{a}'::int8 AND ")).unwrap_or_default();
            format!("({low}hashint8extended(KEY, 0) <= '{}'::int8)", arc.through)
        })
        .collect();
    let condition = conditions.join(" OR ");
    target.batch_execute("CREATE SCHEMA copy_pipe").await?;
    let (mut bytes, mut seconds) = (0usize, 0.0);
    for (table, key) in SHARDED {
        target.batch_execute(&format!("CREATE TABLE copy_pipe.{table} (LIKE public.{table} INCLUDING ALL)")).await?;
        let columns: String = source
            .query_one(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                &[&format!("public.{table}")],
            )
            .await?
            .get(0);
        let started = Instant::now();
        let rows = source
            .copy_out(&format!(
                "COPY (SELECT {columns} FROM public.{table} WHERE {}) TO STDOUT",
                condition.replace("KEY", key)
            ))
            .await?;
        let sink = target.copy_in::<_, bytes::Bytes>(&format!("COPY copy_pipe.{table} ({columns}) FROM STDIN")).await?;
        futures_util::pin_mut!(rows, sink);
        // Row by row would be slow for a reason that is not PostgreSQL's.
        let mut buffer = bytes::BytesMut::new();
        while let Some(row) = rows.next().await {
            let row = row?;
            bytes += row.len();
            buffer.extend_from_slice(&row);
            if buffer.len() > 64 * 1024 {
                sink.send(buffer.split().freeze()).await?;
            }
        }
        if !buffer.is_empty() {
            sink.send(buffer.freeze()).await?;
        }
        sink.finish().await?;
        seconds += started.elapsed().as_secs_f64();
    }
    target.batch_execute("DROP SCHEMA copy_pipe CASCADE").await?;
    Ok(bytes as f64 / seconds)
}
