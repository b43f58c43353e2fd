//! A cursor over several shards: its rows in one order, and where in them it is.
//!
//! Nothing is fetched before the first FETCH, which also decides in which formats rows come: the shards' cursors give any. Rows that
//! may be wanted again (SCROLL) are kept, within `cursor_bytes_max`; a cursor that was not declared one way or the other keeps the
//! first [`KEPT_UNASKED_BYTES`] only, and reads backwards as long as they suffice.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::super::aggregate::{self, type_names};
use super::super::bound::Bound;
use super::super::dispatch::Run;
use super::super::executor::Executor;
use super::super::failure::Failure;
use super::super::fanout::{check_order, value_order};
use super::super::hold::Admitted;
use super::super::search_path::Names;
use super::position::{only_forward, Position, Step};
use super::rows::{self, Source};
use crate::merge::combine::{CombineStatement, Partials};
use crate::merge::limit::Window;
use crate::merge::order_by::{OrderBy, Step as Merge};
use crate::plan::clock::Readings;
use crate::plan::refuse::refused;
use crate::plan::types::{MultiShard, Plan, Query};
use crate::wire::backend::FieldDescription;
use crate::wire::{frontend, next_frame, Format, Frame, PgError, SqlState};

/// What a cursor without SCROLL and NO SCROLL keeps of its rows.
const KEPT_UNASKED_BYTES: usize = 1 << 20;
/// Rows that change their format on a shard travel in pieces of this size.
const CONVERTED_BYTES: usize = 1 << 20;
/// What a kept row costs beside its bytes.
const ROW_OVERHEAD: usize = 64;
/// The settings that values are written by.
const RENDERING: [&str; 7] =
    ["datestyle", "intervalstyle", "timezone", "extra_float_digits", "bytea_output", "lc_monetary", "xmlbinary"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scroll {
    /// NO SCROLL, or a plan that PostgreSQL does not run backwards.
    Never,
    /// SCROLL.
    Always,
    /// Not asked for, but possible.
    Unasked,
}

/// Where the next row comes from.
#[derive(Debug)]
enum Input {
    /// Nothing has been fetched yet.
    Unread,
    Concatenate {
        window: Window,
        source: usize,
    },
    Merge(Box<OrderBy>),
    /// The rest is here.
    Rest(VecDeque<Frame>),
}

#[derive(Debug)]
pub struct Merged {
    pub(super) admitted: Admitted,
    /// The query, with the parameters that the cursor was declared with.
    pub(super) bound: Bound,
    /// Its name on the shards.
    pub(super) cursor: String,
    /// See [`super::Cursor::depth`].
    pub depth: usize,
    pub(super) scroll: Scroll,
    pub(super) binary: bool,
    pub(super) window: Window,
    pub(super) readings: Readings,
    /// DateStyle is ISO unless the session has set it.
    pub(super) iso_by_default: bool,
    /// What the client is told of the columns, as text.
    pub(super) fields: Vec<FieldDescription>,
    /// What the shards give.
    pub(super) shard_fields: Vec<FieldDescription>,
    pub(super) sources: Vec<Source>,
    input: Input,
    /// Of the columns, once rows have been fetched.
    formats: Vec<Format>,
    shard_formats: Vec<Format>,
    rendering: Vec<Option<String>>,
    pub(super) position: Position,
    /// Rows that the scan has passed, the present one included; one more than there are after the last.
    scanned: u64,
    kept: Option<Vec<Frame>>,
    kept_bytes: usize,
    /// Of `Input::Rest`.
    rest_bytes: usize,
    /// How names resolved when it was opened.
    names: Names,
    failed: bool,
}

/// What is decided when it is opened.
pub(super) struct Opened {
    pub admitted: Admitted,
    pub bound: Bound,
    pub cursor: String,
    pub scroll: Scroll,
    pub binary: bool,
    pub window: Window,
    pub readings: Readings,
    pub iso_by_default: bool,
    pub fields: Vec<FieldDescription>,
    pub shard_fields: Vec<FieldDescription>,
    pub depth: usize,
    pub names: Names,
}

/// The statement over rows that a cursor or portal is for.
pub(super) fn query_of(plan: &Plan) -> Result<&Query, Failure> {
    match plan {
        Plan::Cursor(cursor) => Ok(&cursor.query),
        Plan::Query(query) => Ok(query),
        _ => Err(PgError::internal("a cursor over what is no query").into()),
    }
}

/// One format for each of `columns`, by the rule of Bind.
pub(super) fn each_format(formats: &[Format], columns: usize) -> Result<Vec<Format>, Failure> {
    match formats {
        [] => Ok(vec![Format::Text; columns]),
        [all] => Ok(vec![*all; columns]),
        formats if formats.len() == columns => Ok(formats.to_vec()),
        formats => {
            let message = format!("bind message has {} result formats but query has {columns} columns", formats.len());
            Err(PgError::new(SqlState::PROTOCOL_VIOLATION, message).into())
        }
    }
}

impl Merged {
    pub(super) fn new(opened: Opened) -> Merged {
        let Opened { admitted, bound, cursor, scroll, binary, window, readings, iso_by_default, .. } = opened;
        let sources = admitted.placement.shards.iter().map(|shard| Source::new(*shard)).collect();
        Merged {
            admitted,
            bound,
            cursor,
            depth: opened.depth,
            scroll,
            binary,
            window,
            readings,
            iso_by_default,
            fields: opened.fields,
            shard_fields: opened.shard_fields,
            sources,
            input: Input::Unread,
            formats: Vec::new(),
            shard_formats: Vec::new(),
            rendering: Vec::new(),
            position: Position::default(),
            scanned: 0,
            kept: (scroll != Scroll::Never).then(Vec::new),
            kept_bytes: 0,
            rest_bytes: 0,
            names: opened.names,
            failed: false,
        }
    }

    /// Of the rows that it keeps.
    pub fn bytes(&self) -> usize {
        self.kept_bytes + self.rest_bytes
    }

    /// The columns in these formats.
    pub fn described(&self, formats: &[Format]) -> Vec<FieldDescription> {
        let with =
            |(field, format): (&FieldDescription, &Format)| FieldDescription { format: *format, ..field.clone() };
        self.fields.iter().zip(formats).map(with).collect()
    }

    pub fn columns(&self) -> usize {
        self.fields.len()
    }

    /// The formats of a FETCH that does not say any.
    pub fn own_formats(&self) -> Vec<Format> {
        vec![if self.binary { Format::Binary } else { Format::Text }; self.fields.len()]
    }

    /// Moves, and shows rows in these formats. `others`: bytes that the session's other cursors keep.
    pub async fn run(
        &mut self,
        executor: &mut Executor,
        name: &str,
        steps: Vec<Step>,
        formats: &[Format],
        others: usize,
    ) -> Result<u64, Failure> {
        if std::mem::replace(&mut self.failed, true) {
            let message = format!("portal \"{name}\" cannot be run");
            return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
        }
        let mut count = 0;
        for step in steps {
            match step {
                Step::Rewind => self.rewind()?,
                Step::Count(rows) => count = rows,
                Step::Run { forward, rows, show } => {
                    let mut shown = show.then(|| Shown { formats, converted: None });
                    count = self.scan(executor, forward, rows, formats, shown.as_mut(), others).await?;
                    if let Some(mut shown) = shown {
                        self.show_converted(executor, &mut shown).await?;
                    }
                }
            }
        }
        self.failed = false;
        Ok(count)
    }

    /// `DoPortalRewind`.
    fn rewind(&mut self) -> Result<(), Failure> {
        if self.position.at_start && !self.position.at_end {
            return Ok(());
        }
        if self.scroll == Scroll::Never {
            return Err(only_forward().into());
        }
        self.check_kept()?;
        self.position = Position::default();
        self.scanned = 0;
        Ok(())
    }

    fn check_kept(&self) -> Result<(), Failure> {
        if self.kept.is_some() {
            return Ok(());
        }
        let message = format!("the cursor has passed more than {KEPT_UNASKED_BYTES} bytes of rows, which are not kept");
        Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
            .hint("Declare it with SCROLL: then rows are kept up to cursor_bytes_max.")
            .into())
    }

    /// `PortalRunSelect`. `rows`: None for all.
    async fn scan(
        &mut self,
        executor: &mut Executor,
        forward: bool,
        rows: Option<u64>,
        formats: &[Format],
        mut shown: Option<&mut Shown<'_>>,
        others: usize,
    ) -> Result<u64, Failure> {
        if !forward && self.scroll == Scroll::Never {
            return Err(only_forward().into());
        }
        let at_edge = if forward { self.position.at_end } else { self.position.at_start };
        if at_edge || rows == Some(0) {
            return Ok(0);
        }
        self.begin(executor, formats.to_vec(), others).await?;
        let mut passed = 0u64;
        while rows.is_none_or(|rows| passed < rows) {
            let row = if forward { self.next(executor, others).await? } else { self.prior()? };
            let Some(row) = row else { break };
            passed += 1;
            if let Some(shown) = &mut shown {
                self.show(executor, shown, row).await?;
            }
        }
        let ended = rows.is_none_or(|rows| passed < rows);
        let position = &mut self.position;
        if forward {
            position.at_start &= passed == 0;
            position.at_end |= ended;
            position.row += passed;
        } else {
            if passed > 0 && position.at_end {
                position.at_end = false;
                position.row += 1;
            }
            position.at_start |= ended;
            position.row = if ended { 0 } else { position.row.saturating_sub(passed) };
        }
        Ok(passed)
    }

    async fn next(&mut self, executor: &mut Executor, others: usize) -> Result<Option<Frame>, Failure> {
        let index = usize::try_from(self.scanned).unwrap_or(usize::MAX);
        if let Some(row) = self.kept.as_ref().and_then(|kept| kept.get(index)) {
            self.scanned += 1;
            return Ok(Some(row.clone()));
        }
        let row = self.pull(executor).await?;
        self.scanned += 1;
        if let Some(row) = &row {
            self.keep(executor, row, others)?;
        }
        Ok(row)
    }

    fn prior(&mut self) -> Result<Option<Frame>, Failure> {
        self.check_kept()?;
        self.scanned = self.scanned.saturating_sub(1);
        let index = usize::try_from(self.scanned).unwrap_or(usize::MAX).checked_sub(1);
        let kept = self.kept.as_ref();
        Ok(index.and_then(|index| kept?.get(index).cloned()))
    }

    fn keep(&mut self, executor: &Executor, row: &Frame, others: usize) -> Result<(), Failure> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        self.kept_bytes += row.bytes().len() + ROW_OVERHEAD;
        match self.scroll {
            Scroll::Unasked if self.kept_bytes > KEPT_UNASKED_BYTES => {
                self.kept = None;
                self.kept_bytes = 0;
                return Ok(());
            }
            _ => kept.push(row.clone()),
        }
        check_bytes(executor, self.bytes() + others)
    }

    /// The next row that has not been passed yet.
    async fn pull(&mut self, executor: &mut Executor) -> Result<Option<Frame>, Failure> {
        loop {
            let (wanted, others) = match &mut self.input {
                Input::Unread => return Err(PgError::internal("a cursor was read before it was begun").into()),
                Input::Rest(rows) => {
                    let row = rows.pop_front();
                    let bytes = row.as_ref().map_or(0, |row| row.bytes().len() + ROW_OVERHEAD);
                    self.rest_bytes = self.rest_bytes.saturating_sub(bytes);
                    return Ok(row);
                }
                Input::Concatenate { window, source } => {
                    let Some(current) = self.sources.get_mut(*source).filter(|_| !window.is_exhausted()) else {
                        return Ok(None);
                    };
                    match current.rows.pop_front() {
                        Some(row) if window.admit() => return Ok(Some(row)),
                        Some(_) => continue,
                        None if current.done => {
                            *source += 1;
                            continue;
                        }
                        None => (*source, false),
                    }
                }
                Input::Merge(merge) => match merge.step()? {
                    Merge::Row(row) => return Ok(Some(row)),
                    Merge::Done => return Ok(None),
                    Merge::NeedMore(shard) => {
                        let source = &mut self.sources[shard];
                        match source.rows.pop_front() {
                            Some(row) => merge.push(shard, row),
                            None if source.done => merge.finish(shard),
                            None => {}
                        }
                        if !source.rows.is_empty() || source.done {
                            continue;
                        }
                        (shard, true)
                    }
                },
            };
            let view = &self.admitted.view;
            rows::fetch(executor, view, &self.cursor, &mut self.sources, wanted, others, &self.shard_formats).await?;
        }
    }

    /// Before the first row: how the shards' rows become one answer, in these formats.
    async fn begin(&mut self, executor: &mut Executor, formats: Vec<Format>, others: usize) -> Result<(), Failure> {
        let now: Vec<Option<String>> = RENDERING.iter().map(|name| executor.setting(name).map(str::to_owned)).collect();
        if !matches!(self.input, Input::Unread) {
            if now != self.rendering && self.formats.contains(&Format::Text) {
                return Err(refused(
                    "the settings that values are written by have changed since the cursor was first read",
                    "Rows that the gateway has fetched ahead are written as the settings were.",
                    "Set DateStyle, TimeZone, extra_float_digits and the like before the first FETCH.",
                )
                .into());
            }
            return Ok(());
        }
        self.rendering = now;
        let planned = std::sync::Arc::clone(&self.admitted.planned);
        let plan = planned.plan.as_ref().map_err(|error| Failure::Error(error.clone()))?;
        let query = query_of(plan)?;
        self.formats = formats;
        self.shard_formats = self.formats.clone();
        let columns = self.shard_fields.len();
        match &query.multi {
            MultiShard::Concatenate(_) => self.input = Input::Concatenate { window: self.window, source: 0 },
            MultiShard::MergeSort(plan) => {
                self.shard_formats.resize(columns, Format::Text);
                let formats = self.shard_fields.iter().zip(&self.shard_formats);
                let fields: Vec<FieldDescription> =
                    formats.map(|(field, format)| FieldDescription { format: *format, ..field.clone() }).collect();
                check_order(plan, &fields, self.window)?;
                let order = value_order(executor, self.iso_by_default);
                match OrderBy::new(plan, &fields, order, self.window, self.sources.len()) {
                    Some(merge) => self.input = Input::Merge(Box::new(merge)),
                    None => {
                        let combined = self.gather(executor).await?.order_by(plan, self.window);
                        self.combined(executor, combined, &[], others).await?;
                    }
                }
            }
            MultiShard::Aggregate(plan) => {
                let mut combined = self.gather(executor).await?.aggregate(plan);
                if let Some(sql) = super::super::fanout::at(query, &self.readings, None, &combined.sql) {
                    combined.sql = sql;
                }
                self.combined(executor, combined, &plan.combine_parameters, others).await?;
            }
            _ => return Err(PgError::internal("a cursor over what does not only read").into()),
        }
        Ok(())
    }

    /// All rows of all shards, as text, for PostgreSQL to finish.
    async fn gather(&mut self, executor: &mut Executor) -> Result<Partials, Failure> {
        if *executor.names_now() != self.names {
            return Err(refused(
                "search_path or the role has changed since the cursor was declared",
                "Its rows are combined at the first FETCH, by a statement whose names would now be other ones.",
                "Set it before DECLARE, or after the first FETCH.",
            )
            .into());
        }
        self.shard_formats = vec![Format::Text; self.shard_fields.len()];
        let mut partials = self.partials(executor, &self.shard_fields).await?;
        while let Some(wanted) = self.sources.iter().position(|source| !source.done) {
            let view = &self.admitted.view;
            rows::fetch(executor, view, &self.cursor, &mut self.sources, wanted, true, &self.shard_formats).await?;
            for source in &mut self.sources {
                while let Some(row) = source.rows.pop_front() {
                    partials.push(&row)?;
                }
            }
        }
        Ok(partials)
    }

    async fn partials(&self, executor: &mut Executor, fields: &[FieldDescription]) -> Result<Partials, Failure> {
        let oids: Vec<u32> = fields.iter().map(|field| field.type_oid).collect();
        aggregate::check_text(executor, &self.admitted, &oids).await?;
        let names = type_names(executor, &self.admitted, &oids).await?;
        let bytes_max = executor.gateway.config.limits.gather_bytes_max;
        Ok(Partials::new(fields, |oid| names.get(&oid).cloned(), bytes_max)?)
    }

    async fn combined(
        &mut self,
        executor: &mut Executor,
        combined: CombineStatement,
        parameters: &[usize],
        others: usize,
    ) -> Result<(), Failure> {
        let bound = with_formats(&self.bound, &self.formats)?;
        let run = Run { bound: &bound, describe: false, rows_max: 0, portal: "" };
        let outer = executor.client.exchange_capture(None);
        executor.client.capture(executor.gateway.config.limits.gather_bytes_max);
        let combined = aggregate::combine(executor, &run, &self.admitted, combined, parameters).await;
        let mut captured = executor.client.take_captured();
        executor.client.exchange_capture(outer);
        combined?;
        let rest = data_rows(&mut captured)?;
        self.rest_bytes = rest.iter().map(|row| row.bytes().len() + ROW_OVERHEAD).sum();
        self.input = Input::Rest(rest);
        check_bytes(executor, self.bytes() + others)
    }

    /// Shows one row, in the formats that are asked for.
    async fn show(&mut self, executor: &mut Executor, shown: &mut Shown<'_>, row: Frame) -> Result<(), Failure> {
        if let Some(error) = Format::unsupported(shown.formats.iter().copied()) {
            return Err(error.into());
        }
        if shown.formats == self.formats {
            return executor.client.forward(row.bytes()).await;
        }
        if self.formats.contains(&Format::Binary) {
            return Err(refused(
                "the cursor was first read in another format",
                "Rows that the gateway has fetched ahead are in the formats of the first FETCH.",
                "Fetch with the same result formats each time.",
            )
            .into());
        }
        let mut converted = match shown.converted.take() {
            Some(converted) => converted,
            None => {
                if self.sources.is_empty() {
                    // Beyond its transaction, by the topology of now.
                    let view = executor.enter()?;
                    self.admitted.placement.shards = view.topology.home_shard().into_iter().collect();
                    self.admitted.view = view;
                }
                Converted { partials: self.partials(executor, &self.fields).await?, bytes: 0 }
            }
        };
        converted.partials.push(&row)?;
        converted.bytes += row.bytes().len();
        let full = converted.bytes > CONVERTED_BYTES;
        shown.converted = Some(converted);
        if full {
            self.show_converted(executor, shown).await?;
        }
        Ok(())
    }

    /// Text rows become binary ones on a shard.
    async fn show_converted(&self, executor: &mut Executor, shown: &mut Shown<'_>) -> Result<(), Failure> {
        let Some(converted) = shown.converted.take() else { return Ok(()) };
        let mut statement = converted.partials.from_item(0);
        statement.sql = format!("SELECT p.* FROM {}", statement.sql);
        let bound = with_formats(&Bound { bind: None, ..self.bound.clone() }, shown.formats)?;
        let run = Run { bound: &bound, describe: false, rows_max: 0, portal: "" };
        aggregate::combine(executor, &run, &self.admitted, statement, &[]).await.map(|_| ())
    }

    /// What WITH HOLD keeps: all rows that can still be asked for.
    pub async fn persist(&mut self, executor: &mut Executor, others: usize) -> Result<(), Failure> {
        if self.failed {
            return Ok(());
        }
        let formats = self.own_formats();
        self.begin(executor, formats, others).await?;
        let (mut rest, mut rest_bytes) = (VecDeque::new(), 0);
        while let Some(row) = self.pull(executor).await? {
            let bytes = row.bytes().len() + ROW_OVERHEAD;
            match &mut self.kept {
                // Once it is beyond its transaction, asking for SCROLL makes no difference any more.
                Some(kept) => {
                    kept.push(row);
                    self.kept_bytes += bytes;
                }
                None => {
                    rest.push_back(row);
                    rest_bytes += bytes;
                }
            }
            check_bytes(executor, self.bytes() + rest_bytes + others)?;
        }
        self.rest_bytes = rest_bytes;
        self.sources.clear();
        self.input = Input::Rest(rest);
        Ok(())
    }
}

