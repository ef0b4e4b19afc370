//! Blocks into their pieces, and the verdict on what is whole: at once, or together with others while many come (see
//! [`Batch`]).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::{debug, error};

use super::torrent::Torrent;
use crate::cache::{Batch, Filled, Held, PieceBuf, Unverified};
use crate::metainfo::{PieceIndex, Request};
use crate::swarm::{Input, Swarm};

/// The pieces of a torrent that are not verified yet.
pub(super) struct Assembly(Mutex<Pieces>);

struct Pieces {
    /// Those that lack blocks or whose verdict is awaited, each with the attempt that it belongs to.
    partial: BTreeMap<PieceIndex, (u32, Arc<PieceBuf>)>,
    batch: Batch<Whole>,
}

impl Pieces {
    /// The buffer of this attempt; none within if the attempt is over, none at all if it has no buffer yet.
    fn find(&self, piece: PieceIndex, attempt: u32) -> Option<Option<Arc<PieceBuf>>> {
        let (newest, buffer) = self.partial.get(&piece).filter(|(newest, _)| *newest >= attempt)?;
        Some((*newest == attempt).then(|| Arc::clone(buffer)))
    }
}

/// A piece that waits for its hash.
struct Whole {
    piece: PieceIndex,
    attempt: u32,
    bytes: Unverified,
}

impl Assembly {
    /// For pieces of `length` bytes under a memory budget of `memory` bytes.
    pub(super) fn new(length: u32, memory: u64) -> Self {
        Self(Mutex::new(Pieces { partial: BTreeMap::new(), batch: Batch::new(length, memory) }))
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Torrent {
    /// The bytes of a block that the swarm has let in: into its piece, which is hashed as far as it goes.
    pub(super) fn fill(self: &Arc<Self>, request: Request, attempt: u32, data: &[u8]) {
        let piece = request.piece;
        let filled = match self.buffer(piece, attempt) {
            Ok(Some(buffer)) => buffer.fill(request.begin, data),
            Ok(None) => return,
            Err(e) => Err(e),
        };
        match filled {
            Ok(Filled::More | Filled::Stale) => {}
            Ok(Filled::Whole(bytes)) => self.hold(Whole { piece, attempt, bytes }),
            verdict => {
                self.assembly.lock().batch.is_whole(Instant::now());
                self.judged(piece, attempt, verdict);
                // It may be what the others waited for.
                self.verify(self.over());
            }
        }
    }

    /// The buffer of this attempt; none if the attempt is over.
    fn buffer(&self, piece: PieceIndex, attempt: u32) -> io::Result<Option<Arc<PieceBuf>>> {
        let pays = {
            let pieces = self.assembly.lock();
            if let Some(found) = pieces.find(piece, attempt) {
                return Ok(found);
            }
            pieces.batch.pays(Instant::now())
        };
        let length = self.meta.geometry.piece_length(piece);
        let usual = length == self.meta.geometry.nominal_piece_length();
        // Who reads it already does not wait for others.
        let together = pays && usual && !self.look(|swarm| swarm.awaited(piece));
        let buffer = {
            let mut pieces = self.assembly.lock();
            if let Some(found) = pieces.find(piece, attempt) {
                return Ok(found);
            }
            let Some(hash) = self.meta.piece_hashes.get(piece) else { return Ok(None) };
            let make = if together { PieceBuf::hashed_when_whole } else { PieceBuf::new };
            let buffer = make(length, *hash, &self.shared.place(length), &self.shared.pool)?;
            let buffer = Arc::new(if self.entry.is_some() { buffer.with_sums() } else { buffer });
            pieces.partial.insert(piece, (attempt, Arc::clone(&buffer)));
            buffer
        };
        // The attempt may have ended before the buffer was there to be dropped.
        if self.look(|swarm| swarm.attempt(piece)) == Some(attempt) {
            return Ok(Some(buffer));
        }
        self.discard(piece, attempt);
        Ok(None)
    }

    /// An attempt at a piece is over.
    pub(super) fn discard(&self, piece: PieceIndex, attempt: u32) {
        let partial = &mut self.assembly.lock().partial;
        if partial.get(&piece).is_some_and(|(a, _)| *a <= attempt) {
            partial.remove(&piece);
        }
    }

    /// A whole piece waits for the others of its batch, or completes it.
    fn hold(self: &Arc<Self>, whole: Whole) {
        let (now, begun) = (Instant::now(), self.begun());
        let held = {
            let batch = &mut self.assembly.lock().batch;
            batch.is_whole(now);
            batch.hold(now, whole, begun)
        };
        match held {
            Held::Waits => {}
            Held::Full(batch) => self.verify(batch),
            Held::First(number) => {
                let torrent = Arc::clone(self);
                self.shared.runtime.spawn(async move {
                    tokio::time::sleep(Batch::<Whole>::PATIENCE).await;
                    let batch = torrent.assembly.lock().batch.end(number);
                    torrent.verify(batch);
                });
            }
        }
    }

    /// The verdict on a batch, and on what waited for nothing else.
    fn verify(&self, mut batch: Vec<Whole>) {
        while !batch.is_empty() {
            let (attempts, bytes): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|w| ((w.piece, w.attempt), w.bytes)).unzip();
            for ((piece, attempt), verdict) in attempts.into_iter().zip(Unverified::verify(bytes)) {
                self.judged(piece, attempt, verdict);
            }
            batch = self.over();
        }
    }

    /// What waits though nothing else is on its way.
    fn over(&self) -> Vec<Whole> {
        if self.assembly.lock().batch.is_empty() {
            return Vec::new();
        }
        let begun = self.begun();
        self.assembly.lock().batch.end_if_over(begun)
    }

    /// The verdict on whatever waits: no more blocks come.
    pub(super) fn verify_all(&self) {
        let batch = self.assembly.lock().batch.end_now();
        self.verify(batch);
    }

    /// Pieces that are asked for or wait for their verdict.
    fn begun(&self) -> usize {
        self.look(Swarm::under_way) as usize
    }

    /// A whole piece passed its hash, or did not, or cannot be put together here (a full disk under a large piece) and is
    /// begun anew.
    fn judged(&self, piece: PieceIndex, attempt: u32, verdict: io::Result<Filled>) {
        self.discard(piece, attempt);
        match verdict {
            Ok(Filled::Done(verified)) => self.verified(piece, Arc::new(verified)),
            Ok(Filled::Failed(digests)) => {
                debug!(torrent = %self.meta.name, piece = piece.0, "a piece fails its hash");
                self.tell(Input::PieceFailed(piece, &digests));
            }
            Ok(Filled::More | Filled::Whole(_) | Filled::Stale) => {}
            Err(e) => {
                error!(torrent = %self.meta.name, piece = piece.0, "a piece cannot be assembled: {e}");
                self.tell(Input::Unassembled { piece, attempt });
            }
        }
    }
}
