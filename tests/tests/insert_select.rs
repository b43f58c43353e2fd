//! INSERT ... SELECT whose rows travel between shards: types as on one PostgreSQL, prepared statements, limits, and rows that move
//! meanwhile; every row is where its key belongs.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};
use tokio_postgres::{Client, SimpleQueryMessage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_travel_to_their_owners() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let single = single_postgres().await?;
    let mut client = sql::connect(&cluster.dsn("postgres")).await?;
    let other = sql::connect(&single.dsn("postgres")).await?;
    let mut stages = Stages::default();
    stages.run("as on one PostgreSQL", compared(&client, &other)).await;
    stages.run("prepared statements", prepared(&client)).await;
    stages.run("rows of RETURNING in pieces", pieces(&mut client)).await;
    stages.run("the bound", bound(&client)).await;
    stages.run("the rights of who inserts", rights(&cluster, &client)).await;
    stages.run("while rows move", moving(&cluster, &client)).await;
    stages
        .run("every row is where it belongs", async {
            cluster.shardctl(&["verify"]).await?;
            Ok(())
        })
        .await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// SQLSTATE, or rows and command tags' counts.
async fn answer(client: &Client, statement: &str) -> Result<String> {
    let messages = match client.simple_query(statement).await {
        Err(error) => return Ok(sql::code(&error)),
        Ok(messages) => messages,
    };
    let mut lines: Vec<String> = messages
        .iter()
        .map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                format!("{:?}", (0..row.len()).map(|column| row.get(column)).collect::<Vec<_>>())
            }
            SimpleQueryMessage::CommandComplete(count) => format!("{count} rows"),
            _ => String::new(),
        })
        .collect();
    lines.sort();
    Ok(lines.join(";"))
}

