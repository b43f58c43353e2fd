//! The client's half: how the gateway logs in to shards.

use std::fmt;

use super::keys::{constant_time_eq, hmac, sha256, xor, Key, ScramKeys};
use super::message::{encode, nonce, parse_server_final, ServerFirstMessage, GS2_END_POINT, GS2_NONE, GS2_NOT_OFFERED};
use super::ScramError;

/// What binds the client's half to its connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ClientBinding {
    /// No TLS, or a certificate without an end point.
    #[default]
    None,
    /// It could be bound; the server has not offered it.
    NotOffered,
    /// Bound: `tls-server-end-point`. For [`super::MECHANISM_PLUS`].
    EndPoint(Vec<u8>),
}

impl ClientBinding {
    fn gs2_header(&self) -> &'static str {
        match self {
            ClientBinding::None => GS2_NONE,
            ClientBinding::NotOffered => GS2_NOT_OFFERED,
            ClientBinding::EndPoint(_) => GS2_END_POINT,
        }
    }

    /// The value of `c=` before base64.
    fn input(&self) -> Vec<u8> {
        let mut input = self.gs2_header().as_bytes().to_vec();
        if let ClientBinding::EndPoint(end_point) = self {
            input.extend_from_slice(end_point);
        }
        input
    }
}

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
    binding: ClientBinding,
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
    /// Begins an exchange without channel binding. Returns what comes next and the client-first message: send it in
    /// SASLInitialResponse with [`super::MECHANISM`]. The user's name is left empty, as libpq does: servers take it from the
    /// startup packet.
    pub fn new(credential: Credential) -> (Self, String) {
        ClientFirst::bound(credential, ClientBinding::None)
    }

    /// The same with [`super::MECHANISM_PLUS`] if the binding is one, [`super::MECHANISM`] otherwise.
    pub fn bound(credential: Credential, binding: ClientBinding) -> (Self, String) {
        ClientFirst::with_nonce(credential, binding, "", nonce())
    }

    /// The same with a nonce of the caller's choice, which must be random wherever it counts, and a user's name.
    pub fn with_nonce(credential: Credential, binding: ClientBinding, user: &str, nonce: String) -> (Self, String) {
        let bare = format!("n={user},r={nonce}");
        let message = format!("{}{bare}", binding.gs2_header());
        (ClientFirst { credential, binding, nonce, bare }, message)
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
        let without_proof = format!("c={},r={}", encode(&self.binding.input()), first.nonce);
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
