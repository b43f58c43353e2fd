//! TLS: clients to the gateway, the gateway and the control plane to shards. `psql` is the judge of the one, PostgreSQL of the
//! other.

#[path = "tls/clients.rs"]
mod clients;
#[path = "tls/shards.rs"]
mod shards;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{ensure, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Runs `sql` and gives what it printed; an error with what it complained about.
pub async fn psql(connection: &str, sql: &str) -> Result<String> {
    psql_with_input(connection, sql, "").await
}

pub async fn psql_with_input(connection: &str, sql: &str, input: &str) -> Result<String> {
    let mut child = Command::new("psql")
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, connection])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // Nobody's certificates but those that are named.
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take();
    let feeding = async {
        if let Some(stdin) = &mut stdin {
            // It ended before it read everything: its status tells why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        stdin = None;
    };
    let ((), output) = tokio::join!(feeding, child.wait_with_output());
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "psql '{connection}' ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What psql complains about when it must not get in.
pub async fn refused(connection: &str) -> Result<String> {
    match psql(connection, "SELECT 1").await {
        Ok(answer) => anyhow::bail!("'{connection}' was let in and got {answer}"),
        Err(error) => Ok(error.to_string()),
    }
}

/// A users file.
pub fn users(directory: &Path, lines: &str) -> Result<PathBuf> {
    let path = directory.join("users");
    std::fs::write(&path, lines)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path)
}
