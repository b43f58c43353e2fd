//! Statements that were prepared before a schema change, on every way that they can be run.

use anyhow::Result;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

const TEXTS: [(&str, &[Option<&str>]); 9] = [
    ("SELECT * FROM shapes", &[]),
    ("SELECT * FROM shapes ORDER BY id", &[]),
    ("SELECT id, v FROM shapes ORDER BY v, id", &[]),
    ("SELECT id FROM shapes WHERE id > $1 ORDER BY id", &[Some("0")]),
    ("SELECT id FROM shapes WHERE v = $1 ORDER BY id", &[Some("3")]),
    ("SELECT max(v), count(*) FROM shapes", &[]),
    ("SELECT v FROM shapes WHERE id = $1", &[Some("1")]),
    ("SELECT sum(v) FROM shapes GROUP BY v ORDER BY 1", &[]),
    ("UPDATE shapes SET w = 'x' WHERE v > $1 RETURNING *", &[Some("100")]),
];

/// Each is prepared, described and run, then the table changes.
pub async fn changed(ports: (u16, u16)) -> Result<()> {
    let (mut pair, mut other) = (Pair::connect(ports).await?, Pair::connect(ports).await?);
    other.same("CREATE TABLE shapes (id bigint PRIMARY KEY, v int, w varchar(10))").await?;
    other.gateway_alone("SELECT create_distributed_table('shapes', 'id')").await?;
    // One row: the order of those that are concatenated is the shards'.
    other.same("INSERT INTO shapes VALUES (1, 3, 'w')").await?;
    let changes = [
        "ALTER TABLE shapes ADD COLUMN x int",
        "ALTER TABLE shapes ALTER COLUMN v TYPE bigint",
        "ALTER TABLE shapes ALTER COLUMN w TYPE varchar(20)",
        "ALTER TABLE shapes RENAME COLUMN x TO y",
        "CREATE INDEX shapes_v ON shapes (v)",
        "ALTER TABLE shapes DROP COLUMN y",
        "ALTER TABLE shapes ALTER COLUMN v TYPE text USING v::text",
        "ALTER TABLE shapes ALTER COLUMN v TYPE int USING v::int",
    ];
    for (round, change) in changes.iter().enumerate() {
        prepare(&mut pair, round).await?;
        other.same(change).await?;
        runs(&mut pair, &format!("after {change}"), round).await?;
        // Prepared anew, it works.
        for index in 0..TEXTS.len() {
            pair.same_messages("closed", &[close('S', &format!("s{index}")), sync()]).await?;
        }
        pair.same("DEALLOCATE ALL").await?;
        prepare(&mut pair, round).await?;
        runs(&mut pair, &format!("prepared after {change}"), round).await?;
        pair.same("DEALLOCATE ALL").await?;
    }
    // Changed by the transaction itself, and undone.
    prepare(&mut pair, 0).await?;
    pair.same("BEGIN").await?;
    pair.same("ALTER TABLE shapes ALTER COLUMN v TYPE bigint").await?;
    pair.same("SAVEPOINT a").await?;
    for (index, (_, values)) in TEXTS.iter().enumerate() {
        let name = format!("s{index}");
        pair.same_messages(&format!("{name} inside"), &[bind("", &name, values, &[1]), execute("", 0), sync()]).await?;
        pair.same("ROLLBACK TO a").await?;
    }
    pair.same("ROLLBACK").await?;
    runs(&mut pair, "undone", 0).await?;
    pair.same("DEALLOCATE ALL").await?;
    other.same("DROP TABLE shapes").await.map(|_| ())
}

