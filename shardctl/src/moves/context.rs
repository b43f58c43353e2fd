//! What one running move's effects share: its record, its shards, its limits, and what operators see of it meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ringway_topology::ids::{Epoch, MoveId, ShardId};
use ringway_topology::model::{TableName, Topology};
use tokio::sync::{watch, Notify};

use super::conn::ShardConn;
use super::cutover::CutoverSessions;
use super::effects::is_published_with_its_state;
use super::error::MoveError;
use super::limits::MoveLimits;
use super::port::{Cluster, CutoverTurn};
use super::record::{MoveRecord, Request};
use super::state::{Direction, State};
use super::step::may_cancel;
use super::table::tables_of;

/// Not stored: begins anew with the process.
#[derive(Default)]
pub struct Live {
    /// Why the move does not get on at the moment: what its effect says, and what its sweeper says.
    pub effect_trouble: Option<String>,
    pub sweeper_trouble: Option<String>,
    pub captured_backlog: u64,
    /// When writes began to be held.
    pub held_since: Option<Instant>,
    /// Between two steps of a cutover.
    pub cutover: Option<CutoverSessions>,
    /// While this move cuts over.
    pub cutover_turn: Option<CutoverTurn>,
    /// The epoch that was stored with this state.
    pub published: Option<(State, Epoch)>,
    /// A process before this one was in the fence.
    pub resumed_in_fence: bool,
    /// Cutovers undone in a row, and when the next may begin.
    pub undone_in_a_row: u32,
    pub next_cutover: Option<Instant>,
    pub void_checked: Option<Instant>,
    /// Beginnings, rows and bytes of the last seconds' chunks.
    pub chunks: VecDeque<(Instant, u64, u64)>,
    /// Rows that a chunk of this table may have, after one that a shard did not answer in time.
    pub chunk_ceiling: Option<(TableName, u64)>,
}

/// Rates are those of this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);

pub struct MoveContext {
    pub id: MoveId,
    pub cluster: Cluster,
    pub limits: MoveLimits,
    record: watch::Sender<MoveRecord>,
    /// Held while a change of the record is being stored, so that changes are stored in order.
    storing: tokio::sync::Mutex<()>,
    live: Mutex<Live>,
    /// A command or a change has come in.
    pub wake: Notify,
}

impl MoveContext {
    pub fn new(record: MoveRecord, cluster: Cluster, limits: MoveLimits) -> MoveContext {
        MoveContext {
            id: record.id,
            cluster,
            limits,
            live: Mutex::new(Live { resumed_in_fence: matches!(record.state, State::Fence(_)), ..Live::default() }),
            record: watch::Sender::new(record),
            storing: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
        }
    }

    pub fn record(&self) -> MoveRecord {
        self.record.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<MoveRecord> {
        self.record.subscribe()
    }

    /// Stores the changed record, then lets it be seen.
    pub async fn update<T>(&self, change: impl FnOnce(&mut MoveRecord) -> T) -> Result<T, MoveError> {
        let _storing = self.storing.lock().await;
        let mut record = self.record();
        let answer = change(&mut record);
        if is_published_with_its_state(record.state) && record.state != self.record.borrow().state {
            let published = self.cluster.publish_record(&record).await?;
            self.live().published = published.map(|epoch| (record.state, epoch));
        } else {
            self.cluster.put_record(&record).await?;
        }
        self.record.send_replace(record);
        Ok(answer)
    }

    /// Whether this move may cut over now.
    pub fn take_cutover_turn(&self) -> bool {
        let mut live = self.live();
        if live.cutover_turn.is_none() {
            live.cutover_turn = self.cluster.try_cutover_turn();
        }
        live.cutover_turn.is_some()
    }

    /// How far a cutover is since writes began to be held.
    pub fn held_stage(&self, stage: &str) {
        let held_us = self.live().held_since.map_or(0, |since| since.elapsed().as_micros() as u64);
        tracing::debug!(r#move = self.id.0, held_us, stage, "cutover");
    }

    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn trouble(&self, text: impl Into<String>) {
        self.live().effect_trouble = Some(text.into());
    }

    pub fn no_trouble(&self) {
        self.live().effect_trouble = None;
    }

    /// A chunk that was begun then, and has just ended.
    pub fn count_chunk(&self, begun: Instant, rows: u64, bytes: u64) {
        let mut live = self.live();
        live.chunks.push_back((begun, rows, bytes));
        while live.chunks.front().is_some_and(|(begun, ..)| begun.elapsed() > RATE_WINDOW) && live.chunks.len() > 1 {
            live.chunks.pop_front();
        }
    }

    /// Rows and bytes per second, over the last seconds.
    pub fn rates(&self) -> (f64, f64) {
        let live = self.live();
        let Some((first, ..)) = live.chunks.front() else { return (0.0, 0.0) };
        let seconds = first.elapsed().as_secs_f64().max(0.001);
        let (rows, bytes) = live.chunks.iter().fold((0, 0), |(rows, bytes), (_, r, b)| (rows + r, bytes + b));
        (rows as f64 / seconds, bytes as f64 / seconds)
    }

    pub fn topology(&self) -> Arc<Topology> {
        self.cluster.topology()
    }

    /// A long effect makes way between two of its parts: for a cancellation, a pause, or when the move has stopped itself.
    pub fn check_interrupted(&self) -> Result<(), MoveError> {
        let record = self.record.borrow();
        let cancels = record.request == Some(Request::Cancel) && may_cancel(record.state);
        let pauses = (record.paused || record.stopped.is_some()) && record.state.may_pause();
        if cancels || pauses {
            Err(MoveError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits, unless woken by a command.
    pub async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.wake.notified() => {}
        }
    }

    pub async fn connect(&self, shard: ShardId) -> Result<ShardConn, MoveError> {
        let topology = self.topology();
        let shard = topology
            .shard(shard)
            .ok_or_else(|| MoveError::fatal(format!("shard number {shard} is not in the topology")))?;
        self.connect_dsn(&shard.dsn, &shard.name).await
    }

    pub async fn connect_dsn(&self, dsn: &str, shard: &str) -> Result<ShardConn, MoveError> {
        Ok(ShardConn::new(self.cluster.session(dsn, shard).await?, shard, &self.limits))
    }

    /// Sessions on the shard that owns the arcs and on the one that they are copied to.
    pub async fn connect_ends(&self, direction: Direction) -> Result<(ShardConn, ShardConn), MoveError> {
        let (from, to) = self.record().ends(direction)?;
        tokio::try_join!(self.connect(from), self.connect(to))
    }

    /// Names and key columns of the keyspace's tables.
    pub fn tables(&self) -> Vec<(TableName, String)> {
        tables_of(&self.topology(), self.record.borrow().keyspace)
    }

    pub fn acknowledge_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.acknowledge_timeout_ms)
    }
}
