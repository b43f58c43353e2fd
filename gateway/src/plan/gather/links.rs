//! Columns by which rows of one fragment can be limited to those that match rows of another, once these are there.
//!
//! Of `a JOIN b ON a.x = b.y`, rows of `b` whose `y` is no `x` of the rows of `a` that have come do not matter. It is the condition's
//! other side that may be NULL, or from anywhere: what the statement compares with is in the temporary table.

use sqlparser::ast::{BinaryOperator, Expr, Ident, Value};

use super::conditions::matters;
use super::level::{column_name, conjuncts, Level};
use crate::catalog::{Catalog, Column};
use crate::plan::keys::strip;

/// Rows of `target` matter only where their `column` is among the values of `known` of `source`.
#[derive(Clone, Debug)]
pub struct Link {
    /// Where the tables are named.
    pub target: usize,
    pub source: usize,
    pub known: String,
    /// Of an array of these values.
    pub array_type: u32,
    alias: String,
    column: String,
}

impl Link {
    /// `alias.column = ANY ($number)`
    pub fn condition(&self, number: usize) -> Expr {
        let parts = [&self.alias, &self.column].map(|name| Ident::with_quote('"', name.replace('"', "\"\"")));
        Expr::AnyOp {
            left: Box::new(Expr::CompoundIdentifier(parts.to_vec())),
            compare_op: BinaryOperator::Eq,
            right: Box::new(Expr::Value(Value::Placeholder(format!("${number}")).into())),
            is_some: false,
        }
    }
}

pub fn find(catalog: &Catalog, level: &Level<'_, '_>) -> Vec<Link> {
    let mut links = Vec::new();
    if !catalog.operator("=").is_empty() {
        return links;
    }
    for condition in &level.conditions {
        let mut parts = Vec::new();
        conjuncts(condition.expr, &mut parts);
        for part in parts {
            let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = strip(part) else { continue };
            let side = |expr| Some((level.column(expr, &condition.sees)?, column_name(expr)?));
            let (Some(left), Some(right)) = (side(left), side(right)) else { continue };
            for (target, source) in [(&left, &right), (&right, &left)] {
                if target.0 != source.0 && matters(level, condition, target.0) {
                    links.extend(link(level, target, source));
                }
            }
        }
    }
    links
}

fn link(level: &Level<'_, '_>, target: &(usize, String), source: &(usize, String)) -> Option<Link> {
    let column = |(item, name): &(usize, String)| level.items[*item].relation?.column(name);
    let item = &level.items[target.0];
    Some(Link {
        target: item.place()?,
        source: level.items[source.0].place()?,
        known: source.1.clone(),
        array_type: array_of(column(source)?, column(target)?)?,
        alias: item.alias.clone(),
        column: target.1.clone(),
    })
}

/// The type of arrays of values, if comparing with them as with the column is what `=` of the two columns is: integers with each
/// other, and strings and UUIDs of one type, by the database's collation. Their text does not depend on settings.
fn array_of(values: &Column, compared: &Column) -> Option<u32> {
    const INTEGERS: [(u32, u32); 3] = [(21, 1005), (23, 1007), (20, 1016)];
    const OTHERS: [(u32, u32); 3] = [(25, 1009), (1043, 1015), (2950, 2951)];
    let array = |types: &[(u32, u32)], oid| types.iter().find(|(element, _)| *element == oid).map(|(_, array)| *array);
    let plain = |column: &Column| !column.nondeterministic && !column.own_collation;
    match (array(&INTEGERS, values.type_oid), array(&INTEGERS, compared.type_oid)) {
        (Some(array), Some(_)) => Some(array),
        _ if values.type_oid == compared.type_oid && plain(values) && plain(compared) => {
            array(&OTHERS, values.type_oid)
        }
        _ => None,
    }
}
