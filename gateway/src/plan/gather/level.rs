//! One level of a statement: what stands in a SELECT's FROM, and which conditions its rows fulfil.

use std::collections::BTreeSet;
use std::ops::Range;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::quote_ident;
use sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, Select, TableFactor, TableWithJoins,
};

use crate::catalog::Relation;
use crate::plan::analysis::Analysis;
use crate::plan::context::Placed;
use crate::plan::keys::strip;
use crate::plan::types::FilterSplice;
use crate::sql::parse::{ident_value, name_parts};

/// A FROM item.
#[derive(Clone)]
pub struct Item<'a> {
    pub alias: String,
    /// A table that is known, under its own columns' names. None: its columns are not known.
    pub relation: Option<&'a Relation>,
    pub home: Home,
    /// Bytes of the statement that name it, if it is a table.
    range: Range<usize>,
    /// An outer join may make it NULL.
    pub nullable: bool,
}

/// Where the rows of a FROM item are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// On the shards of a keyspace, by this column.
    Keyspace {
        id: KeyspaceId,
        key: String,
    },
    /// On every shard.
    Reference,
    Elsewhere,
}

impl Item<'_> {
    /// Where a sharded table is named.
    pub fn place(&self) -> Option<usize> {
        matches!(self.home, Home::Keyspace { .. }).then_some(self.range.start)
    }

    /// It as a FROM item of another query.
    pub fn sql(&self, statement: &str) -> Option<String> {
        Some(format!("{} AS {}", statement.get(self.range.clone())?, quote_ident(&self.alias)))
    }
}

/// A condition, and of which rows it must be true.
pub struct Condition<'s> {
    pub expr: &'s Expr,
    /// The items whose columns it can name.
    pub sees: Range<usize>,
    /// ON of a LEFT JOIN: rows of this item alone do not matter where it is not true. None: of no item that is not nullable.
    pub only: Option<usize>,
}

/// What is known of the statement as a whole.
pub struct Names<'n> {
    /// Where sharded tables are named: a WITH query of the same name is at none of these places.
    pub places: &'n BTreeSet<usize>,
    /// Names of WITH queries, wherever they can be seen.
    pub common: &'n BTreeSet<String>,
}

#[derive(Default)]
pub struct Level<'a, 's> {
    pub items: Vec<Item<'a>>,
    pub conditions: Vec<Condition<'s>>,
    /// Columns that USING makes one of two.
    merged: BTreeSet<String>,
    /// NATURAL makes some, which are not known.
    natural: bool,
}

impl<'a, 's> Level<'a, 's> {
    pub fn of(analysis: &Analysis<'a>, names: &Names<'_>, select: &'s Select) -> Level<'a, 's> {
        let mut level = Level::default();
        for from in &select.from {
            level.joined(analysis, names, from);
        }
        if let Some(expr) = &select.selection {
            level.conditions.push(Condition { expr, sees: 0..level.items.len(), only: None });
        }
        level
    }

    fn joined(&mut self, analysis: &Analysis<'a>, names: &Names<'_>, from: &'s TableWithJoins) {
        let first = self.items.len();
        self.items.push(item(analysis, names, &from.relation));
        for Join { relation, join_operator, .. } in &from.joins {
            let right = self.items.len();
            self.items.push(item(analysis, names, relation));
            use JoinOperator as J;
            let (constraint, left_null, right_null) = match join_operator {
                J::Join(constraint) | J::Inner(constraint) | J::CrossJoin(constraint) => (constraint, false, false),
                J::Left(constraint) | J::LeftOuter(constraint) => (constraint, false, true),
                J::Right(constraint) | J::RightOuter(constraint) => (constraint, true, false),
                J::FullOuter(constraint) => (constraint, true, true),
                _ => {
                    self.items[first..].iter_mut().for_each(|item| item.nullable = true);
                    self.natural = true;
                    continue;
                }
            };
            self.items[first..right].iter_mut().for_each(|item| item.nullable |= left_null);
            self.items[right].nullable |= right_null;
            match constraint {
                JoinConstraint::On(expr) => {
                    let only = match (left_null, right_null) {
                        (false, false) => None,
                        (false, true) => Some(right),
                        // The left side may be several tables, and NULL for other reasons.
                        _ => continue,
                    };
                    self.conditions.push(Condition { expr, sees: first..right + 1, only });
                }
                JoinConstraint::Using(columns) => {
                    let names = columns.iter().filter_map(|column| name_parts(column)?.pop());
                    self.merged.extend(names);
                }
                JoinConstraint::Natural => self.natural = true,
                JoinConstraint::None => {}
            }
        }
    }

