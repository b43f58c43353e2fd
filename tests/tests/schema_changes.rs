//! Distributed tables are dropped, renamed and made single again, as far as one PostgreSQL would do it or by the hint that a
//! refusal gives.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{temporary_directory, Cluster, Options};
use ringway_tests::scenario::faults::Faults;
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn, until};
use tokio_postgres::Client;

const HEALS_MAX: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn distributed_tables_come_and_go() -> Result<()> {
    let _turn = turn().await?;
    let directory = temporary_directory()?;
    let faults = Faults::new(directory.path())?;
    let environment = faults.environment();
    let cluster = Cluster::start(Options { shards: 2, environment, ..Options::default() }).await?;
    let mut stages = Stages::default();
    stages.run("DROP TABLE", dropped(&cluster)).await;
    stages.run("DROP TABLE in a transaction", dropped_in_a_transaction(&cluster)).await;
    stages.run("DROP TABLE of another's", dropped_by_others(&cluster)).await;
    stages.run("DROP SCHEMA", dropped_with_its_schema(&cluster)).await;
    stages.run("what hints say", hints(&cluster)).await;
    stages.run("renaming past the planner", renamed_by_the_way(&cluster)).await;
    stages.run("undistribute_table", undistributed(&cluster)).await;
    stages.run("types of the application's own", own_types(&cluster)).await;
    stages.run("one shard alone", one_shard(&cluster)).await;
    stages.run("a gateway that dies after a DROP", crashed(&cluster, &faults)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// Servers number them differently.
async fn own_types(cluster: &Cluster) -> Result<()> {
    let direct = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    direct.batch_execute("CREATE TYPE public.skew AS ENUM ('x'); DROP TYPE public.skew").await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE TYPE mood AS ENUM ('good', 'bad')").await?;
    client.batch_execute("CREATE DOMAIN short AS text CHECK (length(value) < 9)").await?;
    client.batch_execute("CREATE TABLE moody (id bigint PRIMARY KEY, m mood, s short)").await?;
    client.batch_execute("SELECT create_distributed_table('moody', 'id')").await?;
    client
        .batch_execute(&format!("INSERT INTO moody VALUES {}", sql::rows(1..=20, |i| format!("{i}, 'bad', 's'"))))
        .await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM moody WHERE m = 'bad'").await? == "20");
    client.batch_execute("DROP TABLE moody; DROP TYPE mood; DROP DOMAIN short").await?;
    Ok(())
}

async fn fill(client: &Client, table: &str) -> Result<()> {
    client.batch_execute(&format!("CREATE TABLE {table} (k bigint PRIMARY KEY, v text)")).await?;
    client.batch_execute(&format!("SELECT create_distributed_table('{table}', 'k')")).await?;
    let rows = sql::rows(1..=50, |i| format!("{i}, 'v{i}'"));
    client.batch_execute(&format!("INSERT INTO {table} VALUES {rows}")).await?;
    Ok(())
}

async fn listed(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.topology().await?.tables.iter().map(|table| format!("{}.{}", table.schema, table.name)).collect())
}

/// On each shard: what the `ringway` schema keeps of tables that are gone, and functions made for such.
async fn leaves_nothing(cluster: &Cluster) -> Result<()> {
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        for left in [
            "SELECT count(*) FROM ringway.sharded_table s WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation)",
            "SELECT count(*) FROM ringway.distributed_table d WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = d.relation)",
            "SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'ringway'::regnamespace AND p.proname ~ '^guard_[0-9]+$'
                AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = substr(p.proname, 7)::oid)",
            "SELECT count(*) FROM pg_prepared_xacts",
        ] {
            let count = sql::value(&direct, left).await?;
            ensure!(count == "0", "{shard}: {count} from {left}");
        }
    }
    Ok(())
}

