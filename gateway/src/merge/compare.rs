//! Values in PostgreSQL's order, for the types whose order is reproduced exactly.
//!
//! A column is comparable when its type's B-tree order is known here *and* its wire format carries the value exactly:
//! text of dates only under DateStyle ISO, text of floats only with their shortest exact digits, strings only under a
//! collation that is byte order. [`KeyReader::of`] decides; what it does not know is left to PostgreSQL
//! ([`super::combine`]).
//!
//! Sources: `btint4cmp` and its like (`src/backend/access/nbtree/nbtcompare.c`), `float8_cmp_internal`
//! (`src/include/utils/float.h`), `cmp_numerics`, `varstr_cmp`, `bpcharcmp`, `uuid_internal_cmp`, `date_cmp`,
//! `timestamp_cmp_internal` (`src/backend/utils/adt/`).

use std::cmp::Ordering;

use bytes::Bytes;
use ringway_topology::token::{Decimal, KeyType, KeyValue};

use crate::wire::backend::FieldDescription;
use crate::wire::Format;

use super::MergeError;

/// What the order of values depends on besides their types. The caller knows it from the catalog and from the session's
/// settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueOrder {
    /// Every string that is compared has a collation that is byte order: C, POSIX, C.UTF-8 and the like.
    pub strings_by_bytes: bool,
    /// DateStyle is ISO.
    pub iso_dates: bool,
    /// `extra_float_digits` is 1 or more.
    pub exact_floats: bool,
}

/// A decoded sort key; NULLs are placed by the sort key's `nulls_first`, see [`super::order_by`].
#[derive(Debug, Clone, PartialEq)]
pub enum SortValue {
    Int(i64),
    Float(f64),
    Decimal(Decimal),
    /// Compared byte by byte; a prefix comes first.
    Bytes(Bytes),
}

