//! The server's half: what the gateway does with its clients.

use super::keys::{constant_time_eq, hmac, sha256, xor, ScramKeys, Verifier};
use super::message::{encode, nonce, ClientFinalMessage, ClientFirstMessage, Gs2};
use super::ScramError;

/// What binds the server's half to its connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ServerBinding {
    /// [`super::MECHANISM_PLUS`] was not offered.
    #[default]
    None,
    /// It was, and the client chose [`super::MECHANISM`].
    Declined,
    /// The client chose it: `tls-server-end-point` of this server's certificate.
    EndPoint(Vec<u8>),
}

impl ServerBinding {
    fn check(&self, said: Gs2) -> Result<(), ScramError> {
        match (self, said) {
            (ServerBinding::EndPoint(_), Gs2::EndPoint)
            | (ServerBinding::None, Gs2::None | Gs2::NotOffered)
            | (ServerBinding::Declined, Gs2::None) => Ok(()),
            (ServerBinding::Declined, Gs2::NotOffered) => Err(ScramError::Downgrade),
            (ServerBinding::EndPoint(_), Gs2::None | Gs2::NotOffered) => Err(ScramError::NoChannelBinding),
            (ServerBinding::None | ServerBinding::Declined, Gs2::EndPoint) => Err(ScramError::ChannelBinding),
        }
    }
}

/// Waits for the client's first message.
#[derive(Debug)]
pub struct ServerFirst {
    verifier: Verifier,
    binding: ServerBinding,
    /// No such user: the exchange runs to its end and fails.
    doomed: bool,
}

/// Waits for the client's final message.
#[derive(Debug)]
pub struct ServerFinal {
    verifier: Verifier,
    doomed: bool,
    /// The gs2 header and the channel binding data, if there is any: what the client has to have signed.
    channel_binding: Vec<u8>,
    nonce: String,
    /// `client-first-bare,server-first`: the first part of what both sign.
    signed: String,
}

/// The client knows the password.
#[derive(Debug)]
pub struct Accepted {
    /// The server-final message: send it as AuthenticationSASLFinal.
    pub message: String,
    /// What the client proved itself with; proves the gateway to servers that have the same verifier.
    pub keys: ScramKeys,
}

impl ServerFirst {
    /// For a user with this verifier. (For a password in clear text, make its verifier once, when it is configured.)
    pub fn new(verifier: Verifier) -> Self {
        ServerFirst { verifier, binding: ServerBinding::None, doomed: false }
    }

    /// For a user that does not exist or has no verifier: what the client sees does not differ from a wrong password.
    /// `secret` is random and stays the same as long as it can, so that `user`'s salt does.
    pub fn mock(user: &str, secret: &[u8; 32]) -> Self {
        ServerFirst { verifier: Verifier::mock(user, secret), binding: ServerBinding::None, doomed: true }
    }

    /// On a connection with this binding.
    pub fn bound(self, binding: ServerBinding) -> Self {
        ServerFirst { binding, ..self }
    }

    /// Takes the client-first message (the data of SASLInitialResponse). Returns what comes next and the server-first
    /// message: send it as AuthenticationSASLContinue.
    pub fn respond(self, client_first: &[u8]) -> Result<(ServerFinal, String), ScramError> {
        self.respond_with_nonce(client_first, &nonce())
    }

    /// The same with a nonce of the caller's choice, which must be random wherever it counts.
    pub fn respond_with_nonce(
        self,
        client_first: &[u8],
        server_nonce: &str,
    ) -> Result<(ServerFinal, String), ScramError> {
        let first = ClientFirstMessage::parse(client_first)?;
        self.binding.check(first.gs2)?;
        let mut channel_binding = first.gs2_header.as_bytes().to_vec();
        if let ServerBinding::EndPoint(end_point) = &self.binding {
            channel_binding.extend_from_slice(end_point);
        }
        let nonce = format!("{}{server_nonce}", first.nonce);
        let message = format!("r={nonce},s={},i={}", encode(&self.verifier.salt), self.verifier.iterations);
        let signed = format!("{},{message}", first.bare);
        let ServerFirst { verifier, doomed, .. } = self;
        Ok((ServerFinal { verifier, doomed, channel_binding, nonce, signed }, message))
    }
}

impl ServerFinal {
    /// Takes the client-final message (the data of SASLResponse).
    ///
    /// Errors: [`ScramError::WrongPassword`], after the same work for a user that does not exist.
    pub fn respond(self, client_final: &[u8]) -> Result<Accepted, ScramError> {
        let last = ClientFinalMessage::parse(client_final)?;
        if last.channel_binding != self.channel_binding {
            return Err(ScramError::ChannelBindingCheck);
        }
        if last.nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let Verifier { iterations, salt, stored_key, server_key } = self.verifier;
        let signed: [&[u8]; 3] = [self.signed.as_bytes(), b",", last.without_proof.as_bytes()];
        let client_key = xor(&last.proof, &hmac(&stored_key, &signed));
        let knows_the_key = constant_time_eq(&sha256(&client_key), &stored_key);
        if !knows_the_key | self.doomed {
            return Err(ScramError::WrongPassword);
        }
        let message = format!("v={}", encode(&hmac(&server_key, &signed)));
        Ok(Accepted { message, keys: ScramKeys { iterations, salt, client_key, server_key } })
    }
}
