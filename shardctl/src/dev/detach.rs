//! `--detach`: the same cluster in a process of its own, in a session of its own.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{bail, Context};
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::signal::unix::{signal, SignalKind};

use super::args::StartArgs;
use super::cluster;
use super::console;
use super::logfile;
use super::process::ProcessId;
use super::programs::Programs;
use super::state;

/// Above the sum of the bounds within which a cluster comes up or gives up.
const READY_MAX: Duration = Duration::from_secs(240);
const READY_POLL: Duration = Duration::from_millis(50);

/// Starts the cluster in the background, and returns once it is ready or has failed.
pub async fn run(args: &StartArgs) -> anyhow::Result<ExitCode> {
    let dir = cluster::create_dir(&args.data)?;
    let log_path = dir.join("dev.log");
    let log = logfile::append(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    let log_start = log.metadata()?.len();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let mut child = Command::new(Programs::find()?.shardctl)
        .args(["dev", "--background"])
        .args(["--shards", &args.shards.to_string()])
        .args(["--listen", &args.listen.to_string()])
        .args(["--grpc", &args.grpc.to_string()])
        .arg("--data")
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the cluster in the background")?;
    let Some(process) = child.id().and_then(ProcessId::of) else {
        bail!("the cluster ended at once; see {}", log_path.display());
    };

    let outcome = tokio::select! {
        outcome = ready(&mut child, process, &dir) => outcome?,
        _ = interrupt.recv() => Outcome::GivenUp("interrupted"),
        _ = terminate.recv() => Outcome::GivenUp("terminated"),
        () = tokio::time::sleep(READY_MAX) => Outcome::GivenUp("the cluster takes too long to start"),
    };
    match outcome {
        Outcome::Ready(banner) => {
            console::print(&banner);
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Ended => {
            console::warn(&logfile::tail(&log_path, log_start));
            Ok(ExitCode::FAILURE)
        }
        Outcome::GivenUp(reason) => {
            process.signal(Signal::TERM)?;
            child.wait().await?;
            bail!("{reason}; see {}", log_path.display());
        }
    }
}

enum Outcome {
    Ready(Vec<String>),
    Ended,
    GivenUp(&'static str),
}

async fn ready(child: &mut Child, process: ProcessId, dir: &Path) -> anyhow::Result<Outcome> {
    loop {
        if child.try_wait()?.is_some() {
            return Ok(Outcome::Ended);
        }
        if let Some(state) = state::read(dir)? {
            if state.supervisor == process && !state.banner.is_empty() {
                return Ok(Outcome::Ready(state.banner));
            }
        }
        tokio::time::sleep(READY_POLL).await;
    }
}
