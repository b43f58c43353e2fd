//! What a session has besides its transactions: settings, notices, locks, temporary tables, rights.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use futures_util::future::{poll_fn, try_join_all};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::{sql, until};
use tokio_postgres::{AsyncMessage, NoTls};

use super::{connect, refused, ACCOUNTS};

pub async fn cancel(cluster: &Cluster) -> Result<()> {
    for statement in [
        "SELECT pg_sleep(30)",
        "SELECT pg_sleep(30) FROM accounts WHERE id = 1",
        "SELECT id, pg_sleep(30) FROM accounts",
        "BEGIN; UPDATE accounts SET note = 'cancelled' WHERE id = 1; SELECT pg_sleep(30)",
    ] {
        let client = Arc::new(connect(cluster).await?);
        let token = client.cancel_token();
        let started = Instant::now();
        let running = tokio::spawn({
            let client = client.clone();
            async move { client.simple_query(statement).await }
        });
        let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
        let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
        until("the statement's start", Duration::from_secs(10), || async {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            Ok(sql::value(&s1, query).await? != "0" || sql::value(&s2, query).await? != "0")
        })
        .await
        .context(statement)?;
        token.cancel_query(NoTls).await?;
        refused(running.await?, "57014").context(statement)?;
        ensure!(started.elapsed() < Duration::from_secs(20), "{statement} ended after {:?}", started.elapsed());
        client.batch_execute("ROLLBACK").await?;
        ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE note = 'cancelled'").await? == "0");
        until("nobody sleeping on the shards", Duration::from_secs(10), || async {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            Ok(sql::value(&s1, query).await? == "0" && sql::value(&s2, query).await? == "0")
        })
        .await
        .context(statement)?;
    }
    Ok(())
}

