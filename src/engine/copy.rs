//! A torrent's copy on disk: which pieces are whole in it, the thread that writes verified pieces to it, and what is
//! told when it cannot. The swarm hears of a piece once it is written, and only then is the memory of the piece given
//! back: so what waits for the disk is never more than unfinished pieces may take, and a slow disk slows the download.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::session::LocalCopy;
use super::torrent::Torrent;
use crate::cache::{DataDir, Filled, PieceBuf, Place, Pool, Verified};
use crate::error::{Error, Result};
use crate::metainfo::{BLOCK_LENGTH, Geometry, Metainfo, PieceIndex};
use crate::swarm::Input;

/// A torrent's copy on disk.
pub(super) struct DiskCopy {
    data: DataDir,
    geometry: Geometry,
    /// Per piece: all of it is in the copy, and was right when it was checked or written, unless it is to be checked yet.
    whole: Box<[AtomicBool]>,
    /// Per piece: nobody has hashed it yet.
    unchecked: Box<[AtomicBool]>,
    /// It is filled in as pieces come for reads; nobody waits for it to be written.
    filled_in: bool,
    writer: Mutex<Option<Writer>>,
    /// Why it is not written any more.
    failure: watch::Sender<Option<Arc<Error>>>,
}

struct Writer {
    queue: Sender<(PieceIndex, Arc<Verified>)>,
    thread: JoinHandle<()>,
}

impl DiskCopy {
    pub(super) fn new(copy: LocalCopy, geometry: Geometry) -> Self {
        let has = |piece: PieceIndex| copy.have.get(piece.0 as usize) == Some(&true);
        let unchecked = |piece| AtomicBool::new(copy.unchecked && has(piece));
        Self {
            whole: geometry.all().map(|piece| AtomicBool::new(has(piece))).collect(),
            unchecked: geometry.all().map(unchecked).collect(),
            filled_in: copy.unchecked && copy.data.writable(),
            data: copy.data,
            geometry,
            writer: Mutex::default(),
            failure: watch::Sender::new(None),
        }
    }

    /// True if all of the piece is in the copy.
    pub(super) fn holds(&self, piece: PieceIndex) -> bool {
        self.whole.get(piece.0 as usize).is_some_and(|whole| whole.load(Ordering::Acquire))
    }

    fn set(&self, piece: PieceIndex, whole: bool) {
        if let Some(flag) = self.whole.get(piece.0 as usize) {
            flag.store(whole, Ordering::Release);
        }
        if let Some(flag) = self.unchecked.get(piece.0 as usize) {
            flag.store(false, Ordering::Release);
        }
    }

    /// True if the piece is thought to be in the copy, and nobody has hashed it yet.
    pub(super) fn is_unchecked(&self, piece: PieceIndex) -> bool {
        self.unchecked.get(piece.0 as usize).is_some_and(|unchecked| unchecked.load(Ordering::Acquire))
    }

    /// True if it is filled in as pieces come for reads.
    pub(super) fn is_filled_in(&self) -> bool {
        self.filled_in
    }

    /// Hashes what nobody has hashed yet, in order, until `stop`; `lost` gets the pieces that are not right.
    fn check(&self, meta: &Metainfo, stop: impl Fn() -> bool, lost: impl Fn(PieceIndex)) {
        for piece in self.geometry.all() {
            if stop() {
                return;
            }
            if self.is_unchecked(piece) {
                let right = self.data.is_right(meta, piece);
                // It may have been written meanwhile.
                if self.is_unchecked(piece) {
                    self.set(piece, right);
                    if !right {
                        lost(piece);
                    }
                }
            }
        }
    }

