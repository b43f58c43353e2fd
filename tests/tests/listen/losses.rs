//! What is not told is not passed over in silence.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::sick::Frozen;
use ringway_tests::scenario::{sql, until};
use shardctl::dev::process::ProcessId;

use super::{asks, connect, heard, hears, listener, nothing_more};

const SOON: Duration = Duration::from_secs(20);

const END_LISTENER: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                            WHERE application_name = 'ringway-gateway-listener'";

/// The session ends with this SQLSTATE, whatever comes before.
async fn ends_with(raw: &mut Raw, expected: &str) -> Result<()> {
    let messages = raw.until_closed().await?;
    let error = messages.iter().find(|message| message.tag == b'E').context("it ended without a word")?;
    let clear = error.field(b'S').as_deref() == Some("FATAL") && error.field(b'H').is_some();
    ensure!(error.sqlstate() == expected && clear, "{error:?}");
    Ok(())
}

pub async fn terminated(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    for shard in ["s1", "s2"] {
        let service = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        let mut idle = listener(port, &["a"]).await?;
        let mut busy = listener(port, &["b"]).await?;
        let mut other = listener(port, &[]).await?;
        asks(&mut busy, &query("BEGIN; SELECT count(*) FROM accounts")).await?;
        asks(&mut other, &query("BEGIN; SELECT count(*) FROM accounts")).await?;
        ensure!(sql::value(&service, END_LISTENER).await? == "1", "{shard}");
        ends_with(&mut idle, "57P01").await.context("an idle listener")?;
        ends_with(&mut busy, "57P01").await.context("a listener in a transaction")?;
        let (tags, _) = asks(&mut other, &query("SELECT 1")).await?;
        ensure!(tags == "TDCZ", "who does not listen goes on");
        // Another one listens on a connection that is new.
        let mut again = listener(port, &["a"]).await?;
        connect(cluster).await?.batch_execute("NOTIFY a, 'again'").await?;
        ensure!(hears(&mut again).await? == "a again");
    }
    Ok(())
}

async fn gateway_with(cluster: &Cluster, limits: &str) -> Result<(Gateway, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, format!("[limits]\n{limits}\n"))?;
    let gateway = Gateway::start(cluster, &["--config", path.to_str().context("not UTF-8")?]).await?;
    gateway.serves("postgres").await?;
    Ok((gateway, directory))
}

pub async fn slow(cluster: &Cluster) -> Result<()> {
    let (gateway, _limits) = gateway_with(cluster, "listen_queue_bytes_max = 100000").await?;
    let client = connect(cluster).await?;
    let console = sql::connect(&gateway.console("postgres")).await?;
    // One whose transaction keeps notifications waiting is told at once.
    let mut late = listener(gateway.port, &["flood"]).await?;
    asks(&mut late, &query("BEGIN")).await?;
    let small = "SELECT pg_notify('flood', i || repeat('x', 100)) FROM generate_series(1, 2000) i";
    client.batch_execute(small).await?;
    ends_with(&mut late, "53400").await.context("a long transaction")?;
    // One that reads gets far more than that.
    let mut quick = listener(gateway.port, &["flood"]).await?;
    // One that does not read is not waited for.
    let mut deaf = listener(gateway.port, &["flood"]).await?;
    // Sockets keep some of it: until they are full.
    const ROUNDS_MAX: usize = 2_000;
    let mut rounds = 0;
    loop {
        ensure!(rounds < ROUNDS_MAX, "who does not read is still there");
        rounds += 1;
        client.batch_execute("SELECT pg_notify('flood', i || repeat('x', 7000)) FROM generate_series(1, 10) i").await?;
        for _ in 0..10 {
            hears(&mut quick).await.context("a client that reads")?;
        }
        let rows = console.simple_query("SHOW LISTENERS").await?;
        let clients = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(1).map(str::to_owned),
            _ => None,
        });
        if clients.as_deref() == Some("1") {
            break;
        }
    }
    let messages = deaf.until_closed().await?;
    ensure!(messages.iter().all(|message| heard(message).is_some() || message.tag == b'E'), "frames are whole");
    Ok(())
}

