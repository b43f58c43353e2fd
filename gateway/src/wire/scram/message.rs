//! The four messages of an exchange, taken apart (RFC 5802, section 7). Nothing is trusted, nothing is computed here.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine;

use super::keys::Key;
use super::ScramError;

/// The longest message that is looked at; PostgreSQL's limit.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// The gs2 headers: the client cannot bind to a channel, believes that the server cannot, or does.
const GS2_HEADERS: [(&str, Gs2); 3] =
    [(GS2_NONE, Gs2::None), (GS2_NOT_OFFERED, Gs2::NotOffered), (GS2_END_POINT, Gs2::EndPoint)];
pub(super) const GS2_NONE: &str = "n,,";
pub(super) const GS2_NOT_OFFERED: &str = "y,,";
pub(super) const GS2_END_POINT: &str = "p=tls-server-end-point,,";

/// What a client says of channel binding (RFC 5802, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gs2 {
    None,
    NotOffered,
    EndPoint,
}

/// A random nonce of 18 bytes in base64, as PostgreSQL makes them.
pub(super) fn nonce() -> String {
    BASE64.encode(rand::random::<[u8; 18]>())
}

pub(super) struct ClientFirstMessage<'a> {
    pub(super) gs2: Gs2,
    pub(super) gs2_header: &'static str,
    pub(super) bare: &'a str,
    pub(super) nonce: &'a str,
}

pub(super) struct ServerFirstMessage<'a> {
    pub(super) nonce: &'a str,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: u32,
}

pub(super) struct ClientFinalMessage<'a> {
    /// All but the proof: what is signed.
    pub(super) without_proof: &'a str,
    pub(super) channel_binding: Vec<u8>,
    pub(super) nonce: &'a str,
    pub(super) proof: Key,
}

pub(super) fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::TooLong { len: message.len() });
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// The value of the attribute that has to come next, and what follows its comma (`None` at the message's end).
fn attribute<'a>(
    rest: Option<&'a str>,
    name: &str,
    missing: &'static str,
) -> Result<(&'a str, Option<&'a str>), ScramError> {
    let rest = rest.and_then(|rest| rest.strip_prefix(name)).ok_or(ScramError::Malformed(missing))?;
    Ok(match rest.split_once(',') {
        Some((value, rest)) => (value, Some(rest)),
        None => (rest, None),
    })
}

fn checked_nonce(nonce: &str) -> Result<&str, ScramError> {
    let printable = nonce.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if nonce.is_empty() || !printable {
        return Err(ScramError::Malformed("invalid nonce"));
    }
    Ok(nonce)
}

impl<'a> ClientFirstMessage<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no gs2 header"))?;
        match flag {
            "n" | "y" | "p=tls-server-end-point" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBindingType),
            _ => return Err(ScramError::Malformed("unexpected channel-binding flag")),
        }
        if rest.starts_with("a=") {
            return Err(ScramError::AuthorizationIdentity);
        }
        let (gs2_header, gs2, bare) = GS2_HEADERS
            .iter()
            .find_map(|(header, gs2)| Some((*header, *gs2, message.strip_prefix(header)?)))
            .ok_or(ScramError::Malformed("no gs2 header"))?;
        if bare.starts_with("m=") {
            return Err(ScramError::MandatoryExtension);
        }
        let (_user, rest) = attribute(Some(bare), "n=", "no user name")?;
        let (nonce, _extensions) = attribute(rest, "r=", "no nonce")?;
        Ok(ClientFirstMessage { gs2, gs2_header, bare, nonce: checked_nonce(nonce)? })
    }
}

impl<'a> ServerFirstMessage<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        if message.starts_with("m=") {
            return Err(ScramError::MandatoryExtension);
        }
        let (nonce, rest) = attribute(Some(message), "r=", "no nonce")?;
        let (salt, rest) = attribute(rest, "s=", "no salt")?;
        let (iterations, _extensions) = attribute(rest, "i=", "no iteration count")?;
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Malformed("invalid salt"))?;
        if salt.is_empty() {
            return Err(ScramError::Malformed("empty salt"));
        }
        let iterations = iterations
            .parse()
            .ok()
            .filter(|count| *count >= 1)
            .ok_or(ScramError::Malformed("invalid iteration count"))?;
        Ok(ServerFirstMessage { nonce: checked_nonce(nonce)?, salt, iterations })
    }
}

impl<'a> ClientFinalMessage<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let message = text(message)?;
        let (channel_binding, rest) = attribute(Some(message), "c=", "no channel binding")?;
        let (nonce, _rest) = attribute(rest, "r=", "no nonce")?;
        // Extensions may stand between nonce and proof; the proof is last, and no value contains a comma.
        let (without_proof, last) = message.rsplit_once(',').ok_or(ScramError::Malformed("no proof"))?;
        let proof = last.strip_prefix("p=").ok_or(ScramError::Malformed("no proof"))?;
        let proof = decode_key(proof).ok_or(ScramError::Malformed("invalid proof"))?;
        let channel_binding =
            BASE64.decode(channel_binding).map_err(|_| ScramError::Malformed("invalid channel binding"))?;
        Ok(ClientFinalMessage { without_proof, channel_binding, nonce, proof })
    }
}

/// The signature in a server-final message.
///
/// Errors: also [`ScramError::Refused`] for `e=`.
pub(super) fn parse_server_final(message: &[u8]) -> Result<Key, ScramError> {
    let message = text(message)?;
    if message.starts_with("e=") {
        return Err(ScramError::Refused);
    }
    let (signature, _extensions) = attribute(Some(message), "v=", "no server signature")?;
    decode_key(signature).ok_or(ScramError::Malformed("invalid server signature"))
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

pub(super) fn encode(data: &[u8]) -> String {
    BASE64.encode(data)
}
