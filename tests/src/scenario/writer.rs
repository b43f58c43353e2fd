//! Clients that write to a shard past every gateway, to a table of their own, and know what must be there afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringway_proto::v1::TokenArc;
use tokio_postgres::Client;

use super::mover::Mover;
use super::{sql, traces};

pub const TABLE: &str = "CREATE TABLE notes (k bigint, id bigint, v text, PRIMARY KEY (k, id))";
/// Keys of the loaded rows: 1 to this.
pub const KEYS: i64 = 400;
pub const ROWS: &str =
    "INSERT INTO notes SELECT k, i, 'loaded' FROM generate_series(1, 400) k, generate_series(1, 5) i";

/// Rows of the writer's own have ids from here.
pub const OWN_IDS: i64 = 1_000;

/// A writer that is not let in asks again after this.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

/// Acknowledged rows of a key and id.
pub type Account = BTreeMap<(i64, i64), String>;

pub struct Written {
    pub account: Account,
    /// Rows that were there and were acknowledged as deleted.
    pub deleted: Vec<(i64, i64)>,
    pub count: u64,
    pub refused: u64,
    /// Rows of its own that it did not find: on a shard that does not own them.
    pub absent: u64,
}

/// Inserts, updates and deletes as fast as it can, in every kind of transaction.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<Written>>,
}

impl Writer {
    pub fn start(mut client: Client, keys: Vec<i64>, run: i64) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(run as u64);
            let mut written = Written { account: Account::new(), deleted: Vec::new(), count: 0, refused: 0, absent: 0 };
            let mut sequence = OWN_IDS * run * 1_000;
            while !stopped.load(Ordering::Relaxed) {
                sequence += 1;
                let k = keys[random.random_range(0..keys.len())];
                match one_write(&mut client, &mut random, &mut written, k, sequence).await {
                    Ok(true) => {
                        written.count += 1;
                        counted.store(written.count, Ordering::Relaxed);
                    }
                    Ok(false) => written.absent += 1,
                    Err(error) if sql::code(&error) == "RW002" => {
                        written.refused += 1;
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                    Err(error) => bail!("a direct write failed: {error:?}"),
                }
            }
            Ok(written)
        });
        Writer { stop, count, task }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub async fn stop(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// False if the row to write is not there.
async fn one_write(
    client: &mut Client,
    random: &mut StdRng,
    written: &mut Written,
    k: i64,
    id: i64,
) -> Result<bool, tokio_postgres::Error> {
    let own: Vec<(i64, i64)> = written.account.keys().copied().collect();
    let value = format!("value {id} – ü");
    match random.random_range(0..5) {
        0 | 1 => {
            client.execute("INSERT INTO notes VALUES ($1, $2, $3)", &[&k, &id, &value]).await?;
            written.account.insert((k, id), value);
        }
        2 if !own.is_empty() => {
            let key = own[random.random_range(0..own.len())];
            if client.execute("UPDATE notes SET v = $3 WHERE k = $1 AND id = $2", &[&key.0, &key.1, &value]).await? == 0
            {
                return Ok(false);
            }
            written.account.insert(key, value);
        }
        3 if !own.is_empty() => {
            let key = own[random.random_range(0..own.len())];
            if client.execute("DELETE FROM notes WHERE k = $1 AND id = $2", &[&key.0, &key.1]).await? == 0 {
                return Ok(false);
            }
            written.account.remove(&key);
            written.deleted.push(key);
        }
        _ => {
            // Insert, change the primary key, and one savepoint that is rolled back; now and then all of it.
            let new = id + 500_000_000;
            let transaction = client.transaction().await?;
            transaction.execute("INSERT INTO notes VALUES ($1, $2, 'first')", &[&k, &id]).await?;
            transaction.batch_execute("SAVEPOINT a").await?;
            transaction.execute("INSERT INTO notes VALUES ($1, $2, 'gone')", &[&k, &(id + 700_000_000)]).await?;
            transaction.batch_execute("ROLLBACK TO a").await?;
            transaction
                .execute("UPDATE notes SET id = $3, v = $4 WHERE k = $1 AND id = $2", &[&k, &id, &new, &value])
                .await?;
            if random.random_range(0..3) == 0 {
                transaction.rollback().await?;
            } else {
                transaction.commit().await?;
                written.account.insert((k, new), value);
            }
        }
    }
    Ok(true)
}

pub async fn own_rows(client: &Client, arcs: &[TokenArc]) -> Result<Account> {
    let query = format!("SELECT k, id, v FROM public.notes WHERE id >= {OWN_IDS} AND {}", traces::in_arcs(arcs, "k"));
    Ok(client.query(&query, &[]).await?.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

pub fn difference(expected: &Account, seen: &Account) -> String {
    let missing: Vec<_> = expected.iter().filter(|(key, value)| seen.get(key) != Some(value)).take(5).collect();
    let extra: Vec<_> = seen.iter().filter(|(key, _)| !expected.contains_key(key)).take(5).collect();
    format!("{} rows of {}; missing or different: {missing:?}; too many: {extra:?}", seen.len(), expected.len())
}

/// A client of a shard that is not the service role.
pub async fn direct(mover: &Mover, shard: &str) -> Result<Client> {
    let dsn = mover.shard_dsn(shard).await?;
    let (_, rest) = dsn.split_once('@').with_context(|| format!("no user in {dsn}"))?;
    sql::connect(&format!("postgresql://postgres@{rest}")).await
}

pub async fn keys_in(client: &Client, arcs: &[TokenArc]) -> Result<Vec<i64>> {
    let query =
        format!("SELECT k FROM generate_series(1::int8, {KEYS}) k WHERE {} ORDER BY k", traces::in_arcs(arcs, "k"));
    Ok(client.query(&query, &[]).await?.iter().map(|row| row.get(0)).collect())
}
