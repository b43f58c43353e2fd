//! Point reads of several clients over one connection: every answer is that of a connection of one's own.

mod answers;
mod disturbed;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::messages::{bind, describe, execute, parse, sync};
use ringway_tests::scenario::raw::{Message, Raw};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};

/// Rows of the table `items`.
const ITEMS: i64 = 200;
/// Enough that some of them are always at work at the same time.
const CLIENTS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_reads_share_connections() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    load(&cluster).await?;
    let gateway = Gateway::start(&cluster, &[]).await?;
    gateway.serves("postgres").await?;
    let mut stages = Stages::default();
    stages.run("answers as they are alone", answers::as_alone(&cluster, &gateway)).await;
    stages.run("simple queries as they are alone", answers::texts_as_alone(&cluster, &gateway)).await;
    stages.run("settings of one's own", answers::settings(&cluster, &gateway)).await;
    stages.run("one's own writes", answers::own_writes(&gateway)).await;
    stages.run("a lock that others wait for", disturbed::locked(&cluster, &gateway)).await;
    stages.run("locks of two tables", disturbed::no_deadlocks(&cluster, &gateway)).await;
    stages.run("cancelled", disturbed::cancelled(&cluster, &gateway)).await;
    stages.run("sessions that shards end", disturbed::terminated(&cluster, &gateway)).await;
    stages.run("clients that vanish", disturbed::vanished(&gateway)).await;
    stages.run("PAUSE", disturbed::paused(&gateway)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}\n{}", gateway.log(), cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn load(cluster: &Cluster) -> Result<()> {
    // So that what follows has another OID on either shard.
    let shard = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    shard.batch_execute("CREATE TABLE before (); DROP TABLE before").await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE TABLE items (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10,2), at timestamptz, tags text[], \
         feels mood, doc text, ratio real, code varchar(9), word char(5), day date, big numeric)",
        "SELECT create_distributed_table('items', 'id')",
        "CREATE TABLE notes (id bigint PRIMARY KEY, body text)",
        "SELECT create_distributed_table('notes', 'id')",
        "CREATE TABLE plain (a int, b text, c int, PRIMARY KEY (a, b))",
    ] {
        client.batch_execute(statement).await.context(statement)?;
    }
    let rows = sql::rows(1..=ITEMS, |id| {
        let doc = if id % 10 == 0 { "repeat('large ', 40000)" } else { "'small'" };
        format!(
            "{id}, 'item {id}', {id} / 4.0, '2026-01-01T00:00:00Z'::timestamptz + {id} * interval '1 h', \
             ARRAY['a', NULL, '{id}'], {}, {doc}, {id} / 10.0, 'c{id}', 'w{id}', \
             '2026-01-01'::date + {id}, {id}",
            if id % 3 == 0 { "NULL" } else { "'glad'" }
        )
    });
    client.batch_execute(&format!("INSERT INTO items VALUES {rows}")).await.context("loading items")?;
    let rows = sql::rows(1..=20i64, |id| format!("{id}, 'note {id}'"));
    client.batch_execute(&format!("INSERT INTO notes VALUES {rows}")).await.context("loading notes")?;
    client.batch_execute("INSERT INTO plain SELECT a, 'b' || a, a * 2 FROM generate_series(1, 50) AS a").await?;
    Ok(())
}

/// How many point reads have shared a connection so far.
async fn shared(gateway: &Gateway) -> Result<i64> {
    let console = sql::connect(&gateway.console("postgres")).await?;
    let messages = console.simple_query("SHOW STATS_TOTALS").await?;
    let count = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("shared_read_count").map(str::to_owned),
        _ => None,
    });
    Ok(count.context("no count")?.parse()?)
}

/// A point read, prepared under a name or sent with its text.
struct Read {
    sql: &'static str,
    formats: &'static [u16],
    named: bool,
    describes: bool,
}

impl Read {
    const fn named(sql: &'static str) -> Read {
        Read { sql, formats: &[], named: true, describes: true }
    }

    fn name(&self) -> &'static str {
        if self.named {
            "read"
        } else {
            ""
        }
    }

    async fn prepare(&self, client: &mut Raw) -> Result<()> {
        if self.named {
            client.send(&[parse(self.name(), self.sql, &[]), sync()].concat()).await?;
            let answer = client.until_ready().await?;
            ensure!(answer.first().is_some_and(|first| first.tag == b'1'), "{}: {answer:?}", self.sql);
        }
        Ok(())
    }

    async fn run(&self, client: &mut Raw, values: &[Option<&str>]) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        if !self.named {
            messages.extend(parse("", self.sql, &[]));
        }
        messages.extend(bind("", self.name(), values, self.formats));
        if self.describes {
            messages.extend(describe('P', ""));
        }
        messages.extend([execute("", 0), sync()].concat());
        client.send(&messages).await?;
        client.until_ready().await
    }
}

/// The first value of the only row, in text.
fn value(answer: &[Message]) -> Result<String> {
    let row = answer.iter().find(|message| message.tag == b'D').with_context(|| format!("{answer:?}"))?;
    let length = row.body.get(2..6).map(|length| i32::from_be_bytes([length[0], length[1], length[2], length[3]]));
    let length = usize::try_from(length.context("no value")?)?;
    Ok(String::from_utf8_lossy(&row.body[6..6 + length]).into_owned())
}

/// How many items each of the clients has read.
type Counts = [AtomicUsize; CLIENTS];

/// Reads items until it is told to stop.
async fn read_items(gateway: &Gateway, number: usize, count: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    let read = Read::named("SELECT name FROM items WHERE id = $1");
    let mut client = Raw::session(gateway.port, "postgres").await?;
    read.prepare(&mut client).await?;
    while !stop.load(Ordering::Relaxed) {
        let id = 1 + (number * 31 + count.load(Ordering::Relaxed) * 7) as i64 % ITEMS;
        let answer = read.run(&mut client, &[Some(&id.to_string())]).await?;
        ensure!(value(&answer)? == format!("item {id}"), "{id}: {answer:?}");
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The same by many clients, until `work` is done.
async fn while_reading<R>(
    gateway: &Gateway,
    counts: &Counts,
    work: impl std::future::Future<Output = Result<R>>,
) -> Result<R> {
    let before = shared(gateway).await?;
    let stop = AtomicBool::new(false);
    let clients = counts.iter().enumerate().map(|(number, count)| read_items(gateway, number, count, &stop));
    let working = async {
        let done = work.await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (read, done) = tokio::join!(futures_util::future::try_join_all(clients), working);
    let done = done?;
    read?;
    let shared = shared(gateway).await? - before;
    ensure!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 0) && shared > 0, "{counts:?}, {shared} shared");
    Ok(done)
}
