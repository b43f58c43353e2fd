//! The local cluster: its servers, control plane and gateway, brought up in order.
//!
//! A cluster's directory holds one directory per PostgreSQL server (`s1`, `s2`, ..., `spare1`, ...),
//! `control` and `gateway` with their logs, and `dev.json`. Every server directory found there
//! belongs to the cluster, so a spare that another process has created is simply adopted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context};
use futures_util::future::try_join_all;
use tokio::signal::unix::{signal, SignalKind};
use tokio_postgres::NoTls;

use super::args::StartArgs;
use super::binaries::PostgresBinaries;
use super::console;
use super::ports;
use super::postgres::{LocalPostgres, PostgresConfig, DATABASE, SERVICE_ROLE};
use super::programs::Programs;
use super::state::{self, Claim, Layer, StateFile};
use super::stop;
use super::supervisor::{Part, Program, Supervisor};

/// Bound on the gateway's start, once the shards are registered.
const GATEWAY_READY_MAX: Duration = Duration::from_secs(60);
const GATEWAY_POLL: Duration = Duration::from_millis(50);
const CONNECT_MAX: Duration = Duration::from_secs(5);
const NEW_SERVER_POLL: Duration = Duration::from_millis(250);
const DURABILITY_SETTINGS: [&str; 2] = ["fsync", "synchronous_commit"];

