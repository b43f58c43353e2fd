//! PostgreSQL finishes: rows of all shards become the arrays of one statement over `unnest($1::type[], ...)`.
//!
//! For example `SELECT avg(amount) FROM orders`: each shard answers `SELECT sum(amount), count(amount) FROM orders`, and
//! `SELECT sum(p.c0) / sum(p.c1) FROM {partials}` is run by any shard, with `{partials}` replaced by
//! `unnest($1::pg_catalog."numeric"[], $2::pg_catalog."int8"[]) AS p(c0, c1)`.
//!
//! Partial rows are fetched in text format, and read by the shard that combines them: both sessions must have the same
//! settings, and `extra_float_digits` must be at least 1. The strings of an array have the database's default collation,
//! so columns with another one must not be ordered or grouped here: the planner refuses them.

mod types;

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};

use crate::plan::types::{Aggregate, MergeSort};
use crate::wire::backend::FieldDescription;
use crate::wire::Frame;

use super::data_row::values;
use super::limit::Window;
use super::MergeError;
use types::ElementType;

/// What `{partials}` stands for in a combine statement.
const PLACEHOLDER: &str = "{partials}";

/// The rows that shards sent, bounded by `gather_bytes_max`.
#[derive(Debug)]
pub struct Partials {
    types: Vec<ElementType>,
    /// The columns' names.
    names: Vec<String>,
    /// One array literal in the making per column.
    arrays: Vec<BytesMut>,
    rows: u64,
    bytes: usize,
    gather_bytes_max: usize,
}

/// A statement that gives the answer, and the values of its last parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CombineStatement {
    pub sql: String,
    /// The client's parameters come first, as [`Aggregate::combine_parameters`] tells; these follow, in text format. Their
    /// types are in the text.
    pub arrays: Vec<Bytes>,
}