async fn prepare(pair: &mut Pair, round: usize) -> Result<()> {
    for (index, (text, _)) in TEXTS.iter().enumerate() {
        let name = format!("s{index}");
        // Described with the Parse, by itself, or never.
        match (round + index) % 3 {
            0 => pair.same_messages(text, &[parse(&name, text, &[]), describe('S', &name), sync()]).await?,
            1 => {
                pair.same_messages(text, &[parse(&name, text, &[]), sync()]).await?;
                pair.same_messages(text, &[describe('S', &name), sync()]).await?
            }
            _ => pair.same_messages(text, &[parse(&name, text, &[]), sync()]).await?,
        };
    }
    pair.same("PREPARE q (int) AS SELECT v, w FROM shapes WHERE id > $1 ORDER BY id").await?;
    pair.same("PREPARE k (int) AS SELECT v FROM shapes WHERE id = $1").await?;
    Ok(())
}

async fn runs(pair: &mut Pair, what: &str, round: usize) -> Result<()> {
    for (index, (text, values)) in TEXTS.iter().enumerate() {
        let name = format!("s{index}");
        let what = format!("{text}, {what}");
        let formats: &[u16] = if index % 2 == 0 { &[1] } else { &[] };
        if (round + index).is_multiple_of(2) {
            pair.same_messages(&what, &[describe('S', &name), sync()]).await?;
        }
        for _ in 0..2 {
            pair.same_messages(&what, &[bind("", &name, values, formats), execute("", 0), sync()]).await?;
        }
        pair.same("BEGIN").await?;
        let portal = [bind("p", &name, values, formats), execute("p", 1), execute("p", 1), sync()];
        pair.same_messages(&what, &portal).await?;
        pair.same("ROLLBACK").await?;
    }
    for _ in 0..2 {
        pair.same("EXECUTE q (0)").await?;
        pair.same("EXECUTE k (1)").await?;
    }
    Ok(())
}

/// Types that the transaction itself has renamed, exchanged or made, where rows of several shards are combined.
pub async fn renamed(ports: (u16, u16)) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in [
        "CREATE TYPE colour AS ENUM ('red', 'green')",
        "CREATE TYPE shade AS ENUM ('green', 'red')",
        "CREATE TABLE painted (id bigint PRIMARY KEY, c colour, s shade)",
    ] {
        pair.same(sql).await?;
    }
    pair.gateway_alone("SELECT create_distributed_table('painted', 'id')").await?;
    pair.same("INSERT INTO painted SELECT i, 'red', 'green' FROM generate_series(1, 20) i").await?;
    pair.same("INSERT INTO painted SELECT i, 'green', 'red' FROM generate_series(21, 30) i").await?;
    let asks = async |pair: &mut Pair| {
        for sql in [
            "SELECT c::text, count(*) FROM painted GROUP BY c ORDER BY c",
            "SELECT s::text, count(*), max(c)::text FROM painted GROUP BY s ORDER BY s",
            "SELECT max(c)::text, min(s)::text FROM painted",
        ] {
            pair.same(sql).await?;
        }
        pair.same("DECLARE p CURSOR FOR SELECT c::text, count(*) FROM painted GROUP BY c ORDER BY c").await?;
        pair.same("FETCH ALL p").await?;
        pair.same("CLOSE p").await
    };
    for changes in [
        &["ALTER TYPE colour RENAME TO hue"][..],
        &["ALTER TYPE colour RENAME TO other", "ALTER TYPE shade RENAME TO colour", "ALTER TYPE other RENAME TO shade"],
        &["CREATE TYPE tone AS ENUM ('red', 'green')", "ALTER TABLE painted ALTER c TYPE tone USING c::text::tone"],
    ] {
        for touched in ["", "SELECT count(*) FROM painted", "SELECT id FROM painted WHERE id = 3"] {
            pair.same("BEGIN").await?;
            pair.same(touched).await?;
            for change in changes {
                pair.same(change).await?;
            }
            asks(&mut pair).await?;
            pair.same("ROLLBACK").await?;
            pair.same("BEGIN").await?;
            asks(&mut pair).await?;
            pair.same("ROLLBACK").await?;
        }
    }
    for sql in ["DROP TABLE painted", "DROP TYPE colour", "DROP TYPE shade"] {
        pair.same(sql).await?;
    }
    Ok(())
}
