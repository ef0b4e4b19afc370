//! What every call took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One call, or one lock.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// `calls` or `locks`.
    of: &'static str,
    what: &'static str,
    phase: &'static str,
    nanos: u64,
}

/// The calls of a run, in order.
#[derive(Debug, Default)]
pub(crate) struct Record {
    samples: Vec<Sample>,
    /// What the world is at.
    pub(crate) phase: &'static str,
}

impl Record {
    /// Runs and times a call into the swarm.
    pub(crate) fn call<R>(&mut self, what: &'static str, call: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = call();
        self.add("calls", what, start.elapsed());
        result
    }

    /// A lock was held for this long.
    pub(crate) fn lock(&mut self, what: &'static str, time: Duration) {
        self.add("locks", what, time);
    }

    fn add(&mut self, of: &'static str, what: &'static str, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.samples.push(Sample { of, what, phase: self.phase, nanos });
    }

    /// The shorter time of each call in two runs, which must have made the same ones.
    pub(crate) fn shortest(mut self, other: &Self) -> Self {
        assert_eq!(self.samples.len(), other.samples.len(), "the runs differ");
        for (sample, other) in self.samples.iter_mut().zip(&other.samples) {
            assert_eq!((sample.of, sample.what), (other.of, other.what), "the runs differ");
            sample.nanos = sample.nanos.min(other.nanos);
        }
        self
    }

    /// Prints the calls or the locks by what they were, those with the longest one first; `all`, or those over the goal
    /// and the next four.
    pub(crate) fn report(&self, of: &str, goal: Duration, all: bool) {
        let mut kinds: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        let mut over_all = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.of == of) {
            kinds.entry((sample.what, sample.phase)).or_default().push(sample.nanos);
            over_all.push(sample.nanos);
        }
        let goal = u64::try_from(goal.as_nanos()).unwrap_or(u64::MAX);
        let mut rows: Vec<_> = kinds.into_iter().collect();
        rows.iter_mut().for_each(|(_, nanos)| nanos.sort_unstable());
        rows.sort_by_key(|(_, nanos)| std::cmp::Reverse(nanos.last().copied()));
        let missed = rows.iter().filter(|(_, nanos)| nanos.last().is_some_and(|&most| most > goal)).count();
        println!("  {of:<36} {:>8} {:>9} {:>9} {:>9} {:>6}", "count", "p50 us", "p99.9 us", "max us", "over");
        let shown = if all { rows.len() } else { missed + 4 };
        for ((what, phase), nanos) in rows.iter().take(shown) {
            line(&format!("{what}, {phase}"), nanos, goal);
        }
        over_all.sort_unstable();
        line("all", &over_all, goal);
    }
}

fn line(name: &str, sorted: &[u64], goal: u64) {
    let last = sorted.len().saturating_sub(1);
    let at = |thousandths: usize| sorted.get((sorted.len() * thousandths / 1000).min(last)).copied().unwrap_or(0);
    let over = sorted.len() - sorted.partition_point(|&nanos| nanos <= goal);
    let micros = |nanos: u64| nanos as f64 / 1000.0;
    let (half, high, most) = (micros(at(500)), micros(at(999)), micros(at(1000)));
    println!("    {name:<34} {:>8} {half:>9.2} {high:>9.1} {most:>9.1} {over:>6}", sorted.len());
}
