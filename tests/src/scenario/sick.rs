//! Servers that hang or die: signals to a postmaster and all its processes.

use anyhow::Result;
use rustix::process::Signal;
use shardctl::dev::process::ProcessId;

use crate::cluster::Cluster;

/// A server all of whose processes are stopped; it goes on when this is dropped.
pub struct Frozen {
    processes: Vec<ProcessId>,
}

impl Frozen {
    /// Freezes a PostgreSQL by its name in the cluster's directory ("s1", "spare1").
    pub fn server(cluster: &Cluster, part: &str) -> Result<Frozen> {
        let postmaster = cluster.process(part)?;
        // First the parent: it starts no process that the list would miss.
        postmaster.signal(Signal::STOP)?;
        let mut processes = vec![postmaster];
        processes.extend(postmaster.children());
        for process in &processes {
            process.signal(Signal::STOP)?;
        }
        Ok(Frozen { processes })
    }

    pub fn process(process: ProcessId) -> Result<Frozen> {
        process.signal(Signal::STOP)?;
        Ok(Frozen { processes: vec![process] })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in self.processes.iter().rev() {
            let _ = process.signal(Signal::CONT);
        }
    }
}

/// As a power failure would: the postmaster and all its processes at once.
pub fn kill_server(cluster: &Cluster, part: &str) -> Result<()> {
    let frozen = Frozen::server(cluster, part)?;
    for process in &frozen.processes {
        process.signal(Signal::KILL)?;
    }
    Ok(())
}
