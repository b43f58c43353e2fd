//! Gateways without a users file: the home shard knows the roles' verifiers.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_gateway::wire::scram::Verifier;
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{frame, Message, Raw};
use ringway_tests::scenario::{sql, until};
use ringway_topology::convert::topology_from_proto;
use tokio_postgres::{Client, NoTls};

/// What was learnt before a change past the gateways counts no longer.
const LEARNT_ANEW_MAX: Duration = Duration::from_secs(20);

/// Both shards ask `app` for its password, which is "pencil".
pub async fn play(cluster: &Cluster, admin: &Client) -> Result<()> {
    let gateway = Gateway::start(cluster, &["--auth", "scram", "--admin-users", "app"]).await?;
    gateway.serves("app:pencil").await?;
    good_and_bad(cluster, &gateway).await.context("good and bad passwords")?;
    roles_that_cannot_log_in(admin, &gateway).await.context("roles that cannot log in")?;
    nobody_is_told_who_exists(cluster, &gateway).await.context("roles that do not exist")?;
    changed(cluster, admin, &gateway).await.context("a changed password")?;
    nothing_is_stored(cluster, &gateway).await.context("what is stored")?;
    drop(gateway);
    queries_of_the_operators_own(cluster).await.context("other queries")?;
    asked_seldom(cluster).await.context("a flood of wrong passwords")?;
    beside_a_users_file(cluster).await.context("beside a users file")?;
    may_go_well_soon(cluster).await.context("queries that may go well soon")?;
    without_the_shard(cluster).await.context("a shard that does not answer")
}

async fn good_and_bad(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let client = sql::connect(&gateway.dsn("app:pencil")).await?;
    ensure!(sql::value(&client, "SELECT current_user").await? == "app");
    client.batch_execute("BEGIN; UPDATE t SET v = 'z'; COMMIT").await.context("over both shards")?;
    for shard in ["s1", "s2"] {
        let service = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        let written = sql::value(&service, "SELECT count(*) > 0 AND bool_and(v = 'z') FROM public.t").await?;
        ensure!(written == "t", "rows on {shard}");
    }
    ensure!(sql::refused(&gateway.dsn("app:pen")).await? == "28P01");
    // The console, too.
    let console = sql::connect(&gateway.console("app:pencil")).await?;
    ensure!(!sql::column(&console, "SHOW POOLS").await?.is_empty());
    ensure!(sql::refused(&gateway.console("app:pen")).await? == "28P01");
    // Twenty at a time.
    let dsn = gateway.dsn("app:pencil");
    let clients = futures_util::future::join_all((0..20).map(|_| sql::connect(&dsn))).await;
    for client in clients {
        ensure!(sql::value(&client?, "SELECT 1").await? == "1");
    }
    // The service role's password is in the topology, and its name is not let in.
    ensure!(["28000", "28P01"].contains(&sql::refused(&gateway.dsn("ringway_service:pencil")).await?.as_str()));
    Ok(())
}

/// SQLSTATE, message, detail and hint of a refused login.
async fn told(dsn: &str) -> Result<(String, String, Option<String>, Option<String>)> {
    let error = match tokio_postgres::connect(dsn, NoTls).await {
        Ok(_) => anyhow::bail!("{dsn} was let in"),
        Err(error) => error,
    };
    let db = error.as_db_error().with_context(|| format!("{dsn}: {error:?}"))?;
    let text = |text: Option<&str>| text.map(str::to_owned);
    Ok((db.code().code().to_owned(), db.message().to_owned(), text(db.detail()), text(db.hint())))
}

