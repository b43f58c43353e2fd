//! Who is told what, and when.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{frame, query, strings};
use ringway_tests::scenario::{sql, until};

use super::{asks, connect, heard, hears, listener, nothing_more, ARRIVES_MAX};

pub async fn idle(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    let mut first = listener(port, &["news"]).await?;
    let mut second = listener(port, &["news", "other"]).await?;
    let client = connect(cluster).await?;
    client.batch_execute("NOTIFY news, 'one'").await?;
    client.execute("SELECT pg_notify('news', $1)", &[&"two"]).await?;
    client.batch_execute("NOTIFY other; NOTIFY nobody, 'x'").await?;
    client.batch_execute("DO $$ BEGIN PERFORM pg_notify('news', 'three'); NOTIFY news, 'four'; END $$").await?;
    for expected in ["news one", "news two", "news three", "news four"] {
        let got = hears(&mut first).await?;
        ensure!(got == expected, "{got} instead of {expected}");
    }
    for expected in ["news one", "news two", "other ", "news three", "news four"] {
        let got = hears(&mut second).await?;
        ensure!(got == expected, "{got} instead of {expected}");
    }
    // Its own come before ReadyForQuery, in both protocols.
    let (tags, with_it) = asks(&mut first, &query("NOTIFY news, 'mine'")).await?;
    ensure!(tags == "CAZ" && with_it == ["news mine"], "{tags} {with_it:?}");
    let extended = [
        frame(b'P', &[strings(&["", "SELECT pg_notify('news', 'mine too')"]), vec![0, 0]].concat()),
        frame(b'B', &[0, 0, 0, 0, 0, 0, 0, 0]),
        frame(b'E', &[0, 0, 0, 0, 0]),
        frame(b'S', &[]),
    ];
    let (tags, with_it) = asks(&mut first, &extended.concat()).await?;
    ensure!(tags == "12DCAZ" && with_it == ["news mine too"], "{tags} {with_it:?}");
    // Whose process is told is none that a client takes for its own.
    ensure!(hears(&mut second).await? == "news mine" && hears(&mut second).await? == "news mine too");
    // Those of one transaction that are alike are one.
    client.batch_execute("BEGIN; NOTIFY news, 'twice'; NOTIFY news, 'twice'; NOTIFY news, 'once'; COMMIT").await?;
    for raw in [&mut first, &mut second] {
        ensure!(hears(raw).await? == "news twice" && hears(raw).await? == "news once");
        nothing_more(raw).await?;
    }
    Ok(())
}

