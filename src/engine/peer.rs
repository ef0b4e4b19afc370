//! One connection: reads the socket into a buffer of the worker's, lets the swarm judge what came under one lock per
//! read, puts blocks into their pieces, and writes what the swarm has for this peer while the socket takes it.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tracing::{debug, trace};

use super::outbox::Outbox;
use super::torrent::{End, Link, Torrent};
use crate::metainfo::Request;
use crate::swarm::{CloseReason, Connected, Input, Outgoing, PeerKey, Receipt, Room, Swarm};
use crate::wire::{self, ExtendedHandshake, Message, OUR_DONTHAVE_ID};

/// Bytes that wait in memory for one peer's socket: eight blocks.
const OUTBOX: usize = 8 * (16 * 1024 + 13);
/// The worker's read buffer: the largest message, and as much again for the next read.
const BUFFER: usize = 2 * wire::MAX_MESSAGE;

/// Messages that are judged under one lock: a flood of small ones must not hold it for long.
const MESSAGES: usize = 256;
/// Bytes after which a task lets others run. A socket that is always ready would hold its worker, and with it the tasks
/// that it woke itself, for as long as the peer likes.
const TURN: usize = 256 * 1024;

/// A peer that reads nothing for so long while blocks wait for it is closed: they pin cached pieces.
const STUCK: Duration = Duration::from_secs(60);

