//! What the process decides over all torrents: who is unchoked, who is dialled or accepted, how fast we send, and how
//! much memory unfinished pieces may take. [`Node`] is one value that its owner keeps under one lock; it knows no socket
//! and no torrent's content, and every call is told the time.
#![forbid(unsafe_code)]

mod address;
mod admission;
mod blocks;
mod choker;
mod connections;
mod dials;
mod external;
mod introductions;
mod memory;
mod pex;
mod place;
mod priority;
mod rates;
mod slots;
mod source;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::swarm::{Candidate, PeerKey, TorrentKey};
use crate::wire::{PeerId, PexMessage, PexPeer};
pub(crate) use address::canonical;
pub use blocks::Blocks;
use choker::Choker;
use connections::Connections;
pub use connections::Refusal;
use dials::Dials;
use external::External;
pub use external::Witness;
use introductions::Introductions;
pub use introductions::Rendezvous;
use memory::Credits;
use pex::Exchange;
pub use pex::Exchanged;
pub use place::Place;

pub use rates::Bucket;
pub use source::Source;

/// Bytes of blocks that a torrent may ask for in one turn under a download limit.
const ASK: usize = 1 << 20;

/// What a node is made from.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Our own id: a connection with it is one with ourselves.
    pub peer_id: PeerId,
    /// Peers unchoked for what they give us, besides one optimistic unchoke. With an upload limit that they do not fill,
    /// there are more, one by one up to ten times as many.
    pub upload_slots: usize,
    /// Connections of the process.
    pub max_peers: usize,
    /// Payload bytes per second to all peers together; none is unlimited.
    pub upload_limit: Option<u64>,
    /// Payload bytes per second from all peers together; none is unlimited.
    pub download_limit: Option<u64>,
    /// False: every peer stays choked.
    pub upload: bool,
    /// Bytes of unfinished pieces in memory. A piece that is to be assembled in memory must be at most half of it.
    pub assembly_bytes: u64,
}

/// Which addresses there is anything to do with at all, whoever names them.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Those that the user does not want: not even those that he names as peers.
    pub blocks: Arc<Blocks>,
    /// We can connect over IPv4.
    pub v4: bool,
    /// We can connect over IPv6.
    pub v6: bool,
}

impl Default for Scope {
    /// All of them.
    fn default() -> Self {
        Self { blocks: Arc::default(), v4: true, v6: true }
    }
}

impl Scope {
    /// True if this address may be dialled. It is canonical.
    fn dials(&self, addr: SocketAddr) -> bool {
        (if addr.is_ipv4() { self.v4 } else { self.v6 }) && !self.blocks.contain(addr.ip())
    }
}

/// How a peer is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// With an encryption handshake (MSE).
    pub encrypted: bool,
    /// Over uTP (BEP 29).
    pub utp: bool,
}

/// What the process decides over all torrents.
#[derive(Debug)]
pub struct Node {
    limits: Limits,
    scope: Scope,
    choker: Choker,
    connections: Connections,
    dials: Dials,
    upload: Bucket<PeerKey>,
    requests: Bucket<TorrentKey>,
    download: Bucket<PeerKey>,
    credits: Credits,
    exchange: Exchange,
    introductions: Introductions,
    external: External,
    /// The port that others see us at, as far as we know.
    port: u16,
    /// Peers that had to make room.
    outranked: Vec<(TorrentKey, PeerKey)>,
}

impl Node {
    /// A node without peers. `seed` decides every tie; the first rechoke is a round after `now`, or sooner if hurried.
    #[must_use]
    pub fn new(limits: Limits, seed: u64, now: Instant) -> Self {
        Self {
            limits,
            scope: Scope::default(),
            choker: Choker::new(limits.upload_slots, limits.upload_limit, seed, now),
            connections: Connections::new(limits.max_peers, limits.peer_id),
            dials: Dials::new(seed.wrapping_add(1)),
            upload: Bucket::new(limits.upload_limit, rates::SENDS),
            requests: Bucket::new(limits.download_limit, rates::ASKS),
            download: Bucket::new(limits.download_limit, rates::READS),
            credits: Credits::new(limits.assembly_bytes),
            exchange: Exchange::default(),
            introductions: Introductions::default(),
            external: External::default(),
            port: 0,
            outranked: Vec::new(),
        }
    }

    /// From now on there are these addresses only. Nothing that is known or connected already is looked at again.
    pub fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    /// When [`Node::rechoke`] is due. It can come nearer after [`Node::interest`] and [`Node::disconnected`].
    #[must_use]
    pub fn next_rechoke(&self) -> Instant {
        self.choker.next_round()
    }

    /// Decides who is unchoked. Takes for each torrent whether we are complete (seeding) and all its peers; returns for
    /// each of them, in the same order, the peers that are unchoked until the next round; all others are choked.
    pub fn rechoke(
        &mut self,
        now: Instant,
        torrents: &[(TorrentKey, bool, Vec<Candidate>)],
    ) -> Vec<(TorrentKey, Vec<PeerKey>)> {
        if self.limits.upload {
            self.choker.round(now, torrents)
        } else {
            self.choker.round(now, &[]);
            torrents.iter().map(|torrent| (torrent.0, Vec::new())).collect()
        }
    }

