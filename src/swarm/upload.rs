//! What peers ask of us: their requests wait here until their tasks have room for the bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::{CloseReason, PeerKey, Swarm};
use crate::metainfo::{BLOCK_LENGTH, PieceIndex, Request};
use crate::wire::{Message, allowed_fast_set};

/// Invalid requests of one peer that are too many.
const INVALID: u32 = 300;
/// Requests while choked are no offence for this long after the choke.
const CHOKE_GRACE: Duration = Duration::from_secs(2);
/// Pieces of an allowed-fast set (libtorrent's number).
const ALLOWED_FAST: usize = 5;
/// Choked peers that may be fetching their sets at once. Each is worth a slot: when 100 peers came to a new seed, it sent
/// 500 pieces by halves to those without a slot, for half a minute, and the swarm had nothing to spread.
const ALLOWED_PEERS: usize = 4;
/// Copies of an allowed-fast piece that a choked peer gets.
const FAST_COPIES: u32 = 3;

impl Swarm {
    /// Interested, or not.
    pub(super) fn interested(&mut self, key: PeerKey, interested: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.interested = interested;
        if let Some(seed) = &mut self.super_seed {
            // A set would tell that it has those pieces.
            return seed.review(key);
        }
        if !self.upload || !interested || !peer.fast || peer.given.is_some() || peer.gives_only() {
            return;
        }
        if self.peers.values().filter(|p| p.fetches_allowed()).count() >= ALLOWED_PEERS {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // BEP 6 defines the set for IPv4 alone.
        let IpAddr::V4(ip) = peer.addr.ip().to_canonical() else { return };
        let set = allowed_fast_set(&self.info_hash, ip, self.geometry.pieces(), ALLOWED_FAST);
        let given: BTreeMap<PieceIndex, u32> =
            set.into_iter().filter(|&p| self.have.has(p) && !peer.has.has(p)).map(|p| (p, 0)).collect();
        if given.is_empty() {
            return;
        }
        peer.control.extend(given.keys().map(|&p| Message::AllowedFast(p)));
        peer.given = Some(given);
        self.wake(key);
    }

    /// A request for a block.
    pub(super) fn requested(&mut self, now: Instant, key: PeerKey, request: Request) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if request.piece.0 >= self.geometry.pieces() {
            self.close(now, key, CloseReason::Protocol("it asks for a piece that the torrent does not have"));
            return;
        }
        if request.length > BLOCK_LENGTH || !self.geometry.contains(request) {
            peer.reject(request);
            self.offence(now, key);
        } else if !self.have.has(request.piece) {
            self.refuse(now, key, request);
        } else if self.super_seed.as_ref().is_some_and(|seed| !seed.has_shown(key, request.piece)) {
            peer.reject(request);
            self.offence(now, key);
        } else if !peer.unchoked && !serve_choked(peer, self.geometry.blocks(request.piece), request) {
            peer.reject(request);
            if now >= peer.choked_at + CHOKE_GRACE {
                self.offence(now, key);
            }
        } else if peer.queue.len() >= self.reqq as usize {
            peer.reject(request);
        } else if !peer.queue.contains(&request) {
            peer.queue.push_back(request);
        }
        self.wake(key);
    }

    fn offence(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.invalid += 1;
        if peer.invalid > INVALID {
            self.close(now, key, CloseReason::Protocol("its requests are invalid"));
        }
    }

    /// A request that we cannot serve: rejected (BEP 6), or the peer is choked so that it asks elsewhere.
    fn refuse(&mut self, now: Instant, key: PeerKey, request: Request) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.fast {
            peer.reject(request);
        } else if peer.unchoked {
            choke(now, peer);
        }
        self.wake(key);
    }

    /// A request is taken back: answered with a reject all the same (BEP 6).
    pub(super) fn cancelled(&mut self, key: PeerKey, request: Request) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(at) = peer.queue.iter().position(|&r| r == request) {
            peer.queue.remove(at);
            peer.reject(request);
            self.wake(key);
        }
    }

    /// The bytes of a promised block could not be read.
    pub(super) fn unserved(&mut self, now: Instant, key: PeerKey, request: Request) {
        let length = u64::from(request.length);
        self.totals.uploaded = self.totals.uploaded.saturating_sub(length);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.sent = peer.sent.saturating_sub(length);
        }
        self.refuse(now, key, request);
    }

    /// A piece is gone: requests for it are refused.
    pub(super) fn refuse_requests(&mut self, now: Instant, piece: PieceIndex) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            if let Some(given) = &mut peer.given {
                given.remove(&piece);
            }
            let (gone, kept) = peer.queue.drain(..).partition::<Vec<_>, _>(|r| r.piece == piece);
            peer.queue = kept.into();
            for request in gone {
                self.refuse(now, key, request);
            }
        }
    }

    /// The node's rechoke: these are unchoked, all others choked.
    pub(super) fn unchoke(&mut self, now: Instant, list: &[PeerKey]) {
        let mut turned = Vec::new();
        for (&key, peer) in &mut self.peers {
            let unchoked = list.contains(&key);
            if unchoked != peer.unchoked {
                if unchoked {
                    peer.unchoked = true;
                    if let Some(seed) = &mut self.super_seed {
                        seed.unchoked(now, key);
                    }
                } else {
                    choke(now, peer);
                }
                turned.push(key);
            }
        }
        turned.into_iter().for_each(|key| self.wake(key));
    }
}

/// Chokes a peer: what it asked for is rejected (BEP 6) or forgotten (BEP 3), but for its allowed-fast pieces.
fn choke(now: Instant, peer: &mut Peer) {
    peer.unchoked = false;
    peer.choked_at = now;
    for request in std::mem::take(&mut peer.queue) {
        if peer.given.as_ref().is_some_and(|g| g.contains_key(&request.piece)) {
            peer.queue.push_back(request);
        } else {
            peer.reject(request);
        }
    }
}

/// True if a choked peer may have this block all the same: of its allowed-fast set, and not too often.
fn serve_choked(peer: &Peer, blocks: u32, request: Request) -> bool {
    let served = peer.given.as_ref().and_then(|given| given.get(&request.piece));
    served.is_some_and(|&served| served < blocks.saturating_mul(FAST_COPIES))
}
