//! Mixed traffic by many client connections. A client never retries; every error is counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};

use super::journal::{Journal, Order};
use super::Size;

/// Errors whose text is kept.
const ERRORS_KEPT: usize = 20;
/// A client that cannot reconnect (fault tests) tries this often per lost connection, 50 ms apart.
const RECONNECT_TRIES: u32 = 400;
/// An operation that takes longer counts as an error: a client that hangs has been failed.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// One finished write, for looking at what a cutover did to it.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub started_unix_us: u64,
    pub duration_us: u64,
    /// Lowest tenant that it wrote; a transfer's other one.
    pub tenant: i64,
    pub other_tenant: i64,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub dsn: String,
    pub clients: usize,
    pub size: Size,
    pub seed: u64,
    /// Lost connections are made again and unknown outcomes recorded as such (fault tests). Otherwise the first error ends a client.
    pub survive_errors: bool,
    /// Reports over all shards, per second.
    pub reports: bool,
    pub mix: Mix,
    /// A client begins its next operation this long after it began the last, or at once when that took longer. None: at once.
    pub pace: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Reads and writes of every kind, transactions of up to six statements, over one shard and over two.
    Shop,
    /// Writes of one row in one statement.
    ShortWrites,
}

/// Shared counters that a progress line can read while the traffic runs.
#[derive(Debug, Default)]
pub struct Counters {
    pub operations: AtomicU64,
    pub writes: AtomicU64,
    pub reports: AtomicU64,
    pub errors: AtomicU64,
    errors_kept: Mutex<Vec<String>>,
}

impl Counters {
    fn error(&self, text: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut kept) = self.errors_kept.lock() {
            if kept.len() < ERRORS_KEPT {
                kept.push(text);
            }
        }
    }

    pub fn error_texts(&self) -> Vec<String> {
        self.errors_kept.lock().map(|kept| kept.clone()).unwrap_or_default()
    }
}

/// Running clients.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    pub counters: Arc<Counters>,
    tasks: JoinSet<Result<Finished>>,
}

/// What one or all clients have done.
#[derive(Default)]
pub struct Finished {
    pub journal: Journal,
    pub samples: Vec<Sample>,
    /// Latencies of everything, in microseconds, with the time it started.
    pub latencies: Vec<(u64, u32)>,
}

pub fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_micros() as u64).unwrap_or(0)
}

impl Traffic {
    /// Starts the clients. Every start on the same data takes another `run`: ids are made from it.
    pub fn start(options: &Options, run: u64) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        for index in 0..options.clients {
            let shopper = Shopper {
                index: index as i64,
                run,
                options: options.clone(),
                stop: stop.clone(),
                counters: counters.clone(),
                random: StdRng::seed_from_u64(options.seed ^ (run << 32) ^ index as u64),
                sequence: 0,
                done: Finished::default(),
                own_orders: Vec::new(),
            };
            tasks.spawn(shopper.run());
        }
        Traffic { stop, counters, tasks }
    }

    /// Stops the clients after their present operation and gathers what they did.
    pub async fn stop(mut self) -> Result<(Finished, Arc<Counters>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Finished::default();
        while let Some(joined) = self.tasks.join_next().await {
            let finished = joined.context("a client panicked")??;
            all.journal.merge(finished.journal);
            all.samples.extend(finished.samples);
            all.latencies.extend(finished.latencies);
        }
        Ok((all, self.counters))
    }
}

struct Shopper {
    index: i64,
    run: u64,
    options: Options,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    random: StdRng,
    sequence: i64,
    done: Finished,
    /// Orders this client made and did not delete.
    own_orders: Vec<(i64, i64)>,
}

struct Statements {
    read_order: Statement,
    read_customer: Statement,
    insert_order: Statement,
    insert_items: Statement,
    count_order: Statement,
    update_order: Statement,
    delete_order: Statement,
    upsert_setting: Statement,
    insert_ledger: Statement,
    update_balance: Statement,
}

