//! What holds for the pools of a role: `[limits]`, then `[databases.NAME]`, then `[users.NAME]`, the last one wins.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Limits};

/// How long a client keeps a connection to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PoolMode {
    /// Until the client leaves.
    Session,
    /// For one transaction.
    #[default]
    Transaction,
    /// For one statement; transaction blocks are refused.
    Statement,
}

impl PoolMode {
    pub fn name(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

/// A `[users.NAME]` or `[databases.NAME]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolOptions {
    pub pool_mode: Option<PoolMode>,
    pub pool_size_max: Option<usize>,
    pub pool_size_min: Option<usize>,
    pub pool_reserve_max: Option<usize>,
    pub server_lifetime_ms: Option<u64>,
    pub pool_idle_ms: Option<u64>,
    pub shared_reads_max: Option<usize>,
}

/// What one pool goes by. Everything in it may change while the gateway runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    pub mode: PoolMode,
    pub size_max: usize,
    /// Connections that are kept open.
    pub size_min: usize,
    pub reserve_max: usize,
    /// A connection that is at rest and older than this is closed; 0: never.
    pub lifetime_ms: u64,
    pub idle_ms: u64,
    /// Point reads on their way over one connection; below 2: each has a connection of its own.
    pub shared_reads_max: usize,
    pub waiters_max: usize,
    pub checkout_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    /// How long a statement waits for RESUME.
    pub pause_timeout_ms: u64,
}

impl PoolSettings {
    pub fn checkout_timeout(&self) -> Duration {
        Duration::from_millis(self.checkout_timeout_ms)
    }
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
    pub fn pause_timeout(&self) -> Duration {
        Duration::from_millis(self.pause_timeout_ms)
    }

    fn with(mut self, options: Option<&PoolOptions>) -> PoolSettings {
        if let Some(options) = options {
            self.mode = options.pool_mode.unwrap_or(self.mode);
            self.size_max = options.pool_size_max.unwrap_or(self.size_max);
            self.size_min = options.pool_size_min.unwrap_or(self.size_min);
            self.reserve_max = options.pool_reserve_max.unwrap_or(self.reserve_max);
            self.lifetime_ms = options.server_lifetime_ms.unwrap_or(self.lifetime_ms);
            self.idle_ms = options.pool_idle_ms.unwrap_or(self.idle_ms);
            self.shared_reads_max = options.shared_reads_max.unwrap_or(self.shared_reads_max);
        }
        self
    }
}

/// Which settings hold for which role and database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRules {
    default: PoolSettings,
    pub users: BTreeMap<String, PoolOptions>,
    pub databases: BTreeMap<String, PoolOptions>,
}

impl PoolRules {
    /// Checks every combination that may be asked for.
    pub fn new(
        mode: PoolMode,
        limits: &Limits,
        users: BTreeMap<String, PoolOptions>,
        databases: BTreeMap<String, PoolOptions>,
    ) -> Result<PoolRules, ConfigError> {
        let default = PoolSettings {
            mode,
            size_max: limits.pool_size_max,
            size_min: limits.pool_size_min,
            reserve_max: limits.pool_reserve_max,
            lifetime_ms: limits.server_lifetime_ms,
            idle_ms: limits.pool_idle_ms,
            shared_reads_max: limits.shared_reads_max,
            waiters_max: limits.pool_waiters_max,
            checkout_timeout_ms: limits.checkout_timeout_ms,
            connect_timeout_ms: limits.connect_timeout_ms,
            pause_timeout_ms: limits.pause_timeout_ms,
        };
        let rules = PoolRules { default, users, databases };
        let names = |tables: &BTreeMap<String, PoolOptions>| -> Vec<Option<String>> {
            std::iter::once(None).chain(tables.keys().cloned().map(Some)).collect()
        };
        for database in names(&rules.databases) {
            for user in names(&rules.users) {
                let settings = rules.of(user.as_deref().unwrap_or(""), database.as_deref().unwrap_or(""));
                let place = match (&user, &database) {
                    (Some(user), _) => format!("[users.{user}]"),
                    (None, Some(database)) => format!("[databases.{database}]"),
                    (None, None) => "[limits]".to_owned(),
                };
                if settings.size_max == 0 || settings.size_min > settings.size_max {
                    return Err(ConfigError::PoolSize {
                        place,
                        size_min: settings.size_min,
                        size_max: settings.size_max,
                    });
                }
            }
        }
        Ok(rules)
    }

    pub fn of(&self, user: &str, database: &str) -> PoolSettings {
        self.default.clone().with(self.databases.get(database)).with(self.users.get(user))
    }

    /// Pools of the service roles: the limits alone.
    pub fn of_service(&self) -> PoolSettings {
        PoolSettings { mode: PoolMode::Transaction, size_min: 0, ..self.default.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> PoolOptions {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_user_wins_over_a_database_and_that_over_the_limits() {
        let users = BTreeMap::from([("ann".to_owned(), options("pool_size_max = 3\npool_mode = \"session\""))]);
        let databases = BTreeMap::from([("app".to_owned(), options("pool_size_max = 7\npool_size_min = 2"))]);
        let rules = PoolRules::new(PoolMode::Transaction, &Limits::default(), users, databases).unwrap();
        let ann = rules.of("ann", "app");
        assert_eq!((ann.mode, ann.size_max, ann.size_min), (PoolMode::Session, 3, 2));
        let bob = rules.of("bob", "app");
        assert_eq!((bob.mode, bob.size_max, bob.size_min), (PoolMode::Transaction, 7, 2));
        assert_eq!(rules.of("bob", "other").size_max, Limits::default().pool_size_max);
        assert_eq!(rules.of_service().size_min, 0);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        let users = BTreeMap::from([("ann".to_owned(), options("pool_size_max = 1"))]);
        let databases = BTreeMap::from([("app".to_owned(), options("pool_size_min = 2"))]);
        let refused = PoolRules::new(PoolMode::Transaction, &Limits::default(), users, databases);
        assert!(matches!(refused, Err(ConfigError::PoolSize { place, .. }) if place == "[users.ann]"));
        assert!(toml::from_str::<PoolOptions>("pool_sise_max = 1").is_err());
    }
}
