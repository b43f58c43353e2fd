//! Corners of the extended protocol: which message an error, a setting or a name belongs to.

use anyhow::Result;
use ringway_tests::scenario::raw::query;

use super::pair::{bind, close, describe, execute, parse, sync, Step};
use super::Pair;

type Ports = (u16, u16);

/// Statements for one shard, for several, for any, and for the gateway itself.
const STATEMENTS: [&str; 5] = [
    "SELECT id FROM items WHERE id = 3",
    "SELECT count(*) FROM items",
    "SELECT id FROM plain WHERE id = 1",
    "UPDATE items SET kind = kind",
    "SHOW work_mem",
];

const WRONG: [&str; 9] = [
    "SELEC 1",
    "SELECT 'x",
    "SELECT 1; SELECT 2",
    "SELECT nosuch FROM plain",
    "SELECT nosuch FROM items",
    "SELECT 1 FROM nosuch",
    "SELECT id FROM items WHERE id = 'x'",
    "SELECT count(*) FROM items WHERE kind = 'x'",
    "INSERT INTO items (id, kind) SELECT id, 'x' FROM items",
];

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat()
}

/// A Parse of the unnamed statement ends the one before it, whatever becomes of its own.
pub async fn unnamed_statement(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let again = [bind("", "", &[], &[]), execute("", 0), sync()];
    for first in STATEMENTS {
        for wrong in WRONG {
            let what = format!("{first}, then {wrong}");
            for block in [false, true] {
                if block {
                    pair.same("BEGIN").await?;
                }
                pair.same_messages(&what, &[parse("", first, &[]), sync()]).await?;
                pair.exact_messages(&what, &[parse("", wrong, &[]), sync()]).await?;
                pair.same_messages(&what, &again).await?;
                pair.same("ROLLBACK").await?;
                pair.same_messages(&what, &[run(first), parse("", wrong, &[]), sync()]).await?;
                pair.same_messages(&what, &again).await?;
                // What is dropped up to Sync ends nothing.
                pair.same_messages(&what, &[parse("", first, &[]), sync()]).await?;
                pair.same_messages(&what, &[bind("", "nope", &[], &[]), parse("", wrong, &[]), sync()]).await?;
                pair.same_messages(&what, &again).await?;
                pair.same("ROLLBACK").await?;
            }
        }
        pair.same("BEGIN").await?;
        pair.same_messages(first, &[parse("", first, &[]), sync()]).await?;
        pair.same_messages("fails", &[parse("f", "SELECT 1 / (id - id) FROM plain", &[]), sync()]).await?;
        pair.same_messages("fails", &[bind("", "f", &[], &[]), execute("", 0), sync()]).await?;
        pair.same_messages("in a failed transaction", &[parse("", "SELECT 1", &[]), sync()]).await?;
        pair.same_messages(first, &again).await?;
        pair.same("ROLLBACK").await?;
        pair.same("DEALLOCATE ALL").await?;
    }
    Ok(())
}

/// A Parse says what is wrong with its text, whatever follows it.
pub async fn wrong_texts(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for other in STATEMENTS {
        for wrong in WRONG {
            for begin in ["BEGIN", "SET work_mem TO '5MB'", "SELECT count(*) FROM parts"] {
                pair.same_messages(other, &[parse("o", other, &[]), sync()]).await?;
                for follows in [
                    [bind("", "o", &[], &[]), execute("", 0)].concat(),
                    [bind("", "w", &[], &[]), execute("", 0)].concat(),
                    describe('S', "o"),
                    describe('S', "w"),
                    [parse("", other, &[]), bind("", "w", &[], &[])].concat(),
                    close('S', "w"),
                ] {
                    let what = format!("{begin}; {wrong}; and of {other}");
                    pair.exact_messages(&what, &[run(begin), parse("w", wrong, &[]), follows, sync()]).await?;
                    pair.same("ROLLBACK").await?;
                    pair.exact_messages(&what, &[bind("", "w", &[], &[]), sync()]).await?;
                }
                pair.same("DEALLOCATE ALL").await?;
            }
        }
    }
    Ok(())
}