thread_local! {
    /// Belongs to the worker, not to the peer: 200 peers do not hold 200 buffers.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// A connection whose handshakes are done.
pub(super) struct Peer {
    torrent: Arc<Torrent>,
    stream: TcpStream,
    key: PeerKey,
    addr: SocketAddr,
    link: Arc<Link>,
    outbox: Outbox,
    /// The beginning of a message whose end has not come.
    rest: Vec<u8>,
    /// Blocks wait for the upload limit until then.
    held: Option<Instant>,
    /// Since when the peer has taken nothing of what waits for it.
    stuck: Option<Instant>,
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
        self.torrent.detach(self.key);
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
    /// Runs a connection to its end. `extended`: both sides have BEP 10.
    pub(super) async fn run(
        torrent: Arc<Torrent>,
        stream: TcpStream,
        connected: Connected,
        extended: bool,
        link: Arc<Link>,
    ) {
        let (key, addr) = (connected.peer, connected.addr);
        debug!(torrent = %torrent.meta.name, %addr, client = %connected.id, "connected");
        let mut seat = Seat { torrent: Arc::clone(&torrent), key, good: true };
        torrent.tell(Input::Connected(connected));
        let mut peer = Self {
            torrent: Arc::clone(&torrent),
            stream,
            key,
            addr,
            link,
            outbox: Outbox::default(),
            rest: Vec::new(),
            held: None,
            stuck: None,
        };
        peer.pull();
        if extended {
            peer.greet();
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
        let hello = ExtendedHandshake {
            donthave: Some(OUR_DONTHAVE_ID),
            reqq: Some(super::session::REQQ),
            client: Some(concat!("swarmfs ", env!("CARGO_PKG_VERSION")).to_owned()),
            listen_port: Some(self.torrent.shared.port),
            upload_only: self.torrent.look(Swarm::seeding),
            yourip: Some(self.addr.ip()),
            ..ExtendedHandshake::default()
        };
        let message = Message::Extended { id: 0, payload: hello.encode().into() };
        self.outbox.push(|out| message.encode(out));
    }

    async fn drive(&mut self) -> io::Result<()> {
        let mut moved = 0;
        loop {
            while self.outbox.len() > 0 && self.write(&mut moved)? {
                self.pull();
                give_way(&mut moved).await;
            }
            give_way(&mut moved).await;
            let interest =
                if self.outbox.len() > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let held = self.held.map(tokio::time::Instant::from_std);
            let stuck = self.stuck.map(|since| tokio::time::Instant::from_std(since + STUCK));
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    if ready?.is_readable() {
                        moved += self.read()?.max(TURN / 64);
                    }
                }
                () = self.link.wake.notified() => {
                    if self.link.closed.get().is_some() {
                        return Ok(());
                    }
                    self.pull();
                }
                () = tokio::time::sleep_until(held.unwrap_or_else(tokio::time::Instant::now)), if held.is_some() => {
                    self.held = None;
                    self.pull();
                }
                () = tokio::time::sleep_until(stuck.unwrap_or_else(tokio::time::Instant::now)), if stuck.is_some() => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not read what it asked for"));
                }
            }
        }
    }

    /// Writes what waits; false if the socket is full.
    fn write(&mut self, moved: &mut usize) -> io::Result<bool> {
        match self.stream.try_write_vectored(&self.outbox.slices()) {
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
            buffer[..before].copy_from_slice(&self.rest);
            let count = match self.stream.try_read(&mut buffer[before..]) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection")),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(e) => return Err(e),
            };
            let bytes = &buffer[..before + count];
            let mut seen = Seen::default();
            while self.take_in(bytes, &mut seen)? {}
            self.rest.clear();
            self.rest.extend_from_slice(&bytes[seen.used..]);
            if self.rest.is_empty() {
                self.rest.shrink_to(16 * 1024 + 13);
            }
            if seen.interested {
                self.torrent.shared.hurry_rechoke();
            }
            if let Some(port) = seen.listens.filter(|port| *port != 0) {
                self.torrent.shared.node().listening(Instant::now(), self.key, port);
            }
            Ok(count)
        })
    }

    /// Lets the swarm judge some messages, sends what it has in return, and puts the blocks into their pieces. True if
    /// there are more messages.
    fn take_in(&mut self, bytes: &[u8], seen: &mut Seen) -> io::Result<bool> {
        let (mut kept, mut out) = (Vec::new(), Vec::new());
        let (room, retry) = self.room();
        let pieces = self.torrent.meta.geometry.pieces();
        let (verdict, payload_waits) = self.torrent.enter(|swarm, now| {
            let verdict = judge(swarm, now, self.key, pieces, bytes, seen, &mut kept);
            (verdict, swarm.transmit(now, self.key, room, &mut out))
        });
        self.send(out, room, retry, payload_waits);
        // Whatever follows them, these blocks count as received.
        for block in kept {
            let data = &bytes[block.at..block.at + block.request.length as usize];
            self.torrent.fill(block.request, block.attempt, data);
        }
        verdict.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Takes from the swarm what there is for this peer.
    fn pull(&mut self) {
        let (room, waits) = self.room();
        let mut out = Vec::new();
        let payload_waits = self.torrent.enter(|swarm, now| swarm.transmit(now, self.key, room, &mut out));
        self.send(out, room, waits, payload_waits);
    }

    /// What the outbox and the upload limit leave, and when the limit leaves more.
    fn room(&self) -> (Room, Option<Instant>) {
        let total = OUTBOX.saturating_sub(self.outbox.len());
        if self.torrent.shared.config.upload_limit.is_none() {
            return (Room { total, payload: total }, None);
        }
        let granted = self.torrent.shared.node().upload_room(Instant::now(), total);
        (Room { total, payload: granted.granted }, granted.retry)
    }

    fn send(&mut self, outgoing: Vec<Outgoing>, room: Room, retry: Option<Instant>, payload_waits: bool) {
        let mut payload = 0;
        let mut unserved = Vec::new();
        for item in outgoing {
            match item {
                Outgoing::Message(message) => {
                    trace!(addr = %self.addr, ?message, "sends");
                    self.outbox.push(|out| message.encode(out));
                }
                Outgoing::Piece(request) => match self.send_block(request) {
                    true => payload += request.length as usize,
                    false => unserved.push(request),
                },
            }
        }
        if self.torrent.shared.config.upload_limit.is_some() {
            let mut node = self.torrent.shared.node();
            node.upload_return(room.payload.saturating_sub(payload));
            node.upload_overdraw(payload.saturating_sub(room.payload));
            self.held = if payload_waits { retry } else { None };
        }
        if !unserved.is_empty() {
            self.torrent.enter(|swarm, now| {
                for request in unserved {
                    if self.torrent.data.is_none() {
                        swarm.handle(now, Input::Lost(request.piece));
                    }
                    swarm.handle(now, Input::Unserved(self.key, request));
                }
            });
        }
    }

    /// Queues a block; false if its bytes are not there.
    fn send_block(&mut self, request: Request) -> bool {
        let torrent = &self.torrent;
        let span = request.begin as usize..(request.begin + request.length) as usize;
        if let Some(piece) = torrent.shared.cache.peek(torrent.key, request.piece) {
            if piece.bytes().is_some() {
                self.outbox.push(|out| wire::encode_piece_header(request, out));
                self.outbox.push_piece(piece, span);
                return true;
            }
            let mut block = vec![0; span.len()];
            if piece.read_at(request.begin, &mut block).is_err() {
                return false;
            }
            return self.queue_copy(request, &block);
        }
        let Some(data) = &torrent.data else { return false };
        let mut block = vec![0; span.len()];
        let offset = torrent.meta.geometry.piece_offset(request.piece) + u64::from(request.begin);
        match tokio::task::block_in_place(|| data.read_at(offset, &mut block)) {
            Ok(()) => self.queue_copy(request, &block),
            Err(e) => {
                tracing::warn!(torrent = %torrent.meta.name, piece = request.piece.0, "the copy cannot be read: {e}");
                false
            }
        }
    }

    fn queue_copy(&mut self, request: Request, block: &[u8]) -> bool {
        self.outbox.push(|out| {
            wire::encode_piece_header(request, out);
            out.extend_from_slice(block);
        });
        true
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
struct Seen {
    /// Bytes of whole messages.
    used: usize,
    /// It became interested.
    interested: bool,
    /// The port where it listens.
    listens: Option<u16>,
}

/// Lets the swarm judge the whole messages of `bytes` from `seen.used` on, [`MESSAGES`] at the most. True if it stopped
/// there.
fn judge(
    swarm: &mut Swarm,
    now: Instant,
    peer: PeerKey,
    pieces: u32,
    bytes: &[u8],
    seen: &mut Seen,
    kept: &mut Vec<Kept>,
) -> Result<bool, wire::DecodeError> {
    for _ in 0..MESSAGES {
        let Some((message, length)) = wire::decode(&bytes[seen.used..], pieces)? else { return Ok(false) };
        seen.used += length;
        match message {
            Message::Piece { piece, begin, data } => {
                let request = Request { piece, begin, length: u32::try_from(data.len()).unwrap_or(u32::MAX) };
                if let Receipt::Keep { attempt } = swarm.receive(now, peer, request) {
                    kept.push(Kept { request, attempt, at: seen.used - data.len() });
                }
            }
            Message::Extended { id: 0, payload } => {
                let hello = ExtendedHandshake::decode(&payload)?;
                seen.listens = hello.listen_port.or(seen.listens);
                swarm.handle(now, Input::Extended(peer, &hello));
            }
            Message::Extended { id: OUR_DONTHAVE_ID, payload } => {
                swarm.handle(now, Input::DontHave(peer, wire::decode_donthave(&payload)?));
            }
            Message::Extended { .. } => {}
            message => {
                seen.interested |= message == Message::Interested;
                swarm.handle(now, Input::Message(peer, &message));
            }
        }
    }
    Ok(true)
}
