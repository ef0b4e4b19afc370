//! Reads that the cache has answered and the swarm has not been told of: it is told once a piece, not once a read.

use std::ops::Range;

use crate::metainfo::PieceIndex;

/// What the swarm does not know yet of one handle.
#[derive(Debug, Default)]
pub(super) struct Untold {
    /// The end of a run of reads that follow on each other. What comes before it has been told.
    run: Range<u64>,
    /// The piece that was told of last.
    piece: Option<PieceIndex>,
}

impl Untold {
    /// The cache has answered a read whose last byte is in `piece`. If it is time, what the swarm is to be told: all of
    /// the run, or small reads of large pieces would look like jumps.
    pub(super) fn hit(&mut self, bytes: &Range<u64>, piece: PieceIndex) -> Option<Range<u64>> {
        self.run = match self.joins(bytes) {
            true => self.run.start.min(bytes.start)..self.run.end.max(bytes.end),
            false => bytes.clone(),
        };
        (self.piece.replace(piece) != Some(piece)).then(|| self.take())
    }

    /// A read that the cache cannot answer, of which the swarm hears at once. What it is to be told before, so that the
    /// read follows on.
    pub(super) fn miss(&mut self, bytes: &Range<u64>) -> Option<Range<u64>> {
        let before = self.joins(bytes).then(|| self.take()).filter(|run| !run.is_empty());
        self.run = bytes.end..bytes.end;
        before
    }

    /// The next read is told, whatever it is.
    pub(super) fn forget_piece(&mut self) {
        self.piece = None;
    }

    /// True if there is no gap between the run and these bytes: the kernel's threads overtake each other.
    fn joins(&self, bytes: &Range<u64>) -> bool {
        bytes.start <= self.run.end && bytes.end >= self.run.start
    }

    fn take(&mut self) -> Range<u64> {
        let end = self.run.end;
        std::mem::replace(&mut self.run, end..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1_000;

    fn hit(untold: &mut Untold, bytes: Range<u64>) -> Option<Range<u64>> {
        let piece = PieceIndex(u32::try_from((bytes.end - 1) / PIECE).unwrap());
        untold.hit(&bytes, piece)
    }

    #[test]
    fn a_run_is_told_without_gaps_once_a_piece() {
        let mut untold = Untold::default();
        assert_eq!(untold.miss(&(0..100)), None);
        assert_eq!(hit(&mut untold, 100..200), Some(100..200));
        for at in 2..10 {
            assert_eq!(hit(&mut untold, at * 100..at * 100 + 100), None);
        }
        assert_eq!(hit(&mut untold, 1_000..1_100), Some(200..1_100));
        assert_eq!(hit(&mut untold, 1_100..1_900), None);
        assert_eq!(untold.miss(&(1_900..2_000)), Some(1_100..1_900), "a read that waits follows on");
        assert_eq!(untold.miss(&(2_000..2_100)), None);
    }

    #[test]
    fn overtaking_reads_are_one_run_and_jumps_begin_another() {
        let mut untold = Untold::default();
        assert_eq!(hit(&mut untold, 0..100), Some(0..100));
        assert_eq!(hit(&mut untold, 200..300), None);
        assert_eq!(hit(&mut untold, 100..200), None);
        assert_eq!(untold.miss(&(300..400)), Some(100..300));
        assert_eq!(hit(&mut untold, 700..800), None);
        assert_eq!(untold.miss(&(5_000..5_100)), None, "it does not follow on");
        assert_eq!(hit(&mut untold, 5_100..5_200), Some(5_100..5_200));
        assert_eq!(hit(&mut untold, 5_300..5_400), None);
        untold.forget_piece();
        assert_eq!(hit(&mut untold, 5_400..5_500), Some(5_300..5_500));
    }
}
