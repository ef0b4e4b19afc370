//! Who lied. A piece that failed and came from one peer proves that peer wrong. Else every block's digest is kept with
//! its sender, and the piece is fetched again from one peer alone, so that every further failure is a proof; when a good
//! copy is there, whoever sent a block that differs is banned, and nobody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::timers::Timer;
use super::{BlockDigest, Effect, PeerKey, Swarm};
use crate::metainfo::PieceIndex;

/// Failed copies that are remembered of one piece.
const COPIES: usize = 4;
/// A piece that failed a second time is not begun for this long, after each further failure for twice as long, up to
/// 32 s. Five liars that take turns so cost a reader 2 s, and one that comes again and again no line rate.
const REST: Duration = Duration::from_millis(125);
/// A lone sender without progress for this time is replaced, if another can.
const PROGRESS: Duration = Duration::from_secs(1);
/// And one that has never delivered, after this at the least.
const STRANGER: Duration = Duration::from_millis(300);

/// What is remembered of a piece that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// It is not begun before.
    pub(super) until: Instant,
    times: u32,
    copies: Vec<Copy>,
    /// Lone senders that did not deliver in this round.
    tried: Vec<PeerKey>,
}

/// A failed copy: for every block its sender, as a place in `senders`, and its digest.
#[derive(Debug)]
struct Copy {
    senders: Vec<(PeerKey, SocketAddr)>,
    blocks: Vec<(usize, BlockDigest)>,
}

impl Swarm {
    /// The piece failed its hash.
    pub(super) fn failed(&mut self, now: Instant, piece: PieceIndex, digests: &[BlockDigest]) {
        let Some(partial) = self.partials.remove(&piece) else { return };
        self.late.remove(&piece);
        self.timers.clear(Timer::Piece(piece));
        self.release(piece);
        self.totals.wasted += self.length(piece);
        for (index, key) in partial.requests() {
            self.cancel(now, key, crate::metainfo::Block { piece, index });
        }
        let mut copy = Copy { senders: Vec::new(), blocks: Vec::new() };
        let senders = partial.senders().unwrap_or_default();
        for (&key, &digest) in senders.iter().zip(digests) {
            let known = copy.senders.iter().position(|&(k, _)| k == key);
            let at = match (known, self.addresses.get(&key)) {
                (Some(at), _) => at,
                (None, Some(&addr)) => {
                    copy.senders.push((key, addr));
                    copy.senders.len() - 1
                }
                (None, None) => usize::MAX,
            };
            copy.blocks.push((at, digest));
        }
        let failure =
            self.failures.entry(piece).or_insert(Failure { until: now, times: 0, copies: vec![], tried: vec![] });
        let wait = if failure.times == 0 { Duration::ZERO } else { REST * (1 << (failure.times - 1).min(8)) };
        failure.times += 1;
        failure.until = now + wait;
        failure.tried.clear();
        if failure.copies.len() >= COPIES {
            failure.copies.remove(0);
        }
        let first = senders.first().copied();
        let only = first.filter(|_| senders.iter().all(|s| Some(*s) == first));
        if only.is_none() {
            failure.copies.push(copy);
        }
        let until = failure.until;
        if until > now {
            self.timers.set(Timer::Piece(piece), until);
        }
        self.refile(now, piece);
        if let Some(only) = only
            && let Some(&addr) = self.addresses.get(&only)
        {
            self.ban(now, only, addr, piece);
        }
    }

    /// An attempt at a piece came to nothing here, by nobody's fault.
    pub(super) fn unassembled(&mut self, now: Instant, piece: PieceIndex, attempt: u32) {
        if self.attempt(piece) != Some(attempt) {
            return;
        }
        let failure =
            self.failures.entry(piece).or_insert(Failure { until: now, times: 0, copies: vec![], tried: vec![] });
        failure.until = now + Duration::from_secs((1u64 << failure.times.min(5)).min(30));
        failure.times += 1;
        let until = failure.until;
        self.discard(now, piece);
        self.timers.set(Timer::Piece(piece), until);
    }

    /// Bans a peer, by proof. What it has sent of other unfinished pieces is dropped with it.
    fn ban(&mut self, now: Instant, key: PeerKey, addr: SocketAddr, piece: PieceIndex) {
        if self.peers.get(&key).is_some_and(|p| p.web.is_some()) {
            return self.bad_web_seed(now, key, piece);
        }
        self.effects.push_back(Effect::Ban(key, addr, piece));
        self.gone(now, key);
        let tainted = self.partials.iter().filter(|(_, p)| !p.complete() && p.has_block_of(key));
        for piece in tainted.map(|(&piece, _)| piece).collect::<Vec<_>>() {
            self.discard(now, piece);
        }
    }

    /// The piece is good now: if an earlier copy failed, its blocks are compared.
    pub(super) fn proven(&mut self, piece: PieceIndex) {
        if let Some(failure) = self.failures.get(&piece) {
            if failure.copies.is_empty() {
                self.failures.remove(&piece);
            } else {
                self.effects.push_back(Effect::Digest(piece));
            }
        }
    }