async fn roles_that_cannot_log_in(admin: &Client, gateway: &Gateway) -> Result<()> {
    admin
        .batch_execute(
            "CREATE ROLE nologin PASSWORD 'pencil'; CREATE ROLE bare LOGIN;
             CREATE ROLE expired LOGIN PASSWORD 'pencil' VALID UNTIL '2001-01-01';
             CREATE ROLE lasting LOGIN PASSWORD 'pencil' VALID UNTIL 'infinity';
             CREATE ROLE \"Odd 'name\" LOGIN PASSWORD 'pencil'",
        )
        .await?;
    let hash = sql::value(admin, "SELECT 'md5' || md5('pencilold')").await?;
    admin.batch_execute(&format!("CREATE ROLE old LOGIN PASSWORD '{hash}'")).await?;
    sql::connect(&gateway.dsn("lasting:pencil")).await.context("VALID UNTIL 'infinity'")?;
    sql::connect(&gateway.dsn("Odd%20%27name:pencil")).await.context("an odd name")?;
    let (code, message, ..) = told(&gateway.dsn("nologin:pencil")).await?;
    ensure!(code == "28000" && message == "role \"nologin\" is not permitted to log in", "{code} {message}");
    for role in ["nologin:pen", "bare:", "bare:pencil", "expired:pencil", "nobody:pencil"] {
        let name = role.split(':').next().unwrap_or_default();
        let (code, message, detail, _) = told(&gateway.dsn(role)).await?;
        let expected = format!("password authentication failed for user \"{name}\"");
        ensure!(code == "28P01" && message == expected && detail.is_none(), "{role}: {code} {message} {detail:?}");
    }
    let (code, _, detail, hint) = told(&gateway.dsn("old:pencil")).await?;
    let clear = detail.is_some_and(|detail| detail.contains("MD5")) && hint.is_some_and(|hint| hint.contains("scram"));
    ensure!(code == "28P01" && clear, "an MD5 password");
    // Each becomes one that can.
    for (change, role) in [
        ("ALTER ROLE nologin LOGIN", "nologin:pencil"),
        ("ALTER ROLE expired VALID UNTIL 'infinity'", "expired:pencil"),
        ("ALTER ROLE old PASSWORD 'pencil'", "old:pencil"),
        ("CREATE ROLE nobody LOGIN PASSWORD 'pencil'", "nobody:pencil"),
    ] {
        admin.batch_execute(change).await?;
        sql::connect(&gateway.dsn(role)).await.with_context(|| change.to_owned())?;
    }
    admin.batch_execute("DROP ROLE nobody").await?;
    ensure!(sql::refused(&gateway.dsn("nobody:pencil")).await? == "28P01", "a dropped role");
    Ok(())
}

/// The gateway's first SCRAM message without its nonce, and what it says to a wrong proof.
async fn challenge(gateway: &Gateway, role: &str) -> Result<(String, Message)> {
    let mut raw = Raw::connect(gateway.port).await?;
    raw.startup(&[("user", role), ("database", "app")]).await?;
    let offer = raw.message().await?.context("closed")?;
    ensure!(offer.tag == b'R', "{offer:?}");
    let data = "n,,n=,r=abcdefgh";
    let body = [b"SCRAM-SHA-256\0".as_slice(), &(data.len() as u32).to_be_bytes(), data.as_bytes()].concat();
    raw.send(&frame(b'p', &body)).await?;
    let first = raw.message().await?.context("closed")?;
    let first = String::from_utf8(first.body[4..].to_vec())?;
    let (nonce, salted) = first.split_once(',').context("no salt")?;
    let proof = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    raw.send(&frame(b'p', format!("c=biws,{nonce},p={proof}").as_bytes())).await?;
    let last = raw.message().await?.context("closed without a word")?;
    Ok((salted.to_owned(), last))
}

async fn nobody_is_told_who_exists(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let mut said = Vec::new();
    for role in ["app", "nobody"] {
        let (first, error) = challenge(gateway, role).await?;
        let (again, _) = challenge(gateway, role).await?;
        ensure!(first == again && first.ends_with(",i=4096"), "{role}: {first}, {again}");
        let fields: Vec<_> = b"SVCMDH".iter().map(|code| error.field(*code)).collect();
        said.push((first.len(), format!("{fields:?}").replace(role, "ROLE")));
    }
    ensure!(said[0] == said[1], "{said:?}");
    let beside = Gateway::start(cluster, &["--auth", "scram"]).await?;
    beside.serves("app:pencil").await?;
    for role in ["app", "nobody"] {
        ensure!(challenge(gateway, role).await?.0 == challenge(&beside, role).await?.0, "{role} on another gateway");
    }
    let long = challenge(gateway, &"x".repeat(200)).await?;
    ensure!(long.1.sqlstate() == "28P01");
    Ok(())
}

