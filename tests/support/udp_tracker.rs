//! A UDP tracker that does what a test tells it to, on a thread of its own. It reads and writes the bytes of BEP 15 by
//! itself: what it agrees with is the specification, not our own codec.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) const CONNECT: u32 = 0;
pub(crate) const ANNOUNCE: u32 = 1;
pub(crate) const SCRAPE: u32 = 2;
pub(crate) const ERROR: u32 = 3;

/// The connection id that a good tracker gives.
pub(crate) const ID: u64 = 0x1122_3344_5566_7788;

/// A datagram that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) from: SocketAddr,
    pub(crate) at: Instant,
    pub(crate) bytes: Vec<u8>,
}

impl Seen {
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes[at..at + 2].try_into().expect("2 bytes"))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes"))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    /// What it connects with, or its connection id.
    pub(crate) fn connection(&self) -> u64 {
        self.u64(0)
    }

    pub(crate) fn action(&self) -> u32 {
        self.u32(8)
    }

    pub(crate) fn transaction(&self) -> u32 {
        self.u32(12)
    }

    /// Of an announce: 0 none, 1 completed, 2 started, 3 stopped.
    pub(crate) fn event(&self) -> u32 {
        self.u32(80)
    }

    /// A reply to it.
    pub(crate) fn reply(&self, action: u32, rest: &[u8]) -> Vec<u8> {
        head(action, self.transaction(), rest)
    }

    /// The reply to a connect request.
    pub(crate) fn connected(&self, id: u64) -> Vec<u8> {
        self.reply(CONNECT, &id.to_be_bytes())
    }

    /// The reply to an announce: 1,800 s, 3 leechers, 4 seeds, and these peers.
    pub(crate) fn peers(&self, peers: &[SocketAddr]) -> Vec<u8> {
        let mut rest: Vec<u8> = [1800_u32, 3, 4].iter().flat_map(|n| n.to_be_bytes()).collect();
        for peer in peers {
            match peer.ip() {
                IpAddr::V4(ip) => rest.extend(ip.octets()),
                IpAddr::V6(ip) => rest.extend(ip.octets()),
            }
            rest.extend(peer.port().to_be_bytes());
        }
        self.reply(ANNOUNCE, &rest)
    }
}

/// The beginning of every reply, and the rest.
pub(crate) fn head(action: u32, transaction: u32, rest: &[u8]) -> Vec<u8> {
    [&action.to_be_bytes()[..], &transaction.to_be_bytes(), rest].concat()
}

/// What to send.
pub(crate) enum Send {
    /// From where the request came to.
    Own(Vec<u8>),
    /// From another port of the same address.
    Stranger(Vec<u8>),
}

pub(crate) struct UdpTracker {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    news: Condvar,
    stop: AtomicBool,
}

impl UdpTracker {
    /// A tracker at `at`, port 0 for a free one. `act` is called with each datagram and how many came before it.
    pub(crate) fn start(at: SocketAddr, act: impl Fn(&Seen, usize) -> Vec<Send> + std::marker::Send + 'static) -> Self {
        let socket = UdpSocket::bind(at).expect("a port");
        let addr = socket.local_addr().expect("an address");
        let stranger = UdpSocket::bind(SocketAddr::new(addr.ip(), 0)).expect("another port");
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if inner.stop.load(Ordering::SeqCst) {
                    break;
                }
                let seen = Seen { from, at: Instant::now(), bytes: buffer[..length].to_vec() };
                let before = {
                    let mut all = inner.seen.lock().expect("not poisoned");
                    all.push(seen.clone());
                    inner.news.notify_all();
                    all.len() - 1
                };
                for send in act(&seen, before) {
                    // A client that is gone is what some tests are about.
                    let _ = match send {
                        Send::Own(bytes) => socket.send_to(&bytes, from),
                        Send::Stranger(bytes) => stranger.send_to(&bytes, from),
                    };
                }
            }
        });
        Self { addr, shared, thread: Some(thread) }
    }

    /// One that answers every request as it should, with these peers.
    pub(crate) fn good(at: SocketAddr, peers: Vec<SocketAddr>) -> Self {
        Self::start(at, move |seen, _| good(seen, &peers))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("udp://{}{path}", self.addr)
    }

    /// The datagrams so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("not poisoned").clone()
    }

    /// The datagrams, once there are `n` of them; blocks for 15 s at the most.
    pub(crate) fn wait_for(&self, n: usize) -> Vec<Seen> {
        let until = Instant::now() + Duration::from_secs(15);
        let mut seen = self.shared.seen.lock().expect("not poisoned");
        while seen.len() < n {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {n} datagrams came: {seen:?}", seen.len());
            seen = self.shared.news.wait_timeout(seen, left).expect("not poisoned").0;
        }
        seen.clone()
    }
}

impl Drop for UdpTracker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the receive.
        let woken = UdpSocket::bind(SocketAddr::new(self.addr.ip(), 0)).and_then(|s| s.send_to(&[], self.addr));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// What a good tracker sends; nothing for an announce without the connection id that it gave.
pub(crate) fn good(seen: &Seen, peers: &[SocketAddr]) -> Vec<Send> {
    match seen.action() {
        CONNECT => vec![Send::Own(seen.connected(ID))],
        _ if seen.connection() != ID => Vec::new(),
        ANNOUNCE => vec![Send::Own(seen.peers(peers))],
        SCRAPE => {
            let figures: Vec<u8> = [4_u32, 50, 3].iter().flat_map(|n| n.to_be_bytes()).collect();
            vec![Send::Own(seen.reply(SCRAPE, &figures.repeat((seen.bytes.len() - 16) / 20)))]
        }
        action => panic!("action {action}"),
    }
}
