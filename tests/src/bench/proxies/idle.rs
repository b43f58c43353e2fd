//! Clients that are logged in and do nothing.

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::shop::audit;

/// They leave when it is dropped.
pub struct Idle {
    _clients: Vec<tokio_postgres::Client>,
}

/// One after another: logging in is not what is measured.
pub async fn connect(port: u16, database: &str, count: usize) -> Result<Idle> {
    const AT_ONCE: usize = 16;
    let dsn = format!("postgresql://postgres@127.0.0.1:{port}/{database}");
    let mut clients = Vec::with_capacity(count);
    let mut connecting = JoinSet::new();
    while clients.len() < count {
        while connecting.len() < AT_ONCE && clients.len() + connecting.len() < count {
            let dsn = dsn.clone();
            connecting.spawn(async move { audit::connect(&dsn).await });
        }
        let connected = connecting.join_next().await.context("nobody connects")?;
        clients.push(connected??);
    }
    Ok(Idle { _clients: clients })
}
