//! What the integration and fault tests share: a cluster with the shop in it, moves that are driven through restarts of the
//! control plane, fault points, and checks that read the shards directly.

pub mod bare;
pub mod certificates;
pub mod faults;
pub mod gateway;
pub mod messages;
pub mod mover;
pub mod raw;
pub mod shopping;
pub mod sick;
pub mod sql;
pub mod stages;
pub mod traces;
pub mod writer;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::cluster::{Cluster, Options};
use crate::shop::{load, Size};
use mover::Mover;
use shopping::Shopping;

/// Clusters that one test binary runs at a time: two cores are shared by everything.
static TURNS: Semaphore = Semaphore::const_new(1);

/// Waits for the turn of a test that starts servers; hold it to the end.
pub async fn turn() -> Result<SemaphorePermit<'static>> {
    TURNS.acquire().await.context("the turns are over")
}

/// A running cluster with the shop loaded.
pub struct Scenario {
    pub cluster: Cluster,
    pub shopping: Shopping,
    pub mover: Mover,
}

impl Scenario {
    /// Two shards, a small shop, `clients` clients at rest.
    pub async fn start(clients: usize, environment: Vec<(String, String)>) -> Result<Scenario> {
        let cluster = Cluster::start(Options { shards: 2, environment, ..Options::default() }).await?;
        let outcome = Self::load(&cluster, Size::SMALL).await;
        if let Err(error) = outcome {
            return Err(error.context(format!("loading the shop; logs:\n{}", cluster.logs())));
        }
        let shopping = Shopping::new(&cluster, clients, Size::SMALL);
        let mover = Mover::new(cluster.grpc());
        Ok(Scenario { cluster, shopping, mover })
    }

    async fn load(cluster: &Cluster, size: Size) -> Result<()> {
        let client = sql::connect(&cluster.dsn("postgres")).await?;
        load::create_schema(&client).await?;
        load::load_rows(&client, size).await?;
        Ok(())
    }

    /// Ends the test: prints the logs' ends if it failed, stops the cluster.
    pub async fn finish(self, outcome: Result<()>) -> Result<()> {
        if let Err(error) = outcome {
            eprintln!("{}", self.cluster.logs());
            drop(self.shopping);
            return Err(error);
        }
        self.cluster.stop().await
    }
}

/// Asks until the answer is true, with a bound.
pub async fn until<F, Fut>(what: &str, bound: Duration, mut question: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: std::future::Future<Output = Result<bool>>,
{
    const POLL: Duration = Duration::from_millis(20);
    let started = std::time::Instant::now();
    loop {
        let answer = question().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() > bound {
            return match answer {
                Err(error) => Err(error.context(format!("{what} did not happen within {bound:?}"))),
                Ok(_) => Err(anyhow::anyhow!("{what} did not happen within {bound:?}")),
            };
        }
        tokio::time::sleep(POLL).await;
    }
}
