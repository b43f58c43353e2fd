//! The server's side: the gateway's certificate, and whose certificates its clients may show.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::ServerConfig;

use super::client::roots_of;
use super::{certificate, files, provider, TlsError, ALPN};

/// Where certificate and key are, in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The server's certificate first, then what leads to its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of clients' certificates. Clients are asked for one then; without, they are not.
    pub client_authorities: Option<PathBuf>,
}

/// What a listener needs.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub config: Arc<ServerConfig>,
    /// What SCRAM-SHA-256-PLUS binds to; None if the certificate's kind has no such value.
    pub end_point: Option<Vec<u8>>,
}

impl ServerTls {
    /// Blocks on the disk. A client without a certificate gets through the handshake: its error is the protocol's, and
    /// cancel requests need none.
    pub fn read(files: &ServerFiles) -> Result<ServerTls, TlsError> {
        let chain = files::certificates(&files.certificate)?;
        let key = files::private_key(&files.key)?;
        let end_point = chain.first().and_then(|certificate| certificate::end_point(certificate));
        let provider = provider();
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match &files.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let (roots, _) = roots_of(path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::Authorities { path: path.clone(), reason: error.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| TlsError::Unusable { path: files.certificate.clone(), source })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: sessions are not resumed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerTls { config: Arc::new(config), end_point })
    }
}
