//! SQLSTATE codes (PostgreSQL documentation, appendix "PostgreSQL Error Codes"), those that a gateway raises or looks for.
//! The codes of class RW are raised by the schema of every shard (`migrations/`).

use std::fmt;

/// Five characters, digits and upper-case letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: SqlState = SqlState::new($code);)*
        }
    };
}

states! {
    SUCCESSFUL_COMPLETION = b"00000";
    WARNING = b"01000";
    SQLCLIENT_UNABLE_TO_ESTABLISH_CONNECTION = b"08001";
    CONNECTION_DOES_NOT_EXIST = b"08003";
    CONNECTION_REJECTED = b"08004";
    CONNECTION_FAILURE = b"08006";
    /// The commit may or may not have happened.
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    PROTOCOL_VIOLATION = b"08P01";
    FEATURE_NOT_SUPPORTED = b"0A000";
    CARDINALITY_VIOLATION = b"21000";
    NUMERIC_VALUE_OUT_OF_RANGE = b"22003";
    STRING_DATA_RIGHT_TRUNCATION = b"22001";
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    INVALID_PARAMETER_VALUE = b"22023";
    INVALID_TEXT_REPRESENTATION = b"22P02";
    INVALID_BINARY_REPRESENTATION = b"22P03";
    BAD_COPY_FILE_FORMAT = b"22P04";
    INTEGRITY_CONSTRAINT_VIOLATION = b"23000";
    NOT_NULL_VIOLATION = b"23502";
    FOREIGN_KEY_VIOLATION = b"23503";
    UNIQUE_VIOLATION = b"23505";
    CHECK_VIOLATION = b"23514";
    INVALID_CURSOR_STATE = b"24000";
    ACTIVE_SQL_TRANSACTION = b"25001";
    READ_ONLY_SQL_TRANSACTION = b"25006";
    NO_ACTIVE_SQL_TRANSACTION = b"25P01";
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    INVALID_SQL_STATEMENT_NAME = b"26000";
    INVALID_AUTHORIZATION_SPECIFICATION = b"28000";
    INVALID_PASSWORD = b"28P01";
    INVALID_CURSOR_NAME = b"34000";
    INVALID_SAVEPOINT_SPECIFICATION = b"3B001";
    INVALID_CATALOG_NAME = b"3D000";
    INVALID_SCHEMA_NAME = b"3F000";
    TRANSACTION_ROLLBACK = b"40000";
    SERIALIZATION_FAILURE = b"40001";
    STATEMENT_COMPLETION_UNKNOWN = b"40003";
    DEADLOCK_DETECTED = b"40P01";
    INSUFFICIENT_PRIVILEGE = b"42501";
    SYNTAX_ERROR = b"42601";
    INVALID_NAME = b"42602";
    NAME_TOO_LONG = b"42622";
    DUPLICATE_COLUMN = b"42701";
    AMBIGUOUS_COLUMN = b"42702";
    UNDEFINED_COLUMN = b"42703";
    UNDEFINED_OBJECT = b"42704";
    DUPLICATE_OBJECT = b"42710";
    DATATYPE_MISMATCH = b"42804";
    WRONG_OBJECT_TYPE = b"42809";
    UNDEFINED_FUNCTION = b"42883";
    UNDEFINED_TABLE = b"42P01";
    UNDEFINED_PARAMETER = b"42P02";
    DUPLICATE_CURSOR = b"42P03";
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    DUPLICATE_TABLE = b"42P07";
    INVALID_COLUMN_REFERENCE = b"42P10";
    INDETERMINATE_DATATYPE = b"42P18";
    INSUFFICIENT_RESOURCES = b"53000";
    OUT_OF_MEMORY = b"53200";
    TOO_MANY_CONNECTIONS = b"53300";
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    STATEMENT_TOO_COMPLEX = b"54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    OBJECT_IN_USE = b"55006";
    CANT_CHANGE_RUNTIME_PARAM = b"55P02";
    LOCK_NOT_AVAILABLE = b"55P03";
    QUERY_CANCELED = b"57014";
    ADMIN_SHUTDOWN = b"57P01";
    CRASH_SHUTDOWN = b"57P02";
    CANNOT_CONNECT_NOW = b"57P03";
    DATABASE_DROPPED = b"57P04";
    IDLE_SESSION_TIMEOUT = b"57P05";
    SYSTEM_ERROR = b"58000";
    INTERNAL_ERROR = b"XX000";
    DATA_CORRUPTED = b"XX001";
    /// Ours: INFO, the transaction has captured rows; the detail is its xid8.
    RW_CAPTURED = b"RW001";
    /// Ours: the rows' arcs are closed here; another shard has them, or a cutover is under way.
    RW_ARCS_CLOSED = b"RW002";
    /// Ours: the shard has seen a newer epoch than the gateway's.
    RW_STALE_EPOCH = b"RW003";
    /// Ours: reference tables or DDL are fenced for the moment.
    RW_FENCED = b"RW004";
    /// Ours: a mirrored row meets a row of the target's own.
    RW_MIRROR_CONFLICT = b"RW005";
    /// Ours: not allowed while rows of the table are moving.
    RW_TABLE_MOVING = b"RW006";
    /// Ours: no such move on the shard.
    RW_NO_SUCH_MOVE = b"RW007";
}

impl SqlState {
    /// A code that is known to be one; refuses to compile (or panics, outside constants) for anything else.
    pub const fn new(code: &[u8; 5]) -> Self {
        assert!(is_code(code), "a SQLSTATE is five digits or upper-case letters");
        SqlState(*code)
    }

    /// The code in `text`, if it is five digits or upper-case letters.
    pub fn parse(text: impl AsRef<[u8]>) -> Option<Self> {
        let code: [u8; 5] = text.as_ref().try_into().ok()?;
        is_code(&code).then_some(SqlState(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Every code is checked to be ASCII when it is made.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The first two characters: the class.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

const fn is_code(code: &[u8; 5]) -> bool {
    let mut index = 0;
    while index < code.len() {
        if !(code[index].is_ascii_digit() || code[index].is_ascii_uppercase()) {
            return false;
        }
        index += 1;
    }
    true
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_five_digits_or_capitals() {
        assert_eq!(SqlState::parse("42P01"), Some(SqlState::UNDEFINED_TABLE));
        assert_eq!(SqlState::UNDEFINED_TABLE.class(), "42");
        assert_eq!(SqlState::parse("42p01"), None);
        assert_eq!(SqlState::parse("42P0"), None);
        assert_eq!(SqlState::parse("42P011"), None);
        assert_eq!(SqlState::parse("4é01"), None);
    }
}