/// A plain table by this name, then a distributed one, with its rows on both shards.
async fn begins_anew(cluster: &Cluster, client: &Client, table: &str) -> Result<()> {
    client.batch_execute(&format!("CREATE TABLE {table} (k text PRIMARY KEY, n int)")).await?;
    let rows = sql::rows(1..=30, |i| format!("'key {i}', {i}"));
    client.batch_execute(&format!("INSERT INTO {table} VALUES {rows}")).await?;
    let home = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    ensure!(sql::value(&home, &format!("SELECT count(*) FROM public.{table}")).await? == "30", "it is not single");
    client.batch_execute(&format!("SELECT create_distributed_table('{table}', 'k')")).await?;
    ensure!(sql::value(&home, &format!("SELECT count(*) FROM public.{table}")).await? != "30", "it is not spread");
    ensure!(sql::value(client, &format!("SELECT count(*) FROM {table}")).await? == "30");
    ensure!(sql::value(client, &format!("SELECT n FROM {table} WHERE k = 'key 7'")).await? == "7");
    Ok(())
}

async fn dropped(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for table in ["a", "b", "c"] {
        fill(&client, table).await?;
    }
    client.batch_execute("CREATE TABLE r (id int PRIMARY KEY); INSERT INTO r VALUES (1)").await?;
    client.batch_execute("SELECT create_reference_table('r')").await?;
    client.batch_execute("CREATE VIEW of_r AS SELECT id FROM r").await?;
    client.batch_execute("DROP TABLE a").await?;
    ensure!(sql::failure(&client, "SELECT * FROM a").await?.0 == "42P01");
    ensure!(sql::failure(&client, "DROP TABLE a").await?.0 == "42P01");
    client.batch_execute("DROP TABLE IF EXISTS a, b, public.c").await?;
    ensure!(sql::failure(&client, "DROP TABLE r").await?.0 == "2BP01", "a view depends on it");
    ensure!(listed(cluster).await? == ["public.r"], "{:?}", listed(cluster).await?);
    client.batch_execute("DROP TABLE r CASCADE").await?;
    ensure!(sql::failure(&client, "SELECT * FROM of_r").await?.0 == "42P01");
    ensure!(listed(cluster).await?.is_empty(), "{:?}", listed(cluster).await?);
    leaves_nothing(cluster).await?;
    begins_anew(cluster, &client, "a").await?;
    begins_anew(cluster, &client, "r").await?;
    client.batch_execute("DROP TABLE a; DROP TABLE r").await?;
    Ok(())
}

async fn dropped_in_a_transaction(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    fill(&client, "t").await?;
    client.batch_execute("BEGIN; DROP TABLE t; ROLLBACK").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "50");
    client.batch_execute("BEGIN; SAVEPOINT a; DROP TABLE t; ROLLBACK TO a; DELETE FROM t WHERE k = 1; COMMIT").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "49");
    // Under the old name a row would go where nobody looks for it.
    client.batch_execute("BEGIN; DROP TABLE t").await?;
    let (code, message) = sql::failure(&client, "CREATE TABLE t (a int)").await?;
    ensure!(code == "0A000", "{code} {message}");
    client.batch_execute("ROLLBACK").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "49");
    client.batch_execute("BEGIN; CREATE TABLE u (a int); DROP TABLE t; COMMIT").await?;
    begins_anew(cluster, &client, "t").await?;
    client.batch_execute("DROP TABLE t, u").await?;
    leaves_nothing(cluster).await
}

async fn dropped_by_others(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    fill(&client, "t").await?;
    let app = sql::connect(&cluster.dsn("app")).await?;
    ensure!(sql::failure(&app, "DROP TABLE t").await?.0 == "42501");
    ensure!(sql::failure(&app, "SELECT undistribute_table('t')").await?.0 == "42501");
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "50");
    client.batch_execute("ALTER TABLE t OWNER TO app").await?;
    app.batch_execute("DROP TABLE t").await?;
    ensure!(listed(cluster).await?.is_empty());
    leaves_nothing(cluster).await
}

async fn dropped_with_its_schema(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE SCHEMA sales").await?;
    fill(&client, "sales.t").await?;
    fill(&client, "t").await?;
    client.batch_execute("CREATE TYPE sales.mood AS ENUM ('fine')").await?;
    client.batch_execute("ALTER TABLE t ADD COLUMN m sales.mood DEFAULT 'fine'").await?;
    ensure!(sql::failure(&client, "DROP SCHEMA sales").await?.0 == "2BP01");
    client.batch_execute("DROP SCHEMA sales CASCADE").await?;
    ensure!(listed(cluster).await? == ["public.t"], "{:?}", listed(cluster).await?);
    ensure!(sql::failure(&client, "SELECT m FROM t WHERE k = 1").await?.0 == "42703");
    client.batch_execute("CREATE SCHEMA sales; CREATE TABLE sales.t (a int); INSERT INTO sales.t VALUES (1)").await?;
    ensure!(sql::value(&client, "SELECT a FROM sales.t").await? == "1");
    client.batch_execute("DROP SCHEMA sales CASCADE; DROP TABLE t").await?;
    leaves_nothing(cluster).await
}

