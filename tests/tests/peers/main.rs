//! Peers that are slow, silent or gone, at every boundary of a message and within messages: a client ([`clients`]) or, by a proxy
//! in between ([`proxy`]), a shard ([`shards`]). Whatever happens, the other side is released, every connection of the pools is
//! lent or idle, and the next client is served.

mod begins;
mod clients;
mod commits;
mod proxy;
mod questions;
mod shards;
mod shared;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use ringway_tests::cluster::temporary_directory;
use ringway_tests::scenario::bare::Bare;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn, until};
use shardctl::dev::postgres::{LocalPostgres, PostgresConfig, SERVICE_ROLE};
use tokio_postgres::{Client, SimpleQueryMessage};

use proxy::Proxy;

/// For what happens soon, on a busy machine too.
const SOON: Duration = Duration::from_secs(15);
/// The role whose clients, and connections to shards, come to harm.
const ROLE: &str = "app";
const ACCOUNTS: i64 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_stop() -> Result<()> {
    let _turn = turn().await?;
    let world = World::start().await?;
    let mut stages = Stages::default();
    stages.run("clients that stop while they log in", clients::logins(&world)).await;
    stages.run("clients that stop in a conversation", clients::conversations(&world)).await;
    stages.run("clients that stop while they wait", clients::waiting(&world)).await;
    stages.run("clients that stop while they wait for a place", clients::places(&world)).await;
    stages.run("clients that do not read", clients::slow_readers(&world)).await;
    stages.run("COPY that goes on for long", clients::long_copies(&world)).await;
    stages.run("a shard that lets in a link and is silent", shards::silent_link(&world)).await;
    stages.run("a BEGIN that fails", begins::fail(&world)).await;
    stages.run("a BEGIN that costs nothing", begins::cost_nothing(&world)).await;
    stages.run("commits that are told truly", commits::are_told_truly(&world)).await;
    stages.run("a setting of two shards", begins::is_told_once(&world)).await;
    stages.run("questions that are asked again", questions::are_asked_again(&world)).await;
    stages.run("reads that never end", shared::never_ending(&world)).await;
    stages.run("shards that close", shards::stop(&world, proxy::Stop::Close)).await;
    stages.run("shards that reset", shards::stop(&world, proxy::Stop::Reset)).await;
    stages.run("shards that fall silent", shards::stop(&world, proxy::Stop::Silence)).await;
    stages.run("nothing stays prepared", world.none_stays_prepared()).await;
    stages.run("the pools were right at every moment", world.was_balanced()).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}\n{}", world.bare.log(), world.gateway.log());
    }
    outcome
}

/// Two shards, the first of them behind a proxy, and a gateway with short bounds.
struct World {
    gateway: Gateway,
    console: Client,
    watch: Watch,
    /// To the servers themselves.
    direct: [Client; 2],
    proxy: Proxy,
    /// Keys of rows on either shard.
    keys: [Vec<i64>; 2],
    bare: Bare,
    _configuration: tempfile::TempDir,
}

/// Bounds of the gateway: short, so that running into them takes no time.
const CONFIGURATION: &str = "[limits]\nstartup_timeout_ms = 700\nmessage_timeout_ms = 700\nquery_timeout_ms = 1000\n\
                             connect_timeout_ms = 700\nrollback_timeout_ms = 300\ncheckout_timeout_ms = 20000\n";

