//! Shard keys out of conditions: `=`, `IN`, `= ANY`, row values, AND and OR; literals, casts of literals, parameters.
//!
//! `SELECT * FROM orders WHERE user_id = $1 AND note LIKE 'x%'` holds `orders` to `$1`. A key in only one branch of an OR
//! holds nothing. A value whose key is not exactly known here (another type, an expression) holds nothing either: the
//! statement then concerns every shard, which is exact.

use ringway_topology::token::{KeyFamily, KeyType, KeyValue};
use sqlparser::ast::{
    Array, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, TimezoneInfo, UnaryOperator, Value, ValueWithSpan,
};

use super::analysis::Analysis;
use super::types::KeyExpression;
use crate::sql::lexer::Kind;
use crate::sql::parse::{ident_value, Text};

/// A column found by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Scope number, from the outermost.
    pub level: usize,
    /// Relation of that scope; `None` for a merged column.
    pub relation: Option<usize>,
    pub attribute: Option<usize>,
    pub nullable: bool,
}

/// What a condition that does not hold does to a row.
#[derive(Clone, Debug)]
pub enum Filter {
    /// The row is gone: WHERE, ON of an inner join.
    Always,
    /// Only rows of these relations (of the innermost scope) are gone: ON of LEFT and RIGHT JOIN.
    Nullable(Vec<usize>),
    /// ON of a FULL JOIN.
    Nothing,
}

pub fn strip(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => strip(inner),
        other => other,
    }
}

