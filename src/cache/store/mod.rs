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
mod index;
mod layout;
mod oldest;
mod open;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]
mod tests;
mod tools;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::verified::Verified;
use super::{Filled, PieceBuf, Place, Pool};
use crate::metainfo::{BLOCK_LENGTH, Metainfo, PieceIndex};
use clock::Clock;
pub use entry::{Entry, Pin};
use entry::{INDEX, INFO, SUMS, Taken};
use layout::FileNumber;
use oldest::Oldest;
pub use tools::{Checkup, Listed};

/// Files that are kept open: with `ulimit -n 256` there must be room for peers.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(48).expect("not 0");
/// Failures of the disk after which it is left alone.
const FAILURES: u32 = 3;
/// A disk that does not answer fails once in this time, ticks of a hundredth of a second.
const LATE: u32 = 1000;
/// What a piece may take beyond its bytes: ends of blocks in two or more files, checksums, the file system's own lists.
const SLACK: u64 = 64 << 10;
/// Bytes that are read or written at a time.
const CHUNK: usize = 256 << 10;
/// What a peer that reads on is ahead of on the disk, bytes.
const READ_AHEAD: u64 = 1 << 20;
const BLOCK: usize = BLOCK_LENGTH as usize;
/// What is written past the page cache begins and ends at multiples of this, in memory and on disk, bytes.
const ALIGNED: u64 = 4096;
/// And is no shorter than this.
const DIRECT: usize = 128 << 10;
/// A disk that takes less is slow, bytes per microsecond (MB/s).
const FAST: u32 = 60;
/// Pieces that go through the page cache then.
const AFTER_SLOW: u32 = 256;

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

/// Why bytes cannot be had from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk would have to be waited for.
    WouldBlock,
    /// The piece is to be hashed first: [`Store::load`].
    Suspect,
    /// It is not there.
    Absent,
    /// Nor are others: a file of it is gone or was cut short.
    FileGone,
}

/// What became of room that was asked for.
#[derive(Debug)]
pub enum Room {
    /// There is enough.
    Enough,
    /// This piece has to go, to be forgotten by [`Store::forget`]; then ask again.
    Victim(Arc<Entry>, PieceIndex),
    /// Nothing more can go.
    Full,
}

/// What became of a piece that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is in the store.
    Stored,
    /// The disk is full.
    Full,
    /// The disk fails.
    Failed,
}

/// Bytes of a piece that have passed their checksums, in a buffer of the caller's.
#[derive(Debug)]
pub struct Checked<B> {
    buffer: B,
    at: Range<usize>,
}

