//! The sessions of one cutover: opened and warm before writes are held, kept from step to step until they are released.
//!
//! Nothing depends on them: a step that finds none (after a restart, or an error) opens them again.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::conn::ShardConn;
use super::context::MoveContext;
use super::effects;
use super::error::MoveError;
use super::state::Direction;
use super::table::READ_BY_KEY;

pub struct CutoverSessions {
    pub direction: Direction,
    /// To the shard that gives the arcs away.
    pub from: ShardConn,
    /// To the one that receives them.
    pub to: ShardConn,
    /// The fence's transaction on `to` is open, with the locks that opening the arcs there needs.
    pub to_is_locked: bool,
    /// To the same, for what must not be part of the transaction on `to`.
    pub finisher: ShardConn,
    /// None after a restart: then everything is asked while writes are held.
    pub tables: Option<KnownTables>,
}

/// What both ends' tables were before writes were held, and the stamps that say whether they still are.
pub struct KnownTables {
    pub from: Stamped,
    pub to: Stamped,
}

pub struct Stamped {
    /// Of `ringway.catalog_stamp`, taken before the fingerprint.
    pub stamp: String,
    pub fingerprint: String,
}

impl CutoverSessions {
    async fn open(ctx: &MoveContext, direction: Direction) -> Result<CutoverSessions, MoveError> {
        let (from, to) = ctx.record().ends(direction)?;
        let (mut from, to, finisher) = tokio::try_join!(ctx.connect(from), ctx.connect(to), ctx.connect(to))?;
        from.batch(READ_BY_KEY).await?;
        Ok(CutoverSessions { direction, from, to, to_is_locked: false, finisher, tables: None })
    }

    fn is_usable(&self) -> bool {
        self.from.is_usable() && self.to.is_usable() && self.finisher.is_usable()
    }
}

/// Before writes are held: a shard that does not answer holds none.
pub async fn prepare(ctx: &MoveContext, direction: Direction) -> Result<(), MoveError> {
    let begun = Instant::now();
    let opened = async {
        let mut sessions = CutoverSessions::open(ctx, direction).await?;
        effects::warm(ctx, &mut sessions).await?;
        Ok::<_, MoveError>(sessions)
    };
    let sessions = match opened.await {
        Ok(sessions) => sessions,
        Err(error) => {
            // A shard that was away when the control plane started has an older schema of ours.
            if error.has_code(&SqlState::UNDEFINED_FUNCTION) {
                let (from, to) = ctx.record().ends(direction)?;
                for shard in [from, to] {
                    ctx.cluster.migrate(shard).await?;
                }
            }
            return Err(error);
        }
    };
    tracing::debug!(r#move = ctx.id.0, took = ?begun.elapsed(), "the cutover's sessions are open");
    keep(ctx, sessions);
    Ok(())
}

/// The kept sessions, or new ones within the bound.
pub async fn sessions(ctx: &MoveContext, direction: Direction, limit: Duration) -> Result<CutoverSessions, MoveError> {
    let kept = ctx.live().cutover.take();
    if let Some(kept) = kept.filter(|kept| kept.direction == direction && kept.is_usable()) {
        return Ok(kept);
    }
    match tokio::time::timeout(limit, CutoverSessions::open(ctx, direction)).await {
        Ok(opened) => opened,
        Err(_) => Err(MoveError::Bound(format!("a shard did not answer within {} ms", limit.as_millis()))),
    }
}

/// For the next step. Sessions that have met an error are closed instead.
pub fn keep(ctx: &MoveContext, mut sessions: CutoverSessions) {
    if !sessions.is_usable() {
        return;
    }
    for session in [&mut sessions.from, &mut sessions.to, &mut sessions.finisher] {
        session.statement_timeout = Duration::from_millis(ctx.limits.statement_timeout_ms);
    }
    ctx.live().cutover = Some(sessions);
}

/// Writes go on.
pub fn close(ctx: &MoveContext) {
    ctx.live().cutover = None;
}
