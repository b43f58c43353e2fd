//! Cursors of SQL and portals of the protocol have one name space.

use anyhow::Result;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

const QUERIES: [&str; 4] = [
    "SELECT id, name FROM items WHERE id = $1",
    "SELECT id, n FROM parts JOIN items ON id = item WHERE item = $1 ORDER BY n",
    "SELECT id, name FROM items WHERE id <= $1 ORDER BY id",
    "SELECT kind, count(*) FROM items WHERE id <= $1 GROUP BY kind ORDER BY kind",
];

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), describe('P', ""), execute("", 0)].concat()
}

/// FETCH, MOVE, CLOSE and DECLARE by SQL of what the protocol has bound.
pub async fn portals_in_sql(ports: Ports) -> Result<()> {
    for listens in [false, true] {
        let mut pair = Pair::connect(ports).await?;
        if listens {
            pair.same("LISTEN something").await?;
        }
        for (query, id) in QUERIES.into_iter().flat_map(|query| (4..8).map(move |id| (query, id.to_string()))) {
            let opened = |name| bind(name, "q", &[Some(&id)], &[]);
            pair.same_messages("Parse", &[parse("q", query, &[]), sync()]).await?;
            pair.same("BEGIN").await?;
            pair.same_messages("Bind", &[opened("p"), sync()]).await?;
            pair.same("SAVEPOINT a").await?;
            for sql in ["FETCH p", "MOVE p", "FETCH 0 FROM p", "FETCH BACKWARD 1 FROM p"] {
                pair.same(sql).await?;
            }
            pair.same("ROLLBACK TO a").await?;
            for messages in [
                vec![execute("p", 1)],
                vec![run("FETCH 2 FROM p")],
                vec![parse("f", "FETCH p", &[]), describe('S', "f"), close('S', "f")],
                vec![execute("p", 0), run("FETCH p")],
                vec![run("DECLARE p CURSOR FOR SELECT id FROM items ORDER BY id")],
            ] {
                pair.same_messages(query, &[messages, vec![sync()]].concat()).await?;
            }
            pair.same("ROLLBACK TO a").await?;
            pair.same("DECLARE p CURSOR FOR SELECT id FROM items WHERE id = 3").await?;
            pair.same("ROLLBACK TO a").await?;
            for sql in ["CLOSE p", "DECLARE p CURSOR FOR SELECT id FROM items ORDER BY id", "FETCH p", "CLOSE p"] {
                pair.same(sql).await?;
            }
            pair.same_messages("free again", &[opened("p"), execute("p", 1), sync()]).await?;
            pair.same("CLOSE p").await?;
            pair.same_messages("closed", &[execute("p", 1), sync()]).await?;
            pair.same("ROLLBACK TO a").await?;
            pair.same_messages(
                "Bind",
                &[opened("p"), opened("o"), opened(""), execute("o", 1), run("CLOSE ALL"), sync()],
            )
            .await?;
            for name in ["p", "o", ""] {
                pair.same_messages(name, &[execute(name, 1), sync()]).await?;
                pair.same("ROLLBACK TO a").await?;
            }
            pair.same_messages(
                "in a pipeline",
                &[opened("p"), run("FETCH p"), execute("p", 1), run("CLOSE p"), opened("p"), execute("p", 0), sync()],
            )
            .await?;
            pair.same("COMMIT").await?;
            pair.same("BEGIN").await?;
            pair.same("FETCH p").await?;
            pair.same("ROLLBACK").await?;
            pair.same_messages(
                "without BEGIN",
                &[opened("p"), run("FETCH p"), execute("p", 1), run("FETCH ALL FROM p"), sync()],
            )
            .await?;
            pair.same("DEALLOCATE q").await?;
        }
        // A portal that speaks of itself.
        for sql in ["FETCH p", "CLOSE p", "CLOSE ALL", "MOVE p"] {
            pair.same("BEGIN").await?;
            pair.same_messages(sql, &[parse("", sql, &[]), bind("p", "", &[], &[]), execute("p", 0), sync()]).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    Ok(())
}

/// FETCH and MOVE of portals whose rows the gateway has by itself.
pub async fn portals_of_commands(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same("PREPARE explained AS SELECT 1").await?;
    let directions = [
        "FETCH p",
        "FETCH ALL FROM p",
        "FETCH 0 FROM p",
        "MOVE p",
        "MOVE 0 FROM p",
        "MOVE ALL IN p",
        "FETCH PRIOR FROM p",
        "FETCH FIRST FROM p",
        "FETCH LAST FROM p",
        "FETCH ABSOLUTE 1 FROM p",
        "FETCH ABSOLUTE 2 FROM p",
        "FETCH RELATIVE 1 FROM p",
        "FETCH RELATIVE -1 FROM p",
        "FETCH BACKWARD ALL FROM p",
    ];
    for command in
        ["SHOW work_mem", "SHOW TimeZone", "EXPLAIN EXECUTE explained", "SELECT set_config('app.x', 'y', false)"]
    {
        let opened = [parse("", command, &[]), bind("p", "", &[], &[])].concat();
        for first in directions {
            for second in directions {
                pair.same("BEGIN").await?;
                pair.same_messages(command, &[opened.clone(), sync()]).await?;
                pair.same("SAVEPOINT s").await?;
                pair.same(first).await?;
                pair.same("ROLLBACK TO s").await?;
                pair.same(second).await?;
                pair.same("ROLLBACK TO s").await?;
                pair.same_messages(command, &[execute("p", 1), execute("p", 0), sync()]).await?;
                pair.same("ROLLBACK").await?;
            }
            let what = format!("{command}; {first}");
            pair.same_messages(&what, &[opened.clone(), run(first), execute("p", 0), run(first), sync()]).await?;
            pair.same_messages(&what, &[opened.clone(), execute("p", 1), run(first), execute("p", 1), sync()]).await?;
            pair.same("BEGIN").await?;
            pair.same_messages(&what, &[opened.clone(), sync()]).await?;
            pair.same_messages(&what, &[parse("f", first, &[]), describe('S', "f"), close('S', "f"), sync()]).await?;
            pair.same("CLOSE p").await?;
            pair.same(first).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    Ok(())
}

/// A BINARY cursor is binary for whoever does not say otherwise, on one shard and on several.
pub async fn binary(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for (query, id) in QUERIES.into_iter().flat_map(|query| (4..8).map(move |id| (query, id.to_string()))) {
        for hold in ["", "WITH HOLD"] {
            pair.same("BEGIN").await?;
            pair.same(&format!("DECLARE c BINARY CURSOR {hold} FOR {}", query.replace("$1", &id))).await?;
            pair.same("FETCH c").await?;
            pair.same("MOVE c").await?;
            pair.same("FETCH c; SELECT 1").await?;
            pair.same("COMMIT").await?;
            pair.same("FETCH ALL FROM c").await?;
            pair.same("CLOSE c").await?;
        }
    }
    pair.same("BEGIN").await?;
    pair.same("DECLARE c BINARY CURSOR FOR SELECT id FROM plain ORDER BY id").await?;
    pair.same("FETCH ALL c").await?;
    pair.same("ROLLBACK").await?;
    Ok(())
}

/// Execute, Describe and Close by the protocol of what SQL has declared.
pub async fn cursors_in_the_protocol(ports: Ports) -> Result<()> {
    for listens in [false, true] {
        let mut pair = Pair::connect(ports).await?;
        if listens {
            pair.same("LISTEN something").await?;
        }
        for (query, id) in QUERIES.into_iter().flat_map(|query| (4..8).map(move |id| (query, id.to_string()))) {
            let query = query.replace("$1", &id);
            for hold in ["", "WITH HOLD"] {
                let declare = format!("DECLARE c CURSOR {hold} FOR {query}");
                pair.same("BEGIN").await?;
                pair.same(&declare).await?;
                pair.same("SAVEPOINT a").await?;
                pair.same_messages(&declare, &[describe('P', "c"), execute("c", 1), sync()]).await?;
                pair.same("FETCH c").await?;
                pair.same_messages("the rest", &[execute("c", 0), execute("c", 0), sync()]).await?;
                pair.same_messages("taken", &[parse("", "SELECT 1", &[]), bind("c", "", &[], &[]), sync()]).await?;
                pair.same_messages("in a failed transaction", &[execute("c", 1), sync()]).await?;
                pair.same("ROLLBACK TO a").await?;
                pair.same_messages("closed", &[close('P', "c"), sync()]).await?;
                pair.same(&declare).await?;
                pair.same_messages(
                    "again",
                    &[run("SELECT count(*) FROM items"), close('P', "c"), run(&declare), execute("c", 1), sync()],
                )
                .await?;
                pair.same("COMMIT").await?;
                pair.same_messages("after the end", &[describe('P', "c"), execute("c", 1), sync()]).await?;
                pair.same_messages("closed", &[close('P', "c"), sync()]).await?;
                pair.same("FETCH c").await?;
            }
        }
    }
    Ok(())
}
