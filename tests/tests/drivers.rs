//! Real drivers, ORMs and PostgreSQL's own programs: each runs one scenario against one PostgreSQL and through the gateway over two
//! shards, as a user who logs in with a password, and must see the same. Some run once more under TLS, which the gateway demands.
//!
//! The scripts lie in `tests/drivers`; `RINGWAY_DRIVERS=psycopg,psql` chooses some.

#[path = "drivers/script.rs"]
mod script;
#[path = "drivers/sqlx.rs"]
mod sqlx_driver;
#[path = "drivers/sqlx_types.rs"]
mod sqlx_types;
#[path = "drivers/tokio_postgres.rs"]
mod tokio_postgres_driver;
#[path = "drivers/transcript.rs"]
mod transcript;

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster, Options, SinglePostgres};
use ringway_tests::scenario::certificates::{text, Authority};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::{sql, turn, until};
use ringway_tls::client_config;
use shardctl::pg::{parse_dsn, tls::Tls, Dsn};

use script::{Installed, Runtime};

const READY_MAX: Duration = Duration::from_secs(30);
const PASSWORD: &str = "open sesame";
/// On one PostgreSQL the functions do nothing. In this schema nobody sees them who looks at the database's tables.
const NO_DISTRIBUTION: &[&str] = &[
    "CREATE FUNCTION pg_catalog.create_reference_table(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE FUNCTION pg_catalog.create_distributed_table(text, text, colocate_with text DEFAULT '') RETURNS void LANGUAGE plpgsql AS 'BEGIN END'",
];
const USED_OIDS: &str =
    "DO $$ BEGIN FOR i IN 1..500 LOOP CREATE TYPE pg_temp.used AS ENUM (); DROP TYPE pg_temp.used; END LOOP; END $$";
const LEFT: &str =
    "SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relnamespace = 'public'::pg_catalog.regnamespace \
                    UNION ALL SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg_%' \
                    AND nspname NOT IN ('public', 'information_schema', 'ringway')";

const DRIVERS: &[(&str, Runtime, &str)] = &[
    ("tokio-postgres", Runtime::TokioPostgres, ""),
    ("sqlx", Runtime::Sqlx, "sqlx"),
    ("psycopg", Runtime::Python, "python/psycopg_driver.py"),
    ("asyncpg", Runtime::Python, "python/asyncpg_driver.py"),
    ("SQLAlchemy", Runtime::Python, "python/sqlalchemy_driver.py"),
    ("Django", Runtime::Python, "python/django_driver.py"),
    ("node-postgres", Runtime::Node, "node/pg.js"),
    ("knex", Runtime::Node, "node/knex.js"),
    ("Sequelize", Runtime::Node, "node/sequelize.js"),
    ("JDBC", Runtime::Java, "java/Jdbc.java"),
    ("psql", Runtime::Psql, "psql/scenario.sql"),
    ("psql completion", Runtime::Python, "python/psql_completion.py"),
    ("pg_dump", Runtime::Python, "python/pg_dump.py"),
    ("pgbench", Runtime::Python, "python/pgbench.py"),
];
/// Those of [`DRIVERS`] that run under TLS, too: one per implementation of the protocol's start.
const UNDER_TLS: &[&str] = &["psycopg", "node-postgres", "JDBC", "psql"];
/// Who cannot bind the login to the connection ignores the last one.
const TLS_PARAMETERS: &str = "sslmode=verify-full&channel_binding=require&sslrootcert=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_see_what_they_see_of_one_postgresql() -> Result<()> {
    let _turn = turn().await?;
    let started = Instant::now();
    let installed = Installed::prepare().await?;
    println!("drivers are installed ({:.1} s)", started.elapsed().as_secs_f64());
    let single = single_postgres().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = run(&installed, &single, &cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
    }
    cluster.stop().await?;
    outcome
}

