//! The TLS parameters of a connection string, by libpq's names: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`.
//!
//! Differences from libpq: no file is looked for in a home directory, `prefer` does not try again without TLS after a
//! handshake that failed, and `allow` is refused. `sslnegotiation` and `channel_binding` are left in the connection string.

use std::path::PathBuf;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SslMode {
    Disable,
    /// TLS if the server has it. Verifies nothing.
    #[default]
    Prefer,
    /// TLS. Verifies the chain if `sslrootcert` is given.
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub const fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }

    fn from_name(name: &str) -> Option<SslMode> {
        [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// Whose signature under a server's certificate counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Roots {
    /// `sslrootcert=system`: the operating system's certificate authorities.
    System,
    File(PathBuf),
}

/// Checked: what is to be verified can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsParameters {
    pub mode: SslMode,
    pub roots: Option<Roots>,
    /// The client's certificate and its key.
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is wrong with a connection string. Quotes nothing that may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error("sslmode \"{0}\" is not supported; give disable, prefer, require, verify-ca or verify-full")]
    Mode(String),
    #[error("sslmode={} needs sslrootcert: a file with the certificate authority, or \"system\"", .0.name())]
    NoRoots(SslMode),
    #[error("sslrootcert verifies nothing under sslmode={}; give require, verify-ca or verify-full", .0.name())]
    Unverified(SslMode),
    #[error("sslrootcert=system needs sslmode=verify-full, not {}: anybody can have a certificate of a public authority", .0.name())]
    WeakSystem(SslMode),
    #[error("sslcert and sslkey belong together: give both")]
    HalfIdentity,
    #[error("a value of an ssl parameter is not valid percent-encoded UTF-8")]
    Encoding,
}

const NAMES: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

#[derive(Default)]
struct Found {
    values: [Option<String>; NAMES.len()],
}

impl Found {
    /// Whether it is one of ours; the last of a name counts.
    fn put(&mut self, name: &str, value: String) -> bool {
        let Some(index) = NAMES.iter().position(|known| *known == name) else { return false };
        self.values[index] = Some(value).filter(|value| !value.is_empty());
        true
    }
}

impl TlsParameters {
    /// Takes the TLS parameters out of a connection string, a URL or keywords and values: the rest, as it was, and them.
    /// A string that cannot be read stays whole; whoever reads the rest says so.
    pub fn split(dsn: &str) -> Result<(String, TlsParameters), ParameterError> {
        let mut found = Found::default();
        let rest = match dsn.split_once("://") {
            Some(("postgres" | "postgresql", _)) => split_url(dsn, &mut found)?,
            _ => split_keywords(dsn, &mut found).unwrap_or_else(|| dsn.to_owned()),
        };
        let [mode, roots, certificate, key] = found.values;
        let mode = match mode {
            Some(name) => Some(SslMode::from_name(&name).ok_or(ParameterError::Mode(name))?),
            None => None,
        };
        let roots = roots.map(|roots| match roots.as_str() {
            "system" => Roots::System,
            _ => Roots::File(roots.into()),
        });
        let mode = match (mode, &roots) {
            (None, Some(Roots::System)) => SslMode::VerifyFull,
            (mode, _) => mode.unwrap_or_default(),
        };
        match (mode, &roots) {
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => return Err(ParameterError::NoRoots(mode)),
            (SslMode::Prefer, Some(_)) => return Err(ParameterError::Unverified(mode)),
            (SslMode::Require | SslMode::VerifyCa, Some(Roots::System)) => {
                return Err(ParameterError::WeakSystem(mode))
            }
            _ => {}
        }
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
            _ => return Err(ParameterError::HalfIdentity),
        };
        Ok((rest, TlsParameters { mode, roots, identity }))
    }

    /// The same for programs that use libpq.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![("PGSSLMODE", self.mode.name().to_owned())];
        match &self.roots {
            Some(Roots::System) => variables.push(("PGSSLROOTCERT", "system".to_owned())),
            Some(Roots::File(path)) => variables.push(("PGSSLROOTCERT", path.display().to_string())),
            None => {}
        }
        if let Some(identity) = &self.identity {
            variables.push(("PGSSLCERT", identity.certificate.display().to_string()));
            variables.push(("PGSSLKEY", identity.key.display().to_string()));
        }
        variables
    }
}

