//! `ringway-gateway`: options, tasks, signals.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use ringway_gateway::config::{Config, Options};
use ringway_gateway::exec::faults::FaultPoint;
use ringway_gateway::exec::forget;
use ringway_gateway::exec::gateway::Gateway;
use ringway_gateway::exec::listen;
use ringway_gateway::exec::reload;
use ringway_gateway::link;
use ringway_gateway::server::threads::Threads;
use ringway_gateway::server::{listen, serve, Server};
use ringway_gateway::sql::depth::STACK_BYTES;
use ringway_topology::ids::GatewayId;
use tokio::signal::unix::{signal, SignalKind};
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
    let threads = Threads::start(config.threads).context("cannot start the threads that serve clients")?;
    // Accepts, and follows the control plane.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().thread_stack_size(STACK_BYTES).build()?;
    runtime.block_on(run(config, &threads))
}

async fn run(config: Config, threads: &Threads) -> anyhow::Result<()> {
    let users = reload::users(&config)?;
    let listener = listen(config.listen, config.reuse_port)
        .with_context(|| format!("cannot listen on {}: is another gateway running there?", config.listen))?;
    let id = GatewayId(rand::random());
    let link_token = CancellationToken::new();
    let source = link::Source::start(&config, id, link_token.clone())?;
    let (forget_sender, forget_receiver) = tokio::sync::mpsc::channel(config.limits.decided_backlog_max);
    let control_plane = source.control_plane(&config);
    let address = config.listen;
    let gateway = Arc::new(Gateway::new(config, id, control_plane, forget_sender));
    gateway.tasks.spawn(link::follow(Arc::clone(&gateway), source, link_token.clone()));
    gateway.tasks.spawn(listen::watch_lease(Arc::clone(&gateway), link_token.clone()));
    gateway.tasks.spawn(forget::run(Arc::clone(&gateway), forget_receiver, link_token.clone()));

    gateway.users.store(users);
    let server = Arc::new(Server::new(Arc::clone(&gateway))?);
    let signals = signals(&gateway, &server)?;
    tracing::info!(listen = %address, gateway = id.0, "serving");
    tokio::select! {
        () = serve(server, listener, threads) => {}
        () = signals => {}
    }
    link_token.cancel();
    gateway.tasks.close();
    let _within_bounds = tokio::time::timeout(std::time::Duration::from_secs(5), gateway.tasks.wait()).await;
    Ok(())
}

/// SIGTERM and SIGINT drain; a second one, and SIGQUIT, end every client at once. SIGHUP reads the configuration again, and like
/// RELOAD the certificates. The future has no end.
fn signals(gateway: &Arc<Gateway>, server: &Arc<Server>) -> std::io::Result<impl std::future::Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (gateway, server) = (Arc::clone(gateway), Arc::clone(server));
    Ok(async move {
        loop {
            let at_once = tokio::select! {
                _ = terminate.recv() => gateway.shutdown.is_cancelled(),
                _ = interrupt.recv() => gateway.shutdown.is_cancelled(),
                _ = quit.recv() => true,
                _ = hangup.recv() => {
                    if let Err(error) = reload::reload(&gateway).await {
                        tracing::error!(%error, "the configuration stays as it is");
                        read_certificates(&server).await;
                    }
                    continue;
                }
                () = gateway.reloaded.notified() => {
                    read_certificates(&server).await;
                    continue;
                }
            };
            tracing::info!(at_once, "stopping");
            gateway.closing.cancel();
            gateway.shut_down();
            if at_once {
                gateway.end_clients();
            }
        }
    })
}

/// Renewed certificates count for connections that come from now on.
async fn read_certificates(server: &Arc<Server>) {
    if server.gateway.config.tls.is_none() {
        return;
    }
    let reading = Arc::clone(server);
    match tokio::task::spawn_blocking(move || reading.read_tls()).await {
        Ok(Ok(())) => tracing::info!("the TLS files have been read again"),
        Ok(Err(error)) => tracing::error!(%error, "the TLS files cannot be used: what was read before still counts"),
        Err(error) => tracing::error!(%error, "the TLS files could not be read"),
    }
}
