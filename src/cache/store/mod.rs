//! The disk store: verified pieces of all torrents in one directory, bounded over all of them, the least recently used
//! ones first to go. A torrent has a directory that is named by its info-hash:
//!
//! ```text
//! info     the raw info dictionary, of which the name is the hash
//! index    which pieces are there and when each was used last (checksummed, replaced as a whole)
//! sums     CRC32C of every 16 KiB, written after the bytes
//! small    the bytes of all files below 1 MiB
//! 0 1 …    a file of 1 MiB or more each, sparse
//! ```
//!
//! Nothing that lies there is believed: bytes are used only if their checksum is right, and after an unclean stop, or
//! where a checksum is wrong, only if the piece passes its hash. A disk that is full makes the store smaller, one that
//! fails turns it off; a read never fails for it.

mod clock;
mod disk;
mod entry;
mod free;
mod index;
mod layout;
mod oldest;
mod open;
mod read;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests;
mod tools;
mod write;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::metainfo::{BLOCK_LENGTH, PieceIndex};
use clock::Clock;
use entry::SUMS;
pub use entry::{Entry, Pin};
pub use free::Room;
use layout::FileNumber;
use oldest::Oldest;
pub use read::{Checked, Fault};
pub use tools::{Checkup, Listed};
pub use write::Put;

/// Files that are kept open: with `ulimit -n 256` there must be room for peers.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(48).expect("not 0");
/// Failures of the disk after which it is left alone.
const FAILURES: u32 = 3;
/// A disk that does not answer fails once in this time, ticks of a hundredth of a second.
const LATE: u32 = 1000;
/// Bytes that are read or written at a time.
const CHUNK: usize = 256 << 10;
const BLOCK: usize = BLOCK_LENGTH as usize;

/// Verified pieces on disk, of all torrents. Shared by all threads.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    root: OwnedFd,
    /// Held while the process lives.
    _lock: File,
    /// Bytes that it may take: `size`, and less while the disk is full.
    size: u64,
    limit: AtomicU64,
    /// The unit in which the file system gives and takes, bytes.
    unit: u64,
    clock: Clock,
    allocated: AtomicU64,
    failures: AtomicU32,
    full: AtomicBool,
    /// When the disk was late the last time, a tick; 0 for never.
    late: AtomicU32,
    /// Bytes that are kept for the kernel.
    pinned: Arc<AtomicU64>,
    open: Mutex<LruCache<Key, Arc<File>>>,
    /// Pieces that go through the page cache before one is written past it again.
    buffered: AtomicU32,
    serials: AtomicU32,
    /// Whatever changes the directory holds it.
    ledger: Mutex<Ledger>,
}

/// A file that is kept open.
type Key = (u32, Name, How);

/// How it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum How {
    Read,
    Write,
    /// To write past the page cache.
    Direct,
}

/// A file of an entry that is kept open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Data(FileNumber),
    Sums,
}

impl Name {
    fn text(self) -> String {
        match self {
            Self::Data(file) => file.name(),
            Self::Sums => SUMS.to_owned(),
        }
    }
}

#[derive(Debug, Default)]
struct Ledger {
    /// Directories that nobody has looked into yet.
    unread: Vec<[u8; 20]>,
    entries: Vec<Arc<Entry>>,
    oldest: Oldest,
}

impl Store {
    /// Bytes that it takes now.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Bytes that it may take.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that it may take now: nothing once it is left alone.
    #[must_use]
    pub fn limit(&self) -> u64 {
        if self.is_off() { 0 } else { self.limit.load(Ordering::Relaxed) }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if the disk failed so often that it is left alone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES
    }

    /// True if the piece can be read.
    #[must_use]
    pub fn holds(&self, entry: &Entry, piece: PieceIndex) -> bool {
        entry.holds(piece) && !self.is_off()
    }

    /// The piece was used: others go before it.
    pub fn touch(&self, entry: &Entry, piece: PieceIndex) {
        entry.touch(piece, self.clock.now());
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of an entry, from those that are open; made if it is to be written and is not there.
    fn file(&self, entry: &Entry, name: Name, how: How) -> io::Result<Arc<File>> {
        let key = (entry.serial, name, how);
        if let Some(file) = self.lock_open().get(&key) {
            return Ok(Arc::clone(file));
        }
        let dir = entry.dir().ok_or(io::ErrorKind::NotFound)?;
        let text = name.text();
        let file = Arc::new(match how {
            How::Read => disk::open(dir, &text)?,
            How::Write => disk::create(dir, &text, false)?,
            How::Direct => disk::create(dir, &text, true)?,
        });
        let oldest = self.lock_open().push(key, Arc::clone(&file));
        drop(oldest); // closed outside the lock
        Ok(file)
    }

    fn lock_open(&self) -> MutexGuard<'_, LruCache<Key, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files that are open may not be those that are there now.
    fn close_files(&self, entry: &Entry) {
        let mut open = self.lock_open();
        let keys: Vec<_> = open.iter().map(|(key, _)| *key).filter(|key| key.0 == entry.serial).collect();
        let closed: Vec<_> = keys.iter().filter_map(|key| open.pop(key)).collect();
        drop(open);
        drop(closed);
    }

    /// The disk did not do what it should.
    fn failed(&self, what: &str, error: &io::Error) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.path.display();
        if failures < FAILURES {
            tracing::warn!("{path}: cannot {what}: {error}; what it had is fetched again");
        } else if failures == FAILURES {
            tracing::warn!("{path}: cannot {what}: {error}; after {FAILURES} failures pieces are kept in memory only");
        }
    }

    /// The disk does not answer. Many may wait for the same; so it counts once in a while.
    pub fn is_late(&self) {
        let now = self.clock.now().0;
        let before = self.late.load(Ordering::Relaxed);
        let due = before == 0 || now.saturating_sub(before) > LATE;
        if due && self.late.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.failed("read", &io::ErrorKind::TimedOut.into());
        }
    }

    /// The disk has no room for what it should take: the store may not be larger than it is.
    fn shrink(&self, error: &io::Error) {
        let now = self.allocated();
        self.limit.store(now - now / 16, Ordering::Relaxed);
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}: {error}; it keeps less, and reads go on", self.path.display());
        }
    }

    /// Counts what a change to a file takes or gives back.
    fn counted<T>(&self, entry: &Entry, file: &File, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let before = disk::allocated(file)?;
        let result = change();
        let after = disk::allocated(file)?;
        self.count(entry, before, after);
        result
    }

    fn count(&self, entry: &Entry, before: u64, after: u64) {
        for counter in [&entry.allocated, &self.allocated] {
            let change = |now: u64| Some(now.saturating_add(after).saturating_sub(before));
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
        }
    }

    /// Counts a directory anew.
    fn recount(&self, entry: &Entry) {
        if let Some(Ok(now)) = entry.dir().map(disk::allocated_in) {
            let before = entry.allocated.load(Ordering::Relaxed);
            self.count(entry, before, now);
        }
    }

    /// Grows again if the disk has room again.
    pub fn regrow(&self) {
        if self.full.load(Ordering::Relaxed)
            && let Ok(limit) = open::limit(&self.root, self.size, self.allocated())
            && limit > self.allocated().saturating_add(CHUNK as u64 * 64)
        {
            self.limit.store(limit, Ordering::Relaxed);
            self.full.store(false, Ordering::Relaxed);
        }
    }
}

/// A checksum that is never 0, which stands for a block that is not there.
pub(super) fn sum_of(block: &[u8]) -> u32 {
    crc32c::crc32c(block).max(1)
}

/// An info-hash as a name.
struct Hex<'a>(&'a [u8; 20]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
