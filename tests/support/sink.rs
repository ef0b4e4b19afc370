//! A leecher that keeps nothing, for rates: asks for the whole torrent in order, round and round.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::peer::{Request, handshake, message, request_body};
use super::torrent::Torrent;
use super::wait_until;

const BLOCK: u64 = 16 * 1024;
/// Longer than any seed takes for its next byte.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to a seed.
pub(crate) struct Sink<'a> {
    stream: TcpStream,
    torrent: &'a Torrent,
    /// Requests that may be out.
    most: usize,
    /// The next block, and those that were rejected.
    next: u64,
    again: VecDeque<Request>,
    out: usize,
    unchoked: bool,
}

impl<'a> Sink<'a> {
    /// Connects, and keeps `most` requests out from the first unchoke on. A seed may close connections until it is ready.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, torrent: &'a Torrent, most: usize) -> Self {
        let mut sink = Self::try_connect(address, torrent, most);
        wait_until(LIMIT, "a connection to the seed", || {
            if sink.is_err() {
                sink = Self::try_connect(address, torrent, most);
            }
            sink.is_ok()
        });
        sink.expect("a connection")
    }

    fn try_connect(address: SocketAddr, torrent: &'a Torrent, most: usize) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut hello = handshake(&torrent.info_hash);
        message(&mut hello, 15, &[]);
        message(&mut hello, 2, &[]);
        stream.write_all(&hello)?;
        stream.read_exact(&mut [0; 68])?;
        Ok(Self { stream, torrent, most, next: 0, again: VecDeque::new(), out: 0, unchoked: false })
    }

    /// Blocks of the torrent.
    pub(crate) fn blocks(&self) -> u64 {
        self.torrent.length.div_ceil(BLOCK)
    }

    fn block(&self, number: u64) -> Request {
        let at = number % self.blocks() * BLOCK;
        let field = |value: u64| u32::try_from(value).expect("a field of a request");
        Request {
            piece: field(at / self.torrent.piece_length),
            begin: field(at % self.torrent.piece_length),
            length: field((self.torrent.length - at).min(BLOCK)),
        }
    }

    /// Fills the pipeline up to block `end`, once a tenth of it is free.
    fn ask(&mut self, end: u64) -> io::Result<()> {
        if !self.unchoked || self.most - self.out < (self.most / 10).max(1) {
            return Ok(());
        }
        let mut requests = Vec::with_capacity(17 * self.most);
        while self.out < self.most {
            let request = match self.again.pop_front() {
                Some(request) => request,
                None if self.next < end => {
                    self.next += 1;
                    self.block(self.next - 1)
                }
                None => break,
            };
            self.out += 1;
            message(&mut requests, 6, &request_body(request));
        }
        self.stream.write_all(&requests)
    }

    /// Fetches `blocks` blocks or until `stop`; adds the payload to `bytes` as it comes. Returns when the first requests
    /// left.
    pub(crate) fn run(&mut self, blocks: u64, stop: &AtomicBool, bytes: &AtomicU64) -> io::Result<Instant> {
        let mut buffer = vec![0; 256 * 1024];
        let (mut held, mut came, mut start) = (0, 0, None);
        while came < blocks && !stop.load(Ordering::Relaxed) {
            let count = self.stream.read(&mut buffer[held..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            held += count;
            let mut at = 0;
            while held - at >= 4 {
                let length = u32::from_be_bytes(buffer[at..at + 4].try_into().expect("four bytes"));
                let end = at + 4 + usize::try_from(length).expect("a length");
                if end > held {
                    break;
                }
                let body = &buffer[at + 4..end];
                match body.first() {
                    Some(7) => {
                        self.out -= 1;
                        came += 1;
                        bytes.fetch_add(u64::from(length) - 9, Ordering::Relaxed);
                    }
                    Some(1) => {
                        self.unchoked = true;
                        start.get_or_insert_with(Instant::now);
                    }
                    Some(0) => self.unchoked = false,
                    Some(16) => {
                        let field = |n: usize| u32::from_be_bytes(body[n..n + 4].try_into().expect("four bytes"));
                        self.out -= 1;
                        self.again.push_back(Request { piece: field(1), begin: field(5), length: field(9) });
                    }
                    _ => {}
                }
                at = end;
            }
            buffer.copy_within(at..held, 0);
            held -= at;
            self.ask(blocks)?;
        }
        start.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// Waits for the unchoke, asks for as much as it may, and reads no more from then on.
    pub(crate) fn ask_and_read_nothing(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        while !self.unchoked {
            self.stream.read_exact(&mut length)?;
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("a length")];
            self.stream.read_exact(&mut body)?;
            self.unchoked = body == [1];
        }
        self.ask(u64::MAX)
    }
}
