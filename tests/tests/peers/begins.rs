//! A BEGIN, or what is set behind it, that fails on a shard: the statement that was sent with it has not run.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::scenario::raw::{frame, query, strings, Message, Raw};
use ringway_tests::scenario::{sql, until};

use super::{pools, World, ROLE, SOON};

pub async fn fail(world: &World) -> Result<()> {
    let [one, two] = world.keys.each_ref().map(|keys| keys[0]);
    let update = format!("UPDATE accounts SET balance = balance + 1000 WHERE id = {one}");
    let begins: &[(&str, Vec<Vec<u8>>)] = &[
        ("a simple query", vec![query("BEGIN"), query(&update)]),
        ("its modes", vec![query("BEGIN ISOLATION LEVEL REPEATABLE READ"), query(&update)]),
        ("an extended query", vec![query("BEGIN"), [prepared("", &update), sync()].concat()]),
        ("a named statement", vec![query("BEGIN"), [prepared("named", &update), sync()].concat()]),
        ("one Sync group", vec![[prepared("", "BEGIN"), prepared("", &update), sync()].concat()]),
        ("a query of several statements", vec![query(&format!("BEGIN; {update}"))]),
        ("behind a savepoint", vec![query("BEGIN"), query("SAVEPOINT a"), [prepared("", &update), sync()].concat()]),
        ("a read", vec![query("BEGIN"), query(&format!("SELECT * FROM accounts WHERE id = {one}"))]),
        ("both shards", vec![query("BEGIN"), query("UPDATE accounts SET balance = balance + 1000")]),
        ("both shards alone", vec![query("UPDATE accounts SET balance = balance + 1000")]),
        ("DDL", vec![query("BEGIN"), query("CREATE TABLE must_not_be (id int)")]),
        ("a setting", vec![query("BEGIN"), query("SET work_mem TO 12345")]),
    ];
    for (what, messages) in begins {
        let block = *what != "both shards alone";
        case(world, ("BEGIN", "BEGI!"), messages, block).await.with_context(|| what.to_string())?;
    }
    let on_the_other = format!("UPDATE accounts SET balance = balance + 1000 WHERE id = {two}");
    let replayed = vec![query("BEGIN"), query(&on_the_other), query("SET LOCAL work_mem TO 12345"), query(&update)];
    case(world, ("work_mem", "work_mess"), &replayed, true).await.context("a setting that is replayed")
}

/// It travels with the first statement: as many round trips to a shard as the client has statements there, and one for COMMIT.
pub async fn cost_nothing(world: &World) -> Result<()> {
    let one = world.keys[0][0];
    let read = format!("SELECT * FROM accounts WHERE id = {one}");
    let write = format!("UPDATE accounts SET balance = balance WHERE id = {one}");
    let lock = format!("SELECT * FROM accounts WHERE id = {one} FOR UPDATE");
    let extended = |text: &str| [prepared("", text), sync()].concat();
    let modes = "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE";
    let cases: &[(&str, Vec<Vec<u8>>, usize)] = &[
        ("a read", vec![query("BEGIN"), query(&read), query("COMMIT")], 2),
        ("a read that is rolled back", vec![query("BEGIN"), query(&read), query("ROLLBACK")], 2),
        ("a write that is rolled back", vec![extended("BEGIN"), extended(&write), extended("ROLLBACK")], 2),
        ("nothing that is rolled back", vec![query("BEGIN"), query("ROLLBACK")], 0),
        ("a write", vec![query("BEGIN"), query(&write), query("COMMIT")], 2),
        ("a write with modes", vec![query(modes), query(&write), query("COMMIT")], 2),
        ("a locking read", vec![query("BEGIN"), query(&lock), query(&write), query("COMMIT")], 3),
        ("an extended write", vec![query("BEGIN"), extended(&write), query("COMMIT")], 2),
        ("one Sync group", vec![[prepared("", "BEGIN"), prepared("", &write), sync()].concat(), extended("COMMIT")], 2),
        (
            "a whole group",
            vec![[prepared("", "BEGIN"), prepared("", &write), prepared("", "COMMIT"), sync()].concat()],
            1,
        ),
        (
            "a whole group of two",
            vec![[prepared("", "BEGIN"), prepared("", &write), prepared("", &read), prepared("", "END"), sync()]
                .concat()],
            1,
        ),
        ("BEGIN and COMMIT alone", vec![extended("BEGIN"), extended(&write), extended("COMMIT")], 2),
        ("behind a savepoint", vec![query("BEGIN"), query("SAVEPOINT a"), extended(&write), query("COMMIT")], 2),
        ("a setting", vec![query("BEGIN"), query("SET LOCAL work_mem TO 12345"), query(&write), query("COMMIT")], 3),
        ("an implicit transaction", vec![query("UPDATE accounts SET balance = balance")], 3),
    ];
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    for (what, messages, turns) in cases {
        // The first time opens connections, and describes.
        for counts in [false, true] {
            let before = world.proxy.turns();
            for message in messages {
                client.send(message).await?;
                let answers = client.until_ready().await?;
                ensure!(!answers.iter().any(is_error), "{what}: {answers:?}");
            }
            let spent = world.proxy.turns() - before;
            ensure!(!counts || spent == *turns, "{what}: {spent} round trips, not {turns}");
        }
    }
    Ok(())
}

