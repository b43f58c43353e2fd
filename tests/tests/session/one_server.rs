//! What one server does by itself, asked of a cluster: its clock, settings made by a function, code that it runs, locks of
//! rows that every shard has a copy of.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::sql;

use super::{connect, two_shards, ACCOUNTS};

pub async fn clock(cluster: &Cluster) -> Result<()> {
    let mut client = connect(cluster).await?;
    for _ in 0..5 {
        let seen = sql::column(&client, "SELECT DISTINCT now() FROM accounts").await?;
        ensure!(seen.len() == 1, "one statement, {} clocks: {seen:?}", seen.len());
    }
    // Prepared, with a parameter; a value in the binary format.
    let rows =
        client.query("SELECT id, now(), now()::text AS as_text FROM accounts WHERE balance >= $1", &[&0i64]).await?;
    ensure!(rows.len() as i64 == ACCOUNTS && rows[0].columns()[1].name() == "now");
    let readings: std::collections::BTreeSet<String> = rows.iter().map(|row| row.get("as_text")).collect();
    ensure!(readings.len() == 1, "{readings:?}");
    // The same through a transaction, whatever time passes in it.
    let transaction = client.transaction().await?;
    let reading = "SELECT DISTINCT now()::text FROM accounts";
    let before: String = transaction.query_one(reading, &[]).await?.get(0);
    transaction.execute("SELECT pg_sleep(0.05)", &[]).await?;
    let after: String = transaction.query_one(reading, &[]).await?.get(0);
    ensure!(before == after, "now() went from {before} to {after} in one transaction");
    let later: bool =
        transaction.query_one("SELECT DISTINCT statement_timestamp() > now() FROM accounts", &[]).await?.get(0);
    ensure!(later, "statement_timestamp() stands still");
    transaction.execute("UPDATE accounts SET note = now()::text", &[]).await?;
    let noted = transaction.query("SELECT DISTINCT note FROM accounts", &[]).await?;
    ensure!(noted.len() == 1 && noted[0].get::<_, String>(0) == before, "{noted:?}");
    transaction.rollback().await?;
    // It is the time.
    let apart = "SELECT DISTINCT abs(extract(epoch FROM clock_timestamp() - now())) < 60 FROM accounts";
    ensure!(sql::column(&client, apart).await? == ["t"]);
    // In the session's time zone.
    client.batch_execute("SET TimeZone = 'Pacific/Kiritimati'").await?;
    let same = "SELECT DISTINCT current_date = (now() AT TIME ZONE 'Pacific/Kiritimati')::date, \
                localtimestamp = (now() AT TIME ZONE 'Pacific/Kiritimati') FROM accounts";
    let rows = client.query(same, &[]).await?;
    ensure!(rows.len() == 1 && rows[0].get::<_, bool>(0) && rows[0].get::<_, bool>(1), "{rows:?}");
    client
        .batch_execute(&format!(
            "INSERT INTO accounts (id, note) VALUES {}",
            sql::rows(10_000..=10_020, |id| format!("{id}, now()::text"))
        ))
        .await?;
    let noted = sql::column(&client, "SELECT DISTINCT note FROM accounts WHERE id >= 10000").await?;
    ensure!(noted.len() == 1, "rows of one INSERT: {noted:?}");
    client.batch_execute("DELETE FROM accounts WHERE id >= 10000").await.context("tidying up")
}

