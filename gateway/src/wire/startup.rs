//! The first packet of a connection, which has no tag.

use bytes::{Buf, Bytes, BytesMut};

use super::codec::Reader;
use super::WireError;

/// The largest startup packet in bytes, length word included; PostgreSQL's limit.
pub const STARTUP_BYTES_MAX: usize = 10_000;
/// The newest minor version of protocol 3 that is spoken here; 3.2 allows cancel keys of up to 256 bytes.
pub const PROTOCOL_MINOR_MAX: u16 = 2;

pub(super) const CANCEL_REQUEST_CODE: u32 = 1234 << 16 | 5678;
pub(super) const SSL_REQUEST_CODE: u32 = 1234 << 16 | 5679;
const GSSENC_REQUEST_CODE: u32 = 1234 << 16 | 5680;
const CANCEL_KEY_BYTES_MAX: usize = 256;
/// `NAMEDATALEN` of PostgreSQL, less the closing zero.
const NAME_BYTES_MAX: usize = 63;
/// Length word and code.
const PACKET_BYTES_MIN: usize = 8;

/// What a client opens a connection with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// A session.
    Startup(StartupMessage),
    /// TLS, please: answer `S` and start it, or `N`.
    SslRequest,
    /// GSSAPI encryption, please: answer `N`.
    GssEncRequest,
    /// Cancel what another connection runs; never answered.
    Cancel(CancelRequest),
}

/// StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// The minor version of protocol 3 that the client asked for.
    pub minor: u16,
    parameters: Vec<(String, String)>,
}

/// CancelRequest.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    pub process_id: u32,
    /// 4 to 256 bytes.
    pub secret: Bytes,
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// What NegotiateProtocolVersion has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation<'a> {
    /// The minor version that is spoken from now on.
    pub minor: u16,
    /// Protocol options of the client that are not known here.
    pub unsupported_options: Vec<&'a str>,
}

impl StartupMessage {
    /// `user`; never empty. As `database`, cut to the length of names.
    pub fn user(&self) -> &str {
        clipped(self.get("user").unwrap_or_default())
    }

    /// `database`, or the user's name if there is none, as PostgreSQL has it.
    pub fn database(&self) -> &str {
        self.get("database").filter(|name| !name.is_empty()).map_or_else(|| self.user(), clipped)
    }

    /// The last value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// All parameters in their order, `user`, `database`, `options` and protocol options too.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The minor version that is spoken: the client's, or the newest one known here.
    pub fn minor_spoken(&self) -> u16 {
        self.minor.min(PROTOCOL_MINOR_MAX)
    }

    /// What must be told to the client before authentication goes on; `None` if it gets all that it asked for.
    pub fn negotiation(&self) -> Option<Negotiation<'_>> {
        let unsupported_options: Vec<_> =
            self.parameters().map(|(name, _)| name).filter(|name| name.starts_with("_pq_.")).collect();
        let minor = self.minor_spoken();
        (minor != self.minor || !unsupported_options.is_empty()).then_some(Negotiation { minor, unsupported_options })
    }
}

