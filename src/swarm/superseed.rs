//! Super-seeding (BEP 16): a seed that looks like a peer with nothing, and shows each peer one piece, the rarest that was
//! shown least often. The next one is shown when somebody else has the last, so that what is sent is passed on, and little
//! more than one copy leaves the seed before the others have all of it.
//!
//! Nobody is left to wait in vain: a peer with nobody to pass pieces on to is shown the next as it takes the last, and one
//! whose pieces are not seen elsewhere for long gets on all the same, in half the time each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::bits::Bits;
use super::peer::Peer;
use super::timers::Timer;
use super::{PeerKey, Swarm};
use crate::metainfo::PieceIndex;
use crate::wire::{Message, encode_donthave};

/// How long a piece may take to turn up at somebody else: until the next optimistic unchoke of whoever took it (BEP 3).
/// To give up too soon costs little, because the next piece is one that nobody has either.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces that one look goes through: torrents may have millions.
const LOOK: u32 = 16_384;

/// The piece that a peer was shown last.
#[derive(Clone, Copy, Debug)]
struct Offer {
    piece: PieceIndex,
    /// When it was shown, or when the peer was sent a block of it or was unchoked, if that was later.
    since: Instant,
    /// The peer was sent a block of it.
    taken: bool,
    /// Somebody else had it already.
    common: bool,
    /// Somebody else has got it since.
    spread: bool,
}

/// What a peer was shown.
#[derive(Debug)]
struct Shown {
    /// It may ask for these.
    pieces: Bits,
    last: Option<Offer>,
    patience: Duration,
    /// Pieces in a row that were looked at, and none was left for it.
    in_vain: u32,
}

impl Shown {
    fn new(pieces: u32) -> Self {
        Self { pieces: Bits::none(pieces), last: None, patience: PATIENCE, in_vain: 0 }
    }

    /// True if it is to be shown another piece now. `alone`: there is nobody to pass pieces on to.
    fn wants_another(&self, now: Instant, peer: &Peer, alone: bool) -> bool {
        // With BEP 6 it says first what it has.
        if peer.gives_only() || (peer.fast && !peer.told) {
            return false;
        }
        let Some(last) = self.last else { return true };
        let has = peer.has.has(last.piece);
        let waited = now >= last.since + self.patience;
        // Whether it has all of it is not known: most do not tell those who have a piece that they have it, too.
        let took = has || last.taken;
        if !peer.unchoked && (peer.interested || !took) {
            // Its turn will come, unless this piece is nothing to it.
            return waited && !peer.interested;
        }
        // If it has it and took nothing of it, somebody else had it.
        last.spread || (has && !last.taken) || (took && (alone || last.common)) || waited
    }
}

/// What a super-seed has shown.
#[derive(Debug)]
pub(super) struct SuperSeed {
    /// How often each piece was shown.
    times: Vec<u16>,
    /// Where the next look begins.
    cursor: u32,
    peers: BTreeMap<PeerKey, Shown>,
    /// Whom something has changed for.
    changed: BTreeSet<PeerKey>,
}

impl SuperSeed {
    /// Nothing was shown to anybody; the first piece will be `cursor`.
    pub(super) fn new(pieces: u32, cursor: u32) -> Self {
        Self { times: vec![0; pieces as usize], cursor, peers: BTreeMap::new(), changed: BTreeSet::new() }
    }

    /// True if this peer was shown the piece.
    pub(super) fn has_shown(&self, key: PeerKey, piece: PieceIndex) -> bool {
        self.peers.get(&key).is_some_and(|shown| shown.pieces.has(piece))
    }

    /// Something has changed for this peer: it is looked at again.
    pub(super) fn review(&mut self, key: PeerKey) {
        self.changed.insert(key);
    }

    /// A peer is gone.
    fn forget(&mut self, key: PeerKey) {
        self.peers.remove(&key);
        self.changed.remove(&key);
        // One may be alone now.
        self.changed.extend(self.peers.keys());
    }

    /// This peer has some pieces, whoever it is that they came from: who was shown one of them has passed it on.
    pub(super) fn seen(&mut self, at: PeerKey, has: impl Fn(PieceIndex) -> bool) {
        for (&key, shown) in self.peers.iter_mut().filter(|(key, _)| **key != at) {
            if let Some(last) = shown.last.as_mut().filter(|last| !last.spread && has(last.piece)) {
                last.spread = true;
                self.changed.insert(key);
            }
        }
        self.changed.insert(at);
    }

    /// The peer lacks a piece that it had, or we have one that we lacked: there may be something to show it.
    pub(super) fn look_again(&mut self, key: PeerKey) {
        if let Some(shown) = self.peers.get_mut(&key) {
            shown.in_vain = 0;
            self.changed.insert(key);
        }
    }

    /// The peer was sent a block.
    pub(super) fn sent(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let last = self.peers.get_mut(&key).and_then(|shown| shown.last.as_mut());
        if let Some(last) = last.filter(|last| last.piece == piece) {
            last.since = now;
            if !std::mem::replace(&mut last.taken, true) {
                self.changed.insert(key);
            }
        }
    }

    /// The peer was unchoked: its time for the piece begins.
    pub(super) fn unchoked(&mut self, now: Instant, key: PeerKey) {
        if let Some(last) = self.peers.get_mut(&key).and_then(|shown| shown.last.as_mut()) {
            last.since = now;
        }
        self.changed.insert(key);
    }

