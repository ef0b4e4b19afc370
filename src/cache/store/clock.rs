//! When pieces were used last, in four bytes each: a torrent may have two million.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Hundredths of a second around the start of the process, which is [`START`]; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(pub(super) u32);

/// 248 days before it and as many after it can be told apart.
const START: u32 = 1 << 31;
const PER_SECOND: u64 = 100;

/// Tells the time in ticks, and ticks in seconds since 1970.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// The same moment, seconds since 1970.
    start_seconds: u64,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), start_seconds: since_1970(SystemTime::now()) }
    }

    pub(super) fn now(&self) -> Tick {
        let ticks = self.start.elapsed().as_millis() / u128::from(1000 / PER_SECOND);
        Tick(START.saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX)))
    }

    pub(super) fn at(&self, time: SystemTime) -> Tick {
        self.at_seconds(u32::try_from(since_1970(time)).unwrap_or(u32::MAX))
    }

    /// The tick of a second; what lies in the future counts as now.
    pub(super) fn at_seconds(&self, seconds: u32) -> Tick {
        let before = self.start_seconds.saturating_sub(seconds.into()).saturating_mul(PER_SECOND);
        Tick(START.saturating_sub(u32::try_from(before).unwrap_or(u32::MAX)).max(1))
    }

    /// Seconds since 1970, never 0.
    pub(super) fn seconds(&self, tick: Tick) -> u32 {
        let seconds = if tick.0 >= START {
            self.start_seconds.saturating_add(u64::from(tick.0 - START) / PER_SECOND)
        } else {
            self.start_seconds.saturating_sub(u64::from(START - tick.0) / PER_SECOND)
        };
        u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
    }
}

fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_survive_a_restart() {
        let clock = Clock { start: Instant::now(), start_seconds: 1_800_000_000 };
        for seconds in [1_800_000_000, 1_799_999_999, 1_790_000_000] {
            assert_eq!(clock.seconds(clock.at_seconds(seconds)), seconds);
        }
        assert!(clock.at_seconds(1_790_000_000) < clock.at_seconds(1_790_000_001));
        assert_eq!(clock.at_seconds(1_900_000_000), Tick(START), "the future is now");
        assert_eq!(clock.at_seconds(1), Tick(1), "older than can be told");
        assert!(clock.now() >= Tick(START) && clock.seconds(clock.now()) >= 1_800_000_000);
    }
}
