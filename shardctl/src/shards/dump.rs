//! The schema of a shard as SQL text, by `pg_dump`.
//!
//! Everything but the `ringway` schema, rows, publications and subscriptions. Guards stay out: they call functions that
//! are made on each shard for its own tables.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio_postgres::config::{ChannelBinding, Host, SslNegotiation};

use super::checks::Server;
use crate::control::ControlError;
use crate::pg;

const DUMP_MAX: Duration = Duration::from_secs(300);
const PROGRAM_DIRECTORIES: &str = "/usr/lib/postgresql";

/// The schema of the database behind `dsn`, to be run in one transaction.
pub async fn schema(dsn: &str, server: &Server) -> Result<String, ControlError> {
    let program = find_program(server.major()).await?;
    let parsed = pg::parse_dsn(dsn)?;
    let mut command = Command::new(&program);
    command.args(["--schema-only", "--exclude-schema=ringway", "--no-publications", "--no-subscriptions"]);
    command.arg("--no-tablespaces").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    // By the environment: a password in arguments could be read by everybody on this machine.
    for (name, value) in environment(&parsed)? {
        command.env(name, value);
    }
    let output = tokio::time::timeout(DUMP_MAX, command.output())
        .await
        .map_err(|_| ControlError::Unavailable(format!("pg_dump took longer than {} s", DUMP_MAX.as_secs())))?
        .map_err(|error| ControlError::Internal(format!("{} cannot be run: {error}", program.display())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(ControlError::Precondition(format!("pg_dump failed: {}", said.trim())));
    }
    let text = String::from_utf8(output.stdout)
        .map_err(|_| ControlError::Internal("pg_dump wrote something that is not UTF-8".into()))?;
    Ok(without_guards(&text))
}

fn environment(dsn: &pg::Dsn) -> Result<Vec<(&'static str, String)>, ControlError> {
    let config = &dsn.config;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(directory)) => directory.display().to_string(),
        None => return Err(ControlError::Invalid("the connection string names no host".into())),
    };
    let mut variables = dsn.tls.environment();
    variables.extend([("PGHOST", host), ("PGCLIENTENCODING", "UTF8".to_owned())]);
    if config.get_ssl_negotiation() == SslNegotiation::Direct {
        variables.push(("PGSSLNEGOTIATION", "direct".to_owned()));
    }
    if config.get_channel_binding() == ChannelBinding::Require {
        variables.push(("PGCHANNELBINDING", "require".to_owned()));
    }
    if let Some(port) = config.get_ports().first() {
        variables.push(("PGPORT", port.to_string()));
    }
    if let Some(user) = config.get_user() {
        variables.push(("PGUSER", user.to_owned()));
    }
    if let Some(database) = config.get_dbname().or(config.get_user()) {
        variables.push(("PGDATABASE", database.to_owned()));
    }
    if let Some(password) = config.get_password() {
        variables.push(("PGPASSWORD", String::from_utf8_lossy(password).into_owned()));
    }
    Ok(variables)
}

/// The oldest `pg_dump` that is not older than the server: what it writes is the likeliest to be understood.
async fn find_program(major: i32) -> Result<PathBuf, ControlError> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|directory| directory.join("pg_dump")).collect())
        .unwrap_or_default();
    if let Ok(entries) = std::fs::read_dir(PROGRAM_DIRECTORIES) {
        candidates.extend(entries.flatten().map(|entry| entry.path().join("bin/pg_dump")));
    }
    let mut found: Option<(i32, PathBuf)> = None;
    for program in candidates.into_iter().filter(|program| program.is_file()) {
        let Some(version) = version_of(&program).await else { continue };
        if version >= major && found.as_ref().is_none_or(|(best, _)| version < *best) {
            found = Some((version, program));
        }
    }
    found.map(|(_, program)| program).ok_or_else(|| {
        ControlError::Precondition(format!(
            "no pg_dump of PostgreSQL {major} or newer in PATH or {PROGRAM_DIRECTORIES} on the control plane's machine; \
             install postgresql-client-{major}"
        ))
    })
}

async fn version_of(program: &Path) -> Option<i32> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(5), output).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Drops the guards' triggers, `psql`'s own commands, and settings that an older server does not know. Objects begin
/// with a three-line comment: `--`, `-- Name: table trigger; Type: TRIGGER; ...`, `--`.
fn without_guards(dump: &str) -> String {
    let lines: Vec<&str> = dump.lines().collect();
    let mut kept = String::with_capacity(dump.len());
    let mut dropping = false;
    for (at, line) in lines.iter().enumerate() {
        if *line == "--" {
            if let Some(header) = lines.get(at + 1).filter(|next| next.starts_with("-- Name: ")) {
                dropping = is_guard(header);
            }
        }
        let foreign = line.starts_with("\\restrict")
            || line.starts_with("\\unrestrict")
            || *line == "SET transaction_timeout = 0;";
        if !dropping && !foreign {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn is_guard(header: &str) -> bool {
    header.contains("; Type: TRIGGER;") && header.contains(" ringway_guard_")
}

/// Two dumps that say the same: comments and blank lines aside.
pub fn same_schema(one: &str, other: &str) -> bool {
    fn statements(text: &str) -> impl Iterator<Item = &str> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with("--"))
    }
    statements(one).eq(statements(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pg_dump_connects_as_we_do() {
        let dsn = "postgresql://u:p%40q@h:5433/db?sslmode=verify-full&sslrootcert=/ca&channel_binding=require";
        let variables = environment(&pg::parse_dsn(dsn).unwrap()).unwrap();
        for (name, value) in [
            ("PGHOST", "h"),
            ("PGPORT", "5433"),
            ("PGPASSWORD", "p@q"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "/ca"),
            ("PGCHANNELBINDING", "require"),
        ] {
            assert!(variables.contains(&(name, value.to_owned())), "{name}: {variables:?}");
        }
    }

    #[test]
    fn guards_stay_out() {
        let dump = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\nSET transaction_timeout = 0;\n\
            --\n-- Name: t ringway_guard_insert; Type: TRIGGER; Schema: public; Owner: a\n--\n\n\
            CREATE TRIGGER ringway_guard_insert AFTER INSERT ON public.t;\n\n\
            ALTER TABLE public.t ENABLE ALWAYS TRIGGER ringway_guard_insert;\n\n\n\
            --\n-- Name: t mine; Type: TRIGGER; Schema: public; Owner: a\n--\n\nCREATE TRIGGER mine;\n";
        let kept = without_guards(dump);
        assert!(!kept.contains("guard") && !kept.contains("restrict") && !kept.contains("timeout"), "{kept}");
        assert!(kept.contains("CREATE TRIGGER mine;"), "{kept}");
        assert!(same_schema(&kept, "CREATE TRIGGER mine;"));
    }
}
