//! What is asked of whom: the blocks a peer is given when it has room, and those that come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::bits::Bits;
use super::demand::Want;
use super::integrity::Failure;
use super::peer::Peer;
use super::pieces::Partial;
use super::queue::Rank;
use super::{CloseReason, PeerKey, Receipt, Swarm};
use crate::metainfo::{BLOCK_LENGTH, Block, PieceIndex, Request};

/// Bytes of a block.
pub(super) const BLOCK: u64 = BLOCK_LENGTH as u64;
/// Microseconds that a peer is taken to need where nothing is known of it.
const SOON: u64 = 100_000;
/// Blocks that an unmeasured peer takes of a waited-for piece.
pub(super) const TRIAL: usize = 4;
/// The background takes this part of a pipeline, 0.5 s, while a file is open.
const BACKGROUND_SHARE: usize = 4;
/// Blocks never asked for that a peer may send.
const UNSOLICITED: u32 = 5;
/// Late blocks of the background that an idle peer takes at once.
const ENDGAME: usize = 4;
/// Pieces of the queue that are looked at to find work for idle peers.
pub(super) const LOOK: usize = 256;
/// Pieces that are shared out in one pick.
pub(super) const SHARED: usize = 16;
/// A peer that has nothing among the candidates of now is looked at again after this time, if there are others.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Swarm {
    /// Up to `most` blocks for a peer, as many as it has room for, in the order of work.
    pub(super) fn pick(&mut self, now: Instant, key: PeerKey, most: usize) -> Vec<Block> {
        let mut out = Vec::new();
        let Some(peer) = self.peers.get(&key).filter(|p| p.useful > 0) else { return out };
        let wanted = peer.room().min(most);
        let mut room = wanted.min(self.pace.room());
        let idle = peer.out.is_empty();
        let (mut last, mut sharers, mut shared) = (None, None, 0);
        let (mut short, mut held) = (false, false);
        while room > 0 && shared < SHARED {
            let Some(peer) = self.peers.get(&key) else { break };
            let serves = |&(_, piece): &(Rank, PieceIndex)| peer.serves(now, piece);
            let Some(next) = self.queue.demand(last).take(LOOK).find(serves) else { break };
            last = Some(next);
            let (rank, piece) = next;
            let read = matches!(rank, Rank::Read(_));
            let (near, mut full) = (peer.near(), false);
            let in_time = match rank {
                Rank::Read(_) => 0,
                Rank::Ahead(due) => peer.in_time(now, due).unwrap_or(room),
                Rank::Background => break,
            };
            let mut most = in_time;
            if in_time == 0 {
                shared += 1;
                let sharers = sharers.get_or_insert_with(|| self.sharers(key));
                most = self.share(now, key, sharers, piece);
            }
            if read && most > near {
                (most, full) = (near, true);
            }
            if most == 0 && !full {
                continue;
            }
            if !self.partials.contains_key(&piece) {
                if short || !self.begin(now, key, piece, rank, &mut short) {
                    continue;
                }
                self.refile(now, piece);
            }
            room -= self.take(now, key, piece, most.min(room), read, &mut out);
            // The rest of it is shared out as blocks come; nothing less urgent may stand in its way.
            if full && self.more_of(now, key, piece) {
                held = true;
                break;
            }
        }
        room = if held { 0 } else { room.min(self.peers.get(&key).map_or(0, |p| self.background_room(p))) };
        while room > 0 && self.background() {
            let Some(piece) = self.next_background(now, key, &mut short) else { break };
            match self.take(now, key, piece, room, false, &mut out) {
                0 => break,
                taken => room -= taken,
            }
            if self.partials.get(&piece).is_some_and(|p| p.open() > 0) {
                self.refile(now, piece);
            }
        }
        if idle && out.is_empty() && room > 0 {
            let late: Vec<PieceIndex> = self.late.iter().copied().take(LOOK).collect();
            for piece in late {
                if out.is_empty() && self.peers.get(&key).is_some_and(|p| p.serves(now, piece)) {
                    self.take(now, key, piece, room.min(ENDGAME), true, &mut out);
                }
            }
        }
        if out.is_empty() && room > 0 && !short && self.background() {
            self.relieve(now, key, room, &mut out);
        }
        if let Some(peer) = self.peers.get_mut(&key).filter(|p| !p.choking && p.busy()) {
            peer.rate.limit();
        }
        self.pace.spend(out.len());
        if wanted > out.len() {
            self.want_pace();
        }
        out
    }

    /// Blocks of the background that a peer may be given: while a reader may come at any time, what it asks for must not
    /// wait behind a full pipeline of them.
    fn background_room(&self, peer: &Peer) -> usize {
        let share = if self.handles.is_empty() { 1 } else { BACKGROUND_SHARE };
        let (size, room) = (peer.pipeline.size() as usize, peer.room());
        room.min((size / share).max(TRIAL).saturating_sub(peer.out.len()))
    }

    /// Begins a piece if there is credit for it and this peer is the one to ask. `short`: there is no credit.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: PieceIndex,
        rank: Rank,
        short: &mut bool,
    ) -> bool {
        let mut solo = None;
        if self.must_be_solo(piece) {
            let Some(chosen) = self.choose_solo(now, piece) else { return false };
            if chosen != key {
                self.wake(chosen);
                return false;
            }
            solo = Some((key, now));
        }
        if !self.reserve(now, piece, rank) {
            *short = true;
            return false;
        }
        self.attempts = self.attempts.wrapping_add(1);
        let mut partial = Partial::new(self.geometry.blocks(piece), self.attempts);
        partial.solo = solo;
        self.partials.insert(piece, partial);
        self.arm_solo(now, piece);
        true
    }

    /// The piece of the background to go on with: the one that the peer is at, else the rarest that it has, be it begun
    /// or not. A seed so gives what nobody else has, and the rest of a piece that others have comes from them.
    fn next_background(&mut self, now: Instant, key: PeerKey, short: &mut bool) -> Option<PieceIndex> {
        let peer = self.peers.get(&key)?;
        let open = |piece: &PieceIndex| {
            let free = |p: &Partial| p.open() > 0 && p.solo.is_none_or(|(solo, _)| solo == key);
            peer.serves(now, *piece) && self.partials.get(piece).is_some_and(free)
        };
        let at = peer.at.filter(|at| open(at) && self.rank(*at) == Some(Rank::Background));
        if at.is_some() {
            return at;
        }
        let begun = self.queue.background().filter(open).take(LOOK);
        let begun = begun.min_by_key(|&piece| (self.picker.rarity(piece), piece));
        let mut chosen = None;
        if !*short {
            let failed = |piece: &PieceIndex| !self.partials.contains_key(piece) && peer.serves(now, *piece);
            // The queue is long, and failures are rare.
            let failed = if self.failures.is_empty() { None } else { self.queue.background().find(failed) };
            if let Some(failed) = failed
                && self.begin(now, key, failed, Rank::Background, short)
            {
                chosen = Some(failed);
            } else if let Some(new) = self.pick_background(now, key)
                && begun.is_none_or(|begun| self.picker.rarity(new) < self.picker.rarity(begun))
                && self.begin(now, key, new, Rank::Background, short)
            {
                chosen = Some(new);
            }
        }
        let chosen = chosen.or(begun);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.at = chosen;
        }
        chosen
    }

    /// The rarest piece of the background that is not begun and that this peer would serve.
    pub(super) fn pick_background(&mut self, now: Instant, key: PeerKey) -> Option<PieceIndex> {
        let Self { picker, peers, have, evicted, partials, wants, failures, regions, rng, .. } = self;
        let peer = peers.get(&key)?;
        if peer.nothing_in == Some(picker.epoch()) {
            return None;
        }
        let found = {
            let lacking = lacking(have, evicted, partials, wants, failures);
            picker.pick(now, rng, regions, &lacking, &|piece| peer.serves(now, piece))
        };
        if found.is_none()
            && let Some(peer) = peers.get_mut(&key)
        {
            peer.nothing_in = Some(picker.epoch());
            peer.look_again = (!picker.whole()).then_some(now + LOOK_AGAIN);
            self.arm(key);
        }
        found
    }

    /// How many peers, seeds left out, have the rarest piece that the background could begin.
    pub(super) fn rarest(&mut self) -> Option<u16> {
        let Self { picker, have, evicted, partials, wants, failures, .. } = self;
        picker.rarest(&lacking(have, evicted, partials, wants, failures))
    }

    /// Nothing is left to begin: the peer takes over what another was asked for when it was faster, and would not be now;
    /// the last first, and only what it has sooner. A download would else wait for what one slow peer still owes.
    fn relieve(&mut self, now: Instant, key: PeerKey, room: usize, out: &mut Vec<Block>) {
        let behind = self.servers().filter(|&(k, p)| k != key && p.excess() > 0);
        let Some((_, slow)) = behind.filter_map(|(k, p)| Some((p.eta(0)?, k))).max() else { return };
        let (Some(peer), Some(owes)) = (self.peers.get(&key), self.peers.get(&slow)) else { return };
        let most = if peer.rate.get().is_some() { room } else { room.min(TRIAL) }.min(owes.excess());
        let free = |block: &Block| {
            let alone = |p: &Partial| p.solo.is_none() && p.askers(block.index).count() == 1;
            peer.serves(now, block.piece)
                && self.rank(block.piece) == Some(Rank::Background)
                && self.partials.get(&block.piece).is_some_and(alone)
        };
        let queued = owes.out.iter().map(|asked| asked.block).enumerate().rev().filter(|(_, block)| free(block));
        let sooner = queued.zip(1..).take_while(|((at, _), n)| peer.eta(*n).unwrap_or(SOON) < owes.eta_of(*at));
        let moved: Vec<Block> = sooner.take(most).map(|((_, block), _)| block).collect();
        for block in moved {
            self.cancel_request(now, slow, block);
            if let (Some(partial), Some(peer)) = (self.partials.get_mut(&block.piece), self.peers.get_mut(&key)) {
                partial.ask(block.index, key);
                peer.ask(now, block);
                out.push(block);
            }
            self.refile(now, block.piece);
        }
    }

    /// Gives a peer up to `most` blocks of a begun piece: open ones and, if `hedge`, those that are late elsewhere.
    fn take(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: PieceIndex,
        most: usize,
        hedge: bool,
        out: &mut Vec<Block>,
    ) -> usize {
        let hedge = hedge && self.may_hedge(now, key, piece);
        let (Some(partial), Some(peer)) = (self.partials.get_mut(&piece), self.peers.get_mut(&key)) else { return 0 };
        if partial.solo.is_some_and(|(solo, _)| solo != key) {
            return 0;
        }
        let (before, mut taken, mut late) = (partial.open(), 0, false);
        while taken < most {
            let open = partial.next_open();
            let Some(index) = open.or_else(|| partial.next_late(key).filter(|_| hedge)) else { break };
            late |= open.is_none();
            let block = Block { piece, index };
            partial.ask(index, key);
            peer.ask(now, block);
            out.push(block);
            taken += 1;
        }
        if late || (before > 0 && partial.open() == 0) {
            self.refile(now, piece);
        }
        taken
    }

    /// True if there are more blocks of a waited-for piece for this peer.
    fn more_of(&self, now: Instant, key: PeerKey, piece: PieceIndex) -> bool {
        let late = |p: &Partial| p.next_late(key).is_some() && self.may_hedge(now, key, piece);
        self.partials.get(&piece).is_some_and(|p| p.open() > 0 || late(p))
    }

    /// True if a block that is late elsewhere may be asked of this peer: it has delivered, or nobody who has serves the
    /// piece. A hedge with a stranger may be as lost as the first request.
    pub(super) fn may_hedge(&self, now: Instant, key: PeerKey, piece: PieceIndex) -> bool {
        self.peers.get(&key).is_some_and(Peer::proven)
            || !self.servers().any(|(_, p)| p.proven() && p.serves(now, piece))
    }

    /// Wakes idle peers that have something to ask for, those that deliver soonest first, until the work is shared out.
    /// Peers without room come by themselves when a block comes.
    pub(super) fn wake_idle(&mut self, now: Instant) {
        let mut blocks = 0;
        for (_, piece) in self.queue.after(None).take(LOOK) {
            blocks += match self.partials.get(&piece) {
                Some(p) => (p.open() as usize).max(1),
                None => self.geometry.blocks(piece) as usize,
            };
        }
        let mut idle: Vec<(u64, PeerKey, usize)> = self
            .servers()
            .filter(|(_, p)| p.idle())
            .map(|(key, p)| (p.eta(1).unwrap_or(SOON), key, p.room()))
            .collect();
        idle.sort_unstable();
        for (_, key, room) in idle {
            let Some(peer) = self.peers.get(&key) else { continue };
            let queued = blocks > 0 && self.queue.after(None).take(LOOK).any(|(_, p)| peer.serves(now, p));
            if queued {
                // Each takes what keeps it busy; of those that have not been measured, a small share.
                let takes = if peer.rate.get().is_some() { peer.near().min(room) } else { 1 };
                blocks -= takes.clamp(1, blocks);
            }
            if queued || self.more_for(now, key, peer) {
                if self.pace.room() == 0 {
                    return self.want_pace();
                }
                self.wake(key);
            }
        }
    }

    /// True if a peer may have something to do besides what is queued: late blocks, or new pieces of the background.
    fn more_for(&self, now: Instant, key: PeerKey, peer: &Peer) -> bool {
        let late = peer.out.is_empty() && self.late.iter().take(LOOK).any(|&p| peer.serves(now, p));
        late || (self.background() && peer.nothing_in != Some(self.picker.epoch()) && self.may_fill(key))
    }

    /// As [`Swarm::wake_idle`], after something has changed for one peer alone.
    pub(super) fn wake_if_idle(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get(&key).filter(|p| p.idle()) else { return };
        if self.queue.after(None).take(LOOK).any(|(_, p)| peer.serves(now, p)) || self.more_for(now, key, peer) {
            if self.pace.room() == 0 {
                return self.want_pace();
            }
            self.wake(key);
        }
    }

    /// A block has come: its coordinates only. Says whether its bytes are of use. Poll effects afterwards.
    pub fn receive(&mut self, now: Instant, peer: PeerKey, request: Request) -> Receipt {
        self.now = now;
        let receipt = self.judge(now, peer, request);
        let length = u64::from(request.length);
        self.totals.downloaded += length;
        if receipt == Receipt::Drop {
            self.totals.wasted += length;
        }
        self.settle(now);
        receipt
    }

    fn judge(&mut self, now: Instant, key: PeerKey, request: Request) -> Receipt {
        let Some(peer) = self.peers.get_mut(&key) else { return Receipt::Drop };
        peer.last_heard = now;
        peer.received += u64::from(request.length);
        let asked = self.geometry.block(request).map(|block| (block, peer.take(now, block)));
        let mut first = false;
        let block = match asked {
            Some((block, Some(asked))) => {
                let took = now.saturating_duration_since(asked.sent);
                peer.answers.add(took);
                if asked.alone {
                    peer.trip.add(took);
                }
                // What comes from a web seed waited behind the rest of its run, and says nothing of peers.
                if peer.web.is_none() {
                    first = self.answers.patience().is_none();
                    self.answers.add(took);
                }
                block
            }
            Some((block, None)) if peer.forget(block) || peer.forget_other() => block,
            _ => {
                peer.unsolicited += 1;
                if peer.unsolicited >= UNSOLICITED {
                    self.close(now, key, CloseReason::Protocol("it sent blocks that were not asked for"));
                }
                return Receipt::Drop;
            }
        };
        peer.last_block = now;
        if std::mem::take(&mut peer.snubbed) {
            peer.pipeline = super::rates::Pipeline::new();
            self.work = true;
        }
        let grows = peer.rate.add(now, u64::from(request.length));
        if peer.out.is_empty() {
            peer.rate.pause(now);
        }
        peer.pipeline.block(&peer.rate, grows);
        if first {
            // From here on it is known what late means: those who were only guessed at are looked at anew.
            let all: Vec<PeerKey> = self.peers.keys().copied().collect();
            all.into_iter().for_each(|other| self.arm(other));
        } else {
            self.arm(key);
        }
        let Some(partial) = self.partials.get_mut(&block.piece) else { return Receipt::Drop };
        match &mut partial.solo {
            Some((solo, _)) if *solo != key => return Receipt::Drop,
            Some((_, progress)) => *progress = now,
            None => {}
        }
        let (open, late, attempt) = (partial.open(), partial.has_late(), partial.attempt);
        let Some(losers) = partial.receive(block.index, key) else { return Receipt::Drop };
        if (open > 0 && partial.open() == 0) || late != partial.has_late() {
            self.refile(now, block.piece);
        }
        for loser in losers {
            self.cancel(now, loser, block);
        }
        Receipt::Keep { attempt }
    }
}

/// Tells which pieces the background could begin, should the regions hold them.
fn lacking<'a>(
    have: &'a Bits,
    evicted: &'a Bits,
    partials: &'a BTreeMap<PieceIndex, Partial>,
    wants: &'a BTreeMap<PieceIndex, Want>,
    failures: &'a BTreeMap<PieceIndex, Failure>,
) -> impl Fn(PieceIndex) -> bool + 'a {
    |piece| {
        !have.has(piece)
            && !evicted.has(piece)
            && !partials.contains_key(&piece)
            && !wants.contains_key(&piece)
            && !failures.contains_key(&piece)
    }
}