    /// The peer is shown a piece, which it may ask for from now on.
    fn show(&mut self, key: PeerKey, offer: Offer, patience: Duration) {
        if let Some(shown) = self.peers.get_mut(&key) {
            shown.pieces.insert(offer.piece);
            shown.last = Some(offer);
            shown.patience = patience;
        }
        if let Some(times) = self.times.get_mut(offer.piece.0 as usize) {
            *times = times.saturating_add(1);
        }
    }

    /// The best piece for a peer of those that are `fit`: which fewest have or are being sent, then shown least often.
    fn choose(
        &mut self,
        key: PeerKey,
        availability: impl Fn(PieceIndex) -> u16,
        fit: impl Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let pieces = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        let mut under_way = BTreeMap::new();
        for last in self.peers.values().filter_map(|shown| shown.last).filter(|last| last.taken) {
            *under_way.entry(last.piece).or_insert(0) += 1;
        }
        let shown = self.peers.get_mut(&key)?;
        let mut best = None;
        for step in 0..pieces.min(LOOK) {
            let piece = PieceIndex((self.cursor + step) % pieces);
            if shown.pieces.has(piece) || !fit(piece) {
                continue;
            }
            let holders = u32::from(availability(piece)) + under_way.get(&piece).unwrap_or(&0);
            let rank = (holders, self.times.get(piece.0 as usize).copied().unwrap_or(0));
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, piece));
                if rank == (0, 0) {
                    break;
                }
            }
        }
        let next = best.map_or(self.cursor + LOOK, |(_, piece)| piece.0 + 1);
        self.cursor = next % pieces.max(1);
        shown.in_vain = if best.is_some() { 0 } else { shown.in_vain.saturating_add(LOOK) };
        best.map(|(_, piece)| piece)
    }
}

impl Swarm {
    /// A super-seed has a new peer.
    pub(super) fn show_to_newcomer(&mut self, key: PeerKey) {
        if let Some(seed) = &mut self.super_seed {
            seed.peers.insert(key, Shown::new(self.geometry.pieces()));
            seed.review(key);
        }
    }

    /// A super-seed's peer is gone.
    pub(super) fn show_no_more(&mut self, key: PeerKey) {
        if let Some(seed) = &mut self.super_seed {
            seed.forget(key);
        }
    }

    /// After any news: the peers for whom something has changed are shown another piece, if it is time.
    pub(super) fn show_pieces(&mut self, now: Instant) {
        let Some(seed) = self.super_seed.as_mut().filter(|seed| !seed.changed.is_empty()) else { return };
        let changed = std::mem::take(&mut seed.changed);
        let alone = self.peers.values().filter(|peer| !peer.gives_only()).count() <= 1;
        changed.into_iter().for_each(|key| self.show_piece(now, key, alone));
    }

    fn show_piece(&mut self, now: Instant, key: PeerKey, alone: bool) {
        let Some(seed) = &mut self.super_seed else { return };
        let (Some(peer), Some(shown)) = (self.peers.get(&key), seed.peers.get(&key)) else { return };
        let due = shown.last.map(|last| last.since + shown.patience);
        if shown.in_vain >= self.geometry.pieces() || !shown.wants_another(now, peer, alone) {
            if let Some(due) = due.filter(|&due| due > now) {
                self.timers.advance(Timer::Shown, due);
            }
            return;
        }
        let patience = match shown.last {
            Some(last) if !last.spread && due.is_some_and(|due| now >= due) => shown.patience / 2,
            _ => PATIENCE,
        };
        let availability = |piece| self.picker.availability(piece);
        let Some(piece) = seed.choose(key, availability, |piece| self.have.has(piece) && !peer.has.has(piece)) else {
            // The next look goes through other pieces.
            seed.review(key);
            self.timers.advance(Timer::Shown, now);
            return;
        };
        let common = self.peers.iter().any(|(&other, peer)| other != key && peer.has.has(piece));
        seed.show(key, Offer { piece, since: now, taken: false, common, spread: false }, patience);
        self.timers.advance(Timer::Shown, now + patience);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.control.push_back(Message::Have(piece));
        }
        self.wake(key);
    }

    /// The timer of what was shown: whoever has waited for long is looked at.
    pub(super) fn shown_due(&mut self, now: Instant) {
        let Some(seed) = &mut self.super_seed else { return };
        for (&key, shown) in &seed.peers {
            let Some(last) = shown.last else { continue };
            let due = last.since + shown.patience;
            if due <= now {
                seed.changed.insert(key);
            } else {
                self.timers.advance(Timer::Shown, due);
            }
        }
    }

    /// A super-seed has lost a piece, or has it again. Only those hear of a loss who were shown the piece (BEP 54).
    pub(super) fn show_news(&mut self, piece: PieceIndex, have: bool) {
        let Some(seed) = &mut self.super_seed else { return };
        if have {
            return self.peers.keys().for_each(|&key| seed.look_again(key));
        }
        let mut told = Vec::new();
        for (&key, shown) in &mut seed.peers {
            if let Some(last) = shown.last.as_mut().filter(|last| last.piece == piece) {
                last.spread = true;
                seed.changed.insert(key);
            }
            let Some((peer, id)) = self.peers.get_mut(&key).and_then(|peer| peer.donthave.map(|id| (peer, id))) else {
                continue;
            };
            if shown.pieces.remove(piece) {
                peer.control.push_back(Message::Extended { id, payload: encode_donthave(piece).into() });
                told.push(key);
            }
        }
        told.into_iter().for_each(|key| self.wake(key));
    }
}
