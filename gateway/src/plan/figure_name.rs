//! The name that PostgreSQL gives an output column without alias (`FigureColname` in `parse_target.c`).

use sqlparser::ast::{CastKind, DataType, Expr, Value};

use super::keys::{cast_type, strip};
use crate::sql::dialect::is_made_up_name;
use crate::sql::parse::{ident_value, name_parts};

/// `None`: not known here.
pub fn output_name(expr: &Expr) -> Option<String> {
    match figure(expr) {
        Figure::Strong(name) | Figure::Weak(name) => Some(name),
        Figure::Nothing => Some("?column?".to_owned()),
        Figure::Unknown => None,
    }
}

enum Figure {
    Strong(String),
    /// A type's name, used only where nothing better is found.
    Weak(String),
    Nothing,
    Unknown,
}

fn figure(expr: &Expr) -> Figure {
    let strong = |name: &str| Figure::Strong(name.to_owned());
    match strip(expr) {
        Expr::Identifier(ident) => Figure::Strong(ident_value(ident)),
        Expr::CompoundIdentifier(parts) => {
            parts.last().map_or(Figure::Unknown, |part| Figure::Strong(ident_value(part)))
        }
        Expr::Function(function) if is_made_up_name(&function.name) => Figure::Unknown,
        Expr::Function(function) => match name_parts(&function.name).and_then(|parts| parts.last().cloned()) {
            Some(name) => Figure::Strong(name),
            None => Figure::Unknown,
        },
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => match figure(expr) {
            Figure::Strong(name) => Figure::Strong(name),
            Figure::Unknown => Figure::Unknown,
            Figure::Weak(_) | Figure::Nothing => type_name(data_type).map_or(Figure::Unknown, Figure::Weak),
        },
        Expr::Case { else_result, .. } => match else_result.as_deref().map(figure) {
            Some(Figure::Strong(name)) => Figure::Strong(name),
            Some(Figure::Unknown) => Figure::Unknown,
            _ => Figure::Weak("case".to_owned()),
        },
        Expr::Collate { expr, .. } => figure(expr),
        Expr::Extract { .. } => strong("extract"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Ceil { .. } | Expr::Floor { .. } | Expr::Trim { .. } => Figure::Unknown,
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Array(_) => strong("array"),
        Expr::Exists { .. } => strong("exists"),
        Expr::Tuple(_) => strong("row"),
        Expr::Value(value) => match value.value {
            Value::Boolean(_) => Figure::Weak("bool".to_owned()),
            _ => Figure::Nothing,
        },
        Expr::BinaryOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::AnyOp { .. } => Figure::Nothing,
        _ => Figure::Unknown,
    }
}

/// The internal name of a type, as casts show it.
fn type_name(data_type: &DataType) -> Option<String> {
    use ringway_topology::token::KeyType as T;
    Some(
        match data_type {
            DataType::Float8 | DataType::DoublePrecision => "float8",
            DataType::Real | DataType::Float4 => "float4",
            DataType::Boolean | DataType::Bool => "bool",
            other => match cast_type(other)? {
                T::Int2 => "int2",
                T::Int4 => "int4",
                T::Int8 => "int8",
                T::Text => "text",
                T::Varchar => "varchar",
                T::Bpchar => "bpchar",
                T::Uuid => "uuid",
                T::Bytea => "bytea",
                T::Date => "date",
                T::Timestamp => "timestamp",
                T::Timestamptz => "timestamptz",
                T::Numeric => "numeric",
            },
        }
        .to_owned(),
    )
}
