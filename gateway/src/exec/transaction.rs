//! A session's transaction: what is open on which shard, and how it is opened. Ends in [`super::commit`].

use std::collections::BTreeMap;
use std::sync::Arc;

use ringway_topology::ids::ShardId;

use super::cursors::merged::Merged;
use super::cursors::Cursors;
use super::listen::session::Change;
use super::reports::{Mark, Values};
use super::search_path::Names;
use super::view::View;
use crate::plan::types::{Isolation, TransactionModes};
use crate::pool::connection::StatementId;
use crate::pool::settings::Settings;
use crate::pool::ReadyConn;
use ringway_topology::model::quote_ident;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Block {
    /// Every statement is its own transaction.
    #[default]
    None,
    /// One transaction up to Sync, or to the end of a simple query, made by the gateway.
    Implicit,
    /// BEGIN.
    Explicit,
}

/// The transaction's part on one shard.
#[derive(Debug)]
pub struct Participant {
    pub connection: ReadyConn,
    /// It may have written or locked rows.
    pub wrote: bool,
    /// It may have raised notifications: PostgreSQL does not prepare it then.
    pub notified: bool,
    /// It has made temporary tables for rows of other shards: PostgreSQL does not prepare it then.
    pub temporary: bool,
    /// It has captured rows: its transaction id.
    pub captured: Option<u64>,
    /// Requests that the gateway has queued in front of the next statement: see [`super::prefix`].
    pub prefix: u32,
    /// They set what the transaction has set, and the client knows these values of settings already.
    pub told: Option<Values>,
    /// Settings of the connection when the transaction began.
    pub settings_before: Option<Settings>,
}

impl Participant {
    pub fn new(connection: ReadyConn) -> Participant {
        Participant {
            connection,
            wrote: false,
            notified: false,
            temporary: false,
            captured: None,
            prefix: 0,
            told: None,
            settings_before: None,
        }
    }
}

#[derive(Debug)]
pub struct Savepoint {
    pub name: String,
    pub settings: Settings,
    pub local_settings: Settings,
    /// How much of the transaction's `log` was there.
    pub log: usize,
    pub reports: Mark,
    /// And of its `listens`.
    pub listens: usize,
}

#[derive(Debug, Default)]
pub struct Transaction {
    pub block: Block,
    /// Only its end is accepted.
    pub failed: bool,
    pub modes: TransactionModes,
    /// Statements that touched rows.
    pub statements: u64,
    pub participants: BTreeMap<ShardId, Participant>,
    /// Parts that a statement has taken and not given back: after it has ended, they are lost.
    pub lent: usize,
    pub savepoints: Vec<Savepoint>,
    /// SET, SET LOCAL, RESET, SET CONSTRAINTS, in order: replayed on shards that join.
    pub log: Vec<String>,
    /// What SET LOCAL has set, over the session's settings.
    pub local_settings: Settings,
    /// How names resolve while `local_settings` hold; None: as in the session.
    pub names: Option<Names>,
    /// The session's settings at BEGIN.
    pub settings_before: Option<Settings>,
    /// What its snapshot belongs to: under REPEATABLE READ and SERIALIZABLE every statement goes where the first one went.
    pub view: Option<Arc<View>>,
    /// When it began, by this gateway's clock.
    pub began: Option<std::time::SystemTime>,
    /// Cursors that it has declared; those without WITH HOLD end with it.
    pub cursors: Cursors,
    /// Portals of the client over several shards, which are read piece by piece.
    pub portals: BTreeMap<String, Merged>,
    /// Queries that have gathered rows of other shards.
    pub gathers: u64,
    /// DDL has run: the catalog is read again after the commit.
    pub schema_changed: bool,
    /// It has made a view of tables that are on several shards, which the catalog does not know yet.
    pub hides_shards: bool,
    /// LISTEN and UNLISTEN, which its commit carries out.
    pub listens: Vec<Change>,
    /// It may have made types and tables whose OIDs only its own connections can be asked for.
    pub has_new_oids: bool,
}

