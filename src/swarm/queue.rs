//! The pieces that have something left to ask for, most urgent first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use super::demand::Turn;
use crate::metainfo::PieceIndex;

/// How urgent a piece is; the smaller, the sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A read waits for it.
    Read(Turn),
    /// A reader will come to it at about this time.
    Ahead(Instant),
    /// Begun in the background.
    Background,
}

/// The queue, and the bytes in it that have no memory yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<(Rank, PieceIndex)>,
    filed: BTreeMap<PieceIndex, (Rank, u64)>,
    /// Bytes of pieces that reads wait for and that are not begun.
    pub(super) read_bytes: u64,
    /// Bytes of pieces of read-ahead that are not begun.
    pub(super) ahead_bytes: u64,
}

impl Queue {
    /// Files a piece, or takes it out: its rank, and its length if it is not begun (else 0).
    pub(super) fn put(&mut self, piece: PieceIndex, to: Option<(Rank, u64)>) {
        if self.filed.get(&piece).copied() == to {
            return;
        }
        if let Some((rank, bytes)) = self.filed.remove(&piece) {
            self.order.remove(&(rank, piece));
            *self.sum(rank) -= bytes;
        }
        if let Some((rank, bytes)) = to {
            self.filed.insert(piece, (rank, bytes));
            self.order.insert((rank, piece));
            *self.sum(rank) += bytes;
        }
    }

    fn sum(&mut self, rank: Rank) -> &mut u64 {
        if matches!(rank, Rank::Read(_)) { &mut self.read_bytes } else { &mut self.ahead_bytes }
    }

    /// What comes after `last`, in order.
    pub(super) fn after(&self, last: Option<(Rank, PieceIndex)>) -> impl Iterator<Item = (Rank, PieceIndex)> + '_ {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.order.range((from, Bound::Unbounded)).copied()
    }

    /// What readers want and comes after `last`, in order.
    pub(super) fn demand(&self, last: Option<(Rank, PieceIndex)>) -> impl Iterator<Item = (Rank, PieceIndex)> + '_ {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.order.range((from, Bound::Excluded((Rank::Background, PieceIndex(0))))).copied()
    }

    /// What the background has begun, and what of it has failed and is to be begun again.
    pub(super) fn background(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.order.range((Rank::Background, PieceIndex(0))..).map(|&(_, piece)| piece)
    }
}
