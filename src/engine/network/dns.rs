//! Names, asked for through the user's interface: the system's resolver sends where it likes, and so would a name server of
//! this machine, which asks others.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioTime};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::net::{TcpStream, UdpSocket};

use super::{Network, OTHER_FAMILY, unsupported};
use crate::node::Place;

/// Where name servers are named. The second is what systemd-resolved itself asks, where the first names only it.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The addresses of a host. The files are read each time: they change when the interface comes up.
pub(super) async fn lookup(network: &Network, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let files = tokio::task::spawn_blocking(|| FILES.map(|path| std::fs::read(path).unwrap_or_default()));
    let files = files.await.map_err(io::Error::other)?;
    let Some((config, options)) = files.iter().find_map(|text| servers(network, text)) else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "/etc/resolv.conf names no name server that can be asked through the interface",
        ));
    };
    let sockets = Sockets { network: network.clone(), tasks: TokioHandle::default() };
    let mut builder = Resolver::builder_with_config(config, sockets);
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// What a file says, but for name servers of this machine and of families that we do not have; none if no other is left.
fn servers(network: &Network, text: &[u8]) -> Option<(ResolverConfig, ResolverOpts)> {
    let (config, mut options) = parse_resolv_conf(text).ok()?;
    let (domain, search, mut servers) = config.into_parts();
    servers.retain(|server| Place::of(server.ip) != Place::Loopback && network.local(server.ip.is_ipv4()).is_some());
    // A name may lead to either, and whoever asks knows which he can use.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Nothing is kept: who asks does so minutes later.
    options.cache_size = 0;
    (!servers.is_empty()).then(|| (ResolverConfig::from_parts(domain, search, servers), options))
}

/// The network's sockets for the resolver.
#[derive(Clone)]
struct Sockets {
    network: Network,
    tasks: TokioHandle,
}

type Opened<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tasks.clone()
    }

    fn connect_tcp(&self, server: SocketAddr, _: Option<SocketAddr>, _: Option<Duration>) -> Opened<Self::Tcp> {
        let network = self.network.clone();
        Box::pin(async move { network.connect_direct(server).await.map(AsyncIoTokioAsStd) })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opened<UdpSocket> {
        let ip = self.network.local(server.is_ipv4());
        let opened = ip.ok_or_else(|| unsupported(OTHER_FAMILY));
        let opened = opened.and_then(|ip| self.network.datagrams_direct(SocketAddr::new(ip, local.port())));
        Box::pin(std::future::ready(opened))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Config;

    fn asked(network: &Network, text: &str) -> Option<Vec<IpAddr>> {
        servers(network, text.as_bytes()).map(|(config, _)| config.name_servers().iter().map(|s| s.ip).collect())
    }

    #[test]
    fn a_name_server_of_this_machine_is_not_asked() {
        let any = Network::default();
        let ips = |ips: &[&str]| Some(ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(asked(&any, "nameserver 127.0.0.53\noptions edns0\n"), None);
        assert_eq!(asked(&any, "nameserver ::1\nsearch lan\nnameserver 10.0.0.1\n"), ips(&["10.0.0.1"]));
        assert_eq!(asked(&any, ""), None);
        let config = Config { listen: "192.0.2.1:6881".parse().unwrap(), ..Config::default() };
        let v4 = Network::of(&config).unwrap();
        assert_eq!(asked(&v4, "nameserver fd00::1\nnameserver 192.0.2.9\n"), ips(&["192.0.2.9"]));
    }
}
