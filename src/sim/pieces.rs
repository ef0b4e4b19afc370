//! The pieces of a node: those that are there, in a bounded LRU, and those that are being assembled.

use std::collections::BTreeMap;

use super::world::NodeIndex;
use crate::metainfo::{Block, Geometry, PieceIndex};
use crate::swarm::BlockDigest;

/// Pieces that are there.
#[derive(Debug)]
pub(super) enum Store {
    /// All of them, for good: a seed's data.
    Everything,
    /// The memory cache.
    Lru {
        /// Pieces that it holds.
        capacity: usize,
        /// When each was used last, in a count of uses.
        used: BTreeMap<PieceIndex, u64>,
        order: BTreeMap<u64, PieceIndex>,
        uses: u64,
    },
}

impl Store {
    pub(super) fn lru(capacity: usize) -> Self {
        Self::Lru { capacity: capacity.max(1), used: BTreeMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// True if it is there; it is now the one used last.
    pub(super) fn touch(&mut self, piece: PieceIndex) -> bool {
        let Self::Lru { used, order, uses, .. } = self else { return true };
        let Some(at) = used.get_mut(&piece) else { return false };
        order.remove(at);
        *uses += 1;
        *at = *uses;
        order.insert(*uses, piece);
        true
    }

    pub(super) fn contains(&self, piece: PieceIndex) -> bool {
        match self {
            Self::Everything => true,
            Self::Lru { used, .. } => used.contains_key(&piece),
        }
    }

    /// The piece that must go before another one fits: the one used longest ago that nobody holds.
    pub(super) fn surplus(&self, held: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        match self {
            Self::Lru { capacity, used, order, .. } if used.len() >= *capacity => {
                order.values().copied().find(|&piece| !held(piece))
            }
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, piece: PieceIndex) {
        if let Self::Lru { used, order, .. } = self
            && let Some(at) = used.remove(&piece)
        {
            order.remove(&at);
        }
    }

    pub(super) fn insert(&mut self, piece: PieceIndex) {
        if let Self::Lru { used, order, uses, .. } = self {
            *uses += 1;
            if let Some(old) = used.insert(piece, *uses) {
                order.remove(&old);
            }
            order.insert(*uses, piece);
        }
    }
}

/// A piece that is being assembled.
#[derive(Clone, Debug)]
pub(super) struct Partial {
    /// For each block: whether it is there, and who lied if its bytes are wrong.
    blocks: Vec<Option<Option<NodeIndex>>>,
    missing: usize,
    /// Tells this assembly from an earlier one of the same piece.
    pub(super) attempt: u32,
}

impl Partial {
    pub(super) fn new(blocks: u32, attempt: u32) -> Self {
        let blocks = vec![None; blocks as usize];
        Self { missing: blocks.len(), blocks, attempt }
    }

    /// Puts a block in; false if it was there already.
    pub(super) fn fill(&mut self, block: Block, liar: Option<NodeIndex>) -> bool {
        match self.blocks.get_mut(block.index as usize) {
            Some(place @ None) => {
                *place = Some(liar);
                self.missing -= 1;
                true
            }
            _ => false,
        }
    }

    /// True if the block is there.
    pub(super) fn has(&self, block: Block) -> bool {
        matches!(self.blocks.get(block.index as usize), Some(Some(_)))
    }

    pub(super) fn full(&self) -> bool {
        self.missing == 0
    }

    pub(super) fn corrupt(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block, Some(Some(_))))
    }

    /// What the hashes of these blocks would be.
    pub(super) fn digests(&self, piece: PieceIndex) -> Vec<BlockDigest> {
        self.blocks.iter().zip(0..).map(|(block, index)| digest(piece, index, block.flatten())).collect()
    }
}

/// The digests of a piece whose bytes are right.
pub(super) fn right_digests(geometry: &Geometry, piece: PieceIndex) -> Vec<BlockDigest> {
    (0..geometry.blocks(piece)).map(|index| digest(piece, index, None)).collect()
}

/// Stands for a hash: differs by block, and by who made it wrong.
fn digest(piece: PieceIndex, index: u32, liar: Option<NodeIndex>) -> BlockDigest {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&piece.0.to_be_bytes());
    out[4..8].copy_from_slice(&index.to_be_bytes());
    out[8..16].copy_from_slice(&liar.map_or(0, |liar| liar.0 as u64 + 1).to_be_bytes());
    BlockDigest(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_piece_goes_first() {
        let mut store = Store::lru(3);
        for n in 0..3 {
            assert_eq!(store.surplus(|_| false), None);
            store.insert(PieceIndex(n));
        }
        assert!(store.touch(PieceIndex(0)));
        assert_eq!(store.surplus(|_| false), Some(PieceIndex(1)));
        assert_eq!(store.surplus(|p| p == PieceIndex(1)), Some(PieceIndex(2)));
        store.remove(PieceIndex(1));
        assert!(!store.touch(PieceIndex(1)));
        store.insert(PieceIndex(7));
        assert_eq!(store.surplus(|_| false), Some(PieceIndex(2)));
    }

    #[test]
    fn a_corrupt_block_shows_in_the_digests() {
        let piece = PieceIndex(4);
        let mut partial = Partial::new(2, 0);
        assert!(partial.fill(Block { piece, index: 0 }, None));
        assert!(!partial.fill(Block { piece, index: 0 }, None));
        assert!(!partial.full());
        assert!(partial.fill(Block { piece, index: 1 }, Some(NodeIndex(0))));
        assert!(partial.full() && partial.corrupt());
        let right = right_digests(&Geometry::new(32 << 14, 2 << 14).unwrap(), piece);
        let ours = partial.digests(piece);
        assert_eq!(ours[0], right[0]);
        assert_ne!(ours[1], right[1]);
    }
}
