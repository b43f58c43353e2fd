//! Commands of the administrative database.

use std::time::Duration;

use super::executor::{cancelled, Executor};
use super::failure::Failure;
use super::gateway::Gateway;
use super::reload::reload;
use super::show::{self, Subject, Table};
use crate::plan::console::ConsoleCommand;
use crate::wire::{PgError, SqlState};

/// What a command answers with.
#[derive(Debug, Default)]
pub struct Answer {
    pub table: Option<Table>,
    pub notices: Vec<PgError>,
    /// None: an empty query.
    pub tag: Option<&'static str>,
}

fn done(tag: &'static str) -> Answer {
    Answer { tag: Some(tag), ..Answer::default() }
}

/// May do everything.
pub fn is_administrator(gateway: &Gateway, user: &str) -> bool {
    gateway.live.load().admin_users.contains(user)
}

/// May look at everything.
pub fn may_look(gateway: &Gateway, user: &str) -> bool {
    let live = gateway.live.load();
    live.admin_users.contains(user) || live.stats_users.contains(user)
}

pub fn not_allowed(user: &str, what: &str) -> PgError {
    PgError::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("role \"{user}\" may not {what}"))
        .hint("Name the role in --admin-users, or in --stats-users for SHOW alone, and RELOAD the gateway.")
}

pub async fn run(executor: &mut Executor, command: &ConsoleCommand) -> Result<Answer, Failure> {
    let gateway = std::sync::Arc::clone(&executor.gateway);
    let user = &executor.identity.user;
    let looks = matches!(command, ConsoleCommand::Empty | ConsoleCommand::Ignored(_) | ConsoleCommand::Show(_));
    if !may_look(&gateway, user) || !looks && !is_administrator(&gateway, user) {
        let what = if looks { "use the administrative database" } else { "do this" };
        return Err(not_allowed(user, what).into());
    }
    if !looks {
        tracing::info!(%user, ?command, "administration");
    }
    match command {
        ConsoleCommand::Empty => Ok(Answer::default()),
        ConsoleCommand::Ignored(tag) => Ok(done(tag)),
        ConsoleCommand::Show(what) => {
            let subject = Subject::named(what).ok_or_else(|| show::unknown(what))?;
            Ok(Answer { table: Some(subject.table(&gateway)), ..done("SHOW") })
        }
        ConsoleCommand::Pause(database) => {
            check_database(&gateway, database.as_deref())?;
            pause(executor, &gateway).await
        }
        ConsoleCommand::Resume(database) => {
            check_database(&gateway, database.as_deref())?;
            if !gateway.pools.pause().end() {
                let message = "the gateway is not paused";
                return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
            }
            Ok(done("RESUME"))
        }
        ConsoleCommand::Reload => {
            let restart = reload(&gateway).await.map_err(|error| {
                PgError::new(SqlState::INVALID_PARAMETER_VALUE, error.to_string())
                    .hint("Nothing has changed. Correct the file, then RELOAD again.")
            })?;
            let mut answer = done("RELOAD");
            for key in restart {
                answer
                    .notices
                    .push(PgError::warning(format!("\"{key}\" has changed and needs a restart of the gateway")));
            }
            Ok(answer)
        }
        ConsoleCommand::Reconnect(database) => {
            check_database(&gateway, database.as_deref())?;
            gateway.pools.renew();
            Ok(done("RECONNECT"))
        }
        ConsoleCommand::KillClient(number) => {
            let Some(client) = gateway.clients.find(*number) else {
                return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("there is no client {number}"))
                    .hint("SHOW CLIENTS lists them by id.")
                    .into());
            };
            client.kill().await;
            Ok(done("KILL"))
        }
        ConsoleCommand::KillDatabase(database) => {
            check_database(&gateway, Some(database))?;
            gateway.pools.pause().begin();
            let victims = gateway.clients.all().into_iter().filter(|client| *client.database == **database);
            futures_util::future::join_all(victims.map(|client| async move { client.kill().await })).await;
            gateway.pools.renew();
            let mut answer = done("KILL");
            answer.notices.push(PgError::notice("the database is paused: RESUME lets clients work again"));
            Ok(answer)
        }
        ConsoleCommand::Shutdown { wait_for_clients } => {
            gateway.closing.cancel();
            if !wait_for_clients {
                gateway.shut_down();
            }
            Ok(done("SHUTDOWN"))
        }
    }
}

/// The one database of the cluster may be named, and nothing else.
fn check_database(gateway: &Gateway, named: Option<&str>) -> Result<(), Failure> {
    let Some(named) = named else { return Ok(()) };
    let serves = gateway.database();
    if serves.as_deref() == Some(named) {
        return Ok(());
    }
    let error = PgError::new(SqlState::INVALID_CATALOG_NAME, format!("database \"{named}\" does not exist"));
    Err(match serves {
        Some(serves) => error.hint(format!("This cluster serves the database \"{serves}\".")),
        None => error.hint("The cluster has no shard yet."),
    }
    .into())
}

/// Returns when nothing is in use; the pause is taken back if that takes too long, or is cancelled.
async fn pause(executor: &mut Executor, gateway: &Gateway) -> Result<Answer, Failure> {
    const LOOK: Duration = Duration::from_millis(5);
    if !gateway.pools.pause().begin() {
        let message = "the gateway is paused already";
        return Err(PgError::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into());
    }
    let limit_ms = gateway.loaded.load().limits.pause_timeout_ms;
    let settled = async {
        while gateway.pools.lent() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    let failure = tokio::select! {
        settled = tokio::time::timeout(Duration::from_millis(limit_ms), settled) => match settled {
            Ok(()) => None,
            Err(_) => Some(Failure::from(
                PgError::new(
                    SqlState::OBJECT_IN_USE,
                    format!("{} connections are still in use after {limit_ms} ms (pause_timeout_ms)", gateway.pools.lent()),
                )
                .detail("The pause has been taken back.")
                .hint("SHOW CLIENTS shows who holds them; KILL id ends one."),
            )),
        },
        () = executor.cancel.requested() => Some(cancelled().into()),
        () = executor.client.gone() => Some(Failure::Gone(None)),
    };
    if let Some(failure) = failure {
        gateway.pools.pause().end();
        return Err(failure);
    }
    gateway.pools.renew();
    Ok(done("PAUSE"))
}
