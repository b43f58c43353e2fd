//! What Parse, Bind and Describe say in a failed transaction, and what is wrong with a Bind itself.

use anyhow::{ensure, Context as _, Result};

use super::pair::{bind, close, describe, execute, parse, sync, Pair};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::raw::{frame, query, strings, Raw};
use ringway_tests::scenario::sql;
use tokio_postgres::{Client, SimpleQueryMessage};

type Ports = (u16, u16);

/// More than there are connections at rest.
const SESSIONS: usize = 8;
const STATEMENTS: u64 = 5;

/// A statement is read before it is refused, and counts of parameters are looked at.
pub async fn failed(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same_messages(
        "statements",
        &[
            parse("k", "SELECT id, kind FROM items WHERE id = $1", &[]),
            parse("a", "SELECT id FROM items WHERE id < $1 ORDER BY id", &[]),
            parse("e", "", &[]),
            parse("r", "ROLLBACK", &[]),
            sync(),
        ],
    )
    .await?;
    let binds =
        [("k", &[][..]), ("k", &[Some("1")]), ("k", &[Some("1"), None]), ("a", &[]), ("e", &[]), ("e", &[None])];
    for sql in [
        "SELEC",
        "SELECT 1 UNION",
        "SELECT nosuch FROM plain",
        "SELECT * FROM nowhere",
        "CREATE TABLE",
        "CREATE TABLE z (id int)",
        "SELECT tableoid FROM items WHERE id = 1",
        "SELECT 1; SELECT 2",
        "EXPLAIN SELEC",
        "EXPLAIN SELECT 1",
        "COPY plain FROM STDIN",
        "VACUUM plain",
        "FETCH c",
        "ROLLBACK TO nothing",
        "",
    ] {
        pair.same("BEGIN").await?;
        pair.same("SELECT 1 / 0").await?;
        pair.same_messages(sql, &[parse("", sql, &[]), sync()]).await?;
        pair.same(sql).await?;
        pair.same("ROLLBACK").await?;
    }
    pair.same("BEGIN").await?;
    pair.same("SELECT 1 / 0").await?;
    for (name, values) in binds {
        pair.same_messages(&format!("{name} {values:?}"), &[bind("", name, values, &[]), sync()]).await?;
    }
    pair.same_messages("one parameter too many", &[bind("", "r", &[None], &[]), sync()]).await?;
    pair.same_messages("nothing", &[bind("", "nope", &[], &[]), sync()]).await?;
    pair.same("ROLLBACK").await?;
    portals(&mut pair).await
}

/// Portals of a pipeline that fails are there until the transaction ends.
async fn portals(pair: &mut Pair) -> Result<()> {
    let fails = "SELECT 1 / (id - 1) FROM items WHERE id = $1";
    for name in ["q", ""] {
        for behind in [execute(name, 0), describe('P', name), close('P', name)] {
            for earlier in [false, true] {
                pair.same("BEGIN").await?;
                if earlier {
                    let before =
                        [parse("", "SELECT id FROM items WHERE id = 3", &[]), bind(name, "", &[], &[]), sync()];
                    pair.same_messages("before", &before).await?;
                }
                let unnamed = if earlier { "" } else { name };
                let failing =
                    [parse("", fails, &[]), bind(unnamed, "", &[Some("1")], &[]), execute(unnamed, 0), sync()];
                pair.same_messages("fails", &failing).await?;
                pair.same_messages(&format!("{name:?} behind it"), &[behind.clone(), execute(name, 0), sync()]).await?;
                pair.same("ROLLBACK").await?;
            }
        }
    }
    Ok(())
}

/// Counts by the client's names, formats that there are not, and kinds of messages.
pub async fn malformed(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in [
        "SELECT id, kind FROM items WHERE id = $1",
        "SELECT id, kind FROM items WHERE id < $1 ORDER BY id",
        "SELECT id FROM plain WHERE id = $1",
        "UPDATE items SET kind = kind WHERE id = $1",
        "INSERT INTO plain VALUES ($1)",
    ] {
        for name in ["", "own"] {
            for values in [&[][..], &[Some("1"), Some("2")]] {
                let messages = [parse(name, sql, &[]), bind("", name, values, &[]), execute("", 0), sync()];
                pair.same_messages(&format!("{sql} {name:?} {values:?}"), &messages).await?;
                pair.same("DEALLOCATE ALL").await?;
                pair.same_messages("prepare", &[parse(name, sql, &[]), sync()]).await?;
                pair.same_messages(sql, &[bind("", name, values, &[]), execute("", 0), sync()]).await?;
                pair.same("DEALLOCATE ALL").await?;
            }
            let formats = |formats: &[u16]| {
                let mut body = strings(&["", name]);
                body.extend((formats.len() as u16).to_be_bytes());
                body.extend(formats.iter().flat_map(|format| format.to_be_bytes()));
                body.extend([0, 1, 0, 0, 0, 1, b'3', 0, 0]);
                frame(b'B', &body)
            };
            for given in [&[2][..], &[0, 0], &[1, 1, 1]] {
                let messages = [parse(name, sql, &[]), formats(given), execute("", 0), sync()];
                pair.same_messages(&format!("{sql} {given:?}"), &messages).await?;
                pair.same("DEALLOCATE ALL").await?;
            }
            let messages =
                [parse(name, sql, &[]), bind("", name, &[Some("99999999999999999999")], &[]), execute("", 0), sync()];
            pair.same_messages("a large number", &messages).await?;
            pair.same("DEALLOCATE ALL").await?;
        }
    }
    let result = [parse("", "SELECT id FROM items WHERE id = 3", &[]), bind("", "", &[], &[2]), execute("", 0), sync()];
    pair.same_messages("a format of results", &result).await?;
    for tag in [b'D', b'C'] {
        pair.same_messages("a kind that there is not", &[frame(tag, b"Zx\0"), sync()]).await?;
    }
    Ok(())
}

