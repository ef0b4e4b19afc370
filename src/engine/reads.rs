//! Reads that wait: the parked replies of one torrent and the pieces that have come for them, pinned until they are sent.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::chunks::Chunk;
use super::content::{Bytes, Reply};
use crate::cache::{Checked, Verified};
use crate::metainfo::{Geometry, PieceIndex};
use crate::swarm::{HandleId, ReadId};

/// The pieces that have come for a read.
pub(super) type Pinned = BTreeMap<PieceIndex, Arc<Verified>>;

/// A read whose bytes are not all there.
pub(super) struct Parked {
    pub(super) handle: HandleId,
    pub(super) bytes: Range<u64>,
    pub(super) deadline: Instant,
    /// The thread that reads, 0 if unknown.
    pub(super) pid: u32,
    pub(super) reply: Box<dyn Reply>,
    /// What has come.
    pub(super) pieces: Pinned,
}

/// The parked reads of a torrent.
#[derive(Default)]
pub(super) struct Reads {
    parked: Mutex<BTreeMap<ReadId, Parked>>,
}

impl Reads {
    pub(super) fn insert(&self, id: ReadId, read: Parked) {
        self.lock().insert(id, read);
    }

    pub(super) fn take(&self, id: ReadId) -> Option<Parked> {
        self.lock().remove(&id)
    }

    /// Takes all of them out.
    pub(super) fn take_all(&self) -> Vec<Parked> {
        std::mem::take(&mut *self.lock()).into_values().collect()
    }

    /// True if the read waits.
    pub(super) fn contains(&self, id: ReadId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Pins a piece to the reads that wait for it.
    pub(super) fn pin(&self, geometry: &Geometry, piece: PieceIndex, data: &Arc<Verified>) {
        for read in self.lock().values_mut() {
            if !geometry.within(piece, &read.bytes).is_empty() {
                read.pieces.insert(piece, Arc::clone(data));
            }
        }
    }

    /// Pins a piece to one read.
    pub(super) fn pin_to(&self, id: ReadId, piece: PieceIndex, data: Arc<Verified>) {
        if let Some(read) = self.lock().get_mut(&id) {
            read.pieces.insert(piece, data);
        }
    }

    /// The bytes of a parked read, and the pieces that have come for it.
    pub(super) fn pinned(&self, id: ReadId) -> Option<(Range<u64>, Pinned)> {
        self.lock().get(&id).map(|read| (read.bytes.clone(), read.pieces.clone()))
    }

    /// What a parked read asked for, and until when.
    pub(super) fn terms(&self, id: ReadId) -> Option<(HandleId, Range<u64>, Instant)> {
        self.lock().get(&id).map(|read| (read.handle, read.bytes.clone(), read.deadline))
    }

    /// The parked reads of a handle and the threads that wait in them.
    pub(super) fn readers(&self, handle: HandleId) -> Vec<(ReadId, u32)> {
        self.lock().iter().filter(|(_, r)| r.handle == handle).map(|(id, r)| (*id, r.pid)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ReadId, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of one piece.
pub(super) enum Part {
    /// The piece is in memory, or in a temporary file.
    Piece(Arc<Verified>),
    /// These bytes of it were in the disk store.
    Stored(Checked<Chunk>),
}

/// Puts the bytes of a read together from its pieces.
///
/// # Errors
/// [`Missing`]: what `find` says of the first piece that it cannot give, or one that cannot be read.
pub(super) fn gather(
    geometry: &Geometry,
    bytes: &Range<u64>,
    mut find: impl FnMut(PieceIndex, Range<u32>) -> Result<Part, Missing>,
) -> Result<Bytes, Missing> {
    let mut copied = Vec::new();
    for index in geometry.pieces_of(bytes.clone()) {
        let range = geometry.within(index, bytes);
        let span = range.start as usize..range.end as usize;
        let all = u64::from(range.end - range.start) == bytes.end - bytes.start;
        match find(index, range.clone())? {
            Part::Piece(piece) if all && piece.bytes().is_some() => return Ok(Bytes::Piece(piece, span)),
            Part::Stored(stored) if all => return Ok(Bytes::Stored(stored)),
            Part::Piece(piece) => {
                let at = copied.len();
                copied.resize(at + span.len(), 0);
                piece.read_at(range.start, &mut copied[at..]).map_err(Missing::Unreadable)?;
            }
            Part::Stored(stored) => copied.extend_from_slice(stored.bytes()),
        }
    }
    Ok(Bytes::Copied(copied))
}

/// Why a read cannot be put together.
#[derive(Debug)]
pub(super) enum Missing {
    /// This piece is not there.
    Piece(PieceIndex),
    /// A disk would have to be waited for.
    Later,
    /// A piece is there and cannot be read.
    Unreadable(io::Error),
}
