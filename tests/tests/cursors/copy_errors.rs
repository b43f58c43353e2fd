//! What is said of bad rows in COPY FROM STDIN: which of them, when, and in which line of the client's data.

use anyhow::{ensure, Result};
use ringway_tests::scenario::raw::{frame, query};

use super::pair::{bind, execute, parse, sync, Pair, Step};

type Ports = (u16, u16);

fn data(text: impl AsRef<[u8]>) -> Vec<u8> {
    frame(b'd', text.as_ref())
}

fn done() -> Vec<u8> {
    frame(b'c', &[])
}

fn fail() -> Vec<u8> {
    frame(b'f', b"changed my mind\0")
}

/// Rows of `parts` with keys that no row has yet, on either shard.
fn rows(keys: std::ops::Range<u32>) -> String {
    keys.map(|key| format!("{key}\t1\n")).collect()
}

/// COPY, and what is sent once it takes data.
async fn same(pair: &mut Pair, what: &str, copy: &str, rest: &[Vec<u8>]) -> Result<()> {
    pair.same_steps(what, &[(query(copy), Step::Until(b'G')), (rest.concat(), Step::Ready)]).await?;
    pair.same("DELETE FROM parts WHERE item > 700").await?;
    pair.same("SELECT count(*) FROM parts").await.map(drop)
}

/// Which error it is, and its line.
pub async fn lines(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?.with_all_fields();
    let copy = "COPY parts FROM STDIN";
    let many = |bad: &[u32]| -> String {
        let row = |key| if bad.contains(&key) { format!("{key}\tx\n") } else { format!("{key}\t1\n") };
        (1001..4001).map(row).collect()
    };
    for (what, rest) in [
        ("a bad row, then CopyFail", vec![data(rows(721..724)), data("724\tx\n"), fail()]),
        ("a bad row within a message, then CopyFail", vec![data(rows(721..724) + "724\tx\n725\t1\n"), fail()]),
        ("CopyFail", vec![data(rows(721..724)), fail()]),
        ("CopyFail at once", vec![fail()]),
        ("CopyFail within a line", vec![data(rows(721..724) + "724\t"), fail()]),
        ("a duplicate, then CopyFail", vec![data("721\t1\n721\t1\n"), fail()]),
        ("a duplicate", vec![data(rows(721..734) + "1\t1\n" + &rows(734..740)), done()]),
        ("duplicates", vec![data(rows(721..734) + "3\t1\n2\t1\n5\t1\n4\t1\n1\t1\n"), done()]),
        ("a bad row behind a duplicate", vec![data("1\t1\n2\t1\n3\t1\n724\tx\n"), done()]),
        ("one of many rows", vec![data(many(&[3345])), done()]),
        ("several of many rows", vec![data(many(&[2345, 2346, 2347, 2348, 2349, 2350])), done()]),
        ("a bad key", vec![data(rows(721..724) + "x\t1\n"), done()]),
        ("a bad key behind a bad row", vec![data("721\tx\n722\tx\nx\t1\n"), done()]),
        ("a key that is NULL", vec![data(rows(721..724) + "\\N\t1\n"), done()]),
        ("a key that is NULL behind a bad row", vec![data("721\tx\n722\tx\n\\N\t1\n"), done()]),
        ("a value that is NULL", vec![data(rows(721..724) + "724\t\\N\n"), done()]),
        ("a short row", vec![data(rows(721..724) + "724\n"), done()]),
        ("a long row", vec![data(rows(721..724) + "724\t1\t2\n"), done()]),
        ("no UTF-8", vec![data([rows(721..724).as_bytes(), b"72\xff\t1\n"].concat()), done()]),
        ("a bad end", vec![data(rows(721..724) + "\\.x\n"), done()]),
        ("another line end", vec![data(rows(721..724) + "724\t1\r\n"), done()]),
    ] {
        same(&mut pair, what, copy, &rest).await?;
    }
    let copy = "COPY parts (n, item) FROM STDIN (FORMAT csv, HEADER)";
    for (what, rest) in [
        ("a header", "n,\"it\nem\"\n1,721\n1,722\n1,723\n1,724\nx,725\n"),
        ("a key that is NULL", "n,item\n1,721\n1,\n1,723\n"),
        ("a quote that is not closed", "n,item\n1,721\n1,\"722\n1,723\n"),
        ("a quote that is not closed in front of the key", "n,item\n1,721\n\"1,722\n1,723\n"),
    ] {
        same(&mut pair, what, copy, &[data(rest), done()]).await?;
        same(&mut pair, &format!("{what}, CopyFail"), copy, &[data(rest), fail()]).await?;
    }
    let text =
        |from: u32| -> String { (from..from + 30).map(|id| format!("{id},1,\"a\nb\n\",2024-01-01\n")).collect() };
    let copy = "COPY items (id, kind, name, at) FROM STDIN (FORMAT csv)";
    let bad = text(721) + "751,x,,2024-01-01\n" + &text(752);
    same(&mut pair, "lines within quotes", copy, &[data(&bad), done()]).await?;
    binary(&mut pair).await?;
    by_messages(&mut pair).await
}

