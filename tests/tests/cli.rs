//! The command line and the administrative SQL, as an operator uses them.

use std::process::Output;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use futures_util::future::try_join_all;
use ringway_tests::cluster::{binaries, Cluster, Options};
use ringway_tests::scenario::mover::Mover;
use ringway_tests::scenario::stages::Stages;
use ringway_tests::scenario::{sql, turn, until};
use serde_json::Value;
use shardctl::dev::ports::free_port;
use tokio::process::Command;

const COMMAND_MAX: Duration = Duration::from_secs(90);

/// Every command, with the words that lead to it.
const COMMANDS: &[&str] = &[
    "",
    "dev",
    "dev stop",
    "dev spare",
    "serve",
    "shard",
    "shard add",
    "shard list",
    "shard remove",
    "table",
    "table shard",
    "table reference",
    "table undistribute",
    "table list",
    "ring",
    "split",
    "move",
    "moves",
    "move show",
    "move watch",
    "move pause",
    "move resume",
    "move cutover",
    "move rollback",
    "move complete",
    "move cancel",
    "verify",
    "topology",
    "topology export",
    "topology import",
];

async fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries()?.join(program));
    command.args(arguments).env_remove("RINGWAY_GRPC").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_MAX, command.output()).await;
    Ok(output.with_context(|| format!("{program} {} does not end", arguments.join(" ")))??)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn every_command_explains_itself() -> Result<()> {
    for words in COMMANDS {
        let mut arguments: Vec<&str> = words.split_whitespace().collect();
        arguments.push("--help");
        let output = run("shardctl", &arguments).await?;
        ensure!(output.status.success(), "shardctl {words} --help: {}\n{}", output.status, text(&output));
        ensure!(text(&output).contains("Usage:"), "shardctl {words} --help shows no usage:\n{}", text(&output));
    }
    let output = run("ringway-gateway", &["--help"]).await?;
    ensure!(output.status.success() && text(&output).contains("Usage:"), "{}", text(&output));
    for program in ["shardctl", "ringway-gateway"] {
        let output = run(program, &["--version"]).await?;
        ensure!(output.status.success() && text(&output).contains(env!("CARGO_PKG_VERSION")), "{}", text(&output));
    }
    let output = run("shardctl", &["nonsense"]).await?;
    ensure!(output.status.code() == Some(2), "an unknown command ends with {}", output.status);
    Ok(())
}

