//! The index of one torrent in the store: which pieces are there, when each was used last, and what the torrent has
//! given and taken in its life. One small file, checksummed and replaced as a whole.

use crate::metainfo::Geometry;

const MAGIC: &[u8; 8] = b"SWARMFS\n";
/// Of the whole directory of the store. Another version is dropped.
const VERSION: u32 = 1;
/// Bytes before the table.
const HEADER: usize = 8 + 4 + 20 + 8 + 4 + 1 + 8 + 8;

/// What the index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    /// The program ended as it should: all that the table names is in the files, and nothing else.
    pub(super) clean: bool,
    /// Payload bytes received from peers and sent to them, over all sessions.
    pub(super) downloaded: u64,
    pub(super) uploaded: u64,
    /// Per piece: when it was used last, seconds since 1970; 0 if it is not there.
    pub(super) used: Vec<u32>,
    /// Per piece: it was there after an unclean stop, and nobody has hashed it since.
    pub(super) suspect: Vec<bool>,
}

/// Why an index is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IndexError {
    #[error("its index is of another version of swarmfs")]
    Version,
    #[error("its index belongs to another torrent")]
    Torrent,
    #[error("its index is damaged")]
    Damaged,
}

impl Index {
    /// Bytes of the index of such a torrent.
    pub(super) fn length(geometry: &Geometry) -> usize {
        let pieces = geometry.pieces() as usize;
        HEADER + 4 * pieces + pieces.div_ceil(8) + 4
    }

    /// As the file has it.
    pub(super) fn encode(&self, id: &[u8; 20], geometry: &Geometry) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::length(geometry));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(id);
        out.extend_from_slice(&geometry.total().to_le_bytes());
        out.extend_from_slice(&geometry.nominal_piece_length().to_le_bytes());
        out.push(self.clean.into());
        out.extend_from_slice(&self.downloaded.to_le_bytes());
        out.extend_from_slice(&self.uploaded.to_le_bytes());
        out.extend(self.used.iter().flat_map(|used| used.to_le_bytes()));
        let bits = |eight: &[bool]| eight.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        out.extend(self.suspect.chunks(8).map(bits));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Reads the bytes of a file. Nothing is allocated that the torrent's own sizes do not ask for.
    ///
    /// # Errors
    /// Why it is of no use.
    pub(super) fn decode(bytes: &[u8], id: &[u8; 20], geometry: &Geometry) -> Result<Self, IndexError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(IndexError::Damaged)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(IndexError::Damaged)?;
        if magic == MAGIC && u32::from_le_bytes(*version) != VERSION {
            return Err(IndexError::Version);
        }
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(IndexError::Damaged)?;
        if magic != MAGIC || crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(IndexError::Damaged);
        }
        let (own_id, rest) = rest.split_first_chunk::<20>().ok_or(IndexError::Damaged)?;
        let (total, rest) = rest.split_first_chunk::<8>().ok_or(IndexError::Damaged)?;
        let (piece_length, rest) = rest.split_first_chunk::<4>().ok_or(IndexError::Damaged)?;
        let same = u64::from_le_bytes(*total) == geometry.total()
            && u32::from_le_bytes(*piece_length) == geometry.nominal_piece_length();
        if own_id != id || !same || bytes.len() != Self::length(geometry) {
            return Err(IndexError::Torrent);
        }
        let (&clean, rest) = rest.split_first().ok_or(IndexError::Damaged)?;
        let (downloaded, rest) = rest.split_first_chunk::<8>().ok_or(IndexError::Damaged)?;
        let (uploaded, rest) = rest.split_first_chunk::<8>().ok_or(IndexError::Damaged)?;
        let (table, rest) = rest.split_at_checked(4 * geometry.pieces() as usize).ok_or(IndexError::Damaged)?;
        let suspect = |piece: usize| rest.get(piece / 8).is_some_and(|byte| byte >> (piece % 8) & 1 == 1);
        Ok(Self {
            clean: clean == 1,
            downloaded: u64::from_le_bytes(*downloaded),
            uploaded: u64::from_le_bytes(*uploaded),
            used: table.as_chunks().0.iter().map(|used| u32::from_le_bytes(*used)).collect(),
            suspect: (0..geometry.pieces() as usize).map(suspect).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(pieces: u32) -> (Index, Geometry) {
        let geometry = Geometry::new(u64::from(pieces) * 100 - 1, 100).unwrap();
        let used = (0..pieces).map(|piece| piece % 3 * 1_700_000_000 / 2).collect();
        let suspect = (0..pieces).map(|piece| piece % 5 == 1).collect();
        (Index { clean: true, downloaded: 5, uploaded: u64::MAX, used, suspect }, geometry)
    }

    #[test]
    fn what_was_written_is_read() {
        let (index, geometry) = index(1000);
        let bytes = index.encode(&[7; 20], &geometry);
        assert_eq!(bytes.len(), Index::length(&geometry));
        assert_eq!(Index::decode(&bytes, &[7; 20], &geometry), Ok(index));
    }

    #[test]
    fn what_belongs_elsewhere_is_refused() {
        let (index, geometry) = index(10);
        let bytes = index.encode(&[7; 20], &geometry);
        assert_eq!(Index::decode(&bytes, &[8; 20], &geometry), Err(IndexError::Torrent));
        let other = Geometry::new(geometry.total() + 1, 100).unwrap();
        assert_eq!(Index::decode(&bytes, &[7; 20], &other), Err(IndexError::Torrent));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(Index::decode(&newer, &[7; 20], &geometry), Err(IndexError::Version));
    }

    proptest! {
        #[test]
        fn damage_is_seen(at in 0_usize..109, bit in 0_u8..8, cut in 0_usize..109) {
            let (index, geometry) = index(10);
            let mut bytes = index.encode(&[7; 20], &geometry);
            prop_assert!(Index::decode(&bytes[..cut.min(bytes.len() - 1)], &[7; 20], &geometry).is_err());
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Index::decode(&bytes, &[7; 20], &geometry).is_err());
        }

        #[test]
        fn anything_at_all_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_, geometry) = index(10);
            prop_assert!(Index::decode(&bytes, &[7; 20], &geometry).is_err());
        }
    }
}
