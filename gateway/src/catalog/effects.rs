//! What code that a server runs by itself may do: functions, DO blocks, triggers, policies, defaults, views. It is read off
//! their tokens, and errs on the side of doing more: a name that may be a table's counts as that table.
//!
//! It parses no statement, and cannot see through dynamic SQL or languages other than SQL and PL/pgSQL.

use std::collections::{BTreeSet, HashMap};

use ringway_topology::model::TableName;

use super::builtin::{is_clock_function, is_clock_word, is_list_of_session, is_of_server};
use crate::sql::lexer::{lex, Kind, Lexeme};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Tables and views of the application that it names.
    pub relations: BTreeSet<TableName>,
    /// Those among them that it may write or lock.
    pub written: BTreeSet<TableName>,
    /// Why its text does not tell what it does.
    pub opaque: Option<String>,
    /// What it calls that depends on the server or the session.
    pub server: Option<String>,
    /// It reads the transaction's or the statement's clock.
    pub clock: bool,
    /// It calls something volatile.
    pub volatile: bool,
    /// It changes settings.
    pub settings: bool,
    /// It raises notifications.
    pub notifies: bool,
    /// It begins or ends to listen, or asks to what.
    pub listens: bool,
    /// It reads what the server lists of the session: prepared statements, cursors.
    pub lists: bool,
    /// It changes the schema: the key word.
    pub schema: Option<String>,
}

impl Effects {
    pub fn opaque(reason: impl Into<String>) -> Effects {
        Effects { opaque: Some(reason.into()), ..Effects::default() }
    }

    /// Touches nothing but its arguments and system catalogs.
    pub fn is_table_free(&self) -> bool {
        self.relations.is_empty()
            && self.opaque.is_none()
            && self.server.is_none()
            && !self.settings
            && !self.notifies
            && !self.listens
            && !self.lists
            && self.schema.is_none()
    }

    pub fn add(&mut self, other: &Effects) {
        self.relations.extend(other.relations.iter().cloned());
        self.written.extend(other.written.iter().cloned());
        let first = |mine: &mut Option<String>, theirs: &Option<String>| {
            if mine.is_none() {
                mine.clone_from(theirs);
            }
        };
        first(&mut self.opaque, &other.opaque);
        first(&mut self.server, &other.server);
        first(&mut self.schema, &other.schema);
        self.clock |= other.clock;
        self.volatile |= other.volatile;
        self.settings |= other.settings;
        self.notifies |= other.notifies;
        self.listens |= other.listens;
        self.lists |= other.lists;
    }
}

/// What a text says by itself, and the functions of the application that it calls.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    pub effects: Effects,
    pub calls: BTreeSet<String>,
}

/// The names that a text is read by.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Relations of the application by their last name.
    pub relations: HashMap<String, Vec<TableName>>,
    /// Functions of the application whose text is known.
    pub routines: BTreeSet<String>,
    /// Functions behind operators of the application.
    pub operators: HashMap<String, Vec<String>>,
    /// PostgreSQL's own functions that are volatile.
    pub volatile: BTreeSet<String>,
    /// Types whose values are checked or converted by code.
    pub types: BTreeSet<String>,
    /// Tables and views with columns of such types.
    pub rows: BTreeSet<String>,
}

/// What stands for a type among the functions that are called.
pub fn type_key(name: &str) -> String {
    format!("type {name}")
}

impl Names {
    pub fn scan(&self, sql: &str) -> Scanned {
        match lex(sql) {
            Ok(lexemes) => Scan { names: self, sql, lexemes: &lexemes, out: Scanned::default() }.run(),
            Err(error) => Scanned { effects: Effects::opaque(error.message), ..Scanned::default() },
        }
    }
}

struct Scan<'s> {
    names: &'s Names,
    sql: &'s str,
    lexemes: &'s [Lexeme],
    out: Scanned,
}

