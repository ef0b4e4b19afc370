//! Credit for unfinished pieces. A piece is begun only with credit for all of it, and a finished one gives its credit
//! back at once, so that the node can hand it to whoever waits longest.

use std::time::{Duration, Instant};

use super::peer::Peer;
use super::pieces::Partial;
use super::queue::Rank;
use super::timers::Timer;
use super::{Effect, Swarm};
use crate::metainfo::PieceIndex;

/// The most credit that is asked for, unless one piece is larger: what a node of 256 MiB has for all torrents.
const CAP: u64 = 64 << 20;
/// The background begins no piece while unfinished ones take this much.
const BACKGROUND_CAP: u64 = 32 << 20;
/// A demanded piece waits this long for credit before less urgent ones are discarded.
const PATIENCE: Duration = Duration::from_millis(50);
/// Blocks of a torrent that nobody serves are kept this long.
const UNSERVED: Duration = Duration::from_secs(30);
/// The background keeps its share this long after it last used it.
const BACKGROUND_KEEPS: Duration = Duration::from_secs(5);

/// Bytes of credit.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Granted by the node.
    pub(super) granted: u64,
    /// Asked for and not granted yet.
    asked: u64,
    /// Taken by unfinished pieces.
    pub(super) used: u64,
    /// A demanded piece found none.
    short: bool,
    /// The background had all that it may take.
    capped: bool,
    background_until: Option<Instant>,
    /// Since when nobody serves us.
    unserved: Option<Instant>,
}

impl Swarm {
    /// The node grants more.
    pub(super) fn grant(&mut self, bytes: u64) {
        self.memory.granted += bytes;
        self.memory.asked = self.memory.asked.saturating_sub(bytes);
        self.work = true;
    }

    fn cap(&self) -> u64 {
        CAP.max(u64::from(self.geometry.nominal_piece_length()))
    }

    fn free(&self) -> u64 {
        self.memory.granted.saturating_sub(self.memory.used)
    }

    /// Takes credit for a piece, if there is enough beside what more urgent ones need.
    pub(super) fn reserve(&mut self, now: Instant, piece: PieceIndex, rank: Rank) -> bool {
        let length = self.length(piece);
        let reserved = match rank {
            Rank::Read(_) => 0,
            Rank::Ahead(_) => self.queue.read_bytes,
            Rank::Background => self.queue.read_bytes + self.queue.ahead_bytes,
        };
        match rank {
            Rank::Read(_) if self.free() < length => {
                if self.memory.granted + self.memory.asked >= self.cap() {
                    self.make_room(now, length);
                } else if !self.memory.short {
                    self.memory.short = true;
                    self.timers.advance(Timer::Memory, now + PATIENCE);
                }
            }
            Rank::Background => {
                if self.memory.background_until.is_none() {
                    self.timers.advance(Timer::Memory, now + BACKGROUND_KEEPS);
                }
                self.memory.background_until = Some(now + BACKGROUND_KEEPS);
                if self.disk_busy {
                    return false;
                }
                if self.memory.used > 0 && self.memory.used + length > BACKGROUND_CAP {
                    self.memory.capped = true;
                    return false;
                }
            }
            _ => {}
        }
        let enough = self.free() >= length + reserved;
        if enough {
            self.memory.used += length;
        }
        enough
    }

    /// An unfinished piece is no more.
    pub(super) fn release(&mut self, piece: PieceIndex) {
        self.memory.used = self.memory.used.saturating_sub(self.length(piece));
    }

    /// The credit of a finished piece goes back.
    pub(super) fn repay(&mut self, piece: PieceIndex) {
        self.release(piece);
        let bytes = self.length(piece).min(self.free());
        self.give_back(bytes);
    }

    fn give_back(&mut self, bytes: u64) {
        if bytes > 0 {
            self.memory.granted -= bytes;
            self.effects.push_back(Effect::ReturnMemory(bytes));
        }
    }

