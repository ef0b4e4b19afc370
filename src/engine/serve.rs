//! Where the bytes of a read come from once they are there: memory, the disk store, or the user's own copy. Threads that
//! answer the kernel never wait for a disk; what would have to is read by others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::content::Bytes;
use super::reads::{Missing, Part, gather};
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
                Err(Fault::Suspect | Fault::Absent) => {}
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
        let stored = self.kept(piece).zip(self.meta.piece_hashes.get(piece));
        let stored =
            stored.and_then(|((store, entry), hash)| store.load(entry, piece, hash, &place, &self.shared.pool).ok());
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
            self.tell_lost();
            return None;
        };
        self.shared.cache.insert(self.key, piece, Arc::clone(&data));
        self.shared.make_room();
        Some(data)
    }

    /// The swarm hears of all pieces that are neither in memory nor on a disk any more: whatever took one of them may have
    /// taken more.
    fn tell_lost(&self) {
        const STEP: usize = 4096;
        let mut pieces = self.meta.geometry.all();
        loop {
            let step: Vec<PieceIndex> = pieces.by_ref().take(STEP).collect();
            if step.is_empty() {
                return;
            }
            let thought: Vec<PieceIndex> = self.look(|swarm| step.into_iter().filter(|p| swarm.has(*p)).collect());
            let gone = |piece: &PieceIndex| !self.shared.cache.contains(self.key, *piece) && !self.on_disk(*piece);
            thought.into_iter().filter(gone).for_each(|piece| self.tell(Input::Lost(piece)));
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
        let torrent = Arc::clone(&self);
        let job = tokio::task::spawn_blocking(move || torrent.bytes_from_disk(&bytes, &pinned));
        match tokio::time::timeout(PATIENCE, job).await {
            Ok(Ok(Ok(bytes))) => {
                if let Some(read) = self.reads.take(id) {
                    read.reply.data(bytes.as_slice());
                }
            }
            Ok(Ok(Err(Missing::Piece(piece)))) => self.ask_again(id, piece),
            Ok(Ok(Err(Missing::Later | Missing::Unreadable(_))) | Err(_)) => {
                if let Some(read) = self.reads.take(id) {
                    read.reply.error(libc::EIO);
                }
            }
            Err(_) => {
                warn!(torrent = %self.meta.name, "a disk has not answered for {PATIENCE:?}: the swarm is asked");
                if let Some(store) = self.shared.keeper.store() {
                    store.is_late();
                }
                let Some((bytes, pinned)) = self.reads.pinned(id) else { return };
                let lacking = self.meta.geometry.pieces_of(bytes).filter(|piece| !pinned.contains_key(piece));
                lacking.for_each(|piece| self.tell(Input::Lost(piece)));
                self.read_again(id);
            }
        }
    }

    fn bytes_from_disk(
        &self,
        bytes: &Range<u64>,
        pinned: &BTreeMap<PieceIndex, Arc<Verified>>,
    ) -> Result<Bytes, Missing> {
        gather(&self.meta.geometry, bytes, |piece, range| match pinned.get(&piece) {
            Some(pinned) => Ok(Part::Piece(Arc::clone(pinned))),
            None => self.part(piece, range, true),
        })
    }

    /// A parked read lacks a piece that was thought to be there.
    fn ask_again(&self, id: ReadId, piece: PieceIndex) {
        // It may have come at this very moment.
        if !self.shared.cache.contains(self.key, piece) && !self.on_disk(piece) {
            // A disk that is left alone has taken everything with it.
            if self.shared.keeper.store().is_some_and(Store::is_off) {
                self.tell_lost();
            } else {
                self.tell(Input::Lost(piece));
            }
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