async fn run(installed: &Installed, single: &SinglePostgres, cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, format!("postgres {PASSWORD}\n"))?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let authority = Authority::new(directory.path(), "authority")?;
    // Node takes a host without a name for localhost.
    let certificate = authority.server(directory.path(), "gateway", &["127.0.0.1", "localhost"])?;
    let login = ["--auth", "scram", "--users", text(&users)?];
    let tls = ["--tls-required", "--tls-cert", text(&certificate.file)?, "--tls-key", text(&certificate.key)?];
    let gateway = Gateway::start(cluster, &login).await?;
    let user = format!("postgres:{}", PASSWORD.replace(' ', "%20"));
    gateway.serves(&user).await?;
    let (one, other) = (single.dsn("postgres").replace("postgres@", &format!("{user}@")), gateway.dsn(&user));
    let admin = sql::connect(&one).await?;
    for statement in NO_DISTRIBUTION {
        admin.batch_execute(statement).await.context(*statement)?;
    }
    // As on servers that have lived: the same type has another OID on each.
    sql::connect(&cluster.shard_dsn("s2").await?).await?.batch_execute(USED_OIDS).await?;
    let chosen = std::env::var("RINGWAY_DRIVERS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split(',').filter(|name| !name.is_empty()).collect();
    let chosen = |name: &&str| chosen.is_empty() || chosen.contains(name);
    let mut failed = Vec::new();
    for (name, runtime, script) in DRIVERS.iter().filter(|(name, ..)| chosen(name)) {
        let started = Instant::now();
        let outcome = compare(installed, *runtime, script, &one, &other, &other).await;
        report(name, started, outcome, &mut failed);
    }
    let secure = Gateway::start(cluster, &[&login[..], &tls].concat()).await?;
    let encrypted = format!("{}?{TLS_PARAMETERS}{}", secure.dsn(&user), text(&authority.file)?);
    serves_under_tls(&encrypted).await.with_context(|| secure.log())?;
    ensure!(sql::refused(&secure.dsn(&user)).await? == "28000", "a connection without TLS was let in");
    for (name, runtime, script) in DRIVERS.iter().filter(|(name, ..)| UNDER_TLS.contains(name) && chosen(name)) {
        let started = Instant::now();
        let outcome = compare(installed, *runtime, script, &one, &encrypted, &other).await;
        report(&format!("{name}, TLS"), started, outcome, &mut failed);
    }
    ensure!(failed.is_empty(), "{}\n{}", failed.join("\n"), gateway.log() + &secure.log());
    Ok(())
}

async fn serves_under_tls(dsn: &str) -> Result<()> {
    until("a gateway that serves under TLS", READY_MAX, || async {
        let Dsn { config, tls } = parse_dsn(dsn)?;
        let (client, connection) = config.connect(Tls(client_config(&tls)?)).await?;
        tokio::spawn(connection);
        Ok(sql::value(&client, "SELECT 1").await? == "1")
    })
    .await
}

fn report(name: &str, started: Instant, outcome: Result<transcript::Comparison>, failed: &mut Vec<String>) {
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(comparison) => {
            let known = match comparison.known.len() {
                0 => String::new(),
                n => format!(", known {n}"),
            };
            println!(
                "{name:18} equal {} steps, refused {}{known} ({seconds:.1} s)",
                comparison.equal,
                comparison.refused.len()
            );
            comparison.refused.iter().for_each(|refused| println!("    refused  {refused}"));
            comparison.known.iter().for_each(|known| println!("    known    {known}"));
            comparison.differences.iter().for_each(|difference| println!("    FAILED   {difference}"));
            if !comparison.differences.is_empty() {
                failed.push(format!("{name}: {} steps", comparison.differences.len()));
            }
        }
        Err(error) => {
            println!("{name:18} FAILED ({seconds:.1} s): {error:#}");
            failed.push(format!("{name}: no transcript"));
        }
    }
}

/// Both at the same time; neither may leave anything behind. `plain`: the gateways' database, for who has no TLS.
async fn compare(
    installed: &Installed,
    runtime: Runtime,
    script: &str,
    one: &str,
    other: &str,
    plain: &str,
) -> Result<transcript::Comparison> {
    let (postgres, gateway) =
        tokio::join!(installed.run(runtime, script, one, one), installed.run(runtime, script, other, one));
    let comparison =
        transcript::compare(&postgres.context("against PostgreSQL")?, &gateway.context("through the gateway")?)?;
    if comparison.differences.is_empty() {
        for dsn in [one, plain] {
            let left = sql::column(&sql::connect(dsn).await?, LEFT).await?;
            ensure!(left.is_empty(), "left behind: {left:?}");
        }
    }
    Ok(comparison)
}
