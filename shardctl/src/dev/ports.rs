//! TCP ports of the local machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng;

const LOWEST_PORT: u16 = 10_240;
const ATTEMPTS_MAX: usize = 100;

/// A port of 127.0.0.1 on which nothing listens.
///
/// It lies below the range from which the kernel takes the local ports of outgoing connections, so
/// that a server can come back to it after a restart.
pub fn free_port() -> io::Result<u16> {
    let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(32_768);
    if ephemeral > LOWEST_PORT {
        for _ in 0..ATTEMPTS_MAX {
            let port = rand::rng().random_range(LOWEST_PORT..ephemeral);
            if is_free(loopback(port))? {
                return Ok(port);
            }
        }
    }
    Ok(TcpListener::bind(loopback(0))?.local_addr()?.port())
}

/// Whether a server could listen on `address` now.
pub fn is_free(address: SocketAddr) -> io::Result<bool> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_not_free() {
        let listener = TcpListener::bind(loopback(free_port().unwrap())).unwrap();
        assert!(!is_free(listener.local_addr().unwrap()).unwrap());
    }
}
