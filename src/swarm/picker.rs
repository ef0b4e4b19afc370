//! Availability, and the order in which the background is fetched: rarest first with seeded random ties.
//!
//! What a call costs is bound by the window, never by the number of pieces: bitfields are counted in steps, and the
//! order is kept for a window of candidates, which moves on when it is used up. Within the window the order is always
//! the one of now: a have moves its piece. An order that is only seconds old sends a seed's upload twice, because a
//! piece that somebody has fetched meanwhile still looks like one that nobody has.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::bits::Bits;
use super::{Order, PeerKey};
use crate::metainfo::PieceIndex;

/// Pieces that one step counts.
pub(super) const STEP: u32 = 4_096;
/// Candidates that are put in order at once.
const WINDOW: usize = 2_048;
/// Pieces that are looked at for one window.
const SCAN: u64 = 16_384;
/// A window older than this moves on if the availability changed much since: what is rare may be outside.
const STALE: Duration = Duration::from_secs(2);

/// Counting that goes on in steps.
#[derive(Debug)]
pub(super) enum Job {
    /// A peer's bitfield is added, from its `counted` on.
    Count(PeerKey),
    /// A bitfield that was counted up to `until` is taken off again, from `at` on.
    Uncount { bits: Bits, at: u32, until: u32 },
}

/// A candidate's place in the order: its availability, its tie, itself.
type Place = (u16, u32, PieceIndex);

/// Availability and background order of one torrent.
#[derive(Debug)]
pub(super) struct Picker {
    order: Order,
    available: Vec<u16>,
    seeds: u32,
    pub(super) jobs: VecDeque<Job>,
    /// Candidates, the rarest first.
    window: BTreeSet<Place>,
    /// Many counts changed at once: the window has to be put in order again.
    disorder: bool,
    /// Decides ties in this window.
    salt: u32,
    /// Counts windows: a peer that found nothing in one need not look again.
    epoch: u64,
    cursor: Option<u64>,
    /// The window holds every candidate of the regions.
    whole: bool,
    built: Option<Instant>,
    changes: usize,
}

impl Picker {
    pub(super) fn new(pieces: u32, order: Order) -> Self {
        Self {
            order,
            available: vec![0; pieces as usize],
            seeds: 0,
            jobs: VecDeque::new(),
            window: BTreeSet::new(),
            disorder: false,
            salt: 0,
            epoch: 0,
            cursor: None,
            whole: false,
            built: None,
            changes: 0,
        }
    }

    /// Peers that have this piece, seeds left out.
    pub(super) fn availability(&self, piece: PieceIndex) -> u16 {
        self.available.get(piece.0 as usize).copied().unwrap_or(0)
    }

    /// The rarity of the rarest candidate that is `lacking`.
    pub(super) fn rarest(&mut self, lacking: &dyn Fn(PieceIndex) -> bool) -> Option<u16> {
        self.tidy();
        while let Some(&first) = self.window.first() {
            if lacking(first.2) {
                return Some(first.0);
            }
            self.window.remove(&first);
        }
        None
    }

    /// True if every piece of the regions that may be lacking is a candidate.
    pub(super) fn whole(&self) -> bool {
        self.whole
    }

    /// What a piece is ranked by: the smaller, the sooner.
    pub(super) fn rarity(&self, piece: PieceIndex) -> u16 {
        if self.order == Order::RarestFirst { self.availability(piece) } else { 0 }
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
        self.move_to(piece, self.availability(piece).saturating_add(1));
    }

    /// One peer less has the piece.
    pub(super) fn remove(&mut self, piece: PieceIndex) {
        self.move_to(piece, self.availability(piece).saturating_sub(1));
    }

    fn move_to(&mut self, piece: PieceIndex, count: u16) {
        let place = self.place(piece);
        self.set(piece, count);
        if !self.disorder && self.window.remove(&place) {
            self.window.insert(self.place(piece));
        }
    }

