//! Errors and notices: [`PgError`] is one that the gateway makes, [`ErrorFields`] one that came from a server and can be
//! sent on unchanged.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};

use super::codec::{put_cstr, put_message, Reader};
use super::{SqlState, WireError};

/// How bad it is; the words are PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    Debug,
    Log,
    Info,
    Notice,
    Warning,
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
}

impl Severity {
    /// The word on the wire, never translated.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Log => "LOG",
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
        }
    }

    /// The severity of an untranslated word (field `V`).
    pub fn parse(word: &str) -> Option<Self> {
        [
            Severity::Debug,
            Severity::Log,
            Severity::Info,
            Severity::Notice,
            Severity::Warning,
            Severity::Error,
            Severity::Fatal,
            Severity::Panic,
        ]
        .into_iter()
        .find(|severity| severity.as_str() == word)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error or notice of the gateway's own, as the client gets it. Display is the message and the SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {code})")]
pub struct PgError {
    pub severity: Severity,
    pub code: SqlState,
    /// One line, lower case, no full stop.
    pub message: String,
    /// More about this case.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the statement: characters (not bytes) from 1.
    pub position: Option<u32>,
    /// The rarer fields.
    pub context: Option<Box<ErrorContext>>,
}

/// The fields that name objects, and the call stack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorContext {
    /// Field `W`: lines of context.
    pub call_stack: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub data_type: Option<String>,
    pub constraint: Option<String>,
    /// Field `R`: PostgreSQL's function that reports this. Drivers know some errors by it.
    pub routine: Option<String>,
}

impl PgError {
    /// An ERROR with this code and message.
    pub fn new(code: SqlState, message: impl Into<String>) -> Self {
        PgError {
            severity: Severity::Error,
            code,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            context: None,
        }
    }

    /// A statement that the gateway does not support (`0A000`), and what to do instead.
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        PgError::new(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint)
    }

    /// An error that ends the session.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        PgError::new(code, message).severity(Severity::Fatal)
    }

    /// A NOTICE of success (`00000`).
    pub fn notice(message: impl Into<String>) -> Self {
        PgError::new(SqlState::SUCCESSFUL_COMPLETION, message).severity(Severity::Notice)
    }

    /// A WARNING (`01000`).
    pub fn warning(message: impl Into<String>) -> Self {
        PgError::new(SqlState::WARNING, message).severity(Severity::Warning)
    }

    /// Something that must not happen (`XX000`).
    pub fn internal(message: impl Into<String>) -> Self {
        PgError::new(SqlState::INTERNAL_ERROR, message)
    }

    /// With another severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// With a detail: more about this case.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a hint: what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `position` counts characters from 1.
    #[must_use]
    pub fn position(mut self, position: u32) -> Self {
        self.position = Some(position);
        self
    }

    /// Names the objects concerned.
    #[must_use]
    pub fn context(mut self, context: ErrorContext) -> Self {
        self.context = Some(Box::new(context));
        self
    }

    fn put(&self, dst: &mut BytesMut) {
        put_field(dst, b'S', self.severity.as_str());
        put_field(dst, b'V', self.severity.as_str());
        put_field(dst, b'C', self.code.as_str());
        put_field(dst, b'M', &self.message);
        put_optional(dst, b'D', &self.detail);
        put_optional(dst, b'H', &self.hint);
        if let Some(position) = self.position {
            put_field(dst, b'P', position.to_string());
        }
        if let Some(context) = &self.context {
            put_optional(dst, b'W', &context.call_stack);
            put_optional(dst, b's', &context.schema);
            put_optional(dst, b't', &context.table);
            put_optional(dst, b'c', &context.column);
            put_optional(dst, b'd', &context.data_type);
            put_optional(dst, b'n', &context.constraint);
            put_optional(dst, b'R', &context.routine);
        }
        dst.put_u8(0);
    }

    /// Appends it as a message with `tag` (ErrorResponse or NoticeResponse).
    pub(super) fn encode(&self, dst: &mut BytesMut, tag: u8) {
        put_message(dst, tag, |dst| self.put(dst));
    }
}

fn put_field(dst: &mut BytesMut, field: u8, value: impl AsRef<[u8]>) {
    dst.put_u8(field);
    put_cstr(dst, value);
}

fn put_optional(dst: &mut BytesMut, field: u8, value: &Option<String>) {
    if let Some(value) = value {
        put_field(dst, field, value);
    }
}

