//! A real PostgreSQL is the oracle: the same statements run on one server that holds all rows, and through the gateway
//! over two shards. Rows, column names and types, command tags, SQLSTATEs and transaction status must be the same, or the
//! gateway refuses with 0A000.
//!
//! What is generated is chosen by `RINGWAY_DIFFERENTIAL_SEED` and `RINGWAY_DIFFERENTIAL_STATEMENTS` (`make soak` takes many);
//! world `n` of schema, rows and statements is made of the seed plus `n` and nothing else. Every failure prints its world and is made
//! small: what it prints can be put into a .slt file.

#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/case.rs"]
mod case;
#[path = "differential/fixture.rs"]
mod fixture;
#[path = "differential/generate/mod.rs"]
mod generate;
#[path = "differential/pair.rs"]
mod pair;
#[path = "differential/random.rs"]
mod random;
#[path = "differential/score.rs"]
mod score;
#[path = "differential/shrink.rs"]
mod shrink;
#[path = "differential/shrink_tests.rs"]
mod shrink_tests;

use anyhow::{ensure, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options};
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::turn;

use case::Case;
use pair::{Outcome, Pair};
use score::Score;

const FILES: &[(&str, &str)] = &[
    ("points.slt", include_str!("differential/points.slt")),
    ("literals.slt", include_str!("differential/literals.slt")),
    ("fan_out.slt", include_str!("differential/fan_out.slt")),
    ("joins.slt", include_str!("differential/joins.slt")),
    ("aggregates.slt", include_str!("differential/aggregates.slt")),
    ("subqueries.slt", include_str!("differential/subqueries.slt")),
    ("gather.slt", include_str!("differential/gather.slt")),
    ("grammar.slt", include_str!("differential/grammar.slt")),
    ("writes.slt", include_str!("differential/writes.slt")),
    ("insert_select.slt", include_str!("differential/insert_select.slt")),
    ("transactions.slt", include_str!("differential/transactions.slt")),
    ("errors.slt", include_str!("differential/errors.slt")),
    ("copy.slt", include_str!("differential/copy.slt")),
    ("parameters.slt", include_str!("differential/parameters.slt")),
    ("names_and_keys.slt", include_str!("differential/names_and_keys.slt")),
    ("one_server.slt", include_str!("differential/one_server.slt")),
    ("beyond_rows.slt", include_str!("differential/beyond_rows.slt")),
];
/// Run last: what of it is not refused changes the schema.
const BEYOND_SHARDS: (&str, &str) = ("beyond_shards.slt", include_str!("differential/beyond_shards.slt"));

/// Worlds that are always run.
const SEED: u64 = 1_000;
const STATEMENTS: usize = 2_000;
/// Statements that two PostgreSQL servers are asked.
const STATEMENTS_OF_SERVERS: usize = 800;
/// Of the generated SELECTs that PostgreSQL accepts.
const SELECTS_REFUSED_MAX_PERCENT: usize = 1;
/// All files together.
const STATEMENTS_MIN: usize = 600;
/// Of the statements that are neither hard nor beyond what shards can hold.
const PLAIN_REFUSED_MAX_PERCENT: usize = 5;
/// Mismatches that are printed whole.
const SHOWN_MAX: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_postgresqls_or_a_refusal() -> Result<()> {
    let _turn = turn().await?;
    let single = single_postgres().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = run(single.port(), cluster.listen_port()).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop().await?;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_statements_are_answered_alike() -> Result<()> {
    let _turn = turn().await?;
    let single = single_postgres().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = generated(single.port(), cluster.listen_port(), STATEMENTS).await;
    let score = match outcome {
        Ok(score) => score,
        Err(error) => {
            eprintln!("{}", cluster.logs());
            return Err(error);
        }
    };
    cluster.stop().await?;
    ensure!(score.failures.is_empty(), "{} generated statements failed", score.failures.len());
    ensure!(
        score.selects_refused * 100 <= score.selects * SELECTS_REFUSED_MAX_PERCENT,
        "{} of {} generated SELECTs were refused",
        score.selects_refused,
        score.selects
    );
    Ok(())
}

/// The statements and the comparison themselves: two PostgreSQL servers never differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_never_differ() -> Result<()> {
    let _turn = turn().await?;
    let (one, other) = (single_postgres().await?, single_postgres().await?);
    let mut session = Raw::session(other.port(), "postgres").await?;
    for function in fixture::NO_DISTRIBUTION {
        ensure!(session.ask(&query(function)).await?.is_none(), "{function}");
    }
    let mut pair = Pair::connect(one.port(), other.port()).await?;
    let mut total = Score::new("all");
    run_files(&mut pair, &mut total).await?;
    println!("{total}");
    for failure in total.failures.iter().filter(|failure| !failure.contains("must be refused")).take(SHOWN_MAX) {
        eprintln!("{failure}\n");
    }
    let mut generated = Score::new("generated");
    let statements = STATEMENTS_OF_SERVERS.min(chosen_statements(STATEMENTS)?);
    random::run(&mut pair, chosen_seed()?, statements, &mut generated).await?;
    println!("{}", generated.counts());
    let different = total.different + generated.different;
    ensure!(different == 0, "{different} statements have no one answer");
    Ok(())
}