    /// Fills `out` with the torrent's bytes from `offset` on.
    ///
    /// # Errors
    /// `NotFound` for a piece that is not whole in the copy; whatever reading gives.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check_held(offset, out.len())?;
        self.data.read_at(offset, out)
    }

    /// As [`DiskCopy::read_at`], but never waits for a disk: false if it would have to, and `out` is anything then.
    ///
    /// # Errors
    /// As [`DiskCopy::read_at`].
    pub(super) fn read_cached_at(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        self.check_held(offset, out.len())?;
        self.data.read_cached_at(offset, out)
    }

    fn check_held(&self, offset: u64, length: usize) -> io::Result<()> {
        let end = offset.saturating_add(length as u64);
        match self.geometry.pieces_of(offset..end).all(|piece| self.holds(piece) && !self.is_unchecked(piece)) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotFound, "the copy does not have this piece")),
        }
    }

    /// Reads a piece back and hashes it.
    ///
    /// # Errors
    /// Whatever reading gives; `InvalidData` if it is not what it was. The copy does not hold the piece then.
    pub(super) fn load(
        &self,
        meta: &Metainfo,
        piece: PieceIndex,
        place: &Place,
        pool: &Arc<Pool>,
    ) -> io::Result<Verified> {
        let loaded = self.load_unmarked(meta, piece, place, pool);
        self.set(piece, loaded.is_ok());
        loaded
    }

    fn load_unmarked(
        &self,
        meta: &Metainfo,
        piece: PieceIndex,
        place: &Place,
        pool: &Arc<Pool>,
    ) -> io::Result<Verified> {
        let changed = || io::Error::new(io::ErrorKind::InvalidData, "its bytes are not what they were");
        let hash = meta.piece_hashes.get(piece).ok_or_else(changed)?;
        let length = self.geometry.piece_length(piece);
        let buffer = PieceBuf::new(length, *hash, place, pool)?;
        let mut block = [0; BLOCK_LENGTH as usize];
        for begin in (0..length).step_by(BLOCK_LENGTH as usize) {
            let block = &mut block[..(length - begin).min(BLOCK_LENGTH) as usize];
            self.data.read_at(self.geometry.piece_offset(piece) + u64::from(begin), block)?;
            if let Filled::Done(verified) = buffer.fill(begin, block)? {
                return Ok(verified);
            }
        }
        Err(changed())
    }

    /// Gives a piece to the thread that writes. False if there is none.
    pub(super) fn queue(&self, piece: PieceIndex, data: &Arc<Verified>) -> bool {
        self.lock().as_ref().is_some_and(|writer| writer.queue.send((piece, Arc::clone(data))).is_ok())
    }

    /// Writes a piece, unless writing has failed before.
    pub(super) fn write(&self, piece: PieceIndex, data: &Verified) {
        if self.is_failing() {
            return;
        }
        match self.data.write_piece(piece, data) {
            Ok(whole) => self.set(piece, whole),
            Err(error) => {
                if self.filled_in {
                    tracing::warn!("{error}; nothing more is written, and reads go on");
                }
                tracing::debug!("{error}");
                self.failure.send_replace(Some(Arc::new(error)));
            }
        }
    }

    /// True if it cannot be written any more.
    pub(super) fn is_failing(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Resolves with the reason when it cannot be written any more.
    pub(super) fn failed(&self) -> impl Future<Output = Arc<Error>> + Send + use<> {
        let mut failure = self.failure.subscribe();
        async move {
            let reason = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
            match reason {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.data.sync()
    }

    /// Writes what waits, then ends the thread.
    pub(super) fn close(&self) {
        let writer = self.lock().take();
        if let Some(Writer { queue, thread }) = writer {
            drop(queue);
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Torrent {
    /// Starts the threads that write the copy, if there is one that is writable, and that check what nobody has checked.
    ///
    /// # Errors
    /// [`Error::System`] if there can be no thread.
    pub(super) fn write_copy(self: &Arc<Self>) -> Result<()> {
        let Some(copy) = &self.data else { return Ok(()) };
        if copy.geometry.all().any(|piece| copy.is_unchecked(piece)) {
            let torrent = Arc::downgrade(self);
            std::thread::Builder::new()
                .name("check".into())
                .spawn(move || check(&torrent))
                .map_err(|cause| Error::System { what: "start the thread that checks", cause })?;
        }
        if !copy.data.writable() || copy.filled_in {
            return Ok(());
        }
        let (queue, pieces) = mpsc::channel();
        let torrent = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name("write".into())
            .spawn(move || write(&torrent, &pieces))
            .map_err(|cause| Error::System { what: "start the thread that writes", cause })?;
        *copy.lock() = Some(Writer { queue, thread });
        Ok(())
    }
}

/// The thread: hashes what was there before. What is not right is fetched again.
fn check(torrent: &Weak<Torrent>) {
    let Some(torrent) = torrent.upgrade() else { return };
    let Some(copy) = &torrent.data else { return };
    let stop = || torrent.shared.closing.load(Ordering::SeqCst);
    copy.check(&torrent.meta, stop, |piece| {
        if !torrent.shared.cache.contains(torrent.key, piece) {
            torrent.tell(Input::Lost(piece));
        }
    });
    tracing::info!(torrent = %torrent.meta.name, "the copy is checked");
}

/// The thread: writes what comes until the queue ends.
fn write(torrent: &Weak<Torrent>, pieces: &Receiver<(PieceIndex, Arc<Verified>)>) {
    for (piece, data) in pieces {
        let Some(torrent) = torrent.upgrade() else { return };
        if let Some(copy) = &torrent.data {
            copy.write(piece, &data);
        }
        torrent.told(piece);
    }
}