#[tokio::test]
async fn what_is_not_offered_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory.path().join("data");
    let data = data.to_str().context("not UTF-8")?;
    let grpc = format!("127.0.0.1:{}", free_port()?);
    let output = run("shardctl", &["serve", "--store", "nonsense", "--grpc", &grpc]).await?;
    ensure!(!output.status.success() && text(&output).contains("sled:"), "a store of nonsense: {}", text(&output));
    for (arguments, word) in [
        (vec!["serve", "--store", "etcd://127.0.0.1:2379", "--grpc", &grpc], "etcd"),
        (vec!["dev", "--shards", "1", "--replicas", "1", "--data", data, "--grpc", &grpc], "replica"),
    ] {
        let output = run("shardctl", &arguments).await?;
        ensure!(output.status.code() == Some(2), "{arguments:?} ends with {}\n{}", output.status, text(&output));
        ensure!(text(&output).contains(word), "{arguments:?} says\n{}", text(&output));
    }
    // Nobody there: the address is named, and nothing hangs.
    let nobody = format!("http://{grpc}");
    for words in ["ring", "moves", "verify", "shard list", "split s1 --into s2=postgresql://nobody@127.0.0.1:1/app"] {
        let mut arguments = vec!["--grpc", &nobody];
        arguments.extend(words.split_whitespace());
        let output = run("shardctl", &arguments).await?;
        ensure!(!output.status.success(), "shardctl {words} without a control plane ends with {}", output.status);
        ensure!(text(&output).contains(&grpc), "shardctl {words} does not name {grpc}:\n{}", text(&output));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_day() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let mut stages = Stages::default();
    stages.run("the banner", banner(&cluster)).await;
    stages.run("foreign keys in any order", foreign_keys(&cluster)).await;
    stages.run("distributing a loaded table while it is used", loaded_table(&cluster)).await;
    stages.run("a loaded reference table", loaded_reference(&cluster)).await;
    stages.run("tables by the command line", tables(&cluster)).await;
    stages.run("undistribute", undistribute(&cluster)).await;
    stages.run("JSON", json(&cluster)).await;
    stages.run("split", split(&cluster)).await;
    stages.run("move by hand", by_hand(&cluster)).await;
    stages.run("moves of keys and arcs", keys_and_arcs(&cluster)).await;
    stages.run("verify finds a misplaced row", verify(&cluster)).await;
    stages.run("export and import", export(&cluster)).await;
    stages.run("removing shards", remove(&cluster)).await;
    stages.run("requests that are wrong", wrong_requests(&cluster)).await;
    let outcome = stages.finish();
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

async fn banner(cluster: &Cluster) -> Result<()> {
    let last = cluster.banner.last().context("no banner")?;
    ensure!(*last == format!("ready postgresql://postgres@127.0.0.1:{}/app", cluster.listen_port()), "{last}");
    for shard in ["s1", "s2"] {
        let dsn = cluster.shard_dsn(shard).await?;
        ensure!(
            cluster.banner.iter().any(|line| line.contains(shard) && line.contains(&dsn)),
            "no DSN of {shard}: {:?}",
            cluster.banner
        );
    }
    Ok(())
}

async fn parsed(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let output = cluster.shardctl(arguments).await?;
    serde_json::from_str(&output).with_context(|| format!("shardctl {} printed {output}", arguments.join(" ")))
}

/// Exit status and all that was printed.
async fn status(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = tokio::time::timeout(COMMAND_MAX, cluster.shardctl_command(arguments)?.output()).await;
    let output = output.with_context(|| format!("shardctl {} does not end", arguments.join(" ")))??;
    Ok((output.status.code(), text(&output)))
}

async fn foreign_keys(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for statement in [
        "CREATE TABLE places (code text PRIMARY KEY)",
        "CREATE TABLE firms (id bigint PRIMARY KEY, place text REFERENCES places)",
        "CREATE TABLE staff (firm_id bigint REFERENCES firms, id bigint, boss bigint, PRIMARY KEY (firm_id, id), \
         FOREIGN KEY (firm_id, boss) REFERENCES staff)",
        // The referencing table first, the referenced ones after it.
        "SELECT create_distributed_table('staff', 'firm_id')",
        "SELECT create_distributed_table('firms', 'id', colocate_with => 'staff')",
        "SELECT create_reference_table('places')",
        "INSERT INTO places VALUES ('here'), ('there')",
        &format!(
            "INSERT INTO firms VALUES {}",
            sql::rows(1..=50, |i| format!("{i}, '{}'", if i % 2 == 0 { "here" } else { "there" }))
        ),
        &format!("INSERT INTO staff VALUES {}", sql::rows(0..200, |i| format!("{}, {}, NULL", i / 4 + 1, i % 4))),
    ] {
        client.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    ensure!(sql::failure(&client, "INSERT INTO staff VALUES (51, 1, NULL)").await?.0 == "23503");
    ensure!(sql::failure(&client, "INSERT INTO firms VALUES (99, 'nowhere')").await?.0 == "23503");
    ensure!(sql::failure(&client, "DELETE FROM places WHERE code = 'here'").await?.0 == "23503");
    let joined = sql::value(
        &client,
        "SELECT count(*) FROM firms f JOIN staff s ON s.firm_id = f.id JOIN places p ON p.code = f.place",
    )
    .await?;
    ensure!(joined == "200", "{joined} rows");
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        ensure!(sql::value(&direct, "SELECT count(*) FROM public.places").await? == "2", "places on {shard}");
        let firms: i64 = sql::value(&direct, "SELECT count(*) FROM public.firms").await?.parse()?;
        ensure!(firms > 0 && firms < 50, "{firms} firms on {shard}");
    }
    Ok(())
}

/// Clients read and write a table while its rows are distributed.
async fn loaded_table(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client
        .batch_execute("CREATE TABLE loaded (id bigint PRIMARY KEY, n bigint GENERATED BY DEFAULT AS IDENTITY, v text NOT NULL DEFAULT 'x')")
        .await?;
    client
        .batch_execute("INSERT INTO loaded (id, v) SELECT i, repeat('v', 1 + i % 50) FROM generate_series(1, 3000) i")
        .await?;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writers = try_join_all((0..3i64).map(|n| {
        let stop = &stop;
        async move {
            let client = sql::connect(&cluster.dsn("postgres")).await?;
            let mut written = Vec::new();
            let mut id = 1_000_000 * (n + 1);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                id += 1;
                client
                    .execute("INSERT INTO loaded (id) VALUES ($1)", &[&id])
                    .await
                    .context("a write during the distribution")?;
                let seen: i64 = client.query_one("SELECT count(*) FROM loaded WHERE id <= 3000", &[]).await?.get(0);
                ensure!(seen == 3000, "a client counted {seen} loaded rows");
                written.push(id);
            }
            Ok(written)
        }
    }));
    let distribute = async {
        let outcome = client.batch_execute("SELECT create_distributed_table('loaded', 'id')").await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome.context("create_distributed_table")
    };
    let (written, distributed) = futures_util::join!(writers, distribute);
    distributed?;
    let written: usize = written?.iter().map(Vec::len).sum();
    println!("  {written} rows written meanwhile");
    let count = sql::value(&client, "SELECT count(*) FROM loaded").await?;
    ensure!(count == (3000 + written).to_string(), "{count} rows, {written} written");
    let mut total = 0;
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        let here: i64 = sql::value(&direct, "SELECT count(*) FROM public.loaded").await?.parse()?;
        ensure!(here > 500, "{here} rows on {shard}");
        total += here;
    }
    ensure!(total as usize == 3000 + written, "{total} rows on the shards");
    // Values were not changed, and new ones are unique across the cluster.
    let wrong =
        sql::value(&client, "SELECT count(*) FROM loaded WHERE id <= 3000 AND v <> repeat('v', 1 + (id % 50)::int)")
            .await?;
    ensure!(wrong == "0", "{wrong} rows have changed");
    for id in 10_000_000..10_000_200i64 {
        client.execute("INSERT INTO loaded (id) VALUES ($1)", &[&id]).await?;
    }
    let values: Vec<i64> =
        client.query("SELECT n::bigint FROM loaded", &[]).await?.iter().map(|row| row.get(0)).collect();
    let distinct: std::collections::BTreeSet<i64> = values.iter().copied().collect();
    ensure!(distinct.len() == values.len(), "{} values of the sequence came twice", values.len() - distinct.len());
    Ok(())
}

