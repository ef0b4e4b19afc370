//! One torrent: its swarm behind the one door, the pieces in assembly, the connections, and what effects do.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::assembly::Assembly;
use super::copy::DiskCopy;
use super::discovery::{self, Announcer, TrackerStatus};
use super::links::{End, Links};
use super::reach::origin;
use super::reads::Reads;
use super::shared::Shared;
use super::untold::Untold;
use crate::cache::{Entry, Verified};
use crate::metainfo::{Metainfo, PieceIndex};
use crate::status::{Snapshot, WebSeedStatus};
use crate::swarm::{Effect, HandleId, Input, PeerKey, ReadId, Swarm, TorrentKey};

/// A torrent of the session.
pub(super) struct Torrent {
    pub(super) key: TorrentKey,
    pub(super) meta: Arc<Metainfo>,
    pub(super) shared: Arc<Shared>,
    /// The copy on disk, if there is one.
    pub(super) data: Option<DiskCopy>,
    /// Its place in the disk store, if there is one.
    pub(super) entry: Option<Arc<Entry>>,
    /// Held while a piece is read back whole.
    pub(super) loading: Mutex<()>,
    /// It is being looked for what a disk has lost.
    pub(super) finding_lost: AtomicBool,
    /// When the last piece came that was missing.
    completed: OnceLock<Instant>,
    /// Everything wanted is there.
    pub(super) finished: watch::Sender<bool>,
    pub(super) reads: Reads,
    /// Open files, and what read-ahead has not been told of each.
    pub(super) handles: RwLock<BTreeMap<HandleId, Mutex<Untold>>>,
    swarm: Mutex<Swarm>,
    pub(super) links: Links,
    /// How each web seed is doing.
    pub(super) web_seeds: Mutex<BTreeMap<PeerKey, WebSeedStatus>>,
    pub(super) assembly: Assembly,
    timer: Notify,
    /// When the timer is due, nanoseconds since the session's start; `u64::MAX` for never.
    due: AtomicU64,
}

impl Torrent {
    pub(super) fn new(
        key: TorrentKey,
        meta: Arc<Metainfo>,
        shared: Arc<Shared>,
        swarm: Swarm,
        data: Option<DiskCopy>,
        entry: Option<Arc<Entry>>,
    ) -> Self {
        let assembly = Assembly::new(meta.geometry.nominal_piece_length(), shared.config.memory);
        Self {
            key,
            meta,
            shared,
            data,
            entry,
            loading: Mutex::default(),
            finding_lost: AtomicBool::new(false),
            completed: OnceLock::new(),
            finished: watch::Sender::new(false),
            reads: Reads::default(),
            handles: RwLock::default(),
            swarm: Mutex::new(swarm),
            links: Links::default(),
            web_seeds: Mutex::default(),
            assembly,
            timer: Notify::new(),
            due: AtomicU64::new(u64::MAX),
        }
    }

    /// The one door: locks the swarm, lets `news` in, unlocks, and carries out what was decided.
    pub(super) fn enter<R>(&self, news: impl FnOnce(&mut Swarm, Instant) -> R) -> R {
        let mut effects = VecDeque::new();
        let result = self.decide(&mut effects, news);
        // What is granted in return is news, too; in a loop, because it may happen thousands of times in a row.
        while let Some(effect) = effects.pop_front() {
            let granted = self.carry_out(effect);
            if granted > 0 {
                self.shared.make_room();
                self.decide(&mut effects, |swarm, now| swarm.handle(now, Input::Grant(granted)));
            }
        }
        result
    }

    /// Locks the swarm, lets `news` in, and adds what was decided to `effects`.
    fn decide<R>(&self, effects: &mut VecDeque<Effect>, news: impl FnOnce(&mut Swarm, Instant) -> R) -> R {
        let (result, timeout) = {
            let mut swarm = self.lock();
            let now = Instant::now();
            let result = news(&mut swarm, now);
            while let Some(effect) = swarm.poll() {
                effects.push_back(effect);
            }
            #[cfg(feature = "lock-watch")]
            if now.elapsed() > Duration::from_millis(1) {
                warn!(torrent = %self.meta.name, held = ?now.elapsed(), "the swarm's lock was held for long");
            }
            (result, swarm.next_timeout())
        };
        if let Some(at) = timeout {
            self.arm(at);
        }
        result
    }

    /// News that asks for nothing back.
    pub(super) fn tell(&self, input: Input<'_>) {
        self.enter(|swarm, now| swarm.handle(now, input));
    }