fn split_url(dsn: &str, found: &mut Found) -> Result<String, ParameterError> {
    // A password may hold a question mark.
    let after_user = dsn.find('@').unwrap_or(0);
    let Some(question) = dsn[after_user..].find('?').map(|at| at + after_user) else { return Ok(dsn.to_owned()) };
    let mut others = Vec::new();
    for pair in dsn[question + 1..].split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !NAMES.contains(&name) || !found.put(name, decoded(value)?) {
            others.push(pair);
        }
    }
    let mut rest = dsn[..question].to_owned();
    if !others.is_empty() {
        rest.push('?');
        rest.push_str(&others.join("&"));
    }
    Ok(rest)
}

fn decoded(text: &str) -> Result<String, ParameterError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(ParameterError::Encoding)?;
        bytes.push(value);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| ParameterError::Encoding)
}

/// `host=a password='b c'`: pairs with optional spaces round the equals sign; values may be quoted, `\` escapes.
fn split_keywords(dsn: &str, found: &mut Found) -> Option<String> {
    let mut others: Vec<&str> = Vec::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let equals = rest.find('=')?;
        let name = rest[..equals].trim();
        let value_at = rest.len() - rest[equals + 1..].trim_start().len();
        let (value, length) = value(&rest[value_at..])?;
        let end = value_at + length;
        if !found.put(name, value) {
            others.push(rest[..end].trim_end());
        }
        rest = rest[end..].trim_start();
    }
    Some(others.join(" "))
}

/// A value without quotes and escapes, and how long it was with them.
fn value(text: &str) -> Option<(String, usize)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value, at + 1)),
            c if c.is_whitespace() && !quoted => return Some((value, at)),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(dsn: &str) -> (String, TlsParameters) {
        TlsParameters::split(dsn).unwrap()
    }

    #[test]
    fn both_forms_say_the_same() {
        let expected = TlsParameters {
            mode: SslMode::VerifyFull,
            roots: Some(Roots::File("/etc/my ca.pem".into())),
            identity: Some(Identity { certificate: "/c".into(), key: "/k".into() }),
        };
        let url = "postgresql://u:p?q@h/db?sslmode=verify-full&channel_binding=require\
                   &sslrootcert=%2Fetc%2Fmy%20ca.pem&sslcert=/c&sslkey=/k";
        assert_eq!(split(url), ("postgresql://u:p?q@h/db?channel_binding=require".to_owned(), expected.clone()));
        let keywords =
            r"host=h sslmode = verify-full password='a \' b' sslrootcert='/etc/my ca.pem' sslcert=/c sslkey=/k";
        assert_eq!(split(keywords), (r"host=h password='a \' b'".to_owned(), expected));
    }

    #[test]
    fn what_is_not_ours_stays() {
        for dsn in ["postgresql://u@h/db", "host=h user=u", "postgresql://h/db?a=%ZZ", "host='h", "nonsense", ""] {
            assert_eq!(split(dsn), (dsn.to_owned(), TlsParameters::default()), "{dsn}");
        }
        assert_eq!(split("postgresql://h/?sslmode=disable").0, "postgresql://h/");
        assert_eq!(split("postgresql://h/?sslmode=disable&sslmode=require").1.mode, SslMode::Require);
        assert_eq!(split("postgresql://h/?sslrootcert=system").1.mode, SslMode::VerifyFull);
    }

    #[test]
    fn what_would_verify_less_than_it_says_is_refused() {
        let refused = |parameters: &str| TlsParameters::split(&format!("postgresql://h/db?{parameters}")).unwrap_err();
        assert_eq!(refused("sslmode=allow"), ParameterError::Mode("allow".into()));
        assert_eq!(refused("sslmode=verify-full"), ParameterError::NoRoots(SslMode::VerifyFull));
        assert_eq!(refused("sslrootcert=/ca"), ParameterError::Unverified(SslMode::Prefer));
        assert_eq!(refused("sslmode=require&sslrootcert=system"), ParameterError::WeakSystem(SslMode::Require));
        assert_eq!(refused("sslcert=/c"), ParameterError::HalfIdentity);
        assert_eq!(refused("sslkey=%zz"), ParameterError::Encoding);
    }

    #[test]
    fn libpq_gets_the_same() {
        let parameters = split("postgresql://h/db?sslmode=verify-ca&sslrootcert=/ca&sslcert=/c&sslkey=/k").1;
        let expected = [("PGSSLMODE", "verify-ca"), ("PGSSLROOTCERT", "/ca"), ("PGSSLCERT", "/c"), ("PGSSLKEY", "/k")];
        assert_eq!(parameters.environment(), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
