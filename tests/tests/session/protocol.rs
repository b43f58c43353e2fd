//! What travels on the wire: both protocols, pipelines, prepared statements, portals, cursors, long answers.

use anyhow::{ensure, Context as _, Result};
use futures_util::future::{join_all, try_join_all};
use futures_util::StreamExt as _;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::sql;
use tokio_postgres::SimpleQueryMessage;

use super::{connect, exact_or_refused, refused, two_shards, ACCOUNTS};

pub async fn simple_protocol(cluster: &Cluster) -> Result<()> {
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

pub async fn values(cluster: &Cluster) -> Result<()> {
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
    Ok(())
}

pub async fn pipelines(cluster: &Cluster) -> Result<()> {
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
pub async fn prepared_over_few_connections(cluster: &Cluster) -> Result<()> {
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

pub async fn portals(cluster: &Cluster) -> Result<()> {
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

pub async fn cursors(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let (a, b) = two_shards(cluster).await?;
    for (what, query, expected) in [
        ("a cursor over no table", "SELECT i FROM generate_series(1, 9) i".to_string(), ["1", "2", "3", "4"]),
        (
            "a cursor over one shard",
            format!("SELECT i FROM accounts, generate_series(1, 9) i WHERE id = {a} ORDER BY i"),
            ["1", "2", "3", "4"],
        ),
        ("a cursor over both shards", "SELECT id FROM accounts ORDER BY id LIMIT 9".to_string(), ["1", "2", "3", "4"]),
    ] {
        client.batch_execute("BEGIN").await?;
        let declared = client.batch_execute(&format!("DECLARE c CURSOR FOR {query}")).await;
        if exact_or_refused(what, declared)?.is_some() {
            ensure!(sql::column(&client, "FETCH 4 FROM c").await? == expected, "{what}");
            ensure!(sql::column(&client, "FETCH ALL FROM c").await?.len() == 5, "{what}");
            client.batch_execute("CLOSE c; COMMIT").await?;
        } else {
            client.batch_execute("ROLLBACK").await?;
        }
    }
    let (code, _) = sql::failure(&client, "FETCH 1 FROM c").await?;
    ensure!(code == "34000", "{code}");
    // Side by side on both shards, with and without HOLD; a name that is free again may go elsewhere.
    let declare = |name: &str, hold: &str, id: i64| {
        format!("DECLARE {name} CURSOR {hold} FOR SELECT id, i FROM accounts, generate_series(1, 3) i WHERE id = {id} ORDER BY i")
    };
    client.batch_execute(&declare("\"On A\"", "WITH HOLD", a)).await?;
    client.batch_execute("BEGIN").await?;
    client.batch_execute(&declare("on_b", "", b)).await?;
    client.batch_execute(&declare("held_b", "WITH HOLD", b)).await?;
    for (cursor, id) in [("\"On A\"", a), ("on_b", b), ("held_b", b)] {
        ensure!(sql::value(&client, &format!("FETCH NEXT FROM {cursor}")).await? == id.to_string(), "{cursor}");
    }
    client.batch_execute("CLOSE on_b").await?;
    client.batch_execute(&declare("on_b", "", a)).await?;
    let fetched = client.query("FETCH ALL FROM on_b", &[]).await?;
    ensure!(fetched.len() == 3 && fetched[0].get::<_, i64>(0) == a, "{fetched:?}");
    client.batch_execute("COMMIT").await?;
    ensure!(sql::failure(&client, "FETCH 1 FROM on_b").await?.0 == "34000");
    for (cursor, id) in [("\"On A\"", a), ("held_b", b)] {
        ensure!(sql::column(&client, &format!("FETCH ALL FROM {cursor}")).await? == [id.to_string(), id.to_string()]);
    }
    client.batch_execute("CLOSE ALL").await?;
    for cursor in ["\"On A\"", "held_b"] {
        ensure!(sql::failure(&client, &format!("FETCH 1 FROM {cursor}")).await?.0 == "34000", "{cursor}");
    }
    Ok(())
}

/// Who prepares after a schema change gets what the table is then, also where others had prepared the same text.
pub async fn prepared_after_a_schema_change(cluster: &Cluster) -> Result<()> {
    let (a, b) = two_shards(cluster).await?;
    let (before, after) = (connect(cluster).await?, connect(cluster).await?);
    before.batch_execute("CREATE TABLE widening (id bigint PRIMARY KEY)").await?;
    before.batch_execute("SELECT create_distributed_table('widening', 'id')").await?;
    before.batch_execute(&format!("INSERT INTO widening VALUES ({a}), ({b})")).await?;
    let text = "SELECT * FROM widening WHERE id = $1";
    for columns in 1..4 {
        let narrow = before.prepare(text).await?;
        for id in [a, b] {
            ensure!(before.query_one(&narrow, &[&id]).await?.len() == columns);
        }
        after.batch_execute(&format!("ALTER TABLE widening ADD COLUMN c{columns} int DEFAULT 7")).await?;
        for client in [&before, &after] {
            let wide = client.prepare(text).await?;
            for id in [a, b] {
                ensure!(client.query_one(&wide, &[&id]).await?.len() == columns + 1, "{columns} columns and one");
            }
        }
    }
    before.batch_execute("DROP TABLE widening").await?;
    Ok(())
}

pub async fn large(cluster: &Cluster) -> Result<()> {
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
