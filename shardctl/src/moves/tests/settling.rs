use ringway_topology::ids::MoveId;
use ringway_topology::model::TableName;
use ringway_topology::ring::TokenArc;

use super::harness::{client, Pair};
use crate::moves::chunk::Chunker;
use crate::moves::conn::ShardConn;
use crate::moves::range::KeyRange;
use crate::moves::settle::{Owner, Settler};
use crate::moves::sweeper::{backlog, Sweeper};
use crate::moves::table::MovingTable;
use crate::moves::{MoveError, MoveLimits};

const ARCS: [TokenArc; 1] = [TokenArc { after: Some(0), through: i64::MAX }];

/// Both shards as ends of move 7, without an engine.
async fn ends(pair: &Pair) -> (ShardConn, ShardConn) {
    for (name, side) in [("s1", "source"), ("s2", "target")] {
        let mut shard = pair.service(name).await;
        shard
            .batch(&format!(
                "SELECT ringway.set_move(7, 1, '{side}', '{{(0,)}}'); SELECT ringway.install_guard('public.everything');
                 SELECT ringway.install_guard('public.plain')"
            ))
            .await
            .unwrap();
    }
    (pair.service("s1").await, pair.service("s2").await)
}

async fn plain(from: &mut ShardConn, to: &mut ShardConn) -> MovingTable {
    MovingTable::load(from, to, &TableName::new("public", "plain"), "tenant", &ARCS).await.unwrap()
}

