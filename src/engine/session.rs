//! The session: all torrents of the process, the node that decides for them together, and the cache they share.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rand::TryRng;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::awaited::Awaited;
use super::chunks::Chunks;
use super::connect::{Target, accept, accept_utp, decide};
use super::content::Content;
use super::copy::DiskCopy;
use super::hashes::Hashes;
use super::keeper::Keeper;
use super::links::{About, End};
use super::listen;
use super::mounted::SessionContent;
use super::network::Network;
use super::sources::{AllSources, Sought};
use super::torrent::Torrent;
use super::utp::Utp;
use super::webseed;
use crate::cache::{Cache, DataDir, Place, Pool, Store};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metainfo::{HostPort, Metainfo, TorrentId, is_media};
use crate::node::{Exchanged, Limits, Node, Source, Witness};
use crate::status::Snapshot;
use crate::swarm::{Cell, Input, Order, PeerKey, Setup, Swarm, TorrentKey, Totals};
use crate::wire::{PeerId, PexMessage};

/// Requests that we hold for one peer, and tell it so (BEP 10). Measured with Transmission as the leecher: told 500, it
/// got 7.4 MB/s from us; told 2,000, 33 MB/s, as from libtorrent. A request is 12 bytes here.
pub(super) const REQQ: u32 = 2000;
/// Fits under the 5 s that an end may take, beside the unmount.
const STOP_ANNOUNCE: Duration = Duration::from_secs(3);
/// Of this, what a tracker has to take `completed`, and how often it is looked whether it did.
const COMPLETED_ANNOUNCE: Duration = Duration::from_secs(2);
const TOLD_LOOK: Duration = Duration::from_millis(10);
/// What a slow disk has at the end to take what waits for it.
const STOP_KEEPER: Duration = Duration::from_millis(1500);

/// A user's own copy of a torrent and which of its pieces passed their hash.
#[derive(Debug)]
pub struct LocalCopy {
    /// The copy.
    pub data: DataDir,
    /// Per piece: it is there and right.
    pub have: Vec<bool>,
    /// `have` is only what could be there, as [`DataDir::candidates`] finds: it is hashed before it is used, and a copy
    /// that is [`writable`](DataDir::writable) is filled in without anybody waiting for it.
    pub unchecked: bool,
}

/// How a torrent is added.
#[derive(Debug, Default)]
pub struct AddOptions {
    /// A copy on disk. Pieces that it has are served from it; others are written to it if it is
    /// [`writable`](DataDir::writable).
    pub copy: Option<LocalCopy>,
    /// The torrent bytes that [`Fill::All`](crate::config::Fill::All) fetches, rounded up to pieces; none: all of them.
    pub wanted: Option<Vec<Range<u64>>>,
    /// Peers besides those that others name, as a magnet link may (`x.pe`).
    pub peers: Vec<HostPort>,
}

