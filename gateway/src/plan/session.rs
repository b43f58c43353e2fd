//! Tier "session": transaction control, settings, prepared statements; recognised on the tokens, handled by the session.
//!
//! Examples: `BEGIN ISOLATION LEVEL REPEATABLE READ`, `SET search_path TO a, b`, `PREPARE p (int) AS SELECT ...`.

use super::refuse::{refused, syntax_error};
use super::types::{AdminCommand, Discard, Isolation, Plan, SessionCommand, TransactionModes};
use crate::sql::clauses::split_at_commas;
use crate::sql::lexer::Kind;
use crate::sql::parse::Text;
use crate::wire::{PgError, SqlState};
use ringway_topology::model::quote_ident;

/// `None`: not a session command.
pub fn plan(text: &Text<'_>) -> Option<Result<Plan, PgError>> {
    if text.lexemes.is_empty() {
        return Some(Ok(Plan::Session(SessionCommand::Empty)));
    }
    let mut cursor = Cursor { text, at: 0 };
    let first = cursor.word()?;
    let command = match first.as_str() {
        "begin" => {
            let _ = cursor.take("work") || cursor.take("transaction");
            modes(&mut cursor).map(|modes| SessionCommand::Begin { modes, tag: "BEGIN" })
        }
        "start" if cursor.take("transaction") => {
            modes(&mut cursor).map(|modes| SessionCommand::Begin { modes, tag: "START TRANSACTION" })
        }
        "commit" | "end" => {
            if cursor.take("prepared") {
                return Some(Err(two_phase()));
            }
            finish(&mut cursor, |chain| SessionCommand::Commit { chain })
        }
        "rollback" | "abort" => {
            if cursor.take("prepared") {
                return Some(Err(two_phase()));
            }
            let _ = cursor.take("work") || cursor.take("transaction");
            if cursor.take("to") {
                cursor.take("savepoint");
                cursor.name().map(|name| SessionCommand::RollbackTo { name })
            } else {
                finish(&mut cursor, |chain| SessionCommand::Rollback { chain })
            }
        }
        "savepoint" => cursor.name().map(|name| SessionCommand::Savepoint { name }),
        "release" => {
            cursor.take("savepoint");
            cursor.name().map(|name| SessionCommand::Release { name })
        }
        "set" => return Some(set(cursor)),
        "reset" => {
            let name = match setting_name(&mut cursor) {
                Ok(name) => name,
                Err(error) => return Some(Err(error)),
            };
            if name == "ringway.shard" {
                return Some(Ok(Plan::Admin(AdminCommand::PinShard { name: None })));
            }
            let name = (name != "all").then_some(name);
            Ok(SessionCommand::Reset { name, sql: text.sql.to_owned() })
        }
        "show" => return Some(show(cursor)),
        "discard" => {
            let words = [
                ("all", Discard::All),
                ("plans", Discard::Plans),
                ("sequences", Discard::Sequences),
                ("temp", Discard::Temporary),
                ("temporary", Discard::Temporary),
            ];
            match words.into_iter().find(|(word, _)| cursor.take(word)) {
                Some((_, what)) => Ok(SessionCommand::Discard(what)),
                None => return Some(Err(cursor.unexpected())),
            }
        }
        "prepare" => {
            if cursor.take("transaction") {
                return Some(Err(two_phase()));
            }
            return Some(prepare(cursor));
        }
        "execute" => return Some(execute(cursor)),
        "alter" => return default_of_logins(text).map(Err),
        "deallocate" => {
            cursor.take("prepare");
            if cursor.take("all") {
                Ok(SessionCommand::Deallocate { name: None })
            } else {
                cursor.name().map(|name| SessionCommand::Deallocate { name: Some(name) })
            }
        }
        _ => return None,
    };
    Some(command.and_then(|command| cursor.end().map(|()| Plan::Session(command))))
}

fn two_phase() -> PgError {
    refused(
        "prepared transactions are the gateway's own",
        "A transaction over several shards is committed in two phases by the gateway.",
        "Use COMMIT.",
    )
}

pub struct Cursor<'a, 't> {
    pub text: &'a Text<'t>,
    pub at: usize,
}

