use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use super::*;

async fn sql(dsn: &str, statements: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::pin!(connection);
    let query = async {
        let messages = client.simple_query(statements).await?;
        let values = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(values.collect())
    };
    tokio::select! {
        rows = query => rows,
        Err(error) = &mut connection => Err(error),
    }
}

#[tokio::test]
async fn starts_stops_and_survives_kill9() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = LocalPostgres::launch(PostgresConfig::test(dir.path()).setting("work_mem", "5MB")).await.unwrap();
    let first_pid = server.pid().unwrap();
    let dsn = server.dsn("postgres");
    assert_eq!(dsn, format!("postgresql://postgres@127.0.0.1:{}/app", server.port()));
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("max_prepared_transactions", "200"),
        ("shared_buffers", "32MB"),
        ("work_mem", "5MB"),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C.UTF-8"),
    ] {
        assert_eq!(server.show(setting).await.unwrap(), value, "{setting}");
    }
    let roles = "SELECT rolname || rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY 1";
    assert_eq!(sql(&dsn, roles).await.unwrap(), ["appfalse", "postgrestrue", "ringway_servicetrue"]);
    sql(&dsn, "CREATE TABLE t(a int); INSERT INTO t VALUES (7)").await.unwrap();

    server.kill9().await.unwrap();
    assert!(!server.is_running());
    assert!(sql(&dsn, "SELECT 1").await.is_err());
    server.start().await.unwrap();
    assert_ne!(server.pid(), Some(first_pid));
    assert_eq!(server.dsn("postgres"), dsn);
    assert_eq!(sql(&dsn, "SELECT a FROM t").await.unwrap(), ["7"]);

    server.restart().await.unwrap();
    assert_eq!(sql(&dsn, "SELECT a FROM t").await.unwrap(), ["7"]);
    server.stop().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert_eq!(LocalPostgres::running_in(dir.path()), None);
    drop(server);

    // The directory remembers its port; a second owner is refused; a drop ends the server.
    let again = LocalPostgres::launch(PostgresConfig::test(dir.path())).await.unwrap();
    assert_eq!(again.dsn("postgres"), dsn);
    let second = LocalPostgres::launch(PostgresConfig::test(dir.path())).await;
    assert!(matches!(second, Err(PostgresError::AlreadyRunning { .. })));
    drop(again);
    assert_eq!(LocalPostgres::running_in(dir.path()), None);
}

#[tokio::test]
async fn scram_wants_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let config = PostgresConfig::test(dir.path()).scram("p'w \\@/:%");
    assert!(!format!("{config:?}").contains("p'w"));
    let server = LocalPostgres::launch(config).await.unwrap();
    for role in ["ringway_service", "postgres", "app"] {
        assert_eq!(sql(&server.dsn(role), "SELECT current_user").await.unwrap(), [role]);
    }
    let wrong = format!("postgresql://app:wrong@127.0.0.1:{}/app", server.port());
    let error = sql(&wrong, "SELECT 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let error = LocalPostgres::launch(PostgresConfig::test(dir.path()).port(port)).await.unwrap_err();
    assert!(matches!(error, PostgresError::PortTaken { .. }));
    assert!(error.to_string().contains(&port.to_string()), "{error}");
}

#[tokio::test]
async fn an_unreachable_parent_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let closed = tempfile::tempdir().unwrap();
    std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let error = LocalPostgres::create(PostgresConfig::test(closed.path().join("s1"))).await.unwrap_err();
    assert!(matches!(error, PostgresError::Unreachable { .. }));
    let parent = closed.path().to_str().unwrap();
    assert!(error.to_string().contains(parent), "{error}");
}