/// The hint of a refusal, which has to be a way.
async fn hint(client: &Client, statement: &str) -> Result<String> {
    let error = client.simple_query(statement).await.err().with_context(|| format!("{statement} did not fail"))?;
    let error = error.as_db_error().with_context(|| statement.to_string())?;
    ensure!(error.code().code() == "0A000", "{statement}: {} {}", error.code().code(), error.message());
    error.hint().map(str::to_string).with_context(|| format!("{statement} has no hint"))
}

async fn hints(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for (refused, then, table, key) in [
        ("ALTER TABLE t RENAME TO u", "ALTER TABLE t RENAME TO u", "u", "k"),
        ("ALTER TABLE t SET SCHEMA other", "ALTER TABLE t SET SCHEMA other", "other.t", "k"),
        ("ALTER TABLE t RENAME COLUMN k TO key", "ALTER TABLE t RENAME COLUMN k TO key", "t", "key"),
        ("ALTER TABLE t ALTER COLUMN k TYPE int", "ALTER TABLE t ALTER k TYPE int", "t", "k"),
        ("ALTER TABLE t DROP COLUMN k", "ALTER TABLE t DROP COLUMN k, ADD COLUMN j serial PRIMARY KEY", "t", "j"),
    ] {
        client.batch_execute("CREATE SCHEMA other").await?;
        fill(&client, "t").await?;
        let hint = hint(&client, refused).await?;
        ensure!(hint.contains("undistribute_table('public.t')"), "{refused}: {hint}");
        client.batch_execute("SELECT undistribute_table('public.t')").await?;
        client.batch_execute(then).await?;
        client.batch_execute(&format!("SELECT create_distributed_table('{table}', '{key}')")).await?;
        ensure!(sql::value(&client, &format!("SELECT count(*) FROM {table}")).await? == "50", "after {then}");
        client.batch_execute(&format!("DROP TABLE {table}; DROP SCHEMA other")).await?;
    }
    leaves_nothing(cluster).await
}

async fn renamed_by_the_way(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE SCHEMA sales").await?;
    fill(&client, "sales.t").await?;
    for statement in ["ALTER SCHEMA sales RENAME TO trade", "ALTER INDEX sales.t RENAME TO u"] {
        hint(&client, statement).await?;
        ensure!(sql::value(&client, "SELECT count(*) FROM sales.t").await? == "50", "after {statement}");
    }
    client.batch_execute("DROP SCHEMA sales CASCADE").await?;
    Ok(())
}