impl Analysis<'_> {
    /// Finds a column reference. `None`: not a column, or none that is known.
    pub fn lookup(&self, expr: &Expr) -> Option<Found> {
        match strip(expr) {
            Expr::Identifier(ident) => self.lookup_name(None, &ident_value(ident)),
            Expr::CompoundIdentifier(parts) if parts.len() >= 2 && parts.len() <= 3 => {
                let alias = ident_value(&parts[parts.len() - 2]);
                self.lookup_name(Some(&alias), &ident_value(&parts[parts.len() - 1]))
            }
            _ => None,
        }
    }

    pub fn lookup_name(&self, alias: Option<&str>, name: &str) -> Option<Found> {
        for (level, scope) in self.scopes.iter().enumerate().rev() {
            if alias.is_none() {
                if let Some(merged) = scope.merged.iter().find(|output| output.name.as_deref() == Some(name)) {
                    return Some(Found {
                        level,
                        relation: None,
                        attribute: merged.attribute,
                        nullable: merged.nullable,
                    });
                }
            }
            let mut found = None;
            let mut matches = 0;
            let mut unknown = false;
            for (number, relation) in scope.relations.iter().enumerate() {
                if alias.is_some_and(|alias| alias != relation.alias) {
                    continue;
                }
                let Some(columns) = &relation.columns else {
                    unknown = true;
                    continue;
                };
                for output in columns.iter().filter(|output| output.name.as_deref() == Some(name)) {
                    matches += 1;
                    found = Some(Found {
                        level,
                        relation: Some(number),
                        attribute: output.attribute,
                        nullable: output.nullable || relation.nullable,
                    });
                }
                if alias.is_some() && matches == 0 {
                    return None;
                }
            }
            match matches {
                0 if unknown => return None,
                0 => {}
                1 => return found,
                _ => return None,
            }
        }
        None
    }

    /// The attribute of a key column of the innermost scope that no outer join can make NULL.
    pub fn firm_key(&self, expr: &Expr) -> Option<usize> {
        let found = self.lookup(expr)?;
        (found.level + 1 == self.scopes.len() && !found.nullable).then_some(found.attribute)?
    }

    /// Reads a condition of the innermost scope. Returns the pairs of keys that it holds equal.
    pub fn condition(&mut self, expr: &Expr, filter: &Filter) -> Vec<(Found, Found)> {
        for (found, values) in self.constraints(expr) {
            let holds = match filter {
                Filter::Always => true,
                Filter::Nullable(relations) => {
                    found.level + 1 == self.scopes.len() && found.relation.is_some_and(|r| relations.contains(&r))
                }
                Filter::Nothing => false,
            };
            // A condition on an outer query's row does not hold that row.
            if let (true, Some(attribute)) = (holds && found.level + 1 == self.scopes.len(), found.attribute) {
                self.seeds.push((attribute, values));
            }
        }
        let mut pairs = Vec::new();
        self.equalities(expr, filter, &mut pairs);
        pairs
    }

    fn equalities(&mut self, expr: &Expr, filter: &Filter, pairs: &mut Vec<(Found, Found)>) {
        match strip(expr) {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.equalities(left, filter, pairs);
                self.equalities(right, filter, pairs);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match (strip(left), strip(right)) {
                (Expr::Tuple(left), Expr::Tuple(right)) if left.len() == right.len() => {
                    for (left, right) in left.iter().zip(right) {
                        self.equality(left, right, filter, pairs);
                    }
                }
                (left, right) => self.equality(left, right, filter, pairs),
            },
            subquery @ (Expr::InSubquery { .. } | Expr::AnyOp { .. }) if matches!(filter, Filter::Always) => {
                self.filtering.insert(std::ptr::from_ref(subquery) as usize);
            }
            _ => {}
        }
    }

    fn equality(&mut self, left: &Expr, right: &Expr, filter: &Filter, pairs: &mut Vec<(Found, Found)>) {
        if let (Some(left), Some(right)) = (self.lookup(left), self.lookup(right)) {
            self.equal(left, right, filter, pairs);
        }
    }

    /// Two columns are held equal by a condition of the innermost scope.
    pub fn equal(&mut self, left: Found, right: Found, filter: &Filter, pairs: &mut Vec<(Found, Found)>) {
        let (Some(a), Some(b)) = (left.attribute, right.attribute) else { return };
        if self.attributes[a].family() != self.attributes[b].family() {
            return;
        }
        let here = self.scopes.len() - 1;
        match filter {
            Filter::Always => match (left.level == here, right.level == here) {
                (true, true) => {
                    self.implies.push((a, b));
                    self.implies.push((b, a));
                }
                (false, true) => self.implies.push((a, b)),
                (true, false) => self.implies.push((b, a)),
                (false, false) => return,
            },
            Filter::Nullable(relations) => {
                let nullable =
                    |found: Found| found.level == here && found.relation.is_some_and(|r| relations.contains(&r));
                match (nullable(left), nullable(right)) {
                    (false, true) => self.implies.push((a, b)),
                    (true, false) => self.implies.push((b, a)),
                    // Both filter rows of the nullable side alone, or neither does.
                    _ => {}
                }
            }
            Filter::Nothing => {}
        }
        pairs.push((left, right));
    }

    /// The values that a condition confines keys to.
    fn constraints(&self, expr: &Expr) -> Vec<(Found, Vec<KeyExpression>)> {
        match strip(expr) {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                let mut both = self.constraints(left);
                both.extend(self.constraints(right));
                both
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                let (left, right) = (self.constraints(left), self.constraints(right));
                let mut out: Vec<(Found, Vec<KeyExpression>)> = Vec::new();
                for (found, mut values) in left {
                    let other = right.iter().find(|(other, _)| other.attribute == found.attribute);
                    if let Some((_, more)) = other {
                        // Those that are there twice are left out once, in the end.
                        values.extend(more.iter().cloned());
                        out.push((found, values));
                    }
                }
                out
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match (strip(left), strip(right)) {
                (Expr::Tuple(left), Expr::Tuple(right)) if left.len() == right.len() => {
                    left.iter().zip(right).flat_map(|(left, right)| self.held_to(left, right)).collect()
                }
                (left, right) => self.held_to(left, right),
            },
            Expr::InList { expr, list, negated: false } => match strip(expr) {
                Expr::Tuple(columns) => columns
                    .iter()
                    .enumerate()
                    .filter_map(|(place, column)| {
                        let (found, key_type) = self.key_column(column)?;
                        let values = list
                            .iter()
                            .map(|row| match strip(row) {
                                Expr::Tuple(row) => self.key_expression(row.get(place)?, key_type),
                                _ => None,
                            })
                            .collect::<Option<Vec<_>>>()?;
                        Some((found, values))
                    })
                    .collect(),
                column => self
                    .key_column(column)
                    .and_then(|(found, key_type)| {
                        let values: Option<Vec<_>> =
                            list.iter().map(|value| self.key_expression(value, key_type)).collect();
                        Some((found, values?))
                    })
                    .into_iter()
                    .collect(),
            },
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => self
                .key_column(left)
                .and_then(|(found, key_type)| Some((found, self.array(right, key_type)?)))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn key_column(&self, expr: &Expr) -> Option<(Found, KeyType)> {
        let found = self.lookup(expr)?;
        Some((found, self.attributes[found.attribute?]))
    }

    fn held_to(&self, left: &Expr, right: &Expr) -> Vec<(Found, Vec<KeyExpression>)> {
        for (column, value) in [(left, right), (right, left)] {
            if let Some((found, key_type)) = self.key_column(column) {
                if let Some(value) = self.key_expression(value, key_type) {
                    return vec![(found, vec![value])];
                }
            }
        }
        Vec::new()
    }

    fn array(&self, expr: &Expr, key_type: KeyType) -> Option<Vec<KeyExpression>> {
        match strip(expr) {
            Expr::Array(Array { elem, .. }) => elem.iter().map(|value| self.key_expression(value, key_type)).collect(),
            Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => {
                Some(vec![KeyExpression::ParameterArray { index: parameter_index(name)?, key_type }])
            }
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
                let DataType::Array(element) = data_type else { return None };
                let element = match element {
                    sqlparser::ast::ArrayElemTypeDef::SquareBracket(element, None) => cast_type(element)?,
                    _ => return None,
                };
                if element.family() != key_type.family() {
                    return None;
                }
                match strip(expr) {
                    Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) => {
                        Some(vec![KeyExpression::ParameterArray { index: parameter_index(name)?, key_type: element }])
                    }
                    Expr::Array(Array { elem, .. }) => {
                        elem.iter().map(|value| self.key_expression(value, element)).collect()
                    }
                    Expr::Value(value) => plain_array(self.text, value, element),
                    _ => None,
                }
            }
            Expr::Value(value) => plain_array(self.text, value, key_type),
            _ => None,
        }
    }

    pub fn key_expression(&self, expr: &Expr, key_type: KeyType) -> Option<KeyExpression> {
        key_expression(self.text, expr, key_type)
    }
}

