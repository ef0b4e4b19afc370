//! Who may be connected: what comes in and what was dialled, who makes room for whom, and what the parts of a node have to
//! know of a connection's beginning and end.

use std::net::SocketAddr;
use std::time::Instant;

use super::Node;
use super::address::canonical;
use super::connections::{Connection, Refusal};
use super::place::Place;
use super::priority::priority;
use crate::swarm::{PeerKey, TorrentKey};
use crate::wire::PeerId;

impl Node {
    /// A dialled address gave no connection, or its handshake failed.
    pub fn dial_failed(&mut self, now: Instant, torrent: TorrentKey, addr: SocketAddr) {
        let addr = canonical(addr);
        if self.connections.listens(torrent, addr) {
            // It dialled us at the same time, and closed this one.
            self.dials.connected(now, torrent, addr);
        } else {
            self.dials.failed(now, torrent, addr);
        }
    }

    /// A socket was accepted. When its handshake is over, [`Node::accept_done`] follows.
    ///
    /// # Errors
    /// A [`Refusal`]: close it at once, nothing follows.
    pub fn accept(&mut self, now: Instant, from: SocketAddr) -> Result<(), Refusal> {
        let from = canonical(from);
        if self.scope.blocks.contain(from.ip()) {
            return Err(Refusal::Blocked);
        }
        let outranks = self.connections.left() == 0 && self.outranked_by(now, from).is_some();
        self.connections.accept(now, from, outranks)
    }

    /// Who would make room for a peer at this address: with every connection taken, the one of the lowest canonical
    /// priority (BEP 40) below the newcomer's, if it is a minute old and not the user's own.
    fn outranked_by(&self, now: Instant, newcomer: SocketAddr) -> Option<PeerKey> {
        let rank = |addr: SocketAddr| {
            let global = Place::of(addr.ip()) == Place::Global;
            let ours = self.external.of_family(addr.is_ipv4()).filter(|_| global)?;
            priority(SocketAddr::new(ours, self.port), addr)
        };
        self.connections.outranked(now, rank(newcomer)?, |c| {
            let listens = c.listens.unwrap_or(c.addr);
            if self.dials.is_users(c.torrent, listens) { None } else { rank(c.addr) }
        })
    }

    /// A torrent that starves has whom to dial and no connection left: another torrent that has more gives one up.
    pub(super) fn make_room(&mut self, now: Instant, torrent: TorrentKey) {
        if self.connections.left() > 0 {
            return;
        }
        let users = |c: &Connection| self.dials.is_users(c.torrent, c.listens.unwrap_or(c.addr));
        if let Some(spare) = self.connections.spare(now, torrent, |c| !users(c))
            && let Some(from) = self.connections.get(spare).map(|c| c.torrent)
        {
            self.disconnected(now, spare, true);
            self.outranked.push((from, spare));
        }
    }

    /// Peers that had to make room for others since the last call: the caller closes them.
    pub fn take_outranked(&mut self) -> Vec<(TorrentKey, PeerKey)> {
        std::mem::take(&mut self.outranked)
    }

    /// The handshake of an accepted socket is over: it failed or took too long, or [`Node::connected`] follows.
    pub fn accept_done(&mut self, from: SocketAddr) {
        self.connections.accept_done(canonical(from));
    }

    /// A connection's handshakes are done. If a connection is returned, this one replaces it and the caller closes that
    /// one: the two nodes dialled each other at the same time.
    ///
    /// # Errors
    /// A [`Refusal`]: close it; neither [`Node::disconnected`] nor [`Node::dial_failed`] follows.
    pub fn connected(
        &mut self,
        now: Instant,
        peer: PeerKey,
        torrent: TorrentKey,
        addr: SocketAddr,
        id: PeerId,
        outgoing: bool,
    ) -> Result<Option<PeerKey>, Refusal> {
        let addr = canonical(addr);
        let listens = outgoing.then_some(addr);
        let new = Connection { torrent, addr, id, outgoing, listens, since: now };
        let blocked = self.scope.blocks.contain(addr.ip());
        let mut verdict = if blocked { Err(Refusal::Blocked) } else { self.connections.connected(peer, new) };
        if verdict == Err(Refusal::Full)
            && !outgoing
            && let Some(weakest) = self.outranked_by(now, addr)
            && let Some(torrent) = self.connections.get(weakest).map(|c| c.torrent)
        {
            self.disconnected(now, weakest, true);
            self.outranked.push((torrent, weakest));
            verdict = self.connections.connected(peer, new);
        }
        match verdict {
            Ok(replaced) => {
                if let Some(old) = replaced {
                    self.choker.forget(now, old);
                    self.exchange.remove(old);
                    self.introductions.remove(old);
                }
                if outgoing {
                    self.dials.connected(now, torrent, addr);
                }
                self.exchange.changed(now, torrent);
            }
            Err(Refusal::Ourselves) if outgoing => self.dials.ourselves(now, torrent, addr),
            // It came to us first: this is where it listens, and it is connected.
            Err(Refusal::Duplicate) if outgoing => match self.connections.came_from(torrent, addr, id) {
                Some(open) => {
                    open.listens = Some(addr);
                    self.dials.connected(now, torrent, addr);
                    self.exchange.changed(now, torrent);
                }
                None => self.dials.turned_away(now, torrent, addr),
            },
            Err(_) if outgoing => self.dials.turned_away(now, torrent, addr),
            Err(_) => {}
        }
        verdict
    }

    /// A connection has ended. `good` is false if the peer broke the protocol. Unknown ones (refused or replaced) are
    /// ignored.
    pub fn disconnected(&mut self, now: Instant, peer: PeerKey, good: bool) {
        self.upload.leave(peer);
        self.download.leave(peer);
        let Some(gone) = self.connections.remove(peer) else { return };
        self.choker.forget(now, peer);
        self.exchange.remove(peer);
        self.introductions.remove(peer);
        self.exchange.changed(now, gone.torrent);
        if let Some(listens) = gone.listens {
            let lived = now.saturating_duration_since(gone.since);
            self.dials.disconnected(now, gone.torrent, listens, lived, good);
        }
    }

    /// The peer at this address was proved to have lied: neither dialled nor accepted for an hour; after three ports of
    /// one public IP, nor is that IP. Call it before [`Node::disconnected`], while it is known who was there.
    pub fn ban(&mut self, now: Instant, torrent: TorrentKey, addr: SocketAddr) {
        self.connections.ban(now, torrent, canonical(addr));
    }
}