impl From<WireError> for PgError {
    fn from(error: WireError) -> Self {
        let code = match &error {
            WireError::NotUtf8 { .. } => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            WireError::ProtocolVersion { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            WireError::MissingUser => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            WireError::FrameTooLong { .. } => SqlState::PROGRAM_LIMIT_EXCEEDED,
            WireError::InvalidValue { field, .. } if field.contains("format code") => SqlState::INVALID_PARAMETER_VALUE,
            _ => SqlState::PROTOCOL_VIOLATION,
        };
        // As PostgreSQL says it of a client's message.
        let message = match &error {
            WireError::InvalidValue { field, value, .. } if field.contains("format code") => {
                format!("unsupported format code: {value}")
            }
            WireError::InvalidValue { message: message @ ("Close" | "Describe"), field: "kind", value } => {
                format!("invalid {} message subtype {value}", message.to_ascii_uppercase())
            }
            WireError::FormatCount { message: "Bind", formats, values } => {
                format!("bind message has {formats} parameter formats but {values} parameters")
            }
            error => error.to_string(),
        };
        let severity = if error.is_fatal() { Severity::Fatal } else { Severity::Error };
        PgError::new(code, message).severity(severity)
    }
}

/// The fields of a server's ErrorResponse or NoticeResponse, in their order, unknown ones too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields {
    fields: Vec<(u8, Vec<u8>)>,
}

impl ErrorFields {
    /// Reads the body of an ErrorResponse or NoticeResponse.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("ErrorResponse", body);
        let mut fields = Vec::new();
        loop {
            match reader.u8("field type")? {
                0 => break,
                field => fields.push((field, reader.cstr_bytes("field value")?.to_vec())),
            }
        }
        reader.finish()?;
        Ok(ErrorFields { fields })
    }

    /// Every field type with its bytes (in the session's client_encoding), in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        self.fields.iter().map(|(field, value)| (*field, value.as_slice()))
    }

    /// The field `field`; bytes that are not UTF-8 are replaced in what is returned, not in what is sent on.
    pub fn get(&self, field: u8) -> Option<Cow<'_, str>> {
        self.iter().find(|(have, _)| *have == field).map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// The SQLSTATE; `XX000` if the server sent none that is one.
    pub fn code(&self) -> SqlState {
        self.iter()
            .find(|(field, _)| *field == b'C')
            .and_then(|(_, value)| SqlState::parse(value))
            .unwrap_or(SqlState::INTERNAL_ERROR)
    }

    /// The untranslated severity; ERROR if the server sent none that is known.
    pub fn severity(&self) -> Severity {
        let word = self.get(b'V').or_else(|| self.get(b'S'));
        word.and_then(|word| Severity::parse(&word)).unwrap_or(Severity::Error)
    }

    /// The message; empty if the server sent none.
    pub fn message(&self) -> Cow<'_, str> {
        self.get(b'M').unwrap_or_default()
    }

    /// Field `D`.
    pub fn detail(&self) -> Option<Cow<'_, str>> {
        self.get(b'D')
    }

    /// Field `H`.
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        self.get(b'H')
    }

    /// Replaces the value of the first field `field`, or adds the field at the end.
    pub fn set(&mut self, field: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.fields.iter_mut().find(|(have, _)| *have == field) {
            Some(present) => present.1 = value,
            None => self.fields.push((field, value)),
        }
    }

    /// Takes a field out, so that it is not sent on.
    pub fn remove(&mut self, field: u8) {
        self.fields.retain(|(have, _)| *have != field);
    }

    /// Appends it as a message with `tag` (ErrorResponse or NoticeResponse).
    pub(super) fn encode(&self, dst: &mut BytesMut, tag: u8) {
        put_message(dst, tag, |dst| {
            for (field, value) in &self.fields {
                put_field(dst, *field, value);
            }
            dst.put_u8(0);
        });
    }
}

impl fmt::Display for ErrorFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message(), self.code())
    }
}

impl From<&ErrorFields> for PgError {
    /// What the gateway understands of it; file, line and unknown fields are dropped.
    fn from(fields: &ErrorFields) -> Self {
        let own = |field| fields.get(field).map(Cow::into_owned);
        let context = ErrorContext {
            call_stack: own(b'W'),
            schema: own(b's'),
            table: own(b't'),
            column: own(b'c'),
            data_type: own(b'd'),
            constraint: own(b'n'),
            routine: own(b'R'),
        };
        PgError {
            severity: fields.severity(),
            code: fields.code(),
            message: fields.message().into_owned(),
            detail: own(b'D'),
            hint: own(b'H'),
            position: fields.get(b'P').and_then(|position| position.parse().ok()),
            context: (context != ErrorContext::default()).then(|| Box::new(context)),
        }
    }
}
