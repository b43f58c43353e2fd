//! Tier "gather": a SELECT that no cheaper tier accepts. Each sharded table in it becomes a temporary table on one shard, the
//! workbench; its rows come there from all shards, filtered and with the columns that are used, and the statement runs over these.
//!
//! `SELECT o.id, p.name FROM orders o JOIN people p ON p.city = o.city WHERE o.total > 5` becomes the fragments
//! `SELECT "id", "city", "total" FROM orders AS o WHERE o.total > 5` and `SELECT "city", "name" FROM people AS p`, and
//! `SELECT o.id, p.name FROM pg_temp.rw_gather_1_1 o JOIN pg_temp.rw_gather_1_2 p ON p.city = o.city WHERE o.total > 5`.
//!
//! A fragment is a statement of its own, planned as any other: held to keys where the filter says so, joined with what is on the
//! same shard (`gather/semi_joins.rs`), and filtered during a move. What the statement does with the rows is PostgreSQL's business, so all of it is exact but what tells a temporary
//! table from the table: whole rows as values, places of rows, catalogs, locks. These are refused.

mod conditions;
mod filters;
mod level;
mod links;
mod renamed;
mod semi_joins;
#[cfg(test)]
mod tests;
mod uses;

use std::collections::HashMap;
use std::sync::Arc;

use ringway_topology::model::quote_ident;
use sqlparser::ast::Query as SqlQuery;

use filters::Filter;
use links::Link;

use super::analysis::Analysis;
use super::keys::parameter_index;
use super::refuse::not_over_shards;
use super::types::{
    Access, FilterSplice, Fragment, Gather, GatheredPlace, Limited, MultiShard, Plan, ShardedReference,
};
use super::whole_rows::{self, Replaced};
use crate::sql::lexer::Lexeme;
use crate::sql::parse::{parse, Text};
use crate::sql::splice::{apply, Splice};
use crate::wire::PgError;

/// A fragment of at most so many rows tells which rows of others matter.
const KNOWN_ROWS_MAX: u64 = 1_000;
/// Ways to limit one fragment.
const LIMITED_MAX: usize = 4;
const SYSTEM_COLUMNS: &[&str] = &["tableoid", "ctid", "xmin", "xmax", "cmin", "cmax"];

/// A sharded table where the statement names it.
struct Source<'a> {
    of: Replaced<'a>,
    key_column: String,
    /// Bytes of the statement.
    start: usize,
    end: usize,
    aliased: bool,
}

/// `why`: what the cheaper tiers say. That is the refusal, too, where nothing better can be said.
pub fn plan(analysis: &Analysis<'_>, query: &SqlQuery, access: Access, why: PgError) -> Result<Gather, PgError> {
    let unknown = analysis.singles.iter().any(|table| analysis.context.catalog.relation(table).is_none());
    if access != Access::Read || analysis.system || unknown {
        return Err(why);
    }
    let sources = sources(analysis, query).ok_or(why.clone())?;
    whole_rows::refuse(query, &sources.iter().map(|source| &source.of).collect::<Vec<_>>())?;
    let uses = uses::find(query, analysis.text)?;
    if let Some(column) = SYSTEM_COLUMNS.iter().find(|column| uses.names.contains(**column)) {
        return Err(not_over_shards(
            format!("{column} tells where a row is, and rows of this statement come together in temporary tables."),
            "Leave it out, or hold every sharded table to its shard key.",
        ));
    }
    let (filters, links) = filters::find(analysis, query);
    let unfiltered = Filter::default();
    let mut fragments: Vec<Fragment> = Vec::new();
    let mut places = Vec::with_capacity(sources.len());
    for source in &sources {
        let filter = filters.get(&source.start).unwrap_or(&unfiltered);
        let made = fragment(analysis, source, &uses, filter).ok_or(why.clone())?;
        let known = fragments.iter().position(|known| known.sql == made.sql);
        let fragment = known.unwrap_or_else(|| {
            fragments.push(made);
            fragments.len() - 1
        });
        let alias = if source.aliased { String::new() } else { format!(" AS {}", quote_ident(&source.of.alias)) };
        places.push(GatheredPlace { range: source.start..source.end, fragment, alias });
    }
    let parameters = parameters(analysis.text);
    for (source, place) in sources.iter().zip(&places) {
        // Rows that matter at one place may not at another.
        if places.iter().filter(|other| other.fragment == place.fragment).count() == 1 {
            let filter = filters.get(&source.start).unwrap_or(&unfiltered);
            let limits = Limits { places: &places, links: &links, number: parameters + 1 };
            let shape = fragments[place.fragment].shape.clone();
            fragments[place.fragment].limited = limits.of(analysis, source, filter, &shape);
        }
    }
    let gather = Gather { fragments, sql: Arc::from(analysis.text.sql), places, parameters };
    let text = gather.text(0);
    let parses = text.is_some_and(|sql| Text::new(&sql).is_ok_and(|text| parse(&text).is_ok()));
    parses.then_some(gather).ok_or(why)
}

impl Gather {
    /// The statement over the temporary tables. `number`: which query it is that gathers rows in its transaction.
    pub fn text(&self, number: u64) -> Option<String> {
        let replaced = |place: &GatheredPlace| {
            Splice::replace(place.range.clone(), format!("{}{}", Gather::table(number, place.fragment), place.alias))
        };
        apply(&self.sql, &self.places.iter().map(replaced).collect::<Vec<_>>())
    }

