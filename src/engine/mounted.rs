//! The session as the file system sees it: what is cached is answered by the thread that asks, the rest is parked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::content::{Backing, Bytes, Content, Reply};
use super::reads::Parked;
use super::shared::Shared;
use super::torrent::Torrent;
use super::untold::Untold;
use crate::swarm::{HandleId, Input, ReadId, Swarm, TorrentKey};

/// The largest file that [`Content::at_hand`] is asked about, bytes.
const SMALL: u64 = 1 << 20;

/// The session as the file system sees it.
pub(super) struct SessionContent(pub(super) Arc<Shared>);

impl Content for SessionContent {
    fn open(&self, torrent: TorrentKey, file: Range<u64>) -> HandleId {
        let handle = HandleId(self.0.id());
        if let Some(torrent) = self.0.torrent(torrent) {
            let mut handles = torrent.handles.write().unwrap_or_else(PoisonError::into_inner);
            handles.insert(handle, Mutex::default());
            let first = handles.len() == 1;
            drop(handles);
            if first {
                self.0.reads_begin_or_end(&torrent, 1);
            }
            torrent.tell(Input::Open(handle, file));
        }
        handle
    }

    fn at_hand(&self, torrent: TorrentKey, file: &Range<u64>) -> bool {
        let Some(torrent) = self.0.torrent(torrent) else { return false };
        let mut pieces = torrent.meta.geometry.pieces_of(file.clone());
        file.end - file.start <= SMALL
            && pieces.all(|piece| self.0.cache.contains(torrent.key, piece) || torrent.kept(piece).is_some())
    }

    fn backing(&self, torrent: TorrentKey, file: &Range<u64>) -> Option<Backing> {
        if self.0.closing.load(Ordering::SeqCst) {
            return None;
        }
        let torrent = self.0.torrent(torrent)?;
        let (store, entry) = (self.0.keeper.store()?, torrent.entry.as_ref()?);
        let backing = store.backing(entry, file).map(Backing::new);
        if backing.is_none() && torrent.meta.geometry.pieces_of(file.clone()).all(|piece| entry.holds(piece)) {
            // The next time, perhaps.
            let (torrent, file) = (Arc::clone(&torrent), file.clone());
            self.0.runtime.spawn_blocking(move || {
                if let (Some(store), Some(entry)) = (torrent.shared.keeper.store(), &torrent.entry) {
                    store.open_backing(entry, &file);
                }
            });
        }
        backing
    }

    fn try_read(&self, torrent: TorrentKey, handle: HandleId, bytes: &Range<u64>) -> Option<Bytes> {
        if self.0.closing.load(Ordering::SeqCst) {
            return None;
        }
        let torrent = self.0.torrent(torrent)?;
        let found = torrent.bytes_now(bytes).ok()?;
        let piece = torrent.meta.geometry.piece_at(bytes.end - 1);
        if let Some(told) = untold(&torrent, handle, |untold| untold.hit(bytes, piece)) {
            torrent.tell(Input::Hit(handle, told));
        }
        Some(found)
    }

    fn park(&self, torrent: TorrentKey, handle: HandleId, bytes: Range<u64>, pid: u32, reply: Box<dyn Reply>) {
        let Some(torrent) = self.0.torrent(torrent).filter(|_| !self.0.closing.load(Ordering::SeqCst)) else {
            return reply.error(libc::EIO);
        };
        let id = ReadId(self.0.id());
        let deadline = Instant::now() + self.0.config.read_timeout;
        let pieces = BTreeMap::new();
        torrent.reads.insert(id, Parked { handle, bytes: bytes.clone(), deadline, pid, reply, pieces });
        // Pinned after the read is parked: a piece that verifies meanwhile is seen here or there.
        for piece in torrent.meta.geometry.pieces_of(bytes.clone()) {
            if let Some(data) = self.0.cache.get(torrent.key, piece) {
                torrent.reads.pin_to(id, piece, data);
            }
        }
        if let Some(told) = untold(&torrent, handle, |untold| untold.miss(&bytes)) {
            torrent.tell(Input::Hit(handle, told));
        }
        torrent.tell(Input::Read { id, handle, bytes, deadline });
        torrent.withdraw_if_gone(id);
    }

    fn flush(&self, torrent: TorrentKey, handle: HandleId) {
        let Some(torrent) = self.0.torrent(torrent) else { return };
        untold(&torrent, handle, |untold| {
            untold.forget_piece();
            None
        });
        torrent.tell(Input::Flush(handle));
        if !torrent.reads.readers(handle).is_empty() {
            self.0.runtime.spawn(torrent.withdraw_gone(handle));
        }
    }

    fn close(&self, torrent: TorrentKey, handle: HandleId) {
        if let Some(torrent) = self.0.torrent(torrent) {
            let mut handles = torrent.handles.write().unwrap_or_else(PoisonError::into_inner);
            let last = handles.remove(&handle).is_some() && handles.is_empty();
            drop(handles);
            torrent.tell(Input::Close(handle));
            if last {
                self.0.reads_begin_or_end(&torrent, -1);
            }
        }
    }

    fn progress(&self, torrent: TorrentKey) -> (u64, u64) {
        self.0.torrent(torrent).map_or((0, 0), |t| (t.look(Swarm::totals).held, t.meta.geometry.total()))
    }

    fn close_all(&self) {
        self.0.close_all();
    }
}

/// What the swarm is to be told of a handle's reads.
fn untold(
    torrent: &Torrent,
    handle: HandleId,
    news: impl FnOnce(&mut Untold) -> Option<Range<u64>>,
) -> Option<Range<u64>> {
    let handles = torrent.handles.read().unwrap_or_else(PoisonError::into_inner);
    news(&mut handles.get(&handle)?.lock().unwrap_or_else(PoisonError::into_inner))
}
