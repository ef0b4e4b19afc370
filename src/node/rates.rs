//! A rate limit as a token bucket that is smooth and fair: what it lets through at once is what 100 ms of its rate are
//! worth, or one quantum if that is more, and those who have to wait get their turns in the order in which they came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::metainfo::BLOCK_LENGTH;

const BLOCK: u64 = BLOCK_LENGTH as u64;
/// How many bursts a second's rate is cut into: one is a tenth of a second.
const BURSTS_PER_SECOND: u64 = 10;
/// Beyond what it must hold a bucket holds what it earns in a twentieth of a second: who is woken that late loses nothing.
const SLACK_PER_SECOND: u64 = 20;
/// A peer that does not come for its turn for so long has lost its place: one whose task waits for a dead disk holds
/// nobody up.
const PATIENCE: Duration = Duration::from_secs(1);
const NANOS: i128 = 1_000_000_000;

/// What a bucket is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What is granted at the least, unless less is wanted. Bytes.
    quantum: u64,
    /// What it must be able to hold. Bytes.
    holds: u64,
    /// Who does not come for a turn for so long has lost its place; none: never.
    patience: Option<Duration>,
}

/// For peers that are sent blocks, which go whole.
pub(super) const SENDS: Terms = Terms { quantum: BLOCK, holds: BLOCK, patience: Some(PATIENCE) };
/// For torrents that ask for blocks.
pub(super) const ASKS: Terms = Terms { quantum: BLOCK, holds: BLOCK, patience: None };
/// For peers that are read from. Small turns: what is not a block waits behind blocks. Two blocks that were asked for in
/// their time and come at once do not wait.
pub(super) const READS: Terms = Terms { quantum: 4096, holds: 2 * BLOCK, patience: Some(PATIENCE) };

/// A token bucket over a virtual clock, and the line of those who wait for it.
///
/// Whoever wants bytes takes them with [`Bucket::take`]. If nothing was granted, or more is wanted, [`Bucket::wait`]
/// gives it a place in the line and says when to take again; whoever wants no more leaves with [`Bucket::leave`].
#[derive(Clone, Debug)]
pub struct Bucket<K> {
    /// Bytes per second; none is unlimited.
    rate: Option<u64>,
    terms: Terms,
    /// Tokens in bytes times nanoseconds, so that no fraction is lost however often it is asked. Negative after
    /// [`Bucket::overdraw`].
    tokens: i128,
    updated: Option<Instant>,
    /// Who waits, the next one first; the urgent before the others.
    line: VecDeque<Waiter<K>>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter<K> {
    who: K,
    urgent: bool,
    /// When it was told to take again; none if that is never.
    due: Option<Instant>,
}

impl<K: Copy + PartialEq> Bucket<K> {
    pub(super) fn new(rate: Option<u64>, terms: Terms) -> Self {
        Self { rate, terms, tokens: 0, updated: None, line: VecDeque::new() }
    }

    /// Takes up to `want` bytes: never less than the smaller of `want` and a quantum, or nothing at all. They are spent:
    /// what is not used goes [back](Bucket::put_back). While others wait, it is one share of what is there, and nothing
    /// of what those ahead in the line have coming. A grant ends the wait.
    pub fn take(&mut self, now: Instant, who: K, want: usize) -> usize {
        let Some(rate) = self.rate else { return want };
        self.refill(now, rate);
        let place = self.place(who);
        let ahead = place.unwrap_or(self.line.len());
        let others = self.line.len() - usize::from(place.is_some());
        let want = i128::try_from(want).unwrap_or(i128::MAX / NANOS);
        let quantum = i128::from(self.terms.quantum);
        let there = self.tokens / NANOS;
        // Of what waits ahead everyone has one quantum coming.
        let left = there - quantum * ahead as i128;
        if want == 0 || left < want.min(quantum) {
            return 0;
        }
        let share = there / (others as i128 + 1) / quantum * quantum;
        let granted = want.min(if others == 0 { there } else { share.min(left).max(want.min(quantum)) });
        self.tokens -= granted * NANOS;
        if let Some(place) = place {
            self.line.remove(place);
        }
        usize::try_from(granted).unwrap_or(usize::MAX)
    }

