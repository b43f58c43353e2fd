//! What belongs to one pipeline: it holds, or is undone, together; COPY data within it; what stays prepared behind it.

use anyhow::{ensure, Result};
use ringway_tests::scenario::raw::{frame, query};

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

/// Errors behind the only Execute undo it.
pub async fn errors_behind(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let firsts = [
        "INSERT INTO plain VALUES (701)",
        "INSERT INTO items VALUES (701, 1, 'x', 1, now())",
        "UPDATE plain SET id = id + 1000",
        "SET work_mem TO '7MB'",
        "DO $$BEGIN INSERT INTO plain VALUES (702); END$$",
        "SELECT count(*) FROM items",
    ];
    let wrong = [
        ("a statement that is not there", describe('S', "nope")),
        ("a portal that is not there", describe('P', "nope")),
        ("Bind of nothing", bind("", "nope", &[], &[])),
        ("a syntax error", parse("o2", "SELEC 1", &[])),
        ("a name that is taken", parse("o", "SELECT 1", &[])),
        ("two commands", parse("o3", "SELECT 1; SELECT 2", &[])),
        ("a portal that is closed", [close('P', ""), describe('P', "")].concat()),
    ];
    for first in firsts {
        for (what, message) in &wrong {
            let what = format!("{first}, then {what}");
            let messages = [parse("o", first, &[]), bind("", "o", &[], &[]), execute("", 0), message.clone(), sync()];
            pair.same_messages(&what, &messages).await?;
            for sql in
                ["DEALLOCATE ALL", "SELECT count(*), max(id) FROM plain", "SELECT max(id) FROM items", "SHOW work_mem"]
            {
                pair.same(sql).await?;
            }
        }
        // What cannot fail does not matter.
        let messages = [parse("", "SELECT 1", &[]), bind("", "", &[], &[]), execute("", 0), close('P', ""), sync()];
        pair.same_messages("Close behind it", &messages).await?;
    }
    Ok(())
}

/// DO and CALL are part of it.
pub async fn code(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same("CREATE PROCEDURE adds(n int) LANGUAGE sql AS 'INSERT INTO plain VALUES (n)'").await?;
    for first in ["DO $$BEGIN INSERT INTO plain VALUES (711); END$$", "CALL adds(712)"] {
        for second in ["SELECT 1 / (id - id) FROM plain", "SELECT 1"] {
            let messages = [
                parse("", first, &[]),
                bind("", "", &[], &[]),
                execute("", 0),
                parse("", second, &[]),
                bind("", "", &[], &[]),
                execute("", 0),
                sync(),
            ];
            pair.same_messages(&format!("{first}; {second}"), &messages).await?;
            pair.same("SELECT id FROM plain WHERE id > 700 ORDER BY id").await?;
            pair.same("DELETE FROM plain WHERE id > 700").await?;
        }
    }
    pair.same("DROP PROCEDURE adds").await?;
    Ok(())
}

/// COPY data and the Syncs around them, wherever a client puts these.
pub async fn copy(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let (flush, done) = (frame(b'H', &[]), frame(b'c', &[]));
    for (table, rows) in [("plain", "721\n722\n"), ("parts", "721\t1\n722\t1\n723\t2\n")] {
        let sql = format!("COPY {table} FROM STDIN");
        let begin = [parse("", &sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat();
        let data = [frame(b'd', rows.as_bytes()), done.clone()].concat();
        let another = [parse("", "SELECT 1", &[]), bind("", "", &[], &[]), execute("", 0)].concat();
        let undo = format!("DELETE FROM {table} WHERE {} > 700", if table == "plain" { "id" } else { "item" });
        for (what, start, rest) in [
            ("Sync before the data", [&begin[..], &sync()].concat(), [&data[..], &sync()].concat()),
            ("Flush before the data", [&begin[..], &flush].concat(), [&data[..], &sync()].concat()),
            ("a statement behind them", [&begin[..], &flush].concat(), [&data[..], &another, &sync()].concat()),
        ] {
            pair.same_copy(&format!("{table}: {what}"), &start, &rest).await?;
            pair.same(&undo).await?;
        }
        let what = format!("{table}: all at once");
        pair.same_messages(&what, &[begin.clone(), data.clone(), sync()]).await?;
        pair.same(&undo).await?;
        let what = format!("{table}: all at once, and another statement");
        pair.same_messages(&what, &[begin, data, another, sync()]).await?;
        pair.same(&undo).await?;
    }
    Ok(())
}

/// BEGIN in a transaction sets its modes.
pub async fn begins_again(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for again in ["BEGIN", "BEGIN READ ONLY", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        for query in [None, Some("SELECT id FROM plain ORDER BY id LIMIT 1"), Some("SELECT count(*) FROM items")] {
            pair.same("BEGIN").await?;
            if let Some(query) = query {
                pair.same(query).await?;
            }
            pair.same(again).await?;
            for sql in ["SHOW transaction_read_only", "SHOW transaction_isolation", "INSERT INTO plain VALUES (731)"] {
                pair.same(sql).await?;
            }
            pair.same("ROLLBACK").await?;
        }
    }
    for sql in [
        "SET TRANSACTION READ ONLY; INSERT INTO plain VALUES (732)",
        "SET TRANSACTION READ ONLY; INSERT INTO items VALUES (732, 1, 'x', 1, now())",
        "SELECT 1; SET TRANSACTION READ ONLY; INSERT INTO plain VALUES (733)",
        "SET TRANSACTION READ ONLY",
        "SELECT id FROM plain WHERE id > 700; SELECT id FROM items WHERE id > 700",
    ] {
        pair.same(sql).await?;
    }
    for first in ["SET TRANSACTION READ ONLY", "SELECT 1"] {
        let mut messages = Vec::new();
        for sql in [first, "SET TRANSACTION READ ONLY", "INSERT INTO plain VALUES (734)"] {
            messages.extend([parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)]);
        }
        messages.push(sync());
        pair.same_messages("in a pipeline", &messages).await?;
    }
    pair.same("SELECT id FROM plain WHERE id > 700").await?;
    Ok(())
}

/// Modes that are set behind a savepoint end with it.
pub async fn modes_of_savepoints(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let sets = [
        "SET TRANSACTION READ ONLY",
        "SET TRANSACTION READ WRITE",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET TRANSACTION DEFERRABLE",
        "BEGIN READ ONLY",
    ];
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        for query in [None, Some("SELECT id FROM plain ORDER BY id LIMIT 1"), Some("SELECT max(id) FROM items")] {
            for set in sets {
                for end in ["ROLLBACK TO a", "RELEASE a"] {
                    pair.same(begin).await?;
                    if let Some(query) = query {
                        pair.same(query).await?;
                    }
                    for sql in ["SAVEPOINT a", set, "SHOW transaction_read_only", end, "SHOW transaction_read_only"] {
                        pair.same(sql).await?;
                    }
                    for id in [741, 742, 743] {
                        pair.same(&format!("INSERT INTO items VALUES ({id}, 1, 'x', 1, now())")).await?;
                    }
                    pair.same("ROLLBACK").await?;
                }
            }
        }
    }
    Ok(())
}