impl SortValue {
    /// PostgreSQL's order. Values of one column are of one variant.
    pub fn compare(&self, other: &SortValue) -> Ordering {
        match (self, other) {
            (SortValue::Int(a), SortValue::Int(b)) => a.cmp(b),
            (SortValue::Float(a), SortValue::Float(b)) => compare_floats(*a, *b),
            (SortValue::Decimal(a), SortValue::Decimal(b)) => compare_decimals(a, b),
            (SortValue::Bytes(a), SortValue::Bytes(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            SortValue::Int(_) => 0,
            SortValue::Float(_) => 1,
            SortValue::Decimal(_) => 2,
            SortValue::Bytes(_) => 3,
        }
    }
}

/// NaN equals itself and is greater than everything; the two zeros are equal.
fn compare_floats(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

/// -Infinity, the numbers, Infinity, NaN.
fn compare_decimals(a: &Decimal, b: &Decimal) -> Ordering {
    fn class(value: &Decimal) -> i8 {
        match value {
            Decimal::NegativeInfinity => -2,
            Decimal::Finite { digits, .. } if digits.is_empty() => 0,
            Decimal::Finite { negative: true, .. } => -1,
            Decimal::Finite { negative: false, .. } => 1,
            Decimal::Infinity => 2,
            Decimal::NaN => 3,
        }
    }
    class(a).cmp(&class(b)).then_with(|| match (a, b) {
        (
            Decimal::Finite { negative, weight: weight_a, digits: digits_a },
            Decimal::Finite { weight: weight_b, digits: digits_b, .. },
        ) => {
            // Neither begins with a zero digit nor ends with one.
            let magnitude = weight_a.cmp(weight_b).then_with(|| digits_a.cmp(digits_b));
            if *negative {
                magnitude.reverse()
            } else {
                magnitude
            }
        }
        _ => Ordering::Equal,
    })
}

/// Reads the values of one column for comparison.
#[derive(Debug, Clone, Copy)]
pub struct KeyReader {
    type_oid: u32,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    TextInt,
    TextBool,
    TextFloat4,
    TextFloat8,
    TextInternalChar,
    /// As the type's input function reads it.
    TextOf(KeyType),
    BinaryOf(KeyType),
    /// A big-endian signed integer of 1, 2, 4 or 8 bytes.
    BinarySigned,
    BinaryUnsigned,
    BinaryFloat4,
    BinaryFloat8,
    /// The bytes are in order as they are.
    Bytes,
    /// Strings whose trailing blanks do not count.
    BytesBlankPadded,
}

/// OIDs of `src/include/catalog/pg_type.dat`.
mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const INTERNAL_CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT2: u32 = 21;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const FLOAT4: u32 = 700;
    pub const FLOAT8: u32 = 701;
    pub const MONEY: u32 = 790;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const DATE: u32 = 1082;
    pub const TIME: u32 = 1083;
    pub const TIMESTAMP: u32 = 1114;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const NUMERIC: u32 = 1700;
    pub const UUID: u32 = 2950;
}

impl KeyReader {
    /// None: the order of this column is not exactly known here.
    pub fn of(field: &FieldDescription, order: ValueOrder) -> Option<KeyReader> {
        use Format::{Binary, Text};
        let encoding = match (field.type_oid, field.format) {
            (oid::INT2 | oid::INT4 | oid::INT8 | oid::OID, Text) => Encoding::TextInt,
            (oid::INT2 | oid::INT4 | oid::INT8 | oid::MONEY | oid::TIME, Binary) => Encoding::BinarySigned,
            (oid::OID | oid::BOOL | oid::INTERNAL_CHAR, Binary) => Encoding::BinaryUnsigned,
            (oid::BOOL, Text) => Encoding::TextBool,
            (oid::INTERNAL_CHAR, Text) => Encoding::TextInternalChar,
            (oid::FLOAT4, Text) if order.exact_floats => Encoding::TextFloat4,
            (oid::FLOAT8, Text) if order.exact_floats => Encoding::TextFloat8,
            (oid::FLOAT4, Binary) => Encoding::BinaryFloat4,
            (oid::FLOAT8, Binary) => Encoding::BinaryFloat8,
            (oid::NUMERIC, Text) => Encoding::TextOf(KeyType::Numeric),
            (oid::NUMERIC, Binary) => Encoding::BinaryOf(KeyType::Numeric),
            (oid::DATE, Text) if order.iso_dates => Encoding::TextOf(KeyType::Date),
            (oid::TIMESTAMP, Text) if order.iso_dates => Encoding::TextOf(KeyType::Timestamp),
            (oid::TIMESTAMPTZ, Text) if order.iso_dates => Encoding::TextOf(KeyType::Timestamptz),
            (oid::DATE | oid::TIMESTAMP | oid::TIMESTAMPTZ, Binary) => Encoding::BinarySigned,
            // HH:MM:SS with a fraction that has no trailing zeros, in every DateStyle.
            (oid::TIME, Text) => Encoding::Bytes,
            // Lower-case hexadecimal digits and hyphens at fixed places.
            (oid::UUID, Text | Binary) => Encoding::Bytes,
            (oid::BYTEA, Text) => Encoding::TextOf(KeyType::Bytea),
            (oid::BYTEA, Binary) => Encoding::Bytes,
            (oid::TEXT | oid::VARCHAR | oid::NAME, Text | Binary) if order.strings_by_bytes => Encoding::Bytes,
            (oid::BPCHAR, Text | Binary) if order.strings_by_bytes => Encoding::BytesBlankPadded,
            _ => return None,
        };
        Some(KeyReader { type_oid: field.type_oid, encoding })
    }

    /// `value` is a column of `row`.
    pub fn read(self, row: &Bytes, value: &[u8]) -> Result<SortValue, MergeError> {
        let unreadable = || MergeError::UnreadableSortKey { type_oid: self.type_oid };
        let text = || std::str::from_utf8(value).map_err(|_| unreadable());
        Ok(match self.encoding {
            Encoding::TextInt => SortValue::Int(text()?.parse().map_err(|_| unreadable())?),
            Encoding::TextBool => match value {
                b"f" => SortValue::Int(0),
                b"t" => SortValue::Int(1),
                _ => return Err(unreadable()),
            },
            // The shortest digits of a float4 are exact only when they are read as one.
            Encoding::TextFloat4 => SortValue::Float(text()?.parse::<f32>().map_err(|_| unreadable())?.into()),
            Encoding::TextFloat8 => SortValue::Float(text()?.parse().map_err(|_| unreadable())?),
            Encoding::TextInternalChar => SortValue::Int(internal_char(value).ok_or_else(unreadable)?),
            Encoding::TextOf(key_type) => {
                key_value(KeyValue::from_text(key_type, text()?).map_err(|_| unreadable())?).ok_or_else(unreadable)?
            }
            Encoding::BinaryOf(key_type) => {
                key_value(KeyValue::from_binary(key_type, value).map_err(|_| unreadable())?).ok_or_else(unreadable)?
            }
            Encoding::BinarySigned => SortValue::Int(match value {
                [_, _] => integer(value.try_into().map(i16::from_be_bytes)).ok_or_else(unreadable)?,
                [_, _, _, _] => integer(value.try_into().map(i32::from_be_bytes)).ok_or_else(unreadable)?,
                _ => integer(value.try_into().map(i64::from_be_bytes)).ok_or_else(unreadable)?,
            }),
            Encoding::BinaryUnsigned => SortValue::Int(match value {
                [byte] => i64::from(*byte),
                _ => integer(value.try_into().map(u32::from_be_bytes)).ok_or_else(unreadable)?,
            }),
            Encoding::BinaryFloat4 => {
                SortValue::Float(f32::from_be_bytes(value.try_into().map_err(|_| unreadable())?).into())
            }
            Encoding::BinaryFloat8 => SortValue::Float(f64::from_be_bytes(value.try_into().map_err(|_| unreadable())?)),
            Encoding::Bytes => SortValue::Bytes(row.slice_ref(value)),
            Encoding::BytesBlankPadded => {
                let length = value.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
                SortValue::Bytes(row.slice_ref(&value[..length]))
            }
        })
    }
}

fn integer<T: Into<i64>, E>(value: Result<T, E>) -> Option<i64> {
    value.ok().map(Into::into)
}

/// `"char"`: one byte, nothing for the byte 0, and from PostgreSQL 16 on `\ooo` for a byte above 127.
fn internal_char(value: &[u8]) -> Option<i64> {
    match value {
        [] => Some(0),
        [byte] => Some(i64::from(*byte)),
        [b'\\', a @ b'2'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'] => {
            Some(i64::from(a - b'0') << 6 | i64::from(b - b'0') << 3 | i64::from(c - b'0'))
        }
        _ => None,
    }
}

fn key_value(value: KeyValue) -> Option<SortValue> {
    Some(match value {
        KeyValue::Int(value) | KeyValue::Timestamp(value) => SortValue::Int(value),
        KeyValue::Date(days) => SortValue::Int(days.into()),
        KeyValue::Numeric(decimal) => SortValue::Decimal(decimal),
        KeyValue::Bytea(bytes) => SortValue::Bytes(bytes.into()),
        KeyValue::Uuid(_) | KeyValue::Text(_) | KeyValue::Bpchar(_) => return None,
    })
}

/// A column of this type, for tests.
#[cfg(test)]
pub(super) fn field(type_oid: u32, format: Format) -> FieldDescription {
    FieldDescription { name: "?column?".to_owned(), table_oid: 0, column: 0, type_oid, typlen: -1, typmod: -1, format }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
