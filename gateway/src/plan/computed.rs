//! INSERT whose shard keys only PostgreSQL can compute: column defaults, DEFAULT, expressions.
//!
//! `INSERT INTO serials (name) VALUES ('a')` becomes `INSERT INTO serials (name, "id") VALUES ('a', $1)`, with `$1` from
//! `VALUES (CAST((nextval('serials_id_seq')) AS bigint))`, which one shard computes once. Refused: keys that are read from tables, and sets.
//! What is wrong with such a statement, PostgreSQL says itself when it describes it, before anything is computed.

use std::sync::Arc;

use ringway_topology::model::{quote_ident, quote_literal};
use ringway_topology::token::KeyType;
use sqlparser::ast::{Expr, Insert, Values};

use super::analysis::Analysis;
use super::context::{Placed, ResolvedTable};
use super::exact;
use super::reach::{reach, Code, Reach};
use super::refuse::refused;
use super::rows;
use super::types::{ComputedKeys, KeyPlace, Plan};
use crate::catalog::Column;
use crate::sql::clauses::split_at_commas;
use crate::sql::lexer::Lexeme;
use crate::sql::parse::{ident_value, Text};
use crate::sql::splice::Splice;
use crate::wire::PgError;

/// How each row of VALUES gives its key.
enum Given<'q> {
    /// The key is known from the text, or it is a parameter.
    Plainly,
    Expression(&'q Expr),
    Default,
    /// The row, or the list of columns, leaves it out.
    Nothing,
}

/// `plain`: whether an expression needs no PostgreSQL. `None`: no row needs this.
pub fn values(
    analysis: &Analysis<'_>,
    insert: &Insert,
    table: &ResolvedTable,
    columns: &[String],
    values: &Values,
    plain: impl Fn(&Expr) -> bool,
) -> Result<Option<Plan>, PgError> {
    let text = analysis.text;
    let key = Key::of(analysis, table)?;
    let place = columns.iter().position(|column| *column == key.column.name);
    let given: Vec<Given<'_>> = values
        .rows
        .iter()
        .map(|row| match place.and_then(|place| row.content.get(place)) {
            None => Given::Nothing,
            Some(Expr::Identifier(ident)) if ident.quote_style.is_none() && ident_value(ident) == "default" => {
                Given::Default
            }
            Some(expr) if plain(expr) => Given::Plainly,
            Some(expr) => Given::Expression(expr),
        })
        .collect();
    if given.iter().all(|given| matches!(given, Given::Plainly)) {
        return Ok(None);
    }
    let unknown = || refused("the rows of VALUES are not exactly known", "", "Insert one row at a time.");
    let mut plan = key.plan(text);
    let mut default_taken = false;
    let mut first_row = None;
    for (row, given) in values.rows.iter().zip(given) {
        let open = text.location(row.opening_token.0.span.start).ok_or_else(unknown)?;
        let close = text.closing(open).ok_or_else(unknown)?;
        first_row.get_or_insert((open, row.content.len()));
        if matches!(given, Given::Plainly) {
            continue;
        }
        let extents = split_at_commas(text, open + 1, close).ok_or_else(unknown)?;
        let own = place.and_then(|place| extents.get(place));
        let end = text.lexemes[close].start;
        let (range, before) = match own {
            Some(own) => (text.lexemes[*own.start()].start..text.lexemes[*own.end()].end, ""),
            None => (end..end, ", "),
        };
        let expression = match given {
            Given::Expression(expr) => {
                let own = own.ok_or_else(unknown)?;
                key.check(analysis, expr, &text.lexemes[own.clone()])?;
                text.slice(*own.start(), *own.end()).to_owned()
            }
            _ => {
                default_taken = true;
                key.default(analysis, table)?
            }
        };
        plan.expressions.push(expression);
        plan.places.push(KeyPlace { range, before: before.to_owned(), after: "" });
    }
    let (open, width) = first_row.ok_or_else(unknown)?;
    // In front of VALUES, and of OVERRIDING.
    let keyword = open.checked_sub(1).filter(|at| text.word(*at, "values")).ok_or_else(unknown)?;
    let overriding = keyword.checked_sub(3).filter(|at| text.word(*at, "overriding"));
    let at = text.lexemes[overriding.unwrap_or(keyword)].start;
    if place.is_none() {
        let first = insert.columns.first().and_then(|name| text.object_name(name)).ok_or_else(unknown)?.0;
        let close = first.checked_sub(1).and_then(|open| text.closing(open)).ok_or_else(unknown)?;
        plan.splices.push(Splice::insert(text.lexemes[close].start, format!(", {}", quote_ident(&key.column.name))));
    } else if insert.columns.is_empty() && place.is_some_and(|place| place >= width) {
        let listed = columns.iter().take(width).chain([&key.column.name]).map(|name| quote_ident(name));
        plan.splices.push(Splice::insert(at, format!("({}) ", listed.collect::<Vec<_>>().join(", "))));
    }
    if default_taken && key.column.identity && overriding.is_none() {
        plan.splices.push(Splice::insert(at, "OVERRIDING SYSTEM VALUE "));
    }
    Ok(Some(plan.finish()))
}

