//! The client's side: how a connection to a shard is encrypted, and what is verified of it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::parameters::{Roots, SslMode, TlsParameters};
use super::verify::{Check, ServerVerifier};
use super::{files, provider, TlsError, ALPN};

/// Reads the files that the parameters name, so that renewed ones count for the next connection. Blocks on the disk.
/// None for `sslmode=disable`.
pub fn client_config(parameters: &TlsParameters) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    let check = match (parameters.mode, &parameters.roots) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Prefer, _) | (SslMode::Require, None) => Check::Nothing,
        (SslMode::Require | SslMode::VerifyCa, _) => Check::Chain,
        (SslMode::VerifyFull, _) => Check::ChainAndName,
    };
    let (roots, listed) = match &parameters.roots {
        None => (RootCertStore::empty(), Vec::new()),
        Some(Roots::System) => (system_roots()?, Vec::new()),
        Some(Roots::File(path)) => roots_of(path)?,
    };
    let provider = provider();
    let verifier = ServerVerifier { check, roots, listed, algorithms: provider.signature_verification_algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &parameters.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(files::certificates(&identity.certificate)?, files::private_key(&identity.key)?)
            .map_err(|source| TlsError::Unusable { path: identity.certificate.clone(), source })?,
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // PostgreSQL resumes no sessions.
    config.resumption = Resumption::disabled();
    Ok(Some(Arc::new(config)))
}

/// The authorities in a file, and all certificates in it as they are.
pub(crate) fn roots_of(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let listed = files::certificates(path)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(listed.iter().cloned());
    if usable == 0 {
        return Err(TlsError::Authorities { path: path.to_owned(), reason: "none can be read".to_owned() });
    }
    Ok((roots, listed))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    Err(TlsError::System(found.errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(parameters: &str) -> Result<Option<Arc<ClientConfig>>, TlsError> {
        client_config(&TlsParameters::split(&format!("postgresql://h/db?{parameters}")).unwrap().1)
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        assert!(config("sslmode=disable").unwrap().is_none());
        assert!(config("").unwrap().is_some_and(|config| config.alpn_protocols == [ALPN]));
        for parameters in ["sslmode=require&sslrootcert=/nowhere", "sslcert=/nowhere&sslkey=/nowhere"] {
            let error = config(parameters).unwrap_err();
            assert!(error.to_string().starts_with("cannot read /nowhere"), "{error}");
        }
        // Not every machine has some.
        assert!(matches!(config("sslrootcert=system"), Ok(Some(_)) | Err(TlsError::System(_))));
    }
}
