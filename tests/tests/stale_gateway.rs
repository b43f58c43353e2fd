//! A gateway that is paused during a switch and wakes up long after its lease: it neither commits a write on the old owner nor
//! answers a read from before the switch.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::mover::{Command, Mover, Order};
use ringway_tests::scenario::sick::Frozen;
use ringway_tests::scenario::{sql, traces, turn, until};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

const KEYS: i64 = 200;
const ANSWER_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_gateway_wakes_up_in_the_past() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = play(&cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// How a statement ended: its value, or the error's SQLSTATE.
type Ending = std::result::Result<String, String>;

async fn play(cluster: &Cluster) -> Result<()> {
    let fresh = sql::connect(&cluster.dsn("postgres")).await?;
    fresh.batch_execute("CREATE TABLE t (k bigint PRIMARY KEY, v text)").await?;
    fresh.batch_execute("SELECT create_distributed_table('t', 'k')").await?;
    for k in 1..=KEYS {
        fresh.execute("INSERT INTO t VALUES ($1, 'old')", &[&k]).await?;
    }
    let stale = Gateway::start(cluster, &[]).await?;
    stale.serves("postgres").await?;

    let mover = Mover::new(cluster.grpc());
    let id = mover.start(&Order::half("s1", "s2")).await?;
    let status = mover.reach(id, &["ready"]).await?;
    let arcs = status.r#move.context("a status without its move")?.arcs;
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let query =
        format!("SELECT k FROM generate_series(1::int8, {KEYS}) k WHERE {} ORDER BY k", traces::in_arcs(&arcs, "k"));
    let keys: Vec<i64> = s1.query(&query, &[]).await?.iter().map(|row| row.get(0)).collect();
    ensure!(keys.len() >= 8, "only {} keys move", keys.len());
    let outside: i64 = s1
        .query_one(&format!("SELECT min(k) FROM public.t WHERE NOT {}", traces::in_arcs(&arcs, "k")), &[])
        .await?
        .get(0);

    // Clients of the gateway that will be stale, each with another thing pending.
    let connect = || async { sql::connect(&stale.dsn("postgres")).await };
    let idle_reader = connect().await?;
    let idle_writer = connect().await?;
    let prepared_reader = connect().await?;
    let statement = prepared_reader.prepare("SELECT v FROM t WHERE k = $1").await?;
    ensure!(prepared_reader.query_one(&statement, &[&keys[6]]).await?.get::<_, String>(0) == "old");
    let open_writer = connect().await?;
    open_writer.batch_execute("BEGIN").await?;
    open_writer.execute("UPDATE t SET v = 'uncommitted' WHERE k = $1", &[&keys[2]]).await?;
    let open_elsewhere = connect().await?;
    open_elsewhere.batch_execute("BEGIN").await?;
    open_elsewhere.execute("UPDATE t SET v = 'elsewhere' WHERE k = $1", &[&outside]).await?;
    let open_reader = connect().await?;
    open_reader.batch_execute("BEGIN").await?;
    ensure!(open_reader.query_one("SELECT v FROM t WHERE k = $1", &[&keys[4]]).await?.get::<_, String>(0) == "old");
    let fanned_out = connect().await?;
    // Its answer reaches the gateway while that is paused.
    let waiting = connect().await?;
    let (k5, text) = (keys[5], "SELECT v || (SELECT '' FROM pg_sleep(1.5)) FROM t WHERE k = ");
    let answer_under_way = ask(waiting, format!("{text}{k5}"));
    until("the statement's arrival on s1", ANSWER_MAX, || async {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1.5)%' AND wait_event = 'PgSleep'";
        Ok(sql::value(&s1, query).await? == "1")
    })
    .await?;

    let frozen = Frozen::process(stale.process()?)?;
    // These wait in the paused gateway's sockets.
    let read = ask(idle_reader, format!("SELECT v FROM t WHERE k = {}", keys[0]));
    let write = ask(idle_writer, format!("UPDATE t SET v = 'stale' WHERE k = {} RETURNING v", keys[1]));
    let commit = ask(open_writer, "COMMIT".into());
    let wrote_elsewhere = ask(open_elsewhere, format!("UPDATE t SET v = 'stale' WHERE k = {} RETURNING v", keys[3]));
    let read_again = ask(open_reader, format!("SELECT v FROM t WHERE k = {}", keys[4]));
    // A write of the gateway that has woken up may come before it, and has a value of its own.
    let count = "SELECT count(*) || ' ' || count(*) FILTER (WHERE v LIKE 'new%' OR v = 'stale') FROM t";
    let counted = ask(fanned_out, count.into());
    let prepared_read = tokio::spawn({
        let k = keys[6];
        async move {
            match prepared_reader.query_one(&statement, &[&k]).await {
                Ok(row) => Ok(row.get(0)),
                Err(error) => Err(sql::code(&error)),
            }
        }
    });

    println!("switching while one gateway is paused");
    mover.drive(id, Command::CutOver, "switched").await?;
    for k in &keys {
        let written = fresh.execute("UPDATE t SET v = 'new' WHERE k = $1", &[k]).await?;
        ensure!(written == 1, "key {k}: {written} rows");
    }
    drop(frozen);

    println!("it wakes up");
    let endings = [
        ("a read that waited", ended(read).await?),
        ("a read in an open transaction", ended(read_again).await?),
        ("a prepared read", ended(prepared_read).await?),
        ("a read whose answer was under way", ended(answer_under_way).await?),
    ];
    for (what, ending) in &endings {
        println!("  {what}: {ending:?}");
        ensure!(ending.as_deref() != Ok("old"), "{what} gave the value from before the switch");
        ensure!(ending.as_ref().map_or(true, |value| value == "new"), "{what} gave {ending:?}");
    }
    let ending = ended(counted).await?;
    println!("  a count over all shards: {ending:?}");
    if let Ok(counts) = ending {
        ensure!(counts == format!("{KEYS} {}", keys.len()), "a count over all shards gave {counts}");
    }
    let ending = ended(commit).await?;
    println!("  the commit of a write to the old owner: {ending:?}");
    let value = value_of(&fresh, keys[2]).await?;
    ensure!(value == "new", "the uncommitted write came through: {value}");
    ensure!(ending.is_err(), "the commit of a lost write was acknowledged");
    for (what, ending, k) in [
        ("a write", ended(write).await?, keys[1]),
        ("a write in an open transaction", ended(wrote_elsewhere).await?, keys[3]),
    ] {
        println!("  {what}: {ending:?}");
        let value = value_of(&fresh, k).await?;
        match ending {
            // In an open transaction that has not committed yet its value is not to be seen.
            Ok(_) if what == "a write" => {
                ensure!(value == "stale", "{what} was acknowledged and is not there: {value}")
            }
            _ => ensure!(value == "new", "{what} was refused or not committed, and yet there is {value}"),
        }
        let old_owner = s1.query_one("SELECT v FROM public.t WHERE k = $1", &[&k]).await?.get::<_, String>(0);
        println!("  key {k} is {value}, on the old owner {old_owner}");
    }

    println!("it has a lease again");
    until("the paused gateway's recovery", ANSWER_MAX, || async {
        let client = sql::connect(&stale.dsn("postgres")).await?;
        for k in [keys[0], keys[6]] {
            ensure!(value_of(&client, k).await? == "new");
        }
        client.execute("UPDATE t SET v = 'again' WHERE k = $1", &[&keys[7]]).await?;
        Ok(true)
    })
    .await?;
    ensure!(value_of(&fresh, keys[7]).await? == "again", "the recovered gateway wrote elsewhere");
    mover.drive(id, Command::Complete, "done").await?;
    traces::none_stays_prepared(cluster).await?;
    cluster.shardctl(&["verify"]).await?;
    Ok(())
}

async fn value_of(client: &Client, k: i64) -> Result<String> {
    sql::value(client, &format!("SELECT v FROM t WHERE k = {k}")).await
}

fn ask(client: Client, statement: String) -> JoinHandle<Ending> {
    tokio::spawn(async move {
        match client.simple_query(&statement).await {
            Ok(messages) => Ok(messages
                .iter()
                .find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
                    _ => None,
                })
                .unwrap_or_default()),
            Err(error) => Err(sql::code(&error)),
        }
    })
}

async fn ended(task: JoinHandle<Ending>) -> Result<Ending> {
    Ok(tokio::time::timeout(ANSWER_MAX, task).await.context("a statement of the paused gateway has no end")??)
}
