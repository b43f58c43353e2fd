use super::*;

fn options(arguments: &[&str]) -> Options {
    Options::parse_from(std::iter::once("ringway-gateway").chain(arguments.iter().copied()))
}

#[test]
fn command_line_wins_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, "topology = \"http://a:1\"\nlisten = \"127.0.0.1:1\"\n[limits]\npool_size_max = 7\n")
        .unwrap();
    let path = path.to_str().unwrap();
    let config = Config::load(options(&["--config", path, "--listen", "127.0.0.1:2"])).unwrap();
    assert_eq!(config.topology, TopologySource::ControlPlane("http://a:1".into()));
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.limits.pool_size_max, 7);
    assert_eq!(config.limits.hold_timeout_ms, 10_000);
}

#[test]
fn pools_administrators_and_what_needs_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    let write = |text: &str| std::fs::write(&path, format!("topology = \"http://a:1\"\n{text}")).unwrap();
    let load = || Config::load(options(&["--config", path.to_str().unwrap()]));
    write("");
    let first = load().unwrap();
    assert_eq!(first.live.admin_users, BTreeSet::from(["postgres".to_owned()]));
    write("admin_users = [\"ann\"]\n[limits]\nclients_max = 3\nhold_timeout_ms = 7\n[users.ann]\npool_mode = \"session\"\n");
    let second = load().unwrap();
    assert_eq!(second.live.pools.of("ann", "app").mode, PoolMode::Session);
    assert_eq!(second.live.admin_users, BTreeSet::from(["ann".to_owned()]));
    assert_eq!(second.live.clients_max, 3);
    assert_eq!(first.needs_restart(&second), ["hold_timeout_ms"]);
    write("users = \"/u\"\n");
    let third = load().unwrap();
    assert_eq!((third.users, third.auth), (Some(PathBuf::from("/u")), AuthMode::Scram));
    assert!(third.live.admin_users.is_empty());
    write("[users.ann]\npool_mod = \"session\"\n");
    assert!(matches!(load(), Err(ConfigError::Parse { source, .. }) if source.to_string().contains("pool_mod")));
    let public = Config::load(options(&["--topology", "http://x:1", "--listen", "0.0.0.0:1"])).unwrap();
    assert!(public.live.admin_users.is_empty());
    let named = ["--topology", "http://x:1", "--admin-users", "a,b", "--stats-users", "c"];
    let named = Config::load(options(&named)).unwrap().live;
    assert_eq!((named.admin_users.len(), named.stats_users.len()), (2, 1));
}

#[test]
fn wrong_options_are_named() {
    assert!(matches!(Config::load(options(&[])), Err(ConfigError::NoTopology)));
    assert!(matches!(Config::load(options(&["--topology", "x"])), Err(ConfigError::BadTopology(_))));
}

#[test]
fn tls_is_whole_or_not_there() {
    let load = |arguments: &[&str]| Config::load(options(&[&["--topology", "http://x:1"], arguments].concat()));
    assert!(load(&[]).unwrap().tls.is_none());
    let tls = load(&["--tls-cert", "c", "--tls-key", "k", "--tls-required"]).unwrap();
    assert!(tls.tls_required && tls.tls.is_some_and(|files| files.client_authorities.is_none()));
    assert!(matches!(load(&["--tls-cert", "c"]), Err(ConfigError::HalfTls)));
    assert!(matches!(load(&["--tls-key", "k", "--tls-client-ca", "a"]), Err(ConfigError::HalfTls)));
    assert!(matches!(load(&["--tls-required"]), Err(ConfigError::NoTls("--tls-required"))));
    assert!(matches!(load(&["--tls-client-ca", "a"]), Err(ConfigError::NoTls("--tls-client-ca"))));
    let cert = load(&["--auth", "cert", "--tls-cert", "c", "--tls-key", "k"]);
    assert!(matches!(cert, Err(ConfigError::NoClientAuthorities)));
}

#[test]
fn shards_are_asked_for_verifiers() {
    let load = |arguments: &[&str]| Config::load(options(&[&["--topology", "http://x:1"], arguments].concat()));
    let asked = |arguments: &[&str]| {
        let config = load(arguments).unwrap();
        (config.auth, config.auth_query)
    };
    let default = (AuthMode::Scram, Some(AUTH_QUERY.to_owned()));
    assert_eq!(asked(&[]), (AuthMode::Trust, None));
    assert_eq!(asked(&["--users", "u"]), (AuthMode::Scram, None));
    assert_eq!(asked(&["--auth", "scram"]), default);
    assert_eq!(asked(&["--auth-query"]), default);
    assert_eq!(asked(&["--users", "u", "--auth-query"]), default);
    assert_eq!(asked(&["--auth-query", "SELECT f($1)"]).1.as_deref(), Some("SELECT f($1)"));
    assert!(matches!(load(&["--auth", "trust", "--auth-query"]), Err(ConfigError::AuthQuery)));
}
