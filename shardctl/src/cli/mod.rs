//! The command line: a thin client of the gRPC interface. Everything it does can be automated by the same calls.
//!
//! Exit status: 0 only when the thing asked for is done, 1 when it failed, 2 when the command cannot be carried out as written.

pub mod args;
mod client;
mod moves;
mod output;
mod progress;
mod ring;
mod shards;
mod tables;
mod topology;
mod verify;

use std::process::ExitCode;

use args::{Cli, Command};

/// Exit status of a command that is wrong, or asks for what is not offered yet.
pub const EXIT_USAGE: u8 = 2;

/// Runs everything but `serve` and `dev`, which are not clients.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut client = client::Client::new(&cli.grpc)?;
    match cli.command {
        Command::Serve(_) | Command::Dev(_) => anyhow::bail!("serve and dev are not client commands"),
        Command::Shard(args) => shards::run(&mut client, args).await,
        Command::Table(args) => tables::run(&mut client, args).await,
        Command::Ring(args) => ring::run(&mut client, args).await,
        Command::Split(args) => moves::split(&mut client, args).await,
        Command::Move(args) => moves::run(&mut client, args).await,
        Command::Moves(args) => moves::list(&mut client, args).await,
        Command::Verify(args) => verify::verify(&mut client, args).await,
        Command::Transactions(args) => verify::transactions(&mut client, args).await,
        Command::Gateways(args) => topology::gateways(&mut client, args).await,
        Command::Topology(args) => topology::run(&mut client, args).await,
    }
}
