//! Clients of the gateway, under TLS or not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{binaries, temporary_directory, Cluster, Options};
use ringway_tests::scenario::certificates::{text, Authority, Certificate};
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::raw::{frame, query, Raw};
use ringway_tests::scenario::{sql, turn, until};
use ringway_tls::{client_config, SslMode, TlsParameters};
use rustix::process::Signal;
use shardctl::pg::tls::Tls;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::TlsConnector;

use super::{psql, psql_with_input, refused, users};

const NOTICED_MAX: Duration = Duration::from_secs(10);
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_by_tls() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 1, ..Options::default() }).await?;
    let outcome = play(&cluster).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// A gateway's own certificate is for 127.0.0.1.
struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
    stranger: Authority,
    gateway: Certificate,
}

async fn play(cluster: &Cluster) -> Result<()> {
    let directory = temporary_directory()?;
    let authority = Authority::new(directory.path(), "authority")?;
    let stranger = Authority::new(directory.path(), "stranger")?;
    let gateway = authority.server(directory.path(), "gateway", &["127.0.0.1"])?;
    let files = Files { directory, authority, stranger, gateway };
    half_configured(cluster, &files).await.context("options that do not go together")?;
    let admin = sql::connect(&cluster.dsn("postgres")).await?;
    admin.batch_execute("CREATE TABLE t (k bigint PRIMARY KEY, v text)").await?;
    admin.batch_execute("SELECT create_distributed_table('t', 'k')").await?;
    admin.batch_execute("GRANT ALL ON t TO app").await?;
    offered(cluster, &files).await.context("TLS that is offered")?;
    required_with_scram(cluster, &files).await.context("TLS that is required, with SCRAM")?;
    certificates(cluster, &files).await.context("--auth cert")?;
    certificates_beside_scram(cluster, &files).await.context("certificates beside SCRAM")
}

async fn start(cluster: &Cluster, files: &Files, options: &[&str]) -> Result<Gateway> {
    let tls = ["--tls-cert", text(&files.gateway.file)?, "--tls-key", text(&files.gateway.key)?];
    Gateway::start(cluster, &[&tls, options].concat()).await
}

fn by(gateway: &Gateway, user: &str, parameters: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=app user={user} {parameters}", gateway.port)
}

async fn half_configured(cluster: &Cluster, files: &Files) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = files.directory.path().join("open.key");
    std::fs::copy(&files.gateway.key, &open)?;
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644))?;
    let other = files.stranger.server(files.directory.path(), "other", &["127.0.0.1"])?;
    let certificate = text(&files.gateway.file)?;
    for (options, expected) in [
        (&["--tls-cert", certificate] as &[&str], "--tls-cert and --tls-key belong together"),
        (&["--tls-cert", certificate, "--tls-key", text(&open)?], "permissions should be"),
        (&["--tls-cert", certificate, "--tls-key", text(&other.key)?], "gateway.crt cannot be used"),
        (&["--tls-cert", "/nowhere", "--tls-key", text(&files.gateway.key)?], "cannot read /nowhere"),
        (&["--tls-cert", text(&files.gateway.key)?, "--tls-key", text(&files.gateway.key)?], "holds no certificate"),
        (&["--auth", "cert"], "--auth cert needs --tls-client-ca"),
    ] {
        let output = tokio::process::Command::new(binaries()?.join("ringway-gateway"))
            .args(["--topology", &cluster.grpc(), "--listen", "127.0.0.1:0"])
            .args(options)
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(NOTICED_MAX, output).await.with_context(|| format!("{options:?} runs"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(expected), "{options:?}: {said}");
    }
    Ok(())
}

