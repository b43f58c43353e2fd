//! `shardctl shard add|list|remove`.

use std::process::ExitCode;

use ringway_proto::v1;
use serde_json::{json, Value};

use super::args::{ShardArgs, ShardCommand};
use super::client::Client;
use super::output;
use crate::cli_call;

pub async fn run(client: &mut Client, args: ShardArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ShardCommand::Add { name, dsn, replica, json } => {
            let answer = cli_call!(client, add_shard, v1::AddShardRequest { name, dsn, replica_dsns: replica });
            output::warnings(&answer.warnings);
            let shard = answer.shard.unwrap_or_default();
            if json {
                output::json(&shard_json(&shard));
            } else {
                println!("shard {} is number {}", shard.name, shard.number);
            }
        }
        ShardCommand::List(args) => {
            let topology = client.topology().await?;
            if args.json {
                output::json(&Value::Array(topology.shards.iter().map(shard_json).collect()));
            } else {
                let rows: Vec<Vec<String>> = topology
                    .shards
                    .iter()
                    .map(|s| vec![s.name.clone(), s.number.to_string(), state(s).to_string(), s.dsn.clone()])
                    .collect();
                output::table(&["shard", "number", "state", "dsn"], &rows);
            }
        }
        ShardCommand::Remove { name } => {
            cli_call!(client, remove_shard, v1::RemoveShardRequest { name: name.clone() });
            println!("shard {name} is no longer part of the cluster; its database is left as it is");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn state(shard: &v1::Shard) -> &'static str {
    match shard.state() {
        v1::ShardState::Joining => "joining",
        v1::ShardState::Member => "member",
        v1::ShardState::Unspecified => "unknown",
    }
}

fn shard_json(shard: &v1::Shard) -> Value {
    json!({ "name": shard.name, "number": shard.number, "state": state(shard), "dsn": shard.dsn })
}