fn check_bytes(executor: &Executor, bytes: usize) -> Result<(), Failure> {
    let bytes_max = executor.gateway.config.limits.cursor_bytes_max;
    if bytes <= bytes_max {
        return Ok(());
    }
    let message = format!("rows that the session's cursors keep are larger than cursor_bytes_max ({bytes_max} bytes)");
    Err(PgError::new(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
        .hint("Declare cursors with NO SCROLL and without WITH HOLD, select fewer rows, or raise cursor_bytes_max.")
        .into())
}

/// What a FETCH shows.
struct Shown<'a> {
    formats: &'a [Format],
    converted: Option<Converted>,
}

/// Rows on their way to another format.
struct Converted {
    partials: Partials,
    bytes: usize,
}

/// The same parameters; results in these formats.
pub fn with_formats(bound: &Bound, formats: &[Format]) -> Result<Bound, Failure> {
    let mut message = BytesMut::new();
    match bound.parsed()? {
        Some(bind) => {
            let parameters = bind.parameters.iter();
            frontend::bind(&mut message, "", "", bind.parameter_formats.iter(), parameters, formats.iter().copied());
        }
        None => frontend::bind(&mut message, "", "", [], [] as [Option<&[u8]>; 0], formats.iter().copied()),
    }
    let bind = Frame::new(message.freeze()).map_err(PgError::from)?;
    Ok(Bound { statement: std::sync::Arc::clone(&bound.statement), bind: Some(bind) })
}

fn data_rows(bytes: &mut BytesMut) -> Result<VecDeque<Frame>, Failure> {
    let mut rows = VecDeque::new();
    while let Some(frame) = next_frame(bytes, usize::MAX).map_err(PgError::from)? {
        if frame.tag() == b'D' {
            rows.push_back(frame);
        }
    }
    Ok(rows)
}