async fn offered(cluster: &Cluster, files: &Files) -> Result<()> {
    let gateway = start(cluster, files, &[]).await?;
    gateway.serves("postgres").await?;
    let root = format!("sslrootcert={}", text(&files.authority.file)?);
    for parameters in ["sslmode=disable", "sslmode=require", &format!("sslmode=verify-full {root}")] {
        let answer = psql(&by(&gateway, "postgres", parameters), "SELECT 'all well'").await?;
        ensure!(answer == "all well", "{parameters}: {answer}");
    }
    let wrong = format!("sslmode=verify-ca sslrootcert={}", text(&files.stranger.file)?);
    let said = refused(&by(&gateway, "postgres", &wrong)).await?;
    ensure!(said.contains("certificate verify failed"), "{said}");
    let misnamed = by(&gateway, "postgres", &format!("sslmode=verify-full {root}")).replace("127.0.0.1", "localhost");
    let said = refused(&misnamed).await?;
    ensure!(said.contains("does not match host name"), "{said}");

    much_data(&gateway).await.context("much data")?;
    cancelled(&gateway).await.context("a cancel request under TLS")?;
    byte_by_byte(&gateway).await.context("byte by byte")?;
    renewed(&gateway, files).await.context("a certificate that is renewed")
}

/// More than any buffer on the way takes.
async fn much_data(gateway: &Gateway) -> Result<()> {
    const ROWS: usize = 20_000;
    let connection = by(gateway, "postgres", "sslmode=require");
    let lines: String = (1..=ROWS).map(|k| format!("{k}\t{}\n", "x".repeat(k % 1000))).collect();
    psql_with_input(&connection, "COPY t FROM STDIN", &lines).await?;
    let expected: usize = (1..=ROWS).map(|k| k % 1000).sum();
    ensure!(psql(&connection, "SELECT sum(length(v)) FROM t").await? == expected.to_string());
    let came = psql(&connection, "SELECT v FROM t ORDER BY k").await?;
    ensure!(came.lines().map(str::len).sum::<usize>() == expected, "{} bytes came", came.len());
    let copied = psql(&connection, "COPY (SELECT v FROM t WHERE k > 0) TO STDOUT").await?;
    ensure!(copied.lines().map(str::len).sum::<usize>() == expected, "{} bytes were copied", copied.len());
    Ok(())
}

fn config() -> Result<Arc<ClientConfig>> {
    let parameters = TlsParameters { mode: SslMode::Require, ..TlsParameters::default() };
    client_config(&parameters)?.context("no configuration")
}

async fn cancelled(gateway: &Gateway) -> Result<()> {
    let tls = Tls(Some(config()?));
    let dsn = format!("{}?sslmode=require", gateway.dsn("postgres"));
    let (client, connection) = tokio_postgres::connect(&dsn, tls.clone()).await?;
    tokio::spawn(connection);
    let token = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(60)");
    tokio::pin!(sleeping);
    let outcome = loop {
        // Until it has begun there is nothing to cancel.
        tokio::select! {
            outcome = &mut sleeping => break outcome,
            () = tokio::time::sleep(Duration::from_millis(20)) => token.cancel_query(tls.clone()).await?,
        }
    };
    let code = outcome.err().map(|error| sql::code(&error));
    ensure!(code.as_deref() == Some("57014"), "{code:?}");
    ensure!(sql::value(&client, "SELECT 1").await? == "1");
    Ok(())
}

async fn handshake(stream: TcpStream, config: Arc<ClientConfig>) -> Result<Raw<TlsStream<TcpStream>>> {
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(Raw::over(TlsConnector::from(config).connect(name, stream).await?))
}

