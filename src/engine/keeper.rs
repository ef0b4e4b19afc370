//! What has come goes into the disk store, or into the user's own copy: one thread writes the pieces of all torrents, from
//! a queue that is bounded in bytes. What finds it full stays in memory, so that no read waits for a disk, and is written
//! later if it is there still; the background begins nothing new until the disk has caught up. (A download by `get` waits for its disk: see `copy`.)

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::copy::DiskCopy;
use super::shared::Shared;
use super::torrent::Torrent;
use crate::cache::{Entry, Put, Room, Store, Verified};
use crate::error::{Error, Result};
use crate::metainfo::PieceIndex;
use crate::swarm::{Input, Swarm, TorrentKey};

/// How much of --memory may wait for the disk, 1 of 4, and the most of it, bytes.
const SHARE: u64 = 4;
const MOST: u64 = 64 << 20;
/// How often the indexes are written: what was used, received and sent since then is lost by a kill.
const SAVE: Duration = Duration::from_secs(60);
/// Pieces that found the queue full and are remembered.
const LEFT: usize = 1 << 16;
/// Pieces that reads wait for are passed over, so many for one that is to be written.
const SPARED: u32 = 64;

/// The store, if there is one, and the thread that writes to it and to copies.
pub(super) struct Keeper {
    store: Option<Store>,
    queue: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Bytes that wait, and that may.
    waiting: AtomicU64,
    limit: u64,
    busy: AtomicBool,
    /// Pieces that found the queue full: written once it is empty, as far as memory has them still.
    left: Mutex<VecDeque<(TorrentKey, PieceIndex)>>,
}

/// A piece that is to be written.
struct Job {
    torrent: TorrentKey,
    piece: PieceIndex,
    data: Arc<Verified>,
}

impl Keeper {
    /// For a process that holds `memory` bytes of pieces.
    pub(super) fn new(store: Option<Store>, memory: u64) -> Self {
        Self {
            store,
            queue: Mutex::default(),
            thread: Mutex::default(),
            waiting: AtomicU64::new(0),
            limit: (memory / SHARE).min(MOST),
            busy: AtomicBool::new(false),
            left: Mutex::default(),
        }
    }

    /// The disk store.
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// Queues a piece, or remembers it if too much waits already.
    fn queue(&self, job: Job) {
        let length = u64::from(job.data.len());
        let waits = self.waiting.fetch_add(length, Ordering::Relaxed) + length;
        // A piece that is larger than the limit waits alone.
        let fits = waits <= self.limit || waits == length;
        let key = (job.torrent, job.piece);
        let sent = fits && self.lock_queue().as_ref().is_some_and(|queue| queue.send(job).is_ok());
        if !sent {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            let mut left = self.lock_left();
            if left.len() >= LEFT {
                left.pop_front();
            }
            left.push_back(key);
        }
    }

    fn lock_left(&self) -> std::sync::MutexGuard<'_, VecDeque<(TorrentKey, PieceIndex)>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece that was left and is in memory still.
    fn take_left(&self, shared: &Shared) -> Option<Job> {
        loop {
            let (torrent, piece) = self.lock_left().pop_front()?;
            if let Some(data) = shared.cache.peek(torrent, piece) {
                return Some(Job { torrent, piece, data });
            }
        }
    }

    fn lock_queue(&self) -> std::sync::MutexGuard<'_, Option<Sender<Job>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By the thread that writes, and nobody else: the last word is the right one.
    fn set_busy(&self, shared: &Shared, busy: bool) {
        if self.busy.swap(busy, Ordering::Relaxed) != busy {
            debug!(busy, "the disk of the cache");
            shared.all().iter().for_each(|torrent| torrent.tell(Input::DiskBusy(busy)));
        }
    }

    /// A job is done.
    fn done(&self, shared: &Shared, length: u64) {
        let waits = self.waiting.fetch_sub(length, Ordering::Relaxed).saturating_sub(length);
        if waits < self.limit / 4 {
            self.set_busy(shared, false);
        } else if waits > self.limit / 4 * 3 {
            self.set_busy(shared, true);
        }
    }

