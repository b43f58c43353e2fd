//! What drivers do with a session, through the gateway, on rows of two shards.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use bytes::Bytes;
use futures_util::future::{join_all, poll_fn, try_join_all};
use futures_util::{SinkExt as _, StreamExt as _, TryStreamExt as _};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, traces, turn, until};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

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
        .execute("INSERT INTO accounts (id, balance) SELECT i, 1000 FROM generate_series(1, 200) i", &[])
        .await
        .context("loading accounts")?;
    let mut stages = Stages::default();
    stages.run("simple protocol", simple_protocol(&cluster)).await;
    stages.run("values in both formats", values(&cluster)).await;
    stages.run("pipelines", pipelines(&cluster)).await;
    stages.run("prepared statements over few connections", prepared_over_few_connections(&cluster)).await;
    stages.run("COPY", copy(&cluster)).await;
    stages.run("cancel", cancel(&cluster)).await;
    stages.run("savepoints", savepoints(&cluster)).await;
    stages.run("errors in transactions", errors_in_transactions(&cluster)).await;
    stages.run("transactions over both shards", transfers(&cluster)).await;
    stages.run("a commit that one shard refuses", deferred_constraint(&cluster)).await;
    stages.run("settings", settings(&cluster)).await;
    stages.run("notices", notices(&cluster)).await;
    stages.run("portals with limits", portals(&cluster)).await;
    stages.run("cursors", cursors(&cluster)).await;
    stages.run("LISTEN and NOTIFY", listen(&cluster)).await;
    stages.run("temporary tables and advisory locks", pinned(&cluster)).await;
    stages.run("a role without rights, and row-level security", security(&cluster)).await;
    stages.run("large values and long results", large(&cluster)).await;
    stages.run("changing a shard key", changed_key(&cluster)).await;
    stages.run("administration", administration(&cluster)).await;
    stages.run("many short connections", churn(&cluster)).await;
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

fn refused<T>(outcome: std::result::Result<T, tokio_postgres::Error>, expected: &str) -> Result<()> {
    match outcome {
        Ok(_) => bail!("no error, but {expected} was expected"),
        Err(error) => {
            ensure!(sql::code(&error) == expected, "{} instead of {expected}: {error:?}", sql::code(&error));
            Ok(())
        }
    }
}

async fn simple_protocol(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    ensure!(sql::column(&client, "SELECT 1; SELECT 2").await? == ["1", "2"]);
    ensure!(sql::column(&client, "").await?.is_empty());
    ensure!(sql::column(&client, "-- nothing\n;;").await?.is_empty());
    let (a, b) = two_shards(cluster).await?;
    let both = sql::column(&client, &format!("SELECT id FROM accounts WHERE id IN ({a}, {b}) ORDER BY id")).await?;
    ensure!(both == [a.min(b).to_string(), a.max(b).to_string()], "{both:?}");
    // Several statements in one message are one transaction.
    let failed = client
        .simple_query(&format!(
            "UPDATE accounts SET note = 'x' WHERE id = {a}; UPDATE accounts SET note = 'x' WHERE id = {b}; SELECT 1/0"
        ))
        .await;
    refused(failed, "22012")?;
    let noted = sql::value(&client, "SELECT count(*) FROM accounts WHERE note = 'x'").await?;
    ensure!(noted == "0", "{noted} rows of a failed message are there");
    // Command tags count over all shards.
    let messages = client
        .simple_query(
            "UPDATE accounts SET note = 'y'; SELECT * FROM accounts LIMIT 7; DELETE FROM accounts WHERE id < 0",
        )
        .await?;
    let counts: Vec<u64> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(count) => Some(*count),
            _ => None,
        })
        .collect();
    ensure!(counts == [ACCOUNTS as u64, 7, 0], "{counts:?}");
    // Byte for byte: the tags.
    let mut raw = Raw::session(cluster.listen_port(), "postgres").await?;
    raw.send(&query("BEGIN; INSERT INTO single VALUES (1, 'a'), (2, 'b'); SELECT * FROM single; ROLLBACK")).await?;
    let tags: Vec<String> = raw
        .until_ready()
        .await?
        .iter()
        .filter(|message| message.tag == b'C')
        .map(|message| String::from_utf8_lossy(&message.body).trim_end_matches('\0').to_string())
        .collect();
    ensure!(tags == ["BEGIN", "INSERT 0 2", "SELECT 2", "ROLLBACK"], "{tags:?}");
    Ok(())
}

