//! `shardctl split`, `shardctl move ...` and `shardctl moves`.

use std::process::ExitCode;

use anyhow::{bail, Context as _};
use ringway_proto::v1::{self, start_move_request::What, MoveStatus};
use ringway_topology::ring::TokenArc;
use serde_json::{json, Value};

use super::args::{MoveArgs, MoveCommand, MoveIdArgs, MoveOptions, MovesArgs, SplitArgs};
use super::client::Client;
use super::progress::{self, phase};
use super::{output, EXIT_USAGE};
use crate::cli_call;

/// One move after the other: each new shard gets an equal share.
pub async fn split(client: &mut Client, args: SplitArgs) -> anyhow::Result<ExitCode> {
    let mut targets = Vec::new();
    for target in &args.into {
        let Some((name, dsn)) = target.split_once('=') else {
            bail!("--into {target}: write it as NAME=DSN, for example s3=postgresql://ringway_service@db3:5432/app");
        };
        targets.push((name.to_string(), dsn.to_string()));
    }
    let options = &args.options;
    let window = humantime::format_duration(options.rollback_window);
    eprintln!(
        "splitting {}; rollback window {window}{}",
        args.shard,
        if options.manual { ", step by step" } else { "" }
    );
    let several = targets.len() > 1;
    for (index, (name, dsn)) in targets.iter().enumerate() {
        let request = v1::StartMoveRequest {
            source: args.shard.clone(),
            target: name.clone(),
            target_dsn: dsn.clone(),
            keyspace: args.keyspace.clone().unwrap_or_default(),
            // Of what is left, so that all end with the same share.
            what: Some(What::Fraction(1.0 / (targets.len() - index + 1) as f64)),
            manual: options.manual,
            rollback_window_ms: options.rollback_window.as_millis() as u64,
            kind: "split".into(),
            rate_limit_bytes_per_second: options.rate_limit.unwrap_or(0),
        };
        let started = cli_call!(client, start_move, request);
        let code = follow(client, &started, options, !several).await?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        if several && options.manual && index + 1 < targets.len() {
            eprintln!("the next part starts when this one is complete: run the split again with the remaining shards");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn run(client: &mut Client, args: MoveArgs) -> anyhow::Result<ExitCode> {
    if let Some(command) = args.command {
        return steer(client, command).await;
    }
    let (Some(source), Some(target)) = (args.from, args.to) else {
        eprintln!("error: a move needs --from and --to; \"shardctl move --help\" shows examples");
        return Ok(ExitCode::from(EXIT_USAGE));
    };
    let what = match (args.key, args.arc, args.fraction, args.all) {
        (Some(key), ..) => What::Key(key),
        (_, Some(arc), ..) => {
            let arc: TokenArc = arc.parse().with_context(|| format!("--arc {arc}"))?;
            What::Arc(v1::TokenArc { after: arc.after, through: arc.through })
        }
        (_, _, Some(fraction), _) => What::Fraction(fraction),
        (.., true) => What::All(true),
        _ => {
            eprintln!("error: say what to move: --key VALUE, --arc LO..HI, --fraction F or --all");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let request = v1::StartMoveRequest {
        source,
        target,
        target_dsn: String::new(),
        keyspace: args.keyspace.unwrap_or_default(),
        what: Some(what),
        manual: args.options.manual,
        rollback_window_ms: args.options.rollback_window.as_millis() as u64,
        kind: "move".into(),
        rate_limit_bytes_per_second: args.options.rate_limit.unwrap_or(0),
    };
    let started = cli_call!(client, start_move, request);
    follow(client, &started, &args.options, true).await
}

/// Shows progress to the end, or to where `--manual` stops.
async fn follow(
    client: &mut Client,
    started: &MoveStatus,
    options: &MoveOptions,
    completes: bool,
) -> anyhow::Result<ExitCode> {
    let id = started.r#move.as_ref().map(|m| m.id).context("the control plane named no move")?;
    let stop_at: &[&str] = if options.manual { &["ready", "switched"] } else { &[] };
    let status = progress::follow(client, id, stop_at).await?;
    if options.json {
        output::json(&status_json(&status));
    }
    Ok(match phase(&status) {
        "done" => ExitCode::SUCCESS,
        "ready" | "switched" if options.manual => {
            let next = if phase(&status) == "ready" {
                format!("\"shardctl move cutover {id}\", or \"shardctl move cancel {id}\"")
            } else {
                format!("\"shardctl move complete {id}\", or \"shardctl move rollback {id}\"")
            };
            eprintln!("move {id} is {}; go on with {next}", phase(&status));
            let _ = completes;
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("move {id} ended as {other}: {}", status.degraded);
            ExitCode::FAILURE
        }
    })
}

async fn steer(client: &mut Client, command: MoveCommand) -> anyhow::Result<ExitCode> {
    let request = |args: &MoveIdArgs| v1::MoveRequest { id: args.id };
    let (args, status, wait_for): (MoveIdArgs, MoveStatus, &[&str]) = match command {
        MoveCommand::Show(args) => {
            let status = cli_call!(client, get_move, request(&args));
            (args, status, &[])
        }
        MoveCommand::Watch(args) => {
            let status = progress::follow(client, args.id, &[]).await?;
            print_status(&args, &status);
            return Ok(if phase(&status) == "done" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        MoveCommand::Pause(args) => {
            let status = cli_call!(client, pause_move, request(&args));
            (args, status, &[])
        }
        MoveCommand::Resume(args) => {
            let status = cli_call!(client, resume_move, request(&args));
            (args, status, &[])
        }
        MoveCommand::Cutover(args) => {
            let status = cli_call!(client, cut_over_move, request(&args));
            (args, status, &["switched", "completing", "done"])
        }
        MoveCommand::Rollback(args) => {
            let status = cli_call!(client, roll_back_move, request(&args));
            (args, status, &["ready"])
        }
        MoveCommand::Complete(args) => {
            let status = cli_call!(client, complete_move, request(&args));
            (args, status, &["done"])
        }
        MoveCommand::Cancel(args) => {
            let status = cli_call!(client, cancel_move, request(&args));
            (args, status, &["cancelled"])
        }
    };
    if wait_for.is_empty() {
        print_status(&args, &status);
        return Ok(ExitCode::SUCCESS);
    }
    let status = progress::follow(client, args.id, wait_for).await?;
    print_status(&args, &status);
    Ok(if wait_for.contains(&phase(&status)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub async fn list(client: &mut Client, args: MovesArgs) -> anyhow::Result<ExitCode> {
    let answer = cli_call!(client, list_moves, v1::ListMovesRequest { all: args.all });
    if args.json {
        output::json(&Value::Array(answer.moves.iter().map(status_json).collect()));
    } else {
        let rows: Vec<Vec<String>> = answer
            .moves
            .iter()
            .map(|s| {
                let m = s.r#move.clone().unwrap_or_default();
                vec![
                    m.id.to_string(),
                    m.kind,
                    s.source_name.clone(),
                    s.target_name.clone(),
                    if s.paused { format!("{} (paused)", m.phase) } else { m.phase },
                    format!("{}/{}", s.rows_done, s.rows_estimated),
                    s.degraded.clone(),
                ]
            })
            .collect();
        output::table(&["id", "kind", "from", "to", "phase", "rows", "note"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(args: &MoveIdArgs, status: &MoveStatus) {
    if args.json {
        output::json(&status_json(status));
        return;
    }
    let m = status.r#move.clone().unwrap_or_default();
    println!(
        "move {}: {} of {} from {} to {}",
        m.id, m.kind, status.keyspace_name, status.source_name, status.target_name
    );
    println!("phase             {}{}", m.phase, if status.paused { " (paused)" } else { "" });
    println!("step              {}", status.step);
    if !status.degraded.is_empty() {
        println!("note              {}", status.degraded);
    }
    println!("arcs              {}", m.arcs.len());
    println!("rows              {} of about {}", status.rows_done, status.rows_estimated);
    println!(
        "copied            {:.1} MB in {:.1} s",
        status.bytes_done as f64 / 1e6,
        status.backfill_milliseconds as f64 / 1e3
    );
    println!(
        "double-written    {} transactions, {} left to the sweeper ({} rows swept, {} waiting)",
        status.mirrored_transactions, status.unmirrored_transactions, status.swept_rows, status.captured_backlog
    );
    if let Some(v) = &status.verification {
        println!(
            "verification      {}: {} rows in {} chunks, {} looked at again, {} rows repaired",
            if v.passed { "passed" } else { "not passed" },
            v.rows,
            v.chunks,
            v.chunks_looked_at_again,
            v.rows_repaired
        );
    }
    for cutover in &status.cutovers {
        println!(
            "{}  writes held for {:.1} ms",
            if cutover.reverse { "rolled back     " } else { "switched        " },
            cutover.released_unix_us.saturating_sub(cutover.held_from_unix_us) as f64 / 1e3
        );
    }
    println!(
        "held statements   {}, the longest {:.1} ms",
        status.held_statements,
        status.held_microseconds_max as f64 / 1e3
    );
    for table in &status.tables {
        println!(
            "  {:<30} {:>10} of about {:>10} rows, {:.1} MB{}{}",
            table.table,
            table.rows_done,
            table.rows_estimated,
            table.bytes_done as f64 / 1e6,
            if table.backfilled { ", copied" } else { "" },
            if table.verified { ", verified" } else { "" }
        );
    }
}

fn status_json(status: &MoveStatus) -> Value {
    let m = status.r#move.clone().unwrap_or_default();
    let v = status.verification.unwrap_or_default();
    json!({
        "id": m.id, "kind": m.kind, "keyspace": status.keyspace_name,
        "source": status.source_name, "target": status.target_name,
        "arcs": m.arcs.iter().map(|a| json!({ "after": a.after, "through": a.through })).collect::<Vec<_>>(),
        "phase": m.phase, "step": status.step, "manual": status.manual, "paused": status.paused, "note": status.degraded,
        "rows_done": status.rows_done, "rows_estimated": status.rows_estimated, "bytes_done": status.bytes_done,
        "rows_per_second": status.rows_per_second, "bytes_per_second": status.bytes_per_second,
        "seconds_left": status.seconds_left, "backfill_ms": status.backfill_milliseconds,
        "captured_backlog": status.captured_backlog, "swept_rows": status.swept_rows, "rows_deleted": status.rows_deleted,
        "mirrored_transactions": status.mirrored_transactions, "unmirrored_transactions": status.unmirrored_transactions,
        "held_statements": status.held_statements, "held_us_max": status.held_microseconds_max,
        "cutovers": status.cutovers.iter().map(|c| json!({
            "reverse": c.reverse, "held_from_unix_us": c.held_from_unix_us, "released_unix_us": c.released_unix_us,
        })).collect::<Vec<_>>(),
        "cutover_attempts_undone": status.cutover_attempts_undone,
        "verification": {
            "passed": v.passed, "rows": v.rows, "chunks": v.chunks, "chunks_looked_at_again": v.chunks_looked_at_again,
            "rows_repaired": v.rows_repaired,
        },
        "tables": status.tables.iter().map(|t| json!({
            "table": t.table, "rows_done": t.rows_done, "rows_estimated": t.rows_estimated, "bytes_done": t.bytes_done,
            "backfilled": t.backfilled, "verified": t.verified,
        })).collect::<Vec<_>>(),
        "started_at_unix_ms": status.started_at_unix_ms, "ended_at_unix_ms": status.ended_at_unix_ms,
    })
}
