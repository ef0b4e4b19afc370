//! Where the bytes of a read come from once they are there: memory, the disk store, or the user's own copy. Threads that
//! answer the kernel never wait for a disk; what would have to is read by others.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::content::Bytes;
use super::reads::{Missing, Part, Pinned, gather};
use super::torrent::Torrent;
use crate::cache::{Fault, Store, Verified};
use crate::metainfo::PieceIndex;
use crate::swarm::{Input, ReadId};

/// A disk that has not answered for so long is as good as none: the swarm is asked.
const PATIENCE: Duration = Duration::from_secs(5);

impl Torrent {
    /// Bytes of a read, if none of them has to be waited for.
    pub(super) fn bytes_now(&self, bytes: &Range<u64>) -> Result<Bytes, Missing> {
        gather(&self.meta.geometry, bytes, |piece, range| self.part(piece, range, false))
    }

    /// Bytes of a piece, as offsets in it. With `wait` false never waits for a disk.
    fn part(&self, piece: PieceIndex, range: Range<u32>, wait: bool) -> Result<Part, Missing> {
        if let Some(cached) = self.shared.cache.get(self.key, piece) {
            if let Some((store, entry)) = self.kept(piece) {
                store.touch(entry, piece);
            }
            return Ok(Part::Piece(cached));
        }
        if let Some((store, entry)) = self.kept(piece) {
            match store.read(entry, piece, range, wait, |length| self.shared.chunks.get(length)) {
                Ok(checked) => {
                    store.touch(entry, piece);
                    return Ok(Part::Stored(checked));
                }
                Err(Fault::WouldBlock) => return Err(Missing::Later),
                Err(Fault::Suspect | Fault::Absent | Fault::FileGone) => {}
            }
        }
        match (wait, self.on_disk(piece)) {
            (_, false) => Err(Missing::Piece(piece)),
            (false, true) => Err(Missing::Later),
            (true, true) => self.find(piece).map(Part::Piece).ok_or(Missing::Piece(piece)),
        }
    }

    /// True if the store or the copy has the piece.
    pub(super) fn on_disk(&self, piece: PieceIndex) -> bool {
        self.kept(piece).is_some() || self.data.as_ref().is_some_and(|copy| copy.holds(piece))
    }

    /// A whole piece from memory or, hashed once more, from a disk, which may have to be waited for.
    pub(super) fn find(&self, piece: PieceIndex) -> Option<Arc<Verified>> {
        self.shared.cache.get(self.key, piece).or_else(|| tokio::task::block_in_place(|| self.load(piece)))
    }

    fn load(&self, piece: PieceIndex) -> Option<Arc<Verified>> {
        let place = self.shared.place(self.meta.geometry.piece_length(piece));
        // One at a time: others may wait for the same piece.
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = self.shared.cache.get(self.key, piece) {
            return Some(cached);
        }
        let stored = self.kept(piece).zip(self.meta.piece_hashes.get(piece));
        let stored = stored.and_then(|((store, entry), hash)| {
            let loaded = store.load(entry, piece, hash, &place, &self.shared.pool);
            if matches!(loaded, Err(Fault::FileGone)) {
                self.find_lost();
            }
            loaded.ok()
        });
        let loaded = match (stored, self.data.as_ref().filter(|copy| copy.holds(piece))) {
            (Some(stored), _) => Some(stored),
            (None, Some(copy)) => match copy.load(&self.meta, piece, &place, &self.shared.pool) {
                Ok(data) => Some(data),
                Err(e) => {
                    warn!(torrent = %self.meta.name, piece = piece.0, "the copy has lost a piece: {e}");
                    None
                }
            },
            (None, None) => None,
        };
        let Some(data) = loaded.map(Arc::new) else {
            self.tell(Input::Lost(piece));
            return None;
        };
        self.shared.cache.insert(self.key, piece, Arc::clone(&data));
        self.shared.make_room();
        Some(data)
    }

    /// Lets the swarm hear, by and by, of all pieces that are neither in memory nor on a disk any more.
    fn find_lost(&self) {
        if !self.finding_lost.swap(true, Ordering::SeqCst)
            && let Some(torrent) = self.shared.torrent(self.key)
        {
            self.shared.runtime.spawn_blocking(move || {
                torrent.finding_lost.store(false, Ordering::SeqCst);
                torrent.tell_lost();
            });
        }
    }

    /// True if the piece is in memory or on a disk.
    pub(super) fn is_there(&self, piece: PieceIndex) -> bool {
        self.shared.cache.contains(self.key, piece) || self.on_disk(piece)
    }

    fn tell_lost(&self) {
        const STEP: usize = 4096;
        let mut pieces = self.meta.geometry.all();
        loop {
            let step: Vec<PieceIndex> = pieces.by_ref().take(STEP).collect();
            if step.is_empty() {
                return;
            }
            let thought: Vec<PieceIndex> = self.look(|swarm| step.into_iter().filter(|p| swarm.has(*p)).collect());
            thought.into_iter().filter(|piece| !self.is_there(*piece)).for_each(|piece| self.tell(Input::Lost(piece)));
        }
    }

