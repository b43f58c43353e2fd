//! Options of the control plane: the command line, then `RINGWAY_*` variables, then the file, then defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{anyhow, Context as _};
use serde::Deserialize;

use crate::cli::args::ServeArgs;

const GRPC_DEFAULT: &str = "127.0.0.1:7432";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Sled(PathBuf),
    Etcd(String),
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreUrl, String> {
        match text.split_once(':') {
            Some(("sled", directory)) if !directory.is_empty() => Ok(StoreUrl::Sled(directory.into())),
            Some(("etcd", address)) if address.starts_with("//") => Ok(StoreUrl::Etcd(text.to_owned())),
            _ => Err("a store is sled:DIR or etcd://HOST:PORT".to_owned()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<String>,
    grpc: Option<String>,
    secret: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub store: StoreUrl,
    pub grpc: SocketAddr,
    pub secret: Option<String>,
}

impl Config {
    pub fn resolve(args: ServeArgs) -> anyhow::Result<Config> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let store = args.store.or(file.store);
        let store = store.context("say where the topology is kept, for instance --store sled:data/control")?;
        let grpc = args.grpc.or(file.grpc).unwrap_or_else(|| GRPC_DEFAULT.to_owned());
        // From the environment or the file only: a command line is there for everybody to read.
        let secret = std::env::var("RINGWAY_SECRET").ok().or(file.secret).filter(|secret| !secret.is_empty());
        Ok(Config {
            store: store.parse().map_err(|error| anyhow!("--store {store}: {error}"))?,
            grpc: grpc
                .parse()
                .map_err(|_| anyhow!("--grpc {grpc}: write it as ADDRESS:PORT, for instance {GRPC_DEFAULT}"))?,
            secret,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no configuration", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ringway.toml");
        std::fs::write(&path, "store = \"sled:/a\"\ngrpc = \"127.0.0.1:1\"\n").unwrap();
        let args = ServeArgs {
            store: Some("sled:/b".into()),
            grpc: None,
            config: Some(path.clone()),
            list_fault_points: false,
        };
        let config = Config::resolve(args.clone()).unwrap();
        assert_eq!((config.store, config.grpc.port()), (StoreUrl::Sled("/b".into()), 1));
        std::fs::write(&path, "stor = 1").unwrap();
        assert!(Config::resolve(args).is_err(), "a misspelt option is an error");
    }

    #[test]
    fn stores() {
        assert_eq!("sled:/a b".parse(), Ok(StoreUrl::Sled("/a b".into())));
        assert!(matches!("etcd://h:1".parse(), Ok(StoreUrl::Etcd(_))));
        assert!("sled:".parse::<StoreUrl>().is_err() && "redis://h".parse::<StoreUrl>().is_err());
    }
}
