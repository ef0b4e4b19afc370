//! Which torrent a peer means that dials us: by info-hash (BEP 3), or veiled where the connection is encrypted.

use std::collections::BTreeMap;

use crate::swarm::TorrentKey;
use crate::wire::mse::obfuscated;

/// The session's torrents by info-hash. What veiled hashes are compared with is computed once for each torrent: a stranger
/// must not make us hash all of them.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    torrents: BTreeMap<[u8; 20], TorrentKey>,
    veiled: BTreeMap<[u8; 20], [u8; 20]>,
}

impl Hashes {
    pub(super) fn get(&self, info_hash: &[u8; 20]) -> Option<&TorrentKey> {
        self.torrents.get(info_hash)
    }

    pub(super) fn contains_key(&self, info_hash: &[u8; 20]) -> bool {
        self.torrents.contains_key(info_hash)
    }

    /// The info-hash that [`obfuscated`] makes this of.
    pub(super) fn unveil(&self, which: &[u8; 20]) -> Option<[u8; 20]> {
        self.veiled.get(which).copied()
    }

    pub(super) fn insert(&mut self, info_hash: [u8; 20], key: TorrentKey) {
        self.torrents.insert(info_hash, key);
        self.veiled.insert(obfuscated(&info_hash), info_hash);
    }

    pub(super) fn remove(&mut self, info_hash: &[u8; 20]) {
        self.torrents.remove(info_hash);
        self.veiled.remove(&obfuscated(info_hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_is_found_by_both_of_its_names_until_it_goes() {
        let mut hashes = Hashes::default();
        hashes.insert([1; 20], TorrentKey(1));
        hashes.insert([2; 20], TorrentKey(2));
        assert_eq!(hashes.get(&[2; 20]), Some(&TorrentKey(2)));
        assert_eq!(hashes.unveil(&obfuscated(&[2; 20])), Some([2; 20]));
        hashes.remove(&[2; 20]);
        assert!(!hashes.contains_key(&[2; 20]) && hashes.contains_key(&[1; 20]));
        assert_eq!(hashes.unveil(&obfuscated(&[2; 20])), None);
    }
}
