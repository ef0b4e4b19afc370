//! Where the session's traffic leaves and what it may use: the one place where sockets, HTTP clients and name lookups are
//! made, so that a choice of the user's holds for all of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use network_interface::{NetworkInterface, NetworkInterfaceConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::config::Config;

/// A dial that takes longer is of no use to a reader (hardening: 5 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that the kernel holds until we accept them.
const BACKLOG: i32 = 256;
/// Name lookups of the process at one time: each holds a thread for as long as the resolver likes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// Which of the machine's networks is used, and how. Cheap to clone; the default is the system's own choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(Arc<Choice>);

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    /// What every socket binds to; none is the system's choice.
    bind: Option<IpAddr>,
}

impl Network {
    /// What the configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self(Arc::new(Choice { bind: Some(config.listen.ip()).filter(|ip| !ip.is_unspecified()) }))
    }

    /// The address that sockets of this family bind to; none if we have none of that family.
    #[must_use]
    pub fn local(&self, v4: bool) -> Option<IpAddr> {
        match self.0.bind {
            Some(ip) => Some(ip).filter(|ip| ip.is_ipv4() == v4),
            None if v4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            None => Some(Ipv6Addr::UNSPECIFIED.into()),
        }
    }

    /// A socket that accepts connections at this address. An IPv6 wildcard takes IPv4 as well.
    ///
    /// # Errors
    /// The system's.
    pub fn listener(&self, addr: SocketAddr) -> io::Result<TcpListener> {
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

    /// Connects to a peer.
    ///
    /// # Errors
    /// The socket's, or `TimedOut` after 5 s.
    pub async fn connect(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        let socket = if peer.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(ip) = self.0.bind {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(peer)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A socket for datagrams at this address. An IPv6 wildcard takes IPv4 as well.
    ///
    /// # Errors
    /// The system's.
    pub fn datagrams(&self, addr: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// A socket for datagrams to and from a multicast group, beside those that other programs have. It has joined the group
    /// on no interface yet.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn multicast(&self, group: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
        if group.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // At the group's own address, so that nothing else to this port comes here.
        socket.bind(&group.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// The interfaces that this network has, those of the machine without the loopback, or the one that has the address
    /// which sockets bind to.
    pub(super) fn interfaces(&self) -> Vec<NetworkInterface> {
        let mut all = NetworkInterface::show().unwrap_or_default();
        all.retain(|interface| {
            let mut addresses = interface.addr.iter().map(|addr| addr.ip());
            match self.0.bind {
                Some(bound) => addresses.any(|ip| ip == bound),
                None => !addresses.any(|ip| ip.is_loopback()),
            }
        });
        all
    }

    /// The addresses of a host, by name or in digits. Few lookups run at a time, each on a thread that nobody has to wait
    /// for.
    ///
    /// # Errors
    /// The resolver's.
    pub async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // Held until the thread is free again, though nobody may wait for it any more.
            let _turn = turn;
            (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
        });
        lookup.await.map_err(io::Error::other)?
    }

    /// An HTTP client that leaves by this network. It follows no redirect and knows no proxy of the environment's.
    pub fn http(&self, builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        builder.no_proxy().redirect(reqwest::redirect::Policy::none()).referer(false).local_address(self.0.bind)
    }
}
