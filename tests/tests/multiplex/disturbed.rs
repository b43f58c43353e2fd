//! What one read, or one connection, does to the others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use futures_util::future::try_join_all;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::Raw;
use ringway_tests::scenario::{sql, until};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};

use super::{value, while_reading, Counts, Read};

const SOON: Duration = Duration::from_secs(15);
/// Reads of every other client while some wait.
const OTHERS: usize = 20;

/// Nobody reads `notes` while it lives.
async fn lock(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut locks = Vec::new();
    for shard in ["s1", "s2"] {
        let client = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        client.batch_execute("BEGIN; LOCK TABLE public.notes IN ACCESS EXCLUSIVE MODE").await?;
        locks.push(client);
    }
    Ok(locks)
}

/// How many statements wait for a lock of `notes` on a shard.
async fn waiting(locks: &[Client]) -> Result<i64> {
    let mut count = 0;
    for client in locks {
        let sql = "SELECT count(DISTINCT pid) FROM pg_locks WHERE relation = 'public.notes'::regclass AND NOT granted";
        count += client.query_one(sql, &[]).await?.get::<_, i64>(0);
    }
    Ok(count)
}

/// A session that has read some notes beside others, so that the statement is prepared on connections.
async fn reader_of_notes(gateway: &Gateway) -> Result<(Client, Statement)> {
    let client = sql::connect(&gateway.dsn("postgres")).await?;
    let statement = client.prepare("SELECT body FROM notes WHERE id = $1").await?;
    for id in 1..=20i64 {
        client.query_one(&statement, &[&id]).await?;
    }
    Ok((client, statement))
}

/// Whoever reads something else goes on.
pub async fn locked(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let counts = Counts::default();
    let so_far = || counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    while_reading(gateway, &counts, async {
        // With the settings of the others, so that they would share their connections.
        let note = &Read::named("SELECT body FROM notes WHERE id = $1");
        let mut readers = Vec::new();
        for _ in 0..6 {
            let mut client = Raw::session(gateway.port, "postgres").await?;
            note.prepare(&mut client).await?;
            readers.push(client);
        }
        for _ in 0..3 {
            let locks = lock(cluster).await?;
            let waiters = readers
                .iter_mut()
                .zip(1..)
                .map(|(client, id)| async move { value(&note.run(client, &[Some(&id.to_string())]).await?) });
            let others = async {
                until("reads that wait", SOON, || async { Ok(waiting(&locks).await? > 0) }).await?;
                let before = so_far();
                let all_go_on = || so_far().iter().zip(&before).all(|(now, before)| *now >= before + OTHERS);
                until("others that go on", SOON, || async { Ok(all_go_on()) })
                    .await
                    .with_context(|| format!("{before:?}, {:?}", so_far()))?;
                ensure!(waiting(&locks).await? > 0, "nobody waits any longer");
                anyhow::Ok(())
            };
            let ending = async {
                let others = others.await;
                for client in &locks {
                    client.batch_execute("ROLLBACK").await?;
                }
                others
            };
            let (bodies, others) = tokio::join!(try_join_all(waiters), ending);
            others?;
            ensure!(bodies?.len() == 6);
        }
        Ok(())
    })
    .await
}