/// `'{1,2,3}'`: plain elements only, without quotes, nesting or NULLs.
fn plain_array(text: &Text<'_>, value: &ValueWithSpan, key_type: KeyType) -> Option<Vec<KeyExpression>> {
    let content = string_literal(text, value)?;
    let inner = content.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    inner
        .split(',')
        .map(|element| {
            let element = element.trim();
            let plain = !element.is_empty()
                && element.bytes().all(|b| b.is_ascii_alphanumeric() || b"-+.:_".contains(&b))
                && !element.eq_ignore_ascii_case("null");
            let value = plain.then(|| KeyValue::from_text(key_type, element).ok())??;
            Some(KeyExpression::Constant(Some(value)))
        })
        .collect()
}

pub fn parameter_index(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// A literal string as PostgreSQL reads it; `None` if it is continued on another line or is of a special kind.
pub fn string_literal(text: &Text<'_>, value: &ValueWithSpan) -> Option<String> {
    let index = text.location(value.span.start)?;
    let lexeme = text.lexemes[index];
    let continued = text.lexemes.get(index + 1).is_some_and(|next| next.kind == Kind::String);
    if continued {
        return None;
    }
    lexeme.string_value(text.sql)
}

/// A key that needs no shard to evaluate: literal, cast of a literal, parameter, NULL.
pub fn key_expression(text: &Text<'_>, expr: &Expr, key_type: KeyType) -> Option<KeyExpression> {
    let constant = |value: Option<KeyValue>| Some(KeyExpression::Constant(Some(value?)));
    match strip(expr) {
        Expr::Value(literal) => match &literal.value {
            Value::Null => Some(KeyExpression::Constant(None)),
            Value::Placeholder(name) => {
                Some(KeyExpression::Parameter { index: parameter_index(name)?, key_type, typmod: -1 })
            }
            Value::Number(number, _) => constant(number_key(number, key_type)),
            _ => constant(KeyValue::from_text(key_type, &string_literal(text, literal)?).ok()),
        },
        Expr::UnaryOp { op: op @ (UnaryOperator::Minus | UnaryOperator::Plus), expr } => match strip(expr) {
            Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => {
                let sign = if *op == UnaryOperator::Minus { "-" } else { "" };
                constant(number_key(&format!("{sign}{number}"), key_type))
            }
            _ => None,
        },
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            let cast = cast_type(data_type)?;
            if cast.family() != key_type.family() {
                return None;
            }
            match key_expression(text, expr, cast)? {
                // `3000000000::int` is an error on the shard.
                KeyExpression::Constant(Some(KeyValue::Int(value))) => {
                    constant(KeyValue::from_text(cast, &value.to_string()).ok())
                }
                other => Some(other),
            }
        }
        Expr::TypedString(typed) => {
            let cast = cast_type(&typed.data_type)?;
            if cast.family() != key_type.family() {
                return None;
            }
            constant(KeyValue::from_text(cast, &string_literal(text, &typed.value)?).ok())
        }
        _ => None,
    }
}

