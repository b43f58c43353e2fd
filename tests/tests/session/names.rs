//! What a name means while search_path and the role change: the same statements on one server and through the gateway.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::{single_postgres, Cluster};
use ringway_tests::scenario::raw::{query, Raw};
use ringway_tests::scenario::sql;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::{connect, exact_or_refused};

/// Each a session of its own. Every `t` has another number of rows: `public.t`, on the home shard, 40; on two shards `s2.t` 7,
/// `"a, b".t` 5, `namesake.t` 3.
const SESSIONS: &[&[&str]] = &[
    &["BEGIN", "SET LOCAL search_path = s2", "SELECT count(*) FROM t", "COMMIT", "SELECT count(*) FROM t"],
    &[
        "BEGIN",
        "SELECT set_config('search_path', 's2', true)",
        "SELECT count(*) FROM t",
        "ROLLBACK",
        "SELECT count(*) FROM t",
    ],
    // A savepoint keeps what was set before it, and undoes what was set behind it, also on shards that joined meanwhile.
    &[
        "BEGIN",
        "SET LOCAL search_path = s2",
        "SAVEPOINT one",
        "SET LOCAL search_path = public",
        "SELECT count(*) FROM t WHERE id = 1",
        "ROLLBACK TO one",
        "SELECT count(*) FROM t",
        "SET search_path = \"a, b\"",
        "SELECT count(*) FROM t",
        "SAVEPOINT two",
        "SET LOCAL search_path = public",
        "RELEASE two",
        "SELECT count(*) FROM t",
        "ROLLBACK TO one",
        "SELECT count(*), current_setting('search_path') FROM t",
        "COMMIT",
        "SELECT count(*), current_setting('search_path') FROM t",
    ],
    &[
        "BEGIN",
        "SAVEPOINT one",
        "SET search_path = s2",
        "SELECT count(*) FROM t WHERE id = 1",
        "ROLLBACK TO one",
        "SELECT count(*) FROM t",
        "SELECT DISTINCT current_setting('search_path') FROM t",
        "COMMIT",
        "SELECT count(*) FROM t",
    ],
    &["BEGIN", "SET search_path = s2", "SET LOCAL search_path = public", "COMMIT", "SELECT count(*) FROM t"],
    &[
        "BEGIN",
        "SET LOCAL search_path = public",
        "SET search_path = s2",
        "SELECT count(*) FROM t",
        "ROLLBACK",
        "SELECT count(*) FROM t",
    ],
    &["BEGIN", "SET LOCAL search_path = s2", "RESET search_path", "SELECT count(*) FROM t", "RESET ALL", "ROLLBACK"],
    &["BEGIN", "SET LOCAL search_path = s2", "SELECT 1/0", "ROLLBACK", "SELECT count(*) FROM t"],
    &["BEGIN", "SET LOCAL search_path = s2", "COMMIT AND CHAIN", "SELECT count(*) FROM t", "COMMIT"],
    &["SET LOCAL search_path = s2", "SELECT count(*) FROM t", "SET LOCAL nonesuch = 1"],
    // However it is written.
    &["SET SCHEMA 's2'", "SELECT count(*) FROM t"],
    &["SET search_path = /* x, y */ s2 -- z", "SELECT count(*) FROM t"],
    &["SET search_path -- public\n TO E's2', public", "SELECT count(*) FROM t"],
    &["SET search_path = $$s2$$", "SELECT count(*) FROM t"],
    &["SET search_path = U&\"\\0073\\0032\"", "SHOW search_path"],
    &["SET search_path = S2", "SELECT count(*) FROM t"],
    &["SET search_path = 'S2', public", "SELECT count(*) FROM t"],
    &["SET search_path TO 'a, b'", "SELECT count(*) FROM t", "SHOW search_path"],
    &["SELECT set_config('search_path', 'a, b, S2', false)", "SELECT count(*) FROM t"],
    &["SELECT set_config('search_path', '\"a, b\"', false)", "SELECT count(*) FROM t"],
    &["SET search_path = s2", "SET search_path FROM CURRENT", "SELECT count(*) FROM t"],
    &["BEGIN", "SET LOCAL search_path = s2", "SET search_path FROM CURRENT", "COMMIT", "SELECT count(*) FROM t"],
    &["SET search_path = s2", "SET search_path TO DEFAULT", "SELECT count(*) FROM t"],
    &["SET search_path = s2 public"],
    // "$user" is the current role.
    &[
        "SET ROLE namesake",
        "SELECT count(*) FROM t",
        "RESET ALL",
        "SELECT count(*), current_user FROM t",
        "SET ROLE NONE",
        "SELECT count(*) FROM t",
    ],
    &["BEGIN", "SET LOCAL ROLE namesake", "SELECT count(*) FROM t", "COMMIT", "SELECT count(*) FROM t"],
    &[
        "SET SESSION AUTHORIZATION namesake",
        "SELECT count(*) FROM t",
        "RESET SESSION AUTHORIZATION",
        "SELECT count(*) FROM t",
    ],
    &[
        "SET ROLE pg_monitor",
        "SET SESSION AUTHORIZATION namesake",
        "SELECT count(*), current_user, current_setting('role') FROM t",
        "SET SESSION AUTHORIZATION DEFAULT",
        "SELECT count(*), current_user FROM t",
    ],
    &[
        "SELECT set_config('role', 'namesake', false)",
        "SELECT count(*) FROM t",
        "DISCARD ALL",
        "SELECT count(*) FROM t",
    ],
    // Several statements of one message are one transaction.
    &["SET LOCAL search_path = s2; SELECT count(*) FROM t", "SELECT count(*) FROM t"],
    &[
        "SET LOCAL timezone = 'Asia/Tokyo'; SHOW timezone; SELECT timestamptz '2024-01-01 00:00:00+00'::text",
        "SHOW timezone",
    ],
    &["SET search_path = s2; SELECT 1/0", "SELECT count(*) FROM t"],
    // Arguments of EXECUTE.
    &[
        "PREPARE p (int) AS SELECT $1 + 1",
        "EXECUTE p(1 + 1)",
        "EXECUTE p((SELECT 3))",
        "EXECUTE p(array_length(ARRAY(SELECT 1), 1))",
        "EXECUTE p(count(*))",
    ],
];

