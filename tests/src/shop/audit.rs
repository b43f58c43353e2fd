//! The audit: reads the shards directly, not through the gateway, and holds them against the clients' journals.
//!
//! It computes owners from the ring's points with PostgreSQL's own hash function, without any code or SQL of the system under test.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};

use super::journal::{Journal, Key};
use super::{Size, SHARDED};

/// Findings that are spelled out per kind; the rest is counted.
const FINDINGS_KEPT: usize = 5;

/// A shard as the audit reaches it.
#[derive(Clone, Debug)]
pub struct AuditedShard {
    pub number: u32,
    pub name: String,
    pub dsn: String,
}

#[derive(Clone, Debug)]
pub struct Cluster {
    pub shards: Vec<AuditedShard>,
    /// Sorted: a point owns the tokens above the one before it, up to and including its own.
    pub ring: Vec<(i64, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Rows count where the ring says they are; others may still lie about on shards that had them (before completion).
    ByOwnership,
    /// Besides, no shard holds a row that it does not own.
    Complete,
}

#[derive(Debug, Default)]
pub struct Report {
    pub rows_counted: i64,
    pub writes_checked: usize,
    pub tenants_summed: i64,
    /// Rows on shards that do not own them.
    pub foreign_rows: i64,
    findings: BTreeMap<&'static str, (usize, Vec<String>)>,
}

impl Report {
    fn find(&mut self, kind: &'static str, text: String) {
        let (count, kept) = self.findings.entry(kind).or_default();
        *count += 1;
        if kept.len() < FINDINGS_KEPT {
            kept.push(text);
        }
    }

    pub fn passed(&self) -> bool {
        self.findings.is_empty()
    }

    pub fn has(&self, kind: &str) -> bool {
        self.findings.contains_key(kind)
    }

    pub fn findings(&self) -> String {
        let mut text = String::new();
        for (kind, (count, kept)) in &self.findings {
            text.push_str(&format!("{kind}: {count}\n"));
            for one in kept {
                text.push_str(&format!("  {one}\n"));
            }
        }
        text
    }

    pub fn summary(&self) -> String {
        format!(
            "{} rows counted, {} acknowledged or rolled-back writes checked one by one, {} ledgers summed: {}",
            self.rows_counted,
            self.writes_checked,
            self.tenants_summed,
            if self.passed() { "every one as it must be".to_string() } else { format!("FAILED\n{}", self.findings()) }
        )
    }
}

pub async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(dsn, NoTls).await.with_context(|| format!("connecting to {dsn}"))?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

impl Cluster {
    /// SQL condition: the shard owns the key.
    pub fn owned_condition(&self, shard: u32, key: &str) -> String {
        let mut conditions = vec!["false".to_string()];
        let mut after: Option<i64> = None;
        for (token, owner) in &self.ring {
            if *owner == shard {
                let low = after.map(|a| format!("hashint8extended({key}, 0) > ({a})::int8 AND ")).unwrap_or_default();
                conditions.push(format!("({low}hashint8extended({key}, 0) <= ({token})::int8)"));
            }
            after = Some(*token);
        }
        // A literal below the smallest positive int8 must not be read as numeric.
        format!("({})", conditions.join(" OR ")).replace("(-9223372036854775808)::int8", "'-9223372036854775808'::int8")
    }
}

/// Holds what the shards contain against what was loaded and what the clients know.
pub async fn audit(cluster: &Cluster, size: Size, journal: &Journal, mode: Mode) -> Result<Report> {
    let mut report = Report::default();
    let mut clients = BTreeMap::new();
    for shard in &cluster.shards {
        clients.insert(shard.number, (shard, connect(&shard.dsn).await?));
    }
    count_tables(cluster, &clients, size, journal, mode, &mut report).await?;
    check_orders(cluster, &clients, journal, &mut report).await?;
    check_ledger(cluster, &clients, journal, &mut report).await?;
    check_settings(cluster, &clients, journal, &mut report).await?;
    check_sums(cluster, &clients, journal, &mut report).await?;
    check_countries(&clients, &mut report).await?;
    report.writes_checked = journal.writes();
    Ok(report)
}

type Clients<'a> = BTreeMap<u32, (&'a AuditedShard, Client)>;

