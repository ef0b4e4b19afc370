//! How a torrent that is known by its info-hash alone gets its metadata (BEP 9). Peers that claim the same size share one
//! attempt: each is asked for pieces that the others were not asked for. If what they gave together does not have the
//! hash, nobody knows who lied, so from then on each attempt at that size belongs to one peer, three of them at a time: a
//! wrong copy then names its liar. Buffers grow with what has come, never with what is claimed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::PeerKey;
use crate::metainfo::{InfoHash, InfoHashV2, TorrentId};
use crate::wire::{ExtendedHandshake, METADATA_PIECE, MetadataMessage};

/// Attempts that run at once: bounds what liars can make us hold to three times 16 MiB.
const ATTEMPTS: usize = 3;
/// Requests that a peer has at a time, as libtorrent.
const OUTSTANDING: usize = 2;
/// A piece that has not come for so long may be asked of somebody else, as libtorrent.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// A peer that owes an answer for so long is left alone for a while.
const SILENT: Duration = Duration::from_secs(10);
/// For how long, seconds (hardening P15): random, so that they do not come back together.
const REST: std::ops::Range<u64> = 20..70;
/// What an attempt may take while others wait for its place: this, and
const PATIENCE: Duration = Duration::from_secs(10);
/// so much more for each piece.
const PATIENCE_PER_PIECE: Duration = Duration::from_millis(20);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataEffect {
    /// Send this to a peer, under its own id of `ut_metadata`.
    Send(PeerKey, u8, MetadataMessage<'static>),
    /// The peer gave metadata that is not the torrent's: close it.
    Lied(PeerKey),
    /// The metadata, which has the v1 hash, or the v2 hash where that is all we know. Nothing follows.
    Done(Vec<u8>),
}

#[derive(Debug)]
struct Peer {
    /// Its id of `ut_metadata`.
    id: u8,
    /// Bytes of metadata that it claims.
    size: u64,
    attempt: Option<u32>,
    /// Attempts that it had a part in.
    tries: u32,
    /// Pieces that it owes, and since when.
    asked: BTreeMap<u32, Instant>,
    rests: Option<Instant>,
}

#[derive(Debug)]
struct Attempt {
    size: u64,
    /// It belongs to one peer.
    alone: bool,
    began: Instant,
    /// The pieces that have come, and who gave them.
    pieces: BTreeMap<u32, (PeerKey, Vec<u8>)>,
    /// Who will not give which piece.
    refused: BTreeSet<(PeerKey, u32)>,
}

impl Attempt {
    fn count(&self) -> u32 {
        u32::try_from(self.size.div_ceil(METADATA_PIECE.into())).unwrap_or(u32::MAX)
    }

    fn length(&self, piece: u32) -> u64 {
        self.size.saturating_sub(u64::from(piece) * u64::from(METADATA_PIECE)).min(METADATA_PIECE.into())
    }

    /// When others may take its place.
    fn patience(&self) -> Instant {
        self.began + PATIENCE + PATIENCE_PER_PIECE * self.count()
    }
}

/// The search for one torrent's metadata: no socket, no clock.
#[derive(Debug)]
pub struct MetadataFetch {
    id: TorrentId,
    peers: BTreeMap<PeerKey, Peer>,
    attempts: BTreeMap<u32, Attempt>,
    next: u32,
    /// Sizes at which what several peers gave together was wrong.
    mixed: BTreeSet<u64>,
    rng: StdRng,
    effects: VecDeque<MetadataEffect>,
    /// What was due by then is done.
    settled: Option<Instant>,
    done: bool,
}

impl MetadataFetch {
    /// A search without peers. `seed` decides how long peers rest.
    #[must_use]
    pub fn new(id: TorrentId, seed: u64) -> Self {
        Self {
            id,
            peers: BTreeMap::new(),
            attempts: BTreeMap::new(),
            next: 0,
            mixed: BTreeSet::new(),
            rng: StdRng::seed_from_u64(seed),
            effects: VecDeque::new(),
            settled: None,
            done: false,
        }
    }

    /// The next thing to be done.
    pub fn poll(&mut self) -> Option<MetadataEffect> {
        self.effects.pop_front()
    }

    /// Peers that say that they have the metadata.
    #[must_use]
    pub fn sources(&self) -> usize {
        self.peers.len()
    }

    /// Pieces that have come of the attempt that is furthest, and pieces that it needs.
    #[must_use]
    pub fn progress(&self) -> (usize, u32) {
        let furthest = self.attempts.values().max_by_key(|attempt| attempt.pieces.len());
        furthest.map_or((0, 0), |attempt| (attempt.pieces.len(), attempt.count()))
    }

    /// A peer's extension handshake (BEP 10): whether it has the metadata, and how much there is of it.
    pub fn extended(&mut self, now: Instant, peer: PeerKey, hello: &ExtendedHandshake) {
        let (Some(id), Some(size)) = (hello.metadata_id, hello.metadata_size) else { return };
        let known = self.peers.entry(peer).or_insert(Peer {
            id,
            size,
            attempt: None,
            tries: 0,
            asked: BTreeMap::new(),
            rests: None,
        });
        known.id = id;
        if known.size != size {
            known.size = size;
            self.leave(peer);
        }
        self.settle(now);
    }

    /// A `ut_metadata` message. Requests are for those who have the metadata: they are rejected.
    pub fn message(&mut self, now: Instant, peer: PeerKey, message: &MetadataMessage<'_>) {
        match *message {
            _ if self.done => return,
            // What nobody asked for changes nothing, and there may be much of it.
            MetadataMessage::Data { piece, .. } if !self.owes(peer, piece) => return,
            MetadataMessage::Request(piece) => {
                if let Some(known) = self.peers.get(&peer) {
                    self.effects.push_back(MetadataEffect::Send(peer, known.id, MetadataMessage::Reject(piece)));
                }
                return;
            }
            MetadataMessage::Data { piece, total, data } => self.data(now, peer, piece, total, data),
            MetadataMessage::Reject(piece) => {
                let Some(known) = self.peers.get_mut(&peer).filter(|known| known.asked.contains_key(&piece)) else {
                    return;
                };
                known.asked.remove(&piece);
                if let Some(attempt) = known.attempt.and_then(|attempt| self.attempts.get_mut(&attempt)) {
                    attempt.refused.insert((peer, piece));
                }
            }
            MetadataMessage::Unknown => return,
        }
        self.settle(now);
    }

    /// A peer is gone.
    pub fn disconnected(&mut self, now: Instant, peer: PeerKey) {
        self.leave(peer);
        self.peers.remove(&peer);
        self.settle(now);
    }

    /// [`MetadataFetch::next_timeout`] has passed.
    pub fn timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// When [`MetadataFetch::timeout`] is due; it may be past.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let owed = self.peers.values().flat_map(|peer| peer.asked.values());
        let owed = owed.flat_map(|&since| [since + ASK_AGAIN, since + SILENT]);
        let rests = self.peers.values().filter_map(|peer| peer.rests);
        let patience = self.attempts.values().map(Attempt::patience);
        owed.chain(rests).chain(patience).filter(|&at| Some(at) > self.settled && !self.done).min()
    }

    fn owes(&self, peer: PeerKey, piece: u32) -> bool {
        self.peers.get(&peer).is_some_and(|known| known.asked.contains_key(&piece))
    }

    fn data(&mut self, now: Instant, peer: PeerKey, piece: u32, total: Option<u64>, data: &[u8]) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        if known.asked.remove(&piece).is_none() {
            return;
        }
        let Some(key) = known.attempt else { return };
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        if total.is_some_and(|total| total != attempt.size) || data.len() as u64 != attempt.length(piece) {
            return self.rest(now, peer);
        }
        attempt.pieces.entry(piece).or_insert_with(|| (peer, data.to_vec()));
        if attempt.pieces.len() == attempt.count() as usize {
            self.judge(key);
        }
    }

    /// Every piece of an attempt is there.
    fn judge(&mut self, key: u32) {
        let Some(attempt) = self.attempts.remove(&key) else { return };
        let givers: BTreeSet<PeerKey> = attempt.pieces.values().map(|(peer, _)| *peer).collect();
        let metadata: Vec<u8> = attempt.pieces.into_values().flat_map(|(_, data)| data).collect();
        // Who gives what one hash names has not lied, whatever a link says besides.
        let right = match self.id {
            TorrentId { v1: Some(hash), .. } => hash == InfoHash::of(&metadata),
            TorrentId { v2: Some(hash), .. } => hash == InfoHashV2::of(&metadata),
            TorrentId { v1: None, v2: None } => false,
        };
        if right {
            self.done = true;
            self.attempts.clear();
            self.effects.push_back(MetadataEffect::Done(metadata));
            return;
        }
        for peer in self.peers.values_mut().filter(|peer| peer.attempt == Some(key)) {
            peer.attempt = None;
            peer.asked.clear();
        }
        match givers.first() {
            Some(&liar) if givers.len() == 1 => {
                self.peers.remove(&liar);
                self.effects.push_back(MetadataEffect::Lied(liar));
            }
            _ => drop(self.mixed.insert(attempt.size)),
        }
    }

    /// Takes a peer out of its attempt; one of its own ends with it.
    fn leave(&mut self, peer: PeerKey) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.asked.clear();
        let Some(key) = known.attempt.take() else { return };
        match self.attempts.get_mut(&key) {
            Some(attempt) if attempt.alone => drop(self.attempts.remove(&key)),
            // It may have changed its mind when it comes back.
            Some(attempt) => attempt.refused.retain(|(refuser, _)| *refuser != peer),
            None => {}
        }
    }

    /// Leaves a peer alone for a while.
    fn rest(&mut self, now: Instant, peer: PeerKey) {
        self.leave(peer);
        let rest = Duration::from_secs(self.rng.random_range(REST));
        if let Some(known) = self.peers.get_mut(&peer) {
            known.rests = Some(now + rest);
        }
    }

    fn settle(&mut self, now: Instant) {
        if self.done {
            return;
        }
        self.settled = Some(now);
        let silent = |peer: &Peer| peer.asked.values().any(|&since| now >= since + SILENT);
        let silent: Vec<PeerKey> = self.peers.iter().filter(|(_, peer)| silent(peer)).map(|(key, _)| *key).collect();
        silent.into_iter().for_each(|peer| self.rest(now, peer));
        for peer in self.peers.values_mut() {
            peer.rests = peer.rests.filter(|&until| until > now);
        }
        self.assign(now);
        self.ask(now);
    }

    /// Gives peers without an attempt one, as far as there are places.
    fn assign(&mut self, now: Instant) {
        let idle = |peer: &Peer| peer.attempt.is_none() && peer.rests.is_none();
        // Those who have had least of a chance come first, so that who comes back again and again keeps nobody from one.
        let mut waiting: Vec<(u32, u32, PeerKey, u64)> = Vec::new();
        for (key, peer) in self.peers.iter().filter(|(_, peer)| idle(peer)) {
            waiting.push((peer.tries, self.rng.random(), *key, peer.size));
        }
        waiting.sort_unstable();
        for (_, _, peer, size) in waiting {
            let alone = self.mixed.contains(&size);
            let shared = self.attempts.iter().find(|(_, attempt)| !alone && !attempt.alone && attempt.size == size);
            let key = shared.map(|(key, _)| *key).or_else(|| self.begin(now, size, alone));
            if let (Some(key), Some(known)) = (key, self.peers.get_mut(&peer)) {
                known.attempt = Some(key);
                known.tries = known.tries.saturating_add(1);
            }
        }
    }

    /// A new attempt, in a free place or in that of one that nobody works on or that took too long.
    fn begin(&mut self, now: Instant, size: u64, alone: bool) -> Option<u32> {
        if self.attempts.len() >= ATTEMPTS {
            let worked_on = |key: u32| self.peers.values().any(|peer| peer.attempt == Some(key));
            let gives_way = |entry: &(&u32, &Attempt)| !worked_on(*entry.0) || now >= entry.1.patience();
            let old = self.attempts.iter().filter(gives_way).min_by_key(|entry| entry.1.began).map(|entry| *entry.0)?;
            let workers: Vec<PeerKey> =
                self.peers.iter().filter(|(_, peer)| peer.attempt == Some(old)).map(|(key, _)| *key).collect();
            workers.into_iter().for_each(|peer| self.rest(now, peer));
            self.attempts.remove(&old);
        }
        let key = self.next;
        self.next += 1;
        let attempt = Attempt { size, alone, began: now, pieces: BTreeMap::new(), refused: BTreeSet::new() };
        self.attempts.insert(key, attempt);
        Some(key)
    }

    /// Asks every peer for what its attempt lacks.
    fn ask(&mut self, now: Instant) {
        let mut useless = Vec::new();
        for (&key, attempt) in &self.attempts {
            let members: Vec<PeerKey> =
                self.peers.iter().filter(|(_, peer)| peer.attempt == Some(key)).map(|(key, _)| *key).collect();
            let mut asked: BTreeSet<u32> = BTreeSet::new();
            for peer in members.iter().filter_map(|key| self.peers.get(key)) {
                asked.extend(peer.asked.iter().filter(|(_, since)| now < **since + ASK_AGAIN).map(|(piece, _)| *piece));
            }
            for member in members {
                let Some(peer) = self.peers.get_mut(&member) else { continue };
                let mut pieces = (0..attempt.count()).filter(|piece| {
                    !attempt.pieces.contains_key(piece) && !attempt.refused.contains(&(member, *piece))
                });
                let mut any = !peer.asked.is_empty();
                while peer.asked.len() < OUTSTANDING {
                    // The others may be asked already: then it has nothing to do for now.
                    let Some(piece) = pieces.next() else { break };
                    any = true;
                    if asked.contains(&piece) || peer.asked.contains_key(&piece) {
                        continue;
                    }
                    asked.insert(piece);
                    peer.asked.insert(piece, now);
                    self.effects.push_back(MetadataEffect::Send(member, peer.id, MetadataMessage::Request(piece)));
                }
                if !any {
                    useless.push(member);
                }
            }
        }
        // They refuse all that is missing.
        useless.into_iter().for_each(|peer| self.rest(now, peer));
    }
}

#[cfg(test)]
#[path = "metadata_tests.rs"]
mod tests;
