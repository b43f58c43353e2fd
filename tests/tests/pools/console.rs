//! The administrative database.

use std::sync::Arc;

use anyhow::{ensure, Context as _, Result};
use futures_util::future::poll_fn;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::{sql, until};
use tokio_postgres::{AsyncMessage, NoTls};

use super::{backend, backend_inside, expect, of_pools, table, Configured, Keys, SOON};

pub async fn rights(cluster: &Cluster) -> Result<()> {
    let configured = Configured::start(cluster, "").await?;
    let refused =
        tokio_postgres::connect(&configured.gateway.console("app"), NoTls).await.err().context("app got in")?;
    let error = refused.as_db_error().with_context(|| format!("{refused:?}"))?;
    ensure!(
        error.code().code() == "42501" && error.hint().is_some_and(|hint| hint.contains("--admin-users")),
        "{error:?}"
    );
    // In the application's database the cluster is everybody's to see, its users are not.
    let app = configured.client("app").await?;
    ensure!(sql::column(&app, "SHOW ringway.shards").await?.len() == 2);
    sql::column(&app, "SHOW ringway.moves").await?;
    for what in ["POOLS", "CLIENTS", "SERVERS", "STATS", "CONFIG", "USERS"] {
        ensure!(sql::failure(&app, &format!("SHOW {what}")).await?.0 == "42501", "{what}");
    }
    let configured = Configured::start(cluster, "admin_users = [\"ann\"]\nstats_users = [\"app\"]\n").await?;
    ensure!(sql::refused(&configured.gateway.console("postgres")).await? == "42501");
    let stats = sql::connect(&configured.gateway.console("app")).await?;
    sql::column(&stats, "SHOW CLIENTS").await?;
    for command in ["PAUSE", "RELOAD", "KILL 1", "SHUTDOWN"] {
        ensure!(sql::failure(&stats, command).await?.0 == "42501", "{command}");
    }
    sql::column(&configured.client("app").await?, "SHOW POOLS").await?;
    Ok(())
}

