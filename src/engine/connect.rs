//! How connections come to be: accepted or dialled when the node says so, greeted, admitted, and then a peer's task.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::handshake;
use super::peer::Peer;
use super::session::Shared;
use super::torrent::{End, Torrent};
use crate::swarm::{Connected, Input, PeerKey};
use crate::wire::Handshake;

/// Accepts connections until the session ends.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    /// Out of descriptors: an accept that fails at once must not spin.
    const PAUSE: Duration = Duration::from_millis(100);
    let mut failing = false;
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!("cannot accept connections: {e}");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        failing = false;
        let refused = shared.node().accept(Instant::now(), addr);
        match refused {
            Ok(()) => drop(tokio::spawn(greet(Arc::clone(&shared), stream, addr))),
            Err(why) => debug!(%addr, "a connection is refused: {why}"),
        }
    }
}

/// An accepted connection: which torrent it is for, then its life.
async fn greet(shared: Arc<Shared>, mut stream: TcpStream, addr: SocketAddr) {
    let find = |hash: &[u8; 20]| {
        let key = shared.by_hash.read().unwrap_or_else(PoisonError::into_inner).get(hash).copied();
        key.and_then(|key| shared.torrent(key))
    };
    let greeted = match stream.set_nodelay(true) {
        Ok(()) => handshake::incoming(&mut stream, shared.peer_id, find).await,
        Err(e) => Err(e),
    };
    shared.node().accept_done(addr);
    match greeted {
        Ok((theirs, torrent)) => connect(&shared, torrent, stream, addr, &theirs, false).await,
        Err(e) => debug!(%addr, "an incoming handshake fails: {e}"),
    }
}

/// Dials one address, then the connection's life.
async fn dial(shared: Arc<Shared>, torrent: Arc<Torrent>, addr: SocketAddr) {
    let dialled = async {
        let mut stream = shared.network.connect(addr).await?;
        let theirs = handshake::outgoing(&mut stream, torrent.meta.id.wire(), shared.peer_id).await?;
        Ok::<_, std::io::Error>((stream, theirs))
    };
    match dialled.await {
        Ok((stream, theirs)) => connect(&shared, torrent, stream, addr, &theirs, true).await,
        Err(e) => {
            debug!(torrent = %torrent.meta.name, %addr, "cannot connect: {e}");
            shared.node().dial_failed(Instant::now(), torrent.key, addr);
            shared.node_wake.notify_one();
        }
    }
}

/// A connection with both handshakes done: admitted by the node, it runs until it ends.
async fn connect(
    shared: &Arc<Shared>,
    torrent: Arc<Torrent>,
    stream: TcpStream,
    addr: SocketAddr,
    theirs: &Handshake,
    outgoing: bool,
) {
    let peer = PeerKey(shared.id());
    // From here on whoever replaces or ends this connection finds it.
    let link = torrent.attach(peer);
    let admitted = shared.node().connected(Instant::now(), peer, torrent.key, addr, theirs.peer_id, outgoing);
    match admitted {
        Ok(replaced) => replaced.into_iter().for_each(|old| torrent.end(old, End::Replaced)),
        Err(why) => {
            torrent.detach(peer);
            return debug!(torrent = %torrent.meta.name, %addr, "a connection is refused: {why}");
        }
    }
    if shared.closing.load(Ordering::SeqCst) {
        torrent.end(peer, End::Session);
    }
    let connected = Connected { peer, addr, id: theirs.peer_id, fast: theirs.fast(), outgoing };
    Peer::run(torrent, stream, connected, theirs.extended(), link).await;
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
            if let Some(torrent) = shared.torrent(key) {
                tokio::spawn(dial(Arc::clone(&shared), torrent, addr));
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
            () = tokio::time::sleep_until(next.unwrap_or(now).into()) => {}
            () = shared.node_wake.notified() => {}
        }
    }
}