pub async fn settings(cluster: &Cluster) -> Result<()> {
    let named = sql::connect(&format!("{}?application_name=shop", cluster.dsn("postgres"))).await?;
    let other = connect(cluster).await?;
    ensure!(sql::value(&named, "SHOW application_name").await? == "shop");
    // On the shard, too: the monitor wants to know.
    ensure!(
        sql::value(&named, "SELECT current_setting('application_name') FROM accounts WHERE id = 1").await? == "shop"
    );
    ensure!(
        sql::value(&other, "SELECT current_setting('application_name') FROM accounts WHERE id = 1").await? != "shop"
    );
    named.batch_execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'").await?;
    for _ in 0..5 {
        let (mine, theirs) = futures_util::join!(
            sql::column(&named, "SELECT DISTINCT timestamptz '2024-01-01 00:00:00+00'::text FROM accounts"),
            sql::column(&other, "SELECT DISTINCT timestamptz '2024-01-01 00:00:00+00'::text FROM accounts")
        );
        ensure!(mine.as_ref().is_ok_and(|rows| rows == &["01.01.2024 09:00:00 JST"]), "{mine:?}");
        ensure!(theirs.as_ref().is_ok_and(|rows| rows.len() == 1 && rows[0].starts_with("2024-01-01")), "{theirs:?}");
    }
    // Settings of transactions end with them; those of a rolled-back one were never made.
    named.batch_execute("BEGIN; SET LOCAL TimeZone = 'UTC'").await?;
    ensure!(sql::value(&named, "SHOW TimeZone").await? == "UTC");
    named.batch_execute("COMMIT").await?;
    ensure!(sql::value(&named, "SHOW TimeZone").await? == "Asia/Tokyo");
    named.batch_execute("BEGIN; SET TimeZone = 'UTC'; ROLLBACK").await?;
    ensure!(sql::value(&named, "SHOW TimeZone").await? == "Asia/Tokyo");
    named.batch_execute("RESET ALL").await?;
    ensure!(sql::value(&named, "SHOW TimeZone").await? == sql::value(&other, "SHOW TimeZone").await?);
    // search_path decides what a name means.
    named
        .batch_execute("CREATE SCHEMA IF NOT EXISTS elsewhere; CREATE TABLE elsewhere.accounts (id bigint PRIMARY KEY)")
        .await?;
    named.batch_execute("SET search_path = elsewhere, public").await?;
    ensure!(sql::value(&named, "SELECT count(*) FROM accounts").await? == "0");
    ensure!(sql::value(&other, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    named.batch_execute("RESET search_path").await?;
    ensure!(sql::value(&named, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    named.batch_execute("DROP SCHEMA elsewhere CASCADE").await?;
    // A bound that the client sets is kept.
    named.batch_execute("SET statement_timeout = 200").await?;
    ensure!(sql::failure(&named, "SELECT pg_sleep(5) FROM accounts WHERE id = 1").await?.0 == "57014");
    named.batch_execute("RESET statement_timeout").await?;
    Ok(())
}

pub async fn notices(cluster: &Cluster) -> Result<()> {
    let (client, mut connection) = tokio_postgres::connect(&cluster.dsn("postgres"), NoTls).await?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let (AsyncMessage::Notice(notice), Ok(mut seen)) = (message, kept.lock()) {
                seen.push(format!("{} {}", notice.severity(), notice.message()));
            }
        }
    });
    client.batch_execute("DROP TABLE IF EXISTS never_was").await?;
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hello %', 'ü'; RAISE WARNING 'careful'; END $$").await?;
    client.batch_execute("COMMIT").await?;
    let seen = seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    for expected in ["NOTICE hello ü", "WARNING careful", "WARNING there is no transaction in progress"] {
        let count = seen.iter().filter(|one| *one == expected).count();
        ensure!(count == 1, "{expected:?} came {count} times: {seen:?}");
    }
    let skipped = seen.iter().filter(|one| one.contains("never_was")).count();
    ensure!(skipped == 1, "a notice of DDL came {skipped} times: {seen:?}");
    Ok(())
}

pub async fn listen(cluster: &Cluster) -> Result<()> {
    let (client, mut connection) = tokio_postgres::connect(&cluster.dsn("postgres"), NoTls).await?;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send((notification.channel().to_string(), notification.payload().to_string()));
            }
        }
    });
    client.batch_execute("LISTEN news").await?;
    let other = connect(cluster).await?;
    other.batch_execute("NOTIFY news, 'first'").await?;
    other.execute("SELECT pg_notify('news', $1)", &[&"second"]).await?;
    for expected in ["first", "second"] {
        // It may come with the next answer only.
        let got = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await.context("no notification")?;
        ensure!(got == Some(("news".into(), expected.into())), "{got:?}");
    }
    client.batch_execute("UNLISTEN *").await?;
    Ok(())
}

pub async fn pinned(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let other = connect(cluster).await?;
    client.batch_execute("CREATE TEMPORARY TABLE scratch (id int, v text)").await?;
    client.batch_execute("INSERT INTO scratch SELECT i, 'x' FROM generate_series(1, 10) i").await?;
    for _ in 0..5 {
        ensure!(sql::value(&client, "SELECT count(*) FROM scratch").await? == "10");
        ensure!(sql::failure(&other, "SELECT count(*) FROM scratch").await?.0 == "42P01");
    }
    client.batch_execute("DROP TABLE scratch").await?;
    // A temporary table may hide another: schema changes do not guess which is meant.
    client.batch_execute("CREATE TABLE hidden (a int); CREATE TEMPORARY TABLE hidden (b int)").await?;
    for change in ["DROP TABLE hidden", "ALTER TABLE hidden ADD COLUMN c int", "CREATE INDEX ON hidden (b)"] {
        ensure!(sql::failure(&client, change).await?.0 == "0A000", "{change}");
    }
    client.batch_execute("DROP TABLE pg_temp.hidden").await?;
    client.batch_execute("ALTER TABLE public.hidden ADD COLUMN c int").await?;
    ensure!(sql::value(&client, "SELECT count(c) FROM hidden").await? == "0");
    client.batch_execute("DROP TABLE public.hidden").await?;
    ensure!(sql::value(&client, "SELECT pg_try_advisory_lock(4711)").await? == "t");
    ensure!(sql::value(&other, "SELECT pg_try_advisory_lock(4711)").await? == "f");
    ensure!(sql::value(&client, "SELECT pg_advisory_unlock(4711)").await? == "t");
    ensure!(sql::value(&other, "SELECT pg_try_advisory_lock(4711)").await? == "t");
    drop(other);
    // What a client held ends with it.
    until("the lock of a client that left", Duration::from_secs(10), || async {
        Ok(sql::value(&client, "SELECT pg_try_advisory_lock(4711)").await? == "t")
    })
    .await
}

