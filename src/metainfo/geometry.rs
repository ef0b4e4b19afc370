//! File, torrent, piece and block coordinates. All sizes and offsets are bytes; all ranges are half-open.

use std::ops::Range;

/// The unit of a request: 16 KiB, the only size that every client serves.
pub const BLOCK_LENGTH: u32 = 16 * 1024;

/// A piece of a torrent, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

/// A block: the `index`-th 16 KiB of a piece, counted from 0. The last one of a piece may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The piece.
    pub piece: PieceIndex,
    /// The block's place in the piece.
    pub index: u32,
}

/// A range of bytes inside one piece as the wire names it (BEP 3 `request`, `piece`, `cancel`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The piece.
    pub piece: PieceIndex,
    /// Offset in the piece, bytes.
    pub begin: u32,
    /// Length, bytes.
    pub length: u32,
}

/// Why sizes make no torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A piece length of 0 or over 512 MiB.
    #[error("the piece length is {0} bytes: it must be from 1 byte to 512 MiB")]
    PieceLength(u64),
    /// A torrent of no bytes or over 2^48 - 1.
    #[error("the total size is {0} bytes: it must be from 1 byte to 2^48 - 1")]
    Total(u64),
    /// Over 2,097,152 pieces.
    #[error("{0} pieces are more than the 2,097,152 that are supported")]
    Pieces(u64),
}

/// The sizes of a torrent: how bytes fall into pieces and blocks.
///
/// A v1 torrent is one run of bytes cut every `piece_length`. (v2 will align files to pieces: callers ask
/// [`Geometry::piece_length`] for each piece and never assume that only the last one is short.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    total: u64,
    piece_length: u32,
    pieces: u32,
}

impl Geometry {
    /// The largest piece: 512 MiB.
    pub const MAX_PIECE_LENGTH: u32 = 512 << 20;
    /// The most pieces: libtorrent's limit.
    pub const MAX_PIECES: u32 = 0x20_0000;
    /// The largest torrent, bytes.
    pub const MAX_TOTAL: u64 = (1 << 48) - 1;

    /// The geometry of `total` bytes in pieces of `piece_length`.
    ///
    /// # Errors
    /// A [`GeometryError`] if either is out of bounds.
    pub fn new(total: u64, piece_length: u64) -> Result<Self, GeometryError> {
        let length = u32::try_from(piece_length)
            .ok()
            .filter(|&l| l > 0 && l <= Self::MAX_PIECE_LENGTH)
            .ok_or(GeometryError::PieceLength(piece_length))?;
        if total == 0 || total > Self::MAX_TOTAL {
            return Err(GeometryError::Total(total));
        }
        let count = total.div_ceil(piece_length);
        let pieces =
            u32::try_from(count).ok().filter(|&n| n <= Self::MAX_PIECES).ok_or(GeometryError::Pieces(count))?;
        Ok(Self { total, piece_length: length, pieces })
    }

    /// Bytes of the torrent.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Number of pieces.
    #[must_use]
    pub fn pieces(&self) -> u32 {
        self.pieces
    }

    /// The piece length that the metainfo states: that of every piece but, perhaps, the last.
    #[must_use]
    pub fn nominal_piece_length(&self) -> u32 {
        self.piece_length
    }

