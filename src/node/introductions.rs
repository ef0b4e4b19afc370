//! Holepunching (BEP 55), who introduces whom: which peer named an address that we cannot reach, which two peers we
//! introduce to each other, and whose introductions are believed. What peers may make us do is bounded per peer and minute.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Node;
use super::address::{canonical, dialable};
use super::connections::Connection;
use super::dials::MAX_KNOWN;
use super::place::Place;
use super::source::Source;
use crate::swarm::{PeerKey, TorrentKey};
use crate::wire::HolepunchError;

/// The least time between two requests to be introduced to one address: a NAT that did not let us through will hardly do
/// so at once.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// What a peer may ask of us, and tell us unasked, in [`WINDOW`]: more than a peer that fails to reach somebody needs, and too
/// little to have us send datagrams to strangers at a rate that matters.
const MAX_PER_PEER: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Introductions that are followed at once: as many as dials may be half-open.
const MAX_PUNCHING: usize = 25;

/// What becomes of a request to be introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendezvous {
    /// It is one too many, or not to be answered.
    Ignored,
    /// The asker is told why not.
    Refused(HolepunchError),
    /// Both are told of each other.
    Introduced {
        /// Who is at the address.
        target: PeerKey,
        /// Where: for the asker.
        target_at: SocketAddr,
        /// Where the asker is: for the target.
        asker_at: SocketAddr,
    },
}

/// What some peers did in the last minute.
#[derive(Clone, Debug, Default)]
struct Quota(BTreeMap<PeerKey, VecDeque<Instant>>);

impl Quota {
    /// True if this peer may do so once more.
    fn take(&mut self, now: Instant, peer: PeerKey) -> bool {
        let recent = self.0.entry(peer).or_default();
        while recent.front().is_some_and(|&at| now.saturating_duration_since(at) >= WINDOW) {
            recent.pop_front();
        }
        let granted = recent.len() < MAX_PER_PEER;
        if granted {
            recent.push_back(now);
        }
        granted
    }
}

/// The introductions of all torrents. Addresses are canonical.
#[derive(Clone, Debug, Default)]
pub(super) struct Introductions {
    /// Connected peers that have holepunch, and whether the connection is over uTP.
    able: BTreeMap<PeerKey, bool>,
    /// Who named an address.
    named: BTreeMap<TorrentKey, BTreeMap<SocketAddr, PeerKey>>,
    /// Whom we asked in the last minute, and when.
    asked: BTreeMap<(TorrentKey, SocketAddr), (Instant, PeerKey)>,
    relayed: Quota,
    believed: Quota,
    punching: BTreeSet<(TorrentKey, SocketAddr)>,
}

impl Introductions {
    /// A peer has named this address, to which we may be introduced by it.
    pub(super) fn named(&mut self, torrent: TorrentKey, addr: SocketAddr, by: PeerKey) {
        let Self { able, named, .. } = self;
        let named = named.entry(torrent).or_default();
        let full = named.len() >= MAX_KNOWN;
        match named.get_mut(&addr) {
            Some(before) if able.contains_key(&by) => *before = by,
            Some(_) => {}
            None if full => {}
            None => drop(named.insert(addr, by)),
        }
    }

    /// True if this connected peer has holepunch.
    pub(super) fn able(&self, peer: PeerKey) -> bool {
        self.able.contains_key(&peer)
    }

    /// A peer is gone.
    pub(super) fn remove(&mut self, peer: PeerKey) {
        self.able.remove(&peer);
        self.relayed.0.remove(&peer);
        self.believed.0.remove(&peer);
        self.asked.retain(|_, asked| asked.1 != peer);
        for named in self.named.values_mut() {
            named.retain(|_, by| *by != peer);
        }
    }

    /// A torrent is gone, or nobody of it is introduced any more.
    pub(super) fn remove_torrent(&mut self, torrent: TorrentKey) {
        self.named.remove(&torrent);
        self.asked.retain(|asked, _| asked.0 != torrent);
    }
}

impl Node {
    /// A connected peer has told whether it has holepunch (BEP 55). `utp`: it is connected over uTP. Nobody is introduced to
    /// a private torrent's peers.
    pub fn has_holepunch(&mut self, peer: PeerKey, has: bool, utp: bool) {
        let Some(connection) = self.connections.get(peer) else { return };
        if has && !self.dials.is_private(connection.torrent) {
            self.introductions.able.insert(peer, utp);
        } else {
            self.introductions.able.remove(&peer);
        }
    }

