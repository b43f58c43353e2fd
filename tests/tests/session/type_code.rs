//! Settings that the code behind types makes: CHECK constraints of domains, casts. No other client may ever see one.

use anyhow::{bail, ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;
use tokio_postgres::Client;

use super::{connect, two_shards};

const SCHEMA: &[&str] = &[
    "CREATE FUNCTION mark(v text) RETURNS boolean LANGUAGE sql AS $$SELECT set_config('app.mark', v, false) = v$$",
    "CREATE DOMAIN marked AS text CHECK (mark(VALUE))",
    "CREATE DOMAIN marked_further AS marked",
    "CREATE TYPE with_mark AS (n int, m marked)",
    "CREATE TYPE coin AS (n int)",
    "CREATE FUNCTION to_coin(text) RETURNS coin LANGUAGE sql AS $$SELECT ROW(mark($1)::int)::coin$$",
    "CREATE CAST (text AS coin) WITH FUNCTION to_coin(text)",
    "CREATE FUNCTION takes(m marked) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION keeps() RETURNS int LANGUAGE plpgsql AS $$DECLARE m marked; BEGIN m := 'x'; RETURN 1; END$$",
    "CREATE DOMAIN positive AS int CHECK (VALUE > 0)",
    "CREATE FUNCTION is_even(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN $1 % 2 = 0; END'",
    "CREATE DOMAIN even AS int CHECK (is_even(VALUE)) DEFAULT 2",
    "CREATE TABLE stamped (id bigint PRIMARY KEY, m marked)",
    "CREATE TABLE stamped_too (id bigint PRIMARY KEY, m marked[])",
    "CREATE FUNCTION keeps_rows() RETURNS int LANGUAGE plpgsql AS \
     $$DECLARE r stamped%ROWTYPE; BEGIN r.m := 'x'; RETURN 1; END$$",
    "CREATE FUNCTION keeps_values() RETURNS int LANGUAGE plpgsql AS \
     $$DECLARE m stamped.m%TYPE; BEGIN m := 'x'; RETURN 1; END$$",
    "SELECT create_distributed_table('stamped', 'id')",
    "SELECT create_distributed_table('stamped_too', 'id', colocate_with => 'stamped')",
    "CREATE TABLE counted (id bigint PRIMARY KEY, n positive, e even)",
    "SELECT create_distributed_table('counted', 'id', colocate_with => 'stamped')",
];

/// What would run `mark`.
const MARKING: &[&str] = &[
    "SELECT 'x'::marked",
    "SELECT CAST('x' AS marked)",
    "SELECT marked 'x'",
    "SELECT marked('x'::text)",
    "SELECT 'x'::marked_further",
    "SELECT '{x}'::marked[]",
    "SELECT ROW(1, 'x')::with_mark",
    "SELECT 'x'::text::coin",
    "SELECT ROW(1, 'x')::stamped",
    "SELECT takes('x')",
    "SELECT keeps()",
    "SELECT keeps_rows()",
    "SELECT keeps_values()",
    "SELECT m FROM json_to_record('{\"m\": \"x\"}') AS r (m marked)",
    "SELECT json_populate_record(NULL::stamped, '{\"m\": \"x\"}')",
    "DO $$DECLARE m marked; BEGIN m := 'x'; END$$",
    "INSERT INTO stamped_too VALUES (1, '{x}')",
    "INSERT INTO stamped_too VALUES (1, '{x}'), (2, '{x}'), (3, '{x}')",
    "UPDATE stamped SET m = 'x'",
    "COPY stamped FROM STDIN",
];

pub async fn settings_of_types(cluster: &Cluster) -> Result<()> {
    let mine = connect(cluster).await?;
    let other = connect(cluster).await?;
    for statement in SCHEMA {
        mine.batch_execute(statement).await.context(*statement)?;
    }
    let (first, second) = two_shards(cluster).await?;
    let by_key = [first, second].map(|id| format!("INSERT INTO stamped VALUES ({id}, 'x')"));
    for statement in MARKING.iter().copied().chain(by_key.iter().map(String::as_str)) {
        let outcome = mine.batch_execute(statement).await;
        is_unmarked(&other).await.context(statement.to_owned())?;
        let Err(error) = outcome else { bail!("{statement} did not fail") };
        let error = error.as_db_error().with_context(|| format!("{statement}: {error:?}"))?;
        let refused = error.code().code() == "0A000" && error.message().contains("as one server would");
        ensure!(refused, "{statement}: {error:?}");
    }
    // Checks that only look are looked through.
    mine.batch_execute("INSERT INTO counted VALUES (1, 1, 2), (2, 2, 4)").await?;
    mine.batch_execute("INSERT INTO counted (id, n) VALUES (3, 3)").await?;
    ensure!(sql::value(&mine, "SELECT sum(e) FROM counted WHERE n > 1::positive AND e < 4::even").await? == "2");
    ensure!(sql::failure(&mine, "INSERT INTO counted VALUES (4, 4, 3)").await?.0 == "23514");
    ensure!(sql::failure(&mine, "UPDATE counted SET n = n - 1").await?.0 == "23514");
    // Reading is not checking.
    ensure!(sql::value(&mine, "SELECT count(*) FROM stamped WHERE m <> 'y'").await? == "0");
    Ok(())
}

/// On every shard, whichever connections they are.
async fn is_unmarked(client: &Client) -> Result<()> {
    for of in ["accounts", "(VALUES (1)) v"] {
        let seen = sql::column(client, &format!("SELECT DISTINCT current_setting('app.mark', true) FROM {of}")).await?;
        ensure!(seen.iter().all(|value| value.is_empty() || value == "NULL"), "another client sees {seen:?}");
    }
    Ok(())
}
