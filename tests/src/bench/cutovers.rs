//! Cutovers back and forth under load: how long writes to moving rows were held, as their clients saw it.

use std::time::Duration;

use anyhow::{ensure, Result};
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::{MoveRequest, MoveStatus};
use tonic::transport::Channel;

use super::Arguments;
use crate::cluster::Cluster;
use crate::demo::figures::{self, Span};
use crate::demo::watch;
use crate::shop::traffic::{unix_us, Mix, Options, Traffic};
use crate::shop::Size;

const BEFORE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(500);
/// What a transaction counts as short by.
const SHORT: Duration = Duration::from_millis(5);

/// How the clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Writes of one row, each client begins one this often: as short as the machine allows.
    Short(Duration),
    /// The shop's transactions, the next begins as soon as the last is answered: processors are the limit.
    Full,
}

/// `run`: another one for every load on the same rows.
pub async fn measure(
    cluster: &Cluster,
    operations: &mut OperationsClient<Channel>,
    id: u64,
    size: Size,
    arguments: &Arguments,
    (load, run): (Load, u64),
) -> Result<()> {
    let (mix, pace) = match load {
        Load::Short(pace) => (Mix::ShortWrites, Some(pace)),
        Load::Full => (Mix::Shop, None),
    };
    let options = Options {
        dsn: cluster.dsn("postgres"),
        clients: arguments.clients,
        size,
        seed: 7,
        survive_errors: false,
        reports: false,
        mix,
        pace,
    };
    let cutovers_before = watch::wait_for_phase(operations, id, &["ready"], false).await?;
    let traffic = Traffic::start(&options, run);
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
    let mut status = watch::wait_for_phase(operations, id, &["ready", "switched"], false).await?;
    if watch::phase(&status) == "switched" {
        operations.roll_back_move(MoveRequest { id }).await?;
        watch::wait_for_phase(operations, id, &["ready"], false).await?;
    }
    let undone = status.cutover_attempts_undone - cutovers_before.cutover_attempts_undone;
    status.cutovers.drain(..cutovers_before.cutovers.len());
    let what = match load {
        Load::Short(pace) => format!("{} clients that write a row every {pace:?}", arguments.clients),
        Load::Full => format!("{} clients of the shop without a pause", arguments.clients),
    };
    println!("{} cutovers, {what}:", status.cutovers.len());
    print_holds(&status, undone);
    println!("  held writes at the clients: {}", figures::held(&finished.samples, &status));
    let (moving, others) = figures::not_held(&finished.samples, &status);
    println!("  the same writes without a cutover, to moving rows: {}", figures::distribution(&moving, SHORT));
    println!("  and to rows that do not move: {}", figures::distribution(&others, SHORT));
    let (before, during) = (figures::traffic(&finished, before), figures::traffic(&finished, during));
    println!(
        "  client p99 with double-write and cutovers / before the cutovers: {:.2} ms / {:.2} ms = {:.2}; {:.0} operations/s; errors {}",
        during.p99_ms,
        before.p99_ms,
        during.p99_ms / before.p99_ms.max(0.001),
        during.operations_per_second,
        counters.errors.load(std::sync::atomic::Ordering::Relaxed)
    );
    ensure!(counters.error_texts().is_empty(), "clients saw errors: {:?}", counters.error_texts());
    Ok(())
}

fn print_holds(status: &MoveStatus, undone: u64) {
    let mut holds: Vec<u64> =
        status.cutovers.iter().map(|c| c.released_unix_us.saturating_sub(c.held_from_unix_us)).collect();
    holds.sort_unstable();
    println!(
        "  hold to release: p50 {:.1} ms, max {:.1} ms; {undone} undone and tried again",
        holds.get(holds.len() / 2).copied().unwrap_or(0) as f64 / 1000.0,
        holds.last().copied().unwrap_or(0) as f64 / 1000.0,
    );
}
