//! How connections come to be: accepted or dialled when the node says so, greeted, admitted, and then a peer's task.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::awaited::Awaited;
use super::dial::{Unreached, reach};
use super::handshake;
use super::links::{End, Links};
use super::peer::Peer;
use super::shared::Shared;
use super::stream::Stream;
use super::torrent::Torrent;
use crate::swarm::{Connected, Input, PeerKey, TorrentKey};
use crate::wire::Handshake;

/// What a connection is for.
#[derive(Clone)]
pub(super) enum Target {
    Torrent(Arc<Torrent>),
    /// Its metadata is not there yet.
    Awaited(Arc<Awaited>),
}

impl Target {
    pub(super) fn key(&self) -> TorrentKey {
        match self {
            Self::Torrent(torrent) => torrent.key,
            Self::Awaited(awaited) => awaited.key,
        }
    }

    /// The torrent as the wire names it.
    pub(super) fn info_hash(&self) -> [u8; 20] {
        match self {
            Self::Torrent(torrent) => torrent.meta.id.wire(),
            Self::Awaited(awaited) => awaited.id.wire(),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Torrent(torrent) => &torrent.meta.name,
            Self::Awaited(awaited) => &awaited.name,
        }
    }

    pub(super) fn links(&self) -> &Links {
        match self {
            Self::Torrent(torrent) => &torrent.links,
            Self::Awaited(awaited) => &awaited.links,
        }
    }
}

/// Accepts connections until the session ends.
pub(super) async fn accept(shared: Arc<Shared>, mut listener: TcpListener) {
    /// Out of descriptors: an accept that fails at once must not spin.
    const PAUSE: Duration = Duration::from_millis(100);
    let mut failing = false;
    let network = shared.network.clone();
    let mut renewed = Box::pin(network.device_after(network.device()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            device = &mut renewed => {
                renewed = Box::pin(network.device_after(Some(device)));
                match listen_again(&shared, listener) {
                    Ok(again) => listener = again,
                    Err(e) => return warn!("the interface is back, but nobody can connect to us until the next start: {e}"),
                }
                continue;
            }
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!("cannot accept connections: {e}");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        failing = false;
        let refused = shared.node().accept(Instant::now(), addr);
        match refused {
            Ok(()) => match stream.set_nodelay(true) {
                Ok(()) => drop(tokio::spawn(greet(Arc::clone(&shared), stream.into(), addr))),
                Err(_) => shared.node().accept_done(addr),
            },
            Err(why) => debug!(%addr, "a connection is refused: {why}"),
        }
    }
}

/// The interface has come back as another one: peers are to reach us by that. Only root may bind a socket again; others
/// get a new one, for TCP.
fn listen_again(shared: &Shared, listener: TcpListener) -> io::Result<TcpListener> {
    let network = &shared.network;
    let listener = match network.bind_again(SockRef::from(&listener)) {
        Ok(()) => listener,
        Err(_) => {
            let addr = listener.local_addr()?;
            drop(listener);
            network.listener(addr)?
        }
    };
    match shared.utp.as_ref().map_or(Ok(()), |utp| utp.bind_again(network)) {
        Ok(()) => info!("the interface is back"),
        Err(e) => warn!("the interface is back; there is no uTP until the next start: {e}"),
    }
    Ok(listener)
}

/// Accepts uTP connections until the session ends. Anybody can begin one in anybody's name: only one over which something
/// has come takes a place among the handshakes.
pub(super) async fn accept_utp(shared: Arc<Shared>) {
    /// Connections that have not said anything; with more of them, no other may begin.
    const SILENT: usize = 64;
    /// How long one may be silent. Who dials speaks first.
    const PATIENCE: Duration = Duration::from_secs(3);
    let Some(utp) = &shared.utp else { return };
    let places = Arc::new(Semaphore::new(SILENT));
    while let Ok((stream, addr)) = utp.accept().await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut stream = Stream::from(stream);
            if !matches!(timeout(PATIENCE, stream.ready(true, false)).await, Ok(Ok(_))) {
                return;
            }
            drop(place);
            let refused = shared.node().accept(Instant::now(), addr);
            match refused {
                Ok(()) => greet(shared, stream, addr).await,
                Err(why) => debug!(%addr, "a connection is refused: {why}"),
            }
        });
    }
}

/// An accepted connection: which torrent it is for, then its life.
async fn greet(shared: Arc<Shared>, mut stream: Stream, addr: SocketAddr) {
    let find = |hash: &[u8; 20]| {
        let key = shared.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(hash).copied();
        key.and_then(|key| shared.target(key)).map(|target| (shared.handshake(&target), target))
    };
    let unveil = |which: &[u8; 20]| shared.by_hash.read().unwrap_or_else(PoisonError::into_inner).unveil(which);
    let encryption = shared.config.encryption;
    let greeting = handshake::incoming(&mut stream, encryption, unveil, find);
    let greeted = timeout(handshake::DEADLINE, greeting).await;
    shared.node().accept_done(addr);
    match greeted.unwrap_or_else(|late| Err(late.into())) {
        Ok((theirs, target)) => connect(&shared, target, stream, addr, &theirs, false).await,
        Err(e) => debug!(%addr, "an incoming handshake fails: {e}"),
    }
}

