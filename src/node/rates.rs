//! A rate limit as a token bucket that is smooth: what it lets through at once is what 100 ms of its rate are worth, or
//! one block if that is more, because a block is sent whole.

use std::time::{Duration, Instant};

use crate::metainfo::BLOCK_LENGTH;

/// A `piece` message with a whole block: the least that is ever waited for, since it cannot be sent by halves.
const QUANTUM: u64 = BLOCK_LENGTH as u64 + 13;
/// How many quanta of time a second's rate is cut into: a burst is a tenth of a second.
const BURSTS_PER_SECOND: u64 = 10;
const NANOS: i128 = 1_000_000_000;

/// The answer of a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that may be sent now. They are spent: give back what was not sent.
    pub granted: usize,
    /// When to ask again, if nothing was granted. None with a grant, and with a limit of 0, which never has room.
    pub retry: Option<Instant>,
}

/// A token bucket over a virtual clock.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Bytes per second; none is unlimited.
    rate: Option<u64>,
    /// Tokens in bytes times nanoseconds, so that no fraction is lost however often it is asked. Negative after
    /// [`Bucket::overdraw`].
    tokens: i128,
    updated: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, tokens: 0, updated: None }
    }

    /// Asks for `want` bytes. Grants all or a part of it, but never less than the smaller of `want` and one block.
    pub(super) fn take(&mut self, now: Instant, want: usize) -> Room {
        let Some(rate) = self.rate else { return Room { granted: want, retry: None } };
        self.refill(now, rate);
        let want = u64::try_from(want).unwrap_or(u64::MAX);
        let needed = i128::from(want.min(QUANTUM)) * NANOS;
        if self.tokens >= needed {
            let granted = (self.tokens / NANOS).min(i128::from(want));
            self.tokens -= granted * NANOS;
            return Room { granted: usize::try_from(granted).unwrap_or(usize::MAX), retry: None };
        }
        let retry = (rate > 0).then(|| {
            let nanos = (needed - self.tokens + i128::from(rate) - 1) / i128::from(rate);
            // A day is as good as longer: the asker comes back and is told again.
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).min(86_400_000_000_000);
            now + Duration::from_nanos(nanos)
        });
        Room { granted: 0, retry }
    }

    /// Bytes of a grant that were not sent.
    pub(super) fn put_back(&mut self, bytes: usize) {
        if let Some(rate) = self.rate {
            let bytes = i128::try_from(bytes).unwrap_or(0);
            self.tokens = (self.tokens + bytes * NANOS).min(i128::from(burst(rate)) * NANOS);
        }
    }

    /// Bytes that were sent beyond a grant: later grants wait for them.
    pub(super) fn overdraw(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.tokens -= i128::try_from(bytes).unwrap_or(0) * NANOS;
        }
    }

    fn refill(&mut self, now: Instant, rate: u64) {
        let full = i128::from(burst(rate)) * NANOS;
        match self.updated {
            // An idle bucket is full.
            None => self.tokens = self.tokens.saturating_add(full).min(full),
            Some(updated) => {
                let elapsed = i128::try_from(now.saturating_duration_since(updated).as_nanos()).unwrap_or(i128::MAX);
                let earned = elapsed.saturating_mul(i128::from(rate));
                self.tokens = self.tokens.saturating_add(earned).min(full);
            }
        }
        self.updated = Some(self.updated.map_or(now, |updated| updated.max(now)));
    }
}

fn burst(rate: u64) -> u64 {
    (rate / BURSTS_PER_SECOND).max(QUANTUM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as fast as the bucket lets it; returns when each grant came and how much it was.
    fn drain(bucket: &mut Bucket, base: Instant, seconds: u64, want: usize) -> Vec<(Duration, u64)> {
        let (mut now, end, mut out) = (base, base + Duration::from_secs(seconds), Vec::new());
        while now < end {
            let room = bucket.take(now, want);
            if room.granted > 0 {
                out.push((now - base, room.granted as u64));
            } else {
                let retry = room.retry.unwrap();
                assert!(retry > now, "a retry in the past would spin");
                now = retry;
            }
        }
        out
    }

    #[test]
    fn unlimited_grants_everything() {
        let mut bucket = Bucket::new(None);
        assert_eq!(bucket.take(Instant::now(), usize::MAX), Room { granted: usize::MAX, retry: None });
    }

    #[test]
    fn the_rate_holds_within_two_percent_over_ten_seconds() {
        for rate in [1_000, 64 << 10, 1 << 20, 100 << 20] {
            let base = Instant::now();
            let sent: u64 = drain(&mut Bucket::new(Some(rate)), base, 10, 64 << 10).iter().map(|g| g.1).sum();
            let allowed = rate * 10 + burst(rate);
            assert!(sent <= allowed, "{sent} of {allowed} at {rate}");
            assert!(sent + QUANTUM >= rate * 10 * 98 / 100, "{sent} of {allowed} at {rate}");
        }
    }

    #[test]
    fn no_tenth_of_a_second_carries_more_than_two_bursts() {
        let rate = 8 << 20;
        let grants = drain(&mut Bucket::new(Some(rate)), Instant::now(), 3, 1 << 20);
        for (i, (start, _)) in grants.iter().enumerate() {
            let window = grants[i..].iter().take_while(|g| g.0 < *start + Duration::from_millis(100));
            let sum: u64 = window.map(|g| g.1).sum();
            assert!(sum <= 2 * burst(rate), "{sum} bytes in the 100 ms after {start:?}");
        }
    }

    #[test]
    fn an_idle_hour_saves_up_one_burst_only() {
        let (base, rate) = (Instant::now(), 1 << 20);
        let mut bucket = Bucket::new(Some(rate));
        bucket.take(base, 1);
        let room = bucket.take(base + Duration::from_secs(3600), usize::MAX);
        assert_eq!(room.granted as u64, burst(rate));
    }

    #[test]
    fn a_block_is_granted_whole_or_not_at_all() {
        let base = Instant::now();
        let mut bucket = Bucket::new(Some(20_000));
        let block = usize::try_from(QUANTUM).unwrap();
        assert_eq!(bucket.take(base, 5 * block).granted, block);
        let room = bucket.take(base, 5 * block);
        assert_eq!(room.granted, 0);
        let at = room.retry.unwrap();
        assert_eq!(bucket.take(at - Duration::from_micros(1), block).granted, 0);
        assert_eq!(bucket.take(at, block).granted, block);
    }

    #[test]
    fn what_is_given_back_can_be_taken_and_what_is_overdrawn_is_waited_for() {
        let base = Instant::now();
        let mut bucket = Bucket::new(Some(1 << 20));
        let all = bucket.take(base, usize::MAX).granted;
        bucket.put_back(20_000);
        assert_eq!(bucket.take(base, usize::MAX).granted, 20_000);
        bucket.overdraw(1 << 20);
        let retry = bucket.take(base, all).retry.unwrap();
        assert!(retry >= base + Duration::from_secs(1), "{:?}", retry - base);
    }

    #[test]
    fn a_limit_of_nothing_never_has_room() {
        let mut bucket = Bucket::new(Some(0));
        let base = Instant::now();
        bucket.take(base, usize::MAX);
        assert_eq!(bucket.take(base + Duration::from_secs(60), 100), Room { granted: 0, retry: None });
    }
}
