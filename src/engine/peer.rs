//! One connection: reads the socket into a buffer of the worker's, lets the swarm judge what came under one lock per
//! read, puts blocks into their pieces, and writes what the swarm has for this peer while the socket takes it. What that
//! is, is fetched in [`super::sending`].

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::debug;

use super::due::due;
use super::links::{About, End, Link};
use super::metadata::MetadataServed;
use super::outbox::{Outbox, SLICES};
use super::shared::Shared;
use super::stream::Stream;
use super::torrent::Torrent;
use crate::metainfo::Request;
use crate::node::Witness;
use crate::swarm::{CloseReason, Connected, Input, PeerKey, Receipt, Swarm, TorrentKey};
use crate::wire::{
    self, ExtendedHandshake, HOLEPUNCH, Handshake, Holepunch, Message, MetadataMessage, OUR_DONTHAVE_ID,
    OUR_HOLEPUNCH_ID, OUR_METADATA_ID, OUR_PEX_ID, OUR_UPLOAD_ONLY_ID, PEX, PexMessage,
};

/// The worker's read buffer: the largest message, and as much again for the next read.
const BUFFER: usize = 2 * wire::MAX_MESSAGE;

/// Messages that are judged under one lock: a flood of small ones must not hold it for long.
const MESSAGES: usize = 256;
/// Nor longer than this, whatever they are.
const HOLD: Duration = Duration::from_micros(100);
/// Bytes after which a task lets others run. A socket that is always ready would hold its worker, and with it the tasks
/// that it woke itself, for as long as the peer likes.
const TURN: usize = 256 * 1024;

/// Turns that wait for a dead disk must not hold everybody up.
const TURN_WAIT: Duration = Duration::from_millis(50);

/// While it owes us no more blocks than this, what it sends is acknowledged at once: a sender with Nagle's algorithm
/// (libtorrent's sockets have it) holds back the end of a block until then, which is 40 ms otherwise.
const FEW: usize = 16;

/// A peer that reads nothing for so long while blocks wait for it is closed: they pin cached pieces.
const STUCK: Duration = Duration::from_secs(60);

thread_local! {
    /// Belongs to the worker, not to the peer: 200 peers do not hold 200 buffers.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// A connection whose handshakes are done.
pub(super) struct Peer {
    pub(super) torrent: Arc<Torrent>,
    stream: Stream,
    pub(super) key: PeerKey,
    pub(super) addr: SocketAddr,
    link: Arc<Link>,
    pub(super) outbox: Outbox,
    /// The beginning of a message whose end has not come.
    rest: Vec<u8>,
    /// Something to send waits for a rate limit until then.
    pub(super) send_held: Option<Instant>,
    /// Nothing is read before then: the download limit.
    read_held: Option<Instant>,
    /// Blocks that it owes us: what it sends counts for the download limit before it is read.
    pub(super) owes: usize,
    /// Since when the peer has taken nothing of what waits for it.
    stuck: Option<Instant>,
    /// Its id for peer exchange (BEP 11); 0 is none.
    pex: u8,
    /// Its id for holepunching (BEP 55); 0 is none.
    holepunch: u8,
    /// It has said where its node of the DHT is (BEP 5).
    dht_node: bool,
    /// What it is served of the metadata (BEP 9).
    pub(super) metadata: MetadataServed,
}

/// A connection's place in the swarm and in the node, given up however its task ends.
struct Seat {
    torrent: Arc<Torrent>,
    key: PeerKey,
    /// False if the peer broke the protocol.
    good: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.torrent.links.detach(self.key);
        self.torrent.tell(Input::Disconnected(self.key));
        self.torrent.shared.node().disconnected(Instant::now(), self.key, self.good);
        self.torrent.shared.node_wake.notify_one();
    }
}

/// A block that the swarm let in: where its bytes lie in the read buffer.
struct Kept {
    request: Request,
    attempt: u32,
    at: usize,
}

