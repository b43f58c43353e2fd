//! What a condition says of some of the tables that it names, wherever it is true.
//!
//! `(a.x = 1 AND b.y = 2) OR (a.x = 3 AND b.z > 4)` says `a.x = 1 OR a.x = 3` of `a`.

use std::ops::Range;

use sqlparser::ast::{BinaryOperator, CastKind, DataType, Expr, UnaryOperator};

use super::level::{Condition, Level};
use crate::catalog::Catalog;
use crate::plan::keys::strip;

/// The items of one level that conditions may name.
pub struct Scope<'l, 'a, 's> {
    pub level: &'l Level<'a, 's>,
    pub catalog: &'a Catalog,
    pub sees: Range<usize>,
    pub items: &'l [usize],
}

impl Scope<'_, '_, '_> {
    /// It is true of the rows of which `expr` is. None: nothing is known of them.
    pub fn implied(&self, expr: &Expr) -> Option<Expr> {
        let both = |left: Expr, op: BinaryOperator, right: Expr| {
            let side = |expr| Box::new(Expr::Nested(Box::new(expr)));
            Expr::BinaryOp { left: side(left), op, right: side(right) }
        };
        match strip(expr) {
            Expr::BinaryOp { left, op: op @ BinaryOperator::And, right } => {
                match (self.implied(left), self.implied(right)) {
                    (Some(left), Some(right)) => Some(both(left, op.clone(), right)),
                    (left, right) => left.or(right),
                }
            }
            Expr::BinaryOp { left, op: op @ BinaryOperator::Or, right } => {
                Some(both(self.implied(left)?, op.clone(), self.implied(right)?))
            }
            other => self.is_comparison(other).then(|| other.clone()),
        }
    }

    /// Of columns of these items with constants and with each other, by operators of PostgreSQL's own.
    fn is_comparison(&self, expr: &Expr) -> bool {
        match strip(expr) {
            Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                self.is_comparison(left) && self.is_comparison(right)
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.is_comparison(expr),
            Expr::BinaryOp { left, op, right } if self.is_builtin(op) => {
                let (left_column, right_column) = (self.is_column(left), self.is_column(right));
                left_column && (right_column || is_constant(right)) || is_constant(left) && right_column
            }
            Expr::InList { expr, list, .. } => {
                self.is_builtin(&BinaryOperator::Eq) && self.is_column(expr) && list.iter().all(is_constant)
            }
            Expr::Between { expr, low, high, .. } => {
                let orders = [BinaryOperator::LtEq, BinaryOperator::GtEq];
                orders.iter().all(|op| self.is_builtin(op))
                    && self.is_column(expr)
                    && is_constant(low)
                    && is_constant(high)
            }
            Expr::IsNull(expr) | Expr::IsNotNull(expr) => self.is_column(expr),
            Expr::Like { expr, pattern, any: false, escape_char: None, .. } => {
                self.catalog.operator("~~").is_empty() && self.is_column(expr) && is_constant(pattern)
            }
            _ => false,
        }
    }

    fn is_column(&self, expr: &Expr) -> bool {
        let Some(item) = self.level.column(expr, &self.sees) else { return false };
        // Where several items stand beside each other, they may be others than the condition sees, and have a column of this name.
        let is_plain = || self.level.column(expr, &(0..self.level.items.len())) == Some(item);
        self.items.contains(&item) && (self.items.len() == 1 || is_plain())
    }

    /// No operator of the application's.
    fn is_builtin(&self, op: &BinaryOperator) -> bool {
        use BinaryOperator as B;
        let compares = matches!(op, B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq);
        compares && self.catalog.operator(&op.to_string()).is_empty()
    }
}

/// Whether rows of the item do not matter where the condition is not true.
pub fn matters(level: &Level<'_, '_>, condition: &Condition<'_>, item: usize) -> bool {
    condition.only.map_or(!level.items[item].nullable, |only| only == item)
}

/// The same on every shard, whenever it is computed.
fn is_constant(expr: &Expr) -> bool {
    match strip(expr) {
        Expr::Value(_) => true,
        Expr::TypedString(typed) => !matches!(typed.data_type, DataType::Custom(..)),
        Expr::Interval(interval) => is_constant(&interval.value),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            !matches!(data_type, DataType::Custom(..)) && is_constant(expr)
        }
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => is_constant(expr),
        Expr::BinaryOp { left, op, right } => {
            use BinaryOperator as B;
            matches!(op, B::Plus | B::Minus | B::Multiply) && is_constant(left) && is_constant(right)
        }
        _ => false,
    }
}
