//! Parsers of client messages.

use crate::wire::codec::{Reader, Values};
use crate::wire::tag::client as tag;
use crate::wire::{Format, Frame, Target, WireError};

/// A message of a client whose session has started.
#[derive(Debug, Clone, Copy)]
pub enum FrontendMessage<'a> {
    /// A simple query: one string of statements.
    Query(&'a str),
    Parse(Parse<'a>),
    Bind(Bind<'a>),
    Describe(Target, &'a str),
    Execute(Execute<'a>),
    Close(Target, &'a str),
    Flush,
    Sync,
    CopyData(&'a [u8]),
    CopyDone,
    /// Why the client gave up.
    CopyFail(&'a str),
    FunctionCall(FunctionCall<'a>),
    /// The body of a `p` message; the authentication exchange tells which of [`parse_password`],
    /// [`SaslInitialResponse::parse`] or raw SASL data it is.
    Password(AuthenticationData<'a>),
    Terminate,
}

/// What a client authenticates with; Debug does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthenticationData<'a>(pub &'a [u8]);

impl std::fmt::Debug for AuthenticationData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthenticationData({} bytes)", self.0.len())
    }
}

impl<'a> FrontendMessage<'a> {
    /// Reads a whole frame.
    ///
    /// Errors: an unknown tag ([`WireError::UnknownTag`]), or a body that is not what the tag says.
    pub fn parse(frame: &'a Frame) -> Result<Self, WireError> {
        let body = frame.body();
        let empty = |message: &'static str| Reader::new(message, body).finish();
        Ok(match frame.tag() {
            tag::QUERY => FrontendMessage::Query(parse_query(body)?),
            tag::PARSE => FrontendMessage::Parse(Parse::parse(body)?),
            tag::BIND => FrontendMessage::Bind(Bind::parse(body)?),
            tag::DESCRIBE => {
                let (target, name) = parse_target("Describe", body)?;
                FrontendMessage::Describe(target, name)
            }
            tag::EXECUTE => FrontendMessage::Execute(Execute::parse(body)?),
            tag::CLOSE => {
                let (target, name) = parse_target("Close", body)?;
                FrontendMessage::Close(target, name)
            }
            tag::FLUSH => empty("Flush").map(|()| FrontendMessage::Flush)?,
            tag::SYNC => empty("Sync").map(|()| FrontendMessage::Sync)?,
            tag::COPY_DATA => FrontendMessage::CopyData(body),
            tag::COPY_DONE => empty("CopyDone").map(|()| FrontendMessage::CopyDone)?,
            tag::COPY_FAIL => FrontendMessage::CopyFail(parse_single("CopyFail", "reason", body)?),
            tag::FUNCTION_CALL => FrontendMessage::FunctionCall(FunctionCall::parse(body)?),
            tag::PASSWORD => FrontendMessage::Password(AuthenticationData(body)),
            tag::TERMINATE => empty("Terminate").map(|()| FrontendMessage::Terminate)?,
            tag => return Err(WireError::UnknownTag { tag }),
        })
    }
}

fn parse_single<'a>(message: &'static str, field: &'static str, body: &'a [u8]) -> Result<&'a str, WireError> {
    let mut reader = Reader::new(message, body);
    let text = reader.cstr(field)?;
    reader.finish()?;
    Ok(text)
}

/// The body of Query: its text.
pub fn parse_query(body: &[u8]) -> Result<&str, WireError> {
    parse_single("Query", "query string", body)
}

/// The body of PasswordMessage: the password.
pub fn parse_password(body: &[u8]) -> Result<&str, WireError> {
    parse_single("PasswordMessage", "password", body)
}

/// The body of Describe or Close.
pub fn parse_target<'a>(message: &'static str, body: &'a [u8]) -> Result<(Target, &'a str), WireError> {
    let mut reader = Reader::new(message, body);
    let code = reader.u8("kind")?;
    let target = Target::from_code(code).ok_or_else(|| reader.invalid("kind", code))?;
    let name = reader.cstr("name")?;
    reader.finish()?;
    Ok((target, name))
}

/// Parse: prepares a statement.
#[derive(Debug, Clone, Copy)]
pub struct Parse<'a> {
    /// Empty for the unnamed statement.
    pub statement: &'a str,
    pub query: &'a str,
    type_oids: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body. (Every message is read by a `parse`; this one is also called so.)
    #[allow(clippy::self_named_constructors)]
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("Parse", body);
        let statement = reader.cstr("statement name")?;
        let query = reader.cstr("query string")?;
        let count = usize::from(reader.u16("type count")?);
        let type_oids = reader.bytes("type oids", count * 4)?;
        reader.finish()?;
        Ok(Parse { statement, query, type_oids })
    }

    /// The parameters' types as the client gave them, 0 where it left one open; later parameters may be missing.
    pub fn type_oids(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.type_oids.chunks_exact(4).map(|oid| u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]))
    }
}

