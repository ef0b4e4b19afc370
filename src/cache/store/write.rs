//! Bytes into the store, and the index that says so.

use std::io;
use std::sync::atomic::Ordering;

use super::entry::{Entry, INDEX, INFO};
use super::layout::FileNumber;
use super::{BLOCK, Hex, How, Name, Store, disk, sum_of};
use crate::cache::Verified;
use crate::metainfo::{BLOCK_LENGTH, Metainfo, PieceIndex};

/// What is written past the page cache begins and ends at multiples of this, in memory and on disk, bytes.
const ALIGNED: u64 = 4096;
/// And is no shorter than this.
const DIRECT: usize = 128 << 10;
/// A disk that takes less is slow, bytes per microsecond (MB/s).
const FAST: u32 = 60;
/// Pieces that go through the page cache then.
const AFTER_SLOW: u32 = 256;

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

impl Store {
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

    pub(super) fn write_sums(&self, entry: &Entry, piece: PieceIndex, verified: &Verified) -> io::Result<()> {
        let mut sums = Vec::with_capacity(4 * entry.layout.geometry.blocks(piece) as usize);
        sums.extend(verified.sums().into_iter().flatten().flat_map(|sum| sum.to_le_bytes()));
        for begin in (0..verified.len()).step_by(BLOCK).skip(sums.len() / 4) {
            let block = begin..verified.len().min(begin.saturating_add(BLOCK_LENGTH));
            verified.scan(block, |bytes| sums.extend_from_slice(&sum_of(bytes).to_le_bytes()))?;
        }
        let file = self.file(entry, Name::Sums, How::Write)?;
        self.counted(entry, &file, || disk::write(&file, &sums, entry.sums(piece).start))
    }

    /// Before the first change: the directory, whose index says from now on that its files may be anything.
    pub(super) fn prepare(&self, entry: &Entry) -> io::Result<()> {
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

    /// Keeps the metadata of a torrent of which nothing else is here yet.
    pub fn keep_metadata(&self, entry: &Entry, meta: &Metainfo) {
        let _ledger = self.lock();
        let kept = || self.make_dir(entry, &meta.info).and_then(|()| self.prepare(entry));
        if !self.is_off()
            && let Err(error) = kept()
        {
            tracing::warn!("{}: the metadata cannot be kept: {error}", self.path.display());
        }
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

    pub(super) fn save_index(&self, entry: &Entry, session: (u64, u64), last: bool) {
        let Some(dir) = entry.dir() else { return };
        let index = entry.index(last, &self.clock, session).encode(&entry.id, &entry.layout.geometry);
        match disk::replace(dir, INDEX, &index, last) {
            Ok(()) => entry.dirty.store(!last, Ordering::Relaxed),
            Err(error) => tracing::warn!("{}: the index cannot be written: {error}", self.path.display()),
        }
        self.recount(entry);
    }
}
