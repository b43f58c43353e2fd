//! The gateway's memory does not grow with what is read through it.

use anyhow::{ensure, Context as _, Result};
use ringway_tests::cluster::Cluster;
use ringway_tests::scenario::gateway::Gateway;
use ringway_tests::scenario::sql;

/// What a debug build may add while rows go through it.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

fn resident_bytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
}

/// Some 200 MB through a cursor and through a portal.
pub async fn stays_flat(cluster: &Cluster) -> Result<()> {
    let gateway = Gateway::start(cluster, &[]).await?;
    gateway.serves("postgres").await?;
    let mut client = sql::connect(&gateway.dsn("postgres")).await?;
    let process = gateway.pid()?;
    let wide = "SELECT i.id, n, repeat('x', 1000) FROM items i, generate_series(1, 1000) n";
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("DECLARE warm NO SCROLL CURSOR FOR {wide}")).await?;
    transaction.query("FETCH 2000 FROM warm", &[]).await?;
    let before = resident_bytes(process)?;
    let mut most = before;
    for scroll in ["NO SCROLL", ""] {
        transaction.batch_execute(&format!("DECLARE c {scroll} CURSOR FOR {wide} ORDER BY i.id, n")).await?;
        let mut rows = 0;
        loop {
            let fetched = transaction.query("FETCH 1000 FROM c", &[]).await?.len();
            rows += fetched;
            if fetched < 1000 {
                break;
            }
            most = most.max(resident_bytes(process)?);
        }
        ensure!(rows == 100_000, "{rows} rows of a cursor");
        transaction.batch_execute("CLOSE c").await?;
    }
    let portal = transaction.bind(wide, &[]).await?;
    let mut rows = 0;
    loop {
        let fetched = transaction.query_portal(&portal, 1000).await?.len();
        rows += fetched;
        if fetched < 1000 {
            break;
        }
        most = most.max(resident_bytes(process)?);
    }
    ensure!(rows == 100_000, "{rows} rows of a portal");
    let grown = most.saturating_sub(before);
    println!("  {} MB resident before, {} MB more at most", before >> 20, grown >> 20);
    ensure!(grown < GROWTH_BYTES_MAX, "the gateway grew by {grown} bytes");
    Ok(())
}