    /// The digests of a good copy: whoever sent something else lied.
    pub(super) fn compare(&mut self, now: Instant, piece: PieceIndex, digests: &[BlockDigest]) {
        let Some(failure) = self.failures.remove(&piece) else { return };
        let mut liars = Vec::new();
        for copy in &failure.copies {
            for ((at, digest), good) in copy.blocks.iter().zip(digests) {
                if digest != good
                    && let Some(&sender) = copy.senders.get(*at)
                    && !liars.contains(&sender)
                {
                    liars.push(sender);
                }
            }
        }
        for (liar, addr) in liars {
            self.ban(now, liar, addr, piece);
        }
    }

    /// True while a piece that failed has to wait.
    pub(super) fn resting(&self, now: Instant, piece: PieceIndex) -> bool {
        self.failures.get(&piece).is_some_and(|f| f.until > now)
    }

    /// True if the piece is to be fetched from one peer alone.
    pub(super) fn must_be_solo(&self, piece: PieceIndex) -> bool {
        self.failures.contains_key(&piece)
    }

    /// The peer to fetch a piece from alone: not tried in this round; one that has delivered, and had no part in a failed
    /// copy; one that has delivered (if it lies, this is the proof); a stranger; the fastest.
    pub(super) fn choose_solo(&mut self, now: Instant, piece: PieceIndex) -> Option<PeerKey> {
        let failure = self.failures.get(&piece)?;
        let usable = |tried: &[PeerKey]| {
            let able = self.servers().filter(|(_, p)| !p.snubbed && p.serves(now, piece));
            let ranked = able.filter(|(key, _)| !tried.contains(key)).map(|(key, p)| {
                let took_part = failure.copies.iter().any(|c| c.senders.iter().any(|&(k, _)| k == key));
                let standing = match (p.proven(), took_part) {
                    (true, false) => 0,
                    (true, true) => 1,
                    (false, _) if p.rate.get().is_none() && !p.stalled() => 2,
                    (false, _) => 3,
                };
                (standing, took_part, std::cmp::Reverse(p.rate.get()), key)
            });
            ranked.min().map(|(.., key)| key)
        };
        let chosen = usable(&failure.tried);
        if chosen.is_some() {
            return chosen;
        }
        let any = usable(&[]);
        if let Some(failure) = self.failures.get_mut(&piece) {
            failure.tried.clear();
        }
        any
    }

    /// Watches the progress of a lone sender.
    pub(super) fn arm_solo(&mut self, now: Instant, piece: PieceIndex) {
        if self.partials.get(&piece).is_some_and(|p| p.solo.is_some()) {
            self.timers.set(Timer::Piece(piece), now + STRANGER);
        }
    }

    /// The timer: a lone sender that makes no progress is replaced.
    pub(super) fn solo_due(&mut self, now: Instant, piece: PieceIndex) {
        let Some((key, progress)) = self.partials.get(&piece).filter(|p| !p.complete()).and_then(|p| p.solo) else {
            return;
        };
        let measured = self.peers.get(&key).and_then(|p| p.answers.patience());
        let patience = match (measured, self.answers.patience()) {
            (Some(own), _) => own.max(PROGRESS),
            (None, Some(others)) => others.clamp(STRANGER, PROGRESS),
            (None, None) => PROGRESS,
        };
        let other = |(k, p): (PeerKey, &super::peer::Peer)| k != key && !p.snubbed && p.serves(now, piece);
        if now < progress + patience {
            self.timers.set(Timer::Piece(piece), progress + patience);
        } else if self.servers().any(other) {
            self.give_up_solo(now, key, piece);
        } else {
            self.timers.set(Timer::Piece(piece), now + PROGRESS);
        }
    }

    fn give_up_solo(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        if let Some(failure) = self.failures.get_mut(&piece) {
            failure.tried.push(key);
        }
        self.discard(now, piece);
    }

    /// A peer snubs, chokes or leaves: what it was the lone sender of begins anew with another.
    pub(super) fn drop_solo(&mut self, now: Instant, key: PeerKey) {
        if self.failures.is_empty() {
            return;
        }
        let lone: Vec<PieceIndex> = self.failures.keys().copied().collect();
        lone.into_iter().for_each(|piece| self.drop_solo_of(now, key, piece));
    }

    /// As [`Swarm::drop_solo`], for one piece.
    pub(super) fn drop_solo_of(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let solo = self.partials.get(&piece).filter(|p| !p.complete()).and_then(|p| p.solo);
        if solo.is_some_and(|(solo, _)| solo == key) {
            self.give_up_solo(now, key, piece);
        }
    }

    /// The address of a peer that is gone is kept while blocks of it are in unfinished pieces.
    pub(super) fn forget_addresses(&mut self) {
        let (peers, partials) = (&self.peers, &self.partials);
        self.addresses.retain(|key, _| peers.contains_key(key) || partials.values().any(|p| p.has_block_of(*key)));
    }
}
