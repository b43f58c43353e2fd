//! How a connection begins: in plain text, or with a request for TLS, or with TLS at once; then the startup packet.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use ringway_tls::{ServerTls, ALPN};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::login::{refuse, LoginError};
use super::Server;
use crate::net::Stream;
use crate::wire::startup::{next_startup, StartupMessage, StartupPacket, PROTOCOL_MINOR_MAX};
use crate::wire::{PgError, SqlState, WireError};

/// First byte of a TLS record that holds a handshake (libpq's `sslnegotiation=direct`). No startup packet is that long.
const HANDSHAKE: u8 = 0x16;
/// The codes of requests for encryption look like versions of the protocol: 1234 and these.
const SSL_REQUEST_MINOR: u16 = 5679;
const GSSENC_REQUEST_MINOR: u16 = 5680;
/// What is read at a time; startup packets are shorter as a rule.
const READ_BYTES: usize = 512;

/// A client that wants a session.
pub struct Opened {
    pub stream: Stream,
    /// What came behind the startup packet.
    pub input: BytesMut,
    pub startup: StartupMessage,
    /// What the client's TLS connection was accepted with.
    pub tls: Option<Arc<ServerTls>>,
}

/// None: a cancel request, or the client went away. Cancel requests may come in plain text whatever is required of
/// sessions, as with PostgreSQL: libpq before version 17 sends no others.
pub async fn open(server: &Server, stream: TcpStream) -> Result<Option<Opened>, LoginError> {
    let mut stream = Stream::Plain(stream);
    let mut input = BytesMut::new();
    let mut tls = None;
    // Neither kind of encryption is asked for twice: PostgreSQL takes the second request for a version of the protocol.
    let (mut ssl_done, mut gss_done) = (false, false);
    loop {
        if tls.is_none() && input.first() == Some(&HANDSHAKE) {
            if let Some(with) = server.tls.load_full() {
                stream = accept(&with, stream, &std::mem::take(&mut input)).await?;
                if stream.application_protocol() != Some(ALPN) {
                    // As PostgreSQL: a client of another protocol may have been led here.
                    tracing::debug!("a client that began with TLS at once did not name the protocol \"postgresql\"");
                    return Ok(None);
                }
                tls = Some(with);
                continue;
            }
        }
        match next_startup(&mut input) {
            Ok(Some(StartupPacket::SslRequest | StartupPacket::GssEncRequest)) if tls.is_some() => {
                let message = "the connection is encrypted already";
                return refuse(&mut stream, PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)).await;
            }
            Ok(Some(request @ (StartupPacket::SslRequest | StartupPacket::GssEncRequest))) => {
                let (done, minor) = match request {
                    StartupPacket::SslRequest => (&mut ssl_done, SSL_REQUEST_MINOR),
                    _ => (&mut gss_done, GSSENC_REQUEST_MINOR),
                };
                if std::mem::replace(done, true) {
                    let error = WireError::ProtocolVersion { major: 1234, minor, max_minor: PROTOCOL_MINOR_MAX };
                    return refuse(&mut stream, error.into()).await;
                }
                if !input.is_empty() {
                    // Sent before it could know the answer: somebody is in between.
                    return Ok(None);
                }
                match server.tls.load_full().filter(|_| request == StartupPacket::SslRequest) {
                    None => stream.send_all(b"N").await?,
                    Some(with) => {
                        stream.send_all(b"S").await?;
                        stream = accept(&with, stream, &[]).await?;
                        tls = Some(with);
                    }
                }
            }
            Ok(Some(StartupPacket::Cancel(request))) => {
                if let Some(slot) = server.cancels.find(request.process_id, &request.secret) {
                    slot.cancel().await;
                }
                stream.close();
                return Ok(None);
            }
            Ok(Some(StartupPacket::Startup(startup))) => return Ok(Some(Opened { stream, input, startup, tls })),
            Ok(None) => {
                if stream.receive(&mut input, READ_BYTES).await? == 0 {
                    return Ok(None);
                }
            }
            Err(error) => return refuse(&mut stream, error.into()).await,
        }
    }
}

/// `received` is what has been read of the handshake already.
async fn accept(tls: &ServerTls, stream: Stream, received: &[u8]) -> io::Result<Stream> {
    let Stream::Plain(stream) = stream else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut fed = Ok(());
    let handshake = TlsAcceptor::from(Arc::clone(&tls.config)).accept_with(stream, |connection| {
        let mut rest = received;
        while fed.is_ok() && !rest.is_empty() {
            fed = connection
                .read_tls(&mut rest)
                .and_then(|_| connection.process_new_packets().map_err(io::Error::other).map(|_| ()));
        }
    });
    fed?;
    Ok(Stream::tls(handshake.await?))
}