pub async fn set_config(cluster: &Cluster) -> Result<()> {
    let mine = connect(cluster).await?;
    let other = connect(cluster).await?;
    let everywhere = "SELECT DISTINCT coalesce(current_setting('app.tenant', true), '') FROM accounts";
    ensure!(sql::value(&mine, "SELECT set_config('app.tenant', '7', false)").await? == "7");
    for _ in 0..5 {
        let (mine, other) = futures_util::join!(sql::column(&mine, everywhere), sql::column(&other, everywhere));
        ensure!(mine.as_ref().is_ok_and(|rows| rows == &["7"]), "{mine:?}");
        ensure!(other.as_ref().is_ok_and(|rows| rows == &[""]), "{other:?}");
    }
    let row = mine
        .query_one(
            "SELECT set_config($1, $2, $3), set_config('app.more', 'x', false) AS more",
            &[&"app.tenant", &"8", &false],
        )
        .await?;
    ensure!((row.get::<_, &str>(0), row.get::<_, &str>("more")) == ("8", "x"), "{row:?}");
    ensure!(row.columns()[0].name() == "set_config");
    ensure!(sql::column(&mine, everywhere).await? == ["8"]);
    // For the transaction only, also on a shard that joins it later.
    let (first, second) = two_shards(cluster).await?;
    mine.batch_execute(&format!("BEGIN; SELECT balance FROM accounts WHERE id = {first}")).await?;
    ensure!(sql::value(&mine, "SELECT set_config('app.tenant', '9', true)").await? == "9");
    let there = format!("SELECT current_setting('app.tenant') FROM accounts WHERE id = {second}");
    ensure!(sql::value(&mine, &there).await? == "9");
    ensure!(sql::column(&mine, everywhere).await? == ["9"]);
    mine.batch_execute("COMMIT").await?;
    ensure!(sql::column(&mine, everywhere).await? == ["8"]);
    // Prepared in SQL.
    mine.batch_execute("PREPARE tenant AS SELECT set_config('app.tenant', $1, false)").await?;
    ensure!(sql::value(&mine, "EXECUTE tenant('10')").await? == "10");
    ensure!(sql::column(&mine, everywhere).await? == ["10"]);
    ensure!(sql::failure(&mine, "SELECT set_config('session_replication_role', 'replica', false)").await?.0 == "0A000");
    ensure!(sql::failure(&mine, "SELECT set_config('app.tenant', note, false) FROM accounts").await?.0 == "0A000");
    // What pg_dump begins with.
    mine.batch_execute("SELECT pg_catalog.set_config('search_path', '', false);").await?;
    ensure!(sql::failure(&mine, "SELECT count(*) FROM accounts").await?.0 == "42P01");
    ensure!(sql::value(&mine, "SELECT count(*) FROM public.accounts").await? == ACCOUNTS.to_string());
    mine.batch_execute("DISCARD ALL").await?;
    ensure!(sql::column(&mine, everywhere).await? == [""]);
    Ok(())
}

