//! Between the move engine and gRPC. Translates only.

use futures_util::StreamExt as _;
use ringway_proto::v1;
use ringway_topology::convert::{arc_from_proto, move_to_proto};
use ringway_topology::ids::MoveId;
use ringway_topology::model::MoveKind;
use tokio_stream::Stream;
use tonic::Status;

use crate::control::{Control, ControlError};
use crate::moves::{self, Engine, MoveLimits, MoveStatus, StartMove, What};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Pause,
    Resume,
    CutOver,
    RollBack,
    Complete,
    Cancel,
}

pub(super) fn fault_points() -> Vec<String> {
    moves::faults::all()
}

/// Every stored move is known when this returns, and those that have not ended go on.
pub(super) async fn start(control: &Control) -> Result<Engine, ControlError> {
    let engine = Engine::new(control.clone(), MoveLimits::default());
    engine.resume_all().await?;
    Ok(engine)
}

pub(super) async fn start_move(engine: &Engine, request: v1::StartMoveRequest) -> Result<v1::MoveStatus, ControlError> {
    let id = engine.start(start_from_proto(request)?).await?;
    Ok(status_to_proto(engine.get(id)?))
}

fn start_from_proto(request: v1::StartMoveRequest) -> Result<StartMove, ControlError> {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let kind = match request.kind.as_str() {
        "split" => MoveKind::Split,
        "move" => MoveKind::Move,
        other => {
            return Err(ControlError::Invalid(format!("a move is of the kind \"split\" or \"move\", not {other:?}")))
        }
    };
    let what = match request.what {
        Some(v1::start_move_request::What::Key(key)) => What::Key(key),
        Some(v1::start_move_request::What::Arc(arc)) => {
            What::Arc(arc_from_proto(&arc).map_err(|error| ControlError::Invalid(error.to_string()))?)
        }
        Some(v1::start_move_request::What::Fraction(fraction)) => What::Fraction(fraction),
        Some(v1::start_move_request::What::All(true)) => What::All,
        Some(v1::start_move_request::What::All(false)) | None => {
            return Err(ControlError::Invalid("say what to move: a key, an arc, a fraction or all".into()))
        }
    };
    Ok(StartMove {
        kind,
        source: request.source,
        target: request.target,
        target_dsn: some(request.target_dsn),
        keyspace: some(request.keyspace),
        what,
        manual: request.manual,
        rollback_window_ms: request.rollback_window_ms,
        rate_limit_bytes_per_second: request.rate_limit_bytes_per_second,
    })
}

pub(super) fn list(engine: &Engine, all: bool) -> Vec<v1::MoveStatus> {
    engine.list(all).into_iter().map(status_to_proto).collect()
}

pub(super) fn get(engine: &Engine, id: MoveId) -> Result<v1::MoveStatus, ControlError> {
    Ok(status_to_proto(engine.get(id)?))
}

pub(super) fn watch(
    engine: &Engine,
    id: MoveId,
) -> Result<impl Stream<Item = Result<v1::MoveStatus, Status>> + Send + 'static, ControlError> {
    Ok(engine.watch(id)?.map(|status| Ok(status_to_proto(status))))
}

pub(super) async fn command(engine: &Engine, id: MoveId, command: Command) -> Result<v1::MoveStatus, ControlError> {
    let status = match command {
        Command::Pause => engine.pause(id).await,
        Command::Resume => engine.resume(id).await,
        Command::CutOver => engine.cut_over(id).await,
        Command::RollBack => engine.roll_back(id).await,
        Command::Complete => engine.complete(id).await,
        Command::Cancel => engine.cancel(id).await,
    };
    Ok(status_to_proto(status?))
}

fn status_to_proto(status: MoveStatus) -> v1::MoveStatus {
    let cutovers = cutovers(&status);
    let table = |table: moves::record::TableRecord| v1::TableProgress {
        table: table.name.to_string(),
        rows_done: table.rows_done,
        rows_estimated: table.rows_estimated,
        bytes_done: table.bytes_done,
        backfilled: table.backfilled,
        verified: table.verified,
    };
    let verification = status.verification;
    v1::MoveStatus {
        r#move: Some(move_to_proto(&status.as_move)),
        source_name: status.source_name,
        target_name: status.target_name,
        keyspace_name: status.keyspace_name,
        step: status.step,
        manual: status.manual,
        paused: status.paused,
        degraded: status.degraded,
        tables: status.tables.into_iter().map(table).collect(),
        rows_done: status.rows_done,
        rows_estimated: status.rows_estimated,
        bytes_done: status.bytes_done,
        rows_per_second: status.rows_per_second,
        bytes_per_second: status.bytes_per_second,
        seconds_left: status.seconds_left,
        backfill_milliseconds: status.backfill_milliseconds,
        captured_backlog: status.captured_backlog,
        mirrored_transactions: status.mirrored_transactions,
        unmirrored_transactions: status.unmirrored_transactions,
        swept_rows: status.swept_rows,
        held_statements: status.held_statements,
        held_microseconds_max: status.held_microseconds_max,
        cutovers,
        cutover_attempts_undone: status.cutover_attempts_undone,
        verification: Some(v1::Verification {
            chunks: verification.chunks,
            rows: verification.rows,
            chunks_looked_at_again: verification.chunks_looked_at_again,
            rows_repaired: verification.rows_repaired,
            passed: verification.passed,
        }),
        started_at_unix_ms: status.started_at_unix_ms,
        ended_at_unix_ms: status.ended_at_unix_ms,
        rows_deleted: status.rows_deleted,
    }
}

fn cutovers(status: &MoveStatus) -> Vec<v1::Cutover> {
    let span = |cutover: &crate::moves::CutoverRecord| v1::Cutover {
        reverse: cutover.direction == crate::moves::Direction::Reverse,
        held_from_unix_us: cutover.held_from_unix_us,
        released_unix_us: cutover.released_unix_us,
    };
    status.cutovers.iter().map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked() {
        let good = v1::StartMoveRequest {
            kind: "move".into(),
            what: Some(v1::start_move_request::What::All(true)),
            ..Default::default()
        };
        let start = start_from_proto(good.clone()).unwrap();
        assert_eq!((start.kind, start.what, start.keyspace), (MoveKind::Move, What::All, None));
        let refused = |change: &dyn Fn(&mut v1::StartMoveRequest)| {
            let mut request = good.clone();
            change(&mut request);
            start_from_proto(request).is_err()
        };
        assert!(refused(&|request| request.kind = "copy".into()));
        assert!(refused(&|request| request.what = None));
        let empty = v1::TokenArc { after: Some(5), through: 5 };
        assert!(refused(&|request| request.what = Some(v1::start_move_request::What::Arc(empty))));
    }
}