/// Settings are told before the ReadyForQuery of the pipeline that sets them.
pub async fn settings_told(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for set in [
        "SET timezone TO 'Asia/Tokyo'",
        "SET LOCAL timezone TO 'Asia/Tokyo'",
        "SELECT set_config('timezone', 'Asia/Tokyo', false)",
        "SET datestyle TO 'SQL, DMY'",
        "SET application_name TO 'corner'",
        "SET work_mem TO '5MB'",
    ] {
        for statement in STATEMENTS.into_iter().chain(["SELECT 1 / (id - id) FROM plain"]) {
            for end in ["COMMIT", "ROLLBACK"] {
                let what = format!("{set}; {statement}; {end}");
                pair.same("BEGIN").await?;
                pair.same_messages(&what, &[run(statement), sync()]).await?;
                pair.same_messages(&what, &[run(set), run(statement), sync()]).await?;
                pair.same_messages(&what, &[run(statement), sync()]).await?;
                pair.same_messages(&what, &[run("SAVEPOINT a"), run("RESET ALL"), run(statement), sync()]).await?;
                pair.same_messages(&what, &[run("ROLLBACK TO a"), run(statement), sync()]).await?;
                pair.same_messages(&what, &[run(end), sync()]).await?;
                pair.same_messages(&what, &[run("BEGIN"), run(set), run(statement), sync()]).await?;
                pair.same_messages(&what, &[run(end), run(statement), sync()]).await?;
                pair.same("RESET ALL").await?;
            }
        }
    }
    Ok(())
}

/// What is wrong with a shard key is said by Bind.
pub async fn wrong_keys(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for (sql, values) in [
        ("SELECT id FROM items WHERE id = $1", &["x", "", "99999999999999999999", "1.5"][..]),
        ("SELECT id FROM items WHERE id = ANY($1)", &["x", "{1,x}", "{1"]),
        ("SELECT id FROM items WHERE id IN (3, $1)", &["x"]),
        ("UPDATE items SET kind = kind WHERE id = $1", &["x"]),
        ("DELETE FROM items WHERE id = $1 AND kind = 99", &["x"]),
        ("INSERT INTO items (id, kind, at) VALUES ($1, 1, now())", &["x"]),
        ("INSERT INTO items (id, kind, at) VALUES (1001, 1, now()), ($1, 1, now())", &["x"]),
        ("SELECT count(*) FROM items JOIN parts ON id = item WHERE item = $1", &["x"]),
    ] {
        for value in values {
            for block in [false, true] {
                let what = format!("{sql} with {value:?}");
                let bound = bind("", "o", &[Some(value)], &[]);
                for messages in [
                    vec![bound.clone(), execute("", 0), sync()],
                    vec![bound.clone(), describe('P', ""), execute("", 0), sync()],
                    vec![bound.clone(), sync()],
                    vec![run("SELECT count(*) FROM parts"), bound.clone(), execute("", 0), sync()],
                    vec![bind("p", "o", &[Some(value)], &[]), execute("p", 2), sync()],
                ] {
                    pair.same_messages(&what, &[parse("o", sql, &[]), sync()]).await?;
                    if block {
                        pair.same("BEGIN").await?;
                    }
                    pair.exact_messages(&what, &messages).await?;
                    pair.same("ROLLBACK").await?;
                    pair.same("DEALLOCATE ALL").await?;
                }
            }
        }
    }
    Ok(())
}

/// What is wrong with values of statements over several shards is said by Bind as well, unless only their rows show it.
pub async fn wrong_values(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for (sql, value) in [
        ("SELECT count(*) FROM items WHERE kind = $1", "x"),
        ("SELECT id, kind FROM items WHERE kind = $1 ORDER BY id", "99999999999"),
        ("SELECT id FROM items WHERE at < $1 ORDER BY id LIMIT 3", "yesterdays"),
        ("SELECT id FROM items WHERE price = $1", "1.2.3"),
        ("SELECT sum(kind / $1::int) FROM items", "0"),
        ("SELECT sum(1 / ($1::int - $1::int)) FROM items", "0"),
        ("SELECT id FROM items WHERE id > 0 AND 1 / $1 = 1", "0"),
        ("UPDATE items SET kind = $1", "x"),
        ("UPDATE items SET kind = kind / $1", "0"),
        ("UPDATE items SET price = $1 RETURNING id", "x"),
        ("DELETE FROM items WHERE at = $1", "x"),
        ("INSERT INTO items (id, kind, at) VALUES (1001, $1, now()), (1002, 1, now())", "x"),
        ("INSERT INTO items (id, kind, at) SELECT id + 1000, $1, at FROM items", "x"),
        ("INSERT INTO parts SELECT item, n + $1 FROM parts", "x"),
        ("INSERT INTO plain VALUES ($1)", "x"),
    ] {
        for portal in ["", "p"] {
            for block in [false, true] {
                let what = format!("{sql} with {value:?} as {portal:?}");
                let bound = bind(portal, "o", &[Some(value)], &[]);
                for messages in [
                    vec![bound.clone(), execute(portal, 0), sync()],
                    vec![bound.clone(), describe('P', portal), execute(portal, 0), sync()],
                    vec![bound.clone(), execute(portal, 2), sync()],
                    vec![run("SELECT count(*) FROM parts"), bound.clone(), execute(portal, 0), sync()],
                    vec![bound.clone(), sync()],
                ] {
                    pair.same_messages(&what, &[parse("o", sql, &[]), sync()]).await?;
                    if block {
                        pair.same("BEGIN").await?;
                    }
                    pair.exact_messages(&what, &messages).await?;
                    pair.same("ROLLBACK").await?;
                    pair.same("DEALLOCATE ALL").await?;
                }
            }
        }
    }
    Ok(())
}

