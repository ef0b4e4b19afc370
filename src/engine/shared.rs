//! What all tasks of a session share: its torrents, the node that decides for them together, the cache, and the ways to the
//! network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rand::TryRng;
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

use super::awaited::Awaited;
use super::chunks::Chunks;
use super::connect::Target;
use super::hashes::Hashes;
use super::keeper::Keeper;
use super::links::About;
use super::network::Network;
use super::sources::AllSources;
use super::torrent::Torrent;
use super::utp::Utp;
use crate::cache::{Cache, Place, Pool, Store};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metainfo::TorrentId;
use crate::node::{Exchanged, Limits, Node, Source, Witness};
use crate::swarm::{Input, PeerKey, TorrentKey};
use crate::wire::{PeerId, PexMessage};

/// Requests that we hold for one peer, and tell it so (BEP 10). Measured with Transmission as the leecher: told 500, it
/// got 7.4 MB/s from us; told 2,000, 33 MB/s, as from libtorrent. A request is 12 bytes here.
pub(super) const REQQ: u32 = 2000;

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
    pub(super) torrents: RwLock<BTreeMap<TorrentKey, Arc<Torrent>>>,
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
    /// Those of a session without torrents. `port` is where peers reach us; 0 if they cannot. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// Those of [`Store::open`] for a cache directory that the user chose, [`Error::System`] if the machine gives no
    /// random bytes.
    pub(super) fn new(config: Config, network: Network, utp: Option<Utp>, port: u16) -> Result<Self> {
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
        let mut node = Node::new(limits, seed, Instant::now());
        node.set_scope(network.scope());
        let runtime = tokio::runtime::Handle::current();
        let disk_share = u32::try_from((config.memory / 8) >> 20).unwrap_or(u32::MAX).clamp(8, 64);
        Ok(Self {
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
            utp,
            config,
        })
    }

    /// Every parked read and every later one gets EIO.
    pub(super) fn close_all(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for torrent in self.all() {
            torrent.tell(Input::Shutdown);
            // Those that wait for a disk are not the swarm's.
            torrent.reads.take_all().into_iter().for_each(|read| read.reply.error(libc::EIO));
        }
    }

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
    pub(super) fn capacity(&self) -> u64 {
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

/// Our peer id (BEP 20): `-SF0100-` and 12 random characters.
fn peer_id(entropy: &[u8; 20]) -> PeerId {
    const CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.";
    let mut id = *b"-SF0100-____________";
    for (to, from) in id.iter_mut().zip(entropy).skip(8) {
        *to = CHARS[usize::from(from % 64)];
    }
    PeerId(id)
}
