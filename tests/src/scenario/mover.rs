//! Drives moves over gRPC, through restarts of the control plane: a request whose answer is lost is asked again, unless the move
//! shows that it was heard.

use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};
use ringway_proto::v1::operations_client::OperationsClient;
use ringway_proto::v1::start_move_request::What;
use ringway_proto::v1::topology_client::TopologyClient;
use ringway_proto::v1::{GetTopologyRequest, ListMovesRequest, MoveRequest, MoveStatus, StartMoveRequest};
use tonic::transport::Channel;
use tonic::Code;

use crate::demo::watch::{line, phase};

/// A control plane that was killed is back well within this.
const LOST_MAX: Duration = Duration::from_secs(30);
/// A move that shows no change for this long is stuck.
const STUCK_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Longer than any test: moves complete when they are told to.
const ROLLBACK_WINDOW: Duration = Duration::from_secs(3600);

pub struct Mover {
    grpc: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    CutOver,
    RollBack,
    Complete,
    Cancel,
}

impl Command {
    /// Phases that show that the command was heard.
    fn heard(self) -> &'static [&'static str] {
        match self {
            Command::CutOver => &["cutting_over", "switched"],
            Command::RollBack => &["rolling_back", "ready"],
            Command::Complete => &["completing", "done"],
            Command::Cancel => &["cancelling", "cancelled"],
        }
    }
}

/// What moves where.
#[derive(Clone, Debug, Default)]
pub struct Order {
    pub source: &'static str,
    pub target: &'static str,
    /// A new shard's DSN: the target joins first.
    pub target_dsn: String,
    pub what: Option<What>,
    /// Empty: the only one.
    pub keyspace: &'static str,
    pub manual: bool,
    /// 0: none.
    pub bytes_per_second_max: u64,
}

impl Order {
    /// Half of the source, cut over by hand.
    pub fn half(source: &'static str, target: &'static str) -> Order {
        Order { source, target, what: Some(What::Fraction(0.5)), manual: true, ..Order::default() }
    }

    /// All of the source's arcs, cut over by hand.
    pub fn all(source: &'static str, target: &'static str) -> Order {
        Order { what: Some(What::All(true)), ..Order::half(source, target) }
    }

    pub fn onto(self, dsn: &str) -> Order {
        Order { target_dsn: dsn.into(), ..self }
    }

    pub fn of(self, keyspace: &'static str) -> Order {
        Order { keyspace, ..self }
    }

    /// Slow enough that a test meets the backfill at work.
    pub fn slowly(self, bytes_per_second_max: u64) -> Order {
        Order { bytes_per_second_max, ..self }
    }

    pub fn automatic(self) -> Order {
        Order { manual: false, ..self }
    }
}

