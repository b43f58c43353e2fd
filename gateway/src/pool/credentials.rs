//! How a connection in a client's role proves itself to a shard.

use crate::wire::scram::{Credential, ScramKeys};

#[derive(Clone, Default, PartialEq)]
pub enum Credentials {
    /// The shards trust the gateway, or use certificates.
    #[default]
    None,
    /// What the client's own exchange gave away: the shards hold the same verifier.
    Keys(ScramKeys),
    /// From the users file; fits servers with any verifier of that password.
    Password(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::None => "no credentials",
            Credentials::Keys(_) => "a client's keys",
            Credentials::Password(_) => "a password",
        })
    }
}

impl Credentials {
    pub fn credential(&self) -> Option<Credential> {
        match self {
            Credentials::None => None,
            Credentials::Keys(keys) => Some(Credential::Keys(keys.clone())),
            Credentials::Password(password) => Some(Credential::Password(password.clone())),
        }
    }

    /// For servers that ask for the password itself or its MD5.
    pub fn password(&self) -> Option<&[u8]> {
        match self {
            Credentials::None | Credentials::Keys(_) => None,
            Credentials::Password(password) => Some(password.as_bytes()),
        }
    }
}
