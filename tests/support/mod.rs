//! What the tests share. Everything that is started here is stopped here: by `Drop`, by the kernel when the test is
//! killed (a parent-death signal), or by a watchdog when it takes too long, so that a hung mount fails a test and does
//! not hang it.
#![allow(dead_code, reason = "every test program uses its own part of this")]

pub(crate) mod announcing;
pub(crate) mod capture;
pub(crate) mod dataset;
pub(crate) mod delay;
pub(crate) mod dns;
pub(crate) mod faulty;
pub(crate) mod foreign;
pub(crate) mod gets;
pub(crate) mod hostile;
pub(crate) mod lab;
pub(crate) mod link;
pub(crate) mod mounts;
pub(crate) mod nat;
pub(crate) mod nginx;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod reading;
pub(crate) mod sink;
pub(crate) mod smooth;
pub(crate) mod socks;
pub(crate) mod torrent;
pub(crate) mod tracker;
pub(crate) mod udp_tracker;
pub(crate) mod usage;
pub(crate) mod user;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;

/// Polls `condition` until it holds; fails the test, naming `what`, when it does not within `limit`.
#[track_caller]
pub(crate) fn wait_until(limit: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "not within {limit:?}: {what}");
}

/// Polls `condition` until it holds (true) or `limit` is over (false).
pub(crate) fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The value that this share of them (0 to 1) is below; NaN of none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the values")]
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// The one in the middle, the higher of two; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A loopback address that no other test process uses: tests run side by side, and each peer has an address of its own.
pub(crate) fn loopback() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < 2 * 250, "too many addresses for one test process");
    let (half, last) = (number / 250, number % 250 + 2);
    let host = (std::process::id() & 0x3fff) << 9 | half << 8 | last;
    Ipv4Addr::from_bits(0x7f80_0000 | host).into()
}

/// An address of its own and a port that is free on it.
pub(crate) fn free_address() -> SocketAddr {
    free_port(loopback())
}

/// A port that is free on `address`.
pub(crate) fn free_port(address: IpAddr) -> SocketAddr {
    TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// xorshift64*: the tests' bytes are the same on every machine.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
