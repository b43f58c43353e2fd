//! Statements that are executed more than once through one portal, and what Bind and Describe say of them.

use anyhow::{ensure, Result};

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

const STATEMENTS: [&str; 22] = [
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO s",
    "RELEASE s",
    "SET application_name TO 'again'",
    "SET LOCAL work_mem TO '1MB'",
    "RESET application_name",
    "SHOW timezone",
    "SELECT set_config('application_name', 'again', false)",
    "PREPARE z AS SELECT 1",
    "DEALLOCATE y",
    "DISCARD PLANS",
    "LISTEN x",
    "UNLISTEN x",
    "SET TRANSACTION READ WRITE",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "CREATE TEMP TABLE again (id int)",
    "UPDATE items SET kind = kind WHERE id = 3",
    "DECLARE c CURSOR FOR SELECT id FROM items",
    "",
];

/// Everything twice: what gives rows has no more, what gives none cannot be run again.
pub async fn twice(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in STATEMENTS {
        for name in ["p", ""] {
            for block in [None, Some("COMMIT"), Some("ROLLBACK")] {
                if block.is_some() {
                    pair.same("BEGIN").await?;
                    pair.same("SAVEPOINT s").await?;
                }
                pair.same("PREPARE y AS SELECT 2").await?;
                let what = format!("{sql} as {name:?}, then {block:?}");
                let opened = [parse("o", sql, &[]), bind(name, "o", &[], &[])];
                let more = [execute(name, 1), execute(name, 0), sync()];
                pair.same_messages(&what, &[&opened[..], &more].concat()).await?;
                pair.same_messages(&what, &[execute(name, 1), sync()]).await?;
                pair.same(block.unwrap_or("ROLLBACK")).await?;
                for sql in
                    ["ROLLBACK", "DEALLOCATE ALL", "RESET ALL", "UNLISTEN *", "DROP TABLE IF EXISTS pg_temp.again"]
                {
                    pair.same(sql).await?;
                }
            }
        }
    }
    Ok(())
}

/// Parameters that a statement does not have, or that its client has declared.
pub async fn counts(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in STATEMENTS
        .into_iter()
        .chain(["INSERT INTO plain VALUES ($1)", "SELECT set_config('application_name', $1, false)"])
    {
        for types in [&[][..], &[23]] {
            for values in [&[][..], &[Some("77")], &[Some("1"), None]] {
                if types.len() == values.len() {
                    continue;
                }
                for name in ["o", ""] {
                    let messages = [parse(name, sql, types), bind("", name, values, &[]), execute("", 0), sync()];
                    if !values.is_empty() && sql.contains("$1") {
                        continue;
                    }
                    pair.same_messages(&format!("{sql} {types:?} {values:?}"), &messages).await?;
                    pair.same("ROLLBACK").await?;
                    pair.same("DEALLOCATE ALL").await?;
                }
            }
        }
    }
    Ok(())
}

/// After an error: only what gives no rows is described.
pub async fn after_an_error(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let statements = STATEMENTS.into_iter().chain([
        "SELECT id FROM items WHERE id = 3",
        "SELECT id FROM items",
        "SELECT count(*) FROM items",
        "UPDATE items SET kind = kind",
        "UPDATE items SET kind = kind WHERE id = 3 RETURNING id",
        "INSERT INTO items VALUES (999, 1, 'x', 1, now())",
        "EXPLAIN SELECT 1",
    ]);
    for sql in statements {
        pair.same("PREPARE y AS SELECT 2").await?;
        pair.same_messages(sql, &[parse("o", sql, &[]), describe('S', "o"), sync()]).await?;
        pair.same("BEGIN").await?;
        pair.same_messages(sql, &[bind("p", "o", &[], &[]), sync()]).await?;
        pair.same("SELECT 1 / 0").await?;
        for what in [
            describe('S', "o"),
            describe('P', "p"),
            bind("", "o", &[], &[]),
            execute("p", 1),
            close('P', "p"),
            describe('P', "p"),
        ] {
            pair.same_messages(sql, &[what, sync()]).await?;
        }
        pair.same("ROLLBACK").await?;
        pair.same("DEALLOCATE ALL").await?;
    }
    pair.same("BEGIN").await?;
    pair.same("DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id").await?;
    pair.same("SELECT 1 / 0").await?;
    pair.same_messages("a cursor", &[describe('P', "c"), sync()]).await?;
    pair.same("ROLLBACK").await?;
    Ok(())
}

