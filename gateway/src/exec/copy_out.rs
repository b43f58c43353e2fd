//! COPY TO STDOUT: from one shard as it comes; from several one after the other, as one stream.

use std::ops::Range;
use std::sync::Arc;

use ringway_topology::ids::ShardId;

use super::answers::queue_call;
use super::bound::Bound;
use super::dispatch::{single, Completed, Run};
use super::executor::{Executor, Lent};
use super::failure::Failure;
use super::filter;
use super::gather;
use super::guarded;
use super::hold::Admitted;
use super::prefix::drained;
use super::pump::Outcome;
use super::type_oids::refuse_oids_in_copy;
use crate::plan::types::{Access, CopyFormat, CopyMulti, CopyOut, MultiShard, Query};
use crate::pool::error::ServerError;
use crate::wire::backend::{self, CommandTag};
use crate::wire::{PgError, SqlState};

/// Signature, flags and an empty extension area (COPY's documentation, "File Header").
const BINARY_HEADER_BYTES: usize = 19;
const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

pub async fn run(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    copy: &CopyOut,
) -> Result<Completed, Failure> {
    if let (CopyMulti::Gather(query, place), None) = (&copy.multi, admitted.placement.single()) {
        return gathered(executor, run, admitted, copy, query, place).await;
    }
    refuse_oids_in_copy(executor, admitted, &copy.format, &copy.columns_sql).await?;
    if let Some(shard) = admitted.placement.single() {
        let text = if admitted.placement.keyed {
            None
        } else {
            filter::of_references(&copy.sharded, admitted, shard, &copy.sql)?
        };
        return single(executor, run, admitted, shard, text.as_deref()).await;
    }
    if let CopyMulti::Refused(error) = &copy.multi {
        return Err(Failure::Error(error.clone()));
    }
    // Every text first: a refusal must come before the first row.
    let mut texts = Vec::with_capacity(admitted.placement.shards.len());
    for shard in &admitted.placement.shards {
        let text = filter::of_references(&copy.sharded, admitted, *shard, &copy.sql)?;
        texts.push((*shard, text.unwrap_or_else(|| copy.sql.to_string())));
    }
    let guarded_already = executor.is_guarded();
    let mut joined = Joined { format: &copy.format, rows: 0, begun: false };
    for (shard, text) in texts {
        if !joined.begun && !guarded_already && executor.is_guarded() {
            return guarded::again(executor, run).await;
        }
        joined.add(executor, admitted, shard, &text).await?;
    }
    if matches!(copy.format, CopyFormat::Binary) {
        backend::copy_data(executor.client.out(), BINARY_TRAILER);
    }
    backend::copy_done(executor.client.out());
    Ok(Completed { tag: Some(format!("COPY {}", joined.rows)), ..Completed::default() })
}

/// The rows that the query reads come to the workbench, which copies what it finds in them.
async fn gathered(
    executor: &mut Executor,
    run: &Run<'_>,
    admitted: &Admitted,
    copy: &CopyOut,
    query: &Query,
    place: &Range<usize>,
) -> Result<Completed, Failure> {
    let MultiShard::Gather(plan) = &query.multi else {
        return Err(PgError::internal("a query that is gathered has no fragments").into());
    };
    if plan.parameters > 0 {
        return Err(PgError::new(SqlState::UNDEFINED_PARAMETER, "there is no parameter $1").into());
    }
    let statement = executor.statement(Arc::clone(&query.sql), Vec::new());
    let inner = Bound { statement: Arc::new(statement), bind: None };
    let gathered = gather::gather(executor, &inner, admitted, query, plan).await?;
    let (before, after) = (copy.sql.get(..place.start), copy.sql.get(place.end..));
    let (Some(before), Some(after)) = (before, after) else {
        return Err(PgError::internal("the query of a COPY has no place in it").into());
    };
    let text = format!("{before}{}{after}", gathered.bound.statement.sql);
    let reading = gather::on(admitted, gathered.workbench);
    let completed = single(executor, run, &reading, gathered.workbench, Some(&text)).await?;
    gather::drop_tables(executor, admitted, gathered.workbench, &gathered.tables).await?;
    Ok(Completed { shard: None, ..completed })
}