async fn changed(cluster: &Cluster, admin: &Client, gateway: &Gateway) -> Result<()> {
    let before = sql::connect(&gateway.dsn("app:pencil")).await?;
    // Through another gateway: at once, on all.
    admin.batch_execute("ALTER ROLE app PASSWORD 'crayon'").await?;
    ensure!(sql::refused(&gateway.dsn("app:pencil")).await? == "28P01", "the old password");
    let client = sql::connect(&gateway.dsn("app:crayon")).await.context("the new password")?;
    for client in [&client, &before] {
        ensure!(sql::value(client, "SELECT count(*) FROM t").await? == "100");
    }
    // Connections that are opened from now on, on either shard, take what the new password gave.
    sql::connect(&gateway.console("app:crayon")).await?.batch_execute("RECONNECT").await?;
    for client in [&client, &before] {
        ensure!(sql::value(client, "SELECT count(*) FROM t").await? == "100", "after RECONNECT");
    }
    // Past the gateways, alike on both shards: a failed proof brings it up.
    let verifier = Verifier::generate("chalk");
    for shard in ["s1", "s2"] {
        let service = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        service.batch_execute(&format!("ALTER ROLE app PASSWORD '{verifier}'")).await?;
    }
    let started = Instant::now();
    until("the new password", LEARNT_ANEW_MAX, || async { Ok(sql::connect(&gateway.dsn("app:chalk")).await.is_ok()) })
        .await?;
    println!("a password that was changed past the gateways counts after {:?}", started.elapsed());
    ensure!(sql::refused(&gateway.dsn("app:crayon")).await? == "28P01", "the old password");
    admin.batch_execute("ALTER ROLE app PASSWORD 'pencil'").await?;
    sql::connect(&gateway.dsn("app:pencil")).await.context("the first password again")?;
    Ok(())
}

fn files(directory: &Path, found: &mut Vec<Vec<u8>>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(std::fs::read(&path)?),
        }
    }
    Ok(())
}

async fn nothing_is_stored(cluster: &Cluster, gateway: &Gateway) -> Result<()> {
    let service = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let verifier = sql::value(&service, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await?;
    let mut found = Vec::new();
    files(gateway.directory(), &mut found)?;
    ensure!(found.len() > 1, "the gateway has a log and a snapshot");
    for secret in ["pencil", "crayon", "chalk", &verifier, "SCRAM-SHA-256$"] {
        for content in &found {
            let inside = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            ensure!(!inside, "a password or a verifier is in a file of the gateway");
        }
    }
    Ok(())
}

async fn queries_of_the_operators_own(cluster: &Cluster) -> Result<()> {
    let shadow = "SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1";
    let gateway = Gateway::start(cluster, &["--auth-query", shadow]).await?;
    gateway.serves("app:pencil").await?;
    ensure!(sql::refused(&gateway.dsn("app:pen")).await? == "28P01");
    for (query, logged) in [
        ("SELECT nothing FROM nowhere WHERE x = $1", "nowhere"),
        ("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1", "one row of a role"),
        ("SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolname <> $1", "one row of a role"),
        ("SELECT $1, 'pencil'::text, 1", "one row of a role"),
    ] {
        let gateway = Gateway::start(cluster, &["--auth-query", query]).await?;
        until("a topology", LEARNT_ANEW_MAX, || async {
            Ok(sql::refused(&gateway.dsn("app:pencil")).await? != "57P03")
        })
        .await?;
        let (code, message, _, hint) = told(&gateway.dsn("app:pencil")).await?;
        ensure!(
            code == "28000" && message == "auth_query failed on shard \"s1\"" && hint.is_some(),
            "{code} {message}"
        );
        ensure!(gateway.log().contains(logged), "{query}: {}", gateway.log());
    }
    let plain = Gateway::start(cluster, &["--auth-query", "SELECT $1::text, 'pencil'::text"]).await?;
    until("a topology", LEARNT_ANEW_MAX, || async { Ok(sql::refused(&plain.dsn("app:pencil")).await? != "57P03") })
        .await?;
    let (code, _, detail, _) = told(&plain.dsn("app:pencil")).await?;
    ensure!(code == "28P01" && detail.as_ref().is_some_and(|d| d.contains("clear text")), "{code} {detail:?}");
    Ok(())
}

async fn asked_seldom(cluster: &Cluster) -> Result<()> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    s1.batch_execute("CREATE SEQUENCE ringway.asked").await?;
    let query = "SELECT rolname, rolpassword, pg_catalog.nextval('ringway.asked') > 0 \
                 FROM pg_catalog.pg_authid WHERE rolname = $1";
    let gateway = Gateway::start(cluster, &["--auth-query", query]).await?;
    gateway.serves("app:pencil").await?;
    let asked =
        || async { Ok::<i64, anyhow::Error>(sql::value(&s1, "SELECT nextval('ringway.asked')").await?.parse()?) };
    let (before, started) = (asked().await?, Instant::now());
    for _ in 0..100 {
        ensure!(sql::refused(&gateway.dsn("app:pen")).await? == "28P01");
    }
    let (after, most) = (asked().await?, started.elapsed().as_secs() as i64 + 3);
    ensure!(after - before <= most, "{} queries for 100 wrong passwords in {:?}", after - before, started.elapsed());
    s1.batch_execute("DROP SEQUENCE ringway.asked").await?;
    Ok(())
}

