//! How the service role's sessions on shards begin: gateway (mirror) and control plane use the same settings, or row images
//! would change values on their way. Pure text; opens nothing.

/// `options` of the startup packet for every session of the service role.
pub const STARTUP_OPTIONS: &str = "-c session_replication_role=replica -c synchronous_commit=on \
-c default_transaction_isolation=read\\ committed -c search_path= -c DateStyle=ISO,YMD -c IntervalStyle=postgres \
-c TimeZone=UTC -c extra_float_digits=3 -c bytea_output=hex -c lc_monetary=C -c xmloption=content \
-c row_security=on -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c client_min_messages=warning";

/// Prefix of the gids of prepared transactions: `ringway:1:<anchor shard no>:<anchor xid8>:<gateway>:<n>`.
pub const GID_PREFIX: &str = "ringway:1:";

/// Advisory lock class (int4) that every session of a gateway on a shard holds, shared, at session level; the object is
/// [`gateway_lock_object`].
pub const GATEWAY_LOCK_CLASS: i32 = 0x5257_0020;

/// The low 32 bits of a gateway's number, as the int4 that `pg_advisory_lock_shared(int, int)` takes.
pub fn gateway_lock_object(gateway: crate::ids::GatewayId) -> i32 {
    (gateway.0 as u32) as i32
}

/// SQLSTATEs that the `ringway` schema raises (see `migrations/sql/V1__shard_schema.sql`).
pub mod sqlstate {
    pub const CAPTURED: &str = "RW001";
    pub const CLOSED_ARCS: &str = "RW002";
    pub const STALE_EPOCH: &str = "RW003";
    pub const FENCED: &str = "RW004";
    pub const FOREIGN_ROW: &str = "RW005";
    pub const MOVING: &str = "RW006";
    pub const NO_SUCH_MOVE: &str = "RW007";
}

/// A parsed gid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gid {
    pub anchor: crate::ids::ShardId,
    pub anchor_xid: u64,
    pub gateway: u64,
    pub number: u64,
}

impl std::fmt::Display for Gid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{GID_PREFIX}{}:{}:{}:{}", self.anchor.0, self.anchor_xid, self.gateway, self.number)
    }
}

impl Gid {
    /// None for a gid that is not of this version of ours.
    pub fn parse(text: &str) -> Option<Gid> {
        let mut parts = text.strip_prefix(GID_PREFIX)?.split(':');
        let gid = Gid {
            anchor: crate::ids::ShardId(parts.next()?.parse().ok()?),
            anchor_xid: parts.next()?.parse().ok()?,
            gateway: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(gid)
    }
}
