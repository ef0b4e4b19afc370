//! Who is unchoked: one decision for the peers of all torrents, in rounds (BEP 3, "Choking and optimistic unchoking").
//!
//! Regular slots go to the interested peers that gave us most in the last 20 s; where we are complete, and among peers
//! that gave nothing, they go round: a peer keeps its slot until it had its quota, then whoever has waited longest
//! follows. A snubbed peer has no regular slot. One more slot is the optimistic unchoke, which changes every 30 s and
//! finds better peers; newcomers are drawn three times as likely, because they have nothing to give yet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::swarm::{Candidate, PeerKey, TorrentKey};

/// Between rounds (BEP 3): often enough to reciprocate, rare enough for TCP to reach its rate in between.
const ROUND: Duration = Duration::from_secs(10);
/// The least time between rounds: an early one helps a peer that waits, more of them would only be fibrillation.
const EARLIEST: Duration = Duration::from_secs(1);
/// The rolling average that ranks peers (BEP 3): two rounds, so that one stall costs no slot.
const WINDOW: Duration = Duration::from_secs(20);
/// How long one optimistic unchoke lasts (BEP 3): time for the other side to notice in its own round, and to give back.
const OPTIMISTIC: Duration = Duration::from_secs(30);
/// How long a peer that was never unchoked is a newcomer: two turns of the optimistic unchoke.
const NEWCOMER: Duration = Duration::from_secs(60);
/// How much likelier a newcomer is drawn (BEP 3).
const NEWCOMER_WEIGHT: u32 = 3;
/// The quota of a slot that goes round: libtorrent's 20 pieces, of 256 KiB here so that piece length does not matter.
const QUOTA_BYTES: u64 = 20 * 256 * 1024;
/// And the time that a slot lasts at least, as libtorrent: TCP has found its rate, small pieces are whole.
const QUOTA_TIME: Duration = Duration::from_secs(60);
/// A peer too slow for the quota yields after this all the same, or a few of them would hold a seed for ever.
const QUOTA_TIME_MAX: Duration = Duration::from_secs(180);

/// What a round remembers of a peer.
#[derive(Clone, Debug)]
struct Memory {
    /// (time, received, sent) at past rounds: one that is a window old or older, and all since.
    samples: VecDeque<(Instant, u64, u64)>,
    /// Since when it is unchoked, and what it had been sent by then.
    unchoked: Option<(Instant, u64)>,
    /// When it was unchoked last; never for a newcomer.
    last_unchoked: Option<Instant>,
}

/// A candidate that may have a slot, with what ranks it.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    candidate: Candidate,
    /// Bytes of the last window that count for it: received, and only while we need any.
    given: u64,
    /// Bytes that we sent it in the last window.
    taken: u64,
    /// It holds a slot and had its quota.
    sated: bool,
    last_unchoked: Option<Instant>,
    tie: u32,
}

/// The choker of the process.
#[derive(Debug)]
pub(super) struct Choker {
    /// Regular slots; the optimistic one is added.
    slots: usize,
    peers: BTreeMap<PeerKey, Memory>,
    optimistic: Option<(PeerKey, Instant)>,
    /// Slots that the last round left empty.
    free: usize,
    last: Option<Instant>,
    next: Instant,
    rng: StdRng,
}

