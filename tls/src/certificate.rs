//! What a certificate says: its channel binding data, its subject's common name.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Header, Reader, SliceReader, Tag, TagNumber, Tagged};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALTERNATIVE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// `tls-server-end-point` of RFC 5929: the hash of a server's certificate (DER) by its signature's hash function, SHA-256
/// for MD5 and SHA-1. None where the signature has no single hash function (Ed25519): there is no channel binding then.
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let signature = parsed.signature_algorithm();
    let hash = if signature.oid == RSA_PSS { pss_hash(signature)? } else { signature.oid };
    Some(match hash.to_string().as_str() {
        // MD5, SHA-1, SHA-256: as hash functions (in parameters of PSS), with RSA, with ECDSA and DSA.
        "1.2.840.113549.2.5" | "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => {
            Sha256::digest(certificate).to_vec()
        }
        "1.2.840.10045.4.1" | "1.2.840.10040.4.3" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.3.2" => {
            Sha256::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.4" | "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.3.1" => {
            Sha224::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.2" | "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => {
            Sha384::digest(certificate).to_vec()
        }
        "2.16.840.1.101.3.4.2.3" | "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// The hash function of RSASSA-PSS-params (RFC 4055): the first, explicitly tagged field, SHA-1 if it is left out.
fn pss_hash(signature: &AlgorithmIdentifierOwned) -> Option<ObjectIdentifier> {
    const SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
    let encoded = signature.parameters.as_ref()?.to_der().ok()?;
    let mut reader = SliceReader::new(&encoded).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    if header.tag() != Tag::Sequence {
        return None;
    }
    if reader.is_finished() {
        return Some(SHA_1);
    }
    let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber(0)).ok()?;
    Some(hash.map_or(SHA_1, |hash| hash.value.oid))
}

/// The first common name of a certificate's subject, as PostgreSQL's `cert` authentication takes it.
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let attribute = parsed.tbs_certificate().subject().iter().find(|attribute| attribute.oid == COMMON_NAME)?;
    match attribute.value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::TeletexString => {
            let name = std::str::from_utf8(attribute.value.value()).ok()?;
            // What another program would read as a shorter name names nobody.
            (!name.contains('\0')).then(|| name.to_owned())
        }
        _ => None,
    }
}

/// Whether names stand in an extension; the common name counts only where they do not (RFC 6125).
pub(crate) fn has_alternative_names(certificate: &[u8]) -> bool {
    Certificate::from_der(certificate).is_ok_and(|parsed| {
        let extensions = parsed.tbs_certificate().extensions();
        extensions.into_iter().flatten().any(|extension| extension.extn_id == SUBJECT_ALTERNATIVE_NAME)
    })
}

/// Seconds since 1970 between which a certificate is valid.
pub(crate) fn validity(certificate: &[u8]) -> Option<std::ops::RangeInclusive<u64>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let validity = parsed.tbs_certificate().validity();
    Some(validity.not_before.to_unix_duration().as_secs()..=validity.not_after.to_unix_duration().as_secs())
}

/// The SubjectPublicKeyInfo in DER.
pub(crate) fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(certificate).ok()?.tbs_certificate().subject_public_key_info().to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, name: &str) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Ringway");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_signatures_hash_function_makes_the_end_point() {
        let sha256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, "a");
        assert_eq!(end_point(&sha256), Some(Sha256::digest(&sha256).to_vec()));
        let sha384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384, "a");
        assert_eq!(end_point(&sha384), Some(Sha384::digest(&sha384).to_vec()));
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519, "a")), None);
        assert_eq!(end_point(b"no certificate"), None);
    }

    #[test]
    fn names() {
        let certificate = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, "J\u{e4}ger");
        assert_eq!(common_name(&certificate).as_deref(), Some("J\u{e4}ger"));
        assert!(!has_alternative_names(&certificate));
        assert!(validity(&certificate).is_some_and(|valid| valid.contains(&1_700_000_000)));
        assert_eq!(common_name(b""), None);
    }
}
