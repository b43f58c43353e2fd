//! A prepared point read through the gateway, routed, against the same on a direct connection to its shard; interleaved.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::shop::{audit, Size};

const ROUND: Duration = Duration::from_secs(2);

pub async fn compare(cluster: &Cluster, size: Size, rounds: usize) -> Result<()> {
    let audited = cluster.audited().await?;
    let shard = audited.shards.first().context("no shard")?;
    let direct = shard.dsn.replace("ringway_service@", "postgres@");
    let owned = audited.owned_condition(shard.number, "id");
    let tenants: Vec<i64> = audit::connect(&direct)
        .await?
        .query(&format!("SELECT id FROM tenants WHERE {owned} ORDER BY id"), &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(!tenants.is_empty(), "{} owns no tenant", shard.name);
    for clients in [1, 16] {
        let mut ratios = Vec::new();
        let (mut of_direct, mut of_gateway) = (0.0, 0.0);
        for _ in 0..rounds {
            let a = reads_per_second(&direct, clients, &tenants, size).await?;
            let b = reads_per_second(&cluster.dsn("postgres"), clients, &tenants, size).await?;
            ratios.push(b / a);
            (of_direct, of_gateway) = (of_direct + a, of_gateway + b);
        }
        ratios.sort_by(f64::total_cmp);
        let rounds = rounds as f64;
        println!(
            "point read, prepared, {clients} clients: gateway/direct {:.2} (median of {} rounds; {:.2} to {:.2}); \
             mean latency {:+.0} us",
            ratios[ratios.len() / 2],
            ratios.len(),
            ratios[0],
            ratios[ratios.len() - 1],
            (clients as f64 * rounds / of_gateway - clients as f64 * rounds / of_direct) * 1e6,
        );
    }
    Ok(())
}

async fn reads_per_second(dsn: &str, clients: usize, tenants: &[i64], size: Size) -> Result<f64> {
    let mut tasks = JoinSet::new();
    let mut sessions = Vec::new();
    for _ in 0..clients {
        let client = audit::connect(dsn).await?;
        let statement = client.prepare("SELECT name, email FROM customers WHERE tenant_id = $1 AND id = $2").await?;
        sessions.push((client, statement));
    }
    let until = Instant::now() + ROUND;
    for (index, (client, statement)) in sessions.into_iter().enumerate() {
        let tenants = tenants.to_vec();
        tasks.spawn(async move {
            let mut done = 0u64;
            while Instant::now() < until {
                let tenant = tenants[(done as usize * 31 + index * 7) % tenants.len()];
                let customer = done as i64 % size.customers_per_tenant + 1;
                client.query_one(&statement, &[&tenant, &customer]).await?;
                done += 1;
            }
            Ok::<u64, tokio_postgres::Error>(done)
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done??;
    }
    Ok(total as f64 / ROUND.as_secs_f64())
}