/// Runs the cluster until SIGINT, SIGTERM or SIGHUP.
pub async fn run(args: &StartArgs) -> anyhow::Result<ExitCode> {
    if args.background {
        rustix::process::setsid().context("cannot start a new session")?;
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;

    PostgresBinaries::find()?;
    let programs = Programs::find()?;
    let dir = create_dir(&args.data)?;
    let state = claim(&dir, args).await?;
    let mut supervisor = Supervisor::new(Arc::new(state));
    let outcome = tokio::select! {
        outcome = serve(args, &dir, &programs, &mut supervisor) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    supervisor.shutdown().await;
    state::remove(&dir)?;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Brings the cluster up, announces it, and then adopts servers that appear. Never ends well.
async fn serve(args: &StartArgs, dir: &Path, programs: &Programs, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    for (address, option) in [(args.listen, "--listen"), (args.grpc, "--grpc")] {
        if !ports::is_free(address).with_context(|| format!("cannot listen on {address}"))? {
            bail!("{address} is taken by another process; choose another with {option}");
        }
    }
    let mut banner = Vec::new();

    let mut names = server_names(dir)?;
    names.extend((1..=args.shards).map(|number| format!("s{number}")));
    let servers = try_join_all(names.iter().map(|name| async move {
        stop::stop_server_in(&dir.join(name)).await?;
        let server = LocalPostgres::launch(PostgresConfig::dev(dir.join(name))).await;
        Ok::<_, anyhow::Error>((name, server.with_context(|| format!("server {name}"))?))
    }))
    .await?;
    let mut shards = Vec::new();
    let mut durability = BTreeSet::new();
    for (name, server) in servers {
        let dsn = server.dsn(SERVICE_ROLE);
        let is_shard = !name.starts_with(SPARE_PREFIX);
        let kind = if is_shard { "shard" } else { "server" };
        banner.push(format!("{kind} {name} {dsn}"));
        durability.insert(durability_of(&server).await?);
        supervisor.adopt(Part::Postgres { name: name.clone(), server });
        if is_shard {
            shards.push((name.clone(), dsn));
        }
    }
    banner.extend(durability);

    supervisor.adopt(Part::Program(control_plane(args, dir, programs)));
    let see_log = || format!("see {}", dir.join("control.log").display());
    let registered = programs.registered_shards(args.grpc).await.with_context(see_log)?;
    for (name, dsn) in &shards {
        if !registered.contains(name) {
            programs.add_shard(args.grpc, name, dsn).await.with_context(see_log)?;
        }
    }

    supervisor.adopt(Part::Program(gateway(args, dir, programs)));
    let front = format!("postgresql://postgres@{}/{DATABASE}", reachable(args.listen));
    gateway_ready(&front).await.with_context(|| format!("see {}", dir.join("gateway.log").display()))?;
    banner.push(format!("ready {front}"));
    supervisor.state().set_banner(&banner)?;
    console::print(&banner);
    adopt_new_servers(dir, supervisor, names).await
}

async fn adopt_new_servers(dir: &Path, supervisor: &Supervisor, mut known: BTreeSet<String>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(NEW_SERVER_POLL).await;
        for name in server_names(dir)? {
            if known.contains(&name) {
                continue;
            }
            match LocalPostgres::create(PostgresConfig::dev(dir.join(&name))).await {
                Ok(server) => supervisor.adopt(Part::Postgres { name: name.clone(), server }),
                Err(error) => console::warn(&format!("{name}: {:#}", anyhow::Error::new(error))),
            }
            known.insert(name);
        }
    }
}

pub const SPARE_PREFIX: &str = "spare";

/// The complete server directories of a cluster, by name.
pub fn server_names(dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let is_server = |name: &str| {
        let number = name.strip_prefix(SPARE_PREFIX).or(name.strip_prefix('s'));
        number.is_some_and(|number| number.parse::<u16>().is_ok())
    };
    let mut names = BTreeSet::new();
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string() {
            if is_server(&name) && LocalPostgres::exists(&entry.path()) {
                names.insert(name);
            }
        }
    }
    Ok(names)
}

/// Creates the cluster's directory, and makes its name absolute.
pub fn create_dir(dir: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(dir)
        .and_then(|()| dir.canonicalize())
        .with_context(|| format!("cannot create {}", dir.display()))
}

/// Owns the directory; the parts of a supervisor that was killed are stopped first.
async fn claim(dir: &Path, args: &StartArgs) -> anyhow::Result<StateFile> {
    loop {
        match StateFile::claim(dir, args.listen, args.grpc)? {
            Claim::Ours(state) => return Ok(state),
            Claim::Leftover(leftover) => {
                stop::stop_parts(&leftover).await?;
                state::remove_leftover(dir, &leftover)?;
            }
        }
    }
}

/// `fsync=on synchronous_commit=on`, as the server says.
async fn durability_of(server: &LocalPostgres) -> anyhow::Result<String> {
    let mut settings = Vec::new();
    for name in DURABILITY_SETTINGS {
        settings.push(format!("{name}={}", server.show(name).await?));
    }
    Ok(settings.join(" "))
}

fn control_plane(args: &StartArgs, dir: &Path, programs: &Programs) -> Program {
    let mut store = std::ffi::OsString::from("sled:");
    store.push(dir.join("control"));
    Program {
        name: "control",
        layer: Layer::Control,
        port: args.grpc.port(),
        executable: programs.shardctl.clone(),
        arguments: vec!["serve".into(), "--store".into(), store, "--grpc".into(), args.grpc.to_string().into()],
        log_path: dir.join("control.log"),
        child: None,
    }
}

fn gateway(args: &StartArgs, dir: &Path, programs: &Programs) -> Program {
    Program {
        name: "gateway",
        layer: Layer::Gateway,
        port: args.listen.port(),
        executable: programs.gateway.clone(),
        arguments: vec![
            "--topology".into(),
            format!("http://{}", reachable(args.grpc)).into(),
            "--listen".into(),
            args.listen.to_string().into(),
            "--data".into(),
            dir.join("gateway").into(),
        ],
        log_path: dir.join("gateway.log"),
        child: None,
    }
}

/// Where a client of this machine reaches a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn gateway_ready(dsn: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + GATEWAY_READY_MAX;
    loop {
        let error = match tokio::time::timeout(CONNECT_MAX, answers(dsn)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => anyhow::Error::new(error),
            Err(elapsed) => anyhow::Error::new(elapsed),
        };
        if Instant::now() > deadline {
            return Err(error.context("the gateway does not serve"));
        }
        tokio::time::sleep(GATEWAY_POLL).await;
    }
}

/// Connects and runs a statement.
pub async fn answers(dsn: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::pin!(connection);
    tokio::select! {
        answer = client.simple_query("SELECT 1") => answer.map(drop),
        Err(error) = &mut connection => Err(error),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
