//! Half of a shard's rows copied while clients are busy; compared with `COPY | COPY` of the same rows without them.

use anyhow::{ensure, Context as _, Result};
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::{start_move_request::What, MoveRequest, StartMoveRequest};
use tonic::transport::Channel;

use crate::cluster::Cluster;
use crate::demo::figures::{self, Span};
use crate::demo::watch;
use crate::shop::traffic::{unix_us, Mix, Options, Traffic};
use crate::shop::Size;

const BEFORE: std::time::Duration = std::time::Duration::from_secs(3);

/// Half of `s1` onto `s3`, by hand; the move's number. `dsn` is empty once `s3` is a member.
pub async fn start(operations: &mut OperationsClient<Channel>, dsn: &str) -> Result<u64> {
    let request = StartMoveRequest {
        source: "s1".into(),
        target: "s3".into(),
        target_dsn: dsn.into(),
        what: Some(What::Fraction(0.5)),
        manual: true,
        rollback_window_ms: 3_600_000,
        kind: if dsn.is_empty() { "move" } else { "split" }.into(),
        ..StartMoveRequest::default()
    };
    let status = operations.start_move(request).await?.into_inner();
    status.r#move.as_ref().map(|m| m.id).context("no move was named")
}

/// `pipe`: bytes per second of `COPY | COPY`.
pub async fn under_load(
    cluster: &Cluster,
    operations: &mut OperationsClient<Channel>,
    size: Size,
    clients: usize,
    pipe: f64,
) -> Result<()> {
    let options = Options {
        dsn: cluster.dsn("postgres"),
        clients,
        size,
        seed: 11,
        survive_errors: false,
        reports: false,
        mix: Mix::Shop,
        pace: None,
    };
    let traffic = Traffic::start(&options, 2);
    let from = unix_us();
    tokio::time::sleep(BEFORE).await;
    let before = Span { from: from + 1_000_000, to: unix_us() };
    let from = unix_us();
    let id = start(operations, "").await?;
    let ready = watch::wait_for_phase(operations, id, &["ready"], false).await?;
    let during = Span { from, to: unix_us() };
    let (finished, counters) = traffic.stop().await?;
    operations.cancel_move(MoveRequest { id }).await?;
    watch::wait_for_phase(operations, id, &["cancelled"], false).await?;
    let seconds = ready.backfill_milliseconds.max(1) as f64 / 1000.0;
    let (before, during) = (figures::traffic(&finished, before), figures::traffic(&finished, during));
    println!(
        "backfill, {clients} busy clients: {} rows, {:.0} rows/s, {:.1} MB/s; of COPY | COPY without them {:.2}; \
         clients {:.0}/s, p99 {:.1} ms (before: {:.0}/s, {:.1} ms)",
        ready.rows_done,
        ready.rows_done as f64 / seconds,
        ready.bytes_done as f64 / seconds / 1e6,
        ready.bytes_done as f64 / seconds / pipe,
        during.operations_per_second,
        during.p99_ms,
        before.operations_per_second,
        before.p99_ms
    );
    ensure!(counters.error_texts().is_empty(), "clients saw errors: {:?}", counters.error_texts());
    Ok(())
}
