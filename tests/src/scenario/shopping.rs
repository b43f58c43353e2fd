//! Traffic that is started and stopped around audits, with one journal over all its runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};

use crate::cluster::Cluster;
use crate::shop::audit::{audit, Mode, Report};
use crate::shop::journal::Journal;
use crate::shop::traffic::{self, Traffic};
use crate::shop::Size;

const SEED: u64 = 20_240_601;

pub struct Shopping {
    options: traffic::Options,
    running: Option<Traffic>,
    runs: u64,
    pub journal: Journal,
    pub operations: u64,
    pub errors: u64,
    pub error_texts: Vec<String>,
    /// Of the last run, the operation that took longest.
    pub slowest: Duration,
}

impl Shopping {
    pub fn new(cluster: &Cluster, clients: usize, size: Size) -> Shopping {
        Shopping {
            options: traffic::Options {
                dsn: cluster.dsn("postgres"),
                clients,
                size,
                seed: SEED,
                survive_errors: false,
                reports: true,
                mix: traffic::Mix::Shop,
                pace: None,
            },
            running: None,
            runs: 0,
            journal: Journal::default(),
            operations: 0,
            errors: 0,
            error_texts: Vec::new(),
            slowest: Duration::ZERO,
        }
    }

    /// From the next start on: lost connections are made again, and unknown outcomes are recorded as such.
    pub fn survive_errors(&mut self) {
        self.options.survive_errors = true;
    }

    /// Starts the clients and waits until they have got something done.
    pub async fn start(&mut self) -> Result<()> {
        let traffic = Traffic::start(&self.options, self.runs);
        self.runs += 1;
        let counters = traffic.counters.clone();
        self.running = Some(traffic);
        super::until("the first operations of the traffic", Duration::from_secs(30), || async {
            let errors = counters.errors.load(Ordering::Relaxed);
            ensure!(errors == 0 || self.options.survive_errors, "{:?}", counters.error_texts());
            Ok(counters.operations.load(Ordering::Relaxed) >= 20)
        })
        .await
    }

    /// What the running clients have done so far.
    pub fn operations_now(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.counters.operations.load(Ordering::Relaxed))
    }

    fn errors_now(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.counters.errors.load(Ordering::Relaxed))
    }

    /// Waits until the running clients have done some operations more: they are not stuck.
    pub async fn goes_on(&self, operations: u64, bound: Duration) -> Result<()> {
        let from = self.operations_now();
        let went_on = super::until("traffic going on", bound, || async {
            let went_on = self.operations_now() >= from + operations;
            Ok(went_on || !self.options.survive_errors && self.errors_now() > 0)
        })
        .await;
        let Some(running) = &self.running else { anyhow::bail!("no client is running") };
        let texts = running.counters.error_texts();
        ensure!(self.options.survive_errors || texts.is_empty(), "clients saw {texts:#?}");
        went_on.with_context(|| format!("errors of clients: {texts:#?}"))
    }

    /// Stops the clients; errors are counted, not judged.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let (finished, counters) = running.stop().await?;
        let slowest = finished.latencies.iter().map(|(_, us)| u64::from(*us)).max().unwrap_or(0);
        self.slowest = Duration::from_micros(slowest);
        self.journal.merge(finished.journal);
        self.operations += counters.operations.load(Ordering::Relaxed);
        self.errors += counters.errors.load(Ordering::Relaxed);
        self.error_texts.extend(counters.error_texts());
        Ok(())
    }

    /// No client has seen any error so far.
    pub fn saw_no_errors(&self) -> Result<()> {
        ensure!(self.errors == 0, "clients saw {} errors: {:#?}", self.errors, self.error_texts);
        Ok(())
    }

    pub async fn audit(&self, cluster: &Cluster, mode: Mode) -> Result<Report> {
        let report = audit(&cluster.audited().await?, self.options.size, &self.journal, mode).await?;
        println!("  audit ({mode:?}): {}", report.summary());
        ensure!(report.passed(), "the audit ({mode:?}) finds\n{}", report.findings());
        Ok(report)
    }

    pub fn size(&self) -> Size {
        self.options.size
    }
}
