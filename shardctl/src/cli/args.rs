//! What can be typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::dev::DevArgs;

/// Operate a Ringway cluster: many PostgreSQL servers that look like one, split and moved online
///
/// A cluster is a control plane (shardctl serve), gateways that applications connect to (ringway-gateway), and shards, which are
/// plain PostgreSQL servers. To try one: shardctl dev --shards 2.
#[derive(Debug, Parser)]
#[command(name = "shardctl", version)]
pub struct Cli {
    /// Address of the control plane
    #[arg(long, value_name = "URL", env = "RINGWAY_GRPC", default_value = "http://127.0.0.1:7432")]
    pub grpc: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane
    Serve(ServeArgs),
    Dev(DevArgs),
    /// Add, list and remove shards
    Shard(ShardArgs),
    /// Shard tables, copy reference tables, list both
    Table(TableArgs),
    /// Show which shard owns which tokens
    Ring(JsonArgs),
    /// Move part of a shard to one or more new shards, while it is written to
    ///
    /// Each new shard is an empty PostgreSQL database, given as NAME=DSN. The DSN's user is the service role, which is
    /// Ringway's own. Ends when the rows have moved, are verified and deleted from the old shard.
    Split(SplitArgs),
    Move(MoveArgs),
    /// List running moves
    Moves(MovesArgs),
    /// Compare what the ring says with what is on the shards
    Verify(JsonArgs),
    /// List distributed transactions that are prepared and not finished
    Transactions(JsonArgs),
    /// List gateways, their leases and the epochs they route by
    Gateways(JsonArgs),
    /// Export or import the whole topology
    Topology(TopologyArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where the topology is kept: sled:DIR, an embedded store that one control plane owns
    #[arg(long, value_name = "STORE", env = "RINGWAY_STORE", required_unless_present_any = ["list_fault_points", "config"])]
    pub store: Option<String>,
    /// Address to listen on [default: 127.0.0.1:7432]
    #[arg(long = "grpc", id = "serve_grpc", value_name = "ADDR", env = "RINGWAY_LISTEN_GRPC")]
    pub grpc: Option<String>,
    /// TOML file with the same options; those of the command line win
    #[arg(long, value_name = "FILE", env = "RINGWAY_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the named points at which tests may end the process, and exit
    #[arg(long, hide = true)]
    pub list_fault_points: bool,
}

#[derive(Debug, Clone, Args)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShardArgs {
    #[command(subcommand)]
    pub command: ShardCommand,
}

#[derive(Debug, Subcommand)]
pub enum ShardCommand {
    /// Register a PostgreSQL database as a shard
    ///
    /// The first may hold tables already. Every later one must be empty: it gets schema, roles and reference tables from the others.
    Add {
        name: String,
        /// postgresql://ROLE[:PASSWORD]@HOST:PORT/DATABASE; the role is the service role and must be Ringway's own
        dsn: String,
        /// A streaming replica (not available yet)
        #[arg(long, value_name = "DSN")]
        replica: Vec<String>,
        #[arg(long)]
        json: bool,
    },
    /// List shards; --json includes each one's DSN
    List(JsonArgs),
    /// Take an empty shard out of the cluster
    Remove { name: String },
}

#[derive(Debug, Args)]
pub struct TableArgs {
    #[command(subcommand)]
    pub command: TableCommand,
}

#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// Spread a table's rows over the shards by one column
    Shard {
        /// Optionally schema-qualified
        table: String,
        /// The shard key
        #[arg(long, value_name = "COLUMN")]
        key: String,
        /// Tables of one keyspace with equal keys lie on the same shard [default: the key type's own]
        #[arg(long, value_name = "NAME", conflicts_with = "colocate_with")]
        keyspace: Option<String>,
        /// Use this table's keyspace
        #[arg(long, value_name = "TABLE")]
        colocate_with: Option<String>,
        /// Accept UNIQUE constraints without the key; they then hold on each shard only
        #[arg(long)]
        allow_local_unique: bool,
        #[arg(long)]
        json: bool,
    },
    /// Keep a full copy of a table on every shard
    Reference {
        table: String,
        #[arg(long)]
        json: bool,
    },
    /// Make a sharded or reference table single again, its rows on the first shard
    Undistribute {
        table: String,
        #[arg(long)]
        json: bool,
    },
    /// List sharded and reference tables
    List(JsonArgs),
}

#[derive(Debug, Args)]
pub struct SplitArgs {
    /// The shard to split
    pub shard: String,
    /// New shards
    #[arg(long, value_name = "NAME=DSN", required = true, value_delimiter = ',')]
    pub into: Vec<String>,
    /// Keyspace to split, where there are several
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,
    #[command(flatten)]
    pub options: MoveOptions,
}

