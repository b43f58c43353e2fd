//! The shards of one execution: keys are evaluated from the parameters, hashed, and looked up in the ring of the moment.

use ringway_topology::ids::{KeyspaceId, ShardId};
use ringway_topology::model::Topology;
use ringway_topology::token::{KeyError, KeyFamily, KeyType, KeyValue, Token, BAD_ENCODING, TOO_SHORT};

use smallvec::{smallvec, SmallVec};

use super::keys::fits;
use super::refuse::refused;
use super::types::{KeyExpression, Targets};
use crate::wire::sqlstate::SqlState;
use crate::wire::{Format, PgError};

/// One value of Bind.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    /// As declared in Parse, or as the server described it; 0 if not known.
    pub type_oid: u32,
    pub format: Format,
    /// `None` is NULL.
    pub value: Option<&'a [u8]>,
}

pub type Parameters<'a> = [Parameter<'a>];

/// PostgreSQL's MAXDIM.
const ARRAY_DIMENSIONS_MAX: i32 = 6;

/// PostgreSQL's MaxArraySize.
const ARRAY_ELEMENTS_MAX: usize = 134_217_727;

/// A few without allocating.
pub type Shards = SmallVec<[ShardId; 8]>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Sorted, each once; never empty.
    pub shards: Shards,
    /// Of the keys that hold the statement. Empty when none do.
    pub tokens: SmallVec<[Token; 4]>,
    pub keyspace: Option<KeyspaceId>,
}

pub fn route(targets: &Targets, topology: &Topology, parameters: &Parameters<'_>) -> Result<Route, PgError> {
    let no_shard = || PgError::new(SqlState::CANNOT_CONNECT_NOW, "the cluster has no shard yet");
    let one = |shard: ShardId| Route { shards: smallvec![shard], tokens: SmallVec::new(), keyspace: None };
    match targets {
        Targets::AnyOne | Targets::Home => topology.home_shard().map(one).ok_or_else(no_shard),
        Targets::EveryMember => {
            let shards: Shards = topology.members().map(|shard| shard.id).collect();
            if shards.is_empty() {
                return Err(no_shard());
            }
            Ok(Route { shards, tokens: SmallVec::new(), keyspace: None })
        }
        Targets::Keyspace(id) => {
            let keyspace = topology.keyspace(*id).ok_or_else(|| unknown_keyspace(*id))?;
            let mut shards = Shards::from_vec(keyspace.ring().owners());
            shards.sort_unstable();
            shards.dedup();
            Ok(Route { shards, tokens: SmallVec::new(), keyspace: Some(*id) })
        }
        Targets::Keys(keys) => {
            let keyspace = topology.keyspace(keys.keyspace).ok_or_else(|| unknown_keyspace(keys.keyspace))?;
            let mut tokens = SmallVec::with_capacity(keys.values.len());
            for value in &keys.values {
                each_key(value, parameters, &mut |key| tokens.push(key.token()))?;
            }
            let mut shards = Shards::new();
            for token in &tokens {
                shards.push(keyspace.owner(*token));
            }
            if shards.len() > 1 {
                shards.sort_unstable();
                shards.dedup();
            }
            if shards.is_empty() {
                // No key at all: no row is concerned, one shard that owns rows answers.
                shards.extend(keyspace.ring().owners().into_iter().min());
            }
            Ok(Route { shards, tokens, keyspace: Some(keys.keyspace) })
        }
    }
}

fn unknown_keyspace(id: KeyspaceId) -> PgError {
    PgError::internal(format!("keyspace {id} is not in the topology"))
}

/// The value of a key; `None` is NULL. Not for arrays.
pub fn evaluate(expression: &KeyExpression, parameters: &Parameters<'_>) -> Result<Option<KeyValue>, PgError> {
    let mut out = None;
    each_key(expression, parameters, &mut |key| out = Some(key.clone()))?;
    Ok(out)
}

fn each_key(
    expression: &KeyExpression,
    parameters: &Parameters<'_>,
    emit: &mut dyn FnMut(&KeyValue),
) -> Result<(), PgError> {
    match expression {
        KeyExpression::Constant(value) => {
            if let Some(value) = value {
                emit(value);
            }
            Ok(())
        }
        KeyExpression::Parameter { index, key_type, typmod } => {
            let parameter = parameter(parameters, *index)?;
            let Some(bytes) = parameter.value else { return Ok(()) };
            let value = read(*index, parameter.type_oid, parameter.format, bytes, *key_type)?;
            if !fits(&value, *key_type, *typmod) {
                return Err(refused(
                    format!("the shard key in parameter ${} may be changed by storing it", index + 1),
                    "The column's type has a length or precision that the value does not simply fit.",
                    "Give the key as it will be stored.",
                ));
            }
            emit(&value);
            Ok(())
        }
        KeyExpression::ParameterArray { index, key_type } => {
            let parameter = parameter(parameters, *index)?;
            let Some(bytes) = parameter.value else { return Ok(()) };
            let element = array_element(parameter.type_oid);
            match parameter.format {
                Format::Binary => binary_array(*index, bytes, *key_type, emit),
                Format::Text | Format::Other(_) => text_array(*index, element, bytes, *key_type, emit),
            }
        }
    }
}