    /// The fragment to be read next, and how it is limited. `rows`: of each fragment that is there. None: all are.
    ///
    /// What can be limited by the fewest rows comes first, then what conditions leave rows out of.
    pub fn next(&self, rows: &[Option<u64>]) -> Option<(usize, Option<&Limited>)> {
        let missing = (0..self.fragments.len()).filter(|index| rows.get(*index).is_some_and(Option::is_none));
        let there = |limited: &Limited| rows.get(limited.fragment).copied().flatten();
        let limited = missing.clone().flat_map(|index| self.fragments[index].limited.iter().map(move |by| (index, by)));
        let few =
            limited.filter_map(|(index, by)| Some((there(by).filter(|rows| *rows <= KNOWN_ROWS_MAX)?, index, by)));
        if let Some((_, index, by)) = few.min_by_key(|(rows, ..)| *rows) {
            return Some((index, Some(by)));
        }
        let next = missing.clone().find(|index| self.fragments[*index].filtered).or_else(|| missing.clone().next())?;
        Some((next, None))
    }

    /// The temporary table of a fragment.
    pub fn table(number: u64, fragment: usize) -> String {
        format!("pg_temp.rw_gather_{number}_{}", fragment + 1)
    }
}

fn sources<'a>(analysis: &Analysis<'a>, query: &SqlQuery) -> Option<Vec<Source<'a>>> {
    let mut renamed = renamed::find(analysis, query);
    let references = analysis.sharded_references().into_iter();
    references.map(|reference| source(analysis, reference, &mut renamed)).collect()
}

fn source<'a>(
    analysis: &Analysis<'a>,
    reference: ShardedReference,
    renamed: &mut HashMap<usize, Vec<String>>,
) -> Option<Source<'a>> {
    let FilterSplice::Relation { start, end, alias, aliased } = reference.splice else { return None };
    let relation = analysis.context.catalog.relation(&reference.table)?;
    let renamed = renamed.remove(&start).unwrap_or_default();
    let of = Replaced { table: reference.table, relation, alias, renamed };
    Some(Source { of, key_column: reference.key_column, start, end, aliased })
}

/// With as much of the filter as is understood.
fn fragment(analysis: &Analysis<'_>, source: &Source<'_>, uses: &uses::Uses, filter: &Filter) -> Option<Fragment> {
    let used = |name: &str| uses.all_columns || uses.names.contains(name);
    let mut columns: Vec<&str> =
        source.of.relation.columns.iter().map(|column| column.name.as_str()).filter(|name| used(name)).collect();
    if columns.is_empty() {
        columns.push(&source.key_column);
    }
    let list: Vec<String> = columns.iter().map(|name| quote_ident(name)).collect();
    let table = analysis.text.sql.get(source.start..source.end)?;
    let shape = format!("SELECT {} FROM {table} AS {}", list.join(", "), quote_ident(&source.of.alias));
    let best =
        |filter: &Filter| filter.texts(&shape).into_iter().chain([shape.clone()]).find(|sql| is_plain(analysis, sql));
    let (sql, alone) = (best(filter)?, Arc::from(best(&filter.alone())?));
    // Under other names it is not known by which columns rows are grouped.
    let by = |name: &String| !source.of.renamed.is_empty() || uses.grouped.contains(name);
    let grouped = !source.of.relation.primary_key.is_empty()
        && source.of.relation.primary_key.iter().all(|name| by(name) && columns.contains(&&**name));
    let primary_key = if grouped { source.of.relation.primary_key.clone() } else { Vec::new() };
    let filtered = sql != shape;
    let (table, columns) = (source.of.table.clone(), columns.into_iter().map(str::to_owned).collect());
    Some(Fragment { sql: Arc::from(sql), alone, shape, table, columns, primary_key, filtered, limited: Vec::new() })
}

/// By which rows that are there already fragments may be limited.
struct Limits<'l> {
    places: &'l [GatheredPlace],
    links: &'l [Link],
    /// Of the parameter.
    number: usize,
}

impl Limits<'_> {
    fn of(&self, analysis: &Analysis<'_>, source: &Source<'_>, filter: &Filter, shape: &str) -> Vec<Limited> {
        let links = self.links.iter().filter(|link| link.target == source.start);
        links.filter_map(|link| self.limited(analysis, link, filter, shape)).take(LIMITED_MAX).collect()
    }

    fn limited(&self, analysis: &Analysis<'_>, link: &Link, filter: &Filter, shape: &str) -> Option<Limited> {
        let place = |start| self.places.iter().find(|place| place.range.start == start);
        let fragment = place(link.source)?.fragment;
        (fragment != place(link.target)?.fragment).then_some(())?;
        let limited = filter.and(link.condition(self.number));
        let best = |filter: &Filter| filter.texts(shape).into_iter().find(|sql| is_plain(analysis, sql)).map(Arc::from);
        let (sql, alone) = (best(&limited)?, best(&limited.alone())?);
        Some(Limited { fragment, column: link.known.clone(), array_type: link.array_type, sql, alone })
    }
}

/// How many parameters the statement has.
fn parameters(text: &Text<'_>) -> usize {
    let index = |lexeme: &Lexeme| parameter_index(lexeme.text(text.sql));
    text.lexemes.iter().filter_map(index).map(|index| index + 1).max().unwrap_or(0)
}

/// Every shard gives its rows as they are.
fn is_plain(analysis: &Analysis<'_>, sql: &str) -> bool {
    match super::plan(sql, analysis.context) {
        Ok(Plan::Query(query)) => {
            let plain = matches!(&query.multi, MultiShard::Concatenate(plan) if plan.sql.is_none());
            plain && query.access == Access::Read && !query.clock
        }
        _ => false,
    }
}
