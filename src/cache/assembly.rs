//! A piece on its way: blocks come in any order, the contiguous beginning is hashed as it grows, and the last block
//! makes it a [`Verified`] piece or shows that it is wrong.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha1::{Digest, Sha1};

use super::verified::{Buffer, Bytes, Pool, Verified, digests};
use crate::metainfo::BLOCK_LENGTH;
use crate::swarm::BlockDigest;

/// Hashing more than this at once (1 ms) is announced to the runtime, so that other tasks move to another thread.
const LONG: u32 = 1 << 20;

/// Where a piece is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory.
    Memory,
    /// In an unlinked temporary file in this directory.
    TempFile(PathBuf),
}

/// What a block has made of its piece.
#[derive(Debug)]
pub enum Filled {
    /// More blocks are missing.
    More,
    /// All are there and the hash is right.
    Done(Verified),
    /// All are there and the hash is wrong; SHA-1 of every block in order.
    Failed(Vec<BlockDigest>),
    /// The block is there already, or the piece is complete.
    Stale,
}

/// A piece on its way.
#[derive(Debug)]
pub struct PieceBuf {
    length: u32,
    expected: [u8; 20],
    /// None once complete.
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    bytes: Bytes,
    have: Vec<bool>,
    missing: u32,
    /// Blocks that are hashed.
    hashed: u32,
    sha1: Sha1,
}

impl PieceBuf {
    /// An empty piece of `length` bytes whose SHA-1 must be `expected`.
    ///
    /// # Errors
    /// The temporary file's.
    pub fn new(length: u32, expected: [u8; 20], place: Place, pool: &Arc<Pool>) -> io::Result<Self> {
        let bytes = match place {
            Place::Memory => Bytes::Memory(Buffer { bytes: pool.take(length as usize), pool: Arc::clone(pool) }),
            Place::TempFile(dir) => Bytes::File(temporary(&dir)?),
        };
        let blocks = length.div_ceil(BLOCK_LENGTH);
        let state =
            State { bytes, have: vec![false; blocks as usize], missing: blocks, hashed: 0, sha1: Sha1::default() };
        Ok(Self { length, expected, state: Mutex::new(Some(state)) })
    }

    /// Puts in the block that begins at `begin`.
    ///
    /// # Errors
    /// `InvalidInput` if it is no block of this piece; the temporary file's.
    pub fn fill(&self, begin: u32, data: &[u8]) -> io::Result<Filled> {
        let whole = begin % BLOCK_LENGTH == 0
            && begin < self.length
            && data.len() == (self.length - begin).min(BLOCK_LENGTH) as usize;
        if !whole {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a block of this piece"));
        }
        let block = begin / BLOCK_LENGTH;
        let mut slot = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = slot.as_mut().filter(|s| !s.have[block as usize]) else { return Ok(Filled::Stale) };
        match &mut state.bytes {
            Bytes::Memory(buffer) => buffer.bytes[begin as usize..][..data.len()].copy_from_slice(data),
            Bytes::File(file) => file.write_all_at(data, begin.into())?,
        }
        state.have[block as usize] = true;
        state.missing -= 1;
        if state.hashed == block {
            state.sha1.update(data);
            state.hashed += 1;
            let ready = state.have[state.hashed as usize..].iter().take_while(|h| **h).count();
            state.hash(u32::try_from(ready).unwrap_or(0), self.length)?;
        }
        if state.missing > 0 {
            return Ok(Filled::More);
        }
        let Some(State { bytes, sha1, .. }) = slot.take() else { return Ok(Filled::Stale) };
        if <[u8; 20]>::from(sha1.finalize()) == self.expected {
            Ok(Filled::Done(Verified::new(self.length, bytes)))
        } else {
            digests(&bytes, self.length).map(Filled::Failed)
        }
    }
}

