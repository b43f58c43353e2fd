//! Makes rows on one shard what they are on the other now: the sweeper's work, and the way out of every conflict that a
//! chunk meets.
//!
//! A row is named by any image of it. Rows that the owner has are locked there and written over the copy's; rows that it has
//! no more are deleted from the copy first, then looked for again, and the delete is undone if one has come back. Locks are
//! taken on the owner first, then on the copy; the copy commits first.

use std::collections::BTreeSet;

use ringway_topology::ids::MoveId;

use super::conn::ShardConn;
use super::error::MoveError;
use super::faults;
use super::range::multirange;
use super::table::MovingTable;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows written over the copy's.
    pub written: u64,
    /// Rows that only the copy had.
    pub deleted: u64,
}

/// The images' rows, with every image once.
fn distinct(images: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    images.into_iter().filter(|image| seen.insert(image.clone())).collect()
}

pub struct Settler<'a> {
    pub move_id: MoveId,
    pub table: &'a MovingTable,
    pub attempts_max: u32,
    pub owner: Owner,
}

/// What keeps the owner's rows as they are while they are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Their row locks, in a transaction of the settler's own.
    Locked,
    /// The fence, in the caller's transaction: no writer has passed a guard and not committed. Row locks would be in the way,
    /// held by writers that wait for the fence.
    Fenced,
}

enum Attempt {
    Settled(Settled),
    /// These rows of the copy stand in the way in a UNIQUE index.
    Conflicts(Vec<String>),
    /// A row that was gone is back.
    CameBack,
}

impl Settler<'_> {
    /// `captured`: ids in `ringway.capture` of `from` that are settled with the images.
    pub async fn settle(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        images: Vec<String>,
        captured: &[i64],
    ) -> Result<Settled, MoveError> {
        let mut images = distinct(images);
        // Once rows were found to swap unique values: delete all of them, then insert all.
        let mut replace = false;
        for _ in 0..self.attempts_max {
            to.keep_others_waiting(true);
            let attempt = self.attempt(from, to, &images, captured, replace).await;
            to.keep_others_waiting(false);
            match attempt {
                Ok(Attempt::Settled(settled)) => return Ok(settled),
                Ok(Attempt::CameBack) => {}
                Ok(Attempt::Conflicts(more)) => {
                    let before = images.len();
                    images.extend(more);
                    images = distinct(images);
                    if replace && images.len() == before {
                        return Err(MoveError::retry(format!(
                            "rows of table {} conflict with one another",
                            self.table.name
                        )));
                    }
                    replace = true;
                }
                Err(error) => {
                    to.rollback().await;
                    self.let_go(from).await;
                    return Err(error);
                }
            }
            to.rollback().await;
            self.let_go(from).await;
        }
        Err(MoveError::retry(format!("rows of table {} change faster than they can be settled", self.table.name)))
    }

    async fn let_go(&self, from: &mut ShardConn) {
        if self.owner == Owner::Locked {
            from.rollback().await;
        }
    }

    async fn attempt(
        &self,
        from: &mut ShardConn,
        to: &mut ShardConn,
        images: &[String],
        captured: &[i64],
        replace: bool,
    ) -> Result<Attempt, MoveError> {
        if self.owner == Owner::Locked {
            from.begin().await?;
        }
        let present = self.current(from, images).await?;
        let currents: Vec<String> = distinct(present.iter().flatten().cloned().collect());
        let gone: Vec<String> =
            images.iter().zip(&present).filter(|(_, now)| now.is_none()).map(|(image, _)| image.clone()).collect();

        to.begin().await?;
        let written = match self.write(to, images, &gone, &currents, replace).await {
            Ok(written) => written,
            Err(error) if error.is_conflict() => {
                to.rollback().await;
                return self.conflicts(to, images, &currents).await;
            }
            Err(error) => return Err(error),
        };
        if !gone.is_empty() && self.current(from, &gone).await?.iter().any(Option::is_some) {
            return Ok(Attempt::CameBack);
        }
        to.commit().await?;
        faults::point("Sweep", "middle");
        if !captured.is_empty() {
            from.execute("DELETE FROM ringway.capture WHERE id = ANY ($1)", &[&captured]).await?;
        }
        if self.owner == Owner::Locked {
            from.commit().await?;
        }
        let inserted = currents.len() as u64;
        Ok(Attempt::Settled(Settled { written: inserted, deleted: written.saturating_sub(inserted) }))
    }

    /// The rows of the owner with the images' keys, locked; in the images' order.
    async fn current(&self, from: &mut ShardConn, images: &[String]) -> Result<Vec<Option<String>>, MoveError> {
        let sql = format!(
            "SELECT row_now FROM ringway.current_{}($1::text::pg_catalog.int8multirange, $2, $3) ORDER BY image",
            self.table.from_oid
        );
        let rows = from.query(&sql, &[&multirange(self.table.arcs()), &images, &(self.owner == Owner::Locked)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Answers what `apply` counts: rows written, and rows deleted that were there.
    async fn write(
        &self,
        to: &mut ShardConn,
        images: &[String],
        gone: &[String],
        currents: &[String],
        replace: bool,
    ) -> Result<u64, MoveError> {
        let mut count = 0;
        let doomed = if replace { images } else { gone };
        if !doomed.is_empty() {
            let deleted = self.apply(to, Some(doomed), None).await?;
            count += if replace { 0 } else { deleted };
        }
        if !currents.is_empty() {
            count += self.apply(to, None, Some(currents)).await?;
        }
        Ok(count)
    }

    async fn apply(
        &self,
        to: &mut ShardConn,
        olds: Option<&[String]>,
        news: Option<&[String]>,
    ) -> Result<u64, MoveError> {
        let empty: Vec<String> = Vec::new();
        let (olds, news) = (olds.unwrap_or(&empty), news.unwrap_or(&empty));
        let row = to
            .one(
                "SELECT ringway.apply($1, $2, $3, $4, $5)",
                &[&(self.move_id.0 as i64), &self.table.name.schema, &self.table.name.name, &olds, &news],
            )
            .await?;
        Ok(row.get::<_, i32>(0) as u64)
    }

    async fn conflicts(
        &self,
        to: &mut ShardConn,
        images: &[String],
        currents: &[String],
    ) -> Result<Attempt, MoveError> {
        let all: Vec<&String> = images.iter().chain(currents).collect();
        let rows = to
            .query_long(
                "SELECT row_now, moving FROM ringway.unique_conflicts($1::oid, $2::text::pg_catalog.int8multirange, $3)",
                &[&self.table.to_oid, &multirange(self.table.arcs()), &all],
            )
            .await?;
        let mut moving = Vec::new();
        for row in rows {
            let image: String = row.get(0);
            if !row.get::<_, bool>(1) {
                return Err(MoveError::fatal(format!(
                    "a moving row of table {} meets a row of shard {} in a UNIQUE constraint. Row of that shard: {image}. \
                     Moving rows: {}.",
                    self.table.name,
                    to.shard,
                    currents.iter().take(3).cloned().collect::<Vec<_>>().join(" ")
                )));
            }
            moving.push(image);
        }
        Ok(Attempt::Conflicts(moving))
    }
}