    /// Waits for a turn, behind those who wait already; `urgent` ones go before all others. Who waits keeps its place.
    /// Returns when to take again: none without a limit, and with a limit of 0, where that is never.
    pub fn wait(&mut self, now: Instant, who: K, urgent: bool) -> Option<Instant> {
        let rate = self.rate?;
        self.refill(now, rate);
        if self.place(who).is_some_and(|place| self.line[place].urgent != urgent) {
            self.leave(who);
        }
        let place = self.place(who).unwrap_or_else(|| {
            let behind = self.line.partition_point(|other| other.urgent || !urgent);
            self.line.insert(behind, Waiter { who, urgent, due: None });
            behind
        });
        self.line[place].due = self.turn(place);
        self.line[place].due
    }

    /// When the turn of this place in the line comes.
    fn turn(&self, place: usize) -> Option<Instant> {
        let rate = i128::from(self.rate.filter(|&rate| rate > 0)?);
        let needed = i128::from(self.terms.quantum) * (place as i128 + 1) * NANOS;
        let nanos = ((needed - self.tokens).max(0) + rate - 1) / rate;
        // A day is as good as longer: whoever waits comes back and is told again.
        Some(self.updated? + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX).min(86_400_000_000_000)))
    }

    /// It waits no more.
    pub fn leave(&mut self, who: K) {
        if let Some(place) = self.place(who) {
            self.line.remove(place);
        }
    }

    /// Whose turn is next, and when.
    pub(super) fn next(&self) -> Option<(K, Option<Instant>)> {
        self.line.front().map(|waiter| (waiter.who, self.turn(0)))
    }

    /// Bytes of a grant that were not used.
    pub fn put_back(&mut self, bytes: usize) {
        if let Some(rate) = self.rate {
            let bytes = i128::try_from(bytes).unwrap_or(0);
            self.tokens = (self.tokens + bytes * NANOS).min(self.full(rate));
        }
    }

    /// Bytes that were used beyond a grant: later grants wait for them.
    pub fn overdraw(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.tokens -= i128::try_from(bytes).unwrap_or(0) * NANOS;
        }
    }

    fn place(&self, who: K) -> Option<usize> {
        self.line.iter().position(|waiter| waiter.who == who)
    }

    fn refill(&mut self, now: Instant, rate: u64) {
        if let Some(patience) = self.terms.patience {
            self.line.retain(|waiter| waiter.due.is_none_or(|due| now < due + patience));
        }
        let full = self.full(rate);
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

    /// What it holds at the most.
    fn full(&self, rate: u64) -> i128 {
        i128::from((rate / BURSTS_PER_SECOND).max(self.terms.holds + rate / SLACK_PER_SECOND)) * NANOS
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::swarm::PeerKey;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const RATES: [u64; 5] = [1_000, 64 * KIB, MIB, 10 * MIB, 100 * MIB];
    const ALONE: PeerKey = PeerKey(0);

    fn bucket(rate: u64) -> Bucket<PeerKey> {
        Bucket::new(Some(rate), SENDS)
    }

    fn burst(rate: u64) -> u64 {
        u64::try_from(bucket(rate).full(rate) / NANOS).unwrap()
    }

    /// What takers get of a bucket in `seconds` when each wants as many bytes as is said, always, and comes back when it
    /// is told to, but up to `late` after that. Time, taker and bytes of every grant.
    fn drain(
        bucket: &mut Bucket<PeerKey>,
        seconds: u64,
        wants: &[usize],
        late: Duration,
    ) -> Vec<(Duration, usize, u64)> {
        let (base, mut out) = (Instant::now(), Vec::new());
        let mut due: Vec<Duration> = vec![Duration::ZERO; wants.len()];
        let mut turn = 0u32;
        loop {
            let (who, &at) = due.iter().enumerate().min_by_key(|&(_, at)| *at).unwrap();
            if at >= Duration::from_secs(seconds) {
                return out;
            }
            let key = PeerKey(who as u64);
            let granted = bucket.take(base + at, key, wants[who]);
            if granted > 0 {
                out.push((at, who, granted as u64));
            }
            // After a grant it is there for more as soon as all others were.
            due[who] = at + Duration::from_nanos(1);
            let again = bucket.wait(base + at, key, false).unwrap() - base;
            if granted == 0 {
                assert!(again > at, "to come back at once for nothing is to spin");
                turn += 1;
                due[who] = again + late * (turn % 7) / 7;
            }
        }
    }

    fn sum(grants: &[(Duration, usize, u64)]) -> u64 {
        grants.iter().map(|grant| grant.2).sum()
    }

    #[test]
    fn unlimited_grants_everything() {
        let mut bucket = Bucket::new(None, SENDS);
        assert_eq!(bucket.take(Instant::now(), ALONE, usize::MAX), usize::MAX);
        assert_eq!(bucket.wait(Instant::now(), ALONE, true), None);
    }

    #[test]
    fn the_rate_holds_over_ten_seconds_for_one_and_for_many_who_come_late() {
        for rate in RATES {
            for (takers, late) in [(1, 0), (1, 20), (4, 0), (4, 20), (50, 0), (200, 3)] {
                let grants = drain(&mut bucket(rate), 10, &vec![128 << 10; takers], Duration::from_millis(late));
                let (sent, most) = (sum(&grants), rate * 10 + burst(rate));
                assert!(sent <= most, "{sent} of {most} at {rate} to {takers}");
                assert!(sent + BLOCK >= rate * 98 / 10, "{sent} of {most} at {rate} to {takers}, {late} ms late");
            }
        }
    }

    #[test]
    fn no_tenth_of_a_second_carries_more_than_two_bursts() {
        for rate in RATES {
            for takers in [1, 4] {
                let grants = drain(&mut bucket(rate), 3, &vec![1 << 20; takers], Duration::ZERO);
                for (i, (start, ..)) in grants.iter().enumerate() {
                    let window = grants[i..].iter().take_while(|g| g.0 < *start + Duration::from_millis(100));
                    let sum: u64 = window.map(|g| g.2).sum();
                    assert!(sum <= 2 * burst(rate), "{sum} bytes in the 100 ms after {start:?} at {rate}");
                }
            }
        }
    }

    /// One that comes back at once, again and again, and one that asks for everything: they get no more than others.
    #[test]
    fn everybody_gets_the_same_whatever_they_want_at_once() {
        for rate in RATES {
            let wants = [128 << 10, 16 << 10, 1 << 20, 40_000];
            let grants = drain(&mut bucket(rate), 60 + 200 * BLOCK / rate, &wants, Duration::ZERO);
            let mut each: BTreeMap<usize, u64> = BTreeMap::new();
            for (_, who, bytes) in &grants {
                *each.entry(*who).or_default() += bytes;
            }
            let (least, most) = (each.values().min().unwrap(), each.values().max().unwrap());
            assert!(each.len() == 4 && most - least <= 2 * burst(rate), "{each:?} at {rate}");
        }
    }

    #[test]
    fn those_who_wait_are_served_in_turns() {
        let grants = drain(&mut bucket(64 * KIB), 20, &[128 << 10; 4], Duration::ZERO);
        for round in grants[4..].chunks_exact(4) {
            let mut who: Vec<usize> = round.iter().map(|grant| grant.1).collect();
            who.sort_unstable();
            assert_eq!(who, [0, 1, 2, 3], "{round:?}");
        }
    }

    #[test]
    fn a_newcomer_takes_nothing_from_those_who_wait() {
        let (base, block) = (Instant::now(), 16 << 10);
        let mut bucket = bucket(64 * KIB);
        while bucket.take(base, PeerKey(1), block) > 0 {}
        let turn = bucket.wait(base, PeerKey(1), false).unwrap();
        assert_eq!(bucket.take(turn, PeerKey(2), block), 0);
        let second = bucket.wait(turn, PeerKey(2), false).unwrap();
        assert_eq!(bucket.take(turn, PeerKey(1), block), block);
        assert_eq!(bucket.take(second, PeerKey(2), block), block);
    }

    #[test]
    fn the_urgent_go_before_the_others_and_who_leaves_holds_nobody_up() {
        let (base, block) = (Instant::now(), 16 << 10);
        let mut bucket = bucket(64 * KIB);
        while bucket.take(base, ALONE, block) > 0 {}
        let third = [1, 2, 3].map(|n| bucket.wait(base, PeerKey(n), false).unwrap())[2];
        let first = bucket.wait(base, PeerKey(9), true).unwrap();
        assert!(first < third);
        assert_eq!(bucket.take(first, PeerKey(1), block), 0);
        assert_eq!(bucket.take(first, PeerKey(9), block), block);
        // One that waits becomes urgent.
        assert!(bucket.wait(first, PeerKey(3), true).unwrap() < third);
        bucket.leave(PeerKey(3));
        bucket.leave(PeerKey(1));
        let next = bucket.wait(first, PeerKey(2), false).unwrap();
        assert!(next <= first + Duration::from_millis(250), "{:?}", next - first);
        assert_eq!(bucket.take(next, PeerKey(2), block), block);
    }

    #[test]
    fn who_does_not_come_loses_its_place() {
        let (base, block) = (Instant::now(), 16 << 10);
        let mut bucket = bucket(64 * KIB);
        while bucket.take(base, ALONE, block) > 0 {}
        let gone = bucket.wait(base, PeerKey(1), true).unwrap();
        bucket.wait(base, PeerKey(2), false);
        assert_eq!(bucket.take(gone + PATIENCE / 2, PeerKey(2), block), 0);
        bucket.wait(gone + PATIENCE / 2, PeerKey(2), false);
        assert_eq!(bucket.take(gone + PATIENCE, PeerKey(2), block), block);
    }

    #[test]
    fn an_idle_hour_saves_up_one_burst_only() {
        let (base, rate) = (Instant::now(), MIB);
        let mut bucket = bucket(rate);
        bucket.take(base, ALONE, 1);
        assert_eq!(bucket.take(base + Duration::from_secs(3600), ALONE, usize::MAX) as u64, burst(rate));
    }

    #[test]
    fn a_block_is_granted_whole_or_not_at_all() {
        let (base, block) = (Instant::now(), 16 << 10);
        let mut bucket = bucket(20_000);
        while bucket.take(base, ALONE, block) > 0 {}
        let at = bucket.wait(base, ALONE, false).unwrap();
        assert_eq!(bucket.take(at - Duration::from_micros(1), ALONE, 5 * block), 0);
        assert_eq!(bucket.take(at, ALONE, 5 * block), block);
    }

    #[test]
    fn what_is_given_back_can_be_taken_and_what_is_overdrawn_is_waited_for() {
        let base = Instant::now();
        let mut bucket = bucket(MIB);
        bucket.take(base, ALONE, usize::MAX);
        bucket.put_back(20_000);
        assert_eq!(bucket.take(base, ALONE, usize::MAX), 20_000);
        bucket.overdraw(1 << 20);
        assert_eq!(bucket.take(base, ALONE, 1), 0);
        let retry = bucket.wait(base, ALONE, false).unwrap();
        assert!(retry >= base + Duration::from_secs(1), "{:?}", retry - base);
    }

    #[test]
    fn a_limit_of_nothing_never_has_room() {
        let mut bucket = bucket(0);
        let base = Instant::now();
        bucket.take(base, ALONE, usize::MAX);
        bucket.take(base, ALONE, usize::MAX);
        let later = base + Duration::from_secs(60);
        assert_eq!((bucket.take(later, ALONE, 100), bucket.wait(later, ALONE, false)), (0, None));
    }
}
