//! Who is unchoked: one decision for the peers of all torrents, in rounds (BEP 3, "Choking and optimistic unchoking").
//!
//! Regular slots go to the peers that give us most, measured over 20 s. Who holds one keeps it unless the other gives a
//! quarter more: peers alike in rate stay together and do not take each other's place in turns. One more slot, and every
//! regular one that nobody has earned, is an optimistic unchoke: it goes round, to whoever has waited longest, and the
//! wait of a newcomer counts threefold. So while nobody gives us anything, or all snub us, every slot looks for better
//! peers (BEP 3, "Anti-snubbing"), and where we are complete all of them go round and give everyone the same.
//!
//! A turn is 30 s, time for the other side to notice and to give back. A peer that was served and did not is served in
//! vain: its next turn comes after twenty times as long, even if a slot stays empty until then, because what it gets ends
//! with it, and while the swarm waits for pieces of a slow origin even a short turn at each of us is all that it needs.
//! That holds while others give; while nobody does, or we want nothing of anybody, all are served alike.
//!
//! A round may come early, because somebody waits and a slot is free. It fills slots and takes none away.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::slots::{Seen, Slots};
use crate::swarm::{Candidate, PeerKey, TorrentKey};

/// Between rounds (BEP 3): often enough to reciprocate, rare enough for TCP to reach its rate in between.
const ROUND: Duration = Duration::from_secs(10);
/// The least time between rounds, early ones included.
const EARLIEST: Duration = Duration::from_secs(1);
/// The rolling average that ranks peers (BEP 3): two rounds, so that one stall costs no slot.
const WINDOW: Duration = Duration::from_secs(20);
/// How long an optimistic unchoke lasts (BEP 3): time for the other side to notice in its own round, and to give back.
const OPTIMISTIC: Duration = Duration::from_secs(30);
/// How much more the wait of a peer counts that was never unchoked (BEP 3 draws them three times as likely).
const NEWCOMER: u64 = 3;
/// The quota of a turn where we want nothing back: libtorrent's 20 pieces, of 256 KiB so that piece length does not
/// matter. Libtorrent's turn is 60 s at least; with 30 s everyone is served twice as often, and still at TCP's rate.
const QUOTA: u64 = 20 * 256 * 1024;
/// A peer too slow for the quota yields after this all the same, or a few of them would hold a seed for ever.
const QUOTA_TIME_MAX: Duration = Duration::from_secs(180);
/// A peer that gives nothing back has been served in vain after a turn, or after half a round if it got so much: a fast
/// link must not give away a file in the time that a slow one takes to find out.
const CREDIT: u64 = 1 << 20;
/// A peer that was served in vain waits so many times as long as it was served.
const VAIN: u32 = 20;

/// What a round remembers of a peer.
#[derive(Clone, Debug)]
struct Memory {
    /// (time, received, sent) at past rounds: one that is a window old or older, and all since.
    samples: VecDeque<(Instant, u64, u64)>,
    /// Since when it is unchoked, and what it had been sent by then.
    unchoked: Option<(Instant, u64)>,
    /// It needs its slot no more, as it has said since the last round.
    left_slot: bool,
    /// It has a regular slot for what it gives.
    earned: bool,
    /// When it was unchoked last; never for a newcomer.
    last_unchoked: Option<Instant>,
    /// For how long it was served since it last gave something back, and with how many bytes.
    in_vain: (Duration, u64),
    /// What it had been sent by the last round that was not early.
    counted: u64,
    /// The most that it took between two such rounds, bytes per second; it fades.
    peak: u64,
}

impl Memory {
    fn new(connected: Instant) -> Self {
        Self {
            // No peer is seen by a round the moment it connects: it began at 0.
            samples: VecDeque::from([(connected, 0, 0)]),
            unchoked: None,
            left_slot: false,
            earned: false,
            last_unchoked: None,
            in_vain: (Duration::ZERO, 0),
            counted: 0,
            peak: 0,
        }
    }

