//! The tracker: tells the peers of a torrent about each other, over HTTP and UDP on one port. What it knows is the
//! [`Registry`], pure and under one lock that is held for microseconds; around it are one task for each socket, and one
//! that sweeps out what has expired while nobody announces.

mod connections;
mod datagram;
mod http;
mod query;
mod registry;
mod sockets;
mod udp;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRng;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::metainfo::{InfoHash, TorrentId};
use crate::wire::AnnounceQuery;
use connections::{Connections, Listener};
use udp::ConnectionIds;

pub use registry::{Answer, MAX_WANTED, Refusal, Registry, Room, Settings};

/// The shortest interval: a peer that announces more often is of no more use to others.
pub const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// Expired peers that the sweep removes under one lock.
const SWEEP: usize = 500;

/// How a tracker is run.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Where it listens, TCP and UDP on each; port 0 takes a free one. Default `[::]:6969`, which serves IPv4 as well and
    /// is `0.0.0.0:6969` on a machine without IPv6.
    pub listen: Vec<SocketAddr>,
    /// Time between two announces of a peer. Default 30 minutes, the custom of public trackers; at least
    /// [`MIN_INTERVAL`].
    pub interval: Duration,
    /// How long a peer is known after its last announce. Default: twice the interval, so that one announce may be lost.
    pub lifetime: Option<Duration>,
    /// The only torrents that are served (v1's info-hash, or v2's cut to 20 bytes). Default: all.
    pub whitelist: Option<BTreeSet<[u8; 20]>>,
    /// Torrents at the most; one more pushes out the emptiest. Default 50,000.
    pub max_torrents: usize,
    /// Peers at the most, over all torrents; one more pushes out one of the emptiest torrent. Default 300,000.
    pub max_peers: usize,
    /// Peers of one torrent at the most; one more pushes out any other. Default 100,000.
    pub max_torrent_peers: usize,
    /// HTTP connections at the most; one more ends the oldest. Default 500: half the descriptors that a process usually
    /// has.
    pub max_connections: usize,
    /// How long an HTTP connection may take for a request, or be idle. Default 10 s.
    pub patience: Duration,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 6969)],
            interval: Duration::from_secs(30 * 60),
            lifetime: None,
            whitelist: None,
            max_torrents: 50_000,
            max_peers: 300_000,
            max_torrent_peers: 100_000,
            max_connections: 500,
            patience: Duration::from_secs(10),
        }
    }
}

/// What a tracker has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Announces answered over HTTP.
    pub http: u64,
    /// Announces answered over UDP.
    pub udp: u64,
    /// Scrapes answered.
    pub scrapes: u64,
    /// Requests refused.
    pub refused: u64,
    /// Torrents that are held.
    pub torrents: usize,
    /// Peers that are held; one with addresses of both families counts as two.
    pub peers: usize,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
enum Count {
    Http,
    Udp,
    Scrape,
    Refused,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    interval: Duration,
    registry: Mutex<Registry>,
    ids: ConnectionIds,
    counts: [AtomicU64; 4],
}

impl Shared {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, what: Count) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn announce(
        &self,
        now: Instant,
        from: IpAddr,
        query: &AnnounceQuery,
        room: Room,
        over: Count,
    ) -> Result<Answer, Refusal> {
        let AnnounceQuery { info_hash, port, event, left, .. } = query;
        let torrent = TorrentId { v1: Some(InfoHash(*info_hash)), v2: None };
        tracing::debug!(%torrent, %from, port, ?event, left, ?over, "announce");
        let result = self.registry().announce(now, from, query, room);
        self.count(if result.is_ok() { over } else { Count::Refused });
        result
    }
}

/// A running tracker; it ends when this is dropped.
#[derive(Debug)]
pub struct Tracker {
    addrs: Vec<SocketAddr>,
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    tasks: JoinSet<()>,
}

impl Tracker {
    /// Opens the sockets and starts to answer. Needs a tokio runtime with IO and time.
    ///
    /// # Errors
    /// [`Error::Listen`] if an address is taken, [`Error::Interval`] for an interval under [`MIN_INTERVAL`],
    /// [`Error::System`] if the machine gives no random bytes.
    #[expect(clippy::unused_async, reason = "sockets register with the runtime that polls this")]
    pub async fn start(config: TrackerConfig) -> Result<Self> {
        if config.interval < MIN_INTERVAL {
            return Err(Error::Interval(config.interval));
        }
        let mut entropy = [0; 40];
        rand::rngs::SysRng
            .try_fill_bytes(&mut entropy)
            .map_err(|e| Error::System { what: "get random bytes", cause: std::io::Error::other(e) })?;
        let (secret, seed) = entropy.split_first_chunk().unwrap_or((&[0; 32], &[]));
        let seed = u64::from_le_bytes(seed.try_into().unwrap_or_default());
        let settings = Settings {
            interval: config.interval,
            lifetime: config.lifetime.unwrap_or(config.interval * 2),
            whitelist: config.whitelist,
            max_torrents: config.max_torrents,
            max_peers: config.max_peers,
            max_torrent_peers: config.max_torrent_peers,
        };
        let shared = Arc::new(Shared {
            interval: config.interval,
            registry: Mutex::new(Registry::new(settings, seed)),
            ids: ConnectionIds::new(*secret, Instant::now()),
            counts: Default::default(),
        });
        let connections = Connections::new(config.max_connections, config.patience);
        let mut tasks = JoinSet::new();
        let mut addrs = Vec::new();
        for sockets::Pair { addr, tcp, udp } in sockets::open(&config.listen)? {
            addrs.push(addr);
            let listener = Listener { listener: tcp, connections: Arc::clone(&connections) };
            tasks.spawn(http::serve(listener, Arc::clone(&shared)));
            tasks.spawn(udp::serve(udp, Arc::clone(&shared)));
        }
        tasks.spawn(sweep(Arc::clone(&shared)));
        Ok(Self { addrs, shared, connections, tasks })
    }

    /// The first address that it listens on, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addrs.first().copied().unwrap_or_else(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0))
    }

    /// All addresses that it listens on, with the real ports.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What it has done so far, and holds now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let count = |what: Count| self.shared.counts[what as usize].load(Ordering::Relaxed);
        let registry = self.shared.registry();
        Tally {
            http: count(Count::Http),
            udp: count(Count::Udp),
            scrapes: count(Count::Scrape),
            refused: count(Count::Refused),
            torrents: registry.torrents(),
            peers: registry.peers(),
        }
    }

    /// Ends it at once; its ports are free when this returns.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.connections.end_all();
    }
}

/// Removes what has expired, a few at a time.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tick.tick().await;
        while shared.registry().expire(Instant::now(), SWEEP) {
            tokio::task::yield_now().await;
        }
    }
}
