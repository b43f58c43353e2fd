//! Several independent checks of one cluster: all run, and all failures are told at the end.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

const STAGE_MAX: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Stages {
    passed: usize,
    failed: Vec<String>,
}

impl Stages {
    pub async fn run(&mut self, name: &str, stage: impl Future<Output = Result<()>>) {
        let started = Instant::now();
        let failure = match tokio::time::timeout(STAGE_MAX, stage).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no end within {STAGE_MAX:?}")),
        };
        match failure {
            None => {
                self.passed += 1;
                println!("ok     {name} ({} ms)", started.elapsed().as_millis());
            }
            Some(error) => {
                println!("FAILED {name}: {error}");
                self.failed.push(format!("{name}: {error}"));
            }
        }
    }

    pub fn finish(self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("{} of {} failed:\n{}", self.failed.len(), self.passed + self.failed.len(), self.failed.join("\n"));
        }
        Ok(())
    }
}