    /// The index as a piece of this torrent, if it is one.
    #[must_use]
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.pieces).then_some(PieceIndex(index))
    }

    /// All pieces in order.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// Offset of a piece in the torrent.
    #[must_use]
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// Bytes of this piece.
    #[must_use]
    pub fn piece_length(&self, piece: PieceIndex) -> u32 {
        debug_assert!(piece.0 < self.pieces);
        u32::try_from(self.total.saturating_sub(self.piece_offset(piece)))
            .map_or(self.piece_length, |l| l.min(self.piece_length))
    }

    /// Blocks of this piece.
    #[must_use]
    pub fn blocks(&self, piece: PieceIndex) -> u32 {
        self.piece_length(piece).div_ceil(BLOCK_LENGTH)
    }

    /// The request that fetches a block.
    #[must_use]
    pub fn request(&self, block: Block) -> Request {
        let begin = block.index * BLOCK_LENGTH;
        Request { piece: block.piece, begin, length: (self.piece_length(block.piece) - begin).min(BLOCK_LENGTH) }
    }

    /// The block that a request names, if it is exactly one of ours.
    #[must_use]
    pub fn block(&self, request: Request) -> Option<Block> {
        self.piece(request.piece.0)?;
        let block = Block { piece: request.piece, index: request.begin / BLOCK_LENGTH };
        (block.index < self.blocks(block.piece) && self.request(block) == request).then_some(block)
    }

    /// True if the range lies inside its piece and is not empty.
    #[must_use]
    pub fn contains(&self, request: Request) -> bool {
        request.piece.0 < self.pieces
            && request.length > 0
            && u64::from(request.begin) + u64::from(request.length) <= u64::from(self.piece_length(request.piece))
    }

    /// The piece that holds a torrent byte. `offset` must be below [`Geometry::total`].
    #[must_use]
    pub fn piece_at(&self, offset: u64) -> PieceIndex {
        debug_assert!(offset < self.total);
        PieceIndex(u32::try_from(offset / u64::from(self.piece_length)).unwrap_or(u32::MAX))
    }

    /// The pieces that overlap a range of torrent bytes; none for an empty range.
    pub fn pieces_of(&self, bytes: Range<u64>) -> impl DoubleEndedIterator<Item = PieceIndex> + use<> {
        let end = bytes.end.min(self.total);
        let range = if bytes.start < end { self.piece_at(bytes.start).0..self.piece_at(end - 1).0 + 1 } else { 0..0 };
        range.map(PieceIndex)
    }

    /// The range of pieces that overlap a range of torrent bytes; none for an empty range.
    #[must_use]
    pub fn covering(&self, bytes: Range<u64>) -> Option<Range<u32>> {
        let mut pieces = self.pieces_of(bytes);
        let first = pieces.next()?.0;
        Some(first..pieces.next_back().map_or(first, |piece| piece.0) + 1)
    }

    /// The part of a range of torrent bytes that lies in a piece, as offsets in the piece.
    #[must_use]
    pub fn within(&self, piece: PieceIndex, bytes: &Range<u64>) -> Range<u32> {
        let offset = self.piece_offset(piece);
        let length = self.piece_length(piece);
        let clamp = |at: u64| u32::try_from(at.saturating_sub(offset)).map_or(length, |v| v.min(length));
        clamp(bytes.start)..clamp(bytes.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sizes small enough to enumerate: piece lengths on both sides of a block.
    fn sizes() -> impl Strategy<Value = Geometry> {
        let piece_length = prop_oneof![1_u64..40, (BLOCK_LENGTH - 2).into()..u64::from(BLOCK_LENGTH) * 3 + 2];
        (piece_length, 0_u64..4, any::<u16>()).prop_map(|(length, whole, rest)| {
            let total = whole * length + u64::from(rest) % length + 1;
            Geometry::new(total, length).expect("within the limits")
        })
    }

    /// The naive model: every byte of the torrent with its piece and its place in the piece.
    fn bytes(geometry: &Geometry) -> impl Iterator<Item = (u64, u32, u32)> + use<> {
        let length = geometry.nominal_piece_length();
        let (mut piece, mut place) = (0, 0);
        (0..geometry.total()).map(move |offset| {
            let now = (offset, piece, place);
            place += 1;
            if place == length {
                (piece, place) = (piece + 1, 0);
            }
            now
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Piece counts, lengths, offsets, blocks and requests are those that counting bytes gives.
        #[test]
        fn pieces_and_blocks_tile_the_torrent(geometry in sizes()) {
            let mut lengths = Vec::new();
            for (offset, piece, place) in bytes(&geometry) {
                if place == 0 {
                    prop_assert_eq!(geometry.piece_offset(PieceIndex(piece)), offset);
                    lengths.push(0_u32);
                }
                *lengths.last_mut().unwrap() += 1;
                prop_assert_eq!(geometry.piece_at(offset), PieceIndex(piece));
            }
            let stated: Vec<u32> = geometry.all().map(|piece| geometry.piece_length(piece)).collect();
            prop_assert_eq!(&stated, &lengths);
            prop_assert_eq!(geometry.piece(geometry.pieces()), None);
            for piece in geometry.all() {
                let mut next = 0;
                for index in 0..geometry.blocks(piece) {
                    let block = Block { piece, index };
                    let request = geometry.request(block);
                    prop_assert_eq!(request.begin, next);
                    prop_assert!(request.length > 0 && request.length <= BLOCK_LENGTH);
                    prop_assert_eq!(geometry.block(request), Some(block));
                    next += request.length;
                }
                prop_assert_eq!(next, geometry.piece_length(piece));
            }
        }

        /// The pieces of a range, and the parts of it in each, are those that its bytes are in.
        #[test]
        fn ranges_fall_into_pieces(geometry in sizes(), a in any::<u64>(), b in any::<u64>(), short in any::<bool>()) {
            let start = a % (geometry.total() + 2);
            let range = start..start + b % if short { 3 } else { geometry.total() + 2 };
            let mut expected: Vec<(u32, Range<u32>)> = Vec::new();
            for (_, piece, place) in bytes(&geometry).filter(|(offset, ..)| range.contains(offset)) {
                match expected.last_mut() {
                    Some((last, places)) if *last == piece => places.end = place + 1,
                    _ => expected.push((piece, place..place + 1)),
                }
            }
            let pieces: Vec<_> = geometry.pieces_of(range.clone()).map(|p| (p.0, geometry.within(p, &range))).collect();
            prop_assert_eq!(pieces, expected);
        }

        /// `block` takes our own blocks only; `contains` takes what counting takes.
        #[test]
        fn requests_of_others(geometry in sizes(), piece in 0_u32..6, begin: u32, length: u32, near in any::<bool>()) {
            let (begin, length) = if near { (begin % 50_000, length % 20_000) } else { (begin, length) };
            let request = Request { piece: PieceIndex(piece), begin, length };
            let room = geometry.piece(piece).map_or(0, |piece| u64::from(geometry.piece_length(piece)));
            let inside = length > 0 && u64::from(begin) + u64::from(length) <= room;
            prop_assert_eq!(geometry.contains(request), inside);
            if let Some(block) = geometry.block(request) {
                prop_assert!(inside && begin % BLOCK_LENGTH == 0);
                prop_assert_eq!(geometry.request(block), request);
            }
        }
    }

    #[test]
    fn limits() {
        let most = u64::from(Geometry::MAX_PIECES);
        assert_eq!(Geometry::new(most * 16_384, 16_384).map(|g| g.pieces()), Ok(Geometry::MAX_PIECES));
        assert_eq!(Geometry::new(most * 16_384 + 1, 16_384), Err(GeometryError::Pieces(most + 1)));
        assert_eq!(Geometry::new(0, 16_384), Err(GeometryError::Total(0)));
        assert_eq!(Geometry::new(1, 0), Err(GeometryError::PieceLength(0)));
        assert_eq!(Geometry::new(1, (512 << 20) + 1), Err(GeometryError::PieceLength((512 << 20) + 1)));
        assert!(Geometry::new(Geometry::MAX_TOTAL, 512 << 20).is_ok());
        assert!(Geometry::new(Geometry::MAX_TOTAL + 1, 512 << 20).is_err());
        let largest = Geometry::new(Geometry::MAX_TOTAL, 512 << 20).unwrap();
        assert_eq!(largest.piece_at(Geometry::MAX_TOTAL - 1), PieceIndex(largest.pieces() - 1));
        assert!(largest.pieces_of(5..5).next().is_none());
    }
}