async fn undistributed(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE TABLE places (code text PRIMARY KEY); INSERT INTO places VALUES ('here')").await?;
    client.batch_execute("SELECT create_reference_table('places')").await?;
    for statement in [
        "CREATE TABLE firms (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, place text REFERENCES places, \
         twice bigint GENERATED ALWAYS AS (id * 2) STORED)",
        "CREATE TABLE staff (firm bigint REFERENCES firms, id bigint, PRIMARY KEY (firm, id))",
        "SELECT create_distributed_table('firms', 'id')",
        "SELECT create_distributed_table('staff', 'firm')",
    ] {
        client.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    for id in 1..=40 {
        client
            .batch_execute(&format!(
                "INSERT INTO firms (id, place) OVERRIDING SYSTEM VALUE VALUES ({id}, 'here'); \
                 INSERT INTO staff VALUES ({id}, 1)"
            ))
            .await?;
    }
    for (table, other) in [("places", "firms"), ("firms", "staff"), ("staff", "firms")] {
        let (code, message) = sql::failure(&client, &format!("SELECT undistribute_table('{table}')")).await?;
        ensure!(code == "55000" && message.contains(other), "{table}: {code} {message}");
    }
    ensure!(sql::failure(&client, "SELECT undistribute_table('nowhere')").await?.0 == "42P01");
    let (code, _) = sql::failure(&client, "BEGIN; SELECT 1 FROM staff; SELECT undistribute_table('staff')").await?;
    ensure!(code == "25001", "in a transaction: {code}");
    client.batch_execute("ROLLBACK").await?;
    client.batch_execute("ALTER TABLE staff DROP CONSTRAINT staff_firm_fkey").await?;
    let before = sql::column(&client, "SELECT f::text FROM firms f ORDER BY id").await?;
    client.batch_execute("SELECT undistribute_table('firms')").await?;
    ensure!(sql::column(&client, "SELECT f::text FROM firms f ORDER BY id").await? == before);
    // The key may be anything now, and joins with single tables work.
    client
        .batch_execute("UPDATE firms SET place = NULL; CREATE TABLE notes (firm bigint); INSERT INTO notes VALUES (7)")
        .await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM firms JOIN notes ON firm = id").await? == "1");
    let given = sql::value(&client, "INSERT INTO firms DEFAULT VALUES RETURNING id > 40").await?;
    ensure!(given == "t", "a value of the sequence that was given before");
    cluster.shardctl(&["table", "undistribute", "staff"]).await?;
    client.batch_execute("SELECT undistribute_table('places')").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM staff s JOIN firms f ON f.id = s.firm").await? == "40");
    ensure!(listed(cluster).await?.is_empty(), "{:?}", listed(cluster).await?);
    let other = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    for table in ["firms", "staff", "places"] {
        ensure!(sql::value(&other, &format!("SELECT count(*) FROM public.{table}")).await? == "0", "{table} on s2");
    }
    client.batch_execute("DROP TABLE staff, firms, places, notes").await?;
    leaves_nothing(cluster).await
}

async fn one_shard(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    fill(&client, "t").await?;
    client.batch_execute("SET ringway.shard = 's2'").await?;
    let said = hint(&client, "DROP TABLE t").await?;
    ensure!(said.contains("RESET ringway.shard"), "{said}");
    client.batch_execute("RESET ringway.shard").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "50");
    client.batch_execute("DROP TABLE t").await?;
    Ok(())
}

/// The shards have dropped it, and nobody has told the control plane: it finds out, and until then the name is nobody's.
async fn crashed(cluster: &Cluster, faults: &Faults) -> Result<()> {
    for point in ["ddl_opened", "ddl_committed", "anchor_committed", "prepared_all"] {
        let client = sql::connect(&cluster.dsn("postgres")).await?;
        fill(&client, "t").await?;
        faults.arm([point.to_string()])?;
        let _ = client.batch_execute("DROP TABLE t").await;
        until(point, HEALS_MAX, || async { Ok(faults.remaining().is_empty()) }).await?;
        let undone = matches!(point, "ddl_opened" | "prepared_all");
        until("its outcome", HEALS_MAX, || async { Ok(listed(cluster).await?.is_empty() != undone) }).await?;
        until("a gateway", HEALS_MAX, || async { Ok(sql::connect(&cluster.dsn("postgres")).await.is_ok()) }).await?;
        let client = sql::connect(&cluster.dsn("postgres")).await?;
        if undone {
            ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "50", "after {point}");
            client.batch_execute("DROP TABLE t").await?;
        }
        until("the name", HEALS_MAX, || async {
            match client.batch_execute("CREATE TABLE t (a int)").await {
                Ok(()) => Ok(true),
                Err(error) => {
                    ensure!(["42P07", "40001", "55P03"].contains(&sql::code(&error).as_str()), "{error:?}");
                    Ok(false)
                }
            }
        })
        .await?;
        client.batch_execute("INSERT INTO t VALUES (1)").await?;
        let home = sql::connect(&cluster.shard_dsn("s1").await?).await?;
        ensure!(sql::value(&home, "SELECT count(*) FROM public.t").await? == "1", "after {point}");
        client.batch_execute("DROP TABLE t").await?;
        until("nothing left", HEALS_MAX, || async { Ok(leaves_nothing(cluster).await.is_ok()) }).await?;
    }
    Ok(())
}
