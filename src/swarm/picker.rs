//! Availability, and the order in which the background is fetched: rarest first with seeded random ties.
//!
//! What a call costs is bound by the window, never by the number of pieces: bitfields are counted in steps, and the
//! order is built for a window of candidates when the last one is used up.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::PeerKey;
use super::bits::Bits;
use crate::metainfo::PieceIndex;

/// Pieces that one step counts.
pub(super) const STEP: u32 = 4_096;
/// Candidates that are put in order at once.
const WINDOW: usize = 2_048;
/// Pieces that are looked at for one window.
const SCAN: u64 = 16_384;
/// An order older than this is built anew if the availability changed much since.
const STALE: Duration = Duration::from_secs(2);

/// Counting that goes on in steps.
#[derive(Debug)]
pub(super) enum Job {
    /// A peer's bitfield is added, from its `counted` on.
    Count(PeerKey),
    /// A bitfield that was counted up to `until` is taken off again, from `at` on.
    Uncount { bits: Bits, at: u32, until: u32 },
}

/// Availability and background order of one torrent.
#[derive(Debug)]
pub(super) struct Picker {
    available: Vec<u16>,
    seeds: u32,
    pub(super) jobs: VecDeque<Job>,
    /// Candidates, the rarest last.
    window: Vec<PieceIndex>,
    /// Counts windows: a peer that found nothing in one need not look again.
    epoch: u64,
    cursor: Option<u64>,
    /// The window holds every candidate of the regions.
    whole: bool,
    built: Option<Instant>,
    changes: usize,
}

impl Picker {
    pub(super) fn new(pieces: u32) -> Self {
        Self {
            available: vec![0; pieces as usize],
            seeds: 0,
            jobs: VecDeque::new(),
            window: Vec::new(),
            epoch: 0,
            cursor: None,
            whole: false,
            built: None,
            changes: 0,
        }
    }

    /// Peers that have this piece.
    #[cfg(test)]
    pub(super) fn availability(&self, piece: PieceIndex) -> u32 {
        self.seeds + u32::from(self.available[piece.0 as usize])
    }

    /// Connected seeds.
    pub(super) fn seeds(&self) -> u32 {
        self.seeds
    }

    /// A seed came.
    pub(super) fn add_seed(&mut self) {
        self.seeds += 1;
    }

    /// A seed left, or is none any more.
    pub(super) fn remove_seed(&mut self) {
        self.seeds = self.seeds.saturating_sub(1);
    }

    /// One peer more has the piece.
    pub(super) fn add(&mut self, piece: PieceIndex) {
        if let Some(count) = self.available.get_mut(piece.0 as usize) {
            *count = count.saturating_add(1);
            self.changes += 1;
        }
    }

    /// One peer less has the piece.
    pub(super) fn remove(&mut self, piece: PieceIndex) {
        if let Some(count) = self.available.get_mut(piece.0 as usize) {
            *count = count.saturating_sub(1);
            self.changes += 1;
        }
    }

    /// Counts a stretch of a bitfield in or out.
    pub(super) fn count(&mut self, bits: &Bits, pieces: Range<u32>, add: bool) {
        for piece in pieces.map(PieceIndex).filter(|&p| bits.has(p)) {
            if add { self.add(piece) } else { self.remove(piece) }
        }
    }

    /// The order is void: the regions changed, or pieces came back into them.
    pub(super) fn reset(&mut self) {
        self.window.clear();
        self.built = None;
        self.epoch += 1;
    }

    /// Which window this is.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The rarest piece of the window that is `lacking` and that the peer `has`. The window is built anew when it is
    /// used up, old, or has nothing for this peer while the regions have more.
    pub(super) fn pick(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        regions: &[Range<u32>],
        lacking: &dyn Fn(PieceIndex) -> bool,
        has: &dyn Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let stale = self
            .built
            .is_none_or(|at| self.changes > self.window.len() / 4 + 16 && now.saturating_duration_since(at) >= STALE);
        if stale {
            self.build(now, rng, regions, lacking);
        }
        for again in [true, false] {
            while self.window.last().is_some_and(|&p| !lacking(p)) {
                self.window.pop();
            }
            let found = self.window.iter().rev().copied().find(|&p| lacking(p) && has(p));
            if found.is_some() || self.whole || !again {
                return found;
            }
            self.build(now, rng, regions, lacking);
        }
        None
    }

    /// Collects the next candidates of the regions, from where the last window ended, and sorts them.
    fn build(&mut self, now: Instant, rng: &mut StdRng, regions: &[Range<u32>], lacking: &dyn Fn(PieceIndex) -> bool) {
        let total: u64 = regions.iter().map(|r| u64::from(r.end.saturating_sub(r.start))).sum();
        self.window.clear();
        self.epoch += 1;
        self.built = Some(now);
        self.changes = 0;
        self.whole = true;
        if total == 0 {
            return;
        }
        let start = self.cursor.unwrap_or_else(|| rng.random_range(0..total)) % total;
        let mut seen = 0;
        let mut ranked = Vec::new();
        while seen < total {
            if ranked.len() >= WINDOW || seen >= SCAN {
                self.whole = false;
                break;
            }
            if let Some(piece) = nth(regions, (start + seen) % total).filter(|&p| lacking(p)) {
                let available = self.available.get(piece.0 as usize).copied().unwrap_or(0);
                ranked.push((std::cmp::Reverse(available), rng.random::<u32>(), piece));
            }
            seen += 1;
        }
        self.cursor = Some((start + seen) % total);
        ranked.sort_unstable();
        self.window.extend(ranked.into_iter().map(|(_, _, piece)| piece));
    }
}

/// The n-th piece of some ranges.
fn nth(regions: &[Range<u32>], mut n: u64) -> Option<PieceIndex> {
    for region in regions {
        let len = u64::from(region.end.saturating_sub(region.start));
        if n < len {
            return Some(PieceIndex(region.start + u32::try_from(n).ok()?));
        }
        n -= len;
    }
    None
}