pub async fn limits(cluster: &Cluster) -> Result<()> {
    let (gateway, _limits) = gateway_with(cluster, "client_channels_max = 2").await?;
    let mut raw = listener(gateway.port, &["a", "b"]).await?;
    ensure!(raw.ask(&query("LISTEN c")).await?.as_deref() == Some("53400"));
    ensure!(raw.ask(&query("BEGIN; UNLISTEN a; LISTEN c; COMMIT")).await?.is_none());
    let (tags, with_it) = asks(&mut raw, &query("NOTIFY a; NOTIFY b, '1'; NOTIFY c, '2'")).await?;
    ensure!(tags == "CCCAAZ" && with_it == ["b 1", "c 2"], "{tags} {with_it:?}");
    Ok(())
}

/// The backends that listen on a shard.
async fn frozen_listeners(service: &tokio_postgres::Client) -> Result<Vec<Frozen>> {
    let pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ringway-gateway-listener'";
    let mut frozen = Vec::new();
    for pid in sql::column(service, pids).await? {
        frozen.push(Frozen::process(ProcessId::of(pid.parse()?).context("a backend is gone")?)?);
    }
    Ok(frozen)
}

/// LISTENs that wait for a shard are bounded.
pub async fn waiting(cluster: &Cluster) -> Result<()> {
    let (gateway, _limits) = gateway_with(cluster, "listen_waiting_max = 2").await?;
    let service = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let mut first = listener(gateway.port, &["a"]).await?;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(Raw::session(gateway.port, "postgres").await?);
    }
    let frozen = frozen_listeners(&service).await?;
    ensure!(!frozen.is_empty(), "nobody listens");
    for other in &mut others {
        other.send(&query("LISTEN b")).await?;
    }
    // Two of them are answered at once: with a refusal.
    let mut refused = 0;
    for other in &mut others {
        if let Ok(messages) = tokio::time::timeout(Duration::from_millis(1_000), other.until_ready()).await {
            let messages = messages?;
            ensure!(messages[0].sqlstate() == "53300" && messages[0].field(b'H').is_some(), "{messages:?}");
            refused += 1;
        }
    }
    ensure!(refused == 2, "{refused} were refused");
    drop(frozen);
    drop(others);
    until("room for another", SOON, || async {
        let mut again = Raw::session(gateway.port, "postgres").await?;
        Ok(again.ask(&query("LISTEN b")).await?.is_none())
    })
    .await?;
    connect(cluster).await?.batch_execute("NOTIFY a, 'still'").await?;
    ensure!(hears(&mut first).await? == "a still");
    Ok(())
}

/// Other sessions do not wait for rows of a distributed transaction while its own waits to be told of notifications.
pub async fn commits_meanwhile(cluster: &Cluster) -> Result<()> {
    let services =
        [sql::connect(&cluster.shard_dsn("s1").await?).await?, sql::connect(&cluster.shard_dsn("s2").await?).await?];
    let client = connect(cluster).await?;
    client.batch_execute("ALTER TABLE accounts DISABLE TRIGGER tell").await?;
    let mut raw = listener(cluster.listen_port(), &["a"]).await?;
    let frozen = frozen_listeners(&services[1]).await?;
    ensure!(!frozen.is_empty(), "nobody listens");
    // Recovery would end it too. (Without its heartbeats the gateway goes on for longer than this takes.)
    let recovery = Frozen::process(cluster.process("control")?)?;
    raw.send(&query("UPDATE accounts SET balance = 21")).await?;
    for service in &services {
        until("the end of both parts", Duration::from_millis(1_200), || async {
            Ok(sql::value(service, "SELECT count(*) FROM accounts WHERE balance <> 21").await? == "0")
        })
        .await?;
    }
    drop((recovery, frozen));
    let messages = raw.until_ready().await?;
    ensure!(messages[0].tag == b'C', "{messages:?}");
    client.batch_execute("ALTER TABLE accounts ENABLE TRIGGER tell").await?;
    nothing_more(&mut raw).await
}

