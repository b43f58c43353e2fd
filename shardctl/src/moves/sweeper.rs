//! Settles captured rows that no gateway has mirrored: those of direct writers, of gateways that do not know the move yet, and
//! of transactions that committed while the other shard was sick.
//!
//! Runs beside a move from the time its rows are captured until its mirror ends. Rows of transactions in flight are not
//! visible, and come when they have committed.

use std::collections::{BTreeMap, BTreeSet};

use ringway_topology::ids::MoveId;
use ringway_topology::ring::TokenArc;

use super::conn::ShardConn;
use super::error::MoveError;
use super::limits::MoveLimits;
use super::settle::{Owner, Settler};
use super::table::MovingTable;

/// A captured row, as the sweeper reads it.
struct Captured {
    id: i64,
    relation: u32,
    images: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub rows: u64,
    /// As many as one look takes: there may be more.
    pub full: bool,
}

pub struct Sweeper {
    move_id: MoveId,
    arcs: Vec<TokenArc>,
    limits: MoveLimits,
    /// Tables by their oid on the shard that captures.
    tables: BTreeMap<u32, MovingTable>,
    /// Rows whose locks somebody else has held for too long: others go first.
    put_off: BTreeSet<i64>,
    owner: Owner,
}

impl Sweeper {
    pub fn new(move_id: MoveId, arcs: Vec<TokenArc>, limits: MoveLimits) -> Sweeper {
        Sweeper { move_id, arcs, limits, tables: BTreeMap::new(), put_off: BTreeSet::new(), owner: Owner::Locked }
    }

    /// In the fence's own transaction on the owner.
    pub fn under_fence(move_id: MoveId, arcs: Vec<TokenArc>, limits: MoveLimits) -> Sweeper {
        Sweeper { owner: Owner::Fenced, ..Sweeper::new(move_id, arcs, limits) }
    }

    /// `sharded_table` of the capturing shard says which tables there are; a new one is learnt when its first row comes.
    async fn table(
        &mut self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        relation: u32,
    ) -> Result<Option<MovingTable>, MoveError> {
        if let Some(table) = self.tables.get(&relation) {
            return Ok(Some(table.clone()));
        }
        let rows = from
            .query(
                "SELECT n.nspname::text, c.relname::text, s.key_column::text FROM ringway.sharded_table s
                 JOIN pg_catalog.pg_class c ON c.oid = s.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = $1",
                &[&relation],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let name = ringway_topology::model::TableName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        let key: String = row.get(2);
        let table = MovingTable::load(from, to, &name, &key, &self.arcs).await?;
        self.tables.insert(relation, table.clone());
        Ok(Some(table))
    }

    /// Forgets what it knows of tables: after DDL.
    pub fn forget_tables(&mut self) {
        self.tables.clear();
    }

    /// One batch. An error leaves the rows where they are.
    pub async fn sweep(&mut self, from: &mut ShardConn, to: &mut ShardConn) -> Result<Swept, MoveError> {
        let put_off: Vec<i64> = self.put_off.iter().copied().collect();
        let mut rows = self.read(from, &put_off).await?;
        if rows.is_empty() && !put_off.is_empty() {
            self.put_off.clear();
            rows = self.read(from, &[]).await?;
        }
        let full = rows.len() as i64 >= self.limits.sweep_batch_rows;
        let mut by_table: BTreeMap<u32, Vec<Captured>> = BTreeMap::new();
        for row in rows {
            by_table.entry(row.relation).or_default().push(row);
        }
        let mut swept = Swept { rows: 0, full };
        let mut failed = None;
        for (relation, rows) in by_table {
            let Some(table) = self.table(from, to, relation).await? else {
                // The table was dropped: nothing is left of its rows.
                let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
                from.execute("DELETE FROM ringway.capture WHERE id = ANY ($1)", &[&ids]).await?;
                continue;
            };
            match self.settle(from, to, &table, &rows).await {
                Ok(()) => swept.rows += rows.len() as u64,
                Err(error) if rows.len() > 1 && (error.is_lock_timeout() || matches!(error, MoveError::Retry(_))) => {
                    // One row in somebody's hands must not keep the others waiting.
                    for row in &rows {
                        match self.settle(from, to, &table, std::slice::from_ref(row)).await {
                            Ok(()) => swept.rows += 1,
                            Err(error) if error.is_in_doubt() || matches!(error, MoveError::Fatal(_)) => {
                                return Err(error)
                            }
                            Err(error) => {
                                self.put_off.insert(row.id);
                                failed = Some(error);
                            }
                        }
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if swept.rows == 0 => Err(error),
            _ => Ok(swept),
        }
    }

    async fn read(&self, from: &mut ShardConn, without: &[i64]) -> Result<Vec<Captured>, MoveError> {
        let rows = from
            .query(
                "SELECT id, relation, old_row, new_row FROM ringway.capture
                 WHERE move_id = $1 AND NOT id = ANY ($2) ORDER BY id LIMIT $3",
                &[&(self.move_id.0 as i64), &without, &self.limits.sweep_batch_rows],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| Captured {
                id: row.get(0),
                relation: row.get(1),
                images: [row.get::<_, Option<String>>(2), row.get(3)].into_iter().flatten().collect(),
            })
            .collect())
    }

    async fn settle(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        table: &MovingTable,
        rows: &[Captured],
    ) -> Result<(), MoveError> {
        let images = rows.iter().flat_map(|row| row.images.iter().cloned()).collect();
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let settler =
            Settler { move_id: self.move_id, table, attempts_max: self.limits.settle_attempts_max, owner: self.owner };
        settler.settle(from, to, images, &ids).await.map(|_| ())
    }
}

/// Captured rows of the move that wait, as far as they are visible.
pub async fn backlog(from: &mut ShardConn, move_id: MoveId) -> Result<u64, MoveError> {
    let row = from.one("SELECT count(*) FROM ringway.capture WHERE move_id = $1", &[&(move_id.0 as i64)]).await?;
    Ok(row.get::<_, i64>(0) as u64)
}
