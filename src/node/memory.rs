//! Credits for unfinished pieces: bytes are reserved before a piece is asked for, so that what may arrive always has a
//! place. One budget for all torrents; who does not get all it asks for waits in a queue and is served in turns.

use std::collections::{BTreeMap, VecDeque};

use crate::swarm::TorrentKey;

/// The budget of unfinished pieces.
#[derive(Clone, Debug)]
pub(super) struct Credits {
    budget: u64,
    used: u64,
    held: BTreeMap<TorrentKey, u64>,
    /// Who waits for how much, the next in turn first. A torrent is in it once.
    queue: VecDeque<(TorrentKey, u64)>,
    /// What is left of the turn at the queue's head.
    turn: u64,
}

impl Credits {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, used: 0, held: BTreeMap::new(), queue: VecDeque::new(), turn: 0 }
    }

    /// Bytes that are granted.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Asks for `bytes` more; returns what is granted now. The rest is queued and comes out of [`Credits::release`].
    pub(super) fn reserve(&mut self, torrent: TorrentKey, bytes: u64) -> u64 {
        if bytes == 0 {
            return 0;
        }
        match self.queue.iter_mut().find(|entry| entry.0 == torrent) {
            Some(entry) => entry.1 = entry.1.saturating_add(bytes),
            None => {
                self.queue.push_back((torrent, bytes));
                if self.queue.len() == 1 {
                    self.turn = self.turn_length();
                }
            }
        }
        // Whoever waited keeps waiting: nothing was released, so only a queue that was empty can move.
        self.serve().into_iter().filter(|grant| grant.0 == torrent).map(|grant| grant.1).sum()
    }

    /// Takes back `bytes`; returns the grants to waiting torrents that this makes possible.
    pub(super) fn release(&mut self, torrent: TorrentKey, bytes: u64) -> Vec<(TorrentKey, u64)> {
        if let Some(held) = self.held.get_mut(&torrent) {
            let bytes = bytes.min(*held);
            *held -= bytes;
            self.used = self.used.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(&torrent);
            }
        }
        self.serve()
    }

    /// A torrent waits for `bytes` less, or for nothing more; returns the grants to others that this makes possible.
    pub(super) fn withdraw(&mut self, torrent: TorrentKey, bytes: u64) -> Vec<(TorrentKey, u64)> {
        self.unqueue(torrent, bytes);
        self.serve()
    }

    /// Takes up to `bytes` of a torrent out of the queue.
    fn unqueue(&mut self, torrent: TorrentKey, bytes: u64) {
        let head = self.queue.front().map(|entry| entry.0);
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.0 == torrent) {
            entry.1 = entry.1.saturating_sub(bytes);
        }
        self.queue.retain(|entry| entry.1 > 0);
        if self.queue.front().map(|entry| entry.0) != head {
            self.turn = self.turn_length();
        }
    }

    /// Takes back all that a torrent holds and forgets what it waits for.
    pub(super) fn remove(&mut self, torrent: TorrentKey) -> Vec<(TorrentKey, u64)> {
        self.unqueue(torrent, u64::MAX);
        self.release(torrent, u64::MAX)
    }

    /// Half the budget a turn. A turn must hold a whole piece, or two torrents with half a piece each would wait for
    /// each other for ever; larger pieces are assembled in a file and need no credit.
    fn turn_length(&self) -> u64 {
        (self.budget / 2).max(1)
    }

    /// Gives what is free to the head of the queue until its turn is over; then it goes to the back. Only the head is
    /// ever half served, so all others can finish pieces and release.
    fn serve(&mut self) -> Vec<(TorrentKey, u64)> {
        let mut grants: Vec<(TorrentKey, u64)> = Vec::new();
        while let Some(&(torrent, wanted)) = self.queue.front() {
            let grant = wanted.min(self.turn).min(self.budget.saturating_sub(self.used));
            if grant == 0 {
                break;
            }
            self.used += grant;
            self.turn -= grant;
            *self.held.entry(torrent).or_default() += grant;
            match grants.iter_mut().find(|g| g.0 == torrent) {
                Some(g) => g.1 += grant,
                None => grants.push((torrent, grant)),
            }
            if wanted > grant && self.turn > 0 {
                if let Some(front) = self.queue.front_mut() {
                    front.1 -= grant;
                }
                break;
            }
            self.queue.pop_front();
            if wanted > grant {
                self.queue.push_back((torrent, wanted - grant));
            }
            self.turn = self.turn_length();
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: TorrentKey = TorrentKey(1);
    const B: TorrentKey = TorrentKey(2);
    const C: TorrentKey = TorrentKey(3);

    #[test]
    fn grants_while_there_is_room_and_queues_the_rest() {
        let mut credits = Credits::new(100);
        assert_eq!(credits.reserve(A, 80), 80);
        assert_eq!(credits.reserve(B, 50), 20);
        assert_eq!(credits.reserve(A, 10), 0);
        assert_eq!(credits.release(A, 30), [(B, 30)]);
        assert_eq!(credits.release(A, 10), [(A, 10)]);
        assert_eq!(credits.release(B, 50), []);
        assert_eq!(credits.used, 50);
    }

    #[test]
    fn who_waits_no_more_is_granted_nothing_and_lets_the_next_one_in() {
        let mut credits = Credits::new(100);
        assert_eq!(credits.reserve(C, 100), 100);
        assert_eq!((credits.reserve(A, 30), credits.reserve(B, 10)), (0, 0));
        assert_eq!(credits.release(C, 20), [(A, 20)]);
        assert_eq!(credits.withdraw(A, 4), []);
        assert_eq!(credits.release(C, 3), [(A, 3)]);
        assert_eq!(credits.release(C, 1), [(A, 1)]);
        assert_eq!(credits.withdraw(A, 500), []);
        assert_eq!(credits.release(A, 24), [(B, 10)]);
    }

    #[test]
    fn a_torrent_that_wants_everything_does_not_starve_a_small_one() {
        let mut credits = Credits::new(100);
        assert_eq!(credits.reserve(A, 1_000_000), 100);
        assert_eq!(credits.reserve(B, 10), 0);
        // A gets to the end of its turn at the most; then B is served although A wants more.
        let mut freed = 0;
        while !credits.release(A, 10).iter().any(|g| g.0 == B) {
            freed += 10;
            assert!(freed <= 50, "B waits longer than a turn");
        }
    }

    #[test]
    fn more_than_held_cannot_be_released() {
        let mut credits = Credits::new(100);
        credits.reserve(A, 30);
        credits.reserve(B, 70);
        credits.release(A, 1000);
        assert_eq!(credits.used, 70);
        assert_eq!(credits.reserve(A, 100), 30);
    }

    #[test]
    fn a_removed_torrent_leaves_its_bytes_to_the_others() {
        let mut credits = Credits::new(100);
        credits.reserve(A, 100);
        credits.reserve(B, 20);
        credits.reserve(C, 20);
        assert_eq!(credits.remove(B), []);
        assert_eq!(credits.remove(A), [(C, 20)]);
    }

    proptest! {
        #[test]
        fn never_over_budget_and_nobody_waits_while_bytes_are_free(
            steps in prop::collection::vec((0u32..4, 1u64..60, any::<bool>()), 1..200)
        ) {
            let budget = 100;
            let mut credits = Credits::new(budget);
            let (mut wanted, mut held) = (BTreeMap::new(), BTreeMap::new());
            for (torrent, bytes, reserve) in steps {
                let torrent = TorrentKey(torrent);
                let grants = if reserve {
                    *wanted.entry(torrent).or_insert(0) += bytes;
                    vec![(torrent, credits.reserve(torrent, bytes))]
                } else {
                    let h: &mut u64 = held.entry(torrent).or_insert(0);
                    *h -= bytes.min(*h);
                    credits.release(torrent, bytes)
                };
                for (torrent, bytes) in grants {
                    *wanted.entry(torrent).or_insert(0) -= bytes;
                    *held.entry(torrent).or_insert(0) += bytes;
                }
                let sum: u64 = held.values().sum();
                prop_assert_eq!(sum, credits.used);
                prop_assert!(sum <= budget);
                prop_assert!(sum == budget || wanted.values().all(|&w| w == 0));
            }
        }
    }
}
