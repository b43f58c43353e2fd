//! Somebody who writes to a shard past every gateway: the triggers see it all, and the fence stops it.

use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ringway_proto::v1::TokenArc;
use ringway_tests::cluster::{Cluster, Options};
use ringway_tests::scenario::bare::Bare;
use ringway_tests::scenario::mover::{Command, Mover, Order};
use ringway_tests::scenario::writer::{
    difference, direct, keys_in, own_rows, Account, Writer, Written, KEYS, OWN_IDS, ROWS, TABLE,
};
use ringway_tests::scenario::{sql, traces, turn, until};
use tokio_postgres::Client;

const ARRIVES_MAX: Duration = Duration::from_secs(20);
const UNDONE_MAX: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_writes_are_captured_and_then_refused() -> Result<()> {
    let _turn = turn().await?;
    let cluster = Cluster::start(Options { shards: 2, ..Options::default() }).await?;
    let gateway = sql::connect(&cluster.dsn("postgres")).await?;
    gateway.batch_execute(TABLE).await?;
    gateway.batch_execute("SELECT create_distributed_table('notes', 'k')").await?;
    for k in 1..=KEYS {
        let rows = sql::rows(1..=5, |id| format!("{k}, {id}, 'loaded'"));
        gateway.batch_execute(&format!("INSERT INTO notes VALUES {rows}")).await.context("loading")?;
    }
    let outcome = play(&cluster.grpc(), Some(&gateway)).await;
    if outcome.is_err() {
        eprintln!("{}", cluster.logs());
        return outcome;
    }
    cluster.stop().await
}

/// The same where there is no gateway at all: the engine alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_needs_no_gateway() -> Result<()> {
    let _turn = turn().await?;
    let bare = Bare::start(2, &format!("{TABLE}; {ROWS}"), Vec::new()).await?;
    let outcome = async {
        bare.shardctl(&["table", "shard", "notes", "--key", "k"]).await?;
        play(&bare.grpc(), None).await
    }
    .await;
    if outcome.is_err() {
        eprintln!("{}", bare.log());
    }
    outcome
}

async fn play(grpc: &str, gateway: Option<&Client>) -> Result<()> {
    let mover = Mover::new(grpc.to_string());
    let s1 = direct(&mover, "s1").await?;
    let s2 = direct(&mover, "s2").await?;

    // A rate limit, so that the writer meets every phase.
    let id = mover.start(&Order::half("s1", "s2").slowly(4_000)).await?;
    let arcs = mover.status(id).await?.r#move.context("a status without its move")?.arcs;
    let keys = keys_in(&s1, &arcs).await?;
    ensure!(keys.len() > 10, "only {} keys move", keys.len());

    let mut account = Account::new();
    let writer = Writer::start(direct(&mover, "s1").await?, keys.clone(), 1);
    mover.reach(id, &["ready"]).await?;
    arrives(&mut account, writer.stop().await?, &s1, &s2, &arcs).await.context("until the move was ready")?;

    // It writes on while the switch takes place: each write arrives, or is refused.
    println!("an old snapshot, an open transaction, and a switch");
    let mut old = direct(&mover, "s1").await?;
    let old = old.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead).start().await?;
    let seen: i64 = old.query_one("SELECT count(*) FROM notes", &[]).await?.get(0);
    ensure!(seen > 0);
    open_transaction_holds_the_switch(&mover, id, keys[0], &mut account).await?;
    let writer = Writer::start(direct(&mover, "s1").await?, keys.clone(), 2);
    mover.reach(id, &["switched"]).await?;
    let written = writer.stop().await?;
    ensure!(written.refused > 0 || written.count > 0, "the writer did nothing during the switch");
    println!("  {} writes, {} refused during the switch", written.count, written.refused);
    // After the switch, T mirrors to S: both ends are alike again.
    arrives(&mut account, written, &s2, &s1, &arcs).await.context("after the switch")?;

    println!("after the switch");
    let k = keys[0];
    for statement in [
        format!("INSERT INTO notes VALUES ({k}, 77, 'late')"),
        format!("UPDATE notes SET v = 'late' WHERE k = {k}"),
        format!("DELETE FROM notes WHERE k = {k}"),
        format!("SELECT 1; INSERT INTO notes SELECT {k}, 78, 'late'"),
    ] {
        let (code, message) = sql::failure(&s1, &statement).await?;
        ensure!(code == "RW002", "{statement}: {code} {message}");
    }
    ensure!(s1
        .execute("UPDATE notes SET v = 'late' WHERE k = $1", &[&k])
        .await
        .is_err_and(|e| sql::code(&e) == "RW002"));
    let refused = old.execute("UPDATE notes SET v = 'from an old snapshot' WHERE k = $1 AND id = 1", &[&k]).await;
    let code = refused.err().map(|error| sql::code(&error)).context("an old snapshot wrote to the old owner")?;
    ensure!(code == "40001" || code == "RW002", "the old snapshot was refused with {code}");
    drop(old);
    // Rows that do not move are nobody's business.
    let stays = a_key_that_stays(&s1, &arcs).await?;
    ensure!(s1.execute("UPDATE notes SET v = v WHERE k = $1", &[&stays]).await? == 5);

    println!("writes to the new owner, and a rollback");
    let writer = Writer::start(direct(&mover, "s2").await?, keys.clone(), 3);
    until("writes on the new owner", ARRIVES_MAX, || async { Ok(writer.count() > 50) }).await?;
    mover.drive(id, Command::RollBack, "ready").await?;
    let written = writer.stop().await?;
    println!("  {} writes, {} refused", written.count, written.refused);
    arrives(&mut account, written, &s1, &s2, &arcs).await.context("after the rollback")?;
    let (code, _) = sql::failure(&s2, &format!("UPDATE notes SET v = 'late' WHERE k = {k}")).await?;
    ensure!(code == "RW002", "after the rollback the target refuses with {code}");

    mover.drive(id, Command::CutOver, "switched").await?;
    mover.drive(id, Command::Complete, "done").await?;
    let left = sql::value(&s1, &format!("SELECT count(*) FROM notes WHERE {}", traces::in_arcs(&arcs, "k"))).await?;
    ensure!(left == "0", "{left} moved rows are left on s1");
    // The standing fence.
    let (code, _) = sql::failure(&s1, &format!("INSERT INTO notes VALUES ({k}, 77, 'late')")).await?;
    ensure!(code == "RW002", "after completion the source refuses with {code}");
    let rows = match gateway {
        Some(gateway) => {
            gateway.query(&format!("SELECT k, id, v FROM notes WHERE id >= {OWN_IDS} ORDER BY k, id"), &[]).await?
        }
        None => s2.query(&format!("SELECT k, id, v FROM notes WHERE id >= {OWN_IDS} ORDER BY k, id"), &[]).await?,
    };
    let seen: Account = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
    ensure!(seen == account, "in the end: {}", difference(&account, &seen));
    println!("  {} rows of the direct writer are where they belong", seen.len());
    Ok(())
}

