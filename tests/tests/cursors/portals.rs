//! Portals that are executed piece by piece, as drivers do with a fetch size.

use anyhow::Result;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

pub async fn portals(ports: (u16, u16)) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let ordered = "SELECT id, name, price FROM items WHERE id <= $1 ORDER BY id";
    // Nothing left, some left, exactly as many as asked for.
    for (rows, size) in [(0, 5), (4, 5), (5, 5), (12, 5), (12, 4), (100, 33), (3, 0)] {
        for formats in [&[][..], &[1], &[1, 0, 1]] {
            pair.same("BEGIN").await?;
            let value = rows.to_string();
            let opened = [
                parse("s", ordered, &[]),
                bind("p", "s", &[Some(&value)], formats),
                describe('P', "p"),
                execute("p", size),
                sync(),
            ];
            pair.same_messages(&format!("{rows} rows by {size}"), &opened).await?;
            for _ in 0..4 {
                // Other statements on the same shards meanwhile.
                pair.same("UPDATE items SET name = 'other' WHERE id IN (1, 2, 90, 91)").await?;
                pair.same("SELECT count(*) FROM items").await?;
                pair.same_messages("more", &[execute("p", size), sync()]).await?;
            }
            pair.same_messages(
                "the rest",
                &[execute("p", 0), execute("p", 1), close('P', "p"), close('S', "s"), sync()],
            )
            .await?;
            pair.same_messages("closed", &[execute("p", 1), sync()]).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    // Two side by side, and the unnamed one, which goes with the next Bind.
    pair.same("BEGIN").await?;
    let down = "SELECT id FROM items ORDER BY id DESC";
    pair.same_messages(
        "two portals",
        &[
            parse("a", ordered, &[]),
            bind("up", "a", &[Some("50")], &[]),
            parse("b", down, &[]),
            bind("down", "b", &[], &[]),
            execute("up", 2),
            execute("down", 2),
            sync(),
        ],
    )
    .await?;
    for _ in 0..3 {
        pair.same_messages("both", &[execute("down", 3), execute("up", 3), sync()]).await?;
    }
    pair.same_messages("unnamed", &[bind("", "b", &[], &[]), execute("", 2), execute("", 2), sync()]).await?;
    pair.same_messages("unnamed, later", &[execute("", 2), sync()]).await?;
    pair.same_messages(
        "unnamed, another",
        &[bind("", "a", &[Some("3")], &[]), execute("", 2), execute("", 2), execute("", 2), sync()],
    )
    .await?;
    pair.same_messages("a name that is taken", &[bind("up", "b", &[], &[]), sync()]).await?;
    pair.same("ROLLBACK").await?;
    // Without a transaction a portal lives up to Sync.
    pair.same_messages("in a pipeline", &[bind("p", "b", &[], &[]), execute("p", 2), execute("p", 2), sync()]).await?;
    pair.same_messages("after Sync", &[execute("p", 2), sync()]).await?;
    pair.same_messages("one Execute", &[bind("", "b", &[], &[]), execute("", 3), sync()]).await?;
    // Savepoints, errors.
    pair.same("BEGIN").await?;
    pair.same_messages("before", &[bind("p", "b", &[], &[]), execute("p", 2), sync()]).await?;
    pair.same("SAVEPOINT a").await?;
    pair.same("SELECT 1 / 0").await?;
    pair.same_messages("in a failed transaction", &[execute("p", 2), sync()]).await?;
    pair.same("ROLLBACK TO a").await?;
    pair.same_messages("after it", &[execute("p", 2), sync()]).await?;
    pair.same("COMMIT").await?;
    pair.same_messages("after the end", &[execute("p", 2), sync()]).await?;
    // Aggregates, an order that only PostgreSQL knows, RETURNING.
    for query in [
        "SELECT kind, count(*), sum(price) FROM items GROUP BY kind ORDER BY kind",
        "SELECT name, id FROM items ORDER BY name NULLS FIRST, id",
        "SELECT DISTINCT kind FROM items ORDER BY kind",
    ] {
        pair.same("BEGIN").await?;
        let opened = [parse("", query, &[]), bind("p", "", &[], &[1]), describe('P', "p"), execute("p", 3), sync()];
        pair.same_messages(query, &opened).await?;
        pair.same_messages("more", &[execute("p", 3), sync()]).await?;
        pair.same_messages("the rest", &[execute("p", 0), sync()]).await?;
        pair.same("ROLLBACK").await?;
    }
    pair.same("BEGIN").await?;
    let returning = "UPDATE items SET kind = 9 WHERE id = 3 OR kind = 99 RETURNING id, kind";
    pair.same_messages(
        "RETURNING",
        &[parse("", returning, &[]), bind("p", "", &[], &[]), execute("p", 1), execute("p", 1), sync()],
    )
    .await?;
    for sql in
        ["UPDATE items SET kind = kind", "INSERT INTO items VALUES (400, 1, 'x', 1, now()), (401, 1, 'y', 1, now())"]
    {
        pair.same_messages(
            sql,
            &[parse("", sql, &[]), bind("", "", &[], &[]), describe('P', ""), execute("", 1), sync()],
        )
        .await?;
    }
    pair.same("ROLLBACK").await?;
    // A portal that was bound before somebody wrote.
    pair.same("BEGIN").await?;
    pair.same_messages("bound", &[bind("p", "a", &[Some("5")], &[]), sync()]).await?;
    pair.same("DELETE FROM items WHERE id = 2").await?;
    pair.same_messages("executed", &[execute("p", 2), sync()]).await?;
    pair.same_messages("executed", &[execute("p", 0), sync()]).await?;
    pair.same("ROLLBACK").await?;
    Ok(())
}