    /// An address did not answer: the connected peer to ask for an introduction, if there is one that named it. At most once
    /// a minute for one address.
    pub fn introducer(&mut self, now: Instant, torrent: TorrentKey, addr: SocketAddr) -> Option<PeerKey> {
        let (addr, intro) = (canonical(addr), &mut self.introductions);
        let by = *intro.named.get(&torrent)?.get(&addr)?;
        if !intro.able(by) || self.dials.is_private(torrent) || self.connections.at(torrent, addr).is_some() {
            return None;
        }
        intro.asked.retain(|_, asked| now.saturating_duration_since(asked.0) < ASK_EVERY);
        if intro.asked.contains_key(&(torrent, addr)) {
            return None;
        }
        intro.asked.insert((torrent, addr), (now, by));
        Some(by)
    }

    /// A peer asks to be introduced to the one at this address: at most 10 times a minute, and to those of its own torrent
    /// that it may know of.
    pub fn rendezvous(&mut self, now: Instant, asker: PeerKey, addr: SocketAddr) -> Rendezvous {
        let (addr, intro) = (canonical(addr), &mut self.introductions);
        let (Some(from), Some(&utp)) = (self.connections.get(asker), intro.able.get(&asker)) else {
            return Rendezvous::Ignored;
        };
        if !intro.relayed.take(now, asker) {
            return Rendezvous::Ignored;
        }
        let ours = self.external.of_family(addr.is_ipv4()).map(|ip| SocketAddr::new(ip, self.port));
        if !dialable(addr) {
            return Rendezvous::Refused(HolepunchError::NoSuchPeer);
        }
        if ours == Some(addr) || from.addr == addr || from.listens == Some(addr) {
            return Rendezvous::Refused(HolepunchError::NoSelf);
        }
        let Some((target, to)) = self.connections.at(from.torrent, addr) else {
            return Rendezvous::Refused(HolepunchError::NotConnected);
        };
        let Some(&target_utp) = intro.able.get(&target) else {
            return Rendezvous::Refused(HolepunchError::NoSupport);
        };
        let (Some(target_at), Some(asker_at)) = (endpoint(to, target_utp), endpoint(from, utp)) else {
            return Rendezvous::Refused(HolepunchError::NotConnected);
        };
        // Nobody learns what lies further inwards than he does, as in peer exchange.
        let may_know = |who: &Connection, addr| Source::Pex(Place::of(who.addr.ip())).admits(addr);
        if !may_know(from, target_at) || !may_know(to, asker_at) {
            return Rendezvous::Refused(HolepunchError::NotConnected);
        }
        Rendezvous::Introduced { target, target_at, asker_at }
    }

    /// A peer says that the one at this address dials us now. True if we do as well, over uTP: [`Node::punched`] follows. It
    /// may name what it may name in peer exchange; unless we asked it for this one, 10 a minute.
    pub fn introduced(&mut self, now: Instant, by: PeerKey, addr: SocketAddr) -> bool {
        let (addr, intro) = (canonical(addr), &mut self.introductions);
        let Some(relay) = self.connections.get(by) else { return false };
        let torrent = relay.torrent;
        let asked = intro.asked.get(&(torrent, addr));
        let asked = asked.is_some_and(|&(at, of)| of == by && now.saturating_duration_since(at) < ASK_EVERY);
        let ours = self.external.of_family(addr.is_ipv4()).map(|ip| SocketAddr::new(ip, self.port));
        if self.dials.is_private(torrent)
            || !(asked || intro.believed.take(now, by))
            || !Source::Pex(Place::of(relay.addr.ip())).admits(addr)
            || self.connections.banned(now, addr)
            || !self.scope.dials(addr)
            || self.connections.at(torrent, addr).is_some()
            || self.connections.left() == 0
            || ours == Some(addr)
            || intro.punching.len() >= MAX_PUNCHING
        {
            return false;
        }
        intro.punching.insert((torrent, addr))
    }

    /// An attempt of [`Node::introduced`] is over: it failed, or [`Node::connected`] follows.
    pub fn punched(&mut self, torrent: TorrentKey, addr: SocketAddr) {
        self.introductions.punching.remove(&(torrent, canonical(addr)));
    }
}

/// Where a peer can be dialled over uTP: where its datagrams come from, or else where it says that it listens.
fn endpoint(connection: &Connection, utp: bool) -> Option<SocketAddr> {
    if utp { Some(connection.addr) } else { connection.listens }
}

#[cfg(test)]
#[path = "introductions_tests.rs"]
mod tests;