impl Cursor<'_, '_> {
    /// The next unquoted word, in lower case.
    pub fn word(&mut self) -> Option<String> {
        let lexeme = self.text.lexemes.get(self.at)?;
        if lexeme.kind != Kind::Word {
            return None;
        }
        self.at += 1;
        Some(lexeme.text(self.text.sql).to_ascii_lowercase())
    }

    pub fn take(&mut self, word: &str) -> bool {
        let found = self.text.word(self.at, word);
        self.at += usize::from(found);
        found
    }

    pub fn take_punctuation(&mut self, punctuation: u8) -> bool {
        let found = self.text.punctuation(self.at, punctuation);
        self.at += usize::from(found);
        found
    }

    pub fn name(&mut self) -> Result<String, PgError> {
        let name = self.text.lexemes.get(self.at).and_then(|lexeme| lexeme.identifier(self.text.sql));
        match name {
            Some(name) => {
                self.at += 1;
                Ok(name)
            }
            None => Err(self.unexpected()),
        }
    }

    pub fn done(&self) -> bool {
        self.at >= self.text.lexemes.len()
    }

    pub fn end(&self) -> Result<(), PgError> {
        if self.done() {
            return Ok(());
        }
        Err(self.unexpected())
    }

    pub fn unexpected(&self) -> PgError {
        match self.text.lexemes.get(self.at) {
            Some(lexeme) => syntax_error(
                format!("syntax error at or near \"{}\"", lexeme.text(self.text.sql)),
                lexeme.start,
                self.text.sql,
            ),
            None => syntax_error("syntax error at end of input", self.text.sql.len(), self.text.sql),
        }
    }
}

fn finish(cursor: &mut Cursor<'_, '_>, make: fn(bool) -> SessionCommand) -> Result<SessionCommand, PgError> {
    let _ = cursor.take("work") || cursor.take("transaction");
    let mut chain = false;
    if cursor.take("and") {
        chain = !cursor.take("no");
        if !cursor.take("chain") {
            return Err(cursor.unexpected());
        }
    }
    Ok(make(chain))
}

fn modes(cursor: &mut Cursor<'_, '_>) -> Result<TransactionModes, PgError> {
    let mut modes = TransactionModes::default();
    while !cursor.done() {
        if cursor.take("isolation") {
            if !cursor.take("level") {
                return Err(cursor.unexpected());
            }
            modes.isolation = Some(if cursor.take("serializable") {
                Isolation::Serializable
            } else if cursor.take("repeatable") && cursor.take("read") {
                Isolation::RepeatableRead
            } else if cursor.take("read") && cursor.take("committed") {
                Isolation::ReadCommitted
            } else if cursor.take("uncommitted") {
                Isolation::ReadUncommitted
            } else {
                return Err(cursor.unexpected());
            });
        } else if cursor.take("read") {
            modes.read_only = Some(if cursor.take("only") {
                true
            } else if cursor.take("write") {
                false
            } else {
                return Err(cursor.unexpected());
            });
        } else if cursor.take("deferrable") {
            modes.deferrable = Some(true);
        } else if cursor.take("not") && cursor.take("deferrable") {
            modes.deferrable = Some(false);
        } else {
            return Err(cursor.unexpected());
        }
        cursor.take_punctuation(b',');
    }
    Ok(modes)
}

/// `a.b`, TIME ZONE, TRANSACTION ISOLATION LEVEL, SESSION AUTHORIZATION, NAMES.
fn setting_name(cursor: &mut Cursor<'_, '_>) -> Result<String, PgError> {
    if cursor.text.word(cursor.at, "time") && cursor.text.word(cursor.at + 1, "zone") {
        cursor.at += 2;
        return Ok("timezone".to_owned());
    }
    if cursor.text.word(cursor.at, "session") && cursor.text.word(cursor.at + 1, "authorization") {
        cursor.at += 2;
        return Ok("session_authorization".to_owned());
    }
    if cursor.text.word(cursor.at, "transaction") && cursor.text.word(cursor.at + 1, "isolation") {
        cursor.at += 3;
        return Ok("transaction_isolation".to_owned());
    }
    let mut name = cursor.name()?.to_ascii_lowercase();
    while cursor.take_punctuation(b'.') {
        name.push('.');
        name.push_str(&cursor.name()?.to_ascii_lowercase());
    }
    Ok(name)
}