impl Choker {
    pub(super) fn new(slots: usize, seed: u64, now: Instant) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { slots, peers: BTreeMap::new(), optimistic: None, free: slots + 1, last: None, next: now + ROUND, rng }
    }

    /// When the next round is due.
    pub(super) fn next_round(&self) -> Instant {
        self.next
    }

    /// Someone waits: if a slot is free, the next round is early.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.free > 0 {
            let soonest = self.last.map_or(now, |last| last + EARLIEST).max(now);
            self.next = self.next.min(soonest);
        }
    }

    /// The peer is gone; its slot is free at once.
    pub(super) fn forget(&mut self, now: Instant, peer: PeerKey) {
        let held = self.peers.remove(&peer).is_some_and(|memory| memory.unchoked.is_some());
        if self.optimistic.is_some_and(|(optimistic, _)| optimistic == peer) {
            self.optimistic = None;
        }
        if held {
            self.free += 1;
            self.hurry(now);
        }
    }

    /// One round. For each torrent in the order given: its candidates, and whether we are complete. Returns who is
    /// unchoked from now on, for every torrent given.
    pub(super) fn round(
        &mut self,
        now: Instant,
        torrents: &[(TorrentKey, bool, Vec<Candidate>)],
    ) -> Vec<(TorrentKey, Vec<PeerKey>)> {
        self.last = Some(now);
        self.next = now + ROUND;
        let mut ranked = self.rank(now, torrents);
        let mut unchoked: Vec<PeerKey> =
            ranked.iter().filter(|r| !r.candidate.snubbed).take(self.slots).map(|r| r.candidate.peer).collect();
        ranked.retain(|r| !unchoked.contains(&r.candidate.peer));
        let optimistic = self.choose_optimistic(now, &ranked);
        unchoked.extend(optimistic);
        self.free = (self.slots + 1).saturating_sub(unchoked.len());
        for (_, _, candidates) in torrents {
            for candidate in candidates {
                self.remember(now, candidate, unchoked.contains(&candidate.peer));
            }
        }
        torrents
            .iter()
            .map(|(key, _, candidates)| {
                (*key, candidates.iter().map(|c| c.peer).filter(|peer| unchoked.contains(peer)).collect())
            })
            .collect()
    }

    /// All who may have a slot, the best first.
    fn rank(&mut self, now: Instant, torrents: &[(TorrentKey, bool, Vec<Candidate>)]) -> Vec<Ranked> {
        let mut ranked = Vec::new();
        for (_, seeding, candidates) in torrents {
            for candidate in candidates {
                let memory = self.peers.entry(candidate.peer).or_insert_with(|| Memory {
                    samples: VecDeque::new(),
                    unchoked: None,
                    last_unchoked: None,
                });
                memory.samples.push_back((now, candidate.received, candidate.sent));
                // One sample that is a window old stays: what came since is what the window saw.
                while memory.samples.get(1).is_some_and(|s| now.saturating_duration_since(s.0) >= WINDOW) {
                    memory.samples.pop_front();
                }
                if !candidate.interested || candidate.seed {
                    continue;
                }
                // A peer that no round has seen yet began at 0.
                let old = memory.samples.front().filter(|_| memory.samples.len() > 1).map_or((0, 0), |s| (s.1, s.2));
                let sated = memory.unchoked.is_some_and(|(since, sent)| {
                    let (held, sent) = (now.saturating_duration_since(since), candidate.sent.saturating_sub(sent));
                    held >= QUOTA_TIME_MAX || (held >= QUOTA_TIME && sent >= QUOTA_BYTES)
                });
                ranked.push(Ranked {
                    candidate: *candidate,
                    given: if *seeding { 0 } else { candidate.received.saturating_sub(old.0) },
                    taken: candidate.sent.saturating_sub(old.1),
                    sated,
                    last_unchoked: memory.last_unchoked,
                    tie: self.rng.random(),
                });
            }
        }
        ranked.sort_by_key(|r| {
            // The optimistic unchoke holds no regular slot: it must not push one out before its quota.
            let peer = r.candidate.peer;
            let holds = self.peers.get(&peer).is_some_and(|memory| memory.unchoked.is_some())
                && self.optimistic.is_none_or(|(optimistic, _)| optimistic != peer);
            // Given most; then not had its quota, holding a slot, taking it fastest; then waiting longest.
            (Reverse(r.given), r.sated, !holds, Reverse(if holds { r.taken } else { 0 }), r.last_unchoked, r.tie)
        });
        ranked
    }

    /// The optimistic unchoke among those without a regular slot: the present one until its time is over, then another.
    fn choose_optimistic(&mut self, now: Instant, waiting: &[Ranked]) -> Option<PeerKey> {
        let present = self.optimistic.filter(|(peer, _)| waiting.iter().any(|r| r.candidate.peer == *peer));
        if let Some((peer, since)) = present
            && (now.saturating_duration_since(since) < OPTIMISTIC || waiting.len() == 1)
        {
            return Some(peer);
        }
        let others: Vec<&Ranked> =
            waiting.iter().filter(|r| present.is_none_or(|(peer, _)| peer != r.candidate.peer)).collect();
        let weight = |r: &&Ranked| {
            let recent = now.saturating_duration_since(r.candidate.connected) < NEWCOMER;
            if recent && r.last_unchoked.is_none() { NEWCOMER_WEIGHT } else { 1 }
        };
        let chosen = others.choose_weighted(&mut self.rng, weight).ok().map(|r| r.candidate.peer);
        self.optimistic = chosen.map(|peer| (peer, now));
        chosen
    }

    fn remember(&mut self, now: Instant, candidate: &Candidate, unchoked: bool) {
        let Some(memory) = self.peers.get_mut(&candidate.peer) else { return };
        memory.unchoked = match memory.unchoked {
            _ if !unchoked => None,
            None => Some((now, candidate.sent)),
            held => held,
        };
        if unchoked {
            memory.last_unchoked = Some(now);
        }
    }
}

#[cfg(test)]
#[path = "choker_tests.rs"]
mod tests;
