//! Where the session's traffic leaves and what it may use: the one place where sockets, HTTP clients and name lookups are
//! made, so that a choice of the user's holds for all of them.

mod blocked;
mod dns;
mod socks;

use std::cmp::Ordering;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use network_interface::{NetworkInterface, NetworkInterfaceConfig};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::node::{Blocks, Place, Scope};
use socks::Socks;

/// A dial that takes longer is of no use to a reader (hardening: 5 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that the kernel holds until we accept them.
const BACKLOG: i32 = 256;
/// How often it is looked whether the interface is another one. Peers that come from outside can wait for that.
const LOOK: Duration = Duration::from_secs(5);
/// Name lookups of the process at one time: each holds a thread for as long as the resolver likes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// Which of the machine's networks is used, and how. Cheap to clone; the default is the system's own choice.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Choice>);

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Choice {
    /// What every socket binds to; none is the system's choice.
    bind: Option<IpAddr>,
    /// The interface that every socket is bound to; none is the system's choice.
    device: Option<String>,
    /// What connections go through.
    proxy: Option<Socks>,
    /// Whom nothing is sent to.
    blocks: Arc<Blocks>,
}

/// Networks are equal if they are the same choice, wherever it was made.
impl Ord for Network {
    fn cmp(&self, other: &Self) -> Ordering {
        // A block list is long, and mostly it is the same one.
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Network {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Network {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Network {}

impl Network {
    /// What the configuration says. Reads the block list.
    ///
    /// # Errors
    /// [`Error::Interface`] if it is not there, [`Error::Io`] or [`Error::BlockList`] if that cannot be used.
    pub fn of(config: &Config) -> Result<Self> {
        if let Some(name) = &config.interface {
            let known = rustix::net::netdevice::name_to_index(&any_socket()?, name);
            known.map_err(|cause| Error::Interface { name: name.clone(), cause: cause.into() })?;
        }
        let blocks = config.block_list.as_deref().map(blocked::read).transpose()?;
        Ok(Self(Arc::new(Choice {
            bind: Some(config.listen.ip()).filter(|ip| !ip.is_unspecified()),
            device: config.interface.clone(),
            proxy: config.proxy.clone().map(Socks::new).transpose()?,
            blocks: Arc::new(blocks.unwrap_or_default()),
        })))
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

    /// Which addresses the node has to do with. Through a proxy it can be of either family whatever we listen on.
    pub(super) fn scope(&self) -> Scope {
        let family = |v4| self.0.proxy.is_some() || self.local(v4).is_some();
        Scope { blocks: Arc::clone(&self.0.blocks), v4: family(true), v6: family(false) }
    }

    /// True if the user's block list has this address: nothing is sent there.
    #[must_use]
    pub fn blocks(&self, ip: IpAddr) -> bool {
        self.0.blocks.contain(ip)
    }

    /// False through a proxy: nobody can connect to us, and datagrams are not sent.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.proxy.is_none()
    }

    /// False if sockets that others make would leave by another way than ours.
    #[must_use]
    pub fn admits_others(&self) -> bool {
        self.is_direct() && self.0.device.is_none()
    }

    /// What the choice costs, for the user: one sentence, or none if it costs nothing.
    pub(super) fn costs(&self, config: &Config) -> Option<String> {
        let (others, direct) = (!self.admits_others(), !self.is_direct());
        let off = [
            (others && config.dht, "the DHT"),
            (others && config.port_map, "port mapping"),
            (direct && config.lsd, "local discovery"),
            (direct && config.utp, "uTP"),
            (direct, "UDP trackers"),
            (direct, "connections from others"),
        ];
        let off: Vec<&str> = off.into_iter().filter_map(|(off, what)| off.then_some(what)).collect();
        let (last, rest) = off.split_last()?;
        let off = if rest.is_empty() { (*last).to_owned() } else { format!("{} and {last}", rest.join(", ")) };
        Some(match (&self.0.proxy, &self.0.device) {
            (Some(proxy), None) => format!("through the proxy {proxy} go HTTP and connections to peers; off: {off}"),
            (Some(proxy), Some(name)) => {
                format!("through the proxy {proxy} by way of {name} go HTTP and connections to peers; off: {off}")
            }
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                format!("all sockets are bound to {name}; off, since theirs cannot be: {off}")
            }
        })
    }

    /// A socket that accepts connections at this address. An IPv6 wildcard takes IPv4 as well.
    ///
    /// # Errors
    /// The system's; `Unsupported` through a proxy.
    pub fn listener(&self, addr: SocketAddr) -> io::Result<TcpListener> {
        self.direct()?;
        let socket = self.socket(addr, Type::STREAM, Protocol::TCP)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }

    /// Connects to a peer.
    ///
    /// # Errors
    /// The socket's or the proxy's, or `TimedOut` after 5 s (20 s through a proxy); `PermissionDenied` if the block list has
    /// the address.
    pub async fn connect(&self, peer: SocketAddr) -> io::Result<TcpStream> {
        if self.blocks(peer.ip()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "its address is on the block list"));
        }
        match &self.0.proxy {
            None => self.connect_direct(peer).await,
            Some(proxy) => proxy.connect(self, peer).await,
        }
    }

    /// Connects to a peer, or to the proxy.
    async fn connect_direct(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        self.bind_to_device(SockRef::from(&socket))?;
        if self.0.bind.is_some() {
            let Some(local) = self.local(to.is_ipv4()) else { return Err(unsupported(OTHER_FAMILY)) };
            socket.bind(SocketAddr::new(local, 0))?;
        }
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(to)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A socket for datagrams at this address. An IPv6 wildcard takes IPv4 as well.
    ///
    /// # Errors
    /// The system's; `Unsupported` through a proxy.
    pub fn datagrams(&self, addr: SocketAddr) -> io::Result<UdpSocket> {
        self.direct()?;
        self.datagrams_direct(addr)
    }

    /// A socket for datagrams, where there is a proxy, too: for the proxy's own name.
    fn datagrams_direct(&self, addr: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(addr, Type::DGRAM, Protocol::UDP)?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&addr.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// A socket for datagrams to and from a multicast group, beside those that other programs have. It has joined the group
    /// on no interface yet.
    ///
    /// # Errors
    /// The system's; `Unsupported` through a proxy.
    pub(super) fn multicast(&self, group: SocketAddr) -> io::Result<UdpSocket> {
        self.direct()?;
        let socket = self.socket(group, Type::DGRAM, Protocol::UDP)?;
        if group.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        // At the group's own address, so that nothing else to this port comes here.
        socket.bind(&group.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// A socket of this address's family, bound to the interface and to nothing else.
    fn socket(&self, addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
        self.bind_to_device(SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    fn bind_to_device(&self, socket: SockRef<'_>) -> io::Result<()> {
        match &self.0.device {
            Some(name) => socket.bind_device(Some(name.as_bytes())),
            None => Ok(()),
        }
    }

    /// The kernel's number of the interface; none while it is not there, or if none was chosen. One that goes and comes
    /// again, as a VPN's does, has another number, and sockets stay bound to the old one.
    pub(super) fn device(&self) -> Option<u32> {
        let name = self.0.device.as_ref()?;
        rustix::net::netdevice::name_to_index(any_socket().ok()?, name).ok()
    }

    /// Waits until the interface has another number than this; for ever if none was chosen.
    pub(super) async fn device_after(&self, known: Option<u32>) -> u32 {
        if self.0.device.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(new) = self.device().filter(|&new| known != Some(new)) {
                return new;
            }
        }
    }

    /// Binds a socket of this network again to the interface, which has come back as another one. Only root may.
    pub(super) fn bind_again(&self, socket: SockRef<'_>) -> io::Result<()> {
        self.bind_to_device(socket)
    }

    /// Fails through a proxy.
    fn direct(&self) -> io::Result<()> {
        if self.is_direct() { Ok(()) } else { Err(unsupported(PROXIED)) }
    }

    /// The interfaces that this network has: the chosen one, those of the machine without the loopback, or the one that has
    /// the address which sockets bind to.
    pub(super) fn interfaces(&self) -> Vec<NetworkInterface> {
        let mut all = NetworkInterface::show().unwrap_or_default();
        all.retain(|interface| {
            let mut addresses = interface.addr.iter().map(|addr| addr.ip());
            match (&self.0.device, self.0.bind) {
                (Some(name), _) => interface.name == *name,
                (None, Some(bound)) => addresses.any(|ip| ip == bound),
                (None, None) => !addresses.any(|ip| ip.is_loopback()),
            }
        });
        all
    }

    /// The addresses of a host, by name or in digits. Few lookups run at a time, and nobody has to wait for one.
    ///
    /// # Errors
    /// The resolver's; `Unsupported` for a name that is the proxy's to resolve.
    pub async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match host.parse() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
            Err(_) if !self.is_direct() => Err(unsupported("only the proxy resolves names")),
            Err(_) => self.resolve(host, port).await,
        }
    }

    /// What an HTTP client looks up. Through a proxy it is nothing but the proxy's own name; `None`: there is no proxy.
    pub(super) async fn lookup_proxy(&self, host: &str) -> Option<io::Result<Vec<SocketAddr>>> {
        let proxy = self.0.proxy.as_ref()?;
        Some(if proxy.is_at(host) { self.resolve(host, proxy.port()).await } else { Err(unsupported(PROXIED)) })
    }

    /// The addresses of a host, by our own resolver if it has to keep to an interface, else the system's, which is called on
    /// a thread of its own.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        if self.0.device.is_some() {
            return dns::lookup(self, host, port).await;
        }
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
        let mut builder =
            builder.no_proxy().redirect(reqwest::redirect::Policy::none()).referer(false).local_address(self.0.bind);
        if let Some(name) = &self.0.device {
            builder = builder.interface(name);
        }
        match &self.0.proxy {
            Some(proxy) => builder.proxy(proxy.for_http()),
            None => builder,
        }
    }

    /// Where the host of a URL lies that has answered from `remote`. Of one behind a proxy nothing is known but what its URL
    /// says.
    pub(super) fn place(&self, url: &Url, remote: Option<SocketAddr>) -> Place {
        let ip = match (self.is_direct(), url.host()) {
            (true, _) => remote.map(|addr| addr.ip()),
            (false, Some(Host::Ipv4(ip))) => Some(ip.into()),
            (false, Some(Host::Ipv6(ip))) => Some(ip.into()),
            (false, _) => None,
        };
        ip.map_or(Place::Global, Place::of)
    }

    /// What to say of a request that failed: through a proxy, that it may be at fault.
    pub(super) fn blame(&self, cause: String) -> String {
        match &self.0.proxy {
            Some(proxy) => format!("through the proxy {proxy}: {cause}"),
            None => cause,
        }
    }
}

const OTHER_FAMILY: &str = "we listen on no address of its family";
const PROXIED: &str = "the proxy carries connections only";

fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// A socket for asking the kernel about interfaces.
fn any_socket() -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None));
    socket.map_err(|cause| Error::System { what: "open a socket", cause })
}