/// A setting that another shard makes too is told to the client once.
pub async fn is_told_once(world: &World) -> Result<()> {
    let [one, two] = world.keys.each_ref().map(|keys| format!("SELECT id FROM accounts WHERE id = {}", keys[0]));
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    for (message, told) in [
        (query("BEGIN"), None),
        (query(&two), None),
        (query("SET LOCAL TimeZone TO 'Asia/Tokyo'"), Some(&b"TimeZone\0Asia/Tokyo\0"[..])),
        (query(&one), None),
        ([prepared("", &one), sync()].concat(), None),
        (query("SELECT count(*) FROM accounts"), None),
        (query("COMMIT"), Some(&b"TimeZone\0"[..])),
    ] {
        client.send(&message).await?;
        let answers = client.until_ready().await?;
        ensure!(!answers.iter().any(is_error), "{answers:?}");
        let settings: Vec<_> = answers.iter().filter(|message| message.tag == b'S').collect();
        let as_expected = match told {
            Some(told) => settings.len() == 1 && settings[0].body.starts_with(told),
            None => settings.is_empty(),
        };
        ensure!(as_expected, "{answers:?}");
    }
    Ok(())
}

/// The last of the messages fails, and nothing of the transaction stays. `block`: it is one of BEGIN.
async fn case(world: &World, spoils: (&'static str, &'static str), messages: &[Vec<u8>], block: bool) -> Result<()> {
    world.console.simple_query("RECONNECT").await?;
    until("closed connections", SOON, || async {
        Ok(pools(&world.console).await?.iter().filter(|pool| pool.user == ROLE).all(|pool| pool.total == 0))
    })
    .await?;
    let before = state(world).await?;
    let mut client = Raw::session(world.gateway.port, ROLE).await?;
    world.proxy.spoil(Some(spoils));
    let mut answers = Vec::new();
    for message in messages {
        ensure!(!answers.iter().any(is_error), "an error too early: {answers:?}");
        client.send(message).await?;
        answers = client.until_ready().await?;
    }
    world.proxy.spoil(None);
    ensure!(answers.iter().filter(|message| is_error(message)).count() == 1, "{answers:?}");
    ensure!(answers.iter().all(|message| message.tag != b'D'), "rows of a statement that must not run: {answers:?}");
    let status = answers.last().map(|ready| ready.body.clone());
    ensure!(status == Some(vec![if block { b'E' } else { b'I' }]), "{answers:?}");
    if block {
        client.send(&query(&format!("SELECT * FROM accounts WHERE id = {}", world.keys[0][0]))).await?;
        let refused = client.until_ready().await?;
        ensure!(refused[0].sqlstate() == "25P02", "{refused:?}");
        client.send(&query("COMMIT")).await?;
        let ended = client.until_ready().await?;
        ensure!(ended[0].body.starts_with(b"ROLLBACK"), "{ended:?}");
    }
    ensure!(state(world).await? == before, "something has been committed");
    client.send(&query("SHOW work_mem")).await?;
    let shown = client.until_ready().await?;
    ensure!(!shown.iter().any(|message| message.body.ends_with(b"12345kB")), "{shown:?}");
    drop(client);
    world.released("after a BEGIN that failed").await?;
    world.serves("after a BEGIN that failed").await
}

fn is_error(message: &Message) -> bool {
    message.tag == b'E'
}

/// Parse, Bind and Execute.
pub fn prepared(name: &str, text: &str) -> Vec<u8> {
    let parse = [strings(&[name, text]), vec![0, 0]].concat();
    let bind = [strings(&["", name]), vec![0, 0, 0, 0, 0, 0]].concat();
    let execute = [strings(&[""]), vec![0, 0, 0, 0]].concat();
    [frame(b'P', &parse), frame(b'B', &bind), frame(b'E', &execute)].concat()
}

pub fn sync() -> Vec<u8> {
    frame(b'S', &[])
}

async fn state(world: &World) -> Result<Vec<String>> {
    let mut state = Vec::new();
    for shard in &world.direct {
        state.push(sql::value(shard, "SELECT sum(balance) FROM accounts").await?);
        state.push(sql::value(shard, "SELECT count(*) FROM pg_class WHERE relname = 'must_not_be'").await?);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND xact_start IS NOT NULL";
        state.push(sql::value(shard, open).await?);
    }
    Ok(state)
}