/// OVERRIDING USER VALUE takes the next value of a sequence, of whichever shard the row is sent to.
pub fn refuse_overriding_user(analysis: &Analysis<'_>, table: &ResolvedTable) -> Result<(), PgError> {
    let text = analysis.text;
    let overriding = (0..text.lexemes.len()).any(|at| text.word(at, "overriding") && text.word(at + 1, "user"));
    let relation = analysis.context.catalog.relation(&table.name);
    if overriding && relation.is_some_and(|relation| relation.columns.iter().any(|column| column.identity)) {
        return Err(refused(
            format!("OVERRIDING USER VALUE is not supported for {}, which is on several shards", table.name),
            "An identity column then takes the next value of its sequence, whatever is given.",
            "Leave the identity column out.",
        ));
    }
    Ok(())
}

/// `INSERT INTO t DEFAULT VALUES`.
pub fn default_values(analysis: &Analysis<'_>, table: &ResolvedTable) -> Result<Plan, PgError> {
    let text = analysis.text;
    let key = Key::of(analysis, table)?;
    let at = (1..text.lexemes.len())
        .find(|at| text.word(*at, "default") && text.word(at + 1, "values"))
        .ok_or_else(|| refused("this form of INSERT is not understood", "", "Give the columns and their values."))?;
    let mut plan = key.plan(text);
    plan.expressions.push(key.default(analysis, table)?);
    let overriding = if key.column.identity { "OVERRIDING SYSTEM VALUE " } else { "" };
    plan.places.push(KeyPlace {
        range: text.lexemes[at].start..text.lexemes[at + 1].end,
        before: format!("({}) {overriding}VALUES (", quote_ident(&key.column.name)),
        after: ")",
    });
    Ok(plan.finish())
}

/// The shard key's name, what it is when it is not given, and whether it is an identity.
pub fn default_of(analysis: &Analysis<'_>, table: &ResolvedTable) -> Result<(String, String, bool), PgError> {
    let key = Key::of(analysis, table)?;
    Ok((key.column.name.clone(), key.default(analysis, table)?, key.column.identity))
}

struct Key<'a> {
    column: &'a Column,
    key_type: KeyType,
    triggers: bool,
}

