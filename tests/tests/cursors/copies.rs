//! COPY FROM STDIN in pipelines: where Syncs count, what ends it early, what may follow it.

use anyhow::Result;
use ringway_tests::scenario::raw::{frame, query};

use super::pair::{bind, execute, parse, sync, Pair, Step};

type Ports = (u16, u16);

struct Pieces {
    begin: Vec<u8>,
    good: Vec<u8>,
    bad: Vec<u8>,
    undo: String,
}

fn pieces(table: &str) -> Pieces {
    let data = |text: &str| frame(b'd', text.as_bytes());
    let begin = [parse("", &format!("COPY {table} FROM STDIN"), &[]), bind("", "", &[], &[]), execute("", 0)].concat();
    let (good, bad, key) = match table {
        "plain" => ("721\n722\n", "723\nx\n", "id"),
        _ => ("721\t1\n722\t1\n723\t2\n", "724\t1\n725\t1\nx\t1\n", "item"),
    };
    Pieces { begin, good: data(good), bad: data(bad), undo: format!("DELETE FROM {table} WHERE {key} > 700") }
}

fn statement(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat()
}

/// The Sync behind Execute is overread; whatever comes behind the data goes on in the same transaction.
pub async fn overread(ports: Ports) -> Result<()> {
    let (flush, done, fail) = (frame(b'H', &[]), frame(b'c', &[]), frame(b'f', b"changed my mind\0"));
    for table in ["plain", "parts"] {
        let Pieces { begin, good, bad, undo } = pieces(table);
        let order = if table == "plain" { "id" } else { "item, n" };
        // A row that is there: the same one on both.
        let insert = format!("INSERT INTO {table} SELECT * FROM {table} ORDER BY {order} LIMIT 1");
        let mut pair = Pair::connect(ports).await?;
        for behind in [sync(), flush.clone()] {
            let start = [&begin[..], &behind].concat();
            let good = [&good[..], &done].concat();
            for (what, steps) in [
                ("Sync", vec![(start.clone(), Step::Until(b'G')), ([&good[..], &sync()].concat(), Step::Ready)]),
                (
                    "a query",
                    vec![(start.clone(), Step::Until(b'G')), ([&good[..], &query("SELECT 1")].concat(), Step::Ready)],
                ),
                (
                    "a pipeline",
                    vec![
                        (start.clone(), Step::Until(b'G')),
                        ([&good[..], &statement("SELECT 2"), &sync()].concat(), Step::Ready),
                    ],
                ),
                (
                    "what fails",
                    vec![
                        (start.clone(), Step::Until(b'G')),
                        ([&good[..], &statement(&insert), &query("SELECT 3"), &sync()].concat(), Step::Ready),
                    ],
                ),
                (
                    "Syncs among the data",
                    vec![
                        (start.clone(), Step::Until(b'G')),
                        ([&sync(), &flush[..], &good, &sync()].concat(), Step::Ready),
                    ],
                ),
                ("all in one write", vec![([&start[..], &good, &query("SELECT 1")].concat(), Step::Ready)]),
                ("COPY twice in one write", vec![([&start[..], &good, &begin, &done, &sync()].concat(), Step::Ready)]),
                (
                    "bad data and CopyDone, then a query",
                    vec![
                        (start.clone(), Step::Until(b'G')),
                        (bad.clone(), Step::Until(b'E')),
                        ([&done[..], &query("SELECT 1"), &statement("SELECT 2"), &sync()].concat(), Step::Ready),
                    ],
                ),
                (
                    "bad data without CopyDone",
                    vec![(start.clone(), Step::Until(b'G')), (bad.clone(), Step::Until(b'E')), (sync(), Step::Ready)],
                ),
                (
                    "CopyFail, then a query",
                    vec![
                        (start.clone(), Step::Until(b'G')),
                        ([&fail[..], &query("SELECT 1"), &sync()].concat(), Step::Ready),
                    ],
                ),
            ] {
                pair.same_steps(&format!("{table}: {what}"), &steps).await?;
                pair.same(&undo).await?;
            }
        }
        ends(ports, table).await?;
    }
    in_simple_queries(ports).await
}