    /// A peer has become interested, or is so no more: if a slot is free, the next rechoke is soon, but at least 1 s after
    /// the last one.
    pub fn interest(&mut self, now: Instant, peer: PeerKey, interested: bool) {
        match (self.limits.upload, interested) {
            (true, true) => self.choker.hurry(now),
            (true, false) => self.choker.uninterested(now, peer),
            (false, _) => {}
        }
    }

    /// Addresses where peers of a torrent may be. Those no connection can be made to, those out of our [`Scope`], those that
    /// lie further inwards than who named them, and those past 3,000 of one torrent are ignored; so are those known already, but one that was given
    /// up is tried once more.
    pub fn add_candidates(&mut self, now: Instant, torrent: TorrentKey, addrs: &[SocketAddr], source: Source) {
        self.add(now, torrent, addrs.iter().copied(), source);
    }

    fn add(&mut self, now: Instant, torrent: TorrentKey, addrs: impl Iterator<Item = SocketAddr>, source: Source) {
        let scope = &self.scope;
        self.dials.add(now, torrent, addrs.map(canonical).filter(|&addr| scope.dials(addr)), source);
    }

    /// The torrent is private (BEP 27): from now on it takes addresses only from trackers, the user and peers that come to
    /// us; those that anybody else has named are forgotten.
    pub fn set_private(&mut self, torrent: TorrentKey) {
        self.dials.set_private(torrent);
        self.exchange.remove_torrent(torrent);
        self.introductions.remove_torrent(torrent);
    }

    /// True after [`Node::set_private`].
    #[must_use]
    pub fn is_private(&self, torrent: TorrentKey) -> bool {
        self.dials.is_private(torrent)
    }

    /// A connected peer wants to be told of others (BEP 11), or does so no more. Nobody is of a private torrent's peers.
    pub fn wants_pex(&mut self, now: Instant, peer: PeerKey, wants: bool) {
        let Some(connection) = self.connections.get(peer) else { return };
        if !self.dials.is_private(connection.torrent) {
            self.exchange.wants(now, connection.torrent, peer, wants);
        }
    }

    /// When [`Node::pex_due`] has something. None: not before a peer comes or goes.
    #[must_use]
    pub fn next_pex(&self) -> Option<Instant> {
        self.exchange.next()
    }

    /// Torrents whose peers may be told of each other now; [`Node::pex`] says what.
    pub fn pex_due(&mut self, now: Instant) -> BTreeSet<TorrentKey> {
        self.exchange.due(now)
    }

    /// What peers of a torrent are to be told of each other now: at most 50 changes, and each of them once a minute.
    /// `seeds` are the peers of this torrent that want nothing.
    pub fn pex(&mut self, now: Instant, torrent: TorrentKey, seeds: &BTreeSet<PeerKey>) -> Vec<(PeerKey, PexMessage)> {
        let mut listed = self.connections.listed(torrent);
        listed.iter_mut().for_each(|listed| listed.holepunch = self.introductions.able(listed.peer));
        self.exchange.tell(now, torrent, &listed, seeds)
    }

    /// A peer names others (BEP 11). They become candidates if it may name them and does not do so too often. `complete`:
    /// we want nothing, so that seeds are of no use.
    pub fn pex_heard(&mut self, now: Instant, peer: PeerKey, message: &PexMessage, complete: bool) -> Exchanged {
        let Some(connection) = self.connections.get(peer) else { return Exchanged::Ignored };
        let (torrent, from) = (connection.torrent, Source::Pex(Place::of(connection.addr.ip())));
        if self.dials.is_private(torrent) {
            return Exchanged::Ignored;
        }
        let verdict = self.exchange.heard(now, peer);
        if verdict == Exchanged::Taken {
            let of_use = message.added.iter().filter(|peer| !complete || peer.flags & PexPeer::SEED == 0);
            let of_use: Vec<_> = of_use.map(|peer| canonical(peer.addr)).filter(|&addr| from.admits(addr)).collect();
            of_use.iter().for_each(|&addr| self.introductions.named(torrent, addr, peer));
            self.add(now, torrent, of_use.into_iter(), from);
        }
        verdict
    }

    /// A connected peer has told the port where it listens (BEP 10 `p`): it can be dialled there once it is gone, and is
    /// not meanwhile.
    pub fn listening(&mut self, now: Instant, peer: PeerKey, port: u16) {
        let Some(connection) = self.connections.get_mut(peer).filter(|c| c.listens.is_none()) else { return };
        // With its scope, where that is part of it.
        let mut addr = connection.addr;
        addr.set_port(port);
        connection.listens = Some(addr);
        let torrent = connection.torrent;
        self.add(now, torrent, std::iter::once(addr), Source::Incoming);
        self.dials.connected_elsewhere(now, torrent, addr);
        self.exchange.changed(now, torrent);
    }

