//! The tracker's sockets: TCP and UDP on one port; the IPv6 wildcard serves both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

use super::datagram;
use crate::error::{Error, Result};

/// Connections that the kernel holds until we accept them.
const BACKLOG: i32 = 1024;
/// Bytes of datagrams that the kernel holds until we take them: seconds of them. It gives what it may.
const UDP_BUFFER: usize = 4 << 20;
/// Ports that the kernel may choose, until UDP has the one that TCP got.
const TRIES: usize = 16;

/// One address that is listened on.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) addr: SocketAddr,
    pub(super) tcp: TcpListener,
    pub(super) udp: UdpSocket,
}

/// Opens all of `listen`, in order.
///
/// # Errors
/// [`Error::Listen`] with the first address that cannot be had.
pub(super) fn open(listen: &[SocketAddr]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::with_capacity(listen.len());
    for &addr in listen {
        // Beside an IPv4 wildcard of the same port the IPv6 one is IPv6 alone.
        let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
        let only_v6 = addr.port() != 0 && listen.contains(&v4);
        let pair = match pair(addr, only_v6) {
            Err(_) if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !has_ipv6() && !only_v6 => pair(v4, false),
            other => other,
        };
        pairs.push(pair.map_err(|cause| Error::Listen { addr, cause })?);
    }
    Ok(pairs)
}

/// False on a machine whose kernel has no IPv6.
fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, None).is_ok()
}

fn pair(addr: SocketAddr, only_v6: bool) -> io::Result<Pair> {
    let mut tries = TRIES;
    loop {
        let tcp = socket(addr, Type::STREAM, only_v6)?;
        tcp.set_reuse_address(true)?;
        tcp.bind(&addr.into())?;
        tcp.listen(BACKLOG)?;
        let tcp = TcpListener::from_std(tcp.into())?;
        let bound = tcp.local_addr()?;
        // Without SO_REUSEADDR, which would let a second tracker share the port.
        let udp = socket(bound, Type::DGRAM, only_v6)?;
        match udp.bind(&bound.into()) {
            Err(error) if addr.port() == 0 && error.kind() == io::ErrorKind::AddrInUse && tries > 1 => tries -= 1,
            Err(error) => return Err(error),
            Ok(()) => {
                datagram::tell_destinations(&udp, bound.is_ipv6())?;
                // A smaller buffer is no reason not to serve.
                let _ = udp.set_recv_buffer_size(UDP_BUFFER);
                return Ok(Pair { addr: bound, tcp, udp: UdpSocket::from_std(udp.into())? });
            }
        }
    }
}

fn socket(addr: SocketAddr, kind: Type, only_v6: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
