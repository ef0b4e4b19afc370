//! The pieces that were used longest ago, some at a time: to keep all of them in order would cost a hundred bytes a piece.

use std::collections::BinaryHeap;
use std::sync::Arc;

use super::clock::Tick;
use super::entry::Entry;
use crate::metainfo::PieceIndex;

/// How many are found by one look at all pieces.
const MANY: usize = 1024;

/// A piece, and when it was used last.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    pub(super) piece: PieceIndex,
    pub(super) tick: Tick,
}

/// The pieces that were used longest ago when it was made.
#[derive(Debug, Default)]
pub(super) struct Oldest(Vec<Found>);

impl Oldest {
    pub(super) fn of(entries: &[Arc<Entry>]) -> Self {
        // The youngest of those found so far is on top.
        let mut heap = BinaryHeap::with_capacity(MANY + 1);
        for (at, entry) in entries.iter().enumerate() {
            let pins = entry.pins();
            let pinned = |piece: PieceIndex| pins.iter().any(|pieces| pieces.contains(&piece.0));
            for piece in entry.held() {
                let Some(tick) = entry.tick(piece).filter(|_| !pinned(piece)) else { continue };
                let found = (tick, at, piece);
                if heap.len() < MANY {
                    heap.push(found);
                } else if heap.peek().is_some_and(|youngest| found < *youngest) {
                    heap.pop();
                    heap.push(found);
                }
            }
        }
        let sorted = heap.into_sorted_vec().into_iter().rev();
        let found =
            sorted.filter_map(|(tick, at, piece)| Some(Found { entry: Arc::clone(entries.get(at)?), piece, tick }));
        Self(found.collect())
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Found> {
        self.0.pop()
    }
}