async fn byte_by_byte(gateway: &Gateway) -> Result<()> {
    // TLS at once, as libpq 17 does it with sslnegotiation=direct.
    let mut direct = handshake(Raw::connect(gateway.port).await?.into_stream(), config()?).await?;
    direct.startup(&[("user", "postgres"), ("database", "app")]).await?;
    direct.until_ready().await?;
    ensure!(direct.ask(&query("SELECT 1")).await?.is_none());
    // It must name the protocol: no one, or another.
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = ClientConfig::clone(&*config()?);
        config.alpn_protocols = protocols;
        if let Ok(mut other) = handshake(Raw::connect(gateway.port).await?.into_stream(), Arc::new(config)).await {
            other.startup(&[("user", "postgres"), ("database", "app")]).await?;
            let messages = other.until_closed().await?;
            ensure!(messages.is_empty(), "another protocol was answered with {messages:?}");
        }
    }
    // GSSAPI is declined, TLS comes after it; there is no TLS inside TLS.
    let mut raw = Raw::connect(gateway.port).await?;
    raw.send(&GSSENC_REQUEST).await?;
    ensure!(raw.byte().await? == b'N');
    raw.send(&SSL_REQUEST).await?;
    ensure!(raw.byte().await? == b'S');
    let mut inside = handshake(raw.into_stream(), config()?).await?;
    inside.send(&SSL_REQUEST).await?;
    let refusal = inside.refusal().await?;
    ensure!(refusal.as_deref() == Some("08P01"), "{refusal:?}");
    // Bytes that nobody has encrypted are not taken for the client's.
    let mut raw = Raw::connect(gateway.port).await?;
    raw.send(&[&SSL_REQUEST[..], &query("SELECT 1")].concat()).await?;
    let bytes = raw.bytes_until_closed().await.unwrap_or_default();
    ensure!(bytes.is_empty(), "{bytes:?}");
    // A handshake that is none.
    let mut raw = Raw::connect(gateway.port).await?;
    raw.send(&[&[0x16, 0x03, 0x01, 0x00, 0x20][..], &[0; 64]].concat()).await?;
    let bytes = raw.bytes_until_closed().await.unwrap_or_default();
    ensure!(bytes.first().is_none_or(|byte| *byte == 0x15), "no alert but {bytes:?}");
    Ok(())
}

async fn renewed(gateway: &Gateway, files: &Files) -> Result<()> {
    let verifying = |authority: &Authority| -> Result<String> {
        Ok(by(gateway, "postgres", &format!("sslmode=verify-full sslrootcert={}", text(&authority.file)?)))
    };
    let replace = |from: &Certificate| -> Result<()> {
        std::fs::copy(&from.file, &files.gateway.file)?;
        std::fs::copy(&from.key, &files.gateway.key)?;
        Ok(())
    };
    let kept = files.authority.server(files.directory.path(), "kept", &["127.0.0.1"])?;
    let renewed = files.stranger.server(files.directory.path(), "renewed", &["127.0.0.1"])?;
    replace(&renewed)?;
    gateway.process()?.signal(Signal::HUP)?;
    let strangers = verifying(&files.stranger)?;
    until("the renewed certificate", NOTICED_MAX, || async { Ok(psql(&strangers, "SELECT 1").await.is_ok()) }).await?;
    // What cannot be used changes nothing.
    std::fs::write(&files.gateway.file, "no certificate")?;
    gateway.process()?.signal(Signal::HUP)?;
    until("a complaint", NOTICED_MAX, || async { Ok(gateway.log().contains("what was read before still counts")) })
        .await?;
    ensure!(psql(&strangers, "SELECT 1").await? == "1");
    replace(&kept)
}

