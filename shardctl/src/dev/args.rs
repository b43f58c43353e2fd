//! The options of `shardctl dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::cluster;
use super::console;
use super::detach;
use super::spare;
use super::stop;

/// Start a local cluster of real PostgreSQL servers, the control plane and a gateway
///
/// Runs until it is interrupted, and starts any part that dies again. A directory that an earlier
/// cluster used is started with its data.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(flatten)]
    pub start: StartArgs,
    #[command(subcommand)]
    pub command: Option<DevCommand>,
}

#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Number of shards; each is a PostgreSQL server, named s1, s2, ...
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Streaming replicas per shard
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub replicas: u16,
    /// Directory of the cluster's data, logs and state; created if missing
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Address on which applications reach the gateway
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6432")]
    pub listen: SocketAddr,
    /// Address of the control plane
    #[arg(id = "dev_grpc", long = "grpc", value_name = "ADDR", default_value = "127.0.0.1:7432")]
    pub grpc: SocketAddr,
    /// Leave the cluster running in the background once it is ready
    #[arg(long)]
    pub detach: bool,
    /// This process is the one in the background
    #[arg(long, hide = true, conflicts_with = "detach")]
    pub background: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum DevCommand {
    /// Stop a cluster and wait for its end; nothing happens if none runs
    Stop(StopArgs),
    /// Start one more empty PostgreSQL and print its DSN on the last line, to split onto
    Spare(SpareArgs),
}

#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Directory of the cluster
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct SpareArgs {
    /// Directory of the cluster
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data: PathBuf,
    /// Print one JSON object: name, dsn
    #[arg(long)]
    pub json: bool,
}

/// Runs `shardctl dev` and its subcommands. Status 2: what was asked for does not exist yet.
pub async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(DevCommand::Stop(args)) => stop::run(&args).await,
        Some(DevCommand::Spare(args)) => spare::run(&args).await,
        None if args.start.replicas > 0 => {
            console::warn("error: --replicas: replicas are not available in local clusters yet; leave the option out");
            Ok(ExitCode::from(2))
        }
        None if args.start.detach => detach::run(&args.start).await,
        None => cluster::run(&args.start).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        dev: DevArgs,
    }

    #[test]
    fn options() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.dev);
        let start = parse("dev --shards 3 --data d --detach").unwrap().start;
        assert_eq!((start.shards, start.detach), (3, true));
        assert_eq!(start.listen.to_string(), "127.0.0.1:6432");
        assert_eq!(start.grpc.to_string(), "127.0.0.1:7432");
        let spare = parse("dev spare --data d --json").unwrap();
        assert!(matches!(spare.command, Some(DevCommand::Spare(args)) if args.json));
        assert!(parse("dev --shards 2 stop --data d").is_err());
        assert!(parse("dev --shards 0").is_err());
    }

    #[tokio::test]
    async fn replicas_are_refused() {
        let args = Cli::try_parse_from(["dev", "--replicas", "1"]).unwrap().dev;
        assert_eq!(run(args).await.unwrap(), ExitCode::from(2));
    }
}
