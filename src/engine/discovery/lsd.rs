//! Local service discovery (BEP 14): one task for the session, which says on every interface what we have and hears who
//! has the same. A group without a socket is left out: there is a network without multicast, and nothing to be said of it.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use network_interface::NetworkInterface;
use rand::TryRng;
use rand::rngs::SysRng;
use socket2::{InterfaceIndexOrAddress, SockRef};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tracing::debug;

use super::recurring::Recurring;
use crate::engine::due::due;
use crate::engine::network::Network;
use crate::node::Place;
use crate::swarm::TorrentKey;
use crate::wire::{LSD_V4, LSD_V6, LsdAnnounce, MAX_LSD, MAX_LSD_TORRENTS};

/// A torrent is announced again after this (BEP 14: every five minutes).
const EVERY: Duration = Duration::from_secs(300);
/// And no more often than this, however many others announce it, so that who has just come need not wait for that (BEP
/// 14: one a minute).
const LEAST: Duration = Duration::from_secs(60);
/// A socket that fails at once must not spin.
const PAUSE: Duration = Duration::from_secs(1);

/// Gets whoever has one of our torrents. It may not block.
pub(in crate::engine) type Heard = Arc<dyn Fn(TorrentKey, SocketAddr) + Send + Sync>;

/// What the task is told.
enum News {
    Add([u8; 20], TorrentKey),
    Remove(TorrentKey),
}

/// Local discovery of the session. Dropping it ends it.
pub(in crate::engine) struct Lsd {
    news: UnboundedSender<News>,
    task: JoinHandle<()>,
}

impl Lsd {
    /// Starts it; must be called inside a tokio runtime. `port` is where peers reach us.
    pub(in crate::engine) fn start(network: Network, port: u16, heard: Heard) -> Self {
        let (news, told) = unbounded_channel();
        Self { news, task: tokio::spawn(run(network, port, heard, told)) }
    }

    /// A torrent is announced from now on. Never a private one (BEP 27).
    pub(in crate::engine) fn add(&self, info_hash: [u8; 20], key: TorrentKey) {
        // The task ends only with this.
        let _ = self.news.send(News::Add(info_hash, key));
    }

    /// It is so no more.
    pub(in crate::engine) fn remove(&self, key: TorrentKey) {
        let _ = self.news.send(News::Remove(key));
    }
}

impl Drop for Lsd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A multicast group, and the interfaces on which we have joined it.
struct Group {
    address: SocketAddr,
    socket: UdpSocket,
    joined: BTreeMap<u32, String>,
}

impl Group {
    fn open(network: &Network, address: SocketAddr) -> Option<Self> {
        network.local(address.is_ipv4())?;
        match network.multicast(address) {
            Ok(socket) => Some(Self { address, socket, joined: BTreeMap::new() }),
            Err(e) => {
                debug!(%address, "no local discovery there: {e}");
                None
            }
        }
    }

    /// Joins on interfaces that have come, and forgets those that are gone.
    fn join(&mut self, interfaces: &[NetworkInterface]) {
        self.joined.retain(|index, _| interfaces.iter().any(|interface| interface.index == *index));
        let socket = SockRef::from(&self.socket);
        for interface in interfaces.iter().filter(|i| i.addr.iter().any(|a| a.ip().is_ipv4() == self.address.is_ipv4()))
        {
            if self.joined.contains_key(&interface.index) {
                continue;
            }
            let joined = match self.address.ip() {
                IpAddr::V4(ip) => socket.join_multicast_v4_n(&ip, &InterfaceIndexOrAddress::Index(interface.index)),
                IpAddr::V6(ip) => socket.join_multicast_v6(&ip, interface.index),
            };
            match joined {
                Ok(()) => drop(self.joined.insert(interface.index, interface.name.clone())),
                // One that was away meanwhile is still joined.
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    self.joined.insert(interface.index, interface.name.clone());
                }
                Err(e) => debug!(interface = interface.name, group = %self.address, "cannot join: {e}"),
            }
        }
    }

    /// Sends this on every interface.
    async fn send(&self, datagram: &[u8]) {
        for (&index, name) in &self.joined {
            if let Err(e) = self.send_on(index, datagram).await {
                debug!(interface = name, group = %self.address, "cannot announce: {e}");
            }
        }
    }

    async fn send_on(&self, index: u32, datagram: &[u8]) -> io::Result<()> {
        match self.address.ip() {
            IpAddr::V4(ip) => {
                let any = std::net::Ipv4Addr::UNSPECIFIED;
                rustix::net::sockopt::set_ip_multicast_if_with_ifindex(&self.socket, &ip, &any, index)?;
            }
            IpAddr::V6(_) => SockRef::from(&self.socket).set_multicast_if_v6(index)?,
        }
        self.socket.send_to(datagram, self.address).await.map(drop)
    }
}

