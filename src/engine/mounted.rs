//! The session as the file system sees it: what is cached is answered by the thread that asks, the rest is parked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::content::{Bytes, Content, Reply};
use super::reads::{Parked, gather};
use super::session::{Shared, close_all};
use crate::swarm::{HandleId, Input, ReadId, Swarm, TorrentKey};

/// The session as the file system sees it.
pub(super) struct SessionContent(pub(super) Arc<Shared>);

/// No piece: read-ahead has been told of none.
const UNTOLD: u64 = u64::MAX;

impl Content for SessionContent {
    fn open(&self, torrent: TorrentKey, file: Range<u64>) -> HandleId {
        let handle = HandleId(self.0.id());
        if let Some(torrent) = self.0.torrent(torrent) {
            let mut handles = torrent.handles.write().unwrap_or_else(PoisonError::into_inner);
            handles.insert(handle, AtomicU64::new(UNTOLD));
            drop(handles);
            torrent.tell(Input::Open(handle, file));
        }
        handle
    }

    fn try_read(&self, torrent: TorrentKey, handle: HandleId, bytes: &Range<u64>) -> Option<Bytes> {
        if self.0.closing.load(Ordering::SeqCst) {
            return None;
        }
        let torrent = self.0.torrent(torrent)?;
        let found = gather(&torrent.meta.geometry, bytes, |piece| torrent.find(piece)).ok()?;
        // Read-ahead is told once a piece, not once a read.
        let piece = u64::from(torrent.meta.geometry.piece_at(bytes.end - 1).0);
        let told = torrent
            .handles
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&handle)
            .is_none_or(|last| last.swap(piece, Ordering::Relaxed) == piece);
        if !told {
            torrent.tell(Input::Hit(handle, bytes.clone()));
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
        torrent.tell(Input::Read { id, handle, bytes, deadline });
    }

    fn flush(&self, torrent: TorrentKey, handle: HandleId) {
        let Some(torrent) = self.0.torrent(torrent) else { return };
        if let Some(last) = torrent.handles.read().unwrap_or_else(PoisonError::into_inner).get(&handle) {
            last.store(UNTOLD, Ordering::Relaxed);
        }
        torrent.tell(Input::Flush(handle));
        if !torrent.reads.readers(handle).is_empty() {
            self.0.runtime.spawn(torrent.withdraw_gone(handle));
        }
    }

    fn close(&self, torrent: TorrentKey, handle: HandleId) {
        if let Some(torrent) = self.0.torrent(torrent) {
            torrent.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
            torrent.tell(Input::Close(handle));
        }
    }

    fn progress(&self, torrent: TorrentKey) -> (u64, u64) {
        self.0.torrent(torrent).map_or((0, 0), |t| (t.look(Swarm::totals).held, t.meta.geometry.total()))
    }

    fn close_all(&self) {
        close_all(&self.0);
    }
}
