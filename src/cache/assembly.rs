//! A piece that comes in blocks, in any order and from any peer's task. A block that continues the hashed prefix is
//! hashed as it arrives, while it is in the processor's cache; blocks that came early are hashed when the gap before
//! them closes. So the last block leaves little to do, and the verdict is there at once. Where pieces come so fast that
//! many are whole within a moment, they are hashed together then, which costs less (see [`Batch`](super::Batch)).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use sha1::{Digest, Sha1};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::place::{Place, Store};
use super::pool::Pool;
use super::unverified::Unverified;
use super::verified::Verified;
use crate::metainfo::BLOCK_LENGTH;
use crate::swarm::BlockDigest;

/// Hashing more than this at once (about 1 ms) tells the runtime, so that other tasks leave this thread.
const HEAVY: u32 = 1 << 20;

/// What became of a block.
#[derive(Debug)]
pub enum Filled {
    /// The piece lacks blocks. A block that is there already is ignored and says this too.
    More,
    /// It was the last block, and the piece passed its hash.
    Done(Verified),
    /// It was the last block, and the piece failed its hash: the digest of every block in order.
    Failed(Vec<BlockDigest>),
    /// It was the last block of a piece that is hashed when it is whole.
    Whole(Unverified),
    /// The piece was done, failed or given up before: the bytes were dropped.
    Stale,
}

/// A piece that is being assembled. Shared by the tasks of all peers that send its blocks.
#[derive(Debug)]
pub struct PieceBuf {
    length: u32,
    expected: [u8; 20],
    state: Mutex<Option<Assembly>>,
}

#[derive(Debug)]
struct Assembly {
    length: u32,
    store: Store,
    have: Box<[bool]>,
    missing: usize,
    /// The prefix that was hashed; none if the piece is hashed when it is whole.
    prefix: Option<Prefix>,
    /// The checksum of every block for the disk store, if they are wanted.
    sums: Option<Box<[u32]>>,
}

#[derive(Debug, Default)]
struct Prefix {
    /// Its bytes; it ends at a block's end.
    length: u32,
    hasher: Sha1,
}

impl PieceBuf {
    /// An empty piece of `length` bytes whose SHA-1 is to be `expected`.
    ///
    /// # Errors
    /// `InvalidInput` if `length` is 0; whatever keeps a temporary file from being made.
    pub fn new(length: u32, expected: [u8; 20], place: &Place, pool: &Arc<Pool>) -> io::Result<Self> {
        Self::with(Some(Prefix::default()), length, expected, place, pool)
    }

    /// An empty piece as [`PieceBuf::new`] makes it, but its last block makes it [`Filled::Whole`], for a batch.
    ///
    /// # Errors
    /// Those of [`PieceBuf::new`].
    pub fn hashed_when_whole(length: u32, expected: [u8; 20], place: &Place, pool: &Arc<Pool>) -> io::Result<Self> {
        Self::with(None, length, expected, place, pool)
    }

    fn with(
        prefix: Option<Prefix>,
        length: u32,
        expected: [u8; 20],
        place: &Place,
        pool: &Arc<Pool>,
    ) -> io::Result<Self> {
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a piece of no bytes"));
        }
        let missing = length.div_ceil(BLOCK_LENGTH) as usize;
        let assembly = Assembly {
            length,
            store: Store::new(length, place, pool)?,
            have: vec![false; missing].into(),
            missing,
            prefix,
            sums: None,
        };
        Ok(Self { length, expected, state: Mutex::new(Some(assembly)) })
    }

    /// The same, with the checksums that the disk store wants: taken as blocks come, while the processor has them at hand.
    #[must_use]
    pub fn with_sums(self) -> Self {
        if let Some(assembly) = self.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            assembly.sums = Some(vec![0; assembly.have.len()].into());
        }
        self
    }

    /// Length of the piece, bytes.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Takes the block at `begin`: one copy, and the hash of what has become contiguous.
    ///
    /// # Errors
    /// `InvalidInput` if `begin` and the length of `data` are not exactly one block of this piece; nothing has changed
    /// then. Any other error is the temporary file's: the assembly is given up, and every later block is
    /// [`Filled::Stale`].
    pub fn fill(&self, begin: u32, data: &[u8]) -> io::Result<Filled> {
        let block = self.block(begin, data).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes at {begin} are not a block", data.len()))
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(assembly) = state.as_mut() else { return Ok(Filled::Stale) };
        match assembly.fill(block, begin, data) {
            Ok(false) => Ok(Filled::More),
            Ok(true) => {
                let Some(Assembly { store, prefix, sums, .. }) = state.take() else { return Ok(Filled::Stale) };
                drop(state);
                let whole = Unverified { store, length: self.length, expected: self.expected, sums };
                match prefix {
                    Some(prefix) => whole.judge(&prefix.hasher.finalize().into()),
                    None => Ok(Filled::Whole(whole)),
                }
            }
            Err(error) => {
                *state = None;
                Err(error)
            }
        }
    }

    /// The index of the block that lies at `begin` and is as long as `data`.
    fn block(&self, begin: u32, data: &[u8]) -> Option<usize> {
        let left = self.length.checked_sub(begin)?;
        let exact = left.min(BLOCK_LENGTH) as usize == data.len() && !data.is_empty();
        (begin.is_multiple_of(BLOCK_LENGTH) && exact).then_some((begin / BLOCK_LENGTH) as usize)
    }
}