async fn values(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client
        .batch_execute(
            "CREATE TABLE everything (k bigint PRIMARY KEY, b bool, i2 smallint, i4 int, f4 real, f8 double precision, t text, \
             c char(5), y bytea, j jsonb, a int[], ta text[])",
        )
        .await?;
    client.batch_execute("SELECT create_distributed_table('everything', 'k')").await?;
    let insert =
        client.prepare("INSERT INTO everything VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)").await?;
    let bytes: Vec<u8> = (0..=255).collect();
    let json = serde_json::json!({"a": [1, 2.5, null], "ü": "☂"});
    let (ints, texts) = (vec![Some(1), None, Some(-3)], vec!["a,b", "\"c\"", ""]);
    for k in -20i64..20 {
        client
            .execute(
                &insert,
                &[
                    &k,
                    &(k % 2 == 0),
                    &(k as i16),
                    &(k as i32),
                    &(k as f32 / 3.0),
                    &(k as f64 / 3.0),
                    &"naïve ☂\n\t'\\",
                    &"ab",
                    &bytes,
                    &json,
                    &ints,
                    &texts,
                ],
            )
            .await?;
    }
    let select = client.prepare("SELECT * FROM everything WHERE k = $1").await?;
    for k in -20i64..20 {
        let row = client.query_one(&select, &[&k]).await?;
        ensure!(row.get::<_, i64>(0) == k && row.get::<_, bool>(1) == (k % 2 == 0) && row.get::<_, i32>(3) == k as i32);
        ensure!(row.get::<_, f32>(4) == k as f32 / 3.0 && row.get::<_, f64>(5) == k as f64 / 3.0);
        ensure!(row.get::<_, &str>(6) == "naïve ☂\n\t'\\" && row.get::<_, &str>(7) == "ab   ");
        ensure!(row.get::<_, Vec<u8>>(8) == bytes && row.get::<_, serde_json::Value>(9) == json);
        ensure!(row.get::<_, Vec<Option<i32>>>(10) == ints && row.get::<_, Vec<&str>>(11) == texts);
    }
    // The same over both shards, and as text.
    let rows = client.query("SELECT k, t, j FROM everything ORDER BY k", &[]).await?;
    let keys: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ensure!(keys == (-20..20).collect::<Vec<i64>>(), "{keys:?}");
    let text = sql::value(&client, "SELECT (k, b, i2, f8, c, y, a, ta)::text FROM everything WHERE k = 3").await?;
    ensure!(text.starts_with("(3,f,3,1,\"ab   \",\"\\\\x000102"), "{text}");
    let missing: Option<&str> = None;
    ensure!(client.execute("UPDATE everything SET t = $1 WHERE k = $2", &[&missing, &3i64]).await? == 1);
    ensure!(client.query_one("SELECT t FROM everything WHERE k = 3", &[]).await?.get::<_, Option<String>>(0).is_none());
    client.batch_execute("DROP TABLE everything").await?;
    Ok(())
}

