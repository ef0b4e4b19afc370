//! What becomes of requests that are out: cancelled, void, rejected, late or given up, and pieces that are dropped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::download::BLOCK;
use super::peer::{Asked, Peer};
use super::pieces::Partial;
use super::queue::Rank;
use super::timers::Timer;
use super::{CloseReason, PeerKey, Swarm};
use crate::metainfo::{Block, PieceIndex, Request};
use crate::wire::Message;

/// A request is late after this time where nothing has been measured yet.
const UNMEASURED: Duration = Duration::from_secs(1);
/// A piece that nobody wants any more is kept this long: its reader may try again.
const IDLE: Duration = Duration::from_secs(30);

impl Swarm {
    /// Tells a peer that a block is wanted no more.
    pub(super) fn cancel(&mut self, now: Instant, key: PeerKey, block: Block) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(asked) = peer.take(now, block) {
            if asked.late {
                peer.rate.disappoint(BLOCK, now.saturating_duration_since(asked.sent));
            }
            peer.remember(block);
            peer.control.push_back(Message::Cancel(self.geometry.request(block)));
            self.wake(key);
        }
    }

    /// Requests to a peer that are void, each of them: the blocks go back to the picker.
    pub(super) fn void(&mut self, now: Instant, key: PeerKey, cancel: bool, which: &dyn Fn(usize, &Asked) -> bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let (mut void, mut kept) = (Vec::new(), std::collections::VecDeque::new());
        for (at, asked) in peer.out.drain(..).enumerate() {
            if which(at, &asked) { void.push(asked) } else { kept.push_back(asked) }
        }
        peer.out = kept;
        if peer.out.is_empty() {
            peer.rate.pause(now);
        }
        for asked in &void {
            peer.remember(asked.block);
            if cancel {
                peer.control.push_back(Message::Cancel(self.geometry.request(asked.block)));
            }
        }
        if cancel && !void.is_empty() {
            self.wake(key);
        }
        for asked in void {
            self.reopen(now, key, asked);
        }
    }

    pub(super) fn reopen(&mut self, now: Instant, key: PeerKey, asked: Asked) {
        self.pace.refund();
        let Some(partial) = self.partials.get_mut(&asked.block.piece) else { return };
        if partial.unask(asked.block.index, key, asked.late) {
            self.refile(now, asked.block.piece);
        }
    }

    /// The peer chokes us: its requests are void, but for pieces that it allows.
    pub(super) fn choked(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if std::mem::replace(&mut peer.choking, true) {
            return;
        }
        peer.pipeline = super::rates::Pipeline::new();
        if peer.allowed.is_empty() {
            self.askable.remove(&key);
        }
        let allowed = if peer.fast { peer.allowed.clone() } else { BTreeSet::new() };
        self.void(now, key, false, &|_, asked| !allowed.contains(&asked.block.piece));
        self.drop_solo(now, key);
        self.check_starved(now);
    }

    /// The peer chokes us no more.
    pub(super) fn unchoked(&mut self, now: Instant, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|p| p.choking) {
            peer.choking = false;
            peer.nothing_in = None;
            self.askable.insert(key);
            self.wake_if_idle(now, key);
            self.check_starved(now);
        }
    }

    /// The peer will not answer a request (BEP 6).
    pub(super) fn rejected(&mut self, now: Instant, key: PeerKey, request: Request) {
        let Some(block) = self.geometry.block(request) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // Each request has one answer, the oldest first: what was cancelled and asked for again is not refused by it.
        if peer.forget(block) {
            return;
        }
        let Some(asked) = peer.take(now, block) else {
            peer.forget_other();
            return;
        };
        peer.refuse(now, block.piece);
        if let Some(until) = peer.refused.get(&block.piece).map(|r| r.until) {
            self.arm_at(key, until);
        }
        self.reopen(now, key, asked);
        self.drop_solo_of(now, key, block.piece);
        self.check_starved(now);
    }

    /// How long a request to this peer may take before it is late: by its own answers, else by those of all.
    fn patience(&self, peer: &Peer) -> Duration {
        peer.answers.patience().or_else(|| self.answers.patience()).unwrap_or(UNMEASURED)
    }

    /// The timer of a peer: what is late, given up, silent or idle.
    pub(super) fn peer_due(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.armed = None;
        if peer.web.is_none() && now >= peer.last_heard + Peer::IDLE {
            self.close(now, key, CloseReason::Idle);
            return;
        }
        if peer.web.is_none() && now >= peer.last_sent + Peer::KEEP_ALIVE {
            peer.last_sent = now;
            peer.control.push_back(Message::KeepAlive);
            self.wake(key);
        }
        self.void(now, key, true, &|_, asked| asked.sent + Peer::GIVE_UP <= now);
        let Some(patience) = self.peers.get(&key).map(|peer| self.patience(peer)) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut late = Vec::new();
        for asked in peer.out.iter_mut().take_while(|a| a.sent + patience <= now).filter(|a| !a.late) {
            asked.late = true;
            late.push(asked.block);
        }
        if peer.look_again.take_if(|at| *at <= now).is_some() {
            peer.nothing_in = None;
            self.work = true;
        }
        if !peer.refused.is_empty() {
            peer.nothing_in = None;
            self.work = true;
            // Kept a while after the time is over, so that the next refusal lasts longer.
            peer.refused.retain(|_, r| r.until + Duration::from_secs(60) > now);
        }
        let snubs = !peer.out.is_empty() && !peer.snubbed && now >= peer.last_block + Peer::SNUB;
        let mut again = BTreeSet::new();
        for block in late {
            if self.partials.get_mut(&block.piece).is_some_and(|p| p.mark_late(block.index)) {
                again.insert(block.piece);
            }
        }
        let (mut pieces, mut least) = (Vec::new(), None);
        for piece in again {
            self.refile(now, piece);
            self.work = true;
            if let Some(rank @ Rank::Read(_)) = self.rank(piece) {
                pieces.push(piece);
                least = least.max(Some(rank));
            }
        }
        if let Some(rank) = least {
            self.make_way(now, &pieces, rank);
        }
        if snubs {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.snubbed = true;
            }
            self.drop_solo(now, key);
            let alone = self.only_from(now, key);
            self.void(now, key, true, &|at, asked| at > 0 && !alone.contains(&asked.block.piece));
            self.check_starved(now);
        }
        self.arm(key);
    }

    /// Pieces that are asked of a web seed and that nobody else serves. Its first byte may take longer than a peer's, and
    /// what it was asked for comes behind it all the same.
    fn only_from(&self, now: Instant, key: PeerKey) -> BTreeSet<PieceIndex> {
        let Some(seed) = self.peers.get(&key).filter(|peer| peer.web.is_some()) else { return BTreeSet::new() };
        let mut pieces: BTreeSet<PieceIndex> = seed.out.iter().map(|asked| asked.block.piece).collect();
        let others = || self.peers.iter().filter(|(other, peer)| **other != key && !peer.snubbed);
        pieces.retain(|&piece| !others().any(|(_, peer)| peer.serves(now, piece)));
        pieces
    }

    /// Sets a peer's timer for the next thing that may happen to it.
    pub(super) fn arm(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else { return };
        let mut at = match peer.web {
            None => Some((peer.last_heard + Peer::IDLE).min(peer.last_sent + Peer::KEEP_ALIVE)),
            Some(_) => None,
        };
        let mut sooner = |other| at = Some(at.map_or(other, |at| at.min(other)));
        if let Some(oldest) = peer.out.front() {
            sooner(oldest.sent + Peer::GIVE_UP);
            if !peer.snubbed {
                sooner(peer.last_block + Peer::SNUB);
            }
        }
        if let Some(asked) = peer.out.iter().find(|a| !a.late) {
            sooner(asked.sent + self.patience(peer));
        }
        if let Some(look) = peer.look_again {
            sooner(look);
        }
        if let Some(until) = peer.refused.values().map(|r| r.until).filter(|&u| u > self.now).min() {
            sooner(until);
        }
        if let Some(at) = at {
            self.arm_at(key, at);
        }
    }

    pub(super) fn arm_at(&mut self, key: PeerKey, at: Instant) {
        if let Some(peer) = self.peers.get_mut(&key).filter(|p| p.armed.is_none_or(|armed| at < armed)) {
            peer.armed = Some(at);
            self.timers.set(Timer::Peer(key), at);
        }
    }

    /// Nobody wants an unfinished piece: its requests are cancelled, and it is kept for a while if anything came.
    pub(super) fn abandon(&mut self, now: Instant, piece: PieceIndex) {
        let Some(partial) = self.partials.get_mut(&piece) else { return };
        if partial.received() == 0 {
            self.discard(now, piece);
            return;
        }
        for (index, key) in partial.requests() {
            self.cancel_request(now, key, Block { piece, index });
        }
        self.timers.set(Timer::Piece(piece), now + IDLE);
    }

    /// Takes a request back; its block is open, or with others who were asked for it.
    pub(super) fn cancel_request(&mut self, now: Instant, key: PeerKey, block: Block) {
        let late = self.peers.get(&key).and_then(|p| p.out.iter().find(|a| a.block == block)).is_some_and(|a| a.late);
        if let Some(partial) = self.partials.get_mut(&block.piece) {
            partial.unask(block.index, key, late);
        }
        self.cancel(now, key, block);
    }

    /// A peer has a piece that we have asked seeds for. If they are still busy with others, and have some that are rarer,
    /// the requests are taken back: what only seeds have is what they should send.
    pub(super) fn leave_to_others(&mut self, now: Instant, piece: PieceIndex) {
        let untouched = |p: &Partial| p.received() == 0 && p.solo.is_none();
        if !self.partials.get(&piece).is_some_and(untouched) || self.rank(piece) != Some(Rank::Background) {
            return;
        }
        let rarity = self.picker.rarity(piece);
        if self.rarest().is_none_or(|rarest| rarest >= rarity) {
            return;
        }
        let Some(partial) = self.partials.get(&piece) else { return };
        let waits = |key| {
            let peer: Option<&Peer> = self.peers.get(&key);
            peer.is_some_and(|p| {
                p.web.is_none() && p.seed() && p.out.front().is_some_and(|first| first.block.piece != piece)
            })
        };
        if partial.requests().into_iter().all(|(_, key)| waits(key)) {
            self.discard(now, piece);
        }
    }

    /// Drops an unfinished piece.
    pub(super) fn discard(&mut self, now: Instant, piece: PieceIndex) {
        let Some(partial) = self.partials.remove(&piece) else { return };
        for (index, key) in partial.requests() {
            self.cancel(now, key, Block { piece, index });
        }
        self.timers.clear(Timer::Piece(piece));
        self.release(piece);
        if partial.received() > 0 {
            self.totals.wasted += u64::from(partial.received()) * BLOCK;
            // First of all: the piece may be begun anew while other effects wait.
            self.effects.push_front(super::Effect::Discard { piece, attempt: partial.attempt });
        }
        self.refile(now, piece);
    }

    /// The timer of a piece.
    pub(super) fn piece_due(&mut self, now: Instant, piece: PieceIndex) {
        self.solo_due(now, piece);
        if let Some(idle) = self.partials.get(&piece).and_then(|p| p.idle) {
            if now >= idle + IDLE {
                self.discard(now, piece);
            } else {
                self.timers.set(Timer::Piece(piece), idle + IDLE);
            }
        }
        self.refile(now, piece);
    }
}