async fn loaded_reference(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("CREATE TABLE rates (id int PRIMARY KEY, v numeric)").await?;
    client.batch_execute("INSERT INTO rates SELECT i, i / 7.0 FROM generate_series(1, 2000) i").await?;
    client.batch_execute("SELECT create_reference_table('rates')").await?;
    client.batch_execute("UPDATE rates SET v = 1.5 WHERE id = 7; DELETE FROM rates WHERE id > 1990").await?;
    let mut contents = Vec::new();
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        contents.push(
            sql::value(
                &direct,
                "SELECT count(*) || ' ' || md5(string_agg(r::text, ';' ORDER BY id)) FROM public.rates r",
            )
            .await?,
        );
    }
    ensure!(contents[0] == contents[1] && contents[0].starts_with("1990 "), "{contents:?}");
    Ok(())
}

async fn tables(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    for (name, key) in [("by_text", "text"), ("by_uuid", "uuid"), ("by_date", "date")] {
        client.batch_execute(&format!("CREATE TABLE {name} (k {key} PRIMARY KEY, v int)")).await?;
        cluster.shardctl(&["table", "shard", name, "--key", "k"]).await?;
    }
    client.batch_execute("CREATE TABLE everywhere (k int PRIMARY KEY)").await?;
    cluster.shardctl(&["table", "reference", "everywhere"]).await?;
    client
        .batch_execute(&format!("INSERT INTO by_text VALUES {}", sql::rows(1..=100, |i| format!("'key {i}', {i}"))))
        .await?;
    ensure!(sql::value(&client, "SELECT v FROM by_text WHERE k = 'key 42'").await? == "42");
    client
        .batch_execute(&format!(
            "INSERT INTO by_date VALUES {}",
            sql::rows(1..=29, |i| format!("'2024-02-{i:02}', {i}"))
        ))
        .await?;
    ensure!(sql::value(&client, "SELECT v FROM by_date WHERE k = '2024-02-17'").await? == "17");
    let list = cluster.shardctl(&["table", "list"]).await?;
    for name in ["by_text", "by_uuid", "by_date", "everywhere", "loaded", "rates"] {
        ensure!(list.contains(name), "table list does not show {name}:\n{list}");
    }
    // What cannot be: a clear refusal, and the table as it was.
    client.batch_execute("CREATE TABLE bare (k int, v int)").await?;
    client.batch_execute("CREATE TABLE other_key (id int PRIMARY KEY, k int NOT NULL)").await?;
    for arguments in [
        vec!["table", "shard", "bare", "--key", "nothing"],
        vec!["table", "shard", "nowhere", "--key", "k"],
        vec!["table", "shard", "other_key", "--key", "k"],
        vec!["table", "shard", "by_text", "--key", "v"],
    ] {
        let (code, said) = status(cluster, &arguments).await?;
        ensure!(code.is_some_and(|code| code != 0), "{arguments:?} ends with {code:?}: {said}");
        ensure!(!said.trim().is_empty() && !said.contains("panicked"), "{arguments:?} says {said:?}");
    }
    client.batch_execute("DROP TABLE bare, other_key").await?;
    Ok(())
}

