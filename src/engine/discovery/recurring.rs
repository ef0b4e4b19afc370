//! Which torrent's turn it is, at the local network (BEP 14) or at the DHT (BEP 5), without socket and clock: each at once,
//! then at regular times, and sooner when there is a reason, but not too often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::swarm::TorrentKey;

#[derive(Clone, Copy, Debug)]
struct Torrent {
    key: TorrentKey,
    sent: Option<Instant>,
    due: Instant,
}

/// The turns of torrents.
#[derive(Debug)]
pub(super) struct Recurring {
    every: Duration,
    least: Duration,
    torrents: BTreeMap<[u8; 20], Torrent>,
}

impl Recurring {
    /// A torrent's turn comes again after `every`, and with a reason after `least`.
    pub(super) fn new(every: Duration, least: Duration) -> Self {
        Self { every, least, torrents: BTreeMap::new() }
    }

    /// A torrent has turns from now on.
    pub(super) fn add(&mut self, now: Instant, info_hash: [u8; 20], key: TorrentKey) {
        self.torrents.insert(info_hash, Torrent { key, sent: None, due: now });
    }

    /// It is so no more.
    pub(super) fn remove(&mut self, key: TorrentKey) {
        self.torrents.retain(|_, torrent| torrent.key != key);
    }

    /// There is a reason for a torrent's next turn. None if it has no turns.
    pub(super) fn hurry(&mut self, now: Instant, info_hash: &[u8; 20]) -> Option<TorrentKey> {
        let torrent = self.torrents.get_mut(info_hash)?;
        let soonest = torrent.sent.map_or(now, |sent| now.max(sent + self.least));
        torrent.due = torrent.due.min(soonest);
        Some(torrent.key)
    }

    /// The hash of a torrent that has turns.
    pub(super) fn info_hash(&self, key: TorrentKey) -> Option<[u8; 20]> {
        self.torrents.iter().find(|(_, torrent)| torrent.key == key).map(|(hash, _)| *hash)
    }

    /// Whose turn it is now, `most` of them; it is taken.
    pub(super) fn due(&mut self, now: Instant, most: usize) -> Vec<([u8; 20], TorrentKey)> {
        let mut due = Vec::new();
        for (hash, torrent) in self.torrents.iter_mut().filter(|(_, torrent)| torrent.due <= now).take(most) {
            torrent.sent = Some(now);
            torrent.due = now + self.every;
            due.push((*hash, torrent.key));
        }
        due
    }

    /// When the next turn is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.torrents.values().map(|torrent| torrent.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 20] = [1; 20];
    const B: [u8; 20] = [2; 20];
    const KEY: TorrentKey = TorrentKey(7);
    const OTHER: TorrentKey = TorrentKey(8);

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn recurring(base: Instant) -> Recurring {
        let mut turns = Recurring::new(secs(300), secs(60));
        assert_eq!(turns.next(), None);
        turns.add(base, A, KEY);
        turns.add(base, B, OTHER);
        turns
    }

    #[test]
    fn at_once_and_then_at_regular_times() {
        let base = Instant::now();
        let mut turns = recurring(base);
        assert_eq!(turns.due(base, 1), [(A, KEY)]);
        assert_eq!(turns.due(base, 9), [(B, OTHER)]);
        assert_eq!(turns.due(base, 9), []);
        assert_eq!(turns.next(), Some(base + secs(300)));
        turns.remove(KEY);
        assert_eq!(turns.due(base + secs(300), 9), [(B, OTHER)]);
    }

    #[test]
    fn a_reason_makes_it_sooner_but_not_too_often() {
        let base = Instant::now();
        let mut turns = recurring(base);
        turns.due(base, 9);
        assert_eq!(turns.hurry(base + secs(1), &[9; 20]), None, "a torrent that we do not have");
        for second in 2..50 {
            assert_eq!(turns.hurry(base + secs(second), &A), Some(KEY));
        }
        assert_eq!(turns.next(), Some(base + secs(60)));
        assert_eq!(turns.due(base + secs(60), 9), [(A, KEY)]);
        turns.hurry(base + secs(200), &A);
        assert_eq!(turns.next(), Some(base + secs(200)), "at once when the last one is long ago");
        assert_eq!((turns.info_hash(OTHER), turns.info_hash(TorrentKey(9))), (Some(B), None));
    }
}