async fn binary(pair: &mut Pair) -> Result<()> {
    let row = |item: Option<i64>, n: &[u8]| {
        let mut row = 2i16.to_be_bytes().to_vec();
        match item {
            Some(item) => row.extend([&8i32.to_be_bytes()[..], &item.to_be_bytes()].concat()),
            None => row.extend((-1i32).to_be_bytes()),
        }
        row.extend((n.len() as i32).to_be_bytes());
        [&row[..], n].concat()
    };
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    let good: Vec<u8> = (721..730).flat_map(|item| row(Some(item), &1i32.to_be_bytes())).collect();
    let bad = row(Some(730), &[1]);
    let copy = "COPY parts FROM STDIN (FORMAT binary)";
    for (what, bytes) in [
        ("a bad value", [&header[..], &good, &bad, &good].concat()),
        ("a key that is NULL", [&header[..], &good, &row(None, &1i32.to_be_bytes())].concat()),
    ] {
        same(pair, &format!("binary: {what}"), copy, &[data(bytes), done()]).await?;
    }
    same(pair, "binary: CopyFail", copy, &[data([&header[..], &good].concat()), fail()]).await
}

/// Errors come once there is something wrong, whatever the client sends later.
async fn by_messages(pair: &mut Pair) -> Result<()> {
    for bad in ["724\tx\n", "\\N\t1\n", "x\t1\n"] {
        let start = query("COPY parts FROM STDIN");
        let steps = [
            (start, Step::Until(b'G')),
            (data(rows(721..724)), Step::Sent),
            (data(bad), Step::Ready),
            ([data(rows(721..724)), done(), query("SELECT 1")].concat(), Step::Ready),
        ];
        pair.same_steps(&format!("{bad:?} by itself"), &steps).await?;
    }
    Ok(())
}

/// What a row's trigger says has the client's line, too.
pub async fn of_triggers(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?.with_all_fields();
    for sql in [
        "CREATE FUNCTION tells_some() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN \
         IF NEW.n = 5 THEN RAISE NOTICE 'row %', NEW; END IF; \
         IF NEW.n = 7 THEN RAISE EXCEPTION 'no row %', NEW; END IF; RETURN NEW; END$$",
        "CREATE TABLE \"told 9\" (id int PRIMARY KEY, n int)",
        "CREATE TRIGGER a BEFORE INSERT ON \"told 9\" FOR EACH ROW EXECUTE FUNCTION tells_some()",
    ] {
        pair.same(sql).await?;
    }
    ensure!(pair.gateway_alone("SELECT create_distributed_table('\"told 9\"', 'id')").await?.is_empty());
    let text = |of: u32| -> String { (1..40).map(|id| format!("{id}\t{}\n", if id == 29 { of } else { 1 })).collect() };
    for of in [5, 7] {
        let steps = [
            (query("COPY \"told 9\" FROM STDIN"), Step::Until(b'G')),
            ([data(text(of)), done()].concat(), Step::Ready),
        ];
        pair.same_steps(&format!("n = {of}"), &steps).await?;
        pair.same("DELETE FROM \"told 9\"").await?;
    }
    pair.same("DROP TABLE \"told 9\"").await?;
    pair.same("DROP FUNCTION tells_some").await.map(drop)
}

/// What has no place among data comes in one write with data that are wrong: that is said first.
pub async fn strangers(ports: Ports) -> Result<()> {
    let extended = |table: &str| {
        let parse = parse("", &format!("COPY {table} FROM STDIN"), &[]);
        [parse, bind("", "", &[], &[]), execute("", 0), sync()].concat()
    };
    let simple = |table: &str| query(&format!("COPY {table} FROM STDIN"));
    let terminate = frame(b'X', &[]);
    for (table, bad) in [("plain", "721\nx\n"), ("parts", "721\t1\n722\tx\n"), ("parts", "721\t1\nx\t1\n")] {
        for (how, start) in [("simple", simple(table)), ("extended", extended(table))] {
            for block in [false, true] {
                let what = format!("{table}, {how}, {bad:?}, {block}");
                let mut pair = Pair::connect(ports).await?.with_all_fields();
                if block {
                    pair.same("BEGIN").await?;
                }
                let behind = [data(bad), query("SELECT 1"), sync()].concat();
                let steps = [(start.clone(), Step::Until(b'G')), (behind, Step::Ready)];
                pair.same_steps(&format!("{what}: a query"), &steps).await?;
                if how == "simple" {
                    pair.same_steps(&format!("{what}: the query"), &[(Vec::new(), Step::Ready)]).await?;
                    pair.same_steps(&format!("{what}: Sync"), &[(Vec::new(), Step::Ready)]).await?;
                }
                pair.same("ROLLBACK").await?;
                let steps =
                    [(start.clone(), Step::Until(b'G')), ([data(bad), terminate.clone()].concat(), Step::Closed)];
                pair.same_steps(&format!("{what}: Terminate"), &steps).await?;
            }
        }
    }
    Ok(())
}
