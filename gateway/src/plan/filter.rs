//! A shard's text while rows move: sharded tables without the rows that the shard holds and does not own.
//!
//! A relation becomes `(SELECT * FROM t WHERE NOT (...)) AS t`, a target of UPDATE or DELETE gets a condition more.

use ringway_topology::ids::ShardId;
use ringway_topology::model::{quote_ident, Topology};
use ringway_topology::token::token_sql;

use super::refuse::refused;
use super::types::{FilterSplice, ShardedReference};
use crate::sql::splice::{apply, Splice};
use crate::wire::PgError;

/// `sql` as `shard` is to be sent it; `references` are those of this text. `None`: it is sent as it is.
pub fn filtered(
    sql: &str,
    references: &[ShardedReference],
    topology: &Topology,
    shard: ShardId,
) -> Result<Option<String>, PgError> {
    let mut splices: Vec<Splice> = Vec::new();
    for reference in references {
        if matches!(reference.splice, FilterSplice::None) {
            continue;
        }
        let arcs = topology.foreign_arcs(reference.keyspace, shard);
        if arcs.is_empty() {
            continue;
        }
        let condition = |alias: &str| {
            let token = token_sql(&format!("{}.{}", quote_ident(alias), quote_ident(&reference.key_column)));
            let foreign: Vec<String> = arcs.iter().map(|arc| arc.sql_condition(&token)).collect();
            format!("NOT ({})", foreign.join(" OR "))
        };
        match &reference.splice {
            FilterSplice::None => {}
            FilterSplice::Relation { start, end, alias, aliased } => {
                let table = sql.get(*start..*end).ok_or_else(|| unknown(reference))?;
                let inner = format!("(SELECT * FROM {table} WHERE {})", condition(&reference.table.name));
                let text = if *aliased { inner } else { format!("{inner} AS {}", quote_ident(alias)) };
                splices.push(Splice::replace(*start..*end, text));
            }
            FilterSplice::Where { start, end, alias } => {
                if start == end {
                    splices.push(Splice::insert(*start, format!(" WHERE {}", condition(alias))));
                } else {
                    splices.push(Splice::insert(*start, "(".to_owned()));
                    splices.push(Splice::insert(*end, format!(") AND {}", condition(alias))));
                }
            }
            FilterSplice::Unknown => return Err(unknown(reference)),
        }
    }
    if splices.is_empty() {
        return Ok(None);
    }
    match (apply(sql, &splices), references.first()) {
        (Some(text), _) => Ok(Some(text)),
        (None, Some(reference)) => Err(unknown(reference)),
        (None, None) => Ok(None),
    }
}

fn unknown(reference: &ShardedReference) -> PgError {
    refused(
        format!("rows of {} are moving, and this statement cannot be kept from seeing them twice", reference.table),
        "The place of the table in the statement's text is not exactly known.",
        "Hold the table to its shard key, write the statement more plainly, or try again after the move.",
    )
}