/// What ends the session: the rows are gone.
async fn ends(ports: Ports, table: &str) -> Result<()> {
    let done = frame(b'c', &[]);
    let Pieces { begin, good, bad, undo } = pieces(table);
    for (what, rest, step) in [
        ("Terminate", [&good[..], &done, &frame(b'X', &[])].concat(), Step::Closed),
        ("Terminate within", [&good[..], &frame(b'X', &[])].concat(), Step::Closed),
        ("a query within", [&good[..], &query("SELECT 1")].concat(), Step::Closed),
        ("Parse within", [&good[..], &parse("", "SELECT 1", &[])].concat(), Step::Closed),
        ("bad data, then Terminate", [&bad[..], &frame(b'X', &[])].concat(), Step::Closed),
    ] {
        let start = [&begin[..], &sync()].concat();
        let mut pair = Pair::connect(ports).await?;
        let steps = [(start, Step::Until(b'G')), (rest, step)];
        pair.same_steps(&format!("{table}: {what}"), &steps).await?;
        Pair::connect(ports).await?.same(&undo).await?;
    }
    let mut pair = Pair::connect(ports).await?;
    let all = [&begin[..], &statement("SELECT 1"), &sync()].concat();
    pair.same_steps(&format!("{table}: a statement before the data"), &[(all, Step::Closed)]).await
}

async fn in_simple_queries(ports: Ports) -> Result<()> {
    let done = frame(b'c', &[]);
    for table in ["plain", "parts"] {
        let mut pair = Pair::connect(ports).await?;
        let Pieces { good, bad, undo, .. } = pieces(table);
        let begin = query(&format!("COPY {table} FROM STDIN"));
        let query = query("SELECT 1");
        for (what, steps) in [
            ("bad data, then a query", vec![(bad.clone(), Step::Ready), (query.clone(), Step::Ready)]),
            (
                "bad data, more, then a query",
                vec![(bad.clone(), Step::Ready), ([&good[..], &done, &query].concat(), Step::Ready)],
            ),
            ("a query behind", vec![([&good[..], &done, &query].concat(), Step::Ready), (Vec::new(), Step::Ready)]),
        ] {
            let steps = [vec![(begin.clone(), Step::Until(b'G'))], steps].concat();
            pair.same_steps(&format!("{table}, simple: {what}"), &steps).await?;
            pair.same(&undo).await?;
        }
    }
    Ok(())
}

/// Triggers that fail before anything is read, so that the Sync counts, and triggers that have something to say.
pub async fn triggers(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in [
        "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no copies'; END$$",
        "CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'row %', NEW; RETURN NEW; END$$",
        "CREATE TABLE refusing (id int)",
        "CREATE TRIGGER a BEFORE INSERT ON refusing EXECUTE FUNCTION refuses()",
        "CREATE TABLE telling (id int)",
        "CREATE TRIGGER a BEFORE INSERT ON telling FOR EACH ROW EXECUTE FUNCTION tells()",
    ] {
        pair.same(sql).await?;
    }
    let data = [frame(b'd', b"1\n2\n"), frame(b'c', &[]), sync()].concat();
    for block in [false, true] {
        if block {
            pair.same("BEGIN").await?;
        }
        let start = [statement("COPY refusing FROM STDIN"), sync()].concat();
        let steps = [(start.clone(), Step::Ready), (data.clone(), Step::Ready), (query("SELECT 1"), Step::Ready)];
        pair.same_steps("fails at once", &steps).await?;
        let steps = [([&start[..], &data].concat(), Step::Ready), (Vec::new(), Step::Ready)];
        pair.same_steps("fails at once, data behind", &steps).await?;
        pair.same("ROLLBACK").await?;
    }
    let start = [statement("COPY telling FROM STDIN"), sync()].concat();
    pair.same_steps("notices", &[(start, Step::Until(b'G')), (data, Step::Ready)]).await?;
    for sql in ["DROP TABLE refusing", "DROP TABLE telling", "DROP FUNCTION refuses", "DROP FUNCTION tells"] {
        pair.same(sql).await?;
    }
    Ok(())
}