const SCHEMA: &[&str] = &[
    "CREATE ROLE namesake",
    "CREATE SCHEMA s2",
    "CREATE SCHEMA \"a, b\"",
    "CREATE SCHEMA namesake",
    "GRANT USAGE ON SCHEMA s2, \"a, b\", namesake TO namesake, pg_monitor",
];

const TABLES: &[(&str, i64)] = &[("public", 40), ("s2", 7), ("\"a, b\"", 5), ("namesake", 3)];

async fn fill(client: &Client, distributed: bool) -> Result<()> {
    for statement in SCHEMA {
        client.batch_execute(statement).await.context(*statement)?;
    }
    for (schema, count) in TABLES {
        client.batch_execute(&format!("CREATE TABLE {schema}.t (id bigint PRIMARY KEY)")).await?;
        if distributed && *schema != "public" {
            let distribute = format!("SELECT create_distributed_table('{schema}.t', 'id')");
            client.batch_execute(&distribute).await.context(distribute)?;
        }
        let rows = sql::rows(1..=*count, |id| id.to_string());
        client.batch_execute(&format!("INSERT INTO {schema}.t VALUES {rows}")).await?;
        client.batch_execute(&format!("GRANT SELECT ON {schema}.t TO namesake, pg_monitor")).await?;
    }
    Ok(())
}

type Answer = std::result::Result<Vec<Vec<String>>, tokio_postgres::Error>;

async fn answer(client: &Client, statement: &str) -> Answer {
    let messages = client.simple_query(statement).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).unwrap_or("NULL").to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