/// Longer names are cut, at a character boundary.
fn clipped(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Splits the first packet off `buf`; `None` if more bytes have to be read first.
///
/// Errors: a length outside 8 to [`STARTUP_BYTES_MAX`] (as soon as it is there), a protocol that is not 3, parameters
/// that are not pairs of NUL-terminated UTF-8 strings, no user.
pub fn next_startup(buf: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
    let Some(len) = buf.first_chunk::<4>() else { return Ok(None) };
    let declared = i32::from_be_bytes(*len);
    let len = match usize::try_from(declared) {
        Ok(len) if (PACKET_BYTES_MIN..=STARTUP_BYTES_MAX).contains(&len) => len,
        _ => {
            let (min, max) = (PACKET_BYTES_MIN, STARTUP_BYTES_MAX);
            return Err(WireError::StartupLength { len: i64::from(declared), min, max });
        }
    };
    if buf.len() < len {
        return Ok(None);
    }
    let mut packet = buf.split_to(len);
    packet.advance(4);
    parse_packet(&packet).map(Some)
}

fn parse_packet(packet: &[u8]) -> Result<StartupPacket, WireError> {
    let mut reader = Reader::new("startup packet", packet);
    let code = reader.u32("protocol version")?;
    match code {
        SSL_REQUEST_CODE => reader.finish().map(|()| StartupPacket::SslRequest),
        GSSENC_REQUEST_CODE => reader.finish().map(|()| StartupPacket::GssEncRequest),
        CANCEL_REQUEST_CODE => {
            let process_id = reader.u32("process id")?;
            let secret = reader.remainder();
            match secret.len() {
                0..4 => Err(WireError::Truncated { message: "CancelRequest", field: "secret key" }),
                4..=CANCEL_KEY_BYTES_MAX => {
                    Ok(StartupPacket::Cancel(CancelRequest { process_id, secret: Bytes::copy_from_slice(secret) }))
                }
                len => Err(WireError::TrailingBytes { message: "CancelRequest", extra: len - CANCEL_KEY_BYTES_MAX }),
            }
        }
        _ if code >> 16 == 3 => parse_startup((code & 0xffff) as u16, reader).map(StartupPacket::Startup),
        _ => {
            let (major, minor) = ((code >> 16) as u16, (code & 0xffff) as u16);
            Err(WireError::ProtocolVersion { major, minor, max_minor: PROTOCOL_MINOR_MAX })
        }
    }
}

fn parse_startup(minor: u16, mut reader: Reader<'_>) -> Result<StartupMessage, WireError> {
    let mut parameters = Vec::new();
    loop {
        match reader.cstr("parameter name")? {
            "" => break,
            name => parameters.push((name.to_owned(), reader.cstr("parameter value")?.to_owned())),
        }
    }
    reader.finish()?;
    let message = StartupMessage { minor, parameters };
    if message.user().is_empty() {
        return Err(WireError::MissingUser);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frontend;

    fn packet(code: u32, rest: &[u8]) -> BytesMut {
        let mut buf = BytesMut::new();
        crate::wire::codec::put_sized(&mut buf, |dst| {
            dst.extend_from_slice(&code.to_be_bytes());
            dst.extend_from_slice(rest);
        });
        buf
    }

    fn startup(code: u32, rest: &[u8]) -> Result<StartupMessage, WireError> {
        match next_startup(&mut packet(code, rest))?.unwrap() {
            StartupPacket::Startup(message) => Ok(message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_begins_whatever_way_the_packet_is_cut() {
        let mut bytes = BytesMut::new();
        frontend::startup(&mut bytes, [("user", "anna"), ("database", ""), ("options", "-c a=b")]);
        for cut in 0..bytes.len() {
            let mut buf = BytesMut::from(&bytes[..cut]);
            assert_eq!(next_startup(&mut buf), Ok(None));
            buf.extend_from_slice(&bytes[cut..]);
            buf.extend_from_slice(b"Q");
            let Some(StartupPacket::Startup(message)) = next_startup(&mut buf).unwrap() else { panic!() };
            assert_eq!((message.user(), message.database(), message.minor), ("anna", "anna", 0));
            assert_eq!(message.get("options"), Some("-c a=b"));
            assert_eq!(message.negotiation(), None);
            assert_eq!(&buf[..], b"Q", "what follows is left");
        }
    }

    #[test]
    fn long_names_are_cut() {
        let long = "x".repeat(62) + "éy";
        let message = startup(3 << 16, format!("user\0{long}\0database\0{}\0\0", "d".repeat(80)).as_bytes()).unwrap();
        assert_eq!((message.user(), message.database()), (&long[..62], &*"d".repeat(63)));
        let message = startup(3 << 16, format!("user\0{}\0\0", "u".repeat(64)).as_bytes()).unwrap();
        assert_eq!(message.database(), "u".repeat(63));
    }

    #[test]
    fn versions_are_negotiated() {
        let message = startup(3 << 16 | 9999, b"user\0a\0_pq_.x\x001\0\0").unwrap();
        let expected = Negotiation { minor: 2, unsupported_options: vec!["_pq_.x"] };
        assert_eq!(message.negotiation(), Some(expected));
        assert_eq!(startup(3 << 16 | 2, b"user\0a\0\0").unwrap().negotiation(), None);
        assert_eq!(
            startup(2 << 16, b"user\0a\0\0"),
            Err(WireError::ProtocolVersion { major: 2, minor: 0, max_minor: 2 })
        );
    }

    #[test]
    fn requests_without_a_session() {
        let mut buf = BytesMut::new();
        frontend::ssl_request(&mut buf);
        frontend::cancel_request(&mut buf, 7, b"abcd");
        buf.extend_from_slice(&packet(GSSENC_REQUEST_CODE, b""));
        assert_eq!(next_startup(&mut buf), Ok(Some(StartupPacket::SslRequest)));
        let cancel = CancelRequest { process_id: 7, secret: Bytes::from_static(b"abcd") };
        assert_eq!(next_startup(&mut buf), Ok(Some(StartupPacket::Cancel(cancel))));
        assert_eq!(next_startup(&mut buf), Ok(Some(StartupPacket::GssEncRequest)));
        assert!(next_startup(&mut packet(CANCEL_REQUEST_CODE, b"\0\0\0\x01abc")).is_err());
        assert!(next_startup(&mut packet(CANCEL_REQUEST_CODE, &[0; 4 + 257])).is_err());
        assert!(next_startup(&mut packet(SSL_REQUEST_CODE, b"x")).is_err());
    }

    #[test]
    fn malformed_packets_are_refused() {
        for len in [0u32, 7, 10_001, 0x7fff_ffff, 0xffff_ffff] {
            let mut buf = BytesMut::from(&len.to_be_bytes()[..]);
            assert!(matches!(next_startup(&mut buf), Err(WireError::StartupLength { .. })), "{len}");
        }
        let session = |rest: &[u8]| startup(3 << 16, rest).unwrap_err();
        assert_eq!(session(b"\0"), WireError::MissingUser);
        assert_eq!(session(b"user\0\0\0"), WireError::MissingUser);
        assert_eq!(session(b"user\0a\0\0x"), WireError::TrailingBytes { message: "startup packet", extra: 1 });
        assert!(matches!(session(b"user\0a\0"), WireError::Unterminated { .. }));
        assert!(matches!(session(b"user\0a"), WireError::Unterminated { .. }));
        assert!(matches!(session(b"user\0\xff\0\0"), WireError::NotUtf8 { .. }));
    }
}
