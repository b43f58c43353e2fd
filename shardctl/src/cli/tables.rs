//! `shardctl table shard|reference|undistribute|list`.

use std::process::ExitCode;

use ringway_proto::v1;
use serde_json::{json, Value};

use super::args::{TableArgs, TableCommand};
use super::client::Client;
use super::output;
use crate::cli_call;

pub async fn run(client: &mut Client, args: TableArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        TableCommand::Shard { table, key, keyspace, colocate_with, allow_local_unique, json } => {
            let request = v1::ShardTableRequest {
                table: table.clone(),
                key_column: key.clone(),
                keyspace: keyspace.unwrap_or_default(),
                colocate_with: colocate_with.unwrap_or_default(),
                allow_local_unique,
            };
            let answer = cli_call!(client, shard_table, request);
            output::warnings(&answer.warnings);
            if json {
                output::json(
                    &json!({ "table": table, "key": key, "epoch": answer.epoch, "rows_moved": answer.rows_moved }),
                );
            } else {
                println!("table {table} is sharded by {key}; {} rows went to other shards", answer.rows_moved);
            }
        }
        TableCommand::Reference { table, json } => {
            let answer = cli_call!(client, reference_table_create, v1::ReferenceTableRequest { table: table.clone() });
            output::warnings(&answer.warnings);
            if json {
                output::json(&json!({ "table": table, "epoch": answer.epoch, "rows_copied": answer.rows_copied }));
            } else {
                println!("table {table} has a copy on every shard; {} rows were copied", answer.rows_copied);
            }
        }
        TableCommand::Undistribute { table, json } => {
            let answer = cli_call!(client, undistribute_table, v1::UndistributeTableRequest { table: table.clone() });
            if json {
                output::json(&json!({ "table": table, "epoch": answer.epoch, "rows_moved": answer.rows_moved }));
            } else {
                println!(
                    "table {table} is single, on the first shard; {} rows came from other shards",
                    answer.rows_moved
                );
            }
        }
        TableCommand::List(args) => {
            let topology = client.topology().await?;
            if args.json {
                output::json(&Value::Array(topology.tables.iter().map(|table| table_json(&topology, table)).collect()));
            } else {
                let rows: Vec<Vec<String>> = topology.tables.iter().map(|table| cells(&topology, table)).collect();
                output::table(&["table", "kind", "key", "type", "keyspace"], &rows);
                println!("Every other table is single, on the first shard.");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keyspace_name(topology: &v1::TopologySnapshot, id: u32) -> String {
    topology.keyspaces.iter().find(|k| k.id == id).map_or_else(|| id.to_string(), |k| k.name.clone())
}

fn cells(topology: &v1::TopologySnapshot, table: &v1::Table) -> Vec<String> {
    let name = format!("{}.{}", table.schema, table.name);
    match &table.kind {
        Some(v1::table::Kind::Sharded(s)) => {
            vec![name, "sharded".into(), s.key_column.clone(), s.key_type.clone(), keyspace_name(topology, s.keyspace)]
        }
        _ => vec![name, "reference".into(), String::new(), String::new(), String::new()],
    }
}

fn table_json(topology: &v1::TopologySnapshot, table: &v1::Table) -> Value {
    match &table.kind {
        Some(v1::table::Kind::Sharded(s)) => json!({
            "schema": table.schema, "name": table.name, "kind": "sharded", "key": s.key_column, "type": s.key_type,
            "keyspace": keyspace_name(topology, s.keyspace), "changing": table.changing,
        }),
        _ => json!({ "schema": table.schema, "name": table.name, "kind": "reference", "changing": table.changing }),
    }
}