impl State {
    /// Hashes the next `count` blocks, which are there.
    fn hash(&mut self, count: u32, length: u32) -> io::Result<()> {
        let from = self.hashed * BLOCK_LENGTH;
        let to = ((self.hashed + count) * BLOCK_LENGTH).min(length);
        if from >= to {
            return Ok(());
        }
        let Self { bytes, sha1, .. } = self;
        let mut work = || match bytes {
            Bytes::Memory(buffer) => {
                sha1.update(&buffer.bytes[from as usize..to as usize]);
                Ok(())
            }
            Bytes::File(file) => {
                let mut part = vec![0; (to - from).min(LONG) as usize];
                for at in (from..to).step_by(LONG as usize) {
                    let part = &mut part[..(to - at).min(LONG) as usize];
                    file.read_exact_at(part, at.into())?;
                    sha1.update(part);
                }
                Ok(())
            }
        };
        let result = if to - from > LONG && in_workers() { tokio::task::block_in_place(work) } else { work() };
        self.hashed += count;
        result
    }
}

/// True on a worker of a multi-threaded runtime.
fn in_workers() -> bool {
    tokio::runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread)
}

/// A file without a name.
fn temporary(dir: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => return Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    // A file system without O_TMPFILE: a name that is gone at once.
    for attempt in 0..100 {
        let path = dir.join(format!(".swarmfs-{}-{attempt}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u32 = 5 * BLOCK_LENGTH + 7;

    fn content() -> Vec<u8> {
        (0..LENGTH).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn blocks(content: &[u8]) -> Vec<(u32, &[u8])> {
        (0u32..).step_by(BLOCK_LENGTH as usize).zip(content.chunks(BLOCK_LENGTH as usize)).collect()
    }

    fn places() -> [Place; 2] {
        [Place::Memory, Place::TempFile(std::env::temp_dir())]
    }

    #[test]
    fn blocks_in_any_order_make_a_verified_piece() {
        let content = content();
        let expected: [u8; 20] = Sha1::digest(&content).into();
        for place in places() {
            for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 3, 5, 2, 4]] {
                let piece = PieceBuf::new(LENGTH, expected, place.clone(), &Arc::default()).expect("a buffer");
                let blocks = blocks(&content);
                for (n, i) in order.into_iter().enumerate() {
                    let (begin, data) = blocks[i];
                    match piece.fill(begin, data).expect("it fits") {
                        Filled::More => assert!(n < 5),
                        Filled::Done(verified) => {
                            assert_eq!(n, 5);
                            let mut read = vec![0; LENGTH as usize - 3];
                            verified.read_at(3, &mut read).expect("it is there");
                            assert_eq!(read, content[3..]);
                            assert!(verified.read_at(4, &mut read).is_err());
                            assert_eq!(verified.digests().expect("readable").len(), 6);
                            assert_eq!(verified.bytes().is_some(), place == Place::Memory);
                        }
                        other => panic!("{other:?}"),
                    }
                    assert!(matches!(piece.fill(begin, data), Ok(Filled::Stale)));
                }
            }
        }
    }

    #[test]
    fn a_wrong_block_is_told_by_its_digest() {
        let good = content();
        let expected: [u8; 20] = Sha1::digest(&good).into();
        let right: Vec<_> = good.chunks(BLOCK_LENGTH as usize).map(|b| BlockDigest(Sha1::digest(b).into())).collect();
        let mut bad = good.clone();
        bad[2 * BLOCK_LENGTH as usize + 9] ^= 1;
        for place in places() {
            let piece = PieceBuf::new(LENGTH, expected, place, &Arc::default()).expect("a buffer");
            let last = blocks(&bad).into_iter().map(|(begin, data)| piece.fill(begin, data).expect("it fits")).last();
            let Some(Filled::Failed(digests)) = last else { panic!("{last:?}") };
            let differ: Vec<_> = (0..6).filter(|i| digests[*i] != right[*i]).collect();
            assert_eq!(differ, [2]);
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let piece = PieceBuf::new(LENGTH, [0; 20], Place::Memory, &Arc::default()).expect("a buffer");
        for (begin, length) in [(1, BLOCK_LENGTH), (0, 5), (0, 0), (5 * BLOCK_LENGTH, 8), (6 * BLOCK_LENGTH, 1)] {
            assert!(piece.fill(begin, &vec![0; length as usize]).is_err(), "{begin} {length}");
        }
        assert!(PieceBuf::new(LENGTH, [0; 20], Place::TempFile("/nowhere".into()), &Arc::default()).is_err());
    }
}