/// A pipeline is no transaction block.
pub async fn without_a_block(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for declare in [
        "DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id",
        "DECLARE c CURSOR FOR SELECT id FROM items WHERE id = 3",
        "DECLARE c BINARY CURSOR FOR SELECT id FROM plain",
        "DECLARE c CURSOR FOR SELECT nosuch FROM plain",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM plain ORDER BY id",
        "LOCK TABLE plain",
        "LOCK TABLE items",
    ] {
        for other in ["FETCH 2 FROM c", "SELECT id FROM items WHERE id = 3", "SELECT count(*) FROM items", "BEGIN"] {
            let what = format!("{declare}; {other}");
            pair.same_messages(&what, &[run(declare), run(other), sync()]).await?;
            pair.same("ROLLBACK").await?;
            pair.same("CLOSE ALL").await?;
            pair.same_messages(&what, &[run("SELECT 1"), run(declare), run(other), sync()]).await?;
            pair.same("ROLLBACK").await?;
            pair.same("CLOSE ALL").await?;
            pair.same_messages(&what, &[run("BEGIN"), run(declare), run(other), sync()]).await?;
            pair.same("ROLLBACK").await?;
            pair.same("CLOSE ALL").await?;
        }
        pair.same(&format!("{declare}; SELECT 1")).await?;
        pair.same("CLOSE ALL").await?;
    }
    Ok(())
}

/// The portal that BEGIN was is there until its transaction ends, or another takes its place.
pub async fn begins_portal(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for wrong in [
        parse("", "SELEC 1", &[]),
        parse("", "SELECT nosuch FROM items WHERE id = 3", &[]),
        bind("", "nope", &[], &[]),
        bind("p", "nope", &[], &[]),
        [parse("", "SELECT 1 / (id - id) FROM items WHERE id = 3", &[]), bind("p", "", &[], &[]), execute("p", 0)]
            .concat(),
        run("SELECT 1 / (id - id) FROM items WHERE id = 3"),
        run("SELECT 1 / (kind - kind) FROM items"),
        describe('S', "nope"),
        execute("nope", 0),
    ] {
        for apart in [false, true] {
            let begin = if apart { [run("BEGIN"), sync()].concat() } else { run("BEGIN") };
            if apart {
                pair.same_messages("BEGIN", &[begin]).await?;
                pair.same_messages("wrong", &[wrong.clone(), sync()]).await?;
            } else {
                pair.same_messages("BEGIN and wrong", &[begin, wrong.clone(), sync()]).await?;
            }
            let what = format!("{}, apart: {apart}", wrong.escape_ascii());
            pair.same_messages(&what, &[execute("", 0), sync()]).await?;
            pair.same_messages(&what, &[describe('P', ""), sync()]).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    Ok(())
}

/// What SET LOCAL has set ends with its transaction.
pub async fn local_settings_end(ports: Ports) -> Result<()> {
    for (setting, last) in [("idle_in_transaction_session_timeout", "BEGIN"), ("idle_session_timeout", "SELECT 1")] {
        for end in ["COMMIT", "ROLLBACK", "SELECT 1 / 0; COMMIT"] {
            let texts = [
                format!("SET {setting} TO '300ms'"),
                "BEGIN".to_owned(),
                format!("SET LOCAL {setting} TO 0"),
                "SET LOCAL search_path TO nowhere".to_owned(),
                end.to_owned(),
                "ROLLBACK".to_owned(),
                "SELECT id FROM plain WHERE id = 1".to_owned(),
                last.to_owned(),
            ];
            let bytes: Vec<u8> = texts.iter().flat_map(|text| query(text)).collect();
            let mut pair = Pair::connect(ports).await?;
            pair.same_steps(&format!("{setting}, {end}"), &[(bytes, Step::Closed)]).await?;
        }
    }
    Ok(())
}
