//! What a client sends wrong gets a clear error; the connection, or at least the gateway, goes on.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{frame, query, strings, Raw};
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_clear_error() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE TABLE t (k bigint PRIMARY KEY, n int, v varchar(5))").await?;
    client.batch_execute("SELECT create_distributed_table('t', 'k')").await?;
    let gateway = cluster.process("gateway")?;
    let port = cluster.listen_port();

    let mut stages = Stages::default();
    stages.run("garbage instead of a startup message", garbage_startups(port)).await;
    stages.run("startup messages of other protocols", other_startups(port)).await;
    stages.run("malformed frames", malformed_frames(port)).await;
    stages.run("oversized frames", oversized_frames(port)).await;
    stages.run("malformed messages of the extended protocol", malformed_messages(port)).await;
    stages.run("text that is no UTF-8", not_utf8(port)).await;
    stages.run("statements without end", endless_statements(port)).await;
    stages.run("clients that leave in the middle", leaving(port)).await;
    stages.run("statements that are wrong", wrong_statements(&cluster)).await;
    stages.run("unknown databases and roles", unknown_names(&cluster)).await;
    stages.run("wrong passwords", wrong_passwords(&cluster)).await;
    stages
        .run("the gateway is the same process as before", async {
            ensure!(cluster.process("gateway")? == gateway, "the gateway was started again");
            ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == "0");
            Ok(())
        })
        .await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn garbage_startups(port: u16) -> Result<()> {
    let mut many_parameters = Vec::from(196_608u32.to_be_bytes());
    many_parameters.extend(strings(&["user", "postgres"]));
    many_parameters.extend(b"a\0b\0".repeat(3_000));
    many_parameters.push(0);
    let too_long = [&(many_parameters.len() as u32 + 4).to_be_bytes()[..], &many_parameters].concat();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
        ("a length below its own", [&3u32.to_be_bytes()[..], &[0, 3, 0, 0]].concat()),
        ("a length and nothing", 4u32.to_be_bytes().to_vec()),
        ("a huge length", [&0x7fff_ffffu32.to_be_bytes()[..], &196_608u32.to_be_bytes()].concat()),
        ("12,000 bytes of parameters", too_long),
        ("parameters without an end", [&15u32.to_be_bytes()[..], &196_608u32.to_be_bytes(), b"user\0ab"].concat()),
        ("a TLS handshake without its request", b"\x16\x03\x01\x00\x05hello\x00\x00".to_vec()),
    ];
    for (what, bytes) in inputs {
        let mut raw = Raw::connect(port).await?;
        raw.send(&bytes).await?;
        let _ = raw.finish().await;
        let code = raw.refusal().await.with_context(|| what.to_string())?;
        // PostgreSQL closes some of these without a word.
        ensure!(
            code.as_ref().is_none_or(|code| ["08P01", "0A000", "54000", "28000", "53400"].contains(&code.as_str())),
            "{what}: {code:?}"
        );
    }
    Raw::session(port, "postgres").await.map(drop)
}

