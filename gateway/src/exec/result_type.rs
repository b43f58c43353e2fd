//! What a prepared statement's rows are: found out once, and the same as long as the statement lives.
//!
//! After a schema change a statement is described anew before it runs, with the types that its parameters had: if its columns are
//! others now, the client, which may read binary values by what it was told, gets PostgreSQL's error instead of rows. Over several
//! shards the types are looked at once more where the rows come from ([`super::fleet`]).
//!
//! Source: `RevalidateCachedQuery` in PostgreSQL's `plancache.c`.

use std::sync::{Arc, OnceLock};

use super::bound::Statement;
use super::cursors;
use super::describe::{describe, Description};
use super::executor::Executor;
use super::failure::Failure;
use crate::plan::types::Plan;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::{ErrorContext, PgError, SqlState};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    name: Box<str>,
    type_oid: u32,
    typmod: i32,
}

/// The columns; none for what gives no rows.
#[derive(Clone, Debug, Default)]
pub struct ResultType(OnceLock<Box<[Column]>>);

/// Drivers that find PostgreSQL's function in it prepare the statement anew by themselves.
pub fn changed() -> PgError {
    PgError::new(SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type")
        .context(ErrorContext { routine: Some("RevalidateCachedQuery".into()), ..ErrorContext::default() })
}

impl ResultType {
    /// What a shard says of the statement, with the OIDs that the client knows: the first time it counts.
    pub fn settle(&self, fields: &[FieldDescription]) -> Result<(), PgError> {
        let column = |field: &FieldDescription| Column {
            name: Box::from(field.name.as_str()),
            type_oid: field.type_oid,
            typmod: field.typmod,
        };
        let known = self.0.get_or_init(|| fields.iter().map(column).collect());
        let same = known.len() == fields.len()
            && known.iter().zip(fields).all(|(known, field)| {
                *known.name == *field.name && known.type_oid == field.type_oid && known.typmod == field.typmod
            });
        if same {
            Ok(())
        } else {
            Err(changed())
        }
    }

    /// Whether columns are of its types; those of none are.
    pub fn has_types(&self, fields: &[FieldDescription]) -> bool {
        self.types().is_none_or(|types| fields.iter().map(|field| field.type_oid).eq(types))
    }

    /// The columns' types, if a shard has been asked.
    pub fn types(&self) -> Option<Vec<u32>> {
        self.0.get().map(|columns| columns.iter().map(|column| column.type_oid).collect())
    }
}

impl Statement {
    /// An answer to Describe of the statement passes: the body of `t`, `T` or `n`.
    pub fn told(&self, tag: u8, body: &[u8]) {
        if self.own_oids {
            return;
        }
        match tag {
            b't' => {
                if let Ok(parameters) = backend::parse_parameter_description(body) {
                    self.parameters.get_or_init(|| Arc::from(parameters));
                }
            }
            b'T' => {
                if let Ok(fields) = backend::parse_row_description(body) {
                    // If there is another already, it is older: the statement is described anew before it runs.
                    let _ = self.result.settle(&fields);
                }
            }
            _ => {
                let _ = self.result.settle(&[]);
            }
        }
    }

    /// The gateway has described it.
    pub fn described(&self, description: &Description) -> Result<(), PgError> {
        if description.parameters.len() >= self.types.len() {
            self.parameters.get_or_init(|| Arc::from(description.parameters.as_slice()));
        }
        self.result.settle(description.fields.as_deref().unwrap_or_default())
    }
}

impl Executor {
    /// Whether the schema is another than when the statement was prepared or described last.
    pub fn is_outdated(&self, statement: &Statement, catalog: u64) -> bool {
        statement.catalog != catalog || self.transaction.schema_changed
    }
}

/// The statement as it is to be run under the present schema, or the error that PostgreSQL would give.
pub async fn revalidate(executor: &mut Executor, statement: &Arc<Statement>) -> Result<Arc<Statement>, Failure> {
    let own_oids = statement.own_oids || executor.only_shard.is_some();
    if own_oids || executor.transaction.failed || statement.sql.is_empty() {
        return Ok(Arc::clone(statement));
    }
    let view = executor.enter()?;
    executor.slot.reads();
    let planned = executor.plan(&statement.sql, &view)?;
    let gives_rows = match &planned.plan {
        Ok(Plan::Query(_) | Plan::AtCursor(_) | Plan::ComputedKeys(_) | Plan::InsertSelect(_)) => true,
        // FETCH gives what its cursor has.
        Ok(Plan::Home(_)) => cursors::command(&statement.sql).is_none(),
        _ => false,
    };
    let types = statement.parameters.get().map_or_else(|| statement.types.clone(), |types| types.to_vec());
    let mut current = executor.statement(Arc::clone(&statement.sql), types);
    current.result = statement.result.clone();
    let current = Arc::new(current);
    if gives_rows {
        Box::pin(describe(executor, &current)).await?;
    }
    Ok(current)
}
