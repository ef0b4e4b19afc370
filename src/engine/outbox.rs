//! What waits to be written to one peer: messages of our own, and blocks that are slices of cached pieces and of chunks
//! read from a copy, so that an upload copies nothing. What we ask for and tell does not wait behind blocks.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use super::chunks::Chunk;
use crate::cache::{Checked, Verified};
use crate::metainfo::Request;
use crate::wire::{self, Message};

/// Slices of one `writev`: the header and the payload of 32 blocks.
pub(super) const SLICES: usize = 64;
/// What is kept of the memory for messages once they are written, bytes.
const KEEP: usize = 16 * 1024;

/// Where a block's bytes are.
#[derive(Debug)]
pub(super) enum Payload {
    Piece(Arc<Verified>, Range<usize>),
    Chunk(Arc<Chunk>, Range<usize>),
    Stored(Arc<Checked<Chunk>>, Range<usize>),
}

impl Payload {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Piece(piece, range) => piece.bytes().and_then(|b| b.get(range.clone())).unwrap_or_default(),
            Self::Chunk(chunk, range) => chunk.part(range.clone()),
            Self::Stored(checked, range) => checked.bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

/// One run of bytes.
#[derive(Debug)]
enum Segment {
    /// Whole messages.
    Messages(Vec<u8>),
    /// The beginning of a `piece` message; its payload follows.
    Header([u8; wire::PIECE_HEADER]),
    Payload(Payload),
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Messages(bytes) => bytes,
            Self::Header(bytes) => bytes,
            Self::Payload(payload) => payload.bytes(),
        }
    }
}

/// Bytes in order, written from the front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Messages that go before every block that is not begun.
    ahead: Vec<u8>,
    /// Bytes of them that are written.
    ahead_written: usize,
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

    /// Bytes of messages that go before every block that is not begun.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.len() - self.ahead_written
    }

    /// Appends a message. Chokes, unchokes and rejects keep their place among the blocks, whose fate they tell; all others
    /// keep their order and go before the blocks.
    pub(super) fn push(&mut self, message: &Message<'_>) {
        let among_blocks = matches!(message, Message::Choke | Message::Unchoke | Message::Reject(_));
        if among_blocks && !self.segments.is_empty() {
            if !matches!(self.segments.back(), Some(Segment::Messages(bytes)) if bytes.len() < KEEP) {
                self.segments.push_back(Segment::Messages(Vec::new()));
            }
            if let Some(Segment::Messages(bytes)) = self.segments.back_mut() {
                message.encode(bytes);
            }
        } else {
            message.encode(&mut self.ahead);
        }
        self.length += message.encoded_len();
    }

    /// Appends a block.
    pub(super) fn push_block(&mut self, request: Request, payload: Payload) {
        self.length += wire::PIECE_HEADER + payload.bytes().len();
        self.segments.push_back(Segment::Header(wire::piece_header(request)));
        self.segments.push_back(Segment::Payload(payload));
    }

    /// Segments at the front that are begun: whatever is ahead has to let them pass.
    fn begun(&self) -> usize {
        match self.segments.front() {
            Some(Segment::Payload(_)) => 1,
            Some(Segment::Messages(_)) => usize::from(self.written > 0),
            Some(Segment::Header(_)) => 2 * usize::from(self.written > 0),
            None => 0,
        }
    }

    /// Puts the bytes at the front into `slices`, for one vectored write; returns how many of these it took.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES]) -> usize {
        let (begun, mut skip, mut count) = (self.begun(), self.written, 0);
        let mut put = |bytes: &'a [u8]| {
            if let Some(slice) = slices.get_mut(count).filter(|_| !bytes.is_empty()) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
        };
        let ahead = self.ahead.get(self.ahead_written..).unwrap_or_default();
        for (at, segment) in self.segments.iter().take(SLICES).enumerate() {
            if at == begun {
                put(ahead);
            }
            put(segment.bytes().get(std::mem::take(&mut skip)..).unwrap_or_default());
        }
        if self.segments.len() <= begun {
            put(ahead);
        }
        count
    }

    /// `count` bytes at the front have been written.
    pub(super) fn advance(&mut self, count: usize) {
        self.length = self.length.saturating_sub(count);
        let mut count = count;
        for _ in 0..self.begun() {
            count = self.advance_front(count);
        }
        let ahead = count.min(self.ahead.len() - self.ahead_written);
        self.ahead_written += ahead;
        count -= ahead;
        if self.ahead_written == self.ahead.len() {
            self.ahead.clear();
            self.ahead.shrink_to(KEEP);
            self.ahead_written = 0;
        }
        while count > 0 && !self.segments.is_empty() {
            count = self.advance_front(count);
        }
    }

    /// Of `count` written bytes the first segment takes what it has left; returns the others.
    fn advance_front(&mut self, count: usize) -> usize {
        let left = self.segments.front().map_or(0, |front| front.bytes().len().saturating_sub(self.written));
        if count < left {
            self.written += count;
            return 0;
        }
        self.written = 0;
        self.segments.pop_front();
        count - left
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
