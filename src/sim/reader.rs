//! A program that reads a mounted file: one read after the other.

use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::swarm::HandleId;

/// Where a reader reads next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// From the start of the file to its end.
    Sequential,
    /// From so many bytes into the file to its end.
    From(u64),
    /// So many reads at random offsets.
    Random(u32),
}

/// A reader.
#[derive(Clone, Debug)]
pub struct ReaderSpec {
    /// When it opens the file, after the node's start.
    pub start: Duration,
    /// The file, as torrent bytes.
    pub file: Range<u64>,
    /// How it reads.
    pub pattern: Pattern,
    /// Bytes of one read.
    pub length: u32,
    /// Between an answer and the next read.
    pub think: Duration,
}

/// A reader at work.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) spec: ReaderSpec,
    pub(super) handle: HandleId,
    pub(super) open: bool,
    pub(super) finished: bool,
    /// When the read that waits was made.
    pub(super) asked: Option<Instant>,
    done: u32,
    position: u64,
    rng: StdRng,
}

impl Reader {
    pub(super) fn new(spec: ReaderSpec, handle: HandleId, seed: u64) -> Self {
        let skipped = if let Pattern::From(bytes) = spec.pattern { bytes } else { 0 };
        let position = spec.file.start.saturating_add(skipped).min(spec.file.end);
        Self {
            spec,
            handle,
            open: false,
            finished: false,
            asked: None,
            done: 0,
            position,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The next read; none at the end.
    pub(super) fn next(&mut self) -> Option<Range<u64>> {
        let (file, length) = (&self.spec.file, u64::from(self.spec.length.max(1)));
        let start = match self.spec.pattern {
            Pattern::Sequential | Pattern::From(_) => self.position,
            Pattern::Random(count) if self.done < count && !file.is_empty() => self.rng.random_range(file.clone()),
            Pattern::Random(_) => return None,
        };
        let range = start..(start + length).min(file.end);
        self.position = range.end;
        self.done += 1;
        (!range.is_empty()).then_some(range)
    }
}
