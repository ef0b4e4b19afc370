//! Which pieces wait to be hashed together. Only while so many come that a batch is full within a moment: at such rates it
//! is the processor that everybody waits for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lanes;
use super::unverified::Unverified;

/// Pieces are held for a batch while this many bytes of them became whole within [`LATELY`].
const MUCH: u32 = 16 << 20;
/// Nor fewer pieces than this.
const MANY: usize = 2 * Unverified::BATCH;
const LATELY: Duration = Duration::from_millis(100);
/// Pieces of fewer bytes than this are never held.
const LEAST: u32 = 64 << 10;
/// A batch holds no more bytes than this: what waits is part of what unfinished pieces may take.
const MOST: u64 = 16 << 20;

/// The whole pieces of one torrent that wait for each other. `T` is what the caller knows of a piece.
#[derive(Debug)]
pub struct Batch<T> {
    /// Pieces that are to become whole within [`LATELY`]; none if batches never pay.
    many: Option<usize>,
    /// When the last so many became whole, the oldest first.
    whole: VecDeque<Instant>,
    waiting: Vec<T>,
    /// Which batch they are.
    number: u64,
}

/// What becomes of a piece that was held.
#[derive(Debug, PartialEq, Eq)]
pub enum Held<T> {
    /// It is the first of its batch: [`Batch::end`] is due for this number after [`Batch::PATIENCE`].
    First(u64),
    /// It waits with the others.
    Waits,
    /// The batch is full, or no others come soon: these are to be hashed now.
    Full(Vec<T>),
}

impl<T> Batch<T> {
    /// The longest that a piece waits for others.
    pub const PATIENCE: Duration = Duration::from_millis(60);

    /// For pieces of `length` bytes under a memory budget of `memory` bytes, most of which must stay for what is read.
    #[must_use]
    pub fn new(length: u32, memory: u64) -> Self {
        let fits = Unverified::BATCH as u64 * u64::from(length) <= MOST.min(memory / 8);
        let many = MANY.max(MUCH.div_ceil(length.max(1)) as usize);
        Self {
            many: (fits && length >= LEAST && lanes::available()).then_some(many),
            whole: VecDeque::new(),
            waiting: Vec::with_capacity(Unverified::BATCH),
            number: 0,
        }
    }

    /// True if a piece that begins now is to be hashed with others.
    #[must_use]
    pub fn pays(&self, now: Instant) -> bool {
        let lately = |first: &Instant| now.saturating_duration_since(*first) < LATELY;
        self.many == Some(self.whole.len()) && self.whole.front().is_some_and(lately)
    }

    /// A piece became whole, of whichever kind.
    pub fn is_whole(&mut self, now: Instant) {
        let Some(many) = self.many else { return };
        if self.whole.len() == many {
            self.whole.pop_front();
        }
        self.whole.push_back(now);
    }

    /// A whole piece waits for others, if they come: `begun` pieces, those that wait included, are not verified yet.
    pub fn hold(&mut self, now: Instant, piece: T, begun: usize) -> Held<T> {
        self.waiting.push(piece);
        match self.waiting.len() {
            _ if self.is_over(begun) || !self.pays(now) => Held::Full(self.end_now()),
            1 => Held::First(self.number),
            _ => Held::Waits,
        }
    }

    /// What waits in this batch, if it has not ended before.
    pub fn end(&mut self, number: u64) -> Vec<T> {
        if number == self.number { self.end_now() } else { Vec::new() }
    }

    /// What waits, if nothing else is on its way: of `begun` pieces, all others are verified.
    pub fn end_if_over(&mut self, begun: usize) -> Vec<T> {
        if self.is_over(begun) { self.end_now() } else { Vec::new() }
    }

    /// What waits.
    pub fn end_now(&mut self) -> Vec<T> {
        self.number += 1;
        std::mem::take(&mut self.waiting)
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn is_over(&self, begun: usize) -> bool {
        self.waiting.len() >= Unverified::BATCH.min(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn pays_only_while_much_comes() {
        let start = Instant::now();
        for (length, gap, pays) in [
            (MIB, Duration::from_millis(6), true),
            (MIB, Duration::from_millis(7), false),
            (2 * MIB, Duration::from_millis(6), true),
            (2 * MIB, Duration::from_millis(7), false),
            (MIB / 4, Duration::from_micros(1500), true),
            (MIB / 4, Duration::from_micros(1700), false),
            // Too small to matter, and too large for the memory.
            (MIB / 64, Duration::from_micros(1), false),
            (4 * MIB, Duration::from_micros(1), false),
        ] {
            let mut batch = Batch::<()>::new(length, 512 << 20);
            let mut now = start;
            for _ in 0..1000 {
                now += gap;
                batch.is_whole(now);
            }
            assert_eq!(batch.pays(now), pays && lanes::available(), "{length} bytes every {gap:?}");
            assert!(!batch.pays(now + LATELY), "after a pause");
        }
    }

    #[test]
    fn the_first_piece_of_a_download_waits_for_nobody() {
        let now = Instant::now();
        let mut batch = Batch::<()>::new(MIB, 256 << 20);
        for _ in 1..MANY {
            batch.is_whole(now);
            assert!(!batch.pays(now));
        }
        batch.is_whole(now);
        assert_eq!(batch.pays(now), lanes::available());
    }

    /// A batch of pieces of 1 MiB that come fast.
    fn fast(now: Instant) -> Batch<u32> {
        let mut batch = Batch::new(MIB, 256 << 20);
        (0..MANY).for_each(|_| batch.is_whole(now));
        batch
    }

    #[test]
    fn a_batch_ends_full_or_by_its_number_and_each_piece_leaves_once() {
        let now = Instant::now();
        let mut batch = fast(now);
        if !batch.pays(now) {
            return println!("not on this processor");
        }
        assert_eq!(batch.end(7), [0; 0]);
        assert_eq!(batch.hold(now, 1, 99), Held::First(0));
        for piece in 2..8 {
            assert_eq!(batch.hold(now, piece, 99), Held::Waits);
        }
        assert_eq!(batch.hold(now, 8, 99), Held::Full((1..9).collect()));
        assert_eq!(batch.hold(now, 9, 99), Held::First(1));
        assert_eq!(batch.hold(now, 10, 3), Held::Waits);
        assert_eq!(batch.end(0), [0; 0], "its time came when it was gone");
        assert_eq!(batch.end(1), [9, 10]);
        assert_eq!(batch.end(1), [0; 0]);
    }

    #[test]
    fn what_is_alone_waits_for_nobody() {
        let now = Instant::now();
        let mut batch = fast(now);
        assert_eq!(batch.hold(now, 1, 1), Held::Full(vec![1]));
        // The count may be behind, when a verdict is just being carried out.
        assert_eq!(batch.hold(now, 2, 0), Held::Full(vec![2]));
        if !batch.pays(now) {
            return println!("not on this processor");
        }
        assert_eq!(batch.hold(now, 3, 3), Held::First(2));
        assert_eq!(batch.end_if_over(2), [0; 0], "another is on its way");
        assert_eq!(batch.end_if_over(1), [3]);
        assert_eq!(batch.hold(now, 4, 3), Held::First(3));
        assert_eq!(batch.hold(now, 5, 2), Held::Full(vec![4, 5]));
    }

    #[test]
    fn nobody_waits_for_others_that_come_no_more() {
        let now = Instant::now();
        let mut batch = fast(now);
        assert_eq!(batch.hold(now + LATELY, 1, 99), Held::Full(vec![1]));
        assert_eq!(batch.end_now(), [0; 0]);
    }
}
