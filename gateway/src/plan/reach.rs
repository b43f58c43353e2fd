//! Code that a server runs by itself: functions, triggers, policies, views, DO blocks, procedures. It sees the tables of its
//! own shard, so where a statement may run depends on what its code names.
//!
//! Code that touches no table runs anywhere; code that reads reference tables runs on any shard; code about single tables
//! runs on the home shard. Sharded tables are for triggers and policies of the same keyspace, whose rows are those of the
//! row's own key; everything else that names them is refused. Example: `SELECT total_of(7)` where `total_of` reads `orders`
//! is refused, `SELECT label_of('DE')` where `label_of` reads a reference table is not.

use std::sync::Arc;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::TableName;

use super::context::{Placed, PlanContext};
use super::refuse::refused;
use super::types::{Ddl, DdlKind, Home, Plan, Targets};
use crate::catalog::effects::Effects;
use crate::catalog::Events;
use crate::sql::lexer::{lex, Kind};
use crate::sql::parse::Text;
use crate::wire::PgError;

const RUN_ITS_SQL: &str = "Run its SQL as statements of their own, or SET ringway.shard = 'name' to work on one shard.";

const CHANGES_SETTINGS: &str = "It changes settings, which the gateway does not see.";

/// Whether a refusal is because of settings. Such a statement is not even described: PostgreSQL runs what checks a literal of an array
/// or a composite type when it reads the statement.
pub fn is_of_settings(refusal: &PgError) -> bool {
    refusal.detail.as_deref() == Some(CHANGES_SETTINGS)
}

/// Code of a statement, and what it may do.
#[derive(Clone, Debug)]
pub struct Code {
    /// `function f`, `a trigger, rule or policy of t`.
    pub what: String,
    pub effects: Effects,
    /// Tables of this keyspace are its row's own.
    pub keyspace: Option<KeyspaceId>,
    /// It is called by the statement's text or by a view, not by writing a row.
    pub called: bool,
}

#[derive(Clone, Debug)]
pub enum Reach {
    Anywhere,
    /// The home shard only; what of it is there.
    Home(String),
    Refused(Box<PgError>),
}

pub fn reach(context: &PlanContext<'_>, code: &Code) -> Reach {
    let effects = &code.effects;
    let what = &code.what;
    let refuse = |detail: String, hint: &str| {
        Reach::Refused(Box::new(refused(format!("{what} cannot be run as one server would"), detail, hint)))
    };
    if effects.settings {
        return refuse(CHANGES_SETTINGS.to_owned(), "Use SET or SELECT set_config(...) as a statement of its own.");
    }
    if effects.listens {
        return refuse(
            "What a session listens to is known to the gateway, and not to its connection to a server.".to_owned(),
            "Use LISTEN, UNLISTEN and SELECT pg_listening_channels() as statements of their own.",
        );
    }
    if effects.lists {
        return refuse(
            "It lists prepared statements or cursors, which are the gateway's.".to_owned(),
            "Keep their names where they are made.",
        );
    }
    if !context.is_spread() {
        return Reach::Anywhere;
    }
    if let Some(word) = &effects.schema {
        return refuse(
            format!("It changes the schema ({word}), and every shard has the whole schema."),
            "Run the schema change as a statement of its own.",
        );
    }
    let mut home = effects.server.as_ref().map(|name| format!("{name} concerns one server"));
    // A trigger's go with its row: every shard is listened to.
    if effects.notifies && (code.called || code.keyspace.is_none()) {
        home.get_or_insert_with(|| "it raises notifications, once".to_owned());
    }
    if let Some(reason) = &effects.opaque {
        if !context.topology.tables.is_empty() {
            return refuse(format!("Which tables it touches is not known: {reason}."), RUN_ITS_SQL);
        }
        home.get_or_insert_with(|| reason.clone());
    }
    for relation in &effects.relations {
        let placed = context.table(&[relation.schema.clone(), relation.name.clone()]).map(|table| table.placed);
        match placed {
            Ok(Placed::Sharded { keyspace, .. }) if code.keyspace == Some(keyspace) => {}
            Ok(Placed::Sharded { .. }) | Err(_) => {
                return refuse(format!("It names {relation}, whose rows are on several shards."), RUN_ITS_SQL)
            }
            Ok(Placed::Reference) if effects.written.contains(relation) => {
                return refuse(
                    format!("It may write or lock {relation}, of which every shard has a copy."),
                    RUN_ITS_SQL,
                )
            }
            Ok(Placed::Reference | Placed::System) => {}
            Ok(Placed::Single) => {
                home.get_or_insert_with(|| format!("the rows of {relation} are on the home shard only"));
            }
        }
    }
    home.map_or(Reach::Anywhere, Reach::Home)
}

