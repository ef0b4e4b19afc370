//! A .torrent file as a validated value (BEP 3, BEP 12, BEP 19, BEP 27, BEP 47).

use std::ops::Range;

use super::{Geometry, PieceIndex, TorrentId};

/// A validated torrent.
#[derive(Clone, Debug)]
pub struct Metainfo {
    /// Its identity.
    pub id: TorrentId,
    /// Its name made safe: one path component, never empty.
    pub name: String,
    /// True if the torrent is one file, not a directory.
    pub single_file: bool,
    /// Its sizes.
    pub geometry: Geometry,
    /// The hash of every piece.
    pub piece_hashes: PieceHashes,
    /// Its files in torrent order.
    pub files: Vec<File>,
    /// Announce URLs in tiers (BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Peers come from the trackers alone (BEP 27).
    pub private: bool,
    /// The comment.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made, seconds since 1970.
    pub creation_date: Option<i64>,
}

/// One SHA-1 per piece.
#[derive(Clone, Debug)]
pub struct PieceHashes(pub(crate) Box<[u8]>);

impl PieceHashes {
    /// The hash of a piece.
    #[must_use]
    pub fn get(&self, piece: PieceIndex) -> Option<&[u8; 20]> {
        self.0.as_chunks().0.get(piece.0 as usize)
    }
}

/// A file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its safe path, `/` between components, below the torrent's own directory; a single file's is the name.
    pub path: Box<str>,
    /// Offset of its first byte in the torrent.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: FileKind,
}

impl File {
    /// Its torrent bytes.
    #[must_use]
    pub fn bytes(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// True if it appears in the directory.
    #[must_use]
    pub fn visible(&self) -> bool {
        !matches!(self.kind, FileKind::Pad | FileKind::Hidden)
    }
}

/// What a file of a torrent is (BEP 47).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes.
    Regular {
        /// The executable bit.
        executable: bool,
    },
    /// A link to another place in the torrent, as readlink gives it.
    Symlink {
        /// Relative to the link's own directory.
        target: Box<str>,
    },
    /// Alignment (BEP 47); not shown.
    Pad,
    /// Not shown: a link that would lead out of the torrent.
    Hidden,
}

/// Why a .torrent file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Sizes out of bounds.
    #[error(transparent)]
    Geometry(#[from] super::GeometryError),
}