fn parameter<'a>(parameters: &Parameters<'a>, index: usize) -> Result<Parameter<'a>, PgError> {
    parameters
        .get(index)
        .copied()
        .ok_or_else(|| PgError::new(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter ${}", index + 1)))
}

fn read(index: usize, oid: u32, format: Format, bytes: &[u8], key_type: KeyType) -> Result<KeyValue, PgError> {
    let given = match oid {
        // Unknown, or `unknown` itself: PostgreSQL takes the type of the column or cast.
        0 | 705 => Some(key_type),
        oid => KeyType::from_oid(oid),
    };
    let result = match (given, format) {
        (None, _) => return Err(mismatch(index, key_type)),
        (Some(given), Format::Text | Format::Other(_)) => {
            let text = utf8(bytes)?;
            if given.family() == KeyFamily::Text && key_type.family() != KeyFamily::Text {
                // A text parameter under an explicit cast: read as the cast reads it.
                KeyValue::from_text(key_type, text)
            } else {
                KeyValue::from_text_for(given, key_type, text)
            }
        }
        (Some(given), Format::Binary) => {
            if given.family() == KeyFamily::Text && key_type.family() != KeyFamily::Text {
                KeyValue::from_text(key_type, utf8(bytes)?)
            } else if matches!(given.family(), KeyFamily::Text | KeyFamily::Bpchar) {
                KeyValue::from_text_for(given, key_type, utf8(bytes)?)
            } else {
                KeyValue::from_binary_for(given, key_type, bytes)
            }
        }
    };
    result.map_err(|error| key_error(index, error, if format == Format::Text { bytes } else { &[] }))
}

/// Text in the server's encoding, without NULs (`pg_verify_mbstr`, `src/backend/utils/mb/mbutils.c`).
fn utf8(bytes: &[u8]) -> Result<&str, PgError> {
    let invalid = |at: usize| {
        let lead = bytes.get(at).copied().unwrap_or_default();
        let length = match lead {
            0xf0..=0xf7 => 4,
            0xe0..=0xef => 3,
            0xc0..=0xdf => 2,
            _ => 1,
        };
        let sequence: Vec<String> = bytes.iter().skip(at).take(length).map(|byte| format!("0x{byte:02x}")).collect();
        PgError::new(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": {}", sequence.join(" ")),
        )
    };
    let nul = bytes.iter().position(|byte| *byte == 0);
    match (std::str::from_utf8(bytes), nul) {
        (Ok(text), None) => Ok(text),
        (Ok(_), Some(nul)) => Err(invalid(nul)),
        (Err(error), nul) => Err(invalid(nul.map_or(error.valid_up_to(), |nul| nul.min(error.valid_up_to())))),
    }
}

fn mismatch(index: usize, key_type: KeyType) -> PgError {
    refused(
        format!("parameter ${} has a type that the shard key is not compared with exactly", index + 1),
        format!("The shard key is of type {key_type}."),
        format!("Declare the parameter as {key_type}, or leave its type open."),
    )
}

/// `text`: of the value, if it came as text.
fn key_error(index: usize, error: KeyError, text: &[u8]) -> PgError {
    match error {
        // As PostgreSQL's own input function says it.
        KeyError::Invalid { key_type, reason: "invalid input syntax" } if !text.is_empty() => PgError::new(
            SqlState::INVALID_TEXT_REPRESENTATION,
            format!("invalid input syntax for type {key_type}: \"{}\"", String::from_utf8_lossy(text)),
        ),
        KeyError::Invalid { key_type, reason: "out of range" } if !text.is_empty() && is_integer(key_type) => {
            PgError::new(
                SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                format!("value \"{}\" is out of range for type {key_type}", String::from_utf8_lossy(text)),
            )
        }
        KeyError::Invalid { reason: reason @ "incorrect binary data format", .. } => {
            PgError::new(SqlState::INVALID_BINARY_REPRESENTATION, format!("{reason} in bind parameter {}", index + 1))
        }
        KeyError::Invalid { reason: TOO_SHORT, .. } => PgError::new(SqlState::PROTOCOL_VIOLATION, TOO_SHORT),
        KeyError::Invalid { key_type, reason } => {
            let code = match reason {
                "out of range" => SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                BAD_ENCODING => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                _ => SqlState::INVALID_TEXT_REPRESENTATION,
            };
            PgError::new(code, format!("invalid value for shard key of type {key_type}: {reason}"))
                .detail(format!("It is parameter ${}.", index + 1))
        }
        KeyError::Unsupported { key_type, reason } => refused(
            format!("the shard key in parameter ${} cannot be placed exactly", index + 1),
            format!("A value of type {key_type}: {reason}."),
            "Use ISO format with a time zone, plain decimal notation, or the binary format.",
        ),
    }
}