async fn undistribute(cluster: &Cluster) -> Result<()> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    client.batch_execute("SELECT undistribute_table('by_text')").await?;
    ensure!(sql::value(&client, "SELECT count(*) FROM by_text").await? == "100");
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    ensure!(sql::value(&s2, "SELECT count(*) FROM public.by_text").await? == "0");
    cluster.shardctl(&["table", "undistribute", "everywhere"]).await?;
    let list = cluster.shardctl(&["table", "list"]).await?;
    ensure!(!list.contains("by_text") && !list.contains("everywhere"), "{list}");
    let (code, said) = status(cluster, &["table", "undistribute", "everywhere"]).await?;
    ensure!(code == Some(1) && said.contains("everywhere"), "a single table: {code:?} {said}");
    Ok(())
}

async fn json(cluster: &Cluster) -> Result<()> {
    let shards = parsed(cluster, &["shard", "list", "--json"]).await?;
    let list = shards.get("shards").unwrap_or(&shards).as_array().context("no list")?.len();
    ensure!(list == 2, "{shards}");
    for arguments in [
        vec!["table", "list", "--json"],
        vec!["ring", "--json"],
        vec!["moves", "--json"],
        vec!["verify", "--json"],
        vec!["topology", "export"],
    ] {
        parsed(cluster, &arguments).await?;
    }
    Ok(())
}

async fn counts(cluster: &Cluster) -> Result<(String, String)> {
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    Ok((
        sql::value(&client, "SELECT count(*) FROM loaded").await?,
        sql::value(&client, "SELECT count(*) FROM staff").await?,
    ))
}

