//! The session, as its owner has it: torrents are added, looked at and waited for, until it stops.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::connect::{Target, accept, accept_utp, decide};
use super::content::Content;
use super::copy::DiskCopy;
use super::links::End;
use super::listen;
use super::mounted::SessionContent;
use super::network::Network;
use super::shared::{REQQ, Shared};
use super::sources::Sought;
use super::torrent::Torrent;
use super::webseed;
use crate::cache::DataDir;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metainfo::{HostPort, Metainfo, is_media};
use crate::status::Snapshot;
use crate::swarm::{Cell, Order, Setup, Swarm, TorrentKey, Totals};

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

/// All torrents of the process. Must be made inside a multi-threaded tokio runtime.
pub struct Session {
    pub(super) shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl Session {
    /// Opens the listening socket and starts to accept, dial and rechoke.
    ///
    /// # Errors
    /// Those of [`Store::open`](crate::cache::Store::open) for a cache directory that the user chose and of [`Network::of`], [`Error::Listen`] if the address is taken, [`Error::System`] if the machine gives no random bytes.
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
        let shared = Arc::new(Shared::new(config, network, utp.flatten(), port)?);
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
        self.shared.close_all();
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
