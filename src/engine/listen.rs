//! Where peers reach us.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::network::Network;
use crate::config::Config;
use crate::error::{Error, Result};

/// Ports that are tried from the default one on.
const PORTS: u16 = 64;

/// Opens the listening socket: the address that was asked for or, from the default, the next free port.
///
/// # Errors
/// [`Error::Listen`].
pub(super) fn listen(network: &Network, config: &Config) -> Result<TcpListener> {
    let mut addr = config.listen;
    let mut tries = if config.listen_is_default { PORTS } else { 1 };
    loop {
        match network.listener(addr) {
            Ok(listener) => return Ok(listener),
            Err(_) if addr.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) && !has_ipv6() => {
                addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
            }
            Err(cause) => {
                tries -= 1;
                if tries == 0 || cause.kind() != io::ErrorKind::AddrInUse {
                    return Err(Error::Listen { addr, cause });
                }
                addr.set_port(addr.port().saturating_add(1));
            }
        }
    }
}

/// False on a machine whose kernel has no IPv6.
fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}