#[derive(Debug, Clone, Args)]
pub struct MoveOptions {
    /// Stop before the cutover and again before the old rows are deleted; go on with "shardctl move cutover|complete ID"
    #[arg(long)]
    pub manual: bool,
    /// How long the move stays switched, ready to be rolled back with nothing lost, before the old rows are deleted
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub rollback_window: Duration,
    /// Bytes per second that the backfill may copy [default: no limit]
    #[arg(long, value_name = "BYTES")]
    pub rate_limit: Option<u64>,
    /// Print the move as JSON when it has ended, or has stopped where --manual stops
    #[arg(long)]
    pub json: bool,
}

/// Move arcs to another shard while they are written to, and steer running moves
///
/// To start one: shardctl move --from s1 --to s2 --key 42. What to move: the arc of one key, an arc of tokens, a share of the
/// source's tokens, or all of it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(group = ArgGroup::new("what").args(["key", "arc", "fraction", "all"]).multiple(false))]
pub struct MoveArgs {
    #[command(subcommand)]
    pub command: Option<MoveCommand>,
    /// Shard that gives rows away
    #[arg(long, value_name = "SHARD")]
    pub from: Option<String>,
    /// Shard that takes them over
    #[arg(long, value_name = "SHARD")]
    pub to: Option<String>,
    /// The rows of one key
    #[arg(long, value_name = "VALUE")]
    pub key: Option<String>,
    /// Tokens above LO, up to and including HI
    #[arg(long, value_name = "LO..HI", allow_hyphen_values = true)]
    pub arc: Option<String>,
    /// This share of the source's tokens, above 0 and at most 1
    #[arg(long, value_name = "F")]
    pub fraction: Option<f64>,
    /// Everything that the source owns
    #[arg(long)]
    pub all: bool,
    #[arg(long, value_name = "NAME")]
    pub keyspace: Option<String>,
    #[command(flatten)]
    pub options: MoveOptions,
}

#[derive(Debug, Subcommand)]
pub enum MoveCommand {
    /// Everything about one move
    Show(MoveIdArgs),
    /// Follow a move until it has ended
    Watch(MoveIdArgs),
    /// Stop working on a move; writes stay safe
    Pause(MoveIdArgs),
    /// Go on with a paused move
    Resume(MoveIdArgs),
    /// Switch a move that is ready to its target
    Cutover(MoveIdArgs),
    /// Give the arcs back to the source; nothing written since the switch is lost
    Rollback(MoveIdArgs),
    /// End the move: delete the moved rows from the source
    Complete(MoveIdArgs),
    /// Undo a move that has not been switched
    Cancel(MoveIdArgs),
}

#[derive(Debug, Clone, Args)]
pub struct MoveIdArgs {
    /// As "shardctl moves" lists it
    pub id: u64,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct MovesArgs {
    /// Ended ones too
    #[arg(long)]
    pub all: bool,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TopologyArgs {
    #[command(subcommand)]
    pub command: TopologyCommand,
}

#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Print the whole topology as JSON, secrets included
    Export,
    /// Fill an empty store from an exported file
    Import { file: PathBuf },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_line_of_the_documentation_parses() {
        Cli::command().debug_assert();
        for line in [
            "shardctl serve --store sled:/tmp/x --grpc 127.0.0.1:7432",
            "shardctl --grpc http://127.0.0.1:1 shard list --json",
            "shardctl shard add s1 postgresql://r@h/db",
            "shardctl shard remove s1",
            "shardctl table shard orders --key tenant_id --keyspace default",
            "shardctl table reference countries",
            "shardctl table undistribute orders",
            "shardctl table list",
            "shardctl ring --json",
            "shardctl split s1 --into s3=postgresql://r@h/db,s4=postgresql://r@i/db --manual --rollback-window 1h",
            "shardctl move --from s1 --to s2 --key 42",
            "shardctl move --from s1 --to s2 --arc -5..9",
            "shardctl move --from s1 --to s2 --fraction 0.5",
            "shardctl move --from s1 --to s2 --all",
            "shardctl moves --all",
            "shardctl move show 1",
            "shardctl move watch 1 --json",
            "shardctl move pause 1",
            "shardctl move resume 1",
            "shardctl move cutover 1",
            "shardctl move rollback 1",
            "shardctl move complete 1",
            "shardctl move cancel 1",
            "shardctl verify",
            "shardctl transactions",
            "shardctl gateways",
            "shardctl topology export",
            "shardctl topology import file",
            "shardctl dev --shards 2 --data d",
            "shardctl dev stop --data d",
            "shardctl dev spare --data d",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
        for line in ["shardctl move --from s1 --to s2 --key 1 --all", "shardctl split s1", "shardctl move show"] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
