//! `DIR/dev.json`: which processes make up the running cluster.
//!
//! The file exists while the cluster runs, or after its supervisor was killed. It is always whole:
//! it appears by a hard link, and changes by a rename.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{bail, Context};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

const CLAIM_ATTEMPTS_MAX: usize = 5;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevState {
    pub supervisor: ProcessId,
    pub listen: SocketAddr,
    pub grpc: SocketAddr,
    pub parts: Vec<PartState>,
    /// What the cluster printed when it became ready; empty before.
    pub banner: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartState {
    pub name: String,
    pub layer: Layer,
    /// The start that is known last; the process may have ended since.
    pub process: Option<ProcessId>,
    pub port: u16,
    /// A PostgreSQL server's, for the service role.
    pub dsn: Option<String>,
}

/// Parts stop layer by layer, in this order: nobody loses what it depends on first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Gateway,
    Control,
    Postgres,
}

impl Layer {
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Control, Self::Postgres];
}

pub fn path(dir: &Path) -> PathBuf {
    dir.join("dev.json")
}

/// The state of the cluster in `dir`; `None` if there is none.
pub fn read(dir: &Path) -> anyhow::Result<Option<DevState>> {
    let path = path(dir);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

pub fn remove(dir: &Path) -> anyhow::Result<()> {
    let path = path(dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes what a supervisor that was killed left behind, unless another has claimed the directory.
pub fn remove_leftover(dir: &Path, leftover: &DevState) -> anyhow::Result<()> {
    match read(dir)? {
        Some(state) if state.supervisor == leftover.supervisor => remove(dir),
        _ => Ok(()),
    }
}

/// The state file, owned by the supervisor that claimed it.
#[derive(Debug)]
pub struct StateFile {
    dir: PathBuf,
    state: Mutex<DevState>,
}

/// What claiming a directory came to.
#[derive(Debug)]
pub enum Claim {
    Ours(StateFile),
    /// A supervisor that has ended left this behind; end its parts, `remove_leftover`, and claim again.
    Leftover(DevState),
}

impl StateFile {
    /// Makes this process the supervisor of `dir`; an error if one runs there already.
    pub fn claim(dir: &Path, listen: SocketAddr, grpc: SocketAddr) -> anyhow::Result<Claim> {
        let file = Self {
            dir: dir.to_owned(),
            state: Mutex::new(DevState {
                supervisor: ProcessId::current()?,
                listen,
                grpc,
                parts: Vec::new(),
                banner: Vec::new(),
            }),
        };
        let temporary = file.write_temporary(&file.lock())?;
        let path = path(dir);
        let mut claim = None;
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            match std::fs::hard_link(&temporary, &path) {
                Ok(()) => {
                    claim = Some(Claim::Ours(file));
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if let Some(state) = read(dir)? {
                        claim = Some(Claim::Leftover(state));
                        break;
                    }
                }
                Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
            }
        }
        std::fs::remove_file(&temporary)?;
        match claim {
            Some(Claim::Leftover(state)) if state.supervisor.is_running() => bail!(
                "a cluster already runs on {} (process {}); stop it with: shardctl dev stop --data {}",
                dir.display(),
                state.supervisor.pid,
                dir.display()
            ),
            Some(claim) => Ok(claim),
            None => bail!("{} comes and goes", path.display()),
        }
    }

    /// Adds the part, or replaces what is known of it.
    pub fn record(&self, part: PartState) -> anyhow::Result<()> {
        self.update(|state| match state.parts.iter_mut().find(|known| known.name == part.name) {
            Some(known) => *known = part,
            None => state.parts.push(part),
        })
    }

    pub fn set_banner(&self, banner: &[String]) -> anyhow::Result<()> {
        self.update(|state| state.banner = banner.to_vec())
    }

    fn update(&self, change: impl FnOnce(&mut DevState)) -> anyhow::Result<()> {
        let mut state = self.lock();
        change(&mut state);
        let temporary = self.write_temporary(&state)?;
        std::fs::rename(temporary, path(&self.dir)).context("cannot write dev.json")
    }

    fn write_temporary(&self, state: &DevState) -> anyhow::Result<PathBuf> {
        let temporary = self.dir.join(format!(".dev.json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(state)?;
        std::fs::write(&temporary, text).with_context(|| format!("cannot write {}", temporary.display()))?;
        Ok(temporary)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DevState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::ports::loopback;

    #[test]
    fn a_directory_has_one_supervisor() {
        let dir = tempfile::tempdir().unwrap();
        let claim = || StateFile::claim(dir.path(), loopback(1), loopback(2));
        let Claim::Ours(file) = claim().unwrap() else { panic!("nothing was left there") };
        file.set_banner(&["ready".to_owned()]).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().banner, ["ready"]);
        let error = claim().unwrap_err().to_string();
        assert!(error.contains("already runs"), "{error}");

        file.update(|state| state.supervisor.start_ticks -= 1).unwrap();
        assert!(matches!(claim().unwrap(), Claim::Leftover(_)));
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert!(matches!(claim().unwrap(), Claim::Ours(_)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
