//! The DHT (BEP 5): one node for the session, made when the first torrent wants it. A task gives every torrent its turns: it
//! asks for peers, names us as one, and keeps the node's neighbours for the next time. While nobody answers there is no
//! node, and another attempt later and later, since the node itself would ask every two seconds.
//!
//! `mainline` decodes what strangers send by recursion: datagrams end at 2,048 bytes, and compiled with optimization, as
//! Cargo.toml has it for this crate's builds, that depth fits the thread's stack.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_core::Stream;
use mainline::async_dht::AsyncDht;
use mainline::{Id, ServerSettings};
use rand::rngs::{StdRng, SysRng};
use rand::seq::SliceRandom;
use rand::{SeedableRng, TryRng};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

use super::dht_guard::Guard;
use super::dht_nodes;
use super::recurring::Recurring;
use crate::engine::due::due;
use crate::engine::network::Network;
use crate::node::Place;
use crate::swarm::TorrentKey;

/// A torrent is announced again after this: nodes forget peers after half an hour, and others do the same.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// And with a read that starves after this.
const LEAST: Duration = Duration::from_secs(60);
/// Searches that run at once: each is some hundred datagrams in a few seconds.
const SEARCHES: usize = 8;
/// A search that takes longer is given up: the node's own end is after some rounds of 2 s.
const SEARCH: Duration = Duration::from_secs(60);
/// Nodes that a node begins with. `mainline` asks all of them at every search until it knows more than that.
const FIRST_NODES: usize = 16;
/// Nodes that peers have named (BEP 5 `port`) and that are kept for a new beginning.
const HEARD: usize = 16;
/// How often the node is looked after: its neighbours saved, its address taken.
const CARE: Duration = Duration::from_secs(60);
/// A name of a node that takes longer to resolve is left out.
const RESOLVE: Duration = Duration::from_secs(10);
/// A node without neighbours after this has nobody to ask.
const ALONE: Duration = Duration::from_secs(30);
/// The wait before another attempt; it doubles up to the next.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// What the end may take.
const STOP: Duration = Duration::from_secs(1);

/// Gets peers of a torrent, and where those who named them are.
type Found = dyn Fn(TorrentKey, &[SocketAddr], Place) + Send + Sync;

/// What the DHT is made from.
pub(in crate::engine) struct DhtSpec {
    pub(in crate::engine) network: Network,
    /// Where the first nodes are: `HOST:PORT`.
    pub(in crate::engine) bootstrap: Vec<String>,
    /// Where nodes are kept for the next time.
    pub(in crate::engine) nodes: Option<PathBuf>,
    /// Where peers reach us.
    pub(in crate::engine) port: u16,
    /// Gets what is found. It may not block.
    pub(in crate::engine) found: Arc<Found>,
    /// Gets our address as most nodes see it.
    pub(in crate::engine) external: Arc<dyn Fn(IpAddr) + Send + Sync>,
}

enum News {
    Add([u8; 20], TorrentKey),
    Remove(TorrentKey),
    Want(TorrentKey),
    Node(SocketAddrV4),
    Stop,
}

/// The session's part in the DHT. Dropping it ends it.
pub(in crate::engine) struct Dht {
    news: UnboundedSender<News>,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
    port: Arc<AtomicU16>,
}

impl Dht {
    /// Starts it; must be called inside a tokio runtime.
    pub(in crate::engine) fn start(spec: DhtSpec) -> Self {
        let (news, told) = unbounded_channel();
        let port = Arc::<AtomicU16>::default();
        let work = Work {
            spec,
            turns: Recurring::new(EVERY, LEAST),
            searches: JoinSet::new(),
            running: BTreeMap::new(),
            heard: Vec::new(),
            port: Arc::clone(&port),
            wait: FIRST_WAIT,
            said: false,
        };
        Self { news, task: std::sync::Mutex::new(Some(tokio::spawn(work.run(told)))), port }
    }

