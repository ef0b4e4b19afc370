//! Who has what: peers come, say what they have and go; our own pieces come and go, and peers are told.

use std::time::{Duration, Instant};

use super::bits::Bits;
use super::peer::{Has, Peer};
use super::picker::{Job, STEP};
use super::timers::Timer;
use super::{CloseReason, Connected, Effect, PeerKey, Swarm};
use crate::config::Fill;
use crate::metainfo::PieceIndex;
use crate::wire::{ExtendedHandshake, Message};

/// Peers are woken for haves no more often than this: at once for the first one, which in a new swarm is what the others
/// wait for.
const NEWS_DELAY: Duration = Duration::from_millis(200);
/// Entries of the log that are kept for peers that do not read.
const LOG: usize = 1 << 16;
/// Keep-alives in one second that are too many.
const KEEP_ALIVES: u32 = 100;
/// Allowed-fast pieces of one peer that are remembered.
const ALLOWED: usize = 64;

/// An entry of the log: we have a piece, or have it no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) piece: PieceIndex,
    pub(super) have: bool,
}

impl News {
    /// True if the peer is to be told: a have of what it has itself is left out, a dont-have is for those who know them.
    fn concerns(self, peer: &Peer) -> bool {
        if self.have { !peer.has.has(self.piece) } else { peer.donthave.is_some() }
    }
}

impl Swarm {
    /// A peer is here.
    pub(super) fn connected(&mut self, now: Instant, c: &Connected) {
        self.gone(now, c.peer);
        self.addresses.insert(c.peer, c.addr);
        let mut peer = Peer::new(now, c.addr, c.fast, self.geometry.pieces());
        peer.said_upload_only = self.upload_only;
        self.peers.insert(c.peer, peer);
        self.show_to_newcomer(c.peer);
        self.arm(c.peer);
        self.wake(c.peer);
    }

    /// It was told that we have nothing: it learns piece by piece what is here.
    pub(super) fn greeted(&mut self, key: PeerKey) {
        let end = self.log_start + self.log.len() as u64;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.greeted = true;
        peer.news = end;
        if self.super_seed.is_none() {
            peer.control.extend(self.geometry.all().filter(|piece| self.have.has(*piece)).map(Message::Have));
        }
    }

