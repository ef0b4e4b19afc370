//! How many queries of one address the DHT node answers (hardening D1): a reply is larger than the query, so an address
//! that asks too much may be a victim whose name somebody else uses.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainline::{RequestFilter, RequestSpecific};

/// Queries of one address in [`WINDOW`], and how long it is ignored after more; libtorrent's figures.
const MOST: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
const BLOCK: Duration = Duration::from_secs(300);
/// Addresses that are counted at one time: 10,000 of 40 bytes. With more they begin anew, those that are
/// ignored last.
const MAX_ADDRESSES: usize = 10_000;

#[derive(Clone, Copy, Debug)]
struct Asked {
    since: Instant,
    count: u32,
    blocked: bool,
}

/// The counts.
#[derive(Debug, Default)]
struct Limiter(BTreeMap<Ipv4Addr, Asked>);

impl Limiter {
    /// True if a query of this address is answered.
    fn allows(&mut self, now: Instant, from: Ipv4Addr) -> bool {
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&from) {
            // So much goes at once that it is rarely looked for: a flood of addresses must not cost a search each.
            self.0.retain(|_, asked| !asked.is_over(now) && asked.blocked);
            if self.0.len() > MAX_ADDRESSES / 2 {
                self.0.clear();
            }
        }
        let new = Asked { since: now, count: 0, blocked: false };
        let asked = self.0.entry(from).or_insert(new);
        if asked.is_over(now) {
            *asked = new;
        }
        if asked.blocked {
            return false;
        }
        asked.count += 1;
        if asked.count > MOST {
            *asked = Asked { since: now, count: 0, blocked: true };
        }
        !asked.blocked
    }
}

impl Asked {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= if self.blocked { BLOCK } else { WINDOW }
    }
}

/// The filter of the node.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard(Arc<Mutex<Limiter>>);

impl RequestFilter for Guard {
    fn allow_request(&self, _request: &RequestSpecific, from: SocketAddrV4) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).allows(Instant::now(), *from.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifty_in_ten_seconds_and_then_five_minutes_of_silence() {
        let (base, mut limiter) = (Instant::now(), Limiter::default());
        let (loud, quiet) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
        let answered = (0..5_000).filter(|n| limiter.allows(base + Duration::from_micros(200 * n), loud)).count();
        assert_eq!(answered, 50);
        assert!(limiter.allows(base + Duration::from_secs(1), quiet));
        assert!(!limiter.allows(base + Duration::from_secs(299), loud));
        assert!(limiter.allows(base + Duration::from_secs(301), loud));
        let steady = (0..1_000).filter(|n| limiter.allows(base + Duration::from_millis(250 * n), quiet)).count();
        assert_eq!(steady, 1_000, "four a second are never too many");
    }

    #[test]
    fn any_number_of_addresses_takes_little() {
        let (base, mut limiter) = (Instant::now(), Limiter::default());
        for n in 0..30_000 {
            assert!(limiter.allows(base, Ipv4Addr::from_bits(0x0100_0000 + n)));
        }
        assert!(limiter.0.len() <= MAX_ADDRESSES);
    }
}
