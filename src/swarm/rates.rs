//! Measured speed and answer times, in whole numbers so that every run replays.

use std::time::{Duration, Instant};

use crate::metainfo::BLOCK_LENGTH;

/// Time that one sample of a rate covers.
const SAMPLE: Duration = Duration::from_millis(100);
/// The first one may be shorter, if so many bytes came.
const FIRST: Duration = Duration::from_millis(20);
const FIRST_BYTES: u64 = 4 * BLOCK_LENGTH as u64;

/// Bytes per second over the time in which something was awaited.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    rate: Option<u64>,
    last: u64,
    bytes: u64,
    busy: Duration,
    since: Option<Instant>,
    limited: bool,
    guessed: bool,
}

impl Rate {
    /// The clock runs from here (if it did not).
    pub(super) fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Nothing is awaited: time does not count until [`Rate::start`].
    pub(super) fn pause(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.busy += now.saturating_duration_since(since);
        }
    }

    /// All that may be asked for is asked for: this sample may lower the rate, which one with idle capacity may not.
    pub(super) fn limit(&mut self) {
        self.limited = true;
    }

    /// Bytes came. Returns, at the end of a sample, whether the rate still grows.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) -> Option<bool> {
        self.bytes += bytes;
        if let Some(since) = &mut self.since {
            self.busy += now.saturating_duration_since(*since);
            *since = now;
        }
        let early = self.rate.is_none() && self.busy >= FIRST && self.bytes >= FIRST_BYTES;
        if self.busy < SAMPLE && !early {
            return None;
        }
        let micros = u64::try_from(self.busy.as_micros()).unwrap_or(u64::MAX).max(1);
        let sample = self.bytes.saturating_mul(1_000_000) / micros;
        let grows = !self.limited || sample > self.last + self.last / 10;
        self.rate = Some(match self.rate {
            None => sample,
            Some(_) if self.guessed => sample,
            Some(rate) if sample < rate && !self.limited => rate,
            Some(rate) => rate / 2 + sample / 2,
        });
        *self = Self { rate: self.rate, last: sample, since: self.since, ..Self::default() };
        Some(grows)
    }

    /// Not even so many bytes came in this time: half of what was measured, or a guess until something is.
    pub(super) fn disappoint(&mut self, bytes: u64, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        self.guessed |= self.rate.is_none();
        self.rate = Some(self.rate.map_or_else(|| bytes.saturating_mul(1_000_000) / micros, |rate| rate / 2));
    }

    /// Bytes per second; none before the first sample.
    pub(super) fn get(&self) -> Option<u64> {
        self.rate
    }
}

/// Answer times: mean and mean deviation, smoothed as TCP does (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    mean_and_deviation: Option<(Duration, Duration)>,
}

impl Answers {
    /// A block came this long after it was asked for. A late one counts as if it had just been late: a single one would
    /// else hide the next ones for long, and of many each raises the patience by half.
    pub(super) fn add(&mut self, took: Duration) {
        let took = self.patience().map_or(took, |patience| took.min(patience));
        self.mean_and_deviation = Some(match self.mean_and_deviation {
            None => (took, took / 2),
            Some((mean, deviation)) => ((mean * 7 + took) / 8, (deviation * 3 + mean.abs_diff(took)) / 4),
        });
    }

    /// A block that is not there after this time is late.
    pub(super) fn patience(&self) -> Option<Duration> {
        let (mean, deviation) = self.mean_and_deviation?;
        Some((mean + deviation * 4).clamp(Duration::from_millis(100), Duration::from_secs(10)))
    }
}

/// The round trip of a request that waits behind no other: the least that was seen, and what came since by an eighth.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trip(Option<Duration>);

impl Trip {
    /// Such a request was answered after this time.
    pub(super) fn add(&mut self, took: Duration) {
        self.0 = Some(self.0.map_or(took, |trip| took.min(trip + took.saturating_sub(trip) / 8)));
    }

    /// Nothing, before one was answered.
    pub(super) fn get(self) -> Duration {
        self.0.unwrap_or_default()
    }
}

/// How many requests may be out at one peer: slow start, then what it sends in 0.75 s.
///
/// Whatever is asked of a peer waits behind this queue, a hedge for a block that is late elsewhere too: with two seconds
/// of queue a read beside silent peers took up to 5.6 s, 1 s to notice and the rest behind read-ahead. 0.75 s is still
/// more than any round trip, and than the 0.5 s between two bursts of a rate-limited libtorrent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pipeline {
    size: u32,
    slow_start: bool,
}

