//! What of a torrent is wanted, there, on its way and missing: for the fill, for the end of a download, and for those who
//! look on.

use std::fmt;
use std::ops::Range;

use super::Swarm;
use super::bits::Bits;
use crate::config::Fill;
use crate::metainfo::{Geometry, PieceIndex};

/// A run of neighbouring pieces, counted by what has become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Pieces that are there.
    pub there: u32,
    /// Pieces that are being fetched.
    pub requested: u32,
    /// All others.
    pub missing: u32,
}

/// Who could send a piece now: why a read still waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Connected peers that have it.
    pub have: u32,
    /// Those among them that choke us, and do not allow it fast.
    pub choking: u32,
    /// Those that owe us blocks of it.
    pub asked: u32,
    /// Web seeds that have it, as far as they have shown.
    pub web: u32,
    /// Those among them that rest after a failure.
    pub resting: u32,
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { have, choking, asked, web, resting } = self;
        match have {
            0 => f.write_str("no connected peer has it")?,
            _ => write!(f, "of {have} connected peers that have it, {choking} choke us and {asked} are asked for it")?,
        }
        match web {
            0 => Ok(()),
            _ => write!(f, "; of {web} web seeds, {resting} rest after a failure"),
        }
    }
}

impl Swarm {
    /// True if a read waits for this piece.
    #[must_use]
    pub fn awaited(&self, piece: PieceIndex) -> bool {
        self.wants.get(&piece).is_some_and(|want| !want.reads.is_empty())
    }

    /// Who could send this piece now.
    pub(super) fn sources(&self, piece: PieceIndex) -> Sources {
        let mut sources = Sources::default();
        for peer in self.peers.values().filter(|peer| peer.has.has(piece)) {
            if peer.web.is_some() {
                sources.web += 1;
                sources.resting += u32::from(peer.choking);
                continue;
            }
            sources.have += 1;
            sources.choking += u32::from(peer.chokes(piece));
            sources.asked += u32::from(peer.out.iter().any(|asked| asked.block.piece == piece));
        }
        sources
    }

    /// The torrent as a row of `cells` cells of nearly equal size; fewer if it has fewer pieces.
    #[must_use]
    pub fn piece_map(&self, cells: usize) -> Vec<Cell> {
        let pieces = self.geometry.pieces();
        let cells = u32::try_from(cells).unwrap_or(u32::MAX).min(pieces);
        let bound =
            |cell: u32| u32::try_from(u64::from(cell) * u64::from(pieces) / u64::from(cells.max(1))).unwrap_or(pieces);
        let cell = |range: Range<u32>| {
            let there = self.have.count_in(range.clone());
            let partials = self.partials.range(PieceIndex(range.start)..PieceIndex(range.end));
            let requested = u32::try_from(partials.filter(|(piece, _)| !self.have.has(**piece)).count());
            let requested = requested.unwrap_or(u32::MAX);
            let missing = (range.end - range.start).saturating_sub(there).saturating_sub(requested);
            Cell { there, requested, missing }
        };
        (0..cells).map(|index| cell(bound(index)..bound(index + 1))).collect()
    }

    /// Pieces that are being fetched.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        u32::try_from(self.partials.len()).unwrap_or(u32::MAX)
    }

    /// Pieces that are there.
    #[must_use]
    pub fn there(&self) -> u32 {
        self.have.count()
    }

    /// Bytes of wanted pieces that are still to come: those that were there and left the cache are not among them.
    #[must_use]
    pub fn wanted_left(&self) -> u64 {
        self.wanted_left
    }

    /// True if we only give from now on: we are complete, or have all that we want of it in a copy (BEP 21's partial
    /// seed) and nobody reads.
    #[must_use]
    pub fn seeding(&self) -> bool {
        let partial = self.capacity.is_none() && self.fill == Fill::All && self.wanted_left == 0;
        self.complete() || (partial && self.handles.is_empty() && self.reads.is_empty())
    }

    /// True if something is missing that we do not want (BEP 21).
    #[must_use]
    pub fn partial_seed(&self) -> bool {
        self.seeding() && !self.complete()
    }

    /// The fill needs this piece no more. False if it did not before.
    pub(super) fn sate(&mut self, piece: PieceIndex) -> bool {
        let sated = self.sated.insert(piece);
        if sated {
            self.wanted_left = self.wanted_left.saturating_sub(self.length(piece));
        }
        sated
    }

    /// A piece is lost: the fill needs it again, unless it was evicted. False if it does not.
    pub(super) fn unsate(&mut self, piece: PieceIndex) -> bool {
        let at = self.wanted.partition_point(|range| range.end <= piece.0);
        let wanted = self.wanted.get(at).is_some_and(|range| range.contains(&piece.0));
        let unsated = wanted && !self.evicted.has(piece) && self.sated.remove(piece);
        if unsated {
            self.wanted_left += self.length(piece);
        }
        unsated
    }
}

