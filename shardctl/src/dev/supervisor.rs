//! Keeps the parts of a cluster alive, each in a task of its own.
//!
//! Knows how a part starts, ends and is stopped; not what the parts are for.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::console;
use super::logfile;
use super::postgres::{LocalPostgres, SERVICE_ROLE};
use super::process::ProcessId;
use super::state::{Layer, PartState, StateFile};

/// A part that dies is started again after the first delay; one that keeps dying, at most at the last.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(50);
const RESTART_DELAY_MAX: Duration = Duration::from_millis(400);
/// A part that lived this long is not one that keeps dying.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How a gateway or a control plane is ended.
pub const PROGRAM_SIGNALS: [(Signal, Duration); 2] =
    [(Signal::TERM, Duration::from_secs(5)), (Signal::KILL, Duration::from_secs(5))];

/// A program of ours, with the arguments it is always started with.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    pub layer: Layer,
    pub port: u16,
    pub executable: PathBuf,
    pub arguments: Vec<OsString>,
    pub log_path: PathBuf,
    pub child: Option<Child>,
}

impl Program {
    fn start(&mut self) -> anyhow::Result<()> {
        let log =
            logfile::append(&self.log_path).with_context(|| format!("cannot write {}", self.log_path.display()))?;
        let mut command = std::process::Command::new(&self.executable);
        // A process group of its own: a terminal's Ctrl-C goes to the supervisor alone.
        command.args(&self.arguments).process_group(0);
        let child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.executable.display()))?;
        self.child = Some(child);
        Ok(())
    }
}

/// What the supervisor starts, watches and stops.
#[derive(Debug)]
pub enum Part {
    Postgres { name: String, server: LocalPostgres },
    Program(Program),
}

impl Part {
    fn name(&self) -> &str {
        match self {
            Self::Postgres { name, .. } => name,
            Self::Program(program) => program.name,
        }
    }

    fn layer(&self) -> Layer {
        match self {
            Self::Postgres { .. } => Layer::Postgres,
            Self::Program(program) => program.layer,
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Postgres { server, .. } => server.pid(),
            Self::Program(program) => program.child.as_ref()?.id(),
        }
    }

    fn state(&self) -> PartState {
        let (port, dsn) = match self {
            Self::Postgres { server, .. } => (server.port(), Some(server.dsn(SERVICE_ROLE))),
            Self::Program(program) => (program.port, None),
        };
        PartState {
            name: self.name().to_owned(),
            layer: self.layer(),
            process: self.pid().and_then(ProcessId::of),
            port,
            dsn,
        }
    }

    async fn start(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Postgres { server, .. } => Ok(server.start().await?),
            Self::Program(program) => program.start(),
        }
    }

    /// Waits for the end of the process, if there is one. Cancel-safe.
    async fn wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Postgres { server, .. } => server.wait().await,
            Self::Program(program) => {
                let status = program.child.as_mut()?.wait().await;
                program.child = None;
                status.ok()
            }
        }
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Postgres { server, .. } => Ok(server.stop().await?),
            Self::Program(_) => {
                for (signal, bound) in PROGRAM_SIGNALS {
                    let Some(process) = self.pid().and_then(ProcessId::of) else {
                        break;
                    };
                    process.signal(signal)?;
                    if tokio::time::timeout(bound, self.wait()).await.is_ok() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Owns the parts' tasks.
#[derive(Debug)]
pub struct Supervisor {
    state: Arc<StateFile>,
    layers: Vec<(Layer, CancellationToken, TaskTracker)>,
}

impl Supervisor {
    pub fn new(state: Arc<StateFile>) -> Self {
        let layer = |layer| (layer, CancellationToken::new(), TaskTracker::new());
        Self { state, layers: Layer::ALL.into_iter().map(layer).collect() }
    }

    pub fn state(&self) -> &StateFile {
        &self.state
    }

    /// Keeps the part alive from now on, starting it if it does not run.
    pub fn adopt(&self, part: Part) {
        for (layer, stop, tasks) in &self.layers {
            if *layer == part.layer() {
                tasks.spawn(keep_alive(part, Arc::clone(&self.state), stop.clone()));
                return;
            }
        }
    }

    /// Stops every part, layer by layer; bounded by the bounds of the parts' signals.
    pub async fn shutdown(self) {
        for (_, stop, tasks) in self.layers {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
    }
}

async fn keep_alive(mut part: Part, state: Arc<StateFile>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = supervise(&mut part, &state) => {}
    }
    if let Err(error) = part.stop().await {
        console::warn(&format!("{}: {error:#}", part.name()));
    }
}

async fn supervise(part: &mut Part, state: &StateFile) {
    let mut delay = RESTART_DELAY_MIN;
    let mut reported = String::new();
    loop {
        if part.pid().is_none() {
            if let Err(error) = part.start().await {
                let error = format!("cannot start {}: {error:#}", part.name());
                if error != reported {
                    console::warn(&error);
                    reported = error;
                }
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RESTART_DELAY_MAX);
                continue;
            }
            reported.clear();
        }
        if let Err(error) = state.record(part.state()) {
            console::warn(&format!("{}: {error:#}", part.name()));
        }
        let started = Instant::now();
        let status = part.wait().await;
        let status = status.map_or_else(|| "unknown status".to_owned(), |s| s.to_string());
        console::warn(&format!("{} ended ({status}); starting it again", part.name()));
        if started.elapsed() > STABLE_AFTER {
            delay = RESTART_DELAY_MIN;
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RESTART_DELAY_MAX);
    }
}
