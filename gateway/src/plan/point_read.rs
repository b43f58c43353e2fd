//! Point reads: one row of one table, found by its primary key, columns as they are. A server answers one in microseconds, whatever is
//! in the table, so that those of several clients may share a connection ([`crate::exec::multiplex`]).

use sqlparser::ast::{
    BinaryOperator, DataType, Expr, GroupByExpr, LimitClause, Query, Select, SelectItem, SetExpr, TableFactor,
    UnaryOperator, Value, ValueWithSpan,
};

use super::context::PlanContext;
use super::keys::{parameter_index, strip};
use super::rows::Calls;
use super::types::PointRead;
use crate::catalog::{Relation, RelationKind};
use crate::sql::parse::{ident_value, name_parts};

/// What a query without locks is, if it is one.
pub fn point_read(context: &PlanContext<'_>, query: &Query, calls: &Calls) -> Option<PointRead> {
    let calls_nothing = !calls.calls_code && calls.code.is_empty() && calls.volatile.is_none() && calls.home.is_none();
    let (select, alias, relation) = only_table(context, query)?;
    let table = Table { alias, relation };
    if !calls_nothing || !table.shows_columns(&select.projection) || !table.is_found_by_key(select) {
        return None;
    }
    let mut out = PointRead::default();
    table.compared(select.selection.as_ref()?, &mut out);
    if let Some(LimitClause::LimitOffset { limit: Some(limit), .. }) = &query.limit_clause {
        out.for_numbers |= bit(limit);
    }
    Some(out)
}

/// The bit of a parameter that stands for itself; 0: it is something else.
fn bit(expr: &Expr) -> u64 {
    let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = strip(expr) else { return 0 };
    match parameter_index(name) {
        Some(index) if index < 64 => 1 << index,
        _ => 0,
    }
}

/// What literals mean beside a column of the type as well as a parameter does, which takes the column's type: whether whole numbers,
/// and whether strings. Other numbers would be compared as another type (`real = 0.1`).
fn takes(type_oid: u32) -> (bool, bool) {
    /// OIDs of `src/include/catalog/pg_type.dat`.
    const INT8: u32 = 20;
    const INT2: u32 = 21;
    const INT4: u32 = 23;
    const TEXT: u32 = 25;
    const VARCHAR: u32 = 1043;
    const UUID: u32 = 2950;
    match type_oid {
        INT8 | INT2 | INT4 => (true, true),
        TEXT | VARCHAR | UUID => (false, true),
        _ => (false, false),
    }
}

/// The table that a query without joins, grouping and order reads, and what it is called.
fn only_table<'a>(context: &PlanContext<'a>, query: &'a Query) -> Option<(&'a Select, String, &'a Relation)> {
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && query.limit_clause.as_ref().is_none_or(is_plain_limit);
    let SetExpr::Select(select) = &*query.body else { return None };
    let groups = matches!(&select.group_by, GroupByExpr::Expressions(by, more) if by.is_empty() && more.is_empty());
    let whole = select.distinct.is_none()
        && select.into.is_none()
        && groups
        && select.having.is_none()
        && select.named_window.is_empty();
    let [from] = select.from.as_slice() else { return None };
    let TableFactor::Table { name, alias, args: None, sample: None, with_ordinality: false, .. } = &from.relation
    else {
        return None;
    };
    let parts = name_parts(name)?;
    let table = context.table(&parts).ok()?;
    let relation = context.catalog.relation(&table.name)?;
    let fits = plain && whole && from.joins.is_empty() && relation.kind == RelationKind::Table;
    if !fits || !relation.is_read_alone() || alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()) {
        return None;
    }
    let alias = alias.as_ref().map_or(parts.last().cloned()?, |alias| ident_value(&alias.name));
    Some((select, alias, relation))
}

/// LIMIT of a number: object mappers add one.
fn is_plain_limit(clause: &LimitClause) -> bool {
    match clause {
        LimitClause::LimitOffset { limit, offset: None, limit_by } => {
            limit_by.is_empty() && limit.as_ref().is_none_or(is_value)
        }
        _ => false,
    }
}

/// A constant or a parameter.
fn is_value(expr: &Expr) -> bool {
    match strip(expr) {
        Expr::Value(_) => true,
        // Domains check what is cast to them, by whatever code.
        Expr::Cast { expr, data_type, .. } => is_of_server(data_type) && is_value(expr),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => is_value(expr),
        _ => false,
    }
}

fn is_of_server(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(
        data_type,
        SmallInt(_)
            | Int2(_)
            | Int(_)
            | Int4(_)
            | Integer(_)
            | BigInt(_)
            | Int8(_)
            | Numeric(_)
            | Decimal(_)
            | Text
            | Varchar(_)
            | CharacterVarying(_)
            | Uuid
            | Bytea
            | Boolean
            | Bool
            | Date
            | Timestamp(..)
    )
}

struct Table<'a> {
    alias: String,
    relation: &'a Relation,
}

impl Table<'_> {
    fn column(&self, expr: &Expr) -> Option<String> {
        let name = match strip(expr) {
            Expr::Identifier(name) => ident_value(name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [alias, name] if ident_value(alias) == self.alias => ident_value(name),
                _ => return None,
            },
            _ => return None,
        };
        self.relation.column(&name).map(|_| name)
    }

    fn shows_columns(&self, items: &[SelectItem]) -> bool {
        items.iter().all(|item| match item {
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => self.column(expr).is_some(),
            _ => false,
        })
    }

    /// The parameters of a condition that is one of [`Self::equals`].
    fn compared(&self, condition: &Expr, out: &mut PointRead) {
        let Expr::BinaryOp { left, op, right } = strip(condition) else { return };
        if *op == BinaryOperator::And {
            self.compared(left, out);
            self.compared(right, out);
            return;
        }
        for (column, value) in [(left, right), (right, left)] {
            let Some(column) = self.column(column).and_then(|name| self.relation.column(&name)) else { continue };
            let (numbers, strings) = takes(column.type_oid);
            let bit = bit(value);
            out.for_numbers |= if numbers { bit } else { 0 };
            out.for_strings |= if strings { bit } else { 0 };
        }
    }

    /// The whole primary key equals values.
    fn is_found_by_key(&self, select: &Select) -> bool {
        let mut found = Vec::new();
        let Some(selection) = &select.selection else { return false };
        let key = &self.relation.primary_key;
        self.equals(selection, &mut found) && !key.is_empty() && key.iter().all(|column| found.contains(column))
    }

    /// Whether a condition consists of `column = value`, all of which hold: which columns.
    fn equals(&self, condition: &Expr, found: &mut Vec<String>) -> bool {
        match strip(condition) {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.equals(left, found) && self.equals(right, found)
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let sides = [(left, right), (right, left)];
                let column = sides.iter().find_map(|(column, value)| self.column(column).filter(|_| is_value(value)));
                found.extend(column.iter().cloned());
                column.is_some()
            }
            _ => false,
        }
    }
}