fn is_integer(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8)
}

/// The element type of an array type, by `pg_type.dat`; 0 for what is not declared.
fn array_element(oid: u32) -> u32 {
    match oid {
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1009 => 25,
        1015 => 1043,
        1014 => 1042,
        2951 => 2950,
        1001 => 17,
        1182 => 1082,
        1115 => 1114,
        1185 => 1184,
        1231 => 1700,
        0 | 705 => 0,
        _ => u32::MAX,
    }
}

/// `array_send`'s format: dimensions, flags, element type, then per dimension length and lower bound, then the elements.
/// Errors are those of `array_recv` (`src/backend/utils/adt/arrayfuncs.c`).
fn binary_array(index: usize, bytes: &[u8], key_type: KeyType, emit: &mut dyn FnMut(&KeyValue)) -> Result<(), PgError> {
    let detail = || format!("It is the array in parameter ${}.", index + 1);
    let malformed =
        |message: &str| PgError::new(SqlState::INVALID_BINARY_REPRESENTATION, message.to_owned()).detail(detail());
    let too_large = |message: String| PgError::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message).detail(detail());
    let mut at = 0usize;
    let int = |at: &mut usize| -> Result<i32, PgError> {
        let value = bytes
            .get(*at..*at + 4)
            .ok_or_else(|| PgError::new(SqlState::PROTOCOL_VIOLATION, TOO_SHORT).detail(detail()))?;
        *at += 4;
        Ok(i32::from_be_bytes([value[0], value[1], value[2], value[3]]))
    };
    let dimensions = int(&mut at)?;
    if dimensions < 0 {
        return Err(malformed(&format!("invalid number of dimensions: {dimensions}")));
    }
    if dimensions > ARRAY_DIMENSIONS_MAX {
        return Err(too_large(format!(
            "number of array dimensions ({dimensions}) exceeds the maximum allowed ({ARRAY_DIMENSIONS_MAX})"
        )));
    }
    if !(0..=1).contains(&int(&mut at)?) {
        return Err(malformed("invalid array flags"));
    }
    let element = int(&mut at)? as u32;
    let mut count = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        let length = int(&mut at)?;
        let _lower = int(&mut at)?;
        let product = usize::try_from(length).ok().and_then(|length| count.checked_mul(length));
        count = product
            .filter(|count| *count <= ARRAY_ELEMENTS_MAX)
            .ok_or_else(|| too_large(format!("array size exceeds the maximum allowed ({ARRAY_ELEMENTS_MAX})")))?;
    }
    for _ in 0..count {
        let length = int(&mut at)?;
        if let Ok(length) = usize::try_from(length) {
            let value = bytes.get(at..at + length).ok_or_else(|| malformed(TOO_SHORT))?;
            at += length;
            emit(&read(index, element, Format::Binary, value, key_type)?);
        } else if length < -1 {
            return Err(malformed(TOO_SHORT));
        }
    }
    if at < bytes.len() {
        return Err(malformed(&format!("incorrect binary data format in bind parameter {}", index + 1)));
    }
    Ok(())
}

/// `{a,"b,c",NULL}` of one dimension.
fn text_array(
    index: usize,
    element: u32,
    bytes: &[u8],
    key_type: KeyType,
    emit: &mut dyn FnMut(&KeyValue),
) -> Result<(), PgError> {
    let malformed = || {
        refused(
            format!("the array in parameter ${} is not of the plain form {{a,b,c}}", index + 1),
            "Its elements are shard keys, which must be read exactly.",
            "Send one dimension without bounds, or the binary format.",
        )
    };
    let text = utf8(bytes)?;
    let inner = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(malformed)?;
    if inner.trim().is_empty() {
        return Ok(());
    }
    let mut characters = inner.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        let mut value = String::new();
        let quoted = characters.next_if_eq(&'"').is_some();
        if quoted {
            loop {
                match characters.next().ok_or_else(malformed)? {
                    '"' => break,
                    '\\' => value.push(characters.next().ok_or_else(malformed)?),
                    other => value.push(other),
                }
            }
            while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        } else {
            while let Some(next) = characters.next_if(|c| *c != ',') {
                match next {
                    '{' | '}' | '"' => return Err(malformed()),
                    '\\' => value.push(characters.next().ok_or_else(malformed)?),
                    other => value.push(other),
                }
            }
            value.truncate(value.trim_end_matches(|c: char| c.is_ascii_whitespace()).len());
            if value.is_empty() {
                return Err(malformed());
            }
        }
        if quoted || !value.eq_ignore_ascii_case("null") {
            emit(&read(index, element, Format::Text, value.as_bytes(), key_type)?);
        }
        match characters.next() {
            None => return Ok(()),
            Some(',') => {}
            Some(_) => return Err(malformed()),
        }
    }
}