/// What PREPARE takes.
pub async fn prepared(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in [
        "FETCH c",
        "LISTEN x",
        "BEGIN",
        "COMMIT",
        "SHOW timezone",
        "EXECUTE y",
        "EXPLAIN SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1",
        "CREATE TABLE z (id int)",
        "",
    ] {
        pair.same(&format!("PREPARE z AS {sql}")).await?;
        let sql = format!("PREPARE z (int) AS {sql}");
        pair.same_messages(&sql, &[parse("", &sql, &[]), bind("", "", &[], &[]), execute("", 0), sync()]).await?;
    }
    for sql in [
        "(SELECT 1)",
        "VALUES (1)",
        "TABLE plain",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "DELETE FROM plain WHERE id = -1",
    ] {
        pair.same(&format!("PREPARE z AS {sql}")).await?;
        pair.same("EXECUTE z").await?;
        pair.same("DEALLOCATE z").await?;
    }
    explained(&mut pair).await
}

/// EXPLAIN EXECUTE, of what one shard answers.
async fn explained(pair: &mut Pair) -> Result<()> {
    // Whatever is known of the tables' contents.
    for way in ["enable_seqscan", "enable_bitmapscan", "enable_indexonlyscan"] {
        pair.same(&format!("SET {way} TO off")).await?;
    }
    for sql in [
        "PREPARE e AS SELECT id FROM plain WHERE id = $1",
        "PREPARE f AS SELECT n + 1 FROM parts WHERE item = 3 AND n < $1 ORDER BY n",
        "PREPARE g (int, text) AS INSERT INTO plain SELECT length($2) + $1",
        "EXPLAIN (COSTS off) EXECUTE e(3)",
        "EXPLAIN (COSTS off) EXECUTE e(NULL)",
        "EXPLAIN (VERBOSE, COSTS off, FORMAT JSON) EXECUTE e(1 + 2)",
        "EXPLAIN (VERBOSE, COSTS off) EXECUTE g(1, upper('x'))",
        "EXPLAIN (COSTS off) EXECUTE e",
        "EXPLAIN (COSTS off) EXECUTE e(1, 2)",
        "EXPLAIN (COSTS off) EXECUTE nothing",
        "EXPLAIN (COSTS off, FORMAT XML) EXECUTE g(1, 'x')",
        "EXPLAIN (COSTS off, ANALYZE, TIMING off, SUMMARY off) EXECUTE e(3)",
    ] {
        pair.same(sql).await?;
    }
    for sql in ["SELECT id FROM plain WHERE id = $1", "SELECT n FROM parts WHERE item = $1 AND n > length($2)"] {
        pair.same_messages(sql, &[parse("of the protocol", sql, &[]), sync()]).await?;
        for arguments in ["(3)", "(3, 'a')", "", "('x')", "(NULL, NULL)"] {
            pair.same(&format!("EXECUTE \"of the protocol\"{arguments}")).await?;
            pair.same(&format!("EXPLAIN (VERBOSE, COSTS off) EXECUTE \"of the protocol\"{arguments}")).await?;
        }
        pair.same("DEALLOCATE \"of the protocol\"").await?;
    }
    let sql = "EXPLAIN (VERBOSE, COSTS off, FORMAT JSON) EXECUTE e(NULL)";
    let messages = [parse("", sql, &[]), describe('S', ""), bind("", "", &[], &[]), execute("", 0), sync()];
    pair.same_messages(sql, &messages).await?;
    pair.same("PREPARE several AS SELECT count(*) FROM items").await?;
    let code = pair.gateway_alone("EXPLAIN EXECUTE several").await?;
    ensure!(code.is_empty(), "EXPLAIN of several shards: {code:?}");
    pair.same("DEALLOCATE ALL").await?;
    Ok(())
}
