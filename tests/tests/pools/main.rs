//! Pools and their administration: modes, sizes, overload, restarts, PAUSE and its kin, shutdown, timeouts, clients that vanish.

mod console;
mod modes;
mod overload;
mod shutdown;
mod timeouts;
mod vanishing;

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, traces, turn};
use tokio_postgres::{Client, SimpleQueryMessage};

const ACCOUNTS: i64 = 100;
/// For what happens soon, on a busy machine too.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_and_their_administration() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0)",
        "SELECT create_distributed_table('accounts', 'id')",
        "GRANT ALL ON accounts TO app",
    ] {
        client.batch_execute(statement).await.context(statement)?;
    }
    let rows = sql::rows(1..=ACCOUNTS, |id| format!("{id}, 1000"));
    client.batch_execute(&format!("INSERT INTO accounts VALUES {rows}")).await.context("loading accounts")?;
    drop(client);
    let keys = Keys::find(&cluster).await?;
    let mut stages = Stages::default();
    stages.run("session mode", modes::session(&cluster, &keys)).await;
    stages.run("statement mode", modes::statement(&cluster)).await;
    stages.run("smallest size and lifetime", modes::sizes(&cluster, &keys)).await;
    stages.run("overload", overload::overload(&cluster, &keys)).await;
    stages.run("who may use the console", console::rights(&cluster)).await;
    stages.run("SHOW", console::show(&cluster, &keys)).await;
    stages.run("PAUSE and RESUME", console::pause(&cluster, &keys)).await;
    stages.run("KILL and RECONNECT", console::kill(&cluster, &keys)).await;
    stages.run("RELOAD", console::reload(&cluster, &keys)).await;
    stages.run("SIGTERM", shutdown::terminate(&cluster, &keys)).await;
    stages.run("the end of the drain", shutdown::drain_timeout(&cluster, &keys)).await;
    stages.run("SHUTDOWN WAIT_FOR_CLIENTS", shutdown::wait_for_clients(&cluster, &keys)).await;
    stages.run("two gateways on one port", shutdown::reuse_port(&cluster)).await;
    stages.run("statement_timeout and lock_timeout", timeouts::statements(&cluster, &keys)).await;
    stages.run("idle_in_transaction_session_timeout", timeouts::transactions(&cluster, &keys)).await;
    stages.run("idle_session_timeout", timeouts::sessions(&cluster, &keys)).await;
    stages.run("clients that vanish", vanishing::vanishing(&cluster, &keys)).await;
    stages.run("a shard that restarts under load", overload::restart(&cluster, &keys)).await;
    stages.run("nothing stays prepared", traces::none_stays_prepared(&cluster)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// Keys of rows on either shard.
struct Keys {
    s1: i64,
    s2: i64,
}

impl Keys {
    async fn find(cluster: &Cluster) -> Result<Keys> {
        let first = |shard| async move {
            let client = sql::connect(&cluster.shard_dsn(shard).await?).await?;
            let id: i64 = client.query_one("SELECT min(id) FROM public.accounts", &[]).await?.get(0);
            anyhow::Ok(id)
        };
        Ok(Keys { s1: first("s1").await?, s2: first("s2").await? })
    }
}

/// One more gateway with this configuration file; the file's directory lives as long as the value.
struct Configured {
    gateway: Gateway,
    directory: tempfile::TempDir,
}

impl Configured {
    async fn start(cluster: &Cluster, configuration: &str) -> Result<Configured> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("gateway.toml");
        std::fs::write(&path, configuration)?;
        let gateway = Gateway::start(cluster, &["--config", &path.to_string_lossy()]).await?;
        gateway.serves("postgres").await?;
        Ok(Configured { gateway, directory })
    }

    fn rewrite(&self, configuration: &str) -> Result<()> {
        Ok(std::fs::write(self.directory.path().join("gateway.toml"), configuration)?)
    }

    async fn client(&self, role: &str) -> Result<Client> {
        sql::connect(&self.gateway.dsn(role)).await
    }

    async fn console(&self) -> Result<Client> {
        sql::connect(&self.gateway.console("postgres")).await
    }
}

/// Columns of all rows by the simple protocol.
async fn table(client: &Client, statement: &str, columns: &[&str]) -> Result<Vec<Vec<String>>> {
    let messages = client.simple_query(statement).await.with_context(|| statement.to_string())?;
    let mut rows = Vec::new();
    for message in &messages {
        if let SimpleQueryMessage::Row(row) = message {
            let cells = columns.iter().map(|column| {
                let cell = row.try_get(*column).with_context(|| format!("{statement} has no column {column}"))?;
                Ok(cell.unwrap_or("").to_string())
            });
            rows.push(cells.collect::<Result<Vec<String>>>()?);
        }
    }
    Ok(rows)
}

/// A count of SHOW POOLS for a role on all shards.
async fn of_pools(console: &Client, role: &str, column: &str) -> Result<i64> {
    let rows = table(console, "SHOW POOLS", &["user", column]).await?;
    let mut sum = 0;
    for row in rows.iter().filter(|row| row[0] == role) {
        sum += row[1].parse::<i64>()?;
    }
    Ok(sum)
}

/// The server process that a client's transaction on a key's shard runs in.
async fn backend(client: &Client, key: i64) -> Result<String> {
    last(client, &format!("BEGIN; SELECT FROM accounts WHERE id = {key}; SELECT pg_backend_pid(); COMMIT")).await
}

/// The same in a transaction that is open on no other shard.
async fn backend_inside(client: &Client, key: i64) -> Result<String> {
    last(client, &format!("SELECT FROM accounts WHERE id = {key}; SELECT pg_backend_pid()")).await
}

async fn last(client: &Client, statements: &str) -> Result<String> {
    let messages = client.simple_query(statements).await.with_context(|| statements.to_string())?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) if !row.is_empty() => row.get(0).map(str::to_string),
        _ => None,
    });
    rows.last().with_context(|| format!("{statements} gave no rows"))
}

fn expect<T>(outcome: std::result::Result<T, tokio_postgres::Error>, expected: &str) -> Result<()> {
    match outcome {
        Ok(_) => anyhow::bail!("no error, but {expected} was expected"),
        Err(error) => {
            ensure!(sql::code(&error) == expected, "{} instead of {expected}: {error:?}", sql::code(&error));
            Ok(())
        }
    }
}