impl Assembly {
    /// True if the piece is whole, and hashed as far as it is to be.
    fn fill(&mut self, block: usize, begin: u32, data: &[u8]) -> io::Result<bool> {
        match self.have.get_mut(block) {
            Some(have) if !*have => *have = true,
            _ => return Ok(false),
        }
        self.store.write_at(begin, data)?;
        if let Some(sum) = self.sums.as_mut().and_then(|sums| sums.get_mut(block)) {
            *sum = super::store::sum_of(data);
        }
        self.missing -= 1;
        if let Some(prefix) = self.prefix.as_mut().filter(|prefix| prefix.length == begin) {
            prefix.hasher.update(data);
            prefix.length = begin.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX));
            prefix.catch_up(&self.have, &self.store, self.length)?;
        }
        Ok(self.missing == 0)
    }
}

impl Prefix {
    /// Hashes the run of blocks that begins at its end, in a piece of `length` bytes.
    fn catch_up(&mut self, have: &[bool], store: &Store, length: u32) -> io::Result<()> {
        let next = self.length.div_ceil(BLOCK_LENGTH) as usize;
        let run = have.iter().skip(next).take_while(|have| **have).count();
        if run == 0 {
            return Ok(());
        }
        let bytes = u32::try_from(run).unwrap_or(u32::MAX).saturating_mul(BLOCK_LENGTH);
        // The run may reach the last block, which may be short.
        let end = self.length.saturating_add(bytes).min(length);
        heavy(end - self.length, || store.scan(self.length..end, |part| self.hasher.update(part)))?;
        self.length = end;
        Ok(())
    }
}