pub async fn code(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let other = connect(cluster).await?;
    client
        .batch_execute(
            "CREATE FUNCTION richest() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT max(balance) FROM accounts'",
        )
        .await?;
    for session in [&client, &other] {
        for statement in [
            "SELECT richest()",
            "SELECT id FROM accounts WHERE balance = richest()",
            "DO $$ BEGIN PERFORM richest(); END $$",
        ] {
            let (code, message) = sql::failure(session, statement).await?;
            ensure!(code == "0A000" && message.contains("as one server would"), "{statement}: {code} {message}");
        }
    }
    // Administration looks at one shard, and says so by asking for it.
    client.batch_execute("SET ringway.shard = 's2'").await?;
    ensure!(sql::value(&client, "SELECT richest() = max(balance) FROM accounts").await? == "t");
    client.batch_execute("DO $$ BEGIN PERFORM richest(); END $$").await?;
    client.batch_execute("RESET ringway.shard").await?;
    ensure!(sql::failure(&client, "SELECT richest()").await?.0 == "0A000");
    // Another body is another function, for every session.
    client
        .batch_execute("CREATE OR REPLACE FUNCTION richest() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT 5::bigint'")
        .await?;
    for session in [&client, &other] {
        ensure!(sql::value(session, "SELECT richest()").await? == "5");
        ensure!(
            sql::value(session, "SELECT count(*) FROM accounts WHERE balance > richest()").await?
                == ACCOUNTS.to_string()
        );
    }
    client.batch_execute("DROP FUNCTION richest").await?;
    // One that is not committed yet has not been read.
    client
        .batch_execute(
            "BEGIN; CREATE FUNCTION all_of_them() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM accounts'",
        )
        .await?;
    ensure!(sql::failure(&client, "SELECT all_of_them()").await?.0 == "0A000");
    client.batch_execute("ROLLBACK").await?;
    // A migration's block makes its type on every shard, once or more often.
    let block = "DO $$ BEGIN CREATE TYPE colour AS ENUM ('red'); EXCEPTION WHEN duplicate_object THEN NULL; END $$";
    client.batch_execute(block).await?;
    client.batch_execute(block).await?;
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        ensure!(sql::value(&direct, "SELECT 'red'::public.colour").await? == "red");
    }
    client.batch_execute("DROP TYPE colour").await?;
    // A trigger of its own keyspace does what it does on one server.
    for statement in [
        "CREATE FUNCTION note_balance() RETURNS trigger LANGUAGE plpgsql AS \
         'BEGIN UPDATE accounts SET note = NEW.balance::text WHERE id = NEW.id; RETURN NULL; END'",
        "CREATE TRIGGER note AFTER UPDATE OF balance ON accounts FOR EACH ROW EXECUTE FUNCTION note_balance()",
        "UPDATE accounts SET balance = balance",
    ] {
        client.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    ensure!(
        sql::value(&client, "SELECT count(*) FROM accounts WHERE note = balance::text").await? == ACCOUNTS.to_string()
    );
    // One that writes elsewhere does not.
    client
        .batch_execute(
            "CREATE OR REPLACE FUNCTION note_balance() RETURNS trigger LANGUAGE plpgsql AS \
                        'BEGIN INSERT INTO single VALUES (NEW.id, NULL); RETURN NULL; END'",
        )
        .await?;
    ensure!(sql::failure(&client, "UPDATE accounts SET balance = balance WHERE id = 1").await?.0 == "0A000");
    ensure!(sql::value(&client, "SELECT count(*) FROM single").await? == "0");
    for statement in ["DROP TRIGGER note ON accounts", "DROP FUNCTION note_balance", "UPDATE accounts SET note = NULL"]
    {
        client.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    Ok(())
}

pub async fn locked_copies(cluster: &Cluster) -> Result<()> {
    let one = connect(cluster).await?;
    let other = connect(cluster).await?;
    for statement in [
        "CREATE TABLE rates (code text PRIMARY KEY, rate numeric)",
        "SELECT create_reference_table('rates')",
        "INSERT INTO rates VALUES ('a', 1), ('b', 2)",
    ] {
        one.batch_execute(statement).await.with_context(|| statement.to_string())?;
    }
    let (first, second) = two_shards(cluster).await?;
    // Each session has been on another shard.
    for (session, id) in [(&one, first), (&other, second)] {
        session.batch_execute(&format!("BEGIN; SELECT 1 FROM accounts WHERE id = {id}")).await?;
    }
    let lock = "SELECT code FROM rates WHERE code = 'a' FOR UPDATE SKIP LOCKED";
    ensure!(sql::column(&one, lock).await? == ["a"]);
    ensure!(sql::column(&other, lock).await?.is_empty(), "two sessions have locked one row");
    one.batch_execute("COMMIT").await?;
    ensure!(sql::column(&other, lock).await? == ["a"]);
    other.batch_execute("COMMIT").await?;
    // Every copy is given the same time.
    one.batch_execute("ALTER TABLE rates ADD COLUMN at timestamptz").await?;
    one.batch_execute("UPDATE rates SET at = now()").await?;
    let mut seen = Vec::new();
    for shard in ["s1", "s2"] {
        let direct = sql::connect(&cluster.shard_dsn(shard).await?).await?;
        seen.push(sql::value(&direct, "SELECT max(at)::text FROM public.rates").await?);
    }
    ensure!(seen[0] == seen[1], "copies differ: {seen:?}");
    Ok(())
}

/// Tables are made with their foreign keys first, and distributed in whatever order; until then nothing is unchecked.
pub async fn foreign_keys(cluster: &Cluster) -> Result<()> {
    let client = connect(cluster).await?;
    let done = |statement: &'static str| {
        let client = &client;
        async move { client.batch_execute(statement).await.with_context(|| statement.to_string()) }
    };
    let refused = |statement: &'static str| {
        let client = &client;
        async move {
            let (code, message) = sql::failure(client, statement).await?;
            ensure!(code == "0A000" && message.contains("cannot be checked yet"), "{statement}: {code} {message}");
            Ok(())
        }
    };
    done("CREATE TABLE kinds (code text PRIMARY KEY)").await?;
    done("CREATE TABLE owners (id bigint PRIMARY KEY, kind text REFERENCES kinds)").await?;
    done("CREATE TABLE pets (owner bigint REFERENCES owners, id int, PRIMARY KEY (owner, id))").await?;
    done("CREATE TABLE vets (id int PRIMARY KEY, owner bigint REFERENCES owners)").await?;
    done("INSERT INTO kinds VALUES ('a'), ('b')").await?;
    done("SELECT create_distributed_table('pets', 'owner')").await?;
    refused("INSERT INTO pets VALUES (1, 1), (2, 1), (3, 1), (4, 1)").await?;
    done("INSERT INTO owners VALUES (900, 'a')").await?;
    done("DELETE FROM owners").await?;
    done("SELECT create_distributed_table('owners', 'id', colocate_with => 'pets')").await?;
    refused("INSERT INTO owners VALUES (1, 'a'), (2, 'b'), (3, 'a'), (4, 'a')").await?;
    done("SELECT create_reference_table('kinds')").await?;
    refused("DELETE FROM owners WHERE id = 1").await?;
    refused("INSERT INTO vets VALUES (1, 1)").await?;
    done("DROP TABLE vets").await?;
    done("INSERT INTO owners VALUES (1, 'a'), (2, 'b'), (3, 'a'), (4, 'a')").await?;
    done("INSERT INTO pets VALUES (1, 1), (2, 1), (3, 1), (4, 1)").await?;
    for (statement, code) in [
        ("INSERT INTO pets VALUES (1, 2), (900, 1)", "23503"),
        ("UPDATE owners SET kind = 'c'", "23503"),
        ("DELETE FROM owners WHERE id = 2", "23503"),
        ("DELETE FROM kinds WHERE code = 'b'", "23503"),
    ] {
        ensure!(sql::failure(&client, statement).await?.0 == code, "{statement}");
    }
    ensure!(sql::value(&client, "SELECT count(*) FROM pets").await? == "4");
    Ok(())
}