pub async fn show(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configured = Configured::start(cluster, "").await?;
    let dsn = format!("{}?application_name=shop", configured.gateway.dsn("app"));
    let client = sql::connect(&dsn).await?;
    client.batch_execute("BEGIN").await?;
    let pid = backend_inside(&client, keys.s1).await?;
    let console = configured.console().await?;
    for (what, columns) in [
        ("POOLS", &["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "maxwait", "pool_mode"][..]),
        ("CLIENTS", &["type", "user", "database", "state", "addr", "port", "connect_time", "link"]),
        ("SERVERS", &["type", "user", "database", "state", "addr", "port", "connect_time", "remote_pid"]),
        ("STATS", &["database", "total_xact_count", "total_query_count", "total_wait_time", "avg_query_count"]),
        ("STATS_TOTALS", &["database", "xact_count", "query_count", "wait_time"]),
        ("DATABASES", &["name", "host", "port", "database", "pool_size", "pool_mode", "paused"]),
        ("USERS", &["name", "pool_mode"]),
        ("LISTS", &["list", "items"]),
        ("CONFIG", &["key", "value", "default", "changeable"]),
        ("VERSION", &["version"]),
        ("HELP", &["command"]),
        ("ringway.shards", &["number", "name", "state", "dsn"]),
        ("ringway.epoch", &["epoch"]),
        ("SHARDS", &["name"]),
    ] {
        ensure!(!table(&console, &format!("SHOW {what}"), columns).await?.is_empty(), "SHOW {what} is empty");
        // As drivers that prepare ask, and with numbers in binary.
        let statement =
            console.prepare(&format!("SHOW {what}")).await.with_context(|| format!("preparing SHOW {what}"))?;
        ensure!(!console.query(&statement, &[]).await?.is_empty());
    }
    let clients = table(&console, "SHOW CLIENTS", &["user", "state", "link", "application_name"]).await?;
    let expected = ["app".to_string(), "active".into(), format!("s1:{pid}"), "shop".into()];
    ensure!(clients.iter().any(|row| row[..] == expected), "{clients:?}");
    let rows = console.query("SHOW POOLS", &[]).await?;
    let pool = rows.iter().find(|row| row.get::<_, &str>("user") == "app" && row.get::<_, &str>("shard") == "s1");
    let pool = pool.context("no pool")?;
    ensure!(pool.get::<_, i64>("sv_active") == 1 && pool.get::<_, &str>("pool_mode") == "transaction");
    client.batch_execute("COMMIT").await?;
    for unknown in ["SELECT 1", "SHOW NONSENSE", "DROP TABLE accounts", "PAUSE nowhere", "KILL 1"] {
        let error = console.simple_query(unknown).await.err().with_context(|| format!("{unknown} was accepted"))?;
        let error = error.as_db_error().with_context(|| format!("{unknown}: {error:?}"))?;
        ensure!(error.hint().is_some(), "{unknown}: {error:?}");
        ensure!(console.prepare(unknown).await.is_err() || !unknown.starts_with("SELECT"), "{unknown} was prepared");
    }
    // Several in one message; what drivers send by themselves; an error does not end the session.
    ensure!(sql::column(&console, "BEGIN; SHOW VERSION; SHOW VERSION; COMMIT").await?.len() == 2);
    ensure!(sql::column(&console, "").await?.is_empty());
    Ok(())
}

pub async fn pause(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configured = Configured::start(cluster, "[limits]\npause_timeout_ms = 20000\n").await?;
    let console = Arc::new(configured.console().await?);
    let watcher = configured.console().await?;
    let open = configured.client("app").await?;
    let other = Arc::new(configured.client("app").await?);
    open.batch_execute("BEGIN").await?;
    backend_inside(&open, keys.s1).await?;
    let pausing = tokio::spawn({
        let console = console.clone();
        async move { console.batch_execute("PAUSE app").await }
    });
    until("the pause's begin", SOON, || async {
        Ok(table(&watcher, "SHOW DATABASES", &["paused"]).await?.iter().all(|row| row[0] == "1"))
    })
    .await?;
    let key = keys.s2;
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.execute("UPDATE accounts SET balance = balance WHERE id = $1", &[&key]).await }
    });
    until("a statement that waits", SOON, || async { Ok(of_pools(&watcher, "app", "cl_waiting").await? == 1) }).await?;
    // The transaction goes on, onto another shard too.
    sql::column(&open, &format!("SELECT balance FROM accounts WHERE id = {}", keys.s2)).await?;
    ensure!(!pausing.is_finished());
    open.batch_execute("COMMIT").await?;
    pausing.await??;
    ensure!(table(&watcher, "SHOW SERVERS", &["user"]).await?.iter().all(|row| row[0] != "app"));
    ensure!(!waiting.is_finished());
    ensure!(sql::failure(&watcher, "PAUSE").await?.0 == "55000");
    console.batch_execute("RESUME").await?;
    ensure!(waiting.await?? == 1);
    ensure!(sql::failure(&watcher, "RESUME").await?.0 == "55000");
    // One that is cancelled is taken back.
    open.batch_execute("BEGIN").await?;
    backend_inside(&open, keys.s1).await?;
    let token = console.cancel_token();
    let pausing = tokio::spawn(async move { console.batch_execute("PAUSE").await });
    until("the pause's begin", SOON, || async {
        Ok(table(&watcher, "SHOW DATABASES", &["paused"]).await?.iter().all(|row| row[0] == "1"))
    })
    .await?;
    token.cancel_query(NoTls).await?;
    expect(pausing.await?, "57014")?;
    backend(&other, keys.s1).await?;
    open.batch_execute("COMMIT").await?;
    Ok(())
}

pub async fn kill(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configured = Configured::start(cluster, "").await?;
    let console = configured.console().await?;
    let ids = || async {
        let rows = table(&console, "SHOW CLIENTS", &["id", "user"]).await?;
        anyhow::Ok(rows.into_iter().filter(|row| row[1] == "app").map(|row| row[0].clone()).collect::<Vec<_>>())
    };
    // Idle, and at work.
    let idle = configured.client("app").await?;
    let id = ids().await?.pop().context("no client")?;
    console.batch_execute(&format!("KILL {id}")).await?;
    until("the client's end", SOON, || async { Ok(idle.simple_query("SELECT 1").await.is_err() && idle.is_closed()) })
        .await?;
    let client = configured.client("app").await?;
    let slow = format!("SELECT pg_sleep(60) FROM accounts WHERE id = {}", keys.s1);
    let working = tokio::spawn(async move { client.simple_query(&slow).await });
    until("work", SOON, || async { Ok(of_pools(&console, "app", "sv_active").await? == 1) }).await?;
    let id = ids().await?.pop().context("no client")?;
    console.batch_execute(&format!("KILL_CLIENT {id}")).await?;
    ensure!(working.await?.is_err());
    until("no client", SOON, || async { Ok(ids().await?.is_empty()) }).await?;

    let client = configured.client("app").await?;
    let before = backend(&client, keys.s1).await?;
    ensure!(backend(&client, keys.s1).await? == before);
    console.batch_execute("RECONNECT app").await?;
    ensure!(backend(&client, keys.s1).await? != before);

    console.batch_execute("KILL app").await?;
    until("the client's end", SOON, || async { Ok(client.is_closed()) }).await?;
    until("no connections of clients", SOON, || async {
        Ok(table(&console, "SHOW SERVERS", &["user"]).await?.iter().all(|row| row[0] != "app"))
    })
    .await?;
    let dsn = configured.gateway.dsn("app");
    let newcomer = tokio::spawn(async move {
        let client = sql::connect(&dsn).await?;
        sql::value(&client, "SELECT count(*) FROM accounts").await
    });
    until("a newcomer that waits", SOON, || async { Ok(of_pools(&console, "app", "cl_waiting").await? == 1) }).await?;
    console.batch_execute("RESUME app").await?;
    ensure!(newcomer.await?? == super::ACCOUNTS.to_string());
    Ok(())
}

