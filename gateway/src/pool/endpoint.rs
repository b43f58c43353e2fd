//! Where a shard is, from its connection string.

use ringway_tls::{SslMode, TlsParameters};
use tokio_postgres::config::{ChannelBinding, Host, SslNegotiation};

use super::error::PoolError;

/// A shard's server and its service role.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub shard: String,
    pub host: String,
    pub port: u16,
    pub database: String,
    pub service_role: String,
    /// The service role's.
    pub password: Option<Vec<u8>>,
    pub tls: TlsParameters,
    /// `sslnegotiation=direct`: the handshake comes first, without a request.
    pub direct_tls: bool,
    pub channel_binding: ChannelBinding,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}/{}", self.service_role, self.host, self.port, self.database)
    }
}

impl Endpoint {
    /// `postgresql://user[:password]@host:port/database`, or libpq's key-value form. Reads no file.
    pub fn parse(shard: &str, dsn: &str) -> Result<Endpoint, PoolError> {
        let wrong = |message: &str| PoolError::Connect { shard: shard.to_owned(), message: message.to_owned() };
        let (rest, tls) = TlsParameters::split(dsn).map_err(|error| wrong(&error.to_string()))?;
        let parsed: tokio_postgres::Config =
            rest.parse().map_err(|_| wrong("its connection string cannot be understood"))?;
        let direct_tls = parsed.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct_tls && matches!(tls.mode, SslMode::Disable | SslMode::Prefer) {
            return Err(wrong("sslnegotiation=direct needs sslmode=require or stronger"));
        }
        let host = match parsed.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(_)) => return Err(wrong("its connection string names a socket file; give host and port")),
            None => "127.0.0.1".to_owned(),
        };
        let service_role = parsed.get_user().ok_or_else(|| wrong("its connection string names no user"))?.to_owned();
        Ok(Endpoint {
            shard: shard.to_owned(),
            host,
            port: parsed.get_ports().first().copied().unwrap_or(5432),
            database: parsed.get_dbname().unwrap_or(&service_role).to_owned(),
            service_role,
            password: parsed.get_password().map(<[u8]>::to_vec),
            tls,
            direct_tls,
            channel_binding: parsed.get_channel_binding(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let one = Endpoint::parse("s1", "postgresql://ringway:pw@db1:5999/app").unwrap();
        let two = Endpoint::parse("s1", "host=db1 port=5999 user=ringway password=pw dbname=app").unwrap();
        assert_eq!(one, two);
        assert_eq!((one.port, one.service_role.as_str(), one.database.as_str()), (5999, "ringway", "app"));
        assert!(!format!("{one:?}").contains("pw"));
        assert!(Endpoint::parse("s1", "postgresql://db1/app").is_err());
    }

    #[test]
    fn reads_how_it_is_encrypted() {
        let parsed = |parameters: &str| Endpoint::parse("s1", &format!("postgresql://u@db1/app?{parameters}"));
        let plain = parsed("").unwrap();
        assert_eq!(
            (plain.tls.mode, plain.direct_tls, plain.channel_binding),
            (SslMode::Prefer, false, ChannelBinding::Prefer)
        );
        let direct = parsed("sslmode=require&sslnegotiation=direct&channel_binding=require").unwrap();
        assert_eq!((direct.tls.mode, direct.direct_tls), (SslMode::Require, true));
        assert_eq!(direct.channel_binding, ChannelBinding::Require);
        assert!(parsed("sslnegotiation=direct").is_err());
        assert!(parsed("sslmode=verify-full").unwrap_err().to_string().contains("sslrootcert"));
    }
}