/// The stream that the client sees.
struct Joined<'a> {
    format: &'a CopyFormat,
    rows: u64,
    /// The client has its CopyOutResponse, and the first shard's header.
    begun: bool,
}

impl Joined<'_> {
    async fn add(
        &mut self,
        executor: &mut Executor,
        admitted: &Admitted,
        shard: ShardId,
        sql: &str,
    ) -> Result<(), Failure> {
        let mut lent = executor.lend(&admitted.view, shard, Access::Read).await?;
        let copied = self.relay(executor, &mut lent, sql).await?;
        let error = copied.err();
        // The transaction's state is in the connection's status.
        executor.give_back(lent, &Outcome::default()).await;
        error.map_or(Ok(()), |error| Err(Failure::Server(error)))
    }

    async fn relay(
        &mut self,
        executor: &mut Executor,
        lent: &mut Lent,
        sql: &str,
    ) -> Result<Result<(), ServerError>, Failure> {
        let connection = &mut *lent.participant.connection;
        queue_call(connection, sql, &[]);
        let prefix = std::mem::take(&mut lent.participant.prefix);
        if let Some(error) = drained(connection, prefix).await? {
            connection.settle().await?;
            return Ok(Err(error));
        }
        let mut result = Ok(());
        let mut is_first_message = true;
        while connection.outstanding > 0 {
            let message = connection.message().await?;
            match message.tag {
                b'H' if !self.begun => executor.client.forward(&message.raw).await?,
                b'd' => {
                    executor.client.progresses();
                    let data = self.without_frame(message.body(), is_first_message);
                    is_first_message = false;
                    match data {
                        Some(data) if data.len() == message.body().len() => {
                            executor.client.forward(&message.raw).await?
                        }
                        Some(data) => backend::copy_data(executor.client.out(), data),
                        None => {}
                    }
                }
                b'C' => self.rows += CommandTag::parse(message.body()).ok().and_then(|tag| tag.rows).unwrap_or(0),
                b'E' => result = Err(ServerError::new(message.raw.slice(5..))),
                b'N' => executor.client.forward(&message.raw).await?,
                _ => {}
            }
        }
        self.begun = true;
        Ok(result)
    }

    /// A message's data without what stands once in the whole stream: later shards' headers, every shard's trailer.
    fn without_frame<'d>(&self, data: &'d [u8], is_first_message: bool) -> Option<&'d [u8]> {
        match self.format {
            CopyFormat::Text { .. } => Some(data),
            CopyFormat::Csv { header, .. } => (!(*header && is_first_message && self.begun)).then_some(data),
            CopyFormat::Binary => {
                let header = if is_first_message { BINARY_HEADER_BYTES.min(data.len()) } else { 0 };
                let (head, rest) = data.split_at(header);
                let kept = if self.begun { rest } else { data };
                if rest == BINARY_TRAILER {
                    return (!self.begun && is_first_message).then_some(head);
                }
                (!kept.is_empty()).then_some(kept)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_shards_become_one() {
        let header = [7u8; BINARY_HEADER_BYTES];
        let with_row = [&header[..], &[0, 1, 9]].concat();
        let with_trailer = [&header[..], BINARY_TRAILER].concat();
        let mut joined = Joined { format: &CopyFormat::Binary, rows: 0, begun: false };
        assert_eq!(joined.without_frame(&with_row, true), Some(&with_row[..]));
        assert_eq!(joined.without_frame(&with_trailer, true), Some(&header[..]));
        assert_eq!(joined.without_frame(BINARY_TRAILER, false), None);
        joined.begun = true;
        assert_eq!(joined.without_frame(&with_row, true), Some(&[0, 1, 9][..]));
        assert_eq!(joined.without_frame(&with_trailer, true), None);
        assert_eq!(joined.without_frame(&[0, 1, 8], false), Some(&[0, 1, 8][..]));
        let csv = CopyFormat::Csv { delimiter: b',', quote: b'"', escape: b'"', null: String::new(), header: true };
        let mut joined = Joined { format: &csv, rows: 0, begun: false };
        assert_eq!(joined.without_frame(b"a,b\n", true), Some(&b"a,b\n"[..]));
        joined.begun = true;
        assert_eq!(joined.without_frame(b"a,b\n", true), None);
        assert_eq!(joined.without_frame(b"1,2\n", false), Some(&b"1,2\n"[..]));
    }
}
