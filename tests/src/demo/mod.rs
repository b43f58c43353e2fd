//! The demonstration that is also the acceptance test: two shards, a million rows, 16 clients, and a split while they write.

pub mod figures;
mod story;
pub mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::shop::Size;

/// Load a shop, run traffic, split a shard under it, roll a second split back, and audit everything
#[derive(Clone, Debug, clap::Parser)]
pub struct Arguments {
    /// Seconds of traffic measured before the split and after it
    #[arg(long, default_value_t = 12)]
    pub seconds: u64,
    /// Client connections
    #[arg(long, default_value_t = 16)]
    pub clients: usize,
    /// A few thousand rows instead of a million
    #[arg(long)]
    pub small: bool,
    /// Seed of the traffic
    #[arg(long, default_value_t = 20_240_601)]
    pub seed: u64,
    /// Directory of the cluster; a temporary one by default
    #[arg(long)]
    pub data: Option<PathBuf>,
}

impl Arguments {
    fn size(&self) -> Size {
        if self.small {
            Size::SMALL
        } else {
            Size::DEMO
        }
    }

    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Whether everything held.
pub async fn run(arguments: Arguments) -> Result<bool> {
    story::run(&arguments).await
}