async fn other_startups(port: u16) -> Result<()> {
    let version = |number: u32| [&8u32.to_be_bytes()[..], &number.to_be_bytes()].concat();
    let mut raw = Raw::connect(port).await?;
    raw.send(&version(2 << 16)).await?;
    // In that protocol's form or in ours.
    let answer = String::from_utf8_lossy(&raw.bytes_until_closed().await?).into_owned();
    ensure!(answer.starts_with('E') && answer.contains("protocol"), "protocol 2: {answer:?}");

    let mut raw = Raw::connect(port).await?;
    raw.startup(&[("database", "app")]).await?;
    let code = raw.refusal().await?;
    ensure!(code.as_deref() == Some("28000"), "no user: {code:?}");

    // A cancel request with a key that nobody has.
    let mut raw = Raw::connect(port).await?;
    raw.send(&[&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat()).await?;
    ensure!(raw.until_closed().await?.is_empty(), "a cancel request was answered");
    Raw::session(port, "postgres").await.map(drop)
}

async fn malformed_frames(port: u16) -> Result<()> {
    for (what, bytes) in [
        ("an unknown type", frame(b'y', b"hello")),
        ("a length of 3", vec![b'Q', 0, 0, 0, 3]),
        ("a length of 0", vec![b'Q', 0, 0, 0, 0]),
        ("a negative length", vec![b'Q', 0xff, 0xff, 0xff, 0xff]),
        ("a type byte of 0", vec![0, 0, 0, 0, 4]),
        ("an authentication message", frame(b'p', b"secret\0")),
    ] {
        let mut raw = Raw::session(port, "postgres").await?;
        raw.send(&bytes).await?;
        raw.send(&query("SELECT 1")).await?;
        let _ = raw.finish().await;
        let code = raw.refusal().await.with_context(|| what.to_string())?;
        ensure!(code.as_deref() == Some("08P01"), "{what}: {code:?}");
    }
    Ok(())
}

async fn oversized_frames(port: u16) -> Result<()> {
    for tag in [b'Q', b'P', b'B', b'E', b'd', b'S', b'X'] {
        let mut raw = Raw::session(port, "postgres").await?;
        raw.send(&[&[tag][..], &0x7fff_fff0u32.to_be_bytes(), b"SELECT 1"].concat()).await?;
        let code = raw.refusal().await.with_context(|| format!("a frame {} of 2 GB", char::from(tag)))?;
        ensure!(
            code.as_ref().is_some_and(|code| ["08P01", "54000", "53400", "53200"].contains(&code.as_str())),
            "a frame {} of 2 GB: {code:?}",
            char::from(tag)
        );
    }
    Ok(())
}

/// What it is, the messages, and the SQLSTATEs that are right.
type Case = (&'static str, Vec<Vec<u8>>, &'static [&'static str]);

async fn malformed_messages(port: u16) -> Result<()> {
    let sync = || frame(b'S', &[]);
    let parse = |name: &str, text: &str| {
        let mut body = strings(&[name, text]);
        body.extend(0u16.to_be_bytes());
        frame(b'P', &body)
    };
    // Portal, statement, no formats, values, no result formats.
    let bind = |statement: &str, format: u16, values: &[&[u8]]| {
        let mut body = strings(&["", statement]);
        body.extend(1u16.to_be_bytes());
        body.extend(format.to_be_bytes());
        body.extend((values.len() as u16).to_be_bytes());
        for value in values {
            body.extend((value.len() as u32).to_be_bytes());
            body.extend(*value);
        }
        body.extend(0u16.to_be_bytes());
        frame(b'B', &body)
    };
    let execute = || frame(b'E', &[0, 0, 0, 0, 0]);
    let by_key = "SELECT v FROM t WHERE k = $1";
    let lying_bind = frame(b'B', &[&strings(&["", "lying"])[..], &[0, 0, 0xff, 0xff]].concat());
    let cut_value = frame(b'B', &[&strings(&["", "cut"])[..], &[0, 0, 0, 1, 0, 0, 1, 0, 9]].concat());
    let cases: Vec<Case> = vec![
        ("a short Parse", vec![frame(b'P', b"a"), sync()], &["08P01"]),
        ("a Parse that lies about its types", vec![frame(b'P', b"a\0SELECT 1\0\xff\xff"), sync()], &["08P01"]),
        ("a Bind to an unknown statement", vec![bind("nobody", 0, &[]), sync()], &["26000"]),
        ("an Execute of an unknown portal", vec![frame(b'E', b"nobody\0\0\0\0\0"), sync()], &["34000"]),
        ("a Describe of nothing", vec![frame(b'D', b"Snobody\0"), sync()], &["26000"]),
        ("a Describe of an unknown kind", vec![frame(b'D', b"Znobody\0"), sync()], &["08P01"]),
        ("a Bind that lies about its values", vec![parse("lying", by_key), lying_bind, sync()], &["08P01"]),
        ("a Bind whose value is cut off", vec![parse("cut", by_key), cut_value, sync()], &["08P01"]),
        ("too few values", vec![parse("few", by_key), bind("few", 0, &[]), execute(), sync()], &["08P01"]),
        ("too many values", vec![parse("many", by_key), bind("many", 0, &[b"1", b"2"]), execute(), sync()], &["08P01"]),
        (
            "a key that is no number",
            vec![parse("word", by_key), bind("word", 0, &[b"word"]), execute(), sync()],
            &["22P02"],
        ),
        (
            "a binary key of three bytes",
            vec![parse("three", by_key), bind("three", 1, &[&[1, 2, 3]]), execute(), sync()],
            &["22P03", "08P01"],
        ),
        (
            "a format that does not exist",
            vec![parse("five", by_key), bind("five", 5, &[b"1"]), execute(), sync()],
            &["22023", "08P01"],
        ),
        (
            "a statement's second definition",
            vec![parse("twice", "SELECT 1"), parse("twice", "SELECT 2"), sync()],
            &["42P05"],
        ),
        ("two statements in one Parse", vec![parse("two", "SELECT 1; SELECT 2"), sync()], &["42601"]),
    ];
    for (what, messages, expected) in cases {
        let mut raw = Raw::session(port, "postgres").await?;
        let code = raw.ask(&messages.concat()).await.with_context(|| what.to_string())?;
        ensure!(
            code.as_ref().is_some_and(|code| expected.contains(&code.as_str())),
            "{what}: {code:?}, not {expected:?}"
        );
        let code = raw.ask(&query("SELECT 1")).await.with_context(|| format!("after {what}"))?;
        ensure!(code.is_none(), "after {what}: {code:?}");
    }
    // Everything up to the Sync is skipped, and only that.
    let mut raw = Raw::session(port, "postgres").await?;
    let skipped = [bind("nobody", 0, &[]), parse("late", "SELECT 1"), sync()].concat();
    ensure!(raw.ask(&skipped).await?.as_deref() == Some("26000"));
    let code = raw.ask(&[bind("late", 0, &[]), sync()].concat()).await?;
    ensure!(code.as_deref() == Some("26000"), "a skipped Parse was done: {code:?}");
    Ok(())
}

async fn not_utf8(port: u16) -> Result<()> {
    let mut raw = Raw::session(port, "postgres").await?;
    let code = raw.ask(&frame(b'Q', b"SELECT '\xff\xfe'\0")).await?;
    ensure!(code.as_deref() == Some("22021"), "{code:?}");
    let code = raw.ask(&frame(b'Q', b"INSERT INTO t (k, v) VALUES (1, '\xc3\x28')\0")).await?;
    ensure!(code.as_deref() == Some("22021"), "{code:?}");
    ensure!(raw.ask(&query("SELECT 'ü'")).await?.is_none());
    Ok(())
}

async fn endless_statements(port: u16) -> Result<()> {
    let mut raw = Raw::session(port, "postgres").await?;
    for (what, text) in [
        ("brackets", format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000))),
        ("open brackets", "(".repeat(100_000)),
        ("a sum", format!("SELECT k{} FROM t", " + 1".repeat(50_000))),
        ("subqueries", format!("{}SELECT 1{}", "SELECT * FROM (".repeat(5_000), ") a".repeat(5_000))),
        ("a quote without end", "SELECT 'abc".to_string()),
        ("a comment without end", format!("SELECT 1 {}", "/*".repeat(10_000))),
        ("a dollar quote without end", "SELECT $a$abc".to_string()),
        ("NOT", format!("SELECT * FROM t WHERE {} true", "NOT ".repeat(50_000))),
    ] {
        let code = raw.ask(&query(&text)).await.with_context(|| what.to_string())?;
        // Whether a sum of 50,000 terms is too much is the parser's business; that the process survives is not.
        println!("  {what}: {code:?}");
        let after = raw.ask(&query("SELECT 1")).await.with_context(|| format!("after {what}"))?;
        ensure!(after.is_none(), "after {what}: {after:?}");
    }
    Ok(())
}

async fn leaving(port: u16) -> Result<()> {
    for bytes in [
        query("SELECT pg_sleep(0.2)"),
        query("BEGIN; INSERT INTO t VALUES (1, 1, 'a')"),
        b"Q\0\0".to_vec(),
        [query("BEGIN"), query("INSERT INTO t VALUES (2, 2, 'b')"), query("INSERT INTO t VALUES (3, 3, 'c')")].concat(),
        [query("COPY t FROM STDIN"), frame(b'd', b"5\t5\te\n")].concat(),
    ] {
        let mut raw = Raw::session(port, "postgres").await?;
        raw.send(&bytes).await?;
        drop(raw);
    }
    ringway_tests::scenario::until("the end of their transactions", std::time::Duration::from_secs(10), || async {
        let mut raw = Raw::session(port, "postgres").await?;
        // It waits for none of them, and sees nothing of them.
        let code =
            raw.ask(&query("BEGIN; SET LOCAL lock_timeout = 100; LOCK TABLE t IN EXCLUSIVE MODE; ROLLBACK")).await?;
        ensure!(code.is_none(), "{code:?}");
        Ok(true)
    })
    .await
}

async fn wrong_statements(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let mut wrong = Vec::new();
    for (statement, expected) in [
        ("SELECT * FROM nowhere", &["42P01"][..]),
        ("INSERT INTO nowhere VALUES (1)", &["42P01"]),
        ("SELECT nothing FROM t WHERE k = 1", &["42703"]),
        ("SELECT nothing FROM t", &["42703"]),
        ("SELECT * FROM t WHERE nothing = 1", &["42703"]),
        ("INSERT INTO t (k, n) VALUES (NULL, 1)", &["23502"]),
        ("INSERT INTO t (n) VALUES (1)", &["23502"]),
        ("INSERT INTO t DEFAULT VALUES", &["23502"]),
        ("INSERT INTO t (k, n) VALUES (DEFAULT, 1)", &["23502"]),
        ("INSERT INTO t (n, nothing) VALUES (1, 2)", &["42703"]),
        ("INSERT INTO t (k, n) VALUES (nothing, 2)", &["42703"]),
        ("INSERT INTO t (k, n) VALUES (1 / 0, 2)", &["22012"]),
        ("INSERT INTO t (k, n) VALUES (true, 2)", &["42804"]),
        ("INSERT INTO t (k, n) VALUES (1)", &["42601"]),
        ("INSERT INTO t (k, n) VALUES (1, 1), (NULL, 2)", &["23502"]),
        ("INSERT INTO t (k, n) VALUES ('one', 1)", &["22P02"]),
        ("INSERT INTO t (k, n) VALUES (1, 'one')", &["22P02"]),
        ("INSERT INTO t (k, n) VALUES (1, 3000000000)", &["22003"]),
        ("INSERT INTO t (k, n) VALUES (99999999999999999999, 1)", &["22003"]),
        ("INSERT INTO t (k, v) VALUES (1, 'too long')", &["22001"]),
        ("INSERT INTO t VALUES (1, 2, 'a', 4)", &["42601"]),
        ("SELECT * FROM t WHERE k = true", &["42883", "42804"]),
        ("SELECT k / 0 FROM t WHERE k = 1 UNION ALL SELECT 1 / 0", &["22012"]),
        ("SELEKT 1", &["42601"]),
        ("SELECT 1 +", &["42601"]),
        ("SELECT function_that_is_not(1)", &["42883"]),
        ("UPDATE t SET nothing = 1 WHERE k = 1", &["42703"]),
        ("UPDATE t SET k = NULL WHERE k = 1", &["UPDATE 0"]),
        ("CREATE TABLE t (a int)", &["42P07"]),
        ("ROLLBACK TO SAVEPOINT a", &["25P01", "3B001"]),
        ("EXECUTE nothing", &["26000"]),
        ("SET nonsense_of_mine = 1", &["42704"]),
        ("SET TimeZone = 'Nowhere/Land'", &["22023"]),
        ("COPY t (k, n) FROM STDIN WITH (FORMAT nonsense)", &["22023"]),
    ] {
        match client.simple_query(statement).await {
            Ok(_) if expected.contains(&"UPDATE 0") => {}
            Ok(_) => wrong.push(format!("{statement} did not fail")),
            Err(error) => {
                let code = sql::code(&error);
                if !expected.contains(&code.as_str()) {
                    wrong.push(format!(
                        "{statement}: {code} {:?}, not {expected:?}",
                        error.as_db_error().map(|e| e.message())
                    ));
                }
            }
        }
        ensure!(sql::value(&client, "SELECT 1").await.with_context(|| format!("after {statement}"))? == "1");
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // Values of the wrong type in the extended protocol.
    let statement = client.prepare("INSERT INTO t (k, n) VALUES ($1, $2)").await?;
    let missing: Option<i64> = None;
    let refused = client.execute(&statement, &[&missing, &1i32]).await;
    let code = refused.err().map(|error| sql::code(&error));
    ensure!(code.as_deref() == Some("23502"), "a NULL key as a parameter: {code:?}");
    ensure!(client.execute(&statement, &[&1i64, &1i32]).await? == 1);
    let code = client.execute(&statement, &[&1i64, &1i32]).await.err().map(|error| sql::code(&error));
    ensure!(code.as_deref() == Some("23505"), "a key that is there already: {code:?}");
    ensure!(client.execute("DELETE FROM t WHERE k = 1", &[]).await? == 1);
    Ok(())
}

async fn unknown_names(cluster: &Cluster) -> Result<()> {
    let port = cluster.listen_port();
    for (dsn, expected) in [
        (format!("postgresql://postgres@127.0.0.1:{port}/nowhere"), "3D000"),
        (format!("postgresql://nobody@127.0.0.1:{port}/app"), "28000"),
        (format!("postgresql://{}@127.0.0.1:{port}/app", shardctl::dev::postgres::SERVICE_ROLE), "28000"),
    ] {
        let code = sql::refused(&dsn).await;
        match code {
            Ok(code) => ensure!(code == expected, "{dsn}: {code}"),
            // A gateway that trusts everybody may find out with the first statement.
            Err(_) => {
                let client = sql::connect(&dsn).await?;
                let (code, message) = sql::failure(&client, "SELECT count(*) FROM t").await?;
                ensure!(code == expected, "{dsn}: {code} {message}");
                ensure!(expected == "28000" && dsn.contains("nobody"), "{dsn} was let in at first");
            }
        }
    }
    Ok(())
}

async fn wrong_passwords(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, "app correct-horse\npostgres battery-staple\n")?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let mut gateway =
        Gateway::start(cluster, &["--auth", "scram", "--users", users.to_str().context("not UTF-8")?]).await?;
    gateway.serves("app:correct-horse").await?;
    for (role, expected) in [
        ("app:wrong", "28P01"),
        ("app:battery-staple", "28P01"),
        ("postgres:correct-horse", "28P01"),
        ("nobody:correct-horse", "28P01"),
        ("ringway_service:correct-horse", "28000"),
    ] {
        let code = sql::refused(&gateway.dsn(role)).await?;
        ensure!(code == expected || role.starts_with("ringway_service") && code == "28P01", "{role}: {code}");
    }
    let client = sql::connect(&gateway.dsn("app:correct-horse")).await?;
    ensure!(sql::value(&client, "SELECT current_user").await? == "app");
    // Nonsense in the middle of the exchange.
    for answer in [&b"SCRAM-SHA-256\0\0\0\0\x05nonse"[..], b"PLAIN\0\0\0\0\0", b"", b"SCRAM-SHA-256\0\x7f\xff\xff\xff"]
    {
        let mut raw = Raw::connect(gateway.port).await?;
        raw.startup(&[("user", "app"), ("database", "app")]).await?;
        let request = raw.message().await?.context("closed")?;
        ensure!(request.tag == b'R', "no authentication request but {request:?}");
        raw.send(&frame(b'p', answer)).await?;
        let _ = raw.finish().await;
        let code = raw.refusal().await?;
        ensure!(code.as_ref().is_none_or(|code| ["28P01", "08P01", "28000"].contains(&code.as_str())), "{code:?}");
    }
    ensure!(gateway.is_running(), "the gateway has ended");
    // Secrets are not in the log.
    ensure!(!gateway.log().contains("correct-horse") && !gateway.log().contains("battery"), "a password is in the log");
    Ok(())
}
