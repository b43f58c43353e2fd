//! `ringway-gateway`: options, tasks, signals.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use ringway_gateway::config::{AuthMode, Config, Options};
use ringway_gateway::exec::faults::FaultPoint;
use ringway_gateway::exec::forget;
use ringway_gateway::exec::gateway::Gateway;
use ringway_gateway::link;
use ringway_gateway::server::users::Users;
use ringway_gateway::server::{serve, Server};
use ringway_gateway::sql::depth::STACK_BYTES;
use ringway_topology::ids::GatewayId;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio_util::sync::CancellationToken;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if options.list_fault_points {
        for point in FaultPoint::ALL {
            println!("{}", point.name());
        }
        return Ok(());
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let config = Config::load(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let users = match (&config.auth, &config.users) {
        (AuthMode::Scram | AuthMode::Cert, Some(path)) => Some(Users::read(path)?),
        _ => None,
    };
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}: is another gateway running there?", config.listen))?;
    let id = GatewayId(rand::random());
    let link_token = CancellationToken::new();
    let source = link::Source::start(&config, id, link_token.clone())?;
    let (forget_sender, forget_receiver) = tokio::sync::mpsc::channel(config.limits.decided_backlog_max);
    let control_plane = source.control_plane(&config);
    let listen = config.listen;
    let gateway = Arc::new(Gateway::new(config, id, control_plane, forget_sender));
    gateway.tasks.spawn(link::follow(Arc::clone(&gateway), source, link_token.clone()));
    gateway.tasks.spawn(forget::run(Arc::clone(&gateway), forget_receiver, link_token.clone()));

    let has_tls = gateway.config.tls.is_some();
    let server = Arc::new(Server::new(Arc::clone(&gateway), users)?);
    if has_tls {
        gateway.tasks.spawn(follow_certificates(
            Arc::clone(&server),
            signal(SignalKind::hangup())?,
            link_token.clone(),
        ));
    }
    let serving = serve(server, listener, gateway.shutdown.clone());
    tracing::info!(%listen, gateway = id.0, "serving");
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = gateway.shutdown.clone();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    };
    tokio::join!(serving, stop);
    link_token.cancel();
    gateway.tasks.close();
    let _within_bounds = tokio::time::timeout(std::time::Duration::from_secs(5), gateway.tasks.wait()).await;
    Ok(())
}

/// Renewed certificates count from a SIGHUP on, without a break for anybody.
async fn follow_certificates(server: Arc<Server>, mut hangup: Signal, token: CancellationToken) {
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {}
            () = token.cancelled() => return,
        }
        let reading = Arc::clone(&server);
        match tokio::task::spawn_blocking(move || reading.read_tls()).await {
            Ok(Ok(())) => tracing::info!("the TLS files have been read again"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the TLS files cannot be used: what was read before still counts")
            }
            Err(error) => tracing::error!(%error, "the TLS files could not be read"),
        }
    }
}
