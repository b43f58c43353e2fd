//! When a portal begins: a query's rows are those of its Bind, whatever is executed before it.

use anyhow::Result;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

const ONE: &str = "SELECT id, kind FROM items WHERE id = $1";
const ALL: &str = "SELECT id, kind FROM items WHERE id < $1 ORDER BY id";
const SUM: &str = "SELECT count(*), sum(kind) FROM items WHERE id < $1";

/// A statement without parameters, run whole.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("w", "", &[], &[]), execute("w", 0), close('P', "w")].concat()
}

/// In a transaction of its own or not, listening or not, keys of either shard and of both, named or not.
pub async fn at_bind(ports: Ports) -> Result<()> {
    for listens in [false, true] {
        let mut pair = Pair::connect(ports).await?;
        if listens {
            pair.same("LISTEN something").await?;
        }
        for query in [ONE, ALL, SUM, "SELECT id FROM items WHERE id = $1 FOR UPDATE"] {
            for name in ["p", ""] {
                for (id, write) in (2..8).zip(
                    ["UPDATE items SET kind = kind + 10", "UPDATE items SET kind = kind + 10 WHERE id = 3"]
                        .into_iter()
                        .cycle(),
                ) {
                    let id = id.to_string();
                    let (begin, commit) = (run("BEGIN"), run("COMMIT"));
                    let read = |size| [execute(name, size), execute(name, 0), execute(name, 1)].concat();
                    let opened =
                        [parse("q", query, &[]), bind(name, "q", &[Some(&id)], &[]), describe('P', name)].concat();
                    let end = [close('S', "q"), sync()].concat();
                    let what = format!("{query} of {id} as {name:?}, {write}, listening: {listens}");
                    for messages in [
                        vec![opened.clone(), run(write), read(2), end.clone()],
                        vec![begin.clone(), opened.clone(), run(write), read(0), commit.clone(), end.clone()],
                        vec![
                            run(write),
                            opened.clone(),
                            run(write),
                            read(1),
                            read(2),
                            run("SELECT 1 / 0"),
                            end.clone(),
                        ],
                        vec![opened.clone(), read(1), run(write), read(1), end.clone()],
                    ] {
                        pair.same_messages(&what, &messages).await?;
                        pair.same("DEALLOCATE ALL").await?;
                    }
                    if name.is_empty() {
                        continue;
                    }
                    pair.same("BEGIN").await?;
                    pair.same_messages(&what, &[opened, sync()]).await?;
                    pair.same(write).await?;
                    pair.same_messages(&what, &[read(1), end]).await?;
                    pair.same("ROLLBACK").await?;
                    pair.same("DEALLOCATE ALL").await?;
                }
            }
        }
        pair.same("SELECT id, kind FROM items WHERE id < 10 ORDER BY id").await?;
    }
    Ok(())
}

/// It is replaced by the next one, and other statements of the transaction leave it alone.
pub async fn unnamed(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same("LISTEN something").await?;
    let opened = |id| {
        [parse("", "SELECT id, n FROM parts WHERE item = $1 ORDER BY n", &[]), bind("", "", &[Some(id)], &[])].concat()
    };
    for id in ["1", "2", "3", "4"] {
        pair.same_messages("BEGIN", &[run("BEGIN"), opened(id), execute("", 1), sync()]).await?;
        for between in [
            [
                parse("c", "SELECT count(*) FROM items", &[]),
                bind("c", "c", &[], &[]),
                execute("c", 0),
                close('P', "c"),
                close('S', "c"),
            ]
            .concat(),
            [
                parse("s", "SET LOCAL work_mem TO '1MB'", &[]),
                bind("c", "s", &[], &[]),
                execute("c", 0),
                close('P', "c"),
                close('S', "s"),
            ]
            .concat(),
        ] {
            pair.same_messages("something else", &[between, execute("", 1), sync()]).await?;
        }
        pair.same_messages("at its end", &[execute("", 1), execute("", 0), sync()]).await?;
        pair.same_messages("replaced", &[opened("5"), execute("", 2), opened("6"), execute("", 2), sync()]).await?;
        pair.same("SELECT 1").await?;
        pair.same_messages("gone", &[execute("", 2), sync()]).await?;
        pair.same("ROLLBACK").await?;
    }
    Ok(())
}

/// Portals go with the savepoint that they came after, and names are free again.
pub async fn savepoints(ports: Ports) -> Result<()> {
    for listens in [false, true] {
        let mut pair = Pair::connect(ports).await?;
        if listens {
            pair.same("LISTEN something").await?;
        }
        for query in [ONE, ALL, SUM] {
            pair.same_messages("Parse", &[parse("q", query, &[]), sync()]).await?;
            let opened = |name| [bind(name, "q", &[Some("4")], &[]), execute(name, 1), sync()];
            pair.same("BEGIN").await?;
            pair.same_messages("before", &opened("before")).await?;
            pair.same("SAVEPOINT a").await?;
            pair.same_messages("inside", &opened("inside")).await?;
            pair.same("SAVEPOINT b").await?;
            pair.same_messages("released", &opened("released")).await?;
            pair.same("RELEASE b").await?;
            pair.same_messages("taken", &opened("released")).await?;
            pair.same("ROLLBACK TO a").await?;
            for name in ["inside", "released", "before"] {
                pair.same_messages(name, &[execute(name, 1), sync()]).await?;
                pair.same("ROLLBACK TO a").await?;
                pair.same_messages(name, &opened(name)).await?;
                pair.same("ROLLBACK TO a").await?;
            }
            pair.same_messages("closed and bound again", &[close('P', "before"), sync()]).await?;
            pair.same_messages("closed and bound again", &opened("before")).await?;
            pair.same_messages(
                "closed and bound again",
                &[vec![close('P', "before")], opened("before").to_vec()].concat(),
            )
            .await?;
            pair.same("COMMIT").await?;
            pair.same_messages("after the end", &[execute("before", 1), sync()]).await?;
            pair.same("DEALLOCATE q").await?;
        }
    }
    Ok(())
}
