//! A move as operators see it: its record, what its task knows at this moment, and what gateways report.

use ringway_topology::model::{Move, MoveRouting};

use super::context::MoveContext;
use super::record::{CutoverRecord, MoveRecord, TableRecord, VerificationRecord};
use super::state::State;
use super::step::effect_of;

#[derive(Clone, Debug, PartialEq)]
pub struct MoveStatus {
    /// With its exact phase, also while it is not in the topology (before it begins and after it has ended). A target that is
    /// not registered yet is shard 0.
    pub as_move: Move,
    pub source_name: String,
    pub target_name: String,
    pub keyspace_name: String,
    /// The effect at work; "waiting" in ready and switched.
    pub step: String,
    pub manual: bool,
    pub paused: bool,
    /// Empty, or why the move does not get on at the moment.
    pub degraded: String,
    pub tables: Vec<TableRecord>,
    pub rows_done: u64,
    pub rows_estimated: u64,
    pub bytes_done: u64,
    pub rows_per_second: f64,
    pub bytes_per_second: f64,
    pub seconds_left: Option<u64>,
    pub backfill_milliseconds: u64,
    pub captured_backlog: u64,
    pub mirrored_transactions: u64,
    pub unmirrored_transactions: u64,
    pub swept_rows: u64,
    pub held_statements: u64,
    pub held_microseconds_max: u64,
    pub cutovers: Vec<CutoverRecord>,
    pub cutover_attempts_undone: u64,
    pub verification: VerificationRecord,
    pub started_at_unix_ms: u64,
    pub ended_at_unix_ms: Option<u64>,
    pub rows_deleted: u64,
}

impl MoveStatus {
    pub fn of(ctx: &MoveContext) -> MoveStatus {
        let record = ctx.record();
        let rates = ctx.rates();
        let mut status = MoveStatus::of_record(&record, ctx);
        let backfills = matches!(record.state, State::Backfill(_));
        if backfills {
            (status.rows_per_second, status.bytes_per_second) = rates;
            let left = status.rows_estimated.saturating_sub(status.rows_done);
            status.seconds_left = (rates.0 > 0.0).then(|| (left as f64 / rates.0).ceil() as u64);
        }
        let live = ctx.live();
        let troubles = [
            record.stopped.clone().map(|text| format!("stopped: {text}")),
            live.effect_trouble.clone(),
            live.sweeper_trouble.clone(),
        ];
        status.degraded = troubles.into_iter().flatten().collect::<Vec<_>>().join("; ");
        status.captured_backlog = live.captured_backlog;
        status
    }

    fn of_record(record: &MoveRecord, ctx: &MoveContext) -> MoveStatus {
        let topology = ctx.topology();
        let gateways = ctx.cluster.mirror_statistics(record.id);
        let sum = |count: fn(&TableRecord) -> u64| record.tables.iter().map(count).sum::<u64>();
        MoveStatus {
            as_move: Move {
                id: record.id,
                kind: record.kind,
                keyspace: record.keyspace,
                source: record.source,
                target: record.target.unwrap_or_default(),
                arcs: record.arcs.clone(),
                phase: record.state.phase(),
                routing: topology.moves.get(&record.id).map_or(MoveRouting::default(), |known| known.routing),
            },
            source_name: record.source_name.clone(),
            target_name: record.target_name.clone(),
            keyspace_name: topology.keyspace(record.keyspace).map(|keyspace| keyspace.name.clone()).unwrap_or_default(),
            step: match effect_of(record.state) {
                Some(effect) => effect.name().to_owned(),
                None if record.state.is_final() => String::new(),
                None => "waiting".to_owned(),
            },
            manual: record.manual,
            paused: record.paused || record.stopped.is_some(),
            degraded: String::new(),
            tables: record.tables.clone(),
            rows_done: sum(|table| table.rows_done),
            rows_estimated: sum(|table| {
                if table.backfilled {
                    table.rows_done
                } else {
                    table.rows_estimated.max(table.rows_done)
                }
            }),
            bytes_done: sum(|table| table.bytes_done),
            rows_per_second: 0.0,
            bytes_per_second: 0.0,
            seconds_left: None,
            backfill_milliseconds: record.backfill_milliseconds,
            captured_backlog: 0,
            mirrored_transactions: gateways.mirrored_transactions,
            unmirrored_transactions: gateways.unmirrored_transactions,
            swept_rows: record.swept_rows,
            held_statements: gateways.held_statements,
            held_microseconds_max: gateways.held_microseconds_max,
            cutovers: record.cutovers.clone(),
            cutover_attempts_undone: record.attempts_undone,
            verification: record.verification,
            started_at_unix_ms: record.started_at_unix_ms,
            ended_at_unix_ms: record.ended_at_unix_ms,
            rows_deleted: record.rows_deleted,
        }
    }
}