pub async fn security(cluster: &Cluster) -> Result<()> {
    let owner = connect(cluster).await?;
    let rows = format!(
        "INSERT INTO private VALUES {}",
        sql::rows(1..=20, |i| format!("{i}, '{}', 'v'", if i % 2 == 0 { "app" } else { "postgres" }))
    );
    for statement in [
        "CREATE TABLE private (id bigint PRIMARY KEY, belongs_to text NOT NULL, v text)",
        "SELECT create_distributed_table('private', 'id')",
        "ALTER TABLE private ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own_rows ON private USING (belongs_to = current_user)",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON private TO app",
        &rows,
    ] {
        owner.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    let app = sql::connect(&cluster.dsn("app")).await?;
    ensure!(sql::value(&app, "SELECT current_user").await? == "app");
    ensure!(sql::value(&app, "SELECT count(*) FROM private").await? == "10");
    ensure!(sql::value(&owner, "SELECT count(*) FROM private").await? == "20");
    ensure!(sql::column(&app, "SELECT id FROM private WHERE id = 1").await?.is_empty());
    ensure!(app.execute("UPDATE private SET v = 'w'", &[]).await? == 10);
    ensure!(sql::failure(&app, "INSERT INTO private VALUES (100, 'postgres', 'x')").await?.0 == "42501");
    ensure!(app.execute("INSERT INTO private VALUES (100, 'app', 'x'), (101, 'app', 'y')", &[]).await? == 2);
    for statement in [
        "SELECT count(*) FROM accounts",
        "SELECT * FROM ringway.capture",
        "DELETE FROM ringway.move",
        "SELECT ringway.open_arcs(1, '{}')",
        "SELECT ringway.decide('guessed', 'ringway:1:1:1:1:1')",
        "SELECT ringway.captured('guessed')",
        "SELECT secret FROM ringway.shard",
        "DROP TABLE single",
        "SELECT create_distributed_table('single', 'id')",
    ] {
        let (code, message) = sql::failure(&app, statement).await?;
        ensure!(code == "42501", "{statement}: {code} {message}");
    }
    Ok(())
}

pub async fn administration(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    ensure!(sql::column(&client, "SHOW ringway.shards").await?.len() == 2);
    ensure!(sql::column(&client, "SHOW ringway.moves").await?.is_empty());
    sql::column(&client, "SHOW POOLS").await?;
    sql::column(&client, "SHOW STATS").await?;
    let mut total = 0;
    for shard in ["s1", "s2"] {
        client.batch_execute(&format!("SET ringway.shard = '{shard}'")).await?;
        total += sql::value(&client, "SELECT count(*) FROM accounts").await?.parse::<i64>()?;
    }
    client.batch_execute("RESET ringway.shard").await?;
    ensure!(total == ACCOUNTS, "{total} accounts on both shards");
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    let plan = sql::column(&client, "EXPLAIN (ROUTE) SELECT * FROM accounts WHERE id = 1").await?.join("\n");
    ensure!(plan.contains("s1") != plan.contains("s2"), "EXPLAIN (ROUTE) names one shard: {plan}");
    Ok(())
}

pub async fn churn(cluster: &Cluster) -> Result<()> {
    for _ in 0..5 {
        try_join_all((0..20i64).map(|n| async move {
            let client = connect(cluster).await?;
            let id = n + 1;
            let got: i64 = client.query_one("SELECT id FROM accounts WHERE id = $1", &[&id]).await?.get(0);
            ensure!(got == id);
            anyhow::Ok(())
        }))
        .await?;
    }
    Ok(())
}
