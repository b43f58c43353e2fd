//! How a connection in a client's role proves itself to a shard.

use crate::wire::scram::{Credential, ScramKeys};

#[derive(Clone, Default, PartialEq)]
pub enum Credentials {
    /// The shards trust the gateway, or use certificates.
    #[default]
    None,
    /// What the client's own exchange gave away: the shards hold the same verifier.
    Keys(ScramKeys),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credentials::None => "no credentials",
            Credentials::Keys(_) => "a client's keys",
        })
    }
}

impl Credentials {
    pub fn credential(&self) -> Option<Credential> {
        match self {
            Credentials::None => None,
            Credentials::Keys(keys) => Some(Credential::Keys(keys.clone())),
        }
    }
}
