//! Connections to the control plane, and its errors in words.

use std::time::Duration;

use anyhow::{anyhow, Context as _};
use ringway_proto::v1;
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::topology_client::TopologyClient;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects with the first call.
pub struct Client {
    endpoint: String,
    pub operations: OperationsClient<Channel>,
    topology: TopologyClient<Channel>,
}

impl Client {
    pub fn new(endpoint: &str) -> anyhow::Result<Client> {
        // As the other commands take and print addresses.
        let endpoint = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
        let channel = Endpoint::from_shared(endpoint.clone())
            .with_context(|| format!("--grpc {endpoint}: write it as http://HOST:PORT"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Client {
            endpoint,
            operations: OperationsClient::new(channel.clone()).max_decoding_message_size(64 << 20),
            topology: TopologyClient::new(channel).max_decoding_message_size(64 << 20),
        })
    }

    pub async fn topology(&mut self) -> anyhow::Result<v1::TopologySnapshot> {
        let answer = self.topology.get(v1::GetTopologyRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.explain(&status))
    }

    /// A failed call, in words for the person at the terminal.
    pub fn explain(&self, status: &tonic::Status) -> anyhow::Error {
        match status.code() {
            tonic::Code::Unavailable if is_connect_failure(status) => anyhow!(
                "the control plane cannot be reached at {}; is \"shardctl serve\" running? (--grpc or RINGWAY_GRPC says where)",
                self.endpoint
            ),
            _ => anyhow!("{}", status.message()),
        }
    }
}

fn is_connect_failure(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// A call's answer, or its error in words; unimplemented things end with exit status 2.
#[macro_export]
#[doc(hidden)]
macro_rules! cli_call {
    ($client:expr, $method:ident, $request:expr) => {{
        let answer = $client.operations.$method($request).await;
        match answer {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                eprintln!("error: {}", status.message());
                return Ok(std::process::ExitCode::from($crate::cli::EXIT_USAGE));
            }
            Err(status) => return Err($client.explain(&status)),
        }
    }};
}
