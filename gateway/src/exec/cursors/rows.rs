//! Rows of the shards' own cursors, fetched in batches.
//!
//! A batch is what one FETCH on a shard gives. It grows from a few rows to as many as make up [`BATCH_BYTES`], so that neither a
//! cursor that is looked at once nor one with wide rows costs memory. What has been fetched is read off the connection at once:
//! the next statement finds it free.

use std::collections::VecDeque;
use std::sync::Arc;

use ringway_topology::ids::ShardId;

use super::super::executor::Executor;
use super::super::failure::Failure;
use super::super::fleet::{frame, Fleet};
use super::super::view::View;
use crate::plan::types::Access;
use crate::pool::connection::ServerConnection;
use crate::wire::{frontend, Format, Frame, PgError, SqlState, Target};

const BATCH_BYTES: usize = 256 << 10;
const BATCH_ROWS_FIRST: u32 = 8;
const BATCH_ROWS_MAX: u32 = 8_192;
/// A batch is at most so many times as large as the one before.
const BATCH_GROWTH: u32 = 4;

/// A cursor on one shard.
#[derive(Debug)]
pub struct Source {
    pub shard: ShardId,
    pub rows: VecDeque<Frame>,
    /// Nothing is left on the shard.
    pub done: bool,
    batch: u32,
}

impl Source {
    pub fn new(shard: ShardId) -> Source {
        Source { shard, rows: VecDeque::new(), done: false, batch: BATCH_ROWS_FIRST }
    }

    fn is_low(&self) -> bool {
        !self.done && self.rows.len() < (self.batch / 8) as usize + 1
    }
}

/// Fetches the next batch of `wanted`, and of those that will be wanted soon.
pub async fn fetch(
    executor: &mut Executor,
    view: &Arc<View>,
    cursor: &str,
    sources: &mut [Source],
    wanted: usize,
    others: bool,
    formats: &[Format],
) -> Result<(), Failure> {
    let chosen: Vec<usize> =
        (0..sources.len()).filter(|index| *index == wanted || others && sources[*index].is_low()).collect();
    let writes = chosen.iter().map(|index| {
        let source = &sources[*index];
        let sql = format!("FETCH FORWARD {} FROM {cursor}", source.batch);
        let write = move |connection: &mut ServerConnection| {
            let is_foreign = connection.is_foreign();
            let output = connection.output();
            frontend::parse(output, "", &sql, &[]);
            frontend::bind(output, "", "", [], [] as [Option<&[u8]>; 0], formats.iter().copied());
            // Which of its binary values have OIDs in them.
            if is_foreign && formats.contains(&Format::Binary) {
                frontend::describe(output, Target::Portal, "");
            }
            frontend::execute(output, "", 0);
            connection.unnamed = None;
        };
        (source.shard, write)
    });
    let writes: Vec<_> = writes.collect();
    let bytes_max = executor.gateway.config.limits.gather_bytes_max;
    let mut fleet = Fleet::launch_with(executor, view, Access::Read, writes).await?;
    let mut fetched = vec![(0u32, 0usize); chosen.len()];
    let mut too_large = false;
    while let Some((index, message)) = fleet.next(executor).await? {
        if message.tag != b'D' || too_large {
            continue;
        }
        let (rows, bytes) = &mut fetched[index];
        *rows += 1;
        *bytes += message.raw.len();
        too_large = *bytes > bytes_max;
        sources[chosen[index]].rows.push_back(frame(message)?);
    }
    fleet.finish(executor).await?;
    if too_large {
        return Err(PgError::new(
            SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            format!("rows that were fetched at once are larger than gather_bytes_max ({bytes_max} bytes)"),
        )
        .hint("Fetch narrower rows, or raise gather_bytes_max.")
        .into());
    }
    for (index, (rows, bytes)) in chosen.into_iter().zip(fetched) {
        let source = &mut sources[index];
        source.done = rows < source.batch;
        let width = bytes / rows.max(1) as usize + 1;
        let fitting = u32::try_from(BATCH_BYTES / width).unwrap_or(BATCH_ROWS_MAX).clamp(1, BATCH_ROWS_MAX);
        source.batch = fitting.min(source.batch.saturating_mul(BATCH_GROWTH));
    }
    Ok(())
}

/// Closes the shards' cursors.
pub async fn close(executor: &mut Executor, view: &Arc<View>, cursor: &str, sources: &[Source]) -> Result<(), Failure> {
    let texts = sources.iter().map(|source| (source.shard, format!("CLOSE {cursor}"))).collect();
    let fleet = Fleet::launch_texts(executor, view, Access::Read, texts).await?;
    fleet.finish(executor).await
}