async fn required_with_scram(cluster: &Cluster, files: &Files) -> Result<()> {
    let users = users(files.directory.path(), "app pencil\n")?;
    let options = ["--auth", "scram", "--users", text(&users)?, "--tls-required"];
    let gateway = start(cluster, files, &options).await?;
    let bound = by(&gateway, "app", "password=pencil sslmode=require channel_binding=require");
    until("a gateway that serves", NOTICED_MAX, || async { Ok(psql(&bound, "SELECT 1").await? == "1") }).await?;
    ensure!(psql(&bound, "SELECT current_user").await? == "app");
    for parameters in ["channel_binding=prefer", "channel_binding=disable"] {
        let unbound = by(&gateway, "app", &format!("password=pencil sslmode=require {parameters}"));
        ensure!(psql(&unbound, "SELECT 1").await? == "1", "{parameters}");
    }
    let said = refused(&by(&gateway, "app", "password=pen sslmode=require")).await?;
    ensure!(said.contains("password authentication failed"), "{said}");
    let said = refused(&by(&gateway, "app", "password=pencil sslmode=disable")).await?;
    ensure!(said.contains("encrypted connections only") && said.contains("sslmode=require"), "{said}");
    ensure!(sql::refused(&gateway.dsn("app:pencil")).await? == "28000");

    // Somebody in between who took the mechanism with channel binding out of the offer is found out.
    for (mechanism, header, expected) in [
        ("SCRAM-SHA-256", "y,,", "28000"),
        ("SCRAM-SHA-256", "p=tls-server-end-point,,", "08P01"),
        ("SCRAM-SHA-256-PLUS", "n,,", "08P01"),
        ("SCRAM-SHA-256-PLUS", "p=tls-unique,,", "08P01"),
    ] {
        let mut raw = Raw::connect(gateway.port).await?;
        raw.send(&SSL_REQUEST).await?;
        ensure!(raw.byte().await? == b'S');
        let mut raw = handshake(raw.into_stream(), config()?).await?;
        raw.startup(&[("user", "app"), ("database", "app")]).await?;
        let offer = raw.message().await?.context("closed")?;
        ensure!(offer.body[4..] == *b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", "{offer:?}");
        let data = format!("{header}n=,r=abcdefgh");
        let body = [mechanism.as_bytes(), &[0], &(data.len() as u32).to_be_bytes(), data.as_bytes()].concat();
        raw.send(&frame(b'p', &body)).await?;
        let code = raw.refusal().await?;
        ensure!(code.as_deref() == Some(expected), "{mechanism} {header}: {code:?}");
    }
    ensure!(!gateway.log().contains("pencil"), "a password is in the log");
    drop(gateway);
    // The same by the shard's own verifier.
    let admin = sql::connect(&cluster.dsn("postgres")).await?;
    admin.batch_execute("ALTER ROLE app PASSWORD 'crayon'").await?;
    let gateway = start(cluster, files, &["--auth", "scram", "--tls-required"]).await?;
    let bound = by(&gateway, "app", "password=crayon sslmode=require channel_binding=require");
    until("a gateway that serves", NOTICED_MAX, || async { Ok(psql(&bound, "SELECT 1").await? == "1") }).await?;
    let said = refused(&by(&gateway, "app", "password=pencil sslmode=require channel_binding=require")).await?;
    ensure!(said.contains("password authentication failed"), "{said}");
    Ok(())
}

fn showing(certificate: &Certificate) -> Result<String> {
    Ok(format!("sslmode=require sslcert={} sslkey={}", text(&certificate.file)?, text(&certificate.key)?))
}

async fn certificates(cluster: &Cluster, files: &Files) -> Result<()> {
    let directory: &Path = files.directory.path();
    let own = showing(&files.authority.client(directory, "app", "app")?)?;
    let strangers = showing(&files.stranger.client(directory, "forged", "app")?)?;
    let gateway = start(cluster, files, &["--auth", "cert", "--tls-client-ca", text(&files.authority.file)?]).await?;
    let app = by(&gateway, "app", &own);
    until("a gateway that serves", NOTICED_MAX, || async { Ok(psql(&app, "SELECT 1").await? == "1") }).await?;
    ensure!(psql(&app, "SELECT current_user").await? == "app");
    let said = refused(&by(&gateway, "postgres", &own)).await?;
    ensure!(said.contains("certificate authentication failed for user \"postgres\""), "{said}");
    for parameters in ["sslmode=require", "sslmode=disable"] {
        let said = refused(&by(&gateway, "app", parameters)).await?;
        ensure!(said.contains("requires a valid client certificate"), "{parameters}: {said}");
    }
    let said = refused(&by(&gateway, "app", &strangers)).await?;
    ensure!(said.contains("alert") || said.contains("closed"), "{said}");
    Ok(())
}

async fn certificates_beside_scram(cluster: &Cluster, files: &Files) -> Result<()> {
    let directory: &Path = files.directory.path();
    // Whose it is does not matter here: the password says that.
    let certificate = showing(&files.authority.client(directory, "machine", "a machine")?)?;
    let users = users(directory, "app pencil\n")?;
    let options = ["--users", text(&users)?, "--tls-client-ca", text(&files.authority.file)?];
    let gateway = start(cluster, files, &options).await?;
    let both = by(&gateway, "app", &format!("password=pencil channel_binding=require {certificate}"));
    until("a gateway that serves", NOTICED_MAX, || async { Ok(psql(&both, "SELECT 1").await? == "1") }).await?;
    let said = refused(&by(&gateway, "app", &format!("password=pen {certificate}"))).await?;
    ensure!(said.contains("password authentication failed"), "{said}");
    let said = refused(&by(&gateway, "app", "password=pencil sslmode=require")).await?;
    ensure!(said.contains("requires a valid client certificate"), "{said}");
    Ok(())
}
