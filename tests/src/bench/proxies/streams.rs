//! Much data through one connection: a large result, and COPY.

use std::time::Instant;

use anyhow::{ensure, Result};
use futures_util::{SinkExt as _, StreamExt as _};

use super::table::median;
use super::{cpu_nanoseconds, Target};
use crate::shop::audit;

const ROWS: u64 = 1_000_000;
const BLOCK_ROWS: u64 = 1_000;

pub async fn compare(targets: &[Target], rounds: usize) -> Result<()> {
    let mut reads: Vec<Vec<(f64, f64)>> = vec![Vec::new(); targets.len()];
    let mut writes = reads.clone();
    for _ in 0..rounds {
        for (place, target) in targets.iter().enumerate() {
            reads[place].push(measured(target, read(target)).await?);
            writes[place].push(measured(target, write(target)).await?);
        }
    }
    for (what, of_targets) in [("1 million rows of 100 bytes streamed", reads), ("COPY of 1 million rows in", writes)] {
        println!("{what}");
        for (target, runs) in targets.iter().zip(&of_targets) {
            let ratios = runs.iter().zip(&of_targets[0]).map(|(run, direct)| direct.0 / run.0).collect();
            let cpu = median(runs.iter().map(|run| run.1).collect());
            let cpu = if target.process.is_some() { format!("; proxy CPU {cpu:.2} s") } else { String::new() };
            let seconds = median(runs.iter().map(|run| run.0).collect());
            println!("  {:<44} {seconds:>6.2} s, of direct {:.2}{cpu}", target.name, median(ratios));
        }
    }
    Ok(())
}

/// Seconds, and the proxy's seconds of processor time.
async fn measured(target: &Target, work: impl std::future::Future<Output = Result<()>>) -> Result<(f64, f64)> {
    let before = target.process.map(cpu_nanoseconds).transpose()?.unwrap_or(0);
    let started = Instant::now();
    work.await?;
    let seconds = started.elapsed().as_secs_f64();
    let after = target.process.map(cpu_nanoseconds).transpose()?.unwrap_or(0);
    Ok((seconds, (after - before) as f64 / 1e9))
}

fn dsn(target: &Target) -> String {
    format!("postgresql://postgres@127.0.0.1:{}/{}", target.port, target.database)
}

async fn read(target: &Target) -> Result<()> {
    let client = audit::connect(&dsn(target)).await?;
    let sql = format!("SELECT repeat('x', 96), g FROM generate_series(1, {ROWS}) g");
    let rows = client.query_raw(&sql, std::iter::empty::<i32>()).await?;
    futures_util::pin_mut!(rows);
    let mut count = 0;
    while let Some(row) = rows.next().await {
        row?;
        count += 1;
    }
    ensure!(count == ROWS, "{count} rows came");
    Ok(())
}

async fn write(target: &Target) -> Result<()> {
    let client = audit::connect(&dsn(target)).await?;
    client.batch_execute("TRUNCATE pgbench_history").await?;
    let sink = client.copy_in("COPY pgbench_history (tid, bid, aid, delta) FROM STDIN").await?;
    futures_util::pin_mut!(sink);
    for first in (0..ROWS).step_by(BLOCK_ROWS as usize) {
        let lines: String = (first..first + BLOCK_ROWS).map(|row| format!("1\t1\t{row}\t{row}\n")).collect();
        sink.send(bytes::Bytes::from(lines)).await?;
    }
    ensure!(sink.finish().await? == ROWS, "not every row was taken");
    Ok(())
}
