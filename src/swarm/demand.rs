//! Parked reads: what they wait for, when they fail, and when nobody can serve them.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::queue::Rank;
use super::readahead::StreamId;
use super::timers::Timer;
use super::{Effect, HandleId, ReadError, ReadId, Swarm};
use crate::metainfo::PieceIndex;

/// A read of what has had no source for a whole deadline fails after this time.
const SHORT: Duration = Duration::from_secs(2);
/// [`Effect::Starved`] is said again after this time.
const STARVED_AGAIN: Duration = Duration::from_secs(5);
/// And never sooner than this.
const STARVED_MIN: Duration = Duration::from_secs(1);
/// Nor is it looked for sooner than this.
const STARVED_PAUSE: Duration = Duration::from_millis(50);
/// Reads that are looked at for starvation.
const STARVED_READS: usize = 64;

/// A read that waits.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) handle: HandleId,
    pub(super) bytes: Range<u64>,
    pub(super) began: Instant,
    turn: Turn,
    pub(super) deadline: Instant,
    /// Pieces that are not there.
    pub(super) missing: u32,
}

/// The order of reads: start-time fair queueing over the handles (Goyal, Vin and Cheng, 1996). A handle's reads start where
/// the pieces that it has had before end, and never before the turn of what is served now. A read at a new place may start
/// before that by what it asks for, as with borrowed virtual time (Duda and Cheriton, 1999): a handle that asked for little
/// lately does not wait for all that some streams have asked for, and none of these falls behind the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// Bytes of pieces.
    start: u64,
    /// The number of the read.
    arrival: u64,
}

/// Who wants a piece.
#[derive(Debug, Default)]
pub(super) struct Want {
    /// Reads that overlap it, with their turn. They stay until they are answered, so that they wait again for a piece that
    /// is lost in between.
    pub(super) reads: Vec<(Turn, ReadId)>,
    /// Streams whose window it is in, and when they will come to it.
    pub(super) ahead: Vec<(StreamId, Instant)>,
    /// Some connected peer has had it since it was wanted.
    pub(super) sourced: bool,
}

impl Swarm {
    /// A read that the cache could not answer.
    pub(super) fn read(&mut self, now: Instant, id: ReadId, handle: HandleId, bytes: Range<u64>, deadline: Instant) {
        if self.shutdown {
            self.effects.push_back(Effect::ReadFailed(id, ReadError::Shutdown));
            return;
        }
        if self.handles.get_mut(&handle).is_some_and(|h| h.failed(now, &bytes)) {
            self.effects.push_back(Effect::ReadFailed(id, ReadError::NoSource));
            return;
        }
        self.touch(now, handle, &bytes);
        let pieces: Vec<PieceIndex> = self.geometry.pieces_of(bytes.clone()).collect();
        let missing = pieces.iter().filter(|&&p| !self.have.has(p)).count();
        if missing == 0 {
            self.effects.push_back(Effect::ReadReady(id));
            return;
        }
        self.arrivals += 1;
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        let turn = self.turn(handle, &pieces);
        self.reads.insert(id, Read { handle, bytes, began: now, turn, deadline, missing });
        for &piece in &pieces {
            let sourced = self.wants.get(&piece).is_some_and(|w| w.sourced) || self.has_source(piece);
            if sourced {
                self.sourceless.remove(&piece);
            }
            let want = self.wants.entry(piece).or_default();
            want.reads.push((turn, id));
            want.sourced = sourced;
            self.refile(now, piece);
        }
        self.make_way(now, &pieces, Rank::Read(turn));
        self.arm_read(id);
        if !self.keen {
            self.peers.keys().copied().collect::<Vec<_>>().into_iter().for_each(|key| self.check_interest(key));
        }
        self.check_starved(now);
    }

    /// The turn of a new read: it pays for the pieces that no read waits for yet, and joins those that wait if there are
    /// none.
    fn turn(&mut self, handle: HandleId, pieces: &[PieceIndex]) -> Turn {
        let (mut bytes, mut joins) = (0, None);
        for &piece in pieces.iter().filter(|&&piece| !self.have.has(piece)) {
            match self.wants.get(&piece).and_then(|want| want.reads.iter().map(|&(turn, _)| turn.start).min()) {
                Some(start) => joins = Some(joins.map_or(start, |joins: u64| joins.min(start))),
                None => bytes += self.length(piece),
            }
        }
        let arrival = self.arrivals;
        if let (0, Some(start)) = (bytes, joins) {
            return Turn { start, arrival };
        }
        let paid = self.handles.get_mut(&handle).map(|h| &mut h.paid);
        let start = paid.as_ref().map_or(0, |paid| **paid).max(self.serving.saturating_sub(bytes));
        if let Some(paid) = paid {
            *paid = start + bytes;
        }
        Turn { start, arrival }
    }

    /// True if a connected peer has the piece.
    pub(super) fn has_source(&self, piece: PieceIndex) -> bool {
        self.peers.values().any(|p| p.has.has(piece))
    }

    /// Sets a read's timer: its deadline, or sooner if it needs what has had no source for long.
    fn arm_read(&mut self, id: ReadId) {
        let Some(read) = self.reads.get(&id) else { return };
        let hopeless = self.sourceless_in(read);
        let at = if hopeless { read.deadline.min(read.began + SHORT) } else { read.deadline };
        self.timers.set(Timer::Read(id), at);
    }