fn set(mut cursor: Cursor<'_, '_>) -> Result<Plan, PgError> {
    let text = cursor.text;
    if text.word(1, "transaction") && !text.word(2, "isolation_") {
        cursor.at = 2;
        if text.word(2, "snapshot") {
            return Err(refused(
                "SET TRANSACTION SNAPSHOT is not supported",
                "A snapshot belongs to one server.",
                "Read what belongs together in one REPEATABLE READ transaction.",
            ));
        }
        return Ok(Plan::Session(SessionCommand::SetTransaction { modes: modes(&mut cursor)? }));
    }
    if text.word(1, "constraints") {
        return Ok(Plan::Session(SessionCommand::SetConstraints { sql: text.sql.to_owned() }));
    }
    let mut local = false;
    if text.word(1, "local") && !is_assignment(text, 2) {
        local = true;
        cursor.at += 1;
    } else if text.word(1, "session") && !is_assignment(text, 2) && !text.word(2, "authorization") {
        cursor.at += 1;
        if text.word(2, "characteristics") {
            cursor.at += 1;
            if !(cursor.take("as") && cursor.take("transaction")) || cursor.done() {
                return Err(cursor.unexpected());
            }
            return Ok(Plan::Session(SessionCommand::SetCharacteristics { modes: modes(&mut cursor)? }));
        }
    }
    let names = cursor.text.word(cursor.at, "names") && !is_assignment(text, cursor.at + 1);
    let name = if names {
        cursor.at += 1;
        "client_encoding".to_owned()
    } else {
        setting_name(&mut cursor)?
    };
    let assigned = cursor.take("to")
        || text.lexemes.get(cursor.at).is_some_and(|l| l.is_operator(text.sql, "=")) && {
            cursor.at += 1;
            true
        };
    if !assigned && cursor.take("from") {
        if !cursor.take("current") {
            return Err(cursor.unexpected());
        }
        cursor.end()?;
        return Ok(Plan::Session(SessionCommand::SetFromCurrent { name, local, sql: text.sql.to_owned() }));
    }
    let bare =
        ["timezone", "role", "session_authorization", "client_encoding", "schema", "seed"].contains(&name.as_str());
    if !assigned && !bare {
        return Err(cursor.unexpected());
    }
    let name = if name == "schema" && !assigned { "search_path".to_owned() } else { name };
    if cursor.done() && !names {
        return Err(cursor.unexpected());
    }
    let value = match name.as_str() {
        "search_path" => list_value(&cursor)?,
        "role" | "session_authorization" => one_value(&cursor)?,
        _ => setting_value(&cursor),
    };
    if name == "ringway.shard" {
        return Ok(Plan::Admin(AdminCommand::PinShard { name: value }));
    }
    check_setting(&name, value.as_deref())?;
    Ok(Plan::Session(SessionCommand::Set { name, local, value, sql: text.sql.to_owned() }))
}

/// Settings that the gateway relies on. `name` in lower case.
pub fn check_setting(name: &str, value: Option<&str>) -> Result<(), PgError> {
    let folded = value.map(str::to_ascii_lowercase);
    if name == "standard_conforming_strings" && !matches!(folded.as_deref(), Some("on" | "true" | "yes" | "1") | None) {
        return Err(refused(
            "standard_conforming_strings cannot be turned off",
            "The gateway reads string literals as the SQL standard does.",
            "Use E'...' for backslash escapes.",
        ));
    }
    if name == "client_encoding" && folded.as_deref().is_some_and(|encoding| !is_utf8(encoding)) {
        return Err(refused(
            "only the client encoding UTF8 is supported",
            "The gateway reads statements and keys as UTF-8.",
            "SET client_encoding TO 'UTF8', and have the driver convert.",
        ));
    }
    if name == "session_replication_role" {
        return Err(refused(
            "session_replication_role cannot be set through the gateway",
            "Triggers keep moving rows safe.",
            "Disable single triggers instead.",
        ));
    }
    Ok(())
}