/// What all tasks share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) network: Network,
    /// Connections over datagrams, unless that is off.
    pub(super) utp: Option<Utp>,
    pub(super) cache: Cache,
    pub(super) pool: Arc<Pool>,
    /// What writes pieces to disks, the disk store among them.
    pub(super) keeper: Keeper,
    /// Reads from disks that are under way, in mebibytes of memory that they take.
    pub(super) disk: Arc<Semaphore>,
    pub(super) disk_share: u32,
    /// Torrents with open files, and each one's share of the cache, bytes.
    active: AtomicIsize,
    share: AtomicU64,
    pub(super) chunks: Arc<Chunks>,
    /// Who has sent much and has more to send waits for a turn, first come, first served: workers do not share their
    /// tasks while all are busy, and of 50 peers one with a worker to itself got twice what the others did. A turn may
    /// wait for a disk, so there are more than workers.
    pub(super) turns: Arc<Semaphore>,
    pub(super) peer_id: PeerId,
    /// The port that peers reach us at; 0 if they cannot.
    pub(super) port: u16,
    /// The node has something to dial or to decide.
    pub(super) node_wake: Notify,
    node: Mutex<Node>,
    torrents: RwLock<BTreeMap<TorrentKey, Arc<Torrent>>>,
    /// Torrents whose metadata is not there.
    pub(super) awaited: RwLock<BTreeMap<TorrentKey, Arc<Awaited>>>,
    pub(super) by_hash: RwLock<Hashes>,
    pub(super) closing: AtomicBool,
    started: Instant,
    next_id: AtomicU64,
    next_torrent: AtomicU32,
    /// Tells trackers that it is still us when our address changes.
    pub(super) announce_key: u32,
    /// What finds the torrents' peers.
    pub(super) sources: AllSources,
    /// For pieces too large for the memory.
    temp_dir: PathBuf,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Shared {
    pub(super) fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn torrent(&self, key: TorrentKey) -> Option<Arc<Torrent>> {
        self.torrents.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// What a connection of a torrent is for.
    pub(super) fn target(&self, key: TorrentKey) -> Option<Target> {
        let awaited = || self.awaited.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        self.torrent(key).map(Target::Torrent).or_else(|| awaited().map(Target::Awaited))
    }

    /// Takes a torrent's place among the info-hashes.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if it is taken.
    pub(super) fn name(&self, info_hash: [u8; 20], id: TorrentId) -> Result<TorrentKey> {
        let mut by_hash = self.by_hash.write().unwrap_or_else(PoisonError::into_inner);
        if by_hash.contains_key(&info_hash) {
            return Err(Error::Duplicate(id));
        }
        let key = TorrentKey(self.next_torrent.fetch_add(1, Ordering::Relaxed));
        by_hash.insert(info_hash, key);
        Ok(key)
    }

    /// Seeds random choices that nobody has to be kept from foreseeing.
    pub(super) fn seed(&self) -> u64 {
        u64::from_le_bytes(*self.peer_id.0.last_chunk().unwrap_or(&[0; 8]))
    }

    pub(super) fn all(&self) -> Vec<Arc<Torrent>> {
        self.torrents.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Nanoseconds since the session began.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX - 1)
    }

    /// The reverse of [`Shared::nanos`]; the far future for what no clock can hold.
    pub(super) fn instant(&self, nanos: u64) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.started + Duration::from_nanos(nanos).min(FAR)
    }

    /// True if a piece of this length is too large for the memory: a quarter of it, which is half of what unfinished
    /// pieces may take.
    pub(super) fn too_large(&self, length: u32) -> bool {
        u64::from(length) > self.config.memory / 4
    }

    /// Where a piece of this length is assembled.
    pub(super) fn place(&self, length: u32) -> Place {
        if self.too_large(length) { Place::TempFile(self.temp_dir.clone()) } else { Place::Memory }
    }

    /// Evicts the least recently used pieces until what is cached and what is granted to unfinished pieces fit into the
    /// memory. Each swarm hears of an eviction before the bytes go; what is in a copy on disk stays all the same.
    pub(super) fn make_room(&self) {
        let assembling = self.node().assembling();
        for (key, victim) in self.cache.make_room(assembling) {
            let torrent = self.torrent(key);
            let stays = torrent.as_ref().is_some_and(|torrent| torrent.on_disk(victim));
            if let Some(torrent) = torrent.as_ref().filter(|_| !stays) {
                torrent.tell(Input::Evicted(victim));
            }
            self.cache.remove(key, victim);
            // It may have left the disk meanwhile, since it was here.
            if let Some(torrent) = torrent.filter(|torrent| stays && !torrent.on_disk(victim)) {
                torrent.tell(Input::Evicted(victim));
            }
        }
    }

    /// Bytes of pieces that stay: on disk, or in memory where there is no store.
    fn capacity(&self) -> u64 {
        self.keeper.store().map_or(0, Store::limit).max(self.config.memory)
    }

    /// A torrent has its first open file (1), or its last one was closed (-1): those that are read share the cache.
    pub(super) fn reads_begin_or_end(&self, torrent: &Torrent, change: isize) {
        self.active.fetch_add(change, Ordering::Relaxed);
        if !self.share_cache() && change > 0 {
            torrent.tell(Input::Capacity(self.share.load(Ordering::Relaxed)));
        }
    }

    /// Tells all torrents their share of the cache. False if it is what it was.
    pub(super) fn share_cache(&self) -> bool {
        let active = u64::try_from(self.active.load(Ordering::Relaxed)).unwrap_or(0).max(1);
        let share = self.capacity() / active;
        let changed = self.share.swap(share, Ordering::Relaxed) != share;
        if changed {
            self.all().iter().for_each(|torrent| torrent.tell(Input::Capacity(share)));
        }
        changed
    }

    /// Addresses to dial for a torrent.
    pub(super) fn candidates(&self, torrent: TorrentKey, addrs: &[SocketAddr], source: Source) {
        self.node().add_candidates(Instant::now(), torrent, addrs, source);
        self.node_wake.notify_one();
    }

    /// Somebody says at which address he sees us.
    pub(super) fn seen(&self, by: Witness, ours: std::net::IpAddr) {
        self.node().seen(by, ours, self.port);
    }

    /// A peer became interested, or is so no more: a free slot does not wait for the next round.
    pub(super) fn interest(&self, peer: PeerKey, interested: bool) {
        self.node().interest(Instant::now(), peer, interested);
        self.node_wake.notify_one();
    }

    /// Peers of a torrent are told of each other (BEP 11), as far as it is time.
    pub(super) fn exchange(&self, now: Instant, key: TorrentKey) {
        let Some(target) = self.target(key) else { return };
        let seeds = match &target {
            Target::Torrent(torrent) => torrent.look(|swarm| swarm.candidates(now)),
            // Nobody knows yet who has everything.
            Target::Awaited(_) => Vec::new(),
        };
        let seeds = seeds.into_iter().filter(|peer| peer.seed).map(|peer| peer.peer).collect();
        let told = self.node().pex(now, key, &seeds);
        for (peer, message) in told {
            target.links().tell(peer, About::Pex, message.encode());
        }
    }

    /// True if the torrent's peers are told of each other, and may tell us.
    pub(super) fn exchanges(&self, key: TorrentKey) -> bool {
        self.config.pex && !self.node().is_private(key)
    }

    /// A peer names others (BEP 11).
    ///
    /// # Errors
    /// It does so too often: close it.
    pub(super) fn hear_of_others(&self, peer: PeerKey, message: &PexMessage, complete: bool) -> std::io::Result<()> {
        match self.node().pex_heard(Instant::now(), peer, message, complete) {
            Exchanged::Flood => {
                Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it names other peers too often"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives every torrent's peers to the choker and tells each torrent who is unchoked.
    pub(super) fn rechoke(&self, now: Instant) {
        let torrents = self.all();
        let candidates: Vec<_> = torrents.iter().map(|t| t.look(|s| (t.key, s.seeding(), s.candidates(now)))).collect();
        let unchoked = self.node().rechoke(now, &candidates);
        for (key, peers) in unchoked {
            if let Some(torrent) = self.torrent(key) {
                torrent.tell(Input::Unchoked(&peers));
            }
        }
    }
}

/// All torrents of the process. Must be made inside a multi-threaded tokio runtime.
pub struct Session {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl Session {
    /// Opens the listening socket and starts to accept, dial and rechoke.
    ///
    /// # Errors
    /// Those of [`Store::open`] for a cache directory that the user chose and of [`Network::of`], [`Error::Listen`] if the address is taken, [`Error::System`] if the machine gives no random bytes.
    pub fn start(config: Config) -> Result<Self> {
        Self::start_over(Network::of(&config)?, config)
    }

    /// As [`Session::start`], over the network of this configuration that there is already.
    ///
    /// # Errors
    /// As there.
    pub fn start_over(network: Network, config: Config) -> Result<Self> {
        let (listener, utp) = listen::listen(&network, &config)?.unzip();
        let addr = listener.as_ref().map(TcpListener::local_addr).transpose();
        let addr = addr.map_err(|cause| Error::Listen { addr: config.listen, cause })?;
        let port = addr.map_or(0, |addr| addr.port());
        let mut entropy = [0; 20];
        rand::rngs::SysRng
            .try_fill_bytes(&mut entropy)
            .map_err(|e| Error::System { what: "get random bytes", cause: std::io::Error::other(e) })?;
        let peer_id = peer_id(&entropy);
        let seed = u64::from_le_bytes(*entropy.first_chunk().unwrap_or(&[0; 8]));
        let limits = Limits {
            upload_slots: config.upload_slots,
            max_peers: config.max_peers,
            upload_limit: config.upload_limit,
            download_limit: config.download_limit,
            upload: config.upload,
            assembly_bytes: config.memory / 2,
            peer_id,
        };
        match listener {
            Some(_) => info!(port, "listening"),
            None => info!("not listening"),
        }
        if let Some(costs) = network.costs(&config) {
            warn!("{costs}");
        }
        for peer in config.peers.iter().filter(|peer| network.blocks(peer.ip())) {
            warn!(%peer, "this peer is on the block list, and so it is not dialled");
        }
        let mut node = Node::new(limits, seed, Instant::now());
        node.set_scope(network.scope());
        let runtime = tokio::runtime::Handle::current();
        let disk_share = u32::try_from((config.memory / 8) >> 20).unwrap_or(u32::MAX).clamp(8, 64);
        let shared = Arc::new(Shared {
            cache: Cache::new(config.memory),
            pool: Pool::new(),
            keeper: Keeper::new(open_store(&config)?, config.memory),
            disk: Arc::new(Semaphore::new(disk_share as usize)),
            disk_share,
            active: AtomicIsize::new(0),
            share: AtomicU64::new(0),
            chunks: Arc::default(),
            turns: Arc::new(Semaphore::new(4 * runtime.metrics().num_workers())),
            peer_id,
            port,
            node_wake: Notify::new(),
            node: Mutex::new(node),
            torrents: RwLock::default(),
            awaited: RwLock::default(),
            by_hash: RwLock::default(),
            closing: AtomicBool::new(false),
            started: Instant::now(),
            next_id: AtomicU64::new(1),
            next_torrent: AtomicU32::new(1),
            announce_key: u32::from_le_bytes(*entropy.last_chunk().unwrap_or(&[0; 4])),
            sources: AllSources::default(),
            temp_dir: std::env::temp_dir(),
            runtime,
            network,
            utp: utp.flatten(),
            config,
        });
        shared.start_keeper()?;
        let mut tasks = JoinSet::new();
        if let Some(listener) = listener {
            tasks.spawn(accept(Arc::clone(&shared), listener));
            tasks.spawn(accept_utp(Arc::clone(&shared)));
        }
        tasks.spawn(decide(Arc::clone(&shared)));
        Ok(Self { shared, tasks: Mutex::new(tasks) })
    }

    /// The port that peers reach us at; none through a proxy.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        Some(self.shared.port).filter(|&port| port != 0)
    }

    /// Adds a torrent: it is announced and its peers are dialled from now on.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if it is here already, [`Error::System`] if there is no thread to write a copy.
    pub fn add(&self, meta: Arc<Metainfo>, options: AddOptions) -> Result<TorrentKey> {
        let AddOptions { copy, wanted, peers } = options;
        let shared = &self.shared;
        let info_hash = meta.id.wire();
        // What was found by a magnet link goes on under the same key.
        let known = shared.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(&info_hash).copied();
        let awaited = match known.and_then(|key| shared.target(key)) {
            Some(Target::Awaited(awaited)) => Some(awaited),
            _ => None,
        };
        let key = match &awaited {
            Some(awaited) => awaited.key,
            None => shared.name(info_hash, meta.id)?,
        };
        let entry = shared.keeper.store().filter(|_| copy.is_none()).map(|store| store.entry(&meta));
        let there: Vec<_> = match (&copy, &entry) {
            (Some(copy), _) => meta.geometry.all().filter(|p| copy.have.get(p.0 as usize) == Some(&true)).collect(),
            (None, Some(entry)) => entry.held().collect(),
            (None, None) => Vec::new(),
        };
        let setup = Setup {
            geometry: meta.geometry,
            files: meta
                .files
                .iter()
                .filter(|f| f.visible() && f.length > 0)
                .map(crate::metainfo::File::bytes)
                .collect(),
            complete: false,
            there,
            fill: shared.config.fill,
            wanted: wanted.map(|bytes| bytes.into_iter().filter_map(|bytes| meta.geometry.covering(bytes)).collect()),
            order: Order::default(),
            capacity: copy.is_none().then(|| shared.capacity()),
            memory: shared.config.memory,
            upload: shared.config.upload,
            super_seed: shared.config.super_seed,
            reqq: REQQ,
            info_hash,
            seed: shared.seed() ^ u64::from(key.0),
        };
        let mut swarm = Swarm::new(setup, Instant::now());
        swarm.know_media(meta.files.iter().filter(|f| is_media(&f.path)).map(|f| f.offset));
        if shared.config.download_limit.is_some() {
            swarm.limit_download();
        }
        let data = copy.map(|c| DiskCopy::new(c, meta.geometry));
        let torrent = Arc::new(Torrent::new(key, Arc::clone(&meta), Arc::clone(shared), swarm, data, entry));
        if let Err(error) = torrent.write_copy() {
            if awaited.is_none() {
                shared.by_hash.write().unwrap_or_else(PoisonError::into_inner).remove(&info_hash);
            }
            return Err(error);
        }
        torrent.finished.send_replace(torrent.look(Swarm::wanted_left) == 0);
        shared.torrents.write().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&torrent));
        self.spawn(Arc::clone(&torrent).run_timer());
        match awaited {
            Some(awaited) => {
                if meta.private {
                    shared.now_private(key);
                }
                torrent.keep_metadata();
                awaited.became(&torrent);
                shared.awaited.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
            }
            None => shared.seek(Sought { key, info_hash, private: meta.private, trackers: meta.trackers.clone() }),
        }
        shared.seek_at(key, &peers);
        webseed::web_seeds(&torrent, &meta.web_seeds).into_iter().for_each(|task| self.spawn(task));
        Ok(key)
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn_on(task, &self.shared.runtime);
    }

    /// What the file system reads from.
    #[must_use]
    pub fn content(&self) -> Arc<dyn Content> {
        Arc::new(SessionContent(Arc::clone(&self.shared)))
    }

    /// The figures of a torrent.
    #[must_use]
    pub fn totals(&self, torrent: TorrentKey) -> Option<Totals> {
        self.shared.torrent(torrent).map(|t| t.look(Swarm::totals))
    }

    /// What a torrent is doing now.
    #[must_use]
    pub fn snapshot(&self, torrent: TorrentKey) -> Option<Snapshot> {
        let known_peers = self.shared.node().known_peers(torrent);
        self.shared.torrent(torrent).map(|t| t.snapshot(known_peers))
    }

    /// The torrent as a row of `cells` cells of nearly equal size; fewer if it has fewer pieces.
    #[must_use]
    pub fn piece_map(&self, torrent: TorrentKey, cells: usize) -> Option<Vec<Cell>> {
        self.shared.torrent(torrent).map(|t| t.look(|swarm| swarm.piece_map(cells)))
    }

    /// Resolves when everything that is wanted of a torrent is there, verified and, with a copy that is writable,
    /// written; at once if it is. Never for a torrent that is not here.
    pub fn finished(&self, torrent: TorrentKey) -> impl Future<Output = ()> + Send + use<> {
        let finished = self.shared.torrent(torrent).map(|t| t.finished.subscribe());
        async move {
            let reached = match finished {
                Some(mut finished) => finished.wait_for(|finished| *finished).await.is_ok(),
                None => false,
            };
            if !reached {
                std::future::pending().await
            }
        }
    }

    /// Resolves with the reason when a copy cannot be written any more. The torrent goes on without it.
    pub fn copy_failed(&self, torrent: TorrentKey) -> impl Future<Output = Arc<Error>> + Send + use<> {
        let failed = self.shared.torrent(torrent).and_then(|t| t.data.as_ref().map(DiskCopy::failed));
        async move {
            match failed {
                Some(failed) => failed.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until what was written of a torrent's copy is on the disk.
    ///
    /// # Errors
    /// As [`DataDir::sync`].
    pub async fn sync(&self, torrent: TorrentKey) -> Result<()> {
        let Some(torrent) = self.shared.torrent(torrent) else { return Ok(()) };
        let work = tokio::task::spawn_blocking(move || torrent.data.as_ref().map_or(Ok(()), DiskCopy::sync));
        work.await.map_err(|e| Error::System { what: "wait for the disk", cause: std::io::Error::other(e) })?
    }

    /// Ends the session: reads fail, trackers are told (3 s at most), connections close, and what has come is written.
    pub async fn stop(&self) {
        close_all(&self.shared);
        let mut goodbyes = JoinSet::new();
        for (key, announcer) in self.shared.sources.end_all() {
            let torrent = self.shared.torrent(key);
            goodbyes.spawn(async move {
                // What has just become complete says so before it goes.
                let told = async {
                    while torrent.as_ref().is_some_and(|torrent| !torrent.completed_told(&announcer)) {
                        tokio::time::sleep(TOLD_LOOK).await;
                    }
                };
                let _ = tokio::time::timeout(COMPLETED_ANNOUNCE, told).await;
                announcer.stop().await;
            });
        }
        let shared = Arc::clone(&self.shared);
        goodbyes.spawn(async move { shared.sources.stop().await });
        if tokio::time::timeout(STOP_ANNOUNCE, async { while goodbyes.join_next().await.is_some() {} }).await.is_err() {
            debug!("a tracker was not told that we stop: it did not answer in time");
        }
        for torrent in self.shared.all() {
            torrent.links.end_all(End::Session);
        }
        for awaited in self.shared.awaited.read().unwrap_or_else(PoisonError::into_inner).values() {
            awaited.links.end_all(End::Session);
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        for torrent in self.shared.all() {
            // A whole piece that waits for its verdict or for the disk is not thrown away.
            let close = move || {
                torrent.verify_all();
                torrent.data.as_ref().map(DiskCopy::close)
            };
            let _ = tokio::task::spawn_blocking(close).await;
        }
        let shared = Arc::clone(&self.shared);
        let close = tokio::task::spawn_blocking(move || shared.keeper.close(&shared));
        if tokio::time::timeout(STOP_KEEPER, close).await.is_err() {
            warn!("the disk is slow: what it did not take in time is fetched again");
        }
        self.shared.torrents.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.awaited.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The disk store that the configuration asks for. Where another process uses it, or nobody chose it, memory has to do
/// without.
fn open_store(config: &Config) -> Result<Option<Store>> {
    let Some(dir) = config.cache_dir.as_ref().filter(|_| config.cache_size > 0) else { return Ok(None) };
    match Store::open(dir, config.cache_size) {
        Ok(store) => Ok(Some(store)),
        Err(error) if config.cache_dir_is_default || matches!(error, Error::CacheInUse(_)) => {
            warn!("{error}; pieces are kept in memory only");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Every parked read and every later one gets EIO.
pub(super) fn close_all(shared: &Shared) {
    shared.closing.store(true, Ordering::SeqCst);
    for torrent in shared.all() {
        torrent.tell(Input::Shutdown);
        // Those that wait for a disk are not the swarm's.
        torrent.reads.take_all().into_iter().for_each(|read| read.reply.error(libc::EIO));
    }
}

/// Our peer id (BEP 20): `-SF0100-` and 12 random characters.
fn peer_id(entropy: &[u8; 20]) -> PeerId {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.";
    let mut id = *b"-SF0100-____________";
    for (to, from) in id.iter_mut().zip(entropy).skip(8) {
        *to = CHARS[usize::from(from % 64)];
    }
    PeerId(id)
}
