//! Torrents are known by the hash of their `info` dictionary.

use std::fmt;

use sha1::{Digest, Sha1};
use sha2::Sha256;

/// SHA-1 of the raw `info` value (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHash(pub [u8; 20]);

impl InfoHash {
    /// The hash of a raw `info` value.
    #[must_use]
    pub fn of(info: &[u8]) -> Self {
        Self(Sha1::digest(info).into())
    }
}

/// SHA-256 of the raw `info` value (BEP 52).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashV2(pub [u8; 32]);

impl InfoHashV2 {
    /// The hash of a raw `info` value.
    #[must_use]
    pub fn of(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }
}

/// A torrent's identity: one hash or, for a hybrid, both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentId {
    /// The v1 info-hash.
    pub v1: Option<InfoHash>,
    /// The v2 info-hash.
    pub v2: Option<InfoHashV2>,
}

impl TorrentId {
    /// The 20 bytes that handshakes and announces carry: v1's hash, else v2's cut short (BEP 52).
    #[must_use]
    pub fn wire(&self) -> [u8; 20] {
        let mut out = [0; 20];
        match (self.v1, self.v2) {
            (Some(v1), _) => out = v1.0,
            (None, Some(v2)) => out.copy_from_slice(&v2.0[..20]),
            (None, None) => {}
        }
        out
    }

    /// The first 8 hexadecimal digits: tells two torrents of one name apart.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for TorrentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match (&self.v1, &self.v2) {
            (Some(v1), _) => &v1.0,
            (None, Some(v2)) => &v2.0,
            (None, None) => &[],
        };
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_their_texts() {
        let v1 = InfoHash::of(b"abc");
        let v2 = InfoHashV2::of(b"abc");
        let both = TorrentId { v1: Some(v1), v2: Some(v2) };
        assert_eq!(both.to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!((both.short(), both.wire()), ("a9993e36".to_owned(), v1.0));
        let only = TorrentId { v1: None, v2: Some(v2) };
        assert_eq!(only.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(only.wire()[..], v2.0[..20]);
    }
}