async fn split(cluster: &Cluster) -> Result<()> {
    let before = counts(cluster).await?;
    let spare = cluster.spare().await?;
    let into = format!("s3={spare}");
    // Several keyspaces: the tables' own is named.
    let topology = cluster.topology().await?;
    let keyspace = topology.keyspaces.iter().find(|k| k.family == "integer").context("no keyspace")?.name.clone();
    let out = cluster.shardctl(&["split", "s1", "--into", &into, "--keyspace", &keyspace]).await?;
    println!("  {}", out.lines().last().unwrap_or_default());
    let moves = Mover::new(cluster.grpc()).list(true).await?;
    let last = moves.last().and_then(|status| status.r#move.clone()).context("no move")?;
    ensure!(last.phase == "done", "split exits 0 at done, but the move is {}", last.phase);
    ensure!(counts(cluster).await? == before, "rows before {before:?}, after {:?}", counts(cluster).await?);
    cluster.shardctl(&["verify"]).await?;
    let s3 = sql::connect(&cluster.shard_dsn("s3").await?).await?;
    ensure!(sql::value(&s3, "SELECT count(*) FROM public.loaded").await? != "0");
    ensure!(sql::value(&s3, "SELECT count(*) FROM public.rates").await? == "1990");
    let id = last.id.to_string();
    let show = parsed(cluster, &["move", "show", &id, "--json"]).await?;
    ensure!(show.to_string().contains("done"), "{show}");
    ensure!(cluster.shardctl(&["move", "watch", &id]).await?.contains("done"));
    Ok(())
}

async fn by_hand(cluster: &Cluster) -> Result<()> {
    let before = counts(cluster).await?;
    let mover = Mover::new(cluster.grpc());
    let (code, said) = status(
        cluster,
        &["move", "--from", "s2", "--to", "s3", "--fraction", "0.5", "--keyspace", "default", "--manual"],
    )
    .await?;
    let moves = mover.list(false).await?;
    let id =
        moves.last().and_then(|s| s.r#move.as_ref()).with_context(|| format!("no move; it said ({code:?}) {said}"))?.id;
    ensure!(code == Some(0), "a manual move that is ready ends with {code:?}: {said}");
    mover.reach(id, &["ready"]).await?;
    let id_text = id.to_string();
    for (command, phase) in [("cutover", "switched"), ("rollback", "ready"), ("cutover", "switched")] {
        let (code, said) = status(cluster, &["move", command, &id_text]).await?;
        ensure!(code == Some(0), "move {command} ends with {code:?}: {said}");
        mover.reach(id, &[phase]).await?;
        ensure!(counts(cluster).await? == before, "after {command}");
    }
    // Not any more: it has switched.
    let (code, said) = status(cluster, &["move", "cancel", &id_text]).await?;
    ensure!(code.is_some_and(|code| code != 0), "a switched move was cancelled: {said}");
    let (code, said) = status(cluster, &["move", "complete", &id_text]).await?;
    ensure!(code == Some(0), "move complete ends with {code:?}: {said}");
    mover.reach(id, &["done"]).await?;
    ensure!(counts(cluster).await? == before, "after completion");

    let (_, said) = status(
        cluster,
        &["move", "--from", "s3", "--to", "s2", "--fraction", "0.5", "--keyspace", "default", "--manual"],
    )
    .await?;
    let moves = mover.list(false).await?;
    let id = moves
        .last()
        .and_then(|s| s.r#move.as_ref())
        .with_context(|| format!("no move; it said {said}"))?
        .id
        .to_string();
    for command in ["pause", "resume", "cancel"] {
        let (code, said) = status(cluster, &["move", command, &id]).await?;
        ensure!(code == Some(0), "move {command} ends with {code:?}: {said}");
    }
    mover.reach(id.parse()?, &["cancelled"]).await?;
    ensure!(counts(cluster).await? == before, "after a cancelled move");
    Ok(())
}

async fn keys_and_arcs(cluster: &Cluster) -> Result<()> {
    let before = counts(cluster).await?;
    let client = sql::connect(&cluster.dsn("postgres")).await?;
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let key = sql::value(&s1, "SELECT min(id) FROM public.loaded").await?;
    cluster.shardctl(&["move", "--from", "s1", "--to", "s2", "--key", &key, "--keyspace", "default"]).await?;
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    ensure!(sql::value(&s2, &format!("SELECT count(*) FROM public.loaded WHERE id = {key}")).await? == "1");
    ensure!(sql::value(&s1, &format!("SELECT count(*) FROM public.loaded WHERE id = {key}")).await? == "0");
    ensure!(sql::value(&client, &format!("SELECT count(*) FROM loaded WHERE id = {key}")).await? == "1");
    let token = sql::value(&s1, "SELECT min(ringway.token(id)) FROM public.loaded").await?;
    let arc = format!("{}..{token}", token.parse::<i64>()?.saturating_sub(1_000_000));
    cluster.shardctl(&["move", "--from", "s1", "--to", "s3", &format!("--arc={arc}"), "--keyspace", "default"]).await?;
    let left =
        sql::value(&s1, &format!("SELECT count(*) FROM public.loaded WHERE ringway.token(id) = '{token}'")).await?;
    ensure!(left == "0", "{left} rows of the arc are left on s1");
    ensure!(counts(cluster).await? == before);
    cluster.shardctl(&["verify"]).await?;
    Ok(())
}

async fn verify(cluster: &Cluster) -> Result<()> {
    cluster.shardctl(&["verify"]).await?;
    let s1 = sql::connect(&cluster.shard_dsn("s1").await?).await?;
    let s2 = sql::connect(&cluster.shard_dsn("s2").await?).await?;
    s1.batch_execute("SET session_replication_role = replica").await?;
    let id = sql::value(&s2, "SELECT max(id) FROM public.loaded WHERE id <= 3000").await?;
    s1.batch_execute(&format!("INSERT INTO public.loaded (id, n) VALUES ({id}, -1)")).await?;
    let (code, said) = status(cluster, &["verify"]).await?;
    ensure!(code.is_some_and(|code| code != 0), "verify does not find a row on a wrong shard: {said}");
    ensure!(said.contains("loaded") && said.contains("s1"), "verify does not say where: {said}");
    s1.batch_execute(&format!("DELETE FROM public.loaded WHERE id = {id}")).await?;
    s1.batch_execute("UPDATE public.rates SET v = 0 WHERE id = 1").await?;
    let (code, said) = status(cluster, &["verify"]).await?;
    ensure!(code.is_some_and(|code| code != 0), "verify does not find a reference table that differs: {said}");
    ensure!(said.contains("rates"), "verify does not say which: {said}");
    let right = sql::value(&s2, "SELECT v FROM public.rates WHERE id = 1").await?;
    s1.batch_execute(&format!("UPDATE public.rates SET v = {right} WHERE id = 1")).await?;
    cluster.shardctl(&["verify"]).await?;
    Ok(())
}

async fn export(cluster: &Cluster) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("topology.json");
    let out = cluster.shardctl(&["topology", "export"]).await?;
    std::fs::write(&file, &out)?;
    let file = file.to_str().context("not UTF-8")?;
    let port = free_port()?;
    let store = format!("sled:{}", directory.path().join("store").display());
    let mut server = Command::new(binaries()?.join("shardctl"))
        .args(["serve", "--store", &store, "--grpc", &format!("127.0.0.1:{port}")])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let grpc = format!("http://127.0.0.1:{port}");
    until("another control plane", Duration::from_secs(20), || async {
        Ok(run("shardctl", &["--grpc", &grpc, "shard", "list", "--json"]).await?.status.success())
    })
    .await?;
    let output = run("shardctl", &["--grpc", &grpc, "topology", "import", file]).await?;
    ensure!(output.status.success(), "import: {}", text(&output));
    let ring = run("shardctl", &["--grpc", &grpc, "ring", "--json"]).await?;
    let (imported, own): (Value, Value) =
        (serde_json::from_slice(&ring.stdout)?, parsed(cluster, &["ring", "--json"]).await?);
    // Whatever else they show, the points are the same.
    ensure!(points(&imported) == points(&own) && !points(&own).is_empty(), "{imported} is not {own}");
    let output = run("shardctl", &["--grpc", &grpc, "topology", "import", file]).await?;
    ensure!(!output.status.success(), "a topology was imported over another");
    server.kill().await?;
    Ok(())
}

/// All tokens that a ring's JSON shows, as text, in order.
fn points(ring: &Value) -> Vec<String> {
    match ring {
        Value::Array(items) => items.iter().flat_map(points).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| match (name.as_str(), value) {
                ("token" | "through", value) => vec![value.to_string()],
                (_, value) => points(value),
            })
            .collect(),
        _ => Vec::new(),
    }
}

async fn remove(cluster: &Cluster) -> Result<()> {
    let before = counts(cluster).await?;
    let (code, said) = status(cluster, &["shard", "remove", "s3"]).await?;
    ensure!(code.is_some_and(|code| code != 0), "a shard with rows was removed: {said}");
    cluster.shardctl(&["move", "--from", "s3", "--to", "s2", "--all", "--keyspace", "default"]).await?;
    cluster.shardctl(&["shard", "remove", "s3"]).await?;
    let names: Vec<String> = cluster.topology().await?.shards.into_iter().map(|shard| shard.name).collect();
    ensure!(names == ["s1", "s2"], "{names:?}");
    ensure!(counts(cluster).await? == before);
    cluster.shardctl(&["verify"]).await?;
    Ok(())
}

async fn wrong_requests(cluster: &Cluster) -> Result<()> {
    let own = cluster.shard_dsn("s1").await?;
    let mut wrong = Vec::new();
    for (arguments, word) in [
        (vec!["move", "show", "4711"], "4711"),
        (vec!["move", "cutover", "4711"], "4711"),
        (vec!["split", "s9", "--into", "s10=postgresql://postgres@127.0.0.1:1/app", "--keyspace", "default"], "s9"),
        (vec!["split", "s1", "--into", "s9=postgresql://postgres@127.0.0.1:1/app", "--keyspace", "default"], ""),
        (vec!["split", "s1", "--into", "nonsense"], ""),
        (vec!["move", "--from", "s1", "--to", "s1", "--fraction", "0.5", "--keyspace", "default"], "same"),
        (vec!["move", "--from", "s1", "--to", "s2", "--fraction", "1.5", "--keyspace", "default"], "fraction"),
        (vec!["move", "--from", "s1", "--to", "s2", "--key", "word", "--keyspace", "default"], ""),
        (vec!["move", "--from", "s1", "--to", "s2", "--fraction", "0.5", "--keyspace", "nothing"], "nothing"),
        (vec!["shard", "add", "s9", &own], ""),
        (vec!["shard", "remove", "s9"], "s9"),
        (vec!["shard", "add", "bad name", &own], ""),
    ] {
        let (code, said) = status(cluster, &arguments).await?;
        if code == Some(0) || !said.contains(word) || said.trim().is_empty() || said.contains("panicked") {
            wrong.push(format!("{arguments:?} ends with {code:?} and says {said:?}, not {word:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // What is there already is no error, and nothing changes.
    cluster.shardctl(&["shard", "add", "s1", &own]).await?;
    ensure!(cluster.topology().await?.shards.len() == 2);
    let moves = Mover::new(cluster.grpc()).list(false).await?;
    ensure!(moves.is_empty(), "a wrong request started something: {moves:?}");
    Ok(())
}
