//! Read-ahead: what a reader will want next, seen from what it read. A stream is one run of contiguous reads; its window
//! grows by doubling up to two seconds of the reader's own rate. The trail is a stream across files read in order.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::rates::Rate;
use super::stride::{Plan, Stride};
use crate::metainfo::Geometry;

/// How far reads may be out of order: kernel threads overtake each other.
const SLACK: u64 = 512 << 10;
/// Streams of one handle that are told apart.
const STREAMS: usize = 4;
/// The most bytes of one handle's windows: what unfinished pieces may take.
pub(super) const MAX_WINDOW: u64 = 64 << 20;
/// The most pieces of a window.
const MAX_PIECES: u64 = 1_024;
/// A window is never smaller than this, nor than a piece.
const MIN_WINDOW: u64 = 128 << 10;
/// Streams that take turns keep their windows this long.
const TURNS: Duration = Duration::from_secs(2);

/// Names a stream as the owner of read-ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId(pub(super) u64);

/// A run of contiguous reads.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    /// Where the next read is expected, a torrent byte.
    pub(super) pos: u64,
    /// Bytes read in order.
    run: u64,
    /// Evidence that it is sequential: 2 are enough.
    score: u32,
    window: u64,
    grown_at: u64,
    rate: Rate,
    pub(super) last: Instant,
    returns: bool,
    /// What the background fetches for it is decided anew when it has come to this torrent byte.
    pub(super) fill_until: u64,
    /// The pieces of its window that are filed as wanted.
    pub(super) filed: Range<u32>,
}

impl Stream {
    pub(super) fn new(now: Instant, id: StreamId, bytes: &Range<u64>) -> Self {
        Self {
            id,
            pos: bytes.end,
            run: bytes.end.saturating_sub(bytes.start),
            score: 0,
            window: 0,
            grown_at: bytes.end,
            rate: Rate::default(),
            last: now,
            returns: false,
            fill_until: 0,
            filed: 0..0,
        }
    }

    /// True if a read of these bytes goes on with this stream.
    fn fits(&self, bytes: &Range<u64>) -> bool {
        let ahead = bytes.end.saturating_sub(bytes.start).saturating_mul(2).min(SLACK);
        bytes.start <= self.pos.saturating_add(ahead) && bytes.start.saturating_add(SLACK) >= self.pos
    }

    /// A read goes on with this stream.
    pub(super) fn advance(&mut self, now: Instant, bytes: &Range<u64>) {
        if now.saturating_duration_since(self.last) > Duration::from_secs(1) {
            self.rate.pause(self.last);
        }
        self.rate.start(now);
        self.last = now;
        let Some(step) = bytes.end.checked_sub(self.pos).filter(|&s| s > 0) else { return };
        self.score += if bytes.start == self.pos { 2 } else { 1 };
        self.pos = bytes.end;
        self.run = self.run.saturating_add(step);
        self.rate.limit();
        self.rate.add(now, step);
    }

    /// True if its reads are contiguous.
    pub(super) fn sequential(&self) -> bool {
        self.score >= 2
    }

    /// True if what the background fetches for it is to be decided.
    pub(super) fn outruns_fill(&self) -> bool {
        self.pos >= self.fill_until
    }

    /// Bytes read in order.
    pub(super) fn run(&self) -> u64 {
        self.run
    }

    /// A stream that is known to be sequential from its first byte on.
    pub(super) fn trust(&mut self) {
        self.score = self.score.max(2);
    }

    /// The pieces that are wanted ahead: none unless it is sequential. The window is at least a piece, doubles when half
    /// of it was read, and ends at two seconds of the reader's rate, at `share` bytes and at `end`.
    pub(super) fn plan(&mut self, geometry: &Geometry, end: u64, share: u64) -> Range<u32> {
        if !self.sequential() || self.pos >= end {
            return 0..0;
        }
        let piece = u64::from(geometry.nominal_piece_length());
        let least = piece.max(MIN_WINDOW);
        if self.window == 0 {
            self.window = least;
            self.grown_at = self.pos;
        } else if self.pos.saturating_sub(self.grown_at) >= self.window / 2 {
            self.window = self.window.saturating_mul(2);
            self.grown_at = self.pos;
        }
        let most = self.rate.get().map_or(u64::MAX, |r| r.saturating_mul(2)).min(share).min(piece * MAX_PIECES);
        self.window = self.window.min(most).max(least);
        let from = geometry.piece_at(self.pos - self.run.min(SLACK).min(self.pos)).0;
        let last = geometry.piece_at((self.pos.saturating_add(self.window)).min(end) - 1).0;
        from..last + 1
    }

    /// When the reader will come to a torrent byte, at its rate so far.
    pub(super) fn due(&self, now: Instant, at: u64) -> Instant {
        let rate = self.rate.get().unwrap_or(1 << 20).max(1);
        let micros = at.saturating_sub(self.pos).saturating_mul(1_000_000) / rate;
        now + Duration::from_micros(micros).min(Duration::from_secs(3_600))
    }
}

