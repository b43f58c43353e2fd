//! The identifiers of the model, one type each, so that none is taken for another.
//!
//! They carry no behaviour: what an epoch or a move *means* is said where it is used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);
    };
}

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

identifier! {
    /// A shard's number: given once, never reused.
    ShardId(u16)
}
identifier! {
    /// The version of the topology. It only grows.
    Epoch(u64)
}
identifier! {
    /// A move of arcs between two shards.
    MoveId(u64)
}
identifier! {
    /// A set of tables sharded by the same kind of key.
    KeyspaceId(u32)
}
identifier! {
    /// A registered gateway process.
    GatewayId(u64)
}
identifier! {
    /// A position in a shard's write-ahead log (`pg_lsn`), displayed and parsed as PostgreSQL does: `16/B374D848`.
    Lsn(u64)
}

display_as_number!(ShardId, Epoch, MoveId, KeyspaceId, GatewayId);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a log position of the form 16/B374D848")]
pub struct LsnError;

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        let half = |digits: &str| {
            let hexadecimal = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let value = u32::from_str_radix(digits, 16).ok()?;
            hexadecimal.then_some(u64::from(value))
        };
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        Ok(Lsn(half(high).ok_or(LsnError)? << 32 | half(low).ok_or(LsnError)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_writes() {
        for value in [0, 1, 0x16_b374_d848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
        for text in ["", "/", "1", "1/", "+1/0", "1/123456789", "1/2/3", "g/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(LsnError), "{text}");
        }
    }

    #[test]
    fn identifiers_are_plain_numbers_outside() {
        assert_eq!(ShardId(7).to_string(), "7");
        assert_eq!(serde_json::to_string(&Epoch(9)).unwrap(), "9");
        assert_eq!(serde_json::from_str::<MoveId>("3").unwrap(), MoveId(3));
    }
}