/// Dials one address, then the connection's life.
async fn dial(shared: Arc<Shared>, target: Target, addr: SocketAddr) {
    match reach(&shared, &target, addr).await {
        Ok((stream, theirs)) => connect(&shared, target, stream, addr, &theirs, true).await,
        Err(Unreached { cause, answered }) => {
            debug!(torrent = %target.name(), %addr, "cannot connect: {cause}");
            shared.node().dial_failed(Instant::now(), target.key(), addr);
            if !answered {
                shared.ask_introduction(target.key(), addr);
            }
            shared.node_wake.notify_one();
        }
    }
}

/// A connection with both handshakes done: admitted by the node, it runs until it ends.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    target: Target,
    stream: Stream,
    addr: SocketAddr,
    theirs: &Handshake,
    outgoing: bool,
) {
    let peer = PeerKey(shared.id());
    // From here on whoever replaces or ends this connection finds it.
    let link = target.links().attach(peer);
    let admitted = shared.node().connected(Instant::now(), peer, target.key(), addr, theirs.peer_id, outgoing);
    shared.end_outranked();
    // It was half-open until now, so that another dial may begin.
    shared.node_wake.notify_one();
    match admitted {
        Ok(replaced) => replaced.into_iter().for_each(|old| shared.end(target.key(), old, End::Replaced)),
        Err(why) => {
            target.links().detach(peer);
            return debug!(torrent = %target.name(), %addr, "a connection is refused: {why}");
        }
    }
    if shared.closing.load(Ordering::SeqCst) {
        target.links().end(peer, End::Session);
    }
    if let Target::Awaited(awaited) = &target
        && awaited.is_given_up()
    {
        target.links().end(peer, End::GivenUp);
    }
    let connected = Connected { peer, addr, id: theirs.peer_id, fast: theirs.fast(), outgoing };
    match target {
        Target::Torrent(torrent) => Peer::run(torrent, stream, connected, *theirs, link, false).await,
        Target::Awaited(awaited) => awaited.run(stream, connected, *theirs, link).await,
    }
}

/// Dials, rechokes and lets torrents ask for more when the node says so.
pub(super) async fn decide(shared: Arc<Shared>) {
    loop {
        let now = Instant::now();
        let (dials, rechoke, asks, exchanges, next) = {
            let mut node = shared.node();
            let dials: Vec<_> = std::iter::from_fn(|| node.next_dial(now)).collect();
            let rechoke = node.next_rechoke() <= now;
            let asks = node.may_ask(now);
            let exchanges = node.pex_due(now);
            let next = node.next_timeout().into_iter().chain(node.next_ask()).chain([node.next_rechoke()]).min();
            (dials, rechoke, asks, exchanges, next)
        };
        for (key, addr) in dials {
            match shared.target(key) {
                Some(target) => drop(tokio::spawn(dial(Arc::clone(&shared), target, addr))),
                // It has just gone.
                None => shared.node().dial_failed(now, key, addr),
            }
        }
        for (key, bytes) in asks {
            if let Some(torrent) = shared.torrent(key) {
                torrent.tell(Input::MayAsk(bytes));
            }
        }
        for key in exchanges {
            shared.exchange(now, key);
        }
        if rechoke {
            shared.rechoke(now);
            continue;
        }
        let next = next.into_iter().chain(shared.node().next_pex()).min();
        tokio::select! {
            () = sleep_until(next.unwrap_or(now).into()) => {}
            () = shared.node_wake.notified() => {}
        }
    }
}

impl Shared {
    /// A torrent starves: its addresses are dialled again, and somebody may have to make room for them.
    pub(super) fn boost(&self, key: TorrentKey) {
        self.node().boost(Instant::now(), key);
        self.end_outranked();
        self.node_wake.notify_one();
    }

    /// Ends connections that had to make room.
    fn end_outranked(&self) {
        let outranked = self.node().take_outranked();
        outranked.into_iter().for_each(|(key, weaker)| self.end(key, weaker, End::Outranked));
    }

    /// Ends a connection of a torrent, whether its metadata has just come or not.
    fn end(&self, key: TorrentKey, peer: PeerKey, why: End) {
        // In the order in which a connection goes over: it is found in one of them.
        self.targets(key).for_each(|target| target.links().end(peer, why));
    }

    /// Where a connection of a torrent may be: some stay for a moment where they were when its metadata comes.
    pub(super) fn targets(&self, key: TorrentKey) -> impl Iterator<Item = Target> {
        let awaited = self.awaited.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let torrent = std::iter::once_with(move || self.torrent(key).map(Target::Torrent)).flatten();
        awaited.map(Target::Awaited).into_iter().chain(torrent)
    }
}
