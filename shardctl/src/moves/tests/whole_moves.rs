use crate::dev::postgres::SERVICE_ROLE;
use ringway_topology::model::Phase;
use ringway_topology::token::Token;

use super::harness::{audit, client, Pair, Writers, MOVING};

/// Rows beside the writers', so that there is something to copy.
const FILL: &str = r#"
INSERT INTO public.everything (tenant, id, version, note, price, at, doc, raw, tags, feeling, half, span)
SELECT 'tenant ' || g % 500, 1000000 + g, g, CASE WHEN g % 7 > 0 THEN E'it''s "' || g || E'"\t\\ é' END, g / 3.0, now() - g * interval '1 s',
       jsonb_build_object('g', g), decode(md5(g::text), 'hex'), ARRAY[g::text, NULL, '{'], 'bad "mood"', 1 / g::float8, g * interval '1 min'
FROM generate_series(1, 3000) g;
INSERT INTO public.plain (tenant, id, email) SELECT 'tenant ' || g % 500, g, 'mail' || g FROM generate_series(1, 1000) g;
CREATE TRIGGER touch BEFORE UPDATE ON public.plain FOR EACH ROW EXECUTE FUNCTION public.touch();
ANALYZE;
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_under_writers_that_know_no_gateway() {
    let pair = Pair::start().await;
    client(&pair.source.dsn(SERVICE_ROLE)).await.batch_execute(FILL).await.unwrap();
    let before = pair.rows("s1", &format!("{MOVING} AND id >= 1000")).await;
    let writers = Writers::start(&pair, 4);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let id = pair.engine.start(pair.half()).await.unwrap();
    let status = pair.until(id, Phase::Done).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (expected, writes) = writers.stop().await;
    println!("{writes} writes, {status:#?}");
    assert!(status.verification.passed);
    assert_eq!(status.verification.rows_repaired, 0, "{status:#?}");
    assert_eq!(status.cutovers.len(), 1);
    audit(&pair, MOVING, &expected).await;
    // Every kind of column has travelled unchanged.
    let moved = pair.rows("s2", "id >= 1000000 OR id < 1001").await;
    let moved: Vec<String> = moved.into_iter().filter(|row| before.contains(row)).collect();
    assert_eq!(moved.len(), before.len());
    assert!(pair.rows("s1", MOVING).await.is_empty());
    // The source keeps a standing fence, the target none; neither keeps anything else of the move.
    assert_eq!(pair.traces("s2").await, Vec::<String>::new());
    let left = pair.traces("s1").await;
    assert!(left.iter().all(|trace| trace.starts_with("trigger") || trace == "closed {[1,)}"), "{left:?}");
    let topology = pair.control.topology();
    assert!(topology.moves.is_empty());
    let ring = topology.keyspaces.values().next().unwrap().ring();
    assert_eq!(ring.owner(Token(1)), topology.shard_named("s2").unwrap().id);
    assert_eq!(ring.owner(Token(0)), topology.shard_named("s1").unwrap().id);
    let refused = client(&pair.source.dsn("app")).await;
    let sql = "INSERT INTO public.plain (tenant, id) SELECT t, 5000 FROM generate_series(1, 100) g, LATERAL (SELECT 'x' || g AS t) n \
               WHERE ringway.token(t) > 0 LIMIT 1";
    assert_eq!(refused.execute(sql, &[]).await.unwrap_err().code().unwrap().code(), "RW002");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_is_rolled_back_without_a_loss_and_cancelled_without_a_trace() {
    let pair = Pair::start().await;
    client(&pair.source.dsn(SERVICE_ROLE)).await.batch_execute(FILL).await.unwrap();
    let writers = Writers::start(&pair, 3);
    let mut request = pair.half();
    request.manual = true;
    let id = pair.engine.start(request.clone()).await.unwrap();
    pair.until(id, Phase::Ready).await;
    let overlapping = pair.engine.start(request).await.unwrap_err().to_string();
    assert!(overlapping.contains("move 1 is at work on these arcs"), "{overlapping}");
    assert!(pair.engine.roll_back(id).await.is_err());
    pair.engine.cut_over(id).await.unwrap();
    pair.until(id, Phase::Switched).await;
    assert!(pair.engine.cancel(id).await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    pair.engine.roll_back(id).await.unwrap();
    let status = pair.until(id, Phase::Ready).await;
    assert_eq!(status.cutovers.len(), 2, "{status:#?}");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    pair.engine.cut_over(id).await.unwrap();
    pair.until(id, Phase::Switched).await;
    pair.engine.roll_back(id).await.unwrap();
    pair.until(id, Phase::Ready).await;
    pair.engine.cancel(id).await.unwrap();
    pair.until(id, Phase::Cancelled).await;
    let (expected, _) = writers.stop().await;
    assert!(pair.rows("s2", "true").await.is_empty());
    assert_eq!(pair.traces("s1").await, Vec::<String>::new());
    // What it owned for a while it has given away: a standing fence stays.
    let left = pair.traces("s2").await;
    assert!(left.iter().all(|trace| trace.starts_with("trigger") || trace == "closed {[1,)}"), "{left:?}");
    audit(&pair, "false", &expected).await;
    assert!(pair.control.topology().moves.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_cancelled_before_the_switch_leaves_no_trace() {
    let pair = Pair::start().await;
    client(&pair.source.dsn(SERVICE_ROLE)).await.batch_execute(FILL).await.unwrap();
    let before = pair.rows("s1", "id >= 1000000").await;
    let writers = Writers::start(&pair, 2);
    let mut request = pair.half();
    request.manual = true;
    let mut cancelled_in = std::collections::BTreeSet::new();
    for after_ms in [Some(0), Some(40), Some(80), Some(160), Some(300), Some(600), None] {
        let id = pair.engine.start(request.clone()).await.unwrap();
        match after_ms {
            Some(after_ms) => tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await,
            // However slow the machine is.
            None => {
                pair.until(id, Phase::Ready).await;
            }
        }
        cancelled_in.insert(pair.engine.cancel(id).await.unwrap().as_move.phase);
        pair.until(id, Phase::Cancelled).await;
        assert!(pair.rows("s2", "true").await.is_empty());
        for name in ["s1", "s2"] {
            assert_eq!(pair.traces(name).await, Vec::<String>::new(), "{name}");
        }
        assert!(pair.control.topology().moves.is_empty());
    }
    assert!(cancelled_in.len() > 1, "{cancelled_in:?}");
    let (expected, _) = writers.stop().await;
    assert_eq!(pair.rows("s1", "id >= 1000000").await, before);
    audit(&pair, "false", &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewritten_table_is_copied_again_before_the_switch() {
    let pair = Pair::start().await;
    let mut request = pair.half();
    request.manual = true;
    let app = client(&pair.source.dsn(SERVICE_ROLE)).await;
    app.batch_execute(FILL).await.unwrap();
    let id = pair.engine.start(request).await.unwrap();
    pair.until(id, Phase::Ready).await;
    // A volatile default: every row is rewritten, differently on each shard.
    let ddl = "ALTER TABLE public.plain ADD COLUMN luck float8 DEFAULT random()";
    for shard in [&pair.source, &pair.target] {
        client(&shard.dsn(SERVICE_ROLE)).await.batch_execute(ddl).await.unwrap();
    }
    // Either the cutover finds the rewrite, or the look that a waiting move takes every few seconds was first.
    if pair.engine.cut_over(id).await.is_err() {
        pair.until(id, Phase::Ready).await;
        pair.engine.cut_over(id).await.unwrap();
    }
    let status = pair.until(id, Phase::Switched).await;
    assert!(status.verification.passed);
    assert_eq!(pair.rows("s1", MOVING).await, pair.rows("s2", MOVING).await);
    pair.engine.complete(id).await.unwrap();
    pair.until(id, Phase::Done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_goes_on_where_a_killed_engine_left_it() {
    let pair = Pair::start().await;
    client(&pair.source.dsn(SERVICE_ROLE)).await.batch_execute(FILL).await.unwrap();
    let writers = Writers::start(&pair, 2);
    let mut request = pair.half();
    request.rollback_window_ms = 100;
    let id = pair.engine.start(request).await.unwrap();
    // Whatever it was doing: a new engine over the same store, many times over.
    let mut engine = pair.engine.clone();
    let mut round = 0;
    while !engine.get(id).unwrap().as_move.phase.is_final() {
        round += 1;
        assert!(round < 100, "{:#?}", engine.get(id).unwrap());
        engine.drop_tasks();
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        engine = crate::moves::Engine::new(pair.control.clone(), crate::moves::MoveLimits::default());
        engine.resume_all().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30 + 15 * round)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let (expected, _) = writers.stop().await;
    assert_eq!(engine.get(id).unwrap().as_move.phase, Phase::Done);
    audit(&pair, MOVING, &expected).await;
    assert!(pair.rows("s1", MOVING).await.is_empty());
}
