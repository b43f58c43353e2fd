//! What drivers do with a session, through the gateway, on rows of two shards.

mod copy;
mod explain;
mod gathered;
mod names;
mod one_server;
mod protocol;
mod state;
mod transactions;
mod type_code;

use anyhow::{bail, ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, traces, turn};
use tokio_postgres::Client;

const ACCOUNTS: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_behave_like_postgresqls() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, note text)",
        "SELECT create_distributed_table('accounts', 'id')",
        "CREATE TABLE single (id int PRIMARY KEY, v text)",
    ] {
        client.batch_execute(statement).await.context(statement)?;
    }
    client
        .batch_execute(&format!(
            "INSERT INTO accounts (id, balance) VALUES {}",
            sql::rows(1..=ACCOUNTS, |id| format!("{id}, 1000"))
        ))
        .await
        .context("loading accounts")?;
    let mut stages = Stages::default();
    stages.run("simple protocol", protocol::simple_protocol(&cluster)).await;
    stages.run("values in both formats", protocol::values(&cluster)).await;
    stages.run("pipelines", protocol::pipelines(&cluster)).await;
    stages.run("prepared statements over few connections", protocol::prepared_over_few_connections(&cluster)).await;
    stages.run("INSERT ... SELECT", copy::insert_select(&cluster)).await;
    stages.run("COPY", copy::copy(&cluster)).await;
    stages.run("cancel", state::cancel(&cluster)).await;
    stages.run("savepoints", transactions::savepoints(&cluster)).await;
    stages.run("errors in transactions", transactions::errors_in_transactions(&cluster)).await;
    stages.run("transactions over both shards", transactions::transfers(&cluster)).await;
    stages.run("a commit that one shard refuses", transactions::deferred_constraint(&cluster)).await;
    stages.run("settings", state::settings(&cluster)).await;
    stages.run("what names mean", names::names(&cluster)).await;
    stages.run("settings in pipelines", names::pipelined_settings(&cluster)).await;
    stages.run("defaults of roles", names::defaults_of_roles(&cluster)).await;
    stages.run("one clock", one_server::clock(&cluster)).await;
    stages.run("set_config", one_server::set_config(&cluster)).await;
    stages.run("functions, blocks and triggers", one_server::code(&cluster)).await;
    stages.run("settings that types make", type_code::settings_of_types(&cluster)).await;
    stages.run("foreign keys in any order", one_server::foreign_keys(&cluster)).await;
    stages.run("locks of rows that have copies", one_server::locked_copies(&cluster)).await;
    stages.run("gathered rows", gathered::tables(&cluster)).await;
    stages.run("EXPLAIN", explain::explain(&cluster)).await;
    stages.run("notices", state::notices(&cluster)).await;
    stages.run("portals with limits", protocol::portals(&cluster)).await;
    stages.run("cursors", protocol::cursors(&cluster)).await;
    stages.run("prepared after a schema change", protocol::prepared_after_a_schema_change(&cluster)).await;
    stages.run("LISTEN and NOTIFY", state::listen(&cluster)).await;
    stages.run("temporary tables and advisory locks", state::pinned(&cluster)).await;
    stages.run("a role without rights, and row-level security", state::security(&cluster)).await;
    stages.run("large values and long results", protocol::large(&cluster)).await;
    stages.run("changing a shard key", transactions::changed_key(&cluster)).await;
    stages.run("administration", state::administration(&cluster)).await;
    stages.run("many short connections", state::churn(&cluster)).await;
    stages.run("nothing stays prepared", traces::none_stays_prepared(&cluster)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn connect(cluster: &Cluster) -> Result<Client> {
    sql::connect(&cluster.dsn("postgres")).await
}

/// Two accounts that live on different shards.
async fn two_shards(cluster: &Cluster) -> Result<(i64, i64)> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let first: i64 = s1.query_one("SELECT min(id) FROM public.accounts WHERE id <= $1", &[&ACCOUNTS]).await?.get(0);
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    let second: i64 = s2.query_one("SELECT min(id) FROM public.accounts WHERE id <= $1", &[&ACCOUNTS]).await?.get(0);
    Ok((first, second))
}

async fn balance(client: &Client, id: i64) -> Result<i64> {
    Ok(client.query_one("SELECT balance FROM accounts WHERE id = $1", &[&id]).await?.get(0))
}

/// What one PostgreSQL would do, or a refusal that says why and what to do instead. None: refused.
fn exact_or_refused<T>(what: &str, outcome: std::result::Result<T, tokio_postgres::Error>) -> Result<Option<T>> {
    let error = match outcome {
        Ok(done) => return Ok(Some(done)),
        Err(error) => error,
    };
    let db = error.as_db_error().with_context(|| format!("{what}: {error:?}"))?;
    let explained = db.detail().is_some() && db.hint().is_some();
    ensure!(db.code().code() == "0A000" && explained, "{what} is neither done nor refused with a hint: {db:?}");
    println!("  refused: {what}: {}", db.message());
    Ok(None)
}

fn refused<T>(outcome: std::result::Result<T, tokio_postgres::Error>, expected: &str) -> Result<()> {
    match outcome {
        Ok(_) => bail!("no error, but {expected} was expected"),
        Err(error) => {
            ensure!(sql::code(&error) == expected, "{} instead of {expected}: {error:?}", sql::code(&error));
            Ok(())
        }
    }
}
