//! PostgreSQL's protocol, version 3: bytes in, bytes out (PostgreSQL documentation, chapter "Frontend/Backend Protocol").
//!
//! What comes off a socket is cut into frames ([`frame`]) or, from a server, skimmed by headers alone ([`scan`]); message
//! bodies are read in place ([`frontend`], [`backend`]); messages are built by appending to a buffer. [`startup`] is the
//! untyped first packet, [`scram`] both roles of SCRAM-SHA-256.
//!
//! What is absent: `wire` does no I/O, knows no topology, decodes no values of columns, and imports nothing else of ours.

mod codec;
mod error;
mod pg_error;

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod oids;
pub mod scan;
pub mod scram;
pub mod sqlstate;
pub mod startup;
pub mod tag;

pub use codec::{ValueIter, Values};
pub use error::WireError;
pub use frame::{next_frame, Frame, FrameHeader, FrameRef, Frames};
pub use pg_error::{ErrorContext, ErrorFields, PgError, Severity};
pub use scan::{FrameScanner, Scanned, Span};
pub use sqlstate::SqlState;

/// How a value travels: PostgreSQL's text form (0) or its binary send/receive form (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Code 0.
    #[default]
    Text,
    /// Code 1.
    Binary,
    /// Any other code. Bind takes it for results, and the first row is an error ([`Format::unsupported`]).
    Other(u16),
}

impl Format {
    /// The code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
            Format::Other(code) => code,
        }
    }

    /// The format of a code.
    pub const fn of_code(code: u16) -> Self {
        match code {
            0 => Format::Text,
            1 => Format::Binary,
            code => Format::Other(code),
        }
    }

    /// The format of a code; `None` for anything but 0 and 1.
    pub const fn from_code(code: u16) -> Option<Self> {
        match Format::of_code(code) {
            Format::Other(_) => None,
            format => Some(format),
        }
    }

    /// What PostgreSQL says at the first row of a result in these formats, unless all are 0 or 1 (`printtup_prepare_info`,
    /// src/backend/access/common/printtup.c).
    pub fn unsupported(formats: impl IntoIterator<Item = Format>) -> Option<PgError> {
        formats.into_iter().find_map(|format| match format {
            Format::Text | Format::Binary => None,
            Format::Other(code) => {
                let message = format!("unsupported format code: {}", code as i16);
                Some(PgError::new(SqlState::INVALID_PARAMETER_VALUE, message))
            }
        })
    }
}

/// Where a session stands with transactions, as ReadyForQuery tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TxStatus {
    /// `I`: no transaction block.
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block; only its end is accepted.
    Failed,
}

impl TxStatus {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            TxStatus::Idle => b'I',
            TxStatus::InTransaction => b'T',
            TxStatus::Failed => b'E',
        }
    }

    /// The status of a byte; `None` for anything but `I`, `T`, `E`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            b'I' => Some(TxStatus::Idle),
            b'T' => Some(TxStatus::InTransaction),
            b'E' => Some(TxStatus::Failed),
            _ => None,
        }
    }
}

/// What Describe and Close name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// `S`: a prepared statement.
    Statement,
    /// `P`: a portal.
    Portal,
}

impl Target {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Target::Statement => b'S',
            Target::Portal => b'P',
        }
    }

    /// The target of a byte; `None` for anything but `S` and `P`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            b'S' => Some(Target::Statement),
            b'P' => Some(Target::Portal),
            _ => None,
        }
    }
}