impl Pipeline {
    /// The first requests to a peer: a piece of 64 KiB at once, and little lost if it never answers.
    pub(super) const START: u32 = 6;
    /// The most that we have out at any peer: 8 MB, libtorrent's number; never more than the peer says that it takes.
    pub(super) const MAX: u32 = 500;

    /// As at the start.
    pub(super) fn new() -> Self {
        Self { size: Self::START, slow_start: true }
    }

    /// A block came; `grows` is what [`Rate::add`] said.
    pub(super) fn block(&mut self, rate: &Rate, grows: Option<bool>) {
        if grows == Some(false) {
            self.slow_start = false;
        }
        if self.slow_start {
            self.size = (self.size + 1).min(Self::MAX);
        } else if let (Some(_), Some(rate)) = (grows, rate.get()) {
            let blocks = rate.saturating_mul(3) / 4 / u64::from(BLOCK_LENGTH);
            self.size = u32::try_from(blocks).unwrap_or(Self::MAX).clamp(2, Self::MAX);
        }
    }

    /// Requests that may be out.
    pub(super) fn size(&self) -> u32 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_LENGTH as u64;

    #[test]
    fn a_guess_is_replaced_by_the_first_measurement() {
        let (mut now, mut rate) = (Instant::now(), Rate::default());
        rate.disappoint(BLOCK, Duration::from_millis(100));
        assert_eq!(rate.get(), Some(163_840));
        rate.start(now);
        now += Duration::from_secs(1);
        rate.add(now, BLOCK);
        assert_eq!(rate.get(), Some(BLOCK));
        rate.disappoint(BLOCK, Duration::from_millis(100));
        assert_eq!(rate.get(), Some(BLOCK / 2));
    }

    #[test]
    fn a_fast_peer_gets_the_full_pipeline_within_ten_megabytes() {
        let (mut now, mut rate, mut pipeline) = (Instant::now(), Rate::default(), Pipeline::new());
        rate.start(now);
        for _ in 0..600 {
            now += Duration::from_micros(50);
            rate.limit();
            let grows = rate.add(now, BLOCK);
            pipeline.block(&rate, grows);
        }
        assert_eq!(pipeline.size(), Pipeline::MAX);
        for _ in 0..20_000 {
            now += Duration::from_micros(50);
            rate.limit();
            let grows = rate.add(now, BLOCK);
            pipeline.block(&rate, grows);
        }
        assert_eq!(pipeline.size(), Pipeline::MAX);
        assert!(rate.get().is_some_and(|r| (300_000_000..340_000_000).contains(&r)), "{rate:?}");
    }

    #[test]
    fn a_slow_peer_gets_three_quarters_of_a_second_of_its_rate() {
        let (mut now, mut rate, mut pipeline) = (Instant::now(), Rate::default(), Pipeline::new());
        rate.start(now);
        for _ in 0..100 {
            now += Duration::from_millis(100);
            rate.limit();
            let grows = rate.add(now, BLOCK);
            pipeline.block(&rate, grows);
        }
        assert_eq!(pipeline.size(), 7, "163,840 B/s for 0.75 s");
    }

    #[test]
    fn idle_time_and_idle_capacity_do_not_lower_a_rate() {
        let (mut now, mut rate) = (Instant::now(), Rate::default());
        rate.start(now);
        now += Duration::from_millis(100);
        rate.limit();
        rate.add(now, 1_000_000);
        assert_eq!(rate.get(), Some(10_000_000));
        rate.pause(now);
        now += Duration::from_secs(100);
        rate.start(now);
        now += Duration::from_millis(100);
        rate.add(now, BLOCK);
        assert_eq!(rate.get(), Some(10_000_000), "one block was all that was asked for");
        now += Duration::from_millis(100);
        rate.limit();
        rate.add(now, BLOCK);
        assert_eq!(rate.get(), Some(5_081_920));
    }

    #[test]
    fn patience_is_mean_and_four_deviations_with_a_floor() {
        let mut answers = Answers::default();
        assert_eq!(answers.patience(), None);
        answers.add(Duration::from_millis(200));
        assert_eq!(answers.patience(), Some(Duration::from_millis(600)));
        for _ in 0..100 {
            answers.add(Duration::from_millis(10));
        }
        assert_eq!(answers.patience(), Some(Duration::from_millis(100)));
    }
}
