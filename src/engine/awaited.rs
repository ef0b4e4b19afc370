//! A torrent that is known by its info-hash alone (BEP 9): its peers are looked for and connected to as any torrent's, and
//! asked for the metadata. What they say meanwhile of their pieces cannot be judged yet; it is kept, and read again once
//! the torrent is there, to which the connections then go over.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::due::due;
use super::links::{About, End, Link, Links};
use super::peer::{Peer, hello};
use super::shared::Shared;
use super::stream::Stream;
use super::torrent::Torrent;
use crate::metainfo::TorrentId;
use crate::swarm::{Connected, MetadataEffect, MetadataFetch, PeerKey, TorrentKey};
use crate::wire::{
    self, ExtendedHandshake, HOLEPUNCH, Handshake, Holepunch, Message, MetadataMessage, OUR_HOLEPUNCH_ID,
    OUR_METADATA_ID, OUR_PEX_ID, PEX, PexMessage,
};

/// What is kept of what a peer says before it can be judged, bytes: metadata of 16 MiB cannot have pieces for a larger
/// bitfield, and the rest is room for two thousand haves. It is twice what a peer may cost, but only for now.
const KEPT: usize = 128 * 1024;
/// Bytes of one read.
const READ: usize = 16 * 1024;
/// Something is said at least this often, and a peer that says nothing for twice as long is closed (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// While nobody is connected, peers are asked for and dialled again this often.
const STARVED: Duration = Duration::from_secs(5);
/// A torrent that has more than this at once does not tell it piece by piece: its peers connect anew.
const MOST_HAVES: u32 = 16 * 1024;

/// A torrent without its metadata.
pub(super) struct Awaited {
    pub(super) key: TorrentKey,
    pub(super) id: TorrentId,
    /// What to call it.
    pub(super) name: String,
    shared: Arc<Shared>,
    search: Mutex<MetadataFetch>,
    pub(super) links: Links,
    news: Notify,
    /// Somebody gave wrong metadata: that is said once.
    lied: AtomicBool,
    /// The raw info dictionary, which has the hash.
    metadata: watch::Sender<Option<Arc<[u8]>>>,
    /// What became of it.
    torrent: watch::Sender<Option<Arc<Torrent>>>,
    /// Nobody wants it any more.
    given_up: watch::Sender<bool>,
}

impl Awaited {
    pub(super) fn new(key: TorrentKey, id: TorrentId, name: String, shared: Arc<Shared>, seed: u64) -> Self {
        Self {
            key,
            id,
            name,
            shared,
            search: Mutex::new(MetadataFetch::new(id, seed)),
            links: Links::default(),
            news: Notify::new(),
            lied: AtomicBool::new(false),
            metadata: watch::Sender::new(None),
            torrent: watch::Sender::new(None),
            given_up: watch::Sender::new(false),
        }
    }

    /// Its metadata says that it is private (BEP 27).
    pub(super) fn now_private(&self) {
        self.shared.now_private(self.key);
    }

    /// Nobody wants it any more: the search and its connections end.
    pub(super) fn give_up(&self) {
        self.given_up.send_replace(true);
        self.links.end_all(End::GivenUp);
    }

    pub(super) fn is_given_up(&self) -> bool {
        *self.given_up.borrow()
    }