impl Peer {
    /// Runs a connection to its end. `greeted`: it was told that we have nothing, while
    /// the metadata was awaited.
    pub(super) async fn run(
        torrent: Arc<Torrent>,
        stream: Stream,
        connected: Connected,
        theirs: Handshake,
        link: Arc<Link>,
        greeted: bool,
    ) {
        let (key, addr) = (connected.peer, connected.addr);
        let (utp, sealed) = (stream.is_utp(), stream.is_sealed());
        debug!(torrent = %torrent.meta.name, %addr, client = %connected.id, utp, sealed, "connected");
        let mut seat = Seat { torrent: Arc::clone(&torrent), key, good: true };
        torrent.enter(|swarm, now| {
            swarm.handle(now, Input::Connected(connected));
            if greeted {
                swarm.handle(now, Input::Greeted(key));
            }
        });
        let mut peer = Self {
            torrent: Arc::clone(&torrent),
            stream,
            key,
            addr,
            link,
            outbox: Outbox::default(),
            rest: Vec::new(),
            send_held: None,
            read_held: None,
            owes: 0,
            stuck: None,
            pex: 0,
            holepunch: 0,
            dht_node: false,
            metadata: MetadataServed::default(),
        };
        peer.pull();
        if theirs.extended() {
            peer.greet();
        }
        if let Some(port) = torrent.shared.dht_port(torrent.key, &theirs).filter(|_| !greeted) {
            peer.outbox.push(&Message::Port(port));
        }
        let end = peer.drive().await;
        let ours = peer.link.closed.get().copied();
        seat.good = match (ours, &end) {
            (Some(End::Swarm(CloseReason::Protocol(_)) | End::Banned), _) => false,
            (None, Err(e)) => e.kind() != io::ErrorKind::InvalidData,
            _ => true,
        };
        let why = ours.map(|why| why.to_string()).or_else(|| end.err().map(|e| e.to_string())).unwrap_or_default();
        debug!(torrent = %torrent.meta.name, %addr, "disconnected: {why}");
    }

    /// Our extension handshake (BEP 10), behind the bitfield.
    fn greet(&mut self) {
        let torrent = &self.torrent;
        let hello = ExtendedHandshake {
            upload_only: torrent.look(|swarm| swarm.greets_upload_only(self.key)).then_some(true),
            ..hello(&torrent.shared, torrent.key, self.addr, Some(torrent.meta.info.len()))
        };
        let message = Message::Extended { id: 0, payload: hello.encode().into() };
        self.outbox.push(&message);
    }

