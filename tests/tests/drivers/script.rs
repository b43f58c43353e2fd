//! A driver's script as a child process, bounded in time, with everything that it starts.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use rustix::process::{kill_process_group, Pid, Signal};
use shardctl::dev::binaries::PostgresBinaries;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

const SCRIPT_MAX: Duration = Duration::from_secs(120);
const INSTALL_MAX: Duration = Duration::from_secs(600);
const JDBC: &str = "/usr/share/java/postgresql.jar";

/// Where the drivers are.
pub struct Installed {
    dir: PathBuf,
    sources: PathBuf,
    postgres: PathBuf,
}

/// What runs a script.
#[derive(Clone, Copy, Debug)]
pub enum Runtime {
    /// No script: [`crate::tokio_postgres_driver`].
    TokioPostgres,
    /// No script: [`crate::sqlx_driver`]. Its migrations are in the folder.
    Sqlx,
    Python,
    Node,
    Java,
    Psql,
}

impl Installed {
    /// Installs what is missing.
    pub async fn prepare() -> Result<Installed> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the workspace")?;
        let dir = ringway_tests::cluster::binaries()?.with_file_name("drivers");
        let mut command = Command::new("bash");
        command.arg(workspace.join("scripts/install-drivers.sh")).arg(&dir).stdin(Stdio::null());
        let said = output(command, INSTALL_MAX).await.context("installing drivers")?;
        print!("{said}");
        let psql = PostgresBinaries::find()?.program("psql");
        Ok(Installed {
            dir,
            sources: workspace.join("tests/drivers"),
            postgres: psql.parent().context("psql lies in a directory")?.to_path_buf(),
        })
    }

    /// Runs a script of `tests/drivers` against a server; what it printed. `single`: one PostgreSQL, to restore into.
    pub async fn run(&self, runtime: Runtime, script: &str, dsn: &str, single: &str) -> Result<String> {
        let script = self.sources.join(script);
        let mut command = match runtime {
            Runtime::TokioPostgres => return ended(crate::tokio_postgres_driver::run(dsn)).await,
            Runtime::Sqlx => return ended(crate::sqlx_driver::run(dsn, &script)).await,
            Runtime::Python => {
                let mut command = Command::new(self.dir.join("python/bin/python"));
                command.arg(script).args([dsn, single]);
                command
            }
            Runtime::Node => {
                let mut command = Command::new("node");
                command.arg(script).arg(dsn).env("NODE_PATH", self.dir.join("node/node_modules"));
                command
            }
            Runtime::Java => {
                let mut command = Command::new("java");
                command.args(["-XX:TieredStopAtLevel=1", "-cp", JDBC]).arg(script).arg(dsn);
                command
            }
            Runtime::Psql => {
                let mut command = Command::new(self.postgres.join("psql"));
                command.args(["--no-psqlrc", "--quiet", "--file"]).arg(script).arg(dsn);
                command
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([self.postgres.clone()].into_iter().chain(std::env::split_paths(&path)))?;
        command.env("PATH", path).env("PYTHONDONTWRITEBYTECODE", "1").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.current_dir(&self.sources).stdin(Stdio::null());
        output(command, SCRIPT_MAX).await
    }
}

/// A driver in this process.
async fn ended(run: impl Future<Output = Result<String>>) -> Result<String> {
    tokio::time::timeout(SCRIPT_MAX, run).await.context("the driver has not ended")?
}

/// Standard output and standard error, in the order in which they were written.
async fn output(mut command: Command, bound: Duration) -> Result<String> {
    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(id as i32)).context("the process has ended")?;
    // It holds the pipe's other end.
    drop(command);
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into())?;
    let mut said = Vec::new();
    let ended = tokio::time::timeout(bound, async {
        pipe.read_to_end(&mut said).await?;
        child.wait().await
    })
    .await;
    let text = || String::from_utf8_lossy(&said).into_owned();
    let Ok(status) = ended else {
        // It may have started others.
        let _ = kill_process_group(group, Signal::KILL);
        bail!("no end within {bound:?}; it printed\n{}", text());
    };
    let status = status?;
    ensure!(status.success(), "{status}; it printed\n{}", text());
    Ok(text())
}
