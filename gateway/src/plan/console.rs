//! The language of the administrative database: SHOW, PAUSE, RESUME, RELOAD, KILL, RECONNECT, SHUTDOWN, as users of PgBouncer
//! know them.

use crate::sql::lexer::{lex, Kind, Lexeme};
use crate::wire::{PgError, SqlState};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleCommand {
    Empty,
    /// What drivers send by themselves (BEGIN, SET, ...): answered with its command tag, nothing is done.
    Ignored(&'static str),
    Show(String),
    Pause(Option<String>),
    Resume(Option<String>),
    Reload,
    KillClient(u32),
    KillDatabase(String),
    Reconnect(Option<String>),
    Shutdown {
        wait_for_clients: bool,
    },
}

/// Commands and what they do, as SHOW HELP lists them.
pub const HELP: &[(&str, &str)] = &[
    ("SHOW POOLS", "connections of each role to each shard, and who waits for them"),
    ("SHOW CLIENTS", "clients that are logged in; id is what KILL takes"),
    ("SHOW SERVERS", "connections to shards"),
    ("SHOW STATS", "counts since the start, and averages of a minute"),
    ("SHOW STATS_TOTALS", "counts since the start"),
    ("SHOW DATABASES", "where the database lies"),
    ("SHOW USERS", "roles and their pool modes"),
    ("SHOW LISTS", "how many there are of what"),
    ("SHOW LISTENERS", "channels of LISTEN, and how many clients listen to each"),
    ("SHOW CONFIG", "settings, and whether RELOAD changes them"),
    ("SHOW SHARDS | MOVES | TABLES | RING | EPOCH", "the cluster"),
    ("SHOW VERSION", "the gateway's version"),
    ("SHOW HELP", "this list"),
    ("PAUSE [db]", "waits for transactions to end, closes the connections to shards, and begins no new ones"),
    ("RESUME [db]", "ends PAUSE and KILL db"),
    ("RELOAD", "reads the configuration and users files again"),
    ("RECONNECT [db]", "opens every connection to a shard anew, as it becomes free"),
    ("KILL id", "ends a client (also KILL_CLIENT id)"),
    ("KILL db", "ends all clients of the database and its connections to shards; new ones wait for RESUME"),
    ("SHUTDOWN", "as SIGTERM: idle clients end, transactions have drain_timeout_ms"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "lets nobody in, and ends when the last client has left"),
];

/// One statement, without its semicolon.
pub fn parse(sql: &str) -> Result<ConsoleCommand, PgError> {
    let lexemes = lex(sql).map_err(|error| super::refuse::lexical_error(&error, sql))?;
    let words: Vec<&Lexeme> = lexemes.iter().filter(|lexeme| !lexeme.is(b';')).collect();
    let Some(first) = words.first() else { return Ok(ConsoleCommand::Empty) };
    let rest = &words[1..];
    let name = || match rest {
        [] => Ok(None),
        [one] => one.identifier(sql).or_else(|| one.string_value(sql)).map(Some).ok_or_else(|| unknown(sql)),
        _ => Err(unknown(sql)),
    };
    let alone = |command: ConsoleCommand| if rest.is_empty() { Ok(command) } else { Err(unknown(sql)) };
    match first.identifier(sql).unwrap_or_default().as_str() {
        "show" => show(sql, rest),
        "pause" => Ok(ConsoleCommand::Pause(name()?)),
        "resume" => Ok(ConsoleCommand::Resume(name()?)),
        "reconnect" => Ok(ConsoleCommand::Reconnect(name()?)),
        "reload" => alone(ConsoleCommand::Reload),
        "kill" | "kill_client" => match rest {
            [one] if one.kind == Kind::Number => {
                one.text(sql).parse().map(ConsoleCommand::KillClient).map_err(|_| unknown(sql))
            }
            [_] if first.is_word(sql, "kill") => {
                Ok(name()?.map_or(ConsoleCommand::Empty, ConsoleCommand::KillDatabase))
            }
            _ => Err(unknown(sql)),
        },
        "shutdown" => match rest {
            [] => Ok(ConsoleCommand::Shutdown { wait_for_clients: false }),
            [one] if one.is_word(sql, "wait_for_clients") => Ok(ConsoleCommand::Shutdown { wait_for_clients: true }),
            [one] if one.is_word(sql, "wait_for_servers") => Ok(ConsoleCommand::Shutdown { wait_for_clients: false }),
            _ => Err(unknown(sql)),
        },
        "begin" | "start" => Ok(ConsoleCommand::Ignored("BEGIN")),
        "commit" | "end" => Ok(ConsoleCommand::Ignored("COMMIT")),
        "rollback" | "abort" => Ok(ConsoleCommand::Ignored("ROLLBACK")),
        "set" => Ok(ConsoleCommand::Ignored("SET")),
        "reset" => Ok(ConsoleCommand::Ignored("RESET")),
        "discard" => Ok(ConsoleCommand::Ignored("DISCARD ALL")),
        "deallocate" => Ok(ConsoleCommand::Ignored("DEALLOCATE")),
        _ => Err(unknown(sql)),
    }
}

fn show(sql: &str, rest: &[&Lexeme]) -> Result<ConsoleCommand, PgError> {
    let word = |lexeme: &Lexeme| lexeme.identifier(sql).ok_or_else(|| unknown(sql));
    match rest {
        [one] => Ok(ConsoleCommand::Show(word(one)?)),
        [schema, dot, one] if dot.is(b'.') && word(schema)? == "ringway" => Ok(ConsoleCommand::Show(word(one)?)),
        _ => Err(unknown(sql)),
    }
}

fn unknown(sql: &str) -> PgError {
    const SHOWN_CHARACTERS: usize = 60;
    let shown: String = sql.chars().take(SHOWN_CHARACTERS).collect();
    PgError::new(SqlState::SYNTAX_ERROR, format!("\"{shown}\" is no command of the administrative database"))
        .detail(
            "Commands: SHOW what, PAUSE [db], RESUME [db], RELOAD, RECONNECT [db], KILL id, KILL db, \
             SHUTDOWN [WAIT_FOR_CLIENTS].",
        )
        .hint("SHOW HELP lists them. SQL goes to the database that the cluster serves.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        use ConsoleCommand::*;
        for (sql, expected) in [
            ("show pools", Show("pools".into())),
            ("SHOW STATS_TOTALS -- all", Show("stats_totals".into())),
            ("SHOW ringway.shards", Show("shards".into())),
            ("PAUSE", Pause(None)),
            ("pause \"App\";", Pause(Some("App".into()))),
            ("RESUME app", Resume(Some("app".into()))),
            ("reload", Reload),
            ("KILL 4711", KillClient(4711)),
            ("KILL_CLIENT 4711", KillClient(4711)),
            ("KILL app", KillDatabase("app".into())),
            ("RECONNECT", Reconnect(None)),
            ("SHUTDOWN", Shutdown { wait_for_clients: false }),
            ("shutdown wait_for_clients", Shutdown { wait_for_clients: true }),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Ignored("BEGIN")),
            (" -- nothing", Empty),
        ] {
            assert_eq!(parse(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn what_is_unknown_is_answered_with_the_list() {
        for sql in
            ["SELECT 1", "SHOW", "SHOW a b", "KILL", "KILL 99999999999", "KILL_CLIENT app", "RELOAD x", "SHUTDOWN now"]
        {
            let error = parse(sql).unwrap_err();
            assert_eq!(error.code, SqlState::SYNTAX_ERROR, "{sql}");
            assert!(error.detail.is_some_and(|detail| detail.contains("RECONNECT")), "{sql}");
        }
    }
}