    fn set(&mut self, piece: PieceIndex, count: u16) {
        if let Some(available) = self.available.get_mut(piece.0 as usize) {
            *available = count;
            self.changes += 1;
        }
    }

    /// Counts a stretch of a bitfield in or out.
    pub(super) fn count(&mut self, bits: &Bits, pieces: Range<u32>, add: bool) {
        for piece in pieces.map(PieceIndex).filter(|&p| bits.has(p)) {
            let now = self.availability(piece);
            self.set(piece, if add { now.saturating_add(1) } else { now.saturating_sub(1) });
            self.disorder = true;
        }
    }

    fn place(&self, piece: PieceIndex) -> Place {
        if self.order == Order::InOrder {
            return (0, 0, piece);
        }
        // Multiplied and folded (the finaliser of MurmurHash3): a different order in every window and at every node.
        let mut tie = piece.0 ^ self.salt;
        tie = (tie ^ (tie >> 16)).wrapping_mul(0x85eb_ca6b);
        tie = (tie ^ (tie >> 13)).wrapping_mul(0xc2b2_ae35);
        (self.rarity(piece), tie ^ (tie >> 16), piece)
    }

    fn tidy(&mut self) {
        if std::mem::take(&mut self.disorder) {
            self.window = self.window.iter().map(|&(_, _, piece)| self.place(piece)).collect();
        }
    }

    /// The order is void: the regions changed, or pieces came back into them.
    pub(super) fn reset(&mut self) {
        self.window.clear();
        self.built = None;
        self.epoch += 1;
    }

    /// A piece of the regions is lacking again: a candidate from now on, and whoever found nothing should look again.
    pub(super) fn restore(&mut self, piece: PieceIndex) {
        if self.built.is_some() {
            self.tidy();
            self.window.insert(self.place(piece));
            self.epoch += 1;
        }
    }

    /// Which window this is.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The rarest piece of the window that is `lacking` and that the peer `has`. The window moves on when it is used up,
    /// old, or has nothing for this peer while the regions have more.
    pub(super) fn pick(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        regions: &[Range<u32>],
        lacking: &dyn Fn(PieceIndex) -> bool,
        has: &dyn Fn(PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        let stale = |at| self.changes > self.window.len() / 4 + 16 && now.saturating_duration_since(at) >= STALE;
        if self.built.is_none_or(|at| !self.whole && stale(at)) {
            self.build(now, rng, regions, lacking);
        }
        self.tidy();
        for again in [true, false] {
            let (mut found, mut gone) = (None, Vec::new());
            for &place in self.window.iter().filter(|place| has(place.2)) {
                if lacking(place.2) {
                    found = Some(place.2);
                    break;
                }
                gone.push(place);
            }
            for place in gone {
                self.window.remove(&place);
            }
            if found.is_some() || self.whole || !again {
                return found;
            }
            self.build(now, rng, regions, lacking);
        }
        None
    }

    /// Collects the next candidates of the regions, from where the last window ended.
    fn build(&mut self, now: Instant, rng: &mut StdRng, regions: &[Range<u32>], lacking: &dyn Fn(PieceIndex) -> bool) {
        let total: u64 = regions.iter().map(|r| u64::from(r.end.saturating_sub(r.start))).sum();
        self.window.clear();
        self.disorder = false;
        self.salt = rng.random();
        self.epoch += 1;
        self.built = Some(now);
        self.changes = 0;
        self.whole = true;
        if total == 0 {
            return;
        }
        let first = if self.order == Order::InOrder { 0 } else { rng.random_range(0..total) };
        let start = self.cursor.unwrap_or(first) % total;
        let mut seen = 0;
        let mut places = Vec::new();
        while seen < total {
            if places.len() >= WINDOW || seen >= SCAN {
                self.whole = false;
                break;
            }
            if let Some(piece) = nth(regions, (start + seen) % total).filter(|&p| lacking(p)) {
                places.push(self.place(piece));
            }
            seen += 1;
        }
        self.cursor = Some((start + seen) % total);
        self.window = places.into_iter().collect();
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
