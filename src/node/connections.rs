//! Who is connected and who may be: the limits, one connection per peer, and bans.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::address::network;
use super::pex::Listed;
use super::place::Place;
use crate::swarm::{PeerKey, TorrentKey};
use crate::wire::PeerId;

/// Incoming handshakes that run at once, as rqbit: each may last its 10 s deadline.
const MAX_PENDING: usize = 256;
/// Of these, from one public IP: an eighth, so that one slow-loris cannot take all.
const MAX_PENDING_PER_IP: usize = 32;
/// Connections of one torrent with one public IP, or one /64 of IPv6: several users behind one NAT, not one that takes every place. It is
/// per torrent because a seedbox is one IP for all of a user's torrents.
const MAX_PER_IP: usize = 8;
/// A connection keeps its place so long whatever its rank: otherwise those that come could push each other out.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a ban lasts.
const BAN: Duration = Duration::from_secs(3600);
/// Banned ports after which the IP is banned: it changes ports, it is not a NAT with one bad user.
const PORTS_TO_BAN_IP: usize = 3;
/// Bans that are kept; the oldest go first.
const MAX_BANS: usize = 10_000;

/// Why a connection is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is us.
    #[error("it is this node itself")]
    Ourselves,
    /// The same peer is connected to this torrent.
    #[error("this peer is connected already")]
    Duplicate,
    /// Every connection is taken.
    #[error("no connection is free")]
    Full,
    /// Every place for an incoming handshake is taken.
    #[error("too many handshakes are under way")]
    Busy,
    /// Too many connections come from this public address.
    #[error("too many connections with this address")]
    Crowded,
    /// The peer was proved to have lied.
    #[error("this peer is banned")]
    Banned,
    /// The user's block list has its address.
    #[error("its address is on the block list")]
    Blocked,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) torrent: TorrentKey,
    pub(super) addr: SocketAddr,
    pub(super) id: PeerId,
    pub(super) outgoing: bool,
    /// Where the peer listens, as far as we know: the address that we dialled or the port that it told.
    pub(super) listens: Option<SocketAddr>,
    pub(super) since: Instant,
}

/// All connections and bans of the process. Addresses are canonical.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    max: usize,
    ours: PeerId,
    open: BTreeMap<PeerKey, Connection>,
    by_identity: BTreeMap<(TorrentKey, IpAddr, PeerId), PeerKey>,
    per_ip: BTreeMap<(TorrentKey, IpAddr), usize>,
    pending: BTreeMap<IpAddr, usize>,
    pending_total: usize,
    bans: Bans,
}

impl Connections {
    pub(super) fn new(max: usize, ours: PeerId) -> Self {
        Self {
            max,
            ours,
            open: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            per_ip: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_total: 0,
            bans: Bans::default(),
        }
    }

