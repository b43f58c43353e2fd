//! Named steps at which a process kills itself: `RINGWAY_FAULT_FILE` names a file whose lines `<name> kill` arm them; a process
//! that reaches one writes the name to `<file>.hit` and dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::cluster::binaries;

const POLL: Duration = Duration::from_millis(5);

/// The points that a program says it has.
pub async fn list(program: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let output = Command::new(binaries()?.join(program))
        .args(arguments)
        .arg("--list-fault-points")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "{program} --list-fault-points ended with {}", output.status);
    let names: Vec<String> = String::from_utf8(output.stdout)?
        .lines()
        .map(|line| line.trim().to_string())
        .filter(|l| !l.is_empty())
        .collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    ensure!(!names.is_empty() && distinct.len() == names.len(), "{program} names no points, or one twice: {names:?}");
    Ok(names)
}

/// Arms points in one file, and disarms each when it was reached, so that a process dies once at each.
pub struct Faults {
    path: PathBuf,
    armed: Arc<Mutex<Armed>>,
    watcher: JoinHandle<()>,
}

#[derive(Default)]
struct Armed {
    remaining: Vec<String>,
    reached: Vec<(String, Instant)>,
}

impl Faults {
    /// The file lies in a directory that every part can write.
    pub fn new(directory: &Path) -> Result<Faults> {
        let path = directory.join("faults");
        write(&path, &[])?;
        let armed = Arc::new(Mutex::new(Armed::default()));
        let watcher = tokio::spawn(watch(path.clone(), armed.clone()));
        Ok(Faults { path, armed, watcher })
    }

    /// For `cluster::Options::environment`.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("RINGWAY_FAULT_FILE".into(), self.path.display().to_string())]
    }

    /// Arms these besides those that are armed.
    pub fn arm(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.remaining.extend(names);
        write(&self.path, &armed.remaining)
    }

    pub fn disarm(&self) -> Result<Vec<String>> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let left = std::mem::take(&mut armed.remaining);
        write(&self.path, &[])?;
        Ok(left)
    }

    pub fn remaining(&self) -> Vec<String> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).remaining.clone()
    }

    pub fn reached(&self) -> Vec<String> {
        let armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.reached.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Whole at every moment: a process that reads it sees the old or the new content.
fn write(path: &Path, names: &[String]) -> Result<()> {
    let text: String = names.iter().map(|name| format!("{name} kill\n")).collect();
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(&next, path).with_context(|| format!("writing {}", path.display()))
}

/// A killed process is not back before its supervisor's delay of 100 ms: no second hit overwrites one that was not read.
async fn watch(path: PathBuf, armed: Arc<Mutex<Armed>>) {
    let hit = PathBuf::from(format!("{}.hit", path.display()));
    loop {
        tokio::time::sleep(POLL).await;
        let Ok(text) = std::fs::read_to_string(&hit) else { continue };
        let names: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if names.is_empty() || !text.ends_with('\n') && !armed_exactly(&armed, &names) {
            continue;
        }
        let _ = std::fs::remove_file(&hit);
        let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            println!("  killed at {name}");
            armed.remaining.retain(|one| one != name);
            armed.reached.push((name.to_string(), Instant::now()));
        }
        if let Err(error) = write(&path, &armed.remaining) {
            eprintln!("disarming: {error:#}");
        }
    }
}

/// A file without a final newline may be half written.
fn armed_exactly(armed: &Mutex<Armed>, names: &[&str]) -> bool {
    let armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    names.iter().all(|name| armed.remaining.iter().any(|one| one == name))
}