/// Bind: makes a portal of a prepared statement and parameters.
#[derive(Debug, Clone, Copy)]
pub struct Bind<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a str,
    /// Empty for the unnamed statement.
    pub statement: &'a str,
    /// None, one for all, or one per parameter.
    pub parameter_formats: Formats<'a>,
    pub parameters: Values<'a>,
    /// None, one for all, or one per result column (which the server checks).
    pub result_formats: Formats<'a>,
}

impl<'a> Bind<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("Bind", body);
        let portal = reader.cstr("portal name")?;
        let statement = reader.cstr("statement name")?;
        let parameter_formats = Formats::parse(&mut reader, "parameter format codes")?.checked(&reader)?;
        let parameters = reader.values("parameters")?;
        if parameter_formats.len() > 1 && parameter_formats.len() != parameters.len() {
            let (formats, values) = (parameter_formats.len(), parameters.len());
            return Err(WireError::FormatCount { message: "Bind", formats, values });
        }
        let result_formats = Formats::parse(&mut reader, "result format codes")?;
        reader.finish()?;
        Ok(Bind { portal, statement, parameter_formats, parameters, result_formats })
    }
}

/// Format codes in place.
#[derive(Debug, Clone, Copy, Default)]
pub struct Formats<'a> {
    field: &'static str,
    codes: &'a [u8],
}

impl<'a> Formats<'a> {
    fn parse(reader: &mut Reader<'a>, field: &'static str) -> Result<Self, WireError> {
        let count = usize::from(reader.u16(field)?);
        let codes = reader.bytes(field, count * 2)?;
        Ok(Formats { field, codes })
    }

    /// Each is 0 or 1.
    fn checked(self, reader: &Reader<'a>) -> Result<Self, WireError> {
        let unknown = self.iter().map(Format::code).find(|code| Format::from_code(*code).is_none());
        unknown.map_or(Ok(self), |code| Err(reader.invalid(self.field, code as i16)))
    }

    /// How many codes were sent; this need not be the number of values.
    pub fn len(&self) -> usize {
        self.codes.len() / 2
    }

    /// Whether none was sent: all text.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The codes as sent.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Format> + 'a {
        self.codes.chunks_exact(2).map(|code| Format::of_code(u16::from_be_bytes([code[0], code[1]])))
    }

    /// The format of value `index` (from 0), by the rule "none: text; one: for all; else each its own".
    pub fn get(&self, index: usize) -> Format {
        self.iter().nth(if self.len() == 1 { 0 } else { index }).unwrap_or_default()
    }
}

/// Execute: runs a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a str,
    /// Rows to return at most; 0 for all.
    pub rows_max: u32,
}

impl<'a> Execute<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("Execute", body);
        let portal = reader.cstr("portal name")?;
        // PostgreSQL takes a negative limit for none.
        let rows_max = u32::try_from(reader.i32("row limit")?).unwrap_or(0);
        reader.finish()?;
        Ok(Execute { portal, rows_max })
    }
}

/// FunctionCall, the old "fast path".
#[derive(Debug, Clone, Copy)]
pub struct FunctionCall<'a> {
    pub function_oid: u32,
    pub argument_formats: Formats<'a>,
    pub arguments: Values<'a>,
    pub result_format: Format,
}

impl<'a> FunctionCall<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("FunctionCall", body);
        let function_oid = reader.u32("function oid")?;
        let argument_formats = Formats::parse(&mut reader, "argument format codes")?.checked(&reader)?;
        let arguments = reader.values("arguments")?;
        if argument_formats.len() > 1 && argument_formats.len() != arguments.len() {
            let (formats, values) = (argument_formats.len(), arguments.len());
            return Err(WireError::FormatCount { message: "FunctionCall", formats, values });
        }
        let code = reader.u16("result format code")?;
        let result_format = Format::from_code(code).ok_or_else(|| reader.invalid("result format code", code))?;
        reader.finish()?;
        Ok(FunctionCall { function_oid, argument_formats, arguments, result_format })
    }
}

/// SASLInitialResponse: the mechanism the client chose and its first message, if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    pub mechanism: &'a str,
    pub data: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("SASLInitialResponse", body);
        let mechanism = reader.cstr("mechanism")?;
        let data = reader.value("initial response")?;
        reader.finish()?;
        Ok(SaslInitialResponse { mechanism, data })
    }
}