async fn pipelines(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let select = client.prepare("SELECT id, balance FROM accounts WHERE id = $1").await?;
    let ids: Vec<i64> = (1..=ACCOUNTS).collect();
    // Joined futures are sent together: one pipeline over both shards, answered in order.
    let asked = ids.iter().map(|id| {
        let (client, select) = (&client, &select);
        async move { client.query_one(select, &[id]).await.map(|row| row.get::<_, i64>(0)) }
    });
    let answers = try_join_all(asked).await?;
    ensure!(answers == ids, "answers in another order");
    // One that fails does not harm the others: each has its own Sync.
    let divide = client.prepare("SELECT 10 / $1::int FROM accounts WHERE id = $2").await?;
    let answers = join_all((0..20i32).map(|i| {
        let (client, divide) = (&client, &divide);
        async move { client.query_one(divide, &[&(i % 5), &i64::from(i + 1)]).await.map(|row| row.get::<_, i32>(0)) }
    }))
    .await;
    for (i, answer) in answers.into_iter().enumerate() {
        match i % 5 {
            0 => refused(answer, "22012")?,
            d => ensure!(answer? == 10 / d as i32, "the answer to {i}"),
        }
    }
    // Writes, and a read of each behind it.
    let update = client.prepare("UPDATE accounts SET note = $2 WHERE id = $1").await?;
    let read = client.prepare("SELECT note FROM accounts WHERE id = $1").await?;
    let answers = try_join_all(ids.iter().map(|id| {
        let (client, update, read, note) = (&client, &update, &read, format!("note {id}"));
        async move {
            let write = async { client.execute(update, &[id, &note]).await };
            let read = async { client.query_one(read, &[id]).await };
            let (updated, row) = futures_util::join!(write, read);
            anyhow::Ok(updated? == 1 && row?.get::<_, String>(0) == note)
        }
    }))
    .await?;
    ensure!(answers.iter().all(|right| *right), "a read in a pipeline did not see the write before it");
    Ok(())
}

/// More clients than connections; every driver calls its statements s0, s1, ...
async fn prepared_over_few_connections(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("gateway.toml");
    std::fs::write(&config, "[limits]\npool_size_max = 3\npool_reserve_max = 3\n")?;
    let gateway = Gateway::start(cluster, &["--config", config.to_str().context("not UTF-8")?]).await?;
    gateway.serves("postgres").await?;
    let dsn = gateway.dsn("postgres");
    try_join_all((0..40i64).map(|n| {
        let dsn = &dsn;
        async move {
            let client = sql::connect(dsn).await?;
            // The same name means another statement for every client.
            let text = format!("SELECT id * 1000 + {n} FROM accounts WHERE id = $1");
            let statement = client.prepare(&text).await?;
            let write = client.prepare("UPDATE accounts SET balance = balance + $2 WHERE id = $1").await?;
            for round in 0..10 {
                let id = (n * 7 + round * 13) % ACCOUNTS + 1;
                let got: i64 = client.query_one(&statement, &[&id]).await?.get(0);
                ensure!(got == id * 1000 + n, "client {n} asked for {id} and got {got}");
                ensure!(client.execute(&write, &[&id, &0i64]).await? == 1);
            }
            let fanned_out: i64 = client.query_one("SELECT count(*) FROM accounts", &[]).await?.get(0);
            ensure!(fanned_out == ACCOUNTS, "{fanned_out} accounts");
            anyhow::Ok(())
        }
    }))
    .await?;
    // A definition that changes under a prepared statement.
    let client = sql::connect(&dsn).await?;
    client.batch_execute("CREATE TABLE changing (k bigint PRIMARY KEY, v int)").await?;
    client.batch_execute("SELECT create_distributed_table('changing', 'k')").await?;
    client.batch_execute("INSERT INTO changing VALUES (1, 1), (2, 2)").await?;
    let named = client.prepare("SELECT v FROM changing WHERE k = $1").await?;
    ensure!(client.query_one(&named, &[&1i64]).await?.get::<_, i32>(0) == 1);
    client.batch_execute("ALTER TABLE changing ADD COLUMN w int DEFAULT 5").await?;
    ensure!(client.query_one(&named, &[&2i64]).await?.get::<_, i32>(0) == 2);
    client.batch_execute("DROP TABLE changing").await?;
    refused(client.query_one(&named, &[&1i64]).await, "42P01")?;
    // SQL's own PREPARE.
    client.batch_execute("PREPARE p (bigint) AS SELECT id + 1 FROM accounts WHERE id = $1").await?;
    ensure!(sql::value(&client, "EXECUTE p (41)").await? == "42");
    client.batch_execute("DEALLOCATE p").await?;
    let (code, _) = sql::failure(&client, "EXECUTE p (41)").await?;
    ensure!(code == "26000", "{code}");
    Ok(())
}

