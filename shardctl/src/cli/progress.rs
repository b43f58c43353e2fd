//! Showing a move at work: a bar on a terminal, a line a second elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ringway_proto::v1::{MoveRequest, MoveStatus};

use super::client::Client;

const LINE_EVERY: Duration = Duration::from_secs(1);
/// The control plane may be away this long, restarting say, while a move is followed.
const ABSENCE_MAX: Duration = Duration::from_secs(60);
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);

pub fn phase(status: &MoveStatus) -> &str {
    status.r#move.as_ref().map_or("", |m| m.phase.as_str())
}

/// Follows until the move has ended or is in one of `stop_at`, also over a restart of the control plane.
pub async fn follow(client: &mut Client, id: u64, stop_at: &[&str]) -> anyhow::Result<MoveStatus> {
    let mut view = View::new();
    let mut last_heard = Instant::now();
    loop {
        let failure = match client.operations.watch_move(MoveRequest { id }).await {
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(status)) => {
                            last_heard = Instant::now();
                            let now = phase(&status).to_string();
                            view.show(&status);
                            if matches!(now.as_str(), "done" | "cancelled") || stop_at.contains(&now.as_str()) {
                                view.end();
                                return Ok(status);
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        if let Some(status) = failure {
            let passing = matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown | tonic::Code::Internal
            );
            if !passing || last_heard.elapsed() > ABSENCE_MAX {
                view.end();
                return Err(client.explain(&status));
            }
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

enum View {
    Bar(ProgressBar),
    Lines { phase: String, last: Option<Instant> },
}

impl View {
    fn new() -> View {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{prefix:<13} {bar:30} {pos}/{len} rows  {msg}") {
                bar.set_style(style);
            }
            View::Bar(bar)
        } else {
            View::Lines { phase: String::new(), last: None }
        }
    }

    fn show(&mut self, status: &MoveStatus) {
        match self {
            View::Bar(bar) => {
                bar.set_length(status.rows_estimated.max(status.rows_done));
                bar.set_position(status.rows_done);
                bar.set_prefix(phase(status).to_string());
                bar.set_message(details(status));
            }
            View::Lines { phase: shown, last } => {
                let now = phase(status);
                if shown != now || last.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                    eprintln!("{now:<13} {}/{} rows  {}", status.rows_done, status.rows_estimated, details(status));
                    *shown = now.to_string();
                    *last = Some(Instant::now());
                }
            }
        }
    }

    fn end(&self) {
        if let View::Bar(bar) = self {
            bar.abandon();
        }
    }
}

fn details(status: &MoveStatus) -> String {
    let mut parts = vec![status.step.clone()];
    if status.bytes_per_second > 0.0 {
        parts.push(format!("{:.1} MB/s", status.bytes_per_second / 1e6));
    }
    if let Some(seconds) = status.seconds_left {
        parts.push(format!("{seconds} s left"));
    }
    parts.push(format!("{} double-written", status.mirrored_transactions));
    if status.held_statements > 0 {
        let longest = status.held_microseconds_max as f64 / 1000.0;
        parts.push(format!("{} held, longest {longest:.1} ms", status.held_statements));
    }
    if status.paused {
        parts.push("paused".into());
    }
    if !status.degraded.is_empty() {
        parts.push(format!("[{}]", status.degraded));
    }
    parts.join("  ")
}
