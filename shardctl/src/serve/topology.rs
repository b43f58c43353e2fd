//! The `Topology` service: what dashboards and tools read. No passwords.

use std::pin::Pin;
use std::sync::Arc;

use ringway_proto::v1;
use ringway_topology::convert::{topology_to_proto, Audience};
use ringway_topology::model::Topology;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::control::Control;

pub(super) struct TopologyService {
    control: Control,
}

impl TopologyService {
    pub(super) fn new(control: Control) -> TopologyService {
        TopologyService { control }
    }
}

fn snapshot(topology: &Topology) -> v1::TopologySnapshot {
    topology_to_proto(topology, Audience::Observer)
}

#[tonic::async_trait]
impl v1::topology_server::Topology for TopologyService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::TopologySnapshot, Status>> + Send>>;

    async fn get(&self, _: Request<v1::GetTopologyRequest>) -> Result<Response<v1::TopologySnapshot>, Status> {
        Ok(Response::new(snapshot(&self.control.topology())))
    }

    async fn watch(&self, _: Request<v1::WatchTopologyRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let topologies = WatchStream::new(self.control.subscribe());
        let snapshots = topologies.map(|topology: Arc<Topology>| Ok(snapshot(&topology)));
        Ok(Response::new(super::until_shutdown(&self.control, snapshots)))
    }
}