async fn copy(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client.batch_execute("CREATE TABLE lines (k bigint, n int, t text, PRIMARY KEY (k, n))").await?;
    client.batch_execute("SELECT create_distributed_table('lines', 'k')").await?;
    let put = |statement: &'static str, chunks: Vec<String>| {
        let client = &client;
        async move {
            let sink = client.copy_in::<_, Bytes>(statement).await?;
            futures_util::pin_mut!(sink);
            for chunk in chunks {
                sink.send(Bytes::from(chunk)).await?;
            }
            sink.finish().await
        }
    };
    // Rows that are cut anywhere.
    let text: String = (1..=5_000).map(|i| format!("{}\t{i}\tline {i} ☂\\n\\N\n", i % 97)).collect();
    let mut chunks = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let mut cut = rest.len().min(1_013);
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        chunks.push(rest[..cut].to_string());
        rest = &rest[cut..];
    }
    ensure!(put("COPY lines FROM STDIN", chunks).await? == 5_000);
    let csv = "n,k,t\n1,1000,\"a, \"\"b\"\"\nc\"\n2,1001,\n3,1002,\"\"\n".to_string();
    ensure!(put("COPY lines (n, k, t) FROM STDIN WITH (FORMAT csv, HEADER true)", vec![csv]).await? == 3);
    let row = client.query_one("SELECT t, (SELECT t FROM lines WHERE k = 1001) FROM lines WHERE k = 1000", &[]).await;
    let row = match row {
        Ok(row) => (row.get::<_, String>(0), row.get::<_, Option<String>>(1)),
        Err(error) => bail!("reading the CSV rows: {error:?}"),
    };
    ensure!(row == ("a, \"b\"\nc".into(), None), "{row:?}");
    // A bad row in the middle: nothing of it all, and the session goes on.
    let mut bad: Vec<String> = (1..=100).map(|i| format!("{i}\t{}\tx\n", i + 10_000)).collect();
    bad.insert(50, "x\t1\tno number\n".into());
    refused(put("COPY lines FROM STDIN", bad).await, "22P02")?;
    refused(put("COPY lines FROM STDIN", vec!["1\t20000\n".into()]).await, "22P04")?;
    refused(put("COPY lines FROM STDIN", vec!["\\N\t20000\tx\n".into()]).await, "23502")?;
    // A client that gives up.
    {
        let sink = client.copy_in::<_, Bytes>("COPY lines FROM STDIN").await?;
        futures_util::pin_mut!(sink);
        sink.send(Bytes::from_static(b"5\t30000\tx\n6\t30001\ty\n")).await?;
    }
    let count: i64 = client.query_one("SELECT count(*) FROM lines", &[]).await?.get(0);
    ensure!(count == 5_003, "{count} lines");
    // Out: a table, a query, one shard's rows.
    for (statement, expected) in [
        ("COPY lines TO STDOUT", 5_003),
        ("COPY (SELECT k, t FROM lines WHERE n <= 100) TO STDOUT", 103),
        ("COPY (SELECT * FROM lines WHERE k = 5) TO STDOUT WITH (FORMAT csv)", 52),
    ] {
        let chunks: Vec<Bytes> = client.copy_out(statement).await?.try_collect().await.context(statement)?;
        let lines = chunks.iter().flat_map(|chunk| chunk.iter()).filter(|byte| **byte == b'\n').count();
        // A value with a line break in it takes two lines in CSV, and \n in text format.
        ensure!(lines == expected || statement.contains("csv") && lines >= expected, "{statement}: {lines} lines");
    }
    // In a transaction that is rolled back.
    client.batch_execute("BEGIN").await?;
    ensure!(put("COPY lines FROM STDIN", vec!["7\t40000\tx\n8\t40001\ty\n9\t40002\tz\n".into()]).await? == 3);
    client.batch_execute("ROLLBACK").await?;
    let count: i64 = client.query_one("SELECT count(*) FROM lines", &[]).await?.get(0);
    ensure!(count == 5_003, "{count} lines after a rollback");
    client.batch_execute("DROP TABLE lines").await?;
    Ok(())
}

