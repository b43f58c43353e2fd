//! What can go wrong while merging or splitting, and what the client is told.

use ringway_topology::token::KeyError;

use crate::wire::{ErrorContext, PgError, SqlState};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    #[error("a shard sent a row that is not well-formed")]
    MalformedRow,
    /// The text is not as the session's settings promised.
    #[error("cannot order a value of the type with OID {type_oid} as PostgreSQL does")]
    UnreadableSortKey { type_oid: u32 },
    #[error("cannot combine values of type {type_name}")]
    UnsupportedPartial { type_name: String },
    #[error("intermediate results are larger than gather_bytes_max ({bytes_max} bytes)")]
    GatherBytes { bytes_max: usize },
    #[error("shards gave different answers to one statement: {first} and {other}")]
    DifferentCommands { first: String, other: String },
    #[error("LIMIT must not be negative")]
    NegativeLimit,
    #[error("OFFSET must not be negative")]
    NegativeOffset,
    #[error("a row of COPY is longer than copy_row_bytes_max ({bytes_max} bytes)")]
    CopyRowBytes { line: u64, bytes_max: usize },
    #[error("{message}")]
    BadCopy { line: u64, message: &'static str, hint: Option<&'static str> },
    #[error("{message}")]
    UnsupportedCopy { line: u64, message: &'static str, hint: &'static str },
    #[error("null value in the column that is the shard key violates not-null constraint")]
    NullKey { line: u64 },
    #[error("invalid byte sequence for encoding \"UTF8\"")]
    KeyNotUtf8 { line: u64 },
    #[error("{error}")]
    BadKey { line: u64, error: KeyError },
}

impl MergeError {
    /// The SQLSTATE.
    pub fn code(&self) -> SqlState {
        match self {
            MergeError::MalformedRow => SqlState::PROTOCOL_VIOLATION,
            MergeError::UnreadableSortKey { .. } | MergeError::UnsupportedPartial { .. } => {
                SqlState::FEATURE_NOT_SUPPORTED
            }
            MergeError::GatherBytes { .. } | MergeError::CopyRowBytes { .. } => SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            MergeError::DifferentCommands { .. } => SqlState::INTERNAL_ERROR,
            MergeError::NegativeLimit => SqlState::new(b"2201W"),
            MergeError::NegativeOffset => SqlState::new(b"2201X"),
            MergeError::BadCopy { .. } => SqlState::BAD_COPY_FILE_FORMAT,
            MergeError::UnsupportedCopy { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            MergeError::NullKey { .. } => SqlState::NOT_NULL_VIOLATION,
            MergeError::KeyNotUtf8 { .. } => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            MergeError::BadKey { error: KeyError::Invalid { .. }, .. } => SqlState::INVALID_TEXT_REPRESENTATION,
            MergeError::BadKey { error: KeyError::Unsupported { .. }, .. } => SqlState::FEATURE_NOT_SUPPORTED,
        }
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            MergeError::UnreadableSortKey { .. } => {
                Some("Rows of several shards are merged only in an order that is exactly PostgreSQL's.".to_owned())
            }
            MergeError::UnsupportedPartial { .. } => {
                Some("Intermediate results travel as arrays, and there is no array of this type.".to_owned())
            }
            MergeError::NullKey { .. } => Some("A row without a shard key belongs to no shard.".to_owned()),
            _ => None,
        }
    }

    pub fn hint(&self) -> Option<&'static str> {
        match self {
            MergeError::GatherBytes { .. } => {
                Some("Let the statement select fewer rows, hold it to one shard key, or raise gather_bytes_max.")
            }
            MergeError::CopyRowBytes { .. } => {
                Some("Look for an unbalanced quote before this line, or raise copy_row_bytes_max.")
            }
            MergeError::UnreadableSortKey { .. } => Some("Use DateStyle ISO, or fetch the column in binary format."),
            MergeError::UnsupportedPartial { .. } => Some("Cast the expression to another type."),
            MergeError::BadCopy { hint, .. } => *hint,
            MergeError::UnsupportedCopy { hint, .. } => Some(hint),
            _ => None,
        }
    }

    /// PostgreSQL's CONTEXT: which line of a COPY is meant, counted from 1 with the header line.
    pub fn copy_line(&self) -> Option<u64> {
        match self {
            MergeError::CopyRowBytes { line, .. }
            | MergeError::BadCopy { line, .. }
            | MergeError::UnsupportedCopy { line, .. }
            | MergeError::NullKey { line }
            | MergeError::KeyNotUtf8 { line }
            | MergeError::BadKey { line, .. } => Some(*line),
            _ => None,
        }
    }
}

impl From<MergeError> for PgError {
    fn from(error: MergeError) -> PgError {
        PgError {
            detail: error.detail(),
            hint: error.hint().map(str::to_owned),
            ..PgError::new(error.code(), error.to_string())
        }
    }
}

impl MergeError {
    /// An error of `COPY table`, with the line as PostgreSQL shows it.
    pub fn of_copy(self, table: &str) -> PgError {
        let line = self.copy_line();
        let error = PgError::from(self);
        match line {
            None => error,
            Some(line) => {
                let call_stack = Some(format!("COPY {table}, line {line}"));
                error.context(ErrorContext { call_stack, ..ErrorContext::default() })
            }
        }
    }
}