impl Scan<'_> {
    fn word(&self, index: Option<usize>, words: &[&str]) -> bool {
        index
            .and_then(|index| self.lexemes.get(index))
            .is_some_and(|lexeme| words.iter().any(|word| lexeme.is_word(self.sql, word)))
    }

    fn punctuation(&self, index: Option<usize>, punctuation: u8) -> bool {
        index.and_then(|index| self.lexemes.get(index)).is_some_and(|lexeme| lexeme.is(punctuation))
    }

    /// Whether a statement may begin at this token.
    fn begins(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return true };
        self.punctuation(Some(before), b';')
            || self.lexemes[before].is_operator(self.sql, ">>")
            || self.word(Some(before), &["begin", "then", "else", "loop", "atomic", "as", "do"])
    }

    fn run(mut self) -> Scanned {
        // Whether a name here may be that of a table, by depth of parentheses.
        let mut tables = vec![false];
        let mut locks = false;
        for index in 0..self.lexemes.len() {
            let lexeme = self.lexemes[index];
            let before = index.checked_sub(1);
            match lexeme.kind {
                Kind::Punctuation(b'(') => {
                    let named = before
                        .is_some_and(|before| matches!(self.lexemes[before].kind, Kind::Word | Kind::QuotedWord))
                        && !self.word(before, &["from", "join", "only", "lateral", "on", "table"]);
                    tables.push(!named && tables.last().is_some_and(|open| *open));
                }
                Kind::Punctuation(b')') if tables.len() > 1 => {
                    tables.pop();
                }
                Kind::Punctuation(b';') => tables = vec![false],
                Kind::Operator => {
                    if let Some(functions) = self.names.operators.get(lexeme.text(self.sql)) {
                        self.out.calls.extend(functions.iter().cloned());
                    }
                }
                Kind::Word | Kind::QuotedWord => {
                    if lexeme.kind == Kind::Word {
                        self.key_word(index, &mut tables, &mut locks);
                    }
                    self.name(index, tables.last().is_some_and(|open| *open));
                }
                _ => {}
            }
        }
        if locks {
            self.out.effects.written = self.out.effects.relations.clone();
        }
        self.out
    }

    fn key_word(&mut self, index: usize, tables: &mut [bool], locks: &mut bool) {
        let word = self.lexemes[index].text(self.sql).to_ascii_lowercase();
        let effects = &mut self.out.effects;
        let here = tables.last_mut();
        match word.as_str() {
            "from" | "join" | "into" | "update" | "only" | "table" | "using" | "copy" | "lock" | "truncate" => {
                if let Some(here) = here {
                    *here = true;
                }
            }
            "select" | "where" | "set" | "values" | "returning" | "group" | "order" | "having" | "limit" | "then"
            | "loop" | "begin" | "perform" => {
                if let Some(here) = here {
                    *here = false;
                }
            }
            "execute" => {
                effects.opaque.get_or_insert_with(|| "it builds statements as text (EXECUTE)".to_owned());
            }
            word if is_clock_word(word) => effects.clock = true,
            _ => {}
        }
        if word == "for" && (self.word(Some(index + 1), &["update"]) || self.word(Some(index + 1), &["no"])) {
            *locks = true;
        }
        if !self.begins(index) {
            return;
        }
        const SCHEMA: &[&str] = &[
            "create", "alter", "drop", "truncate", "grant", "revoke", "comment", "reindex", "cluster", "vacuum",
            "analyze", "refresh", "security", "reassign", "import",
        ];
        let effects = &mut self.out.effects;
        if SCHEMA.contains(&word.as_str()) {
            effects.schema.get_or_insert_with(|| word.to_ascii_uppercase());
        }
        match word.as_str() {
            "set" | "reset" | "discard" => effects.settings = true,
            "notify" => effects.notifies = true,
            "listen" | "unlisten" => effects.listens = true,
            "prepare" | "deallocate" | "load" => {
                effects.server.get_or_insert_with(|| word.to_ascii_uppercase());
            }
            "copy" => {
                effects.opaque.get_or_insert_with(|| "it has COPY".to_owned());
            }
            _ => {}
        }
    }

    fn name(&mut self, index: usize, tables: bool) {
        let Some(name) = self.lexemes[index].identifier(self.sql) else {
            // U&"...": what it spells is not decoded.
            self.out.effects.opaque.get_or_insert_with(|| "it has names with Unicode escapes".to_owned());
            return;
        };
        let qualified = index >= 2 && self.punctuation(Some(index - 1), b'.');
        let schema = if qualified { self.lexemes[index - 2].identifier(self.sql) } else { None };
        // `row.name` calls the function where there is no such column.
        if qualified && self.names.routines.contains(&name) && !self.punctuation(Some(index + 1), b'.') {
            self.out.calls.insert(name.clone());
        }
        if self.punctuation(Some(index + 1), b'(') && schema.as_deref() != Some("ringway") {
            if self.names.routines.contains(&name) {
                self.out.calls.insert(name.clone());
            }
            let effects = &mut self.out.effects;
            effects.settings |= name == "set_config";
            effects.clock |= is_clock_function(&name) || name == "age";
            effects.volatile |= self.names.volatile.contains(&name);
            if name == "pg_notify" {
                effects.notifies = true;
            } else if name == "pg_listening_channels" {
                effects.listens = true;
            } else if is_of_server(&name) {
                effects.server.get_or_insert_with(|| name.clone());
            }
        }
        self.out.effects.lists |= is_list_of_session(&name);
        if self.names.types.contains(&name) {
            self.out.calls.insert(type_key(&name));
        }
        let is_type = self.lexemes.get(index + 1).is_some_and(|next| next.is_operator(self.sql, "%"))
            && self.word(Some(index + 2), &["rowtype", "type"]);
        if is_type {
            // `orders%ROWTYPE`, `orders.total%TYPE`.
            let rows = [Some(name.clone()), schema.clone()].into_iter().flatten();
            let rows = rows.filter(|name| self.names.rows.contains(name));
            self.out.calls.extend(rows.map(|name| type_key(&name)));
        }
        if !tables || is_type || self.punctuation(Some(index + 1), b'.') {
            return;
        }
        let first = if qualified { index - 2 } else { index };
        let before = first.checked_sub(1);
        const BEFORE_TABLES: &[&str] =
            &["from", "join", "into", "update", "only", "table", "using", "copy", "lock", "truncate", "lateral", "of"];
        let stands = self.word(before, BEFORE_TABLES)
            || self.punctuation(before, b',')
            || self.punctuation(before, b'(')
            || self.punctuation(before, b'.');
        let Some(known) = self.names.relations.get(&name).filter(|_| stands) else { return };
        let target = before.map(|at| if self.word(Some(at), &["only"]) { at.wrapping_sub(1) } else { at });
        let written = self.word(target, &["into", "update", "lock", "table", "truncate", "copy"])
            || self.word(target, &["from"]) && self.word(target.and_then(|at| at.checked_sub(1)), &["delete"]);
        for table in known.iter().filter(|table| schema.as_ref().is_none_or(|schema| *schema == table.schema)) {
            self.out.effects.relations.insert(table.clone());
            if written {
                self.out.effects.written.insert(table.clone());
            }
        }
    }
}

