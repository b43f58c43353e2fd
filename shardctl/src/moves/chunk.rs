//! Reconciles one range of one table: the backfill's step, and the repair of a difference.
//!
//! The owner's rows of the range are locked (FOR SHARE) and streamed as COPY text into the copy: directly where the copy holds
//! nothing of the arcs in the range, over a staging table elsewhere. The copy commits after it has answered the data, then the
//! owner lets go of its locks; so a chunk that was killed can never write old rows over newer ones. Rows that only the copy has
//! are settled afterwards like any row that is gone.

use ringway_topology::ids::MoveId;
use ringway_topology::model::quote_ident;

use super::conn::{is_true, ShardConn};
use super::error::MoveError;
use super::faults;
use super::range::KeyRange;
use super::settle::{Owner, Settler};
use super::table::MovingTable;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Rows of the range on the owner.
    pub rows: u64,
    pub bytes: u64,
    /// Rows of the copy that differed though no captured row spoke of them. Counted only on request.
    pub repaired: u64,
}

pub struct Chunker<'a> {
    pub move_id: MoveId,
    pub table: &'a MovingTable,
    /// Count rows that really differed.
    pub count_repairs: bool,
    pub settle_attempts_max: u32,
    /// Named in fault points.
    pub effect: &'static str,
}

/// At most this many rows are settled in one transaction.
const SETTLE_ROWS_MAX: usize = 500;

