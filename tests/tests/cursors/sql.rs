//! DECLARE, FETCH, MOVE and CLOSE.

use anyhow::{ensure, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringway_tests::cluster::Cluster;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

const DIRECTIONS: &[&str] = &[
    "NEXT",
    "PRIOR",
    "FIRST",
    "LAST",
    "ABSOLUTE 3",
    "ABSOLUTE -2",
    "ABSOLUTE 0",
    "ABSOLUTE 1000",
    "ABSOLUTE -1000",
    "RELATIVE 2",
    "RELATIVE -3",
    "RELATIVE 0",
    "5",
    "-2",
    "0",
    "ALL",
    "FORWARD",
    "FORWARD 4",
    "FORWARD -1",
    "FORWARD 0",
    "FORWARD ALL",
    "BACKWARD",
    "BACKWARD 3",
    "BACKWARD -2",
    "BACKWARD 0",
    "BACKWARD ALL",
];

pub async fn directions(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for scroll in ["SCROLL", "NO SCROLL", ""] {
        for start in ["", "MOVE 4 FROM c", "MOVE ALL FROM c", "MOVE 11 IN c"] {
            for direction in DIRECTIONS {
                for verb in ["FETCH", "MOVE"] {
                    pair.same("BEGIN").await?;
                    pair.same(&format!(
                        "DECLARE c {scroll} CURSOR FOR SELECT id, name FROM items WHERE id <= 12 ORDER BY id"
                    ))
                    .await?;
                    if !start.is_empty() {
                        pair.same(start).await?;
                    }
                    pair.same(&format!("{verb} {direction} FROM c")).await?;
                    pair.same("FETCH c").await?;
                    pair.same("ROLLBACK").await?;
                }
            }
        }
    }
    Ok(())
}

pub async fn walks(ports: Ports) -> Result<()> {
    let seed = std::env::var("RINGWAY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_241);
    println!("RINGWAY_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut pair = Pair::connect(ports).await?;
    for walk in 0..12 {
        let rows = [0, 1, 2, 40, 100][walk % 5];
        let hold = if walk % 3 == 0 { "WITH HOLD" } else { "" };
        pair.same("BEGIN").await?;
        pair.same(&format!(
            "DECLARE walk SCROLL CURSOR {hold} FOR SELECT * FROM items WHERE id <= {rows} ORDER BY at DESC"
        ))
        .await?;
        for step in 0..60 {
            if step == 30 && !hold.is_empty() {
                pair.same("COMMIT").await?;
            }
            let verb = if random.random_bool(0.7) { "FETCH" } else { "MOVE" };
            let n = random.random_range(-15..=25);
            let direction = match random.random_range(0..8) {
                0 => format!("ABSOLUTE {n}"),
                1 => format!("RELATIVE {n}"),
                2 => format!("FORWARD {n}"),
                3 => format!("BACKWARD {n}"),
                _ => DIRECTIONS[random.random_range(0..DIRECTIONS.len())].to_owned(),
            };
            pair.same(&format!("{verb} {direction} IN walk")).await?;
        }
        pair.same("CLOSE walk").await?;
        pair.same("COMMIT").await?;
    }
    Ok(())
}

pub async fn queries(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for (scroll, query) in [
        ("", "SELECT id FROM items ORDER BY price DESC, id LIMIT 9 OFFSET 3"),
        ("", "SELECT name FROM items ORDER BY id DESC"),
        ("SCROLL", "SELECT i.id, p.n FROM items i JOIN parts p ON p.item = i.id ORDER BY i.id, p.n"),
        ("SCROLL", "SELECT kind, count(*), sum(price), avg(price) FROM items GROUP BY kind ORDER BY kind"),
        ("", "SELECT kind, count(*) FROM items GROUP BY kind ORDER BY 2 DESC, 1"),
        ("", "SELECT count(*), max(name), min(at) FROM items"),
        ("NO SCROLL", "SELECT DISTINCT kind FROM items ORDER BY kind"),
        ("SCROLL", "SELECT DISTINCT kind FROM items ORDER BY kind"),
        ("", "SELECT id FROM items WHERE id < 0"),
        ("", "SELECT FROM items WHERE id < 4"),
        ("", "SELECT id FROM items WHERE id IN (3, 4, 5, 6) ORDER BY id"),
        ("", "SELECT id FROM items WHERE id = 3"),
        ("", "SELECT id FROM plain ORDER BY id"),
        ("", "SELECT i FROM generate_series(1, 5) i"),
        ("", "WITH cheap AS (SELECT id FROM items WHERE price < 3) SELECT id FROM cheap ORDER BY id"),
        ("BINARY", "SELECT id, name, price, at FROM items ORDER BY id LIMIT 5"),
        ("BINARY INSENSITIVE SCROLL", "SELECT kind, count(*), sum(price) FROM items GROUP BY kind ORDER BY kind"),
        ("", "SELECT name, id FROM items ORDER BY name NULLS FIRST, id"),
    ] {
        pair.same("BEGIN").await?;
        pair.same(&format!("DECLARE c {scroll} CURSOR FOR {query}")).await?;
        for read in [
            "FETCH 3 FROM c",
            "MOVE c",
            "FETCH FORWARD 2 FROM c",
            "FETCH 0 FROM c",
            "FETCH ALL IN c",
            "FETCH c",
            "FETCH BACKWARD 2 FROM c",
            "CLOSE c",
        ] {
            pair.same(read).await?;
        }
        pair.same("ROLLBACK").await?;
    }
    // Rows of no particular order: how many they are.
    pair.same("BEGIN").await?;
    pair.same("DECLARE c CURSOR FOR SELECT id FROM items").await?;
    for read in [
        "MOVE 40 FROM c",
        "MOVE ALL FROM c",
        "MOVE BACKWARD ALL FROM c",
        "MOVE ABSOLUTE 100 FROM c",
        "MOVE c",
        "CLOSE ALL",
        "COMMIT",
    ] {
        pair.same(read).await?;
    }
    Ok(())
}

pub async fn life(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let declare =
        |name: &str, hold: &str| format!("DECLARE {name} CURSOR {hold} FOR SELECT id, name FROM items ORDER BY id");
    for script in [
        // Its rows are those of the moment when it was declared.
        vec![
            "BEGIN",
            &declare("c", ""),
            "UPDATE items SET name = 'later' WHERE id < 4",
            "DELETE FROM items WHERE id = 5",
            "FETCH 6 FROM c",
            "INSERT INTO items VALUES (0, 1, 'new', 1, now())",
            "FETCH 2 FROM c",
            "ROLLBACK",
            "FETCH c",
        ],
        // Savepoints.
        vec![
            "BEGIN",
            &declare("before", ""),
            "SAVEPOINT a",
            &declare("inside", ""),
            "FETCH 2 FROM before",
            "FETCH 2 FROM inside",
            "SAVEPOINT b",
            &declare("deeper", ""),
            "RELEASE b",
            "FETCH deeper",
            "ROLLBACK TO a",
            "FETCH 2 FROM before",
        ],
        vec![
            "FETCH inside",
            "ROLLBACK TO a",
            "FETCH deeper",
            "ROLLBACK TO a",
            "FETCH before",
            "COMMIT",
            "FETCH before",
        ],
        // An error in the transaction.
        vec![
            "BEGIN",
            &declare("c", ""),
            "FETCH c",
            "SAVEPOINT a",
            "SELECT 1 / 0",
            "FETCH c",
            "ROLLBACK TO a",
            "FETCH c",
            "COMMIT",
        ],
        // An error in the cursor itself.
        vec![
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT id, 1 / (id - 3) FROM items ORDER BY id",
            "SAVEPOINT a",
            "FETCH 5 FROM c",
            "ROLLBACK TO a",
            "FETCH c",
            "ROLLBACK TO a",
            "CLOSE c",
            "COMMIT",
        ],
        // WITH HOLD.
        vec![
            "BEGIN",
            &declare("h", "WITH HOLD"),
            "FETCH 3 FROM h",
            "COMMIT",
            "FETCH 2 FROM h",
            "DELETE FROM items WHERE id = 7",
            "FETCH 2 FROM h",
            "INSERT INTO items VALUES (7, 0, 'name 7', 2.33, '2024-02-29 19:00+01')",
            "FETCH -1 FROM h",
            "CLOSE h",
            "FETCH h",
        ],
        vec![
            &declare("h", "WITH HOLD"),
            "FETCH 2 FROM h",
            "BEGIN",
            "FETCH h",
            "SELECT 1 / 0",
            "FETCH h",
            "ROLLBACK",
            "FETCH h",
            "CLOSE ALL",
            "FETCH h",
        ],
        vec!["BEGIN", &declare("h", "WITH HOLD"), "ROLLBACK", "FETCH h"],
        vec![
            "DECLARE h NO SCROLL CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id",
            "FETCH 2 FROM h",
            "FETCH PRIOR FROM h",
            "FETCH h",
            "CLOSE h",
        ],
        vec![
            "BEGIN",
            "DECLARE h CURSOR WITH HOLD FOR SELECT 1 / (id - 90) FROM items ORDER BY id",
            "FETCH h",
            "COMMIT",
            "FETCH h",
        ],
        // Several statements in one message.
        vec!["DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id; FETCH 2 FROM c; MOVE c; FETCH c", "FETCH c"],
        vec!["BEGIN; DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id; FETCH 2 FROM c; COMMIT; FETCH c"],
        vec!["DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id", "DISCARD ALL"],
        vec![&declare("h", "WITH HOLD"), "DISCARD ALL", "FETCH h"],
    ] {
        for statement in script {
            pair.same(statement).await?;
        }
    }
    // Other settings change how rows are written, where nothing has been fetched.
    pair.same("BEGIN").await?;
    pair.same("DECLARE c CURSOR FOR SELECT at FROM items ORDER BY id").await?;
    pair.same("SET LOCAL timezone TO 'Asia/Tokyo'").await?;
    pair.same("FETCH 2 FROM c").await?;
    let code = {
        pair.gateway_alone("SET LOCAL timezone TO 'Europe/Berlin'").await?;
        pair.gateway_alone("FETCH 2 FROM c").await?
    };
    ensure!(code == "0A000", "after other settings: {code}");
    Ok(())
}

pub async fn names(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let long = "x".repeat(70);
    for statement in [
        "BEGIN",
        "DECLARE Folded CURSOR FOR SELECT id FROM items ORDER BY id",
        "DECLARE \"Folded\" CURSOR FOR SELECT id FROM items ORDER BY id DESC",
        "FETCH FOLDED",
        "FETCH NEXT FROM \"Folded\"",
        "DECLARE \"say \"\"hi\"\"\" CURSOR FOR SELECT id FROM items ORDER BY id",
        "FETCH \"say \"\"hi\"\"\"",
        "DECLARE next CURSOR FOR SELECT id FROM items ORDER BY id",
        "FETCH next",
        "FETCH next next",
        "MOVE FORWARD next",
        "CLOSE next",
        "SAVEPOINT a",
        "DECLARE folded CURSOR FOR SELECT id FROM items ORDER BY id",
        "ROLLBACK TO a",
        "DECLARE folded CURSOR FOR SELECT id FROM items WHERE id = 3",
        "ROLLBACK TO a",
        "DECLARE keyed CURSOR FOR SELECT id FROM items WHERE id = 3",
        "DECLARE keyed CURSOR FOR SELECT id FROM items",
        "ROLLBACK TO a",
        "FETCH unknown",
        "ROLLBACK TO a",
        "CLOSE unknown",
        "ROLLBACK TO a",
        "FETCH sideways FROM folded",
        "ROLLBACK TO a",
        "FETCH ABSOLUTE FROM folded",
        "ROLLBACK TO a",
        "FETCH 99999999999 FROM folded",
        "ROLLBACK TO a",
        "DECLARE d SCROLL NO SCROLL CURSOR FOR SELECT id FROM items",
        "ROLLBACK TO a",
        "DECLARE d INSENSITIVE ASENSITIVE CURSOR FOR SELECT id FROM items",
        "ROLLBACK TO a",
        "DECLARE d CURSOR FOR SELECT nothing FROM items",
        "ROLLBACK TO a",
        "DECLARE d CURSOR FOR SELECT id FROM nowhere",
        "ROLLBACK TO a",
        "CLOSE ALL",
        "FETCH folded",
        "ROLLBACK",
        "DECLARE c CURSOR FOR SELECT id FROM items",
        "DECLARE c CURSOR WITHOUT HOLD FOR SELECT id FROM items WHERE id = 3",
    ] {
        pair.same(statement).await?;
    }
    pair.same("BEGIN").await?;
    pair.same(&format!("DECLARE {long} CURSOR FOR SELECT id FROM items ORDER BY id")).await.map(|_| ()).or_else(
        |error| {
            // PostgreSQL tells that it has cut the name.
            if error.to_string().contains("will be truncated") {
                Ok(())
            } else {
                Err(error)
            }
        },
    )?;
    pair.same("ROLLBACK").await?;
    Ok(())
}

pub async fn extended(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let run = |sql: &str, values: &[Option<&str>], formats: &[u16]| {
        [
            parse("", sql, &[]),
            describe('S', ""),
            bind("", "", values, formats),
            describe('P', ""),
            execute("", 0),
            sync(),
        ]
    };
    for (what, formats) in [("text", &[][..]), ("binary", &[1]), ("each its own", &[1, 0, 1])] {
        for binary in ["", "BINARY"] {
            pair.same("BEGIN").await?;
            let declare = format!("DECLARE c {binary} SCROLL CURSOR FOR SELECT id, name, price FROM items WHERE id > $1 AND kind < $2 ORDER BY id");
            pair.same_messages(&declare, &run(&declare, &[Some("10"), Some("5")], &[])).await?;
            pair.same_messages("Describe the cursor", &[describe('P', "c"), sync()]).await?;
            for fetch in ["FETCH 3 FROM c", "MOVE 2 FROM c", "FETCH PRIOR FROM c", "FETCH ABSOLUTE 2 FROM c"] {
                pair.same_messages(&format!("{fetch} in {what}"), &run(fetch, &[], formats)).await?;
            }
            pair.same_messages("too many formats", &run("FETCH c", &[], &[0, 0])).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    // Text first, then binary: a shard converts.
    pair.same("BEGIN").await?;
    pair.same("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT id, name, price, at FROM items ORDER BY id").await?;
    pair.same("FETCH 2 FROM c").await?;
    pair.same_messages("binary", &run("FETCH 2 FROM c", &[], &[1])).await?;
    pair.same_messages("binary, backwards", &run("FETCH BACKWARD ALL FROM c", &[], &[1])).await?;
    pair.same("COMMIT").await?;
    pair.same_messages("binary, held", &run("FETCH ALL FROM c", &[], &[0, 0, 1, 1])).await?;
    pair.same("CLOSE c").await?;
    // A pipeline is no transaction block.
    let declare = parse("", "DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id", &[]);
    pair.same_messages(
        "in a pipeline",
        &[
            declare,
            bind("", "", &[], &[]),
            execute("", 0),
            parse("", "FETCH c", &[]),
            bind("", "", &[], &[]),
            execute("", 0),
            sync(),
        ],
    )
    .await?;
    // A cursor by its name as a portal; a limit on FETCH.
    pair.same("BEGIN").await?;
    pair.same("DECLARE c SCROLL CURSOR FOR SELECT id FROM items ORDER BY id").await?;
    pair.same_messages("Execute of a cursor", &[execute("c", 2), sync()]).await?;
    pair.same("FETCH c").await?;
    pair.same_messages(
        "a FETCH in pieces",
        &[
            parse("", "FETCH 5 FROM c", &[]),
            bind("f", "", &[], &[1]),
            execute("f", 3),
            execute("f", 3),
            execute("f", 3),
            sync(),
        ],
    )
    .await?;
    pair.same_messages(
        "a FETCH in whole pieces",
        &[
            parse("", "FETCH 4 FROM c", &[]),
            bind("g", "", &[], &[]),
            execute("g", 2),
            execute("g", 2),
            execute("g", 2),
            sync(),
        ],
    )
    .await?;
    pair.same_messages("Bind of a name that is taken", &[parse("", "SELECT 1", &[]), bind("c", "", &[], &[]), sync()])
        .await?;
    pair.same("ROLLBACK").await?;
    pair.same("BEGIN").await?;
    pair.same("DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id").await?;
    pair.same_messages("Close of a cursor", &[close('P', "c"), close('P', "c"), sync()]).await?;
    pair.same("FETCH c").await?;
    pair.same("ROLLBACK").await?;
    Ok(())
}

pub async fn refused(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    let mut pair = Pair::connect((port, port)).await?;
    for (what, statements) in [
        ("FOR UPDATE", &["DECLARE c CURSOR FOR SELECT id FROM items FOR UPDATE"][..]),
        (
            "WHERE CURRENT OF",
            &["DECLARE c CURSOR FOR SELECT id FROM items", "FETCH c", "UPDATE items SET name = 'x' WHERE CURRENT OF c"],
        ),
        ("pg_cursors", &["DECLARE c CURSOR FOR SELECT id FROM items", "SELECT name FROM pg_cursors"]),
    ] {
        pair.gateway_alone("BEGIN").await?;
        let (last, before) = statements.split_last().expect("statements");
        for statement in before {
            let code = pair.gateway_alone(statement).await?;
            ensure!(code.is_empty(), "{what}: {statement}: {code}");
        }
        let code = pair.gateway_alone(last).await?;
        ensure!(code == "0A000", "{what}: {code:?} instead of a refusal");
        pair.gateway_alone("ROLLBACK").await?;
    }
    // Names that have changed before its rows are combined.
    let grouped = "DECLARE c CURSOR FOR SELECT kind, count(*) FROM items GROUP BY kind";
    for (read, expected) in [("", "0A000"), ("FETCH c", "")] {
        for statement in ["BEGIN", grouped, read, "SET LOCAL search_path TO pg_catalog, public"] {
            let code = pair.gateway_alone(statement).await?;
            ensure!(code.is_empty(), "{statement}: {code}");
        }
        let code = pair.gateway_alone("FETCH c").await?;
        ensure!(code == expected, "another search_path: {code:?}");
        pair.gateway_alone("ROLLBACK").await?;
    }
    // More rows than may be kept: those that have been combined and wait, and those that have been passed.
    pair.gateway_alone("BEGIN").await?;
    for (name, expected) in [("a", ""), ("b", "53400")] {
        let wide = "SELECT kind, repeat('x', 6000000 + count(*)::int) FROM items GROUP BY kind";
        let code = pair.gateway_alone(&format!("DECLARE {name} NO SCROLL CURSOR FOR {wide}")).await?;
        ensure!(code.is_empty(), "{code}");
        let code = pair.gateway_alone(&format!("MOVE {name}")).await?;
        ensure!(code == expected, "combined rows: {code:?}");
    }
    pair.gateway_alone("ROLLBACK").await?;
    pair.gateway_alone("BEGIN").await?;
    let wide = "SELECT i.id, repeat('x', 1000000) FROM items i";
    pair.gateway_alone(&format!("DECLARE c SCROLL CURSOR FOR {wide}")).await?;
    let code = pair.gateway_alone("MOVE ALL FROM c").await?;
    ensure!(code == "53400", "SCROLL without bound: {code:?}");
    pair.gateway_alone("ROLLBACK").await?;
    let code = pair.gateway_alone(&format!("DECLARE c CURSOR WITH HOLD FOR {wide}")).await?;
    ensure!(code == "53400", "WITH HOLD without bound: {code:?}");
    pair.gateway_alone("BEGIN").await?;
    pair.gateway_alone(&format!("DECLARE c CURSOR FOR {wide}")).await?;
    let code = pair.gateway_alone("MOVE ALL FROM c").await?;
    ensure!(code.is_empty(), "only forward: {code:?}");
    let code = pair.gateway_alone("MOVE BACKWARD 1 FROM c").await?;
    ensure!(code == "53400", "back over more than is kept: {code:?}");
    pair.gateway_alone("ROLLBACK").await?;
    Ok(())
}
