//! Verifiers of roles, asked of the home shard: so that neither a users file nor any password is needed.
//!
//! What was learnt is remembered within bounds of time and number, the roles that do not exist too. It counts no longer once the
//! catalog has been read again, as after ALTER ROLE through any gateway, and soon after a client has failed to prove itself:
//! the password may have been changed past the gateways. No error tells a client that has not proved itself what is in the shard.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use ringway_topology::model::Shard;
use tokio::sync::Semaphore;

use crate::config::Limits;
use crate::exec::answers::{collect, queue_call, queue_part};
use crate::exec::gateway::Gateway;
use crate::pool::connection::row_values;
use crate::pool::error::PoolError;
use crate::pool::Claim;
use crate::wire::scram::Verifier;
use crate::wire::{PgError, SqlState};

/// PostgreSQL's names are not longer.
const NAME_BYTES_MAX: usize = 63;
/// PostgreSQL's settings are not larger.
const STATEMENT_TIMEOUT_MS_MAX: u64 = i32::MAX as u64;

#[derive(Clone, Debug, PartialEq)]
pub enum Secret {
    Verifier(Verifier),
    /// No such role, or no password that is valid.
    None,
    /// A password that SCRAM-SHA-256 cannot prove: how it is kept.
    Other(&'static str),
}

#[derive(Debug, PartialEq)]
pub struct Role {
    pub secret: Secret,
    pub may_login: bool,
}

#[derive(Debug)]
struct Known {
    role: Arc<Role>,
    asked: Instant,
    /// The catalog that was in use then.
    catalog: Option<u64>,
    /// A client has failed to prove itself by it.
    doubted: bool,
}

impl Known {
    fn counts(&self, limits: &Limits, catalog: Option<u64>, now: Instant) -> bool {
        let retried = self.doubted || self.role.secret == Secret::None;
        let most = match retried {
            true => limits.auth_query_retry_ms.min(limits.auth_query_cache_ms),
            false => limits.auth_query_cache_ms,
        };
        self.catalog == catalog && now.saturating_duration_since(self.asked) < Duration::from_millis(most)
    }
}

#[derive(Debug)]
pub struct Verifiers {
    known: Mutex<LruCache<Box<str>, Known>>,
    turns: Semaphore,
}

impl Verifiers {
    pub fn new(limits: &Limits) -> Verifiers {
        let entries = NonZeroUsize::new(limits.auth_query_entries_max).unwrap_or(NonZeroUsize::MIN);
        Verifiers { known: Mutex::new(LruCache::new(entries)), turns: Semaphore::new(limits.auth_queries_max) }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Box<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `query` says of the role. Cancel-safe.
    pub async fn find(&self, gateway: &Gateway, query: &str, user: &str) -> Result<Arc<Role>, PgError> {
        if user.len() > NAME_BYTES_MAX {
            return Ok(Arc::new(Role { secret: Secret::None, may_login: false }));
        }
        if let Some(role) = self.remembered(gateway, user) {
            return Ok(role);
        }
        let view = gateway.view.current();
        let home = view.as_ref().and_then(|view| view.topology.home_shard().and_then(|id| view.topology.shard(id)));
        let Some(home) = home else {
            let message = "the gateway knows no shard yet that it could ask for the role's password";
            return Err(PgError::fatal(SqlState::CANNOT_CONNECT_NOW, message)
                .hint("Add one (\"shardctl shard add NAME DSN\"), or check that the control plane can be reached."));
        };
        let limits = &gateway.config.limits;
        let asking = async {
            let Ok(_turn) = self.turns.acquire().await else { return Err(PoolError::Protocol.into()) };
            // Whoever was before may have asked for the same role.
            if let Some(role) = self.remembered(gateway, user) {
                return Ok(role);
            }
            let catalog = serial(gateway);
            let role = Arc::new(ask(gateway, home, query, user).await?);
            let known = Known { role: Arc::clone(&role), asked: Instant::now(), catalog, doubted: false };
            if limits.auth_query_cache_ms > 0 {
                self.known().put(user.into(), known);
            }
            Ok(role)
        };
        let limit = Duration::from_millis(limits.auth_query_timeout_ms);
        let asked = tokio::time::timeout(limit, asking).await;
        asked.unwrap_or(Err(AskError::Timeout)).map_err(|error| error.to_client(&home.name, user, limits))
    }

    fn remembered(&self, gateway: &Gateway, user: &str) -> Option<Arc<Role>> {
        let mut known = self.known();
        let found = known.get(user)?;
        found.counts(&gateway.config.limits, serial(gateway), Instant::now()).then(|| Arc::clone(&found.role))
    }

    /// A client could not prove itself by this.
    pub fn doubt(&self, user: &str) {
        if let Some(known) = self.known().peek_mut(user) {
            known.doubted = true;
        }
    }
}

fn serial(gateway: &Gateway) -> Option<u64> {
    gateway.catalog.load().as_ref().map(|loaded| loaded.serial)
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Pool(#[from] PoolError),
    #[error("it does not give one row of a role, its password and, if it likes, whether it may log in")]
    Shape,
    #[error("no answer in time")]
    Timeout,
}

impl AskError {
    /// Who asks has proved nothing: the log says the rest.
    fn to_client(&self, shard: &str, user: &str, limits: &Limits) -> PgError {
        tracing::warn!(%shard, %user, error = %self, "auth_query failed");
        match self {
            AskError::Pool(PoolError::Server(error)) if passes(error.code()) => {
                let message = format!("shard \"{shard}\" cannot tell the role's password now");
                PgError::fatal(SqlState::CANNOT_CONNECT_NOW, message)
                    .hint("Try again; the gateway's log says why. Roles of a users file (--users) get in without it.")
            }
            AskError::Shape | AskError::Pool(PoolError::Server(_) | PoolError::Protocol) => {
                let message = format!("auth_query failed on shard \"{shard}\"");
                PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
                    .hint("The gateway's log says why. Roles of a users file (--users) get in without it.")
            }
            AskError::Timeout => {
                let waited = limits.auth_query_timeout_ms;
                let message = format!("shard \"{shard}\" gave no password to check within {waited} ms");
                PgError::fatal(SqlState::CANNOT_CONNECT_NOW, message)
                    .detail("The shard is down or slow, or more logins wait for it than auth_queries_max lets through.")
                    .hint("Try again; the limit is auth_query_timeout_ms.")
            }
            AskError::Pool(_) => {
                let message = format!("shard \"{shard}\" cannot be reached, which has the role's password");
                PgError::fatal(SqlState::CANNOT_CONNECT_NOW, message).hint(
                    "Check that the shard runs (\"shardctl shard list\"), then try again. Roles of a users file \
                     (--users) get in without it.",
                )
            }
        }
    }
}

/// The shard starts, ends, has no room, or took too long: the same login may go well soon.
fn passes(code: &str) -> bool {
    code == "55P03" || ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
}

async fn ask(gateway: &Gateway, home: &Shard, query: &str, user: &str) -> Result<Role, AskError> {
    let pool = gateway.pools.service(home)?;
    let mut connection = pool.checkout(Claim::First).await?;
    // Nobody waits for it any longer: nor may the shard work on. The setting ends with the query's transaction.
    let limit = gateway.config.limits.auth_query_timeout_ms.clamp(1, STATEMENT_TIMEOUT_MS_MAX).to_string();
    queue_part(&mut connection, "SELECT pg_catalog.set_config('statement_timeout', $1, true)", &[&limit]);
    queue_call(&mut connection, query, &[user]);
    let answers = collect(&mut connection).await?;
    if let Some(error) = answers.error {
        return Err(PoolError::Server(error).into());
    }
    let mut rows = answers.rows.iter().skip(1);
    let (row, more) = (rows.next(), rows.next());
    let Some(row) = row else { return Ok(Role { secret: Secret::None, may_login: false }) };
    let values = row.get(5..).and_then(row_values).ok_or(PoolError::Protocol)?;
    role(&values, user).filter(|_| more.is_none()).ok_or(AskError::Shape)
}

/// None: not what the query has to give.
fn role(values: &[Option<&[u8]>], user: &str) -> Option<Role> {
    let text = |index: usize| values.get(index).copied().flatten().map(std::str::from_utf8).transpose().ok();
    if !matches!(values.len(), 2 | 3) || text(0)? != Some(user) {
        return None;
    }
    let may_login = match text(2)? {
        None if values.len() == 2 => true,
        Some("t") => true,
        Some("f") => false,
        _ => return None,
    };
    let secret = match text(1)? {
        None | Some("") => Secret::None,
        Some(secret) => match secret.parse() {
            Ok(verifier) => Secret::Verifier(verifier),
            Err(_) if secret.starts_with("SCRAM-SHA-256$") => {
                Secret::Other("as a SCRAM-SHA-256 verifier that is damaged")
            }
            Err(_) if secret.starts_with("md5") => Secret::Other("as its MD5"),
            Err(_) => Secret::Other("in clear text, or in a way that is not known"),
        },
    };
    Some(Role { secret, may_login })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_may_give() {
        let verifier = Verifier::generate("pencil").to_string();
        let of = |values: &[Option<&str>]| {
            role(&values.iter().map(|value| value.map(str::as_bytes)).collect::<Vec<_>>(), "ann")
        };
        let parsed = Secret::Verifier(verifier.parse().unwrap());
        assert_eq!(of(&[Some("ann"), Some(&verifier)]), Some(Role { secret: parsed.clone(), may_login: true }));
        assert_eq!(of(&[Some("ann"), Some(&verifier), Some("f")]), Some(Role { secret: parsed, may_login: false }));
        assert_eq!(of(&[Some("ann"), None, Some("t")]), Some(Role { secret: Secret::None, may_login: true }));
        assert!(matches!(of(&[Some("ann"), Some("pencil")]), Some(Role { secret: Secret::Other(_), .. })));
        for wrong in [
            &[Some("bob"), Some(verifier.as_str())] as &[_],
            &[Some("ann")],
            &[Some(verifier.as_str())],
            &[None, None],
            &[Some("ann"), None, Some("yes")],
            &[Some("ann"), None, None],
            &[Some("ann"), None, Some("t"), Some("t")],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_remembered_counts_for_a_time() {
        let limits = Limits::default();
        let known = |secret, doubted| Known {
            role: Arc::new(Role { secret, may_login: true }),
            asked: Instant::now(),
            catalog: Some(1),
            doubted,
        };
        let after = |known: &Known, ms: u64| known.counts(&limits, Some(1), known.asked + Duration::from_millis(ms));
        let good = known(Secret::Verifier(Verifier::generate("x")), false);
        let short = limits.auth_query_retry_ms;
        assert!(after(&good, short) && !after(&good, limits.auth_query_cache_ms));
        assert!(!good.counts(&limits, Some(2), good.asked), "the catalog has been read again");
        for soon in [known(Secret::None, false), known(Secret::Verifier(Verifier::generate("x")), true)] {
            assert!(after(&soon, short - 1) && !after(&soon, short));
        }
    }
}
