//! How many peers are unchoked for what they give: as many as the user says, and more while they do not fill the upload
//! limit. Without a limit there is nothing to tell a link that is full from peers that are slow, so it stays as it is.
//!
//! One slot comes in a round while less than 90 % of the limit is sent, every slot is taken and someone waits. One goes
//! when those who stay have shown that they take 125 % of the limit without it: what lies between keeps the number still.

use std::time::Duration;

/// There may be so many times more slots than the user says.
const MOST: usize = 10;

/// The number of regular slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    fixed: usize,
    extra: usize,
    /// Bytes per second.
    limit: Option<u64>,
}

/// What a round has seen since the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    /// Time since that round.
    pub(super) elapsed: Duration,
    /// Bytes sent to all peers in it.
    pub(super) sent: u64,
    /// The most that each unchoked peer has taken of late, bytes per second.
    pub(super) peaks: &'a [u64],
    /// Slots, with the optimistic one, that nobody has.
    pub(super) free: usize,
    /// Someone could use another slot.
    pub(super) waiting: bool,
}

impl Slots {
    pub(super) fn new(fixed: usize, limit: Option<u64>) -> Self {
        Self { fixed, extra: 0, limit }
    }

    /// Regular slots at present; the optimistic one is added.
    pub(super) fn count(&self) -> usize {
        self.fixed + self.extra
    }

    /// Of these, the slots that there are because the limit is not filled.
    pub(super) fn extra(&self) -> usize {
        self.extra
    }

    /// One slot more, one less, or as many as there were.
    pub(super) fn settle(&mut self, seen: Seen<'_>) {
        let Some(limit) = self.limit else { return };
        // Bytes per second times milliseconds, on both sides.
        let sent = u128::from(seen.sent) * 1000;
        let allowed = u128::from(limit) * seen.elapsed.as_millis();
        if seen.free > 0 {
            self.extra = self.extra.saturating_sub(1);
        } else if seen.waiting && sent * 10 < allowed * 9 {
            self.extra = (self.extra + 1).min(self.fixed * (MOST - 1));
        } else if self.extra > 0 {
            let least = seen.peaks.iter().min().copied().unwrap_or(0);
            let without = seen.peaks.iter().map(|&peak| u128::from(peak)).sum::<u128>() - u128::from(least);
            if without * 4 >= u128::from(limit) * 5 {
                self.extra -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which every unchoked peer takes `each`, as far as the limit lets it; returns the number of each round.
    fn rounds(slots: &mut Slots, count: usize, each: u64, limit: u64) -> Vec<usize> {
        (0..count)
            .map(|_| {
                let peaks = vec![each; slots.count() + 1];
                let sent = (peaks.iter().sum::<u64>()).min(limit) * 10;
                slots.settle(Seen { elapsed: Duration::from_secs(10), sent, peaks: &peaks, free: 0, waiting: true });
                slots.count()
            })
            .collect()
    }

    #[test]
    fn slots_come_one_by_one_until_the_limit_is_filled_and_then_stay() {
        let mut slots = Slots::new(4, Some(1_000));
        assert_eq!(rounds(&mut slots, 8, 100, 1_000), [5, 6, 7, 8, 8, 8, 8, 8], "900 of 1,000 are filled by nine");
        assert_eq!(rounds(&mut slots, 8, 400, 1_000), [7, 6, 5, 4, 4, 4, 4, 4], "fast peers need no more");
        assert_eq!(rounds(&mut slots, 3, 260, 1_000), [4, 4, 4]);
    }

    #[test]
    fn no_rate_makes_the_number_go_up_and_down() {
        for each in 1..300 {
            let mut slots = Slots::new(4, Some(1_000));
            let counts = rounds(&mut slots, 100, each, 1_000);
            assert!(counts.is_sorted(), "{each}: {counts:?}");
            assert_eq!(counts[60..], [counts[99]; 40], "{each}");
            assert!(counts[99] <= 40);
        }
    }

    #[test]
    fn slots_that_nobody_has_go_and_without_a_limit_there_are_no_more() {
        let mut slots = Slots::new(4, Some(1_000));
        rounds(&mut slots, 10, 10, 1_000);
        assert_eq!(slots.count(), 14);
        for count in [13, 12, 11] {
            let peaks = [10; 5];
            slots.settle(Seen { elapsed: Duration::from_secs(10), sent: 0, peaks: &peaks, free: 9, waiting: false });
            assert_eq!(slots.count(), count);
        }
        let mut unlimited = Slots::new(4, None);
        assert_eq!(rounds(&mut unlimited, 10, 10, 1_000), [4; 10]);
    }
}
