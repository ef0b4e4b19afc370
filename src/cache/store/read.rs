//! Bytes out of the store: by their checksums, whole pieces by their hash, and files for the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use super::entry::{Entry, Pin};
use super::layout::FileNumber;
use super::{BLOCK, CHUNK, Hex, How, Name, Store, sum_of};
use crate::cache::{Filled, PieceBuf, Place, Pool, Verified};
use crate::metainfo::{BLOCK_LENGTH, PieceIndex};

/// What a peer that reads on is ahead of on the disk, bytes.
const READ_AHEAD: u64 = 1 << 20;

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
    pub(super) fn read_blocks(
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
        self.read_data(entry, piece, range, wait, out)?;
        let sums = sums.as_chunks::<4>().0;
        Ok(out.chunks(BLOCK).zip(sums).all(|(block, sum)| sum_of(block).to_le_bytes() == *sum))
    }

    /// Bytes of a piece as they lie there, whatever they are.
    fn read_data(
        &self,
        entry: &Entry,
        piece: PieceIndex,
        range: Range<u32>,
        wait: bool,
        out: &mut [u8],
    ) -> io::Result<()> {
        let begin = entry.layout.piece_bytes(piece).start;
        for span in entry.layout.spans(begin + u64::from(range.start)..begin + u64::from(range.end)) {
            let part = out.get_mut(span.part).ok_or(io::ErrorKind::InvalidInput)?;
            match span.file {
                Some((file, at)) => self.read_file(entry, Name::Data(file), at, wait, part)?,
                None => part.fill(0),
            }
        }
        Ok(())
    }

    fn read_file(&self, entry: &Entry, name: Name, at: u64, wait: bool, out: &mut [u8]) -> io::Result<()> {
        if wait {
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
        let mut at = 0;
        while at < length {
            let step = chunk.len().min((length - at) as usize);
            let chunk = &mut chunk[..step];
            let end = at + u32::try_from(step).unwrap_or(u32::MAX);
            self.read_data(entry, piece, at..end, true, chunk)?;
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