    fn sample(&mut self, now: Instant, candidate: &Candidate, leeching: bool) {
        if let Some(&(then, received, sent)) = self.samples.back() {
            if candidate.received > received {
                self.in_vain = (Duration::ZERO, 0);
            } else if leeching && self.unchoked.is_some() && candidate.sent > sent {
                self.in_vain.0 += now.saturating_duration_since(then);
                self.in_vain.1 += candidate.sent - sent;
            }
        }
        self.samples.push_back((now, candidate.received, candidate.sent));
        // One sample that is a window old stays: what came since is what the window saw.
        while self.samples.get(1).is_some_and(|s| now.saturating_duration_since(s.0) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// True if it has a slot that it has not left before in this round.
    fn leaves_slot(&mut self) -> bool {
        self.unchoked.is_some() && !std::mem::replace(&mut self.left_slot, true)
    }

    /// It was served and gave nothing back.
    fn in_vain(&self) -> bool {
        let (time, bytes) = self.in_vain;
        time >= OPTIMISTIC || (time >= ROUND / 2 && bytes >= CREDIT)
    }

    /// What it gives, bytes per second: over the window, or since it began to give in it. A peer that has just unchoked
    /// us must not be measured by the time before.
    fn rate(&self, now: Instant) -> u64 {
        let Some(&(_, first, _)) = self.samples.front() else { return 0 };
        let Some(&(_, last, _)) = self.samples.back() else { return 0 };
        let began = self.samples.iter().take_while(|s| s.1 == first).last().map_or(now, |s| s.0);
        let time = now.saturating_duration_since(began).clamp(ROUND, WINDOW);
        last.saturating_sub(first).saturating_mul(1000) / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// A peer that may have a slot, with what ranks it.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    peer: PeerKey,
    /// What it gives, and we need: bytes per second, with the advance of those that have a slot for it.
    gives: u64,
    /// It holds a slot, for so long.
    held: Option<Duration>,
    /// Its turn is over.
    over: bool,
    /// It should give something back, and does not in this window.
    owes: bool,
    /// It has been served in vain, and its time to be tried again has not come.
    in_vain: bool,
    /// How long it has waited, in rounds.
    waited: u64,
    tie: u32,
}

/// True if we want something of somebody: peers can trade with us. A mount that nobody reads is as one that is complete.
fn leeching(complete: bool, candidates: &[Candidate]) -> bool {
    !complete && candidates.iter().any(|c| c.wanted)
}

/// The choker of the process.
#[derive(Debug)]
pub(super) struct Choker {
    slots: Slots,
    peers: BTreeMap<PeerKey, Memory>,
    /// Slots that the last round left empty.
    free: usize,
    /// Someone was left without a slot who should have one.
    waiting: bool,
    /// A peer that had a slot left since the last round that was not early: what it took is not known.
    left: bool,
    last: Option<Instant>,
    /// The last round that was not early; the time to count from before the first.
    last_full: Instant,
    next_full: Instant,
    early: Option<Instant>,
    rng: StdRng,
}

impl Choker {
    /// `limit` is the upload limit in bytes per second.
    pub(super) fn new(slots: usize, limit: Option<u64>, seed: u64, now: Instant) -> Self {
        Self {
            slots: Slots::new(slots, limit),
            peers: BTreeMap::new(),
            free: slots + 1,
            waiting: false,
            left: false,
            last: None,
            last_full: now,
            next_full: now + ROUND,
            early: None,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// When the next round is due.
    pub(super) fn next_round(&self) -> Instant {
        self.early.map_or(self.next_full, |early| early.min(self.next_full))
    }

    /// Someone waits: if a slot is free, the next round is early.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.free > 0 && self.early.is_none() {
            self.early = Some(self.last.map_or(now, |last| last + EARLIEST).max(now));
        }
    }

    /// The peer wants nothing of us any more: if it has a slot, that is for whoever waits. A peer keeps up with us or is
    /// complete within seconds, and a slot that then idles to the next round is upload that nobody gets.
    pub(super) fn uninterested(&mut self, now: Instant, peer: PeerKey) {
        if self.peers.get_mut(&peer).is_some_and(Memory::leaves_slot) {
            self.free += 1;
            self.hurry(now);
        }
    }

    /// The peer is gone; its slot is free at once.
    pub(super) fn forget(&mut self, now: Instant, peer: PeerKey) {
        let Some(mut memory) = self.peers.remove(&peer) else { return };
        self.left |= memory.unchoked.is_some();
        if memory.leaves_slot() {
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
        let early = now < self.next_full;
        self.last = Some(now);
        self.early = None;
        for (_, complete, candidates) in torrents {
            let leeching = leeching(*complete, candidates);
            for candidate in candidates {
                let memory = self.peers.entry(candidate.peer).or_insert_with(|| Memory::new(candidate.connected));
                memory.sample(now, candidate, leeching);
            }
        }
        if !early {
            self.settle_slots(now, torrents);
            self.last_full = now;
            self.next_full = now + ROUND;
        }
        let ranked = self.rank(now, torrents);
        let unchoked = self.share_out(ranked, early);
        for candidate in torrents.iter().flat_map(|torrent| &torrent.2) {
            let Some(memory) = self.peers.get_mut(&candidate.peer) else { continue };
            memory.left_slot = false;
            if unchoked.contains(&candidate.peer) {
                memory.unchoked.get_or_insert((now, candidate.sent));
                memory.last_unchoked = Some(now);
            } else {
                memory.unchoked = None;
            }
        }
        torrents
            .iter()
            .map(|(key, _, candidates)| {
                (*key, candidates.iter().map(|c| c.peer).filter(|peer| unchoked.contains(peer)).collect())
            })
            .collect()
    }

    /// More slots or fewer, by what was sent since the last round that was not early.
    fn settle_slots(&mut self, now: Instant, torrents: &[(TorrentKey, bool, Vec<Candidate>)]) {
        let elapsed = now.saturating_duration_since(self.last_full);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let (mut sent, mut peaks) = (0u64, Vec::new());
        for candidate in torrents.iter().flat_map(|torrent| &torrent.2) {
            let Some(memory) = self.peers.get_mut(&candidate.peer) else { continue };
            let taken = candidate.sent.saturating_sub(memory.counted);
            memory.counted = candidate.sent;
            memory.peak = (memory.peak - memory.peak / 16).max(taken.saturating_mul(1000) / millis);
            sent = sent.saturating_add(taken);
            if memory.unchoked.is_some() {
                peaks.push(memory.peak);
            }
        }
        if !std::mem::take(&mut self.left) {
            self.slots.settle(Seen { elapsed, sent, peaks: &peaks, free: self.free, waiting: self.waiting });
        }
    }

    /// All who may have a slot.
    fn rank(&mut self, now: Instant, torrents: &[(TorrentKey, bool, Vec<Candidate>)]) -> Vec<Ranked> {
        let mut ranked = Vec::new();
        for (_, complete, candidates) in torrents {
            let trades = leeching(*complete, candidates);
            let rate = |c: &Candidate, memory: &Memory| if trades && !c.snubbed { memory.rate(now) } else { 0 };
            // While nobody gives, there is nobody to keep a slot for.
            let some_give =
                candidates.iter().any(|c| !c.seed && self.peers.get(&c.peer).is_some_and(|m| rate(c, m) > 0));
            for candidate in candidates.iter().filter(|c| c.interested && !c.seed) {
                let Some(memory) = self.peers.get(&candidate.peer) else { continue };
                let held = memory.unchoked.map(|(since, _)| now.saturating_duration_since(since));
                let sent = memory.unchoked.map_or(0, |(_, sent)| candidate.sent.saturating_sub(sent));
                let rate = rate(candidate, memory);
                let failed = some_give && memory.in_vain();
                let over = held.is_some_and(|held| {
                    failed || held >= OPTIMISTIC && (trades || sent >= QUOTA || held >= QUOTA_TIME_MAX)
                });
                let since = memory.last_unchoked.unwrap_or(candidate.connected);
                let waited = now.saturating_duration_since(since);
                let rounds = 1 + waited.as_secs() / ROUND.as_secs();
                ranked.push(Ranked {
                    peer: candidate.peer,
                    gives: if memory.earned { rate.saturating_add(rate / 4) } else { rate },
                    held,
                    over,
                    owes: trades && rate == 0,
                    in_vain: failed && waited < memory.in_vain.0 * VAIN,
                    waited: if memory.last_unchoked.is_none() { NEWCOMER * rounds } else { rounds },
                    tie: self.rng.random(),
                });
            }
        }
        ranked
    }

    /// Who is unchoked of those ranked.
    fn share_out(&mut self, mut ranked: Vec<Ranked>, early: bool) -> Vec<PeerKey> {
        let slots = self.slots.count();
        ranked.sort_by_key(|r| (early && r.held.is_none(), Reverse(r.gives), r.tie));
        let mut unchoked: Vec<PeerKey> = if early {
            ranked.iter().filter(|r| r.held.is_some()).map(|r| r.peer).collect()
        } else {
            let earned: Vec<PeerKey> = ranked.iter().filter(|r| r.gives > 0).take(slots).map(|r| r.peer).collect();
            for (peer, memory) in &mut self.peers {
                memory.earned = earned.contains(peer);
            }
            earned
        };
        ranked.retain(|r| !unchoked.contains(&r.peer) && !(r.in_vain && (r.held.is_none() || r.over)));
        // Whose turn lasts, the newest first; then those who wait; then those who had their turn.
        ranked.sort_by_key(|r| match r.held {
            Some(held) if !r.over => (0, held, Reverse(0), r.tie),
            Some(held) => (2, held, Reverse(0), r.tie),
            None => (1, Duration::ZERO, Reverse(r.waited), r.tie),
        });
        // Slots are not added for those who owe; there is always one for them.
        let mut for_debtors = (slots + 1 - self.slots.extra()).saturating_sub(unchoked.len()).max(1);
        self.waiting = false;
        for r in ranked {
            if unchoked.len() <= slots && (!r.owes || for_debtors > 0) {
                for_debtors -= usize::from(r.owes);
                unchoked.push(r.peer);
            } else if r.held.is_none() && !r.owes {
                self.waiting = true;
            }
        }
        self.free = (slots + 1).saturating_sub(unchoked.len());
        unchoked
    }
}

#[cfg(test)]
#[path = "choker_tests.rs"]
mod tests;