    /// Connections that may still be opened.
    pub(super) fn left(&self) -> usize {
        self.max.saturating_sub(self.open.len())
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// A socket was accepted: may its handshake begin? `outranks`: it may take another's place.
    pub(super) fn accept(&mut self, now: Instant, from: SocketAddr, outranks: bool) -> Result<(), Refusal> {
        let ip = network(from.ip());
        let here = self.pending.get(&ip).copied().unwrap_or(0);
        if self.bans.covers(now, from, None) {
            return Err(Refusal::Banned);
        }
        if self.left() == 0 && !outranks {
            return Err(Refusal::Full);
        }
        if self.pending_total >= MAX_PENDING || (here >= MAX_PENDING_PER_IP && Place::of(ip) == Place::Global) {
            return Err(Refusal::Busy);
        }
        self.pending.insert(ip, here + 1);
        self.pending_total += 1;
        Ok(())
    }

    /// An accepted socket's handshake is over, either way.
    pub(super) fn accept_done(&mut self, from: SocketAddr) {
        let ip = network(from.ip());
        if let Some(here) = self.pending.get_mut(&ip) {
            *here -= 1;
            self.pending_total -= 1;
            if *here == 0 {
                self.pending.remove(&ip);
            }
        }
    }

    /// Both handshakes are done. Returns the connection that this one replaces, which the caller closes.
    pub(super) fn connected(&mut self, peer: PeerKey, mut new: Connection) -> Result<Option<PeerKey>, Refusal> {
        let (ip, torrent) = (new.addr.ip(), new.torrent);
        if new.id == self.ours {
            return Err(Refusal::Ourselves);
        }
        if self.bans.covers(new.since, new.addr, Some(new.id)) {
            return Err(Refusal::Banned);
        }
        let identity = (torrent, ip, new.id);
        let old = self.by_identity.get(&identity).copied();
        if let Some(old) = old {
            // Two nodes that dial each other at once see both connections in a different order. Both keep the one that
            // the smaller id dialled, or they would close one each and be left with none.
            let old_outgoing = self.open.get(&old).is_some_and(|c| c.outgoing);
            let wanted_outgoing = self.ours < new.id;
            if old_outgoing == new.outgoing || new.outgoing != wanted_outgoing {
                return Err(Refusal::Duplicate);
            }
            // Where it listens is known from the one that was dialled.
            let listens = self.remove(old).and_then(|old| old.listens);
            new.listens = new.listens.or(listens);
        } else {
            // Before the other: somebody may be sent away so that there is room, and not for one that stays outside.
            let here = self.per_ip.get(&(torrent, network(ip))).copied().unwrap_or(0);
            if Place::of(ip) == Place::Global && here >= MAX_PER_IP {
                return Err(Refusal::Crowded);
            }
            if self.left() == 0 {
                return Err(Refusal::Full);
            }
        }
        self.by_identity.insert(identity, peer);
        *self.per_ip.entry((torrent, network(ip))).or_default() += 1;
        self.open.insert(peer, new);
        Ok(old)
    }

    /// Of those connections that are not new, the one of the lowest priority (BEP 40) below this.
    pub(super) fn outranked(
        &self,
        now: Instant,
        below: u32,
        priority: impl Fn(&Connection) -> Option<u32>,
    ) -> Option<PeerKey> {
        let settled = self.open.iter().filter(|(_, c)| now.saturating_duration_since(c.since) >= SETTLED);
        let ranked = settled.filter_map(|(&peer, c)| Some((priority(c)?, peer)));
        ranked.min().filter(|&(rank, _)| rank < below).map(|(_, peer)| peer)
    }

    /// Of the torrent that has the most connections, if it has more than this one: the newest of them that is not new, and
    /// that may `go`.
    pub(super) fn spare(&self, now: Instant, torrent: TorrentKey, go: impl Fn(&Connection) -> bool) -> Option<PeerKey> {
        let mut counts = BTreeMap::<TorrentKey, usize>::new();
        self.open.values().for_each(|c| *counts.entry(c.torrent).or_default() += 1);
        let ours = counts.get(&torrent).copied().unwrap_or(0);
        let (&largest, _) = counts.iter().filter(|(_, count)| **count > ours).max_by_key(|(_, count)| **count)?;
        let settled = |c: &Connection| now.saturating_duration_since(c.since) >= SETTLED;
        let spare = self.open.iter().filter(|(_, c)| c.torrent == largest && settled(c) && go(c));
        spare.max_by_key(|(_, c)| c.since).map(|(&peer, _)| peer)
    }

    /// The connection that came from the peer that listens at `addr`, which was just found to have this id.
    pub(super) fn came_from(&mut self, torrent: TorrentKey, addr: SocketAddr, id: PeerId) -> Option<&mut Connection> {
        let key = self.by_identity.get(&(torrent, addr.ip(), id))?;
        self.open.get_mut(key).filter(|c| !c.outgoing && c.listens.is_none_or(|listens| listens == addr))
    }

    /// True if the peer that listens at `addr` is connected.
    pub(super) fn listens(&self, torrent: TorrentKey, addr: SocketAddr) -> bool {
        self.open.values().any(|c| c.torrent == torrent && c.listens == Some(addr))
    }

    /// The peer of a torrent that is connected from `addr` or listens there.
    pub(super) fn at(&self, torrent: TorrentKey, addr: SocketAddr) -> Option<(PeerKey, &Connection)> {
        let mut of_torrent = self.open.iter().filter(|(_, c)| c.torrent == torrent);
        of_torrent.find(|(_, c)| c.addr == addr || c.listens == Some(addr)).map(|(&peer, c)| (peer, c))
    }

    /// The peers of a torrent, for each other.
    pub(super) fn listed(&self, torrent: TorrentKey) -> Vec<Listed> {
        let of_torrent = self.open.iter().filter(|(_, c)| c.torrent == torrent);
        let listed = |(&peer, c): (&PeerKey, &Connection)| Listed {
            peer,
            ip: c.addr.ip(),
            listens: c.listens,
            reachable: c.outgoing,
            holepunch: false,
        };
        of_torrent.map(listed).collect()
    }

    pub(super) fn get(&self, peer: PeerKey) -> Option<&Connection> {
        self.open.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: PeerKey) -> Option<&mut Connection> {
        self.open.get_mut(&peer)
    }

    pub(super) fn remove(&mut self, peer: PeerKey) -> Option<Connection> {
        let gone = self.open.remove(&peer)?;
        let identity = (gone.torrent, gone.addr.ip(), gone.id);
        if self.by_identity.get(&identity) == Some(&peer) {
            self.by_identity.remove(&identity);
        }
        let here = (gone.torrent, network(gone.addr.ip()));
        if let Some(n) = self.per_ip.get_mut(&here) {
            *n -= 1;
            if *n == 0 {
                self.per_ip.remove(&here);
            }
        }
        Some(gone)
    }

    /// Bans the peer at this address, of which we know its id and its listening address if it is still connected.
    pub(super) fn ban(&mut self, now: Instant, torrent: TorrentKey, addr: SocketAddr) {
        let peer = self.open.values().find(|c| c.torrent == torrent && c.addr == addr);
        let (id, listens) = (peer.map(|c| c.id), peer.and_then(|c| c.listens));
        self.bans.add(now, addr, id, listens);
    }

    pub(super) fn banned(&self, now: Instant, addr: SocketAddr) -> bool {
        self.bans.covers(now, addr, None)
    }
}

/// Bans with their ends.
#[derive(Clone, Debug, Default)]
struct Bans {
    addrs: BTreeMap<SocketAddr, Instant>,
    /// A peer that comes in has another port each time, so its id is banned with its IP.
    ids: BTreeMap<(IpAddr, PeerId), Instant>,
    ips: BTreeMap<IpAddr, Instant>,
}

impl Bans {
    fn add(&mut self, now: Instant, addr: SocketAddr, id: Option<PeerId>, listens: Option<SocketAddr>) {
        self.expire(now);
        let (ip, until) = (addr.ip(), now + BAN);
        if let Some(id) = id {
            self.ids.insert((ip, id), until);
        }
        // One offence is one port, so the address of a connection and where its peer listens count once.
        self.addrs.insert(listens.unwrap_or(addr), until);
        let first = network(ip);
        let last = match first {
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | u128::from(u64::MAX))),
            v4 @ IpAddr::V4(_) => v4,
        };
        let all = SocketAddr::new(first, 0)..=SocketAddr::new(last, u16::MAX);
        if Place::of(ip) == Place::Global && self.addrs.range(all).count() >= PORTS_TO_BAN_IP {
            self.ips.insert(first, until);
        }
        trim(&mut self.addrs);
        trim(&mut self.ids);
        trim(&mut self.ips);
    }

    fn expire(&mut self, now: Instant) {
        self.addrs.retain(|_, until| *until > now);
        self.ids.retain(|_, until| *until > now);
        self.ips.retain(|_, until| *until > now);
    }

    fn covers(&self, now: Instant, addr: SocketAddr, id: Option<PeerId>) -> bool {
        let on = |until: Option<&Instant>| until.is_some_and(|&until| until > now);
        on(self.ips.get(&network(addr.ip())))
            || on(self.addrs.get(&addr))
            || id.is_some_and(|id| on(self.ids.get(&(addr.ip(), id))))
    }
}