pub async fn transactions(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    let client = connect(cluster).await?;
    let mut raw = listener(port, &[]).await?;
    // LISTEN begins at its commit.
    asks(&mut raw, &query("BEGIN")).await?;
    asks(&mut raw, &query("LISTEN a")).await?;
    client.batch_execute("NOTIFY a, 'early'").await?;
    let (tags, _) = asks(&mut raw, &query("SELECT pg_listening_channels()")).await?;
    ensure!(tags == "TCZ", "{tags}: it listens before the commit");
    let (tags, with_it) = asks(&mut raw, &query("COMMIT")).await?;
    ensure!(tags == "CZ", "{tags} {with_it:?}");
    client.batch_execute("NOTIFY a, 'late'").await?;
    ensure!(hears(&mut raw).await? == "a late");
    // What is undone does not listen.
    for undone in ["BEGIN; LISTEN b; ROLLBACK", "BEGIN; LISTEN b; SELECT 1/0; COMMIT", "LISTEN b; SELECT 1/0"] {
        asks(&mut raw, &query(undone)).await?;
        asks(&mut raw, &query("ROLLBACK")).await?;
    }
    for statement in
        ["BEGIN", "LISTEN kept", "SAVEPOINT x", "LISTEN b", "UNLISTEN a", "ROLLBACK TO x", "LISTEN c", "COMMIT"]
    {
        ensure!(raw.ask(&query(statement)).await?.is_none(), "{statement}");
    }
    client.batch_execute("NOTIFY b; NOTIFY a, 'still'; NOTIFY c; NOTIFY kept").await?;
    for expected in ["a still", "c ", "kept "] {
        let got = hears(&mut raw).await?;
        ensure!(got == expected, "{got} instead of {expected}");
    }
    // In a transaction nothing is told, at its end all.
    asks(&mut raw, &query("BEGIN")).await?;
    for text in ["1", "2"] {
        client.batch_execute(&format!("NOTIFY a, '{text}'")).await?;
        let (tags, with_it) = asks(&mut raw, &query("SELECT count(*) FROM accounts")).await?;
        ensure!(with_it.is_empty(), "{tags} {with_it:?}");
    }
    asks(&mut raw, &query("NOTIFY a, 'own'")).await?;
    let (tags, with_it) = asks(&mut raw, &query("COMMIT")).await?;
    ensure!(tags == "CAAAZ" && with_it == ["a 1", "a 2", "a own"], "{tags} {with_it:?}");
    // What the transaction of a session's first LISTEN has notified is its own.
    let mut first = listener(port, &[]).await?;
    let (tags, with_it) =
        asks(&mut first, &query("BEGIN; NOTIFY d, 'before'; LISTEN d; NOTIFY d, 'after'; COMMIT")).await?;
    ensure!(tags == "CCCCCAAZ" && with_it == ["d before", "d after"], "{tags} {with_it:?}");
    // One that listens and notifies hears itself.
    let (_, with_it) = asks(&mut raw, &query("BEGIN; NOTIFY d, 'self'; LISTEN d; COMMIT")).await?;
    ensure!(with_it == ["d self"], "{with_it:?}");
    let (_, with_it) = asks(&mut raw, &query("BEGIN; NOTIFY a, 'undone'; ROLLBACK")).await?;
    ensure!(with_it.is_empty(), "{with_it:?}");
    // In a failed transaction nothing is told, nor accepted.
    asks(&mut raw, &query("BEGIN")).await?;
    asks(&mut raw, &query("SELECT 1/0")).await?;
    client.batch_execute("NOTIFY a, 'failed'").await?;
    ensure!(raw.ask(&query("LISTEN x")).await?.as_deref() == Some("25P02"));
    asks(&mut raw, &query("ROLLBACK")).await?;
    // It may have come with the answer.
    nothing_more_but(&mut raw, "a failed").await
}

async fn nothing_more_but(raw: &mut ringway_tests::scenario::raw::Raw, expected: &str) -> Result<()> {
    asks(raw, &query("LISTEN last_of_all")).await?;
    let (_, with_it) = asks(raw, &query("NOTIFY last_of_all")).await?;
    let others: Vec<_> = with_it.iter().filter(|heard| *heard != "last_of_all ").collect();
    ensure!(others.is_empty() || others == [expected], "{with_it:?}");
    Ok(())
}

pub async fn pipelines(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let mut raw = listener(cluster.listen_port(), &[]).await?;
    let execute = |sql: &str| {
        [
            frame(b'P', &[strings(&["", sql]), vec![0, 0]].concat()),
            frame(b'B', &[0, 0, 0, 0, 0, 0, 0, 0]),
            frame(b'E', &[0, 0, 0, 0, 0]),
        ]
        .concat()
    };
    // What fails undoes what went before it up to Sync.
    let failing =
        [execute("LISTEN p"), execute("NOTIFY q, 'undone'"), execute("SELECT 1/0"), frame(b'S', &[])].concat();
    let (tags, _) = asks(&mut raw, &failing).await?;
    ensure!(tags.contains('E') && tags.ends_with('Z'), "{tags}");
    asks(&mut raw, &query("LISTEN q")).await?;
    client.batch_execute("NOTIFY p, 'unheard'; NOTIFY q, 'heard'").await?;
    let got = hears(&mut raw).await?;
    ensure!(got == "q heard", "{got}");
    let both = [execute("LISTEN p"), execute("NOTIFY p, 'own'"), frame(b'S', &[])].concat();
    let (tags, with_it) = asks(&mut raw, &both).await?;
    ensure!(tags == "12C12CAZ" && with_it == ["p own"], "{tags} {with_it:?}");
    // In the midst of a pipeline nothing is told.
    raw.send(&[execute("SELECT 1"), frame(b'H', &[])].concat()).await?;
    for expected in *b"12DC" {
        let message = raw.message().await?.context("closed")?;
        ensure!(message.tag == expected, "{message:?}");
    }
    client.batch_execute("NOTIFY p, 'later'").await?;
    let (tags, with_it) = asks(&mut raw, &[execute("SELECT 2"), frame(b'S', &[])].concat()).await?;
    ensure!(tags.starts_with("12DC"), "{tags}");
    let got = match with_it.first() {
        Some(got) => got.clone(),
        None => hears(&mut raw).await?,
    };
    ensure!(got == "p later", "{got}");
    nothing_more(&mut raw).await
}

