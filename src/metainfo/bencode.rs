//! The check that stands in front of every bencode parser: iterative, with limits on depth, items and length, so that a
//! hostile input is refused and never recursed into.

/// Limits of one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lists and dictionaries inside each other.
    pub depth: usize,
    /// Values in all, keys included.
    pub items: usize,
}

impl Limits {
    /// .torrent files: libtorrent's limits for files.
    pub const METAINFO: Self = Self { depth: 100, items: 3_000_000 };
    /// Peers, trackers and the DHT.
    pub const WIRE: Self = Self { depth: 32, items: 10_000 };
}
