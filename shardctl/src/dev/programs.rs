//! Our own executables, and the requests that the cluster makes through them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context};
use tokio::process::Command;

const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Bound on the control plane's start.
const CONTROL_READY_MAX: Duration = Duration::from_secs(30);
const CONTROL_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Programs {
    pub shardctl: PathBuf,
    pub gateway: PathBuf,
}

impl Programs {
    /// The current executable and the gateway beside it, unless `RINGWAY_SHARDCTL_BIN` and
    /// `RINGWAY_GATEWAY_BIN` name others.
    pub fn find() -> anyhow::Result<Self> {
        let shardctl = match std::env::var_os("RINGWAY_SHARDCTL_BIN") {
            Some(path) => PathBuf::from(path),
            None => std::env::current_exe().context("cannot find the running executable")?,
        };
        let gateway = match std::env::var_os("RINGWAY_GATEWAY_BIN") {
            Some(path) => PathBuf::from(path),
            None => shardctl.with_file_name("ringway-gateway"),
        };
        ensure!(
            gateway.is_file(),
            "no gateway at {}; build it with `cargo build -p ringway-gateway`, or set RINGWAY_GATEWAY_BIN",
            gateway.display()
        );
        Ok(Self { shardctl, gateway })
    }

    /// The names of the shards that the control plane knows; waits for the control plane to serve.
    pub async fn registered_shards(&self, grpc: SocketAddr) -> anyhow::Result<BTreeSet<String>> {
        let deadline = Instant::now() + CONTROL_READY_MAX;
        loop {
            match self.request(grpc, ["shard", "list", "--json"]).await {
                Ok(json) => return shard_names(&json),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the control plane does not serve"))
                }
                Err(_) => tokio::time::sleep(CONTROL_POLL).await,
            }
        }
    }

    pub async fn add_shard(&self, grpc: SocketAddr, name: &str, dsn: &str) -> anyhow::Result<()> {
        self.request(grpc, ["shard", "add", name, dsn]).await?;
        Ok(())
    }

    async fn request<const N: usize>(&self, grpc: SocketAddr, arguments: [&str; N]) -> anyhow::Result<String> {
        let what = arguments[..2].join(" ");
        let mut command = Command::new(&self.shardctl);
        command
            .args([OsStr::new("--grpc"), OsStr::new(&format!("http://{grpc}"))])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(REQUEST_MAX, command.output())
            .await
            .with_context(|| format!("`shardctl {what}` took over {} s", REQUEST_MAX.as_secs()))?
            .with_context(|| format!("cannot run {}", self.shardctl.display()))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`shardctl {what}` failed ({}): {}", output.status, stderr.trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// From `[{"name": "s1", ...}, ...]`, bare or as the member `shards`.
fn shard_names(json: &str) -> anyhow::Result<BTreeSet<String>> {
    let value: serde_json::Value =
        serde_json::from_str(json).context("`shardctl shard list --json` printed no JSON")?;
    let shards = value.get("shards").unwrap_or(&value).as_array();
    let names = shards.and_then(|shards| {
        let name = |shard: &serde_json::Value| Some(shard.get("name")?.as_str()?.to_owned());
        shards.iter().map(name).collect::<Option<_>>()
    });
    names.context("`shardctl shard list --json` printed no list of named shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let expected = BTreeSet::from(["s1".to_owned(), "s2".to_owned()]);
        let bare = r#"[{"name": "s1"}, {"name": "s2", "number": 2}]"#;
        assert_eq!(shard_names(bare).unwrap(), expected);
        let member = format!(r#"{{"shards": {bare}}}"#);
        assert_eq!(shard_names(&member).unwrap(), expected);
        assert!(shard_names("[]").unwrap().is_empty());
        assert!(shard_names("{}").is_err());
        assert!(shard_names("").is_err());
    }
}