impl<'a> Key<'a> {
    fn of(analysis: &Analysis<'a>, table: &ResolvedTable) -> Result<Key<'a>, PgError> {
        let relation = analysis.context.catalog.relation(&table.name);
        let (Placed::Sharded { key_column, key_type, .. }, Some(relation)) = (&table.placed, relation) else {
            return Err(PgError::internal("the keys of a table that is not sharded are computed"));
        };
        let column = relation.column(key_column);
        let column = column.ok_or_else(|| PgError::internal("a sharded table has no key in the catalog"))?;
        Ok(Key { column, key_type: *key_type, triggers: relation.triggers })
    }

    fn plan(&self, text: &Text<'_>) -> Draft {
        Draft {
            sql: Arc::from(text.sql),
            key_type: self.key_type,
            typmod: self.column.typmod,
            cast: cast_name(self.key_type, self.column.typmod),
            expressions: Vec::new(),
            places: Vec::new(),
            splices: Vec::new(),
        }
    }

    /// What PostgreSQL takes when nothing is given; NULL, which it will refuse, where there is nothing to take.
    fn default(&self, analysis: &Analysis<'_>, table: &ResolvedTable) -> Result<String, PgError> {
        if self.triggers {
            return Err(refused(
                format!("INSERT into {} does not give the shard key \"{}\"", table.name, self.column.name),
                "The table has triggers, which may set it.",
                format!("Give a value for \"{}\".", self.column.name),
            ));
        }
        if self.column.identity {
            return Ok(format!(
                "ringway.next_identity({}::pg_catalog.regclass, {})",
                quote_literal(&table.name.quoted()),
                quote_literal(&self.column.name)
            ));
        }
        let Some(default) = &self.column.default else { return Ok("NULL".to_owned()) };
        // Sequences of a sharded table's defaults are tracked.
        check_code(analysis, default, true)?;
        Ok(default.clone())
    }

    /// One shard must be able to compute it.
    fn check(&self, analysis: &Analysis<'_>, expr: &Expr, written: &[Lexeme]) -> Result<(), PgError> {
        let refuse = |detail: String| {
            Err(refused(
                format!("the shard key \"{}\" of a row is an expression that is not one value", self.column.name),
                detail,
                "Select the key first, then give it as a literal or a parameter.",
            ))
        };
        if analysis.collect(&[expr]).has_sublinks() {
            return refuse("Its subquery's rows may be on any shard.".to_owned());
        }
        if let Some(name) = rows::calls(analysis.context, expr).session {
            return refuse(format!("{name} tells of the last nextval on its server connection, which clients share."));
        }
        let (Some(first), Some(last)) = (written.first(), written.last()) else {
            return refuse("It is empty.".to_owned());
        };
        check_code(analysis, &analysis.text.sql[first.start..last.end], exact::strided(analysis))?;
        let catalog = analysis.context.catalog;
        let mut names = written.iter().filter_map(|lexeme| lexeme.identifier(analysis.text.sql));
        match names.find(|name| catalog.function(name).is_some_and(|function| function.set_returning)) {
            Some(name) => refuse(format!("Function {name} gives sets of rows.")),
            None => Ok(()),
        }
    }
}

/// Any shard gives the same value. `strided`: what nextval gives, no other shard gives.
fn check_code(analysis: &Analysis<'_>, expression: &str, strided: bool) -> Result<(), PgError> {
    let effects = analysis.context.catalog.effects(expression);
    let is_nextval = effects.server.as_deref() == Some("nextval");
    let what = format!("the shard key's expression {expression}");
    match reach(analysis.context, &Code { what, effects, keyspace: None, called: true }) {
        Reach::Refused(error) => Err(*error),
        Reach::Home(why) if !(is_nextval && strided) => Err(refused(
            format!("the shard key's expression {expression} is not one value on every shard"),
            format!("It belongs on the home shard: {why}."),
            "Select the key first, then give it as a literal or a parameter.",
        )),
        Reach::Home(_) | Reach::Anywhere => Ok(()),
    }
}

/// The key's type. Lengths of strings are left out: a cast cuts what an assignment refuses.
pub fn cast_name(key_type: KeyType, typmod: i32) -> String {
    match key_type {
        KeyType::Numeric if typmod >= 4 => {
            let (precision, scale) = (((typmod - 4) >> 16) & 0xffff, ((typmod - 4) & 0x7ff) ^ 1024);
            format!("numeric({precision}, {})", scale - 1024)
        }
        KeyType::Timestamp if typmod >= 0 => format!("timestamp({typmod}) without time zone"),
        KeyType::Timestamptz if typmod >= 0 => format!("timestamp({typmod}) with time zone"),
        other => other.sql_name().to_owned(),
    }
}

struct Draft {
    sql: Arc<str>,
    key_type: KeyType,
    typmod: i32,
    cast: String,
    expressions: Vec<String>,
    places: Vec<KeyPlace>,
    splices: Vec<Splice>,
}

impl Draft {
    fn finish(self) -> Plan {
        let rows = self.expressions.iter().map(|expression| format!("(CAST(({expression}) AS {}))", self.cast));
        let keys_sql = format!("VALUES {}", rows.collect::<Vec<_>>().join(", "));
        Plan::ComputedKeys(ComputedKeys {
            sql: self.sql,
            keys_sql: Arc::from(keys_sql),
            key_type: self.key_type,
            typmod: self.typmod,
            places: self.places,
            splices: self.splices,
        })
    }
}
