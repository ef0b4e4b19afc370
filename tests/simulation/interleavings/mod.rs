//! The cache against reads in every order that threads can bring about.
//!
//! The engine's threads are played as little programs whose steps are what the engine does under one lock: a look into
//! the cache, a pin, an eviction, a turn inside the swarm. A schedule says which thread takes the next step. The default
//! is round-robin without preemption; every schedule that deviates from it a bounded number of times is run (delay
//! bounding: each deviation passes over one thread that could have gone on), and then random ones.
//!
//! Whatever the schedule: each read is answered once, with all of its pieces at hand at that moment, in no virtual time
//! at all since everything is served at once, and no piece is fetched again and again.

mod play;

use std::collections::BTreeSet;
use std::ops::Range;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{more, over_seeds};
use play::{Outcome, Play};

/// A small world to explore.
#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    /// Blocks of a piece.
    blocks: u64,
    /// Pieces that the cache holds, but for those that a read holds.
    cache: usize,
    /// Each reader's reads, as first piece and one past the last.
    readers: Vec<Vec<Range<u64>>>,
    peers: u64,
    /// Evictions that come from elsewhere: another torrent needs the room.
    evictions: u32,
    /// Readers that are killed while they wait.
    kills: u32,
    /// The n-th look at a piece that is there finds it gone, as a disk may do it.
    lost: Option<u32>,
}

impl Case {
    /// Plays one schedule; says which one, should it fail.
    fn play(&self, schedule: &dyn Fn() -> String, choose: &mut dyn FnMut(usize) -> usize) -> Outcome {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Play::new(self).run(choose)));
        let outcome = outcome.unwrap_or_else(|failure| {
            eprintln!("{}: this schedule fails: {}", self.name, schedule());
            std::panic::resume_unwind(failure);
        });
        // Every fetch is for a piece that was never there, or that was gone; a killed read's may have come to nothing.
        let pieces: BTreeSet<u64> = self.readers.iter().flatten().cloned().flatten().collect();
        let most = u32::try_from(pieces.len()).unwrap() + outcome.gone;
        if outcome.fetched > most {
            panic!("{}: {outcome:?} fetched more than the {most} that were missing: {}", self.name, schedule());
        }
        outcome
    }

    /// Every schedule with at most so many delays. How many, and the worst figures.
    fn explore(&self, delays: usize) -> (usize, Outcome) {
        let (mut left, mut runs, mut worst) = (vec![Vec::new()], 0, Outcome::default());
        while let Some(prefix) = left.pop() {
            let mut able = Vec::new();
            let outcome = self.play(&|| format!("choices {prefix:?}, then 0"), &mut |count| {
                able.push(count);
                prefix.get(able.len() - 1).copied().unwrap_or(0)
            });
            runs += 1;
            worst.steps = worst.steps.max(outcome.steps);
            worst.fetched = worst.fetched.max(outcome.fetched);
            worst.gone = worst.gone.max(outcome.gone);
            worst.waited = worst.waited.max(outcome.waited);
            let spent: usize = prefix.iter().sum();
            for (at, &count) in able.iter().enumerate().skip(prefix.len()) {
                for choice in 1..count.min(delays - spent + 1) {
                    let mut longer = prefix.clone();
                    longer.resize(at, 0);
                    longer.push(choice);
                    left.push(longer);
                }
            }
        }
        (runs, worst)
    }

    fn random(&self, count: u64) {
        over_seeds(count, |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            // Some schedules change threads at every step, some now and then.
            let changes = [1.0, 0.5, 0.2][usize::try_from(seed % 3).unwrap()];
            self.play(&|| format!("SWARMFS_SEED={seed}"), &mut |count| {
                if rng.random_bool(changes) { rng.random_range(0..count) } else { 0 }
            });
        });
    }
}

/// The worlds. Reads are in pieces.
fn cases() -> Vec<Case> {
    let base =
        Case { name: "", blocks: 1, cache: 1, readers: Vec::new(), peers: 1, evictions: 0, kills: 0, lost: None };
    vec![
        Case { name: "two readers, one place", readers: vec![vec![0..1, 1..2], vec![0..1, 1..2]], ..base.clone() },
        Case { name: "two readers, two places", readers: vec![vec![0..1, 1..2], vec![1..2, 0..1]], ..base.clone() },
        Case {
            name: "reads of two pieces, room for one",
            readers: vec![vec![0..2], vec![1..3]],
            peers: 2,
            ..base.clone()
        },
        Case {
            name: "evictions from elsewhere",
            readers: vec![vec![0..2, 0..2], vec![1..2, 0..1]],
            cache: 3,
            evictions: 2,
            ..base.clone()
        },
        Case {
            name: "a killed reader",
            readers: vec![vec![0..1, 1..2], vec![0..2, 0..1]],
            cache: 2,
            kills: 1,
            ..base.clone()
        },
        Case {
            name: "three readers, two peers",
            readers: vec![vec![0..2], vec![1..3], vec![2..3, 0..1]],
            cache: 2,
            peers: 2,
            evictions: 1,
            kills: 1,
            ..base.clone()
        },
        Case {
            name: "pieces of two blocks",
            readers: vec![vec![0..1, 1..2], vec![1..2, 0..1]],
            blocks: 2,
            peers: 2,
            evictions: 1,
            kills: 1,
            ..base.clone()
        },
        Case {
            name: "a piece that is lost",
            readers: vec![vec![0..2, 0..2], vec![0..2]],
            cache: 2,
            lost: Some(2),
            ..base
        },
    ]
}

#[test]
fn no_schedule_of_a_few_delays_breaks_a_read() {
    // SWARMFS_SEEDS adds a delay: some hundred times as many schedules.
    let delays = if more() > 1 { 3 } else { 2 };
    for case in cases() {
        let (runs, worst) = case.explore(delays);
        println!("{}: {runs} schedules of {delays} delays, at the worst {worst:?}", case.name);
        assert!(runs > 100, "{}: only {runs} schedules", case.name);
    }
}

#[test]
fn no_random_schedule_breaks_a_read() {
    for case in cases() {
        case.random(400);
    }
}
