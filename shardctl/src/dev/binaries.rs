//! Finds the PostgreSQL programs, and the operating system's account that they run as.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::postgres::PostgresError;

/// The oldest major version of PostgreSQL that Ringway works with.
pub const POSTGRES_MAJOR_MIN: u32 = 14;
pub const INSTALL_COMMAND: &str = "sudo scripts/install-postgresql.sh";
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// A directory that holds `initdb` and `postgres`, version 14 or newer.
#[derive(Debug, Clone)]
pub struct PostgresBinaries {
    dir: PathBuf,
    major: u32,
}

impl PostgresBinaries {
    /// Looks at `RINGWAY_PG_BIN` (and then nowhere else), at Debian's directories, newest first,
    /// and at `pg_config --bindir`.
    pub fn find() -> Result<Self, PostgresError> {
        if let Some(dir) = std::env::var_os("RINGWAY_PG_BIN") {
            let dir = PathBuf::from(dir);
            return Self::at(dir.clone()).ok_or(PostgresError::BadBinaries { dir });
        }
        let mut debian: Vec<Self> = std::fs::read_dir(DEBIAN_ROOT)
            .into_iter()
            .flatten()
            .filter_map(|entry| Self::at(entry.ok()?.path().join("bin")))
            .collect();
        debian.sort_by_key(|binaries| binaries.major);
        debian.pop().or_else(|| Self::at(pg_config_bindir()?)).ok_or(PostgresError::NoBinaries)
    }

    fn at(dir: PathBuf) -> Option<Self> {
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
        let major = major_version(&String::from_utf8_lossy(&output.stdout))?;
        (major >= POSTGRES_MAJOR_MIN).then_some(Self { dir, major })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn major(&self) -> u32 {
        self.major
    }
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(dir.trim()))
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `... 17beta1`.
fn major_version(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

/// Who runs PostgreSQL: it refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub enum Account {
    /// The user that runs this process.
    Own,
    /// This process is root, and PostgreSQL's processes drop to this user.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The account for the server in `dir`: the owner of what is there already, else `postgres`.
    pub fn for_server(dir: &Path) -> Result<Self, PostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        if let Ok(data) = std::fs::metadata(dir.join("data")) {
            if data.uid() != 0 {
                return Ok(Self::Other { uid: data.uid(), gid: data.gid() });
            }
        }
        let id = |option| -> Option<u32> {
            let output = Command::new("id").args([option, "postgres"]).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse().ok()
        };
        match (id("-u"), id("-g")) {
            (Some(uid), Some(gid)) => Ok(Self::Other { uid, gid }),
            _ => Err(PostgresError::NoAccount),
        }
    }

    /// Gives `path`, not what is in it, to the account.
    pub fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
        }
    }

    pub fn apply(self, command: &mut Command) {
        if let Self::Other { uid, gid } = self {
            // std also drops the supplementary groups when root sets a uid.
            command.uid(uid).gid(gid);
        }
    }

    /// Checks that the account can reach `dir` through each of its parents.
    pub fn check_reach(self, dir: &Path) -> Result<(), PostgresError> {
        let Self::Other { uid, gid } = self else {
            return Ok(());
        };
        for parent in dir.ancestors().skip(1) {
            let metadata =
                std::fs::metadata(parent).map_err(|source| PostgresError::Io { path: parent.to_owned(), source })?;
            let execute = match () {
                () if metadata.uid() == uid => 0o100,
                () if metadata.gid() == gid => 0o010,
                () => 0o001,
            };
            if metadata.permissions().mode() & execute == 0 {
                return Err(PostgresError::Unreachable { dir: dir.to_owned(), parent: parent.to_owned(), uid });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn versions() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(major_version(debian), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 17beta1\n"), Some(17));
        assert_eq!(major_version("postgres (PostgreSQL) 9.6"), Some(9));
        assert_eq!(major_version("unknown"), None);
    }
}