    /// Asks for what is missing, gives back what is too much.
    pub(super) fn balance(&mut self, now: Instant) {
        let piece = u64::from(self.geometry.nominal_piece_length());
        let background = if self.memory.background_until.is_some_and(|until| until > now) && self.background() {
            BACKGROUND_CAP.max(piece).saturating_sub(self.memory.used)
        } else {
            0
        };
        let more = self.queue.read_bytes + self.queue.ahead_bytes + background;
        // A torrent that nobody serves must not hold the memory that others need; a piece is enough to ask again.
        let able = |p: &Peer| p.useful > 0 && (p.room() > 0 || !p.out.is_empty());
        let need = if self.servers().any(|(_, p)| able(p) && !p.snubbed) {
            self.memory.unserved = None;
            self.memory.used + more
        } else {
            self.drop_unserved(now);
            let probe = if self.servers().any(|(_, p)| able(p)) { more.min(piece) } else { 0 };
            self.memory.used.max(probe)
        };
        let target = need.min(self.cap()).max(self.memory.used);
        let held = self.memory.granted + self.memory.asked;
        if target > held {
            self.memory.asked += target - held;
            self.effects.push_back(Effect::WantMemory(target - held));
        } else {
            // First what is still awaited: the node would else hand back what it gets, again and again.
            let withdrawn = self.memory.asked.min(held - target);
            if withdrawn > 0 {
                self.memory.asked -= withdrawn;
                self.effects.push_back(Effect::WithdrawMemory(withdrawn));
            }
            self.give_back(self.free().min(held - withdrawn - target));
        }
    }

    /// Unfinished pieces that nobody is asked for.
    fn unasked(&self) -> impl Iterator<Item = (&PieceIndex, &Partial)> + '_ {
        self.partials.iter().filter(|(_, p)| !p.waits() && !p.complete())
    }

    /// Nobody serves us: pieces that nobody is asked for go, those of which something came after a while.
    fn drop_unserved(&mut self, now: Instant) {
        let until = *self.memory.unserved.get_or_insert(now) + UNSERVED;
        let (late, idle): (Vec<_>, Vec<_>) =
            self.unasked().map(|(&piece, p)| (p.received() > 0, piece)).partition(|p| p.0);
        if now >= until {
            late.iter().for_each(|&(_, piece)| self.discard(now, piece));
        } else if !late.is_empty() {
            self.timers.advance(Timer::Memory, until);
        }
        idle.into_iter().for_each(|(_, piece)| self.discard(now, piece));
    }

    /// Discards unfinished pieces of the background that nobody is asked for and nobody serves any more: others could be
    /// fetched in their place.
    fn drop_stranded(&mut self, now: Instant) {
        let stranded = |piece: &PieceIndex| {
            self.rank(*piece) == Some(Rank::Background) && !self.servers().any(|(_, p)| p.serves(now, *piece))
        };
        let unasked = self.unasked().map(|(&piece, _)| piece);
        unasked.filter(stranded).collect::<Vec<_>>().into_iter().for_each(|piece| self.discard(now, piece));
    }

    /// Discards unfinished pieces that no read waits for, the least useful first, until `bytes` are free.
    fn make_room(&mut self, now: Instant, bytes: u64) {
        while self.free() < bytes {
            let victims = self.partials.iter().filter(|(_, p)| !p.complete());
            let worth = victims.filter_map(|(&piece, p)| match self.rank(piece) {
                Some(Rank::Read(_)) => None,
                Some(Rank::Ahead(due)) => Some(((0, Some(due), 0), piece)),
                Some(Rank::Background) => Some(((1, None, u32::MAX - p.received()), piece)),
                None => Some(((2, None, u32::MAX - p.received()), piece)),
            });
            let Some((_, piece)) = worth.max() else { break };
            self.discard(now, piece);
        }
    }

    /// The timer: a demanded piece waited long enough, the background kept its share long enough.
    pub(super) fn memory_due(&mut self, now: Instant) {
        if std::mem::take(&mut self.memory.short) {
            let first = self.queue.after(None).find(|(_, piece)| !self.partials.contains_key(piece));
            if let Some((Rank::Read(_), piece)) = first {
                self.make_room(now, self.length(piece));
                self.work = true;
            }
        }
        if std::mem::take(&mut self.memory.capped) {
            self.drop_stranded(now);
        }
        match self.memory.background_until {
            Some(until) if until <= now => self.memory.background_until = None,
            Some(until) => self.timers.advance(Timer::Memory, until),
            None => {}
        }
        if let Some(end) = self.rest_ends().filter(|&end| end > now) {
            self.timers.advance(Timer::Memory, end);
        }
        if self.background() {
            if self.last_eviction.is_some() {
                self.picker.reset();
            }
            let failed: Vec<PieceIndex> = self.failures.keys().copied().collect();
            failed.into_iter().for_each(|piece| self.refile(now, piece));
            self.work = true;
        }
    }

    /// The disk is behind with what has come, or no more. The background ends what it has begun and begins nothing.
    pub(super) fn set_disk_busy(&mut self, busy: bool) {
        self.work |= std::mem::replace(&mut self.disk_busy, busy) && !busy;
    }
}
