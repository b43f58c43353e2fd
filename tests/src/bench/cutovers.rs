//! Cutovers back and forth under load: how long writes to moving rows were held, as their clients saw it.

use anyhow::{ensure, Result};
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::MoveRequest;
use tonic::transport::Channel;

use super::Arguments;
use crate::cluster::Cluster;
use crate::demo::figures::{self, Span};
use crate::demo::watch;
use crate::shop::traffic::{unix_us, Options, Traffic};
use crate::shop::Size;

const BEFORE: std::time::Duration = std::time::Duration::from_secs(5);
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(500);

pub async fn measure(
    cluster: &Cluster,
    operations: &mut OperationsClient<Channel>,
    id: u64,
    size: Size,
    arguments: &Arguments,
) -> Result<()> {
    let options = Options {
        dsn: cluster.dsn("postgres"),
        clients: arguments.clients,
        size,
        seed: 7,
        survive_errors: false,
        reports: false,
    };
    let traffic = Traffic::start(&options, 0);
    let from = unix_us();
    tokio::time::sleep(BEFORE).await;
    let before = Span { from: from + 1_000_000, to: unix_us() };
    let from = unix_us();
    for round in 0..arguments.cutovers {
        if round % 2 == 0 {
            operations.cut_over_move(MoveRequest { id }).await?;
            watch::wait_for_phase(operations, id, &["switched"], false).await?;
        } else {
            operations.roll_back_move(MoveRequest { id }).await?;
            watch::wait_for_phase(operations, id, &["ready"], false).await?;
        }
        tokio::time::sleep(BETWEEN).await;
    }
    let during = Span { from, to: unix_us() };
    let (finished, counters) = traffic.stop().await?;
    let status = watch::wait_for_phase(operations, id, &["ready", "switched"], false).await?;
    if watch::phase(&status) == "switched" {
        operations.roll_back_move(MoveRequest { id }).await?;
        watch::wait_for_phase(operations, id, &["ready"], false).await?;
    }
    let held = figures::held(&finished.samples, &status);
    let (before, during) = (figures::traffic(&finished, before), figures::traffic(&finished, during));
    let mut holds: Vec<u64> =
        status.cutovers.iter().map(|c| c.released_unix_us.saturating_sub(c.held_from_unix_us)).collect();
    holds.sort_unstable();
    println!(
        "{} cutovers with {} clients: hold to release p50 {:.1} ms, max {:.1} ms; {} undone and tried again",
        holds.len(),
        arguments.clients,
        holds.get(holds.len() / 2).copied().unwrap_or(0) as f64 / 1000.0,
        holds.last().copied().unwrap_or(0) as f64 / 1000.0,
        status.cutover_attempts_undone
    );
    println!("held writes at the clients: {held}");
    println!(
        "client p99 with double-write and cutovers / before the cutovers: {:.2} ms / {:.2} ms = {:.2}; errors {}",
        during.p99_ms,
        before.p99_ms,
        during.p99_ms / before.p99_ms.max(0.001),
        counters.errors.load(std::sync::atomic::Ordering::Relaxed)
    );
    ensure!(counters.error_texts().is_empty(), "clients saw errors: {:?}", counters.error_texts());
    Ok(())
}
