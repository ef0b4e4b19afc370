//! Which tracker is asked next, why and when (BEP 12): no socket, no clock, no task. Trackers form tiers; a round of
//! announces goes through them in order until one answers, and then rests for the interval it gave; while peers are
//! wanted, trackers of a public torrent that did not have their turn are asked all the same. A tracker that fails rests by itself, 10 s and doubling, or 60 s and doubling where UDP got no answer; one that is merely silent does
//! not hold up the next.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::wire::Event;

/// An announce without a stated interval is repeated after this: what most trackers ask for.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1800);
/// The shortest interval for a public tracker, whatever it says: libtorrent's.
const PUBLIC_FLOOR: Duration = Duration::from_secs(300);
/// The shortest interval for a tracker on this machine or network: labs want news soon.
const LOCAL_FLOOR: Duration = Duration::from_secs(5);
/// The longest interval: a tracker cannot send us away.
const CEILING: Duration = Duration::from_secs(3600);
/// The pause before an announce for more peers, for trackers that state none.
const DEFAULT_MIN_INTERVAL: Duration = Duration::from_secs(60);
/// The pause after a first failure; it doubles with every further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
/// The pause after a first failure of a UDP tracker that was silent for 15 s and for 30 s: the next of the waits of
/// BEP 15, 15 x 2^n seconds. It doubles as they do.
const SILENT_BACK_OFF: Duration = Duration::from_secs(60);
/// The longest pause after failures.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(600);
/// A tracker that has been silent this long does not hold up the next one.
const PATIENCE: Duration = Duration::from_secs(3);
/// Trackers of one torrent that are asked at once at the most: as many as begin while a UDP tracker is silent for its
/// 45 s, so that any number of dead ones do not hold up the one that lives.
const IN_FLIGHT: usize = 16;

/// A tracker, by its place in the tiers that [`Schedule::new`] was given, counted across them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TrackerIndex(pub(super) usize);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Announce, and report with [`Schedule::answered`] or [`Schedule::failed`].
    Announce(TrackerIndex, Event),
    /// Nothing before this time, or before news if there is none.
    Wait(Option<Instant>),
}

/// What a tracker that answered said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// `interval`, seconds, any number.
    pub(super) interval: Option<i64>,
    /// `min interval`, seconds, any number.
    pub(super) min_interval: Option<i64>,
    /// It is on this machine or network.
    pub(super) local: bool,
    /// The event that it was told.
    pub(super) event: Event,
    /// It was told that nothing is left.
    pub(super) complete: bool,
}

/// What a tracker knows of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
    /// That we are complete, by `completed` or from the start.
    Complete,
}

#[derive(Clone, Debug)]
struct Tracker {
    usable: bool,
    told: Told,
    failures: u32,
    /// When it failed last and for how long it rests.
    rest: Option<(Instant, Duration)>,
    asked: Option<Instant>,
    answered: Option<Instant>,
}

/// The schedule of one torrent's announces.
#[derive(Debug)]
pub(super) struct Schedule {
    trackers: Vec<Tracker>,
    tiers: Vec<Vec<TrackerIndex>>,
    rng: StdRng,
    /// Private torrents ask one tracker at a time (BEP 27).
    private: bool,
    /// When the next round begins.
    due: Instant,
    /// When it may begin if peers are wanted.
    soonest: Instant,
    wanted: bool,
    completed: bool,
}

/// Seconds from one announce to the next: what the tracker says, within bounds.
pub(super) fn interval(stated: Option<i64>, local: bool) -> Duration {
    let floor = if local { LOCAL_FLOOR } else { PUBLIC_FLOOR };
    stated.map_or(DEFAULT_INTERVAL, seconds).clamp(floor, CEILING)
}

/// Seconds before an announce for more peers: what the tracker says, never under 5 s, never over the regular interval.
pub(super) fn min_interval(stated: Option<i64>, regular: Duration) -> Duration {
    stated.map_or(DEFAULT_MIN_INTERVAL, seconds).clamp(LOCAL_FLOOR, regular)
}

fn seconds(stated: i64) -> Duration {
    Duration::from_secs(u64::try_from(stated).unwrap_or(0))
}

impl Schedule {
    /// A schedule whose first round begins now. `tiers` says of every tracker whether it can be used at all; trackers
    /// are numbered in that order, across tiers. `seed` decides the order within tiers and the jitter of back-offs.
    pub(super) fn new(tiers: &[Vec<bool>], private: bool, seed: u64, now: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut trackers = Vec::new();
        let mut order = Vec::new();
        for tier in tiers {
            let first = trackers.len();
            trackers.extend(tier.iter().map(|&usable| Tracker {
                usable,
                told: Told::Nothing,
                failures: 0,
                rest: None,
                asked: None,
                answered: None,
            }));
            let mut tier: Vec<TrackerIndex> = (first..trackers.len()).map(TrackerIndex).collect();
            tier.shuffle(&mut rng);
            order.push(tier);
        }
        Self { trackers, tiers: order, rng, private, due: now, soonest: now, wanted: false, completed: false }
    }

    /// The torrent turned out to be private.
    pub(super) fn set_private(&mut self) {
        self.private = true;
    }

