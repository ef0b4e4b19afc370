//! A set of pieces, one bit each.

use std::ops::Range;

use crate::metainfo::PieceIndex;

/// Words that are looked at together before their bits are counted.
const RUN: usize = 16;

/// A fixed number of bits and how many are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

impl Bits {
    /// No piece of `len`.
    pub(super) fn none(len: u32) -> Self {
        Self { words: vec![0; (len as usize).div_ceil(64)], len, ones: 0 }
    }

    /// Every piece of `len`.
    pub(super) fn all(len: u32) -> Self {
        let mut words = vec![u64::MAX; (len as usize).div_ceil(64)];
        if let (Some(last), true) = (words.last_mut(), !len.is_multiple_of(64)) {
            *last = (1 << (len % 64)) - 1;
        }
        Self { words, len, ones: len }
    }

    /// A bitfield as the wire has it (BEP 3): the high bit first, spare bits ignored.
    pub(super) fn from_wire(bytes: &[u8], len: u32) -> Self {
        let (whole, rest) = bytes.as_chunks();
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        let word = |&bytes: &[u8; 8]| u64::from_be_bytes(bytes).reverse_bits();
        let words = (len as usize).div_ceil(64);
        let mut bits = Self { words: whole.iter().take(words).map(word).collect(), len, ones: 0 };
        if bits.words.len() < words {
            bits.words.push(word(&padded));
            bits.words.resize(words, 0);
        }
        if let (Some(last), true) = (bits.words.last_mut(), !len.is_multiple_of(64)) {
            *last &= (1 << (len % 64)) - 1;
        }
        bits.ones = bits.words.iter().map(|w| w.count_ones()).sum();
        bits
    }

    /// The bitfield for the wire (BEP 3).
    pub(super) fn to_wire(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.words.len() * 8];
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(&self.words) {
            *bytes = word.reverse_bits().to_be_bytes();
        }
        bytes.truncate((self.len as usize).div_ceil(8));
        bytes
    }

    /// True if the piece is in the set.
    pub(super) fn has(&self, piece: PieceIndex) -> bool {
        self.words.get(piece.0 as usize / 64).is_some_and(|w| w >> (piece.0 % 64) & 1 == 1)
    }

    /// Adds a piece; false if it was there or is out of range.
    pub(super) fn insert(&mut self, piece: PieceIndex) -> bool {
        if piece.0 >= self.len || self.has(piece) {
            return false;
        }
        self.words[piece.0 as usize / 64] |= 1 << (piece.0 % 64);
        self.ones += 1;
        true
    }

    /// Takes a piece out; false if it was not there.
    pub(super) fn remove(&mut self, piece: PieceIndex) -> bool {
        if !self.has(piece) {
            return false;
        }
        self.words[piece.0 as usize / 64] &= !(1 << (piece.0 % 64));
        self.ones -= 1;
        true
    }

    /// Pieces in the set.
    pub(super) fn count(&self) -> u32 {
        self.ones
    }

    /// True if every piece is in the set.
    pub(super) fn full(&self) -> bool {
        self.ones == self.len
    }

    /// Pieces that are in this set and not in the other. What takes long is counting, so it goes where there is less to
    /// count: bitfields of two million pieces come by the hundred, and all but few of ours are set, or are not.
    pub(super) fn beyond(&self, other: &Self) -> u32 {
        if other.ones <= other.len / 2 {
            self.ones - self.count_where(other, |theirs| theirs)
        } else {
            self.count_where(other, |theirs| !theirs)
        }
    }

    /// Pieces of this set where `mask` has a bit, which it makes of the other's bits.
    fn count_where(&self, other: &Self, mask: impl Fn(u64) -> u64) -> u32 {
        let (ours, theirs) = (self.words.chunks(RUN), other.words.chunks(RUN));
        let some = ours.zip(theirs).filter(|(_, theirs)| theirs.iter().fold(0, |all, &word| all | mask(word)) != 0);
        some.flat_map(|(ours, theirs)| ours.iter().zip(theirs)).map(|(a, &b)| (a & mask(b)).count_ones()).sum()
    }

    /// Pieces of a range that are in the set.
    pub(super) fn count_in(&self, range: Range<u32>) -> u32 {
        let (start, end) = (range.start, range.end.min(self.len));
        if start >= end {
            return 0;
        }
        let (first, last) = (start / 64, (end - 1) / 64);
        let word = |index: u32| {
            let word = self.words.get(index as usize).copied().unwrap_or(0);
            let low = if index == first { u64::MAX << (start % 64) } else { u64::MAX };
            let high = if index == last { u64::MAX >> (63 - (end - 1) % 64) } else { u64::MAX };
            (word & low & high).count_ones()
        };
        (first..=last).map(word).sum()
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_has_the_high_bit_first_and_ignores_spare_bits() {
        let bits = Bits::from_wire(&[0b1000_0001, 0b1111_1111], 10);
        let set: Vec<u32> = (0..12).filter(|&i| bits.has(PieceIndex(i))).collect();
        assert_eq!(set, [0, 7, 8, 9]);
        assert_eq!(bits.count(), 4);
        assert_eq!(bits.to_wire(), [0b1000_0001, 0b1100_0000]);
    }

    #[test]
    fn sets_count_what_they_hold() {
        let mut a = Bits::all(130);
        assert!(a.full() && a.remove(PieceIndex(129)) && !a.remove(PieceIndex(129)) && !a.full());
        let mut b = Bits::none(130);
        assert!(b.insert(PieceIndex(0)) && !b.insert(PieceIndex(0)) && !b.insert(PieceIndex(130)));
        assert_eq!((a.count(), b.count(), a.beyond(&b), b.beyond(&a)), (129, 1, 128, 0));
        assert_eq!(Bits::from_wire(&a.to_wire(), 130), a);
        for (start, end) in (0..=130).flat_map(|start| (start..=140).map(move |end| (start, end))) {
            let naive = (start..end).filter(|&piece| a.has(PieceIndex(piece))).count();
            assert_eq!(a.count_in(start..end) as usize, naive, "{start}..{end}");
        }
    }

    proptest! {
        /// Bitfields of every length, too short and too long ones too, against sets that are dense, sparse or mixed.
        #[test]
        fn bitfields_against_sets(
            len in 1..1500_u32,
            (ours, theirs) in (vec(any::<u8>(), 0..200), vec(prop_oneof![4 => Just(0), 4 => Just(255_u8), 1 => any::<u8>()], 0..200)),
        ) {
            let has = |bytes: &[u8], at: u32| bytes.get(at as usize / 8).is_some_and(|byte| byte << (at % 8) & 128 != 0);
            let (a, b) = (Bits::from_wire(&ours, len), Bits::from_wire(&theirs, len));
            prop_assert!((0..len + 70).all(|at| a.has(PieceIndex(at)) == (at < len && has(&ours, at))));
            let naive = |with: &dyn Fn(u32) -> bool| (0..len).filter(|&at| with(at)).count() as u32;
            prop_assert_eq!(a.count(), naive(&|at| has(&ours, at)));
            prop_assert_eq!(a.beyond(&b), naive(&|at| has(&ours, at) && !has(&theirs, at)));
            prop_assert_eq!(b.beyond(&a), naive(&|at| has(&theirs, at) && !has(&ours, at)));
            prop_assert_eq!(a.to_wire().len() as u32, len.div_ceil(8));
            prop_assert_eq!(Bits::from_wire(&a.to_wire(), len), a);
        }
    }
}