/// Ranges of pieces in order, none empty, none that touches another; all pieces if there are none.
pub(super) fn in_order(wanted: Option<Vec<Range<u32>>>, pieces: u32) -> Vec<Range<u32>> {
    let mut ranges = wanted.unwrap_or_else(|| std::iter::once(0..pieces).collect());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        let range = range.start..range.end.min(pieces);
        match out.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// The pieces that are there or outside of `wanted`, which is in order.
pub(super) fn sated(have: &Bits, wanted: &[Range<u32>], pieces: u32) -> Bits {
    let mut sated = have.clone();
    let mut end = 0;
    for range in wanted.iter().cloned().chain(std::iter::once(pieces..pieces)) {
        for piece in end..range.start {
            sated.insert(PieceIndex(piece));
        }
        end = range.end;
    }
    sated
}

/// Bytes of all pieces that are not sated.
pub(super) fn bytes_left(geometry: &Geometry, sated: &Bits) -> u64 {
    let lacking = geometry.all().filter(|&piece| !sated.has(piece));
    lacking.map(|piece| u64::from(geometry.piece_length(piece))).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::swarm::{Input, Setup};

    const PIECES: u32 = 150;

    fn swarm(wanted: Option<Vec<Range<u32>>>) -> (Swarm, Instant) {
        let geometry = Geometry::new(u64::from(PIECES) * 1000 - 1, 1000).unwrap();
        let now = Instant::now();
        let setup = Setup { geometry, wanted, capacity: None, ..crate::swarm::tests::setup(1, 1000, false, Fill::All) };
        (Swarm::new(setup, now), now)
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Verified(u32),
        Evicted(u32),
        Lost(u32),
    }

    proptest! {
        /// What is left, and the map, against a list of pieces.
        #[test]
        fn what_is_left_is_what_is_wanted_and_was_not_there(
            wanted in proptest::option::of(proptest::collection::vec((0..160_u32, 0..60_u32), 0..5)),
            ops in proptest::collection::vec(
                (0..PIECES, 0..4).prop_map(|(piece, kind)| match kind {
                    0 => Op::Evicted(piece),
                    1 => Op::Lost(piece),
                    _ => Op::Verified(piece),
                }),
                0..300,
            ),
            cells in 1..200_usize,
        ) {
            let ranges = wanted.map(|w| w.into_iter().map(|(start, length)| start..start + length).collect::<Vec<_>>());
            let (mut swarm, now) = swarm(ranges.clone());
            let is_wanted = |piece: u32| ranges.as_ref().is_none_or(|r| r.iter().any(|range| range.contains(&piece)));
            let mut there = [false; PIECES as usize];
            let mut left: Vec<bool> = (0..PIECES).map(is_wanted).collect();
            for op in ops {
                match op {
                    Op::Verified(piece) => {
                        swarm.handle(now, Input::PieceVerified(PieceIndex(piece)));
                        (there[piece as usize], left[piece as usize]) = (true, false);
                    }
                    Op::Evicted(piece) => {
                        swarm.handle(now, Input::Evicted(PieceIndex(piece)));
                        there[piece as usize] = false;
                    }
                    Op::Lost(piece) => {
                        swarm.handle(now, Input::Lost(PieceIndex(piece)));
                        left[piece as usize] |= there[piece as usize] && is_wanted(piece);
                        there[piece as usize] = false;
                    }
                }
                let bytes = (0..PIECES).filter(|&piece| left[piece as usize]).map(|piece| 1000 - u64::from(piece == PIECES - 1));
                prop_assert_eq!(swarm.wanted_left(), bytes.sum::<u64>());
                prop_assert_eq!(swarm.seeding(), !left.contains(&true));
            }
            let map = swarm.piece_map(cells);
            prop_assert_eq!(map.len(), cells.min(PIECES as usize));
            let mut next = 0;
            for cell in &map {
                let size = (cell.there + cell.missing) as usize;
                prop_assert!(size.abs_diff(PIECES as usize / map.len()) <= 1);
                let naive = there[next..next + size].iter().filter(|there| **there).count();
                prop_assert_eq!((cell.there as usize, cell.requested), (naive, 0));
                next += size;
            }
            prop_assert_eq!(next, PIECES as usize);
        }
    }
}
