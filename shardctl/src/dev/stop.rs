//! `shardctl dev stop`: ends a cluster by its own processes, whoever still looks after them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{ensure, Context};
use rustix::process::Signal;

use super::args::StopArgs;
use super::cluster::server_names;
use super::console;
use super::postgres::{LocalPostgres, STOP_SIGNALS};
use super::state::{self, DevState, Layer};
use super::supervisor::PROGRAM_SIGNALS;

/// The supervisor's own bounds sum up to 40 s.
const SUPERVISOR_SIGNALS: [(Signal, Duration); 2] =
    [(Signal::TERM, Duration::from_secs(45)), (Signal::KILL, Duration::from_secs(5))];

pub async fn run(args: &StopArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.data;
    let mut found = false;
    if let Some(state) = state::read(dir)? {
        found = true;
        state
            .supervisor
            .end(&SUPERVISOR_SIGNALS)
            .await
            .with_context(|| format!("cannot stop process {}", state.supervisor.pid))?;
        // Normally gone with its supervisor; if not, it may know of later restarts.
        if let Some(state) = state::read(dir)? {
            stop_parts(&state).await?;
            state::remove(dir)?;
        }
    }
    if dir.is_dir() {
        for name in server_names(dir)? {
            found |= stop_server_in(&dir.join(name)).await?;
        }
    }
    console::print(&[if found {
        format!("stopped the cluster on {}", dir.display())
    } else {
        format!("no cluster runs on {}", dir.display())
    }]);
    Ok(ExitCode::SUCCESS)
}

/// Ends what runs of a cluster whose supervisor does not.
pub async fn stop_parts(state: &DevState) -> anyhow::Result<()> {
    for layer in Layer::ALL {
        for part in state.parts.iter().filter(|part| part.layer == layer) {
            let Some(process) = part.process else {
                continue;
            };
            let signals: &[_] = match layer {
                Layer::Gateway | Layer::Control => &PROGRAM_SIGNALS,
                Layer::Postgres => &STOP_SIGNALS,
            };
            let ended = process.end(signals).await;
            let ended = ended.with_context(|| format!("cannot stop {} (process {})", part.name, process.pid))?;
            ensure!(ended, "{} (process {}) does not end", part.name, process.pid);
        }
    }
    Ok(())
}

/// Ends the server that runs on a directory without an owner; true if there was one.
pub async fn stop_server_in(dir: &Path) -> anyhow::Result<bool> {
    let Some(process) = LocalPostgres::running_in(dir) else {
        return Ok(false);
    };
    let ended = process.end(&STOP_SIGNALS).await;
    let ended = ended.with_context(|| format!("cannot stop process {}", process.pid))?;
    ensure!(ended, "the PostgreSQL in {} does not end", dir.display());
    Ok(true)
}
