//! Values with OIDs in them from the client, and types that come and go.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::raw::{query, Message, Raw};
use ringway_tests::scenario::sql;

use super::{bind, describe, error, execute, parse, said, session, sync, text, Shards};

/// The values of the only DataRow.
fn values(messages: &[Message]) -> Result<Vec<Option<Vec<u8>>>> {
    let row = messages.iter().find(|message| message.tag == b'D').context("no row")?;
    let mut rest = &row.body[2..];
    let mut out = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                out.push(None);
                rest = after;
            }
            Ok(length) => {
                out.push(Some(after[..length].to_vec()));
                rest = &after[length..];
            }
        }
    }
    Ok(out)
}

const COLUMNS: &str = "m, ms, p, ps, d, l, s, r, c, k, ks";

async fn row(raw: &mut Raw, id: i64) -> Result<Vec<Option<Vec<u8>>>> {
    let select = format!("SELECT {COLUMNS} FROM people WHERE id = $1");
    let seen = said(raw, &[parse("", &select, &[]), bind("", "", 0, &[text(id)]), execute("", 0), sync()]).await?;
    ensure!(error(&seen).is_none(), "{:?}", error(&seen));
    values(&seen)
}

/// What a row of the home shard says in binary is stored in rows of every shard, and reads as it did.
pub async fn parameters(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let mut raw = session(cluster).await?;
    let of_home = row(&mut raw, shards.of_home()).await?;
    let as_text = format!("SELECT ROW({COLUMNS})::text FROM people WHERE id = ");
    let expected = sql::value(&client, &format!("{as_text}{}", shards.of_home())).await?;
    let places = (2..=12).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO people ({COLUMNS}, id) VALUES ({places}, $1) RETURNING {COLUMNS}");
    let update = format!("UPDATE people SET ({COLUMNS}) = ({places}) WHERE id = $1 RETURNING {COLUMNS}");
    said(&mut raw, &[parse("update", &update, &[]), describe(b'S', "update"), sync()]).await?;
    for [_, id] in &shards.keys {
        let with = |id: i64| {
            let id = Some(id.to_be_bytes().to_vec());
            std::iter::once(id).chain(of_home.clone()).collect::<Vec<_>>()
        };
        said(&mut raw, &[query(&format!("DELETE FROM people WHERE id = {id}"))]).await?;
        let messages = [parse("", &insert, &[]), bind("", "", 1, &with(*id)), execute("", 0), sync()];
        let seen = said(&mut raw, &messages).await?;
        ensure!(error(&seen).is_none(), "key {id}: {:?}", error(&seen));
        ensure!(values(&seen)? == of_home, "key {id}: RETURNING");
        for _ in 0..3 {
            let seen = said(&mut raw, &[bind("", "update", 1, &with(*id)), execute("", 0), sync()]).await?;
            ensure!(error(&seen).is_none(), "key {id}: {:?}", error(&seen));
            ensure!(values(&seen)? == of_home, "key {id}: RETURNING of UPDATE");
        }
        let stored = sql::value(&client, &format!("{as_text}{id}")).await?;
        ensure!(stored == expected, "key {id}: {stored} instead of {expected}");
    }
    // Several rows for several shards, in one statement.
    let list = (0..shards.keys.len()).map(|at| format!("(${}, $1, 'ok')", at + 2)).collect::<Vec<_>>().join(", ");
    let ids: Vec<i64> = shards.keys.iter().map(|keys| keys[1]).collect();
    client.batch_execute(&format!("DELETE FROM people WHERE id = ANY('{{{}}}')", joined(&ids))).await?;
    let several = format!("INSERT INTO people (id, ms, l) VALUES {list}");
    let mut given = vec![of_home[1].clone()];
    given.extend(ids.iter().map(|id| Some(id.to_be_bytes().to_vec())));
    let seen = said(&mut raw, &[parse("", &several, &[]), bind("", "", 1, &given), execute("", 0), sync()]).await?;
    ensure!(error(&seen).is_none(), "several rows: {:?}", error(&seen));
    // Everywhere at once.
    let everywhere = "UPDATE people SET ms = $1 WHERE ms = $1 AND $2::pair IS NOT NULL";
    let given = [of_home[1].clone(), of_home[2].clone()];
    let seen = said(&mut raw, &[parse("", everywhere, &[]), bind("", "", 1, &given), execute("", 0), sync()]).await?;
    let count = seen.iter().find(|message| message.tag == b'C').map(|m| String::from_utf8_lossy(&m.body).into_owned());
    let all = sql::value(&client, "SELECT 'UPDATE ' || count(*) FROM people").await?;
    ensure!(count.as_deref().map(|tag| tag.trim_end_matches('\0')) == Some(all.as_str()), "{count:?}: {seen:?}");
    // Back to what they were.
    for id in ids {
        let id = Some(id.to_be_bytes().to_vec());
        let given: Vec<_> = std::iter::once(id).chain(of_home.clone()).collect();
        let seen = said(&mut raw, &[bind("", "update", 1, &given), execute("", 0), sync()]).await?;
        ensure!(error(&seen).is_none(), "{:?}", error(&seen));
    }
    client.batch_execute("UPDATE people SET n = 5").await?;
    raw.finish().await
}