async fn compared(client: &Client, other: &Client) -> Result<()> {
    for statement in [
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE DOMAIN short AS varchar(3)",
        "CREATE DOMAIN day AS date CHECK (VALUE > '2000-01-01')",
        "CREATE TABLE typed (k int PRIMARY KEY, m mood, ms mood[], p pair, s short, d day, b bit(3), v varchar(3), c char(3), \
         n numeric(5, 1), f float4, j jsonb, x xml, i interval, r int4range, t timestamptz, bx box, o regclass)",
        "CREATE TABLE texts (k varchar(4) PRIMARY KEY, v int GENERATED ALWAYS AS (length(k)) STORED, w text DEFAULT 'w')",
        "CREATE TABLE chars (k char(4) PRIMARY KEY)",
        "CREATE TABLE numbers (k numeric(6, 1) PRIMARY KEY)",
        "CREATE TABLE times (k timestamp(0) PRIMARY KEY)",
        "CREATE TABLE home (a int, b text, m mood)",
        "CREATE FUNCTION capital() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.w := upper(NEW.w); RETURN NEW; END'",
        "CREATE TRIGGER capital BEFORE INSERT ON texts FOR EACH ROW EXECUTE FUNCTION capital()",
    ] {
        client.batch_execute(statement).await.context(statement)?;
        other.batch_execute(statement).await.context(statement)?;
    }
    for table in ["typed", "texts", "chars", "numbers", "times"] {
        client.batch_execute(&format!("SELECT create_distributed_table('{table}', 'k')")).await?;
    }
    for statement in [
        "INSERT INTO home SELECT g, 'text ' || g, 'ok' FROM generate_series(1, 20) g",
        // Literals without a type, and the same as text.
        "INSERT INTO typed (k, m, ms, p, s, d) SELECT g, 'ok', '{sad,ok}', '(1,\"a b\")', 'abc', '2020-02-02' FROM generate_series(1, 9) g",
        "INSERT INTO typed (k, m) SELECT g, 'bad' FROM generate_series(11, 19) g",
        "INSERT INTO typed (k, m) SELECT g, 'ok'::text FROM generate_series(11, 19) g",
        "INSERT INTO typed (k, d) SELECT g, '1999-01-01' FROM generate_series(11, 19) g",
        "INSERT INTO typed (k, s) SELECT g, 'abcd' FROM generate_series(11, 19) g",
        "INSERT INTO typed (k, s) SELECT g, 'abc  ' FROM generate_series(11, 19) g",
        "INSERT INTO typed (k, b) SELECT g, '101' FROM generate_series(21, 29) g",
        "INSERT INTO typed (k, b) SELECT g, '10' FROM generate_series(31, 39) g",
        "INSERT INTO typed (k, b) SELECT g, B'011' FROM generate_series(31, 39) g",
        "INSERT INTO typed (k, v, c, n, f) SELECT g, 'ab', 'a', 1.25, 0.1 FROM generate_series(41, 49) g",
        "INSERT INTO typed (k, v) SELECT g, 'abcd' FROM generate_series(51, 59) g",
        "INSERT INTO typed (k, c, n, f) SELECT g, g, g / 7.0, g / 7.0::float8 FROM generate_series(51, 59) g",
        "INSERT INTO typed (k, n) SELECT g, 99999 FROM generate_series(61, 69) g",
        "INSERT INTO typed (k, j, x, i, r, t, bx, o) SELECT g, '{\"a\": [1, null]}', '<a/>', '1 day', '[1,5)', '2020-01-01 00:00+01', '(1,2),(3,4)', 'home' FROM generate_series(71, 75) g",
        "INSERT INTO typed SELECT k + 100, m, ms, p, s, d, b, v, c, n, f, j, x, i, r, t, bx, o FROM typed WHERE k < 100",
        "INSERT INTO typed (k, m) SELECT a + 200, m FROM home",
        "INSERT INTO typed (k, m) SELECT a + 300, m::text FROM home",
        "SELECT k, m, ms, p, s, d, b, v, c, n, f, j, x, i, r, t, bx, o::text FROM typed",
        // Keys as they are stored.
        "INSERT INTO typed (k) SELECT 400 + g / 2.0 FROM generate_series(1, 20, 4) g",
        "INSERT INTO typed (k) SELECT g * 1000000000::bigint FROM generate_series(1, 3) g",
        "INSERT INTO typed (k) SELECT '7' FROM generate_series(1, 1) g",
        "INSERT INTO typed (k) SELECT '700' FROM generate_series(1, 1) g",
        "INSERT INTO typed (k) SELECT true",
        "INSERT INTO texts (k) SELECT g FROM generate_series(998, 1002) g",
        "INSERT INTO texts (k) SELECT 'ab  ' || repeat(' ', g) FROM generate_series(3, 3) g",
        "INSERT INTO texts (k) SELECT 'abcd' || g FROM generate_series(3, 3) g",
        "INSERT INTO texts SELECT b::varchar(3) || a, DEFAULT FROM home",
        "INSERT INTO texts (k, w) SELECT a::text || 'q', b FROM home RETURNING *",
        "INSERT INTO texts (k, v) SELECT 'z', 1 FROM home",
        "INSERT INTO texts OVERRIDING SYSTEM VALUE SELECT 'over'",
        "INSERT INTO chars SELECT g FROM generate_series(1, 12) g",
        "INSERT INTO chars SELECT 'ä' || g || '  ' FROM generate_series(1, 5) g RETURNING k, length(k)",
        "INSERT INTO numbers SELECT g / 3.0 FROM generate_series(1, 20) g",
        "INSERT INTO numbers SELECT g + 0.04 FROM generate_series(101, 109) g RETURNING k",
        "INSERT INTO numbers SELECT g FROM generate_series(99999, 100001) g",
        "INSERT INTO times SELECT date '2020-01-01' + g FROM generate_series(1, 9) g",
        "INSERT INTO times SELECT timestamptz '2021-01-01 00:00:00.7+00' + g * interval '1 day' FROM generate_series(1, 9) g RETURNING k",
        "INSERT INTO times SELECT '2022-01-01' FROM generate_series(1, 1) g",
        "SELECT k, v, w FROM texts",
        "SELECT k FROM chars WHERE k = 'ä3'",
        "SELECT k FROM numbers WHERE k = 101.0",
        "SELECT k FROM times WHERE k = '2022-01-01'",
        "SELECT count(*) FROM numbers",
    ] {
        let (ours, theirs) = (answer(client, statement).await?, answer(other, statement).await?);
        ensure!(ours == theirs, "{statement}\nours:   {ours}\ntheirs: {theirs}");
    }
    let route = sql::column(client, "EXPLAIN (ROUTE) INSERT INTO typed (k) SELECT a FROM home").await?;
    ensure!(route.iter().any(|line| line == "Query: SELECT a FROM home"), "{route:?}");
    Ok(())
}

async fn prepared(client: &Client) -> Result<()> {
    client.batch_execute("CREATE TABLE plain (k bigint PRIMARY KEY, v text, d date, n int)").await?;
    client.batch_execute("SELECT create_distributed_table('plain', 'k')").await?;
    let insert = client
        .prepare(
            "INSERT INTO plain (k, v, n) SELECT a + $1, b || $2, $3 FROM home WHERE a <= $4 \
             ON CONFLICT (k) DO UPDATE SET n = plain.n + $3 RETURNING k, v, n",
        )
        .await?;
    for round in 1..=3 {
        let rows = client.query(&insert, &[&1000, &"ü", &5, &10]).await?;
        ensure!(rows.len() == 10, "{} rows", rows.len());
        for row in rows {
            let (k, v, n) = (row.get::<_, i64>(0), row.get::<_, String>(1), row.get::<_, i32>(2));
            ensure!(v == format!("text {}ü", k - 1000) && n == 5 * round, "{k} {v} {n}");
        }
    }
    let none: Option<String> = None;
    let shift = client.prepare("INSERT INTO plain (k, v) SELECT k + $1, $2 FROM plain WHERE k > 1000").await?;
    ensure!(client.execute(&shift, &[&5000i64, &none]).await? == 10);
    ensure!(client.execute(&shift, &[&0i64, &none]).await.is_err_and(|error| sql::code(&error) == "23505"));
    ensure!(sql::value(client, "SELECT count(*) FROM plain WHERE v IS NULL").await? == "10");
    client
        .batch_execute(
            "PREPARE one (int) AS INSERT INTO plain (k, v) SELECT a + $1, b FROM home; EXECUTE one (20000); EXECUTE one (21000)",
        )
        .await?;
    ensure!(sql::value(client, "SELECT count(*) FROM plain WHERE k > 20000").await? == "40");
    Ok(())
}

