//! `make grammar`: how many of the queries and writes of psql scripts, that PostgreSQL's grammar accepts, the gateway parses.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{ensure, Context as _, Result};
use ringway_gateway::sql::depth::STACK_BYTES;
use ringway_gateway::sql::parse::{parse, Text};
use ringway_tests::cluster::single_postgres;
use ringway_tests::grammar::meaning::Server;
use ringway_tests::grammar::script::queries;

/// What is to be reached, in hundredths of a percent.
const PARSED_MIN: usize = 9_950;
/// Statements shown of each cause.
const SHOWN_MAX: usize = 3;

fn main() -> ExitCode {
    // Parsing is recursive.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(measure(&std::env::args().skip(1).collect::<Vec<_>>()))
    });
    match thread.map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(true))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    }
}

async fn measure(files: &[String]) -> Result<bool> {
    ensure!(!files.is_empty(), "name the scripts to read");
    let postgres = single_postgres().await?;
    let mut server = Server::connect(postgres.port(), "postgres").await?;
    let mut accepted = 0usize;
    let mut parsed = 0usize;
    let mut causes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| file.clone())?;
        for statement in queries(&String::from_utf8_lossy(&bytes)) {
            let error = match Text::new(&statement) {
                Ok(text) => parse(&text).err().map(|error| error.message),
                Err(error) => Some(error.message.to_owned()),
            };
            let Some(error) = error else {
                // What PostgreSQL does not accept counts neither way; asked only where it matters.
                let wrong = is_syntax_error(&server.meaning(&statement).await?);
                accepted += usize::from(!wrong);
                parsed += usize::from(!wrong);
                continue;
            };
            if !is_syntax_error(&server.meaning(&statement).await?) {
                accepted += 1;
                causes.entry(error).or_default().push(statement);
            }
        }
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, statements)| std::cmp::Reverse(statements.len()));
    for (cause, statements) in &causes {
        println!("{} {cause}", statements.len());
        for statement in statements.iter().take(SHOWN_MAX) {
            println!("    {}", statement.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let share = parsed * 10_000 / accepted.max(1);
    println!("{parsed} of {accepted} statements that PostgreSQL accepts: {}.{:02} %", share / 100, share % 100);
    Ok(share >= PARSED_MIN)
}

/// PostgreSQL's grammar says no; what is wrong with names and types does not count.
fn is_syntax_error(meaning: &Result<String, (String, String)>) -> bool {
    matches!(meaning, Err((code, message)) if code == "42601" && message.starts_with("syntax error at"))
}