/// A portal with such parameters reads what was there at its Bind.
pub async fn bound_before_a_write(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let mut raw = session(cluster).await?;
    let of_home = row(&mut raw, shards.of_home()).await?;
    let select = "SELECT n, ms FROM people WHERE id = $1 AND ms = $2";
    for begin in ["BEGIN", ""] {
        for keys in &shards.keys {
            let id = keys[0];
            let given = [Some(id.to_be_bytes().to_vec()), of_home[1].clone()];
            let write = format!("UPDATE people SET n = n + 1 WHERE id = {id}");
            let seen = said(
                &mut raw,
                &[
                    parse("", begin, &[]),
                    bind("", "", 0, &[]),
                    execute("", 0),
                    parse("", select, &[]),
                    bind("p", "", 1, &given),
                    parse("", &write, &[]),
                    bind("", "", 0, &[]),
                    execute("", 0),
                    execute("p", 1),
                    sync(),
                ],
            )
            .await?;
            ensure!(error(&seen).is_none(), "key {id}: {:?}", error(&seen));
            let expected = [Some(5i32.to_be_bytes().to_vec()), of_home[1].clone()];
            ensure!(values(&seen)? == expected, "key {id}: {seen:?}");
            let back = format!("UPDATE people SET n = 5 WHERE id = {id}");
            said(&mut raw, &[query(if begin.is_empty() { &back } else { "ROLLBACK" })]).await?;
        }
    }
    raw.finish().await
}

