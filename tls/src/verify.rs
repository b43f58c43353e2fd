//! How far a server's certificate is verified, by libpq's rules.
//!
//! Where they differ from the web's: a certificate that stands in `sslrootcert` itself is trusted (a self-signed one, say),
//! and the subject's common name is its name if it has no alternative names. What rustls cannot read it refuses:
//! certificates that are not of X.509 version 3.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Who listens in is kept out, who sits in between is not.
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
pub struct ServerVerifier {
    pub check: Check,
    pub roots: RootCertStore,
    /// The certificates of `sslrootcert`.
    pub listed: Vec<CertificateDer<'static>>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.listed.iter().any(|listed| listed == end_entity) {
            let valid = certificate::validity(end_entity).ok_or(CertificateError::BadEncoding)?;
            return match now.as_secs() {
                now if now < *valid.start() => Err(CertificateError::NotValidYet.into()),
                now if now > *valid.end() => Err(CertificateError::Expired.into()),
                _ => Ok(()),
            };
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
    }
}

fn verify_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let refused = match verify_server_name(&ParsedCertificate::try_from(end_entity)?, name) {
        Ok(()) => return Ok(()),
        Err(refused) => refused,
    };
    if certificate::has_alternative_names(end_entity) {
        return Err(refused);
    }
    let common_name = certificate::common_name(end_entity).unwrap_or_default();
    if is_name_of(&common_name, &name.to_str()) {
        return Ok(());
    }
    Err(refused)
}

/// Whether a common name, perhaps with `*` as its first label, is a host's.
fn is_name_of(common_name: &str, host: &str) -> bool {
    if common_name.eq_ignore_ascii_case(host) {
        return true;
    }
    match (common_name.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((label, rest))) => !label.is_empty() && domain.eq_ignore_ascii_case(rest),
        _ => false,
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.verify_chain(end_entity, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.check != Check::Nothing {
            return verify_tls13_signature(message, cert, dss, &self.algorithms);
        }
        // Servers that nobody verifies often have certificates of version 1: their key is enough.
        let key = certificate::public_key(cert).ok_or(CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    /// 2026.
    const NOW: u64 = 1_780_000_000;

    fn parameters(common_name: &str, names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        parameters
    }

    fn authority(name: &str) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = parameters(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().der().clone();
        (Issuer::new(parameters, key), certificate)
    }

    fn signed(issuer: &Issuer<'static, KeyPair>, parameters: &CertificateParams) -> CertificateDer<'static> {
        parameters.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    fn verify(
        check: Check,
        listed: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        host: &str,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([listed.clone()]);
        let algorithms = crate::provider().signature_verification_algorithms;
        let verifier = ServerVerifier { check, roots, listed: vec![listed.clone()], algorithms };
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        verifier.verify_server_cert(shown, &[], &host, &[], now).map(|_| ())
    }

    fn is_misnamed(outcome: Result<(), Error>) -> bool {
        matches!(outcome, Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })))
    }

    #[test]
    fn as_much_as_asked() {
        let ((issuer, root), (_, other)) = (authority("one"), authority("other"));
        let shown = signed(&issuer, &parameters("elsewhere", &["db1", "192.0.2.1"]));
        for host in ["db1", "192.0.2.1"] {
            assert_eq!(verify(Check::ChainAndName, &root, &shown, host), Ok(()));
        }
        for host in ["db2", "192.0.2.2", "elsewhere"] {
            assert!(is_misnamed(verify(Check::ChainAndName, &root, &shown, host)), "{host}");
            assert_eq!(verify(Check::Chain, &root, &shown, host), Ok(()));
        }
        let stranger = Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(verify(Check::Chain, &other, &shown, "db1"), stranger);
        assert_eq!(verify(Check::ChainAndName, &other, &shown, "db1"), stranger);
        assert_eq!(verify(Check::Nothing, &other, &shown, "db2"), Ok(()));
    }

    #[test]
    fn common_names_count_where_there_are_no_others() {
        let (issuer, root) = authority("one");
        let shown = signed(&issuer, &parameters("DB1", &[]));
        assert_eq!(verify(Check::ChainAndName, &root, &shown, "db1"), Ok(()));
        assert!(is_misnamed(verify(Check::ChainAndName, &root, &shown, "db2")));
    }

    #[test]
    fn a_certificate_that_is_listed_is_its_own_authority() {
        let key = KeyPair::generate().unwrap();
        let mut own = parameters("db1", &[]);
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let shown = own.self_signed(&key).unwrap().der().clone();
        assert_eq!(verify(Check::ChainAndName, &shown, &shown, "db1"), Ok(()));
        own.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = own.self_signed(&key).unwrap().der().clone();
        let refused = Err(Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(verify(Check::Chain, &expired, &expired, "db1"), refused);
    }

    #[test]
    fn common_names_stand_for_hosts() {
        assert!(is_name_of("DB1.example", "db1.EXAMPLE"));
        assert!(is_name_of("*.example.com", "db1.example.com"));
        for (name, host) in
            [("*.example.com", "a.b.example.com"), ("*.com", ".com"), ("", "db"), ("*", "db"), ("db1", "db")]
        {
            assert!(!is_name_of(name, host), "{name} {host}");
        }
    }
}
