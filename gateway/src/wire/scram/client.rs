//! The client's half: how the gateway logs in to shards.

use std::fmt;

use super::keys::{constant_time_eq, hmac, sha256, xor, Key, ScramKeys};
use super::message::{encode, nonce, parse_server_final, ServerFirstMessage};
use super::ScramError;

/// `n,,` in base64: no channel binding.
const CHANNEL_BINDING: &str = "c=biws";

/// What the client knows. Debug does not show it.
#[derive(Clone)]
pub enum Credential {
    /// Keys are computed when the server has told salt and rounds: milliseconds of work.
    Password(String),
    /// Keys learnt from a client; they fit servers with the same verifier only.
    Keys(ScramKeys),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Password(_) => "Password(..)",
            Credential::Keys(_) => "Keys(..)",
        })
    }
}

/// Has sent its first message and waits for the server's.
#[derive(Debug)]
pub struct ClientFirst {
    credential: Credential,
    nonce: String,
    bare: String,
}

/// Has sent its proof and waits for the server's.
pub struct ClientFinal {
    server_signature: Key,
    keys: ScramKeys,
}

impl fmt::Debug for ClientFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFinal").finish_non_exhaustive()
    }
}

impl ClientFirst {
    /// Begins an exchange. Returns what comes next and the client-first message: send it in SASLInitialResponse with
    /// [`super::MECHANISM`]. The user's name is left empty, as libpq does: servers take it from the startup packet.
    pub fn new(credential: Credential) -> (Self, String) {
        ClientFirst::with_nonce(credential, "", nonce())
    }

    pub(in crate::wire) fn with_nonce(credential: Credential, user: &str, nonce: String) -> (Self, String) {
        let bare = format!("n={user},r={nonce}");
        let message = format!("n,,{bare}");
        (ClientFirst { credential, nonce, bare }, message)
    }

    /// Takes the server-first message (the data of AuthenticationSASLContinue). Returns what comes next and the
    /// client-final message: send it as SASLResponse.
    ///
    /// Errors: [`ScramError::OtherVerifier`] if learnt keys do not fit the server; [`ScramError::Iterations`].
    pub fn respond(self, server_first: &[u8]) -> Result<(ClientFinal, String), ScramError> {
        let first = ServerFirstMessage::parse(server_first)?;
        if first.nonce.len() <= self.nonce.len() || !first.nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let keys = match self.credential {
            Credential::Password(password) => ScramKeys::derive(&password, &first.salt, first.iterations)?,
            Credential::Keys(keys) if keys.salt == first.salt && keys.iterations == first.iterations => keys,
            Credential::Keys(_) => return Err(ScramError::OtherVerifier),
        };
        let without_proof = format!("{CHANNEL_BINDING},r={}", first.nonce);
        let signed: [&[u8]; 5] = [self.bare.as_bytes(), b",", server_first, b",", without_proof.as_bytes()];
        let proof = xor(&keys.client_key, &hmac(&sha256(&keys.client_key), &signed));
        let message = format!("{without_proof},p={}", encode(&proof));
        Ok((ClientFinal { server_signature: hmac(&keys.server_key, &signed), keys }, message))
    }
}

impl ClientFinal {
    /// Takes the server-final message (the data of AuthenticationSASLFinal). The server has proved that it knows the
    /// verifier; the keys returned save the next login their computation.
    ///
    /// Errors: [`ScramError::ServerSignature`], [`ScramError::Refused`].
    pub fn finish(self, server_final: &[u8]) -> Result<ScramKeys, ScramError> {
        if !constant_time_eq(&parse_server_final(server_final)?, &self.server_signature) {
            return Err(ScramError::ServerSignature);
        }
        Ok(self.keys)
    }
}
