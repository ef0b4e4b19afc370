//! What waits to be written to one peer: message bytes of our own, and blocks that are slices of cached pieces, so that an
//! upload copies nothing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use crate::cache::Verified;

/// Slices of one `writev`: more gain nothing at 16 KiB a block.
const SLICES: usize = 32;

/// Bytes of our own that a segment takes before the next one begins: one block.
const OWN: usize = 16 * 1024;

/// One run of bytes.
#[derive(Debug)]
enum Segment {
    Own(Vec<u8>),
    Piece(Arc<Verified>, Range<usize>),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Piece(piece, range) => piece.bytes().and_then(|b| b.get(range.clone())).unwrap_or_default(),
        }
    }
}

/// Bytes in order, written from the front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are written.
    written: usize,
    /// Bytes that wait.
    length: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Appends bytes that `write` puts behind those that are there.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        // A segment is freed when all of it is written: one that only grew would keep what has long been sent.
        if !matches!(self.segments.back(), Some(Segment::Own(bytes)) if bytes.len() < OWN) {
            self.segments.push_back(Segment::Own(Vec::new()));
        }
        if let Some(Segment::Own(bytes)) = self.segments.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.length += bytes.len() - before;
        }
    }

    /// Appends a part of a piece that is in memory.
    pub(super) fn push_piece(&mut self, piece: Arc<Verified>, range: Range<usize>) {
        self.length += range.len();
        self.segments.push_back(Segment::Piece(piece, range));
    }

    /// The bytes at the front, for one vectored write.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.written;
        self.segments
            .iter()
            .take(SLICES)
            .map(|s| IoSlice::new(s.bytes().get(std::mem::take(&mut skip)..).unwrap_or_default()))
            .collect()
    }

    /// `count` bytes at the front have been written.
    pub(super) fn advance(&mut self, count: usize) {
        self.length -= count;
        self.written += count;
        while let Some(front) = self.segments.front() {
            let length = front.bytes().len();
            if self.written < length {
                break;
            }
            self.written -= length;
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came_in_whatever_the_writes() {
        for step in 1..7 {
            let mut outbox = Outbox::default();
            outbox.push(|out| out.extend(0..5));
            outbox.push(|out| out.extend(5..9));
            assert_eq!(outbox.len(), 9);
            let mut seen: Vec<u8> = Vec::new();
            while outbox.len() > 0 {
                let all: Vec<u8> = outbox.slices().iter().flat_map(|s| s.to_vec()).collect();
                let count = step.min(all.len());
                seen.extend(&all[..count]);
                outbox.advance(count);
            }
            assert_eq!(seen, (0..9).collect::<Vec<u8>>());
        }
    }
}