    /// The item whose column this is. A name that another item, whose columns are not known, had as well would be ambiguous,
    /// which PostgreSQL says before anything is read.
    pub fn column(&self, expr: &Expr, sees: &Range<usize>) -> Option<usize> {
        let (alias, name) = match strip(expr) {
            Expr::Identifier(name) => (None, name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [alias, name] => (Some(ident_value(alias)), name),
                _ => return None,
            },
            _ => return None,
        };
        let has = |item: &Item<'_>, name: &Ident| {
            item.relation.is_some_and(|relation| relation.column(&ident_value(name)).is_some())
        };
        if let Some(alias) = alias {
            let mut named = sees.clone().filter(|index| self.items[*index].alias == alias);
            return named.next().filter(|_| named.next().is_none()).filter(|owner| has(&self.items[*owner], name));
        }
        if self.natural || self.merged.contains(&ident_value(name)) {
            return None;
        }
        let mut owners = sees.clone().filter(|index| has(&self.items[*index], name));
        owners.next().filter(|_| owners.next().is_none())
    }

    /// Whether a column of this name cannot be the level's own: it is looked up in the query around.
    pub fn cannot_have(&self, expr: &Expr) -> bool {
        match strip(expr) {
            Expr::Identifier(name) => self
                .items
                .iter()
                .all(|item| item.relation.is_some_and(|relation| relation.column(&ident_value(name)).is_none())),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [alias, _] => self.items.iter().all(|item| !item.alias.is_empty() && item.alias != ident_value(alias)),
                _ => false,
            },
            _ => false,
        }
    }

    /// The same without its conditions.
    pub fn names(&self) -> Level<'a, 'static> {
        let (items, merged) = (self.items.clone(), self.merged.clone());
        Level { items, merged, natural: self.natural, conditions: Vec::new() }
    }
}

fn item<'a>(analysis: &Analysis<'a>, names: &Names<'_>, factor: &TableFactor) -> Item<'a> {
    let unknown = Item { alias: String::new(), relation: None, home: Home::Elsewhere, range: 0..0, nullable: false };
    let TableFactor::Table { name, alias, args: None, .. } = factor else { return unknown };
    let Some(parts) = name_parts(name) else { return unknown };
    let own = alias.as_ref().map(|alias| ident_value(&alias.name));
    let FilterSplice::Relation { start, end, alias: called, .. } = analysis.relation_splice(name, own.as_deref())
    else {
        return unknown;
    };
    let unknown = Item { alias: called, range: start..end, ..unknown };
    let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
    let Some(table) = analysis.context.table(&parts).ok().filter(|_| !renamed) else { return unknown };
    let relation = analysis.context.catalog.relation(&table.name);
    let common = parts.len() == 1 && names.common.contains(&parts[0]);
    match table.placed {
        Placed::Sharded { keyspace: id, key_column: key, .. } if names.places.contains(&start) => {
            Item { relation, home: Home::Keyspace { id, key }, ..unknown }
        }
        Placed::Reference if !common && !table.view => Item { relation, home: Home::Reference, ..unknown },
        Placed::Reference | Placed::Single if !common => Item { relation, ..unknown },
        _ => unknown,
    }
}

/// The last part of a column's name.
pub fn column_name(expr: &Expr) -> Option<String> {
    match strip(expr) {
        Expr::Identifier(name) => Some(ident_value(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(ident_value),
        _ => None,
    }
}

/// The parts that AND joins.
pub fn conjuncts<'e>(expr: &'e Expr, out: &mut Vec<&'e Expr>) {
    match strip(expr) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(left, out);
            conjuncts(right, out);
        }
        other => out.push(other),
    }
}
