//! Transaction blocks that begin, or begin and end, within a pipeline: what an error in their middle leaves, and what portals are then.

use anyhow::Result;
use ringway_tests::scenario::raw::Message;

use super::pair::{bind, close, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

fn run(statement: &str) -> Vec<u8> {
    [bind("", statement, &[], &[]), describe('P', ""), execute("", 0)].concat()
}

/// The transaction is open, and failed.
fn is_failed(said: &[Message]) -> bool {
    said.last().is_some_and(|ready| ready.body == b"E")
}

fn once(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), run("")].concat()
}

/// Statements of one shard, of both, of none, and wrong ones, between BEGIN and its end.
pub async fn whole(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    pair.same("CREATE TABLE late (id int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await?;
    pair.same("INSERT INTO late VALUES (1, 1), (2, 2)").await?;
    let statements = [
        "SELECT id, name FROM items WHERE id = 7",
        "UPDATE items SET kind = kind + 1 WHERE id = 7",
        "INSERT INTO plain VALUES (801)",
        "INSERT INTO plain VALUES (1)",
        "UPDATE late SET v = 2 WHERE id = 1",
        "SELECT 1 / (id - 7) FROM items WHERE id = 7",
        "SELECT count(*) FROM items",
        "SELEC 1",
        "SELECT nothing FROM items WHERE id = 7",
        "SET LOCAL work_mem TO '7MB'",
        "SAVEPOINT a",
        "COMMIT",
        "BEGIN",
        "",
    ];
    let ends = ["COMMIT", "END;", "commit work", "ROLLBACK", "COMMIT AND CHAIN", "SELECT 1"];
    for begin in ["BEGIN", "START TRANSACTION", "begin read only", "BEGIN ;"] {
        for first in statements {
            for end in ends {
                let what = format!("{begin}; {first}; {end}");
                let said = pair.same_messages(&what, &[once(begin), once(first), once(end), sync()]).await?;
                if !is_failed(&said) {
                    pair.same_messages(&format!("{what}, and the portal again"), &[execute("", 0), sync()]).await?;
                }
                pair.same("SELECT count(*) FROM plain").await?;
                pair.same("ROLLBACK").await?;
            }
        }
    }
    for first in statements {
        for second in statements {
            let what = format!("BEGIN; {first}; {second}; COMMIT");
            pair.same_messages(&what, &[once("BEGIN"), once(first), once(second), once("COMMIT"), sync()]).await?;
            pair.same("ROLLBACK").await?;
            pair.same("SELECT kind FROM items WHERE id = 7").await?;
            pair.same("DELETE FROM plain WHERE id > 800").await?;
        }
    }
    pair.same("DROP TABLE late").await?;
    Ok(())
}

/// Messages in other orders than drivers send them, and statements with names.
pub async fn orders(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    let read = || once("SELECT id FROM items WHERE id = 9");
    let named = |name: &str, sql: &str| [parse(name, sql, &[]), describe('S', name), sync()].concat();
    pair.same_messages("Parse of BEGIN", &[named("begins", "BEGIN")]).await?;
    pair.same_messages("Parse of COMMIT", &[named("commits", "COMMIT")]).await?;
    pair.same_messages("Parse of a write", &[named("writes", "UPDATE items SET kind = 1 WHERE id = 9")]).await?;
    let (begin, commit) = (run("begins"), run("commits"));
    let cases: &[(&str, Vec<Vec<u8>>)] = &[
        ("by their names", vec![begin.clone(), run("writes"), commit.clone()]),
        ("BEGIN alone", vec![begin.clone()]),
        ("BEGIN's portal again", vec![begin.clone(), execute("", 0)]),
        ("BEGIN's portal again, with the next", vec![begin.clone(), read(), execute("", 0)]),
        ("BEGIN's portal closed", vec![begin.clone(), close('P', ""), execute("", 0)]),
        ("BEGIN twice", vec![begin.clone(), begin.clone(), read()]),
        ("BEGIN behind a read", vec![read(), begin.clone(), read(), commit.clone()]),
        ("BEGIN bound and not executed", vec![bind("", "begins", &[], &[]), read()]),
        ("COMMIT bound and not executed", vec![begin.clone(), read(), bind("", "commits", &[], &[])]),
        ("COMMIT bound and closed", vec![begin.clone(), read(), bind("", "commits", &[], &[]), close('P', "")]),
        ("something behind COMMIT", vec![begin.clone(), read(), commit.clone(), read()]),
        ("another transaction behind COMMIT", vec![begin.clone(), read(), commit.clone(), begin.clone(), read()]),
        ("COMMIT executed twice", vec![begin.clone(), read(), commit.clone(), execute("", 0)]),
        (
            "COMMIT by a portal with a name",
            vec![begin.clone(), read(), bind("c", "commits", &[], &[]), execute("c", 0)],
        ),
        ("BEGIN by a portal with a name", vec![bind("b", "begins", &[], &[]), execute("b", 0), read()]),
        ("BEGIN with a parameter", vec![bind("", "begins", &[Some("1")], &[]), execute("", 0), read()]),
        ("COMMIT with a parameter", vec![begin.clone(), read(), bind("", "commits", &[Some("1")], &[])]),
        ("BEGIN with formats", vec![bind("", "begins", &[], &[1, 0]), execute("", 0), read()]),
        ("an unknown statement in front", vec![bind("", "nope", &[], &[]), begin.clone(), read()]),
        ("an unknown statement behind", vec![begin.clone(), bind("", "nope", &[], &[]), commit.clone()]),
        (
            "Parse that an error loses",
            vec![
                begin.clone(),
                once("SELECT 1 / (id - 9) FROM items WHERE id = 9"),
                parse("lost", "COMMIT", &[]),
                run("lost"),
            ],
        ),
        ("the name that was lost", vec![run("lost")]),
        ("BEGIN with a declared type", vec![parse("", "BEGIN", &[23]), bind("", "", &[], &[]), execute("", 0)]),
        ("BEGIN under a name that is taken", vec![parse("begins", "BEGIN", &[]), read()]),
        ("nothing between", vec![begin.clone(), commit.clone()]),
        (
            "a portal that goes on",
            vec![
                begin.clone(),
                parse("", "SELECT id FROM plain ORDER BY id", &[]),
                bind("p", "", &[], &[]),
                execute("p", 1),
                execute("p", 1),
            ],
        ),
        ("and ends", vec![begin.clone(), read(), commit.clone(), execute("p", 1)]),
    ];
    for (what, messages) in cases {
        let what = what.to_string();
        let said = pair.same_messages(&what, &[&messages[..], &[sync()]].concat()).await?;
        if !is_failed(&said) {
            pair.same_messages(&format!("{what}: its portal, later"), &[execute("", 0), sync()]).await?;
        }
        pair.same_messages(&format!("{what}: COMMIT alone"), &[commit.clone(), sync()]).await?;
        pair.same("ROLLBACK").await?;
        pair.same("SELECT kind FROM items WHERE id = 9").await?;
    }
    // By themselves, each its own Sync.
    for group in
        [begin.clone(), run("writes"), commit.clone(), commit.clone(), begin, once("END"), once("BEGIN"), commit]
    {
        pair.same_messages("one after the other", &[group, sync()]).await?;
    }
    for sql in ["BEGIN", "BEGIN", "INSERT INTO plain VALUES (811)", "COMMIT;", " end ", "start transaction ;", "abort"]
    {
        pair.same(sql).await?;
    }
    pair.same("DELETE FROM plain WHERE id > 800").await?;
    Ok(())
}

/// What settings are during, and after, a block; and what COMMIT itself says.
pub async fn commits(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in [
        "CREATE TABLE noisy (id int PRIMARY KEY, v int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        "CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN RAISE NOTICE 'row %', NEW.id; RETURN NULL; END$$",
        "CREATE CONSTRAINT TRIGGER tells AFTER INSERT ON noisy DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION tells()",
        "INSERT INTO noisy VALUES (1, 1)",
    ] {
        pair.same(sql).await?;
    }
    for (id, v) in [(2, 2), (3, 1)] {
        let insert = format!("INSERT INTO noisy VALUES ({id}, {v})");
        for sql in ["BEGIN", &insert, "COMMIT", "SELECT count(*) FROM noisy", "ROLLBACK"] {
            pair.same(sql).await?;
        }
        let commit = [once("COMMIT"), sync()].concat();
        for sql in ["DELETE FROM noisy WHERE id > 1", "BEGIN", &insert] {
            pair.same(sql).await?;
        }
        pair.same_messages("COMMIT that tells", &[commit]).await?;
        pair.same("DELETE FROM noisy WHERE id > 1").await?;
        let group = [once("BEGIN"), once(&insert), once("COMMIT"), sync()];
        pair.same_messages("a group that tells", &group).await?;
        pair.same("SELECT id FROM noisy ORDER BY id").await?;
        pair.same("DELETE FROM noisy WHERE id > 1").await?;
    }
    for sql in [
        "BEGIN",
        "SET LOCAL TimeZone TO 'Asia/Tokyo'",
        "SELECT id FROM plain WHERE id = 1",
        "COMMIT",
        "SHOW TimeZone",
        "BEGIN",
        "SELECT set_config('TimeZone', 'Asia/Tokyo', true)",
        "END",
        "SHOW TimeZone",
        "BEGIN",
        "SAVEPOINT a",
        "INSERT INTO plain VALUES (821)",
        "COMMIT",
        "BEGIN",
        "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM plain ORDER BY id",
        "COMMIT",
        "FETCH c",
        "BEGIN",
        "FETCH c",
        "COMMIT",
        "CLOSE c",
        "DELETE FROM plain WHERE id > 800",
        "DROP TABLE noisy",
        "DROP FUNCTION tells",
    ] {
        pair.same(sql).await?;
    }
    Ok(())
}