async fn run(postgres_port: u16, gateway_port: u16) -> Result<()> {
    let mut pair = Pair::connect(postgres_port, gateway_port).await?;
    let mut total = Score::new("all");
    let ended = run_files(&mut pair, &mut total).await;
    println!("{total}");
    println!("reasons of refusals:\n{}", total.reasons());
    for failure in total.failures.iter().take(SHOWN_MAX) {
        eprintln!("{failure}\n");
    }
    ended?;
    ensure!(total.failures.is_empty(), "{} statements failed", total.failures.len());
    ensure!(total.statements() >= STATEMENTS_MIN, "only {} statements ran", total.statements());
    ensure!(
        total.plain_refused * 100 <= total.plain * PLAIN_REFUSED_MAX_PERCENT,
        "{} of {} plain statements were refused",
        total.plain_refused,
        total.plain
    );
    Ok(())
}

async fn run_files(pair: &mut Pair, total: &mut Score) -> Result<()> {
    for (name, text) in FILES {
        let cases = case::parse(name, text)?;
        run_all(pair, name, cases, total).await?;
    }
    let (name, text) = BEYOND_SHARDS;
    let mut score = Score::new(name);
    for case in case::parse(name, text)? {
        score.count(&case, pair.run(&case).await?);
    }
    println!("{score}");
    total.add(score);
    Ok(())
}

async fn run_all(pair: &mut Pair, name: &str, cases: Vec<Case>, total: &mut Score) -> Result<()> {
    let mut score = Score::new(name);
    let ended = run_cases(pair, &cases, &mut score).await;
    println!("{score}");
    total.add(score);
    ended
}

async fn run_cases(pair: &mut Pair, cases: &[Case], score: &mut Score) -> Result<()> {
    for case in cases {
        let outcome = pair.run(case).await.map_err(|error| error.context(format!("{}\n{}", case.origin, case.sql)))?;
        let diverged = matches!(outcome, Outcome::Different(_)) && case.may_write();
        score.count(case, outcome);
        if diverged && pair.check_tables().await.is_err() {
            pair.reload().await?;
        }
    }
    let checked = async {
        pair.check_tables().await?;
        pair.check_places().await
    };
    if let Err(error) = checked.await {
        score.failures.push(format!("at the end the tables differ: {error:#}"));
    }
    pair.reload().await
}

async fn generated(postgres_port: u16, gateway_port: u16, statements: usize) -> Result<Score> {
    let mut pair = Pair::connect(postgres_port, gateway_port).await?;
    let (seed, statements) = (chosen_seed()?, chosen_statements(statements)?);
    println!("RINGWAY_DIFFERENTIAL_SEED={seed} RINGWAY_DIFFERENTIAL_STATEMENTS={statements}");
    let mut score = Score::new("generated");
    let ended = random::run(&mut pair, seed, statements, &mut score).await;
    println!("{}\n{}", score.counts(), score.causes());
    ended?;
    Ok(score)
}

fn chosen_seed() -> Result<u64> {
    from_environment("RINGWAY_DIFFERENTIAL_SEED", SEED)
}

fn chosen_statements(default: usize) -> Result<usize> {
    Ok(from_environment("RINGWAY_DIFFERENTIAL_STATEMENTS", default as u64)? as usize)
}

fn from_environment(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(value) => Ok(value.parse()?),
        Err(_) => Ok(default),
    }
}
