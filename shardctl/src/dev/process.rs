//! Processes named so that a reused pid is never mistaken for the original.
//!
//! A process is its pid together with its start time, read from `/proc/PID/stat`.
//! Nothing here starts processes, and a signal only ever goes to one process.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};
use serde::{Deserialize, Serialize};

const GONE_POLL: Duration = Duration::from_millis(20);

/// One process of this machine, for as long as the machine is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Clock ticks between boot and the start of the process.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` if there is none, or only a zombie.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (!stat.ended).then_some(Self { pid, start_ticks: stat.start_ticks })
    }

    /// The calling process.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id()).ok_or_else(|| io::Error::other("cannot read /proc/self/stat"))
    }

    pub fn is_running(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends `signal`. A process that has ended already is not an error.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        if !self.is_running() {
            return Ok(());
        }
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process has ended; false when it outlives `bound`. Cancel-safe.
    pub async fn gone(self, bound: Duration) -> bool {
        let started = Instant::now();
        while self.is_running() {
            if started.elapsed() > bound {
                return false;
            }
            tokio::time::sleep(GONE_POLL).await;
        }
        true
    }

    /// Sends each signal in turn, waiting its bound for the end; true once the process has ended.
    pub async fn end(self, signals: &[(Signal, Duration)]) -> io::Result<bool> {
        for &(signal, bound) in signals {
            self.signal(signal)?;
            if self.gone(bound).await {
                return Ok(true);
            }
        }
        Ok(!self.is_running())
    }

    /// The direct children that run now.
    pub fn children(self) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&pid| Stat::read(pid).is_some_and(|stat| stat.parent == self.pid))
            .filter_map(Self::of)
            .collect()
    }
}

struct Stat {
    ended: bool,
    parent: u32,
    start_ticks: u64,
}

impl Stat {
    /// Fields 3, 4 and 22 of proc(5)'s stat, counted behind the command name, which may hold anything.
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        Some(Self {
            ended: matches!(fields.next()?, "Z" | "X" | "x"),
            parent: fields.next()?.parse().ok()?,
            start_ticks: fields.nth(17)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_another_process() {
        let current = ProcessId::current().unwrap();
        let earlier = ProcessId { start_ticks: current.start_ticks - 1, ..current };
        assert!(current.is_running());
        assert!(!earlier.is_running());
        earlier.signal(Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_child_is_found_and_ends() {
        let mut child = tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let process = ProcessId::of(child.id().unwrap()).unwrap();
        assert!(ProcessId::current().unwrap().children().contains(&process));
        let bound = Duration::from_secs(5);
        assert!(process.end(&[(Signal::TERM, bound)]).await.unwrap());
        child.wait().await.unwrap();
    }
}