impl Transaction {
    pub fn is_open(&self) -> bool {
        self.block != Block::None
    }

    /// The byte of ReadyForQuery.
    pub fn status(&self) -> crate::wire::TxStatus {
        match (self.block, self.failed) {
            (Block::Explicit, true) => crate::wire::TxStatus::Failed,
            (Block::Explicit, false) => crate::wire::TxStatus::InTransaction,
            _ => crate::wire::TxStatus::Idle,
        }
    }

    pub fn isolation(&self) -> Option<Isolation> {
        self.modes.isolation
    }

    pub fn has_snapshot(&self) -> bool {
        matches!(self.modes.isolation, Some(Isolation::RepeatableRead | Isolation::Serializable))
    }

    /// What a shard that joins is sent after BEGIN, each its own request.
    pub fn replay(&self) -> Vec<String> {
        let mut statements = Vec::new();
        let mut done = 0;
        for savepoint in &self.savepoints {
            statements.extend(self.log[done..savepoint.log.min(self.log.len())].iter().cloned());
            done = done.max(savepoint.log.min(self.log.len()));
            statements.push(format!("SAVEPOINT {}", quote_ident(&savepoint.name)));
        }
        statements.extend(self.log[done..].iter().cloned());
        statements
    }
}

/// `BEGIN` with the transaction's modes.
pub fn begin_statement(modes: &TransactionModes) -> String {
    format!("BEGIN{}", modes_text(modes))
}

/// What names that statement on servers: the last numbers that there are.
pub fn begin_id(modes: &TransactionModes) -> StatementId {
    let switch = |on: Option<bool>| on.map_or(0, |on| 1 + u64::from(on));
    let isolation = modes.isolation.map_or(0, |isolation| 1 + isolation as u64);
    StatementId(u64::MAX - (isolation * 9 + switch(modes.read_only) * 3 + switch(modes.deferrable)))
}

/// ` ISOLATION LEVEL ... READ ONLY ...`, empty for no modes.
pub fn modes_text(modes: &TransactionModes) -> String {
    let mut text = String::new();
    if let Some(isolation) = modes.isolation {
        text.push_str(match isolation {
            Isolation::ReadUncommitted => " ISOLATION LEVEL READ UNCOMMITTED",
            Isolation::ReadCommitted => " ISOLATION LEVEL READ COMMITTED",
            Isolation::RepeatableRead => " ISOLATION LEVEL REPEATABLE READ",
            Isolation::Serializable => " ISOLATION LEVEL SERIALIZABLE",
        });
    }
    match modes.read_only {
        Some(true) => text.push_str(" READ ONLY"),
        Some(false) => text.push_str(" READ WRITE"),
        None => {}
    }
    match modes.deferrable {
        Some(true) => text.push_str(" DEFERRABLE"),
        Some(false) => text.push_str(" NOT DEFERRABLE"),
        None => {}
    }
    text
}

/// Later modes win.
pub fn merge_modes(modes: &mut TransactionModes, later: &TransactionModes) {
    modes.isolation = later.isolation.or(modes.isolation);
    modes.read_only = later.read_only.or(modes.read_only);
    modes.deferrable = later.deferrable.or(modes.deferrable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_that_join_get_what_happened_before() {
        let mut transaction = Transaction { block: Block::Explicit, ..Transaction::default() };
        transaction.modes.isolation = Some(Isolation::RepeatableRead);
        transaction.modes.read_only = Some(false);
        transaction.log.push("SET LOCAL a = 1".into());
        let settings = Settings::default();
        let reports = super::super::reports::Reports::default().mark();
        let local_settings = settings.clone();
        let savepoint = Savepoint { name: "x".into(), local_settings, settings, log: 1, reports, listens: 0 };
        transaction.savepoints.push(savepoint);
        transaction.log.push("SET LOCAL b = 2".into());
        assert_eq!(begin_statement(&transaction.modes), "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE");
        assert_eq!(transaction.replay(), ["SET LOCAL a = 1", "SAVEPOINT \"x\"", "SET LOCAL b = 2"]);
    }
}
