//! `shardctl verify` and `shardctl transactions`.

use std::process::ExitCode;

use ringway_proto::v1;
use serde_json::{json, Value};

use super::args::JsonArgs;
use super::client::Client;
use super::output;
use crate::cli_call;

pub async fn verify(client: &mut Client, args: JsonArgs) -> anyhow::Result<ExitCode> {
    let answer = cli_call!(client, verify, v1::VerifyRequest {});
    if args.json {
        output::json(&json!({
            "passed": answer.passed, "rows_checked": answer.rows_checked, "findings": answer.findings,
        }));
    } else {
        for finding in &answer.findings {
            println!("{finding}");
        }
        let verdict =
            if answer.passed { "everything is where the ring says" } else { "not everything is as it should be" };
        println!("{} rows checked: {verdict}", answer.rows_checked);
    }
    Ok(if answer.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub async fn transactions(client: &mut Client, args: JsonArgs) -> anyhow::Result<ExitCode> {
    let answer = cli_call!(client, list_transactions, v1::ListTransactionsRequest {});
    if args.json {
        let list = answer.transactions.iter().map(|t| {
            json!({
                "gid": t.gid, "shard": t.shard, "anchor": t.anchor_shard, "age_ms": t.age_milliseconds, "state": t.state,
            })
        });
        output::json(&Value::Array(list.collect()));
    } else {
        let rows: Vec<Vec<String>> = answer
            .transactions
            .iter()
            .map(|t| {
                let age = format!("{:.1} s", t.age_milliseconds as f64 / 1000.0);
                vec![t.gid.clone(), t.shard.clone(), t.anchor_shard.clone(), age, t.state.clone()]
            })
            .collect();
        output::table(&["gid", "shard", "anchor", "age", "state"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