    /// A look at the swarm that changes nothing.
    pub(super) fn look<R>(&self, at: impl FnOnce(&Swarm) -> R) -> R {
        at(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Swarm> {
        self.swarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arm(&self, at: Instant) {
        let nanos = self.shared.nanos(at);
        if nanos < self.due.fetch_min(nanos, Ordering::AcqRel) {
            self.timer.notify_one();
        }
    }

    /// Delivers `Input::Timeout` when it is due, until the session ends.
    pub(super) async fn run_timer(self: Arc<Self>) {
        loop {
            let due = self.due.load(Ordering::Acquire);
            let at = tokio::time::Instant::from_std(self.shared.instant(due));
            tokio::select! {
                () = tokio::time::sleep_until(at), if due != u64::MAX => {
                    self.due.store(u64::MAX, Ordering::Release);
                    self.tell(Input::Timeout);
                }
                () = self.timer.notified() => {}
            }
        }
    }

    /// Returns the bytes that this torrent is granted in return.
    fn carry_out(&self, effect: Effect) -> u64 {
        match effect {
            Effect::Wake(peer) => {
                self.links.wake(peer);
            }
            Effect::ReadReady(id) => self.answer(id),
            Effect::ReadFailed(id, why) => {
                if let Some(read) = self.reads.take(id) {
                    info!(torrent = %self.meta.name, offset = read.bytes.start, "a read fails: {why}");
                    read.reply.error(libc::EIO);
                }
            }
            Effect::Close(peer, reason) => self.links.end(peer, End::Swarm(reason)),
            Effect::Ban(peer, addr, piece) => {
                warn!(torrent = %self.meta.name, "{addr} is banned: it sent wrong bytes of piece {}", piece.0);
                self.shared.node().ban(Instant::now(), self.key, addr);
                self.links.end(peer, End::Banned);
            }
            Effect::BadWebSeed(seed, piece, bytes) => self.bad_web_seed(seed, piece, &bytes),
            Effect::Digest(piece) => self.digest(piece),
            Effect::Discard { piece, attempt } => self.discard(piece, attempt),
            // Pieces that are assembled in files need no credit.
            Effect::WantMemory(bytes) if self.in_files() => return bytes,
            Effect::ReturnMemory(_) | Effect::WithdrawMemory(_) if self.in_files() => {}
            Effect::WantMemory(bytes) => return self.shared.node().reserve(self.key, bytes),
            Effect::ReturnMemory(bytes) => {
                let grants = self.shared.node().release(self.key, bytes);
                return self.granted(grants);
            }
            Effect::WithdrawMemory(bytes) => {
                let grants = self.shared.node().withdraw(self.key, bytes);
                return self.granted(grants);
            }
            Effect::WantRequests { urgent } => match self.shared.node().ask(Instant::now(), self.key, urgent) {
                0 => self.shared.node_wake.notify_one(),
                bytes => self.tell(Input::MayAsk(bytes)),
            },
            Effect::Starved => {
                self.shared.boost(self.key);
                self.shared.sources.want_peers(self.key);
            }
            Effect::Completed => {
                self.completed.get_or_init(Instant::now);
                self.shared.sources.completed(self.key);
            }
        }
        0
    }

    /// A web seed sent wrong bytes: it is not asked for these again.
    fn bad_web_seed(&self, seed: PeerKey, piece: PieceIndex, bytes: &Range<u64>) {
        let file = self.meta.files.iter().find(|file| file.visible() && file.bytes() == *bytes);
        let what = file.map_or_else(|| "this piece".to_owned(), |file| format!("{:?}", file.path));
        let why = format!("{what} is not asked of it again: it sent wrong bytes of piece {}", piece.0);
        let seeds = self.web_seeds.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = seeds.get(&seed).map(|status| origin(&status.url)).unwrap_or_default();
        drop(seeds);
        warn!(torrent = %self.meta.name, "the web seed {origin}: {why}");
        self.web_seed_error(seed, Some(why));
    }

    /// What the user may want to know of a web seed.
    pub(super) fn web_seed_error(&self, seed: PeerKey, error: Option<String>) {
        if let Some(status) = self.web_seeds.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&seed) {
            status.error = error;
        }
    }

    /// True if the torrent's pieces are too large for the memory.
    fn in_files(&self) -> bool {
        self.shared.too_large(self.meta.geometry.nominal_piece_length())
    }

    /// Torrents get bytes for unfinished pieces, at the cost of what is cached. Returns this one's own.
    fn granted(&self, grants: Vec<(TorrentKey, u64)>) -> u64 {
        let mut own = 0;
        for (key, bytes) in grants {
            if key == self.key {
                own += bytes;
            } else if bytes > 0
                && let Some(torrent) = self.shared.torrent(key)
            {
                self.shared.make_room();
                torrent.tell(Input::Grant(bytes));
            }
        }
        own
    }

    /// A piece has passed its hash: into the cache, to the reads that wait for it, into the copy, and known to the swarm.
    pub(super) fn verified(&self, piece: PieceIndex, data: Arc<Verified>) {
        // Its own bytes are among those granted until the swarm hears of it.
        self.shared.make_room();
        self.shared.cache.insert(self.key, piece, Arc::clone(&data));
        self.reads.pin(&self.meta.geometry, piece, &data);
        self.keep(piece, &data);
        match &self.data {
            Some(copy) if copy.queue(piece, &data) => {}
            _ => self.told(piece),
        }
    }

    /// The swarm hears of a piece that is where it belongs. Its bytes must be held until then.
    pub(super) fn told(&self, piece: PieceIndex) {
        let left = self.enter(|swarm, now| {
            swarm.handle(now, Input::PieceVerified(piece));
            swarm.wanted_left()
        });
        if left == 0 && !self.data.as_ref().is_some_and(DiskCopy::is_failing) {
            self.finished.send_replace(true);
        }
    }

    fn digest(&self, piece: PieceIndex) {
        let digests = self.find(piece).map(|p| p.digests());
        match digests {
            Some(Ok(digests)) => self.tell(Input::Digests(piece, &digests)),
            Some(Err(e)) => warn!(torrent = %self.meta.name, piece = piece.0, "a piece cannot be read back: {e}"),
            None => {}
        }
    }

    /// After the swarm was told of a parked read: one that was withdrawn a moment before is withdrawn again, since the
    /// swarm did not know it then. Nothing would hold its pieces, which could push each other out until its deadline.
    pub(super) fn withdraw_if_gone(&self, id: ReadId) {
        if !self.reads.contains(id) {
            self.tell(Input::Withdraw(id));
        }
    }

    /// Answers parked reads whose thread has gone, and withdraws what they asked for. A killed reader is seen by its
    /// FLUSH, which comes while it is still on its way out: so looks a few times.
    pub(super) async fn withdraw_gone(self: Arc<Self>, handle: HandleId) {
        for wait in [0, 20, 100, 500, 2000] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let readers = self.reads.readers(handle);
            if readers.is_empty() {
                return;
            }
            for (id, pid) in readers {
                if !is_gone(pid) {
                    continue;
                }
                if let Some(read) = self.reads.take(id) {
                    read.reply.error(libc::EIO);
                    self.tell(Input::Withdraw(id));
                    debug!(torrent = %self.meta.name, pid, "a reader is gone: its read is withdrawn");
                }
            }
        }
    }

    /// What had to be asked of peers is kept, whether anything of the torrent is read or not.
    pub(super) fn keep_metadata(self: &Arc<Self>) {
        let torrent = Arc::clone(self);
        self.shared.runtime.spawn_blocking(move || {
            if let (Some(store), Some(entry)) = (torrent.shared.keeper.store(), &torrent.entry) {
                store.keep_metadata(entry, &torrent.meta);
            }
        });
    }

    /// What trackers are told.
    pub(super) fn progress(&self) -> discovery::Progress {
        let (totals, partial_seed) = self.look(|swarm| (swarm.totals(), swarm.partial_seed()));
        discovery::Progress {
            downloaded: totals.downloaded,
            uploaded: totals.uploaded,
            left: self.meta.geometry.total().saturating_sub(totals.held),
            partial_seed,
        }
    }

    /// What it is doing now.
    pub(super) fn snapshot(&self, known_peers: usize) -> Snapshot {
        let trackers = self.shared.sources.trackers(self.key);
        let web_seeds: Vec<_> =
            self.web_seeds.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let geometry = &self.meta.geometry;
        self.look(|swarm| Snapshot {
            totals: swarm.totals(),
            size: geometry.total(),
            pieces: geometry.pieces(),
            there: swarm.there(),
            requested: swarm.under_way(),
            wanted_left: swarm.wanted_left(),
            known_peers,
            trackers,
            web_seeds,
        })
    }

    /// True if every tracker that has heard of us knows that we are complete, if we became so.
    pub(super) fn completed_told(&self, announcer: &Announcer) -> bool {
        let Some(&at) = self.completed.get() else { return true };
        let knows = |t: &TrackerStatus| t.error.is_some() || t.answered.is_none_or(|told| told > at && !t.announcing);
        announcer.status().iter().all(knows)
    }
}

/// True if a thread has ended or is on its way out; one that we cannot see counts as there.
fn is_gone(pid: u32) -> bool {
    /// `PF_EXITING` of the kernel's task flags.
    const EXITING: u64 = 0x4;
    if pid == 0 {
        return false;
    }
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            // pid (comm) state ppid pgrp session tty tpgid flags
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            let state = fields.next().unwrap_or_default();
            let flags = fields.nth(5).and_then(|f| f.parse().ok()).unwrap_or(0u64);
            matches!(state, "Z" | "X") || flags & EXITING != 0
        }
        Err(e) => e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH),
    }
}
