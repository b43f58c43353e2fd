//! `shardctl serve`: the control plane as a process.
//!
//! Opens the store, finishes what a predecessor left, and offers gRPC: `Topology`, `GatewayLink`, `Operations`, with
//! reflection, health, and gRPC-web for browsers. The services only translate.

mod config;
mod gateway_link;
mod moves;
mod operations;
mod status;
mod topology;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ringway_proto::v1;
use ringway_proto::v1::gateway_link_server::GatewayLinkServer;
use ringway_proto::v1::operations_server::OperationsServer;
use ringway_proto::v1::topology_server::TopologyServer;
use ringway_topology::store::SledStore;
use tokio::signal::unix::{signal, SignalKind};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::Server;

use crate::cli::args::ServeArgs;
use crate::control::{Control, SHUTDOWN_GRACE};
use crate::moves::Engine;
use crate::{recovery, shards, tables};

use config::{Config, StoreUrl};

/// Largest request: an imported topology.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const HTTP2_PING_EVERY: Duration = Duration::from_secs(5);

/// Runs until SIGINT or SIGTERM. Status 2: what was asked for does not exist.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    if args.list_fault_points {
        for point in moves::fault_points() {
            println!("{point}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::resolve(args)?;
    let directory = match &config.store {
        StoreUrl::Sled(directory) => directory.clone(),
        StoreUrl::Etcd(_) => {
            eprintln!(
                "error: --store etcd://: the etcd store is not available yet; use --store sled:DIR (one control plane, \
                 which gateways survive the absence of)"
            );
            return Ok(ExitCode::from(2));
        }
    };
    start_logging();
    let token = CancellationToken::new();
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let store = tokio::task::spawn_blocking(move || SledStore::open(&directory)).await??;
    // Before anything is done: a second control plane on this address has no business on the shards.
    let incoming = TcpIncoming::bind(config.grpc)
        .with_context(|| format!("cannot listen on {} (--grpc); is another control plane running?", config.grpc))?
        .with_nodelay(Some(true));
    let control = Control::start(Arc::new(store), token.clone()).await?;
    let engine = moves::start(&control).await?;
    drop(control.spawn(begin(control.clone())));
    drop(control.spawn(recovery::run(control.clone())));
    drop(control.spawn(tables::watch(control.clone())));
    drop(control.spawn(end_on_signal(token.clone())));

    tracing::info!(grpc = %config.grpc, epoch = control.topology().epoch.0, "serving");
    let served = serve(&control, engine, config.secret, incoming);
    let grace = async {
        token.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    let outcome = tokio::select! {
        outcome = served => outcome,
        () = grace => Ok(()),
    };
    token.cancel();
    control.shut_down().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Finishes what was interrupted, before any operation that takes the same lock.
async fn begin(control: Control) {
    let _one = match control.lock_operations().await {
        Ok(guard) => guard,
        Err(error) => return tracing::error!(%error, "interrupted operations are not finished"),
    };
    shards::migrate_members(&control).await;
    tables::settle(&control).await;
    shards::fences::settle(&control).await;
}

async fn end_on_signal(token: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return tracing::error!("signals cannot be caught");
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("ending");
    token.cancel();
}

async fn serve(control: &Control, engine: Engine, secret: Option<String>, incoming: TcpIncoming) -> anyhow::Result<()> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<TopologyServer<topology::TopologyService>>().await;
    health_reporter.set_serving::<OperationsServer<operations::OperationsService>>().await;
    health_reporter.set_serving::<GatewayLinkServer<gateway_link::GatewayLinkService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let link = gateway_link::GatewayLinkService::new(control.clone(), secret);
    let operations = operations::OperationsService::new(control.clone(), engine);
    Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(HTTP2_PING_EVERY))
        .layer(tonic_web::GrpcWebLayer::new())
        .add_service(health)
        .add_service(reflection)
        .add_service(TopologyServer::new(topology::TopologyService::new(control.clone())))
        .add_service(GatewayLinkServer::new(link))
        .add_service(OperationsServer::new(operations).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming_shutdown(incoming, control.token().clone().cancelled_owned())
        .await
        .context("the gRPC server failed")
}

/// `RINGWAY_LOG` filters as `RUST_LOG` does elsewhere.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("RINGWAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second initialisation in one process (tests) is no error.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// A stream that ends with the control plane.
fn until_shutdown<S>(
    control: &Control,
    stream: S,
) -> std::pin::Pin<Box<dyn tokio_stream::Stream<Item = S::Item> + Send>>
where
    S: tokio_stream::Stream + Send + 'static,
{
    Box::pin(futures_util::StreamExt::take_until(stream, control.token().clone().cancelled_owned()))
}