    /// Waits for the metadata: the raw info dictionary.
    pub(super) async fn metadata(&self) -> Arc<[u8]> {
        let mut metadata = self.metadata.subscribe();
        loop {
            if let Some(metadata) = metadata.borrow_and_update().clone() {
                return metadata;
            }
            if metadata.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Where the search stands, for people.
    pub(super) fn status(&self) -> String {
        let (connected, known) = (self.links.len(), self.shared.node().known_peers(self.key));
        let search = self.lock();
        match (connected, search.sources(), search.progress()) {
            (0, ..) => {
                format!("looking for peers ({known} known, none connected)")
            }
            (_, 0, _) => format!("{connected} peers are connected, none of them has the metadata yet"),
            (_, sources, (there, needed)) => {
                format!("fetching the metadata from {sources} peers: {there} of {needed} parts")
            }
        }
    }

    /// The torrent is there: the connections go over to it.
    pub(super) fn became(&self, torrent: &Arc<Torrent>) {
        self.torrent.send_replace(Some(Arc::clone(torrent)));
    }

    fn lock(&self) -> MutexGuard<'_, MetadataFetch> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// News for the search, and what follows from it.
    fn enter(&self, news: impl FnOnce(&mut MetadataFetch, Instant)) {
        let effects: Vec<MetadataEffect> = {
            let mut search = self.lock();
            news(&mut search, Instant::now());
            std::iter::from_fn(|| search.poll()).collect()
        };
        for effect in effects {
            match effect {
                MetadataEffect::Send(peer, id, message) => {
                    self.links.tell(peer, About::Metadata(id), message.encode());
                }
                MetadataEffect::Lied(peer) => {
                    if self.lied.swap(true, Ordering::Relaxed) {
                        debug!(torrent = %self.name, "another peer gave metadata that is not this torrent's");
                    } else {
                        warn!(torrent = %self.name, "a peer gave metadata that is not this torrent's: it is banned");
                    }
                    self.links.end(peer, End::Banned);
                }
                MetadataEffect::Done(metadata) => {
                    info!(torrent = %self.name, bytes = metadata.len(), "the metadata is there");
                    self.metadata.send_replace(Some(metadata.into()));
                }
            }
        }
        self.news.notify_one();
    }

    /// Lets time pass for the search, until the metadata is there.
    pub(super) async fn run_timer(self: Arc<Self>) {
        let (mut metadata, mut given_up) = (self.metadata.subscribe(), self.given_up.subscribe());
        let mut starved = tokio::time::interval(STARVED);
        loop {
            let next = self.lock().next_timeout();
            tokio::select! {
                _ = starved.tick() => if self.links.len() == 0 {
                    // As a read that nobody can answer: addresses that did not answer are dialled again.
                    self.shared.boost(self.key);
                    self.shared.sources.want_peers(self.key);
                },
                () = due(next) => self.enter(MetadataFetch::timeout),
                () = self.news.notified() => {}
                there = metadata.wait_for(Option::is_some) => {
                    drop(there);
                    return;
                }
                ended = given_up.wait_for(|given_up| *given_up) => {
                    drop(ended);
                    return;
                }
            }
        }
    }

    /// Runs a connection until the torrent takes it over or it ends.
    pub(super) async fn run(
        self: Arc<Self>,
        mut stream: Stream,
        connected: Connected,
        theirs: Handshake,
        link: Arc<Link>,
    ) {
        let (key, addr) = (connected.peer, connected.addr);
        debug!(torrent = %self.name, %addr, client = %connected.id, "connected, for the metadata");
        let mut seat = Seat { awaited: &self, key, good: true, left: false };
        let utp = stream.is_utp();
        let mut talk = Talk {
            awaited: &self,
            key,
            addr,
            utp,
            kept: Vec::new(),
            rest: Vec::new(),
            pex: 0,
            holepunch: 0,
            dht_node: false,
        };
        let torrent = match talk.run(&mut stream, &connected, &theirs, &link).await {
            Ok(torrent) => torrent,
            Err(error) => {
                let banned = matches!(link.closed.get(), Some(End::Banned));
                if banned {
                    self.shared.node().ban(Instant::now(), self.key, addr);
                }
                seat.good = !banned && error.kind() != io::ErrorKind::InvalidData;
                return debug!(torrent = %self.name, %addr, "disconnected: {error}");
            }
        };
        if torrent.look(|swarm| swarm.there()) > MOST_HAVES {
            return debug!(torrent = %self.name, %addr, "disconnected: it connects anew, to learn what is here");
        }
        // The node goes on with the same connection, which has another task now. There is always a link to end it by.
        seat.left = true;
        let Talk { kept, rest, .. } = talk;
        let next = torrent.links.attach(key);
        drop(seat);
        if let Some(why) = link.closed.get() {
            torrent.links.end(key, *why);
        }
        stream.put_back(&[kept, rest].concat());
        // With what was needed to find the metadata.
        drop(self);
        Peer::run(torrent, stream, connected, theirs, next, true).await;
    }
}

/// A connection's place, given up however its task ends.
struct Seat<'a> {
    awaited: &'a Arc<Awaited>,
    key: PeerKey,
    /// False if the peer broke the protocol.
    good: bool,
    /// The connection goes on elsewhere.
    left: bool,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.awaited.links.detach(self.key);
        self.awaited.enter(|search, now| search.disconnected(now, self.key));
        if !self.left {
            let shared = &self.awaited.shared;
            shared.node().disconnected(Instant::now(), self.key, self.good);
            shared.node_wake.notify_one();
        }
    }
}

/// What goes back and forth on one connection.
struct Talk<'a> {
    awaited: &'a Arc<Awaited>,
    key: PeerKey,
    addr: SocketAddr,
    utp: bool,
    /// Whole messages that only the torrent can judge.
    kept: Vec<u8>,
    /// The beginning of a message whose end has not come.
    rest: Vec<u8>,
    /// Its id for peer exchange (BEP 11); 0 is none.
    pex: u8,
    /// Its id for holepunching (BEP 55); 0 is none.
    holepunch: u8,
    /// It has said where its node of the DHT is (BEP 5).
    dht_node: bool,
}

