//! Room in the store: what goes first, and how its bytes are given back.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::{Entry, Taken};
use super::oldest::{self, Oldest};
use super::{How, Ledger, Name, Store, disk};
use crate::metainfo::PieceIndex;

/// What a piece may take beyond its bytes: ends of blocks in two or more files, checksums, the file system's own lists.
const SLACK: u64 = 64 << 10;

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

impl Store {
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
    pub(super) fn take(&self, entry: &Entry, piece: PieceIndex) {
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
    pub(super) fn erase(&self, entry: &Entry, pieces: Range<u32>) -> io::Result<()> {
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
}