async fn count_tables(
    cluster: &Cluster,
    clients: &Clients<'_>,
    size: Size,
    journal: &Journal,
    mode: Mode,
    report: &mut Report,
) -> Result<()> {
    for (table, key) in SHARDED {
        let mut total = 0;
        for (number, (shard, client)) in clients {
            let owned = cluster.owned_condition(*number, key);
            let row = client
                .query_one(
                    &format!("SELECT count(*) FILTER (WHERE {owned}), count(*) FILTER (WHERE NOT {owned}) FROM public.{table}"),
                    &[],
                )
                .await
                .with_context(|| format!("counting {table} on {}", shard.name))?;
            total += row.get::<_, i64>(0);
            let foreign: i64 = row.get(1);
            report.foreign_rows += foreign;
            if foreign > 0 && mode == Mode::Complete {
                name_foreign_rows(cluster, clients, *number, table, key, report).await?;
            }
        }
        report.rows_counted += total;
        let expected = match *table {
            "settings" => journal.settings.keys().filter(|k| !journal.unknown_settings.contains(*k)).count() as i64,
            _ => size.rows(table) + journal.added.get(table).copied().unwrap_or(0),
        };
        let unknown = journal.unknown_inserts as i64 * 3 + journal.unknown_settings.len() as i64;
        if (total - expected).abs() > unknown {
            report.find(
                "wrong total",
                format!("{table}: {total} rows on their owners, {expected} expected (± {unknown})"),
            );
        }
    }
    Ok(())
}

/// Says of each row on a wrong shard whether its owner has it too.
async fn name_foreign_rows(
    cluster: &Cluster,
    clients: &Clients<'_>,
    number: u32,
    table: &str,
    key: &str,
    report: &mut Report,
) -> Result<()> {
    let (shard, client) = &clients[&number];
    let owned = cluster.owned_condition(number, key);
    let rows = client
        .query(&format!("SELECT {key}, to_jsonb(t)::text FROM public.{table} t WHERE NOT {owned} LIMIT 1000"), &[])
        .await?;
    for row in rows {
        let (tenant, image): (i64, String) = (row.get(0), row.get(1));
        let mut elsewhere = false;
        for (other, (_, other_client)) in clients {
            if *other != number {
                let condition = cluster.owned_condition(*other, key);
                let query = format!(
                    "SELECT EXISTS (SELECT FROM public.{table} t WHERE {key} = $1 AND {condition} AND to_jsonb(t) = $2::text::jsonb)"
                );
                elsewhere |= other_client.query_one(&query, &[&tenant, &image]).await?.get::<_, bool>(0);
            }
        }
        let kind = if elsewhere { "doubled row" } else { "misplaced row" };
        report.find(kind, format!("{table} on {}: {image}", shard.name));
    }
    Ok(())
}

/// The rows of a query with two bigint array parameters (tenants, ids), asked on every shard for the keys that it owns.
async fn ask_owners(
    cluster: &Cluster,
    clients: &Clients<'_>,
    keys: &[Key],
    query: impl Fn(&str) -> String,
) -> Result<Vec<tokio_postgres::Row>> {
    let tenants: Vec<i64> = keys.iter().map(|k| k.0).collect();
    let ids: Vec<i64> = keys.iter().map(|k| k.1).collect();
    let mut rows = Vec::new();
    for (number, (shard, client)) in clients {
        let owned = cluster.owned_condition(*number, "k.tenant");
        rows.extend(
            client
                .query(&query(&owned), &[&tenants, &ids])
                .await
                .with_context(|| format!("auditing {}", shard.name))?,
        );
    }
    Ok(rows)
}

async fn check_orders(cluster: &Cluster, clients: &Clients<'_>, journal: &Journal, report: &mut Report) -> Result<()> {
    let keys: Vec<Key> = journal.orders.keys().filter(|k| !journal.unknown_orders.contains(k)).copied().collect();
    let rows = ask_owners(cluster, clients, &keys, |owned| {
        format!(
            "SELECT k.tenant, k.id, o.status, o.total_cents,
                (SELECT count(*) FROM public.order_items i WHERE i.tenant_id = k.tenant AND i.order_id = k.id)
             FROM unnest($1::int8[], $2::int8[]) AS k(tenant, id)
             LEFT JOIN public.orders o ON o.tenant_id = k.tenant AND o.id = k.id WHERE {owned}"
        )
    })
    .await?;
    if rows.len() != keys.len() {
        report.find("ring", format!("{} of {} keys have an owner", rows.len(), keys.len()));
    }
    for row in rows {
        let key: Key = (row.get(0), row.get(1));
        let (status, total, items): (Option<String>, Option<i64>, i64) = (row.get(2), row.get(3), row.get(4));
        match (&journal.orders[&key], status, total) {
            (Some(expected), Some(status), Some(total)) => {
                if (&status, total, items) != (&expected.status, expected.total_cents, expected.items) {
                    report.find(
                        "wrong row",
                        format!("order {key:?} is {status} {total} with {items} items, not {expected:?}"),
                    );
                }
            }
            (Some(expected), ..) => report.find("lost row", format!("order {key:?}, acknowledged as {expected:?}")),
            (None, Some(_), _) => report.find("undead row", format!("order {key:?} was deleted or rolled back")),
            (None, ..) if items > 0 => report.find("undead row", format!("{items} items of deleted order {key:?}")),
            (None, ..) => {}
        }
    }
    Ok(())
}