pub async fn unlisten(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    for leave in ["UNLISTEN b; UNLISTEN a; UNLISTEN never", "UNLISTEN *", "DISCARD ALL", "BEGIN; UNLISTEN *; COMMIT"] {
        let mut raw = listener(cluster.listen_port(), &["b", "a", "b"]).await?;
        raw.send(&query("SELECT * FROM pg_listening_channels()")).await?;
        let answer = raw.until_ready().await?;
        let rows: Vec<_> =
            answer.iter().filter(|message| message.tag == b'D').map(|row| row.body[6..].to_vec()).collect();
        ensure!(rows == [b"b".to_vec(), b"a".to_vec()], "{rows:?}");
        client.batch_execute("NOTIFY a, '1'").await?;
        ensure!(hears(&mut raw).await? == "a 1");
        ensure!(raw.ask(&query(leave)).await?.is_none(), "{leave}");
        client.batch_execute("NOTIFY a, '2'; NOTIFY b, '3'").await?;
        let (tags, _) = asks(&mut raw, &query("SELECT pg_listening_channels()")).await?;
        ensure!(tags == "TCZ", "{leave}: {tags}");
        nothing_more(&mut raw).await.with_context(|| leave.to_owned())?;
    }
    for refused in ["SELECT count(*) FROM pg_listening_channels()", "DO $$ BEGIN LISTEN a; END $$"] {
        ensure!(sql::failure(&client, refused).await?.0 == "0A000", "{refused}");
    }
    Ok(())
}

pub async fn names(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let mut raw = listener(cluster.listen_port(), &["MiXed", "\"MiXed\"", "\"quote\"\"d ü\""]).await?;
    let long = "x".repeat(70);
    raw.send(&query(&format!("LISTEN {long}"))).await?;
    let answer = raw.until_ready().await?;
    let notice = answer.iter().find(|message| message.tag == b'N').context("no notice of a long name")?;
    ensure!(notice.sqlstate() == "42622" && notice.field(b'S').as_deref() == Some("NOTICE"), "{notice:?}");
    client.batch_execute(&format!("NOTIFY mixed, '1'; NOTIFY \"MiXed\", '2'; NOTIFY {long}, '3'")).await?;
    client.batch_execute("SELECT pg_notify('quote\"d ü', '4')").await?;
    for expected in ["mixed 1", "MiXed 2", &format!("{} 3", "x".repeat(63)), "quote\"d ü 4"] {
        let got = hears(&mut raw).await?;
        ensure!(got == expected, "{got} instead of {expected}");
    }
    for wrong in ["LISTEN", "LISTEN select", "LISTEN a.b", "LISTEN 'a'", "UNLISTEN", "LISTEN *"] {
        ensure!(raw.ask(&query(wrong)).await?.as_deref() == Some("42601"), "{wrong}");
    }
    Ok(())
}

/// Ids of accounts on each shard.
async fn ids(cluster: &Cluster) -> Result<Vec<Vec<i64>>> {
    let mut ids = Vec::new();
    for shard in ["s1", "s2"] {
        let service = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        let rows = service.query("SELECT id FROM public.accounts WHERE id <= 100 ORDER BY id", &[]).await?;
        ids.push(rows.iter().map(|row| row.get(0)).collect());
    }
    Ok(ids)
}

pub async fn triggers(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let mut raw = listener(cluster.listen_port(), &["changes"]).await?;
    for ids in ids(cluster).await? {
        for id in ids.iter().take(10) {
            client.execute("UPDATE accounts SET balance = 7 WHERE id = $1", &[id]).await?;
            let got = hears(&mut raw).await?;
            ensure!(got == format!("changes {id} 7"), "{got} for {id}");
        }
        // The listener's own.
        let (tags, with_it) =
            asks(&mut raw, &query(&format!("UPDATE accounts SET balance = 8 WHERE id = {}", ids[0]))).await?;
        ensure!(tags == "CAZ" && with_it == [format!("changes {} 8", ids[0])], "{tags} {with_it:?}");
    }
    nothing_more(&mut raw).await?;
    // A copy on every shard would tell it once each.
    client.batch_execute("CREATE TABLE labels (id int PRIMARY KEY, balance int)").await?;
    client.batch_execute("SELECT create_reference_table('labels')").await?;
    let trigger = "CREATE TRIGGER tell AFTER INSERT ON labels FOR EACH ROW EXECUTE FUNCTION tell()";
    ensure!(sql::failure(&client, trigger).await?.0 == "0A000");
    client.batch_execute("DROP TABLE labels").await?;
    Ok(())
}

