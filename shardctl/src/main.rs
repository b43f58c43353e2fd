//! `shardctl`: the control plane and its command line.

use std::process::ExitCode;

use clap::Parser as _;
use shardctl::cli::args::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => shardctl::serve::run(args).await,
        Command::Dev(args) => shardctl::dev::run(args).await,
        _ => shardctl::cli::run(cli).await,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