    async fn drive(&mut self) -> io::Result<()> {
        let mut moved = 0;
        loop {
            let mut turn = None;
            while self.has_to_send() && self.write(&mut moved)? {
                if self.outbox.len() <= self.reach() / 2 {
                    self.pull();
                }
                if moved >= TURN {
                    drop(turn.take());
                    give_way(&mut moved).await;
                    // What a peer owes us does not wait for a turn.
                    if self.owes == 0 {
                        let next = Arc::clone(&self.torrent.shared.turns).acquire_owned();
                        turn = tokio::time::timeout(TURN_WAIT, next).await.ok();
                    }
                }
            }
            drop(turn);
            give_way(&mut moved).await;
            let (reads, writes) = (self.read_held.is_none(), self.has_to_send());
            let held = self.send_held.into_iter().chain(self.read_held).min();
            let stuck = self.stuck.map(|since| since + STUCK);
            tokio::select! {
                readable = self.stream.ready(reads, writes), if reads || writes => {
                    if readable? && reads {
                        moved += self.read()?.max(TURN / 64);
                    }
                }
                () = self.link.wake.notified() => {
                    if self.link.closed.get().is_some() {
                        return Ok(());
                    }
                    for (about, body) in self.link.take_told() {
                        let id = match about {
                            About::Metadata(id) => id,
                            About::Pex => self.pex,
                            About::Holepunch => self.holepunch,
                        };
                        if id != 0 {
                            self.outbox.push(&Message::Extended { id, payload: body.into() });
                        }
                    }
                    self.pull();
                }
                () = due(held) => {
                    let now = Instant::now();
                    self.read_held = self.read_held.filter(|&until| until > now);
                    if self.send_held.take_if(|until| *until <= now).is_some() {
                        self.pull();
                    }
                }
                () = due(stuck) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not read what it asked for"));
                }
            }
        }
    }

    fn has_to_send(&self) -> bool {
        self.outbox.len() > 0 || self.stream.has_unsent()
    }

    /// Writes what waits; false if the socket is full.
    fn write(&mut self, moved: &mut usize) -> io::Result<bool> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.outbox.slices(&mut slices);
        match self.stream.try_write_vectored(&slices[..count]) {
            Ok(count) => {
                self.outbox.advance(count);
                self.stuck = None;
                *moved += count;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.stuck.get_or_insert_with(Instant::now);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// One socket read, and one lock for what it brought. Returns the bytes read.
    fn read(&mut self) -> io::Result<usize> {
        READ.with_borrow_mut(|buffer| {
            let before = self.rest.len();
            let want = buffer.len() - before;
            let granted = self.may_read(want);
            if granted == Some(0) {
                return Ok(0);
            }
            let end = before + granted.unwrap_or(want);
            buffer[..before].copy_from_slice(&self.rest);
            let count = match self.stream.try_read(&mut buffer[before..end]) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.has_read(granted, 0, 0);
                    return Ok(0);
                }
                Err(e) => return Err(e),
            };
            let bytes = &buffer[..before + count];
            let mut seen = Seen::default();
            while self.take_in(bytes, &mut seen)? {}
            self.has_read(granted, count, seen.used - seen.payload);
            if (1..=FEW).contains(&self.owes) {
                self.stream.acknowledge();
            }
            self.rest.clear();
            self.rest.extend_from_slice(&bytes[seen.used..]);
            if self.rest.is_empty() {
                self.rest.shrink_to(16 * 1024 + 13);
            }
            if let Some(interested) = seen.interested {
                self.torrent.shared.interest(self.key, interested);
            }
            if let Some(port) = seen.listens.filter(|port| *port != 0) {
                self.torrent.shared.node().listening(Instant::now(), self.key, port);
            }
            if let Some(port) = seen.dht_node.filter(|_| !std::mem::replace(&mut self.dht_node, true)) {
                self.torrent.shared.dht_node(self.torrent.key, self.addr.ip(), port);
            }
            if let Some(ours) = seen.yourip {
                self.torrent.shared.seen(Witness::Peer(self.addr.ip().to_canonical()), ours);
            }
            self.exchange_peers(&seen)?;
            self.introduce(&seen);
            self.serve_metadata(&seen);
            Ok(count)
        })
    }

    /// What it said of other peers, and whether it wants to hear of them.
    fn exchange_peers(&mut self, seen: &Seen) -> io::Result<()> {
        if seen.pex_id.is_none() && seen.pex.is_empty() {
            return Ok(());
        }
        let shared = &self.torrent.shared;
        if !shared.exchanges(self.torrent.key) {
            return Ok(());
        }
        if let Some(id) = seen.pex_id {
            self.pex = id;
            shared.node().wants_pex(Instant::now(), self.key, id != 0);
        }
        let complete = self.torrent.look(Swarm::seeding);
        for body in &seen.pex {
            let message = PexMessage::decode(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            shared.hear_of_others(self.key, &message, complete)?;
        }
        shared.node_wake.notify_one();
        Ok(())
    }

    /// Whether it has holepunch, and what it said of introductions.
    fn introduce(&mut self, seen: &Seen) {
        let (shared, key) = (&self.torrent.shared, self.torrent.key);
        if let Some(id) = seen.holepunch_id {
            self.holepunch = shared.learn_holepunch(key, self.key, id, self.stream.is_utp());
        }
        seen.holepunch.iter().for_each(|&message| shared.holepunch(key, self.key, message));
    }

    /// How many bytes the download limit grants a peer that owes us blocks; 0: none before `read_held`. Any other may
    /// say what it likes.
    fn may_read(&mut self, want: usize) -> Option<usize> {
        self.torrent.shared.config.download_limit?;
        let (now, mut node) = (Instant::now(), self.torrent.shared.node());
        if self.owes == 0 {
            node.download().leave(self.key);
            return None;
        }
        let granted = node.download().take(now, self.key, want);
        if granted == 0 {
            self.read_held = node.download().wait(now, self.key, false);
        }
        Some(granted)
    }

    /// Settles with the download limit: `count` bytes were read, and `control` of what is whole now was no payload.
    fn has_read(&self, granted: Option<usize>, count: usize, control: usize) {
        if self.torrent.shared.config.download_limit.is_some() {
            let (free, mut node) = (granted.unwrap_or(0) + control, self.torrent.shared.node());
            node.download().put_back(free.saturating_sub(count));
            node.download().overdraw(count.saturating_sub(free));
        }
    }

    /// Lets the swarm judge some messages, sends what it has in return, and puts the blocks into their pieces. True if
    /// there are more messages.
    fn take_in(&mut self, bytes: &[u8], seen: &mut Seen) -> io::Result<bool> {
        let mut kept = Vec::new();
        let (key, pieces) = (self.key, self.torrent.meta.geometry.pieces());
        let verdict = self.exchange(|swarm, now| judge(swarm, now, key, pieces, bytes, seen, &mut kept));
        // Whatever follows them, these blocks count as received.
        for block in kept {
            let data = &bytes[block.at..block.at + block.request.length as usize];
            self.torrent.fill(block.request, block.attempt, data);
        }
        verdict.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// Our extension handshake (BEP 10), as far as it does not depend on what is here. `metadata`: bytes of metadata (BEP 9).
pub(super) fn hello(shared: &Shared, key: TorrentKey, addr: SocketAddr, metadata: Option<usize>) -> ExtendedHandshake {
    let pex = shared.exchanges(key).then(|| (PEX.to_owned(), OUR_PEX_ID));
    let holepunch = shared.introduces(key).then(|| (HOLEPUNCH.to_owned(), OUR_HOLEPUNCH_ID));
    ExtendedHandshake {
        messages: pex.into_iter().chain(holepunch).collect(),
        donthave: Some(OUR_DONTHAVE_ID),
        reqq: Some(super::shared::REQQ),
        client: Some(concat!("swarmfs ", env!("CARGO_PKG_VERSION")).to_owned()),
        listen_port: Some(shared.port).filter(|&port| port != 0),
        upload_only_id: Some(OUR_UPLOAD_ONLY_ID),
        metadata_id: Some(OUR_METADATA_ID),
        metadata_size: metadata.map(|bytes| bytes as u64),
        yourip: Some(addr.ip()),
        ..ExtendedHandshake::default()
    }
}

/// Lets other tasks run once [`TURN`] bytes have moved.
async fn give_way(moved: &mut usize) {
    if *moved >= TURN {
        *moved = 0;
        tokio::task::yield_now().await;
    }
}

/// What the node has to know of what a peer said.
#[derive(Default)]
pub(super) struct Seen {
    /// Bytes of whole messages.
    used: usize,
    /// Of these, bytes of blocks.
    payload: usize,
    /// It became interested, or is so no more.
    interested: Option<bool>,
    /// The port where it listens.
    listens: Option<u16>,
    /// The port of its node of the DHT.
    dht_node: Option<u16>,
    /// Where it sees us.
    yourip: Option<std::net::IpAddr>,
    /// Its id for peer exchange.
    pex_id: Option<u8>,
    /// Bodies of peer exchange messages: what they say is no business of the swarm's.
    pex: Vec<Vec<u8>>,
    /// Its id for holepunching.
    holepunch_id: Option<u8>,
    /// What it says of introductions.
    holepunch: Vec<Holepunch>,
    /// Its id for metadata.
    pub(super) metadata_id: Option<u8>,
    /// Pieces of the metadata that it wants.
    pub(super) metadata: Vec<u32>,
}

/// Lets the swarm judge the whole messages of `bytes` from `seen.used` on, [`MESSAGES`] at the most and for no longer than
/// [`HOLD`]. True if it stopped there.
fn judge(
    swarm: &mut Swarm,
    now: Instant,
    peer: PeerKey,
    pieces: u32,
    bytes: &[u8],
    seen: &mut Seen,
    kept: &mut Vec<Kept>,
) -> Result<bool, wire::DecodeError> {
    let began = Instant::now();
    for message in 0..MESSAGES {
        if message > 0 && began.elapsed() >= HOLD {
            break;
        }
        let Some((message, length)) = wire::decode(&bytes[seen.used..], pieces)? else { return Ok(false) };
        seen.used += length;
        match message {
            Message::Piece { piece, begin, data } => {
                seen.payload += data.len();
                let request = Request { piece, begin, length: u32::try_from(data.len()).unwrap_or(u32::MAX) };
                if let Receipt::Keep { attempt } = swarm.receive(now, peer, request) {
                    kept.push(Kept { request, attempt, at: seen.used - data.len() });
                }
            }
            Message::Extended { id: 0, payload } => {
                let hello = ExtendedHandshake::decode(&payload)?;
                seen.listens = hello.listen_port.or(seen.listens);
                seen.metadata_id = hello.metadata_id.or(seen.metadata_id);
                seen.yourip = hello.yourip.or(seen.yourip);
                seen.pex_id = hello.messages.get(PEX).copied().or(seen.pex_id);
                seen.holepunch_id = hello.messages.get(HOLEPUNCH).copied().or(seen.holepunch_id);
                swarm.handle(now, Input::Extended(peer, &hello));
            }
            Message::Extended { id: OUR_DONTHAVE_ID, payload } => {
                swarm.handle(now, Input::DontHave(peer, wire::decode_donthave(&payload)?));
            }
            Message::Extended { id: OUR_UPLOAD_ONLY_ID, payload } => {
                swarm.handle(now, Input::UploadOnly(peer, wire::decode_upload_only(&payload)));
            }
            Message::Extended { id: OUR_PEX_ID, payload } => seen.pex.push(payload.into_owned()),
            // It may grow (BEP 55): what we do not know is no error.
            Message::Extended { id: OUR_HOLEPUNCH_ID, payload } => seen.holepunch.extend(Holepunch::decode(&payload)),
            Message::Extended { id: OUR_METADATA_ID, payload } => {
                if let MetadataMessage::Request(piece) = MetadataMessage::decode(&payload)? {
                    seen.metadata.push(piece);
                }
            }
            Message::Extended { .. } => {}
            message => {
                match message {
                    Message::Interested => seen.interested = Some(true),
                    Message::NotInterested => seen.interested = Some(false),
                    Message::Port(port) => seen.dht_node = Some(port),
                    _ => {}
                }
                swarm.handle(now, Input::Message(peer, &message));
            }
        }
    }
    Ok(true)
}