/// The next datagram of a group; never one if there is no group.
async fn receive(group: Option<&Group>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match group {
        Some(group) => group.socket.recv_from(buffer).await,
        None => pending().await,
    }
}

async fn run(network: Network, port: u16, heard: Heard, mut news: UnboundedReceiver<News>) {
    let (mut v4, mut v6) = (Group::open(&network, LSD_V4), Group::open(&network, LSD_V6));
    let mut cookie = [0; 8];
    if SysRng.try_fill_bytes(&mut cookie).is_err() || (v4.is_none() && v6.is_none()) {
        return;
    }
    let cookie = data_encoding::HEXLOWER.encode(&cookie);
    let mut turns = Recurring::new(EVERY, LEAST);
    let mut device = network.device();
    let (mut in_v4, mut in_v6) = ([0; MAX_LSD], [0; MAX_LSD]);
    loop {
        let next = turns.next();
        let received = tokio::select! {
            told = news.recv() => {
                // All that has come goes into few datagrams.
                let Some(mut told) = told else { return };
                loop {
                    match told {
                        News::Add(info_hash, key) => turns.add(Instant::now(), info_hash, key),
                        News::Remove(key) => turns.remove(key),
                    }
                    let Ok(more) = news.try_recv() else { break };
                    told = more;
                }
                None
            }
            () = due(next) => None,
            received = receive(v4.as_ref(), &mut in_v4) => Some(received.map(|(length, from)| (&in_v4[..length], from))),
            received = receive(v6.as_ref(), &mut in_v6) => Some(received.map(|(length, from)| (&in_v6[..length], from))),
        };
        match received {
            Some(Ok((datagram, from))) => take(&mut turns, datagram, from, &cookie, &heard),
            // An interface went away, most likely: the next announce sees to it.
            Some(Err(e)) => {
                debug!("local discovery: {e}");
                tokio::time::sleep(PAUSE).await;
            }
            None => {}
        }
        let due = turns.due(Instant::now(), usize::MAX);
        if due.is_empty() {
            continue;
        }
        // Sockets stay bound to what an interface was before it went and came again.
        let now = network.device();
        if now.is_some() && std::mem::replace(&mut device, now) != now {
            (v4, v6) = (Group::open(&network, LSD_V4), Group::open(&network, LSD_V6));
        }
        let interfaces = network.interfaces();
        for group in [&mut v4, &mut v6].into_iter().flatten() {
            group.join(&interfaces);
            for some in due.chunks(MAX_LSD_TORRENTS) {
                let announce = LsdAnnounce {
                    port,
                    info_hashes: some.iter().map(|(hash, _)| *hash).collect(),
                    cookie: Some(cookie.clone()),
                };
                group.send(&announce.encode(group.address)).await;
            }
        }
        debug!(torrents = due.len(), "announced on the local network");
    }
}

/// A datagram has come: who has one of our torrents is told of, if it is on a network that we are on.
fn take(turns: &mut Recurring, datagram: &[u8], from: SocketAddr, cookie: &str, heard: &Heard) {
    if Place::of(from.ip()) == Place::Global {
        return debug!(%from, "an announce on the local network from outside is ignored");
    }
    let Some(announce) = LsdAnnounce::decode(datagram).filter(|a| a.cookie.as_deref() != Some(cookie)) else { return };
    let mut addr = from;
    addr.set_port(announce.port);
    for hash in &announce.info_hashes {
        if let Some(key) = turns.hurry(Instant::now(), hash) {
            debug!(%addr, "heard of a peer on the local network");
            heard(key, addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn neighbours_are_told_of_and_nobody_else() {
        let mut turns = Recurring::new(EVERY, LEAST);
        turns.add(Instant::now(), [1; 20], TorrentKey(1));
        let told = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&told);
        let heard: Heard = Arc::new(move |key, addr| keep.lock().unwrap().push((key, addr)));
        let announce = |hash, cookie: &str| {
            let cookie = Some(cookie.to_owned());
            LsdAnnounce { port: 7000, info_hashes: vec![[hash; 20]], cookie }.encode(LSD_V4)
        };
        for (from, datagram) in [
            ("10.0.0.2:6771", announce(1, "theirs")),
            ("[fe80::1]:6771", announce(1, "theirs")),
            ("10.0.0.3:6771", announce(1, "ours")),
            ("10.0.0.4:6771", announce(2, "theirs")),
            ("203.0.113.1:6771", announce(1, "theirs")),
            ("10.0.0.5:6771", b"BT-SEARCH".to_vec()),
        ] {
            take(&mut turns, &datagram, from.parse().unwrap(), "ours", &heard);
        }
        let expected = ["10.0.0.2:7000", "[fe80::1]:7000"].map(|addr| (TorrentKey(1), addr.parse().unwrap()));
        assert_eq!(*told.lock().unwrap(), expected);
    }
}
