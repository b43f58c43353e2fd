//! What clients see.

use anyhow::{ensure, Context as _, Result};
use futures_util::future::try_join_all;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;

use ringway_tests::scenario::raw::{query, Message, Raw};
use ringway_tests::scenario::sql;

use super::{shared, value, while_reading, Counts, Read, CLIENTS, ITEMS};

const ROUNDS: usize = 60;

/// Point reads of all kinds; what their values are.
const READS: &[(Read, Values)] = &[
    (Read::named("SELECT name, price, at FROM items WHERE id = $1"), Values::Item),
    (Read { formats: &[1], ..Read::named("SELECT * FROM items WHERE id = $1 LIMIT 1") }, Values::Item),
    (Read { formats: &[1], ..Read::named("SELECT i.tags, i.feels FROM items AS i WHERE i.id = $1") }, Values::Item),
    (Read { named: false, ..Read::named("SELECT feels AS f, doc FROM items WHERE $1 = id") }, Values::Item),
    (Read { describes: false, ..Read::named("SELECT name FROM items WHERE id = $1 AND name = $2") }, Values::Two),
    (Read::named("SELECT c FROM plain WHERE a = $1 AND b = $2"), Values::Two),
    (Read { named: false, ..Read::named("SELECT id FROM nowhere WHERE id = $1") }, Values::Item),
];

#[derive(Clone, Copy)]
enum Values {
    Item,
    Two,
}

impl Values {
    /// Some that there are, some that there are not, some that are wrong.
    fn of(self, round: usize) -> Vec<Option<String>> {
        let id = match round % 9 {
            7 => Some("no number".to_owned()),
            8 => None,
            _ => Some((round as i64 * 13 % (ITEMS + 20)).to_string()),
        };
        match self {
            Values::Item => vec![id],
            Values::Two => {
                let second = format!(
                    "{} {}",
                    if round.is_multiple_of(2) { "item" } else { "b" },
                    round as i64 * 13 % (ITEMS + 20)
                );
                vec![id, Some(second.replace("b ", "b"))]
            }
        }
    }
}

async fn run(client: &mut Raw, read: &Read, values: &[Option<String>]) -> Result<Vec<Message>> {
    let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
    read.run(client, &values).await
}

/// What every read gives that has a connection of its own, message by message.
async fn alone(port: u16) -> Result<Vec<Vec<Vec<Message>>>> {
    let mut expected = Vec::new();
    for (read, values) in READS {
        let mut client = Raw::session(port, "postgres").await?;
        read.prepare(&mut client).await?;
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            rounds.push(run(&mut client, read, &values.of(round)).await?);
        }
        expected.push(rounds);
    }
    Ok(expected)
}

/// A gateway whose reads share nothing.
async fn apart(cluster: &Cluster) -> Result<Gateway> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, "[databases.app]\nshared_reads_max = 1\n")?;
    let apart = Gateway::start(cluster, &["--config", &path.to_string_lossy()]).await?;
    apart.serves("postgres").await?;
    Ok(apart)
}

pub async fn as_alone(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let apart = apart(cluster).await?;
    let expected = &alone(apart.port).await?;
    let rows = expected.iter().flatten().flatten().filter(|message| message.tag == b'D').count();
    let errors = expected.iter().flatten().flatten().filter(|message| message.tag == b'E').count();
    ensure!(rows > READS.len() * ROUNDS / 3 && errors > ROUNDS / 2, "{rows} rows, {errors} errors");
    for (port, who) in [(apart.port, &apart), (gateway.port, gateway)] {
        let before = shared(who).await?;
        let clients = (0..2 * CLIENTS).map(|number| async move {
            // Each begins with another one.
            for step in 0..READS.len() {
                let chosen = (number + step) % READS.len();
                let (read, values) = &READS[chosen];
                let mut client = Raw::session(port, "postgres").await?;
                read.prepare(&mut client).await?;
                for round in (number..ROUNDS).chain(0..number) {
                    let answer = run(&mut client, read, &values.of(round)).await?;
                    let expected = &expected[chosen][round];
                    ensure!(
                        answer == *expected,
                        "{} {:?}: {answer:?} instead of {expected:?}",
                        read.sql,
                        values.of(round)
                    );
                }
            }
            Ok(())
        });
        try_join_all(clients).await?;
        let shared = shared(who).await? - before;
        ensure!((shared > 0) == (port == gateway.port), "{shared} reads shared a connection");
    }
    Ok(())
}

