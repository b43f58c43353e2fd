//! TPC-H's queries: over shards, with all rows on one of them and while rows move, each answer is that of one PostgreSQL with the
//! same rows.

mod data;
mod queries;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options};
use ringway_tests::demo::watch::phase;
use ringway_tests::scenario::mover::{Command, Mover, Order};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};
use tokio_postgres::Client;

use queries::{Answer, Query};

const SCHEMA: &str = include_str!("schema.sql");
const QUERIES: &str = include_str!("queries.sql");
const QUERY_COUNT: usize = 22;
/// Sharded tables, their keys and keyspaces.
const SHARDED: [(&str, &str, &str); 5] = [
    ("orders", "o_orderkey", "orders"),
    ("lineitem", "l_orderkey", "orders"),
    ("customer", "c_custkey", "customers"),
    ("part", "p_partkey", "parts"),
    ("partsupp", "ps_partkey", "parts"),
];
const KEYSPACES: [&str; 3] = ["orders", "customers", "parts"];
/// The queries, and what one PostgreSQL answers.
type Expected = Vec<(Query, Answer)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_those_of_one_postgresql() -> Result<()> {
    let _turn = turn().await?;
    let expected = expected().await?;
    let mut stages = Stages::default();
    for (shards, supplier_is_reference) in [(1, true), (2, false), (4, true)] {
        let cluster = start(shards, supplier_is_reference).await?;
        let client = sql::connect(&cluster.dsn("postgres")).await?;
        stages.run(&format!("{shards} shards"), compared(&client, &expected)).await;
        if shards == 2 {
            println!("{}", tiers(&client, &expected).await?);
            stages.run("while orders move", moving(&cluster, &client, &expected)).await;
            stages.run("all rows on one shard", skewed(&cluster, &client, &expected)).await;
            stages.run("every row is where it belongs", async { cluster.shardctl(&["verify"]).await.map(drop) }).await;
        }
        drop(client);
        cluster.stop().await?;
    }
    stages.finish()
}

async fn expected() -> Result<Expected> {
    let single = single_postgres().await?;
    let client = sql::connect(&single.dsn("postgres")).await?;
    client.batch_execute(SCHEMA).await?;
    load(&client).await?;
    let queries = queries::read(QUERIES)?;
    ensure!(queries.len() == QUERY_COUNT, "{} queries", queries.len());
    let mut expected = Vec::with_capacity(queries.len());
    for query in queries {
        let answer = queries::ask(&client, &query.sql).await.with_context(|| query.name.clone())?;
        ensure!(answer.has_values(), "query {} finds nothing: {answer:?}", query.name);
        expected.push((query, answer));
    }
    Ok(expected)
}

async fn load(client: &Client) -> Result<()> {
    for statement in data::load() {
        let shown: String = statement.chars().take(200).collect();
        client.batch_execute(&statement).await.context(shown)?;
    }
    Ok(())
}

async fn start(shards: u16, supplier_is_reference: bool) -> Result<Cluster> {
    let cluster = Cluster::start(Options { shards, ..Options::default() }).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in SCHEMA.split_inclusive(';').filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await.context(statement)?;
    }
    for (table, key, keyspace) in SHARDED {
        cluster.shardctl(&["table", "shard", table, "--key", key, "--keyspace", keyspace]).await?;
    }
    let references = ["region", "nation", "supplier"];
    for table in &references[..if supplier_is_reference { 3 } else { 2 }] {
        cluster.shardctl(&["table", "reference", table]).await?;
    }
    load(&client).await?;
    Ok(cluster)
}

/// All queries; what differs is told together.
async fn compared(client: &Client, expected: &Expected) -> Result<()> {
    let mut wrong = Vec::new();
    for (query, theirs) in expected {
        match queries::ask(client, &query.sql).await {
            Err(error) => wrong.push(format!("query {}: {error:#}", query.name)),
            Ok(ours) if !ours.is_same(theirs, query.ordered) => {
                wrong.push(format!("query {}\nours:   {ours:?}\ntheirs: {theirs:?}", query.name));
            }
            Ok(_) => {}
        }
    }
    ensure!(wrong.is_empty(), "{} of {} queries:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
    Ok(())
}

/// Where each query goes, and how many rows of each table it gathers.
async fn tiers(client: &Client, expected: &Expected) -> Result<String> {
    let mut lines = Vec::new();
    for (query, _) in expected {
        let route = sql::column(client, &format!("EXPLAIN (ROUTE) {}", query.sql)).await?;
        let tier = route.iter().find(|line| line.starts_with("Tier:")).context("a route without a tier")?;
        lines.push(format!("query {:<9} {tier}", query.name));
        for fragment in route.iter().filter_map(|line| line.strip_prefix("Fragment ")) {
            let (_, fragment) = fragment.split_once(": ").context("a fragment without a query")?;
            let count = sql::value(client, &format!("SELECT count(*) FROM ({fragment}) AS fragment")).await?;
            let (_, table) = fragment.split_once(" FROM ").context("a fragment without FROM")?;
            lines.push(format!("    {count:>5} rows of {table}"));
        }
    }
    Ok(lines.join("\n"))
}

/// Half of a shard's orders move, by hand: in the backfill, before and after the cutover, after a rollback, and at the end.
async fn moving(cluster: &Cluster, client: &Client, expected: &Expected) -> Result<()> {
    let mover = Mover::new(cluster.grpc());
    // The backfill does not get past rows that somebody holds: it ends when the queries have been answered.
    let holder = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    holder.batch_execute("BEGIN; SELECT FROM public.lineitem FOR UPDATE").await?;
    let id = mover.start(&Order::half("s1", "s2").of("orders")).await?;
    mover.reach(id, &["backfilling"]).await?;
    compared(client, expected).await.context("backfilling")?;
    let status = mover.status(id).await?;
    ensure!(phase(&status) == "backfilling", "a round ended when the move was {}", phase(&status));
    holder.batch_execute("ROLLBACK").await?;
    let mut rounds = 0;
    while phase(&mover.status(id).await?) != "ready" {
        compared(client, expected).await.context("before the move is ready")?;
        rounds += 1;
    }
    println!("  {rounds} more rounds before the move was ready");
    compared(client, expected).await.context("ready")?;
    for (command, phase) in [
        (Command::CutOver, "switched"),
        (Command::RollBack, "ready"),
        (Command::CutOver, "switched"),
        (Command::Complete, "done"),
    ] {
        mover.drive(id, command, phase).await?;
        compared(client, expected).await.with_context(|| format!("{command:?}: {phase}"))?;
    }
    Ok(())
}

/// First `s2` holds all rows, and `s1`, where queries run, none; then the other way.
async fn skewed(cluster: &Cluster, client: &Client, expected: &Expected) -> Result<()> {
    let mover = Mover::new(cluster.grpc());
    for (source, target) in [("s1", "s2"), ("s2", "s1")] {
        for keyspace in KEYSPACES {
            let id = mover.start(&Order::all(source, target).of(keyspace)).await?;
            mover.reach(id, &["ready"]).await?;
            mover.drive(id, Command::CutOver, "switched").await?;
            mover.drive(id, Command::Complete, "done").await?;
        }
        let shard = sql::connect(&cluster.shard_dsn(source).await?).await?;
        for (table, ..) in SHARDED {
            let left = sql::value(&shard, &format!("SELECT count(*) FROM public.{table}")).await?;
            ensure!(left == "0", "{left} rows of {table} are left on {source}");
        }
        compared(client, expected).await.with_context(|| format!("all rows on {target}"))?;
    }
    Ok(())
}