async fn pieces(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind("INSERT INTO plain (k) SELECT g FROM generate_series(30001, 30010) g RETURNING k", &[])
        .await?;
    let mut seen = Vec::new();
    for expected in [4, 4, 2] {
        let rows = transaction.query_portal(&portal, 4).await?;
        ensure!(rows.len() == expected, "{} rows instead of {expected}", rows.len());
        seen.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    seen.sort_unstable();
    ensure!(seen == (30001..=30010).collect::<Vec<i64>>(), "{seen:?}");
    transaction.commit().await?;
    ensure!(sql::value(client, "SELECT count(*) FROM plain WHERE k > 30000").await? == "10");
    Ok(())
}

async fn bound(client: &Client) -> Result<()> {
    let insert = "INSERT INTO plain (k, v) SELECT g, repeat('x', 100000) FROM generate_series(40001, 40700) g";
    let (code, message) = sql::failure(client, insert).await?;
    ensure!(code == "53400" && message.contains("insert_select_bytes_max (67108864 bytes)"), "{code} {message}");
    client.batch_execute("BEGIN; INSERT INTO plain (k) VALUES (40000), (40001), (40002)").await?;
    ensure!(sql::failure(client, insert).await?.0 == "53400");
    ensure!(sql::failure(client, "SELECT 1").await?.0 == "25P02");
    client.batch_execute("ROLLBACK").await?;
    ensure!(sql::value(client, "SELECT count(*) FROM plain WHERE k >= 40000").await? == "0");
    Ok(())
}

async fn rights(cluster: &Cluster, client: &Client) -> Result<()> {
    client.batch_execute("GRANT INSERT ON plain TO app; GRANT SELECT (a) ON home TO app").await?;
    let app = sql::connect(&cluster.dsn("app")).await?;
    app.batch_execute("INSERT INTO plain (k) SELECT a + 50000 FROM home").await?;
    ensure!(sql::failure(&app, "INSERT INTO plain (k, v) SELECT a + 51000, b FROM home").await?.0 == "42501");
    ensure!(sql::failure(&app, "INSERT INTO plain (k) SELECT a + 51000 FROM home RETURNING v").await?.0 == "42501");
    ensure!(sql::failure(&app, "INSERT INTO texts (k) SELECT a FROM home").await?.0 == "42501");
    ensure!(sql::value(client, "SELECT count(*) FROM plain WHERE k > 50000").await? == "20");
    Ok(())
}

/// Rows are read and inserted through the whole of a split: none is lost, none comes twice.
async fn moving(cluster: &Cluster, client: &Client) -> Result<()> {
    client.batch_execute("CREATE TABLE source (k bigint PRIMARY KEY, v bigint)").await?;
    client.batch_execute("CREATE TABLE target (k bigint PRIMARY KEY, v bigint)").await?;
    client.batch_execute("SELECT create_distributed_table('source', 'k')").await?;
    client.batch_execute("SELECT create_distributed_table('target', 'k', colocate_with => 'source')").await?;
    client.batch_execute("INSERT INTO source SELECT g, g FROM generate_series(1, 100) g").await?;
    let writer = sql::connect(&cluster.dsn("postgres")).await?;
    let insert =
        writer.prepare("INSERT INTO target (k, v) SELECT k + $1, v FROM source WHERE k <= $2 RETURNING v").await?;
    let spare = format!("s3={}", cluster.spare().await?);
    let topology = cluster.topology().await?;
    let keyspace = topology.keyspaces.iter().find(|k| k.family == "integer").context("no keyspace")?.name.clone();
    let ended = AtomicBool::new(false);
    let split = async {
        let done = cluster.shardctl(&["split", "s1", "--into", &spare, "--keyspace", &keyspace]).await;
        ended.store(true, Ordering::Relaxed);
        done
    };
    let write = async {
        let mut rounds = 0i64;
        while rounds < 20 || !ended.load(Ordering::Relaxed) {
            let rows = writer.query(&insert, &[&(rounds * 1000), &100i64]).await;
            let rows = rows.with_context(|| format!("round {rounds}"))?;
            let sum: i64 = rows.iter().map(|row| row.get::<_, i64>(0)).sum();
            ensure!(rows.len() == 100 && sum == 5050, "round {rounds}: {} rows, sum {sum}", rows.len());
            rounds += 1;
        }
        Ok(rounds)
    };
    let (done, rounds) = tokio::join!(split, write);
    let (done, rounds) = (done?, rounds?);
    println!("  {rounds} rounds, {}", done.lines().last().unwrap_or_default());
    ensure!(sql::value(client, "SELECT count(*) FROM target").await? == (rounds * 100).to_string());
    ensure!(sql::value(client, "SELECT sum(v) FROM target").await? == (rounds * 5050).to_string());
    Ok(())
}