/// Whether all code of a statement may run where the statement goes.
pub fn check(context: &PlanContext<'_>, code: &[Code], targets: &Targets) -> Result<(), PgError> {
    for code in code {
        match reach(context, code) {
            Reach::Refused(error) => return Err(*error),
            Reach::Home(why) if !matches!(targets, Targets::Home) => {
                return Err(refused(
                    format!("{} cannot run on the shards that the statement goes to", code.what),
                    format!("It belongs on the home shard: {why}."),
                    if code.called {
                        "Call it where no distributed table is named, or make the tables that it reads reference tables."
                    } else {
                        "Drop it, or make the tables that it only reads reference tables."
                    },
                ))
            }
            Reach::Home(_) | Reach::Anywhere => {}
        }
    }
    Ok(())
}

/// CALL, with whatever its arguments call.
pub fn call(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let code = Code {
        what: "the procedure".to_owned(),
        effects: context.catalog.effects(text.sql),
        keyspace: None,
        called: true,
    };
    check(context, &[code], &Targets::Home)?;
    Ok(Plan::Home(Home { sql: Arc::from(text.sql), pins: false }))
}

/// `DO [LANGUAGE name] 'body'`.
pub fn do_block(context: &PlanContext<'_>, text: &Text<'_>) -> Result<Plan, PgError> {
    let body = text.lexemes.iter().find(|lexeme| lexeme.kind == Kind::String);
    let language = (0..text.lexemes.len()).find(|&index| text.word(index, "language")).and_then(|index| {
        let name = text.lexemes.get(index + 1)?;
        name.identifier(text.sql).or_else(|| name.string_value(text.sql))
    });
    let effects = match (language.as_deref(), body.and_then(|body| body.string_value(text.sql))) {
        (None | Some("plpgsql"), Some(body)) => {
            let mut effects = context.catalog.effects(&body);
            let dynamic = effects.opaque.is_some();
            if dynamic && effects.schema.is_none() {
                effects.schema = built_schema_change(&body);
            }
            if context.is_spread() && runs_on_every_shard(&body, &effects) {
                let sql = Arc::from(text.sql);
                return Ok(Plan::Ddl(Ddl {
                    sql,
                    kind: DdlKind::Transactional,
                    tables: Vec::new(),
                    hides_shards: false,
                }));
            }
            effects
        }
        (Some(other), _) => Effects::opaque(format!("it is written in {other}")),
        (None, None) => Effects::opaque("its body is no plain string"),
    };
    let code = Code { what: "the DO block".to_owned(), effects, keyspace: None, called: true };
    check(context, &[code], &Targets::Home)?;
    Ok(Plan::Home(Home { sql: Arc::from(text.sql), pins: false }))
}

/// CREATE TRIGGER ... ON table ... EXECUTE FUNCTION name(): refused where the table's writes would be refused because of it.
pub fn trigger(context: &PlanContext<'_>, text: &Text<'_>) -> Result<(), PgError> {
    let after = |word: &str| (0..text.lexemes.len()).find(|&index| text.word(index, word)).map(|index| index + 1);
    let Some((name, function)) = after("on").zip(after("execute")).filter(|(on, execute)| on < execute) else {
        return Ok(());
    };
    let mut parts = Vec::new();
    let mut at = name;
    while let Some(part) = text.lexemes.get(at).and_then(|lexeme| lexeme.identifier(text.sql)) {
        parts.push(part);
        if !text.punctuation(at + 1, b'.') {
            break;
        }
        at += 2;
    }
    let table = context.table(&parts)?;
    let (keyspace, targets) = match &table.placed {
        Placed::Sharded { keyspace, .. } => (Some(*keyspace), Targets::Keyspace(*keyspace)),
        Placed::Reference => (None, Targets::EveryMember),
        Placed::Single | Placed::System => return Ok(()),
    };
    if let Placed::Sharded { key_column, .. } = &table.placed {
        row_trigger(context, text, &table.name, key_column, (name, function))?;
    }
    let effects = context.catalog.effects(text.slice(function, text.lexemes.len() - 1));
    let what = format!("this trigger of {}", table.name);
    check(context, &[Code { what, effects, keyspace, called: false }], &targets)
}

/// BEFORE INSERT OR UPDATE ... FOR EACH ROW EXECUTE FUNCTION name(): `places` are those of the table and of FUNCTION.
fn row_trigger(
    context: &PlanContext<'_>,
    text: &Text<'_>,
    table: &TableName,
    key_column: &str,
    places: (usize, usize),
) -> Result<(), PgError> {
    let (on, execute) = places;
    let head = |word: &str| (0..on).any(|index| text.word(index, word));
    let by_row = (on..execute).any(|index| text.word(index, "row"));
    if !head("before") || !(head("insert") || head("update")) || !by_row {
        return Ok(());
    }
    // FUNCTION or PROCEDURE, a name with or without its schema, the arguments.
    let open = (execute..text.lexemes.len()).find(|&index| text.punctuation(index, b'(')).unwrap_or(execute);
    let name = open.checked_sub(1).and_then(|index| text.lexemes[index].identifier(text.sql)).unwrap_or_default();
    match context.catalog.changes_column(&name, key_column) {
        Some(why) if context.is_spread() => Err(key_changed(table, key_column, &name, &why)),
        _ => Ok(()),
    }
}

