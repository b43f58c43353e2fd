//! `shardctl dev spare`: one more empty PostgreSQL, to split onto.
//!
//! The server's directory is all that a running supervisor needs to adopt it. Without a supervisor
//! the server runs on its own, until `dev stop` ends it or the next `dev` adopts it.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context};

use super::args::SpareArgs;
use super::cluster::{answers, create_dir, SPARE_PREFIX};
use super::console;
use super::postgres::{LocalPostgres, PostgresConfig, SERVICE_ROLE};
use super::state;

const READY_MAX: Duration = Duration::from_secs(60);
const READY_POLL: Duration = Duration::from_millis(50);

pub async fn run(args: &SpareArgs) -> anyhow::Result<ExitCode> {
    let dir = create_dir(&args.data)?;
    let name = reserve_name(&dir)?;
    let created = LocalPostgres::create(PostgresConfig::dev(dir.join(&name))).await;
    if created.is_err() {
        // Only if nothing came of it.
        let _ = std::fs::remove_dir(dir.join(&name));
    }
    let mut server = created?;
    let dsn = server.dsn(SERVICE_ROLE);
    let supervised = state::read(&dir)?.is_some_and(|state| state.supervisor.is_running());
    if supervised {
        until_ready(&dir, &name, &dsn).await?;
    } else {
        server.start().await?;
        server.leave_running();
    }
    if args.json {
        console::print(&[serde_json::json!({ "name": name, "dsn": dsn }).to_string()]);
    } else {
        console::print(&[format!("{name} is an empty PostgreSQL:"), dsn]);
    }
    Ok(ExitCode::SUCCESS)
}

/// The first free name; its directory belongs to this process from here on.
fn reserve_name(dir: &Path) -> anyhow::Result<String> {
    for number in 1..=u16::MAX {
        let name = format!("{SPARE_PREFIX}{number}");
        match std::fs::create_dir(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {name} in {}", dir.display())),
        }
    }
    anyhow::bail!("{} holds too many spares", dir.display())
}

/// Waits until the supervisor has recorded the server, and the server answers.
async fn until_ready(dir: &Path, name: &str, dsn: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        let state = state::read(dir)?;
        let adopted = state.is_some_and(|state| state.parts.iter().any(|part| part.name == name));
        if adopted && answers(dsn).await.is_ok() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "the supervisor has not started {name} within {} s; see {}",
            READY_MAX.as_secs(),
            dir.join(name).join("postgres.log").display()
        );
        tokio::time::sleep(READY_POLL).await;
    }
}
