//! Types of the application have other OIDs on every shard, and clients see one set: what a shard says and is told, message by message,
//! is the same for rows of every shard.

#[path = "user_types/oid_columns.rs"]
mod oid_columns;
#[path = "user_types/values.rs"]
mod values;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::raw::{frame, query, strings, Message, Raw};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};

const TYPES: &[&str] = &[
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
    "CREATE TYPE pair AS (n int, m mood, ms mood[])",
    "CREATE DOMAIN moods AS mood[]",
    "CREATE DOMAIN level AS mood NOT NULL",
    "CREATE TYPE stretch AS RANGE (subtype = pair)",
    "CREATE TABLE kinds (id int PRIMARY KEY, m mood)",
    "CREATE TABLE people (id bigint PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], d moods, l level, s stretch, \
     r regtype, c regclass, k kinds, ks kinds[], n int)",
    "SELECT create_distributed_table('people', 'id')",
    "SELECT create_reference_table('kinds')",
];
/// All but the key.
const ROW: &str = "'ok', '{sad,NULL,happy}', '(1,sad,\"{ok,happy}\")', \
     ARRAY[(2,'ok','{}')::pair, NULL, (3,NULL,'{sad}')::pair], '{happy}', 'sad', '[\"(1,sad,{ok})\",\"(2,ok,{})\")', 'mood', 'people', \
     '(7,happy)', ARRAY[(8,'sad')::kinds], 5";
const IDS: i64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_one_set_of_oids() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = run(&cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn run(cluster: &Cluster) -> Result<()> {
    let second = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    for number in 0..50 {
        second.batch_execute(&format!("CREATE TYPE used{number} AS ENUM (); DROP TYPE used{number}")).await?;
    }
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in TYPES {
        client.batch_execute(statement).await.context(*statement)?;
    }
    client.batch_execute("INSERT INTO kinds VALUES (1, 'ok'), (2, 'sad')").await?;
    let rows = sql::rows(1..=IDS, |id| format!("{id}, {ROW}"));
    client.batch_execute(&format!("INSERT INTO people VALUES {rows}")).await?;
    oids_differ(cluster).await?;
    let shards = Shards::of(cluster, &["s1", "s2"]).await?;
    let mut stages = Stages::default();
    stages.run("results", results(cluster, &shards)).await;
    stages.run("results over both shards", over_shards(cluster)).await;
    stages.run("declared types", declared(cluster, &shards)).await;
    stages.run("binary parameters", values::parameters(cluster, &shards)).await;
    stages.run("portals with binary parameters", values::bound_before_a_write(cluster, &shards)).await;
    stages.run("catalogs", catalogs(cluster, &shards)).await;
    stages.run("types of the session's own transaction", values::own_transaction(cluster, &shards)).await;
    stages.run("types that change", values::changing(cluster, &shards)).await;
    stages.run("COPY", values::copy(cluster, &shards)).await;
    stages.run("columns of OIDs", oid_columns::columns(cluster, &shards)).await;
    stages.run("what is refused", values::refused(cluster, &shards)).await;
    stages.run("a new shard", new_shard(cluster)).await;
    stages.finish()
}

async fn oids_differ(cluster: &Cluster) -> Result<()> {
    let ask = "SELECT array_agg(t::regtype::oid::int8) FROM unnest('{mood,mood[],pair,pair[],moods,people}'::text[]) t";
    let mut seen: Vec<Vec<i64>> = Vec::new();
    for shard in ["s1", "s2"] {
        let own = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        own.batch_execute("SET search_path = public").await?;
        seen.push(own.query_one(ask, &[]).await?.get(0));
    }
    ensure!(seen[0].iter().zip(&seen[1]).all(|(a, b)| a != b), "the shards have the same OIDs: {seen:?}");
    Ok(())
}

/// Two keys of each shard; the first shard is the home shard.
pub struct Shards {
    pub keys: Vec<[i64; 2]>,
}

impl Shards {
    pub async fn of(cluster: &Cluster, names: &[&str]) -> Result<Shards> {
        let mut keys = Vec::new();
        for name in names {
            let own = sql::connect(&cluster.shard_dsn(name).await?).await?;
            let rows = own.query("SELECT id FROM public.people WHERE id <= $1 ORDER BY id LIMIT 2", &[&IDS]).await?;
            ensure!(rows.len() == 2, "shard {name} has {} people", rows.len());
            keys.push([rows[0].get(0), rows[1].get(0)]);
        }
        Ok(Shards { keys })
    }

    pub fn of_home(&self) -> i64 {
        self.keys[0][0]
    }

    pub fn of_others(&self) -> impl Iterator<Item = i64> + '_ {
        self.keys[1..].iter().map(|keys| keys[0])
    }
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = strings(&[name, sql]);
    body.extend((types.len() as i16).to_be_bytes());
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    frame(b'P', &body)
}