async fn a_key_that_stays(client: &Client, arcs: &[TokenArc]) -> Result<i64> {
    let query = format!("SELECT min(k) FROM notes WHERE NOT {}", traces::in_arcs(arcs, "k"));
    client.query_one(&query, &[]).await?.get::<_, Option<i64>>(0).context("every key moves")
}

/// Both ends have what the writer was acknowledged, and nothing else of its own.
async fn arrives(account: &mut Account, written: Written, from: &Client, to: &Client, arcs: &[TokenArc]) -> Result<()> {
    ensure!(written.count > 0, "the writer was never let in");
    ensure!(written.absent == 0, "the writer missed {} rows of its own", written.absent);
    account.extend(written.account);
    for (end, client) in [("owner", from), ("other end", to)] {
        let mut seen = Account::new();
        let waited = until("the writes", ARRIVES_MAX, || async { Ok(own_rows(client, arcs).await? == *account) }).await;
        if waited.is_err() {
            seen = own_rows(client, arcs).await?;
        }
        waited.with_context(|| format!("on the {end}: {}", difference(account, &seen)))?;
    }
    println!("  {} writes of {} rows arrived", written.count, account.len());
    Ok(())
}

/// A direct transaction that has written to moving rows is waited for, within a bound, and nothing of it is lost.
async fn open_transaction_holds_the_switch(mover: &Mover, id: u64, k: i64, account: &mut Account) -> Result<()> {
    let mut client = direct(mover, "s1").await?;
    let transaction = client.transaction().await?;
    let key = (k, OWN_IDS + 1);
    transaction.execute("INSERT INTO notes VALUES ($1, $2, 'open during the switch')", &[&key.0, &key.1]).await?;
    mover.command(id, Command::CutOver).await?;
    until("an attempt that undoes itself", UNDONE_MAX, || async {
        let status = mover.status(id).await?;
        ensure!(ringway_tests::demo::watch::phase(&status) != "switched", "switched over an open writer");
        Ok(status.cutover_attempts_undone > 0)
    })
    .await?;
    transaction.commit().await?;
    account.insert(key, "open during the switch".into());
    Ok(())
}
