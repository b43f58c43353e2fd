//! The type of a number-valued argument of `sum` and `avg`, as far as it decides how partial results are combined.

use sqlparser::ast::{BinaryOperator, CastKind, DataType, Expr, SelectItem, UnaryOperator, Value};

use super::analysis::Analysis;
use super::keys::strip;
use crate::sql::parse::{ident_value, name_parts};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NumericType {
    Int2,
    Int4,
    Int8,
    Numeric,
    Float4,
    Float8,
}

impl NumericType {
    fn from_oid(oid: u32) -> Option<NumericType> {
        Some(match oid {
            21 => NumericType::Int2,
            23 => NumericType::Int4,
            20 => NumericType::Int8,
            1700 => NumericType::Numeric,
            700 => NumericType::Float4,
            701 => NumericType::Float8,
            _ => return None,
        })
    }

    /// The result of an arithmetic operator on two types.
    fn with(self, other: NumericType) -> NumericType {
        use NumericType as N;
        match (self.max(other), self.min(other)) {
            // float4 with anything but float4 is computed in float8.
            (N::Float4, N::Float4) => N::Float4,
            (N::Float4 | N::Float8, _) => N::Float8,
            (wider, _) => wider,
        }
    }
}

impl Analysis<'_> {
    /// `None`: not known.
    pub fn numeric_type(&self, expr: &Expr) -> Option<NumericType> {
        use NumericType as N;
        match strip(expr) {
            Expr::Identifier(name) => self.column_type(None, &ident_value(name)),
            Expr::CompoundIdentifier(parts) if parts.len() == 2 => {
                self.column_type(Some(&ident_value(&parts[0])), &ident_value(&parts[1]))
            }
            Expr::Value(value) => match &value.value {
                Value::Number(number, _) => Some(if number.bytes().all(|b| b.is_ascii_digit()) {
                    if number.parse::<i32>().is_ok() {
                        N::Int4
                    } else if number.parse::<i64>().is_ok() {
                        N::Int8
                    } else {
                        N::Numeric
                    }
                } else {
                    N::Numeric
                }),
                _ => None,
            },
            Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => self.numeric_type(expr),
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::Multiply | BinaryOperator::Divide,
                right,
            } => Some(self.numeric_type(left)?.with(self.numeric_type(right)?)),
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, data_type, .. } => Some(match data_type {
                DataType::SmallInt(_) | DataType::Int2(_) => N::Int2,
                DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => N::Int4,
                DataType::BigInt(_) | DataType::Int8(_) => N::Int8,
                DataType::Numeric(_) | DataType::Decimal(_) => N::Numeric,
                DataType::Real | DataType::Float4 => N::Float4,
                DataType::DoublePrecision | DataType::Float8 => N::Float8,
                _ => return None,
            }),
            Expr::Case { conditions, else_result, .. } => {
                let mut out: Option<N> = None;
                let results = conditions.iter().map(|when| &when.result).chain(else_result.as_deref());
                for result in results {
                    if matches!(strip(result), Expr::Value(value) if value.value == Value::Null) {
                        continue;
                    }
                    let this = self.numeric_type(result)?;
                    out = Some(out.map_or(this, |known| known.max(this)));
                }
                out
            }
            Expr::Function(function) => {
                let name = name_parts(&function.name)?.last()?.clone();
                let sqlparser::ast::FunctionArguments::List(list) = &function.args else { return None };
                let mut types = list.args.iter().map(|arg| match arg {
                    sqlparser::ast::FunctionArg::Unnamed(sqlparser::ast::FunctionArgExpr::Expr(expr)) => {
                        self.numeric_type(expr)
                    }
                    _ => None,
                });
                match name.as_str() {
                    "coalesce" | "greatest" | "least" => types.try_fold(N::Int2, |known, this| Some(known.max(this?))),
                    "abs" | "nullif" => types.next()?,
                    "length" | "char_length" | "octet_length" => Some(N::Int4),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Only columns of base tables that stand directly in FROM.
    fn column_type(&self, alias: Option<&str>, name: &str) -> Option<NumericType> {
        // Renamed columns, and columns merged with those of a subquery, may have another type.
        let text = self.text;
        let merged = (0..text.lexemes.len()).any(|index| text.word(index, "using") || text.word(index, "natural"));
        if self.derived_in_from && alias.is_none() && merged || self.renamed_columns {
            return None;
        }
        let mut found = None;
        for (own, table) in &self.base_tables {
            if alias.is_some_and(|alias| alias != own) {
                continue;
            }
            if let Some(column) = self.context.catalog.relation(table).and_then(|relation| relation.column(name)) {
                let this = NumericType::from_oid(column.type_oid)?;
                if found.is_some_and(|known| known != this) {
                    return None;
                }
                found = Some(this);
            }
        }
        found
    }
}

/// Expressions of a select list without wildcards.
pub fn plain_items(projection: &[SelectItem]) -> Option<Vec<&Expr>> {
    projection
        .iter()
        .map(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
            _ => None,
        })
        .collect()
}