    fn sourceless_in(&self, read: &Read) -> bool {
        !self.sourceless.is_empty() && self.geometry.pieces_of(read.bytes.clone()).any(|p| self.sourceless.contains(&p))
    }

    /// A peer turned up that has this piece: reads that had lost hope get their whole time.
    pub(super) fn sourced(&mut self, piece: PieceIndex) {
        let known = self.wants.get_mut(&piece).is_none_or(|w| std::mem::replace(&mut w.sourced, true));
        if self.sourceless.remove(&piece) || !known {
            let reads = self.wants.get(&piece).map(|w| w.reads.clone()).unwrap_or_default();
            reads.into_iter().for_each(|(_, id)| self.arm_read(id));
        }
    }

    /// Takes a read out, answered or not.
    pub(super) fn remove_read(&mut self, now: Instant, id: ReadId) -> Option<Read> {
        let read = self.reads.remove(&id)?;
        self.serving = self.serving.max(read.turn.start);
        self.timers.clear(Timer::Read(id));
        for piece in self.geometry.pieces_of(read.bytes.clone()) {
            if let Some(want) = self.wants.get_mut(&piece) {
                want.reads.retain(|&(_, r)| r != id);
                self.unwant(now, piece);
            }
        }
        Some(read)
    }

    /// Someone wants the piece no more: it is forgotten if nobody else does.
    pub(super) fn unwant(&mut self, now: Instant, piece: PieceIndex) {
        if self.wants.get(&piece).is_some_and(|w| w.reads.is_empty() && w.ahead.is_empty()) {
            self.wants.remove(&piece);
        }
        self.refile(now, piece);
    }

    /// The timer of a read.
    pub(super) fn read_due(&mut self, now: Instant, id: ReadId) {
        let Some(read) = self.reads.get(&id) else { return };
        let lacking: Vec<PieceIndex> =
            self.geometry.pieces_of(read.bytes.clone()).filter(|&piece| !self.have.has(piece)).collect();
        let error = match lacking.first() {
            Some(&first) if read.deadline <= now => {
                let unsourced = |piece: &PieceIndex| self.wants.get(piece).is_some_and(|want| !want.sourced);
                self.sourceless.extend(lacking.into_iter().filter(unsourced));
                // Before its requests are cancelled.
                ReadError::Deadline(first, self.sources(first))
            }
            _ => ReadError::NoSource,
        };
        let Some(read) = self.remove_read(now, id) else { return };
        if let Some(handle) = self.handles.get_mut(&read.handle) {
            handle.fail(now, read.bytes);
        }
        self.effects.push_back(Effect::ReadFailed(id, error));
        self.check_starved(now);
    }

    /// A piece is there: reads that waited for nothing else are answered.
    pub(super) fn serve_reads(&mut self, now: Instant, piece: PieceIndex) {
        let waiting = self.wants.get(&piece).map(|w| w.reads.clone()).unwrap_or_default();
        for (_, id) in waiting {
            let Some(read) = self.reads.get_mut(&id) else { continue };
            read.missing = read.missing.saturating_sub(1);
            if read.missing == 0 {
                self.remove_read(now, id);
                self.effects.push_back(Effect::ReadReady(id));
            }
        }
    }

    /// A piece is there no more: reads that overlap it wait for it again.
    pub(super) fn wait_again(&mut self, piece: PieceIndex) {
        let waiting = self.wants.get(&piece).map(|w| w.reads.clone()).unwrap_or_default();
        for (_, id) in waiting {
            if let Some(read) = self.reads.get_mut(&id) {
                read.missing += 1;
            }
        }
    }

    /// Something changed that a waiting read depends on: it is looked at, at most every [`STARVED_PAUSE`], since a peer
    /// may change its mind thousands of times a second.
    pub(super) fn check_starved(&mut self, now: Instant) {
        if self.reads.is_empty() && !self.starving {
            return;
        }
        let at = self.starved_looked.map_or(now, |looked| (looked + STARVED_PAUSE).max(now));
        self.timers.advance(Timer::Starved, at);
    }

    /// Says [`Effect::Starved`] if a read waits for a piece that no peer would serve now.
    pub(super) fn look_for_starved(&mut self, now: Instant) {
        self.starved_looked = Some(now);
        let servable = |piece| self.servers().any(|(_, p)| !p.snubbed && p.serves(now, piece));
        let starving = self.reads.values().take(STARVED_READS).any(|read| {
            let pieces = self.geometry.pieces_of(read.bytes.clone());
            pieces.into_iter().any(|p| !self.have.has(p) && !servable(p))
        });
        let changed = std::mem::replace(&mut self.starving, starving) != starving;
        if !starving {
            self.timers.clear(Timer::Starved);
            return;
        }
        let pause = if changed { STARVED_MIN } else { STARVED_AGAIN };
        if self.starved_at.is_none_or(|at| now >= at + pause) {
            self.starved_at = Some(now);
            self.effects.push_back(Effect::Starved);
        }
        self.timers.set(Timer::Starved, self.starved_at.unwrap_or(now) + STARVED_AGAIN);
    }

    /// The session ends.
    pub(super) fn end(&mut self, now: Instant) {
        self.shutdown = true;
        let ids: Vec<ReadId> = self.reads.keys().copied().collect();
        for id in ids {
            self.remove_read(now, id);
            self.effects.push_back(Effect::ReadFailed(id, ReadError::Shutdown));
        }
        self.timers.clear(Timer::Starved);
    }
}