fn number_key(number: &str, key_type: KeyType) -> Option<KeyValue> {
    match key_type.family() {
        KeyFamily::Integer => KeyValue::from_text(KeyType::Int8, number).ok(),
        KeyFamily::Numeric => KeyValue::from_text(KeyType::Numeric, number).ok(),
        _ => None,
    }
}

/// A type that a literal may be cast to, without modifiers.
pub fn cast_type(data_type: &DataType) -> Option<KeyType> {
    Some(match data_type {
        DataType::SmallInt(None) | DataType::Int2(None) => KeyType::Int2,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => KeyType::Int4,
        DataType::BigInt(None) | DataType::Int8(None) => KeyType::Int8,
        DataType::Text => KeyType::Text,
        DataType::Varchar(None) | DataType::CharacterVarying(None) => KeyType::Varchar,
        DataType::Uuid => KeyType::Uuid,
        DataType::Bytea => KeyType::Bytea,
        DataType::Date => KeyType::Date,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => KeyType::Timestamp,
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => KeyType::Timestamptz,
        DataType::Numeric(ExactNumberInfo::None) | DataType::Decimal(ExactNumberInfo::None) => KeyType::Numeric,
        _ => return None,
    })
}

/// Whether an assignment to a column with this modifier leaves the value as it is.
pub fn fits(value: &KeyValue, key_type: KeyType, typmod: i32) -> bool {
    if typmod < 0 {
        return true;
    }
    match (key_type, value) {
        (KeyType::Varchar | KeyType::Bpchar, KeyValue::Text(text) | KeyValue::Bpchar(text)) => {
            i32::try_from(text.chars().count()).is_ok_and(|length| length <= typmod - 4)
        }
        (KeyType::Numeric, KeyValue::Int(_)) => true,
        // Not rounded: the scale has 11 bits, with a sign.
        (KeyType::Numeric, KeyValue::Numeric(decimal)) => {
            let scale = (((typmod - 4) & 0x7ff) ^ 1024) - 1024;
            u32::try_from(scale).is_ok_and(|scale| decimal.fraction_digits() <= scale)
        }
        (KeyType::Timestamp | KeyType::Timestamptz, KeyValue::Timestamp(micros)) => {
            let unit = 10i64.pow(6u32.saturating_sub(typmod.unsigned_abs()));
            matches!(*micros, i64::MIN | i64::MAX) || micros % unit == 0
        }
        _ => false,
    }
}