    /// A torrent is looked for and announced from now on. Never a private one (BEP 27).
    pub(in crate::engine) fn add(&self, info_hash: [u8; 20], key: TorrentKey) {
        self.tell(News::Add(info_hash, key));
    }

    /// It is so no more.
    pub(in crate::engine) fn remove(&self, key: TorrentKey) {
        self.tell(News::Remove(key));
    }

    /// A read of this torrent waits and no peer can serve it.
    pub(in crate::engine) fn want_peers(&self, key: TorrentKey) {
        self.tell(News::Want(key));
    }

    /// A peer says that it has a node here (BEP 5).
    pub(in crate::engine) fn node(&self, addr: SocketAddr) {
        if let SocketAddr::V4(addr) = addr {
            self.tell(News::Node(addr));
        }
    }

    /// The port of our node, if it answers strangers. It does once it has shown to be reachable (BEP 43).
    pub(in crate::engine) fn port(&self) -> Option<u16> {
        Some(self.port.load(Ordering::Relaxed)).filter(|&port| port != 0)
    }

    fn tell(&self, news: News) {
        // The task may have ended, where there is no IPv4.
        let _ = self.news.send(news);
    }

    /// Ends it, and keeps its nodes for the next time: 1 s at the most.
    pub(in crate::engine) async fn stop(&self) {
        self.tell(News::Stop);
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(STOP, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Dht {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// A running node.
struct Node {
    dht: AsyncDht,
    since: Instant,
    /// Where the outermost of those lie that it began with.
    place: Place,
}

impl Node {
    /// Those that it knows and that answer.
    async fn neighbours(&self) -> Vec<SocketAddrV4> {
        self.dht.to_bootstrap().await.iter().filter_map(|node| node.parse().ok()).collect()
    }
}

struct Work {
    spec: DhtSpec,
    turns: Recurring,
    /// Each ends with what it looked for, and whether anybody answered.
    searches: JoinSet<([u8; 20], bool)>,
    /// The last search for each torrent.
    running: BTreeMap<TorrentKey, AbortHandle>,
    /// Nodes that peers have named, the newest last.
    heard: Vec<SocketAddrV4>,
    port: Arc<AtomicU16>,
    /// The wait before the next attempt.
    wait: Duration,
    /// The user knows that nobody answers.
    said: bool,
}

/// Why a wait is over.
enum Woken {
    News(News),
    Time,
    End,
}

impl Work {
    async fn run(mut self, mut news: UnboundedReceiver<News>) {
        let Some(IpAddr::V4(local)) = self.spec.network.local(true) else { return };
        loop {
            if let Some(node) = self.begin(local).await {
                let stopped = self.serve(&node, &mut news).await;
                // Searches hold the node, too.
                self.searches.shutdown().await;
                self.port.store(0, Ordering::Relaxed);
                if stopped {
                    return;
                }
            } else {
                self.alone();
            }
            let again = Instant::now() + self.wait;
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            loop {
                match self.wake(&mut news, Some(again)).await {
                    // Somebody who is there is worth an attempt now.
                    Woken::News(News::Node(_)) | Woken::Time => break,
                    Woken::News(News::Stop) | Woken::End => return,
                    Woken::News(_) => {}
                }
            }
        }
    }

    /// What comes first; news is taken note of.
    async fn wake(&mut self, news: &mut UnboundedReceiver<News>, at: Option<Instant>) -> Woken {
        let told = tokio::select! {
            told = news.recv() => told,
            () = due(at) => return Woken::Time,
            Some(done) = self.searches.join_next() => {
                if let Ok((info_hash, false)) = done {
                    self.turns.hurry(Instant::now(), &info_hash);
                }
                return Woken::Time;
            }
        };
        let Some(told) = told else { return Woken::End };
        let now = Instant::now();
        match &told {
            News::Add(info_hash, key) => self.turns.add(now, *info_hash, *key),
            News::Remove(key) => {
                self.turns.remove(*key);
                // It may have turned out to be private: nobody is told of it any more.
                if let Some(search) = self.running.remove(key) {
                    search.abort();
                }
            }
            News::Want(key) => {
                if let Some(info_hash) = self.turns.info_hash(*key) {
                    self.turns.hurry(now, &info_hash);
                }
            }
            News::Node(addr) if !self.heard.contains(addr) => {
                self.heard.push(*addr);
                if self.heard.len() > HEARD {
                    self.heard.remove(0);
                }
            }
            News::Node(_) | News::Stop => {}
        }
        Woken::News(told)
    }

    /// Makes a node, if there is anybody to begin with.
    async fn begin(&mut self, local: Ipv4Addr) -> Option<Node> {
        let first = self.first_nodes(local).await;
        let place = first.iter().map(|node| Place::of((*node.ip()).into())).min()?;
        let mut builder = mainline::Dht::builder();
        builder.bootstrap(&first).bind_address(local).port(0);
        builder.server_settings(ServerSettings { filter: Box::new(Guard::default()), ..ServerSettings::default() });
        // It waits until its thread has a socket.
        let built = tokio::task::spawn_blocking(move || builder.build()).await;
        match built {
            Ok(Ok(dht)) => {
                debug!(nodes = first.len(), "the DHT begins");
                Some(Node { dht: dht.as_async(), since: Instant::now(), place })
            }
            Ok(Err(e)) => {
                debug!("the DHT has no socket: {e}");
                None
            }
            Err(_) => None,
        }
    }

    /// Whom to ask first: those whom the user or the default names, some of those who were there the last time, and those
    /// whom peers have named. On the loopback there is nobody but those who are named there by address.
    async fn first_nodes(&self, local: Ipv4Addr) -> Vec<SocketAddrV4> {
        let mut names = JoinSet::new();
        let mut nodes = Vec::new();
        for name in &self.spec.bootstrap {
            if let Ok(addr) = name.parse() {
                nodes.push(addr);
            } else if let Some((host, port)) = name.rsplit_once(':').filter(|_| !local.is_loopback()) {
                let (network, host, port) = (self.spec.network.clone(), host.to_owned(), port.parse().unwrap_or(0));
                names.spawn(async move { timeout(RESOLVE, network.lookup(&host, port)).await });
            }
        }
        while let Some(resolved) = names.join_next().await {
            match resolved {
                Ok(Ok(Ok(addrs))) => nodes.extend(addrs.into_iter().filter_map(|addr| match addr {
                    SocketAddr::V4(addr) if Place::of((*addr.ip()).into()) == Place::Global => Some(addr),
                    _ => None,
                })),
                Ok(Ok(Err(e))) => debug!("a node of the DHT has no address: {e}"),
                Ok(Err(_)) | Err(_) => debug!("a node of the DHT has no address in time"),
            }
        }
        let named = nodes.iter().map(|node| Place::of((*node.ip()).into())).min();
        let mut more = self.heard.clone();
        if let Some(path) = self.spec.nodes.clone() {
            let mut saved = tokio::task::spawn_blocking(move || dht_nodes::load(&path)).await.unwrap_or_default();
            let mut seed = [0; 32];
            if SysRng.try_fill_bytes(&mut seed).is_ok() {
                saved.shuffle(&mut StdRng::from_seed(seed));
            }
            more.extend(saved);
        }
        // A node of a lab is of use in that lab only. Where nobody names a node and none is known from the last time, peers
        // of the lab may have.
        let places = more.iter().map(|node| Place::of((*node.ip()).into()));
        let place = named.or_else(|| places.min()).unwrap_or(Place::Global);
        more.retain(|node| Place::of((*node.ip()).into()) == place);
        nodes.extend(more);
        nodes.retain(|node| node.port() != 0 && (!local.is_loopback() || node.ip().is_loopback()));
        let mut seen = std::collections::BTreeSet::new();
        nodes.retain(|node| seen.insert(*node));
        nodes.truncate(FIRST_NODES);
        nodes
    }

    /// Gives torrents their turns while somebody answers. True if the end was asked for.
    async fn serve(&mut self, node: &Node, news: &mut UnboundedReceiver<News>) -> bool {
        let mut care = Instant::now() + ALONE;
        loop {
            let now = Instant::now();
            if now >= care {
                if !self.care(node).await {
                    self.alone();
                    return false;
                }
                care = now + CARE;
            }
            for (info_hash, key) in self.turns.due(now, SEARCHES.saturating_sub(self.searches.len())) {
                let (dht, place, found) = (node.dht.clone(), node.place, Arc::clone(&self.spec.found));
                let node = Node { dht, place, since: node.since };
                let port = self.spec.port;
                let search = self.searches.spawn(async move {
                    let done = timeout(SEARCH, search(&node, info_hash, key, port, &*found)).await;
                    (info_hash, done.unwrap_or(false))
                });
                self.running.insert(key, search);
            }
            let busy = self.searches.len() >= SEARCHES;
            let next = self.turns.next().filter(|_| !busy).into_iter().chain([care]).min();
            match self.wake(news, next).await {
                Woken::News(News::Stop) => {
                    self.save(node).await;
                    return true;
                }
                Woken::End => return true,
                Woken::News(_) | Woken::Time => {}
            }
        }
    }

    /// Looks after the node. False if it is alone.
    async fn care(&mut self, node: &Node) -> bool {
        let (info, known) = (node.dht.info().await, self.save(node).await);
        if known == 0 {
            return node.since.elapsed() < ALONE;
        }
        if std::mem::take(&mut self.said) {
            info!("the DHT answers again");
        }
        self.wait = FIRST_WAIT;
        if let Some(address) = info.public_address() {
            (self.spec.external)((*address.ip()).into());
        }
        let port = if info.server_mode() { info.local_addr().port() } else { 0 };
        if self.port.swap(port, Ordering::Relaxed) == 0 && port != 0 {
            debug!(port, "the DHT's node answers strangers");
        }
        true
    }

    /// Keeps the nodes that answer for the next time. Returns how many there are.
    async fn save(&self, node: &Node) -> usize {
        let nodes = node.neighbours().await;
        let known = nodes.len();
        if let Some(path) = self.spec.nodes.clone().filter(|_| known > 0) {
            let shown = path.clone();
            let saved = tokio::task::spawn_blocking(move || dht_nodes::save(&path, &nodes)).await;
            if let Ok(Err(e)) = saved {
                debug!(path = %shown.display(), "the DHT's nodes cannot be kept: {e}");
            }
        }
        known
    }

    /// Nobody answers; the user hears of it once.
    fn alone(&mut self) {
        if std::mem::replace(&mut self.said, true) {
            debug!("no node of the DHT answers");
        } else {
            info!("no node of the DHT answers; it is tried again from time to time");
        }
    }
}

/// Asks for the peers of a torrent, and names us as one. False if nobody takes that.
async fn search(node: &Node, info_hash: [u8; 20], key: TorrentKey, port: u16, found: &Found) -> bool {
    let id = Id::from(info_hash);
    let mut answers = node.dht.get_peers(id);
    let mut count = 0;
    while let Some(peers) = poll_fn(|cx| Pin::new(&mut answers).poll_next(cx)).await {
        // It is not told who named them: whoever it knows may have.
        let nodes = node.neighbours().await;
        let outermost = nodes.iter().map(|node| Place::of((*node.ip()).into())).chain([node.place]).min();
        let peers: Vec<SocketAddr> = peers.into_iter().map(SocketAddr::V4).collect();
        count += peers.len();
        found(key, &peers, outermost.unwrap_or(Place::Global));
    }
    match node.dht.announce_peer(id, Some(port)).await {
        Ok(_) => debug!(peers = count, "asked the DHT and announced"),
        Err(e) => {
            debug!(peers = count, "asked the DHT, which does not take our announce: {e}");
            return false;
        }
    }
    true
}