async fn connect(dsn: &str) -> Result<(Client, Statements)> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.context("connecting to the gateway")?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let statements = Statements {
        read_order: client.prepare("SELECT status, total_cents FROM orders WHERE tenant_id = $1 AND id = $2").await?,
        read_customer: client
            .prepare(
                "SELECT c.name, count(o.id), sum(o.total_cents)::bigint FROM customers c \
                 LEFT JOIN orders o ON o.tenant_id = c.tenant_id AND o.customer_id = c.id \
                 WHERE c.tenant_id = $1 AND c.id = $2 GROUP BY c.name",
            )
            .await?,
        insert_order: client
            .prepare(
                "INSERT INTO orders (tenant_id, customer_id, total_cents, note) VALUES ($1, $2, $3, $4) RETURNING id",
            )
            .await?,
        insert_items: client
            .prepare(
                "INSERT INTO order_items (tenant_id, order_id, line, product, quantity, price) \
                 VALUES ($1, $2, 1, 'apple', 2, 1.10), ($1, $2, 2, 'pear', 1, 0.35), ($1, $2, 3, 'plum', 12, 0.05)",
            )
            .await?,
        count_order: client
            .prepare("UPDATE customers SET orders_placed = orders_placed + 1 WHERE tenant_id = $1 AND id = $2")
            .await?,
        update_order: client
            .prepare("UPDATE orders SET status = $3, total_cents = $4 WHERE tenant_id = $1 AND id = $2")
            .await?,
        delete_order: client.prepare("DELETE FROM orders WHERE tenant_id = $1 AND id = $2").await?,
        upsert_setting: client
            .prepare(
                "INSERT INTO settings (tenant_id, name, value) VALUES ($1, $2, $3) \
                 ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value",
            )
            .await?,
        insert_ledger: client.prepare("INSERT INTO ledger (tenant_id, id, amount) VALUES ($1, $2, $3)").await?,
        update_balance: client.prepare("UPDATE tenants SET balance = balance + $2 WHERE id = $1").await?,
    };
    Ok((client, statements))
}

/// How an operation ended without success.
enum Failure {
    /// The server said no: nothing of the operation is there.
    Refused(String),
    /// The connection was lost or the operation hung: it may have happened.
    Unknown(String),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Connection failures and shutdowns leave the outcome of a COMMIT open.
            Some(db) if !(db.code().code().starts_with("08") || db.code().code().starts_with("57P")) => {
                Failure::Refused(format!(
                    "{} {}{}",
                    db.code().code(),
                    db.message(),
                    db.detail().map(|d| format!(" ({d})")).unwrap_or_default()
                ))
            }
            Some(db) => Failure::Unknown(format!("{} {}", db.code().code(), db.message())),
            None => Failure::Unknown(format!("{error:?}")),
        }
    }
}

