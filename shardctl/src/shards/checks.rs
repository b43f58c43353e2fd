//! Whether a database can be a shard. Reads only.

use ringway_topology::ids::ShardId;
use tokio_postgres::Client;

use crate::control::{Control, ControlError};
use crate::pg::{self, is_code, PgConnectError, ServiceClient};

pub const VERSION_MIN: i32 = 140_000;
const NAME_LENGTH_MAX: usize = 48;

/// What a server says of itself.
#[derive(Debug, Clone)]
pub struct Server {
    pub version: i32,
    pub system_identifier: u64,
    pub database: String,
    pub service_role: String,
}

impl Server {
    pub fn major(&self) -> i32 {
        self.version / 10_000
    }
}

/// Who a database says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub shard: ShardId,
    pub name: String,
}

/// A name that is easy to type and to read in a list.
pub fn check_name(name: &str) -> Result<(), ControlError> {
    let fits = (1..=NAME_LENGTH_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if fits {
        return Ok(());
    }
    Err(ControlError::Invalid(format!(
        "{name:?} is no shard name: use up to {NAME_LENGTH_MAX} letters, digits, '_', '-' and '.'"
    )))
}

pub async fn server(client: &Client) -> Result<Server, ControlError> {
    let row = client
        .query_one(
            "SELECT pg_catalog.current_setting('server_version_num')::int, s.system_identifier,
                    pg_catalog.current_database()::text, session_user::text
             FROM pg_catalog.pg_control_system() s",
            &[],
        )
        .await?;
    Ok(Server {
        version: row.get(0),
        system_identifier: row.get::<_, i64>(1) as u64,
        database: row.get(2),
        service_role: row.get(3),
    })
}

/// Lesser rights do not suffice: PostgreSQL lets superusers alone finish transactions that other roles have prepared.
fn not_superuser(role: &str) -> String {
    format!(
        "the service role {0} is no superuser, so it could not finish transactions that applications' roles have prepared. \
         As a superuser run: ALTER ROLE {0} SUPERUSER;",
        ringway_topology::model::quote_ident(role)
    )
}

/// A session on a database that is to be a shard.
pub async fn connect(control: &Control, dsn: &str, name: &str) -> Result<ServiceClient, ControlError> {
    let refused = match control.client_of_dsn(dsn, name).await {
        Ok(client) => return Ok(client),
        Err(refused) => refused,
    };
    // Already the settings of its sessions are for superusers.
    let lacks_rights = matches!(&refused, PgConnectError::Refused { source, .. } if is_code(source, "42501"));
    let role = pg::parse_dsn(dsn)?.config.get_user().map(str::to_owned);
    match role {
        Some(role) if lacks_rights => {
            Err(ControlError::Precondition(format!("{name} cannot be a shard: {}", not_superuser(&role))))
        }
        _ => Err(refused.into()),
    }
}

/// Everything that is wrong with the server is said at once, with what to do about it.
pub async fn check_server(client: &Client, name: &str) -> Result<Server, ControlError> {
    let server = server(client).await.map_err(|error| error.context(format!("shard {name}")))?;
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('max_prepared_transactions')::int,
                    pg_catalog.current_setting('max_connections')::int,
                    pg_catalog.getdatabaseencoding()::text,
                    (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user)",
            &[],
        )
        .await?;
    let in_recovery: bool = row.get(0);
    let prepared: i32 = row.get(1);
    let connections: i32 = row.get(2);
    let encoding: String = row.get(3);
    let superuser: bool = row.get(4);
    let mut faults = Vec::new();
    if server.version < VERSION_MIN {
        faults.push(format!("it runs PostgreSQL {}; Ringway needs 14 or newer", server.major()));
    }
    if in_recovery {
        faults.push("it is a replica; give the primary's connection string".to_owned());
    }
    if prepared == 0 {
        faults.push(format!(
            "max_prepared_transactions is 0: distributed transactions need it. Run: ALTER SYSTEM SET \
             max_prepared_transactions = {connections}; and restart the server"
        ));
    }
    if encoding != "UTF8" {
        faults.push(format!("its encoding is {encoding}; Ringway needs UTF8, or keys would hash differently"));
    }
    if !superuser {
        faults.push(not_superuser(&server.service_role));
    }
    if faults.is_empty() {
        return Ok(server);
    }
    Err(ControlError::Precondition(format!("{name} cannot be a shard: {}", faults.join("; "))))
}

/// `None` if the database has never been a shard.
pub async fn identity(client: &Client) -> Result<Option<Identity>, ControlError> {
    let exists: bool =
        client.query_one("SELECT pg_catalog.to_regclass('ringway.shard') IS NOT NULL", &[]).await?.get(0);
    if !exists {
        return Ok(None);
    }
    let row = client.query_opt("SELECT s.cluster_id, s.shard_no, s.shard_name FROM ringway.shard s", &[]).await?;
    Ok(row.map(|row| Identity {
        cluster_id: row.get(0),
        shard: ShardId(u16::try_from(row.get::<_, i32>(1)).unwrap_or(0)),
        name: row.get(2),
    }))
}

/// The database is in no cluster, or already is this very shard.
pub async fn check_identity(
    client: &Client,
    cluster_id: &str,
    shard: Option<ShardId>,
    name: &str,
) -> Result<(), ControlError> {
    let Some(identity) = identity(client).await? else { return Ok(()) };
    if identity.cluster_id != cluster_id {
        return Err(ControlError::Precondition(format!(
            "the database for {name} already is shard {} of another cluster; if that cluster is gone, run \
             DROP SCHEMA ringway CASCADE in it",
            identity.name
        )));
    }
    if Some(identity.shard) != shard {
        return Err(ControlError::Precondition(format!(
            "the database for {name} already is shard {} of this cluster; give another database",
            identity.name
        )));
    }
    Ok(())
}

/// Tables, views and sequences that are not Ringway's and not an extension's.
pub async fn user_relations(client: &Client) -> Result<Vec<String>, ControlError> {
    let rows = client
        .query(
            "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname NOT IN ('ringway', 'information_schema')
               AND n.nspname !~ '^pg_'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')
             ORDER BY 1 LIMIT 10",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["s1", "eu-west_1.a", &"x".repeat(48)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a=b", "ä", &"x".repeat(49)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
