//! Where peers reach us.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tracing::warn;

use super::network::Network;
use super::utp::Utp;
use crate::config::Config;
use crate::error::{Error, Result};

/// Ports that are tried from the default one on.
const PORTS: u16 = 64;

/// Opens the sockets for TCP and, if it is wanted, uTP, with one port number: the address that was asked for or, from the
/// default, the next that is free for both. An address that is free for TCP alone will do if it was asked for. `None`:
/// nobody can reach us through a proxy.
///
/// # Errors
/// [`Error::Listen`].
pub(super) fn listen(network: &Network, config: &Config) -> Result<Option<(TcpListener, Option<Utp>)>> {
    if !network.is_direct() {
        return Ok(None);
    }
    let mut addr = config.listen;
    let mut tries = if config.listen_is_default { PORTS } else { 1 };
    loop {
        match open(network, addr, config) {
            Ok(sockets) => return Ok(Some(sockets)),
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

fn open(network: &Network, addr: SocketAddr, config: &Config) -> io::Result<(TcpListener, Option<Utp>)> {
    let listener = network.listener(addr)?;
    let addr = listener.local_addr()?;
    let utp = config.utp.then(|| Utp::open(network, addr, config.max_peers)).transpose();
    match utp {
        Ok(utp) => Ok((listener, utp)),
        Err(cause) if config.listen_is_default => Err(cause),
        Err(cause) => {
            warn!("uTP is off, only TCP is used: cannot open UDP port {}: {cause}", addr.port());
            Ok((listener, None))
        }
    }
}

/// False on a machine whose kernel has no IPv6.
fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}