impl Shopper {
    async fn run(mut self) -> Result<Finished> {
        let mut session = Some(self.connect_patiently().await?);
        while !self.stop.load(Ordering::Relaxed) {
            let Some((client, statements)) = session.as_mut() else {
                match self.connect_patiently().await {
                    Ok(made) => session = Some(made),
                    Err(error) if self.stop.load(Ordering::Relaxed) => {
                        self.counters.error(format!("{error:#}"));
                        break;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            };
            let started = Instant::now();
            let started_unix = unix_us();
            let outcome = match tokio::time::timeout(OPERATION_TIMEOUT, self.operation(client, statements)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::Unknown(format!("no answer within {OPERATION_TIMEOUT:?}"))),
            };
            let elapsed = started.elapsed().as_micros() as u64;
            match outcome {
                Ok(written) => {
                    self.counters.operations.fetch_add(1, Ordering::Relaxed);
                    self.done.latencies.push((started_unix, elapsed.min(u32::MAX as u64) as u32));
                    if let Some((tenant, other_tenant)) = written {
                        self.counters.writes.fetch_add(1, Ordering::Relaxed);
                        self.done.samples.push(Sample {
                            started_unix_us: started_unix,
                            duration_us: elapsed,
                            tenant,
                            other_tenant,
                        });
                    }
                }
                Err(Failure::Refused(text)) => {
                    self.counters.error(text);
                    if !self.options.survive_errors {
                        break;
                    }
                    // Whatever transaction was open is over for this client.
                    if client.batch_execute("ROLLBACK").await.is_err() {
                        session = None;
                    }
                }
                Err(Failure::Unknown(text)) => {
                    self.counters.error(text);
                    if !self.options.survive_errors {
                        break;
                    }
                    session = None;
                }
            }
            if let Some(pace) = self.options.pace {
                tokio::time::sleep_until((started + pace).into()).await;
            }
        }
        Ok(self.done)
    }

    async fn connect_patiently(&self) -> Result<(Client, Statements)> {
        let mut tries = 0;
        loop {
            match connect(&self.options.dsn).await {
                Ok(made) => return Ok(made),
                Err(error) if !self.options.survive_errors || tries >= RECONNECT_TRIES => return Err(error),
                Err(error) if self.stop.load(Ordering::Relaxed) => return Err(error),
                Err(_) => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// A tenant of this client's own.
    fn own_tenant(&mut self) -> i64 {
        let clients = self.options.clients as i64;
        let share = (self.options.size.tenants - 1 - self.index) / clients + 1;
        self.random.random_range(0..share) * clients + self.index + 1
    }

    fn any_tenant(&mut self) -> i64 {
        self.random.random_range(1..=self.options.size.tenants)
    }

    fn customer(&mut self) -> i64 {
        self.random.random_range(1..=self.options.size.customers_per_tenant)
    }

    fn ledger_id(&mut self) -> i64 {
        self.sequence += 1;
        ((self.run as i64) << 52) | (self.index << 40) | self.sequence
    }

    /// One operation; the tenants that it wrote.
    async fn operation(&mut self, client: &mut Client, s: &Statements) -> Result<Option<(i64, i64)>, Failure> {
        if self.index == 0 && self.options.reports && self.random.random_range(0..200) == 0 {
            return self.report(client).await.map(|()| None);
        }
        if self.options.mix == Mix::ShortWrites {
            return self.upsert(client, s).await.map(Some);
        }
        match self.random.random_range(0..100) {
            0..=39 => {
                let (tenant, id) = match self.own_orders.len() {
                    0 => (self.any_tenant(), -1),
                    n => self.own_orders[self.random.random_range(0..n)],
                };
                let row = client.query_opt(&s.read_order, &[&tenant, &id]).await?;
                self.check_read((tenant, id), row)?;
                Ok(None)
            }
            40..=49 => {
                let (tenant, customer) = (self.any_tenant(), self.customer());
                let row = client.query_one(&s.read_customer, &[&tenant, &customer]).await?;
                let _: &str = row.get(0);
                Ok(None)
            }
            50..=64 => self.place_order(client, s).await.map(Some),
            65..=74 => self.update_order(client, s).await,
            75..=79 => self.delete_order(client, s).await,
            80..=86 => self.upsert(client, s).await.map(Some),
            87..=95 => self.book(client, s).await.map(Some),
            _ => self.transfer(client, s).await.map(Some),
        }
    }

    /// A client reads its own acknowledged writes.
    fn check_read(&self, key: (i64, i64), row: Option<tokio_postgres::Row>) -> Result<(), Failure> {
        let seen = row.map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1)));
        match self.done.journal.orders.get(&key) {
            Some(Some(order)) if !self.done.journal.unknown_orders.contains(&key) => {
                if seen.as_ref() != Some(&(order.status.clone(), order.total_cents)) {
                    return Err(Failure::Refused(format!(
                        "read of order {key:?} gave {seen:?}, but {order:?} had been acknowledged to this client"
                    )));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn place_order(&mut self, client: &mut Client, s: &Statements) -> Result<(i64, i64), Failure> {
        let (tenant, customer) = (self.own_tenant(), self.customer());
        let total = self.random.random_range(100..100_000i64);
        let roll_back = self.random.random_range(0..20) == 0;
        let transaction = client.transaction().await?;
        let note = format!("order of client {} – “{total}”", self.index);
        let row = transaction.query_one(&s.insert_order, &[&tenant, &customer, &total, &note]).await?;
        let id: i64 = row.get(0);
        transaction.execute(&s.insert_items, &[&tenant, &id]).await?;
        transaction.execute(&s.count_order, &[&tenant, &customer]).await?;
        if roll_back {
            transaction.rollback().await?;
            self.done.journal.orders.insert((tenant, id), None);
            return Ok((tenant, tenant));
        }
        if let Err(error) = transaction.commit().await {
            let failure = Failure::from(error);
            if matches!(failure, Failure::Unknown(_)) {
                self.done.journal.unknown_orders.insert((tenant, id));
                self.done.journal.unknown_inserts += 1;
            }
            return Err(failure);
        }
        let order = Order { status: "new".into(), total_cents: total, items: 3 };
        self.done.journal.orders.insert((tenant, id), Some(order));
        self.done.journal.add("orders", 1);
        self.done.journal.add("order_items", 3);
        self.own_orders.push((tenant, id));
        Ok((tenant, tenant))
    }

    async fn update_order(&mut self, client: &mut Client, s: &Statements) -> Result<Option<(i64, i64)>, Failure> {
        if self.own_orders.is_empty() {
            return Ok(None);
        }
        let key = self.own_orders[self.random.random_range(0..self.own_orders.len())];
        let status = ["paid", "sent", "returned"][self.random.random_range(0..3)];
        let total = self.random.random_range(100..100_000i64);
        // Until the answer is here the row may be in either state.
        let fresh = self.done.journal.unknown_orders.insert(key);
        let changed =
            match client.execute(&s.update_order, &[&key.0, &key.1, &status, &total]).await.map_err(Failure::from) {
                Ok(changed) => changed,
                Err(Failure::Refused(text)) => {
                    if fresh {
                        self.done.journal.unknown_orders.remove(&key);
                    }
                    return Err(Failure::Refused(text));
                }
                Err(unknown) => return Err(unknown),
            };
        if !fresh {
            return Ok(Some((key.0, key.0)));
        }
        self.done.journal.unknown_orders.remove(&key);
        if changed != 1 {
            return Err(Failure::Refused(format!("UPDATE of acknowledged order {key:?} changed {changed} rows")));
        }
        self.done.journal.orders.insert(key, Some(Order { status: status.into(), total_cents: total, items: 3 }));
        Ok(Some((key.0, key.0)))
    }

    /// Its items go by the foreign key's cascade.
    async fn delete_order(&mut self, client: &mut Client, s: &Statements) -> Result<Option<(i64, i64)>, Failure> {
        if self.own_orders.len() < 10 {
            return Ok(None);
        }
        let position = self.random.random_range(0..self.own_orders.len());
        let key = self.own_orders[position];
        if self.done.journal.unknown_orders.contains(&key) {
            return Ok(None);
        }
        match client.execute(&s.delete_order, &[&key.0, &key.1]).await.map_err(Failure::from) {
            Ok(1) => {
                self.own_orders.swap_remove(position);
                self.done.journal.orders.insert(key, None);
                self.done.journal.add("orders", -1);
                self.done.journal.add("order_items", -3);
                Ok(Some((key.0, key.0)))
            }
            Ok(changed) => {
                Err(Failure::Refused(format!("DELETE of acknowledged order {key:?} deleted {changed} rows")))
            }
            Err(Failure::Unknown(text)) => {
                self.own_orders.swap_remove(position);
                self.done.journal.unknown_orders.insert(key);
                self.done.journal.unknown_inserts += 1;
                Err(Failure::Unknown(text))
            }
            Err(refused) => Err(refused),
        }
    }

    async fn upsert(&mut self, client: &mut Client, s: &Statements) -> Result<(i64, i64), Failure> {
        let tenant = self.own_tenant();
        let name = format!("setting {}", self.random.random_range(0..5));
        let value = self.random.random_range(0..1_000_000i64);
        let key = (tenant, name.clone());
        if let Err(error) = client.execute(&s.upsert_setting, &[&tenant, &name, &value]).await {
            let failure = Failure::from(error);
            if matches!(failure, Failure::Unknown(_)) {
                self.done.journal.unknown_settings.insert(key);
            }
            return Err(failure);
        }
        if !self.done.journal.unknown_settings.contains(&key) {
            self.done.journal.settings.insert(key, value);
        }
        Ok((tenant, tenant))
    }

    /// One booking: its ledger entry and the balance, in one transaction on one shard; one in twenty is rolled back.
    async fn book(&mut self, client: &mut Client, s: &Statements) -> Result<(i64, i64), Failure> {
        let tenant = self.any_tenant();
        let amount = self.random.random_range(-500..=500i64);
        let id = self.ledger_id();
        let roll_back = self.random.random_range(0..20) == 0;
        let transaction = client.transaction().await?;
        transaction.execute(&s.insert_ledger, &[&tenant, &id, &amount]).await?;
        transaction.execute(&s.update_balance, &[&tenant, &amount]).await?;
        if roll_back {
            transaction.rollback().await?;
            self.done.journal.ledger_rolled_back.insert((tenant, id));
            return Ok((tenant, tenant));
        }
        if let Err(error) = transaction.commit().await {
            let failure = Failure::from(error);
            match failure {
                Failure::Unknown(_) => {
                    self.done.journal.unknown_ledger.insert((tenant, id));
                    self.done.journal.unknown_inserts += 1;
                }
                Failure::Refused(_) => {
                    self.done.journal.ledger_rolled_back.insert((tenant, id));
                }
            }
            return Err(failure);
        }
        self.done.journal.ledger.insert((tenant, id), amount);
        self.done.journal.add("ledger", 1);
        Ok((tenant, tenant))
    }

    /// Money from one tenant to another, often on another shard. Balances are locked in the tenants' order.
    async fn transfer(&mut self, client: &mut Client, s: &Statements) -> Result<(i64, i64), Failure> {
        let (a, b) = (self.any_tenant(), self.any_tenant());
        if a == b {
            return self.book(client, s).await;
        }
        let (first, second) = (a.min(b), a.max(b));
        let amount = self.random.random_range(1..=500i64);
        let (id_first, id_second) = (self.ledger_id(), self.ledger_id());
        let transaction = client.transaction().await?;
        for (tenant, id, change) in [(first, id_first, amount), (second, id_second, -amount)] {
            transaction.execute(&s.insert_ledger, &[&tenant, &id, &change]).await?;
            transaction.execute(&s.update_balance, &[&tenant, &change]).await?;
        }
        if let Err(error) = transaction.commit().await {
            let failure = Failure::from(error);
            let entries = [(first, id_first), (second, id_second)];
            match failure {
                Failure::Unknown(_) => {
                    self.done.journal.unknown_ledger.extend(entries);
                    self.done.journal.unknown_inserts += 2;
                }
                Failure::Refused(_) => self.done.journal.ledger_rolled_back.extend(entries),
            }
            return Err(failure);
        }
        self.done.journal.ledger.insert((first, id_first), amount);
        self.done.journal.ledger.insert((second, id_second), -amount);
        self.done.journal.add("ledger", 2);
        Ok((first, second))
    }

    /// Over all shards: tenants are never added nor deleted, so every report must count exactly all of them.
    async fn report(&mut self, client: &mut Client) -> Result<(), Failure> {
        let tenants: i64 = client.query_one("SELECT count(*) FROM tenants", &[]).await?.get(0);
        if tenants != self.options.size.tenants {
            return Err(Failure::Refused(format!(
                "a report counted {tenants} tenants of {}",
                self.options.size.tenants
            )));
        }
        let rows = client
            .query("SELECT status, count(*), sum(total_cents) FROM orders GROUP BY status ORDER BY status", &[])
            .await?;
        let mut seen = HashMap::new();
        for row in &rows {
            if seen.insert(row.get::<_, String>(0), row.get::<_, i64>(1)).is_some() {
                return Err(Failure::Refused("a report had the same group twice".into()));
            }
        }
        let top = client
            .query(
                "SELECT tenant_id, id, total_cents FROM orders ORDER BY total_cents DESC, tenant_id, id LIMIT 10",
                &[],
            )
            .await?;
        let totals: Vec<i64> = top.iter().map(|row| row.get(2)).collect();
        if totals.len() != 10 || totals.windows(2).any(|pair| pair[0] < pair[1]) {
            return Err(Failure::Refused(format!("the top ten were {totals:?}")));
        }
        self.counters.reports.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
