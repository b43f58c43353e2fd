//! The failure table's two processes of ours, killed at every named step: every move goes on to its end, nothing is lost, and no
//! client notices a killed control plane.
//!
//! All points of one process are armed at once and each kills once, so that a tour through every kind of step dies at each.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ringway_proto::v1::TokenArc;
use ringway_tests::cluster::temporary_directory;
use ringway_tests::scenario::faults::{self, Faults};
use ringway_tests::scenario::mover::{Command, Order};
use ringway_tests::scenario::{sql, traces, turn, Scenario};
use ringway_tests::shop::audit::Mode;

const CLIENTS: usize = 4;
/// Tours before a point counts as never reached.
const TOURS_MAX: usize = 3;
const GOES_ON: Duration = Duration::from_secs(30);
const SCHEMA_MAX: Duration = Duration::from_secs(60);
const FENCE_MAX: Duration = Duration::from_secs(30);
const FENCE_POINT: &str = "fence_met";
/// A transaction that holds a cutover up is let go after this; the cutover must have undone itself before.
const BLOCKED_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_dies_at_every_step() -> Result<()> {
    let points = faults::list("shardctl", &["serve"]).await?;
    play(points, Part::ControlPlane).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_dies_at_every_step() -> Result<()> {
    let points = faults::list("ringway-gateway", &[]).await?;
    play(points, Part::Gateway).await
}

/// Points that are reached while writes are held: each kill there makes the hold up to a second longer, and clients wait for ten.
const HELD_STEPS: [&str; 3] = ["Fence", "Switch", "PublishRelease"];
const KILLS_PER_HOLD_MAX: usize = 4;

/// Arms what is reached while writes are held in portions, one per cutover.
struct Plan {
    faults: Faults,
    forward: Mutex<Vec<String>>,
    reverse: Mutex<Vec<String>>,
}

impl Plan {
    fn new(faults: Faults, points: &[String], part: Part) -> Result<Plan> {
        let held = |point: &&String| {
            let step = point.split(':').next().unwrap_or_default();
            let step = step.strip_prefix("Reverse").unwrap_or(step);
            part == Part::ControlPlane && (HELD_STEPS.contains(&step) || point.ends_with("PublishHold:after"))
        };
        let (later, now): (Vec<&String>, Vec<&String>) = points.iter().partition(held);
        let (reverse, forward): (Vec<&String>, Vec<&String>) =
            later.into_iter().partition(|p| p.starts_with("Reverse"));
        faults.arm(now.into_iter().cloned())?;
        let list = |points: Vec<&String>| Mutex::new(points.into_iter().cloned().collect());
        Ok(Plan { faults, forward: list(forward), reverse: list(reverse) })
    }

    /// Called before every command that holds writes.
    fn before(&self, command: Command) -> Result<()> {
        let list = if command == Command::RollBack { &self.reverse } else { &self.forward };
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        let portion = list.len().min(KILLS_PER_HOLD_MAX);
        self.faults.arm(list.drain(..portion))
    }

    fn is_waiting(&self) -> bool {
        [&self.forward, &self.reverse]
            .iter()
            .any(|list| !list.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    ControlPlane,
    Gateway,
}

async fn play(points: Vec<String>, part: Part) -> Result<()> {
    let _turn = turn().await?;
    let directory = temporary_directory()?;
    let faults = Faults::new(directory.path())?;
    let mut scenario = Scenario::start(CLIENTS, faults.environment()).await?;
    if part == Part::Gateway {
        scenario.shopping.survive_errors();
    }
    println!("{} points: {}", points.len(), points.join(" "));
    let started = Instant::now();
    let plan = Plan::new(faults, &points, part)?;
    let outcome = tours(&mut scenario, &plan, &points, part).await;
    let faults = &plan.faults;
    println!("{} of {} points in {:?}", faults.reached().len(), points.len(), started.elapsed());
    let outcome = outcome.with_context(|| format!("points reached, in order: {:?}", faults.reached()));
    scenario.finish(outcome).await
}

async fn tours(scenario: &mut Scenario, plan: &Plan, points: &[String], part: Part) -> Result<()> {
    let faults = &plan.faults;
    let mut ends = Ends { source: "s1", target: "s2" };
    for tour in 0..TOURS_MAX {
        let left = faults.remaining();
        if tour > 0 && left.is_empty() && !plan.is_waiting() {
            break;
        }
        println!("tour {tour}, {} points to reach", left.len());
        scenario.shopping.start().await?;
        if tour == 0 {
            join(scenario, plan).await.context("a split onto a new shard")?;
        }
        if part == Part::Gateway {
            schema_changes(scenario, faults).await.context("schema changes")?;
        }
        back_and_forth(scenario, plan, ends)
            .await
            .with_context(|| format!("a move from {} to {}", ends.source, ends.target))?;
        cancel(scenario, ends).await.context("a cancelled move")?;
        leftovers(scenario).await.context("prepared transactions that a dead gateway left")?;
        scenario.shopping.goes_on(50, GOES_ON).await?;
        scenario.shopping.stop().await?;
        if part == Part::ControlPlane {
            scenario.shopping.saw_no_errors()?;
        }
        traces::none_stays_prepared(&scenario.cluster).await?;
        scenario.shopping.audit(&scenario.cluster, Mode::Complete).await?;
        ends = Ends { source: ends.target, target: ends.source };
    }
    let reached: BTreeSet<String> = faults.reached().into_iter().collect();
    let missed: Vec<&String> = points.iter().filter(|point| !reached.contains(*point)).collect();
    ensure!(missed.is_empty(), "never reached: {missed:?}");
    println!("  {} errors seen by clients {:?}", scenario.shopping.errors, scenario.shopping.error_texts.first());
    scenario.cluster.shardctl(&["verify"]).await.context("shardctl verify")?;
    Ok(())
}

#[derive(Clone, Copy)]
struct Ends {
    source: &'static str,
    target: &'static str,
}

/// A new shard joins and takes rows over: from here on a transaction may have more than two participants.
async fn join(scenario: &Scenario, plan: &Plan) -> Result<()> {
    let spare = scenario.cluster.spare().await?;
    let id = scenario.mover.start(&Order::half("s1", "s3").onto(&spare)).await?;
    scenario.mover.reach(id, &["ready"]).await?;
    plan.before(Command::CutOver)?;
    scenario.mover.drive(id, Command::CutOver, "switched").await?;
    scenario.mover.drive(id, Command::Complete, "done").await?;
    Ok(())
}

/// Tables come and go until no gateway dies of it; then every shard has them, or none.
async fn schema_changes(scenario: &Scenario, faults: &Faults) -> Result<()> {
    let topology = scenario.cluster.topology().await?;
    for (statement, tables) in [
        ("CREATE TABLE IF NOT EXISTS passing (id int PRIMARY KEY)", "1"),
        ("DROP TABLE IF EXISTS passing", "0"),
        ("CREATE TABLE IF NOT EXISTS passing (id int PRIMARY KEY)", "1"),
        ("DROP TABLE IF EXISTS passing", "0"),
    ] {
        ringway_tests::scenario::until(statement, SCHEMA_MAX, || async {
            let client = sql::connect(&scenario.cluster.dsn("postgres")).await?;
            client.batch_execute(statement).await?;
            Ok(true)
        })
        .await?;
        for shard in &topology.shards {
            let client = sql::connect(&shard.dsn).await?;
            let count = sql::value(&client, "SELECT count(*) FROM pg_class WHERE relname = 'passing'").await?;
            ensure!(count == tables, "after {statement} {} has {count} such tables", shard.name);
        }
    }
    println!("  schema changes are done; left {:?}", faults.remaining());
    Ok(())
}

/// A write that a gateway sends to closed arcs: another control plane's fence, or an epoch that this gateway has not heard of.
async fn meet_fence(scenario: &Scenario, faults: &Faults, shard: &str, arcs: &[TokenArc]) -> Result<()> {
    if !faults.remaining().iter().any(|point| point == FENCE_POINT) {
        return Ok(());
    }
    let tenant = a_tenant(scenario, arcs).await?;
    let service = sql::connect(&scenario.cluster.shard_dsn(shard).await?).await?;
    let token = ringway_topology::token::token_of_int(tenant).0;
    let keyspace = scenario.cluster.topology().await?.keyspaces.first().context("no keyspace")?.id;
    let arc = format!("int8multirange(int8range('{token}', '{token}', '[]'))");
    service.batch_execute(&format!("SELECT ringway.close_arcs({keyspace}, {arc})")).await?;
    let met = ringway_tests::scenario::until("a write that meets the fence", FENCE_MAX, || async {
        if let Ok(client) = sql::connect(&scenario.cluster.dsn("postgres")).await {
            let statement = format!("UPDATE orders SET note = note WHERE tenant_id = {tenant} AND id = -1");
            let _ = tokio::time::timeout(Duration::from_secs(1), client.batch_execute(&statement)).await;
        }
        Ok(!faults.remaining().iter().any(|point| point == FENCE_POINT))
    })
    .await;
    service.batch_execute(&format!("SELECT ringway.open_arcs({keyspace}, {arc})")).await?;
    met
}

/// A cutover that must undo itself, the switch; a rollback that must undo itself, the rollback; the switch again, a rollback that
/// has to copy again, the switch, completion.
async fn back_and_forth(scenario: &Scenario, plan: &Plan, ends: Ends) -> Result<()> {
    let mover = &scenario.mover;
    let id = mover.start(&Order::half(ends.source, ends.target)).await?;
    let status = mover.reach(id, &["ready"]).await?;
    let arcs = status.r#move.context("a status without its move")?.arcs;
    direct_write(scenario, ends.source, &arcs).await.context("a write that no gateway sees")?;
    meet_fence(scenario, &plan.faults, ends.source, &arcs).await?;
    plan.before(Command::CutOver)?;
    blocked(scenario, id, &arcs, Command::CutOver).await?;
    mover.reach(id, &["switched"]).await?;
    scenario.shopping.goes_on(50, GOES_ON).await?;
    direct_write(scenario, ends.target, &arcs).await.context("a write that no gateway sees, after the switch")?;
    plan.before(Command::RollBack)?;
    blocked(scenario, id, &arcs, Command::RollBack).await?;
    mover.reach(id, &["ready"]).await?;
    scenario.shopping.goes_on(50, GOES_ON).await?;

    loop {
        plan.before(Command::CutOver)?;
        mover.drive(id, Command::CutOver, "switched").await?;
        if !plan.is_waiting() {
            break;
        }
        plan.before(Command::RollBack)?;
        mover.drive(id, Command::RollBack, "ready").await?;
    }
    rewrite(scenario, ends.target).await.context("rewriting a table")?;
    mover.drive(id, Command::RollBack, "ready").await?;
    mover.drive(id, Command::CutOver, "switched").await?;
    scenario.shopping.goes_on(50, GOES_ON).await?;
    mover.drive(id, Command::Complete, "done").await?;
    Ok(())
}

/// What was verified before is worth nothing once a table has other files.
async fn rewrite(scenario: &Scenario, shard: &str) -> Result<()> {
    let client = sql::connect(&as_postgres(&scenario.cluster.shard_dsn(shard).await?)?).await?;
    client.batch_execute("VACUUM FULL public.settings").await?;
    Ok(())
}

/// A client holds a row of the arcs when the cutover begins, until an attempt has undone itself.
async fn blocked(scenario: &Scenario, id: u64, arcs: &[TokenArc], command: Command) -> Result<()> {
    let tenant = a_tenant(scenario, arcs).await?;
    // A gateway that was just killed is on its way.
    let dsn = scenario.cluster.dsn("postgres");
    ringway_tests::scenario::until("a gateway", GOES_ON, || async { Ok(sql::connect(&dsn).await.is_ok()) }).await?;
    let client = sql::connect(&dsn).await?;
    // No other client waits for this row: nobody writes loaded orders. A gateway that is killed under this transaction ends it;
    // then the cutover is not held up.
    let statement = format!("BEGIN; UPDATE orders SET note = note WHERE tenant_id = {tenant} AND id = -1");
    let open = client.batch_execute(&statement).await.is_ok();
    let undone = scenario.mover.status(id).await?.cutover_attempts_undone;
    scenario.mover.command(id, command).await?;
    let started = Instant::now();
    while open && started.elapsed() < BLOCKED_MAX {
        let status = scenario.mover.status(id).await?;
        if status.cutover_attempts_undone > undone {
            println!("  an attempt at {command:?} has undone itself after {:?}", started.elapsed());
            break;
        }
        if client.is_closed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = client.batch_execute("ROLLBACK").await;
    Ok(())
}

async fn a_tenant(scenario: &Scenario, arcs: &[TokenArc]) -> Result<i64> {
    let client = sql::connect(&scenario.cluster.shard_dsn("s1").await?).await?;
    let size = scenario.shopping.size();
    let query = format!(
        "SELECT t FROM generate_series(1::int8, {}) t WHERE {} ORDER BY t LIMIT 1",
        size.tenants,
        traces::in_arcs(arcs, "t")
    );
    Ok(client.query_one(&query, &[]).await.context("no tenant in the arcs")?.get(0))
}

/// Captured rows that only the sweeper can settle. The values stay as they are: the shop's journals know nothing of this.
async fn direct_write(scenario: &Scenario, shard: &str, arcs: &[TokenArc]) -> Result<()> {
    let dsn = scenario.cluster.shard_dsn(shard).await?;
    let client = sql::connect(&as_postgres(&dsn)?).await?;
    let touched = client
        .execute(
            &format!(
                "UPDATE public.customers SET email = email WHERE id = 2 AND {}",
                traces::in_arcs(arcs, "tenant_id")
            ),
            &[],
        )
        .await?;
    ensure!(touched > 0, "no customer in the arcs on {shard}");
    Ok(())
}

/// The same server for a client that is not the service role.
fn as_postgres(dsn: &str) -> Result<String> {
    let (_, rest) = dsn.split_once('@').with_context(|| format!("no user in {dsn}"))?;
    Ok(format!("postgresql://postgres@{rest}"))
}

async fn cancel(scenario: &Scenario, ends: Ends) -> Result<()> {
    // After completion the target has the arcs: some of them travel back, and stay.
    let id = scenario.mover.start(&Order::half(ends.target, ends.source)).await?;
    scenario.mover.reach(id, &["ready"]).await?;
    scenario.mover.drive(id, Command::Cancel, "cancelled").await?;
    Ok(())
}

/// What a dead gateway may leave: one transaction that was decided, one that was not.
async fn leftovers(scenario: &Scenario) -> Result<()> {
    let topology = scenario.cluster.topology().await?;
    let anchor = topology.shards.iter().find(|s| s.name == "s1").context("no s1")?;
    let other = topology.shards.iter().find(|s| s.name == "s2").context("no s2")?;
    let on_anchor = sql::connect(&anchor.dsn).await?;
    let on_other = sql::connect(&other.dsn).await?;
    on_other.batch_execute("CREATE TABLE IF NOT EXISTS public.leftover (outcome text)").await?;
    on_other.batch_execute("DELETE FROM public.leftover").await?;
    let gateway = 0x7fff_0000_0000_0000_u64;
    for (n, outcome) in [(1, "committed"), (2, "rolled back")] {
        let xid: String = sql::value(&on_anchor, "SELECT pg_current_xact_id()::text").await?;
        let gid = format!("ringway:1:{}:{xid}:{gateway}:{n}", anchor.number);
        if n == 1 {
            on_anchor.execute("INSERT INTO ringway.decided (gid) VALUES ($1)", &[&gid]).await?;
        }
        on_other
            .batch_execute(&format!(
                "BEGIN; INSERT INTO public.leftover VALUES ('{outcome}'); PREPARE TRANSACTION '{gid}'"
            ))
            .await?;
    }
    let pattern = format!("ringway:1:{}:%:{gateway}:%", anchor.number);
    ringway_tests::scenario::until("the end of both", traces::RESOLVED_MAX * 2, || async {
        let query = "SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE $1";
        Ok(on_other.query_one(query, &[&pattern]).await?.get::<_, i64>(0) == 0)
    })
    .await?;
    let left = sql::column(&on_other, "SELECT outcome FROM public.leftover").await?;
    ensure!(left == ["committed"], "of a decided and an undecided transaction there is {left:?}");
    on_other.batch_execute("DROP TABLE public.leftover").await?;
    Ok(())
}
