//! Reaches a shard's server: the TCP connection and, as its connection string says, TLS.
//!
//! Not here: the startup packet and what follows.

use std::io;

use bytes::BytesMut;
use ringway_tls::{client_config, SslMode, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use crate::net::{Stream, TcpOptions};
use crate::wire::frontend;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the server does not offer TLS, and sslmode={} demands it", .0.name())]
    NoTls(SslMode),
    #[error("the server answers the request for TLS with something that is not the PostgreSQL protocol")]
    Protocol,
    #[error("\"{0}\" is no name that a certificate could have")]
    Name(String),
    #[error(transparent)]
    Setup(#[from] TlsError),
    #[error("TLS handshake: {0}")]
    Handshake(io::Error),
}

/// Not cancel-safe: a dropped attempt closes its socket.
pub async fn dial(endpoint: &Endpoint, tcp: &TcpOptions) -> Result<Stream, DialError> {
    let mut stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    stream.set_nodelay(true)?;
    tcp.apply(&stream)?;
    if endpoint.tls.mode == SslMode::Disable {
        return Ok(Stream::Plain(stream));
    }
    if !endpoint.direct_tls {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        // One byte and no more: what came behind it in plain text would be taken for the server's.
        match stream.read_u8().await? {
            b'S' => {}
            b'N' if endpoint.tls.mode == SslMode::Prefer => return Ok(Stream::Plain(stream)),
            b'N' => return Err(DialError::NoTls(endpoint.tls.mode)),
            _ => return Err(DialError::Protocol),
        }
    }
    let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| DialError::Name(endpoint.host.clone()))?;
    let parameters = endpoint.tls.clone();
    let config = tokio::task::spawn_blocking(move || client_config(&parameters)).await.map_err(io::Error::other)??;
    let Some(config) = config else { return Ok(Stream::Plain(stream)) };
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(DialError::Handshake)?;
    Ok(Stream::tls(stream))
}