pub async fn names(cluster: &Cluster) -> Result<()> {
    let single = single_postgres().await?;
    fill(&sql::connect(&single.dsn("postgres")).await?, false).await.context("one server")?;
    let owner = connect(cluster).await?;
    fill(&owner, true).await.context("the gateway")?;
    let mut failures = Vec::new();
    for session in SESSIONS {
        let one = sql::connect(&single.dsn("postgres")).await?;
        let many = connect(cluster).await?;
        for statement in *session {
            let expected = answer(&one, statement).await;
            let got = answer(&many, statement).await;
            let same = match (&expected, &got) {
                (Ok(expected), Ok(got)) => expected == got,
                (Err(expected), Err(got)) => sql::code(expected) == sql::code(got),
                _ => false,
            };
            if same {
                continue;
            }
            // From a refusal on, the two sessions are apart.
            if expected.is_err() || !matches!(exact_or_refused(statement, got), Ok(None)) {
                failures.push(format!("{statement} of {session:?}: not {expected:?}"));
            }
            break;
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    for schema in ["s2", "\"a, b\"", "namesake"] {
        owner.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await?;
    }
    for statement in ["DROP TABLE t", "DROP ROLE namesake"] {
        owner.batch_execute(statement).await.context(statement)?;
    }
    Ok(())
}

/// A pipeline is one transaction, too, up to Sync.
pub async fn pipelined_settings(cluster: &Cluster) -> Result<()> {
    use ringway_tests::scenario::raw::{frame, strings};
    let execute = |text: &str| {
        let mut bytes = frame(b'P', &[strings(&["", text]), vec![0, 0]].concat());
        bytes.extend(frame(b'B', &[strings(&["", ""]), vec![0; 6]].concat()));
        bytes.extend(frame(b'E', &[strings(&[""]), vec![0; 4]].concat()));
        bytes
    };
    let mut raw = Raw::session(cluster.listen_port(), "postgres").await?;
    let mut row = async |statements: &[&str]| -> Result<String> {
        let mut bytes: Vec<u8> = statements.iter().flat_map(|text| execute(text)).collect();
        bytes.extend(frame(b'S', &[]));
        raw.send(&bytes).await?;
        let messages = raw.until_ready().await?;
        Ok(messages
            .iter()
            .filter(|m| m.tag == b'D')
            .map(|m| String::from_utf8_lossy(&m.body[6..]).into_owned())
            .collect())
    };
    ensure!(row(&["SET LOCAL application_name = 'piped'", "SHOW application_name"]).await? == "piped");
    ensure!(row(&["SHOW application_name"]).await? != "piped");
    ensure!(row(&["SET application_name = 'kept'", "SELECT 1/0"]).await?.is_empty());
    ensure!(row(&["SHOW application_name"]).await? != "kept");
    ensure!(row(&["SET application_name = 'kept'", "SHOW application_name"]).await? == "kept");
    ensure!(row(&["SHOW application_name"]).await? == "kept");
    ensure!(raw.ask(&query("SELECT 1")).await?.is_none());
    Ok(())
}

/// Defaults of roles are not changed through the gateway, and those that servers have do not count.
pub async fn defaults_of_roles(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    client.batch_execute("CREATE SCHEMA hidden; CREATE TABLE hidden.accounts (id bigint)").await?;
    for statement in [
        "ALTER ROLE app SET search_path = hidden",
        "ALTER USER app IN DATABASE app SET search_path TO hidden",
        "ALTER ROLE ALL SET search_path = hidden",
        "ALTER DATABASE app SET search_path = hidden",
        "ALTER ROLE app SET work_mem = '8MB'",
        "ALTER ROLE app RESET ALL",
    ] {
        let done = exact_or_refused(statement, client.batch_execute(statement).await)?;
        ensure!(done.is_none(), "{statement} was not refused");
    }
    client.batch_execute("ALTER ROLE app CONNECTION LIMIT -1").await?;
    let app = sql::connect(&cluster.dsn("app")).await?;
    let path = sql::value(&app, "SHOW search_path").await?;
    drop(app);
    client.batch_execute("CREATE ROLE newcomer LOGIN; GRANT SELECT ON accounts TO newcomer").await?;
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        direct.batch_execute("ALTER ROLE newcomer SET search_path = hidden").await?;
        direct.batch_execute("ALTER ROLE newcomer SET role = pg_monitor").await?;
    }
    let newcomer = sql::connect(&cluster.dsn("newcomer")).await?;
    for _ in 0..2 {
        ensure!(sql::value(&newcomer, "SHOW search_path").await? == path);
        ensure!(sql::value(&newcomer, "SELECT current_user").await? == "newcomer");
        ensure!(sql::value(&newcomer, "SELECT count(*) FROM accounts").await? == super::ACCOUNTS.to_string());
        newcomer.batch_execute("RESET ALL").await?;
    }
    drop(newcomer);
    // What the connection's options say is the default of its session.
    let dsn = format!("{}?options=-c%20search_path%3Dhidden", cluster.dsn("postgres"));
    let hidden = sql::connect(&dsn).await?;
    for statement in ["SELECT 1", "RESET search_path", "RESET ALL", "SET search_path TO DEFAULT", "DISCARD ALL"] {
        hidden.batch_execute(statement).await.context(statement)?;
        ensure!(sql::value(&hidden, "SELECT count(*) FROM accounts").await? == "0", "after {statement}");
        ensure!(sql::value(&hidden, "SHOW search_path").await? == "hidden", "after {statement}");
    }
    hidden.batch_execute("BEGIN; SET LOCAL search_path = public; SET LOCAL search_path TO DEFAULT").await?;
    ensure!(sql::value(&hidden, "SELECT count(*) FROM accounts").await? == "0");
    hidden.batch_execute("COMMIT").await?;
    drop(hidden);
    // A role may share its connection: DISCARD says why it does not know.
    client.batch_execute("CREATE TEMPORARY TABLE kept (id int)").await?;
    let discarded = exact_or_refused("DISCARD TEMP", client.batch_execute("DISCARD TEMP").await)?;
    ensure!(discarded.is_none() || sql::failure(&client, "SELECT * FROM kept").await?.0 == "42P01");
    client.batch_execute("DISCARD ALL").await?;
    client.batch_execute("DROP SCHEMA hidden CASCADE; REVOKE ALL ON accounts FROM newcomer").await?;
    client.batch_execute("DROP ROLE newcomer").await?;
    Ok(())
}
