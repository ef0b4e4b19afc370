//! Sockets: where peers reach us and what we dial from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::Config;
use crate::error::{Error, Result};

/// A dial that takes longer is of no use to a reader (hardening: 5 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that the kernel holds until we accept them.
const BACKLOG: i32 = 256;
/// Ports that are tried from the default one on.
const PORTS: u16 = 64;

/// Opens the listening socket: the address that was asked for or, from the default, the next free port.
///
/// # Errors
/// [`Error::Listen`].
pub(super) fn listen(config: &Config) -> Result<TcpListener> {
    let mut addr = config.listen;
    let mut tries = if config.listen_is_default { PORTS } else { 1 };
    loop {
        match open(addr) {
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

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to a peer, from the listening address unless that is the wildcard.
///
/// # Errors
/// The socket's, or `TimedOut` after 5 s.
pub(super) async fn dial(peer: SocketAddr, listen: IpAddr) -> io::Result<TcpStream> {
    let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !listen.is_unspecified() {
        socket.bind(SocketAddr::new(listen, 0))?;
    }
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(peer)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