pub async fn reload(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let configured = Configured::start(cluster, "[limits]\npool_size_max = 1\nclients_max = 3\n").await?;
    let (console, mut connection) = tokio_postgres::connect(&configured.gateway.console("postgres"), NoTls).await?;
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(notice.message().to_string());
            }
        }
    });
    until("nobody else", SOON, || async {
        let rows = table(&console, "SHOW LISTS", &["list", "items"]).await?;
        let count = |list: &str| rows.iter().find(|row| row[0] == list).map(|row| row[1].clone());
        Ok(count("used_clients").as_deref() == Some("1") && count("login_clients").as_deref() == Some("0"))
    })
    .await?;
    let one = configured.client("app").await?;
    let two = configured.client("app").await?;
    expect(tokio_postgres::connect(&configured.gateway.dsn("app"), NoTls).await.map(|_| ()), "53300")?;
    // Administrators get in nevertheless.
    sql::connect(&configured.gateway.console("postgres")).await?;
    configured.rewrite(
        "stats_users = [\"app\"]\n[limits]\npool_size_max = 2\nhold_timeout_ms = 9000\n[users.app]\npool_mode = \"session\"\n",
    )?;
    console.batch_execute("RELOAD").await?;
    let notice = tokio::time::timeout(SOON, notices.recv()).await?.context("no notice")?;
    ensure!(notice.contains("hold_timeout_ms") && notice.contains("restart"), "{notice}");
    let config = table(&console, "SHOW CONFIG", &["key", "value", "changeable"]).await?;
    for (key, value, changeable) in
        [("pool_size_max", "2", "yes"), ("hold_timeout_ms", "10000", "no"), ("stats_users", "app", "yes")]
    {
        let expected = [key, value, changeable].map(str::to_string);
        ensure!(config.iter().any(|row| row[..] == expected), "{key}: {config:?}");
    }
    // Two places now, and a mode for newcomers.
    one.batch_execute("BEGIN").await?;
    two.batch_execute("BEGIN").await?;
    ensure!(backend_inside(&one, keys.s1).await? != backend_inside(&two, keys.s1).await?);
    one.batch_execute("COMMIT").await?;
    two.batch_execute("COMMIT").await?;
    let pools = table(&console, "SHOW POOLS", &["user", "pool_mode"]).await?;
    ensure!(pools.contains(&vec!["app".into(), "session".into()]), "{pools:?}");
    sql::connect(&configured.gateway.console("app")).await?;
    // SIGHUP does the same.
    configured.rewrite("[limits]\npool_size_max = 3\n[users.app]\npool_mode = \"session\"\n")?;
    configured.gateway.process()?.signal(rustix::process::Signal::HUP)?;
    until("the new size", SOON, || async {
        let config = table(&console, "SHOW CONFIG", &["key", "value"]).await?;
        Ok(config.contains(&vec!["pool_size_max".into(), "3".into()]))
    })
    .await?;
    // A file that is wrong changes nothing.
    configured.rewrite("[users.app]\npool_mod = \"session\"\n")?;
    let (code, message) = sql::failure(&console, "RELOAD").await?;
    ensure!(code == "22023" && message.contains("pool_mod"), "{code} {message}");
    let pools = table(&console, "SHOW POOLS", &["user", "pool_mode"]).await?;
    ensure!(pools.contains(&vec!["app".into(), "session".into()]), "{pools:?}");
    Ok(())
}