/// Keeps [`MAX_BANS`] by dropping the one that ends first.
fn trim<K: Ord + Copy>(bans: &mut BTreeMap<K, Instant>) {
    if bans.len() > MAX_BANS
        && let Some(first) = bans.iter().min_by_key(|entry| *entry.1).map(|entry| *entry.0)
    {
        bans.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TorrentKey = TorrentKey(1);
    const OURS: PeerId = PeerId([5; 20]);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn connection(from: &str, id: u8, outgoing: bool, since: Instant) -> Connection {
        let addr = addr(from);
        let listens = outgoing.then_some(addr);
        Connection { torrent: A, addr, id: PeerId([id; 20]), outgoing, listens, since }
    }

    #[test]
    fn ourselves_and_duplicates_are_refused() {
        let (now, mut all) = (Instant::now(), Connections::new(10, OURS));
        assert_eq!(all.connected(PeerKey(0), connection("1.2.3.4:5", 5, true, now)), Err(Refusal::Ourselves));
        assert_eq!(all.connected(PeerKey(1), connection("1.2.3.4:5", 1, true, now)), Ok(None));
        assert_eq!(all.connected(PeerKey(2), connection("1.2.3.4:6", 1, true, now)), Err(Refusal::Duplicate));
        assert_eq!(all.connected(PeerKey(3), connection("1.2.3.4:6", 2, true, now)), Ok(None));
        assert_eq!(all.connected(PeerKey(4), connection("1.2.3.5:5", 1, true, now)), Ok(None));
        let other = Connection { torrent: TorrentKey(2), ..connection("1.2.3.4:5", 1, true, now) };
        assert_eq!(all.connected(PeerKey(5), other), Ok(None));
        all.remove(PeerKey(1));
        assert_eq!(all.connected(PeerKey(6), connection("1.2.3.4:6", 1, false, now)), Ok(None));
    }

    #[test]
    fn two_nodes_that_dial_each_other_keep_one_connection() {
        let now = Instant::now();
        // x dials connection 1, y dials connection 2; each sees its own first.
        let (mut x, mut y) = (Connections::new(10, PeerId([1; 20])), Connections::new(10, PeerId([2; 20])));
        assert_eq!(x.connected(PeerKey(1), connection("10.0.0.2:1", 2, true, now)), Ok(None));
        assert_eq!(y.connected(PeerKey(2), connection("10.0.0.1:1", 1, true, now)), Ok(None));
        assert_eq!(x.connected(PeerKey(2), connection("10.0.0.2:9", 2, false, now)), Err(Refusal::Duplicate));
        assert_eq!(y.connected(PeerKey(1), connection("10.0.0.1:9", 1, false, now)), Ok(Some(PeerKey(2))));
        assert_eq!((x.len(), y.len()), (1, 1));
        // The close of the replaced one comes late and must not hurt the new one.
        assert!(y.remove(PeerKey(2)).is_none());
        assert_eq!(y.connected(PeerKey(3), connection("10.0.0.1:1", 1, true, now)), Err(Refusal::Duplicate));
    }

    #[test]
    fn eight_per_public_address_and_no_such_limit_in_a_lab() {
        let (now, mut all) = (Instant::now(), Connections::new(200, OURS));
        let mut kept = 0;
        for n in 10..60 {
            let from = format!("203.0.113.7:{n}");
            let verdict = all.connected(PeerKey(n), connection(&from, u8::try_from(n).unwrap(), false, now));
            assert!(matches!(verdict, Ok(None) | Err(Refusal::Crowded)));
            kept += usize::from(verdict.is_ok());
        }
        assert_eq!(kept, 8);
        for (i, ip) in ["127.0.0.1", "192.168.0.9", "[::1]"].into_iter().enumerate() {
            for n in 10..60u8 {
                let key = PeerKey(1000 + 100 * i as u64 + u64::from(n));
                assert_eq!(all.connected(key, connection(&format!("{ip}:{n}"), n, false, now)), Ok(None));
            }
        }
    }

    #[test]
    fn connections_and_pending_handshakes_are_bounded() {
        let (now, mut all) = (Instant::now(), Connections::new(2, OURS));
        for n in 0..256 {
            assert_eq!(all.accept(now, addr(&format!("203.0.{}.{}:1", n / 16, n % 16)), false), Ok(()));
        }
        assert_eq!(all.accept(now, addr("203.0.200.1:1"), false), Err(Refusal::Busy));
        all.accept_done(addr("203.0.0.0:1"));
        all.accept_done(addr("203.0.0.0:1"));
        assert_eq!(all.accept(now, addr("203.0.200.1:1"), false), Ok(()));
        assert_eq!(all.accept(now, addr("203.0.200.1:2"), false), Err(Refusal::Busy));
        for n in 1..=2 {
            all.connected(PeerKey(n), connection(&format!("10.0.0.{n}:1"), 1, true, now)).unwrap();
        }
        assert_eq!(all.connected(PeerKey(3), connection("10.0.0.3:1", 1, true, now)), Err(Refusal::Full));
        assert_eq!(all.accept(now, addr("10.0.0.3:1"), false), Err(Refusal::Full));
    }

    #[test]
    fn one_public_address_cannot_take_every_pending_place() {
        let (now, mut all) = (Instant::now(), Connections::new(2, OURS));
        let slow = (0..100).filter(|n| all.accept(now, addr(&format!("203.0.113.7:{}", n + 1)), false).is_ok()).count();
        assert_eq!(slow, 32);
        assert_eq!(all.accept(now, addr("203.0.113.8:1"), false), Ok(()));
    }

    #[test]
    fn a_ban_is_of_the_port_then_of_the_address_and_ends() {
        let (now, mut all) = (Instant::now(), Connections::new(10, OURS));
        all.ban(now, A, addr("203.0.113.7:1"));
        all.ban(now, A, addr("203.0.113.7:1"));
        all.ban(now, A, addr("203.0.113.7:2"));
        assert_eq!(all.accept(now, addr("203.0.113.7:2"), false), Err(Refusal::Banned));
        assert_eq!(all.accept(now, addr("203.0.113.7:3"), false), Ok(()), "another user behind the same NAT");
        all.ban(now, A, addr("203.0.113.7:3"));
        assert_eq!(all.accept(now, addr("203.0.113.7:4"), false), Err(Refusal::Banned));
        assert_eq!(all.accept(now + BAN, addr("203.0.113.7:4"), false), Ok(()));
    }

    #[test]
    fn a_lab_address_is_never_banned_whole() {
        let (now, mut all) = (Instant::now(), Connections::new(10, OURS));
        for port in 1..50 {
            all.ban(now, A, SocketAddr::new(addr("127.0.0.1:1").ip(), port));
        }
        assert!(all.banned(now, addr("127.0.0.1:49")));
        assert_eq!(all.accept(now, addr("127.0.0.1:50"), false), Ok(()));
    }

    #[test]
    fn a_banned_peer_cannot_come_back_from_another_port() {
        let (now, mut all) = (Instant::now(), Connections::new(10, OURS));
        all.connected(PeerKey(1), connection("127.0.0.1:40000", 1, false, now)).unwrap();
        all.get_mut(PeerKey(1)).unwrap().listens = Some(addr("127.0.0.1:6881"));
        all.ban(now, A, addr("127.0.0.1:40000"));
        all.remove(PeerKey(1));
        assert_eq!(all.connected(PeerKey(2), connection("127.0.0.1:40001", 1, false, now)), Err(Refusal::Banned));
        assert_eq!(all.connected(PeerKey(3), connection("127.0.0.1:40002", 2, false, now)), Ok(None));
        assert!(all.banned(now, addr("127.0.0.1:6881")), "and is not dialled");
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_hosts() {
        let (now, mut all) = (Instant::now(), Connections::new(100, OURS));
        let of = |n: u8| format!("[2001:db8:1:2::{n:x}]:6881");
        for n in 11..=18 {
            all.connected(PeerKey(n.into()), connection(&of(n), n, false, now)).unwrap();
        }
        assert_eq!(all.connected(PeerKey(9), connection(&of(9), 9, false, now)), Err(Refusal::Crowded));
        assert_eq!(all.connected(PeerKey(10), connection("[2001:db8:1:3::1]:1", 10, false, now)), Ok(None));
        for n in 11..=13 {
            all.ban(now, A, addr(&of(n)));
        }
        assert_eq!(all.accept(now, addr(&of(77)), false), Err(Refusal::Banned));
        assert_eq!(all.accept(now, addr("[2001:db8:1:3::2]:1"), false), Ok(()));
    }

    #[test]
    fn bans_are_bounded() {
        let mut bans = Bans::default();
        let now = Instant::now();
        for n in 0..(MAX_BANS as u64 + 50) {
            let ip = IpAddr::V4(std::net::Ipv4Addr::from(0x0100_0000 + u32::try_from(n).unwrap()));
            bans.add(now + Duration::from_millis(n), SocketAddr::new(ip, 1), None, None);
        }
        assert_eq!(bans.addrs.len(), MAX_BANS);
    }
}
