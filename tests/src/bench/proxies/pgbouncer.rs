//! A PgBouncer of the bench's own: found on the path or named by `PGBOUNCER_BIN`, transaction mode, trust.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use shardctl::dev::ports::free_port;
use tokio::process::Command;

use super::process::Process;
use crate::cluster::temporary_directory;

/// The same database in session mode.
pub const SESSION_DATABASE: &str = "app_session";

pub struct PgBouncer {
    pub process: Process,
    pub version: String,
}

impl PgBouncer {
    /// None: there is none on this machine.
    pub async fn start(server_port: u16) -> Result<Option<PgBouncer>> {
        let Some(program) = find() else { return Ok(None) };
        let output =
            Command::new(&program).arg("--version").output().await.context("asking for PgBouncer's version")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("?").to_owned();
        let directory = temporary_directory()?;
        let port = free_port()?;
        let users = directory.path().join("users.txt");
        std::fs::write(&users, "\"postgres\" \"\"\n")?;
        let server = format!("host=127.0.0.1 port={server_port} dbname=app user=postgres");
        let prepared = if prepares(&version) { "max_prepared_statements = 100\n" } else { "" };
        let configuration = directory.path().join("pgbouncer.ini");
        std::fs::write(
            &configuration,
            format!(
                "[databases]\napp = {server}\n{SESSION_DATABASE} = {server} pool_mode=session pool_size=70\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
                 auth_file = {}\npool_mode = transaction\ndefault_pool_size = 50\nmax_client_conn = 5000\n\
                 logfile = {}\n{prepared}",
                users.display(),
                directory.path().join("pgbouncer.log").display()
            ),
        )?;
        let mut command = Command::new(&program);
        command.arg("-q").arg(&configuration);
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root; so it runs as the servers do.
            let account = std::process::Command::new("id").args(["-u", "postgres"]).output()?;
            let uid: u32 =
                String::from_utf8_lossy(&account.stdout).trim().parse().context("there is no user postgres")?;
            std::os::unix::fs::chown(directory.path(), Some(uid), None)?;
            command.uid(uid);
        }
        let process = Process::start("PgBouncer", command, port, directory).await?;
        Ok(Some(PgBouncer { process, version }))
    }

    /// Whether it keeps prepared statements in transaction mode.
    pub fn prepares(&self) -> bool {
        prepares(&self.version)
    }
}

/// From 1.21 on.
fn prepares(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (1, 21)
}

fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PGBOUNCER_BIN") {
        return Some(PathBuf::from(named));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    places.map(|place| place.join("pgbouncer")).find(|program| program.is_file())
}
