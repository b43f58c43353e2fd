//! What can be wrong with bytes from a peer.

/// Bytes that are not the protocol. Texts name the message and the field; they never quote what the peer sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length word below 4; the stream cannot be followed any further.
    #[error("message {tag:?} declares a length of {len}, less than the 4 bytes of the length itself", tag = char::from(*tag))]
    FrameTooShort { tag: u8, len: i32 },
    /// Refused before anything is allocated. `len` and `max` count the whole message in bytes.
    #[error("message {tag:?} of {len} bytes exceeds the limit of {max} bytes", tag = char::from(*tag))]
    FrameTooLong { tag: u8, len: usize, max: usize },
    /// Bytes handed over as one frame are not one.
    #[error("message {tag:?} declares {declared} bytes but holds {actual}", tag = char::from(*tag))]
    FrameLength { tag: u8, declared: usize, actual: usize },
    /// The length of a startup packet is out of its bounds.
    #[error("startup packet declares {len} bytes; allowed are {min} to {max}")]
    StartupLength { len: i64, min: usize, max: usize },
    /// Not protocol 3.
    #[error("unsupported frontend protocol {major}.{minor}: the gateway supports 3.0 to 3.{max_minor}")]
    ProtocolVersion { major: u16, minor: u16, max_minor: u16 },
    /// A startup packet without `user`.
    #[error("no PostgreSQL user name specified in startup packet")]
    MissingUser,
    /// A tag that no message in this direction has.
    #[error("unknown message type {tag:?}", tag = char::from(*tag))]
    UnknownTag { tag: u8 },
    /// A known message where another one has to come.
    #[error("expected {expected}, got message type {tag:?}", tag = char::from(*tag))]
    UnexpectedTag { expected: &'static str, tag: u8 },
    /// The body ends early.
    #[error("{message} ends within its {field}")]
    Truncated { message: &'static str, field: &'static str },
    /// Bytes are left after the last field.
    #[error("{message} has {extra} bytes after its last field")]
    TrailingBytes { message: &'static str, extra: usize },
    /// A string without its NUL.
    #[error("the {field} of {message} has no terminating NUL")]
    Unterminated { message: &'static str, field: &'static str },
    /// A string that is not UTF-8.
    #[error("the {field} of {message} is not valid UTF-8")]
    NotUtf8 { message: &'static str, field: &'static str },
    /// A length below -1 (which means NULL).
    #[error("the {field} of {message} has the invalid length {len}")]
    ValueLength { message: &'static str, field: &'static str, len: i32 },
    /// A code outside its enumeration.
    #[error("the {field} of {message} has the invalid value {value}")]
    InvalidValue { message: &'static str, field: &'static str, value: i64 },
    /// Format codes must be none, one, or one per value.
    #[error("{message} has {formats} format codes for {values} values")]
    FormatCount { message: &'static str, formats: usize, values: usize },
}

impl WireError {
    /// Whether the stream of frames is lost, so that the connection must close. Otherwise the frame was whole, and the
    /// session can answer with an error and go on, as PostgreSQL does.
    pub fn is_fatal(&self) -> bool {
        match self {
            WireError::FrameTooShort { .. }
            | WireError::FrameTooLong { .. }
            | WireError::FrameLength { .. }
            | WireError::StartupLength { .. }
            | WireError::ProtocolVersion { .. }
            | WireError::MissingUser
            | WireError::UnknownTag { .. } => true,
            WireError::UnexpectedTag { .. }
            | WireError::Truncated { .. }
            | WireError::TrailingBytes { .. }
            | WireError::Unterminated { .. }
            | WireError::NotUtf8 { .. }
            | WireError::ValueLength { .. }
            | WireError::InvalidValue { .. }
            | WireError::FormatCount { .. } => false,
        }
    }
}
