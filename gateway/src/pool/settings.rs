//! The settings of a session (SET, startup parameters) and what brings a connection from one to another.
//!
//! Values are kept as the SET statements that make them. No connection is used here.

use std::collections::hash_map::DefaultHasher;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use ringway_topology::model::{quote_ident, quote_literal};

type Entries = BTreeMap<String, String>;

/// Sessions with the same settings share these, so that to compare them is to compare addresses.
static SHARED: LazyLock<Mutex<LruCache<u64, Arc<Entries>>>> =
    LazyLock::new(|| Mutex::new(LruCache::new(NonZeroUsize::new(SHARED_MAX).unwrap_or(NonZeroUsize::MIN))));
const SHARED_MAX: usize = 1_000;
/// Larger ones are a session's own.
const SHARED_BYTES_MAX: usize = 4 << 10;

fn shared(hash: u64, entries: Entries) -> Arc<Entries> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = shared.get(&hash).filter(|known| ***known == entries) {
        return Arc::clone(known);
    }
    let entries = Arc::new(entries);
    shared.put(hash, Arc::clone(&entries));
    entries
}

/// Cheap to clone and to compare; most sessions share a few.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Setting's name in lower case, and the statement that sets it.
    entries: Arc<Entries>,
    hash: u64,
    idle_session_timeout: Option<Duration>,
}

static NONE: LazyLock<Settings> = LazyLock::new(|| Settings::from_entries(BTreeMap::new()));

impl Default for Settings {
    fn default() -> Self {
        NONE.clone()
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries) || (self.hash == other.hash && self.entries == other.entries)
    }
}

impl Eq for Settings {}

impl Settings {
    fn from_entries(entries: Entries) -> Settings {
        let mut hasher = DefaultHasher::new();
        entries.hash(&mut hasher);
        // The first number that follows the name, however the statement is written.
        let idle_session_timeout = entries.get("idle_session_timeout").and_then(|statement| {
            let (_, value) = statement.rsplit_once("idle_session_timeout")?;
            let value = &value[value.find(|c: char| c.is_ascii_digit())?..];
            super::timeout::parse(value.split(['\'', ',', ';']).next().unwrap_or_default())
        });
        let hash = hasher.finish();
        let bytes: usize = entries.iter().map(|(name, statement)| name.len() + statement.len()).sum();
        let entries = match bytes <= SHARED_BYTES_MAX {
            true => shared(hash, entries),
            false => Arc::new(entries),
        };
        Settings { entries, hash, idle_session_timeout }
    }

    /// When a server with these settings ends a session that is idle. For the pools: they do not use such a connection at the
    /// last moment.
    pub fn idle_session_timeout(&self) -> Option<Duration> {
        self.idle_session_timeout
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(String::as_str)
    }

    /// `statement` is the whole SET statement.
    pub fn set(&mut self, name: &str, statement: String) {
        let mut entries = (*self.entries).clone();
        entries.insert(name.to_ascii_lowercase(), statement);
        *self = Settings::from_entries(entries);
    }

    /// A startup parameter's value, as text.
    pub fn set_value(&mut self, name: &str, value: &str) {
        let statement = match name.to_ascii_lowercase().as_str() {
            // A list of names in one string, as startup packets carry it.
            "search_path" | "temp_tablespaces" | "session_preload_libraries" | "local_preload_libraries" => {
                format!("SELECT pg_catalog.set_config({}, {}, false)", quote_literal(name), quote_literal(value))
            }
            _ => format!("SET {} TO {}", quote_setting(name), quote_literal(value)),
        };
        self.set(name, statement);
    }

    pub fn remove(&mut self, name: &str) {
        if self.entries.contains_key(&name.to_ascii_lowercase()) {
            let mut entries = (*self.entries).clone();
            entries.remove(&name.to_ascii_lowercase());
            *self = Settings::from_entries(entries);
        }
    }

    /// Statements that turn a session with `from` into one with `self`, joined by semicolons; empty when they are equal.
    pub fn statements_from(&self, from: &Settings) -> String {
        let mut statements = String::new();
        for name in from.entries.keys() {
            if !self.entries.contains_key(name) {
                push(&mut statements, &reset_statement(name));
            }
        }
        // Who the session is comes last: it may not be allowed to set the rest. A session authorization ends the role.
        let order = |name: &str| match name {
            "session_authorization" => 1,
            "role" => 2,
            _ => 0,
        };
        let other_user = self.get("session_authorization") != from.get("session_authorization");
        for pass in 0..3 {
            for (name, statement) in self.entries.iter().filter(|(name, _)| order(name) == pass) {
                if from.entries.get(name) != Some(statement) || pass == 2 && other_user {
                    // A style alone leaves the order as it is, an order alone the style.
                    if name == "datestyle" && from.entries.contains_key(name) {
                        push(&mut statements, &reset_statement(name));
                    }
                    push(&mut statements, statement);
                }
            }
        }
        statements
    }

