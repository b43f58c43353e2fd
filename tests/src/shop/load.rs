//! Makes the shop's schema and loads its rows, all through the gateway.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::Client;

use super::{Size, SCHEMA};

const COUNTRIES: &[(&str, &str, &str)] = &[
    ("AT", "Österreich", "20.0"),
    ("CH", "Schweiz", "8.1"),
    ("DE", "Deutschland", "19.0"),
    ("FR", "France", "20.0"),
    ("IT", "Italia", "22.0"),
    ("JP", "日本", "10.0"),
];

/// Bytes collected before they are sent as one CopyData message.
const COPY_MESSAGE_BYTES: usize = 64 * 1024;

pub async fn create_schema(client: &Client) -> Result<()> {
    for statement in SCHEMA {
        client.batch_execute(statement).await.with_context(|| format!("running {statement}"))?;
    }
    for (code, name, vat) in COUNTRIES {
        client
            .batch_execute(&format!("INSERT INTO countries (code, name, vat) VALUES ('{code}', '{name}', {vat})"))
            .await
            .context("filling countries")?;
    }
    Ok(())
}

/// Loads every table by COPY. Returns the rows loaded.
pub async fn load_rows(client: &Client, size: Size) -> Result<i64> {
    let country = |t: i64| COUNTRIES[(t as usize) % COUNTRIES.len()].0;
    copy(
        client,
        "COPY tenants (id, name, country, attributes) FROM STDIN",
        (1..=size.tenants).map(|t| {
            format!(
                "{t}\tTenant \"{t}\", inc.\t{}\t{{\"tier\": {}, \"tags\": [\"a\\\\tb\", \"ü\"]}}\n",
                country(t),
                t % 3
            )
        }),
    )
    .await?;
    let tenants = || 1..=size.tenants;
    copy(
        client,
        "COPY customers (tenant_id, id, name, email) FROM STDIN",
        tenants().flat_map(|t| {
            (1..=size.customers_per_tenant).map(move |c| format!("{t}\t{c}\tCustomer {c}\tc{c}@tenant{t}.example\n"))
        }),
    )
    .await?;
    // Loaded orders keep clear of generated ids: those are positive.
    copy(
        client,
        "COPY orders (tenant_id, id, customer_id, status, total_cents, note) FROM STDIN",
        tenants().flat_map(|t| {
            (1..=size.customers_per_tenant * size.orders_per_customer).map(move |o| {
                let customer = (o - 1) % size.customers_per_tenant + 1;
                let status = ["new", "paid", "sent", "returned"][(o % 4) as usize];
                format!("{t}\t{}\t{customer}\t{status}\t{}\tloaded order {o} – naïve ☂\n", -o, o * 37 % 10_000)
            })
        }),
    )
    .await?;
    copy(
        client,
        "COPY order_items (tenant_id, order_id, line, product, quantity, price) FROM STDIN",
        tenants().flat_map(|t| {
            (1..=size.customers_per_tenant * size.orders_per_customer).flat_map(move |o| {
                (1..=size.items_per_order).map(move |l| {
                    format!("{t}\t{}\t{l}\tproduct {}\t{}\t{}.{:02}\n", -o, (o + l) % 100, l, o % 50 + 1, o % 100)
                })
            })
        }),
    )
    .await?;
    Ok(size.total())
}

async fn copy(client: &Client, statement: &str, rows: impl Iterator<Item = String>) -> Result<()> {
    let sink = client.copy_in::<_, Bytes>(statement).await.with_context(|| statement.to_string())?;
    futures_util::pin_mut!(sink);
    let mut message = String::with_capacity(COPY_MESSAGE_BYTES + 1024);
    for row in rows {
        message.push_str(&row);
        if message.len() >= COPY_MESSAGE_BYTES {
            sink.send(Bytes::from(std::mem::take(&mut message))).await.with_context(|| statement.to_string())?;
        }
    }
    if !message.is_empty() {
        sink.send(Bytes::from(message)).await.with_context(|| statement.to_string())?;
    }
    sink.finish().await.with_context(|| statement.to_string())?;
    Ok(())
}