impl World {
    async fn start() -> Result<World> {
        let directory = temporary_directory()?;
        let launch = |name: &str| LocalPostgres::launch(PostgresConfig::test(directory.path().join(name)));
        let servers = vec![launch("s1").await?, launch("s2").await?];
        let direct =
            [sql::connect(&servers[0].dsn("postgres")).await?, sql::connect(&servers[1].dsn("postgres")).await?];
        let proxy = Proxy::start(servers[0].port()).await?;
        let behind =
            servers[0].dsn(SERVICE_ROLE).replace(&format!(":{}/", servers[0].port()), &format!(":{}/", proxy.port));
        let second = servers[1].dsn(SERVICE_ROLE);
        let bare = Bare::serve(directory, servers, Vec::new()).await?;
        bare.shardctl(&["shard", "add", "s1", &behind]).await?;
        bare.shardctl(&["shard", "add", "s2", &second]).await?;
        let configuration = tempfile::tempdir()?;
        let path = configuration.path().join("gateway.toml");
        std::fs::write(&path, CONFIGURATION)?;
        let gateway = Gateway::start_at(&bare.grpc(), &["--config", &path.to_string_lossy()]).await?;
        gateway.serves("postgres").await?;
        let admin = sql::connect(&gateway.dsn("postgres")).await?;
        let rows = sql::rows(1..=ACCOUNTS, |id| format!("{id}, 0"));
        for statement in [
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)",
            "SELECT create_distributed_table('accounts', 'id')",
            "GRANT ALL ON accounts TO app",
            &format!("INSERT INTO accounts VALUES {rows}"),
        ] {
            admin.batch_execute(statement).await.with_context(|| statement.to_string())?;
        }
        let mut keys = [Vec::new(), Vec::new()];
        for (keys, shard) in keys.iter_mut().zip(&direct) {
            // The client has its answer before the second part is committed.
            until("rows on the shard", SOON, || async {
                Ok(sql::value(shard, "SELECT count(*) > 0 FROM accounts").await? == "t")
            })
            .await?;
            let found = sql::column(shard, "SELECT id FROM accounts ORDER BY id").await?;
            *keys = found.iter().map(|id| id.parse()).collect::<Result<Vec<i64>, _>>()?;
        }
        let console = sql::connect(&gateway.console("postgres")).await?;
        let watch = Watch::start(sql::connect(&gateway.console("postgres")).await?);
        Ok(World { gateway, console, watch, direct, proxy, keys, bare, _configuration: configuration })
    }

    async fn counts(&self) -> Result<(i64, i64)> {
        counts(&self.console).await
    }

    /// Nothing is left of what a peer had begun: not at the gateway, not on the shards.
    async fn released(&self, what: &str) -> Result<()> {
        const BUSY: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
        until("the release", SOON, || async {
            ensure!(self.counts().await? == (0, 0), "lent and waited for: {:?}", self.counts().await?);
            for client in clients_of(&self.console).await? {
                ensure!(client != ROLE, "a client is still there");
            }
            for shard in &self.direct {
                ensure!(sql::value(shard, BUSY).await? == "0", "a session of a shard is at work");
            }
            Ok(true)
        })
        .await
        .with_context(|| what.to_string())
    }

    /// A new client of the role gets its answers from both shards.
    async fn serves(&self, what: &str) -> Result<()> {
        let client = sql::connect(&self.gateway.dsn(ROLE)).await.with_context(|| what.to_string())?;
        let count = sql::value(&client, "SELECT count(*) FROM accounts").await.with_context(|| what.to_string())?;
        ensure!(count == ACCOUNTS.to_string(), "{what}: {count} accounts");
        Ok(())
    }

    async fn none_stays_prepared(&self) -> Result<()> {
        until("the end of prepared transactions", SOON, || async {
            for shard in &self.direct {
                ensure!(sql::value(shard, "SELECT count(*) FROM pg_prepared_xacts").await? == "0", "one is left");
            }
            Ok(true)
        })
        .await
    }

    async fn was_balanced(&self) -> Result<()> {
        let looks = self.watch.looks.load(Ordering::Relaxed);
        ensure!(!self.watch.task.is_finished(), "the watch has ended: a pool was out of balance");
        println!("looked at the pools {looks} times");
        ensure!(looks > 100, "only {looks} looks at the pools");
        Ok(())
    }
}

/// Counts of the role's pools over both shards: lent, waited for.
async fn counts(console: &Client) -> Result<(i64, i64)> {
    let mut counts = (0, 0);
    for pool in pools(console).await? {
        if pool.user == ROLE {
            counts.0 += pool.active;
            counts.1 += pool.waiting;
        }
    }
    Ok(counts)
}

struct PoolCounts {
    user: String,
    active: i64,
    waiting: i64,
    idle: i64,
    total: i64,
}

async fn pools(console: &Client) -> Result<Vec<PoolCounts>> {
    let mut pools = Vec::new();
    for message in console.simple_query("SHOW POOLS").await? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let number = |column: &str| -> Result<i64> { Ok(row.get(column).context("no such column")?.parse()?) };
        pools.push(PoolCounts {
            user: row.get("user").unwrap_or_default().to_owned(),
            active: number("sv_active")?,
            waiting: number("cl_waiting")?,
            idle: number("sv_idle")?,
            total: number("sv_total")?,
        });
    }
    Ok(pools)
}

async fn clients_of(console: &Client) -> Result<Vec<String>> {
    let messages = console.simple_query("SHOW CLIENTS").await?;
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get("user").map(str::to_owned),
            _ => None,
        })
        .collect())
}

/// Looks at the pools all the time; ends when it sees one that is out of balance.
struct Watch {
    looks: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    fn start(console: Client) -> Watch {
        const PAUSE: Duration = Duration::from_millis(5);
        let looks = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&looks);
        let task = tokio::spawn(async move {
            loop {
                for pool in pools(&console).await? {
                    if pool.active + pool.idle != pool.total {
                        eprintln!("{}: {} lent, {} idle, {} in all", pool.user, pool.active, pool.idle, pool.total);
                        bail!("a pool is out of balance");
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        });
        Watch { looks, task }
    }
}