/// Whether a trigger of a sharded table, its partitions or the tables that a write of it cascades to may change the key after
/// the row's shard was chosen.
pub fn key_triggers(
    context: &PlanContext<'_>,
    table: &TableName,
    key_column: &str,
    events: Events,
) -> Result<(), PgError> {
    let mut left = vec![(table.clone(), key_column.to_owned(), events)];
    let mut at = 0;
    while let Some((table, key_column, events)) = left.get(at).cloned() {
        at += 1;
        if let Some((function, why)) = context.catalog.column_changed_by_trigger(&table, &key_column, events) {
            return if context.is_spread() { Err(key_changed(&table, &key_column, &function, &why)) } else { Ok(()) };
        }
        let mut reached = Vec::new();
        reached
            .extend(context.catalog.children(&table).iter().map(|child| (child.clone(), key_column.clone(), events)));
        if events.update || events.delete {
            for cascade in context.catalog.relation(&table).into_iter().flat_map(|relation| relation.cascades()) {
                let placed = context.table(&[cascade.schema.clone(), cascade.name.clone()]).map(|table| table.placed);
                if let Ok(Placed::Sharded { key_column, .. }) = placed {
                    reached.push((cascade, key_column, Events { insert: false, ..Events::ALL }));
                }
            }
        }
        left.extend(
            reached
                .into_iter()
                .filter(|(table, ..)| !left.iter().any(|(known, ..)| known == table))
                .collect::<Vec<_>>(),
        );
    }
    Ok(())
}

fn key_changed(table: &TableName, key_column: &str, function: &str, why: &str) -> PgError {
    refused(
        format!("a trigger may change the shard key \"{key_column}\" of {table} after the row's shard was chosen"),
        format!("Trigger function {function} runs before rows are stored, and {why}."),
        "Let the trigger leave the key column alone and end with RETURN NEW, and give the key in the statement.",
    )
}

/// REFRESH MATERIALIZED VIEW: its rows are on the home shard, and so must be what it reads.
pub fn refresh(context: &PlanContext<'_>, text: &Text<'_>) -> Result<(), PgError> {
    let at = (0..text.lexemes.len()).find(|&index| text.word(index, "view")).map_or(0, |index| index + 1);
    let mut at = if text.word(at, "concurrently") { at + 1 } else { at };
    let mut parts = Vec::new();
    while let Some(part) = text.lexemes.get(at).and_then(|lexeme| lexeme.identifier(text.sql)) {
        parts.push(part);
        if !text.punctuation(at + 1, b'.') {
            break;
        }
        at += 2;
    }
    if parts.is_empty() {
        return Ok(());
    }
    let view = context.table(&parts)?;
    let Some(relation) = context.catalog.relation(&view.name) else { return Ok(()) };
    let effects = relation.on_read.clone();
    let code = Code { what: format!("materialized view {}", view.name), effects, keyspace: None, called: true };
    check(context, &[code], &Targets::Home)
}

/// Statements that a body builds as text: whether a part of one changes the schema.
fn built_schema_change(body: &str) -> Option<String> {
    let lexemes = lex(body).ok()?;
    let parts = lexemes.iter().filter_map(|lexeme| lexeme.string_value(body));
    let words = parts.flat_map(|part| part.split_whitespace().map(str::to_ascii_uppercase).collect::<Vec<_>>());
    words
        .into_iter()
        .find(|word| matches!(word.as_str(), "CREATE" | "ALTER" | "DROP" | "TRUNCATE" | "GRANT" | "REVOKE" | "COMMENT"))
}

/// Migrations make types and the like in DO blocks, to pass over those that are there already. Such a block does the same on
/// every shard: it names no table, reads no clock, and its only schema changes are of objects without rows.
fn runs_on_every_shard(body: &str, effects: &Effects) -> bool {
    let plain = effects.schema.is_some()
        && effects.relations.is_empty()
        && effects.opaque.is_none()
        && effects.server.is_none()
        && !effects.notifies
        && !effects.settings
        && !effects.clock
        && !effects.volatile;
    let (true, Ok(text)) = (plain, Text::new(body)) else { return false };
    (0..text.lexemes.len()).all(|index| {
        let changes = ["create", "alter", "drop"].iter().any(|word| text.word(index, word));
        let objects = ["type", "domain", "schema", "extension", "collation"];
        let other = [
            "cascade", "truncate", "grant", "revoke", "comment", "insert", "update", "delete", "merge", "copy", "lock",
        ];
        if changes {
            objects.iter().any(|object| text.word(index + 1, object))
        } else {
            !other.iter().any(|word| text.word(index, word))
        }
    })
}