/// A statement that is refused leaves no part of the transaction behind, nor does a question.
pub async fn serializable(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let update = |id: u32| format!("UPDATE items SET kind = kind WHERE id = {id}");
    for asked in ["SHOW timezone", "SHOW transaction_isolation"] {
        for id in 1..5 {
            pair.same("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
            pair.same(asked).await?;
            pair.same("SAVEPOINT a").await?;
            pair.same("SET LOCAL timezone TO 'Asia/Tokyo'").await?;
            pair.same("SHOW timezone").await?;
            let messages = [parse("", asked, &[]), describe('S', ""), bind("", "", &[], &[]), execute("", 0), sync()];
            pair.same_messages(asked, &messages).await?;
            let sql = update(id);
            pair.same_messages(&sql, &[parse("", &sql, &[]), describe('S', ""), sync()]).await?;
            pair.same(&sql).await?;
            pair.same("COMMIT").await?;
        }
    }
    let mut refused = 0;
    for first in 1..5 {
        for second in 1..5 {
            for sql in ["BEGIN ISOLATION LEVEL SERIALIZABLE", &update(first), "SAVEPOINT a"] {
                ensure!(pair.gateway_alone(sql).await?.is_empty(), "{sql}");
            }
            let code = pair.gateway_alone(&update(second)).await?;
            ensure!(code.is_empty() || code == "0A000", "{code}");
            refused += u32::from(!code.is_empty());
            for sql in ["ROLLBACK TO a", &update(first), "COMMIT"] {
                ensure!(pair.gateway_alone(sql).await?.is_empty(), "{first}, {second}: {sql}");
            }
        }
    }
    ensure!(refused > 0, "all on one shard");
    Ok(())
}

/// What one server lists of its session.
pub async fn listed(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same("SELECT 'pg_cursors'::regclass::text, 'pg_prepared_statements' AS of").await?;
    for sql in [
        "SELECT name FROM pg_prepared_statements",
        "SELECT count(*) FROM pg_catalog.pg_prepared_statements",
        "SELECT * FROM pg_prepared_statement()",
        "SELECT name FROM pg_cursors",
        "SELECT pg_cursor()",
        "WITH a AS (SELECT * FROM \"pg_cursors\") SELECT * FROM a",
        "INSERT INTO plain SELECT 1 FROM pg_prepared_statements",
        "COPY (SELECT name FROM pg_prepared_statements) TO STDOUT",
        "DO $$BEGIN PERFORM name FROM pg_prepared_statements; END$$",
        "EXPLAIN SELECT name FROM pg_cursors",
    ] {
        ensure!(pair.gateway_alone(sql).await? == "0A000", "{sql}");
        let extended = [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0), sync()].concat();
        ensure!(pair.gateway_alone_bytes(&extended).await? == "0A000", "{sql}");
    }
    Ok(())
}

/// A shard that refuses a login in the middle of a session: the session goes on.
pub async fn login_refused(cluster: &Cluster) -> Result<()> {
    let set = async |limit: i32| {
        for shard in ["s1", "s2"] {
            let shard = sql::connect(&cluster.shard_dsn(shard).await?).await?;
            shard.batch_execute(&format!("ALTER ROLE app CONNECTION LIMIT {limit}")).await?;
        }
        anyhow::Ok(())
    };
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Raw::session(cluster.listen_port(), "app").await?);
    }
    set(0).await?;
    let mut refused = Vec::new();
    // The first ones get connections that are there already, and keep them.
    for (index, session) in sessions.iter_mut().enumerate() {
        session.send(&query("BEGIN")).await?;
        session.until_ready().await?;
        session.send(&query("SELECT 1")).await?;
        for message in session.until_ready().await?.iter().filter(|message| message.tag == b'E') {
            refused.push(index);
            let told = (message.field(b'S'), message.field(b'V'), message.sqlstate());
            let severity = Some("ERROR".to_owned());
            ensure!(told == (severity.clone(), severity, "53300".to_owned()), "{told:?}");
        }
    }
    set(-1).await?;
    ensure!(!refused.is_empty(), "nobody was refused");
    for index in refused {
        for sql in ["ROLLBACK", "SELECT 1"] {
            sessions[index].send(&query(sql)).await?;
            ensure!(sessions[index].until_ready().await?.iter().all(|message| message.tag != b'E'), "it goes on");
        }
    }
    Ok(())
}

/// Every statement counts once, whatever it takes to run it.
pub async fn counted(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let mut session = Raw::session(cluster.listen_port(), "postgres").await?;
    for text in ["SELECT count(*) FROM items WHERE id < $1", "SELECT kind FROM items WHERE id = $1"] {
        let messages =
            [parse("", text, &[]), describe('S', ""), bind("", "", &[Some("5")], &[]), execute("", 0), sync()].concat();
        let before = statements(&client).await?;
        for _ in 0..STATEMENTS {
            session.send(&messages).await?;
            session.until_ready().await?;
            session.send(&query(&text.replace("$1", "5"))).await?;
            session.until_ready().await?;
        }
        let counted = statements(&client).await? - before;
        // The second question is one too.
        ensure!(counted == 2 * STATEMENTS + 1, "{text}: {counted}");
    }
    Ok(())
}

async fn statements(client: &Client) -> Result<u64> {
    let messages = client.simple_query("SHOW STATS").await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("database") == Some("app") => row.get("total_query_count"),
        _ => None,
    });
    Ok(row.context("no statistics")?.parse()?)
}
