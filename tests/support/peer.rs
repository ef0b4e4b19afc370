//! A peer in plain std threads: handshake (BEP 3), fast extension (BEP 6), and the few messages that a seed needs. It
//! shares no code with the program under test. What it does with a request is its `Behaviour`.

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::hostile::{self, Behaviour};
use super::torrent::Content;

/// A block that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) piece: u32,
    pub(crate) begin: u32,
    pub(crate) length: u32,
}

/// What the other side says, as far as a seed cares.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Interested,
    Request(Request),
    Cancel(Request),
}

/// What happened on all connections of a peer.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    /// Handshakes for our torrent that were received whole.
    pub(crate) handshakes: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) blocks: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Blocks sent with a flipped bit.
    pub(crate) spoiled: AtomicU64,
    /// Connections that have ended, whoever ended them.
    pub(crate) ended: AtomicU64,
}

pub(crate) struct Shared {
    pub(crate) content: Arc<Content>,
    pub(crate) behaviour: Behaviour,
    pub(crate) counts: Counts,
    pub(crate) gate: AtomicBool,
    stopping: Mutex<bool>,
    stopped: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    /// When the next block may leave, for a peer with a rate.
    next: Mutex<Instant>,
}

/// A listening peer that has the whole torrent; stopped when dropped.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Peer {
    pub(crate) fn start(content: &Arc<Content>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((super::loopback(), 0)).expect("a listening socket");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            content: Arc::clone(content),
            behaviour,
            counts: Counts::default(),
            gate: AtomicBool::new(false),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
            streams: Mutex::new(Vec::new()),
            next: Mutex::new(Instant::now()),
        });
        let ours = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &ours));
        Self { address, shared, accepting: Some(accepting) }
    }

    /// A seed without fault and limit.
    pub(crate) fn seed(content: &Arc<Content>) -> Self {
        Self::start(content, Behaviour::Good)
    }

    pub(crate) fn count(&self, of: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        of(&self.shared.counts).load(Ordering::SeqCst)
    }

    /// One line for the message of a failed test.
    pub(crate) fn summary(&self) -> String {
        let n = |of: fn(&Counts) -> &AtomicU64| self.count(of);
        format!(
            "{} {:?}: {} connections, {} ended, {} handshakes, {} requests, {} blocks sent, {} of them spoiled",
            self.address,
            self.shared.behaviour,
            n(|c| &c.connections),
            n(|c| &c.ended),
            n(|c| &c.handshakes),
            n(|c| &c.requests),
            n(|c| &c.blocks),
            n(|c| &c.spoiled)
        )
    }

    /// Lets a `Gated` peer answer, from now on.
    pub(crate) fn open_gate(&self) {
        self.shared.gate.store(true, Ordering::SeqCst);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        *self.shared.stopping.lock().expect("the flag") = true;
        self.shared.stopped.notify_all();
        for stream in self.shared.streams.lock().expect("the streams").iter() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        // Wakes the accept call.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits; false when the peer is being stopped.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let guard = self.stopping.lock().expect("the flag");
        let (guard, _) = self.stopped.wait_timeout_while(guard, time, |stop| !*stop).expect("the flag");
        !*guard
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.lock().expect("the flag")
    }

    /// Waits for this many bytes' turn at `rate` bytes per second over all connections, evenly. Who comes late may make
    /// up for `catch_up`. False when the peer is being stopped.
    pub(crate) fn take_turn(&self, bytes: u64, rate: u64, catch_up: Duration) -> bool {
        let at = {
            let mut next = self.next.lock().expect("the clock");
            let now = Instant::now();
            let at = (*next).max(now.checked_sub(catch_up).unwrap_or(now));
            *next = at + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
            *next
        };
        self.pause(at.saturating_duration_since(Instant::now()))
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        if shared.is_stopping() {
            break;
        }
        let Ok(twin) = stream.try_clone() else { break };
        shared.streams.lock().expect("the streams").push(twin);
        shared.counts.connections.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(shared);
        threads.push(std::thread::spawn(move || {
            // An error is the other side's end of the connection: what the tests provoke.
            let _ = serve(&shared, &stream);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            shared.counts.ended.fetch_add(1, Ordering::SeqCst);
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(64 << 10, stream);
    let mut theirs = [0; 68];
    if matches!(shared.behaviour, Behaviour::SlowHandshake) {
        return hostile::drip_handshake(shared, stream);
    }
    input.read_exact(&mut theirs)?;
    if theirs[..20] != *b"\x13BitTorrent protocol" || theirs[28..48] != shared.content.torrent.info_hash {
        return Ok(());
    }
    shared.counts.handshakes.fetch_add(1, Ordering::SeqCst);
    let fast = theirs[27] & 4 != 0;
    let mut hello = handshake(&shared.content.torrent.info_hash);
    if fast {
        message(&mut hello, 14, &[]);
    } else {
        let pieces = shared.content.torrent.length.div_ceil(shared.content.torrent.piece_length);
        message(&mut hello, 5, &bitfield_of_all(usize::try_from(pieces).expect("few pieces")));
    }
    (&mut &*stream).write_all(&hello)?;
    let (sender, events) = mpsc::channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let result = hostile::write(shared, stream, &events);
            // The reader must not wait for a peer that we are done with.
            let _ = stream.shutdown(std::net::Shutdown::Both);
            result
        });
        let read = listen(shared, &mut input, &sender);
        drop(sender);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = writer.join();
        read
    })
}