/// Texts of point reads, and of what only looks like them; `{}` is a number.
const TEXTS: &[&str] = &[
    "SELECT name, price, at, feels, tags FROM items WHERE id = {}",
    "select * from items where id={} limit 1;",
    "SELECT name /* {} */ FROM items WHERE id = '{}' -- all of it",
    "SELECT id FROM items WHERE id = 0{}",
    "SELECT id FROM items WHERE id = -{}",
    "SELECT id FROM items WHERE id = - {}",
    "SELECT id FROM items WHERE id = {}.0",
    "SELECT id FROM items WHERE id = {}::int",
    "SELECT id FROM items WHERE id = 5000000000{}",
    "SELECT id FROM items WHERE id = 99999999999999999999",
    "SELECT id FROM items WHERE id = '{} '",
    "SELECT id FROM items WHERE id = 'none {}'",
    "SELECT id FROM items WHERE id = NULL",
    "SELECT id FROM items WHERE id = {} AND name = 'item {}'",
    "SELECT id FROM items WHERE id = {} AND name = 'it''s {}'",
    "SELECT id FROM items WHERE id = {} AND name = 'item \\ {}'",
    "SELECT id FROM items WHERE id = {} AND name = E'item\\x20{}'",
    "SELECT id FROM items WHERE id = {} AND name = {}",
    "SELECT id FROM items WHERE id = {} AND ratio = 0.{}",
    "SELECT id FROM items WHERE id = {} AND ratio = '0.{}'",
    "SELECT id FROM items WHERE id = {} AND ratio = {}",
    "SELECT id FROM items WHERE id = {} AND code = 'c{}'",
    "SELECT id FROM items WHERE id = {} AND code = 'c{} '",
    "SELECT id, word FROM items WHERE id = {} AND word = 'w{} '",
    "SELECT id FROM items WHERE id = {} AND day = '2026-01-{}'",
    "SELECT id FROM items WHERE id = {} AND big = {}",
    "SELECT id FROM items WHERE id = {} AND feels = 'glad'",
    "SELECT id FROM items WHERE id = {} AND feels = 'mood {}'",
    "SELECT c FROM plain WHERE a = {} AND b = 'b{}'",
    "SELECT c FROM plain WHERE a = 5000000000 AND b = 'b{}'",
    "SELECT c FROM plain WHERE a = {} AND b = 'b{}' LIMIT 1",
    "SELECT c FROM plain WHERE a = {} AND b = 'b{}' LIMIT '1'",
    "SELECT c FROM plain WHERE a = {} AND b = 'b{}' LIMIT 0",
    "SELECT c FROM plain WHERE a = $1 AND b = 'b{}'",
    "SELECT none FROM plain WHERE a = {} AND b = 'b{}'",
];

/// What texts that share no connection give, message by message.
async fn texts_alone(port: u16) -> Result<Vec<Vec<Vec<Message>>>> {
    let mut client = Raw::session(port, "postgres").await?;
    let mut expected = Vec::new();
    for text in TEXTS {
        let mut rounds = Vec::new();
        for number in NUMBERS {
            client.send(&query(&text.replace("{}", number))).await?;
            rounds.push(client.until_ready().await?);
        }
        expected.push(rounds);
    }
    Ok(expected)
}

/// With several digits or one, there or not there.
const NUMBERS: &[&str] = &["1", "2", "7", "10", "11", "23", "31", "50", "199", "250"];

