//! An HTTP tracker, or another HTTP server, that does what a test tells it to, on threads of its own: good, hostile or silent.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What to do with a request.
pub(crate) enum Action {
    /// Send these bytes, head and all, and close.
    Raw(Vec<u8>),
    /// Send nothing until the client goes.
    Silence,
    /// Send these bytes, then these ones again and again with a pause before each, until the client goes.
    Endless(Vec<u8>, Vec<u8>, Duration),
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Path and query as they came.
    pub(crate) target: String,
    /// The query, unescaped; a repeated key keeps its last value.
    pub(crate) query: BTreeMap<String, Vec<u8>>,
    /// Everything up to the empty line.
    pub(crate) head: String,
}

impl Seen {
    /// A header, whatever the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// The one range of bytes that is asked for, if one is.
    pub(crate) fn range(&self) -> Option<std::ops::Range<usize>> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.query.get(key).map(|v| std::str::from_utf8(v).expect("text"))
    }
}

pub(crate) struct Tracker {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    news: Condvar,
    stop: AtomicBool,
    sent: AtomicU64,
}

impl Tracker {
    /// A tracker on `ip` and a free port. `act` is called with each request and how many came before it.
    pub(crate) fn start(ip: IpAddr, act: impl Fn(&Seen, usize) -> Action + Send + Sync + 'static) -> Self {
        Self::start_at((ip, 0).into(), act)
    }

    /// As `start`, on this port.
    pub(crate) fn start_at(at: SocketAddr, act: impl Fn(&Seen, usize) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(at).expect("its port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            news: Condvar::new(),
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        });
        let (inner, act) = (Arc::clone(&shared), Arc::new(act));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if inner.stop.load(Ordering::SeqCst) {
                    break;
                }
                let (inner, act) = (Arc::clone(&inner), Arc::clone(&act));
                // A client that goes away early is what many tests are about.
                thread::spawn(move || stream.and_then(|stream| serve(stream, &inner, &*act)));
            }
        });
        Self { addr, shared }
    }

    /// A tracker that answers every announce with this body.
    pub(crate) fn answering(body: Vec<u8>) -> Self {
        Self::start([127, 0, 0, 1].into(), move |_, _| Action::Raw(ok(&body)))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn announce(&self) -> String {
        self.url("/announce")
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("not poisoned").clone()
    }

    /// The requests, once there are `n` of them; blocks for 15 s at the most.
    pub(crate) fn wait_for(&self, n: usize) -> Vec<Seen> {
        let until = Instant::now() + Duration::from_secs(15);
        let mut seen = self.shared.seen.lock().expect("not poisoned");
        while seen.len() < n {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {n} requests came: {seen:?}", seen.len());
            seen = self.shared.news.wait_timeout(seen, left).expect("not poisoned").0;
        }
        seen.clone()
    }

    /// Body bytes that an endless answer has got rid of.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve(mut stream: TcpStream, shared: &Shared, act: &dyn Fn(&Seen, usize) -> Action) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let seen = Seen { query: query_of(&target), target, head };
    let before = {
        let mut all = shared.seen.lock().expect("not poisoned");
        all.push(seen.clone());
        shared.news.notify_all();
        all.len() - 1
    };
    match act(&seen, before) {
        Action::Raw(bytes) => stream.write_all(&bytes),
        Action::Silence => stream.read(&mut byte).map(|_| ()),
        Action::Endless(first, again, pause) => {
            stream.write_all(&first)?;
            loop {
                thread::sleep(pause);
                stream.write_all(&again)?;
                shared.sent.fetch_add(again.len() as u64, Ordering::SeqCst);
            }
        }
    }
}

fn query_of(target: &str) -> BTreeMap<String, Vec<u8>> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), unescape(value))).collect()
}

fn unescape(value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' && tail.len() >= 2 {
            let digits = std::str::from_utf8(&tail[..2]).expect("digits");
            out.push(u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            rest = &tail[2..];
        } else {
            out.push(*first);
        }
    }
    out
}

/// A whole answer with this body.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    answer("200 OK", "", body)
}

/// A whole answer; `headers` are lines that end in CRLF.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len())
        .into_bytes();
    out.extend_from_slice(body);
    out
}

/// A reply with these compact IPv4 peers.
pub(crate) fn reply(extra: &str, peers: &[SocketAddr]) -> Vec<u8> {
    let mut out = format!("d{extra}5:peers{}:", 6 * peers.len()).into_bytes();
    for peer in peers {
        let IpAddr::V4(ip) = peer.ip() else { panic!("compact peers are IPv4") };
        out.extend(ip.octets());
        out.extend(peer.port().to_be_bytes());
    }
    out.push(b'e');
    out
}

/// `body` in gzip, stored.
pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = u16::try_from(body.len()).expect("one stored block");
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend_from_slice(body);
    let crc = !body.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    });
    out.extend(crc.to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

/// Gzip that inflates to `times` x 258 bytes, 13 bits for each: one literal, then copies of it in fixed Huffman codes.
pub(crate) fn gzip_bomb(times: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut put = |code: &str| bits.extend(code.bytes().map(|b| b == b'1'));
    put("1"); // the last block
    put("10"); // fixed codes, low bit first
    put("00110000"); // the literal 0
    for _ in 0..times {
        put("11000101"); // length 258
        put("00000"); // distance 1
    }
    put("0000000"); // the end
    let mut out = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
    out.extend(bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |b, (n, &bit)| b | u8::from(bit) << n)));
    out.extend([0; 8]);
    out
}
