//! LISTEN and NOTIFY: what one PostgreSQL tells its sessions, told by one connection per shard that all clients share.

#[path = "listen/delivery.rs"]
mod delivery;
#[path = "listen/losses.rs"]
mod losses;

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::raw::{query, Message, Raw};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};
use tokio_postgres::Client;

/// What is on its way arrives well within this.
const ARRIVES_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_are_told_what_one_server_would_tell() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let admin = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0)",
        "SELECT create_distributed_table('accounts', 'id')",
        "INSERT INTO accounts SELECT i FROM generate_series(1, 100) i",
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_notify('changes', NEW.id || ' ' || NEW.balance); RETURN NULL; END $$",
        "CREATE TRIGGER tell AFTER UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION tell()",
    ] {
        admin.batch_execute(statement).await.context(statement)?;
    }
    let mut stages = Stages::default();
    stages.run("idle clients, and the notifier itself", delivery::idle(&cluster)).await;
    stages.run("transactions", delivery::transactions(&cluster)).await;
    stages.run("pipelines and several statements", delivery::pipelines(&cluster)).await;
    stages.run("UNLISTEN", delivery::unlisten(&cluster)).await;
    stages.run("names of channels", delivery::names(&cluster)).await;
    stages.run("triggers on both shards", delivery::triggers(&cluster)).await;
    stages.run("transactions over both shards", delivery::both_shards(&cluster)).await;
    stages.run("a burst", delivery::burst(&cluster)).await;
    stages.run("many listeners, one connection", delivery::many(&cluster)).await;
    stages.run("psql and drivers", delivery::psql(&cluster)).await;
    stages.run("pool modes", delivery::pool_modes(&cluster)).await;
    stages.run("a listening connection is lost", losses::terminated(&cluster)).await;
    stages.run("clients that are too slow", losses::slow(&cluster)).await;
    stages.run("limits", losses::limits(&cluster)).await;
    stages.run("LISTENs that wait", losses::waiting(&cluster)).await;
    stages.run("commits while notifications are waited for", losses::commits_meanwhile(&cluster)).await;
    stages.run("a shard joins", losses::joining(&cluster)).await;
    stages.run("without the control plane", losses::cut_off(&cluster)).await;
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

/// A session that listens to these channels.
async fn listener(port: u16, channels: &[&str]) -> Result<Raw> {
    let mut raw = Raw::session(port, "postgres").await?;
    for channel in channels {
        ensure!(raw.ask(&query(&format!("LISTEN {channel}"))).await?.is_none(), "LISTEN {channel}");
    }
    Ok(raw)
}

/// `channel payload` of a NotificationResponse.
fn heard(message: &Message) -> Option<String> {
    if message.tag != b'A' {
        return None;
    }
    let mut parts = message.body.get(4..)?.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    Some(format!("{} {}", parts.next()?, parts.next()?))
}

/// The next message, which must be a notification.
async fn hears(raw: &mut Raw) -> Result<String> {
    let message = raw.message().await?.context("the session has ended")?;
    heard(&message).with_context(|| format!("no notification but {message:?}"))
}

/// Asks this, and gives the tags of the answer and what was heard with it.
async fn asks(raw: &mut Raw, bytes: &[u8]) -> Result<(String, Vec<String>)> {
    raw.send(bytes).await?;
    let messages = raw.until_ready().await?;
    let tags = messages.iter().map(|message| char::from(message.tag)).filter(|tag| *tag != 'S').collect();
    Ok((tags, messages.iter().filter_map(heard).collect()))
}

/// Nothing that was committed before is still to come: a later notification of its own is next.
async fn nothing_more(raw: &mut Raw) -> Result<()> {
    asks(raw, &query("LISTEN last_of_all")).await?;
    let (_, with_it) = asks(raw, &query("NOTIFY last_of_all")).await?;
    ensure!(with_it == ["last_of_all "], "{with_it:?}");
    asks(raw, &query("UNLISTEN last_of_all")).await?;
    Ok(())
}
