//! Roles of one server on another: attributes, password verifiers, memberships, settings.
//!
//! A gateway proves itself to every shard with the same key, so a role's verifier is the same everywhere. Roles that
//! exist keep their attributes; a differing verifier becomes the home shard's.

use ringway_topology::model::{quote_ident, quote_literal};
use tokio_postgres::Client;

use crate::control::ControlError;

#[derive(Debug, Clone)]
struct Role {
    name: String,
    attributes: String,
    verifier: Option<String>,
}

/// Copies what is missing on `to`; answers warnings. The service roles of both ends keep their rights.
pub async fn copy_roles(from: &Client, to: &Client) -> Result<Vec<String>, ControlError> {
    let mut warnings = Vec::new();
    let ours = [service_role(from).await?, service_role(to).await?];
    let (Some(theirs), Some(present)) = (roles(from).await?, roles(to).await?) else {
        warnings.push(
            "roles were not copied: the service role may not read password verifiers (only a superuser may); create \
             the applications' roles on the new shard with the same verifiers"
                .to_owned(),
        );
        return Ok(warnings);
    };
    for role in theirs.iter().filter(|role| !ours.contains(&role.name)) {
        let name = quote_ident(&role.name);
        let password = role.verifier.as_deref().map_or("NULL".to_owned(), quote_literal);
        match present.iter().find(|one| one.name == role.name) {
            None => {
                let sql = format!("CREATE ROLE {name} {} PASSWORD {password}", role.attributes);
                to.batch_execute(&sql).await.map_err(|error| without_statement(&role.name, &error))?;
            }
            Some(one) if one.verifier != role.verifier => {
                let sql = format!("ALTER ROLE {name} PASSWORD {password}");
                to.batch_execute(&sql).await.map_err(|error| without_statement(&role.name, &error))?;
                warnings.push(format!("role {name} had another password there; it now has the home shard's"));
            }
            Some(_) => {}
        }
    }
    let [service, _] = &ours;
    if !present.iter().any(|one| one.name == *service) {
        // What it owns needs an owner; nobody logs in as it there.
        to.batch_execute(&format!("CREATE ROLE {} NOLOGIN", quote_ident(service))).await?;
        warnings.push(format!(
            "role {service}, the home shard's service role, was created without login, to own what it owns there"
        ));
    }
    copy_memberships(from, to).await?;
    copy_settings(from, to).await?;
    Ok(warnings)
}

/// The statement holds a verifier: it is in no message.
fn without_statement(role: &str, error: &tokio_postgres::Error) -> ControlError {
    let reason = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
    ControlError::Precondition(format!("role {role} cannot be copied: {reason}"))
}

async fn service_role(client: &Client) -> Result<String, ControlError> {
    Ok(client.query_one("SELECT session_user::text", &[]).await?.get(0))
}

/// `None` if verifiers cannot be read.
async fn roles(client: &Client) -> Result<Option<Vec<Role>>, ControlError> {
    let readable: bool =
        client.query_one("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')", &[]).await?.get(0);
    if !readable {
        return Ok(None);
    }
    let rows = client
        .query(
            "SELECT r.rolname::text, r.rolpassword,
                pg_catalog.concat_ws(' ',
                    CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END,
                    CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                    CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
                    CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                    CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
                    CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                    CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END,
                    'CONNECTION LIMIT ' || r.rolconnlimit,
                    'VALID UNTIL ' || pg_catalog.quote_literal(r.rolvaliduntil))
             FROM pg_catalog.pg_authid r WHERE r.rolname !~ '^pg_' ORDER BY 1",
            &[],
        )
        .await?;
    let role = |row: &tokio_postgres::Row| Role { name: row.get(0), verifier: row.get(1), attributes: row.get(2) };
    Ok(Some(rows.iter().map(role).collect()))
}

async fn copy_memberships(from: &Client, to: &Client) -> Result<(), ControlError> {
    let rows = from
        .query(
            "SELECT g.rolname::text, m.rolname::text, pg_catalog.bool_or(a.admin_option)
             FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
             JOIN pg_catalog.pg_roles m ON m.oid = a.member
             WHERE m.rolname !~ '^pg_' GROUP BY 1, 2 ORDER BY 1, 2",
            &[],
        )
        .await?;
    for row in rows {
        let (group, member, admin): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let known = to
            .query_opt(
                "SELECT 1 FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles g ON g.oid = a.roleid
                 JOIN pg_catalog.pg_roles m ON m.oid = a.member WHERE g.rolname = $1::text AND m.rolname = $2::text LIMIT 1",
                &[&group, &member],
            )
            .await?;
        let both = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname IN ($1::text, $2::text)";
        let present: i64 = to.query_one(both, &[&group, &member]).await?.get(0);
        if known.is_none() && present == 2 {
            let option = if admin { " WITH ADMIN OPTION" } else { "" };
            to.batch_execute(&format!("GRANT {} TO {}{option}", quote_ident(&group), quote_ident(&member))).await?;
        }
    }
    Ok(())
}

/// ALTER ROLE ... SET, for all databases and for this one. The value goes through set_config, which takes lists as they
/// are stored.
async fn copy_settings(from: &Client, to: &Client) -> Result<(), ControlError> {
    let settings = "SELECT r.rolname::text, s.setdatabase <> 0, u.setting
        FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
             pg_catalog.unnest(s.setconfig) u(setting)
        WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d
                                    WHERE d.datname = pg_catalog.current_database()))";
    let service = service_role(to).await?;
    let database: String = to.query_one("SELECT pg_catalog.current_database()::text", &[]).await?.get(0);
    let present = to.query(settings, &[]).await?;
    let key = |row: &tokio_postgres::Row| -> (String, bool, String) { (row.get(0), row.get(1), row.get(2)) };
    let present: Vec<_> = present.iter().map(key).collect();
    for row in from.query(settings, &[]).await? {
        let (role, here, setting) = key(&row);
        if role == service || present.contains(&(role.clone(), here, setting.clone())) {
            continue;
        }
        let Some((name, value)) = setting.split_once('=') else { continue };
        let scope = if here { format!(" IN DATABASE {}", quote_ident(&database)) } else { String::new() };
        let name = name.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
        let sql = format!(
            "BEGIN; SELECT pg_catalog.set_config({}, {}, true); ALTER ROLE {}{scope} SET {name} FROM CURRENT; COMMIT",
            quote_literal(&name.replace('"', "")),
            quote_literal(value),
            quote_ident(&role),
        );
        if let Err(error) = to.batch_execute(&sql).await {
            to.batch_execute("ROLLBACK").await?;
            tracing::warn!(role, setting = %name, error = %crate::pg::message_of(&error), "a role's setting was not copied");
        }
    }
    Ok(())
}
