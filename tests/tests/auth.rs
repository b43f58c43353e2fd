//! Shards that ask for SCRAM-SHA-256: the gateway proves itself with what a client's own exchange gave away, or with the users
//! file's password; who proves nothing gets nothing. The clients' verifiers are in a users file, or asked of the shard.

#[path = "auth/query.rs"]
mod query;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::{sql, turn, until};

const ROWS: i64 = 100;
const STARTED_MAX: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_that_ask_for_passwords() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let outcome = play(&cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn play(cluster: &Cluster) -> Result<()> {
    let admin = sql::connect(&cluster.dsn("postgres")).await?;
    admin.batch_execute("CREATE TABLE t (k bigint PRIMARY KEY, v text)").await?;
    admin.batch_execute("SELECT create_distributed_table('t', 'k')").await?;
    admin.batch_execute("GRANT ALL ON t TO app").await?;
    for k in 1..=ROWS {
        admin.execute("INSERT INTO t VALUES ($1, 'x')", &[&k]).await?;
    }

    // Both shards let `app` in with its password only, and have the same verifier of it.
    admin.batch_execute("ALTER ROLE app PASSWORD 'pencil'").await?;
    let mut verifiers = Vec::new();
    let mut direct = Vec::new();
    for shard in ["s1", "s2"] {
        let dsn = cluster.shard_dsn(shard).await?;
        let service = sql::connect(&dsn).await?;
        verifiers.push(sql::value(&service, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").await?);
        let hba = sql::value(&service, "SHOW hba_file").await?;
        let rules = std::fs::read_to_string(&hba)?;
        std::fs::write(&hba, format!("host all app 127.0.0.1/32 scram-sha-256\n{rules}"))?;
        service.batch_execute("SELECT pg_reload_conf()").await?;
        direct.push(dsn.replace("ringway_service@", "app@"));
    }
    for dsn in &direct {
        until("a shard that asks for a password", STARTED_MAX, || async { Ok(sql::connect(dsn).await.is_err()) })
            .await?;
        sql::connect(&dsn.replace("app@", "app:pencil@")).await.context("the shard's own password")?;
        ensure!(sql::refused(&dsn.replace("app@", "app:pen@")).await? == "28P01");
    }

    ensure!(verifiers[0] == verifiers[1] && verifiers[0].starts_with("SCRAM-SHA-256$"), "the shards' verifiers differ");
    for (what, secret) in [("the shards' verifier", verifiers[0].as_str()), ("a password", "pencil")] {
        served(cluster, secret).await.with_context(|| format!("users file with {what}"))?;
    }
    query::play(cluster, &admin).await.context("auth_query")?;
    trusted_gateway_has_nothing_to_show(cluster).await.context("a gateway that trusts its clients")?;
    another_verifier_is_refused(cluster).await.context("a verifier that is not the shards'")?;
    a_weak_service_role_is_refused(cluster).await.context("a service role that is no superuser")
}

async fn start(cluster: &Cluster, secret: &str) -> Result<(Gateway, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users");
    std::fs::write(&users, format!("app {secret}\n"))?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let gateway =
        Gateway::start(cluster, &["--auth", "scram", "--users", users.to_str().context("not UTF-8")?]).await?;
    Ok((gateway, directory))
}

async fn served(cluster: &Cluster, secret: &str) -> Result<()> {
    let (gateway, _users) = start(cluster, secret).await?;
    gateway.serves("app:pencil").await?;
    ensure!(sql::refused(&gateway.dsn("app:pen")).await? == "28P01");
    let client = sql::connect(&gateway.dsn("app:pencil")).await?;
    ensure!(sql::value(&client, "SELECT current_user").await? == "app");
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == ROWS.to_string());
    client.batch_execute("BEGIN; UPDATE t SET v = 'y'; COMMIT").await.context("over both shards")?;
    for k in 1..=ROWS {
        let rows = client.query("SELECT v FROM t WHERE k = $1", &[&k]).await?;
        ensure!(rows.len() == 1 && rows[0].get::<_, &str>(0) == "y", "row {k}");
    }
    ensure!(!gateway.log().contains("pencil"), "a password is in the log");
    Ok(())
}

async fn trusted_gateway_has_nothing_to_show(cluster: &Cluster) -> Result<()> {
    let code = match sql::connect(&cluster.dsn("app")).await {
        Err(_) => sql::refused(&cluster.dsn("app")).await?,
        Ok(client) => sql::failure(&client, "SELECT count(*) FROM t").await?.0,
    };
    ensure!(code == "28000" || code == "28P01", "{code}");
    Ok(())
}

async fn another_verifier_is_refused(cluster: &Cluster) -> Result<()> {
    // Of the same password, with another salt.
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    s1.batch_execute("CREATE ROLE salted PASSWORD 'pencil'").await?;
    let verifier = sql::value(&s1, "SELECT rolpassword FROM pg_authid WHERE rolname = 'salted'").await?;
    s1.batch_execute("DROP ROLE salted").await?;
    let (mut gateway, _users) = start(cluster, &verifier).await?;
    // It has no topology at first.
    until("an answer of the shard's", STARTED_MAX, || async {
        Ok(sql::refused(&gateway.dsn("app:pencil")).await? != "57P03")
    })
    .await?;
    let code = sql::refused(&gateway.dsn("app:pencil")).await?;
    ensure!(code == "28P01", "{code}");
    ensure!(gateway.is_running());
    Ok(())
}

async fn a_weak_service_role_is_refused(cluster: &Cluster) -> Result<()> {
    let spare = cluster.spare().await?;
    let service = sql::connect(&spare).await?;
    service.batch_execute("CREATE ROLE weak LOGIN").await?;
    let dsn = spare.replace("ringway_service@", "weak@");
    for grant in ["SELECT 1", "GRANT SET ON PARAMETER session_replication_role TO weak"] {
        if grant.starts_with("GRANT")
            && sql::value(&service, "SHOW server_version_num").await?.parse::<i64>()? < 150_000
        {
            continue;
        }
        service.batch_execute(grant).await?;
        let output = cluster.shardctl_command(&["shard", "add", "weak", &dsn])?.output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("ALTER ROLE \"weak\" SUPERUSER"), "after {grant}: {said}");
    }
    service.batch_execute("ALTER ROLE weak SUPERUSER").await?;
    cluster.shardctl(&["shard", "add", "weak", &dsn]).await?;
    Ok(())
}
