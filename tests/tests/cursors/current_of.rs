//! UPDATE and DELETE ... WHERE CURRENT OF a cursor or a portal that one shard answers; over several they are refused.

use anyhow::{ensure, Result};
use ringway_tests::cluster::Cluster;

use super::pair::{bind, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat()
}

/// Ids on either shard; with each of them a row of `parts` follows another.
const IDS: std::ops::Range<u32> = 4..10;

pub async fn writes(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for id in IDS {
        for (table, key, change) in [("items", "id", "name = 'x' || name"), ("parts", "item", "n = n + 10")] {
            let look = format!("SELECT * FROM {table} WHERE {key} = {id} ORDER BY 1, 2");
            pair.same("BEGIN").await?;
            pair.same(&format!("DECLARE c CURSOR FOR SELECT * FROM {table} WHERE {key} = {id}")).await?;
            for write in [format!("UPDATE {table} SET {change}"), format!("DELETE FROM {table} AS d")] {
                let write = format!("{write} WHERE CURRENT OF c");
                pair.same("SAVEPOINT s").await?;
                pair.same(&write).await?;
                pair.same("ROLLBACK TO s").await?;
                pair.same("FETCH c").await?;
                pair.same(&write).await?;
                pair.same(&look).await?;
                pair.same_messages(&write, &[run(&format!("{write} RETURNING *")), sync()]).await?;
                pair.same(&look).await?;
                pair.same(&format!("FETCH c; {write}; {look}")).await?;
                pair.same("ROLLBACK TO s").await?;
            }
            pair.same("COMMIT").await?;
            pair.same(&look).await?;
        }
    }
    pair.same("BEGIN").await?;
    pair.same("DECLARE \"C c\" CURSOR FOR SELECT * FROM plain WHERE id = 2 FOR UPDATE").await?;
    pair.same("FETCH \"C c\"").await?;
    pair.same("UPDATE plain SET id = 22 WHERE CURRENT OF \"C c\" RETURNING id").await?;
    pair.same("SELECT id FROM plain ORDER BY id").await?;
    pair.same("ROLLBACK").await.map(drop)
}

/// What the protocol has bound, executed in part.
pub async fn of_portals(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same_messages("Parse", &[parse("q", "SELECT item, n FROM parts WHERE item = $1", &[]), sync()]).await?;
    let write = "UPDATE parts SET n = n + 10 WHERE CURRENT OF p RETURNING *";
    for id in IDS {
        let opened = bind("p", "q", &[Some(&id.to_string())], &[]);
        for listens in [false, true] {
            pair.same(if listens { "LISTEN something" } else { "UNLISTEN *" }).await?;
            pair.same("BEGIN").await?;
            pair.same_messages("opened", &[opened.clone(), execute("p", 1), sync()]).await?;
            pair.same(write).await?;
            pair.same_messages(
                "goes on",
                &[execute("p", 1), run(write), run("DELETE FROM parts WHERE CURRENT OF p"), sync()],
            )
            .await?;
            pair.same(&format!("SELECT * FROM parts WHERE item = {id} ORDER BY n")).await?;
            pair.same("ROLLBACK").await?;
            pair.same("BEGIN").await?;
            pair.same_messages("opened", &[opened.clone(), sync()]).await?;
            pair.same("FETCH p").await?;
            pair.same(write).await?;
            pair.same("CLOSE p").await?;
            pair.same(write).await?;
            pair.same("ROLLBACK").await?;
            let all = [opened.clone(), execute("p", 2), run(write), execute("p", 0), sync()];
            pair.same_messages("in a pipeline", &all).await?;
            pair.same(&format!("UPDATE parts SET n = n - 10 WHERE item = {id} AND n > 10")).await?;
        }
    }
    pair.same("BEGIN").await?;
    pair.same_messages("prepared", &[parse("w", write, &[]), sync()]).await?;
    pair.same_messages("without its portal", &[bind("", "w", &[], &[]), execute("", 0), sync()]).await?;
    pair.same("ROLLBACK").await.map(drop)
}

/// Names that there are not, other tables, cursors that are no scans.
pub async fn errors(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for (declare, write) in [
        ("", "UPDATE items SET kind = 1 WHERE CURRENT OF c"),
        ("", "DELETE FROM plain WHERE CURRENT OF c"),
        ("", "UPDATE items SET nosuch = 1 WHERE CURRENT OF c"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE parts SET n = 1 WHERE CURRENT OF c"),
        ("SELECT * FROM items WHERE id = 5", "DELETE FROM plain WHERE CURRENT OF c"),
        ("SELECT count(*) FROM items WHERE id = 5", "DELETE FROM items WHERE CURRENT OF c"),
        ("SELECT * FROM items WHERE id = 5 ORDER BY name", "DELETE FROM items WHERE CURRENT OF c"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE items SET kind = NULL WHERE CURRENT OF c"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE items SET kind = 1 WHERE CURRENT OF c AND id = 5"),
    ] {
        for hold in ["", "WITH HOLD"] {
            pair.same("BEGIN").await?;
            if !declare.is_empty() {
                pair.same(&format!("DECLARE c CURSOR {hold} FOR {declare}")).await?;
                pair.same("FETCH c").await?;
            }
            pair.same("SAVEPOINT s").await?;
            pair.same(write).await?;
            pair.same("ROLLBACK TO s").await?;
            pair.same("COMMIT").await?;
            pair.same(write).await?;
            pair.same("CLOSE c").await?;
        }
    }
    Ok(())
}

pub async fn refused(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    let mut pair = Pair::connect((port, port)).await?;
    ensure!(pair.gateway_alone("CREATE TABLE copied (id int PRIMARY KEY, n int)").await?.is_empty());
    ensure!(pair.gateway_alone("SELECT create_reference_table('copied')").await?.is_empty());
    for (declare, write) in [
        ("SELECT * FROM items", "UPDATE items SET kind = 1"),
        ("SELECT * FROM items ORDER BY id", "DELETE FROM items"),
        ("SELECT * FROM copied", "UPDATE copied SET n = 1"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE items SET id = 6"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE items SET kind = (SELECT max(n) FROM parts)"),
        ("SELECT * FROM items WHERE id = 5", "UPDATE items SET kind = n FROM parts"),
    ] {
        for statement in ["BEGIN", &format!("DECLARE c CURSOR FOR {declare}"), "FETCH c"] {
            let code = pair.gateway_alone(statement).await?;
            ensure!(code.is_empty(), "{statement}: {code}");
        }
        let code = pair.gateway_alone(&format!("{write} WHERE CURRENT OF c")).await?;
        ensure!(code == "0A000", "{declare}; {write}: {code:?} instead of a refusal");
        pair.gateway_alone("ROLLBACK").await?;
    }
    ensure!(pair.gateway_alone("SELECT undistribute_table('copied')").await?.is_empty());
    ensure!(pair.gateway_alone("DROP TABLE copied").await?.is_empty());
    Ok(())
}
