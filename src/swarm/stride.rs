//! Read-ahead for reads that are not one run: backward, or in steps of one width, as tables and indices are read; and the
//! end of a media file, which players look at after its head.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::readahead::{MAX_WINDOW, StreamId};
use crate::metainfo::{Geometry, PieceIndex};

/// Equal steps in a row that make a pattern.
const EQUAL: u32 = 2;
/// How far steps may differ: the kernel reads whole pages.
const PAGE: u64 = 4_096;
/// The most steps that are read ahead.
const STEPS: u32 = 64;
/// The most bytes that are.
const BYTES: u64 = MAX_WINDOW / 4;
/// What is read ahead of a media file's end, bytes.
const TAIL: u64 = 512 << 10;
/// A player comes to the end after about this time.
const TAIL_DUE: Duration = Duration::from_millis(500);

/// Pieces wanted ahead, and when.
pub(super) type Plan = BTreeMap<PieceIndex, Instant>;

/// The steps from one read of a handle to the next, and what follows from them.
#[derive(Debug)]
pub(super) struct Stride {
    pub(super) id: StreamId,
    last: Option<(Range<u64>, Instant)>,
    step: i64,
    equal: u32,
    /// The pieces that are filed as wanted.
    pub(super) filed: Plan,
}

impl Stride {
    pub(super) fn new(id: StreamId) -> Self {
        Self { id, last: None, step: 0, equal: 0, filed: Plan::new() }
    }

    /// A read, of which `forward` is true if it goes on with a stream. What is wanted ahead from now on; none if that does
    /// not change. Steps within a piece are not seen (the swarm hears of one read a piece), and count as a piece.
    pub(super) fn touch(
        &mut self,
        now: Instant,
        geometry: &Geometry,
        file: &Range<u64>,
        bytes: &Range<u64>,
        forward: bool,
    ) -> Option<Plan> {
        let Some((last, at)) = self.last.clone() else {
            self.last = Some((bytes.clone(), now));
            return None;
        };
        if geometry.piece_at(last.start) == geometry.piece_at(bytes.start) {
            return None;
        }
        self.last = Some((bytes.clone(), now));
        let piece = i64::from(geometry.nominal_piece_length());
        let step = i64::try_from(bytes.start).ok()?.checked_sub(i64::try_from(last.start).ok()?)?;
        let step = if step.abs() < piece { piece * step.signum() } else { step };
        if forward && step > 0 {
            (self.step, self.equal) = (0, 0);
            return Some(Plan::new());
        }
        self.equal = if step.abs_diff(self.step) <= PAGE { self.equal + 1 } else { 0 };
        self.step = step;
        let Some(sure) = self.equal.checked_sub(EQUAL) else { return Some(Plan::new()) };
        let pace = now.saturating_duration_since(at).min(Duration::from_secs(10));
        let (mut plan, mut room) = (Plan::new(), BYTES);
        for n in 1..=STEPS.min(1 << sure.min(8)) {
            let moved = |at: u64| at.checked_add_signed(step.checked_mul(i64::from(n))?);
            let Some((start, end)) = moved(bytes.start).zip(moved(bytes.end)) else { break };
            if start < file.start || start >= file.end {
                break;
            }
            for index in geometry.pieces_of(start..end.min(file.end)) {
                room = room.saturating_sub(u64::from(geometry.piece_length(index)));
                plan.entry(index).or_insert(now + pace * n);
            }
            if room == 0 {
                break;
            }
        }
        Some(plan)
    }

    /// The next read is the first.
    pub(super) fn forget(&mut self) -> Plan {
        let id = self.id;
        std::mem::replace(self, Self::new(id)).filed
    }
}

/// What is wanted of a media file's end when its head is read.
pub(super) fn tail(now: Instant, geometry: &Geometry, file: &Range<u64>) -> Plan {
    let start = file.end.saturating_sub(TAIL).max(file.start);
    geometry.pieces_of(start..file.end).map(|piece| (piece, now + TAIL_DUE)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plans(starts: &[u64]) -> Vec<Option<Vec<u32>>> {
        let geometry = Geometry::new(256 * MIB, MIB).unwrap();
        let (mut stride, mut now) = (Stride::new(StreamId(1)), Instant::now());
        let plan = |&start: &u64| {
            now += Duration::from_millis(10);
            let plan = stride.touch(now, &geometry, &(0..256 * MIB), &(start..start + PAGE), false);
            plan.map(|plan| plan.keys().map(|piece| piece.0).collect())
        };
        starts.iter().map(plan).collect()
    }

    #[test]
    fn equal_steps_are_gone_on_with() {
        let three = [10, 13, 16, 19, 22, 25].map(|piece| piece * MIB + 5_000);
        let none = Some(Vec::new());
        let ahead = |pieces: &[u32]| Some(pieces.to_vec());
        let expected = [None, none.clone(), none.clone(), ahead(&[22]), ahead(&[25, 28]), ahead(&[28, 31, 34, 37])];
        assert_eq!(plans(&three), expected);
        // Backward, in steps within pieces of which one read a piece is heard.
        let back = [9 * MIB + 900_000, 8 * MIB + 950_000, 7 * MIB + 1_000_000, 7 * MIB, 6 * MIB + 1_040_000];
        assert_eq!(plans(&back), [None, none.clone(), none.clone(), None, ahead(&[5])]);
        let random = [10, 200, 3, 77, 78, 5, 6].map(|piece| piece * MIB);
        assert_eq!(plans(&random)[1..], vec![none; 6]);
    }

    #[test]
    fn it_ends_with_the_file_and_with_its_bytes() {
        let down = [40, 30, 20, 10].map(|piece| piece * MIB);
        assert_eq!(plans(&down)[3], Some(vec![0]));
        let long: Vec<u64> = (0..100).map(|n| n * 2 * MIB).collect();
        let most = plans(&long).into_iter().flatten().map(|plan| plan.len()).max();
        assert_eq!(most, Some(16), "MiB");
    }

    #[test]
    fn the_tail_is_half_a_mebibyte_or_a_piece() {
        let geometry = Geometry::new(256 * MIB, MIB).unwrap();
        let of = |file: Range<u64>| tail(Instant::now(), &geometry, &file).keys().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(of(0..100 * MIB), [99]);
        assert_eq!(of(0..100 * MIB + 5), [99, 100]);
        assert_eq!(of(100 * MIB..100 * MIB + 5), [100]);
    }
}
