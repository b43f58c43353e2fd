//! Sharding proxies whose programs the environment names, as plain poolers in transaction mode: PgCat and PgDog.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context as _, Result};
use shardctl::dev::ports::free_port;
use tokio::process::Command;

use super::process::Process;
use crate::cluster::temporary_directory;

/// As PgBouncer has them here.
const POOL_SIZE: u32 = 50;

pub struct ShardingProxy {
    pub name: &'static str,
    pub process: Process,
}

/// Those that are named, before the same server.
pub async fn start(server_port: u16) -> Result<Vec<ShardingProxy>> {
    let mut started = Vec::new();
    for (name, variable, configure) in
        [("pgcat", "PGCAT_BIN", pgcat as fn(&Path, u16, u16) -> Result<Vec<OsString>>), ("pgdog", "PGDOG_BIN", pgdog)]
    {
        let Some(program) = std::env::var_os(variable) else { continue };
        let (directory, port) = (temporary_directory()?, free_port()?);
        let arguments = configure(directory.path(), port, server_port)?;
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(directory.path());
        let process = Process::start(name, command, port, directory).await.context(variable)?;
        started.push(ShardingProxy { name, process });
    }
    Ok(started)
}

/// Writes its configuration; gives its arguments.
fn pgcat(directory: &Path, port: u16, server_port: u16) -> Result<Vec<OsString>> {
    let file = directory.join("pgcat.toml");
    let text = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {port}\nadmin_username = \"admin\"\nadmin_password = \"admin\"\n\
         [pools.app]\npool_mode = \"transaction\"\nquery_parser_enabled = false\nprepared_statements_cache_size = 100\n\
         [pools.app.users.0]\nusername = \"postgres\"\npassword = \"\"\nauth_type = \"trust\"\npool_size = {POOL_SIZE}\n\
         pool_mode = \"transaction\"\n\
         [pools.app.shards.0]\nservers = [[\"127.0.0.1\", {server_port}, \"primary\"]]\ndatabase = \"app\"\n"
    );
    std::fs::write(&file, text)?;
    Ok(vec![file.into()])
}

/// The same.
fn pgdog(directory: &Path, port: u16, server_port: u16) -> Result<Vec<OsString>> {
    let (configuration, users) = (directory.join("pgdog.toml"), directory.join("users.toml"));
    let text = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {port}\nauth_type = \"trust\"\npooler_mode = \"transaction\"\n\
         default_pool_size = {POOL_SIZE}\n\
         [[databases]]\nname = \"app\"\nhost = \"127.0.0.1\"\nport = {server_port}\nrole = \"primary\"\n"
    );
    std::fs::write(&configuration, text)?;
    std::fs::write(&users, "[[users]]\nname = \"postgres\"\ndatabase = \"app\"\npassword = \"\"\n")?;
    Ok(vec!["--config".into(), configuration.into(), "--users".into(), users.into()])
}
