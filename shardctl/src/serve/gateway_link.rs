//! The `GatewayLink` service: one stream per gateway.
//!
//! A topology always goes out before a lease that is renewed after it: a gateway with a lease has been told everything.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway_proto::v1;
use ringway_proto::v1::control_message::Message as FromControl;
use ringway_proto::v1::gateway_message::Message as FromGateway;
use ringway_topology::client::{Acknowledgement, GatewayStatistics};
use ringway_topology::convert::{topology_to_proto, Audience};
use ringway_topology::ids::GatewayId;
use ringway_topology::model::Topology;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::control::{Control, GatewaySession, LEASE};
use crate::tables;

/// Messages that a gateway has not read; beyond them it is cut off.
const OUTGOING_MESSAGES_MAX: usize = 64;
const REGISTER_MAX: Duration = Duration::from_secs(5);
const CATALOG_WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) struct GatewayLinkService {
    control: Control,
    secret: Option<String>,
}

impl GatewayLinkService {
    pub(super) fn new(control: Control, secret: Option<String>) -> GatewayLinkService {
        GatewayLinkService { control, secret }
    }

    fn check_secret<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let presented = request.metadata().get("ringway-secret").map(|value| value.as_bytes());
        if presented == Some(secret.as_bytes()) {
            return Ok(());
        }
        Err(Status::unauthenticated("this control plane asks gateways for its secret (RINGWAY_SECRET)"))
    }
}

#[tonic::async_trait]
impl v1::gateway_link_server::GatewayLink for GatewayLinkService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ControlMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::GatewayMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        self.check_secret(&request)?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(REGISTER_MAX, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("a gateway registers first"))??;
        let Some(v1::GatewayMessage { message: Some(FromGateway::Register(register)) }) = first else {
            return Err(Status::invalid_argument("a gateway registers first"));
        };
        let (outgoing, messages) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        let gateway = GatewayId(register.gateway_id);
        let session = self.control.register_gateway(gateway, register.listen_address.clone()).await?;
        tracing::info!(gateway = gateway.0, at = %register.listen_address, version = %register.version, "gateway attached");
        let link = Link { control: self.control.clone(), topology: self.control.subscribe(), session, outgoing };
        let control = self.control.clone();
        drop(self.control.spawn(async move {
            let reason = link.run(incoming).await;
            tracing::info!(gateway = gateway.0, reason, "gateway detached");
            control.gateway_detached(session).await;
        }));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn catalog_changed(
        &self,
        request: Request<v1::CatalogChangedRequest>,
    ) -> Result<Response<v1::CatalogChangedResponse>, Status> {
        self.check_secret(&request)?;
        let request = request.into_inner();
        let topology = tables::catalog_changed(&self.control).await?;
        let deadline = Instant::now() + Duration::from_millis(request.wait_ms).min(CATALOG_WAIT_MAX);
        let gateways = self.control.gateways();
        let waited =
            gateways.wait_change_routed_by_others(GatewayId(request.gateway_id), topology.epoch, deadline).await;
        if let Err(error) = waited {
            tracing::warn!(%error, "a schema change is not known everywhere yet");
        } else {
            // The asking gateway learns the epoch meanwhile. What is not done in time, the watch does.
            let freed = tokio::time::timeout_at(deadline.into(), tables::free_names(&self.control));
            if let Ok(Err(error)) = freed.await {
                tracing::debug!(%error, "names of dropped tables are freed later");
            }
        }
        Ok(Response::new(v1::CatalogChangedResponse { epoch: topology.epoch.0 }))
    }
}

struct Link {
    control: Control,
    topology: watch::Receiver<Arc<Topology>>,
    session: GatewaySession,
    outgoing: mpsc::Sender<Result<v1::ControlMessage, Status>>,
}

impl Link {
    /// Until the stream ends; says why.
    async fn run(mut self, mut incoming: Streaming<v1::GatewayMessage>) -> &'static str {
        let welcome = v1::Welcome {
            cluster_secret: self.topology.borrow().secret.clone(),
            lease_milliseconds: LEASE.as_millis() as u64,
        };
        if !self.send(FromControl::Welcome(welcome)) || !self.send_topology() {
            return "it does not read";
        }
        loop {
            tokio::select! {
                biased;
                changed = self.topology.changed() => {
                    if changed.is_err() {
                        return "shutting down";
                    }
                    if !self.send_topology() {
                        return "it does not read";
                    }
                }
                message = incoming.message() => match message {
                    Ok(Some(v1::GatewayMessage { message: Some(message) })) => {
                        if let Err(reason) = self.receive(message) {
                            return reason;
                        }
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return "it ended the stream",
                    Err(_) => return "the connection was lost",
                },
                () = self.outgoing.closed() => return "the connection was lost",
            }
        }
    }

    fn receive(&mut self, message: FromGateway) -> Result<(), &'static str> {
        match message {
            FromGateway::Register(_) => return Err("it registered twice"),
            FromGateway::Heartbeat(heartbeat) => {
                if self.topology.has_changed().unwrap_or(false) && !self.send_topology() {
                    return Err("it does not read");
                }
                if !self.control.gateways().renew(self.session) {
                    return Err("it has attached anew");
                }
                let renewed =
                    v1::LeaseRenewed { sequence: heartbeat.sequence, lease_milliseconds: LEASE.as_millis() as u64 };
                if !self.send(FromControl::LeaseRenewed(renewed)) {
                    return Err("it does not read");
                }
            }
            FromGateway::Acknowledge(said) => {
                self.control.gateways().acknowledge(self.session, Acknowledgement::from(&said));
            }
            FromGateway::Statistics(statistics) => {
                self.control.gateways().report(self.session, GatewayStatistics::from(&statistics));
            }
        }
        Ok(())
    }

    fn send_topology(&mut self) -> bool {
        let topology = Arc::clone(&self.topology.borrow_and_update());
        self.send(FromControl::Topology(topology_to_proto(&topology, Audience::Gateway)))
    }

    /// Never waits.
    fn send(&self, message: FromControl) -> bool {
        self.outgoing.try_send(Ok(v1::ControlMessage { message: Some(message) })).is_ok()
    }
}