/// After an error, queries are dropped up to Sync as all is.
pub async fn queries_behind(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for wrong in ["SELECT nosuch FROM plain", "SELECT 1 / (id - id) FROM plain", "SELECT 1 / (kind - kind) FROM items"]
    {
        for block in [false, true] {
            for second in ["INSERT INTO plain VALUES (751)", "ROLLBACK", "SELECT 1; SELECT 2"] {
                if block {
                    pair.same("BEGIN").await?;
                }
                let failing = [parse("", wrong, &[]), bind("", "", &[], &[]), execute("", 0)];
                let messages = [&failing[..], &[query(second), sync()]].concat();
                pair.same_messages(&format!("{wrong}, then {second}"), &messages).await?;
                pair.same("ROLLBACK").await?;
            }
        }
    }
    pair.same("SELECT id FROM plain WHERE id > 700").await?;
    Ok(())
}

/// More statements in one pipeline than a connection keeps: the next session finds what it prepares.
pub async fn many_statements(ports: Ports) -> Result<()> {
    const MORE: usize = 505;
    for _session in 0..2 {
        let mut pair = Pair::connect(ports).await?;
        let mut messages = Vec::new();
        for number in 0..MORE {
            let name = format!("s{number}");
            messages.push(parse(&name, &format!("SELECT {number}"), &[]));
            messages.extend([bind("", &name, &[], &[]), execute("", 0)]);
        }
        messages.push(sync());
        pair.same_messages("many statements", &messages).await?;
        for number in [0, 1, MORE / 2, MORE - 1] {
            let messages = [bind("", &format!("s{number}"), &[], &[]), execute("", 0), sync()];
            pair.same_messages("one of many", &messages).await?;
        }
    }
    Ok(())
}

/// A function that deallocates what the gateway has prepared: an error at most, then all is well again, also for a session that keeps
/// its connection.
pub async fn deallocated(ports: Ports) -> Result<()> {
    for own in [false, true] {
        let mut pair = Pair::connect(ports).await?;
        if own {
            pair.same("CREATE TEMP TABLE mine (id int)").await?;
        }
        let named = [bind("", "o", &[], &[]), execute("", 0), sync()];
        pair.same_messages("prepare", &[parse("o", "SELECT id FROM plain", &[]), sync()]).await?;
        pair.same_messages("run", &named).await?;
        for sql in ["BEGIN", "SELECT 1", "COMMIT", "DO $$BEGIN DEALLOCATE ALL; END$$"] {
            ensure!(pair.gateway_alone(sql).await?.is_empty(), "{sql}");
        }
        let mut errors = Vec::new();
        for _attempt in 0..3 {
            for sql in ["BEGIN", "SELECT id FROM plain", "ROLLBACK"] {
                errors.push(pair.gateway_alone(sql).await?);
            }
            errors.push(pair.gateway_alone_bytes(&named.concat()).await?);
        }
        let (first, later) = errors.split_at(4);
        ensure!(first.iter().all(|code| code.is_empty() || code == "26000"), "{first:?}");
        ensure!(later.iter().all(String::is_empty), "{later:?} after {first:?}");
    }
    Ok(())
}