pub async fn joining(cluster: &Cluster) -> Result<()> {
    let mut raw = listener(cluster.listen_port(), &["changes"]).await?;
    let mut leaving = listener(cluster.listen_port(), &["changes", "stays"]).await?;
    let spare = cluster.spare().await?;
    // Whoever listens on the new shard for the gateway waits for this lock of its first.
    let service = sql::connect(&spare).await?;
    let lock = "SELECT 'pg_advisory_lock(' || classid::int || ',' || objid::int8::bit(32)::int || ')' \
                FROM pg_locks JOIN pg_stat_activity USING (pid) \
                WHERE locktype = 'advisory' AND application_name = 'ringway-gateway-listener'";
    let lock = sql::value(&sql::connect(&cluster.shard_dsn("s1").await?).await?, lock).await?;
    service.batch_execute(&format!("SELECT {lock}")).await?;
    let into = format!("s3={spare}");
    let split = async {
        let arguments = ["split", "s1", "--into", &into];
        let splitting = cluster.shardctl(&arguments);
        tokio::time::timeout(Duration::from_secs(120), splitting).await.context("the split takes too long")?
    };
    let leaves = async {
        const WAITS: &str = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        until("a gateway that is about to listen", Duration::from_secs(60), || async {
            Ok(sql::value(&service, WAITS).await? == "t")
        })
        .await?;
        ensure!(leaving.ask(&query("UNLISTEN changes")).await?.is_none(), "UNLISTEN");
        service.batch_execute("SELECT pg_advisory_unlock_all()").await?;
        Ok(())
    };
    tokio::try_join!(split, leaves)?;
    let ids: Vec<i64> =
        service.query("SELECT id FROM public.accounts ORDER BY id", &[]).await?.iter().map(|row| row.get(0)).collect();
    ensure!(!ids.is_empty(), "nothing has moved");
    let client = connect(cluster).await?;
    for id in &ids {
        client.execute("UPDATE accounts SET balance = 12 WHERE id = $1", &[id]).await?;
        let got = hears(&mut raw).await?;
        ensure!(got == format!("changes {id} 12"), "{got} for {id}");
    }
    client.batch_execute("NOTIFY stays").await?;
    ensure!(hears(&mut leaving).await? == "stays ");
    nothing_more(&mut leaving).await?;
    nothing_more(&mut raw).await
}

/// A gateway whose lease has run out may not know all shards: who listens is told so, and nobody else begins to.
pub async fn cut_off(cluster: &Cluster) -> Result<()> {
    const AGAIN_MAX: Duration = Duration::from_secs(60);
    let port = cluster.listen_port();
    let mut idle = listener(port, &["a"]).await?;
    let mut busy = listener(port, &["b"]).await?;
    let mut other = listener(port, &[]).await?;
    asks(&mut busy, &query("BEGIN; SELECT 1")).await?;
    let frozen = Frozen::process(cluster.process("control")?)?;
    ends_with(&mut idle, "57P01").await.context("an idle listener")?;
    ends_with(&mut busy, "57P01").await.context("a listener in a transaction")?;
    ensure!(other.ask(&query("LISTEN a")).await?.as_deref() == Some("57P03"), "LISTEN without a lease");
    ensure!(other.ask(&query("BEGIN; LISTEN a; COMMIT")).await?.as_deref() == Some("57P03"), "at the commit");
    let (tags, _) = asks(&mut other, &query("SELECT 1")).await?;
    ensure!(tags == "TDCZ", "who does not listen goes on: {tags}");
    drop(frozen);
    until("a gateway that can listen again", AGAIN_MAX, || async { Ok(listener(port, &["a"]).await.is_ok()) }).await?;
    let mut again = listener(port, &["a"]).await?;
    connect(cluster).await?.batch_execute("NOTIFY a, 'again'").await?;
    ensure!(hears(&mut again).await? == "a again");
    Ok(())
}