    /// Sends what a read waited for.
    pub(super) fn answer(&self, id: ReadId) {
        let Some(read) = self.reads.take(id) else { return };
        let found = gather(&self.meta.geometry, &read.bytes, |piece, range| match read.pieces.get(&piece) {
            Some(pinned) => Ok(Part::Piece(Arc::clone(pinned))),
            None => self.part(piece, range, false),
        });
        match found {
            Ok(bytes) => read.reply.data(bytes.as_slice()),
            Err(Missing::Later) => {
                self.reads.insert(id, read);
                if let Some(torrent) = self.shared.torrent(self.key) {
                    self.shared.runtime.spawn(torrent.answer_from_disk(id));
                }
            }
            Err(Missing::Piece(piece)) => {
                self.reads.insert(id, read);
                self.ask_again(id, piece);
            }
            Err(Missing::Unreadable(e)) => {
                warn!(torrent = %self.meta.name, offset = read.bytes.start, "a piece cannot be read back: {e}");
                read.reply.error(libc::EIO);
            }
        }
    }

    /// Sends a parked read what a disk has, by a thread that may wait for it.
    async fn answer_from_disk(self: Arc<Self>, id: ReadId) {
        let Some((bytes, pinned)) = self.reads.pinned(id) else { return };
        let Some((_, _, deadline)) = self.reads.terms(id) else { return };
        let until = deadline.min(Instant::now() + PATIENCE).into();
        let (torrent, range) = (Arc::clone(&self), bytes.clone());
        // What is loaded whole takes memory that no budget counts.
        let share = self.loads(&bytes).min(self.shared.disk_share);
        let permit = tokio::time::timeout_at(until, Arc::clone(&self.shared.disk).acquire_many_owned(share)).await;
        let mut job = match permit {
            Ok(Ok(permit)) => tokio::task::spawn_blocking(move || {
                // Held as long as the disk is waited for, however long that is.
                let _permit = permit;
                torrent.bytes_from_disk(&range, &pinned)
            }),
            _ => tokio::spawn(std::future::ready(Err(Missing::Later))),
        };
        match tokio::time::timeout_at(until, &mut job).await {
            Ok(Ok(Ok(bytes))) => {
                if let Some(read) = self.reads.take(id) {
                    read.reply.data(bytes.as_slice());
                }
            }
            Ok(Ok(Err(Missing::Piece(piece)))) => self.ask_again(id, piece),
            Ok(Ok(Err(Missing::Later))) => self.do_without_disk(id, &bytes),
            Ok(Ok(Err(Missing::Unreadable(_))) | Err(_)) => {
                if let Some(read) = self.reads.take(id) {
                    read.reply.error(libc::EIO);
                }
            }
            Err(_) => {
                warn!(torrent = %self.meta.name, "a disk does not answer in time: the swarm is asked");
                if let Some(store) = self.shared.keeper.store() {
                    store.is_late();
                }
                self.do_without_disk(id, &bytes);
                // Should it answer after all, what it has is there again.
                if job.await.is_ok_and(|read| read.is_ok()) {
                    let there = self.meta.geometry.pieces_of(bytes).filter(|piece| self.is_there(*piece));
                    there.for_each(|piece| self.tell(Input::PieceVerified(piece)));
                }
            }
        }
    }

    /// A parked read goes to the swarm, whatever a disk has.
    fn do_without_disk(&self, id: ReadId, bytes: &Range<u64>) {
        let lacking = self.meta.geometry.pieces_of(bytes.clone());
        let lacking = lacking.filter(|piece| !self.shared.cache.contains(self.key, *piece));
        lacking.for_each(|piece| self.tell(Input::Lost(piece)));
        self.read_again(id);
    }

    /// Mebibytes of memory that a read from a disk takes: those of a piece, if one has to be loaded whole.
    fn loads(&self, bytes: &Range<u64>) -> u32 {
        let whole = |piece| self.data.is_some() || self.entry.as_ref().is_some_and(|entry| entry.is_suspect(piece));
        let length = self.meta.geometry.nominal_piece_length();
        let loads = self.meta.geometry.pieces_of(bytes.clone()).any(whole) && !self.shared.too_large(length);
        if loads { (length >> 20).max(1) } else { 1 }
    }

    fn bytes_from_disk(&self, bytes: &Range<u64>, pinned: &Pinned) -> Result<Bytes, Missing> {
        gather(&self.meta.geometry, bytes, |piece, range| match pinned.get(&piece) {
            Some(pinned) => Ok(Part::Piece(Arc::clone(pinned))),
            None => self.part(piece, range, true),
        })
    }

    /// A parked read lacks a piece that was thought to be there.
    fn ask_again(&self, id: ReadId, piece: PieceIndex) {
        // It may have come at this very moment.
        if !self.shared.cache.contains(self.key, piece) {
            self.tell(Input::Lost(piece));
        }
        // A disk that is left alone has taken everything with it.
        if self.shared.keeper.store().is_some_and(Store::is_off) {
            self.find_lost();
        }
        self.read_again(id);
    }

    /// The swarm is told of a parked read once more.
    fn read_again(&self, id: ReadId) {
        let Some((handle, bytes, deadline)) = self.reads.terms(id) else { return };
        self.tell(Input::Read { id, handle, bytes, deadline: deadline.max(Instant::now()) });
        self.withdraw_if_gone(id);
    }
}
