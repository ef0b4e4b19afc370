//! What the file system asks of the engine, and nothing more.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::chunks::Chunk;
use crate::cache::{Checked, Pin, Verified};
use crate::swarm::{HandleId, TorrentKey};

/// The answer that a parked read waits for. Each is answered once, from any thread.
pub trait Reply: Send {
    /// The bytes, as many as were asked for.
    fn data(self: Box<Self>, bytes: &[u8]);
    /// An errno.
    fn error(self: Box<Self>, errno: i32);
}

/// Bytes of a read that need no wait.
#[derive(Debug)]
pub enum Bytes {
    /// A part of one piece in memory, not copied.
    Piece(Arc<Verified>, Range<usize>),
    /// A part of one piece in the disk store.
    Stored(Checked<Chunk>),
    /// Gathered from several pieces or from a file.
    Copied(Vec<u8>),
}

impl Bytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Piece(piece, range) => piece.bytes().and_then(|b| b.get(range.clone())).unwrap_or_default(),
            Self::Stored(bytes) => bytes.bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}

/// A file on a disk that is, byte for byte, a file of a torrent. It stays so while this is held.
#[derive(Debug)]
pub struct Backing {
    /// The file, open to read.
    pub file: File,
    _pin: Pin,
}

impl Backing {
    pub(super) fn new((file, pin): (File, Pin)) -> Self {
        Self { file, _pin: pin }
    }
}

/// The content of mounted torrents. No call waits for the swarm.
pub trait Content: Send + Sync + 'static {
    /// A file, as a range of torrent bytes, is opened.
    fn open(&self, torrent: TorrentKey, file: Range<u64>) -> HandleId;
    /// True if a small file is in memory: its reads will hardly be parked, so that a FLUSH has nothing to do for it.
    fn at_hand(&self, _torrent: TorrentKey, _file: &Range<u64>) -> bool {
        false
    }
    /// The file as it lies whole on a disk, if the kernel may read it by itself.
    fn backing(&self, _torrent: TorrentKey, _file: &Range<u64>) -> Option<Backing> {
        None
    }
    /// The bytes, if all of them are there now. `bytes` is not empty and lies in the handle's file.
    fn try_read(&self, torrent: TorrentKey, handle: HandleId, bytes: &Range<u64>) -> Option<Bytes>;
    /// Waits for the bytes; the reply is sent within the read timeout. `pid` is the reader's, 0 if unknown.
    fn park(&self, torrent: TorrentKey, handle: HandleId, bytes: Range<u64>, pid: u32, reply: Box<dyn Reply>);
    /// FLUSH: read-ahead stops; parked reads whose process is gone are answered EIO.
    fn flush(&self, torrent: TorrentKey, handle: HandleId);
    /// The last close of a handle.
    fn close(&self, torrent: TorrentKey, handle: HandleId);
    /// Bytes held and bytes in all.
    fn progress(&self, torrent: TorrentKey) -> (u64, u64);
    /// The end: every parked read and every later one gets EIO.
    fn close_all(&self);
}
