//! `shardctl topology export|import` and `shardctl gateways`.

use std::process::ExitCode;

use anyhow::Context as _;
use ringway_proto::v1;
use serde_json::{json, Value};

use super::args::{JsonArgs, TopologyArgs, TopologyCommand};
use super::client::Client;
use super::output;
use crate::cli_call;

pub async fn run(client: &mut Client, args: TopologyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        TopologyCommand::Export => {
            println!("{}", cli_call!(client, export_topology, v1::ExportTopologyRequest {}).json);
        }
        TopologyCommand::Import { file } => {
            let json = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let answer = cli_call!(client, import_topology, v1::ImportTopologyRequest { json });
            println!("imported; the epoch is {}", answer.epoch);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn gateways(client: &mut Client, args: JsonArgs) -> anyhow::Result<ExitCode> {
    let answer = cli_call!(client, list_gateways, v1::ListGatewaysRequest {});
    if args.json {
        let list = answer.gateways.iter().map(|g| {
            json!({
                "gateway": g.gateway_id, "address": g.listen_address, "routed_epoch": g.routed_epoch,
                "drained_epoch": g.drained_epoch, "lease_live": g.lease_live,
            })
        });
        output::json(&Value::Array(list.collect()));
    } else {
        let rows: Vec<Vec<String>> = answer
            .gateways
            .iter()
            .map(|g| {
                let lease = if g.lease_live { "live" } else { "run out" };
                vec![
                    format!("{:016x}", g.gateway_id),
                    g.listen_address.clone(),
                    lease.to_string(),
                    g.routed_epoch.to_string(),
                    g.drained_epoch.to_string(),
                ]
            })
            .collect();
        output::table(&["gateway", "address", "lease", "routed", "drained"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
