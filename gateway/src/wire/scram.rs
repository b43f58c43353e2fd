//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both roles, as PostgreSQL uses it (PostgreSQL documentation, "SASL Authentication").
//!
//! The server's half ([`server::ServerFirst`]) checks a client against a [`Verifier`] and learns the client's key from a
//! successful exchange. The client's half ([`client::ClientFirst`]) proves a password, or such a learnt key
//! ([`ScramKeys`]), to a server that has the same verifier; so no password is stored anywhere.
//!
//! Channel binding is `tls-server-end-point` (RFC 5929); the bytes that it binds to are given by whoever holds the
//! connection. What is absent: authorization identities, and the user's name, which PostgreSQL takes from the startup packet.

pub mod client;
mod keys;
mod message;
pub mod server;

#[cfg(test)]
mod tests;

pub use client::{ClientBinding, ClientFinal, ClientFirst, Credential};
pub use keys::{ScramKeys, Verifier, VerifierError, DEFAULT_ITERATIONS, ITERATIONS_MAX};
pub use message::MESSAGE_BYTES_MAX;
pub use server::{Accepted, ServerBinding, ServerFinal, ServerFirst};

use super::{PgError, SqlState};

/// Without channel binding.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// With channel binding: under TLS only.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why an exchange failed. Texts never hold anything secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Refused before anything is allocated.
    #[error("SCRAM message of {len} bytes exceeds the limit of {max} bytes", max = MESSAGE_BYTES_MAX)]
    TooLong { len: usize },
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error(
        "client selected {MECHANISM} without channel binding, but the SCRAM message includes channel binding data"
    )]
    ChannelBinding,
    #[error("client selected {MECHANISM_PLUS}, but the SCRAM message does not include channel binding data")]
    NoChannelBinding,
    #[error("unsupported SCRAM channel-binding type")]
    ChannelBindingType,
    /// The client did not see that the mechanism with channel binding was offered: somebody took it out of the offer.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    #[error("client requires an unsupported SCRAM extension")]
    MandatoryExtension,
    /// The peer answers another exchange.
    #[error("SCRAM nonce does not match")]
    Nonce,
    #[error("SCRAM channel binding check failed")]
    ChannelBindingCheck,
    /// Unknown user or wrong password: the two look alike.
    #[error("password authentication failed")]
    WrongPassword,
    #[error("server asks for {0} SCRAM iterations, more than the limit of {max}", max = ITERATIONS_MAX)]
    Iterations(u32),
    /// The server's verifier is not the one the key was learnt with.
    #[error("the server's SCRAM salt or iteration count differs from that of the learnt key")]
    OtherVerifier,
    /// The server does not know the verifier: it may be an impostor.
    #[error("the server's SCRAM signature is wrong")]
    ServerSignature,
    /// The server ended the exchange with an `e=` message.
    #[error("the server refused the SCRAM exchange")]
    Refused,
}

impl ScramError {
    /// What a client is told that logs in as `user`: PostgreSQL's codes and words.
    pub fn to_client(&self, user: &str) -> PgError {
        match self {
            ScramError::WrongPassword => PgError::fatal(
                SqlState::INVALID_PASSWORD,
                format!("password authentication failed for user \"{user}\""),
            ),
            ScramError::AuthorizationIdentity | ScramError::MandatoryExtension => {
                PgError::fatal(SqlState::FEATURE_NOT_SUPPORTED, self.to_string())
            }
            ScramError::Downgrade => PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, self.to_string())
                .detail(
                    "The client supports SCRAM channel binding but thinks the server does not. However, this server \
                     does support channel binding.",
                ),
            ScramError::ChannelBindingCheck => {
                PgError::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, self.to_string())
            }
            _ => PgError::fatal(SqlState::PROTOCOL_VIOLATION, self.to_string()),
        }
    }
}
