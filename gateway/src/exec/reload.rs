//! Reads the configuration and users files again: what may change at run time changes, the rest is reported.

use std::sync::Arc;

use super::gateway::Gateway;
use crate::config::{AuthMode, Config, ConfigError};
use crate::users::{Users, UsersError};

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Users(#[from] UsersError),
    #[error("the files could not be read")]
    Task,
}

/// What a configuration's users file holds, if clients have to prove who they are.
pub fn users(config: &Config) -> Result<Option<Arc<Users>>, UsersError> {
    match (&config.auth, &config.users) {
        (AuthMode::Scram | AuthMode::Cert, Some(path)) => Ok(Some(Arc::new(Users::read(path)?))),
        _ => Ok(None),
    }
}

/// Gives the settings that differ and need a restart. On an error nothing has changed.
pub async fn reload(gateway: &Gateway) -> Result<Vec<String>, ReloadError> {
    let options = gateway.config.options.clone();
    let auth = gateway.config.auth;
    let loading = tokio::task::spawn_blocking(move || {
        let newer = Config::load(options)?;
        // How clients are let in stays as it is.
        let users = users(&Config { auth, ..newer.clone() })?;
        Ok::<_, ReloadError>((newer, users))
    });
    let (newer, users) = loading.await.map_err(|_| ReloadError::Task)??;
    let restart = gateway.config.needs_restart(&newer);
    gateway.pools.set_rules(newer.live.pools.clone());
    gateway.live.store(Arc::new(newer.live.clone()));
    if let Some(users) = users {
        gateway.users.store(Some(users));
    }
    gateway.loaded.store(Arc::new(newer));
    gateway.reloaded.notify_one();
    tracing::info!(needs_restart = ?restart, "the configuration has been read again");
    Ok(restart)
}