impl Chunker<'_> {
    pub async fn reconcile(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        range: &KeyRange,
    ) -> Result<Reconciled, MoveError> {
        let mut result = self.once(from, to, range, false).await;
        if result.as_ref().is_err_and(MoveError::is_conflict) {
            result = self.once(from, to, range, true).await;
        }
        match result {
            Ok((mut done, extras)) => {
                done.repaired += self.settle(from, to, extras).await?;
                Ok(done)
            }
            Err(error) if error.is_conflict() => self.by_rows(from, to, range).await,
            Err(error) => Err(error),
        }
    }

    /// One attempt; the session is clean afterwards. With the rows that only the copy has.
    async fn once(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        range: &KeyRange,
        staged: bool,
    ) -> Result<(Reconciled, Vec<String>), MoveError> {
        let done = self.transact(from, to, range, staged).await;
        to.keep_others_waiting(false);
        if done.is_err() {
            to.rollback().await;
            from.rollback().await;
        }
        done
    }

    /// The move does not end, or turn round, under this transaction: what comes late finds it ended.
    async fn receives(&self, to: &mut ShardConn) -> Result<(), MoveError> {
        let answers = to
            .rows_of(&format!(
                "SELECT pg_catalog.pg_advisory_xact_lock_shared(x'52570011'::int, {0}::int);
                 SELECT EXISTS (SELECT FROM ringway.move m WHERE m.move_id = {0} AND m.side = 'target')",
                self.move_id
            ))
            .await?;
        if answers.last().is_some_and(|rows| is_true(rows)) {
            return Ok(());
        }
        Err(MoveError::retry(format!("move {} does not write to shard {}", self.move_id, to.shard)))
    }

    async fn transact(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        range: &KeyRange,
        staged: bool,
    ) -> Result<(Reconciled, Vec<String>), MoveError> {
        let table = self.table;
        let condition = |alias: &str| format!("{} AND {}", range.sql(&table.primary_key, alias), table.moving(alias));
        // To be counted, differences must be seen row by row.
        let staged = staged || self.count_repairs || {
            let sql = format!("SELECT EXISTS (SELECT FROM {} t WHERE {})", table.sql_name(), condition("t"));
            to.query_long(&sql, &[]).await?.iter().any(|row| row.get(0))
        };
        if staged {
            to.batch_once(self.staging_table()).await?;
        }
        let destination = if staged { self.staging_name() } else { table.sql_name() };
        tokio::try_join!(from.begin_chunk(), to.begin())?;
        self.receives(to).await?;
        to.keep_others_waiting(true);
        let out = format!(
            "COPY (SELECT {} FROM {} t WHERE {} FOR SHARE) TO STDOUT",
            table.columns_of("t"),
            table.sql_name(),
            condition("t")
        );
        let input = format!("COPY {destination} ({}) FROM STDIN", table.column_list());
        let (bytes, rows) = from.copy_into(&out, to, &input).await?;

        let mut done = Reconciled { rows, bytes, repaired: 0 };
        let mut extras = Vec::new();
        if staged {
            self.refuse_foreign_rows(to).await?;
            let changed = self.upsert(to).await?;
            if self.count_repairs && !changed.is_empty() {
                done.repaired += self.uncaptured(from, &changed).await?;
            }
            let sql = format!(
                "SELECT (t.*)::text FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {} s WHERE {})",
                table.sql_name(),
                condition("t"),
                self.staging_name(),
                table.same_key
            );
            extras = to.query_long(&sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        }
        to.commit().await?;
        faults::point(self.effect, "middle");
        from.commit().await?;
        Ok((done, extras))
    }

    fn staging_name(&self) -> String {
        format!("pg_temp.\"ringway_chunk_{}\"", self.table.to_oid)
    }

    /// With an index on the primary key: the planner knows nothing of a staging table, and would look for each row of the copy in
    /// all of it.
    fn staging_table(&self) -> String {
        let key: Vec<String> = self.table.primary_key.iter().map(|column| quote_ident(&column.name)).collect();
        format!(
            "CREATE TEMP TABLE IF NOT EXISTS \"ringway_chunk_{0}\" ON COMMIT DELETE ROWS AS SELECT {1} FROM {2} t WITH NO DATA;
             CREATE INDEX IF NOT EXISTS \"ringway_chunk_{0}_key\" ON pg_temp.\"ringway_chunk_{0}\" ({3})",
            self.table.to_oid,
            self.table.columns_of("t"),
            self.table.sql_name(),
            key.join(", ")
        )
    }

    /// A row of the target's own with a moving row's primary key stops the move.
    async fn refuse_foreign_rows(&self, to: &mut ShardConn) -> Result<(), MoveError> {
        let table = self.table;
        if table.key_is_in_primary_key() {
            return Ok(());
        }
        let sql = format!(
            "SELECT (s.*)::text, (t.*)::text FROM {} s JOIN {} t ON {} WHERE NOT coalesce({}, false) LIMIT 1",
            self.staging_name(),
            table.sql_name(),
            table.same_key,
            table.moving("t")
        );
        match to.query_long(&sql, &[]).await?.first() {
            None => Ok(()),
            Some(row) => Err(MoveError::fatal(format!(
                "a moving row of table {} meets a row of shard {} with the same primary key. Moving row: {}. \
                 Row of that shard: {}.",
                table.name,
                to.shard,
                row.get::<_, String>(0),
                row.get::<_, String>(1)
            ))),
        }
    }

    /// Writes the staged rows over the copy's; with images of those that really changed, when they are counted.
    async fn upsert(&self, to: &mut ShardConn) -> Result<Vec<String>, MoveError> {
        let table = self.table;
        let returning = if self.count_repairs { " RETURNING (t.*)::text" } else { "" };
        let staging = self.staging_name();
        let differs =
            |a: &str, b: &str| format!("ROW({})::record *<> ROW({})::record", table.columns_of(a), table.columns_of(b));
        let insert = format!(
            "INSERT INTO {} AS t ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {staging} s ON CONFLICT ON CONSTRAINT {}",
            table.sql_name(),
            table.column_list(),
            table.columns_of("s"),
            quote_ident(&table.primary_key_name)
        );
        let sql = if table.replaces_rows {
            let delete = format!(
                "DELETE FROM {} t USING {staging} s WHERE {} AND {} AND {}",
                table.sql_name(),
                table.same_key,
                table.moving("t"),
                differs("t", "s")
            );
            to.execute_long(&delete, &[]).await?;
            format!("{insert} DO NOTHING{returning}")
        } else {
            let columns: &[String] = &table.assigned;
            let columns: Vec<&str> = if columns.is_empty() {
                table.primary_key.iter().take(1).map(|c| c.name.as_str()).collect()
            } else {
                columns.iter().map(String::as_str).collect()
            };
            let set: Vec<String> = columns.iter().map(|c| format!("{0} = excluded.{0}", quote_ident(c))).collect();
            format!(
                "{insert} DO UPDATE SET {} WHERE {} AND {}{returning}",
                set.join(", "),
                table.moving("t"),
                differs("t", "excluded")
            )
        };
        if self.count_repairs {
            Ok(to.query_long(&sql, &[]).await?.iter().map(|row| row.get(0)).collect())
        } else {
            to.execute_long(&sql, &[]).await?;
            Ok(Vec::new())
        }
    }

    /// Differences that captured rows speak of are the sweeper's business, not repairs.
    async fn uncaptured(&self, from: &mut ShardConn, images: &[String]) -> Result<u64, MoveError> {
        let sql = format!("SELECT ringway.uncaptured_{}($1, $2)", self.table.from_oid);
        let row = from.one(&sql, &[&(self.move_id.0 as i64), &images]).await?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    async fn settle(&self, from: &mut ShardConn, to: &mut ShardConn, images: Vec<String>) -> Result<u64, MoveError> {
        let settler = Settler {
            move_id: self.move_id,
            table: self.table,
            attempts_max: self.settle_attempts_max,
            owner: Owner::Locked,
        };
        let mut repaired = 0;
        for some in images.chunks(SETTLE_ROWS_MAX) {
            let unspoken = if self.count_repairs { self.uncaptured(from, some).await? } else { 0 };
            let settled = settler.settle(from, to, some.to_vec(), &[]).await?;
            repaired += settled.deleted.min(unspoken);
        }
        Ok(repaired)
    }

    /// The slow way for a range whose rows swap unique values with others: each row is settled with all that it meets.
    async fn by_rows(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        range: &KeyRange,
    ) -> Result<Reconciled, MoveError> {
        let table = self.table;
        let sql = format!(
            "SELECT (t.*)::text FROM {} t WHERE {} AND {}",
            table.sql_name(),
            range.sql(&table.primary_key, "t"),
            table.moving("t")
        );
        let on_owner: Vec<String> = from.query_long(&sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        let on_copy: Vec<String> = to.query_long(&sql, &[]).await?.iter().map(|row| row.get(0)).collect();
        let bytes = on_owner.iter().map(|row| row.len() as u64).sum();
        let rows = on_owner.len() as u64;
        let known: std::collections::BTreeSet<String> = on_copy.iter().cloned().collect();
        let repaired = on_owner.iter().filter(|row| !known.contains(*row)).count() as u64;
        let mut images = on_owner;
        images.extend(on_copy);
        images.sort_unstable();
        images.dedup();
        self.settle(from, to, images).await?;
        Ok(Reconciled { rows, bytes, repaired: if self.count_repairs { repaired } else { 0 } })
    }
}