async fn cancel(cluster: &Cluster) -> Result<()> {
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

async fn savepoints(cluster: &Cluster) -> Result<()> {
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

async fn errors_in_transactions(cluster: &Cluster) -> Result<()> {
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
async fn transfers(cluster: &Cluster) -> Result<()> {
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

async fn deferred_constraint(cluster: &Cluster) -> Result<()> {
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
    client.batch_execute("DROP TABLE bookings").await?;
    traces::none_stays_prepared(cluster).await
}

async fn settings(cluster: &Cluster) -> Result<()> {
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

async fn notices(cluster: &Cluster) -> Result<()> {
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

async fn portals(cluster: &Cluster) -> Result<()> {
    let mut client = connect(cluster).await?;
    let (a, _) = two_shards(cluster).await?;
    let transaction = client.transaction().await?;
    for (text, expected) in [
        ("SELECT i::bigint FROM accounts, generate_series(1, 25) i WHERE id = $1 ORDER BY i", 25),
        ("SELECT id FROM accounts WHERE id >= $1 ORDER BY id", 0),
    ] {
        let statement = transaction.prepare(text).await?;
        let portal = transaction.bind(&statement, &[&a]).await.context("binding")?;
        let mut values: Vec<i64> = Vec::new();
        for _ in 0..200 {
            let rows = transaction.query_portal(&portal, 7).await.with_context(|| text.to_string())?;
            ensure!(rows.len() <= 7, "{} rows of 7", rows.len());
            values.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
            if rows.len() < 7 {
                break;
            }
            // Another statement in between.
            transaction.query_one("SELECT 1", &[]).await?;
        }
        let expected = if expected == 0 { (ACCOUNTS - a + 1) as usize } else { expected };
        ensure!(values.len() == expected, "{text}: {} rows of {expected}", values.len());
        ensure!(values.windows(2).all(|pair| pair[0] < pair[1]), "{text}: out of order");
    }
    // Two portals side by side.
    let one = transaction.bind("SELECT id FROM accounts ORDER BY id", &[]).await?;
    let two = transaction.bind("SELECT id FROM accounts ORDER BY id DESC", &[]).await?;
    for round in 0..3 {
        let up = transaction.query_portal(&one, 2).await?;
        let down = transaction.query_portal(&two, 2).await?;
        ensure!(up[0].get::<_, i64>(0) == round * 2 + 1 && down[0].get::<_, i64>(0) == ACCOUNTS - round * 2);
    }
    transaction.commit().await?;
    Ok(())
}

async fn cursors(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let (a, _) = two_shards(cluster).await?;
    client
        .batch_execute(&format!(
            "BEGIN; DECLARE c CURSOR FOR SELECT i FROM accounts, generate_series(1, 9) i WHERE id = {a} ORDER BY i"
        ))
        .await?;
    ensure!(sql::column(&client, "FETCH 4 FROM c").await? == ["1", "2", "3", "4"]);
    ensure!(sql::column(&client, "FETCH ALL FROM c").await?.len() == 5);
    client.batch_execute("CLOSE c; COMMIT").await?;
    let (code, _) = sql::failure(&client, "FETCH 1 FROM c").await?;
    ensure!(code == "34000", "{code}");
    // Over both shards: exact, or refused.
    client.batch_execute("BEGIN").await?;
    match client.batch_execute("DECLARE d CURSOR FOR SELECT id FROM accounts ORDER BY id").await {
        Ok(()) => {
            let rows = sql::column(&client, "FETCH 5 FROM d").await?;
            ensure!(rows == ["1", "2", "3", "4", "5"], "{rows:?}");
        }
        Err(error) => ensure!(sql::code(&error) == "0A000", "{error:?}"),
    }
    client.batch_execute("ROLLBACK").await?;
    Ok(())
}

async fn listen(cluster: &Cluster) -> Result<()> {
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

async fn pinned(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let other = connect(cluster).await?;
    client.batch_execute("CREATE TEMPORARY TABLE scratch (id int, v text)").await?;
    client.batch_execute("INSERT INTO scratch SELECT i, 'x' FROM generate_series(1, 10) i").await?;
    for _ in 0..5 {
        ensure!(sql::value(&client, "SELECT count(*) FROM scratch").await? == "10");
        ensure!(sql::failure(&other, "SELECT count(*) FROM scratch").await?.0 == "42P01");
    }
    client.batch_execute("DROP TABLE scratch").await?;
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

async fn security(cluster: &Cluster) -> Result<()> {
    let owner = connect(cluster).await?;
    for statement in [
        "CREATE TABLE private (id bigint PRIMARY KEY, belongs_to text NOT NULL, v text)",
        "SELECT create_distributed_table('private', 'id')",
        "ALTER TABLE private ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY own_rows ON private USING (belongs_to = current_user)",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON private TO app",
        "INSERT INTO private SELECT i, CASE WHEN i % 2 = 0 THEN 'app' ELSE 'postgres' END, 'v' FROM generate_series(1, 20) i",
    ] {
        owner.batch_execute(statement).await.context(statement)?;
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
        "DROP TABLE private",
        "SELECT create_distributed_table('single', 'id')",
    ] {
        let (code, message) = sql::failure(&app, statement).await?;
        ensure!(code == "42501", "{statement}: {code} {message}");
    }
    owner.batch_execute("DROP TABLE private").await?;
    Ok(())
}

async fn large(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let text = "0123456789abcdef☂".repeat(120_000);
    ensure!(client.execute("UPDATE accounts SET note = $1 WHERE id IN (1, 2, 3)", &[&text]).await? == 3);
    for row in client.query("SELECT note FROM accounts WHERE id IN (1, 2, 3)", &[]).await? {
        ensure!(row.get::<_, &str>(0) == text, "a long text came back differently");
    }
    client.batch_execute("UPDATE accounts SET note = NULL").await?;
    let rows = client
        .query_raw("SELECT id, i, repeat('x', 100) FROM accounts, generate_series(1, 300) i", Vec::<i32>::new())
        .await?;
    futures_util::pin_mut!(rows);
    let mut count = 0;
    while let Some(row) = rows.next().await {
        ensure!(row?.get::<_, &str>(2).len() == 100);
        count += 1;
    }
    ensure!(count == ACCOUNTS * 300, "{count} rows");
    // A reader that stops in the middle.
    let rows = client
        .query_raw("SELECT id, i FROM accounts, generate_series(1, 300) i ORDER BY id, i", Vec::<i32>::new())
        .await?;
    {
        futures_util::pin_mut!(rows);
        ensure!(rows.next().await.context("no row")??.get::<_, i64>(0) == 1);
    }
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    Ok(())
}

async fn changed_key(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let topology = cluster.topology().await?;
    let ring = topology.keyspaces.first().context("no keyspace")?.ring.clone();
    let owner = |key: i64| {
        let token = ringway_topology::token::token_of_int(key).0;
        ring.iter().find(|point| token <= point.token).map(|point| point.shard)
    };
    let other = (1_000..).find(|key| owner(*key) != owner(10)).context("no key")?;
    client.batch_execute("UPDATE accounts SET note = 'moving', balance = 77 WHERE id = 10").await?;
    ensure!(client.execute("UPDATE accounts SET id = $1 WHERE id = 10", &[&other]).await? == 1);
    let row = client.query_one("SELECT balance, note FROM accounts WHERE id = $1", &[&other]).await?;
    ensure!(row.get::<_, i64>(0) == 77 && row.get::<_, &str>(1) == "moving");
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts").await? == ACCOUNTS.to_string());
    refused(client.execute("UPDATE accounts SET id = 11 WHERE id = $1", &[&other]).await, "23505")?;
    ensure!(
        client.execute("UPDATE accounts SET id = 10, balance = 1000, note = NULL WHERE id = $1", &[&other]).await? == 1
    );
    Ok(())
}

async fn administration(cluster: &Cluster) -> Result<()> {
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

async fn churn(cluster: &Cluster) -> Result<()> {
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