    /// A read of this torrent starves: addresses that could not be reached or were lost are due at once, those given up
    /// too. At most once in 5 s; peers that misbehaved keep their wait. With every connection taken, one of the torrent that
    /// has the most comes out of [`Node::take_outranked`].
    pub fn boost(&mut self, now: Instant, torrent: TorrentKey) {
        if self.dials.boost(now, torrent) {
            self.make_room(now, torrent);
        }
    }

    /// The next address to dial. Its attempt must end in [`Node::connected`] or [`Node::dial_failed`]. At most 25 run at
    /// once, and 30 begin in a second.
    pub fn next_dial(&mut self, now: Instant) -> Option<(TorrentKey, SocketAddr)> {
        let Self { dials, connections, scope, .. } = self;
        dials.next(now, connections.left(), |addr| connections.banned(now, addr) || !scope.dials(addr))
    }

    /// How to dial an address of [`Node::next_dial`].
    #[must_use]
    pub fn way(&self, torrent: TorrentKey, addr: SocketAddr) -> Way {
        self.dials.way(torrent, canonical(addr))
    }

    /// A dialled address was reached in this way, or should be tried so the next time.
    pub fn reached(&mut self, torrent: TorrentKey, addr: SocketAddr, way: Way) {
        self.dials.reached(torrent, canonical(addr), way);
    }

    /// When [`Node::next_dial`] may have something. None: not before another call on this node.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.dials.next_timeout(self.connections.left())
    }

    /// Somebody says at which address he sees us. `port` is where we listen.
    pub fn seen(&mut self, by: Witness, ours: IpAddr, port: u16) {
        self.port = port;
        if self.external.seen(by, ours) {
            let at = |v4: bool| self.external.of_family(v4).map(|ip| SocketAddr::new(ip, port));
            self.dials.set_ours([at(true), at(false)]);
        }
    }

    /// Our address of a family as most others see it; none while too few have said it.
    #[must_use]
    pub fn external(&self, v4: bool) -> Option<IpAddr> {
        self.external.of_family(v4)
    }

    /// The torrent is gone, its connections already closed. Returns the memory grants that this makes possible.
    pub fn remove_torrent(&mut self, torrent: TorrentKey) -> Vec<(TorrentKey, u64)> {
        self.dials.remove(torrent);
        self.exchange.remove_torrent(torrent);
        self.introductions.remove_torrent(torrent);
        self.requests.leave(torrent);
        self.credits.remove(torrent)
    }

    /// The limit on payload that we send.
    pub fn upload(&mut self) -> &mut Bucket<PeerKey> {
        &mut self.upload
    }

    /// The download limit where it is kept first: a torrent asks for what it may ask its peers for, bytes of blocks.
    /// Returns what it may now; if that is 0, it comes out of a later [`Node::may_ask`]. Torrents take turns, those for
    /// which a read waits (`urgent`) before the others.
    pub fn ask(&mut self, now: Instant, torrent: TorrentKey, urgent: bool) -> u64 {
        let granted = self.requests.take(now, torrent, ASK);
        if granted == 0 {
            self.requests.wait(now, torrent, urgent);
        }
        granted as u64
    }

    /// When [`Node::may_ask`] has something.
    #[must_use]
    pub fn next_ask(&self) -> Option<Instant> {
        self.requests.next()?.1
    }

    /// What torrents that waited may ask for now.
    pub fn may_ask(&mut self, now: Instant) -> Vec<(TorrentKey, u64)> {
        let mut grants = Vec::new();
        while let Some((next, _)) = self.requests.next() {
            let granted = self.requests.take(now, next, ASK);
            if granted == 0 {
                break;
            }
            grants.push((next, granted as u64));
        }
        grants
    }

    /// The download limit where it is kept whatever peers send: at the payload that we read from their sockets.
    pub fn download(&mut self) -> &mut Bucket<PeerKey> {
        &mut self.download
    }

    /// A torrent asks for bytes of unfinished pieces. Returns what is granted now; the rest comes out of a later
    /// [`Node::release`], in fair turns.
    pub fn reserve(&mut self, torrent: TorrentKey, bytes: u64) -> u64 {
        self.credits.reserve(torrent, bytes)
    }

    /// A torrent gives granted bytes back. Returns the grants that this makes possible.
    pub fn release(&mut self, torrent: TorrentKey, bytes: u64) -> Vec<(TorrentKey, u64)> {
        self.credits.release(torrent, bytes)
    }

    /// A torrent waits for so much less. Returns the grants that this makes possible.
    pub fn withdraw(&mut self, torrent: TorrentKey, bytes: u64) -> Vec<(TorrentKey, u64)> {
        self.credits.withdraw(torrent, bytes)
    }

    /// Bytes granted to unfinished pieces.
    #[must_use]
    pub fn assembling(&self) -> u64 {
        self.credits.used()
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Attempts to dial that are under way.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.dials.half_open()
    }

    /// Addresses known of a torrent.
    #[must_use]
    pub fn known_peers(&self, torrent: TorrentKey) -> usize {
        self.dials.known(torrent)
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