/// Reads messages until the connection ends.
fn listen(shared: &Shared, input: &mut impl Read, events: &Sender<Event>) -> io::Result<()> {
    loop {
        let length = read_u32(input)?;
        if length == 0 {
            continue;
        }
        if length > 1 << 20 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; usize::try_from(length).expect("a length")];
        input.read_exact(&mut body)?;
        let event = match body[0] {
            2 => Event::Interested,
            6 | 8 if body.len() == 13 => {
                let mut fields = &body[1..];
                let request = Request {
                    piece: read_u32(&mut fields)?,
                    begin: read_u32(&mut fields)?,
                    length: read_u32(&mut fields)?,
                };
                if body[0] == 6 {
                    shared.counts.requests.fetch_add(1, Ordering::SeqCst);
                    Event::Request(request)
                } else {
                    Event::Cancel(request)
                }
            }
            _ => continue,
        };
        if events.send(event).is_err() {
            return Ok(());
        }
    }
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

/// 68 bytes: fast extension only.
pub(crate) fn handshake(info_hash: &[u8; 20]) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut bytes = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\x04".to_vec();
    bytes.extend_from_slice(info_hash);
    bytes.extend_from_slice(format!("-TT0001-{:06}{number:06}", std::process::id() % 1_000_000).as_bytes());
    bytes
}

/// Appends one message.
pub(crate) fn message(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    out.extend_from_slice(&u32::try_from(body.len() + 1).expect("a length").to_be_bytes());
    out.push(id);
    out.extend_from_slice(body);
}

/// A `piece` message.
pub(crate) fn piece_message(request: Request, data: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(8 + data.len());
    body.extend_from_slice(&request.piece.to_be_bytes());
    body.extend_from_slice(&request.begin.to_be_bytes());
    body.extend_from_slice(data);
    let mut out = Vec::with_capacity(13 + data.len());
    message(&mut out, 7, &body);
    out
}

/// The body of a `request` message.
pub(crate) fn request_body(request: Request) -> [u8; 12] {
    let mut body = [0; 12];
    body[..4].copy_from_slice(&request.piece.to_be_bytes());
    body[4..8].copy_from_slice(&request.begin.to_be_bytes());
    body[8..].copy_from_slice(&request.length.to_be_bytes());
    body
}

fn bitfield_of_all(pieces: usize) -> Vec<u8> {
    let mut bits = vec![0xff; pieces.div_ceil(8)];
    if let Some(last) = bits.last_mut().filter(|_| !pieces.is_multiple_of(8)) {
        *last = 0xff << (8 - pieces % 8);
    }
    bits
}