pub async fn texts_as_alone(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let apart = apart(cluster).await?;
    let expected = &texts_alone(apart.port).await?;
    let has = |tag: u8| expected.iter().flatten().filter(|answer| answer.iter().any(|one| one.tag == tag)).count();
    let (rows, errors) = (has(b'D'), has(b'E'));
    ensure!(rows > TEXTS.len() * 3 && errors > TEXTS.len(), "{rows} with rows, {errors} with errors");
    let before = shared(gateway).await?;
    let clients = (0..2 * CLIENTS).map(|client| async move {
        let mut raw = Raw::session(gateway.port, "postgres").await?;
        for round in 0..4 {
            // Each begins with another one.
            for step in 0..TEXTS.len() {
                let chosen = (client + step) % TEXTS.len();
                for (place, number) in NUMBERS.iter().enumerate() {
                    let text = TEXTS[chosen].replace("{}", number);
                    raw.send(&query(&text)).await?;
                    let answer = raw.until_ready().await?;
                    let expected = &expected[chosen][place];
                    ensure!(answer == *expected, "{text} in round {round}: {answer:?} instead of {expected:?}");
                }
            }
        }
        anyhow::Ok(())
    });
    try_join_all(clients).await?;
    let shared = shared(gateway).await? - before;
    println!("       {shared} of {} shared a connection", 2 * CLIENTS * 4 * TEXTS.len() * NUMBERS.len());
    ensure!(shared > 0, "no query has shared a connection");
    Ok(())
}

/// Formats of dates and times are a session's own.
pub async fn settings(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let read = &Read::named("SELECT at FROM items WHERE id = $1");
    let settings =
        [("UTC", "ISO"), ("Asia/Tokyo", "SQL, DMY"), ("America/Caracas", "German"), ("UTC", "Postgres, MDY")];
    let mut expected = Vec::new();
    let shard = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    for (zone, style) in settings {
        shard.batch_execute(&format!("SET timezone = '{zone}'; SET datestyle = '{style}'")).await?;
        let mut texts = Vec::new();
        for id in 0..=ITEMS {
            let at = format!("SELECT '2026-01-01T00:00:00Z'::timestamptz + {id} * interval '1 h'");
            texts.push(sql::value(&shard, &at).await?);
        }
        expected.push(texts);
    }
    let before = shared(gateway).await?;
    let clients = (0..CLIENTS).map(|number| {
        let (zone, style) = settings[number % settings.len()];
        let expected = &expected[number % settings.len()];
        async move {
            let mut client = Raw::connect(gateway.port).await?;
            let parameters = [("user", "postgres"), ("database", "app"), ("TimeZone", zone), ("DateStyle", style)];
            client.startup(&parameters).await?;
            client.until_ready().await?;
            read.prepare(&mut client).await?;
            for round in 0..200 {
                let id = 1 + (number as i64 * 17 + round) % ITEMS;
                let answer = read.run(&mut client, &[Some(&id.to_string())]).await?;
                let text = value(&answer)?;
                ensure!(text == expected[id as usize], "{id}: {text} instead of {}", expected[id as usize]);
            }
            anyhow::Ok(())
        }
    });
    try_join_all(clients).await?;
    ensure!(shared(gateway).await? > before, "no read has shared a connection");
    Ok(())
}

/// A transaction sees what it has written, nobody else does, and all do once it is told that it has committed.
pub async fn own_writes(gateway: &Gateway) -> Result<()> {
    while_reading(gateway, &Counts::default(), async {
        let [writer, reader] =
            [sql::connect(&gateway.dsn("postgres")).await?, sql::connect(&gateway.dsn("postgres")).await?];
        let sql = "SELECT body FROM notes WHERE id = $1";
        let (mine, others) = (writer.prepare(sql).await?, reader.prepare(sql).await?);
        for round in 0..100i64 {
            let id = 1 + round % 20;
            let old: String = reader.query_one(&others, &[&id]).await?.get(0);
            writer.batch_execute("BEGIN").await?;
            writer.execute("UPDATE notes SET body = $2 WHERE id = $1", &[&id, &format!("round {round}")]).await?;
            let own: String = writer.query_one(&mine, &[&id]).await?.get(0);
            let unseen: String = reader.query_one(&others, &[&id]).await?.get(0);
            writer.batch_execute("COMMIT").await?;
            let seen: String = reader.query_one(&others, &[&id]).await?.get(0);
            let new = format!("round {round}");
            ensure!((&own, &unseen, &seen) == (&new, &old, &new), "{own}, {unseen}, {seen} in round {round}");
        }
        Ok(())
    })
    .await
    .context("beside other reads")
}