/// As PostgreSQL reads names of encodings: letters and digits count. SQL_ASCII converts nothing.
fn is_utf8(encoding: &str) -> bool {
    let name: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    matches!(name.as_str(), "utf8" | "unicode" | "sqlascii" | "default" | "")
}

fn is_assignment(text: &Text<'_>, at: usize) -> bool {
    text.word(at, "to") || text.lexemes.get(at).is_some_and(|l| l.is_operator(text.sql, "="))
}

/// `ALTER ROLE name [IN DATABASE name] SET | RESET setting`: what sessions begin with is on connections that are opened later,
/// and the gateway's are shared.
fn default_of_logins(text: &Text<'_>) -> Option<PgError> {
    let role = text.word(1, "role") || text.word(1, "user");
    let at = if role && text.word(3, "in") && text.word(4, "database") { 6 } else { 3 };
    let sets = text.word(at, "set") && !text.word(at + 1, "tablespace") || text.word(at, "reset");
    let here = "SET it in the session, or give it in the connection's options (options='-c name=value').";
    // Those begin as the planner takes them to, whatever the server says.
    let fixed = ["search_path", "role"].iter().any(|name| text.word(at + 1, name));
    let hint = if fixed {
        here
    } else {
        "SET it in the session, or give it in the connection's options (options='-c name=value'); or run this on every shard, \
         past the gateway, and restart the gateways."
    };
    (sets && (role || text.word(1, "database"))).then(|| {
        refused(
            "defaults of settings cannot be changed through the gateway",
            "A server gives them to connections that are opened later; sessions share connections that are open already.",
            hint,
        )
    })
}

/// A list of names: every element is one name, whatever stands in it. `None` for DEFAULT.
fn list_value(cursor: &Cursor<'_, '_>) -> Result<Option<String>, PgError> {
    let text = cursor.text;
    if text.word(cursor.at, "default") && cursor.at + 1 == text.lexemes.len() {
        return Ok(None);
    }
    let parts = split_at_commas(text, cursor.at, text.lexemes.len()).ok_or_else(|| cursor.unexpected())?;
    let names: Result<Vec<String>, PgError> = parts
        .iter()
        .map(|part| name_value(text, *part.start(), *part.end()).map(|name| quote_element(&name)))
        .collect();
    Ok(Some(names?.join(", ")))
}

/// `None` for DEFAULT.
fn one_value(cursor: &Cursor<'_, '_>) -> Result<Option<String>, PgError> {
    let last = cursor.text.lexemes.len() - 1;
    if cursor.text.word(cursor.at, "default") && cursor.at == last {
        return Ok(None);
    }
    name_value(cursor.text, cursor.at, last).map(Some)
}

/// An identifier or a string whose value is known.
fn name_value(text: &Text<'_>, first: usize, last: usize) -> Result<String, PgError> {
    let lexeme = text.lexemes[first];
    // A string goes on in the next line's.
    let continued = lexeme.kind == Kind::String && text.lexemes[last].kind == Kind::String;
    if first != last && !continued {
        return Err(Cursor { text, at: first + 1 }.unexpected());
    }
    let value = lexeme.identifier(text.sql).or_else(|| lexeme.string_value(text.sql));
    value.filter(|_| first == last).ok_or_else(|| {
        refused(
            format!("{} is not read as a name", text.slice(first, last)),
            "The gateway resolves names as the session's search_path and role say; it reads identifiers and plain strings.",
            "Write the name as an identifier or as a plain '...' string.",
        )
    })
}

/// The value as `SHOW` and `set_config` would take it; lists are joined by `, `. `None` for DEFAULT.
fn setting_value(cursor: &Cursor<'_, '_>) -> Option<String> {
    let text = cursor.text;
    if text.word(cursor.at, "default") && cursor.at + 1 == text.lexemes.len() {
        return None;
    }
    let parts = split_at_commas(text, cursor.at, text.lexemes.len())?;
    let several = parts.len() > 1;
    let values: Vec<String> = parts
        .into_iter()
        .map(|extent| {
            let lexeme = text.lexemes[*extent.start()];
            let single = extent.start() == extent.end();
            match (single, lexeme.kind) {
                (true, Kind::String) => {
                    let value = lexeme.string_value(text.sql).unwrap_or_else(|| lexeme.text(text.sql).to_owned());
                    if several {
                        quote_element(&value)
                    } else {
                        value
                    }
                }
                (true, Kind::Word | Kind::QuotedWord) => {
                    let value = lexeme.identifier(text.sql).unwrap_or_default();
                    if several {
                        quote_element(&value)
                    } else {
                        value
                    }
                }
                _ => text.slice(*extent.start(), *extent.end()).to_owned(),
            }
        })
        .collect();
    Some(values.join(", "))
}

