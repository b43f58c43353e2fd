//! The types a shard key may have. Which columns are keys, and their type modifiers, is the catalog's business.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A PostgreSQL type that can be a shard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    Int2,
    Int4,
    Int8,
    Text,
    Varchar,
    Bpchar,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    Timestamptz,
    Numeric,
}

/// Types whose equal values have equal tokens. A keyspace has one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFamily {
    Integer,
    Text,
    /// Trailing blanks do not count.
    Bpchar,
    Uuid,
    Bytea,
    Date,
    Timestamp,
    Timestamptz,
    Numeric,
}

impl KeyType {
    pub const ALL: [KeyType; 12] = [
        KeyType::Int2,
        KeyType::Int4,
        KeyType::Int8,
        KeyType::Text,
        KeyType::Varchar,
        KeyType::Bpchar,
        KeyType::Uuid,
        KeyType::Bytea,
        KeyType::Date,
        KeyType::Timestamp,
        KeyType::Timestamptz,
        KeyType::Numeric,
    ];

    /// `None` for a type that cannot be a shard key.
    pub fn from_oid(oid: u32) -> Option<KeyType> {
        KeyType::ALL.into_iter().find(|key_type| key_type.oid() == oid)
    }

    /// The type's OID in `pg_type`, fixed by PostgreSQL (`src/include/catalog/pg_type.dat`).
    pub const fn oid(self) -> u32 {
        match self {
            KeyType::Int2 => 21,
            KeyType::Int4 => 23,
            KeyType::Int8 => 20,
            KeyType::Text => 25,
            KeyType::Varchar => 1043,
            KeyType::Bpchar => 1042,
            KeyType::Uuid => 2950,
            KeyType::Bytea => 17,
            KeyType::Date => 1082,
            KeyType::Timestamp => 1114,
            KeyType::Timestamptz => 1184,
            KeyType::Numeric => 1700,
        }
    }

    /// A name for casts and declarations that sets no type modifier: `bpchar`, since `character` means `character(1)`.
    pub const fn sql_name(self) -> &'static str {
        match self {
            KeyType::Int2 => "smallint",
            KeyType::Int4 => "integer",
            KeyType::Int8 => "bigint",
            KeyType::Text => "text",
            KeyType::Varchar => "character varying",
            KeyType::Bpchar => "bpchar",
            KeyType::Uuid => "uuid",
            KeyType::Bytea => "bytea",
            KeyType::Date => "date",
            KeyType::Timestamp => "timestamp without time zone",
            KeyType::Timestamptz => "timestamp with time zone",
            KeyType::Numeric => "numeric",
        }
    }

    pub const fn family(self) -> KeyFamily {
        match self {
            KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => KeyFamily::Integer,
            KeyType::Text | KeyType::Varchar => KeyFamily::Text,
            KeyType::Bpchar => KeyFamily::Bpchar,
            KeyType::Uuid => KeyFamily::Uuid,
            KeyType::Bytea => KeyFamily::Bytea,
            KeyType::Date => KeyFamily::Date,
            KeyType::Timestamp => KeyFamily::Timestamp,
            KeyType::Timestamptz => KeyFamily::Timestamptz,
            KeyType::Numeric => KeyFamily::Numeric,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.sql_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_are_distinct_and_found_again() {
        for key_type in KeyType::ALL {
            assert_eq!(KeyType::from_oid(key_type.oid()), Some(key_type));
        }
        assert_eq!(KeyType::from_oid(701), None, "double precision is no shard key");
    }

    #[test]
    fn serialised_in_snake_case() {
        assert_eq!(serde_json::to_string(&KeyType::Timestamptz).unwrap(), r#""timestamptz""#);
        assert_eq!(serde_json::to_string(&KeyFamily::Integer).unwrap(), r#""integer""#);
    }
}