/// An open file.
#[derive(Debug)]
pub(super) struct Handle {
    /// Its torrent bytes.
    pub(super) file: Range<u64>,
    pub(super) streams: Vec<Stream>,
    pub(super) stride: Stride,
    /// The end of a media file, once its head was read: its pieces that are filed as wanted.
    pub(super) tail: Option<(StreamId, Plan)>,
    /// Reads that failed, and when.
    pub(super) failed: Vec<(Range<u64>, Instant)>,
    /// The rest of the file is fetched in the background.
    pub(super) filling: bool,
    /// Where its next read starts at the soonest: see [`super::demand::Turn`].
    pub(super) paid: u64,
}

impl Handle {
    pub(super) fn new(file: Range<u64>, fresh: &mut u64) -> Self {
        *fresh += 1;
        let stride = Stride::new(StreamId(*fresh));
        Self { file, streams: Vec::new(), stride, tail: None, failed: Vec::new(), filling: false, paid: 0 }
    }

    /// The stream that this read belongs to, whether it goes on with it, and the pieces that streams left behind by a seek
    /// had filed.
    pub(super) fn touch(
        &mut self,
        now: Instant,
        bytes: &Range<u64>,
        fresh: &mut u64,
    ) -> (usize, bool, Vec<(StreamId, Range<u32>)>) {
        let fitting = self.streams.iter().enumerate().filter(|(_, s)| s.fits(bytes));
        let nearest = fitting.min_by_key(|(_, s)| s.pos.abs_diff(bytes.start)).map(|(i, _)| i);
        let latest = self.streams.iter().map(|s| s.last).max();
        let mut left = Vec::new();
        let index = if let Some(index) = nearest {
            let stream = &mut self.streams[index];
            stream.returns |= latest.is_some_and(|l| l > stream.last);
            stream.advance(now, bytes);
            index
        } else {
            for s in &mut self.streams {
                if !s.returns || now.saturating_duration_since(s.last) > TURNS {
                    left.push((s.id, std::mem::take(&mut s.filed)));
                    s.returns = false;
                }
            }
            if self.streams.len() >= STREAMS {
                let oldest = (0..self.streams.len()).min_by_key(|&i| self.streams[i].last).unwrap_or(0);
                let gone = self.streams.swap_remove(oldest);
                left.push((gone.id, gone.filed));
            }
            *fresh += 1;
            self.streams.push(Stream::new(now, StreamId(*fresh), bytes));
            self.streams.len() - 1
        };
        (index, nearest.is_some(), left)
    }

    /// Remembers a failed read.
    pub(super) fn fail(&mut self, now: Instant, bytes: Range<u64>) {
        self.forgive(now);
        if self.failed.len() >= 1_024 {
            self.failed.remove(0);
        }
        self.failed.push((bytes, now));
    }

    /// True if a read of these bytes overlaps one that failed just now.
    pub(super) fn failed(&mut self, now: Instant, bytes: &Range<u64>) -> bool {
        self.forgive(now);
        self.failed.iter().any(|(f, _)| f.start < bytes.end && bytes.start < f.end)
    }

    fn forgive(&mut self, now: Instant) {
        self.failed.retain(|&(_, at)| now.saturating_duration_since(at) < Duration::from_secs(2));
    }
}

/// Files read in torrent order.
#[derive(Debug)]
pub(super) struct Trail {
    /// The file that is read now, by its place among the files.
    pub(super) file: usize,
    /// Boundaries that were crossed in order.
    crossed: u32,
    pub(super) stream: Stream,
}

impl Trail {
    /// Read-ahead goes past the end of a file after this many boundaries.
    const CROSSED: u32 = 2;

    pub(super) fn new(now: Instant, file: usize, bytes: &Range<u64>) -> Self {
        Self { file, crossed: 0, stream: Stream::new(now, StreamId(0), bytes) }
    }

    /// A read in a file: true if the trail goes on or begins with it, false if it is none of its business.
    pub(super) fn touch(&mut self, now: Instant, files: &[Range<u64>], file: usize, bytes: &Range<u64>) -> bool {
        let start = files.get(file).map(|f| f.start);
        if self.file == file && self.stream.fits(bytes) {
            self.stream.advance(now, bytes);
        } else if start != Some(bytes.start) {
            return false;
        } else if file == self.file + 1 && files.get(self.file).is_some_and(|f| self.stream.pos >= f.end) {
            self.file = file;
            self.crossed += 1;
            self.stream.pos = self.stream.pos.max(bytes.start);
            self.stream.advance(now, bytes);
            if self.crossed >= Self::CROSSED {
                self.stream.trust();
            }
        } else {
            let filed = std::mem::take(&mut self.stream.filed);
            *self = Self::new(now, file, bytes);
            self.stream.filed = filed;
        }
        true
    }

    /// True if it reaches past the end of its file.
    pub(super) fn crosses(&self) -> bool {
        self.crossed >= Self::CROSSED
    }

    /// True if its file was read to the end.
    pub(super) fn at_end(&self, files: &[Range<u64>]) -> bool {
        files.get(self.file).is_some_and(|f| self.stream.pos >= f.end)
    }
}