fn joined(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

const FRESH: &str = "CREATE TYPE fresh AS ENUM ('a', 'b')";

/// What a transaction has made it can use on all shards before anybody else sees it.
pub async fn own_transaction(cluster: &Cluster, shards: &Shards) -> Result<()> {
    for end in ["ROLLBACK", "COMMIT", "COMMIT"] {
        let mut raw = session(cluster).await?;
        let mut seen = Vec::new();
        for keys in [&shards.keys[0], &shards.keys[1]] {
            for step in [
                "BEGIN".to_owned(),
                "DROP TYPE IF EXISTS fresh CASCADE".to_owned(),
                FRESH.to_owned(),
                "CREATE TYPE fresher AS (f fresh, fs fresh[])".to_owned(),
            ] {
                let seen = said(&mut raw, &[query(&step)]).await?;
                ensure!(error(&seen).is_none(), "{step}: {:?}", error(&seen));
            }
            let select = "SELECT 'a'::fresh, ARRAY['b'::fresh], ROW('a', '{b}')::fresher, ARRAY[ROW('a', NULL)::fresher] FROM people \
                          WHERE id = $1";
            let messages =
                [parse("", select, &[]), bind("", "", 0, &[text(keys[0])]), describe(b'P', ""), execute("", 0), sync()];
            let answer = said(&mut raw, &messages).await?;
            ensure!(error(&answer).is_none(), "{:?}", error(&answer));
            let oid = said(&mut raw, &[query("SELECT 'fresh'::regtype::oid")]).await?;
            let oid: u32 = String::from_utf8(values(&oid)?[0].clone().context("NULL")?)?.parse()?;
            let described = answer.iter().find(|message| message.tag == b'T').context("no description")?;
            let has = described.body.windows(4).any(|bytes| bytes == oid.to_be_bytes());
            ensure!(has, "key {}: {oid} is not in {:?}", keys[0], described.body);
            let declared = "SELECT $2 = 'b', $2 FROM people WHERE id = $1";
            let messages =
                [parse("", declared, &[20, oid]), bind("", "", 0, &[text(keys[0]), text("b")]), execute("", 0), sync()];
            let answer = said(&mut raw, &messages).await?;
            ensure!(error(&answer).is_none(), "{:?}", error(&answer));
            seen.push(values(&answer)?);
            for step in ["DROP TYPE fresher", end] {
                let ended = said(&mut raw, &[query(step)]).await?;
                ensure!(error(&ended).is_none(), "{step}: {:?}", error(&ended));
            }
        }
        ensure!(seen[0] == seen[1], "{seen:?}");
        raw.finish().await?;
    }
    Ok(())
}

/// Types that are dropped and made again, renamed, extended: what another session knows follows.
pub async fn changing(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let mut raw = session(cluster).await?;
    let mut last = 0;
    for round in 0..4 {
        for statement in [
            "DROP TYPE IF EXISTS fresh CASCADE",
            "DROP TYPE IF EXISTS fresh2 CASCADE",
            FRESH,
            "ALTER TYPE fresh RENAME TO fresh2",
            FRESH,
            "ALTER TYPE fresh ADD VALUE 'c'",
        ] {
            client.batch_execute(statement).await.context(statement)?;
        }
        let oids = sql::column(&client, "SELECT unnest(ARRAY['fresh'::regtype::oid, 'fresh2'::regtype::oid])").await?;
        let oids: Vec<u32> = oids.iter().map(|oid| oid.parse()).collect::<Result<_, _>>()?;
        ensure!(oids[0] != last, "round {round}: the type is the old one");
        last = oids[0];
        let mut seen = Vec::new();
        for keys in &shards.keys {
            let select = "SELECT $2, $3, ARRAY[$2], ROW($3), 'c'::fresh FROM people WHERE id = $1";
            let given = [text(keys[0]), text("a"), text("b")];
            let messages = [
                parse("", select, &[20, oids[0], oids[1]]),
                bind("", "", 0, &given),
                describe(b'P', ""),
                execute("", 0),
                sync(),
            ];
            let answer = said(&mut raw, &messages).await?;
            ensure!(error(&answer).is_none(), "round {round}: {:?}", error(&answer));
            seen.push(answer);
        }
        ensure!(seen.iter().all(|answer| *answer == seen[0]), "round {round}: {seen:?}");
    }
    Ok(())
}

/// Text and CSV have no OIDs; binary is refused where values have them, and is not where they do not.
pub async fn copy(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let mut raw = session(cluster).await?;
    for (statement, code) in [
        ("COPY people TO STDOUT (FORMAT binary)", "0A000"),
        ("COPY people (id, ms) FROM STDIN (FORMAT binary)", "0A000"),
        ("COPY (SELECT id, p FROM people) TO STDOUT (FORMAT binary)", "0A000"),
        ("COPY people (id, m, n) TO STDOUT (FORMAT binary)", ""),
        ("COPY people TO STDOUT", ""),
        ("COPY people TO STDOUT (FORMAT csv)", ""),
    ] {
        let answer = said(&mut raw, &[query(statement)]).await?;
        let seen = error(&answer).unwrap_or_default();
        ensure!(seen.starts_with(code) && seen.is_empty() == code.is_empty(), "{statement}: {seen}");
        ensure!(!code.is_empty() || answer.iter().filter(|message| message.tag == b'd').count() >= shards.keys.len());
    }
    Ok(())
}

pub async fn refused(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let other = shards.keys[1][0];
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        format!("SELECT tableoid FROM people WHERE id = {other}"),
        format!("SELECT tableoid::oid FROM people WHERE id = {other}"),
        format!("SELECT 'mood'::regtype::oid, id FROM people WHERE id = {other}"),
        format!("SELECT CAST(r AS oid) FROM people WHERE id = {other}"),
        format!("SELECT relname FROM people JOIN pg_class c ON c.oid = people.tableoid WHERE id = {other}"),
    ] {
        let (code, message) = sql::failure(&client, &statement).await?;
        ensure!(code == "0A000", "{statement}: {code} {message}");
    }
    let name = sql::value(&client, &format!("SELECT tableoid::regclass FROM people WHERE id = {other}")).await?;
    ensure!(name == "people", "{name}");
    // A type that one shard has to itself.
    let second = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    second
        .batch_execute(
            "CREATE TYPE public.lonely AS ENUM ('x'); ALTER TABLE public.people ADD COLUMN only_here public.lonely",
        )
        .await?;
    let (code, message) = sql::failure(&client, &format!("SELECT * FROM people WHERE id = {other}")).await?;
    ensure!(code == "0A000" && message.contains("lonely"), "{code} {message}");
    // Its own OIDs are seen by who asks for them.
    client.batch_execute("SET ringway.shard = 's2'").await?;
    let seen = sql::value(&client, "SELECT 'lonely'::regtype::oid").await?;
    let own = sql::value(&second, "SELECT 'public.lonely'::regtype::oid").await?;
    ensure!(seen == own, "{seen} instead of {own}");
    let row = client.query_one(&format!("SELECT ms::text, m FROM people WHERE id = {other}"), &[]).await?;
    let oid = sql::value(&second, "SELECT 'public.mood'::regtype::oid").await?;
    ensure!(row.columns()[1].type_().oid().to_string() == oid, "{:?}", row.columns());
    client.batch_execute("SET ringway.shard = DEFAULT").await?;
    second.batch_execute("ALTER TABLE public.people DROP COLUMN only_here; DROP TYPE public.lonely").await?;
    sql::value(&client, &format!("SELECT n FROM people WHERE id = {other}")).await?;
    Ok(())
}