/// Effects of functions with those of what they call.
pub fn close(mut routines: HashMap<String, Scanned>) -> HashMap<String, Effects> {
    loop {
        let mut grown = false;
        let names: Vec<String> = routines.keys().cloned().collect();
        for name in names {
            let Some(scanned) = routines.get(&name) else { continue };
            let mut effects = scanned.effects.clone();
            for call in &scanned.calls {
                if let Some(called) = routines.get(call) {
                    effects.add(&called.effects);
                }
            }
            if effects != scanned.effects {
                grown = true;
                if let Some(scanned) = routines.get_mut(&name) {
                    scanned.effects = effects;
                }
            }
        }
        if !grown {
            return routines.into_iter().map(|(name, scanned)| (name, scanned.effects)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        for (schema, name) in [("public", "orders"), ("public", "plan"), ("audit", "log"), ("other", "orders")] {
            names.relations.entry(name.into()).or_default().push(TableName::new(schema, name));
        }
        names.routines.insert("helper".into());
        names.operators.insert("@@@".into(), vec!["helper".into()]);
        names.volatile.insert("random".into());
        names
    }

    fn relations(sql: &str) -> (Vec<String>, Vec<String>) {
        let effects = names().scan(sql).effects;
        let list = |set: &BTreeSet<TableName>| set.iter().map(TableName::to_string).collect();
        (list(&effects.relations), list(&effects.written))
    }

    #[test]
    fn tables_are_found_where_tables_stand() {
        let none: Vec<String> = Vec::new();
        assert_eq!(relations("SELECT plan, x.plan FROM nowhere WHERE plan = 1"), (none.clone(), none.clone()));
        assert_eq!(relations("SELECT 1 FROM a, plan").0, ["public.plan"]);
        assert_eq!(relations("SELECT 1 FROM a JOIN b ON a.x = b.x, plan p").0, ["public.plan"]);
        assert_eq!(relations("SELECT 1 FROM (plan CROSS JOIN a)").0, ["public.plan"]);
        assert_eq!(relations("BEGIN RETURN (SELECT 1 FROM public.orders); END").0, ["public.orders"]);
        assert_eq!(relations("SELECT 1 FROM orders").0, ["other.orders", "public.orders"]);
        assert_eq!(
            relations("INSERT INTO audit.log (plan) VALUES (1)"),
            (vec!["audit.log".into()], vec!["audit.log".into()])
        );
        assert_eq!(relations("UPDATE ONLY plan SET x = 1").1, ["public.plan"]);
        assert_eq!(
            relations("DELETE FROM plan USING audit.log"),
            (vec!["audit.log".into(), "public.plan".into()], vec!["public.plan".into()])
        );
        assert_eq!(relations("SELECT 1 FROM plan FOR NO KEY UPDATE").1, ["public.plan"]);
        assert_eq!(relations("DECLARE r plan%ROWTYPE; BEGIN r.plan := 1; END").0, none);
    }

    #[test]
    fn what_else_is_done() {
        let scan = |sql: &str| names().scan(sql);
        assert!(scan("BEGIN EXECUTE 'SELECT 1'; END").effects.opaque.is_some());
        assert!(scan("$$").effects.opaque.is_some(), "not lexed");
        assert_eq!(scan("BEGIN CREATE TYPE x AS ENUM ('a'); END").effects.schema.as_deref(), Some("CREATE"));
        assert_eq!(scan("SELECT comment, create_it FROM x").effects.schema, None);
        assert_eq!(scan("SELECT nextval('s')").effects.server.as_deref(), Some("nextval"));
        assert!(scan("BEGIN SET LOCAL x = 1; END").effects.settings);
        assert!(!scan("UPDATE nowhere SET x = 1").effects.settings);
        assert!(scan("SELECT now()").effects.clock && scan("SELECT current_date").effects.clock);
        assert!(scan("SELECT random()").effects.volatile);
        assert!(scan("SELECT x.helper(1)").calls.contains("helper"));
        assert!(scan("SELECT 1 @@@ 2").calls.contains("helper"));
        assert!(scan("BEGIN RETURN $1 + 1; END").effects.is_table_free());
    }

    #[test]
    fn callers_do_what_the_called_do() {
        let names = names();
        let mut routines = HashMap::new();
        for (name, text) in
            [("a", "SELECT b(1)"), ("b", "SELECT c(1), a(1)"), ("c", "SELECT 1 FROM plan"), ("d", "SELECT 1")]
        {
            let mut scanned = names.scan(text);
            scanned.calls =
                ["a", "b", "c"].iter().filter(|f| text.contains(&format!("{f}("))).map(|f| (*f).to_owned()).collect();
            routines.insert(name.to_owned(), scanned);
        }
        let closed = close(routines);
        for name in ["a", "b", "c"] {
            assert_eq!(closed[name].relations.len(), 1, "{name}");
        }
        assert!(closed["d"].is_table_free());
    }
}