    /// Writes what waits, and says in the indexes that all is well.
    pub(super) fn close(&self, shared: &Shared) {
        drop(self.lock_queue().take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        self.save(shared, true);
    }

    fn save(&self, shared: &Shared, last: bool) {
        let Some(store) = &self.store else { return };
        for torrent in shared.all() {
            if let Some(entry) = &torrent.entry {
                let totals = torrent.look(Swarm::totals);
                store.save(entry, &torrent.meta, (totals.downloaded, totals.uploaded), last);
            }
        }
        store.regrow();
    }

    /// Makes room for a piece. False if there is none.
    fn make_room(shared: &Shared, store: &Store, bytes: u64) -> bool {
        let mut spared = 0;
        loop {
            match store.room(bytes) {
                Room::Enough => return true,
                Room::Full => return false,
                Room::Victim(entry, piece) => {
                    let torrent = shared.torrent_of(&entry);
                    if spared < SPARED && torrent.as_ref().is_some_and(|t| t.look(|swarm| swarm.awaited(piece))) {
                        spared += 1;
                        store.touch(&entry, piece);
                    } else if spared < SPARED {
                        Self::evict(shared, store, torrent.as_deref(), &entry, piece);
                    } else {
                        return false;
                    }
                }
            }
        }
    }

    /// A piece leaves the store; its swarm hears of it before, unless memory has it.
    fn evict(shared: &Shared, store: &Store, torrent: Option<&Torrent>, entry: &Entry, piece: PieceIndex) {
        let in_memory = |torrent: &Torrent| shared.cache.contains(torrent.key, piece);
        let stays = torrent.is_some_and(in_memory);
        if let Some(torrent) = torrent.filter(|_| !stays) {
            torrent.tell(Input::Evicted(piece));
        }
        store.forget(entry, piece);
        // It may have left memory meanwhile, since it was here.
        if let Some(torrent) = torrent.filter(|torrent| stays && !in_memory(torrent)) {
            torrent.tell(Input::Evicted(piece));
        }
    }

    fn write(&self, shared: &Shared, job: &Job) {
        let Some(torrent) = shared.torrent(job.torrent) else { return };
        if let Some(copy) = &torrent.data {
            return copy.write(job.piece, &job.data);
        }
        let (Some(store), Some(entry)) = (&self.store, &torrent.entry) else { return };
        let hurry = self.waiting.load(Ordering::Relaxed) > self.limit / 2;
        for _ in 0..2 {
            if !Self::make_room(shared, store, job.data.len().into()) {
                return;
            }
            // A disk that turned out to be full has made the store smaller.
            if store.write(entry, &torrent.meta, job.piece, &job.data, hurry) != Put::Full {
                return;
            }
        }
    }
}

impl Shared {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// [`Error::System`] if there can be no thread.
    pub(super) fn start_keeper(self: &Arc<Self>) -> Result<()> {
        let keeper = &self.keeper;
        let (queue, jobs) = mpsc::channel();
        let shared = Arc::downgrade(self);
        let thread = std::thread::Builder::new()
            .name("keep".into())
            .spawn(move || keep(&shared, &jobs))
            .map_err(|cause| Error::System { what: "start the thread that writes", cause })?;
        *keeper.lock_queue() = Some(queue);
        *keeper.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        if let Some(store) = &keeper.store {
            info!(path = %store.path().display(), bytes = store.size(), "the cache directory");
        }
        Ok(())
    }

    /// The torrent of this session that an entry of the store belongs to.
    fn torrent_of(&self, entry: &Entry) -> Option<Arc<Torrent>> {
        let key = *self.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(entry.id())?;
        self.torrent(key)
    }
}

/// The thread: writes what comes until the queue ends.
fn keep(shared: &Weak<Shared>, jobs: &Receiver<Job>) {
    let (mut saved, mut patience) = (Instant::now(), SAVE);
    loop {
        let job = jobs.recv_timeout(patience);
        let Some(shared) = shared.upgrade() else { return };
        let keeper = &shared.keeper;
        match job {
            Ok(job) => {
                keeper.write(&shared, &job);
                let length = job.data.len().into();
                // Its memory is free before the next one is asked for.
                drop(job);
                keeper.done(&shared, length);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(job) = keeper.take_left(&shared) {
                    keeper.write(&shared, &job);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if saved.elapsed() >= SAVE {
            keeper.save(&shared, false);
            shared.share_cache();
            saved = Instant::now();
        }
        let nothing_left = keeper.lock_left().is_empty();
        patience = if nothing_left { (saved + SAVE).saturating_duration_since(Instant::now()) } else { Duration::ZERO };
    }
}

impl Torrent {
    /// A piece goes into the store or into the copy that a mount fills in, if the disk keeps up.
    pub(super) fn keep(&self, piece: PieceIndex, data: &Arc<Verified>) {
        if self.entry.is_some() || self.data.as_ref().is_some_and(DiskCopy::is_filled_in) {
            let job = Job { torrent: self.key, piece, data: Arc::clone(data) };
            self.shared.keeper.queue(job);
        }
    }

    /// The store and the torrent's entry in it, if it holds the piece.
    pub(super) fn kept(&self, piece: PieceIndex) -> Option<(&Store, &Arc<Entry>)> {
        let (store, entry) = (self.shared.keeper.store()?, self.entry.as_ref()?);
        store.holds(entry, piece).then_some((store, entry))
    }
}