/// Runs work over this many bytes; if it is long, the runtime moves its other tasks to another thread first.
pub(super) fn heavy<T>(bytes: u32, work: impl FnOnce() -> T) -> T {
    let multi_thread = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
    if bytes > HEAVY && Handle::try_current().is_ok_and(multi_thread) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(length: u32) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
    }

    fn sha1(bytes: &[u8]) -> [u8; 20] {
        Sha1::digest(bytes).into()
    }

    fn block(bytes: &[u8], index: u32) -> (u32, &[u8]) {
        let begin = index * BLOCK_LENGTH;
        (begin, &bytes[begin as usize..bytes.len().min((begin + BLOCK_LENGTH) as usize)])
    }

    fn check_verified(piece: &Verified, bytes: &[u8]) {
        assert_eq!(piece.len() as usize, bytes.len());
        let mut all = vec![0; bytes.len()];
        piece.read_at(0, &mut all).unwrap();
        assert!(all == bytes);
        let mut last = [0];
        piece.read_at(piece.len() - 1, &mut last).unwrap();
        assert_eq!(last[0], bytes[bytes.len() - 1]);
        assert_eq!(piece.read_at(piece.len(), &mut last).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(piece.read_at(u32::MAX, &mut last).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let expected: Vec<_> = bytes.chunks(BLOCK_LENGTH as usize).map(|b| BlockDigest(sha1(b))).collect();
        assert_eq!(piece.digests().unwrap(), expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Any order of blocks, with duplicates in between, makes the same piece, on the heap and in a file.
        #[test]
        fn any_order_makes_the_piece(
            (length, order) in (1..200_000_u32).prop_flat_map(|length| {
                let blocks: Vec<_> = (0..length.div_ceil(BLOCK_LENGTH)).collect();
                (Just(length), Just(blocks).prop_shuffle())
            }),
            flip in proptest::option::of(any::<prop::sample::Index>()),
            in_file: bool,
            when_whole: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let place = if in_file { Place::TempFile(dir.path().into()) } else { Place::Memory };
            let mut bytes = content(length);
            let make = if when_whole { PieceBuf::hashed_when_whole } else { PieceBuf::new };
            let piece = make(length, sha1(&bytes), &place, &Pool::new()).unwrap();
            if let Some(index) = &flip {
                bytes[index.index(length as usize)] ^= 1;
            }
            for (n, &index) in order.iter().enumerate() {
                let (begin, data) = block(&bytes, index);
                let last = n + 1 == order.len();
                let filled = match piece.fill(begin, data).unwrap() {
                    Filled::Whole(whole) if when_whole => Unverified::verify(vec![whole]).remove(0).unwrap(),
                    filled => filled,
                };
                match filled {
                    Filled::More => prop_assert!(!last),
                    Filled::Done(verified) => {
                        prop_assert!(last && flip.is_none());
                        prop_assert_eq!(verified.bytes().is_none(), in_file);
                        check_verified(&verified, &bytes);
                    }
                    Filled::Failed(digests) => {
                        prop_assert!(last && flip.is_some());
                        let expected: Vec<_> =
                            bytes.chunks(BLOCK_LENGTH as usize).map(|b| BlockDigest(sha1(b))).collect();
                        prop_assert_eq!(digests, expected);
                    }
                    Filled::Whole(_) | Filled::Stale => prop_assert!(false, "no verdict at the end"),
                }
                // A duplicate with other bytes changes nothing.
                let again = piece.fill(begin, &vec![0xa5; data.len()]).unwrap();
                prop_assert_eq!(matches!(again, Filled::Stale), last);
                prop_assert_eq!(matches!(again, Filled::More), !last);
            }
        }
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let length = BLOCK_LENGTH + 100;
        let bytes = content(length);
        let piece = PieceBuf::new(length, sha1(&bytes), &Place::Memory, &Pool::new()).unwrap();
        let block_length = BLOCK_LENGTH as usize;
        for (begin, len) in [
            (0, block_length - 1),
            (0, block_length + 1),
            (0, 0),
            (1, block_length),
            (BLOCK_LENGTH, block_length),
            (BLOCK_LENGTH, 99),
            (BLOCK_LENGTH, 101),
            (BLOCK_LENGTH * 2, 100),
            (length, 0),
            (u32::MAX, 1),
            (u32::MAX - BLOCK_LENGTH + 1, block_length),
        ] {
            let error = piece.fill(begin, &vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{begin} {len}");
        }
        assert!(matches!(piece.fill(BLOCK_LENGTH, &bytes[block_length..]).unwrap(), Filled::More));
        let Filled::Done(verified) = piece.fill(0, &bytes[..block_length]).unwrap() else { panic!("not done") };
        check_verified(&verified, &bytes);
        assert!(PieceBuf::new(0, [0; 20], &Place::Memory, &Pool::new()).is_err());
    }

    /// A late gap of 4 MiB is hashed from inside a runtime's worker, in a runtime of one thread and outside of any.
    #[test]
    fn a_late_gap_closes_in_any_runtime() {
        let length = 4 << 20;
        let bytes = content(length);
        let late_first = || {
            let piece = PieceBuf::new(length, sha1(&bytes), &Place::Memory, &Pool::new()).unwrap();
            for index in (0..length / BLOCK_LENGTH).rev() {
                let (begin, data) = block(&bytes, index);
                if let Filled::Done(verified) = piece.fill(begin, data).unwrap() {
                    assert_eq!(index, 0);
                    return verified.bytes() == Some(&bytes);
                }
            }
            false
        };
        assert!(late_first());
        let single = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(single.block_on(async { late_first() }));
        let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        assert!(multi.block_on(async { late_first() }));
    }

    #[test]
    fn threads_fill_one_piece() {
        let length = 1 << 20;
        let bytes = content(length);
        let piece = PieceBuf::new(length, sha1(&bytes), &Place::Memory, &Pool::new()).unwrap();
        let done = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u32 {
                let (piece, bytes, done) = (&piece, &bytes, &done);
                scope.spawn(move || {
                    for index in 0..length / BLOCK_LENGTH {
                        // Each thread begins elsewhere; every block is sent four times.
                        let (begin, data) = block(bytes, (index + thread * 16) % (length / BLOCK_LENGTH));
                        if let Filled::Done(verified) = piece.fill(begin, data).unwrap() {
                            assert!(verified.bytes() == Some(bytes));
                            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 1);
    }

    #[test]
    fn a_broken_file_gives_the_piece_up() {
        let length = 2 * BLOCK_LENGTH;
        let bytes = content(length);
        let piece = PieceBuf::new(length, sha1(&bytes), &Place::Memory, &Pool::new()).unwrap();
        // A file that cannot be written stands for a full disk.
        let unwritable = std::fs::File::open("/dev/null").unwrap();
        piece.state.lock().unwrap().as_mut().unwrap().store = Store::File(unwritable);
        let (begin, data) = block(&bytes, 0);
        assert_ne!(piece.fill(begin, data).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(matches!(piece.fill(begin, data).unwrap(), Filled::Stale));
    }
}