impl Talk<'_> {
    /// Ends with the torrent, once it is there.
    async fn run(
        &mut self,
        stream: &mut Stream,
        connected: &Connected,
        theirs: &Handshake,
        link: &Link,
    ) -> io::Result<Arc<Torrent>> {
        let mut out = Vec::new();
        if connected.fast {
            Message::HaveNone.encode(&mut out);
        }
        if theirs.extended() {
            let hello = hello(&self.awaited.shared, self.awaited.key, self.addr, None);
            Message::Extended { id: 0, payload: hello.encode().into() }.encode(&mut out);
        }
        if let Some(port) = self.awaited.shared.dht_port(self.awaited.key, theirs) {
            Message::Port(port).encode(&mut out);
        }
        stream.write_all(&out).await?;
        let mut torrent = self.awaited.torrent.subscribe();
        let (mut heard, mut said) = (Instant::now(), Instant::now());
        let mut buffer = vec![0; READ];
        loop {
            if let Some(torrent) = torrent.borrow_and_update().clone() {
                return Ok(torrent);
            }
            tokio::select! {
                // None: it was dropped, and so is this.
                changed = torrent.changed() => changed.map_err(io::Error::other)?,
                () = link.wake.notified() => {
                    if let Some(why) = link.closed.get() {
                        return Err(io::Error::other(*why));
                    }
                    let mut out = Vec::new();
                    for (about, body) in link.take_told() {
                        let id = match about {
                            About::Metadata(id) => id,
                            About::Pex => self.pex,
                            About::Holepunch => self.holepunch,
                        };
                        if id != 0 {
                            Message::Extended { id, payload: body.into() }.encode(&mut out);
                        }
                    }
                    if !out.is_empty() {
                        // A few requests: a peer that does not take them is of no use.
                        tokio::time::timeout(KEEP_ALIVE, stream.write_all(&out)).await??;
                        said = Instant::now();
                    }
                }
                read = stream.read(&mut buffer) => match read? {
                    0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
                    count => {
                        heard = Instant::now();
                        self.take_in(&buffer[..count])?;
                    }
                },
                () = due(Some(said + KEEP_ALIVE)) => {
                    if heard.elapsed() >= 2 * KEEP_ALIVE {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, "idle"));
                    }
                    stream.write_all(&[0; 4]).await?;
                    said = Instant::now();
                }
            }
        }
    }

    /// Reads the whole messages of what has come.
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        let invalid = |error: wire::DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
        let bytes = [std::mem::take(&mut self.rest), bytes.to_vec()].concat();
        let mut used = 0;
        while let Some((message, length)) = wire::decode_unjudged(&bytes[used..]).map_err(invalid)? {
            let whole = &bytes[used..used + length];
            used += length;
            let keep = match message {
                Message::KeepAlive => false,
                Message::Port(port) => {
                    if !std::mem::replace(&mut self.dht_node, true) {
                        self.awaited.shared.dht_node(self.awaited.key, self.addr.ip(), port);
                    }
                    false
                }
                Message::Extended { id: 0, payload } => {
                    let hello = ExtendedHandshake::decode(&payload).map_err(invalid)?;
                    self.greeted(&hello);
                    true
                }
                Message::Extended { id: OUR_METADATA_ID, payload } => {
                    let message = MetadataMessage::decode(&payload).map_err(invalid)?;
                    self.awaited.enter(|search, now| search.message(now, self.key, &message));
                    false
                }
                Message::Extended { id: OUR_PEX_ID, payload } => {
                    self.others(&PexMessage::decode(&payload).map_err(invalid)?)?;
                    false
                }
                Message::Extended { id: OUR_HOLEPUNCH_ID, payload } => {
                    if let Ok(message) = Holepunch::decode(&payload) {
                        self.awaited.shared.holepunch(self.awaited.key, self.key, message);
                    }
                    false
                }
                _ => true,
            };
            if keep {
                if self.kept.len() + whole.len() > KEPT {
                    return Err(io::Error::other("it says more than can be kept before there is metadata"));
                }
                self.kept.extend_from_slice(whole);
            }
        }
        self.rest.extend_from_slice(&bytes[used..]);
        if self.rest.len() > KEPT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is longer than metadata allows"));
        }
        Ok(())
    }

    fn greeted(&mut self, hello: &ExtendedHandshake) {
        let shared = &self.awaited.shared;
        if let Some(port) = hello.listen_port {
            shared.node().listening(Instant::now(), self.key, port);
        }
        if let Some(&id) = hello.messages.get(PEX).filter(|_| shared.exchanges(self.awaited.key)) {
            self.pex = id;
            shared.node().wants_pex(Instant::now(), self.key, id != 0);
        }
        if let Some(&id) = hello.messages.get(HOLEPUNCH) {
            self.holepunch = shared.learn_holepunch(self.awaited.key, self.key, id, self.utp);
        }
        self.awaited.enter(|search, now| search.extended(now, self.key, hello));
    }

    /// What it says of other peers.
    fn others(&self, message: &PexMessage) -> io::Result<()> {
        let shared = &self.awaited.shared;
        if shared.exchanges(self.awaited.key) {
            shared.hear_of_others(self.key, message, false)?;
        }
        shared.node_wake.notify_one();
        Ok(())
    }
}