async fn check_ledger(cluster: &Cluster, clients: &Clients<'_>, journal: &Journal, report: &mut Report) -> Result<()> {
    let mut keys: Vec<Key> = journal.ledger.keys().copied().collect();
    keys.extend(journal.ledger_rolled_back.iter().copied());
    let rows = ask_owners(cluster, clients, &keys, |owned| {
        format!(
            "SELECT k.tenant, k.id, l.amount FROM unnest($1::int8[], $2::int8[]) AS k(tenant, id)
             LEFT JOIN public.ledger l ON l.tenant_id = k.tenant AND l.id = k.id WHERE {owned}"
        )
    })
    .await?;
    for row in rows {
        let key: Key = (row.get(0), row.get(1));
        let amount: Option<i64> = row.get(2);
        match (journal.ledger.get(&key), amount) {
            (Some(expected), Some(amount)) if *expected == amount => {}
            (Some(expected), Some(amount)) => {
                report.find("wrong row", format!("ledger entry {key:?} is {amount}, not {expected}"));
            }
            (Some(expected), None) => report.find("lost row", format!("ledger entry {key:?} of {expected}")),
            (None, Some(amount)) => report.find("undead row", format!("rolled-back ledger entry {key:?} of {amount}")),
            (None, None) => {}
        }
    }
    // Unknown outcomes must at least agree with themselves: that is what the sums check.
    Ok(())
}

async fn check_settings(
    cluster: &Cluster,
    clients: &Clients<'_>,
    journal: &Journal,
    report: &mut Report,
) -> Result<()> {
    let known: Vec<(&(i64, String), &i64)> =
        journal.settings.iter().filter(|(k, _)| !journal.unknown_settings.contains(*k)).collect();
    let tenants: Vec<i64> = known.iter().map(|(k, _)| k.0).collect();
    let names: Vec<&str> = known.iter().map(|(k, _)| k.1.as_str()).collect();
    for (number, (_, client)) in clients {
        let owned = cluster.owned_condition(*number, "k.tenant");
        let query = format!(
            "SELECT k.tenant, k.name, s.value FROM unnest($1::int8[], $2::text[]) AS k(tenant, name)
             LEFT JOIN public.settings s ON s.tenant_id = k.tenant AND s.name = k.name WHERE {owned}"
        );
        for row in client.query(&query, &[&tenants, &names]).await? {
            let key: (i64, String) = (row.get(0), row.get(1));
            let value: Option<i64> = row.get(2);
            let expected = journal.settings[&key];
            match value {
                Some(value) if value == expected => {}
                Some(value) => report.find("wrong row", format!("setting {key:?} is {value}, not {expected}")),
                None => report.find("lost row", format!("setting {key:?} of {expected}")),
            }
        }
    }
    Ok(())
}

/// Every tenant's balance is the sum of its ledger; together they are what the clients booked.
async fn check_sums(cluster: &Cluster, clients: &Clients<'_>, journal: &Journal, report: &mut Report) -> Result<()> {
    let mut total = 0;
    for (number, (shard, client)) in clients {
        let owned = cluster.owned_condition(*number, "t.id");
        let query = format!(
            "SELECT t.id, t.balance, coalesce((SELECT sum(l.amount) FROM public.ledger l WHERE l.tenant_id = t.id), 0)::int8
             FROM public.tenants t WHERE {owned}"
        );
        for row in client.query(&query, &[]).await? {
            let (tenant, balance, sum): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
            total += balance;
            report.tenants_summed += 1;
            if balance != sum {
                let text = format!("tenant {tenant} on {}: balance {balance}, ledger {sum}", shard.name);
                report.find("ledger does not agree", text);
            }
        }
    }
    let booked: i64 = journal.ledger.values().sum();
    if journal.unknown_ledger.is_empty() && total != booked {
        report.find("ledger does not agree", format!("all balances: {total}, all acknowledged bookings: {booked}"));
    }
    Ok(())
}

async fn check_countries(clients: &Clients<'_>, report: &mut Report) -> Result<()> {
    let mut first: Option<(String, String)> = None;
    for (shard, client) in clients.values() {
        let content: String = client
            .query_one("SELECT coalesce(string_agg(c::text, ';' ORDER BY code), '') FROM public.countries c", &[])
            .await?
            .get(0);
        match &first {
            None => first = Some((shard.name.clone(), content)),
            Some((name, expected)) if *expected != content => {
                report.find("reference table differs", format!("countries on {name} and {}", shard.name));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