impl Partials {
    /// `fields` are the columns as a shard's RowDescription tells them; `type_name` gives the qualified, quoted name of a
    /// type that is not PostgreSQL's own (its OID differs from shard to shard).
    pub fn new(
        fields: &[FieldDescription],
        type_name: impl Fn(u32) -> Option<String>,
        gather_bytes_max: usize,
    ) -> Result<Partials, MergeError> {
        let types = fields
            .iter()
            .map(|field| {
                let unknown = || MergeError::UnsupportedPartial { type_name: types::pseudo_name(field.type_oid) };
                ElementType::of(field.type_oid, &type_name).ok_or_else(unknown)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let arrays = types.iter().map(|_| BytesMut::new()).collect();
        let names = fields.iter().map(|field| field.name.clone()).collect();
        Ok(Partials { types, names, arrays, rows: 0, bytes: 0, gather_bytes_max })
    }

    /// Adds a DataRow of any shard.
    pub fn push(&mut self, row: &Frame) -> Result<(), MergeError> {
        let values = values(row)?;
        if values.len() != self.arrays.len() {
            return Err(MergeError::MalformedRow);
        }
        self.push_values(values)
    }

    /// Adds a row, given column by column.
    pub fn push_values<'v>(&mut self, values: impl IntoIterator<Item = Option<&'v [u8]>>) -> Result<(), MergeError> {
        for (array, value) in self.arrays.iter_mut().zip(values) {
            let before = array.len();
            push_element(array, value);
            self.bytes += array.len() - before;
        }
        self.rows += 1;
        if self.bytes > self.gather_bytes_max {
            return Err(MergeError::GatherBytes { bytes_max: self.gather_bytes_max });
        }
        Ok(())
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The combine step of a plan.
    pub fn aggregate(self, plan: &Aggregate) -> CombineStatement {
        self.statement(&plan.combine_sql, plan.combine_parameters.len())
    }

    /// The rest of a merge whose order only PostgreSQL knows. `window` is the statement's LIMIT and OFFSET.
    pub fn order_by(self, plan: &MergeSort, window: Window) -> CombineStatement {
        let sql = order_by_sql(plan, &self.names, window);
        self.statement(&sql, 0)
    }

    /// The rows as a FROM item `p(c0, c1, ...)`, behind `client_parameters` parameters.
    pub fn from_item(self, client_parameters: usize) -> CombineStatement {
        self.statement(PLACEHOLDER, client_parameters)
    }

    /// `sql` contains `{partials}` once; its first parameters are the client's.
    fn statement(self, sql: &str, client_parameters: usize) -> CombineStatement {
        let sql = sql.replacen(PLACEHOLDER, &self.item_sql(client_parameters + 1), 1);
        let arrays = self.arrays.into_iter().map(|mut array| {
            if array.is_empty() {
                array.put_u8(b'{');
            }
            array.put_u8(b'}');
            array.freeze()
        });
        CombineStatement { sql, arrays: arrays.collect() }
    }

    /// A FROM item that gives the rows as `p(c0, c1, ...)`.
    fn item_sql(&self, first_parameter: usize) -> String {
        if self.types.is_empty() {
            return format!("(SELECT FROM pg_catalog.generate_series(1, {})) AS p", self.rows);
        }
        let names: Vec<String> = (0..self.types.len()).map(|index| format!("c{index}")).collect();
        let names = names.join(", ");
        let arrays: Vec<String> = (first_parameter..)
            .zip(&self.types)
            .map(|(parameter, element)| format!("pg_catalog.unnest(${parameter}::{}[])", element.array_element_sql()))
            .collect();
        // The form of unnest with several arrays exists only under its unqualified name.
        let unnest = format!("ROWS FROM ({})", arrays.join(", "));
        if self.types.iter().all(|element| element.is_direct()) {
            return format!("{unnest} AS p({names})");
        }
        let values: Vec<String> =
            self.types.iter().enumerate().map(|(index, element)| element.value_sql(&format!("u.c{index}"))).collect();
        format!("(SELECT {} FROM {unnest} AS u({names})) AS p({names})", values.join(", "))
    }
}

/// One element of an array literal, always quoted: NULL, blanks and empty strings then need no rule of their own.
fn push_element(array: &mut BytesMut, value: Option<&[u8]>) {
    array.put_u8(if array.is_empty() { b'{' } else { b',' });
    let Some(value) = value else {
        array.put_slice(b"NULL");
        return;
    };
    array.reserve(value.len() + 2);
    array.put_u8(b'"');
    let mut rest = value;
    while let Some(special) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        array.put_slice(&rest[..special]);
        array.put_u8(b'\\');
        array.put_u8(rest[special]);
        rest = &rest[special + 1..];
    }
    array.put_slice(rest);
    array.put_u8(b'"');
}

fn order_by_sql(plan: &MergeSort, names: &[String], window: Window) -> String {
    let mut sql = "SELECT ".to_owned();
    if let Some(distinct) = plan.distinct {
        let keys: Vec<String> = plan.order.iter().take(distinct).map(|key| format!("p.c{}", key.column)).collect();
        _ = write!(sql, "DISTINCT ON ({}) ", keys.join(", "));
    }
    let visible: Vec<String> = names
        .iter()
        .take(names.len().saturating_sub(plan.hidden_columns))
        .enumerate()
        .map(|(index, name)| format!("p.c{index} AS \"{}\"", name.replace('"', "\"\"")))
        .collect();
    let keys: Vec<String> = plan
        .order
        .iter()
        .map(|key| {
            let direction = if key.descending { "DESC" } else { "ASC" };
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            format!("p.c{} {direction} NULLS {nulls}", key.column)
        })
        .collect();
    _ = write!(sql, "{} FROM {PLACEHOLDER} ORDER BY {}", visible.join(", "), keys.join(", "));
    if let Some(limit) = window.limit() {
        _ = write!(sql, " LIMIT {limit}");
    }
    if window.offset() > 0 {
        _ = write!(sql, " OFFSET {}", window.offset());
    }
    sql
}

#[cfg(test)]
#[path = "combine_tests.rs"]
mod tests;
