//! Shards that take nothing but TLS.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::temporary_directory;
use ringway_tests::scenario::bare::Bare;
use ringway_tests::scenario::certificates::{text, Authority, Certificate};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::{sql, turn, until};
use ringway_tls::TlsParameters;
use shardctl::dev::postgres::{LocalPostgres, PostgresConfig, SERVICE_ROLE};
use shardctl::pg::tls::Tls;

use super::users;

const ROWS: i64 = 300;
const NOTICED_MAX: Duration = Duration::from_secs(10);
const PASSWORD: &str = "between-us";

/// A client of PostgreSQL itself, by TLS.
async fn direct(dsn: &str) -> Result<tokio_postgres::Client> {
    let (rest, parameters) = TlsParameters::split(dsn)?;
    let mut config: tokio_postgres::Config = rest.parse()?;
    config.ssl_mode(tokio_postgres::config::SslMode::Require);
    let (client, connection) = config.connect(Tls(ringway_tls::client_config(&parameters)?)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The server's user may read its key, and nobody else.
fn own(certificate: &Certificate, server: &LocalPostgres) -> Result<()> {
    let owner = std::fs::metadata(server.data_dir())?;
    Ok(std::os::unix::fs::chown(&certificate.key, Some(owner.uid()), Some(owner.gid()))?)
}

/// Asks for passwords and TLS, and of the service role for a certificate too.
async fn launch(directory: &Path, name: &str, authority: &Authority, address: &str) -> Result<LocalPostgres> {
    let certificate = authority.server(directory, &format!("{name}-server"), &[address])?;
    let mut server = LocalPostgres::create(PostgresConfig::test(directory.join(name)).scram(PASSWORD)).await?;
    own(&certificate, &server)?;
    server.start().await?;
    let service = sql::connect(&server.dsn(SERVICE_ROLE)).await?;
    for (setting, value) in [
        ("ssl_cert_file", text(&certificate.file)?),
        ("ssl_key_file", text(&certificate.key)?),
        ("ssl_ca_file", text(&authority.file)?),
        ("ssl", "on"),
    ] {
        service.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await?;
    }
    let hba = sql::value(&service, "SHOW hba_file").await?;
    let rules = format!(
        "hostssl all {SERVICE_ROLE} 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n\
         hostssl all all 127.0.0.1/32 scram-sha-256\n"
    );
    std::fs::write(&hba, rules)?;
    service.batch_execute("SELECT pg_reload_conf()").await?;
    let plain = server.dsn("postgres");
    until("a server that refuses plain text", NOTICED_MAX, || async { Ok(sql::refused(&plain).await? == "28000") })
        .await?;
    Ok(server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_by_tls() -> Result<()> {
    let _turn = turn().await?;
    let directory = temporary_directory()?;
    let path = directory.path().to_owned();
    let authority = Authority::new(&path, "authority")?;
    // Its file is all that is wanted of it.
    Authority::new(&path, "stranger")?;
    let s1 = launch(&path, "s1", &authority, "127.0.0.1").await?;
    let s2 = launch(&path, "s2", &authority, "127.0.0.1").await?;
    let misnamed = launch(&path, "misnamed", &authority, "192.0.2.1").await?;
    let client = authority.client(&path, "control", "ringway")?;
    let identity = format!("sslcert={}&sslkey={}", text(&client.file)?, text(&client.key)?);
    let verified = format!("sslmode=verify-full&sslrootcert={}&{identity}", text(&authority.file)?);
    let dsn = |server: &LocalPostgres, parameters: &str| format!("{}?{parameters}", server.dsn(SERVICE_ROLE));
    let s1_dsn = dsn(&s1, &format!("{verified}&channel_binding=require"));
    let s2_dsn = dsn(&s2, &format!("{verified}&channel_binding=require"));

    let refusals = [
        (dsn(&s1, "sslmode=disable"), "no encryption"),
        (dsn(&s1, "sslmode=require"), "client certificate"),
        (dsn(&s1, &verified.replace("authority.pem", "stranger.pem")), "UnknownIssuer"),
        (dsn(&misnamed, &verified), "not valid for name"),
        (dsn(&s1, "sslmode=verify-full"), "needs sslrootcert"),
        (dsn(&s1, "sslmode=require&sslcert=/nowhere&sslkey=/nowhere"), "/nowhere"),
    ];
    // Chain, but not name, is what verify-ca looks at.
    direct(&dsn(&misnamed, &verified.replace("verify-full", "verify-ca"))).await.context("verify-ca")?;
    let bare = Bare::serve(directory, vec![s1, s2, misnamed], Vec::new()).await?;
    let outcome = play(&bare, &path, &refusals, &s1_dsn, &s2_dsn).await;
    if outcome.is_err() {
        eprintln!("{}", bare.log());
    }
    outcome
}

async fn play(bare: &Bare, path: &Path, refusals: &[(String, &str)], s1_dsn: &str, s2_dsn: &str) -> Result<()> {
    for (dsn, expected) in refusals {
        let said = match bare.shardctl(&["shard", "add", "s1", dsn]).await {
            Ok(_) => anyhow::bail!("{dsn} was added"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(said.contains(expected), "{dsn} was refused with {said}");
    }
    bare.shardctl(&["shard", "add", "s1", s1_dsn]).await?;
    let shown = bare.shardctl(&["shard", "list"]).await?;
    ensure!(shown.contains("sslmode=verify-full&sslrootcert=") && !shown.contains(PASSWORD), "{shown}");

    let users = users(path, &format!("postgres {PASSWORD}\n"))?;
    let gateway = Gateway::start_at(&bare.grpc(), &["--users", text(&users)?]).await?;
    let role = format!("postgres:{PASSWORD}");
    gateway.serves(&role).await?;
    let client = sql::connect(&gateway.dsn(&role)).await?;
    client.batch_execute("CREATE TABLE t (k bigint PRIMARY KEY, v text)").await?;
    client.batch_execute("SELECT create_distributed_table('t', 'k')").await?;
    client
        .batch_execute(&format!("INSERT INTO t SELECT k, repeat('x', 10000) FROM generate_series(1, {ROWS}) k"))
        .await?;
    let rows = client.query("SELECT v FROM t", &[]).await?;
    ensure!(rows.len() == ROWS as usize && rows.iter().all(|row| row.get::<_, &str>(0).len() == 10_000));

    let split = bare.shardctl(&["split", "s1", "--into", &format!("s2={s2_dsn}")]).await.with_context(|| bare.log())?;
    ensure!(!split.contains(PASSWORD), "{split}");
    ensure!(sql::value(&client, "SELECT count(*) FROM t").await? == ROWS.to_string());
    client.batch_execute("BEGIN; UPDATE t SET v = 'y'; COMMIT").await.context("a write over both shards")?;

    let mut counted = 0;
    for dsn in [s1_dsn, s2_dsn] {
        let shard = direct(dsn).await?;
        let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE client_addr IS NOT NULL AND NOT ssl";
        ensure!(sql::value(&shard, plain).await? == "0", "somebody speaks plain text");
        let gateways = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                        WHERE application_name LIKE 'ringway-gateway%' AND ssl";
        ensure!(sql::value(&shard, gateways).await? != "0", "no gateway is connected");
        let own: i64 = sql::value(&shard, "SELECT count(*) FROM t").await?.parse()?;
        ensure!((1..ROWS).contains(&own), "{own} rows on a shard");
        counted += own;
    }
    ensure!(counted == ROWS, "{counted} rows");
    cancelled(&gateway, &role).await.context("a cancel request")?;
    server_gone(&client, s1_dsn).await.context("connections that the servers have ended")?;
    ensure!(!gateway.log().contains(PASSWORD), "a password is in the gateway's log");
    ensure!(!bare.log().contains(PASSWORD), "a password is in the control plane's log");
    Ok(())
}

async fn cancelled(gateway: &Gateway, role: &str) -> Result<()> {
    let client = sql::connect(&gateway.dsn(role)).await?;
    let token = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(60)");
    tokio::pin!(sleeping);
    let outcome = loop {
        tokio::select! {
            outcome = &mut sleeping => break outcome,
            () = tokio::time::sleep(Duration::from_millis(20)) => token.cancel_query(tokio_postgres::NoTls).await?,
        }
    };
    let code = outcome.err().map(|error| sql::code(&error));
    ensure!(code.as_deref() == Some("57014"), "{code:?}");
    Ok(())
}

/// An idle connection that has got an error and its end is not used again.
async fn server_gone(client: &tokio_postgres::Client, dsn: &str) -> Result<()> {
    let shard = direct(dsn).await?;
    let others = "application_name = 'ringway-gateway'";
    sql::column(&shard, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")).await?;
    until("the end of the gateway's sessions", NOTICED_MAX, || async {
        Ok(sql::value(&shard, &format!("SELECT count(*) FROM pg_stat_activity WHERE {others}")).await? == "0")
    })
    .await?;
    ensure!(sql::value(client, "SELECT count(*) FROM t").await? == ROWS.to_string());
    Ok(())
}
