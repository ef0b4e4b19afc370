//! Pieces that are whole and wait for their hash, to be hashed together.

use std::io;

use sha1::{Digest, Sha1};

use super::assembly::{Filled, heavy};
use super::lanes::{self, LANES};
use super::place::Store;
use super::verified::{Verified, digests};

/// Fewer pieces are hashed sooner one by one than in lanes that are not all of use.
const FEWEST: usize = 3;

/// The bytes of a whole piece that nobody has hashed yet.
#[derive(Debug)]
pub struct Unverified {
    pub(super) store: Store,
    pub(super) length: u32,
    pub(super) expected: [u8; 20],
    /// The checksum of every block for the disk store, if they are wanted.
    pub(super) sums: Option<Box<[u32]>>,
}

impl Unverified {
    /// Pieces that are hashed together at the least cost each.
    pub const BATCH: usize = LANES;

    /// Hashes some pieces: [`Filled::Done`] or [`Filled::Failed`] for each, in order, or what the file of a piece that
    /// lies in one says. Up to [`Unverified::BATCH`] of one length in memory are hashed at once, others one by one.
    pub fn verify(pieces: Vec<Self>) -> Vec<io::Result<Filled>> {
        let bytes = pieces.iter().fold(0_u32, |sum, piece| sum.saturating_add(piece.length));
        heavy(bytes, || {
            let together = Self::hash_together(&pieces);
            let verdict = |(i, piece): (usize, Self)| {
                let passed =
                    together.as_ref().and_then(|hashes| hashes.get(i)).is_some_and(|hash| *hash == piece.expected);
                if passed {
                    Ok(Filled::Done(Verified::new(piece.store, piece.length, piece.sums)))
                } else {
                    piece.verify_alone()
                }
            };
            pieces.into_iter().enumerate().map(verdict).collect()
        })
    }

    fn hash_together(pieces: &[Self]) -> Option<[[u8; 20]; LANES]> {
        let bytes: Vec<&[u8]> = pieces.iter().map_while(|piece| piece.store.bytes()).collect();
        if bytes.len() < pieces.len() || !(FEWEST..=LANES).contains(&bytes.len()) {
            return None;
        }
        lanes::sha1(&std::array::from_fn(|lane| bytes[lane % bytes.len()]))
    }

    fn verify_alone(self) -> io::Result<Filled> {
        let mut hasher = Sha1::new();
        self.store.scan(0..self.length, |part| hasher.update(part))?;
        self.judge(&hasher.finalize().into())
    }

    /// The verdict, if this is its hash.
    pub(super) fn judge(self, hash: &[u8; 20]) -> io::Result<Filled> {
        if *hash == self.expected {
            Ok(Filled::Done(Verified::new(self.store, self.length, self.sums)))
        } else {
            Ok(Filled::Failed(digests(&self.store, self.length)?))
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests {
    use super::super::{PieceBuf, Place, Pool};
    use super::*;
    use crate::metainfo::BLOCK_LENGTH;

    fn unverified(bytes: &[u8], expected: &[u8], place: &Place) -> Unverified {
        let hash = Sha1::digest(expected).into();
        let piece = PieceBuf::hashed_when_whole(bytes.len() as u32, hash, place, &Pool::new()).unwrap();
        let blocks = bytes.chunks(BLOCK_LENGTH as usize).enumerate();
        for (index, block) in blocks {
            if let Filled::Whole(whole) = piece.fill(index as u32 * BLOCK_LENGTH, block).unwrap() {
                return whole;
            }
        }
        panic!("not whole")
    }

    /// Batches of every size, some of them with a piece of another length, a piece in a file and a wrong one.
    #[test]
    fn each_piece_gets_its_own_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let file = Place::TempFile(dir.path().into());
        for count in 0..=Unverified::BATCH + 1 {
            for (short, filed, wrong) in [(99, 99, 99), (3, 99, 99), (99, 2, 99), (99, 99, 4), (1, 4, 6)] {
                let contents: Vec<Vec<u8>> =
                    (0..count).map(|i| vec![i as u8; 3 * BLOCK_LENGTH as usize - usize::from(i == short)]).collect();
                let pieces = contents.iter().enumerate().map(|(i, bytes)| {
                    let place = if i == filed { &file } else { &Place::Memory };
                    unverified(bytes, if i == wrong { b"something else" } else { bytes }, place)
                });
                let verdicts = Unverified::verify(pieces.collect());
                assert_eq!(verdicts.len(), count);
                for (i, (verdict, bytes)) in verdicts.into_iter().zip(&contents).enumerate() {
                    match verdict.unwrap() {
                        Filled::Done(verified) => {
                            let mut back = vec![0; bytes.len()];
                            verified.read_at(0, &mut back).unwrap();
                            assert!(i != wrong && back == *bytes && verified.len() as usize == bytes.len());
                        }
                        Filled::Failed(digests) => assert!(i == wrong && digests.len() == 3),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
}