/// 'a' and 'b' hash above 0, whatever they are: picked by the server.
async fn tenants(shard: &mut ShardConn) -> Vec<String> {
    let sql = "SELECT 'x' || g FROM generate_series(1, 100) g WHERE ringway.token('x' || g) > 0 ORDER BY g LIMIT 3";
    shard.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn emails(shard: &mut ShardConn) -> Vec<(i64, Option<String>)> {
    let rows = shard.query("SELECT id, email FROM public.plain ORDER BY id", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_swap_unique_values_meet_rows_of_the_targets_own_and_come_back() {
    let pair = Pair::start().await;
    let (mut from, mut to) = ends(&pair).await;
    let table = plain(&mut from, &mut to).await;
    let names = tenants(&mut from).await;
    let app = client(&pair.source.dsn("app")).await;
    let insert = |id: i64, tenant: &str, email: &str| {
        format!("INSERT INTO public.plain (tenant, id, email) VALUES ('{tenant}', {id}, '{email}')")
    };
    for (id, email) in [(1, "one"), (2, "two"), (3, "three")] {
        app.execute(&insert(id, &names[0], email), &[]).await.unwrap();
    }
    let mut sweeper = Sweeper::new(MoveId(7), ARCS.to_vec(), MoveLimits::default());
    assert_eq!(sweeper.sweep(&mut from, &mut to).await.unwrap().rows, 3);
    assert_eq!(emails(&mut to).await, emails(&mut from).await);

    // A swap through the sweeper, one captured row at a time. 3 takes over from a row that is deleted.
    app.batch_execute(
        "UPDATE public.plain SET email = 'x' WHERE id = 1; UPDATE public.plain SET email = 'one' WHERE id = 2;
         UPDATE public.plain SET email = 'two' WHERE id = 1",
    )
    .await
    .unwrap();
    assert!(sweeper.sweep(&mut from, &mut to).await.unwrap().rows >= 3);
    assert_eq!(emails(&mut to).await, emails(&mut from).await);
    app.batch_execute("DELETE FROM public.plain WHERE id = 2; UPDATE public.plain SET email = 'one' WHERE id = 3")
        .await
        .unwrap();
    sweeper.sweep(&mut from, &mut to).await.unwrap();
    assert_eq!(emails(&mut to).await, emails(&mut from).await);
    assert_eq!(backlog(&mut from, MoveId(7)).await.unwrap(), 0);

    // The same through a chunk whose range holds only one of the two rows.
    from.batch("SET session_replication_role = origin").await.unwrap();
    from.batch(
        "BEGIN; UPDATE public.plain SET email = 'x' WHERE id = 1; UPDATE public.plain SET email = 'two' WHERE id = 3;
         UPDATE public.plain SET email = 'one' WHERE id = 1; COMMIT; SET session_replication_role = replica",
    )
    .await
    .unwrap();
    let chunker =
        Chunker { move_id: MoveId(7), table: &table, count_repairs: true, settle_attempts_max: 8, effect: "Backfill" };
    let range = KeyRange { after: None, through: Some(vec!["1".into()]) };
    let done = chunker.reconcile(&mut from, &mut to, &range).await.unwrap();
    assert_eq!((done.rows, done.repaired), (1, 1));
    assert_eq!(emails(&mut to).await, emails(&mut from).await);
    let nothing = chunker.reconcile(&mut from, &mut to, &KeyRange::default()).await.unwrap();
    assert_eq!((nothing.rows, nothing.repaired), (2, 0));

    // A row of the target's own is never touched.
    let own =
        "INSERT INTO public.plain (tenant, id, email) SELECT 'x' || g, 50, 'fifty' FROM generate_series(1, 100) g \
               WHERE ringway.token('x' || g) <= 0 LIMIT 1";
    to.execute(own, &[]).await.unwrap();
    app.execute(&insert(50, &names[1], "moving"), &[]).await.unwrap();
    let error = sweeper.sweep(&mut from, &mut to).await.unwrap_err();
    assert!(matches!(&error, MoveError::Fatal(text) if text.contains("fifty") && text.contains("moving")), "{error}");
    let error = chunker.reconcile(&mut from, &mut to, &KeyRange::default()).await.unwrap_err();
    assert!(matches!(&error, MoveError::Fatal(text) if text.contains("fifty") && text.contains("moving")), "{error}");
    app.execute("DELETE FROM public.plain WHERE id = 50", &[]).await.unwrap();
    app.execute(&insert(51, &names[1], "fifty"), &[]).await.unwrap();
    let error = sweeper.sweep(&mut from, &mut to).await.unwrap_err();
    assert!(matches!(&error, MoveError::Fatal(text) if text.contains("fifty")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_waits_for_a_prepared_insert_of_its_key() {
    let pair = Pair::start().await;
    let (mut from, mut to) = ends(&pair).await;
    let table = plain(&mut from, &mut to).await;
    let tenant = tenants(&mut from).await.remove(0);
    let image = format!("({tenant},9,nine,77)");
    let mut mirror = pair.service("s2").await;
    mirror.batch("BEGIN").await.unwrap();
    let news = vec![image.clone()];
    mirror.query("SELECT ringway.apply(7, 'public', 'plain', '{}', $1)", &[&news]).await.unwrap();
    mirror.batch("PREPARE TRANSACTION 'ringway:1:1:999:1:1'").await.unwrap();
    let settler = Settler { move_id: MoveId(7), table: &table, attempts_max: 3, owner: Owner::Locked };
    // Gone from the source; the prepared insert is in the way, and the wait is bounded.
    let error = settler.settle(&mut from, &mut to, vec![image.clone()], &[]).await.unwrap_err();
    assert!(error.is_lock_timeout(), "{error}");
    mirror.batch("COMMIT PREPARED 'ringway:1:1:999:1:1'").await.unwrap();
    assert_eq!(emails(&mut to).await.len(), 1);
    let settled = settler.settle(&mut from, &mut to, vec![image], &[]).await.unwrap();
    assert_eq!((settled.written, settled.deleted), (0, 1));
    assert!(emails(&mut to).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_indexes_and_exclusions_conflict_for_the_rows_that_they_hold() {
    let pair = Pair::start().await;
    let (mut from, mut to) = ends(&pair).await;
    for shard in [&mut from, &mut to] {
        shard
            .batch(
                "CREATE TABLE public.slots (tenant text NOT NULL, id int8 PRIMARY KEY, place int, live bool, span int4range, r int,
                     EXCLUDE USING gist (span WITH &&) WHERE (span IS NOT NULL));
                 CREATE UNIQUE INDEX ON public.slots (abs(place)) WHERE live;
                 GRANT ALL ON public.slots TO app;
                 INSERT INTO ringway.sharded_table VALUES ('public.slots', 1, 'tenant');
                 SELECT ringway.install_guard('public.slots')",
            )
            .await
            .unwrap();
    }
    let tenant = tenants(&mut from).await.remove(0);
    // The target's own row is not held by the partial index, and has no span.
    let own = "INSERT INTO public.slots SELECT 'x' || g, 99, 1, false, NULL, 1 FROM generate_series(1, 100) g \
               WHERE ringway.token('x' || g) <= 0 LIMIT 1";
    to.execute(own, &[]).await.unwrap();
    let app = client(&pair.source.dsn("app")).await;
    app.batch_execute(&format!(
        "INSERT INTO public.slots VALUES ('{tenant}', 1, 1, true, '[1,5)', 1), ('{tenant}', 2, -1, false, '[10,15)', 1)"
    ))
    .await
    .unwrap();
    let mut sweeper = Sweeper::new(MoveId(7), ARCS.to_vec(), MoveLimits::default());
    sweeper.sweep(&mut from, &mut to).await.unwrap();
    // Each takes over what the other had, one captured row at a time.
    app.batch_execute(
        "UPDATE public.slots SET live = false WHERE id = 1; UPDATE public.slots SET live = true WHERE id = 2;
         UPDATE public.slots SET span = '[100,101)' WHERE id = 1; UPDATE public.slots SET span = '[1,5)' WHERE id = 2;
         UPDATE public.slots SET span = '[10,15)' WHERE id = 1",
    )
    .await
    .unwrap();
    sweeper.sweep(&mut from, &mut to).await.unwrap();
    let moving = "SELECT id, place, live, span::text FROM public.slots WHERE id < 99 ORDER BY id";
    let rows = |rows: Vec<tokio_postgres::Row>| -> Vec<(i64, i32, bool, String)> {
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
    };
    let expected = [(1, 1, false, "[10,15)".to_owned()), (2, -1, true, "[1,5)".to_owned())];
    assert_eq!(rows(to.query(moving, &[]).await.unwrap()), expected);
    // Once the index holds it, it is in the way.
    to.execute("UPDATE public.slots SET live = true, place = 7 WHERE id = 99", &[]).await.unwrap();
    app.execute("UPDATE public.slots SET place = -7 WHERE id = 2", &[]).await.unwrap();
    let error = sweeper.sweep(&mut from, &mut to).await.unwrap_err();
    assert!(matches!(&error, MoveError::Fatal(text) if text.contains("99")), "{error}");
}