/// An element of a list setting, quoted where its plain form would read differently.
fn quote_element(value: &str) -> String {
    let plain = !value.is_empty()
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'$')
        && !value.as_bytes()[0].is_ascii_digit();
    if plain && !value.starts_with('$') {
        value.to_owned()
    } else {
        quote_ident(value)
    }
}

fn show(mut cursor: Cursor<'_, '_>) -> Result<Plan, PgError> {
    let text = cursor.text;
    let name = setting_name(&mut cursor)?;
    cursor.end()?;
    const CLUSTER: &[&str] = &[
        "pools",
        "stats",
        "version",
        "shards",
        "moves",
        "clients",
        "servers",
        "databases",
        "lists",
        "listeners",
        "config",
        "users",
        "stats_totals",
    ];
    if let Some(what) = name.strip_prefix("ringway.") {
        return Ok(Plan::Admin(AdminCommand::ShowCluster { what: what.to_owned() }));
    }
    if CLUSTER.contains(&name.as_str()) {
        return Ok(Plan::Admin(AdminCommand::ShowCluster { what: name }));
    }
    Ok(Plan::Session(SessionCommand::Show { name, sql: text.sql.to_owned() }))
}

fn prepare(mut cursor: Cursor<'_, '_>) -> Result<Plan, PgError> {
    let text = cursor.text;
    let name = cursor.name()?;
    let mut parameter_types = Vec::new();
    if text.punctuation(cursor.at, b'(') {
        let close = text.closing(cursor.at).ok_or_else(|| cursor.unexpected())?;
        for extent in split_at_commas(text, cursor.at + 1, close).ok_or_else(|| cursor.unexpected())? {
            parameter_types.push(text.slice(*extent.start(), *extent.end()).to_owned());
        }
        cursor.at = close + 1;
    }
    let preparable = ["select", "insert", "update", "delete", "merge", "with", "values", "table"];
    let begins = |at| text.punctuation(at, b'(') || preparable.iter().any(|word| text.word(at, word));
    if !cursor.take("as") || !begins(cursor.at) {
        return Err(cursor.unexpected());
    }
    let sql = text.slice(cursor.at, text.lexemes.len() - 1).to_owned();
    Ok(Plan::Session(SessionCommand::Prepare { name, parameter_types, sql }))
}

fn execute(mut cursor: Cursor<'_, '_>) -> Result<Plan, PgError> {
    let text = cursor.text;
    let name = cursor.name()?;
    let mut arguments = Vec::new();
    if text.punctuation(cursor.at, b'(') {
        let close = text.closing(cursor.at).ok_or_else(|| cursor.unexpected())?;
        let subquery = (cursor.at + 1..close).find(|&at| {
            text.punctuation(at, b'(')
                && ["select", "values", "with", "table"].iter().any(|word| text.word(at + 1, word))
        });
        if let Some(at) = subquery {
            let error = PgError::new(SqlState::FEATURE_NOT_SUPPORTED, "cannot use subquery in EXECUTE parameter")
                .detail("PostgreSQL takes expressions without subqueries there.")
                .hint("Run the subquery first and give its value.");
            return Err(super::refuse::at(error, text.lexemes[at].start, text.sql));
        }
        for extent in split_at_commas(text, cursor.at + 1, close).ok_or_else(|| cursor.unexpected())? {
            arguments.push(text.slice(*extent.start(), *extent.end()).to_owned());
        }
        cursor.at = close + 1;
    }
    cursor.end()?;
    Ok(Plan::Session(SessionCommand::Execute { name, arguments }))
}