impl<B: AsRef<[u8]>> Checked<B> {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().get(self.at.clone()).unwrap_or_default()
    }
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

    /// Reads bytes of a piece, as offsets in it, and compares them with their checksums. `buffer` makes room for so many
    /// bytes. With `wait` false it never waits for the disk.
    ///
    /// # Errors
    /// A [`Fault`].
    pub fn read<B: AsRef<[u8]> + AsMut<[u8]>>(
        &self,
        entry: &Entry,
        piece: PieceIndex,
        range: Range<u32>,
        wait: bool,
        buffer: impl FnOnce(usize) -> B,
    ) -> Result<Checked<B>, Fault> {
        if !self.holds(entry, piece) {
            return Err(Fault::Absent);
        }
        if entry.is_suspect(piece) {
            return Err(Fault::Suspect);
        }
        let length = entry.layout.geometry.piece_length(piece);
        let start = range.start / BLOCK_LENGTH * BLOCK_LENGTH;
        let end = range.end.checked_next_multiple_of(BLOCK_LENGTH).map_or(length, |end| end.min(length));
        if range.start >= range.end || end < range.end {
            return Err(Fault::Absent);
        }
        let mut buffer = buffer((end - start) as usize);
        let Some(out) = buffer.as_mut().get_mut(..(end - start) as usize) else { return Err(Fault::Absent) };
        match self.read_blocks(entry, piece, start..end, wait, out) {
            Ok(true) => {}
            // It left meanwhile, or it is not what it was.
            Ok(false) => return Err(if entry.holds(piece) { self.doubt(entry, piece) } else { Fault::Absent }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Fault::WouldBlock),
            Err(error) => return Err(self.unreadable(entry, piece, &error)),
        }
        Ok(Checked { buffer, at: (range.start - start) as usize..(range.end - start) as usize })
    }

    /// Tells the kernel that a piece is read on from this byte, so that the disk is asked for what comes next before it is
    /// needed: a megabyte at the most, and nothing past the piece.
    pub fn read_ahead(&self, entry: &Entry, piece: PieceIndex, from: u32) {
        let bytes = entry.layout.piece_bytes(piece);
        let start = bytes.start.saturating_add(from.into()).min(bytes.end);
        for span in entry.layout.spans(start..bytes.end.min(start + READ_AHEAD)) {
            let Some((file, at)) = span.file else { continue };
            if let (Ok(file), Some(length)) =
                (self.file(entry, Name::Data(file), How::Read), std::num::NonZeroU64::new(span.part.len() as u64))
            {
                // It is a hint.
                let _ = rustix::fs::fadvise(&*file, at, Some(length), rustix::fs::Advice::WillNeed);
            }
        }
    }

    fn doubt(&self, entry: &Entry, piece: PieceIndex) -> Fault {
        tracing::debug!(piece = piece.0, "a checksum of the store is wrong");
        entry.suspect(piece);
        self.close_files(entry);
        Fault::Suspect
    }

    /// A file is missing or cut short, which its hash will tell, or the disk fails.
    fn unreadable(&self, entry: &Entry, piece: PieceIndex, error: &io::Error) -> Fault {
        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) {
            return self.doubt(entry, piece);
        }
        self.not_read(entry, piece, error);
        Fault::Absent
    }

    /// A piece cannot be read: it is forgotten, unless it is the process that has no room for one more file.
    fn not_read(&self, entry: &Entry, piece: PieceIndex, error: &io::Error) {
        if !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) {
            self.failed("read", error);
            self.forget(entry, piece);
        }
    }

    /// True if the blocks of a piece are what they were.
    fn read_blocks(
        &self,
        entry: &Entry,
        piece: PieceIndex,
        range: Range<u32>,
        wait: bool,
        out: &mut [u8],
    ) -> io::Result<bool> {
        let blocks = out.len().div_ceil(BLOCK);
        // The sums of a megabyte lie on the stack.
        let (mut few, mut many) = ([0; 4 * 64], Vec::new());
        let sums = match few.get_mut(..4 * blocks) {
            Some(few) => few,
            None => {
                many.resize(4 * blocks, 0);
                &mut many[..]
            }
        };
        let at = entry.sums(piece).start + 4 * u64::from(range.start / BLOCK_LENGTH);
        self.read_file(entry, Name::Sums, at, wait, sums)?;
        let begin = entry.layout.piece_bytes(piece).start;
        for span in entry.layout.spans(begin + u64::from(range.start)..begin + u64::from(range.end)) {
            let part = out.get_mut(span.part).ok_or(io::ErrorKind::InvalidInput)?;
            match span.file {
                Some((file, at)) => self.read_file(entry, Name::Data(file), at, wait, part)?,
                None => part.fill(0),
            }
        }
        let sums = sums.as_chunks::<4>().0;
        Ok(out.chunks(BLOCK).zip(sums).all(|(block, sum)| sum_of(block).to_le_bytes() == *sum))
    }

    fn read_file(&self, entry: &Entry, name: Name, at: u64, wait: bool, out: &mut [u8]) -> io::Result<()> {
        if wait {
            use std::os::unix::fs::FileExt;
            return self.file(entry, name, How::Read)?.read_exact_at(out, at);
        }
        let open = self.lock_open().get(&(entry.serial, name, How::Read)).map(Arc::clone);
        let file = open.ok_or(io::ErrorKind::WouldBlock)?;
        let length = out.len();
        let slices = &mut [io::IoSliceMut::new(out)];
        // Errors too, of file systems that know no NOWAIT among them: who waits will see.
        match rustix::io::preadv2(&*file, slices, at, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(read) if read == length => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
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

    /// Reads a piece and hashes it; it may wait for the disk. One that does not pass is forgotten.
    ///
    /// # Errors
    /// [`Fault::Absent`], [`Fault::FileGone`].
    pub fn load(
        &self,
        entry: &Entry,
        piece: PieceIndex,
        hash: &[u8; 20],
        place: &Place,
        pool: &Arc<Pool>,
    ) -> Result<Verified, Fault> {
        if !self.holds(entry, piece) {
            return Err(Fault::Absent);
        }
        match self.read_whole(entry, piece, hash, place, pool) {
            Ok(Some(verified)) => {
                if !entry.is_suspect(piece) {
                    entry.hashed(piece);
                } else if self.repair(entry, piece, &verified).is_err() {
                    // Good for this read, and to be looked at once more the next time.
                    tracing::debug!(piece = piece.0, "the checksums of a piece cannot be written");
                }
                Ok(verified)
            }
            Ok(None) => {
                tracing::warn!(
                    "{}: piece {} of {} is damaged: it is fetched again",
                    self.path.display(),
                    piece.0,
                    Hex(&entry.id)
                );
                self.forget(entry, piece);
                Err(Fault::Absent)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                self.forget_missing(entry, piece);
                self.forget(entry, piece);
                Err(Fault::FileGone)
            }
            Err(error) => {
                self.not_read(entry, piece, &error);
                Err(Fault::Absent)
            }
        }
    }

    /// A file of this piece is gone or was cut short: all pieces that it does not have any more are forgotten at once.
    fn forget_missing(&self, entry: &Entry, piece: PieceIndex) {
        let _ledger = self.lock();
        self.close_files(entry);
        let mut lengths: Vec<(FileNumber, u64)> = Vec::new();
        for span in entry.layout.spans(entry.layout.piece_bytes(piece)) {
            let Some((file, _)) = span.file else { continue };
            let opened = self.file(entry, Name::Data(file), How::Read).and_then(|file| file.metadata());
            lengths.push((file, opened.map_or(0, |metadata| metadata.len())));
        }
        let missing = |piece: &PieceIndex| {
            entry.layout.spans(entry.layout.piece_bytes(*piece)).any(|span| {
                let end = |(file, at): (FileNumber, u64)| (file, at + (span.part.end - span.part.start) as u64);
                let there = |(file, end)| lengths.iter().all(|&(other, length)| other != file || end <= length);
                span.file.is_some_and(|place| !there(end(place)))
            })
        };
        let gone: Vec<PieceIndex> = entry.held().filter(missing).collect();
        tracing::warn!(
            "{}: files of {} are missing: {} pieces are fetched again",
            self.path.display(),
            Hex(&entry.id),
            gone.len()
        );
        gone.into_iter().for_each(|piece| self.take(entry, piece));
        self.recount(entry);
    }

    /// True if somebody has taken the directory of a torrent away: it is as if it had never been.
    fn lost_dir(&self, entry: &Entry) -> bool {
        let gone = entry.dir().is_some_and(|dir| rustix::fs::fstat(&*dir).is_ok_and(|stat| stat.st_nlink == 0));
        if gone {
            self.close_files(entry);
            entry.set_dir(None);
            entry.dirty.store(false, Ordering::Relaxed);
            entry.layout.geometry.all().for_each(|piece| {
                entry.take(piece);
            });
            self.count(entry, entry.allocated.load(Ordering::Relaxed), 0);
        }
        gone
    }

    /// The piece, if it passes its hash.
    fn read_whole(
        &self,
        entry: &Entry,
        piece: PieceIndex,
        hash: &[u8; 20],
        place: &Place,
        pool: &Arc<Pool>,
    ) -> io::Result<Option<Verified>> {
        let length = entry.layout.geometry.piece_length(piece);
        let buffer = PieceBuf::new(length, *hash, place, pool)?;
        let mut chunk = vec![0; CHUNK.min(length as usize)];
        let start = entry.layout.piece_bytes(piece).start;
        let mut at = 0;
        while at < length {
            let step = chunk.len().min((length - at) as usize);
            let chunk = &mut chunk[..step];
            let end = at + u32::try_from(step).unwrap_or(u32::MAX);
            for span in entry.layout.spans(start + u64::from(at)..start + u64::from(end)) {
                let part = chunk.get_mut(span.part).ok_or(io::ErrorKind::InvalidInput)?;
                match span.file {
                    Some((file, at)) => self.read_file(entry, Name::Data(file), at, true, part)?,
                    None => part.fill(0),
                }
            }
            for (begin, block) in (at..end).step_by(BLOCK).zip(chunk.chunks(BLOCK)) {
                if let Filled::Done(verified) = buffer.fill(begin, block)? {
                    return Ok(Some(verified));
                }
            }
            at = end;
        }
        Ok(None)
    }

    /// The piece is right, its checksums may not be.
    fn repair(&self, entry: &Entry, piece: PieceIndex, verified: &Verified) -> io::Result<()> {
        let _ledger = self.lock();
        if entry.holds(piece) {
            self.write_sums(entry, piece, verified)?;
            entry.hashed(piece);
        }
        Ok(())
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

    /// Looks whether so many bytes more would fit. A piece of a torrent of this session that has to go is named; those of
    /// other torrents go at once.
    pub fn room(&self, bytes: u64) -> Room {
        let bytes = bytes.saturating_add(SLACK);
        let mut ledger = self.lock();
        loop {
            let limit = self.limit.load(Ordering::Relaxed);
            if self.allocated().saturating_add(bytes) <= limit {
                return Room::Enough;
            }
            // What can never fit pushes nothing out.
            if bytes > self.size || self.is_off() {
                return Room::Full;
            }
            let Some((entry, piece)) = self.next_victim(&mut ledger) else {
                // What is left of torrents whose pieces are gone.
                let unused = |entry: &&Arc<Entry>| !entry.in_use.load(Ordering::Relaxed) && entry.is_empty();
                let Some(entry) = ledger.entries.iter().find(unused).cloned() else { return Room::Full };
                self.drop_entry(&mut ledger, &entry);
                continue;
            };
            if entry.in_use.load(Ordering::Relaxed) {
                return Room::Victim(entry, piece);
            }
            self.take(&entry, piece);
            if entry.is_empty() {
                self.drop_entry(&mut ledger, &entry);
            }
        }
    }

    fn next_victim(&self, ledger: &mut Ledger) -> Option<(Arc<Entry>, PieceIndex)> {
        let current = |found: &oldest::Found| found.entry.tick(found.piece) == Some(found.tick);
        for _ in 0..2 {
            while let Some(found) = ledger.oldest.pop() {
                if current(&found) && !found.entry.is_pinned(found.piece) {
                    return Some((found.entry, found.piece));
                }
            }
            self.read_all(ledger);
            ledger.oldest = Oldest::of(&ledger.entries);
        }
        None
    }

    /// Drops a piece, if it is there.
    pub fn forget(&self, entry: &Entry, piece: PieceIndex) {
        let _ledger = self.lock();
        self.take(entry, piece);
    }

    /// With the ledger held.
    fn take(&self, entry: &Entry, piece: PieceIndex) {
        if !entry.holds(piece) {
            return;
        }
        // Neither counts as a failure of the disk: a full one takes no index before something was freed, and reads will tell
        // of the others.
        let prepared = self.prepare(entry);
        let erased = match entry.take(piece) {
            Taken::Free => self.erase(entry, piece.0..piece.0 + 1),
            Taken::Nothing | Taken::Pinned => Ok(()),
        };
        let prepared = prepared.or_else(|_| self.prepare(entry));
        if let Err(error) = erased.and(prepared) {
            tracing::debug!("{}: a piece is not freed as it should be: {error}", self.path.display());
            self.close_files(entry);
        }
    }

    /// Gives back what a run of pieces that are not there takes on the disk: the checksums first, so that a crash in
    /// between does not leave pieces that seem to be there.
    fn erase(&self, entry: &Entry, pieces: Range<u32>) -> io::Result<()> {
        let (first, last) = (PieceIndex(pieces.start), PieceIndex(pieces.end.saturating_sub(1)));
        let unit = self.unit;
        let widen = |range: &Range<u64>| range.start / unit * unit..range.end.next_multiple_of(unit);
        let sums = entry.sums(first).start..entry.sums(last).end;
        let wide = widen(&sums);
        let free = |range: Range<u64>| !entry.any_sums_in(range, |other| entry.holds(other));
        let sums = if free(wide.start..sums.start) { wide.start } else { sums.start }..if free(sums.end..wide.end) {
            wide.end
        } else {
            sums.end
        };
        self.punch(entry, Name::Sums, sums)?;
        for span in entry.layout.spans(entry.layout.piece_bytes(first).start..entry.layout.piece_bytes(last).end) {
            let Some((file, at)) = span.file else { continue };
            let range = at..at + (span.part.end - span.part.start) as u64;
            let wide = widen(&range);
            let free = |range: Range<u64>| !entry.layout.any_in(file, range, |other| entry.holds(other));
            let range = if free(wide.start..range.start) { wide.start } else { range.start }
                ..if free(range.end..wide.end) { wide.end } else { range.end };
            self.punch(entry, Name::Data(file), range)?;
        }
        Ok(())
    }

    fn punch(&self, entry: &Entry, name: Name, range: Range<u64>) -> io::Result<()> {
        let Some(file) = self.file_if_there(entry, name)? else { return Ok(()) };
        self.counted(entry, &file, || disk::punch(&file, range.start, range.end - range.start))
    }

    /// A file to write to, if it is there.
    fn file_if_there(&self, entry: &Entry, name: Name) -> io::Result<Option<Arc<File>>> {
        match entry.dir().map(|dir| disk::open(dir, &name.text())) {
            None => Ok(None),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => self.file(entry, name, How::Write).map(Some),
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

    /// Before the first change: the directory, whose index says from now on that its files may be anything.
    fn prepare(&self, entry: &Entry) -> io::Result<()> {
        if entry.dirty.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(dir) = entry.dir() else { return Err(io::ErrorKind::NotFound.into()) };
        let index = entry.index(false, &self.clock, (0, 0));
        disk::replace(dir, INDEX, &index.encode(&entry.id, &entry.layout.geometry), false)?;
        entry.dirty.store(true, Ordering::Relaxed);
        self.recount(entry);
        Ok(())
    }

    /// Makes the directory of a torrent that has none yet.
    fn make_dir(&self, entry: &Entry, info: &[u8]) -> io::Result<()> {
        if entry.dir().is_some() {
            return Ok(());
        }
        let dir = disk::make_dir(&self.root, &Hex(&entry.id).to_string())?;
        disk::replace(&dir, INFO, info, false)?;
        entry.set_dir(Some(dir));
        Ok(())
    }

    /// Writes a piece, for which there is [`Store::room`]. `hurry`: others wait, so that the page cache is to take it.
    pub fn write(&self, entry: &Entry, meta: &Metainfo, piece: PieceIndex, verified: &Verified, hurry: bool) -> Put {
        let _ledger = self.lock();
        if self.is_off() {
            return Put::Failed;
        }
        if entry.holds(piece) {
            return Put::Stored;
        }
        let write = || {
            self.make_dir(entry, &meta.info)
                .and_then(|()| self.prepare(entry))
                .and_then(|()| self.write_piece(entry, piece, verified, hurry))
        };
        let written = match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.lost_dir(entry) => write(),
            written => written,
        };
        match written {
            Ok(()) => {
                entry.put(piece, self.clock.now());
                // Open, so that it can be read without a wait, and by the kernel.
                for span in entry.layout.spans(entry.layout.piece_bytes(piece)) {
                    let _ = span.file.map(|(file, _)| self.file(entry, Name::Data(file), How::Read));
                }
                Put::Stored
            }
            Err(error) => {
                if let Err(error) = self.erase(entry, piece.0..piece.0 + 1) {
                    tracing::debug!("{}: a part of a piece stays: {error}", self.path.display());
                }
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                    self.shrink(&error);
                    return Put::Full;
                }
                self.close_files(entry);
                self.failed("write", &error);
                Put::Failed
            }
        }
    }

    fn write_piece(&self, entry: &Entry, piece: PieceIndex, verified: &Verified, hurry: bool) -> io::Result<()> {
        for span in entry.layout.spans(entry.layout.piece_bytes(piece)) {
            let Some((number, mut at)) = span.file else { continue };
            if let Some(bytes) = verified.bytes().and_then(|bytes| bytes.get(span.part.clone()))
                && !hurry
                && self.write_direct(entry, number, at, bytes)
            {
                continue;
            }
            let file = self.file(entry, Name::Data(number), How::Write)?;
            let start = u32::try_from(span.part.start).unwrap_or(u32::MAX);
            let end = u32::try_from(span.part.end).unwrap_or(u32::MAX);
            let mut result = Ok(());
            self.counted(entry, &file, || {
                verified.scan(start..end, |bytes| {
                    if result.is_ok() {
                        result = disk::write(&file, bytes, at);
                        at += bytes.len() as u64;
                    }
                })
            })?;
            result?;
        }
        self.write_sums(entry, piece, verified)
    }

    /// Writes past the page cache, which costs a third of the CPU and leaves the page cache to what is read; false if that
    /// is not possible here. A disk that is slow at it gets what comes next through the page cache, which sorts it.
    fn write_direct(&self, entry: &Entry, number: FileNumber, at: u64, bytes: &[u8]) -> bool {
        let aligned = [bytes.as_ptr().addr() as u64, bytes.len() as u64, at].iter().all(|n| n.is_multiple_of(ALIGNED));
        if !aligned || bytes.len() < DIRECT {
            return false;
        }
        let countdown = |left: u32| left.checked_sub(1);
        if self.buffered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, countdown).is_ok() {
            return false;
        }
        let start = std::time::Instant::now();
        let written = self
            .file(entry, Name::Data(number), How::Direct)
            .and_then(|file| self.counted(entry, &file, || disk::write(&file, bytes, at)));
        let slow = start.elapsed().as_micros() * u128::from(FAST) > bytes.len() as u128;
        if slow || written.is_err() {
            self.buffered.store(AFTER_SLOW, Ordering::Relaxed);
        }
        written.is_ok()
    }

    fn write_sums(&self, entry: &Entry, piece: PieceIndex, verified: &Verified) -> io::Result<()> {
        let mut sums = Vec::with_capacity(4 * entry.layout.geometry.blocks(piece) as usize);
        sums.extend(verified.sums().into_iter().flatten().flat_map(|sum| sum.to_le_bytes()));
        for begin in (0..verified.len()).step_by(BLOCK).skip(sums.len() / 4) {
            let block = begin..verified.len().min(begin.saturating_add(BLOCK_LENGTH));
            verified.scan(block, |bytes| sums.extend_from_slice(&sum_of(bytes).to_le_bytes()))?;
        }
        let file = self.file(entry, Name::Sums, How::Write)?;
        self.counted(entry, &file, || disk::write(&file, &sums, entry.sums(piece).start))
    }

    /// Puts on the disk what would be lost: when pieces were used, and what was received and sent in this session. At the
    /// end (`last`), everything is where the index says.
    pub fn save(&self, entry: &Entry, meta: &Metainfo, session: (u64, u64), last: bool) {
        let _ledger = self.lock();
        if (entry.dirty.load(Ordering::Relaxed) || session != (0, 0)) && !self.is_off() {
            match self.make_dir(entry, &meta.info) {
                Ok(()) => self.save_index(entry, session, last),
                Err(error) => tracing::warn!("{}: the index cannot be written: {error}", self.path.display()),
            }
        }
    }

    fn save_index(&self, entry: &Entry, session: (u64, u64), last: bool) {
        let Some(dir) = entry.dir() else { return };
        let index = entry.index(last, &self.clock, session).encode(&entry.id, &entry.layout.geometry);
        match disk::replace(dir, INDEX, &index, last) {
            Ok(()) => entry.dirty.store(!last, Ordering::Relaxed),
            Err(error) => tracing::warn!("{}: the index cannot be written: {error}", self.path.display()),
        }
        self.recount(entry);
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

    /// Opens the file that [`Store::backing`] would be asked for, which may wait for the disk.
    pub fn open_backing(&self, entry: &Entry, bytes: &Range<u64>) {
        if let Some(number) = entry.layout.file_of(bytes) {
            // It is not there yet.
            let _ = self.file(entry, Name::Data(number), How::Read);
        }
    }

    /// A file of the torrent that the kernel may read by itself: it has a file of the store to itself, is whole, and all
    /// of it passed its hash in this process. What is kept for the kernel is half of the store at the most.
    #[must_use]
    pub fn backing(&self, entry: &Arc<Entry>, bytes: &Range<u64>) -> Option<(File, Pin)> {
        let number = entry.layout.file_of(bytes)?;
        let pieces = entry.layout.geometry.covering(bytes.clone())?;
        if self.is_off() {
            return None;
        }
        // Not under the ledger: who opens a file does not wait for one that is being written.
        let pin = entry.pin(pieces.clone(), &self.pinned, self.size / 2)?;
        // One that is open: who asks must not wait for a disk.
        let open = |how| self.lock_open().get(&(entry.serial, Name::Data(number), how)).map(Arc::clone);
        let file = open(How::Read).or_else(|| open(How::Write))?;
        let (metadata, length) = (file.metadata().ok()?, bytes.end - bytes.start);
        // A hole is what a stranger has left.
        if metadata.len() != length || metadata.blocks() * 512 < length {
            return None;
        }
        let file = file.try_clone().ok()?;
        let now = self.clock.now();
        pieces.for_each(|piece| entry.touch(PieceIndex(piece), now));
        Some((file, pin))
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