    /// What is to be done now. After an announce it is asked again at once.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let (begins, other) = (self.begins(), self.other(now));
        if now < begins && other.is_none() {
            return Next::Wait(Some(begins));
        }
        let in_flight = self.trackers.iter().filter(|t| t.asked.is_some()).count();
        let newest = self.trackers.iter().filter_map(|t| t.asked).max();
        if let Some(newest) = newest {
            if self.private || in_flight >= IN_FLIGHT {
                return Next::Wait(None);
            }
            if now < newest + PATIENCE {
                return Next::Wait(Some(newest + PATIENCE));
            }
        }
        if let Some(index) = other.filter(|_| now < begins) {
            return self.announce(now, index);
        }
        let mut soonest = None;
        for &index in self.tiers.iter().flatten() {
            let tracker = &self.trackers[index.0];
            if !tracker.usable || tracker.asked.is_some() {
                continue;
            }
            let rested = self.rested(tracker);
            if rested.is_none_or(|at| at <= now) {
                return self.announce(now, index);
            }
            soonest = soonest.into_iter().chain(rested).min();
        }
        Next::Wait(soonest)
    }

    fn announce(&mut self, now: Instant, index: TrackerIndex) -> Next {
        let event = self.event(&self.trackers[index.0]);
        self.trackers[index.0].asked = Some(now);
        Next::Announce(index, event)
    }

    /// While peers are wanted, a tracker that has not answered for long or ever: it may know others than the one whose
    /// answer ended the round. Not of a private torrent, whose trackers are asked in turn.
    fn other(&self, now: Instant) -> Option<TrackerIndex> {
        if !self.wanted || self.private {
            return None;
        }
        let of_use = |tracker: &Tracker| {
            let lately = tracker.answered.is_some_and(|at| now < at + DEFAULT_INTERVAL);
            tracker.usable && tracker.asked.is_none() && !lately && self.rested(tracker).is_none_or(|at| at <= now)
        };
        self.tiers.iter().flatten().copied().find(|index| of_use(&self.trackers[index.0]))
    }

    /// A tracker answered: it moves to the front of its tier, and the round is over.
    pub(super) fn answered(&mut self, now: Instant, index: TrackerIndex, answer: Answered) {
        let tracker = &mut self.trackers[index.0];
        tracker.asked = None;
        tracker.answered = Some(now);
        tracker.failures = 0;
        tracker.rest = None;
        tracker.told = match (answer.event, tracker.told) {
            (Event::Completed, _) => Told::Complete,
            (Event::Started, _) if answer.complete => Told::Complete,
            (Event::Started, _) => Told::Started,
            (Event::None | Event::Paused | Event::Stopped, told) => told,
        };
        if let Some(tier) = self.tiers.iter_mut().find(|tier| tier.contains(&index)) {
            let at = tier.iter().position(|&t| t == index).unwrap_or(0);
            tier[..=at].rotate_right(1);
        }
        let regular = interval(answer.interval, answer.local);
        self.due = now + regular;
        self.soonest = now + min_interval(answer.min_interval, regular);
        self.wanted = false;
        if self.completed && self.trackers[index.0].told == Told::Started {
            // Complete while it was being told that we have started.
            self.due = now;
        }
    }

    /// A tracker did not answer: it rests, and the round goes on with the next one. `silent`: over UDP, where it had two
    /// attempts' time.
    pub(super) fn failed(&mut self, now: Instant, index: TrackerIndex, silent: bool) {
        let tracker = &mut self.trackers[index.0];
        tracker.asked = None;
        let first = if silent { SILENT_BACK_OFF } else { FIRST_BACK_OFF };
        let doubled = first.saturating_mul(1 << tracker.failures.min(6));
        tracker.failures = tracker.failures.saturating_add(1);
        // Up to a quarter more, so that torrents whose tracker went down together do not come back together.
        let rest = doubled.mul_f64(1.0 + 0.25 * self.rng.random::<f64>()).min(LONGEST_BACK_OFF);
        tracker.rest = Some((now, rest));
    }

    /// A read waits and no peer can serve it: the next announce comes as soon as the tracker allows.
    pub(super) fn want_peers(&mut self) {
        self.wanted = true;
    }

    /// The download is complete: trackers that know us as incomplete are told so, each once, the first one at once.
    pub(super) fn completed(&mut self, now: Instant) {
        if !self.completed {
            self.completed = true;
            if self.trackers.iter().any(|t| t.told == Told::Started) {
                self.due = now;
            }
        }
    }

    /// The trackers that were told that we have started, and so must be told that we stop.
    pub(super) fn started(&self) -> impl Iterator<Item = TrackerIndex> {
        self.trackers.iter().enumerate().filter(|(_, t)| t.told != Told::Nothing).map(|(n, _)| TrackerIndex(n))
    }

    /// When the tracker is next asked, as far as is known; `None` while it is being asked, or if it never is.
    pub(super) fn next_ask(&self, index: TrackerIndex) -> Option<Instant> {
        let tracker = self.trackers.get(index.0).filter(|t| t.usable && t.asked.is_none())?;
        let begins = self.begins();
        Some(self.rested(tracker).map_or(begins, |at| at.max(begins)))
    }

    fn begins(&self) -> Instant {
        if self.wanted { self.due.min(self.soonest) } else { self.due }
    }

    /// When its rest after a failure is over; no later than a minute after the failure while peers are wanted.
    fn rested(&self, tracker: &Tracker) -> Option<Instant> {
        tracker.rest.map(|(at, rest)| at + if self.wanted { rest.min(DEFAULT_MIN_INTERVAL) } else { rest })
    }

    fn event(&self, tracker: &Tracker) -> Event {
        match tracker.told {
            Told::Nothing => Event::Started,
            Told::Started if self.completed => Event::Completed,
            Told::Started | Told::Complete => Event::None,
        }
    }
}

#[cfg(test)]
#[path = "announce_schedule_tests.rs"]
mod tests;
