//! Against a control plane that a test plays.

use std::pin::Pin;
use std::time::Instant;

use ringway_proto::v1::control_message::Message as FromControl;
use ringway_proto::v1::gateway_link_server::{GatewayLink, GatewayLinkServer};
use ringway_proto::v1::gateway_message::Message as FromGateway;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::convert::{topology_to_proto, Audience};

const WAIT_MAX: Duration = Duration::from_secs(10);

type ToGateway = mpsc::Sender<Result<v1::ControlMessage, Status>>;

/// Hands each gateway's stream to the test.
struct Played {
    attached: mpsc::Sender<(Streaming<v1::GatewayMessage>, ToGateway)>,
}

#[tonic::async_trait]
impl GatewayLink for Played {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::ControlMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::GatewayMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outgoing, messages) = mpsc::channel(16);
        self.attached.send((request.into_inner(), outgoing)).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn catalog_changed(
        &self,
        _: Request<v1::CatalogChangedRequest>,
    ) -> Result<Response<v1::CatalogChangedResponse>, Status> {
        Ok(Response::new(v1::CatalogChangedResponse { epoch: 99 }))
    }
}

struct Session {
    incoming: Streaming<v1::GatewayMessage>,
    outgoing: ToGateway,
}

impl Session {
    async fn next(&mut self) -> FromGateway {
        let message = tokio::time::timeout(WAIT_MAX, self.incoming.message()).await.unwrap();
        message.unwrap().unwrap().message.unwrap()
    }

    async fn send(&self, message: FromControl) {
        self.outgoing.send(Ok(v1::ControlMessage { message: Some(message) })).await.unwrap();
    }

    /// Takes the registration and sends a topology of this epoch.
    async fn greet(&mut self, epoch: u64) {
        assert!(matches!(self.next().await, FromGateway::Register(register) if register.gateway_id == 7));
        let welcome = v1::Welcome { cluster_secret: "secret".into(), lease_milliseconds: 3000 };
        self.send(FromControl::Welcome(welcome)).await;
        self.send_topology(epoch).await;
    }

    async fn send_topology(&self, epoch: u64) {
        let mut topology = Topology::empty("cluster".into(), String::new());
        topology.epoch = Epoch(epoch);
        self.send(FromControl::Topology(topology_to_proto(&topology, Audience::Gateway))).await;
    }
}

struct Bench {
    attached: mpsc::Receiver<(Streaming<v1::GatewayMessage>, ToGateway)>,
    config: ClientConfig,
    token: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let (attached, receiver) = mpsc::channel(4);
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = GatewayLinkServer::new(Played { attached });
        let serving = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.unwrap() });
        let directory = tempfile::tempdir().unwrap();
        let config = ClientConfig {
            endpoint: format!("http://{address}"),
            gateway_id: GatewayId(7),
            listen_address: "here".into(),
            version: "test".into(),
            snapshot_dir: directory.path().to_owned(),
            access_secret: None,
        };
        Bench { attached: receiver, config, token: CancellationToken::new(), server, _directory: directory }
    }

    async fn session(&mut self) -> Session {
        let (incoming, outgoing) = tokio::time::timeout(WAIT_MAX, self.attached.recv()).await.unwrap().unwrap();
        Session { incoming, outgoing }
    }
}

fn acknowledgement(routed: u64, drained: u64) -> Acknowledgement {
    Acknowledgement { routed: Epoch(routed), drained: Epoch(drained), used: Epoch(routed), pending: Vec::new() }
}

async fn reach(client: &TopologyClient, epoch: u64) {
    let mut topology = client.topology();
    let reached = topology.wait_for(|known| known.as_ref().is_some_and(|known| known.epoch.0 >= epoch));
    tokio::time::timeout(WAIT_MAX, reached).await.unwrap().unwrap();
}

#[tokio::test]
async fn follows_acknowledges_and_comes_back() {
    let mut bench = Bench::new().await;
    let client = TopologyClient::start(bench.config.clone(), bench.token.clone()).unwrap();
    assert!(client.current().is_none() && !client.lease().is_live());

    let before = Instant::now();
    let mut session = bench.session().await;
    session.greet(5).await;
    reach(&client, 5).await;
    assert_eq!(client.secret().as_deref(), Some("secret"));
    client.ack(acknowledgement(3, 3));
    assert!(!client.lease().is_live(), "statements do not use what has come yet");
    client.ack(acknowledgement(5, 4));
    client.ack(acknowledgement(3, 3));
    let mut beat = None;
    loop {
        match session.next().await {
            FromGateway::Acknowledge(said) if said.routed_epoch == 5 => break assert_eq!(said.drained_epoch, 4),
            FromGateway::Heartbeat(heartbeat) => beat = Some(heartbeat.sequence),
            _ => {}
        }
    }
    assert!(client.lease().is_live());
    assert!(client.lease().lease().valid_until >= before + Duration::from_millis(2500));
    let sequence = match beat {
        Some(sequence) => sequence,
        None => loop {
            if let FromGateway::Heartbeat(heartbeat) = session.next().await {
                break heartbeat.sequence;
            }
        },
    };
    let valid_until = client.lease().lease().valid_until;
    session.send(FromControl::LeaseRenewed(v1::LeaseRenewed { sequence, lease_milliseconds: 60_000 })).await;
    session.send_topology(6).await;
    reach(&client, 6).await;
    assert!(client.lease().lease().valid_until > valid_until + Duration::from_secs(30), "runs from the sending");
    assert_eq!(client.catalog_changed(Duration::from_secs(1)).await.unwrap(), Epoch(99));

    drop(session);
    let mut session = bench.session().await;
    session.greet(4).await;
    // What it said before is said again to the control plane that may have forgotten it.
    loop {
        if let FromGateway::Acknowledge(said) = session.next().await {
            break assert_eq!(said.routed_epoch, 5);
        }
    }
    assert_eq!(client.current().unwrap().epoch, Epoch(6), "epochs only grow");
    bench.token.cancel();
    client.stopped().await;
}

#[tokio::test]
async fn starts_from_the_cache_without_a_lease() {
    let mut bench = Bench::new().await;
    let client = TopologyClient::start(bench.config.clone(), bench.token.clone()).unwrap();
    bench.session().await.greet(8).await;
    reach(&client, 8).await;
    bench.token.cancel();
    client.stopped().await;
    drop(client);
    bench.server.abort();

    let token = CancellationToken::new();
    let client = TopologyClient::start(bench.config.clone(), token.clone()).unwrap();
    let known = client.current().unwrap();
    assert_eq!((known.epoch, known.secret.as_str()), (Epoch(8), "secret"));
    assert!(!client.lease().is_live(), "a cached topology comes without a lease");
    token.cancel();
    client.stopped().await;
}
