//! A node's way to the network: what it can send and receive in a second, and how far away it is.

use std::time::{Duration, Instant};

/// A node's access link. The network between links is not a bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Bytes per second that it sends; `u64::MAX` is unlimited.
    pub up: u64,
    /// Bytes per second that it receives; `u64::MAX` is unlimited.
    pub down: u64,
    /// One way from the node to the middle of the network: half of the one-way latency between two like it.
    pub latency: Duration,
}

impl Link {
    /// No limit but 1 ms of latency.
    pub const LAN: Self = Self { up: u64::MAX, down: u64::MAX, latency: Duration::from_micros(500) };
}

/// One direction of a link: bytes go through one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pipe {
    rate: u64,
    free: Instant,
}

impl Pipe {
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self { rate: rate.max(1), free: now }
    }

    /// Puts bytes into it; returns when the last of them is through.
    pub(super) fn push(&mut self, now: Instant, bytes: usize) -> Instant {
        if self.rate < u64::MAX {
            let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.rate);
            self.free = self.free.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        } else {
            self.free = now;
        }
        self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_carries_its_rate_and_saves_nothing_up() {
        let base = Instant::now();
        let mut pipe = Pipe::new(1_000, base);
        assert_eq!(pipe.push(base, 500), base + Duration::from_millis(500));
        assert_eq!(pipe.push(base, 500), base + Duration::from_secs(1));
        let later = base + Duration::from_secs(100);
        assert_eq!(pipe.push(later, 1_000), later + Duration::from_secs(1));
        assert_eq!(Pipe::new(u64::MAX, base).push(later, 1 << 30), later);
    }
}
