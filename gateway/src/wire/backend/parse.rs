//! Parsers of server messages. Each takes the body of the message it is named after.

use std::fmt;

use super::FieldDescription;
use crate::wire::codec::{Reader, Values};
use crate::wire::{Format, TxStatus, WireError};

/// An authentication request (`R`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    CleartextPassword,
    Md5Password {
        salt: [u8; 4],
    },
    /// The mechanisms that the server offers.
    Sasl(Vec<&'a str>),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// GSSAPI, SSPI and whatever else the gateway does not do.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("Authentication", body);
        let authentication = match reader.u32("kind")? {
            0 => Authentication::Ok,
            3 => Authentication::CleartextPassword,
            5 => {
                let salt = reader.u32("salt")?.to_be_bytes();
                Authentication::Md5Password { salt }
            }
            10 => {
                let mut mechanisms = Vec::new();
                loop {
                    match reader.cstr("mechanism")? {
                        "" => break,
                        mechanism => mechanisms.push(mechanism),
                    }
                }
                Authentication::Sasl(mechanisms)
            }
            11 => return Ok(Authentication::SaslContinue(reader.remainder())),
            12 => return Ok(Authentication::SaslFinal(reader.remainder())),
            other => return Ok(Authentication::Other(other)),
        };
        reader.finish()?;
        Ok(authentication)
    }
}

/// NegotiateProtocolVersion (`v`): the minor version that the server speaks and the options it does not know.
pub fn parse_negotiate_protocol_version(body: &[u8]) -> Result<(u16, Vec<&str>), WireError> {
    let mut reader = Reader::new("NegotiateProtocolVersion", body);
    let minor = (reader.u32("version")? & 0xffff) as u16;
    let count = reader.u32("option count")? as usize;
    reader.expect_items("options", count, 1)?;
    let options = (0..count).map(|_| reader.cstr("option")).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok((minor, options))
}

/// ParameterStatus (`S`): name and value.
pub fn parse_parameter_status(body: &[u8]) -> Result<(&str, &str), WireError> {
    let mut reader = Reader::new("ParameterStatus", body);
    let pair = (reader.cstr("name")?, reader.cstr("value")?);
    reader.finish()?;
    Ok(pair)
}

/// BackendKeyData (`K`): process id and the secret of 4 to 256 bytes.
pub fn parse_backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let mut reader = Reader::new("BackendKeyData", body);
    let process_id = reader.u32("process id")?;
    let secret = reader.remainder();
    match secret.len() {
        4..=256 => Ok((process_id, secret)),
        0..4 => Err(WireError::Truncated { message: "BackendKeyData", field: "secret key" }),
        len => Err(WireError::TrailingBytes { message: "BackendKeyData", extra: len - 256 }),
    }
}

/// ReadyForQuery (`Z`).
pub fn parse_ready_for_query(body: &[u8]) -> Result<TxStatus, WireError> {
    let mut reader = Reader::new("ReadyForQuery", body);
    let code = reader.u8("status")?;
    let status = TxStatus::from_code(code).ok_or_else(|| reader.invalid("status", code))?;
    reader.finish()?;
    Ok(status)
}

/// NotificationResponse (`A`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The notifying backend.
    pub process_id: u32,
    pub channel: &'a str,
    pub payload: &'a str,
}

impl<'a> Notification<'a> {
    /// Reads the body.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("NotificationResponse", body);
        let (process_id, channel) = (reader.u32("process id")?, reader.cstr("channel")?);
        let payload = reader.cstr("payload")?;
        reader.finish()?;
        Ok(Notification { process_id, channel, payload })
    }
}

/// CommandComplete's tag in its parts. Display writes it as servers do (`INSERT 0 3`, `SELECT 3`, `CREATE TABLE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandTag<'a> {
    /// The words without numbers, such as `INSERT` or `CREATE TABLE`.
    pub command: &'a str,
    /// Rows that were affected or returned, for commands that count them.
    pub rows: Option<u64>,
}

impl<'a> CommandTag<'a> {
    /// Reads the body of a CommandComplete (`C`).
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("CommandComplete", body);
        let tag = reader.cstr("tag")?;
        reader.finish()?;
        Ok(CommandTag::from_text(tag))
    }

    /// Takes a whole tag apart.
    pub fn from_text(tag: &'a str) -> Self {
        let Some((command, rows)) = tag.rsplit_once(' ').and_then(|(rest, rows)| Some((rest, rows.parse().ok()?)))
        else {
            return CommandTag { command: tag, rows: None };
        };
        // INSERT has an object id in front of its rows, 0 in every supported version.
        CommandTag { command: command.strip_suffix(" 0").unwrap_or(command), rows: Some(rows) }
    }
}

impl fmt::Display for CommandTag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.command, self.rows) {
            (command, None) => f.write_str(command),
            ("INSERT", Some(rows)) => write!(f, "INSERT 0 {rows}"),
            (command, Some(rows)) => write!(f, "{command} {rows}"),
        }
    }
}

/// RowDescription (`T`).
pub fn parse_row_description(body: &[u8]) -> Result<Vec<FieldDescription>, WireError> {
    const FIELD_BYTES_MIN: usize = 19;
    let mut reader = Reader::new("RowDescription", body);
    let count = usize::from(reader.u16("field count")?);
    reader.expect_items("fields", count, FIELD_BYTES_MIN)?;
    let mut fields = Vec::with_capacity(count);
    for _ in 0..count {
        fields.push(FieldDescription {
            name: reader.cstr("field name")?.to_owned(),
            table_oid: reader.u32("table oid")?,
            column: reader.i16("column number")?,
            type_oid: reader.u32("type oid")?,
            typlen: reader.i16("type length")?,
            typmod: reader.i32("type modifier")?,
            format: Format::of_code(reader.u16("format code")?),
        });
    }
    reader.finish()?;
    Ok(fields)
}

fn parse_format(reader: &mut Reader<'_>) -> Result<Format, WireError> {
    let code = reader.u16("format code")?;
    Format::from_code(code).ok_or_else(|| reader.invalid("format code", code))
}

/// DataRow (`D`): the columns' values in place; nothing is allocated.
pub fn parse_data_row(body: &[u8]) -> Result<Values<'_>, WireError> {
    let mut reader = Reader::new("DataRow", body);
    let values = reader.values("values")?;
    reader.finish()?;
    Ok(values)
}

/// ParameterDescription (`t`): type oids.
pub fn parse_parameter_description(body: &[u8]) -> Result<Vec<u32>, WireError> {
    let mut reader = Reader::new("ParameterDescription", body);
    let count = usize::from(reader.u16("parameter count")?);
    reader.expect_items("type oids", count, 4)?;
    let oids = (0..count).map(|_| reader.u32("type oid")).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(oids)
}

/// CopyInResponse (`G`), CopyOutResponse (`H`), CopyBothResponse (`W`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyResponse {
    pub format: Format,
    pub columns: Vec<Format>,
}

impl CopyResponse {
    /// Reads the body.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new("CopyResponse", body);
        let code = u16::from(reader.u8("format")?);
        let format = Format::from_code(code).ok_or_else(|| reader.invalid("format", code))?;
        let count = usize::from(reader.u16("column count")?);
        reader.expect_items("format codes", count, 2)?;
        let columns = (0..count).map(|_| parse_format(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(CopyResponse { format, columns })
    }
}