/// Parameters in this format, results in binary.
pub fn bind(portal: &str, statement: &str, format: u8, values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut body = strings(&[portal, statement]);
    body.extend([0, 1, 0, format]);
    body.extend((values.len() as i16).to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1i32).to_be_bytes()),
            Some(value) => {
                body.extend((value.len() as i32).to_be_bytes());
                body.extend(value);
            }
        }
    }
    body.extend([0, 1, 0, 1]);
    frame(b'B', &body)
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind][..], &strings(&[name])].concat())
}

pub fn execute(portal: &str, rows_max: i32) -> Vec<u8> {
    frame(b'E', &[&strings(&[portal])[..], &rows_max.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

pub fn text(value: impl std::fmt::Display) -> Option<Vec<u8>> {
    Some(value.to_string().into_bytes())
}

pub async fn session(cluster: &Cluster) -> Result<Raw> {
    Raw::session(cluster.listen_port(), "postgres").await
}

/// The answers to some messages, without what is told about settings.
pub async fn said(raw: &mut Raw, messages: &[Vec<u8>]) -> Result<Vec<Message>> {
    raw.send(&messages.concat()).await?;
    Ok(raw.until_ready().await?.into_iter().filter(|message| message.tag != b'S').collect())
}

pub fn error(messages: &[Message]) -> Option<String> {
    let error = messages.iter().find(|message| message.tag == b'E')?;
    Some(format!("{} {}", error.sqlstate(), error.field(b'M').unwrap_or_default()))
}

const COLUMNS: &str =
    "m, ms, p, ps, d, l, s, r, c, k, ks, people, ROW(m, ms, 1, ROW(ps)), ARRAY[people], ARRAY[ROW(m), ROW(ms)], \
     array_append(ms, 'ok'), pg_typeof(ps)";

/// Whatever is asked of a row, the answers are the same byte for byte, whichever shard the row is on.
async fn results(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let select =
        format!("SELECT {} FROM people WHERE id = ", COLUMNS.replace("people", "(people.m, people.ms, people.p)"));
    let prepared = format!("{select}$1");
    type Ask = Box<dyn Fn(i64) -> Vec<Vec<Vec<u8>>>>;
    let once = prepared.clone();
    let named = prepared.clone();
    let simple = select.clone();
    let whole = "SELECT p, (SELECT array_agg(every) FROM kinds every), kinds FROM people JOIN kinds ON kinds.id = 1 WHERE people.id = $1";
    let conversations: Vec<(&str, Ask)> = vec![
        ("simple", Box::new(move |id| vec![vec![query(&format!("{simple}{id}"))]])),
        (
            "all at once",
            Box::new(move |id| {
                vec![vec![
                    parse("", &once, &[]),
                    bind("", "", 0, &[text(id)]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]]
            }),
        ),
        (
            "prepared, then without a description",
            Box::new(move |id| {
                let run = || vec![bind("", "named", 0, &[text(id)]), execute("", 0), sync()];
                vec![
                    vec![parse("named", &named, &[]), describe(b'S', "named"), sync()],
                    run(),
                    run(),
                    vec![query("BEGIN")],
                    run(),
                    vec![
                        bind("one", "named", 0, &[text(id)]),
                        bind("two", "named", 0, &[text(id)]),
                        execute("one", 1),
                        execute("two", 1),
                        sync(),
                    ],
                    vec![execute("one", 0), describe(b'P', "two"), sync()],
                    vec![query("COMMIT")],
                ]
            }),
        ),
        (
            "plain rows",
            Box::new(|id| {
                let run = || vec![bind("", "plain", 0, &[text(id)]), execute("", 0), sync()];
                vec![
                    vec![parse("plain", "SELECT m, n FROM people WHERE id = $1", &[]), describe(b'S', "plain"), sync()],
                    run(),
                    run(),
                    run(),
                ]
            }),
        ),
        (
            "row types of tables",
            Box::new(move |id| {
                vec![vec![
                    parse("", whole, &[]),
                    bind("", "", 0, &[text(id)]),
                    describe(b'P', ""),
                    execute("", 0),
                    sync(),
                ]]
            }),
        ),
        (
            "RETURNING",
            Box::new(|id| {
                let update = "UPDATE people SET n = 5 WHERE id = $1 RETURNING ms, p, (SELECT 1)";
                vec![vec![parse("", update, &[]), bind("", "", 0, &[text(id)]), execute("", 0), sync()]]
            }),
        ),
        (
            "cursors",
            Box::new(|id| {
                let declare = format!("DECLARE c BINARY CURSOR FOR SELECT ms, ps FROM people WHERE id = {id}");
                vec![
                    vec![query("BEGIN")],
                    vec![query(&declare)],
                    vec![query("FETCH c")],
                    vec![query("MOVE BACKWARD ALL IN c")],
                    vec![parse("", "FETCH c", &[]), bind("", "", 0, &[]), execute("", 0), sync()],
                    vec![query("ROLLBACK")],
                ]
            }),
        ),
        (
            "one text, SQL PREPARE",
            Box::new(|id| {
                vec![
                    vec![query("PREPARE q (bigint, mood, mood[]) AS SELECT ms, p FROM people WHERE id = $1 AND m = $2 AND ms <> $3")],
                    vec![query(&format!("EXECUTE q ({id}, 'ok', '{{ok}}')"))],
                    vec![query("DEALLOCATE q")],
                ]
            }),
        ),
    ];
    for (what, ask) in conversations {
        let expected = converse(cluster, ask(shards.of_home())).await?;
        if let Some(error) = expected.iter().find_map(|messages| error(messages)) {
            anyhow::bail!("{what}: {error}");
        }
        for id in shards.of_others() {
            let seen = converse(cluster, ask(id)).await?;
            for (step, (expected, seen)) in expected.iter().zip(&seen).enumerate() {
                ensure!(expected == seen, "{what}, step {step}:\n{expected:?}\n{seen:?}");
            }
        }
    }
    Ok(())
}

async fn converse(cluster: &Cluster, steps: Vec<Vec<Vec<u8>>>) -> Result<Vec<Vec<Message>>> {
    let mut raw = session(cluster).await?;
    let mut out = Vec::new();
    for step in steps {
        out.push(said(&mut raw, &step).await?);
    }
    raw.finish().await?;
    Ok(out)
}

/// Rows of both shards in one answer are all alike.
async fn over_shards(cluster: &Cluster) -> Result<()> {
    let list = "m, ms, p, ps, d, s, r, c";
    for (what, select, distinct) in [
        ("concatenated", format!("SELECT {list}, ROW(ms) FROM people"), 1),
        ("merged", format!("SELECT {list}, id FROM people ORDER BY id"), IDS as usize),
        ("sorted by PostgreSQL", format!("SELECT {list}, id FROM people ORDER BY m, p, id"), IDS as usize),
        ("grouped", "SELECT m, ms, p, count(*), max(n) FROM people GROUP BY m, ms, p".to_owned(), 1),
        ("updated", format!("UPDATE people SET n = 5 RETURNING {list}"), 1),
    ] {
        for describes in [true, false] {
            let mut raw = session(cluster).await?;
            let mut messages = vec![parse("", &select, &[]), bind("", "", 0, &[])];
            messages.extend(describes.then(|| describe(b'P', "")));
            messages.extend([execute("", 0), sync()]);
            let seen = said(&mut raw, &messages).await?;
            ensure!(error(&seen).is_none(), "{what}: {:?}", error(&seen));
            let mut rows: Vec<Vec<u8>> =
                seen.into_iter().filter(|message| message.tag == b'D').map(|message| message.body).collect();
            let count = rows.len();
            rows.sort();
            rows.dedup();
            ensure!(rows.len() == distinct, "{what}: {} kinds of rows among {count}: {rows:?}", rows.len());
            raw.finish().await?;
        }
    }
    Ok(())
}

/// Parse with the home shard's OIDs, whichever shard it goes to.
async fn declared(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let oid = |name: &str| format!("SELECT '{name}'::regtype::oid::int8");
    let number = |name: &'static str| {
        let client = &client;
        async move { Ok::<u32, anyhow::Error>(sql::value(client, &oid(name)).await?.parse()?) }
    };
    let types = [20, number("mood").await?, number("mood[]").await?, number("pair").await?, number("pair[]").await?];
    let select = "SELECT $2, $3, $4, $5, id > 0 FROM people WHERE id = $1 AND m = $2 AND $3 IS NOT NULL";
    let values = |id: i64| vec![text(id), text("ok"), text("{sad}"), text("(1,ok,{})"), text("{\"(1,ok,{})\"}")];
    let conversation = |id: i64| {
        vec![
            vec![parse("", select, &types), bind("", "", 0, &values(id)), describe(b'P', ""), execute("", 0), sync()],
            vec![parse("s", select, &types), describe(b'S', "s"), sync()],
            vec![bind("", "s", 0, &values(id)), execute("", 0), sync()],
            vec![bind("", "s", 0, &values(id)), execute("", 0), sync()],
        ]
    };
    let expected = converse(cluster, conversation(shards.of_home())).await?;
    ensure!(expected.iter().all(|messages| error(messages).is_none()), "{expected:?}");
    ensure!(expected[2].iter().any(|message| message.tag == b'D'), "{expected:?}");
    for id in shards.of_others() {
        let seen = converse(cluster, conversation(id)).await?;
        ensure!(seen == expected, "\n{expected:?}\n{seen:?}");
    }
    // A number that is no type is none on any shard.
    for id in shards.keys.iter().map(|keys| keys[0]) {
        let mut raw = session(cluster).await?;
        let messages = [parse("", select, &[20, 4_000_000]), bind("", "", 0, &values(id)), execute("", 0), sync()];
        let seen = error(&said(&mut raw, &messages).await?).unwrap_or_default();
        ensure!(seen == "XX000 cache lookup failed for type 4000000", "{seen}");
    }
    Ok(())
}

/// Catalogs are those of the home shard, wherever the session has been.
async fn catalogs(cluster: &Cluster, shards: &Shards) -> Result<()> {
    let home = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    home.batch_execute("SET search_path = public").await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for begin in ["", "BEGIN"] {
        for question in [
            "SELECT 'mood'::regtype::oid",
            "SELECT to_regtype('pair[]')::oid",
            "SELECT to_regclass('people')::oid",
            "SELECT oid FROM pg_type WHERE typname = 'mood'",
            "SELECT array_agg(enumtypid ORDER BY enumsortorder) FROM pg_enum",
            "SELECT pg_typeof('ok'::mood)::oid",
            "SELECT oid FROM pg_class WHERE relname = 'people'",
            "SELECT CAST('people'::regclass AS oid)",
            "SELECT max(attrelid) FROM pg_attribute WHERE attname = 'ms'",
        ] {
            client.batch_execute(begin).await?;
            for keys in &shards.keys {
                sql::value(&client, &format!("SELECT n FROM people WHERE id = {}", keys[0])).await?;
                let (seen, expected) = (sql::value(&client, question).await?, sql::value(&home, question).await?);
                ensure!(seen == expected, "{question} {begin}: {seen} instead of {expected}");
            }
            if !begin.is_empty() {
                client.batch_execute("COMMIT").await?;
            }
        }
        // What looks for a number finds what has it.
        let oid = sql::value(&client, "SELECT 'mood'::regtype::oid").await?;
        sql::value(&client, &format!("SELECT n FROM people WHERE id = {}", shards.keys[1][0])).await?;
        let name = sql::value(&client, &format!("SELECT format_type({oid}, NULL)")).await?;
        ensure!(name == "mood", "{name}");
    }
    Ok(())
}

/// A shard that joins gets its types by a dump, with OIDs of its own.
async fn new_shard(cluster: &Cluster) -> Result<()> {
    let spare = cluster.spare().await?;
    let own = sql::connect(&spare).await?;
    for number in 0..80 {
        own.batch_execute(&format!("CREATE TYPE used{number} AS ENUM (); DROP TYPE used{number}")).await?;
    }
    cluster.shardctl(&["split", "s1", "--into", &format!("s3={spare}")]).await?;
    let shards = Shards::of(cluster, &["s1", "s2", "s3"]).await?;
    results(cluster, &shards).await?;
    over_shards(cluster).await?;
    declared(cluster, &shards).await?;
    values::parameters(cluster, &shards).await
}
