//! Certificate authorities of a test, and what they sign.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: PathBuf,
}

/// A certificate and its key.
pub struct Certificate {
    pub file: PathBuf,
    pub key: PathBuf,
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn named(common_name: &str, alternative_names: &[&str]) -> Result<CertificateParams> {
    let names: Vec<String> = alternative_names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    Ok(parameters)
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Result<Authority> {
        let key = KeyPair::generate()?;
        let mut parameters = named(name, &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = directory.join(format!("{name}.pem"));
        std::fs::write(&file, parameters.self_signed(&key)?.pem())?;
        Ok(Authority { issuer: Issuer::new(parameters, key), file })
    }

    /// For a server with these names and addresses.
    pub fn server(&self, directory: &Path, file: &str, names: &[&str]) -> Result<Certificate> {
        let mut parameters = named(file, names)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(directory, file, &parameters)
    }

    /// For a client; its user is the common name.
    pub fn client(&self, directory: &Path, file: &str, user: &str) -> Result<Certificate> {
        let mut parameters = named(user, &[])?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(directory, file, &parameters)
    }

    fn sign(&self, directory: &Path, file: &str, parameters: &CertificateParams) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let paths =
            Certificate { file: directory.join(format!("{file}.crt")), key: directory.join(format!("{file}.key")) };
        std::fs::write(&paths.file, certificate.pem())?;
        std::fs::write(&paths.key, key.serialize_pem())?;
        std::fs::set_permissions(&paths.key, std::fs::Permissions::from_mode(0o600))?;
        Ok(paths)
    }
}
