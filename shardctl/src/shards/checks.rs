//! Whether a database can be a shard. Reads only.

use ringway_topology::ids::ShardId;
use tokio_postgres::Client;

use crate::control::ControlError;

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

/// Everything that is wrong with the server is said at once, with what to do about it.
pub async fn check_server(client: &Client, name: &str) -> Result<Server, ControlError> {
    let server = server(client).await.map_err(|error| error.context(format!("shard {name}")))?;
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('max_prepared_transactions')::int,
                    pg_catalog.current_setting('max_connections')::int,
                    pg_catalog.getdatabaseencoding()::text,
                    (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user),
                    (SELECT r.rolbypassrls FROM pg_catalog.pg_roles r WHERE r.rolname = session_user),
                    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')",
            &[],
        )
        .await?;
    let in_recovery: bool = row.get(0);
    let prepared: i32 = row.get(1);
    let connections: i32 = row.get(2);
    let encoding: String = row.get(3);
    let superuser: bool = row.get(4);
    let bypass_rls: bool = row.get(5);
    let may_create: bool = row.get(6);
    let role = ringway_topology::model::quote_ident(&server.service_role);
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
        faults.extend(missing_rights(client, &server, &role, bypass_rls, may_create).await?);
    }
    if faults.is_empty() {
        return Ok(server);
    }
    Err(ControlError::Precondition(format!("{name} cannot be a shard: {}", faults.join("; "))))
}

/// The statements that a superuser has to run for a service role that is none.
async fn missing_rights(
    client: &Client,
    server: &Server,
    role: &str,
    bypass_rls: bool,
    may_create: bool,
) -> Result<Vec<String>, ControlError> {
    if server.major() < 15 {
        return Ok(vec![format!(
            "on PostgreSQL {} the service role {role} must be a superuser (session_replication_role is for superusers \
             there). Run: ALTER ROLE {role} SUPERUSER;",
            server.major()
        )]);
    }
    let mut grants = Vec::new();
    let may_set = "SELECT pg_catalog.has_parameter_privilege(session_user, 'session_replication_role', 'SET')";
    if !client.query_one(may_set, &[]).await?.get::<_, bool>(0) {
        grants.push(format!("GRANT SET ON PARAMETER session_replication_role TO {role};"));
    }
    if !bypass_rls {
        grants.push(format!("ALTER ROLE {role} BYPASSRLS;"));
    }
    if !may_create {
        let database = ringway_topology::model::quote_ident(&server.database);
        grants.push(format!("GRANT CREATE ON DATABASE {database} TO {role};"));
    }
    for group in ["pg_read_all_data", "pg_write_all_data", "pg_monitor", "pg_signal_backend"] {
        let has: bool =
            client.query_one("SELECT pg_catalog.pg_has_role(session_user, $1, 'USAGE')", &[&group]).await?.get(0);
        if !has {
            grants.push(format!("GRANT {group} TO {role};"));
        }
    }
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the service role {role} lacks rights. As a superuser run: {} (or make it a superuser; without that, every \
         table's owner must also be granted to it)",
        grants.join(" ")
    )])
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
