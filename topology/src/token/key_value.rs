//! A shard key's value, read from the text or the binary wire format exactly as the server reads it, or refused.

use super::hash::{hash_bytes, hash_int8};
use super::{bytea, datetime, uuid, Decimal, KeyFamily, KeyType, Token};

/// A normalised key: values that PostgreSQL's `=` holds equal are equal here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyValue {
    Int(i64),
    /// `text` or `varchar`.
    Text(String),
    /// Without its trailing blanks.
    Bpchar(String),
    Uuid([u8; 16]),
    Bytea(Vec<u8>),
    /// Days since 2000-01-01; `i32::MIN` and `i32::MAX` are the infinities.
    Date(i32),
    /// `timestamp` or `timestamptz`: microseconds since 2000-01-01 00:00 (UTC); `i64::MIN` and `i64::MAX` are the
    /// infinities.
    Timestamp(i64),
    Numeric(Decimal),
}

/// Why a key has no token here. The text of the key is not repeated: it may be confidential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The server refuses this value too.
    #[error("invalid value for type {key_type}: {reason}")]
    Invalid { key_type: KeyType, reason: &'static str },
    /// The server may read this value, but what it reads depends on its version or settings.
    #[error("value for type {key_type} is not supported as a shard key: {reason}")]
    Unsupported { key_type: KeyType, reason: &'static str },
}

/// A [`KeyError`] of a reader that does not know the key's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Invalid(&'static str),
    Unsupported(&'static str),
}

impl Fault {
    fn of(self, key_type: KeyType) -> KeyError {
        match self {
            Fault::Invalid(reason) => KeyError::Invalid { key_type, reason },
            Fault::Unsupported(reason) => KeyError::Unsupported { key_type, reason },
        }
    }

    /// For text that is no decimal number: PostgreSQL 16 reads more spellings of numbers than 14 and 15.
    pub(super) fn malformed_number(trimmed: &str) -> Fault {
        let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
        let radix = ["0x", "0X", "0o", "0O", "0b", "0B"].iter().any(|prefix| unsigned.starts_with(prefix));
        if radix || !trimmed.is_ascii() || trimmed.contains(is_space) || trimmed.contains('_') {
            Fault::Unsupported("only plain decimal notation is read")
        } else {
            Fault::Invalid("invalid input syntax")
        }
    }
}

const NOT_UTF8: Fault = Fault::Invalid(BAD_ENCODING);
const BAD_SYNTAX: Fault = Fault::Invalid("invalid input syntax");
const TOO_LONG: Fault = Fault::Invalid("incorrect binary data format");
/// The binary value is shorter than its type's.
pub const TOO_SHORT: &str = "insufficient data left in message";
/// Text that is not UTF-8 or has a NUL in it.
pub const BAD_ENCODING: &str = "invalid byte sequence for encoding UTF8";
pub(super) const OUT_OF_RANGE: Fault = Fault::Invalid("out of range");

impl KeyValue {
    /// Reads the type's text format: what its input function takes, for instance a string literal's contents.
    pub fn from_text(key_type: KeyType, text: &str) -> Result<KeyValue, KeyError> {
        read_text(key_type, text).map_err(|fault| fault.of(key_type))
    }

    /// Reads the type's binary wire format: what its receive function takes.
    pub fn from_binary(key_type: KeyType, bytes: &[u8]) -> Result<KeyValue, KeyError> {
        read_binary(key_type, bytes).map_err(|fault| fault.of(key_type))
    }

    /// [`KeyValue::from_text`] for a parameter whose type differs harmlessly from the column's: the integer types
    /// among each other, `text` and `varchar`, and either of those for a `bpchar` column. A value that the column
    /// cannot hold has a token all the same: no row equals it, on any shard.
    pub fn from_text_for(parameter: KeyType, column: KeyType, text: &str) -> Result<KeyValue, KeyError> {
        KeyValue::from_text(read_as(parameter, column)?, text)
    }

    /// [`KeyValue::from_binary`] under the rules of [`KeyValue::from_text_for`].
    pub fn from_binary_for(parameter: KeyType, column: KeyType, bytes: &[u8]) -> Result<KeyValue, KeyError> {
        KeyValue::from_binary(read_as(parameter, column)?, bytes)
    }

    pub fn token(&self) -> Token {
        let hash = match self {
            KeyValue::Int(value) | KeyValue::Timestamp(value) => hash_int8(*value),
            KeyValue::Text(text) | KeyValue::Bpchar(text) => hash_bytes(text.as_bytes()),
            KeyValue::Uuid(uuid) => hash_bytes(uuid),
            KeyValue::Bytea(bytes) => hash_bytes(bytes),
            KeyValue::Date(days) => hash_int8(i64::from(*days)),
            KeyValue::Numeric(decimal) => decimal.hash_extended(),
        };
        Token(hash as i64)
    }
}

/// The type to read a parameter as, so that the value fits the column's family.
fn read_as(parameter: KeyType, column: KeyType) -> Result<KeyType, KeyError> {
    match (parameter.family(), column.family()) {
        (given, wanted) if given == wanted => Ok(parameter),
        // Whether PostgreSQL compares as text or as bpchar, a row that equals the value has its token without blanks.
        (KeyFamily::Text, KeyFamily::Bpchar) => Ok(column),
        _ => Err(KeyError::Unsupported { key_type: parameter, reason: "the key column has another type" }),
    }
}

fn read_text(key_type: KeyType, text: &str) -> Result<KeyValue, Fault> {
    Ok(match key_type {
        KeyType::Int2 => KeyValue::Int(parse_int(text, i16::MIN.into(), i16::MAX.into())?),
        KeyType::Int4 => KeyValue::Int(parse_int(text, i32::MIN.into(), i32::MAX.into())?),
        KeyType::Int8 => KeyValue::Int(parse_int(text, i64::MIN, i64::MAX)?),
        KeyType::Text | KeyType::Varchar => KeyValue::Text(without_nul(text)?.to_owned()),
        KeyType::Bpchar => KeyValue::Bpchar(without_nul(text)?.trim_end_matches(' ').to_owned()),
        KeyType::Uuid => KeyValue::Uuid(uuid::parse(text).ok_or(BAD_SYNTAX)?),
        KeyType::Bytea => KeyValue::Bytea(bytea::parse(text).ok_or(BAD_SYNTAX)?),
        KeyType::Date => KeyValue::Date(datetime::parse_date(text)?),
        KeyType::Timestamp => KeyValue::Timestamp(datetime::parse_timestamp(text)?),
        KeyType::Timestamptz => KeyValue::Timestamp(datetime::parse_timestamptz(text)?),
        KeyType::Numeric => KeyValue::Numeric(Decimal::parse(text)?),
    })
}

fn read_binary(key_type: KeyType, bytes: &[u8]) -> Result<KeyValue, Fault> {
    Ok(match key_type {
        KeyType::Int2 => KeyValue::Int(i16::from_be_bytes(exactly(bytes)?).into()),
        KeyType::Int4 => KeyValue::Int(i32::from_be_bytes(exactly(bytes)?).into()),
        KeyType::Int8 => KeyValue::Int(i64::from_be_bytes(exactly(bytes)?)),
        KeyType::Text | KeyType::Varchar | KeyType::Bpchar => {
            return read_text(key_type, std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)?);
        }
        KeyType::Uuid => KeyValue::Uuid(exactly(bytes)?),
        KeyType::Bytea => KeyValue::Bytea(bytes.to_vec()),
        KeyType::Date => KeyValue::Date(datetime::check_date(i32::from_be_bytes(exactly(bytes)?))?),
        KeyType::Timestamp | KeyType::Timestamptz => {
            KeyValue::Timestamp(datetime::check_timestamp(i64::from_be_bytes(exactly(bytes)?))?)
        }
        KeyType::Numeric => KeyValue::Numeric(Decimal::from_binary(bytes)?),
    })
}

/// `int2in`, `int4in`, `int8in` (`src/backend/utils/adt/numutils.c`).
fn parse_int(text: &str, min: i64, max: i64) -> Result<i64, Fault> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let trimmed = text.trim_matches(is_space);
    match trimmed.parse::<i64>() {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        Ok(_) => Err(OUT_OF_RANGE),
        Err(error) if matches!(error.kind(), NegOverflow | PosOverflow) => Err(OUT_OF_RANGE),
        Err(_) => Err(Fault::malformed_number(trimmed)),
    }
}

/// C's `isspace`, for ASCII.
pub(super) fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

fn without_nul(text: &str) -> Result<&str, Fault> {
    if text.contains('\0') {
        return Err(NOT_UTF8);
    }
    Ok(text)
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| if bytes.len() < N { Fault::Invalid(TOO_SHORT) } else { TOO_LONG })
}