async fn beside_a_users_file(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, "postgres secret\n")?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let users = users.to_str().context("not UTF-8")?;
    let gateway = Gateway::start(cluster, &["--users", users, "--auth-query"]).await?;
    gateway.serves("app:pencil").await?;
    sql::connect(&gateway.dsn("postgres:secret")).await?;
    ensure!(sql::refused(&gateway.dsn("postgres:pencil")).await? == "28P01");
    let alone = Gateway::start(cluster, &["--users", users]).await?;
    alone.serves("postgres:secret").await?;
    ensure!(sql::refused(&alone.dsn("app:pencil")).await? == "28P01", "the users file alone");
    Ok(())
}

/// Errors that pass are told apart from those that stay, and a query that nobody waits for runs no longer.
async fn may_go_well_soon(cluster: &Cluster) -> Result<()> {
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    s1.batch_execute(
        "CREATE FUNCTION ringway.busy() RETURNS text LANGUAGE plpgsql AS \
         $$ BEGIN RAISE 'no room' USING ERRCODE = '53300'; END $$",
    )
    .await?;
    let directory = tempfile::tempdir()?;
    let limits = directory.path().join("gateway.toml");
    std::fs::write(&limits, "[limits]\nauth_query_timeout_ms = 700\n")?;
    let limits = limits.to_str().context("not UTF-8")?;
    for (query, said) in [
        ("SELECT $1::text, ringway.busy()", "cannot tell the role's password now"),
        ("SELECT $1::text, pg_catalog.pg_sleep(600)::text", "shard \"s1\" "),
    ] {
        let gateway = Gateway::start(cluster, &["--auth-query", query, "--config", limits]).await?;
        until("a topology", LEARNT_ANEW_MAX, || async { Ok(told(&gateway.dsn("app:pencil")).await?.1.contains(said)) })
            .await
            .with_context(|| gateway.log())?;
        let (code, message, _, hint) = told(&gateway.dsn("app:pencil")).await?;
        ensure!(code == "57P03" && message.contains(said) && hint.is_some(), "{code} {message}");
    }
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'";
    until("the shard has given up", LEARNT_ANEW_MAX, || async { Ok(sql::value(&s1, asleep).await? == "0") }).await?;
    s1.batch_execute("DROP FUNCTION ringway.busy()").await?;
    Ok(())
}

/// The home shard refuses connections, or takes them and says nothing.
async fn without_the_shard(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let closed = {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        listener.local_addr()?.port()
    };
    let limits = directory.path().join("gateway.toml");
    std::fs::write(&limits, "admin_users = [\"ann\"]\n[limits]\nauth_query_timeout_ms = 700\n")?;
    let users = directory.path().join("users");
    std::fs::write(&users, "ann secret\n")?;
    for (port, said) in [(closed, "cannot be reached"), (silent.local_addr()?.port(), "within 700 ms")] {
        let mut topology = topology_from_proto(&cluster.topology().await?, "secret")?;
        for shard in topology.shards.values_mut() {
            shard.dsn = format!("postgresql://ringway_service@127.0.0.1:{port}/app");
        }
        let path = directory.path().join("topology.json");
        std::fs::write(&path, serde_json::to_vec(&topology)?)?;
        let options = [
            "--auth-query",
            "--users",
            users.to_str().context("not UTF-8")?,
            "--config",
            limits.to_str().context("not UTF-8")?,
        ];
        let gateway = Gateway::start_at(&format!("file:{}", path.display()), &options).await?;
        until("a topology", LEARNT_ANEW_MAX, || async { Ok(told(&gateway.dsn("app:pencil")).await?.1.contains(said)) })
            .await
            .with_context(|| gateway.log())?;
        let started = Instant::now();
        let (code, message, _, hint) = told(&gateway.dsn("app:pencil")).await?;
        ensure!(code == "57P03" && hint.is_some(), "{code} {message}");
        ensure!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        // Administrators of the users file get in all the same.
        let console = sql::connect(&gateway.console("ann:secret")).await?;
        ensure!(!sql::column(&console, "SHOW SHARDS").await?.is_empty());
    }
    Ok(())
}