pub async fn both_shards(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let ids = ids(cluster).await?;
    let (one, two) = (ids[0][0], ids[1][0]);
    let mut raw = listener(cluster.listen_port(), &["changes", "done"]).await?;
    // NOTIFY is the first shard's, which decides the commit. (The rows' triggers are not wanted here.)
    client.batch_execute("ALTER TABLE accounts DISABLE TRIGGER tell").await?;
    let write = |id: i64| format!("UPDATE accounts SET balance = 9 WHERE id = {id}");
    client.batch_execute(&format!("BEGIN; {}; NOTIFY done, 'yes'; {}; COMMIT", write(two), write(one))).await?;
    ensure!(hears(&mut raw).await? == "done yes");
    client.batch_execute(&format!("BEGIN; {}; SELECT pg_notify('done', 'again'); COMMIT", write(two))).await?;
    ensure!(hears(&mut raw).await? == "done again");
    client.batch_execute(&format!("BEGIN; {}; {}; NOTIFY done, 'no'; ROLLBACK", write(one), write(two))).await?;
    client.batch_execute("ALTER TABLE accounts ENABLE TRIGGER tell").await?;
    nothing_more(&mut raw).await?;
    // One shard's triggers notify: it decides, whichever it is.
    for (notifies, other) in [(one, two), (two, one)] {
        let quiet = format!("INSERT INTO accounts VALUES ({other}, 0) ON CONFLICT DO NOTHING");
        client.batch_execute(&format!("BEGIN; {}; {quiet}; COMMIT", write(notifies))).await?;
        ensure!(hears(&mut raw).await? == format!("changes {notifies} 9"));
        client.batch_execute(&format!("BEGIN; {quiet}; {}; COMMIT", write(notifies))).await?;
        ensure!(hears(&mut raw).await? == format!("changes {notifies} 9"));
    }
    nothing_more(&mut raw).await?;
    // Two shards that have notified: one of them cannot be prepared. Refused, nothing told, nothing changed.
    for many in [
        "UPDATE accounts SET balance = 11".to_owned(),
        format!("BEGIN; UPDATE accounts SET balance = 11 WHERE id = {one}; UPDATE accounts SET balance = 11 WHERE id = {two}; COMMIT"),
    ] {
        let error = client.batch_execute(&many).await.err().context("it was done")?;
        let db = error.as_db_error().with_context(|| format!("{error:?}"))?;
        ensure!(db.code().code() == "0A000" && db.hint().is_some() && db.detail().is_some(), "{db:?}");
        client.batch_execute("ROLLBACK").await?;
    }
    ensure!(sql::value(&client, "SELECT count(*) FROM accounts WHERE balance = 11").await? == "0");
    nothing_more(&mut raw).await
}

pub async fn burst(cluster: &Cluster) -> Result<()> {
    const MANY: usize = 10_000;
    let client = connect(cluster).await?;
    let mut raw = listener(cluster.listen_port(), &["burst"]).await?;
    let notify = format!("SELECT pg_notify('burst', i::text) FROM generate_series(1, {MANY}) i");
    client.batch_execute(&notify).await?;
    for expected in 1..=MANY {
        let got = hears(&mut raw).await?;
        ensure!(got == format!("burst {expected}"), "{got} instead of {expected}");
    }
    // The same from many sessions: the order of each is kept.
    let notifiers = (0..8).map(|number| async move {
        let client = connect(cluster).await?;
        for i in 0..100 {
            client.batch_execute(&format!("NOTIFY burst, '{number} {i}'")).await?;
        }
        anyhow::Ok(())
    });
    let notifying = futures_util::future::try_join_all(notifiers);
    let hearing = async {
        let mut next = [0; 8];
        for _ in 0..800 {
            let got = hears(&mut raw).await?;
            let mut words = got.split(' ').skip(1);
            let number: usize = words.next().context("a number")?.parse()?;
            ensure!(words.next() == Some(next[number].to_string().as_str()), "{got} after {next:?}");
            next[number] += 1;
        }
        Ok(())
    };
    tokio::try_join!(notifying, hearing)?;
    nothing_more(&mut raw).await
}

