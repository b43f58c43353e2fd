//! Transactions on one shard and on both.

use anyhow::{ensure, Context as _, Result};
use futures_util::future::try_join_all;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::{sql, traces};

use super::{balance, connect, exact_or_refused, refused, two_shards, ACCOUNTS};

pub async fn savepoints(cluster: &Cluster) -> Result<()> {
    let mut client = connect(cluster).await?;
    let (a, b) = two_shards(cluster).await?;
    client.batch_execute("UPDATE accounts SET balance = 1000, note = NULL").await?;
    let mut transaction = client.transaction().await?;
    transaction.execute("UPDATE accounts SET balance = 1 WHERE id = $1", &[&a]).await?;
    // The other shard is met only behind a savepoint.
    let savepoint = transaction.savepoint("first").await?;
    savepoint.execute("UPDATE accounts SET balance = 2 WHERE id = $1", &[&b]).await?;
    refused(savepoint.execute("INSERT INTO accounts (id) VALUES ($1)", &[&b]).await, "23505")?;
    refused(savepoint.query_one("SELECT 1", &[]).await, "25P02")?;
    savepoint.rollback().await?;
    ensure!(transaction.query_one("SELECT balance FROM accounts WHERE id = $1", &[&b]).await?.get::<_, i64>(0) == 1000);
    let mut savepoint = transaction.savepoint("second").await?;
    savepoint.execute("UPDATE accounts SET balance = 3 WHERE id = $1", &[&b]).await?;
    let inner = savepoint.savepoint("third").await?;
    inner.execute("UPDATE accounts SET balance = 4 WHERE id IN ($1, $2)", &[&a, &b]).await?;
    inner.rollback().await?;
    savepoint.commit().await?;
    transaction.commit().await?;
    let seen = (balance(&client, a).await?, balance(&client, b).await?);
    ensure!(seen == (1, 3), "{seen:?}");
    client.batch_execute("UPDATE accounts SET balance = 1000").await?;
    Ok(())
}

pub async fn errors_in_transactions(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let (a, b) = two_shards(cluster).await?;
    client.batch_execute("BEGIN").await?;
    client.execute("UPDATE accounts SET note = 'gone' WHERE id = $1", &[&a]).await?;
    client.execute("UPDATE accounts SET note = 'gone' WHERE id = $1", &[&b]).await?;
    refused(client.execute("INSERT INTO accounts (id) VALUES ($1)", &[&a]).await, "23505")?;
    for statement in ["SELECT 1", "SELECT count(*) FROM accounts", "UPDATE accounts SET note = 'gone'", "SAVEPOINT a"] {
        ensure!(sql::failure(&client, statement).await?.0 == "25P02", "{statement} in a failed transaction");
    }
    client.batch_execute("ROLLBACK").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE note = 'gone'").await? == "0");
    // COMMIT of a failed transaction says ROLLBACK.
    let mut raw = Raw::session(cluster.listen_port(), "postgres").await?;
    raw.ask(&query("BEGIN")).await?;
    raw.ask(&query(&format!("UPDATE accounts SET note = 'gone' WHERE id = {b}"))).await?;
    ensure!(raw.ask(&query("SELECT 1/0")).await?.as_deref() == Some("22012"));
    raw.send(&query("COMMIT")).await?;
    let messages = raw.until_ready().await?;
    let tag = messages.iter().find(|m| m.tag == b'C').map(|m| String::from_utf8_lossy(&m.body).into_owned());
    ensure!(tag.as_deref() == Some("ROLLBACK\0"), "{tag:?}");
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE note = 'gone'").await? == "0");
    // What has no transaction, and what has one already: warnings, as PostgreSQL gives them.
    client.batch_execute("COMMIT").await?;
    client.batch_execute("BEGIN; BEGIN; ROLLBACK").await?;
    // A read-only transaction.
    client.batch_execute("BEGIN READ ONLY").await?;
    refused(client.execute("UPDATE accounts SET note = 'gone' WHERE id = $1", &[&a]).await, "25006")?;
    client.batch_execute("ROLLBACK").await?;
    Ok(())
}