/// Whoever locks two tables, one after the other, waits for reads of either, and is never in a circle with them.
pub async fn no_deadlocks(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    while_reading(gateway, &Counts::default(), async {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let note = &Read::named("SELECT body FROM notes WHERE id = $1");
        let readers = (1..=super::CLIENTS).map(|id| {
            let stop = &stop;
            async move {
                let mut client = Raw::session(gateway.port, "postgres").await?;
                note.prepare(&mut client).await?;
                while !stop.load(Ordering::Relaxed) {
                    value(&note.run(&mut client, &[Some(&id.to_string())]).await?)?;
                }
                anyhow::Ok(())
            }
        });
        let locking = async {
            let client = sql::connect(&cluster.shard_dsn("s1").await?).await?;
            client.batch_execute("SET deadlock_timeout = '5ms'").await?;
            let mut done = Ok(());
            for round in 0..100 {
                let order = if round % 2 == 0 { ["notes", "items"] } else { ["items", "notes"] };
                let [first, second] = order.map(|table| format!("LOCK TABLE public.{table} IN ACCESS EXCLUSIVE MODE"));
                done = client.batch_execute(&format!("BEGIN; {first}; SELECT pg_sleep(0.005); {second}; COMMIT")).await;
                if done.is_err() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
            done.context("locking both")
        };
        let (read, locked) = tokio::join!(try_join_all(readers), locking);
        locked?;
        read?;
        Ok(())
    })
    .await
}

/// It ends the read that it is meant for, and no other.
pub async fn cancelled(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    while_reading(gateway, &Counts::default(), async {
        for id in 1..=5i64 {
            let (client, statement) = reader_of_notes(gateway).await?;
            let (other, other_statement) = reader_of_notes(gateway).await?;
            let locks = lock(cluster).await?;
            let values: [&(dyn ToSql + Sync); 1] = [&id];
            let cancelling = async {
                until("reads that wait", SOON, || async { Ok(waiting(&locks).await? > 0) }).await?;
                client.cancel_token().cancel_query(NoTls).await?;
                anyhow::Ok(())
            };
            let reading = async {
                let read = client.query_one(&statement, &values).await;
                for client in &locks {
                    client.batch_execute("ROLLBACK").await?;
                }
                anyhow::Ok(read)
            };
            let (read, cancelled, other) =
                tokio::join!(reading, cancelling, other.query_one(&other_statement, &values));
            cancelled?;
            let error = read?.err().context("the read was not cancelled")?;
            ensure!(sql::code(&error) == "57014", "{error:?}");
            other.context("the read of another")?;
        }
        Ok(())
    })
    .await
}

/// Reads that shared a connection run again: an error only for one that had it alone, never a wrong row; and nothing stays checked out.
pub async fn terminated(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    const KILLS: usize = 12;
    let mut shards = Vec::new();
    for shard in ["s1", "s2"] {
        shards.push(sql::connect(&cluster.shard_dsn(shard).await?).await?);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let read = &Read::named("SELECT name FROM items WHERE id = $1");
    let mut clients = Vec::new();
    for _ in 0..super::CLIENTS {
        let mut client = Raw::session(gateway.port, "postgres").await?;
        read.prepare(&mut client).await?;
        clients.push(client);
    }
    let reading = clients.into_iter().enumerate().map(|(number, mut client)| {
        let stop = &stop;
        async move {
            let (mut read_well, mut errors) = (0usize, 0usize);
            while !stop.load(Ordering::Relaxed) {
                let id = 1 + (number * 11 + read_well * 3) % 200;
                let answer = read.run(&mut client, &[Some(&id.to_string())]).await?;
                match answer.iter().find(|message| message.tag == b'E') {
                    Some(error) => {
                        let code = error.sqlstate();
                        ensure!(matches!(code.as_str(), "57P01" | "08006"), "{answer:?}");
                        errors += 1;
                    }
                    None => {
                        ensure!(value(&answer)? == format!("item {id}"), "{answer:?}");
                        read_well += 1;
                    }
                }
            }
            anyhow::Ok((read_well, errors))
        }
    });
    let before = super::shared(gateway).await?;
    let killing = async {
        let mut killed = 0;
        for _ in 0..KILLS {
            for shard in &shards {
                let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE usename = 'postgres' AND pid <> pg_backend_pid() AND query LIKE 'SELECT name FROM items%'";
                killed += shard.query_one(sql, &[]).await?.get::<_, i64>(0);
            }
            let so_far = super::shared(gateway).await?;
            until("more reads", SOON, || async { Ok(super::shared(gateway).await? > so_far) }).await?;
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(killed)
    };
    let (counts, killed) = tokio::join!(try_join_all(reading), killing);
    let (counts, killed) = (counts?, killed?);
    let (well, errors) = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("       {killed} sessions ended, {well} reads, {errors} errors");
    ensure!(killed >= KILLS as i64 && super::shared(gateway).await? > before, "{killed} sessions ended");
    // A session that ends takes the one read with it that ran on it alone; those that shared it run again.
    ensure!(errors as i64 <= killed, "{errors} errors of {killed} sessions");
    at_rest(gateway).await
}

/// No connection is at work for anybody.
async fn at_rest(gateway: &Gateway) -> Result<()> {
    let console = sql::connect(&gateway.console("postgres")).await?;
    until("pools at rest", SOON, || async {
        let messages = console.simple_query("SHOW POOLS").await?;
        let active = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) if row.get("user") == Some("postgres") => {
                row.get("sv_active").map(str::to_owned)
            }
            _ => None,
        });
        Ok(active.into_iter().all(|count| count == "0"))
    })
    .await
}

/// In the middle of their reads.
pub async fn vanished(gateway: &Gateway) -> Result<()> {
    let read = &Read::named("SELECT name FROM items WHERE id = $1");
    while_reading(gateway, &Counts::default(), async {
        for round in 0..40 {
            let leaving = (0..4).map(|number| async move {
                let mut client = Raw::session(gateway.port, "postgres").await?;
                read.prepare(&mut client).await?;
                let id = (1 + (round * 4 + number) % 100).to_string();
                let messages = [
                    ringway_tests::scenario::messages::bind("", "read", &[Some(&id)], &[]),
                    ringway_tests::scenario::messages::execute("", 0),
                    ringway_tests::scenario::messages::sync(),
                ];
                client.send(&messages.concat()).await
            });
            try_join_all(leaving).await?;
        }
        Ok(())
    })
    .await?;
    at_rest(gateway).await
}

/// It does not wait for ever for connections that always have something to read.
pub async fn paused(gateway: &Gateway) -> Result<()> {
    let console = sql::connect(&gateway.console("postgres")).await?;
    while_reading(gateway, &Counts::default(), async {
        for _ in 0..5 {
            tokio::time::timeout(SOON, console.batch_execute("PAUSE")).await.context("PAUSE has no end")??;
            console.batch_execute("RESUME").await?;
            let before = super::shared(gateway).await?;
            until("reads that go on", SOON, || async { Ok(super::shared(gateway).await? > before) }).await?;
        }
        Ok(())
    })
    .await
}