/// Connections of gateways to a shard: that listen, and all.
async fn connections(cluster: &Cluster, shard: &str) -> Result<(i64, i64)> {
    let service = sql::connect(&cluster.shard_dsn(shard).await?).await?;
    let sql = "SELECT count(*) FILTER (WHERE application_name = 'ringway-gateway-listener'), count(*) \
               FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let row = service.query_one(sql, &[]).await?;
    Ok((row.get(0), row.get(1)))
}

pub async fn many(cluster: &Cluster) -> Result<()> {
    const LISTENERS: usize = 500;
    let client = connect(cluster).await?;
    let listeners = futures_util::future::try_join_all((0..LISTENERS).map(|number| {
        let own = format!("own_{number}");
        async move { listener(cluster.listen_port(), &["all_of_them", &own]).await }
    }));
    let mut listeners = listeners.await?;
    for shard in ["s1", "s2"] {
        let (listening, all) = connections(cluster, shard).await?;
        ensure!(listening == 1 && all < 100, "{shard}: {listening} that listen, {all} in all");
    }
    client.batch_execute("NOTIFY all_of_them, 'x'; NOTIFY own_7, 'y'").await?;
    for (number, raw) in listeners.iter_mut().enumerate() {
        ensure!(hears(raw).await? == "all_of_them x");
        if number == 7 {
            ensure!(hears(raw).await? == "own_7 y");
        }
    }
    let console = sql::connect(&format!("postgresql://postgres@127.0.0.1:{}/ringway", cluster.listen_port())).await?;
    ensure!(sql::column(&console, "SHOW LISTENERS").await?.len() == LISTENERS + 1);
    drop(listeners);
    until("nobody listens", ARRIVES_MAX, || async {
        let none = sql::column(&console, "SHOW LISTENERS").await?.is_empty();
        Ok(none && connections(cluster, "s1").await?.0 == 0 && connections(cluster, "s2").await?.0 == 0)
    })
    .await
}

pub async fn psql(cluster: &Cluster) -> Result<()> {
    let output = tokio::process::Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", "LISTEN a", "-c", "NOTIFY a, 'x'"])
        .args(["-c", "SELECT pg_listening_channels()", &cluster.dsn("postgres")])
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8(output.stdout)?;
    let told = said.starts_with("Asynchronous notification \"a\" with payload \"x\" received from server process");
    ensure!(output.status.success() && told && said.ends_with("\na\n"), "{said:?}");
    // Drivers ask in the extended protocol.
    let client = connect(cluster).await?;
    client.batch_execute("LISTEN \"It's\"; LISTEN b").await?;
    let rows = client.query("SELECT pg_listening_channels() AS channel", &[]).await?;
    let channels: Vec<String> = rows.iter().map(|row| row.get("channel")).collect();
    ensure!(channels == ["It's", "b"], "{channels:?}");
    Ok(())
}

pub async fn pool_modes(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    for mode in ["session", "transaction", "statement"] {
        let gateway = Gateway::start(cluster, &["--pool-mode", mode]).await?;
        gateway.serves("postgres").await?;
        let mut raw = listener(gateway.port, &["modes"]).await?;
        client.batch_execute(&format!("NOTIFY modes, '{mode}'")).await?;
        ensure!(hears(&mut raw).await? == format!("modes {mode}"));
        let (tags, with_it) = asks(&mut raw, &query("NOTIFY modes, 'own'")).await?;
        ensure!(tags == "CAZ" && with_it == ["modes own"], "{mode}: {tags}");
        let (tags, _) = asks(&mut raw, &query("SELECT 1")).await?;
        ensure!(tags == "TDCZ", "{mode}: {tags}");
    }
    let message = ringway_tests::scenario::raw::Message { tag: b'Z', body: vec![b'I'] };
    ensure!(heard(&message).is_none());
    Ok(())
}
