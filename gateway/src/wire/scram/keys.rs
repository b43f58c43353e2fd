//! Keys of SCRAM and how they come from a password (RFC 5802, section 3).

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;
use hmac::digest::CtOutput;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::ScramError;

/// A key, a hash or a signature.
pub(super) type Key = [u8; 32];

/// PBKDF2 rounds of new verifiers; PostgreSQL's `scram_iterations`.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// Rounds that are computed at most: more would let a server, or a verifier, keep a core busy for seconds.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Salt of new verifiers in bytes, as in PostgreSQL.
const SALT_BYTES: usize = 16;

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // HMAC pads or hashes a key of any length, so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn sha256(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

pub(super) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|index| a[index] ^ b[index])
}

/// Compares in a time that does not depend on the contents.
pub(super) fn constant_time_eq(a: &Key, b: &Key) -> bool {
    CtOutput::<Sha256>::from(sha2::digest::Output::<Sha256>::from(*a))
        == CtOutput::<Sha256>::from(sha2::digest::Output::<Sha256>::from(*b))
}

/// The password as it is hashed: SASLprep (RFC 4013), or as it is where SASLprep does not apply, as in PostgreSQL.
fn prepared(password: &str) -> Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    }
}

/// The two keys of a user, with the salt and rounds that they belong to. Learnt from a client's successful exchange, they
/// authenticate the gateway to every server with the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl ScramKeys {
    /// Computes them: `iterations` rounds of PBKDF2, milliseconds of work for the default.
    ///
    /// Errors: no rounds, or more than [`ITERATIONS_MAX`].
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Result<Self, ScramError> {
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Iterations(iterations));
        }
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared(password).as_bytes(), salt, iterations, &mut salted);
        let (client_key, server_key) = (hmac(&salted, &[b"Client Key"]), hmac(&salted, &[b"Server Key"]));
        Ok(ScramKeys { iterations, salt: salt.to_vec(), client_key, server_key })
    }

    /// What a server keeps of them.
    pub fn verifier(&self) -> Verifier {
        Verifier {
            iterations: self.iterations,
            salt: self.salt.clone(),
            stored_key: sha256(&self.client_key),
            server_key: self.server_key,
        }
    }

    /// Whether a server with `verifier` accepts them.
    pub fn fit(&self, verifier: &Verifier) -> bool {
        self.iterations == verifier.iterations
            && self.salt == verifier.salt
            && constant_time_eq(&sha256(&self.client_key), &verifier.stored_key)
            && constant_time_eq(&self.server_key, &verifier.server_key)
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a server keeps of a password, `pg_authid.rolpassword`. Its text form is
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>` (PostgreSQL documentation, "pg_authid"); Debug hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// A text that is not a SCRAM-SHA-256 verifier. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier: {0}")]
pub struct VerifierError(&'static str);

impl Verifier {
    /// One for a new password: a random salt and [`DEFAULT_ITERATIONS`] rounds. Milliseconds of work.
    pub fn generate(password: &str) -> Self {
        let salt: [u8; SALT_BYTES] = rand::random();
        match ScramKeys::derive(password, &salt, DEFAULT_ITERATIONS) {
            Ok(keys) => keys.verifier(),
            // The default is within bounds; a verifier that nobody matches is the safe answer all the same.
            Err(_) => Verifier::mock(password, &rand::random()),
        }
    }

    /// One that no password matches, for a user that does not exist: the salt is always the same for the same user and
    /// `secret`, so that it does not tell him from a real one.
    pub(super) fn mock(user: &str, secret: &Key) -> Self {
        let salt = hmac(secret, &[b"salt", user.as_bytes()])[..SALT_BYTES].to_vec();
        let stored_key = hmac(secret, &[b"key", user.as_bytes()]);
        Verifier { iterations: DEFAULT_ITERATIONS, salt, stored_key, server_key: stored_key }
    }

    /// Whether `password` is the one. Milliseconds of work.
    pub fn matches(&self, password: &str) -> bool {
        ScramKeys::derive(password, &self.salt, self.iterations).is_ok_and(|keys| keys.fit(self))
    }
}

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(text: &str) -> Result<Self, VerifierError> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(VerifierError("another scheme"))?;
        let (head, keys) = rest.split_once('$').ok_or(VerifierError("no keys"))?;
        let (iterations, salt) = head.split_once(':').ok_or(VerifierError("no salt"))?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(VerifierError("no server key"))?;
        let iterations =
            iterations.parse().ok().filter(|count| *count >= 1).ok_or(VerifierError("bad iteration count"))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty()).ok_or(VerifierError("bad salt"))?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        Ok(Verifier {
            iterations,
            salt,
            stored_key: key(stored_key).ok_or(VerifierError("bad stored key"))?,
            server_key: key(server_key).ok_or(VerifierError("bad server key"))?,
        })
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored_key) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored_key}:{}", self.iterations, BASE64.encode(self.server_key))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}
