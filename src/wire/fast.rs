//! The allowed-fast set (BEP 6): pieces that a peer may ask for while it is choked, the same for all who compute it.

use std::net::Ipv4Addr;

use sha1::{Digest, Sha1};

use crate::metainfo::PieceIndex;

/// The first `k` pieces of the allowed-fast set of the peer at `ip`, in the order of BEP 6; all pieces of a torrent that
/// has fewer. Meant for a `k` of about ten: the cost grows with it.
#[must_use]
pub fn allowed_fast_set(info_hash: &[u8; 20], ip: Ipv4Addr, pieces: u32, k: usize) -> Vec<PieceIndex> {
    if k >= pieces as usize {
        return (0..pieces).map(PieceIndex).collect();
    }
    let mut set = Vec::with_capacity(k);
    // Peers of one /24 share a set, so that many addresses of one host gain nothing.
    let [a, b, c, _] = ip.octets();
    let mut state: [u8; 20] = Sha1::new().chain_update([a, b, c, 0]).chain_update(info_hash).finalize().into();
    while set.len() < k {
        for word in state.as_chunks::<4>().0 {
            let piece = PieceIndex(u32::from_be_bytes(*word) % pieces);
            if set.len() < k && !set.contains(&piece) {
                set.push(piece);
            }
        }
        state = Sha1::digest(state).into();
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ip: [u8; 4], pieces: u32, k: usize) -> Vec<u32> {
        allowed_fast_set(&[0xAA; 20], ip.into(), pieces, k).into_iter().map(|p| p.0).collect()
    }

    #[test]
    fn the_vectors_of_bep_6() {
        let nine = [1059, 431, 808, 1217, 287, 376, 1188, 353, 508];
        assert_eq!(set([80, 4, 4, 200], 1313, 7), nine[..7]);
        assert_eq!(set([80, 4, 4, 200], 1313, 9), nine);
        assert_eq!(set([80, 4, 4, 7], 1313, 9), nine, "one /24, one set");
        assert_ne!(set([80, 4, 5, 200], 1313, 9), nine);
    }

    #[test]
    fn small_torrents_end() {
        assert!(set([1, 2, 3, 4], 0, 10).is_empty());
        assert_eq!(set([1, 2, 3, 4], 3, 10), [0, 1, 2]);
        assert_eq!(set([1, 2, 3, 4], 1, 1), [0]);
        let mut most = set([1, 2, 3, 4], 11, 10);
        most.sort_unstable();
        most.dedup();
        assert_eq!(most.len(), 10);
    }
}
