//! Following a move: waits for a phase, printing a line whenever something changed.

use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};
use ringway_proto::v1::{operations_client::OperationsClient, MoveRequest, MoveStatus};
use tonic::transport::Channel;

/// A move that shows no change for this long is stuck.
const STUCK_TIMEOUT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(1);

pub fn phase(status: &MoveStatus) -> &str {
    status.r#move.as_ref().map_or("", |m| m.phase.as_str())
}

/// One line about a move at work.
pub fn line(status: &MoveStatus) -> String {
    let mut text = format!("  {:<13} {:<18}", phase(status), status.step);
    text.push_str(&format!(" {:>8}/{} rows", status.rows_done, status.rows_estimated));
    if status.bytes_per_second > 0.0 {
        text.push_str(&format!("  {:>6.1} MB/s", status.bytes_per_second / 1e6));
    }
    if let Some(seconds) = status.seconds_left {
        text.push_str(&format!("  {seconds} s left"));
    }
    text.push_str(&format!("  double-written {}", status.mirrored_transactions));
    if status.held_statements > 0 {
        text.push_str(&format!(
            "  held {} (longest {:.1} ms)",
            status.held_statements,
            status.held_microseconds_max as f64 / 1000.0
        ));
    }
    if !status.degraded.is_empty() {
        text.push_str(&format!("  [{}]", status.degraded));
    }
    text
}

/// Waits until the move is in one of the phases. `show` prints its progress.
pub async fn wait_for_phase(
    operations: &mut OperationsClient<Channel>,
    id: u64,
    phases: &[&str],
    show: bool,
) -> Result<MoveStatus> {
    let (mut last_line, mut last_shown, mut last_change) = (String::new(), Instant::now(), Instant::now());
    let mut last_phase = String::new();
    loop {
        let status = operations.get_move(MoveRequest { id }).await.context("asking for the move")?.into_inner();
        let now = line(&status);
        if now != last_line {
            last_change = Instant::now();
        }
        let arrived = phases.contains(&phase(&status));
        if show && (arrived || phase(&status) != last_phase || last_shown.elapsed() >= LINE_EVERY) && now != last_line {
            println!("{now}");
            last_shown = Instant::now();
        }
        last_phase = phase(&status).to_string();
        last_line = now;
        if arrived {
            return Ok(status);
        }
        if matches!(phase(&status), "done" | "cancelled") {
            bail!("move {id} ended as {} while waiting for {phases:?}: {}", phase(&status), status.degraded);
        }
        if last_change.elapsed() > STUCK_TIMEOUT {
            bail!("move {id} shows no change for {STUCK_TIMEOUT:?}:\n{last_line}");
        }
        tokio::time::sleep(POLL).await;
    }
}