    /// The same, from a session of which nothing is known.
    pub fn statements_from_unknown(&self) -> String {
        let mut statements = String::from("RESET SESSION AUTHORIZATION; RESET ALL");
        let rest = self.statements_from(&Settings::default());
        if !rest.is_empty() {
            push(&mut statements, &rest);
        }
        statements
    }
}

fn push(statements: &mut String, statement: &str) {
    if !statements.is_empty() {
        statements.push_str("; ");
    }
    statements.push_str(statement);
}

fn reset_statement(name: &str) -> String {
    match name {
        "session_authorization" => "RESET SESSION AUTHORIZATION".to_owned(),
        "timezone" => "RESET TIME ZONE".to_owned(),
        _ => format!("RESET {}", quote_setting(name)),
    }
}

/// A setting's name, whose parts (extension.name) are identifiers of their own.
fn quote_setting(name: &str) -> String {
    name.split('.').map(quote_ident).collect::<Vec<_>>().join(".")
}

/// `-c name=value` and `--name=value` of the `options` startup parameter. Backslashes escape spaces.
pub fn parse_options(options: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            ' ' | '\t' | '\n' => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let assignment = if word == "-c" {
            words.next()
        } else {
            word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).map(str::to_owned)
        };
        if let Some((name, value)) = assignment.as_deref().and_then(|text| text.split_once('=')) {
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_are_shared() {
        let of = |value: &str| {
            let mut settings = Settings::default();
            settings.set_value("application_name", value);
            settings
        };
        let (small, large) = ("x".repeat(100), "x".repeat(SHARED_BYTES_MAX));
        assert!(Arc::ptr_eq(&of(&small).entries, &of(&small).entries));
        assert!(!Arc::ptr_eq(&of(&large).entries, &of(&large).entries));
        assert_eq!(of(&large), of(&large));
        assert_ne!(of(&small), of("y"));
    }

    #[test]
    fn statements_bring_one_session_to_another() {
        let mut one = Settings::default();
        one.set_value("TimeZone", "UTC");
        one.set("role", "SET ROLE app".into());
        one.set_value("application_name", "it's");
        let mut two = Settings::default();
        two.set_value("TimeZone", "UTC");
        assert_eq!(one.statements_from(&one.clone()), "");
        assert_eq!(two.statements_from(&one), "RESET \"application_name\"; RESET \"role\"");
        assert_eq!(one.statements_from(&two), "SET \"application_name\" TO 'it''s'; SET ROLE app");
        two.remove("timezone");
        assert_eq!(two, Settings::default());
        one.set("session_authorization", "SET SESSION AUTHORIZATION x".into());
        assert!(one.statements_from(&two).ends_with("SET SESSION AUTHORIZATION x; SET ROLE app"));
        two.set("role", "SET ROLE app".into());
        assert_eq!(
            two.statements_from(&one),
            "RESET \"application_name\"; RESET SESSION AUTHORIZATION; RESET TIME ZONE; SET ROLE app"
        );
    }

    #[test]
    fn servers_that_end_idle_sessions_are_known() {
        for (statement, expected) in [
            ("SET idle_session_timeout TO '2s'", Some(2_000)),
            ("SET SESSION idle_session_timeout = 1500", Some(1_500)),
            ("SELECT pg_catalog.set_config('idle_session_timeout', '1min', false)", Some(60_000)),
            ("SET idle_session_timeout TO DEFAULT", None),
            ("SET idle_session_timeout = 0", None),
        ] {
            let mut settings = Settings::default();
            settings.set("idle_session_timeout", statement.into());
            assert_eq!(settings.idle_session_timeout(), expected.map(Duration::from_millis), "{statement}");
        }
        assert_eq!(Settings::default().idle_session_timeout(), None);
    }

    #[test]
    fn options_are_split_as_postgresql_does() {
        assert_eq!(
            parse_options("-c a=b --work-mem=1MB -cx=y\\ z"),
            [("a", "b"), ("work_mem", "1MB"), ("x", "y z")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }
}