/// Sums hold whatever clients transfer at the same time.
pub async fn transfers(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client.batch_execute("UPDATE accounts SET balance = 1000").await?;
    try_join_all((0..6i64).map(|n| async move {
        let mut client = connect(cluster).await?;
        for round in 0..15i64 {
            let (from, to) = ((n * 31 + round * 17) % ACCOUNTS + 1, (n * 47 + round * 29 + 1) % ACCOUNTS + 1);
            if from == to {
                continue;
            }
            let transaction = client.transaction().await?;
            for (id, change) in [(from.min(to), -5i64), (from.max(to), 5)] {
                transaction
                    .execute("UPDATE accounts SET balance = balance + $2 WHERE id = $1", &[&id, &change])
                    .await?;
            }
            if round % 5 == 4 {
                transaction.rollback().await?;
            } else {
                transaction.commit().await?;
            }
        }
        anyhow::Ok(())
    }))
    .await?;
    let row = client.query_one("SELECT sum(balance)::bigint, count(*) FROM accounts", &[]).await?;
    ensure!(row.get::<_, i64>(0) == ACCOUNTS * 1000, "the sum is {}", row.get::<_, i64>(0));
    // One statement for rows of all shards is one transaction too.
    refused(client.execute("UPDATE accounts SET balance = balance / (id - 150)", &[]).await, "22012")?;
    let sum: i64 = client.query_one("SELECT sum(balance)::bigint FROM accounts", &[]).await?.get(0);
    ensure!(sum == ACCOUNTS * 1000, "the sum is {sum}");
    traces::none_stays_prepared(cluster).await
}

pub async fn deferred_constraint(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let (a, b) = two_shards(cluster).await?;
    client
        .batch_execute(
            "CREATE TABLE bookings (account bigint, n int, PRIMARY KEY (account, n), \
             FOREIGN KEY (account) REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED)",
        )
        .await?;
    client.batch_execute("SELECT create_distributed_table('bookings', 'account', colocate_with => 'accounts')").await?;
    for (right, wrong) in [(a, b), (b, a)] {
        // An account that is not there, on the shard of the second.
        let missing: i64 = {
            let topology = cluster.topology().await?;
            let ring = topology.keyspaces.first().context("no keyspace")?.ring.clone();
            let owner = |key: i64| {
                let token = ringway_topology::token::token_of_int(key).0;
                ring.iter().find(|point| token <= point.token).map(|point| point.shard)
            };
            (1_000_000..).find(|key| owner(*key) == owner(wrong)).context("no key")?
        };
        client.batch_execute("BEGIN").await?;
        client.execute("INSERT INTO bookings VALUES ($1, 1)", &[&right]).await?;
        client.execute("INSERT INTO bookings VALUES ($1, 1)", &[&missing]).await?;
        refused(client.batch_execute("COMMIT").await, "23503")?;
        let left = sql::value(&client, "SELECT count(*) FROM bookings").await?;
        ensure!(left == "0", "{left} rows of a refused commit are there");
    }
    traces::none_stays_prepared(cluster).await
}

pub async fn changed_key(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let topology = cluster.topology().await?;
    let ring = topology.keyspaces.first().context("no keyspace")?.ring.clone();
    let owner = |key: i64| {
        let token = ringway_topology::token::token_of_int(key).0;
        ring.iter().find(|point| token <= point.token).map(|point| point.shard)
    };
    let other = (1_000..).find(|key| owner(*key) != owner(10)).context("no key")?;
    client.batch_execute("UPDATE accounts SET note = 'moving', balance = 77 WHERE id = 10").await?;
    let changed = client.execute("UPDATE accounts SET id = $1 WHERE id = 10", &[&other]).await;
    let Some(changed) = exact_or_refused("changing a shard key", changed)? else {
        // As its hint says.
        client.batch_execute("BEGIN; DELETE FROM accounts WHERE id = 10").await?;
        client.execute("INSERT INTO accounts (id, balance, note) VALUES ($1, 77, 'moved')", &[&other]).await?;
        client.batch_execute("COMMIT").await?;
        ensure!(sql::value(&client, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
        client.execute("DELETE FROM accounts WHERE id = $1", &[&other]).await?;
        client.batch_execute("INSERT INTO accounts (id, balance) VALUES (10, 1000)").await?;
        return Ok(());
    };
    ensure!(changed == 1, "{changed} rows");
    let row = client.query_one("SELECT balance, note FROM accounts WHERE id = $1", &[&other]).await?;
    ensure!(row.get::<_, i64>(0) == 77 && row.get::<_, &str>(1) == "moving");
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    refused(client.execute("UPDATE accounts SET id = 11 WHERE id = $1", &[&other]).await, "23505")?;
    ensure!(
        client.execute("UPDATE accounts SET id = 10, balance = 1000, note = NULL WHERE id = $1", &[&other]).await? == 1
    );
    Ok(())
}
