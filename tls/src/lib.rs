//! TLS as PostgreSQL uses it: the `ssl...` parameters of connection strings ([`parameters`]), what is verified of a server
//! ([`client`], [`verify`]), the gateway's own certificate ([`server`]), and what certificates say ([`certificate`]).
//!
//! What is absent: it opens no connection, and holds no state; files are read when a configuration is made.

pub mod certificate;
pub mod client;
mod files;
pub mod parameters;
pub mod server;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

pub use client::client_config;
pub use parameters::{ParameterError, Roots, SslMode, TlsParameters};
pub use server::{ServerFiles, ServerTls};

/// The application protocol that clients of PostgreSQL 17 and newer name in their handshakes.
pub const ALPN: &[u8] = b"postgresql";

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0} holds no certificate in PEM form")]
    NoCertificate(PathBuf),
    #[error("{0} holds no private key in PEM form (encrypted keys are not supported)")]
    NoKey(PathBuf),
    #[error("{path} is not in PEM form: {reason}")]
    Pem { path: PathBuf, reason: String },
    #[error("private key file {0} has group or world access: permissions should be 0600 or less, or 0640 or less if root owns it")]
    OpenKey(PathBuf),
    #[error("{path} cannot be used: {source}")]
    Unusable { path: PathBuf, source: rustls::Error },
    #[error("the certificates in {path} cannot be used: {reason}")]
    Authorities { path: PathBuf, reason: String },
    #[error("the system's certificate authorities cannot be read: {0}")]
    System(String),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The cryptography that all connections use.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