    /// Its extension handshake (BEP 10).
    pub(super) fn extended(&mut self, now: Instant, key: PeerKey, handshake: &ExtendedHandshake) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_heard = now;
        if let Some(reqq) = handshake.reqq {
            peer.reqq = reqq.clamp(1, super::rates::Pipeline::MAX);
        }
        if let Some(id) = handshake.donthave {
            peer.donthave = (id != 0).then_some(id);
        }
        peer.extended = true;
        if let Some(upload_only) = handshake.upload_only {
            peer.upload_only = upload_only;
        }
        peer.upload_only_id = handshake.upload_only_id.or(peer.upload_only_id);
        if peer.said_upload_only != self.upload_only {
            self.wake(key);
        }
        self.changed(now, key);
    }

    /// A peer is gone.
    pub(super) fn gone(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.remove(&key) else { return };
        self.askable.remove(&key);
        self.show_no_more(key);
        self.timers.clear(Timer::Peer(key));
        match peer.has {
            // Those of web seeds are not counted.
            _ if peer.web.is_some() => {}
            Has::All => self.picker.remove_seed(),
            Has::Some(bits) => self.picker.jobs.push_back(Job::Uncount { bits, at: 0, until: peer.counted }),
            Has::Nothing => {}
        }
        self.picker.jobs.retain(|job| !matches!(job, Job::Count(k) if *k == key));
        for asked in peer.out {
            self.pace.refund();
            if let Some(partial) = self.partials.get_mut(&asked.block.piece)
                && partial.unask(asked.block.index, key, asked.late)
            {
                self.refile(now, asked.block.piece);
            }
        }
        self.drop_solo(now, key);
        self.forget_addresses();
        self.check_starved(now);
        self.work = true;
    }

    /// A message other than `piece` and `extended`.
    pub(super) fn message(&mut self, now: Instant, key: PeerKey, message: &Message<'_>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_heard = now;
        if !peer.fast
            && matches!(
                message,
                Message::Suggest(_)
                    | Message::HaveAll
                    | Message::HaveNone
                    | Message::Reject(_)
                    | Message::AllowedFast(_)
            )
        {
            self.close(now, key, CloseReason::Protocol("it uses the fast extension without having it"));
            return;
        }
        match message {
            Message::KeepAlive => self.kept_alive(now, key),
            Message::Choke => self.choked(now, key),
            Message::Unchoke => self.unchoked(now, key),
            Message::Interested => self.interested(key, true),
            Message::NotInterested => self.interested(key, false),
            Message::Have(piece) => self.peer_has(now, key, *piece),
            Message::Bitfield(bits) => {
                let bits = Bits::from_wire(bits, self.geometry.pieces());
                self.told(now, key, if bits.full() { Has::All } else { Has::Some(bits) });
            }
            Message::HaveAll => self.told(now, key, Has::All),
            Message::HaveNone => self.told(now, key, Has::Nothing),
            Message::Request(request) => self.requested(now, key, *request),
            Message::Cancel(request) => self.cancelled(key, *request),
            Message::Reject(request) => self.rejected(now, key, *request),
            Message::AllowedFast(piece) => self.allowed(now, key, *piece),
            Message::Suggest(piece) if piece.0 >= self.geometry.pieces() => self.out_of_range(now, key),
            Message::Suggest(_) | Message::Port(_) | Message::Unknown(_) => {}
            Message::Piece { .. } | Message::Extended { .. } => {}
        }
    }

    fn out_of_range(&mut self, now: Instant, key: PeerKey) {
        self.close(now, key, CloseReason::Protocol("it names a piece that the torrent does not have"));
    }

    fn kept_alive(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if now.saturating_duration_since(peer.keep_alives_since) >= Duration::from_secs(1) {
            peer.keep_alives_since = now;
            peer.keep_alives = 0;
        }
        peer.keep_alives += 1;
        if peer.keep_alives > KEEP_ALIVES {
            self.close(now, key, CloseReason::Protocol("it floods us with keep-alives"));
        }
    }

    /// A piece that we may ask for while choked (BEP 6).
    fn allowed(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        if piece.0 >= self.geometry.pieces() {
            self.out_of_range(now, key);
        } else if let Some(peer) = self.peers.get_mut(&key).filter(|p| p.allowed.len() < ALLOWED)
            && peer.allowed.insert(piece)
        {
            peer.nothing_in = None;
            self.askable.insert(key);
            self.work = true;
        }
    }

    /// Bitfield, have-all, have-none: once, and before any have.
    fn told(&mut self, now: Instant, key: PeerKey, has: Has) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if std::mem::replace(&mut peer.told, true) {
            self.close(now, key, CloseReason::Protocol("its bitfield is not the first thing it says"));
            return;
        }
        peer.useful = match &has {
            Has::Nothing => 0,
            Has::Some(bits) => bits.beyond(&self.have),
            Has::All => self.geometry.pieces() - self.have.count(),
        };
        peer.wanted = match &has {
            Has::Nothing => 0,
            Has::Some(bits) => bits.beyond(&self.sated),
            Has::All => self.geometry.pieces() - self.sated.count(),
        };
        match &has {
            Has::All => self.picker.add_seed(),
            Has::Some(_) => {
                peer.counted = 0;
                self.picker.jobs.push_back(Job::Count(key));
            }
            Has::Nothing => {}
        }
        peer.has = has;
        if let Some(seed) = &mut self.super_seed {
            seed.seen(key, |piece| peer.has.has(piece));
        }
        let found: Vec<PieceIndex> = self.wants.keys().copied().filter(|&p| peer.has.has(p)).collect();
        found.into_iter().for_each(|piece| self.sourced(piece));
        self.changed(now, key);
    }

    /// The peer has a piece more.
    fn peer_has(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let pieces = self.geometry.pieces();
        if piece.0 >= pieces {
            self.out_of_range(now, key);
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.told = true;
        if matches!(peer.has, Has::Nothing) {
            peer.has = Has::Some(Bits::none(pieces));
        }
        let Has::Some(bits) = &mut peer.has else { return };
        if !bits.insert(piece) {
            return;
        }
        if piece.0 < peer.counted {
            self.picker.add(piece);
        }
        if bits.full()
            && !peer.was_seed
            && let Has::Some(bits) = std::mem::replace(&mut peer.has, Has::All)
        {
            self.picker.add_seed();
            self.picker.jobs.retain(|job| !matches!(job, Job::Count(k) if *k == key));
            self.picker.jobs.push_back(Job::Uncount { bits, at: 0, until: peer.counted });
            peer.counted = pieces;
        }
        if let Some(seed) = &mut self.super_seed {
            seed.seen(key, |seen| seen == piece);
        }
        peer.refused.remove(&piece);
        if !self.have.has(piece) {
            peer.useful += 1;
            if !self.partials.contains_key(&piece) {
                peer.nothing_in = None;
            }
        }
        peer.wanted += u32::from(!self.sated.has(piece));
        if self.wants.contains_key(&piece) {
            self.sourced(piece);
            self.work = true;
        }
        self.leave_to_others(now, piece);
        self.changed(now, key);
    }

    /// The peer has a piece no more (BEP 54).
    pub(super) fn peer_lost(&mut self, now: Instant, key: PeerKey, piece: PieceIndex) {
        let pieces = self.geometry.pieces();
        if piece.0 >= pieces {
            self.out_of_range(now, key);
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_heard = now;
        if matches!(peer.has, Has::All) {
            self.picker.remove_seed();
            peer.has = Has::Some(Bits::all(pieces));
            // A peer that loses and finds a piece without end costs one bitfield, not one each time.
            peer.was_seed = true;
            peer.counted = 0;
            self.picker.jobs.push_back(Job::Count(key));
        }
        let Has::Some(bits) = &mut peer.has else { return };
        if !bits.remove(piece) {
            return;
        }
        if piece.0 < peer.counted {
            self.picker.remove(piece);
        }
        if !self.have.has(piece) {
            peer.useful = peer.useful.saturating_sub(1);
        }
        peer.wanted = peer.wanted.saturating_sub(u32::from(!self.sated.has(piece)));
        if let Some(seed) = &mut self.super_seed {
            seed.look_again(key);
        }
        self.check_starved(now);
        self.check_interest(key);
    }

    /// What a peer has changed: interest, work, and the end if neither side needs the other.
    pub(super) fn changed(&mut self, now: Instant, key: PeerKey) {
        if self.seeding() && self.peers.get(&key).is_some_and(|p| p.web.is_none() && p.gives_only()) {
            self.close(now, key, CloseReason::BothSeeds);
            return;
        }
        self.check_interest(key);
        if self.askable.contains(&key) {
            self.wake_if_idle(now, key);
        }
        if !self.reads.is_empty() && self.starving {
            self.check_starved(now);
        }
    }

    /// Goes on counting availability, a step at a time.
    pub(super) fn count_step(&mut self) {
        let pieces = self.geometry.pieces();
        let Some(job) = self.picker.jobs.pop_front() else { return };
        match job {
            Job::Count(key) => {
                let Some(peer) = self.peers.get_mut(&key) else { return };
                let Has::Some(bits) = &peer.has else { return };
                let end = peer.counted.saturating_add(STEP).min(pieces);
                self.picker.count(bits, peer.counted..end, true);
                peer.counted = end;
                if end < pieces {
                    self.picker.jobs.push_front(Job::Count(key));
                }
            }
            Job::Uncount { bits, at, until } => {
                let end = at.saturating_add(STEP).min(until);
                self.picker.count(&bits, at..end, false);
                if end < until {
                    self.picker.jobs.push_front(Job::Uncount { bits, at: end, until });
                }
            }
        }
    }

    /// A piece passed its hash.
    pub(super) fn verified(&mut self, now: Instant, piece: PieceIndex) {
        if piece.0 >= self.geometry.pieces() {
            return;
        }
        if let Some(partial) = self.partials.remove(&piece) {
            for (index, key) in partial.requests() {
                self.cancel(now, key, crate::metainfo::Block { piece, index });
            }
            self.timers.clear(Timer::Piece(piece));
            self.late.remove(&piece);
            self.repay(piece);
        }
        if !self.have.insert(piece) {
            return;
        }
        self.totals.held += self.length(piece);
        self.evicted.remove(piece);
        let sated = self.sate(piece);
        self.count_useful(piece, false, sated);
        self.publish(now, News { piece, have: true });
        self.serve_reads(now, piece);
        self.refile(now, piece);
        self.proven(piece);
        if self.ever.insert(piece) && self.ever.full() && !std::mem::replace(&mut self.completed, true) {
            self.effects.push_back(Effect::Completed);
        }
        if self.starving {
            self.check_starved(now);
        }
    }

    /// A piece leaves the cache. Read-ahead does not fetch it again: that could go on for ever.
    pub(super) fn evict(&mut self, now: Instant, piece: PieceIndex) {
        if !self.have.has(piece) {
            return;
        }
        let rested = self.background();
        // What is fetched of open files keeps to a part of the cache, and what has left it is not fetched again.
        self.last_eviction = (self.capacity.is_some() && self.fill == Fill::All).then_some(now);
        self.evicted.insert(piece);
        if let Some(want) = self.wants.get_mut(&piece) {
            want.ahead.clear();
            self.unwant(now, piece);
        }
        self.lost(now, piece);
        if rested {
            let partials: Vec<PieceIndex> = self.partials.keys().copied().collect();
            partials.into_iter().for_each(|p| self.refile(now, p));
        }
        if let Some(end) = self.rest_ends() {
            self.timers.advance(Timer::Memory, end);
        }
    }

    /// A piece is not there, whatever we thought.
    pub(super) fn lost(&mut self, now: Instant, piece: PieceIndex) {
        if !self.have.remove(piece) {
            return;
        }
        self.totals.held = self.totals.held.saturating_sub(self.length(piece));
        let unsated = self.unsate(piece);
        self.count_useful(piece, true, unsated);
        self.publish(now, News { piece, have: false });
        self.refuse_requests(now, piece);
        self.wait_again(piece);
        self.refile(now, piece);
        self.check_starved(now);
    }

    /// We lack a piece more, or one less; `fill`: so does the fill.
    fn count_useful(&mut self, piece: PieceIndex, lacking: bool, fill: bool) {
        let count = |before: u32, by: u32| if lacking { before + by } else { before.saturating_sub(by) };
        let mut turned = Vec::new();
        for (&key, peer) in self.peers.iter_mut().filter(|(_, p)| p.has.has(piece)) {
            let before = (peer.useful, peer.wanted);
            peer.useful = count(peer.useful, 1);
            peer.wanted = count(peer.wanted, fill.into());
            if (before.0 == 0) != (peer.useful == 0) || (before.1 == 0) != (peer.wanted == 0) {
                turned.push(key);
            }
        }
        turned.into_iter().for_each(|key| self.check_interest(key));
    }

    /// Enters news into the log.
    fn publish(&mut self, now: Instant, news: News) {
        if self.super_seed.is_some() {
            return self.show_news(news.piece, news.have);
        }
        self.log.push_back(news);
        let at = self.told_news.map_or(now, |told| (told + NEWS_DELAY).max(now));
        self.timers.advance(Timer::News, at);
        if self.log.len().is_power_of_two() && self.log.len() >= 1_024 {
            let read = self.peers.values().filter(|p| p.greeted).map(|p| p.news).min();
            let end = self.log_start + self.log.len() as u64;
            let keep = read.unwrap_or(end).max(end.saturating_sub(LOG as u64));
            while self.log_start < keep {
                self.log.pop_front();
                self.log_start += 1;
            }
        }
    }

    /// The timer of the log: whoever has something to be told is woken.
    pub(super) fn wake_for_news(&mut self, now: Instant) {
        self.told_news = Some(now);
        let (mut keys, end) = (Vec::new(), self.log_start + self.log.len() as u64);
        for (&key, peer) in self.peers.iter_mut().filter(|(_, p)| p.greeted && p.news < end) {
            let from = usize::try_from(peer.news.saturating_sub(self.log_start)).unwrap_or(usize::MAX);
            if self.log.range(from.min(self.log.len())..).any(|news| news.concerns(peer)) {
                keys.push(key);
            } else {
                peer.news = end;
            }
        }
        keys.into_iter().for_each(|key| self.wake(key));
    }

    /// The next message of the log for a peer, if there is one: haves of what it has itself are left out.
    pub(super) fn next_news(&mut self, key: PeerKey) -> Option<Message<'static>> {
        let peer = self.peers.get_mut(&key)?;
        peer.news = peer.news.max(self.log_start);
        loop {
            let at = usize::try_from(peer.news - self.log_start).ok()?;
            let news = *self.log.get(at)?;
            peer.news += 1;
            if news.have && !peer.has.has(news.piece) {
                return Some(Message::Have(news.piece));
            }
            if let (false, Some(id)) = (news.have, peer.donthave) {
                return Some(Message::Extended { id, payload: news.piece.0.to_be_bytes().to_vec().into() });
            }
        }
    }
}
