//! PostgreSQL's timeouts mean what they mean without a pool.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::{sql, until};
use tokio_postgres::Client;

use super::{Keys, SOON};

async fn with_options(cluster: &Cluster, options: &str) -> Result<Client> {
    let options = options.replace(' ', "%20").replace('=', "%3D");
    sql::connect(&format!("{}?options={options}", cluster.dsn("postgres"))).await
}

pub async fn statements(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let sleep = format!("SELECT pg_sleep(20) FROM accounts WHERE id = {}", keys.s1);
    let everywhere = "SELECT id, pg_sleep(20) FROM accounts";
    let by_set = sql::connect(&cluster.dsn("postgres")).await?;
    by_set.batch_execute("SET statement_timeout = '300ms'").await?;
    let by_options = with_options(cluster, "-c statement_timeout=300").await?;
    let local = sql::connect(&cluster.dsn("postgres")).await?;
    for client in [&by_set, &by_options] {
        for statement in [sleep.as_str(), everywhere] {
            let began = Instant::now();
            ensure!(sql::failure(client, statement).await?.0 == "57014", "{statement}");
            ensure!(began.elapsed() < Duration::from_secs(10));
        }
    }
    local.batch_execute("BEGIN; SET LOCAL statement_timeout = '300ms'").await?;
    ensure!(sql::failure(&local, &sleep).await?.0 == "57014");
    local.batch_execute("ROLLBACK").await?;
    // Nobody else has it: the same connections, another session.
    let slow = format!("SELECT pg_sleep(0.5) FROM accounts WHERE id = {}", keys.s1);
    sql::column(&local, &slow).await?;

    let holder = sql::connect(&cluster.dsn("postgres")).await?;
    let update = format!("UPDATE accounts SET balance = balance WHERE id = {}", keys.s1);
    holder.batch_execute(&format!("BEGIN; {update}")).await?;
    by_set.batch_execute("RESET statement_timeout; SET lock_timeout = '200ms'").await?;
    let by_options = with_options(cluster, "-c lock_timeout=200ms").await?;
    for client in [&by_set, &by_options] {
        ensure!(sql::failure(client, &update).await?.0 == "55P03");
        ensure!(sql::failure(client, "UPDATE accounts SET balance = balance").await?.0 == "55P03");
    }
    holder.batch_execute("ROLLBACK").await?;
    by_set.batch_execute(&update).await?;
    Ok(())
}

/// The SQLSTATE with which a session ends that is idle from now on.
async fn farewell(raw: &mut Raw) -> Result<String> {
    let messages = raw.until_closed().await?;
    let last = messages.last().context("the session ended without a word")?;
    ensure!(last.tag == b'E' && last.field(b'V').as_deref() == Some("FATAL"), "{messages:?}");
    Ok(last.sqlstate())
}

pub async fn transactions(cluster: &Cluster, keys: &Keys) -> Result<()> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let update = |key: i64| format!("UPDATE accounts SET balance = -2 WHERE id = {key}");
    for (statements, options) in [
        (vec!["BEGIN".to_string(), update(keys.s1)], ""),
        (vec!["BEGIN".into(), update(keys.s1), update(keys.s2)], ""),
        (vec!["BEGIN".into(), update(keys.s2), "SELECT nonsense".into()], ""),
        (vec!["BEGIN".into()], ""),
        (vec!["BEGIN".into(), update(keys.s1), update(keys.s2)], "-c idle_in_transaction_session_timeout=400"),
    ] {
        let mut raw = Raw::connect(cluster.listen_port()).await?;
        raw.startup(&[("user", "postgres"), ("database", "app"), ("options", options)]).await?;
        raw.until_ready().await?;
        if options.is_empty() {
            ensure!(raw.ask(&query("SET idle_in_transaction_session_timeout = '400ms'")).await?.is_none());
        }
        for statement in &statements {
            raw.ask(&query(statement)).await?;
        }
        ensure!(farewell(&mut raw).await? == "25P03", "{statements:?}");
        // Every part is rolled back at once.
        until("the locks' end", SOON, || async {
            let held = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' \
                        AND application_name = 'ringway-gateway'";
            Ok(sql::value(&s1, held).await? == "0" && sql::value(&s2, held).await? == "0")
        })
        .await
        .with_context(|| format!("{statements:?}"))?;
        ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE balance = -2").await? == "0");
    }
    // A server's own default, of which the gateway knows nothing, ends the session alike.
    s1.batch_execute("ALTER SYSTEM SET idle_in_transaction_session_timeout = '400ms'").await?;
    s1.batch_execute("SELECT pg_reload_conf()").await?;
    let outcome = async {
        let fresh = sql::connect(&cluster.shard_dsn("s1").await?).await?;
        until("the server's new default", SOON, || async {
            Ok(sql::value(
                &fresh,
                "SELECT reset_val FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'",
            )
            .await?
                == "400")
        })
        .await?;
        let mut raw = Raw::session(cluster.listen_port(), "postgres").await?;
        for statement in ["BEGIN".to_string(), update(keys.s2), update(keys.s1)] {
            ensure!(raw.ask(&query(&statement)).await?.is_none());
        }
        ensure!(farewell(&mut raw).await? == "25P03");
        ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE balance = -2").await? == "0");
        anyhow::Ok(())
    }
    .await;
    s1.batch_execute("ALTER SYSTEM RESET idle_in_transaction_session_timeout").await?;
    s1.batch_execute("SELECT pg_reload_conf()").await?;
    outcome
}

pub async fn sessions(cluster: &Cluster, keys: &Keys) -> Result<()> {
    for options in ["", "-c idle_session_timeout=400"] {
        let mut raw = Raw::connect(cluster.listen_port()).await?;
        raw.startup(&[("user", "postgres"), ("database", "app"), ("options", options)]).await?;
        raw.until_ready().await?;
        if options.is_empty() {
            ensure!(raw.ask(&query("SET idle_session_timeout = '400ms'")).await?.is_none());
        }
        raw.ask(&query(&format!("SELECT balance FROM accounts WHERE id = {}", keys.s1))).await?;
        // A transaction that is idle is no idle session.
        let slow = format!("SELECT pg_sleep(0.6) FROM accounts WHERE id = {}", keys.s1);
        ensure!(raw.ask(&query(&slow)).await?.is_none());
        ensure!(farewell(&mut raw).await? == "57P05");
    }
    // Connections that had it harm nobody who comes later.
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for _ in 0..20 {
        for key in [keys.s1, keys.s2] {
            client.execute("UPDATE accounts SET balance = balance WHERE id = $1", &[&key]).await?;
        }
    }
    Ok(())
}
