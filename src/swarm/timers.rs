//! What is due when. An entry may fire early: whoever is woken looks again and arms anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{PeerKey, ReadId};
use crate::metainfo::PieceIndex;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A read's deadline.
    Read(ReadId),
    /// A peer's late blocks, snub, keep-alive, idle end.
    Peer(PeerKey),
    /// A piece's back-off after a failure, its lone sender's progress, its end when nobody wants it.
    Piece(PieceIndex),
    /// The end of the time in which we stay interested.
    Interest,
    /// Haves are to be told.
    News,
    /// A read still waits that no peer can serve.
    Starved,
    /// A demanded piece still has no memory, or the background needs its share no more.
    Memory,
    /// Read-ahead across files has seen no read.
    Trail,
    /// A piece that a super-seed has shown was not passed on.
    Shown,
}

/// The timers of a swarm, at most one of each kind.
#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Instant, Timer)>,
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Arms it for `at`, whatever it was.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        if let Some(old) = self.at.insert(timer, at) {
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    /// Arms it for `at` unless it is armed for earlier.
    pub(super) fn advance(&mut self, timer: Timer, at: Instant) {
        if self.at.get(&timer).is_none_or(|&old| at < old) {
            self.set(timer, at);
        }
    }

    /// Disarms it.
    pub(super) fn clear(&mut self, timer: Timer) {
        if let Some(old) = self.at.remove(&timer) {
            self.order.remove(&(old, timer));
        }
    }

    /// The next that is due by `now`, disarmed.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let &(at, timer) = self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }
}