/// Whether asking again may help.
fn lost(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

impl Mover {
    pub fn new(grpc: String) -> Mover {
        Mover { grpc }
    }

    async fn client(&self) -> Result<OperationsClient<Channel>> {
        let started = Instant::now();
        loop {
            match OperationsClient::connect(self.grpc.clone()).await {
                Ok(client) => return Ok(client),
                Err(error) if started.elapsed() > LOST_MAX => {
                    return Err(error).context("the control plane does not come back");
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// DSN of a shard's primary, for the service role.
    pub async fn shard_dsn(&self, name: &str) -> Result<String> {
        let started = Instant::now();
        let topology = loop {
            self.client().await?;
            let asked = async {
                let mut client = TopologyClient::connect(self.grpc.clone()).await?;
                anyhow::Ok(client.get(GetTopologyRequest {}).await?.into_inner())
            };
            match asked.await {
                Ok(topology) => break topology,
                Err(error) if started.elapsed() > LOST_MAX => return Err(error.context("asking for the topology")),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        let shard = topology.shards.into_iter().find(|s| s.name == name).with_context(|| format!("no shard {name}"))?;
        Ok(shard.dsn)
    }

    pub async fn status(&self, id: u64) -> Result<MoveStatus> {
        let started = Instant::now();
        loop {
            match self.client().await?.get_move(MoveRequest { id }).await {
                Ok(status) => return Ok(status.into_inner()),
                Err(status) if lost(&status) && started.elapsed() < LOST_MAX => tokio::time::sleep(POLL).await,
                Err(status) => return Err(status).context("asking for the move"),
            }
        }
    }

    pub async fn list(&self, all: bool) -> Result<Vec<MoveStatus>> {
        let started = Instant::now();
        loop {
            match self.client().await?.list_moves(ListMovesRequest { all }).await {
                Ok(moves) => return Ok(moves.into_inner().moves),
                Err(status) if lost(&status) && started.elapsed() < LOST_MAX => tokio::time::sleep(POLL).await,
                Err(status) => return Err(status).context("listing moves"),
            }
        }
    }

    /// Starts a move; its number. One that started although its answer was lost is found again by its shards.
    pub async fn start(&self, order: &Order) -> Result<u64> {
        let request = StartMoveRequest {
            source: order.source.into(),
            target: order.target.into(),
            target_dsn: order.target_dsn.clone(),
            what: order.what.clone(),
            keyspace: order.keyspace.into(),
            manual: order.manual,
            rollback_window_ms: ROLLBACK_WINDOW.as_millis() as u64,
            kind: if order.target_dsn.is_empty() { "move" } else { "split" }.into(),
            rate_limit_bytes_per_second: order.bytes_per_second_max,
        };
        let known: Vec<u64> = self.list(true).await?.iter().filter_map(|s| s.r#move.as_ref().map(|m| m.id)).collect();
        let started = Instant::now();
        loop {
            match self.client().await?.start_move(request.clone()).await {
                Ok(status) => {
                    return status.into_inner().r#move.map(|m| m.id).context("the control plane named no move")
                }
                Err(status) if lost(&status) && started.elapsed() < LOST_MAX => {
                    let found = self.list(true).await?.into_iter().find(|s| {
                        s.source_name == order.source
                            && s.target_name == order.target
                            && s.r#move.as_ref().is_some_and(|m| !known.contains(&m.id))
                    });
                    if let Some(id) = found.and_then(|s| s.r#move).map(|m| m.id) {
                        return Ok(id);
                    }
                    tokio::time::sleep(POLL).await;
                }
                Err(status) => {
                    bail!(
                        "starting a move from {} to {}: {} ({:?})",
                        order.source,
                        order.target,
                        status.message(),
                        status.code()
                    )
                }
            }
        }
    }

    pub async fn command(&self, id: u64, command: Command) -> Result<()> {
        let started = Instant::now();
        let mut asked = 0;
        loop {
            asked += 1;
            let mut client = self.client().await?;
            let request = MoveRequest { id };
            let answer = match command {
                Command::CutOver => client.cut_over_move(request).await,
                Command::RollBack => client.roll_back_move(request).await,
                Command::Complete => client.complete_move(request).await,
                Command::Cancel => client.cancel_move(request).await,
            };
            let Err(status) = answer else { return Ok(()) };
            let heard = asked > 1 || lost(&status);
            if heard && command.heard().contains(&phase(&self.status(id).await?)) {
                return Ok(());
            }
            if !lost(&status) || started.elapsed() > LOST_MAX {
                bail!("{command:?} of move {id}: {} ({:?})", status.message(), status.code());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the move is in one of the phases.
    pub async fn reach(&self, id: u64, phases: &[&str]) -> Result<MoveStatus> {
        let (mut last_line, mut last_phase, mut last_change) = (String::new(), String::new(), Instant::now());
        loop {
            let status = self.status(id).await?;
            let now = line(&status);
            if now != last_line {
                last_change = Instant::now();
            }
            if phase(&status) != last_phase {
                println!("{now}");
                last_phase = phase(&status).to_string();
            }
            last_line = now;
            if phases.contains(&phase(&status)) {
                return Ok(status);
            }
            if matches!(phase(&status), "done" | "cancelled") {
                bail!("move {id} ended as {} while waiting for {phases:?}: {}", phase(&status), status.degraded);
            }
            if last_change.elapsed() > STUCK_MAX {
                bail!("move {id} shows no change for {STUCK_MAX:?}:\n{last_line}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Commands, then waits for the phase.
    pub async fn drive(&self, id: u64, command: Command, phase: &str) -> Result<MoveStatus> {
        self.command(id, command).await?;
        self.reach(id, &[phase]).await
    }
}
